"""A problem in fractions: what every exact proof is about.

It is given as numbers that are exact already, or made from a ``Problem`` of floats, openly: ``changes`` says
what was replaced. Transitions, features and weights mean what they mean in ``theory.problem``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from theory.checks import row_tolerance
from theory.errors import InputError
from theory.exact.backend import PYTHON, current, has_flint
from theory.exact.linear import integers
from theory.exact.mdp import ExactMDP, sparse_rows
from theory.exact.rationals import (
    Change,
    ExactMatrix,
    ExactVector,
    as_fraction,
    changed,
    is_float,
    listed,
    normalised,
)

if TYPE_CHECKING:
    from theory.problem import Problem

# A sum of float64 this much below one is a real chance to end, not rounding; a sum of narrower floats is
# one only beyond the tolerance of their type.
LEAK = Fraction(1, 10**12)


@dataclass(frozen=True)
class ExactProblem:
    r"""A chain, rewards, features, weights and a discount, all of them ``Fraction``.

    Attributes:
        P: for each of n rows, the successors with their probabilities; what a row misses of one terminates.
        r: (n,) expected rewards.
        Z: (n, d) features.
        mu: (n,) weights that sum to one.
        gamma: discount in [0, 1].
        changes: what was done to the floats of each input.
        mdp: the MDP in fractions; None for a bare chain, as the next two are.
        policy: (S, A) probabilities.
        rows: (n,), the index ``s * A + a`` of each row in the MDP.

    Example:
        >>> problem = ExactProblem.from_chain([["1/2"]], [1], [[2]], [1], "9/10")
        >>> problem.n, problem.d, problem.gamma
        (1, 1, Fraction(9, 10))
    """

    P: tuple[dict[int, Fraction], ...]
    r: tuple[Fraction, ...]
    Z: tuple[tuple[Fraction, ...], ...]
    mu: tuple[Fraction, ...]
    gamma: Fraction
    changes: tuple[Change, ...] = ()
    mdp: ExactMDP | None = None
    policy: tuple[tuple[Fraction, ...], ...] | None = None
    rows: tuple[int, ...] | None = None

    @classmethod
    def from_chain(cls, P_pi: Any, r: Any, Z: Any, mu: Any, gamma: Any) -> ExactProblem:
        """Take a bare chain whose transitions into terminal states have been removed.

        Integers, fractions and strings such as "1/3" or "0.95" are taken as they are. A float becomes the
        fraction with a denominator of at most 10000 that it rounds, or else its exact binary value. Weights
        with floats, and such rows of ``P_pi`` that sum to one up to the rounding of their type (1e-9; 1e-5 in
        float32), are divided by their sum. Entries that a sparse matrix stores twice are summed.

        Args:
            P_pi: (n, n), nested lists or an array, dense or sparse; or n mappings, probability by successor.
            r: (n,) rewards.
            Z: (n, d) features; (n,) is read as one feature.
            mu: (n,) weights.
            gamma: discount.

        Raises:
            InputError: a wrong shape, no number, a negative probability or weight, a row of more than one,
                weights that do not sum to one, gamma outside [0, 1].

        Example:
            >>> thirds = ExactProblem.from_chain([[1 / 3, 2 / 3], [1, 0]], [1, 0], [1, 2], [0.5, 0.5], 1)
            >>> thirds.P[0], str(thirds.changes[0])
            ({0: Fraction(1, 3), 1: Fraction(2, 3)}, 'P_pi: 2 numbers changed, by at most 3.7e-17')
        """
        rewards, reward_change = _vector("r", listed("r", r))
        n = len(rewards)
        chain, chain_change = _chain(P_pi, n)
        features, feature_change = _features(Z, n)
        weights, weight_change = _weights(mu, n)
        discount = as_fraction("gamma", gamma)
        if not 0 <= discount <= 1:
            raise InputError(f"gamma must lie in [0, 1], got {gamma}.")
        discount_change = changed("gamma", [gamma], [discount])
        changes = (chain_change, reward_change, feature_change, weight_change, discount_change)
        return cls(chain, rewards, features, weights, discount, changes)

    @classmethod
    def from_problem(cls, problem: Problem) -> ExactProblem:
        r"""Make a problem of floats exact.

        From an MDP, transitions and policy are made exact separately and then multiplied, so that products
        of thirds are ninths; a bare chain is taken as in :meth:`from_chain`.

        Raises:
            InputError: it is no ``Problem``.

        Example:
            >>> from theory.problem import Problem
            >>> floats = Problem.from_chain([[0.1]], [1.0], [[3.0]], [1.0], 0.9)
            >>> ExactProblem.from_problem(floats).P[0][0]
            Fraction(1, 10)
        """
        if isinstance(problem, ExactProblem) or not hasattr(problem, "policy"):
            raise InputError(f"problem must be a Problem of floats, got a {type(problem).__name__}.")
        if problem.mdp is None or problem.policy is None or problem.rows is None:
            arrays = (problem.P_pi, problem.r, problem.Z, problem.mu, problem.gamma)
            return cls.from_chain(*arrays)
        mdp, probs = problem.mdp.to_exact(), problem.policy.probs.tolist()
        policy = tuple(tuple(normalised([as_fraction("probs", p) for p in row])) for row in probs)
        rows = tuple(problem.rows.tolist())
        features, feature_change = _features(problem.Z, problem.n)
        weights, weight_change = _weights(problem.mu, problem.n)
        policy_change = changed(
            "policy", (p for row in probs for p in row), (p for row in policy for p in row)
        )
        actions = len(mdp.r[0])
        return cls(
            P=_pair_rows(mdp, policy, rows),
            r=tuple(mdp.r[row // actions][row % actions] for row in rows),
            Z=features,
            mu=weights,
            gamma=mdp.gamma,
            changes=(*mdp.changes, policy_change, feature_change, weight_change),
            mdp=mdp,
            policy=policy,
            rows=rows,
        )

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.r)

    @property
    def d(self) -> int:
        """Number of features."""
        return len(self.Z[0])

    @cached_property
    def Z_next(self) -> ExactMatrix:
        r"""Expected next features :math:`Z'=P^\pi Z`, (n, d)."""
        return [_mixture(row, self.Z, self.d) for row in self.P]

    @property
    def largest_change(self) -> Fraction:
        """The largest distance between a float that was given and the fraction that stands for it."""
        return max((change.largest for change in self.changes), default=Fraction(0))

    def expect(self, values: Sequence[Fraction]) -> ExactVector:
        r"""Return :math:`P^\pi x`, (n,).

        Example:
            >>> ExactProblem.from_chain([["1/2"]], [1], [[2]], [1], 1).expect([Fraction(4)])
            [Fraction(2, 1)]
        """
        return [sum((p * values[j] for j, p in row.items()), Fraction(0)) for row in self.P]

    def moment(self, left: Sequence[Sequence[Fraction]], right: Sequence[Sequence[Fraction]]) -> ExactMatrix:
        r"""Return :math:`L^\top DR`, the mean under the weights of the products of two (n, .) arrays.

        Example:
            >>> ExactProblem.from_chain([[0]], [1], [[2]], [1], 1).moment([[Fraction(3)]], [[Fraction(5)]])
            [[Fraction(15, 1)]]
        """
        (L, a), (R, b) = integers(left), integers(right)
        (weights,), c = integers([self.mu])
        total = [[0] * len(R[0]) for _ in L[0]]
        for weight, one, other in zip(weights, L, R, strict=True):
            for i, x in enumerate(one):
                if x and weight:
                    factor = weight * x
                    total[i] = [t + factor * y if y else t for t, y in zip(total[i], other, strict=True)]
        return [[Fraction(x, a * b * c) for x in row] for row in total]


def check_exact(problem: Any) -> None:
    """Raise unless a problem is one of fractions.

    Raises:
        InputError: anything else; a ``Problem`` of floats has to be made exact first.

    Example:
        >>> check_exact(ExactProblem.from_chain([[0]], [1], [[2]], [1], 1))
    """
    if not isinstance(problem, ExactProblem):
        raise InputError(
            f"problem must be an ExactProblem, got a {type(problem).__name__}; "
            "make one with ExactProblem.from_problem or ExactProblem.from_chain."
        )


def check_size(problem: Problem | ExactProblem) -> None:
    """Raise if the proofs would take much more than a minute on small fractions; digits are not weighed.

    Dense floats without simple fractions beside them take many times as long (``theory.exact`` has figures).

    Raises:
        InputError: no problem, or too many rows or features; the message says what to do.

    Example:
        >>> check_size(ExactProblem.from_chain([[0]], [1], [[2]], [1], 1))
    """
    if not (hasattr(problem, "n") and hasattr(problem, "d")):
        raise InputError(f"problem must be an ExactProblem or a Problem, got a {type(problem).__name__}.")
    backend = current()
    if problem.n <= backend.most_rows and problem.d <= backend.most_features:
        return
    help_ = "use exact=False, leave rows out with reachable_from, or use fewer features"
    if backend is PYTHON and not has_flint():
        help_ += ", or install python-flint, which is faster"
    raise InputError(
        f"Exact mode takes at most {backend.most_rows} rows and {backend.most_features} features "
        f"({backend.name}), got n = {problem.n} and d = {problem.d}: {help_}."
    )


def _mixture(row: Mapping[int, Fraction], Z: Sequence[Sequence[Fraction]], d: int) -> ExactVector:
    mean = [Fraction(0)] * d
    for j, p in row.items():
        mean = [m + p * z if z else m for m, z in zip(mean, Z[j], strict=True)]
    return mean


def _pair_rows(
    mdp: ExactMDP, policy: Sequence[Sequence[Fraction]], rows: Sequence[int]
) -> tuple[dict[int, Fraction], ...]:
    """Return the chain over the given rows ``s * A + a``, transitions into terminal states removed."""
    actions, place = len(mdp.r[0]), {row: i for i, row in enumerate(rows)}
    chain = []
    for row in rows:
        live = ((s, p) for s, p in mdp.P[row].items() if not mdp.terminal[s])
        pairs = ((place[s * actions + a], p * q) for s, p in live for a, q in enumerate(policy[s]) if q)
        chain.append({j: p for j, p in pairs if p})
    return tuple(chain)


def _vector(name: str, given: list[Any]) -> tuple[tuple[Fraction, ...], Change]:
    if not given:
        raise InputError(f"{name} must have shape (n,) with n > 0, got nothing.")
    exact = tuple(as_fraction(name, x, f" at row {i}") for i, x in enumerate(given))
    return exact, changed(name, given, exact)


def _rounding(given: Iterable[Any]) -> Fraction:
    """Return how far a sum of these numbers may be from one by rounding; zero if none is a float."""
    return max((Fraction(row_tolerance(x)) for x in given if is_float(x)), default=Fraction(0))


def _features(Z: Any, n: int) -> tuple[tuple[tuple[Fraction, ...], ...], Change]:
    """Return (n, d) features; a plain list of numbers is one feature."""
    given = [row if isinstance(row, list | tuple | np.ndarray) else [row] for row in listed("Z", Z)]
    table = [listed("Z", row) for row in given]
    widths = {len(row) for row in table}
    if len(table) != n or len(widths) != 1 or widths == {0}:
        raise InputError(f"Z must have shape (n, d) with n = {n} rows and d > 0, got {len(table)} rows.")
    exact = tuple(tuple(as_fraction("Z", x, f" at row {i}") for x in row) for i, row in enumerate(table))
    return exact, changed("Z", [x for row in table for x in row], [x for row in exact for x in row])


def _weights(mu: Any, n: int) -> tuple[tuple[Fraction, ...], Change]:
    """Return weights that sum to one exactly; only those with floats are divided by their sum."""
    given = listed("mu", mu)
    exact, _ = _vector("mu", given)
    if len(exact) != n:
        raise InputError(f"mu must have shape ({n},), got {len(exact)} weights.")
    if min(exact) < 0:
        raise InputError(f"mu must not be negative, got {min(exact)} at row {exact.index(min(exact))}.")
    total = sum(exact, Fraction(0))
    if abs(total - 1) > _rounding(given):
        raise InputError(f"mu must sum to 1, got {total}; divide it by its sum.")
    weights = tuple(normalised(exact))
    return weights, changed("mu", given, weights)


def _chain(P_pi: Any, n: int) -> tuple[tuple[dict[int, Fraction], ...], Change]:
    """Return sub-stochastic rows, by successor."""
    given = _given_rows(P_pi)
    if len(given) != n:
        raise InputError(f"P_pi must have {n} rows, as r has, got {len(given)}.")
    exact = [_probabilities(i, row, n) for i, row in enumerate(given)]
    before = [x for row in given for x in row.values()]
    after = [row[j] for row, old in zip(exact, given, strict=True) for j in old]
    return tuple({j: p for j, p in row.items() if p} for row in exact), changed("P_pi", before, after)


def _given_rows(P_pi: Any) -> list[Mapping[int, Any]]:
    if hasattr(P_pi, "tocsr"):
        return list(sparse_rows(P_pi))
    rows = [row if isinstance(row, Mapping) else listed("P_pi", row) for row in listed("P_pi", P_pi)]
    for i, row in enumerate(rows):
        if len(row) != len(rows) and not isinstance(row, Mapping):
            raise InputError(
                f"P_pi must have shape (n, n), got {len(rows)} rows with {len(row)} entries in row {i}."
            )
    return [row if isinstance(row, Mapping) else dict(enumerate(row)) for row in rows]


def _probabilities(i: int, row: Mapping[int, Any], n: int) -> dict[int, Fraction]:
    """Return one checked row; floats that sum to one up to rounding are divided by their sum."""
    for j in row:
        if not isinstance(j, int | np.integer) or isinstance(j, bool) or not 0 <= j < n:
            raise InputError(
                f"Row {i} of P_pi has a successor {j!r} that is no row; rows are whole numbers "
                f"from 0 to {n - 1}."
            )
    exact = {j: as_fraction("P_pi", p, f" at row {i}") for j, p in row.items()}
    if min(exact.values(), default=Fraction(0)) < 0:
        raise InputError(f"P_pi must not be negative, got {min(exact.values())} at row {i}.")
    total, above = sum(exact.values(), Fraction(0)), _rounding(row.values())
    narrow = above > _rounding([1.0])
    below = above if narrow else min(above, LEAK)
    if 1 - below <= total <= 1 + above:
        return dict(zip(exact, normalised(list(exact.values())), strict=True))
    if total > 1:
        raise InputError(f"A row of P_pi must sum to at most 1, got {total} at row {i}.")
    return exact
