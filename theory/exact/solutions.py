r"""The solutions of a linear system over the rationals: one, infinitely many, or none.

Two sets of solutions can be compared for equality; that is what theorem 1 asserts of two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from theory.exact.linear import apply, null_space, product, row_basis, solve, transpose

if TYPE_CHECKING:
    from theory.td import Kind


@dataclass(frozen=True)
class Solutions:
    """All w that solve a linear system.

    Attributes:
        kind: "unique", "affine" (infinitely many) or "none".
        w: (d,), the solution; of an affine set the one of least Euclidean norm; None if there is none.
        directions: a basis of the null space, one vector a row: w plus any combination of them is a solution.
    """

    kind: Kind
    w: tuple[Fraction, ...] | None
    directions: tuple[tuple[Fraction, ...], ...]

    @property
    def nullity(self) -> int:
        """The dimension of the null space, 0 if and only if the system's matrix is injective."""
        return len(self.directions)


def solve_all(system: Sequence[Sequence[Fraction]], right: Sequence[Fraction], width: int) -> Solutions:
    """Return all solutions of ``system @ w = right``, w of that width, for a matrix of any shape and rank.

    Example:
        >>> line = solve_all([[Fraction(1), Fraction(1)]], [Fraction(2)], 2)
        >>> line.kind, line.w, line.directions
        ('affine', (Fraction(1, 1), Fraction(1, 1)), ((Fraction(-1, 1), Fraction(1, 1)),))
        >>> solve_all([[Fraction(0)]], [Fraction(2)], 1).kind
        'none'
    """
    basis = row_basis([[*row, x] for row, x in zip(system, right, strict=True)])
    last = basis.pop() if basis and not any(basis[-1][:width]) else None
    directions = null_space([row[:width] for row in basis], width)
    null = tuple(map(tuple, directions))
    if last is not None:  # 0 = 1
        return Solutions("none", None, null)
    w = [Fraction(0)] * width
    for row in basis:
        w[next(j for j, x in enumerate(row) if x)] = row[width]
    return Solutions("affine" if null else "unique", least_norm(w, null), null)


def same(first: Solutions, second: Solutions) -> bool:
    """Return whether two sets of solutions are equal, as sets of vectors of fractions.

    Example:
        >>> line = solve_all([[Fraction(1), Fraction(1)]], [Fraction(2)], 2)
        >>> same(line, line), same(line, solve_all([[Fraction(1), Fraction(1)]], [Fraction(3)], 2))
        (True, False)
    """
    if first.kind == "none" or second.kind == "none":
        return first.kind == second.kind
    # The point of least norm and the reduced basis of the null space are determined by the set.
    return first.w == second.w and row_basis(first.directions) == row_basis(second.directions)


def least_norm(point: Sequence[Fraction], directions: Sequence[Sequence[Fraction]]) -> tuple[Fraction, ...]:
    """Return the point of least norm of the affine set through a point, along independent directions.

    Example:
        >>> least_norm([Fraction(2), Fraction(0)], [[Fraction(1), Fraction(-1)]])
        (Fraction(1, 1), Fraction(1, 1))
    """
    if not directions:
        return tuple(point)
    gram = product(directions, transpose(directions))
    along = solve(gram, [[x] for x in apply(directions, point)]) or []
    shift = apply(transpose(directions), [row[0] for row in along])
    return tuple(x - y for x, y in zip(point, shift, strict=True))
