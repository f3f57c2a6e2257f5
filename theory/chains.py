"""The chain a policy makes of an MDP: over live states, and over live state-action rows.

Transitions into terminal states are removed, so rows may sum to less than one; which rows can end
is kept apart, from the structure rather than from sums of floats. Dense MDPs give dense chains,
sparse ones sparse chains. The chain over rows is kept as a product (:class:`PairChain`): multiplied out it
has as many times the entries as there are actions, and is n by n where the MDP is dense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from theory.checks import EPS, Array, Bools, Ints, Matrix, frozen, row_sums, to_dense
from theory.errors import InputError
from theory.graphs import never_ending

if TYPE_CHECKING:
    from theory.mdp import TabularMDP
    from theory.policy import Policy

LEAK = 1e-12  # a bare row sum this much below one is a real chance to end, not rounding


@dataclass(frozen=True, eq=False)
class StateChain:
    """The live states under a policy.

    Attributes:
        P: (m, m), transitions between live states.
        r: (m,), expected reward.
        leaves: (m,), True where the next state may be terminal.
        states: (m,), their numbers in the MDP.
    """

    P: Matrix
    r: Array
    leaves: Bools
    states: Ints

    def name(self) -> Callable[[int], str]:
        """Return a function that turns a row into words."""
        return lambda row: f"state {self.states[row]}"


def check_policy(mdp: TabularMDP, policy: Policy) -> None:
    """Raise unless the policy has the states and actions of the MDP.

    Raises:
        InputError: another shape.

    Example:
        >>> from theory import Policy, TabularMDP
        >>> mdp = TabularMDP.from_dense([[[1.0]]], [[1.0]], 0.9)
        >>> check_policy(mdp, Policy.uniform(mdp))
    """
    probs = getattr(policy, "probs", None)
    if probs is None:
        raise InputError(f"policy must be a Policy, got a {type(policy).__name__}; use Policy(array).")
    if probs.shape != mdp.r.shape:
        raise InputError(
            f"The policy is for {policy.probs.shape[0]} states and {policy.probs.shape[1]} actions, "
            f"the MDP has {mdp.num_states} and {mdp.num_actions}."
        )


def state_chain(mdp: TabularMDP, policy: Policy) -> StateChain:
    """Return the chain over all live states.

    Example:
        >>> from theory import Policy, TabularMDP
        >>> mdp = TabularMDP.from_dense([[[0, 1]], [[0, 1]]], [[1], [0]], 1.0, terminal=[False, True])
        >>> chain = state_chain(mdp, Policy.uniform(mdp))
        >>> chain.P, chain.leaves
        (array([[0.]]), array([ True]))
    """
    check_policy(mdp, policy)
    live = mdp.live_states()
    if isinstance(mdp.P, np.ndarray):
        full: Matrix = np.einsum("sa,sat->st", policy.probs[live], mdp.P[live])
    else:
        S, A = mdp.r.shape
        pairs = (policy.probs.reshape(-1), (np.repeat(np.arange(S), A), np.arange(S * A)))
        full = sparse.csr_array(sparse.csr_array(pairs, shape=(S, S * A)) @ mdp.P)
        full = _narrow(full if len(live) == S else full[live])
    return StateChain(
        P=full if len(live) == mdp.num_states else full[:, live],
        r=np.asarray((policy.probs * mdp.r).sum(axis=1)[live]),
        leaves=np.asarray(full @ mdp.terminal.astype(np.float64) > 0.0),
        states=live,
    )


@dataclass(frozen=True, eq=False)
class PairChain:
    r"""The chain over state-action rows as the product :math:`P\Pi`, never multiplied out.

    It multiplies vectors and matrices from the left, ``chain @ x``, as its transpose does, ``chain.T @ x``.
    A bare chain is one with a single action in every state.

    Attributes:
        P: (n, m), from rows to states; rows of state ``s`` are ``s * A + a``. Row sums at most one.
        probs: (m, A), the policy.
        leaves: (n,), True where the run may end.
        names: (m,), the numbers of the states; None for a bare chain.

    Example:
        >>> chain = PairChain(np.array([[0.0, 1.0], [0.5, 0.0]]), np.ones((2, 1)), np.array([False, True]))
        >>> chain @ np.array([3.0, 4.0]), chain.T @ np.array([1.0, 0.0])
        (array([4. , 1.5]), array([0., 1.]))
    """

    P: Matrix
    probs: Array
    leaves: Bools
    names: Ints | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (n, n) of the product."""
        return self.P.shape[0], self.P.shape[0]

    @property
    def T(self) -> _Transposed:
        """The transpose."""
        return _Transposed(self)

    @property
    def state_leaves(self) -> Bools:
        """(m,), True where the run may end under the policy."""
        return np.asarray((self.leaves.reshape(self.probs.shape) & (self.probs > 0.0)).any(axis=1))

    def __matmul__(self, x: Array) -> Array:
        return np.asarray(self.P @ self.average(x))

    def average(self, x: Array) -> Array:
        r"""Return :math:`\Pi x`, (m,) or (m, k), for (n,) or (n, k)."""
        return average(self.probs, x)

    def spread(self, v: Array) -> Array:
        r"""Return :math:`\Pi^\top v`, (n,) or (n, k), for (m,) or (m, k)."""
        if self.probs.shape[1] == 1:
            return v
        if v.ndim == 1:
            return np.asarray((self.probs * v[:, None]).reshape(-1))
        return np.asarray((self.probs[:, :, None] * v[:, None, :]).reshape(-1, v.shape[1]))

    def over_states(self) -> Matrix:
        r"""Return :math:`\Pi P`, (m, m), dense or sparse as ``P`` is."""
        m, A = self.probs.shape
        if A == 1:
            return self.P
        if isinstance(self.P, np.ndarray):
            return np.einsum("sa,sat->st", self.probs, self.P.reshape(m, A, m))
        return _narrow(sparse.csr_array(self._policy_matrix() @ self.P))

    def over_rows(self) -> Matrix:
        r"""Return :math:`P\Pi` multiplied out, (n, n), dense or sparse as ``P`` is."""
        if self.probs.shape[1] == 1:
            return self.P
        if isinstance(self.P, np.ndarray):
            return (self.P[:, :, None] * self.probs).reshape(self.shape)
        product = sparse.csr_array(self.P @ self._policy_matrix())
        product.eliminate_zeros()
        return product

    def among(self, rows: Ints) -> Array:
        """Return the (k, k) chain between the given rows, dense.

        Example:
            >>> bare_chain(np.array([[0.0, 1.0], [0.5, 0.5]])).among(np.array([1]))
            array([[0.5]])
        """
        states, actions = np.divmod(rows, self.probs.shape[1])
        return to_dense(self.P[rows][:, states]) * self.probs[states, actions]

    def never_ending(self) -> Bools:
        """Return the (n,) rows from which no end can be reached."""
        ending = ~never_ending(self.over_states(), self.state_leaves)
        return np.asarray(~(self.leaves | (self.P @ ending.astype(np.float64) > 0.0)))

    def name(self, state: int) -> str:
        """Return a state in words."""
        return f"row {state}" if self.names is None else f"state {self.names[state]}"

    def _policy_matrix(self) -> sparse.csr_array:
        m, A = self.probs.shape
        columns, starts = np.arange(m * A), np.arange(0, m * A + 1, A)
        return sparse.csr_array((self.probs.reshape(-1), columns, starts), shape=(m, m * A))


