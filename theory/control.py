r"""What acting greedily on wrong action values costs, and when it costs nothing.

For :math:`\pi(s)\in\arg\max_a\hat Q(s,a)` the loss is the regret at each step, carried on by the policy's own
resolvent :math:`G_\pi=(I-\gamma P_\pi)^{-1}` over states:

.. math:: V^*-V^\pi = G_\pi\,\rho,\qquad \rho(s)=V^*(s)-Q^*(s,\pi(s))
          \le \mathrm{span}_a(\hat Q-Q^*)(s) \le 2\|\hat Q-Q^*\|_\infty .

So the loss is at most :math:`2H_\pi\|\hat Q-Q^*\|_\infty`, with
:math:`H_\pi=\|G_\pi\|_\infty\le1/(1-\gamma)` (Singh and Yee 1994 have the latter). In episodic tasks
:math:`H_\pi` is the longest expected run *of the greedy policy*, not of an optimal one; at gamma = 1 a greedy
policy may run for ever, and then no error of :math:`\hat Q`, not even zero, bounds its loss. Greedy is
optimal where the span is below the action gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from theory.chains import StateChain, state_chain
from theory.checks import EPS, Array, Bools, as_array, check_shape
from theory.graphs import never_ending
from theory.mdp import TabularMDP
from theory.optimality import Optimal, optimal
from theory.policy import Policy
from theory.report import Condition, Report, Verdict
from theory.resolvent import Resolvent
from theory.truth import certified_v


@dataclass(frozen=True, eq=False)
class ActionGap:
    r"""How much better the optimal actions of each state are than all others.

    Attributes:
        gap: (S,), :math:`V^*` minus the best :math:`Q^*` of an action that is not optimal; infinite where
            every action is, and at terminal states; 0 if the optimum could not be certified.
        optimal: (S, A), the actions within the certified error of the best; several in case of a tie.
        smallest: the least gap of all states.
        ties: how many live states have several optimal actions.
    """

    gap: Array
    optimal: Bools
    smallest: float
    ties: int


@dataclass(frozen=True, eq=False)
class Cost:
    r"""What a greedy policy loses, and the bounds on it.

    Attributes:
        loss: (S,), :math:`V^*-V^\pi`.
        H: :math:`\|G_\pi\|_\infty`.
        pointwise: (S,), :math:`G_\pi\,\mathrm{span}`.
        bound: :math:`2H_\pi\|\hat Q-Q^*\|_\infty`.
        published: :math:`2\|\hat Q-Q^*\|_\infty/(1-\gamma)`; ``None`` at gamma = 1.
        identity_residual: largest absolute entry of :math:`V^*-V^\pi-G_\pi\rho`.
        tolerance: what rounding and the solvers' certified errors can account for there.
        slack: what they can account for in the comparison of loss and bounds.
    """

    loss: Array
    H: float
    pointwise: Array
    bound: float
    published: float | None
    identity_residual: float
    tolerance: float
    slack: float


@dataclass(frozen=True, eq=False)
class GreedyLoss:
    r"""A greedy policy, how wrong its choices are, and what they cost.

    Attributes:
        policy: greedy in the given values, the first action on ties.
        regret: (S,), :math:`\rho`, 0 at terminal states.
        span: (S,), largest minus smallest :math:`\hat Q-Q^*` over the actions of a state; it does not see
            what is added to all actions of a state alike.
        error: :math:`\|\hat Q-Q^*\|_\infty` over live states.
        gap: of the optimal values.
        safe: (S,), whether the span is below the gap, so that the greedy action must be optimal.
        never_ending: at gamma = 1, how many live states the policy never ends from.
        cost: the loss with its bounds; ``None`` if the policy has no values because it never ends.
    """

    policy: Policy
    regret: Array
    span: Array
    error: float
    gap: ActionGap
    safe: Bools
    never_ending: int
    cost: Cost | None


def action_gap(mdp: TabularMDP, *, best: Optimal | None = None) -> ActionGap:
    """Return the action gap of every state and of the MDP.

    Args:
        mdp: the process.
        best: its optimal values, if they are known already.

    Raises:
        InputError: optimal values do not exist (see :func:`theory.optimal`).

    Example:
        >>> gap = action_gap(TabularMDP.from_dense([[[1.0]] * 3], [[1.0, 0.75, 1.0]], 0.5))
        >>> gap.smallest, gap.optimal.tolist(), gap.ties
        (0.25, [[True, False, True]], 1)
    """
    best = optimal(mdp) if best is None else best
    behind = best.q.max(axis=1)[:, None] - best.q
    is_best = (behind <= 2.0 * best.error_bound) | mdp.terminal[:, None]
    gap = np.where(is_best, np.inf, behind).min(axis=1)
    if not np.isfinite(best.error_bound):
        gap = np.where(mdp.terminal, np.inf, 0.0)
    ties = (is_best.sum(axis=1) > 1) & ~mdp.terminal
    return ActionGap(gap, is_best, float(gap.min()), int(ties.sum()))


def greedy_loss(mdp: TabularMDP, q_hat: Any) -> GreedyLoss:
    """Return the loss of acting greedily on given action values, with every bound that applies.

    Args:
        mdp: S states, A actions.
        q_hat: (S, A), any values; those of terminal states are not used.

    Raises:
        InputError: a wrong shape, NaN, or optimal values do not exist.

    Example:
        >>> mdp = TabularMDP.from_dense([[[1.0], [1.0]]], [[0.0, 1.0]], 0.75)  # action 1 pays 1 for ever
        >>> found = greedy_loss(mdp, [[3.5, 3.5]])  # both half a gap wrong, and the tie broken wrongly
        >>> found.error, found.cost.loss.round(9).tolist(), round(found.cost.bound, 9)
        (0.5, [4.0], 4.0)
    """
    return _measure(mdp, q_hat, optimal(mdp))


def _measure(mdp: TabularMDP, q_hat: Any, best: Optimal) -> GreedyLoss:
    values = as_array("q_hat", q_hat, lambda index: f"state {index[0]}")
    check_shape("q_hat", values, mdp.r.shape, "(states, actions)")
    policy, gap = Policy.greedy(values), action_gap(mdp, best=best)
    away = np.where(mdp.terminal[:, None], 0.0, values - best.q)
    span, error = np.ptp(away, axis=1), float(abs(away).max())
    taken = policy.probs.argmax(axis=1)
    regret = np.where(mdp.terminal, 0.0, best.v - best.q[np.arange(len(taken)), taken])
    chain = state_chain(mdp, policy)
    stuck = int(never_ending(chain.P, chain.leaves).sum()) if mdp.gamma == 1.0 else 0
    cost = None if stuck else _cost(mdp, policy, chain, best, regret, span, error)
    return GreedyLoss(policy, regret, span, error, gap, span < gap.gap, stuck, cost)


def _cost(
    mdp: TabularMDP,
    policy: Policy,
    chain: StateChain,
    best: Optimal,
    regret: Array,
    span: Array,
    error: float,
) -> Cost:
    truth = certified_v(mdp, policy)
    resolvent = Resolvent(chain.P, mdp.gamma, leaves=chain.leaves, name=chain.name())
    carried, spread = resolvent.solve(regret[chain.states]), resolvent.solve(span[chain.states])
    loss, pointwise = best.v - truth.value, np.zeros(mdp.num_states)
    pointwise[chain.states] = spread.x
    # The identity holds for any v and q = r + gamma P v; only the rounding of q is left.
    size = float(abs(mdp.r).max() + 2.0 * abs(best.v).max())
    rounding = truth.H * (mdp.num_states + 8) * EPS * size
    tolerance = truth.error_bound + carried.error_bound + rounding
    return Cost(
        loss=loss,
        H=truth.H,
        pointwise=pointwise,
        bound=2.0 * truth.H * error,
        published=2.0 * error / (1.0 - mdp.gamma) if mdp.gamma < 1.0 else None,
        identity_residual=float(abs(loss[chain.states] - carried.x).max()),
        tolerance=tolerance,
        slack=tolerance + spread.error_bound + (4.0 * truth.H + 2.0) * best.error_bound,
    )


def check_greedy(mdp: TabularMDP, q_hat: Any) -> Report:
    """Check the loss of a greedy policy against its bounds, and whether the action gap vouches for it.

    The verdict is "fail" if the loss is not the regret carried on, exceeds its bound, or is not zero although
    errors are below the gap: all three are theorems. It is "inconclusive" if the greedy policy never ends at
    gamma = 1, or optimal values could not be certified. That errors exceed the gap is no failure.

    Raises:
        InputError: see :func:`greedy_loss`.

    Example:
        >>> mdp = TabularMDP.from_dense([[[1.0], [1.0]]], [[0.0, 1.0]], 0.75)
        >>> report = check_greedy(mdp, [[3.4, 3.6]])
        >>> report.verdict, report.condition("errors are below the action gap").holds
        ('pass', True)
    """
    best = optimal(mdp)
    found = _measure(mdp, q_hat, best)
    certified, below = _certified(best), _below_gap(found)
    conditions = [certified, _ends(found), below]
    verdict: Verdict = "inconclusive"
    if found.cost is not None and certified.holds:
        identity, within, zero = _identity(found.cost), _within(found.cost), _is_optimal(found.cost)
        conditions += [identity, within, zero]
        verdict = "pass" if identity.holds and within.holds and (zero.holds or not below.holds) else "fail"
    return Report(
        theorem="loss of the greedy policy",
        verdict=verdict,
        residual=None if found.cost is None else found.cost.identity_residual,
        tolerance=None if found.cost is None else found.cost.tolerance,
        conditions=tuple(conditions),
        data=_numbers(found),
    )


def _certified(best: Optimal) -> Condition:
    why = "otherwise errors and gaps are not known"
    holds = bool(np.isfinite(best.error_bound))
    return Condition("optimal values are certified", holds, best.error_bound, why=why)


def _ends(found: GreedyLoss) -> Condition:
    stuck = float(found.never_ending)
    why = "states from which it never ends at gamma = 1; its loss then has no bound, however good the values"
    return Condition.at_most("greedy policy has values", stuck, 0.0, why)


def _below_gap(found: GreedyLoss) -> Condition:
    twice, gap = 2.0 * found.error, found.gap.smallest
    why = "twice the error: then no action that is not optimal can look best"
    return Condition("errors are below the action gap", twice < gap, twice, gap, gap - twice, why)


def _identity(cost: Cost) -> Condition:
    why = "an equality; else the transitions, the policy or the ends do not fit together"
    return Condition.at_most("loss is the regret carried on", cost.identity_residual, cost.tolerance, why)


def _within(cost: Cost) -> Condition:
    why = "2 H max |Q_hat - Q*|, H the longest expected discounted run of the greedy policy"
    return Condition.at_most("loss is within its bound", float(cost.loss.max()), cost.bound + cost.slack, why)


def _is_optimal(cost: Cost) -> Condition:
    why = "up to rounding; follows from errors below the gap, and may hold without"
    return Condition.at_most("greedy policy is optimal", float(cost.loss.max()), cost.slack, why)


def _numbers(found: GreedyLoss) -> dict[str, Any]:
    numbers = {
        "error": found.error,
        "smallest action gap": found.gap.smallest,
        "states with ties": found.gap.ties,
        "states where the gap does not vouch": int(np.sum(~found.safe)),
    }
    if found.cost is None:
        return numbers
    return numbers | {
        "loss": float(found.cost.loss.max()),
        "bound by spans": float(found.cost.pointwise.max()),
        "bound": found.cost.bound,
        "published bound": found.cost.published,
        "H of the greedy policy": found.cost.H,
    }
