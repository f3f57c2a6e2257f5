"""The relaxation to state embeddings: its exact split, when it is free, and what it costs otherwise."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import (
    Features,
    InputError,
    Policy,
    Problem,
    TabularMDP,
    Weights,
    fit_linear_model,
    garnet,
    relaxation,
    value_error,
)
from theory.relaxation import relax_to_state

seeds = st.integers(0, 10_000)
few = settings(max_examples=25)
GAMMA = 0.9


def random_mdp(seed: int, *, terminal: int = 1, dense: bool = True) -> TabularMDP:
    return garnet(6, 2, 3, GAMMA, seed=seed, num_terminal=terminal, dense=dense)


def random_case(seed: int, *, terminal: int = 1, dense: bool = True) -> tuple[Problem, np.ndarray]:
    """Return a problem with 6 states, 2 actions, 4 random features, and 3 random state features."""
    rng, mdp = np.random.default_rng(seed), random_mdp(seed, terminal=terminal, dense=dense)
    policy = Policy(rng.dirichlet(np.ones(2), 6))
    mu = rng.uniform(0.1, 1.0, (6, 2)) * ~mdp.terminal[:, None]
    features = Features.from_array(rng.normal(size=(6, 2, 4)))
    return Problem(mdp, policy, features, Weights.custom(mu)), rng.normal(size=(6, 3))


def product_case(seed: int, policy: Policy) -> tuple[Problem, np.ndarray]:
    """Return a problem whose pair features are a state's features in the block of the action."""
    rng, mdp = np.random.default_rng(seed), random_mdp(seed)
    state = rng.normal(size=(6, 3))
    pair = np.zeros((6, 2, 6))
    pair[:, 0, :3], pair[:, 1, 3:] = state, state
    return Problem(mdp, policy, Features.from_array(pair), Weights.uniform(mdp)), state


def with_fields(problem: Problem, **fields: object) -> Problem:
    """Return a problem with fields overwritten behind its back, as a mistake elsewhere would."""
    wrong = copy.copy(problem)
    for name, value in fields.items():
        object.__setattr__(wrong, name, value)
    return wrong


