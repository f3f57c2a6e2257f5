"""Checks of arrays at the boundary: kind, shape, finiteness, sign, sums; each names the first culprit.

Everything that enters the package passes through here once and leaves as a read-only float64 array
or ``csr_array``, so that nothing behind the boundary has to look again. What the arrays mean
(transitions, weights) is said by the classes that call these functions.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from theory.errors import InputError

Array: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Matrix: TypeAlias = "Array | sparse.csr_array"

EPS = float(np.finfo(np.float64).eps)

# A row of probabilities may miss one by this much before it is an error: rounding of the type it came in.
ROW_SUM_TOLERANCE = {"float64": 1e-9, "float32": 1e-5, "float16": 1e-2}


def as_array(name: str, value: Any, where: Callable[[tuple[int, ...]], str] | None = None) -> Array:
    """Return ``value`` as a read-only float64 array of finite numbers; never the caller's own memory.

    Args:
        name: what the argument is called, for the message.
        value: anything NumPy can convert.
        where: turns the index of an entry into words, such as "state 3, action 1".

    Raises:
        InputError: not numeric, complex, sparse, rows of different lengths, or an entry is NaN or infinite.

    Example:
        >>> as_array("r", [1, 2]).dtype
        dtype('float64')
    """
    array = any_array(name, value)
    _check_real(name, array)
    with np.errstate(over="ignore"):  # a long double beyond float64 becomes infinite, which is named below
        array = array.astype(np.float64)
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        index = tuple(int(i) for i in bad[0])
        raise InputError(f"{name} must be finite, got {array[index]} at {(where or _index)(index)}.")
    return frozen(array)


def any_array(name: str, value: Any) -> npt.NDArray[Any]:
    """Return a copy of ``value`` as an array of whatever it holds: numbers, words, flags.

    Raises:
        InputError: rows of different lengths, or a sparse matrix.

    Example:
        >>> any_array("labels", ["left", "right"]).shape
        (2,)
    """
    if sparse.issparse(value):
        raise InputError(f"{name} must be a dense array, got a sparse one; pass .toarray() of it.")
    try:
        return np.array(value)
    except (ValueError, TypeError) as error:
        reason = str(error).rstrip(".")
        raise InputError(f"{name} must be an array, every row of the same length: {reason}.") from error


def _check_real(name: str, array: Any) -> None:
    """Raise unless a dense or sparse array holds real numbers."""
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must hold real numbers, got an array of {array.dtype}.")


def frozen(array: Array) -> Array:
    """Return the array, no longer writeable."""
    array.setflags(write=False)
    return array


def as_matrix(name: str, value: Any, where: Callable[[int], str]) -> Matrix:
    """Return a two-dimensional dense array or ``csr_array`` of finite float64; sparse stays sparse.

    Duplicate entries of a sparse matrix are summed. ``where`` turns a row into words.

    Raises:
        InputError: not two-dimensional, complex, or an entry is NaN or infinite.

    Example:
        >>> as_matrix("P", [[0.0, 1.0]], where=str).shape
        (1, 2)
    """
    if not sparse.issparse(value):
        dense = as_array(name, value, lambda index: where(index[0]))
        if dense.ndim != 2:
            raise InputError(f"{name} must have two axes, got shape {dense.shape}.")
        return dense
    _check_real(name, value)
    matrix = sparse.csr_array(value, dtype=np.float64, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    bad = np.flatnonzero(~np.isfinite(matrix.data))
    if len(bad):
        row = int(np.searchsorted(matrix.indptr, bad[0], side="right")) - 1
        raise InputError(f"{name} must be finite, got {matrix.data[bad[0]]} at {where(row)}.")
    return matrix


def check_shape(name: str, array: Any, shape: tuple[int, ...], meaning: str) -> None:
    """Raise unless ``array.shape`` is ``shape``; ``meaning`` spells the axes.

    Raises:
        InputError: another shape.

    Example:
        >>> check_shape("r", np.zeros((2, 3)), (2, 3), "(states, actions)")
    """
    if tuple(array.shape) != shape:
        raise InputError(f"{name} must have shape {shape} {meaning}, got {tuple(array.shape)}.")


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number that is at least ``least``.

    Raises:
        InputError: it is not a whole number, as 1.5, 2.0 and True are not, or below ``least``.

    Example:
        >>> check_count("steps", np.int64(3))
        3
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise InputError(f"{name} must be a whole number, got {value!r}.")
    if number < least:
        raise InputError(f"{name} must be at least {least}, got {number}.")
    return number


def check_number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
) -> float:
    """Return a finite real number as a float: at least ``least``, greater than ``above``, at most ``most``.

    Raises:
        InputError: it is not one, as "0.5", NaN and infinity are not; or it is out of range.

    Example:
        >>> check_number("epsilon", 1, least=0, most=1)
        1.0
    """
    given = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if not isinstance(given, Real):
        raise InputError(f"{name} must be a number and {_range(least, above, most)}, got {value!r}.")
    try:
        number = float(given)
    except OverflowError:  # a whole number or a fraction beyond float64
        number = math.inf
    if not (least <= number <= most and above < number and math.isfinite(number)):
        raise InputError(f"{name} must {_range(least, above, most)}, got {given}.")
    return number


def _range(least: float, above: float, most: float) -> str:
    """Return the numbers that are allowed, in words."""
    if above > -math.inf:
        return f"be greater than {above:g}" + (f" and at most {most:g}" if most < math.inf else " and finite")
    if least > -math.inf:
        return f"lie in [{least:g}, {most:g}]" if most < math.inf else f"be at least {least:g} and finite"
    return f"be at most {most:g} and finite" if most < math.inf else "be finite"


def check_gamma(gamma: Any) -> float:
    """Return the discount factor as a float.

    Raises:
        InputError: it is not a number from 0 to 1.

    Example:
        >>> check_gamma(1)
        1.0
    """
    return check_number("gamma", gamma, least=0.0, most=1.0)


def check_non_negative(name: str, matrix: Matrix, where: Callable[[int], str]) -> None:
    """Raise if an entry of a two-dimensional matrix is negative, naming its row.

    Raises:
        InputError: a negative entry.

    Example:
        >>> check_non_negative("P", np.ones((1, 1)), where=str)
    """
    lowest = row_min(matrix)
    if len(lowest) and lowest.min() < 0.0:
        row = int(np.argmax(lowest < 0.0))
        raise InputError(f"{name} must not be negative, got {lowest[row]:.6g} at {where(row)}.")


def row_min(matrix: Matrix) -> Array:
    """Return the smallest entry of every row, (rows,); absent sparse entries count as 0."""
    if 0 in matrix.shape:
        return np.zeros(matrix.shape[0])
    if sparse.issparse(matrix):
        return np.asarray(matrix.min(axis=1).todense(), dtype=np.float64).reshape(-1)
    return np.asarray(matrix.min(axis=1), dtype=np.float64)


def row_sums(matrix: Matrix) -> Array:
    """Return the sum of every row, (rows,).

    Example:
        >>> row_sums(sparse.csr_array(np.eye(2)))
        array([1., 1.])
    """
    return np.asarray(matrix.sum(axis=1), dtype=np.float64).reshape(-1)


def to_dense(matrix: Matrix) -> Array:
    """Return a dense copy.

    Example:
        >>> to_dense(sparse.csr_array(np.eye(1)))
        array([[1.]])
    """
    if isinstance(matrix, np.ndarray):
        return np.array(matrix, dtype=np.float64)
    return np.asarray(matrix.toarray(), dtype=np.float64)


def row_tolerance(value: Any) -> float:
    """Return how far a row of probabilities given in this type may be from one."""
    return ROW_SUM_TOLERANCE.get(str(getattr(value, "dtype", "float64")), ROW_SUM_TOLERANCE["float64"])


def _index(index: tuple[int, ...]) -> str:
    return f"index {index[0] if len(index) == 1 else index}"
