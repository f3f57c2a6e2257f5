r"""Positive definiteness of a symmetric matrix of fractions, decided by :math:`LDL^\top`.

The pivots are ratios of leading minors, found by fraction-free elimination; a matrix is positive definite if
and only if all are positive. A pivot of zero whose remaining row is zero leaves the matrix semidefinite.
Where fractions are long, :func:`sign` first tries short numbers beside them, which decides most cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from theory.exact.linear import integers
from theory.exact.rationals import ExactMatrix, ExactVector

Sign = Literal["definite", "semidefinite", "indefinite"]
SHORT = 64  # bits


@dataclass(frozen=True)
class LDL:
    r"""A symmetric matrix as :math:`LDL^\top`, as far as it is positive semidefinite.

    Attributes:
        sign: "definite" (positive), "semidefinite" (positive, and singular) or "indefinite" (some negative).
        D: the pivots; of an indefinite matrix those before the one that shows it.
        columns: the columns of L that belong to them, each (d,).
    """

    sign: Sign
    D: ExactVector
    columns: ExactMatrix


def ldl(matrix: Sequence[Sequence[Fraction]]) -> LDL:
    r"""Return :math:`LDL^\top` of a symmetric matrix and what it says about its sign.

    Example:
        >>> factor = ldl([[Fraction(2), Fraction(1)], [Fraction(1), Fraction(1)]])
        >>> factor.sign, factor.D
        ('definite', [Fraction(2, 1), Fraction(1, 2)])
        >>> ldl([[Fraction(1), Fraction(1)], [Fraction(1), Fraction(1)]]).sign
        'semidefinite'
        >>> ldl([[Fraction(0), Fraction(1)], [Fraction(1), Fraction(0)]]).sign
        'indefinite'
    """
    rows, scales = _integer_rows(matrix)
    size, previous = len(rows), 1
    D: ExactVector = []
    columns: ExactMatrix = []
    sign: Sign = "definite"
    for k in range(size):
        top, pivot = rows[k], rows[k][k]
        if pivot < 0 or (pivot == 0 and any(top[k:])):
            return LDL("indefinite", D, columns)
        if pivot == 0:
            sign = "semidefinite"
            D, columns = [*D, Fraction(0)], [*columns, [Fraction(int(i == k)) for i in range(size)]]
            continue
        D = [*D, Fraction(pivot, previous * scales[k])]
        columns = [*columns, [Fraction(x, pivot) if i >= k else Fraction(0) for i, x in enumerate(top)]]
        _eliminate(rows, k, previous)
        previous = pivot
    return LDL(sign, D, columns)


def sign(matrix: Sequence[Sequence[Fraction]]) -> Sign:
    r"""Return what :func:`ldl` says of the sign, sooner where fractions are long.

    Scale rows and columns by powers of two until the diagonal is near :math:`2^{64}`, which keeps the sign,
    and round to integers R. The rounding has norm at most n / 2, so the matrix is positive definite if
    :math:`R-nI` is, and has a negative direction if :math:`R+nI` has one. Otherwise nothing is rounded.

    Example:
        >>> third = Fraction(1, 3**99)
        >>> sign([[Fraction(1), third], [third, Fraction(1)]])
        'definite'
    """
    longest = max((x.denominator.bit_length() for row in matrix for x in row), default=0)
    if longest > SHORT:
        shifts = [_shift(row[i]) for i, row in enumerate(matrix)]
        rounded = [
            [Fraction(_nearest(x, shifts[i] + shifts[j])) for j, x in enumerate(row)]
            for i, row in enumerate(matrix)
        ]
        if ldl(_plus(rounded, -len(rounded))).sign == "definite":
            return "definite"
        if ldl(_plus(rounded, len(rounded))).sign == "indefinite":
            return "indefinite"
    return ldl(matrix).sign


def _shift(x: Fraction) -> int:
    """Return k such that x 4^k is about 2^SHORT in size; 0 for zero."""
    size = x.numerator.bit_length() - x.denominator.bit_length()
    return (SHORT - size) // 2 if x else 0


def _nearest(x: Fraction, power: int) -> int:
    """Return the integer nearest to x 2^power."""
    return round(x * Fraction(2) ** power)


def _plus(matrix: ExactMatrix, x: int) -> ExactMatrix:
    """Return the matrix plus x times the identity."""
    return [[y + x if i == j else y for j, y in enumerate(row)] for i, row in enumerate(matrix)]


def _integer_rows(matrix: Sequence[Sequence[Fraction]]) -> tuple[list[list[int]], list[int]]:
    """Return every row times its common denominator, a positive number, and these."""
    scaled = [integers([row]) for row in matrix]
    return [rows[0] for rows, _ in scaled], [scale for _, scale in scaled]


def _eliminate(rows: list[list[int]], k: int, previous: int) -> None:
    """Clear column k below row k, in integers; columns left of k are no longer needed."""
    tail, pivot = rows[k][k:], rows[k][k]
    for i in range(k + 1, len(rows)):
        factor, row = rows[i][k], rows[i]
        if factor:
            row[k:] = [(pivot * x - factor * y) // previous for x, y in zip(row[k:], tail, strict=True)]
        elif pivot != previous:
            row[k:] = [pivot * x // previous if x else 0 for x in row[k:]]
