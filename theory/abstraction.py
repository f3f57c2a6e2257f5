r"""Theorem 3: when may a value function be computed from labels of states and pairs alone?

Labels stand for embeddings: :math:`z_s=f(s)` and :math:`z_{sa}=g(z_s,a)`. If pairs with one label pay the
same expected reward and lead to the same distribution over state labels, then (i) the value
:math:`Q^\pi` of every policy that looks at state labels only is a function of the pair label, (ii) so
is :math:`Q^*`, and (iii) some optimal policy looks at state labels only. Not every optimal policy
does: ties may be broken by what the label hides. The conditions are sufficient, not necessary.

With a tolerance the same conclusions hold approximately: values of the class means as a model are off
by at most :math:`B=H(\epsilon+\gamma\epsilon\,\mathrm{span}(\hat V)/2)`, so values in a class differ by at
most 2B, and some action costs at most 2B in every state of the class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from theory.aggregate import aggregate_model
from theory.chains import check_policy
from theory.checks import EPS, Array, Ints, check_number
from theory.features import Features
from theory.labels import REWARD_NOISE, class_codes, class_means, live_rows, pushforward, spread
from theory.mdp import TabularMDP
from theory.policy import Policy
from theory.problem import Problem
from theory.report import Condition, Report
from theory.truth import Optimal, certified_q, certified_v, optimal
from theory.weights import Weights


@dataclass(frozen=True, eq=False)
class _Labelled:
    """An MDP, the classes of its L live states and L * A live pairs, and what counts as equal."""

    mdp: TabularMDP
    states: Ints
    pairs: Ints
    tol: float

    @property
    def noise(self) -> float:
        """Rounding of a sum of probabilities."""
        return 64 * self.mdp.num_states * EPS

    @property
    def reward_noise(self) -> float:
        """No less than the rounding of any reward."""
        return REWARD_NOISE * float(abs(self.mdp.r).max())

    def live(self, values: Array) -> Array:
        """Return the live rows of (S, A) values, (L * A,)."""
        return values.reshape(-1)[live_rows(self.mdp)]


def check_abstraction(
    mdp: TabularMDP, state_labels: Any, pair_labels: Any, policy: Policy | None = None, *, tol: float = 0.0
) -> Report:
    """Check the conditions of theorem 3 for given labels, and its conclusions on this MDP.

    The verdict is "fail" if a condition or a conclusion fails, and "inconclusive" if none fails but
    one is open: an approximate optimal value at gamma = 1, or optimal values without a proved bound.
    Conclusions may hold where conditions fail: the theorem is sufficient, and the report lists each on its
    own. Residual and tolerance are those of the condition, on rewards or transitions, that is nearest to
    failing or furthest beyond.

    Args:
        mdp: S states, A actions. Terminal states are a class of their own, whatever their labels.
        state_labels: (S,), equal labels for states taken for the same.
        pair_labels: (S, A), a function of the state label and the action.
        policy: a policy to check conclusion (i) for; without it only optimality is checked.
        tol: how far a reward may be from its class mean, and a distribution in the 1-norm; rounding is added,
            of rewards relative to the largest of the class.

    Returns:
        The report. ``data`` counts the classes of live states and of their pairs, has an optimal action of
        each such class (``class_actions``) and, with a policy, the errors of the merged model.

    Raises:
        InputError: a wrong shape, labels without an order, a ``tol`` that is negative or no number, or gamma
            is 1 and the policy may never end.

    Example:
        >>> P = [[[0.0, 0.3, 0.7]], [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]
        >>> mdp = TabularMDP.from_dense(P, [[0.0], [1.0], [1.0]], 0.9)
        >>> check_abstraction(mdp, [0, 1, 1], [[0], [1], [1]]).verdict
        'pass'
        >>> report = check_abstraction(mdp, [0, 0, 1], [[0], [0], [1]])
        >>> [condition.name for condition in report.conditions if not condition.holds][:2]
        ['equal rewards', 'equal transitions']
    """
    tol = check_number("tol", tol, least=0.0)
    live = mdp.live_states()
    states = class_codes("state_labels", state_labels, (mdp.num_states,), "(states,)")[live]
    pairs = class_codes("pair_labels", pair_labels, mdp.r.shape, "(states, actions)")[live].reshape(-1)
    labelled = _Labelled(mdp, _codes(states), _codes(pairs), tol)
    rewards, transitions = _equal_rewards(labelled), _equal_transitions(labelled)
    best = optimal(mdp)
    conditions = [_function_of_labels(labelled), rewards, transitions]
    data: dict[str, Any] = {
        "live_state_classes": int(labelled.states.max()) + 1,
        "live_pair_classes": int(labelled.pairs.max()) + 1,
    }
    if policy is not None:
        check_policy(mdp, policy)
        about, numbers = _about_policy(labelled, policy, best)
        conditions += about
        data |= numbers
    conditions += _about_optimality(labelled, best)
    data |= _ties(labelled, best)
    verdict = [condition.holds for condition in conditions]
    worst = min((rewards, transitions), key=lambda condition: condition.margin or 0.0)
    return Report(
        theorem="theorem 3 (abstraction)",
        verdict="fail" if False in verdict else "inconclusive" if None in verdict else "pass",
        residual=worst.value,
        tolerance=worst.threshold,
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
    return Condition.at_most("pair label is a function of state label and action", extra, 0.0, why)


def _equal_rewards(labelled: _Labelled) -> Condition:
    rewards = labelled.live(labelled.mdp.r)
    away = abs(rewards - class_means(rewards[:, None], labelled.pairs)[labelled.pairs, 0])
    largest = np.zeros(int(labelled.pairs.max()) + 1)
    np.maximum.at(largest, labelled.pairs, abs(rewards))
    allowed = labelled.tol + REWARD_NOISE * largest[labelled.pairs]
    row = int((away - allowed).argmax())
    why = f"a class has one reward; furthest from its class mean: {_pair(labelled, row)}"
    return Condition.at_most("equal rewards", float(away[row]), float(allowed[row]), why)


def _equal_transitions(labelled: _Labelled) -> Condition:
    ahead = pushforward(labelled.mdp, labelled.states)
    ahead = np.column_stack([ahead, 1.0 - ahead.sum(axis=1)])
    away = abs(ahead - class_means(ahead, labelled.pairs)[labelled.pairs]).sum(axis=1)
    why = (
        "equal distributions over state labels: equal mean embeddings do not make Q* a function of labels; "
        f"furthest from its class mean: {_pair(labelled, int(away.argmax()))}"
    )
    return Condition.at_most("equal transitions", float(away.max()), labelled.tol + labelled.noise, why)


def _measurable(labelled: _Labelled, policy: Policy) -> Condition:
    probs = policy.probs[labelled.mdp.live_states()]
    away = abs(probs - class_means(probs, labelled.states)[labelled.states])
    why = "an actor sees the state only through its label; an optimal one may break ties otherwise"
    return Condition.at_most(
        "policy is a function of the state label", float(away.max()), labelled.noise, why
    )


def _about_policy(
    labelled: _Labelled, policy: Policy, best: Optimal
) -> tuple[list[Condition], dict[str, Any]]:
    """Conclusion (i), how good the merged model is for the policy, and how far from optimal that is."""
    mdp = labelled.mdp
    q = certified_q(mdp, policy)
    no_matter = Features.from_array(np.ones((*mdp.r.shape, 1)))
    merged = aggregate_model(Problem(mdp, policy, no_matter, Weights.uniform(mdp)), labelled.pairs)
    allowed = _allowed(labelled, _horizon(mdp, policy), merged.q_hat, q.error_bound)
    found = spread(labelled.live(q.value), labelled.pairs)
    name = "Q of the policy is a function of the pair label"
    conclusion = Condition.at_most(name, found, allowed, "conclusion (i)")
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
    whys = ("conclusion (ii)", "conclusion (iii): existence; ties allow optimal policies that are not")
    if mdp.gamma == 1.0 and labelled.tol > 0.0:
        why = "no approximate statement at gamma = 1"
        return [Condition(names[0], None, found, why=why), Condition(names[1], None, regret, why=why)]
    if mdp.gamma == 1.0:
        horizon, values = _horizon(mdp, best.policy), best.v
    else:
        horizon, values = 1.0 / (1.0 - mdp.gamma), optimal(_merged(labelled)).v
    allowed = _allowed(labelled, horizon, values, best.error_bound)
    return [
        Condition.at_most(name, value, allowed, why)
        for name, value, why in zip(names, (found, regret), whys, strict=True)
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
    """Return how many states have several optimal actions, and an optimal action of each state class.

    The first is None where no bound on the error of the optimal values was proved.
    """
    live = labelled.mdp.live_states()
    size = 2.0 * best.error_bound + labelled.noise * float(abs(best.q).max())
    several = (best.v[live, None] - best.q[live] <= size).sum(axis=1) > 1
    return {
        "states_with_ties": int(several.sum()) if np.isfinite(size) else None,
        "class_actions": _class_regret(labelled, best).argmin(axis=1),
    }


def _allowed(labelled: _Labelled, horizon: float, merged_values: Array, error_bound: float) -> float:
    """Return how much values may differ within a class if the conditions hold to the tolerance: 2B."""
    rewards = labelled.tol + labelled.reward_noise
    span = float(np.ptp(np.append(merged_values, 0.0)))
    one_step = rewards + labelled.mdp.gamma * (labelled.tol + labelled.noise) * span / 2.0
    return 2.0 * (horizon * one_step + error_bound)


def _horizon(mdp: TabularMDP, policy: Policy) -> float:
    """Return an upper bound on the expected discounted number of steps."""
    return 1.0 + mdp.gamma * certified_v(mdp, policy).H


def _pair(labelled: _Labelled, row: int) -> str:
    """Return the words for one of the L * A live pairs."""
    state, action = divmod(int(live_rows(labelled.mdp)[row]), labelled.mdp.num_actions)
    return f"state {state}, action {action}"


def _codes(labels: Ints) -> Ints:
    return class_codes("labels", labels, labels.shape, "(rows,)")
