r"""Theorem 3: when may a value function be computed from labels of states and pairs alone?

Labels stand for embeddings: :math:`z_s=f(s)` and :math:`z_{sa}=g(z_s,a)`. If pairs with one label pay the
same expected reward and lead to the same distribution over state labels, then (i) the value
:math:`Q^\pi` of every policy that looks at state labels only is a function of the pair label, (ii) so
is :math:`Q^*`, and (iii) some optimal policy looks at state labels only. Not every optimal policy
does: ties may be broken by what the label hides. The conditions are sufficient, not necessary.

With a tolerance the same conclusions hold approximately: values of the class means as a model are off
by at most :math:`B=H(\epsilon+\gamma\epsilon\,\mathrm{span}(\hat V)/2)`, so values in a class differ by 2B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from theory.aggregate import aggregate_model
from theory.chains import check_policy, pair_chain
from theory.checks import Array, Ints
from theory.errors import InputError
from theory.labels import EPS, class_codes, class_means, live_rows, pushforward, spread
from theory.mdp import TabularMDP
from theory.policy import Policy
from theory.problem import Problem
from theory.report import Condition, Report
from theory.truth import Optimal, certified_q, certified_v, optimal


@dataclass(frozen=True)
class _Labelled:
    """An MDP, the classes of its L live states and L * A live pairs, and what counts as equal."""

    mdp: TabularMDP
    states: Ints
    pairs: Ints
    tol: float

    @property
    def noise(self) -> float:
        """Rounding of a sum over successors, relative to the numbers summed."""
        return 64 * self.mdp.num_states * EPS

    @property
    def reward_scale(self) -> float:
        return float(abs(self.mdp.r).max())

    def live(self, values: Array) -> Array:
        """Return the live rows of (S, A) values, (L * A,)."""
        return values.reshape(-1)[live_rows(self.mdp)]


def check_abstraction(
    mdp: TabularMDP, state_labels: Any, pair_labels: Any, policy: Policy | None = None, *, tol: float = 0.0
) -> Report:
    """Check the conditions of theorem 3 for given labels, and its conclusions on this MDP.

    The verdict is "fail" if a condition or a conclusion fails, and "inconclusive" if none fails but
    one is open (an approximate optimal value at gamma = 1). Conclusions may hold where conditions
    fail: the theorem is sufficient, and the report lists each on its own.

    Args:
        mdp: S states, A actions. Terminal states are a class of their own, whatever their labels.
        state_labels: (S,), equal labels for states taken for the same.
        pair_labels: (S, A), a function of the state label and the action.
        policy: a policy to check conclusion (i) for; without it only optimality is checked.
        tol: how far a reward may be from its class mean, and a distribution in the 1-norm.

    Raises:
        InputError: a wrong shape, a negative ``tol``, or gamma is 1 and the policy may never end.

    Example:
        >>> P = [[[0.0, 0.3, 0.7]], [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]
        >>> mdp = TabularMDP.from_dense(P, [[0.0], [1.0], [1.0]], 0.9)
        >>> check_abstraction(mdp, [0, 1, 1], [[0], [1], [1]]).verdict
        'pass'
        >>> report = check_abstraction(mdp, [0, 0, 1], [[0], [0], [1]])
        >>> [condition.name for condition in report.conditions if not condition.holds][:2]
        ['equal rewards', 'equal transitions']
    """
    if not tol >= 0.0:
        raise InputError(f"tol must not be negative, got {tol}.")
    live = mdp.live_states()
    states = class_codes("state_labels", state_labels, (mdp.num_states,), "(states,)")[live]
    pairs = class_codes("pair_labels", pair_labels, mdp.r.shape, "(states, actions)")[live].reshape(-1)
    labelled = _Labelled(mdp, _codes(states), _codes(pairs), tol)
    rewards, transitions = _equal_rewards(labelled), _equal_transitions(labelled)
    best = optimal(mdp)
    conditions = [_function_of_labels(labelled), rewards, transitions]
    data: dict[str, Any] = {"state_classes": int(labelled.states.max()) + 1}
    data["pair_classes"] = int(labelled.pairs.max()) + 1
    if policy is not None:
        check_policy(mdp, policy)
        about, numbers = _about_policy(labelled, policy, best)
        conditions += about
        data |= numbers
    conditions += _about_optimality(labelled, best)
    data |= _ties(labelled, best)
    verdict = [condition.holds for condition in conditions]
    return Report(
        theorem="theorem 3 (abstraction)",
        verdict="fail" if False in verdict else "inconclusive" if None in verdict else "pass",
        residual=max(rewards.value or 0.0, transitions.value or 0.0),
        tolerance=max(rewards.threshold or 0.0, transitions.threshold or 0.0),
        conditions=tuple(conditions),
        data=data,
    )


def _function_of_labels(labelled: _Labelled) -> Condition:
    """Check that state label and action determine the pair label."""
    actions = labelled.mdp.num_actions
    seen = np.repeat(labelled.states, actions) * actions + np.tile(np.arange(actions), len(labelled.states))
    both = len(np.unique(np.column_stack([seen, labelled.pairs]), axis=0))
    extra = float(both - len(np.unique(seen)))
    why = "an encoder of pairs sees the state only through its label"
    return _at_most("pair label is a function of state label and action", extra, 0.0, why)


def _equal_rewards(labelled: _Labelled) -> Condition:
    rewards = labelled.live(labelled.mdp.r)
    away = abs(rewards - class_means(rewards[:, None], labelled.pairs)[labelled.pairs, 0])
    threshold = labelled.tol + labelled.noise * labelled.reward_scale
    why = f"a class has one reward; furthest from its class mean: {_worst(labelled, away)}"
    return _at_most("equal rewards", float(away.max()), threshold, why)


def _equal_transitions(labelled: _Labelled) -> Condition:
    ahead = pushforward(labelled.mdp, labelled.states)
    ahead = np.column_stack([ahead, 1.0 - ahead.sum(axis=1)])
    away = abs(ahead - class_means(ahead, labelled.pairs)[labelled.pairs]).sum(axis=1)
    why = (
        "equal distributions over state labels, not only equal mean embeddings (C05); "
        f"furthest from its class mean: {_worst(labelled, away)}"
    )
    return _at_most("equal transitions", float(away.max()), labelled.tol + labelled.noise, why)


def _measurable(labelled: _Labelled, policy: Policy) -> Condition:
    probs = policy.probs[labelled.mdp.live_states()]
    away = abs(probs - class_means(probs, labelled.states)[labelled.states])
    why = "an actor sees the state only through its label; an optimal one may not be so (C03)"
    return _at_most("policy is a function of the state label", float(away.max()), labelled.noise, why)


def _about_policy(
    labelled: _Labelled, policy: Policy, best: Optimal
) -> tuple[list[Condition], dict[str, Any]]:
    """Conclusion (i), how good the merged model is for the policy, and how far from optimal that is."""
    mdp = labelled.mdp
    q = certified_q(mdp, policy)
    chain, rows = pair_chain(mdp, policy, mdp.live_states())
    ones = np.ones(len(rows))
    problem = Problem.from_chain(chain, mdp.r.reshape(-1)[rows], ones, ones / len(rows), mdp.gamma)
    merged = aggregate_model(problem, labelled.pairs)
    allowed = _allowed(labelled, _horizon(mdp, policy), merged.q_hat, q.error_bound)
    found = spread(labelled.live(q.value), labelled.pairs)
    conclusion = _at_most("Q of the policy is a function of the pair label", found, allowed, "conclusion (i)")
    return [_measurable(labelled, policy), conclusion], {
        "loss_of_policy": float((best.v - certified_v(mdp, policy).value).max()),
        "merged_error": float(abs(merged.error).max()),
        "merged_bound": merged.S1,
        "merged_hoelder_bound": merged.hoelder,
        "merged_identity_residual": merged.identity_residual,
        "merged_identity_tolerance": merged.tolerance,
    }


def _about_optimality(labelled: _Labelled, best: Optimal) -> list[Condition]:
    """Conclusions (ii) and (iii)."""
    mdp = labelled.mdp
    found = spread(labelled.live(best.q), labelled.pairs)
    regret = float(_class_regret(labelled, best).min(axis=1).max())
    names = ("Q* is a function of the pair label", "some optimal policy is a function of the state label")
    whys = ("conclusion (ii)", "conclusion (iii): existence; ties allow optimal policies that are not (C03)")
    if mdp.gamma == 1.0 and labelled.tol > 0.0:
        why = "no approximate statement at gamma = 1"
        return [Condition(names[0], None, found, why=why), Condition(names[1], None, regret, why=why)]
    if mdp.gamma == 1.0:
        horizon, values = _horizon(mdp, best.policy), best.v
    else:
        horizon, values = 1.0 / (1.0 - mdp.gamma), optimal(_merged(labelled)).v
    allowed = _allowed(labelled, horizon, values, best.error_bound)
    return [
        _at_most(names[0], found, allowed, whys[0]),
        _at_most(names[1], regret, 2.0 * allowed, whys[1]),
    ]


def _merged(labelled: _Labelled) -> TabularMDP:
    """Return the MDP of the class means; its last state is the end.

    Where the pair label is not a function of state label and action, one of the labels is taken.
    """
    classes, actions = int(labelled.states.max()) + 1, labelled.mdp.num_actions
    ahead = class_means(pushforward(labelled.mdp, labelled.states), labelled.pairs)
    rewards = class_means(labelled.live(labelled.mdp.r)[:, None], labelled.pairs)[:, 0]
    label = np.zeros((classes, actions), dtype=np.int64)
    label[labelled.states] = labelled.pairs.reshape(-1, actions)
    P = np.zeros((classes + 1, actions, classes + 1))
    P[:-1, :, :-1] = ahead[label]
    P[:, :, -1] = np.maximum(1.0 - P.sum(axis=2), 0.0)
    r = np.vstack([rewards[label], np.zeros(actions)])
    return TabularMDP.from_dense(P, r, labelled.mdp.gamma, terminal=np.arange(classes + 1) == classes)


def _class_regret(labelled: _Labelled, best: Optimal) -> Array:
    """Return what an action taken in a whole state class costs its worst-off member, (classes, A)."""
    live = labelled.mdp.live_states()
    regret = np.full((int(labelled.states.max()) + 1, labelled.mdp.num_actions), -np.inf)
    np.maximum.at(regret, labelled.states, best.v[live, None] - best.q[live])
    return regret


def _ties(labelled: _Labelled, best: Optimal) -> dict[str, Any]:
    """Return how many states have several optimal actions, and an optimal action of each state class."""
    live = labelled.mdp.live_states()
    size = 2.0 * best.error_bound + labelled.noise * float(abs(best.q).max())
    several = (best.v[live, None] - best.q[live] <= size).sum(axis=1) > 1
    return {
        "states_with_ties": int(several.sum()),
        "class_actions": _class_regret(labelled, best).argmin(axis=1),
    }


def _allowed(labelled: _Labelled, horizon: float, merged_values: Array, error_bound: float) -> float:
    """Return how much values may differ within a class if the conditions hold to the tolerance."""
    rewards = labelled.tol + labelled.noise * labelled.reward_scale
    span = float(np.ptp(np.append(merged_values, 0.0)))
    one_step = rewards + labelled.mdp.gamma * (labelled.tol + labelled.noise) * span / 2.0
    return 2.0 * (horizon * one_step + error_bound)


def _horizon(mdp: TabularMDP, policy: Policy) -> float:
    """Return an upper bound on the expected discounted number of steps."""
    return 1.0 + mdp.gamma * certified_v(mdp, policy).H


def _worst(labelled: _Labelled, away: Array) -> str:
    state, action = divmod(int(live_rows(labelled.mdp)[int(away.argmax())]), labelled.mdp.num_actions)
    return f"state {state}, action {action}"


def _at_most(name: str, value: float, threshold: float, why: str) -> Condition:
    return Condition(name, bool(value <= threshold), value, threshold, threshold - value, why)


def _codes(labels: Ints) -> Ints:
    return class_codes("labels", labels, labels.shape, "(rows,)")
