"""The chain a policy makes of an MDP: over live states, and over live state-action rows.

Transitions into terminal states are removed, so rows may sum to less than one; which rows can end
is kept apart, from the structure rather than from sums of floats. Dense MDPs give dense chains,
sparse ones sparse chains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from theory.checks import EPS, Array, Bools, Ints, Matrix, frozen
from theory.errors import InputError

if TYPE_CHECKING:
    from theory.mdp import TabularMDP
    from theory.policy import Policy


@dataclass(frozen=True)
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
    if policy.probs.shape != mdp.r.shape:
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
        full = (sparse.csr_array(pairs, shape=(S, S * A)) @ mdp.P)[live]
    return StateChain(
        P=full[:, live],
        r=np.asarray((policy.probs * mdp.r).sum(axis=1)[live]),
        leaves=np.asarray(full @ mdp.terminal.astype(np.float64) > 0.0),
        states=live,
    )


def pair_chain(mdp: TabularMDP, policy: Policy, states: Ints) -> tuple[Matrix, Ints]:
    """Return the chain over the rows of ``states``, closed under transitions, and the rows ``s * A + a``.

    Example:
        >>> from theory import Policy, TabularMDP
        >>> mdp = TabularMDP.from_dense([[[1.0], [1.0]]], [[1.0, 0.0]], 0.9)
        >>> pair_chain(mdp, Policy.uniform(mdp), mdp.live_states())[0]
        array([[0.5, 0.5],
               [0.5, 0.5]])
    """
    check_policy(mdp, policy)
    A = mdp.num_actions
    rows = (states[:, None] * A + np.arange(A)).reshape(-1)
    ahead = mdp.rows[rows][:, states]
    if isinstance(ahead, np.ndarray):
        spread = ahead[:, :, None] * policy.probs[states]
        return spread.reshape(len(rows), len(rows)), rows
    m = len(states)
    pairs = (policy.probs[states].reshape(-1), (np.repeat(np.arange(m), A), np.arange(m * A)))
    product = sparse.csr_array(ahead @ sparse.csr_array(pairs, shape=(m, m * A)))
    product.eliminate_zeros()
    return product, rows


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
    # Rows hold at most S entries that are not zero; they sum to one, so the sums are no larger than |v|.
    rounding = (mdp.num_states + 4) * EPS * size
    return frozen(q), mdp.gamma * error * (1.0 + 8.0 * EPS) + rounding
