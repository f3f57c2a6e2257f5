r"""True values, solved for and certified: of a policy, of a bare chain, and visitation.

Everything is solved at state level, :math:`V = (I - \gamma \Pi P)^{-1} \Pi r` and
:math:`Q = r + \gamma P V`, never with the (S*A)-square matrix. Error bounds hold with respect to
the float64 numbers stored in the MDP and the policy, and include the rounding of the check itself.
Optimal values are in ``theory/optimality.py`` and re-exported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from theory.chains import lookahead, state_chain
from theory.checks import EPS, Array, as_array, check_gamma, check_shape, frozen
from theory.errors import InputError
from theory.optimality import Optimal, optimal
from theory.problem import check_chain
from theory.resolvent import Resolvent
from theory.weights import Weights

if TYPE_CHECKING:
    from theory.mdp import TabularMDP
    from theory.policy import Policy

__all__ = ["Certified", "Optimal", "certified_q", "certified_v", "chain_value", "optimal", "visitation"]


@dataclass(frozen=True, eq=False)
class Certified:
    """A value with a proved bound on its error.

    Attributes:
        value: (S, A) for :func:`certified_q`, (S,) for :func:`certified_v`, (n,) for a chain.
        error_bound: no entry of ``value`` is further than this from the truth.
        solver: ``dense``, ``sparse``, ``bicgstab``, ``gmres`` or ``neumann``.
        iterations: of an iterative solver; 0 for a factorisation.
        H: upper bound on the largest row sum of the state-level resolvent.
    """

    value: Array
    error_bound: float
    solver: str
    iterations: int
    H: float


def certified_v(mdp: TabularMDP, policy: Policy, *, solver: str = "auto") -> Certified:
    r"""Return :math:`V^\pi`, (S,), 0 at terminal states.

    Raises:
        InputError: gamma is 1 and the policy never ends from some state, which the message names.

    Example:
        >>> from theory import Policy, TabularMDP
        >>> mdp = TabularMDP.from_dense([[[1.0]]], [[1.0]], 0.75)
        >>> certified_v(mdp, Policy.uniform(mdp)).value
        array([4.])
    """
    chain = state_chain(mdp, policy)
    name, A = chain.name(), mdp.num_actions
    resolvent = Resolvent(chain.P, mdp.gamma, solver, chain.leaves, name, operations=A)
    solved = resolvent.solve(chain.r)
    # chain.r was summed over actions in floating point: its own rounding is not relative to |chain.r|.
    rounding = A * EPS * float((policy.probs * np.abs(mdp.r)).sum(axis=1).max())
    value = np.zeros(mdp.num_states)
    value[chain.states] = solved.x
    bound = solved.error_bound + resolvent.H * rounding
    return Certified(frozen(value), bound, solved.solver, solved.iterations, resolvent.H)


def certified_q(mdp: TabularMDP, policy: Policy, *, solver: str = "auto") -> Certified:
    r"""Return :math:`Q^\pi = r + \gamma P V^\pi`, (S, A), 0 at terminal states.

    Args:
        mdp: the process.
        policy: (S, A) probabilities.
        solver: ``auto``, ``dense``, ``sparse`` or ``iterative``.

    Raises:
        InputError: gamma is 1 and the policy never ends from some state, which the message names.

    Example:
        >>> from theory import Policy, TabularMDP
        >>> mdp = TabularMDP.from_dense([[[1.0], [1.0]]], [[1.0, 0.0]], 0.5)
        >>> certified_q(mdp, Policy.from_actions([0], 2)).value
        array([[2., 1.]])
    """
    state = certified_v(mdp, policy, solver=solver)
    q, error = lookahead(mdp, state.value, state.error_bound)
    return Certified(q, error, state.solver, state.iterations, state.H)


def chain_value(P_pi: Any, r: Any, gamma: float, *, solver: str = "auto") -> Certified:
    r"""Return :math:`(I - \gamma P^\pi)^{-1} r`, (n,), for a bare chain.

    Args:
        P_pi: (n, n) dense or sparse, row sums at most one; what is missing terminates.
        r: (n,) expected rewards.
        gamma: discount in [0, 1].
        solver: ``auto``, ``dense``, ``sparse`` or ``iterative``.

    Raises:
        InputError: a wrong shape or entry, or gamma is 1 and the run never ends from some row.

    Example:
        >>> chain_value([[0.0, 1.0], [0.0, 0.0]], [1.0, 2.0], 1.0).value
        array([3., 2.])
    """
    rewards = as_array("r", r)
    check_shape("r", rewards, (rewards.size,), "(rows,)")
    resolvent = Resolvent(check_chain(P_pi, rewards.size), check_gamma(gamma), solver)
    solved = resolvent.solve(rewards)
    return Certified(frozen(solved.x), solved.error_bound, solved.solver, solved.iterations, resolvent.H)


def visitation(mdp: TabularMDP, policy: Policy, kind: str, *, solver: str = "auto") -> Weights:
    """Return where the policy spends its time, (S, A) weights with solver and error bound.

    Args:
        mdp: the process.
        policy: (S, A) probabilities.
        kind: ``discounted``, ``episodic`` or ``stationary``; see :class:`theory.Weights`.
        solver: ``auto``, ``dense``, ``sparse`` or ``iterative``.

    Raises:
        InputError: an unknown kind, or one that does not exist for this policy.

    Example:
        >>> from theory import Policy, TabularMDP
        >>> mdp = TabularMDP.from_dense([[[0, 1]], [[0, 1]]], [[0], [0]], 0.75)
        >>> visitation(mdp, Policy.uniform(mdp), "stationary").mu[:, 0]
        array([0., 1.])
    """
    kinds = {"discounted": Weights.discounted, "episodic": Weights.episodic, "stationary": Weights.stationary}
    if not isinstance(kind, str) or kind not in kinds:
        raise InputError(f"kind must be one of {', '.join(kinds)}; got {kind!r}.")
    return kinds[kind](mdp, policy, solver=solver)
