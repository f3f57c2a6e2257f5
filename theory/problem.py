"""What a theorem is asked about: a chain over state-action rows with rewards, features and weights.

A :class:`Problem` is either taken from an MDP, a policy, features and weights, or given as bare
arrays (:meth:`Problem.from_chain`). It holds the arrays that every theorem uses, over the live rows
only: terminal states have no rows, and transitions into them are removed (the reward stays), so
rows of ``P_pi`` may sum to less than one. Nothing is solved here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from theory.chains import pair_chain
from theory.checks import (
    Array,
    Ints,
    Matrix,
    as_array,
    as_matrix,
    check_gamma,
    check_non_negative,
    check_shape,
    frozen,
    row_sums,
    row_tolerance,
    to_dense,
)
from theory.errors import InputError
from theory.features import Features
from theory.mdp import TabularMDP
from theory.policy import Policy
from theory.weights import Weights


@dataclass(frozen=True, init=False, eq=False)
class Problem:
    r"""A chain :math:`P^\pi`, rewards :math:`r`, features :math:`Z`, weights :math:`\mu`, discount.

    Attributes:
        P_pi: (n, n), dense or ``csr_array``; row sums at most one, the missing mass terminates.
        r: (n,), expected reward of each row.
        Z: (n, d), one feature vector a row.
        mu: (n,), non-negative, sums to one.
        gamma: discount in [0, 1].
        labels: a name for each row such as ``"s3,a1"``; None for a bare chain.
        mdp: where it came from; None for a bare chain, as the next four are.
        policy: the policy of ``P_pi``.
        features: the features ``Z`` was cut from.
        weights: the weights ``mu`` was cut from.
        rows: (n,), the index ``s * A + a`` of each row in the MDP.

    ``Problem(mdp, policy, features, weights)`` takes the rows of all live states, or with
    ``reachable_from`` (see :meth:`TabularMDP.live_states`) of those that can be reached; weights of
    live rows that are left out are dropped and the others divided by their sum.

    Raises:
        InputError: shapes that do not match, weight on a terminal state, no weight on any row.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [0, 0], [[1], [2]], [0.5, 0.5], 0.9)
        >>> problem.n, problem.d, problem.Z_next.tolist()
        (2, 1, [[2.0], [2.0]])
    """

    P_pi: Matrix
    r: Array
    Z: Array
    mu: Array
    gamma: float
    labels: tuple[str, ...] | None
    mdp: TabularMDP | None
    policy: Policy | None
    features: Features | None
    weights: Weights | None
    rows: Ints | None

    def __init__(
        self,
        mdp: TabularMDP,
        policy: Policy,
        features: Features,
        weights: Weights,
        *,
        reachable_from: Any = None,
    ) -> None:
        states = mdp.live_states(reachable_from)
        P, rows = pair_chain(mdp, policy, states)
        A = mdp.num_actions
        self._fill(
            P_pi=P,
            r=frozen(mdp.r.reshape(-1)[rows]),
            Z=_cut_features(features, mdp, rows),
            mu=_cut_weights(weights, mdp, rows),
            gamma=mdp.gamma,
            labels=tuple(f"s{row // A},a{row % A}" for row in rows.tolist()),
            mdp=mdp,
            policy=policy,
            features=features,
            weights=weights,
            rows=rows,
        )

    @classmethod
    def from_chain(cls, P_pi: Any, r: Any, Z: Any, mu: Any, gamma: float) -> Problem:
        """Take a bare chain whose transitions into terminal states have been removed.

        Args:
            P_pi: (n, n), dense or sparse, non-negative, rows summing to at most one.
            r: (n,), expected rewards.
            Z: (n, d) features; (n,) is read as one feature.
            mu: (n,) non-negative weights that sum to one.
            gamma: discount in [0, 1].

        Raises:
            InputError: a wrong shape, NaN, a negative probability or weight, a row of more than
                one, weights that are all zero or do not sum to one, gamma outside [0, 1].

        Example:
            >>> Problem.from_chain([[0.5]], [1.0], [[1.0]], [1.0], 1.0).r
            array([1.])
        """
        rewards = as_array("r", r)
        if rewards.ndim != 1 or len(rewards) == 0:
            raise InputError(f"r must have shape (n,) with n > 0, got {rewards.shape}.")
        chain = check_chain(P_pi, len(rewards))
        self = cls.__new__(cls)
        self._fill(
            P_pi=chain,
            r=rewards,
            Z=_check_features(Z, len(rewards)),
            mu=_check_weights(mu, len(rewards), row_tolerance(mu)),
            gamma=check_gamma(gamma),
        )
        return self

    def _fill(self, **fields: Any) -> None:
        """Set the given fields, the others to None, past the frozen guard."""
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, fields.get(name))

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.r)

    @property
    def d(self) -> int:
        """Number of features."""
        return int(self.Z.shape[1])

    @cached_property
    def Z_next(self) -> Array:
        r"""Expected next features :math:`Z' = P^\pi Z`, (n, d); zero where everything terminates."""
        return frozen(np.asarray(self.P_pi @ self.Z, dtype=np.float64))

    @cached_property
    def dense_P(self) -> Array:
        """``P_pi`` as a dense (n, n) array; it may be large."""
        return frozen(to_dense(self.P_pi))


def check_chain(P_pi: Any, n: int) -> Matrix:
    """Return ``P_pi`` as a checked (n, n) sub-stochastic matrix, dense or sparse.

    Raises:
        InputError: a wrong shape, NaN, a negative entry, or a row that sums to more than one.

    Example:
        >>> check_chain([[0.5]], 1)
        array([[0.5]])
    """
    chain = as_matrix("P_pi", P_pi, _row)
    check_shape("P_pi", chain, (n, n), "(rows, rows)")
    check_non_negative("P_pi", chain, _row)
    sums = row_sums(chain)
    worst = int(np.argmax(sums))
    if sums[worst] > 1.0 + row_tolerance(P_pi):
        raise InputError(f"A row of P_pi must sum to at most 1, got {sums[worst]:.12g} at row {worst}.")
    return chain


def _cut_features(features: Features, mdp: TabularMDP, rows: Ints) -> Array:
    """Return the (n, d) features of the given rows."""
    S, A = mdp.r.shape
    Z = features.Z
    if Z.shape[:-1] in ((S, A), (S * A,)):
        return frozen(Z.reshape(S * A, -1)[rows])
    if Z.shape[:-1] == (len(rows),):
        return Z
    raise InputError(
        f"Z of the features has shape {Z.shape}; it must be ({S}, {A}, d), ({S * A}, d) or, for the live "
        f"rows only, ({len(rows)}, d)."
    )


def _cut_weights(weights: Weights, mdp: TabularMDP, rows: Ints) -> Array:
    """Return the (n,) weights of the given rows, summing to one."""
    check_shape("mu", weights.mu, mdp.r.shape, "(states, actions)")
    ended = np.argwhere(mdp.terminal[:, None] & (weights.mu > 0.0))
    if len(ended):
        state, action = ended[0]
        raise InputError(
            f"mu gives weight {weights.mu[state, action]:.6g} to state {state}, action {action}, which is "
            "terminal and has no row; set it to zero."
        )
    kept = weights.mu.reshape(-1)[rows]
    total = float(kept.sum())
    if total == 0.0:
        raise InputError("mu is zero on every row that can be reached.")
    return frozen(kept if abs(total - 1.0) < 1e-12 else kept / total)


def _check_features(Z: Any, n: int) -> Array:
    """Return (n, d) features, d > 0."""
    array = as_array("Z", Z)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] == 0 or len(array) != n:
        raise InputError(f"Z must have shape (n, d) with n = {n} rows and d > 0, got {array.shape}.")
    return array


def _check_weights(mu: Any, n: int, tolerance: float) -> Array:
    """Return (n,) weights that sum to one up to rounding, scaled to do so."""
    array = as_array("mu", mu)
    check_shape("mu", array, (n,), "(rows,)")
    if array.min() < 0.0:
        row = int(np.argmin(array))
        raise InputError(f"mu must not be negative, got {array[row]:.6g} at row {row}.")
    total = float(array.sum())
    if total == 0.0:
        raise InputError("mu is zero everywhere; at least one row needs weight.")
    if abs(total - 1.0) > max(tolerance, 1e-9):
        raise InputError(f"mu must sum to 1, got {total:.12g}; divide it by its sum.")
    return array if abs(total - 1.0) < 1e-12 else frozen(array / total)


def _row(row: int) -> str:
    return f"row {row}"
