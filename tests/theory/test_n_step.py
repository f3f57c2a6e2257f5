"""n-step TD: against trajectories enumerated one by one, its limits, its bias, and its ends."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from theory import (
    Features,
    InputError,
    Policy,
    Problem,
    TabularMDP,
    Weights,
    catalogue,
    certified_q,
    chain_value,
    garnet,
    h_step_solution,
    n_step_fixed_point,
    n_step_problem,
    n_step_return,
    td_fixed_point,
)


def ends(seed: int = 0, gamma: float = 0.9) -> TabularMDP:
    """Three live states and a terminal one, which is entered with reward."""
    return garnet(4, 2, 2, gamma, seed=seed, num_terminal=1)


def policy(seed: int, mdp: TabularMDP) -> Policy:
    return Policy(np.random.default_rng(seed).dirichlet(np.ones(mdp.num_actions), size=mdp.num_states))


def tabular(mdp: TabularMDP, target: Policy) -> Problem:
    return Problem(mdp, target, Features.one_hot(mdp), Weights.uniform(mdp))


def enumerate_runs(
    mdp: TabularMDP, target: Policy, behaviour: Policy, start: tuple[int, int], n: int
) -> list[tuple[float, list[float], list[bool], tuple[int, int]]]:
    """Every run of n steps from (s, a): probability, rewards, ends, last pair.

    The first action is given, the next n - 1 are the behaviour's, the one behind them the policy's. A run
    goes on in the terminal state, where rewards are set to 100: nothing may count them.
    """
    runs = []
    for path in itertools.product(range(mdp.num_states), range(mdp.num_actions), repeat=n):
        pairs = [start, *zip(path[::2], path[1::2], strict=True)]
        p, rewards, done = 1.0, [], []
        for step, ((s, a), (t, b)) in enumerate(itertools.pairwise(pairs), start=1):
            p *= mdp.P[s, a, t] * (target if step == n else behaviour).probs[t, b]
            rewards.append(100.0 if mdp.terminal[s] else float(mdp.r[s, a]))
            done.append(bool(mdp.terminal[t]))
        if p > 0.0:
            runs.append((p, rewards, done, pairs[-1]))
    return runs


def own_flag_return(rewards: Any, done: Any, gamma: float) -> float:
    """Return the faulty n-step return: every reward times its own flag."""
    return sum(gamma**t * r * (not d) for t, (r, d) in enumerate(zip(rewards, done, strict=True)))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_the_n_step_problem_is_the_mean_over_all_trajectories(n: int, gamma: float) -> None:
    mdp = ends(1, gamma)
    target, behaviour = policy(1, mdp), policy(2, mdp)
    problem = n_step_problem(tabular(mdp, target), n, behaviour=behaviour)
    live = mdp.num_actions * 3
    rewards, chain, faulty = np.zeros(live), np.zeros((live, live)), np.zeros(live)
    for row in range(live):
        for p, path, done, (s, a) in enumerate_runs(mdp, target, behaviour, divmod(row, 2), n):
            value, bootstrap = n_step_return(path, done, gamma)
            rewards[row] += p * value
            faulty[row] += p * own_flag_return(path, done, gamma)
            if bootstrap > 0.0:
                chain[row, s * 2 + a] += p * bootstrap
    np.testing.assert_allclose(problem.r, rewards, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(problem.gamma * problem.dense_P, chain, rtol=1e-12, atol=1e-14)
    assert np.abs(problem.r - faulty).max() > 0.05


def test_terminal_rewards_count_and_what_follows_an_end_does_not() -> None:
    rewards = [[0.0, 0.0, 1.0], [1.0, 0.0, 5.0], [1.0, 2.0, 4.0]]
    done = [[False, False, True], [True, False, False], [False, False, False]]
    returns, bootstrap = n_step_return(rewards, done, 0.99)
    np.testing.assert_allclose(returns, [0.9801, 1.0, 1 + 0.99 * 2 + 0.9801 * 4], rtol=1e-15)
    np.testing.assert_allclose(bootstrap, [0.0, 0.0, 0.99**3], rtol=1e-15)
    # A reward times its own flag loses the terminal reward and keeps what follows it.
    assert own_flag_return(rewards[0], done[0], 0.99) == 0.0
    assert own_flag_return(rewards[1], done[1], 0.99) == pytest.approx(4.9005, rel=1e-15)


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.booleans()), min_size=1, max_size=8),
    st.floats(0, 1, exclude_min=True),
)
def test_a_return_is_a_loop_that_breaks_at_the_end(steps: list[tuple[float, bool]], gamma: float) -> None:
    total, factor, alive = 0.0, 1.0, True
    for reward, done in steps:
        total, factor = total + factor * reward, factor * gamma
        if done:
            alive = False
            break
    returns, bootstrap = n_step_return([r for r, _ in steps], [d for _, d in steps], gamma)
    assert returns == pytest.approx(total, rel=1e-12, abs=1e-300)
    assert bootstrap == pytest.approx(gamma ** len(steps) if alive else 0.0, rel=1e-12)


def test_returns_have_any_number_of_leading_axes() -> None:
    draws = np.random.default_rng(0)
    rewards, done = draws.normal(size=(3, 4, 5)), draws.random((3, 4, 5)) < 0.2
    returns, bootstrap = n_step_return(rewards, done, 0.9)
    assert returns.shape == bootstrap.shape == (3, 4)
    for index in np.ndindex(3, 4):
        assert returns[index] == n_step_return(rewards[index], done[index], 0.9)[0]


@given(st.integers(0, 1000), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_one_step_is_td_whatever_the_behaviour(seed: int, d: int) -> None:
    mdp = ends(seed)
    problem = Problem(mdp, policy(seed, mdp), Features.random(mdp, d, seed), Weights.uniform(mdp))
    found = n_step_fixed_point(problem, 1, behaviour=policy(seed + 1, mdp))
    expected = td_fixed_point(problem)
    assert found.kind == expected.kind
    np.testing.assert_allclose(found.w, expected.w, rtol=1e-9, atol=1e-11)
    assert found.bias == 0.0


@given(st.integers(0, 1000), st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_tabular_features_have_no_bias_if_the_actions_are_the_policys(seed: int, n: int) -> None:
    mdp = ends(seed)
    target = policy(seed, mdp)
    truth = certified_q(mdp, target).value[:3].reshape(-1)
    for behaviour in (None, target):
        found = n_step_fixed_point(tabular(mdp, target), n, behaviour=behaviour)
        assert found.conditions[-1].holds and found.bias < 1e-12 and found.limit_bias < 1e-12
        np.testing.assert_allclose(found.q, truth, rtol=0, atol=1e-11)
    other = n_step_fixed_point(tabular(mdp, target), 2, behaviour=policy(seed + 1, mdp))
    assert other.conditions[-1].holds is False and other.bias > 1e-9


def test_the_tolerance_of_no_bias_allows_for_the_products_and_for_the_solves() -> None:
    mdp = ends(3)
    problem = tabular(mdp, policy(0, mdp))
    stepped = n_step_problem(problem, 7)
    solves = sum(chain_value(each.P_pi, each.r, each.gamma).error_bound for each in (problem, stepped))
    allowed = n_step_fixed_point(problem, 7).conditions[-1].threshold
    assert solves < allowed < 1e-10


def test_the_bias_of_one_state_is_known_by_hand() -> None:
    # The policy always takes the action that pays 1, the behaviour the other: q = 1 + gamma^n q.
    mdp = TabularMDP.from_dense([[[1.0], [1.0]]], [[1.0, 0.0]], 0.5)
    problem = tabular(mdp, Policy([[1.0, 0.0]]))
    for n in (1, 2, 3, 10, 60):
        found = n_step_fixed_point(problem, n, behaviour=Policy([[0.0, 1.0]]))
        q = 1 / (1 - 0.5**n)
        np.testing.assert_allclose(found.target, [q, 0.5**n * q], rtol=1e-14)
        np.testing.assert_allclose(found.q, found.target, rtol=1e-12, atol=1e-15)
        assert found.bias == pytest.approx(2 - q, rel=1e-14)
        assert found.limit_bias == 1.0
        assert found.distance == pytest.approx(math.hypot(q - 1, 0.5**n * q) / math.sqrt(2), abs=1e-14)


def test_the_bias_grows_from_zero_to_the_distance_between_the_policies_values() -> None:
    mdp = garnet(6, 2, 2, 0.9, seed=3)
    target, behaviour = Policy.from_actions([0] * 6, 2), Policy.uniform(mdp)
    apart = np.abs(certified_q(mdp, behaviour).value - certified_q(mdp, target).value).max()
    found = [n_step_fixed_point(tabular(mdp, target), n, behaviour=behaviour) for n in (1, 2, 3, 10, 200)]
    bias = [each.bias for each in found]
    assert bias[0] == 0.0 and all(np.diff(bias) > 0.0)
    assert bias[-1] == pytest.approx(apart, rel=1e-8)
    for each in found:
        assert each.limit_bias == pytest.approx(apart, rel=1e-12)
        assert each.conditions[-1].holds is (each.n == 1)
        # The operator applied as written, step by step, stands still there.
        q = each.target.reshape(6, 2)
        for step in range(each.n):
            ahead = ((target if step == 0 else behaviour).probs * q).sum(axis=1)
            q = mdp.r + mdp.gamma * mdp.P @ ahead
        np.testing.assert_allclose(q.reshape(-1), each.target, rtol=1e-10)


def test_data_n_step_fixed_points_move_to_the_projection_and_model_expansions_do_not() -> None:
    problem = catalogue.load("random_walk_5_groups").problem
    # V = i / 6, and visits 1, 2, 3, 2, 1 from the centre: the groups' means are 5/18, 1/2, 13/18.
    projection = np.array([5 / 18, 1 / 2, 13 / 18])
    found = {n: n_step_fixed_point(problem, n) for n in (1, 3, 5, 25, 501)}
    np.testing.assert_allclose(found[1].w, [1 / 3, 1 / 2, 2 / 3], rtol=1e-12)
    odd = [each.distance for each in found.values()]
    assert odd[0] == pytest.approx(math.sqrt(6 / 9) / 18, rel=1e-10)
    assert all(np.diff(odd) < 0.0) and odd[-1] < 1e-12
    np.testing.assert_allclose(found[501].w, projection, rtol=1e-10)
    for each in found.values():
        assert each.conditions[-1].holds and each.limit_bias == 0.0
        np.testing.assert_allclose(h_step_solution(problem, each.n).w, found[1].w, rtol=1e-10)


def test_the_way_to_the_projection_is_not_monotone() -> None:
    problem = catalogue.load("random_walk_5_groups").problem
    two, five = (n_step_fixed_point(problem, n).distance for n in (2, 5))
    assert two < 1e-14 < 1e-3 < five


def test_the_error_is_the_value_of_the_weights_less_the_truth() -> None:
    mdp = garnet(5, 2, 3, 0.9, seed=4)
    target = policy(0, mdp)
    problem = Problem(mdp, target, Features.random(mdp, 3, seed=1), Weights.uniform(mdp))
    found = n_step_fixed_point(problem, 4, behaviour=Policy.uniform(mdp))
    np.testing.assert_allclose(found.error, problem.Z @ found.w - certified_q(mdp, target).value.reshape(-1))
    # It solves the n-step system, assembled by hand.
    P_b = np.einsum("sat,tb->satb", mdp.P, Policy.uniform(mdp).probs).reshape(10, 10)
    rewards = sum(0.9**t * np.linalg.matrix_power(P_b, t) @ problem.r for t in range(4))
    ahead = 0.9**4 * np.linalg.matrix_power(P_b, 3) @ problem.dense_P @ problem.Z
    A = problem.Z.T @ (problem.Z - ahead) / 10
    np.testing.assert_allclose(A @ found.w, problem.Z.T @ rewards / 10, rtol=1e-10, atol=1e-13)


def test_a_bare_chain_takes_the_behaviours_chain() -> None:
    mdp = garnet(5, 2, 3, 0.9, seed=4)
    whole = Problem(mdp, policy(0, mdp), Features.random(mdp, 3, seed=1), Weights.uniform(mdp))
    P_b = np.einsum("sat,tb->satb", mdp.P, Policy.uniform(mdp).probs).reshape(10, 10)
    bare = Problem.from_chain(whole.P_pi, whole.r, whole.Z, whole.mu, whole.gamma)
    expected = n_step_fixed_point(whole, 3, behaviour=Policy.uniform(mdp))
    for chain in (P_b, sparse.csr_array(P_b)):
        found = n_step_fixed_point(bare, 3, behaviour=chain)
        np.testing.assert_allclose(found.w, expected.w, rtol=1e-10)
        assert found.bias == pytest.approx(expected.bias, rel=1e-12)


def test_a_behaviour_is_taken_on_the_rows_that_are_reachable() -> None:
    # State 1 cannot be reached from state 2, so the rows are those of states 2 and 3 alone.
    to_three = [0.0, 0.0, 0.0, 1.0]
    P = [[[0, 1, 0, 0], [1, 0, 0, 0]], [[1, 0, 0, 0]] * 2, [to_three, [0, 0, 1, 0]], [[0, 0, 1, 0], to_three]]
    mdp = TabularMDP.from_dense(P, [[9, 9], [9, 9], [1, 0], [2, 0]], 0.5)
    target, behaviour = Policy.from_actions([0, 0, 0, 0], 2), Policy.from_actions([0, 0, 1, 1], 2)
    problem = Problem(mdp, target, Features.one_hot(mdp), Weights.uniform(mdp), reachable_from=2)
    # (2, 0) pays 1 and leads to 3, where the behaviour takes 1, pays 0 and stays; then 3 takes 0.
    q = n_step_fixed_point(problem, 2, behaviour=behaviour).target
    assert problem.n == 4 and q[0] == pytest.approx(1 + 0.25 * q[2], rel=1e-14)
    assert q[2] == pytest.approx(2 + 0.25 * q[0], rel=1e-14)


def test_sparse_chains_give_the_same() -> None:
    dense, sparse_mdp = (garnet(8, 2, 2, 0.9, seed=11, num_terminal=1, dense=kind) for kind in (True, False))
    found = []
    for mdp in (dense, sparse_mdp):
        target, behaviour = Policy.from_actions([0] * 8, 2), Policy.uniform(mdp)
        features, weights = Features.random(mdp, 3, seed=1), Weights.uniform(mdp)
        problem = Problem(mdp, target, features, weights)
        found.append(n_step_fixed_point(problem, 3, behaviour=behaviour))
    assert sparse.issparse(problem.P_pi)
    np.testing.assert_allclose(found[0].q, found[1].q, rtol=1e-10)


def test_a_singular_n_step_system_has_no_fixed_point_though_one_step_has() -> None:
    # w -> 2w at gamma = sqrt(5/6): two steps discount by 5/6, where A = 0.
    problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], math.sqrt(5 / 6))
    one, two = (n_step_fixed_point(problem, n) for n in (1, 2))
    assert one.kind == "unique" and two.kind == "none"
    assert two.w is None and two.q is None and two.error is None and two.distance is None
    assert two.conditions[0].holds is False and two.nullity == 1
    assert two.bias < 1e-12  # the operator itself is sound


def test_infinite_returns_are_said_and_not_computed() -> None:
    stays = TabularMDP.from_dense(
        [[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]],
        [[1.0, 1.0], [0, 0]],
        1.0,
        terminal=[False, True],
    )
    leave, remain = Policy.from_actions([0, 0], 2), Policy.from_actions([1, 0], 2)
    proper = n_step_fixed_point(tabular(stays, leave), 3)
    assert proper.conditions[1].holds and proper.target.tolist() == [1.0, 2.0]
    for target, behaviour in ((remain, None), (leave, remain)):
        found = n_step_fixed_point(tabular(stays, target), 3, behaviour=behaviour)
        assert found.conditions[1].name == "returns are finite" and found.conditions[1].holds is False
        assert len(found.conditions) == 2
        assert [found.target, found.bias, found.limit_bias, found.error, found.distance] == [None] * 5


def test_two_policies_that_end_may_mix_into_one_that_does_not() -> None:
    # The policy leads from 0 to 1 and ends there; the behaviour from 1 to 0 and ends there.
    P_pi, P_b = [[0, 1], [0, 0]], [[0, 0], [1, 0]]
    problem = Problem.from_chain(P_pi, [1, 1], np.eye(2), [0.5, 0.5], 1.0)
    one, two = (n_step_fixed_point(problem, n, behaviour=P_b) for n in (1, 2))
    assert one.conditions[1].holds and one.target.tolist() == [2.0, 1.0]
    assert two.conditions[1].name == "returns are finite" and two.conditions[1].holds is False
    assert two.target is None and two.bias is None


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True])
def test_a_number_of_steps_that_cannot_be_is_refused(n: Any) -> None:
    with pytest.raises(InputError, match="n must be a whole number from 1"):
        n_step_fixed_point(tabular(ends(), Policy.uniform(ends())), n)


def test_a_behaviour_that_does_not_fit_is_refused() -> None:
    bare = catalogue.load("three_cycle").problem
    with pytest.raises(InputError, match=r"a bare chain without actions; give .* \(3, 3\) chain"):
        n_step_fixed_point(bare, 2, behaviour=Policy([[1.0]]))
    with pytest.raises(InputError, match=r"behaviour must have shape \(3, 3\)"):
        n_step_fixed_point(bare, 2, behaviour=np.eye(2))
    mdp = ends()
    with pytest.raises(InputError, match="The policy is for 1 states"):
        n_step_fixed_point(tabular(mdp, Policy.uniform(mdp)), 2, behaviour=Policy([[1.0]]))


def test_a_chain_that_would_not_fit_is_refused() -> None:
    n = 4001
    large = Problem.from_chain(
        sparse.eye_array(n, format="csr"), np.zeros(n), np.ones(n), np.full(n, 1 / n), 0.9
    )
    with pytest.raises(InputError, match="at most 4000 rows; the problem has 4001"):
        n_step_fixed_point(large, 2)


def test_returns_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match=r"done must have shape \(2,\)"):
        n_step_return([1.0, 2.0], [True], 0.9)
    with pytest.raises(InputError, match="done must hold True or False"):
        n_step_return([1.0, 2.0], [0, 1], 0.9)
    with pytest.raises(InputError, match="rewards must have shape"):
        n_step_return(1.0, True, 0.9)
    with pytest.raises(InputError, match=r"gamma must lie in \[0, 1\]"):
        n_step_return([1.0], [True], 1.5)