def parts_by_hand(problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return P (n, m), Pi (m, n) and the live states, written out with loops over states and actions."""
    mdp, policy = problem.mdp, problem.policy
    assert mdp is not None and policy is not None
    states, A = np.flatnonzero(~mdp.terminal), mdp.num_actions
    P, Pi = np.zeros((len(states) * A, len(states))), np.zeros((len(states), len(states) * A))
    for i, s in enumerate(states):
        for a in range(A):
            Pi[i, i * A + a] = policy.probs[s, a]
            for j, t in enumerate(states):
                P[i * A + a, j] = mdp.P[s, a, t]
    return P, Pi, states


@given(seeds)
@few
def test_the_residual_of_the_dynamics_splits_exactly(seed):
    problem, state = random_case(seed)
    found = relax_to_state(problem, state)
    P, Pi, states = parts_by_hand(problem)
    eps_d = problem.Z @ found.W_s @ found.M_pi - P @ Pi @ problem.Z
    np.testing.assert_allclose(eps_d, found.eps_s @ found.M_pi + P @ found.eps_M, atol=1e-12)
    np.testing.assert_allclose(found.eps_s, problem.Z @ found.W_s - P @ state[states], atol=1e-12)
    np.testing.assert_allclose(found.eps_M, state[states] @ found.M_pi - Pi @ problem.Z, atol=1e-12)
    assert found.report and found.report.tolerance < 1e-11


@given(seeds)
@few
def test_both_fits_are_the_weighted_least_squares_fits(seed):
    problem, state = random_case(seed)
    found = relax_to_state(problem, state)
    P, _, states = parts_by_hand(problem)
    live = state[states]
    # At a minimum the residual is orthogonal, under the weights, to what it is regressed on.
    np.testing.assert_allclose(problem.Z.T @ (problem.mu[:, None] * found.eps_s), 0.0, atol=1e-12)
    nu = problem.mu @ P
    np.testing.assert_allclose(live.T @ (nu[:, None] * found.eps_M), 0.0, atol=1e-12)
    given_nu = np.random.default_rng(seed).uniform(0.1, 1.0, 6)
    other = relax_to_state(problem, state, state_weights=given_nu)
    np.testing.assert_allclose(live.T @ (given_nu[states, None] * other.eps_M), 0.0, atol=1e-12)
    assert abs(live.T @ (nu[:, None] * other.eps_M)).max() > 1e-6


@given(seeds)
@few
def test_the_value_error_is_the_sum_of_reward_state_model_and_relaxation(seed):
    problem, state = random_case(seed)
    found = relax_to_state(problem, state)
    G = np.linalg.inv(np.eye(problem.n) - GAMMA * problem.dense_P)
    model = fit_linear_model(problem)
    w = np.linalg.solve(np.eye(4) - GAMMA * found.W_s @ found.M_pi, model.w_r)
    np.testing.assert_allclose(found.w, w, rtol=1e-7, atol=1e-9)
    size = max(1.0, abs(found.value.error).max())
    np.testing.assert_allclose(found.value.error, problem.Z @ w - G @ problem.r, atol=1e-8 * size)
    whole = found.value.reward + found.state_part + found.policy_part
    np.testing.assert_allclose(whole, found.value.error, atol=1e-9 * size)
    P, _, _ = parts_by_hand(problem)
    np.testing.assert_allclose(found.policy_part, GAMMA * G @ P @ found.eps_M @ w, atol=1e-8 * size)


@given(seeds)
@few
def test_the_state_model_is_the_same_for_every_policy_and_the_lift_is_not(seed):
    problem, state = random_case(seed)
    assert problem.mdp and problem.features and problem.weights
    other = Problem(
        problem.mdp,
        Policy(np.random.default_rng(seed + 1).dirichlet(np.ones(2), 6)),
        problem.features,
        problem.weights,
    )
    first, second = relax_to_state(problem, state), relax_to_state(other, state)
    np.testing.assert_array_equal(first.W_s, second.W_s)
    np.testing.assert_array_equal(first.eps_s, second.eps_s)
    assert abs(first.M_pi - second.M_pi).max() > 1e-3


@given(seeds)
@few
def test_product_features_and_an_open_loop_policy_make_the_relaxation_free(seed):
    probs = np.random.default_rng(seed).dirichlet(np.ones(2))
    problem, state = product_case(seed, Policy(np.tile(probs, (6, 1))))
    found = relax_to_state(problem, state)
    assert found.report.condition("relaxation is free").holds
    assert found.report.condition("policy does not look at the state").holds
    np.testing.assert_allclose(found.eps_M, 0.0, atol=1e-12)
    np.testing.assert_allclose(found.policy_part, 0.0, atol=1e-10)
    # By linearity of least squares the product is then the model of theorem 1, and the value is TD's.
    np.testing.assert_allclose(found.W_d, fit_linear_model(problem).W_d, atol=1e-10)
    np.testing.assert_allclose(found.value.error, value_error(problem).error, rtol=1e-7, atol=1e-8)
    # M_pi is the policy itself: z_s (x) pi.
    expected = np.hstack([probs[0] * np.eye(3), probs[1] * np.eye(3)])
    np.testing.assert_allclose(found.M_pi, expected, atol=1e-11)


@given(seeds)
@few
def test_a_policy_that_looks_at_the_state_makes_the_relaxation_cost_something(seed):
    policy = Policy(np.random.default_rng(seed).dirichlet(np.ones(2), 6))
    problem, state = product_case(seed, policy)
    found = relax_to_state(problem, state)
    assert not found.report.condition("policy does not look at the state").holds
    free = found.report.condition("relaxation is free")
    assert not free.holds and free.value > 1e-3 and free.margin < 0.0
    assert abs(found.policy_part).max() > 1e-4
    assert abs(found.W_d - fit_linear_model(problem).W_d).max() > 1e-5


def test_state_features_that_tell_all_states_apart_make_any_policy_free():
    problem, _ = random_case(3)
    found = relax_to_state(problem, np.eye(6))
    assert found.report.condition("relaxation is free").holds
    assert not found.report.condition("policy does not look at the state").holds
    np.testing.assert_allclose(found.value.error, value_error(problem).error, rtol=1e-9, atol=1e-10)


def test_the_model_has_the_shapes_of_two_embeddings_not_of_one():
    problem, state = random_case(0)
    found = relax_to_state(problem, state)
    assert found.W_s.shape == (4, 3) and found.M_pi.shape == (3, 4) and found.W_d.shape == (4, 4)
    assert found.eps_s.shape == (problem.n, 3) and found.eps_M.shape == (problem.n // 2, 4)


def test_by_hand_a_two_state_cycle_seen_through_one_number():
    # 0 -> 1 -> 0, one action, features one-hot, state feature 1 for both: W_s = (1, 1)', M = (1/2, 1/2).
    mdp = TabularMDP.from_dense([[[0, 1]], [[1, 0]]], [[1], [0]], 0.5)
    problem = Problem(mdp, Policy.uniform(mdp), Features.one_hot(mdp), Weights.uniform(mdp))
    found = relax_to_state(problem, [[1], [1]])
    np.testing.assert_allclose(found.W_s, [[1.0], [1.0]], atol=1e-15)
    np.testing.assert_allclose(found.M_pi, [[0.5, 0.5]], atol=1e-15)
    np.testing.assert_allclose(found.eps_s, 0.0, atol=1e-15)
    np.testing.assert_allclose(found.eps_M, [[-0.5, 0.5], [0.5, -0.5]], atol=1e-15)
    # w = (1, 0) + 1/4 (1, 1)(w_1 + w_2): the sum is 2, so w = (3/2, 1/2); truth (4/3, 2/3).
    np.testing.assert_allclose(found.w, [1.5, 0.5], atol=1e-14)
    np.testing.assert_allclose(found.value.error, [1 / 6, -1 / 6], atol=1e-14)
    np.testing.assert_allclose(found.policy_part, [1 / 6, -1 / 6], atol=1e-14)
    np.testing.assert_allclose(found.state_part, 0.0, atol=1e-14)
    assert found.spectral_radius == pytest.approx(0.5)


@given(seeds)
@few
def test_values_do_not_depend_on_the_bases_of_either_span(seed):
    problem, state = random_case(seed)
    rng = np.random.default_rng(seed + 2)
    T, U = rng.normal(size=(4, 4)) + 3 * np.eye(4), rng.normal(size=(3, 3)) + 3 * np.eye(3)
    assert problem.mdp and problem.policy and problem.features and problem.weights
    turned = Problem(problem.mdp, problem.policy, problem.features.rescale(T), problem.weights)
    first, second = relax_to_state(problem, state), relax_to_state(turned, state @ U)
    size = max(1.0, abs(first.value.error).max())
    np.testing.assert_allclose(second.value.error, first.value.error, atol=1e-7 * size)
    np.testing.assert_allclose(second.policy_part, first.policy_part, atol=1e-7 * size)
    assert second.spectral_radius == pytest.approx(first.spectral_radius, rel=1e-7, abs=1e-9)


def test_dependent_pair_features_give_the_same_values():
    problem, state = random_case(5)
    assert problem.mdp and problem.policy and problem.features and problem.weights
    doubled = problem.features.rescale(np.hstack([np.eye(4), np.eye(4)[:, :1]]))
    other = relax_to_state(Problem(problem.mdp, problem.policy, doubled, problem.weights), state)
    np.testing.assert_allclose(other.value.error, relax_to_state(problem, state).value.error, atol=1e-9)
    assert other.report


def test_features_of_terminal_states_play_no_part():
    problem, state = random_case(1)
    loud = state.copy()
    loud[-1] = 1e6
    first, second = relax_to_state(problem, state), relax_to_state(problem, loud)
    np.testing.assert_array_equal(first.value.error, second.value.error)
    np.testing.assert_array_equal(first.eps_s, second.eps_s)


def test_a_sparse_mdp_gives_the_same_numbers():
    (dense, state), (sparse, _) = random_case(4), random_case(4, dense=False)
    first, second = relax_to_state(dense, state), relax_to_state(sparse, state)
    np.testing.assert_allclose(first.value.error, second.value.error, atol=1e-11)
    np.testing.assert_allclose(first.policy_part, second.policy_part, atol=1e-11)
    assert second.report


def test_rows_without_weight_keep_both_equalities():
    problem, state = random_case(2)
    assert problem.mdp and problem.policy and problem.features
    mu = np.zeros((6, 2))
    mu[:2] = 0.25
    partial = Problem(problem.mdp, problem.policy, problem.features, Weights.custom(mu))
    found = relax_to_state(partial, state)
    assert found.report
    none = relax_to_state(partial, state, state_weights=np.eye(6)[0])
    missed = none.report.condition("every next state has weight")
    assert none.report and not missed.holds and missed.value >= 1.0


def test_only_the_live_states_that_are_reached_take_part_if_the_problem_is_cut_to_them():
    P = np.zeros((4, 2, 4))
    P[0, :, 1] = P[1, 0, 0] = P[1, 1, 3] = 1.0
    P[2, :, 0] = P[3, :, 3] = 1.0
    mdp = TabularMDP.from_dense(
        P, np.arange(8.0).reshape(4, 2), GAMMA, terminal=np.arange(4) == 3, start=[1.0, 0, 0, 0]
    )
    rng = np.random.default_rng(0)
    features, state = Features.from_array(rng.normal(size=(4, 2, 3))), rng.normal(size=(4, 1))
    weights = Weights.custom([[1, 1], [1, 1], [0, 0], [0, 0]])
    problem = Problem(mdp, Policy.uniform(mdp), features, weights, reachable_from="start")
    found = relax_to_state(problem, state)
    assert found.report and found.eps_M.shape == (2, 3)


def test_a_problem_whose_chain_belongs_to_another_policy_is_caught():
    problem, state = random_case(7)
    wrong = with_fields(problem, policy=Policy(np.tile([0.9, 0.1], (6, 1))))
    found = relax_to_state(wrong, state)
    assert not found.report and found.report.residual > 1e-3


def test_either_equality_alone_is_enough_to_fail(monkeypatch):
    problem, state = random_case(7)
    wrong = with_fields(problem, policy=Policy(np.tile([0.9, 0.1], (6, 1))))
    with monkeypatch.context() as patch:  # the value error of the right problem
        patch.setattr(relaxation, "value_error", lambda _, **given: value_error(problem, **given))
        found = relax_to_state(wrong, state)
    assert found.value.holds and found.report.verdict == "fail"
    other = relax_to_state(with_fields(problem, r=problem.r + 1e-6), state)
    assert other.report.residual <= other.report.tolerance and not other.value.holds
    assert other.report.verdict == "fail"


def test_states_may_come_in_any_order_and_ends_anywhere():
    problem, state = random_case(9)
    mdp, policy, features, weights = problem.mdp, problem.policy, problem.features, problem.weights
    assert mdp and policy and features and weights
    order = np.array([5, 2, 0, 4, 1, 3])  # the terminal state comes first
    moved = TabularMDP.from_dense(
        mdp.P[order][:, :, order], mdp.r[order], GAMMA, terminal=mdp.terminal[order], start=mdp.start[order]
    )
    turned = Problem(
        moved, Policy(policy.probs[order]), Features(features.Z[order]), Weights.custom(weights.mu[order])
    )
    first, second = relax_to_state(problem, state), relax_to_state(turned, state[order])
    assert moved.terminal[0] and second.report
    np.testing.assert_allclose(second.W_s, first.W_s, atol=1e-10)
    np.testing.assert_allclose(second.M_pi, first.M_pi, atol=1e-10)
    back = np.argsort(order[1:])
    np.testing.assert_allclose(second.eps_M[back], first.eps_M, atol=1e-10)


def test_a_state_that_is_never_reached_needs_no_weight():
    mdp = TabularMDP.from_dense([[[0, 1]], [[0, 1]]], [[1], [0]], 0.5)  # nothing leads to the first state
    problem = Problem(mdp, Policy.uniform(mdp), Features.one_hot(mdp), Weights.uniform(mdp))
    found = relax_to_state(problem, np.eye(2))
    assert found.report.condition("every next state has weight").holds
    np.testing.assert_allclose(found.M_pi, [[0, 0], [0, 1]], atol=1e-15)
    np.testing.assert_allclose(found.value.error, 0.0, atol=1e-14)


def test_next_features_that_leak_through_the_end_are_caught():
    problem, state = random_case(8)
    leaking = Problem.from_chain(problem.dense_P, problem.r, problem.Z, problem.mu, GAMMA).Z_next.copy()
    ends = 1.0 - problem.dense_P.sum(axis=1)
    assert ends.max() > 0.1
    leaking += 1e-6 * ends[:, None]
    wrong = with_fields(problem)
    wrong.__dict__["Z_next"] = leaking
    found = relax_to_state(wrong, state)
    assert found.report.residual > 1e-7 > found.report.tolerance and not found.report


def test_a_relaxed_model_without_a_value_says_so():
    # One action, w -> 2w at gamma 5/6 (no fixed point), state features equal to the pair's.
    mdp = TabularMDP.from_dense([[[0, 1]], [[0, 1]]], [[1], [1]], 5 / 6)
    features = Features.from_array([[[1.0]], [[2.0]]])
    problem = Problem(mdp, Policy.uniform(mdp), features, Weights.uniform(mdp))
    found = relax_to_state(problem, [[1.0], [2.0]])
    assert not found.report.condition("the model has a value").holds
    assert abs(found.value.planning).max() > 1.0 and found.report
    assert found.spectral_radius == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("state", "weights", "message"),
    [
        (np.ones(6), None, r"state_features must have shape \(S, k\)"),
        (np.ones((6, 0)), None, r"state_features must have shape \(S, k\)"),
        (np.ones((5, 2)), None, r"state_features must have shape \(6, 2\)"),
        (np.full((6, 2), np.nan), None, "state_features must be finite, got nan at state 0"),
        (np.ones((6, 2)), np.ones(5), r"state_weights must have shape \(6,\)"),
        (np.ones((6, 2)), [1, 1, -1, 1, 1, 1], "state_weights must not be negative, got -1 at state 2"),
    ],
)
def test_bad_input_is_named(state, weights, message):
    problem, _ = random_case(0)
    with pytest.raises(InputError, match=message):
        relax_to_state(problem, state, state_weights=weights)


def test_a_bare_chain_is_refused_with_what_to_do():
    problem = Problem.from_chain([[0.5]], [1.0], [[1.0]], [1.0], 0.9)
    with pytest.raises(InputError, match="bare chain"):
        relax_to_state(problem, [[1.0]])


def test_the_relaxed_value_may_be_worse_or_better_than_that_of_td():
    ratios = []
    for seed in range(20):
        problem, state = random_case(seed)
        relaxed = abs(relax_to_state(problem, state).value.error).max()
        ratios.append(relaxed / abs(value_error(problem).error).max())
    assert min(ratios) < 0.98 and max(ratios) > 1.02


def test_a_relaxed_rollout_may_diverge():
    # The state feature doubles from state 0 to 1 as in w -> 2w: radius 1.2 gamma.
    mdp = TabularMDP.from_dense([[[0, 1]], [[0, 1]]], [[1], [1]], 0.9)
    features = Features.from_array([[[1.0]], [[2.0]]])
    problem = Problem(mdp, Policy.uniform(mdp), features, Weights.uniform(mdp))
    found = relax_to_state(problem, [[1.0], [2.0]])
    converges = found.report.condition("relaxed rollout converges")
    assert found.spectral_radius == pytest.approx(1.08) and not converges.holds
    assert converges.value == found.spectral_radius and converges.margin == pytest.approx(-0.08)
    assert found.w == pytest.approx([-7.5]) and found.report.condition("the model has a value").holds


def test_a_policy_that_looks_at_the_state_by_a_millionth_looks_at_it():
    probs = np.full((6, 2), 0.5)
    assert (
        relax_to_state(*product_case(1, Policy(probs)))
        .report.condition("policy does not look at the state")
        .holds
    )
    probs[2] += [1e-6, -1e-6]
    seen = relax_to_state(*product_case(1, Policy(probs))).report.condition(
        "policy does not look at the state"
    )
    assert seen.holds is False and seen.value == pytest.approx(1e-6, rel=1e-6)
