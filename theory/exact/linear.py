"""Linear algebra on matrices of fractions: products, solving, rank, null spaces.

Fractions are brought to integers over one denominator, the integers are worked on (``backend``), and the
result becomes fractions again. Matrices are lists of rows, vectors are lists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from theory.exact.backend import current
from theory.exact.elimination import IntMatrix
from theory.exact.rationals import ExactMatrix, ExactVector


def integers(matrix: Sequence[Sequence[Fraction]]) -> tuple[IntMatrix, int]:
    """Return integers and the common denominator that they are over.

    Example:
        >>> integers([[Fraction(1, 2), Fraction(1, 3)]])
        ([[3, 2]], 6)
    """
    common = math.lcm(*(x.denominator for row in matrix for x in row))
    return [[x.numerator * (common // x.denominator) for x in row] for row in matrix], common


def product(left: Sequence[Sequence[Fraction]], right: Sequence[Sequence[Fraction]]) -> ExactMatrix:
    """Return the matrix product.

    Example:
        >>> product([[Fraction(1, 2), Fraction(1)]], [[Fraction(2)], [Fraction(3)]])
        [[Fraction(4, 1)]]
    """
    (A, a), (B, b) = integers(left), integers(right)
    columns = list(zip(*B, strict=True))
    return [
        [Fraction(sum(x * y for x, y in zip(row, column, strict=True) if x), a * b) for column in columns]
        for row in A
    ]


def apply(matrix: Sequence[Sequence[Fraction]], vector: Sequence[Fraction]) -> ExactVector:
    """Return the matrix times the vector.

    Example:
        >>> apply([[Fraction(1, 2), Fraction(1)]], [Fraction(2), Fraction(3)])
        [Fraction(4, 1)]
    """
    if not vector:
        return [Fraction(0)] * len(matrix)
    return [row[0] for row in product(matrix, [[x] for x in vector])]


def transpose(matrix: Sequence[Sequence[Fraction]]) -> ExactMatrix:
    """Return the transpose.

    Example:
        >>> transpose([[Fraction(1), Fraction(2)]])
        [[Fraction(1, 1)], [Fraction(2, 1)]]
    """
    return [list(column) for column in zip(*matrix, strict=True)]


def identity(size: int) -> ExactMatrix:
    """Return the identity matrix.

    Example:
        >>> identity(1)
        [[Fraction(1, 1)]]
    """
    return [[Fraction(int(i == j)) for j in range(size)] for i in range(size)]


def minus(left: Sequence[Sequence[Fraction]], right: Sequence[Sequence[Fraction]]) -> ExactMatrix:
    """Return the difference of two matrices.

    Example:
        >>> minus([[Fraction(3)]], [[Fraction(1)]])
        [[Fraction(2, 1)]]
    """
    return [[x - y for x, y in zip(*rows, strict=True)] for rows in zip(left, right, strict=True)]


def scaled(factor: Fraction, matrix: Sequence[Sequence[Fraction]]) -> ExactMatrix:
    """Return the matrix times a number.

    Example:
        >>> scaled(Fraction(2), [[Fraction(1, 2)]])
        [[Fraction(1, 1)]]
    """
    return [[factor * x for x in row] for row in matrix]


def solve(A: Sequence[Sequence[Fraction]], B: Sequence[Sequence[Fraction]]) -> ExactMatrix | None:
    """Return X with A X = B, (d, m), for a square A; None if A is singular.

    Example:
        >>> solve([[Fraction(1, 2)]], [[Fraction(1), Fraction(3)]])
        [[Fraction(2, 1), Fraction(6, 1)]]
        >>> solve([[Fraction(0)]], [[Fraction(1)]]) is None
        True
    """
    if not A:
        return []
    size = len(A)
    rows, scales = _integer_columns([[*a, *b] for a, b in zip(A, B, strict=True)], size)
    reduced = current().reduce(rows)
    if reduced.pivots[:size] != tuple(range(size)):
        return None
    return [
        [Fraction(x, reduced.denominator * s) for x, s in zip(row[size:], scales, strict=True)]
        for row in reduced.rows
    ]


def row_basis(matrix: Sequence[Sequence[Fraction]]) -> ExactMatrix:
    """Return a basis of the row space, in reduced echelon form; the identity if it is everything.

    Example:
        >>> row_basis([[Fraction(2), Fraction(4)], [Fraction(1), Fraction(2)]])
        [[Fraction(1, 1), Fraction(2, 1)]]
    """
    reduced = current().reduce(_integer_rows(matrix))
    return [[Fraction(x, reduced.denominator) for x in row] for row in reduced.rows]


def null_space(echelon: Sequence[Sequence[Fraction]], width: int) -> ExactMatrix:
    """Return a basis of the vectors of that width which a matrix takes to zero, one a row.

    The matrix must be in reduced echelon form, as :func:`row_basis` returns it.

    Example:
        >>> null_space([[Fraction(1), Fraction(2)]], 2)
        [[Fraction(-2, 1), Fraction(1, 1)]]
    """
    pivots = [next(j for j, x in enumerate(row) if x) for row in echelon]
    directions = []
    for free in sorted(set(range(width)) - set(pivots)):
        direction = [Fraction(int(j == free)) for j in range(width)]
        for row, pivot in zip(echelon, pivots, strict=True):
            direction[pivot] = -row[free]
        directions.append(direction)
    return directions


def rank(matrix: Sequence[Sequence[Fraction]]) -> int:
    """Return the rank.

    Example:
        >>> rank([[Fraction(1), Fraction(2)], [Fraction(2), Fraction(4)]])
        1
    """
    return len(current().reduce(_integer_rows(matrix)).pivots)


def determinant(matrix: Sequence[Sequence[Fraction]]) -> Fraction:
    """Return the determinant of a square matrix.

    Example:
        >>> determinant([[Fraction(1, 2), Fraction(0)], [Fraction(1), Fraction(3)]])
        Fraction(3, 2)
    """
    rows, common = integers(matrix)
    return Fraction(current().determinant(rows), common ** len(rows))


def pencil(E: Sequence[Sequence[Fraction]], F: Sequence[Sequence[Fraction]]) -> list[int]:
    """Return det(x E - F) times a positive constant, as integer coefficients, lowest first; E invertible.

    Example:
        >>> pencil([[Fraction(1, 2)]], [[Fraction(1, 3)]])
        [-2, 3]
    """
    rows, _ = integers([*E, *F])
    return current().pencil(rows[: len(E)], rows[len(E) :])


def _integer_rows(matrix: Sequence[Sequence[Fraction]]) -> IntMatrix:
    """Return every row times its common denominator, which changes no solution."""
    return [integers([row])[0][0] for row in matrix]


def _integer_columns(matrix: ExactMatrix, size: int) -> tuple[IntMatrix, list[int]]:
    """Return integers [A, B]: rows scaled together, then each column of B by itself, and those scales."""
    scales = [math.lcm(*(row[j].denominator for row in matrix)) for j in range(size, len(matrix[0]))]
    rows = [[*row[:size], *(x * s for x, s in zip(row[size:], scales, strict=True))] for row in matrix]
    return _integer_rows(rows), scales
