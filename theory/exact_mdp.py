"""Fractions behind floats: snapping a float to the simple fraction it rounds, and an MDP of fractions.

A float such as 0.33333333333333337 was meant as 1/3. It is replaced only where a fraction with a
small denominator lies within a few units in the last place; any other float is taken as the exact
binary number it is. Rows of probabilities are then divided by their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy import sparse

from theory.checks import Array, Matrix

LARGEST_DENOMINATOR = 10_000
SNAP_ULPS = 8  # FrozenLake's thirds are one ulp off; sums of a few such entries a few more


@dataclass(frozen=True)
class ExactMDP:
    """A tabular MDP in ``Fraction``; rows of ``P`` sum to one exactly.

    Attributes:
        P: for each row ``s * A + a``, the successors with their probabilities.
        r: (S, A) expected rewards.
        gamma: discount.
        terminal: (S,) flags.
        start: (S,) distribution of the first state.
        largest_change: the largest change of any probability, reward or discount, as a float.
    """

    P: tuple[dict[int, Fraction], ...]
    r: tuple[tuple[Fraction, ...], ...]
    gamma: Fraction
    terminal: tuple[bool, ...]
    start: tuple[Fraction, ...]
    largest_change: float


def snap(number: float) -> Fraction:
    """Return the fraction with a denominator of at most 10000 that ``number`` rounds, else its exact value.

    Example:
        >>> snap(0.33333333333333337), snap(0.1), snap(2.0**-30) == Fraction(1, 2**30)
        (Fraction(1, 3), Fraction(1, 10), True)
    """
    simple = Fraction(number).limit_denominator(LARGEST_DENOMINATOR)
    if abs(float(simple) - number) <= SNAP_ULPS * float(np.spacing(abs(number))):
        return simple
    return Fraction(number)


def normalised(row: Sequence[Fraction]) -> list[Fraction]:
    """Return the entries divided by their sum, which must not be zero.

    Example:
        >>> normalised([Fraction(1), Fraction(3)])
        [Fraction(1, 4), Fraction(3, 4)]
    """
    total = sum(row, Fraction(0))
    return [entry / total for entry in row]


def exact_mdp(P: Matrix, r: Array, gamma: float, terminal: Sequence[bool], start: Array) -> ExactMDP:
    """Return the arrays of an MDP, ``P`` as (S*A, S) rows, in fractions.

    Example:
        >>> exact_mdp(np.ones((1, 1)), np.array([[0.5]]), 0.9, [False], np.ones(1)).r
        ((Fraction(1, 2),),)
    """
    table = sparse.csr_array(P)
    spans = list(zip(table.indptr[:-1], table.indptr[1:], strict=True))
    given = [dict(zip(table.indices[a:b].tolist(), table.data[a:b].tolist(), strict=True)) for a, b in spans]
    rows = [_exact_row(row) for row in given]
    rewards = [[snap(x) for x in row] for row in r.tolist()]
    first = normalised([snap(x) for x in start.tolist()])
    change = [(x, exact[j]) for row, exact in zip(given, rows, strict=True) for j, x in row.items()]
    change += list(zip(r.reshape(-1).tolist(), [x for row in rewards for x in row], strict=True))
    change += [(gamma, snap(gamma)), *zip(start.tolist(), first, strict=True)]
    return ExactMDP(
        P=tuple(rows),
        r=tuple(map(tuple, rewards)),
        gamma=snap(gamma),
        terminal=tuple(map(bool, terminal)),
        start=tuple(first),
        largest_change=float(max(abs(Fraction(x) - exact) for x, exact in change)),
    )


def _exact_row(row: dict[int, float]) -> dict[int, Fraction]:
    """Return the probabilities of one row as fractions that sum to one."""
    return dict(zip(row, normalised([snap(p) for p in row.values()]), strict=True))