@dataclass(frozen=True, eq=False)
class _Transposed:
    chain: PairChain

    def __matmul__(self, x: Array) -> Array:
        return self.chain.spread(np.asarray(self.chain.P.T @ x))


def average(probs: Array, x: Array) -> Array:
    """Return the (m,) or (m, k) means over the actions of (m * A,) or (m * A, k) under (m, A) probabilities.

    Example:
        >>> average(np.array([[0.5, 0.5]]), np.array([1.0, 3.0]))
        array([2.])
    """
    if probs.shape[1] == 1:
        return x
    if x.ndim == 1:
        return np.asarray((probs * x.reshape(probs.shape)).sum(axis=1))
    total = probs[:, :1] * x[:: probs.shape[1]]
    for action in range(1, probs.shape[1]):
        total += probs[:, action, None] * x[action :: probs.shape[1]]
    return np.asarray(total)


def bare_chain(P: Matrix) -> PairChain:
    """Return a chain without actions as a :class:`PairChain`; a row that sums to less than one may end.

    Example:
        >>> bare_chain(np.array([[0.5]])).leaves
        array([ True])
    """
    return PairChain(P, np.ones((P.shape[0], 1)), row_sums(P) < 1.0 - LEAK)


def pair_product(mdp: TabularMDP, policy: Policy, states: Ints) -> tuple[PairChain, Ints]:
    """Return the chain over the rows of ``states``, closed under transitions, and the rows ``s * A + a``.

    Example:
        >>> from theory import Policy, TabularMDP
        >>> mdp = TabularMDP.from_dense([[[1.0], [1.0]]], [[1.0, 0.0]], 0.9)
        >>> chain, rows = pair_product(mdp, Policy.uniform(mdp), mdp.live_states())
        >>> chain @ np.array([1.0, 3.0]), rows
        (array([2., 2.]), array([0, 1]))
    """
    check_policy(mdp, policy)
    rows = (states[:, None] * mdp.num_actions + np.arange(mdp.num_actions)).reshape(-1)
    if len(states) == mdp.num_states:  # nothing to cut, nothing to copy
        return PairChain(_narrow(mdp.rows), policy.probs, np.zeros(len(rows), dtype=bool), states), rows
    ahead = mdp.rows[rows]
    leaves = np.asarray(ahead @ mdp.terminal.astype(np.float64) > 0.0)
    return PairChain(_narrow(ahead[:, states]), policy.probs[states], leaves, states), rows


