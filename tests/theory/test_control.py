"""Acting greedily on wrong values: the loss, its bounds, the action gap, and where no bound exists."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import InputError, TabularMDP, control, frozen_lake, garnet, optimal
from theory.control import action_gap, check_greedy, greedy_loss

seeds = st.integers(0, 10_000)
few = settings(max_examples=25)


def random_mdp(seed: int, *, gamma: float = 0.9, terminal: int = 1) -> TabularMDP:
    return garnet(5, 3, 2, gamma, seed=seed, num_terminal=terminal)


def values_by_iteration(mdp: TabularMDP) -> np.ndarray:
    """Return Q*, (S, A), by value iteration."""
    v = np.zeros(mdp.num_states)
    for _ in range(2000):
        q = np.where(mdp.terminal[:, None], 0.0, mdp.r + mdp.gamma * mdp.P @ v)
        v = q.max(axis=1)
    return q


def policy_values(mdp: TabularMDP, actions: np.ndarray) -> np.ndarray:
    """Return V of a deterministic policy, (S,), by an explicit inverse over live states."""
    live = np.flatnonzero(~mdp.terminal)
    chain = mdp.P[live, actions[live]][:, live]
    v = np.zeros(mdp.num_states)
    v[live] = np.linalg.inv(np.eye(len(live)) - mdp.gamma * chain) @ mdp.r[live, actions[live]]
    return v


def one_state(rewards: list[float], gamma: float) -> TabularMDP:
    """Return a state that is never left, one action a reward."""
    return TabularMDP.from_dense([[[1.0]] * len(rewards)], [rewards], gamma)


def reluctant(stay: float, cost: float) -> TabularMDP:
    """Return a state that action 1 leaves for free, and action 0 only now and then, at a cost."""
    P = [[[stay, 1.0 - stay], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]
    return TabularMDP.from_dense(P, [[-cost, 0.0], [0.0, 0.0]], 1.0, terminal=[False, True])


@given(seeds, st.floats(0.01, 3.0))
@few
def test_the_loss_is_the_regret_carried_on_by_the_greedy_policy(seed, size):
    mdp, rng = random_mdp(seed), np.random.default_rng(seed)
    q = values_by_iteration(mdp)
    wrong = q + size * rng.uniform(-1, 1, q.shape)
    found = greedy_loss(mdp, wrong)
    actions = wrong.argmax(axis=1)
    np.testing.assert_array_equal(found.policy.probs.argmax(axis=1), actions)
    loss = q.max(axis=1) - policy_values(mdp, actions)
    np.testing.assert_allclose(found.cost.loss, loss, atol=1e-9)
    regret = np.where(mdp.terminal, 0.0, q.max(axis=1) - q[np.arange(5), actions])
    np.testing.assert_allclose(found.regret, regret, atol=1e-9)
    assert found.cost.identity_residual <= found.cost.tolerance < 1e-10
    assert found.error == pytest.approx(abs(wrong - q)[~mdp.terminal].max(), rel=1e-9)


@given(seeds, st.floats(0.01, 3.0))
@few
def test_every_bound_lies_above_the_one_before(seed, size):
    mdp, rng = random_mdp(seed), np.random.default_rng(seed)
    found = greedy_loss(mdp, values_by_iteration(mdp) + size * rng.uniform(-1, 1, (5, 3)))
    cost = found.cost
    assert np.all(cost.loss <= cost.pointwise + cost.slack)
    assert cost.pointwise.max() <= cost.bound * (1 + 1e-9)
    assert cost.bound <= cost.published * (1 + 1e-9)
    assert np.all(found.regret <= found.span + 1e-9) and found.span.max() <= 2 * found.error + 1e-12
    live = mdp.live_states()
    chain = mdp.P[live, found.policy.probs.argmax(axis=1)[live]][:, live]
    assert pytest.approx(np.linalg.inv(np.eye(len(live)) - 0.9 * chain).sum(axis=1).max()) == cost.H


def test_random_errors_stay_far_below_the_bound():
    ratios = []
    for seed in range(150):
        mdp, rng = random_mdp(seed, terminal=0), np.random.default_rng(seed)
        found = greedy_loss(mdp, optimal(mdp).q + rng.uniform(-1, 1, (5, 3)))
        ratios.append(found.cost.loss.max() / found.cost.published)
    assert 0.1 < max(ratios) < 0.9 and np.median(ratios) < 0.3


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.75])
def test_the_bound_is_attained_by_a_tie_that_is_broken_wrongly(gamma):
    # Action 0 pays 0, action 1 pays 1, for ever; both values are half of the gap of 1 wrong.
    mdp = one_state([0.0, 1.0], gamma)
    middle = 0.5 + gamma / (1 - gamma)
    found = greedy_loss(mdp, [[middle, middle]])
    assert found.cost.loss[0] == pytest.approx(1 / (1 - gamma))
    assert found.error == pytest.approx(0.5)
    for bound in (found.cost.bound, found.cost.published, found.cost.pointwise[0]):
        assert bound == pytest.approx(1 / (1 - gamma))
    report = check_greedy(mdp, [[middle, middle]])
    assert report and not report.condition("errors are below the action gap").holds
    assert not report.condition("greedy policy is optimal").holds


def test_a_hair_below_half_the_gap_is_enough():
    mdp = one_state([0.0, 1.0], 0.75)
    report = check_greedy(mdp, [[3.5 - 1e-9, 3.5 + 1e-9]])
    below = report.condition("errors are below the action gap")
    assert report and below.holds and below.threshold == pytest.approx(1.0)
    assert below.margin == pytest.approx(2e-9, rel=1e-3)
    assert report.condition("greedy policy is optimal").holds


@given(seeds)
@few
def test_errors_below_half_the_gap_cost_nothing_and_larger_ones_may(seed):
    mdp, rng = random_mdp(seed), np.random.default_rng(seed)
    gap = action_gap(mdp)
    q = optimal(mdp).q
    report = check_greedy(mdp, q + 0.499 * gap.smallest * rng.choice([-1.0, 1.0], (5, 3)))
    assert report and report.condition("errors are below the action gap").holds
    assert report.condition("greedy policy is optimal").holds
    # The adversary lowers every optimal action and raises the others.
    worse = q + 0.501 * gap.smallest * np.where(gap.optimal, -1.0, 1.0)
    found = greedy_loss(mdp, worse)
    assert found.cost.loss.max() > 0.5 * gap.smallest
    assert check_greedy(mdp, worse).verdict == "pass"  # the bound still holds


@given(seeds)
@few
def test_gaps_are_those_of_value_iteration(seed):
    mdp = random_mdp(seed)
    q, gap = values_by_iteration(mdp), action_gap(mdp)
    ordered = np.sort(q, axis=1)
    expected = np.where(mdp.terminal, np.inf, ordered[:, -1] - ordered[:, -2])
    np.testing.assert_allclose(gap.gap, expected, atol=1e-9)
    assert gap.smallest == pytest.approx(expected.min(), abs=1e-9) and gap.ties == 0


def test_ties_do_not_shrink_the_gap():
    gap = action_gap(one_state([1.0, 0.25, 1.0], 0.5))
    assert gap.gap == pytest.approx([0.75]) and gap.ties == 1
    assert gap.optimal.tolist() == [[True, False, True]]
    # A wrong value that swaps the two optimal actions costs nothing.
    report = check_greedy(one_state([1.0, 0.25, 1.0], 0.5), [[1.9, 1.3, 2.1]])
    assert report and report.condition("greedy policy is optimal").holds


def test_a_tie_that_rounding_has_broken_is_still_a_tie():
    # 0.3 at once, or 0.1 now and 0.2 later: in float64 they differ in the last bit.
    P = np.zeros((3, 2, 3))
    P[0, 0, 2] = P[0, 1, 1] = P[1, :, 2] = P[2, :, 2] = 1.0
    r = [[0.3, 0.1], [0.2, 0.2], [0, 0]]
    mdp = TabularMDP.from_dense(P, r, 1.0, terminal=[False, False, True])
    gap = action_gap(mdp)
    assert optimal(mdp).q[0, 0] != optimal(mdp).q[0, 1]
    assert gap.gap[0] == np.inf and gap.ties == 2


def test_where_every_action_is_optimal_the_gap_is_infinite():
    mdp = one_state([1.0, 1.0], 0.5)
    gap = action_gap(mdp)
    assert gap.smallest == np.inf and gap.ties == 1
    report = check_greedy(mdp, [[1e6, -1e6]])
    assert report and report.condition("errors are below the action gap").holds


def test_what_is_added_to_all_actions_of_a_state_changes_no_loss():
    mdp, rng = random_mdp(3), np.random.default_rng(3)
    wrong = optimal(mdp).q + 0.3 * rng.uniform(-1, 1, (5, 3))
    first = greedy_loss(mdp, wrong)
    second = greedy_loss(mdp, wrong + 100.0 * np.arange(5)[:, None])
    np.testing.assert_allclose(second.cost.pointwise, first.cost.pointwise, atol=1e-9)
    np.testing.assert_array_equal(second.safe, first.safe)
    assert second.cost.bound > 50 * first.cost.bound


def test_the_span_vouches_for_single_states():
    # Two states that never meet: values of the first are right, those of the second wrong.
    P = np.zeros((2, 2, 2))
    P[0, :, 0] = P[1, :, 1] = 1.0
    mdp = TabularMDP.from_dense(P, [[0, 1], [0, 1]], 0.5)
    found = greedy_loss(mdp, [[1.0, 2.0], [2.0, 1.0]])
    assert found.safe.tolist() == [True, False]
    assert found.cost.loss.tolist() == pytest.approx([0.0, 2.0])
    assert found.cost.pointwise.tolist() == pytest.approx([0.0, 4.0])


def test_values_of_terminal_states_are_not_looked_at():
    mdp, rng = random_mdp(4), np.random.default_rng(4)
    wrong = optimal(mdp).q + rng.uniform(-1, 1, (5, 3))
    loud = wrong.copy()
    loud[-1] = [1e9, -1e9, 0.0]
    assert mdp.terminal[-1] and greedy_loss(mdp, loud).error == greedy_loss(mdp, wrong).error
    np.testing.assert_array_equal(greedy_loss(mdp, loud).cost.loss, greedy_loss(mdp, wrong).cost.loss)


def test_undiscounted_the_bound_takes_the_runs_of_the_greedy_policy_not_of_the_optimal_one():
    # Leaving is free, staying costs 1 and happens nine times out of ten: ten steps, a loss of ten.
    mdp = reluctant(stay=0.9, cost=1.0)
    found = greedy_loss(mdp, [[-0.5, -0.5], [0.0, 0.0]])
    assert found.error == pytest.approx(0.5) and pytest.approx(10.0) == found.cost.H
    assert found.cost.loss.tolist() == pytest.approx([10.0, 0.0])
    assert found.cost.bound == pytest.approx(10.0) and found.cost.published is None
    # An optimal policy runs for one step; twice the error times one would be no bound at all.
    assert 2 * found.error * 1.0 < found.cost.loss.max()
    assert check_greedy(mdp, [[-0.5, -0.5], [0.0, 0.0]]).verdict == "pass"


def test_undiscounted_even_exact_values_may_lead_nowhere():
    # Waiting costs nothing, so it is worth as much as going; greedy waits for ever.
    P = [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]
    mdp = TabularMDP.from_dense(P, [[0.0, 1.0], [0.0, 0.0]], 1.0, terminal=[False, True])
    best = optimal(mdp)
    assert best.q.tolist() == [[1.0, 1.0], [0.0, 0.0]] and best.error_bound < 1e-9
    found, report = greedy_loss(mdp, best.q), check_greedy(mdp, best.q)
    assert found.error == 0.0 and found.never_ending == 1 and found.cost is None
    assert report.verdict == "inconclusive" and report.residual is None
    values = report.condition("greedy policy has values")
    assert not values.holds and values.value == 1.0
    assert report.condition("errors are below the action gap").holds  # true, and of no use
    with pytest.raises(KeyError):
        report.condition("greedy policy is optimal")
    assert check_greedy(mdp, [[0.9, 1.0], [0.0, 0.0]]).verdict == "pass"


def test_frozen_lake_forgives_errors_below_its_gap():
    mdp = frozen_lake()
    q, gap = optimal(mdp).q, action_gap(mdp)
    assert 1e-4 < gap.smallest < 0.1
    noise = np.random.default_rng(0).choice([-1.0, 1.0], q.shape)
    calm = check_greedy(mdp, q + 0.49 * gap.smallest * noise)
    assert calm and calm.condition("greedy policy is optimal").holds
    loud = check_greedy(mdp, q + 0.2 * np.where(gap.optimal, -1.0, 1.0))
    assert loud and not loud.condition("greedy policy is optimal").holds
    assert 0.01 < loud.data["loss"] <= loud.data["bound by spans"] <= loud.data["bound"]
    assert (
        loud.data["H of the greedy policy"] < 100.0 and loud.data["states where the gap does not vouch"] > 0
    )


def test_a_wrong_value_of_the_policy_is_caught(monkeypatch):
    mdp = random_mdp(1)
    right = control.certified_v
    monkeypatch.setattr(
        control, "certified_v", lambda *given: replace(right(*given), value=right(*given).value + 1e-6)
    )
    report = check_greedy(mdp, np.random.default_rng(1).normal(size=(5, 3)))
    assert report.verdict == "fail" and not report.condition("loss is the regret carried on").holds


def test_a_horizon_of_another_policy_is_caught(monkeypatch):
    mdp = reluctant(stay=0.9, cost=1.0)
    right = control.certified_v
    monkeypatch.setattr(control, "certified_v", lambda *given: replace(right(*given), H=1.0))
    report = check_greedy(mdp, [[-0.5, -0.5], [0.0, 0.0]])
    assert report.verdict == "fail" and not report.condition("loss is within its bound").holds


def test_a_gap_that_vouches_wrongly_is_caught(monkeypatch):
    mdp = one_state([0.0, 1.0], 0.5)
    right = control.action_gap
    monkeypatch.setattr(control, "action_gap", lambda *a, **k: replace(right(*a, **k), smallest=1e9))
    report = check_greedy(mdp, [[2.0, 1.0]])
    assert report.verdict == "fail" and not report.condition("greedy policy is optimal").holds
    assert report.condition("loss is within its bound").holds


def test_values_that_are_not_certified_decide_nothing(monkeypatch):
    mdp = one_state([0.0, 1.0], 0.5)
    best = replace(optimal(mdp), error_bound=np.inf)
    monkeypatch.setattr(control, "optimal", lambda *given: best)
    report = check_greedy(mdp, [[1.0, 2.0]])
    assert report.verdict == "inconclusive" and not report.condition("optimal values are certified").holds
    gap = action_gap(mdp, best=best)
    assert gap.smallest == 0.0 and not greedy_loss(mdp, [[1.0, 2.0]]).safe.any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((5, 2)), r"q_hat must have shape \(5, 3\) \(states, actions\)"),
        (np.zeros(15), r"q_hat must have shape \(5, 3\)"),
        (np.full((5, 3), np.nan), "q_hat must be finite, got nan at state 0"),
    ],
)
def test_bad_input_is_named(values, message):
    with pytest.raises(InputError, match=message):
        greedy_loss(random_mdp(0), values)
    with pytest.raises(InputError, match=message):
        check_greedy(random_mdp(0), values)


def test_the_bounds_allow_for_the_error_of_the_optimal_values():
    mdp = random_mdp(3)
    exact, off = optimal(mdp), 1e-3
    # Optimal values that are certified to a thousandth only, and too high by as much.
    live = ~mdp.terminal
    rough = replace(exact, q=exact.q + off * live[:, None], v=exact.v + off * live, error_bound=off)
    cost = control._measure(mdp, exact.q, rough).cost
    assert cost is not None and cost.loss.max() > 100 * cost.tolerance
    bound = cost.bound - 2.0 * cost.H * off  # what is left of it if the error of the optimum is not seen
    assert cost.loss.max() <= bound + cost.slack
    assert cost.slack >= (4.0 * cost.H + 2.0) * off
