r"""Fraction-free elimination (Bareiss 1968) on matrices of Python integers.

Every number that occurs is a minor of the matrix, so entries grow linearly with the dimension and every
division is exact; elimination with fractions would take a greatest common divisor at every step. Matrices of
fractions are brought to integers in ``linear``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

IntMatrix: TypeAlias = "list[list[int]]"
PRIME = 2**61 - 1


@dataclass(frozen=True)
class Reduced:
    """The reduced row echelon form of a matrix: ``rows / denominator``.

    Attributes:
        rows: the rows that are not zero, one a pivot.
        denominator: what to divide by; in its pivot column each row has this entry, the others 0.
        pivots: the pivot columns, ascending; their number is the rank.

    Example:
        >>> reduce([[1, 3, 0], [2, 4, 2]])
        Reduced(rows=[[-2, 0, -6], [0, -2, 2]], denominator=-2, pivots=(0, 1))
    """

    rows: IntMatrix
    denominator: int
    pivots: tuple[int, ...]


def reduce(matrix: IntMatrix) -> Reduced:
    r"""Return the reduced row echelon form, by fraction-free Gauss-Jordan elimination.

    With pivot p and the pivot q before it, every other row becomes
    :math:`(p\,\text{row}-\text{row}_{\text{col}}\,\text{pivot row})/q`, in integers.

    Example:
        >>> reduce([[0, 3], [0, 6]])
        Reduced(rows=[[0, 3]], denominator=3, pivots=(1,))
    """
    rows = [list(row) for row in matrix]
    pivots: list[int] = []
    previous = 1
    for column in range(len(rows[0]) if rows else 0):
        found = _pivot_row(rows, len(pivots), column)
        if found is None:
            continue
        at = len(pivots)
        rows[at], rows[found] = rows[found], rows[at]
        pivot_row, pivot = rows[at], rows[at][column]
        for i, row in enumerate(rows):
            if i != at:
                rows[i] = _combine(row, pivot_row, pivot, row[column], previous)
        pivots.append(column)
        previous = pivot
    return Reduced(rows[: len(pivots)], previous, tuple(pivots))


def determinant(matrix: IntMatrix) -> int:
    """Return the determinant of a square matrix; 1 if it is empty.

    Example:
        >>> determinant([[0, 2], [3, 5]])
        -6
    """
    rows = [list(row) for row in matrix]
    sign, previous = 1, 1
    for k in range(len(rows)):
        found = _pivot_row(rows, k, k)
        if found is None:
            return 0
        if found != k:
            rows[k], rows[found] = rows[found], rows[k]
            sign = -sign
        tail, pivot = rows[k][k:], rows[k][k]
        for i in range(k + 1, len(rows)):
            rows[i][k:] = _combine(rows[i][k:], tail, pivot, rows[i][k], previous)
        previous = pivot
    return sign * previous


def regular_modulo(matrix: IntMatrix, prime: int = PRIME) -> bool:
    """Return whether a square matrix is invertible modulo a prime, which proves that it is invertible.

    The converse does not hold: False says nothing.

    Example:
        >>> regular_modulo([[1, 2], [3, 4]]), regular_modulo([[1, 2], [2, 4]])
        (True, False)
    """
    rows = [[x % prime for x in row] for row in matrix]
    for k in range(len(rows)):
        found = next((i for i in range(k, len(rows)) if rows[i][k]), None)
        if found is None:
            return False
        rows[k], rows[found] = rows[found], rows[k]
        inverse, tail = pow(rows[k][k], -1, prime), rows[k][k:]
        for i in range(k + 1, len(rows)):
            factor = rows[i][k] * inverse % prime
            if factor:
                rows[i][k:] = [(x - factor * y) % prime for x, y in zip(rows[i][k:], tail, strict=True)]
    return True


def _pivot_row(rows: IntMatrix, start: int, column: int) -> int | None:
    """Return the row from ``start`` on whose entry in the column is smallest and not zero."""
    candidates = [(abs(rows[i][column]), i) for i in range(start, len(rows)) if rows[i][column]]
    return min(candidates)[1] if candidates else None


def _combine(row: list[int], pivot_row: list[int], pivot: int, factor: int, previous: int) -> list[int]:
    """Return ``(pivot * row - factor * pivot_row) / previous``, a division without remainder."""
    if factor == 0:
        return row if pivot == previous else [x * pivot // previous if x else 0 for x in row]
    return [(pivot * x - factor * y) // previous for x, y in zip(row, pivot_row, strict=True)]
