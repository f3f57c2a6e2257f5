"""Who does the integer arithmetic: this package in Python, or python-flint where it is installed.

Three operations are all that is asked for: the reduced row echelon form, the determinant, and the polynomial
det(x E - F). python-flint computes the last by another algorithm, so agreement of the two says something.
The choice changes the time, never the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, get_args

from theory.errors import InputError
from theory.exact.elimination import IntMatrix, Reduced, determinant, reduce

Name = Literal["auto", "python", "flint"]
_flint: Any = import_module("flint") if find_spec("flint") else None


@dataclass(frozen=True)
class Backend:
    """Three operations on integer matrices, and the sizes they can be asked for.

    Attributes:
        name: "python" or "flint".
        reduce: the reduced row echelon form.
        determinant: of a square matrix.
        pencil: the coefficients of det(x E - F), lowest first, for an invertible E.
        most_rows: the largest number of state-action rows that takes about a minute.
        most_features: likewise the largest number of features.
    """

    name: str
    reduce: Callable[[IntMatrix], Reduced]
    determinant: Callable[[IntMatrix], int]
    pencil: Callable[[IntMatrix, IntMatrix], list[int]]
    most_rows: int
    most_features: int


def interpolated_pencil(E: IntMatrix, F: IntMatrix) -> list[int]:
    """Return the coefficients of det(x E - F), lowest first, from its values at d + 1 integers.

    The eigenvalues of the inverse of E times F are its roots; that matrix itself, whose entries have long
    denominators, is never formed.

    Example:
        >>> interpolated_pencil([[1, 0], [0, 1]], [[2, 0], [0, 3]])  # (x - 2)(x - 3)
        [6, -5, 1]
    """
    points = [(k + 1) // 2 * (1 if k % 2 else -1) for k in range(len(E) + 1)]
    return interpolate(points, [determinant(shifted(E, F, x)) for x in points])


def shifted(E: IntMatrix, F: IntMatrix, x: int) -> IntMatrix:
    """Return x E - F.

    Example:
        >>> shifted([[1]], [[5]], 7)
        [[2]]
    """
    return [[x * e - f for e, f in zip(*rows, strict=True)] for rows in zip(E, F, strict=True)]


def interpolate(points: list[int], values: list[int]) -> list[int]:
    """Return the integer coefficients, lowest first, of the polynomial through the points (Newton).

    Example:
        >>> interpolate([0, 1, 2], [1, 3, 7])  # 1 + x + x^2
        [1, 1, 1]
    """
    slopes = [Fraction(value) for value in values]
    for width in range(1, len(points)):
        for i in range(len(points) - 1, width - 1, -1):
            slopes[i] = (slopes[i] - slopes[i - 1]) / (points[i] - points[i - width])
    coefficients = [Fraction(0)]
    for point, slope in zip(reversed(points), reversed(slopes), strict=True):
        raised = [Fraction(0), *coefficients]
        coefficients = [
            up - point * low for up, low in zip(raised, [*coefficients, Fraction(0)], strict=True)
        ]
        coefficients[0] += slope
    return [c.numerator for c in coefficients[: len(points)]]


def _flint_reduce(matrix: IntMatrix) -> Reduced:
    if not matrix or not matrix[0]:
        return Reduced([], 1, ())
    echelon, denominator, rank = _flint.fmpz_mat(matrix).rref()
    rows = [[int(x) for x in row] for row in echelon.tolist()[:rank]]
    pivots = tuple(next(j for j, x in enumerate(row) if x) for row in rows)
    return Reduced(rows, int(denominator), pivots)


def _flint_determinant(matrix: IntMatrix) -> int:
    return int(_flint.fmpz_mat(matrix).det()) if matrix else 1


def _flint_pencil(E: IntMatrix, F: IntMatrix) -> list[int]:
    if not E:
        return [1]
    left, right = (_flint.fmpq_mat(_flint.fmpz_mat(matrix)) for matrix in (E, F))
    monic = left.solve(right).charpoly().coeffs()
    scale = int(left.det().p)
    return [scale * int(c.p) // int(c.q) for c in monic]


PYTHON = Backend("python", reduce, determinant, interpolated_pencil, most_rows=200, most_features=48)
FLINT = Backend("flint", _flint_reduce, _flint_determinant, _flint_pencil, most_rows=250, most_features=60)
_chosen: ContextVar[Name] = ContextVar("chosen", default="auto")


def has_flint() -> bool:
    """Return whether python-flint is installed.

    Example:
        >>> has_flint() in (True, False)
        True
    """
    return _flint is not None


def current() -> Backend:
    """Return the backend in use: python-flint if it is installed, unless :func:`using` says otherwise.

    Example:
        >>> with using("python"):
        ...     current().name
        'python'
    """
    if _chosen.get() == "auto":
        return FLINT if has_flint() else PYTHON
    return FLINT if _chosen.get() == "flint" else PYTHON


@contextmanager
def using(name: Name) -> Iterator[None]:
    """Use this backend inside the block.

    Raises:
        InputError: an unknown name, or python-flint is asked for and not installed.

    Example:
        >>> with using("python"):
        ...     current().determinant([[2]])
        2
    """
    if name not in get_args(Name):
        raise InputError(f"The backend must be one of {', '.join(get_args(Name))}; got {name!r}.")
    if name == "flint" and not has_flint():
        raise InputError("python-flint is not installed: pip install python-flint, or use 'python'.")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)