def pair_chain(mdp: TabularMDP, policy: Policy, states: Ints) -> tuple[Matrix, Ints]:
    """Return the same multiplied out, (n, n), and the rows; :func:`pair_product` spares the memory.

    Example:
        >>> from theory import Policy, TabularMDP
        >>> mdp = TabularMDP.from_dense([[[1.0], [1.0]]], [[1.0, 0.0]], 0.9)
        >>> pair_chain(mdp, Policy.uniform(mdp), mdp.live_states())[0]
        array([[0.5, 0.5],
               [0.5, 0.5]])
    """
    chain, rows = pair_product(mdp, policy, states)
    return chain.over_rows(), rows


def _narrow(P: Matrix) -> Matrix:
    """Return a sparse matrix with indices of 32 bits if they suffice: a quarter less to read in a product."""
    if isinstance(P, np.ndarray) or max(P.nnz, *P.shape) > np.iinfo(np.int32).max:
        return P
    parts = (P.data, P.indices.astype(np.int32), P.indptr.astype(np.int32))
    return sparse.csr_array(parts, shape=P.shape)


def longest_row(P: Matrix) -> int:
    """Return the largest number of entries in a row that are not zero, at most.

    Example:
        >>> longest_row(np.array([[0.0, 1.0], [0.0, 0.0]]))
        1
    """
    if isinstance(P, np.ndarray):
        return int(np.count_nonzero(P, axis=1).max())
    if P.format == "csr":
        return int(np.diff(P.indptr).max())
    return int(np.bincount(P.indices, minlength=1).max())


def lookahead(mdp: TabularMDP, v: Array, error: float = 0.0) -> tuple[Array, float]:
    r"""Return :math:`r + \gamma P v`, (S, A), and its error if ``v`` is off by at most ``error``.

    Rounding is added to the error. Terminal states keep 0.

    Example:
        >>> from theory import TabularMDP
        >>> mdp = TabularMDP.from_dense([[[1.0]]], [[1.0]], 0.5)
        >>> lookahead(mdp, np.array([2.0]))[0]
        array([[2.]])
    """
    ahead = np.asarray(mdp.rows @ v, dtype=np.float64).reshape(mdp.r.shape)
    q = np.where(mdp.terminal[:, None], 0.0, mdp.r + mdp.gamma * ahead)
    size = float(np.abs(mdp.r).max() + np.abs(v).max())
    # So many terms are added up; rows sum to one, so the sums are no larger than |v|.
    terms = mdp.num_states if isinstance(mdp.rows, np.ndarray) else longest_row(mdp.rows)
    rounding = (terms + 4) * EPS * size
    return frozen(q), mdp.gamma * error * (1.0 + 8.0 * EPS) + rounding
