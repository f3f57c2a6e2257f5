"""What a theorem is asked about: a chain over state-action rows with rewards, features and weights.

A :class:`Problem` is either taken from an MDP, a policy, features and weights, or given as bare
arrays (:meth:`Problem.from_chain`). It holds the arrays that every theorem uses, over the live rows
only: terminal states have no rows, and transitions into them are removed (the reward stays), so
rows of ``P_pi`` may sum to less than one. What is used at every size is ``chain``, ``feature_rows`` and
``blocks``; arrays that a million rows cannot afford are formed when asked for. Nothing is solved here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from theory.chains import LEAK, PairChain, average, bare_chain, pair_product
from theory.checks import (
    ROW_SUM_TOLERANCE,
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
from theory.features import Features, as_features, check_dense, check_size
from theory.mdp import TabularMDP
from theory.policy import Policy
from theory.resolvent import PairResolvent
from theory.streaming import FeatureRows
from theory.weights import Weights


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of a problem, float64.

    Attributes:
        rows: which.
        root: (b, 1), square roots of their weights.
        Z: (b, d), features.
        Z_next: (b, d), expected next features.
    """

    rows: slice
    root: Array
    Z: Array
    Z_next: Array


@dataclass(frozen=True, init=False, eq=False)
class Problem:
    r"""A chain :math:`P^\pi`, rewards :math:`r`, features :math:`Z`, weights :math:`\mu`, discount.

    Attributes:
        chain: :math:`P^\pi` as an operator: ``chain @ x`` and ``chain.T @ x``, at any size.
        r: (n,), expected reward of each row.
        mu: (n,), non-negative, sums to one.
        gamma: discount in [0, 1].
        feature_rows: the features with the weights, to be read in blocks.
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

    chain: PairChain
    r: Array
    mu: Array
    gamma: float
    feature_rows: FeatureRows
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
        _check_kinds(mdp, policy, features, weights)
        states = mdp.live_states(reachable_from)
        chain, rows = pair_product(mdp, policy, states)
        check_size("r", mdp.r.reshape(-1)[rows])
        mu = _cut_weights(weights, mdp, rows)
        self._fill(
            chain=chain,
            r=frozen(mdp.r.reshape(-1)[rows]),
            mu=mu,
            gamma=mdp.gamma,
            feature_rows=_cut_features(features, mdp, rows, mu),
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
                one, weights that are all zero or do not sum to one, gamma outside [0, 1], rewards or
                a feature whose largest size is neither 0 nor from 1e-70 to 1e70.

        Example:
            >>> Problem.from_chain([[0.5]], [1.0], [[1.0]], [1.0], 1.0).r
            array([1.])
        """
        rewards = as_array("r", r)
        if rewards.ndim != 1 or len(rewards) == 0:
            raise InputError(f"r must have shape (n,) with n > 0, got {rewards.shape}.")
        check_size("r", rewards)
        chain = bare_chain(check_chain(P_pi, len(rewards)))
        table = _check_features(Z, len(rewards))
        weights = _check_weights(mu, len(rewards), row_tolerance(mu))
        self = cls.__new__(cls)
        self._fill(
            chain=chain,
            r=rewards,
            mu=weights,
            gamma=check_gamma(gamma),
            feature_rows=FeatureRows(table, None, weights),
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
        return int(self.feature_rows.table.shape[1])

    @cached_property
    def labels(self) -> tuple[str, ...] | None:
        """A name for each row such as ``"s3,a1"``; None for a bare chain."""
        if self.rows is None:
            return None
        A = self.chain.probs.shape[1]
        return tuple(f"s{row // A},a{row % A}" for row in self.rows.tolist())

    @cached_property
    def Z(self) -> Array:
        """The features, (n, d); large ones may be float32 (:class:`Features`)."""
        table, index = self.feature_rows.table, self.feature_rows.index
        return table if index is None else frozen(table[index])

    @cached_property
    def Z_next(self) -> Array:
        r"""Expected next features :math:`Z' = P^\pi Z`, (n, d); zero where everything terminates."""
        return frozen(np.concatenate([block.Z_next for block in self.blocks()]))

    @cached_property
    def P_pi(self) -> Matrix:
        """The chain multiplied out, (n, n), dense or ``csr_array`` as the MDP is; row sums at most one.

        The missing mass terminates. From an MDP it is formed when first asked for.

        Raises:
            InputError: it would be dense with more than 5000 rows.
        """
        if self.rows is not None and isinstance(self.chain.P, np.ndarray):
            check_dense(self.n, "P_pi of a dense MDP is", "Use chain, or an MDP with sparse transitions")
        chain = self.chain.over_rows()
        return frozen(chain) if isinstance(chain, np.ndarray) else chain

    @cached_property
    def dense_P(self) -> Array:
        """``P_pi`` as a dense (n, n) array; for small problems.

        Raises:
            InputError: more than 5000 rows.
        """
        check_dense(self.n, "dense_P is", "Use chain")
        return frozen(to_dense(self.P_pi))

    @cached_property
    def state_features(self) -> Array:
        r"""The features averaged over the policy's actions, :math:`\Pi Z`, (m, d) for m states, float64."""
        source = self.feature_rows
        if self.chain.probs.shape[1] == 1 and source.index is None and source.table.dtype == np.float64:
            return source.table
        return self.average_rows(source.read, self.d)

    @cached_property
    def resolvent(self) -> PairResolvent:
        r"""Solves with :math:`I-\gamma P^\pi`, certified.

        Raises:
            InputError: gamma is 1 and some run never ends.
        """
        return PairResolvent(self.chain, self.gamma)

    def blocks(self) -> Iterator[Block]:
        """Yield the rows in blocks, each with its features and expected next features."""
        ahead, source = self.state_features, self.feature_rows
        for rows in source.slices():
            Z_next = np.asarray(self.chain.P[rows] @ ahead)
            yield Block(rows, source.root(rows), source.read(rows), Z_next)

    def average_rows(self, read: Callable[[slice], Array], width: int) -> Array:
        r"""Return :math:`\Pi X`, (m, width), of a matrix X that is read in blocks, (b, width) for a slice."""
        probs = self.chain.probs
        means = np.empty((len(probs), width))
        for rows in self.feature_rows.slices():
            states = slice(rows.start // probs.shape[1], rows.stop // probs.shape[1])
            means[states] = average(probs[states], read(rows))
        return frozen(means)


def check_chain(P_pi: Any, n: int) -> Matrix:
    """Return ``P_pi`` as a checked (n, n) sub-stochastic matrix, dense or sparse.

    Raises:
        InputError: a wrong shape, NaN, a negative entry, or a row that sums to more than one.

    A row that sums to one up to the rounding of the type it came in is divided by its sum: what float32 lost
    is no chance to end.

    Example:
        >>> check_chain([[0.5]], 1)
        array([[0.5]])
    """
    if n == 0:
        raise InputError("r and P_pi must have at least one row, got none.")
    chain = as_matrix("P_pi", P_pi, _row)
    check_shape("P_pi", chain, (n, n), "(rows, rows)")
    check_non_negative("P_pi", chain, _row)
    sums = row_sums(chain)
    worst = int(np.argmax(sums))
    if sums[worst] > 1.0 + row_tolerance(P_pi):
        raise InputError(f"A row of P_pi must sum to at most 1, got {sums[worst]:.12g} at row {worst}.")
    rough = row_tolerance(P_pi) > ROW_SUM_TOLERANCE["float64"]
    above, below = sums > 1.0 + LEAK, sums < 1.0 - LEAK
    moved = above | (below & (sums >= 1.0 - row_tolerance(P_pi))) if rough else above
    if not moved.any():
        return chain
    by = np.where(moved, sums, 1.0)
    if isinstance(chain, np.ndarray):
        return frozen(chain / by[:, None])
    return sparse.csr_array(sparse.dia_array((1.0 / by[None, :], [0]), shape=(n, n)) @ chain)


def _check_kinds(mdp: Any, policy: Any, features: Any, weights: Any) -> None:
    """Raise unless each of the four is an object of its class."""
    for value, kind in ((mdp, TabularMDP), (policy, Policy), (features, Features), (weights, Weights)):
        if not isinstance(value, kind):
            raise InputError(
                f"Problem(mdp, policy, features, weights) needs a {kind.__name__}, got a "
                f"{type(value).__name__}; wrap an array as {kind.__name__}(array)."
            )


def _cut_features(features: Features, mdp: TabularMDP, rows: Ints, mu: Array) -> FeatureRows:
    """Return the (n, d) features of the given rows."""
    S, A = mdp.r.shape
    Z = features.Z
    if Z.shape[:-1] in ((S, A), (S * A,)):
        index = None if len(rows) == S * A else rows
        return FeatureRows(Z.reshape(S * A, -1), index, mu, A)
    if Z.shape[:-1] == (len(rows),):
        return FeatureRows(Z, None, mu, A)
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
    array = as_features(Z)
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
