"""A tabular MDP in fractions, made from the floats of a ``TabularMDP``.

Each float becomes the simple fraction it rounds, if there is one; rows of probabilities are then
divided by their sum. ``TabularMDP.to_exact`` is the public way in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from scipy import sparse

from theory.checks import Array, Matrix
from theory.exact.rationals import Change, changed, listed, normalised, snap


@dataclass(frozen=True)
class ExactMDP:
    """A tabular MDP in ``Fraction``; rows of ``P`` sum to one exactly.

    Attributes:
        P: for each row ``s * A + a``, the successors with their probabilities.
        r: (S, A) expected rewards.
        gamma: discount.
        terminal: (S,) flags.
        start: (S,) distribution of the first state.
        changes: what was done to the floats of P, r, gamma and start, in this order.

    Example:
        >>> import numpy as np
        >>> mdp = exact_mdp(np.ones((1, 1)), np.array([[0.5]]), 0.9, [False], np.ones(1))
        >>> mdp.gamma, mdp.P
        (Fraction(9, 10), ({0: Fraction(1, 1)},))
    """

    P: tuple[dict[int, Fraction], ...]
    r: tuple[tuple[Fraction, ...], ...]
    gamma: Fraction
    terminal: tuple[bool, ...]
    start: tuple[Fraction, ...]
    changes: tuple[Change, ...]

    @property
    def largest_change(self) -> float:
        """The largest change of any probability, reward or discount, as a float."""
        return float(max(change.largest for change in self.changes))


def exact_mdp(P: Matrix, r: Array, gamma: float, terminal: Sequence[bool], start: Array) -> ExactMDP:
    """Return the arrays of an MDP, ``P`` as (S*A, S) rows, in fractions.

    Example:
        >>> import numpy as np
        >>> exact_mdp(np.ones((1, 1)), np.array([[0.5]]), 0.9, [False], np.ones(1)).r
        ((Fraction(1, 2),),)
    """
    given = sparse_rows(P)
    rows = [dict(zip(row, normalised([snap(p) for p in row.values()]), strict=True)) for row in given]
    rewards = tuple(tuple(snap(x) for x in row) for row in r.tolist())
    first = normalised([snap(x) for x in start.tolist()])
    before = [p for row in given for p in row.values()]
    after = [p for row in rows for p in row.values()]
    return ExactMDP(
        P=tuple(rows),
        r=rewards,
        gamma=snap(gamma),
        terminal=tuple(map(bool, terminal)),
        start=tuple(first),
        changes=(
            changed("P", before, after),
            changed("r", r.reshape(-1).tolist(), [x for row in rewards for x in row]),
            changed("gamma", [gamma], [snap(gamma)]),
            changed("start", start.tolist(), first),
        ),
    )


def sparse_rows(matrix: Matrix) -> list[dict[int, float]]:
    """Return the stored entries of each row, by column; entries stored twice are summed.

    Example:
        >>> import numpy as np
        >>> sparse_rows(np.array([[0.0, 0.5], [0.0, 0.0]]))
        [{1: 0.5}, {}]
    """
    table = sparse.csr_array(matrix, copy=True)
    table.sum_duplicates()
    spans = list(zip(table.indptr[:-1], table.indptr[1:], strict=True))
    data = listed("the matrix", table.data)
    return [dict(zip(table.indices[a:b].tolist(), data[a:b], strict=True)) for a, b in spans]
