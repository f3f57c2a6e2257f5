"""Weights of the data: how much each state-action row counts in a least-squares fit.

The named ones come from a chain: uniform, stationary, discounted visitation, visits an episode.
Each of those that had to be solved for carries a bound on its total error. Terminal states have no
weight: they have no rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from theory.chains import StateChain, state_chain
from theory.checks import EPS, Array, Ints, Matrix, as_array, frozen
from theory.errors import InputError
from theory.graphs import never_ending, reachable, recurrent_classes
from theory.resolvent import Resolvent, Solved

if TYPE_CHECKING:
    from theory.mdp import TabularMDP
    from theory.policy import Policy


@dataclass(frozen=True, init=False, eq=False)
class Weights:
    """Non-negative weights of state-action rows that sum to one.

    Attributes:
        mu: (S, A).
        kind: how they were made: ``custom``, ``uniform``, ``empirical``, ``stationary``,
            ``discounted`` or ``episodic``.
        error_bound: bound on the sum of absolute errors of ``mu``; 0 if nothing was solved.
        solver: what solved for them; ``none`` if nothing was solved.
        iterations: of an iterative solver, else 0.

    Raises:
        InputError: a wrong shape, NaN, a negative weight (the message names state and action), all
            weights zero.

    Example:
        >>> Weights([[1.0, 3.0]]).mu
        array([[0.25, 0.75]])
    """

    mu: Array
    kind: str
    error_bound: float
    solver: str
    iterations: int

    def __init__(
        self,
        mu: Any,
        kind: str = "custom",
        error_bound: float = 0.0,
        solver: str = "none",
        iterations: int = 0,
    ) -> None:
        array = as_array("mu", mu, lambda index: f"state {index[0]}")
        if array.ndim != 2 or 0 in array.shape:
            raise InputError(f"mu must have shape (states, actions), neither zero, got {array.shape}.")
        if array.min() < 0.0:
            state, action = np.argwhere(array < 0.0)[0]
            raise InputError(
                f"mu must not be negative, got {array[state, action]:.6g} at state {state}, action {action}."
            )
        with np.errstate(over="ignore"):
            total = float(array.sum())
        if not 0.0 < total < np.inf:
            raise InputError(f"mu must have a positive finite sum to be normalised, got {total}.")
        fields = (frozen(array / total), kind, error_bound, solver, iterations)
        for name, value in zip(self.__dataclass_fields__, fields, strict=True):
            object.__setattr__(self, name, value)

    @classmethod
    def custom(cls, mu: Any) -> Weights:
        """Return the given (S, A) weights divided by their sum.

        Raises:
            InputError: see the class.

        Example:
            >>> Weights.custom([[2.0], [2.0]]).mu
            array([[0.5],
                   [0.5]])
        """
        return cls(mu)

    @classmethod
    def empirical(cls, counts: Any) -> Weights:
        """Return the (S, A) counts of a data set as frequencies.

        Raises:
            InputError: see the class.

        Example:
            >>> Weights.empirical([[3, 1]]).mu
            array([[0.75, 0.25]])
        """
        return cls(counts, "empirical")

    @classmethod
    def uniform(cls, mdp: TabularMDP) -> Weights:
        """Return the same weight for every row of a live state.

        Example:
            >>> from theory import TabularMDP
            >>> mdp = TabularMDP.from_dense([[[0, 1]], [[0, 1]]], [[1], [0]], 1.0, terminal=[False, True])
            >>> Weights.uniform(mdp).mu
            array([[1.],
                   [0.]])
        """
        live = np.broadcast_to(~mdp.terminal[:, None], mdp.r.shape)
        return cls(live, "uniform")

    @classmethod
    def discounted(cls, mdp: TabularMDP, policy: Policy, *, solver: str = "auto") -> Weights:
        r"""Return the discounted visitation :math:`\mu \propto \sum_t \gamma^t P(s_t, a_t)` from the start.

        Raises:
            InputError: gamma is 1 and the policy does not end, or shapes that do not match.

        Example:
            >>> from theory import Policy, TabularMDP
            >>> mdp = TabularMDP.from_dense([[[0, 1]], [[0, 1]]], [[0], [0]], 0.75, start=[1.0, 0.0])
            >>> Weights.discounted(mdp, Policy.uniform(mdp)).mu
            array([[0.25],
                   [0.75]])
        """
        return _visits(mdp, policy, mdp.gamma, "discounted", solver)

    @classmethod
    def episodic(cls, mdp: TabularMDP, policy: Policy, *, solver: str = "auto") -> Weights:
        """Return the expected visits from the start to the end of an episode, without discount.

        Raises:
            InputError: the policy does not end from some state that it visits.

        Example:
            >>> from theory import Policy, TabularMDP
            >>> mdp = TabularMDP.from_dense([[[0.5, 0.5]], [[0, 1]]], [[0], [0]], 0.9, terminal=[False, True])
            >>> Weights.episodic(mdp, Policy.uniform(mdp)).mu[:, 0]
            array([1., 0.])
        """
        return _visits(mdp, policy, 1.0, "episodic", solver)

    @classmethod
    def stationary(cls, mdp: TabularMDP, policy: Policy, *, solver: str = "auto") -> Weights:
        """Return the stationary distribution of the policy; states that are left for good have weight 0.

        Raises:
            InputError: every run ends (use ``episodic``), or there are several recurrent classes and
                so no one stationary distribution; the message names a state of each.

        Example:
            >>> from theory import Policy, TabularMDP
            >>> mdp = TabularMDP.from_dense([[[0.5, 0.5]], [[1, 0]]], [[0], [0]], 0.9)
            >>> Weights.stationary(mdp, Policy.uniform(mdp)).mu.round(12)[:, 0]
            array([0.66666667, 0.33333333])
        """
        chain = state_chain(mdp, policy)
        classes = recurrent_classes(chain.P, chain.leaves)
        if not classes:
            raise InputError("No stationary distribution: every run ends. Use Weights.episodic.")
        if len(classes) > 1:
            named = ", ".join(f"state {chain.states[members[0]]}" for members in classes[:5])
            raise InputError(
                f"{len(classes)} recurrent classes (with {named}), so the stationary distribution is not "
                "unique. Use Weights.discounted, or Weights.custom with a mixture."
            )
        solved = _cycle(chain.P, classes[0], mdp.num_actions, solver)
        return _spread(mdp, policy, chain.states[classes[0]], solved, "stationary")


def _visits(mdp: TabularMDP, policy: Policy, gamma: float, kind: str, solver: str) -> Weights:
    """Return visitation from the start, over the states that the policy visits."""
    chain = _visited(state_chain(mdp, policy), mdp.start)
    stuck = np.flatnonzero(never_ending(chain.P, chain.leaves))
    if kind == "episodic" and len(stuck):
        raise InputError(
            f"Episodes never end from state {chain.states[stuck[0]]}, so visits are infinite. "
            "Use Weights.discounted or Weights.stationary."
        )
    resolvent = Resolvent(chain.P, gamma, solver, chain.leaves, chain.name(), mdp.num_actions)
    solved = resolvent.solve_transposed(mdp.start[chain.states])
    return _spread(mdp, policy, chain.states, solved, kind)


def _visited(chain: StateChain, start: Array) -> StateChain:
    """Return the part of the chain that is reached from the start."""
    keep = np.flatnonzero(reachable(chain.P, start[chain.states] > 0.0))
    return StateChain(chain.P[keep][:, keep], chain.r[keep], chain.leaves[keep], chain.states[keep])


def _cycle(P: Matrix, members: Ints, operations: int, solver: str) -> Solved:
    """Return the visits to each member between two visits to the first: proportional to stationary.

    A run from the first member that counts as ended when it returns there is episodic, so the
    solve has the certificate of every other one.
    """
    inner = P[members][:, members]
    if len(members) == 1:
        return Solved(np.ones(1), 0.0, "none", 0)
    first = inner[[0]]
    away = (first if isinstance(first, np.ndarray) else first.toarray()).reshape(-1)[1:]
    back = inner[:, [0]]
    leaves = (back if isinstance(back, np.ndarray) else back.toarray()).reshape(-1)[1:] > 0.0
    solved = Resolvent(inner[1:][:, 1:], 1.0, solver, leaves, operations=operations).solve_transposed(away)
    return Solved(np.concatenate([[1.0], solved.x]), solved.error_bound, solved.solver, solved.iterations)


def _spread(mdp: TabularMDP, policy: Policy, states: Ints, solved: Solved, kind: str) -> Weights:
    """Return normalised weights of rows from the visits to states, and the bound after normalising.

    If x misses the visits by at most e in the 1-norm and sums to t, x / t misses the normalised
    visits by at most 2 e / t.
    """
    visits = np.zeros(mdp.num_states)
    visits[states] = np.maximum(solved.x, 0.0)
    total = float(visits.sum())
    rounding = (mdp.r.size + 8) * EPS
    bound = 2.0 * solved.error_bound / total + rounding
    return Weights(visits[:, None] * policy.probs, kind, bound, solved.solver, solved.iterations)
