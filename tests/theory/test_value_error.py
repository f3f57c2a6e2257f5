"""Theorem 2 as an equality: it holds for any weights and model, and fails for a wrong P, r, Z' or policy."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from theory import Features, InputError, LinearModel, Policy, Problem, TabularMDP, Weights
from theory.value_error import value_error, value_error_of_functions

TVR = [[0.0, 1.0], [0.0, 1.0]]
HALF = [0.5, 0.5]


def random_problem(seed: int, *, ends: bool | None = None, gamma: float | None = None) -> Problem:
    """Return a chain of up to 8 rows, some of which may end, with random features and positive weights."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9))
    chain = rng.random((n, n)) * (rng.random((n, n)) < 0.6) + 1e-3
    chain /= chain.sum(axis=1, keepdims=True)
    if ends if ends is not None else rng.random() < 0.5:
        chain *= rng.uniform(0.3, 1.0, (n, 1))
    d = int(rng.integers(1, n + 1))
    discount = float(rng.choice([0.0, 0.5, 0.9, 0.99])) if gamma is None else gamma
    return Problem.from_chain(
        chain, rng.normal(size=n), rng.normal(size=(n, d)), rng.dirichlet(np.ones(n) * 3), discount
    )


def random_mdp_problem(seed: int) -> Problem:
    """Return a problem of an MDP with one terminal state, cut out by the package."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.ones(4), (4, 2))
    mdp = TabularMDP.from_dense(P, rng.normal(size=(4, 2)), 0.9, terminal=[False, False, False, True])
    policy = Policy(rng.dirichlet(np.ones(2), 4))
    return Problem(mdp, policy, Features.from_array(rng.normal(size=(4, 2, 3))), Weights.uniform(mdp))


def with_fields(problem: Problem, **fields: object) -> Problem:
    """Return a problem with fields overwritten behind its back, as a mistake elsewhere would."""
    wrong = copy.copy(problem)
    for name, value in fields.items():
        object.__setattr__(wrong, name, value)
    return wrong


seeds = st.integers(0, 10_000)
few = settings(max_examples=30)


@given(seeds)
@few
def test_the_identity_holds_at_the_solution_and_planning_adds_nothing(seed):
    split = value_error(random_problem(seed))
    assert split.holds
    assert abs(split.planning).max() <= split.tolerance


@given(seeds)
@few
def test_the_identity_holds_for_any_weights_and_any_model(seed):
    problem, rng = random_problem(seed), np.random.default_rng(seed + 1)
    d = problem.d
    model = LinearModel(rng.normal(size=d), rng.normal(size=(d, d)), d, 1.0)
    split = value_error(problem, w=rng.normal(size=d), model=model)
    assert split.holds
    assert split.tolerance < 1e-8 * max(1.0, abs(split.error).max())


@given(seeds)
@few
def test_every_part_is_what_an_explicit_inverse_gives(seed):
    problem, rng = random_problem(seed), np.random.default_rng(seed + 1)
    d, gamma = problem.d, problem.gamma
    w_r, W_d, w = rng.normal(size=d), rng.normal(size=(d, d)), rng.normal(size=d)
    G = np.linalg.inv(np.eye(problem.n) - gamma * problem.dense_P)
    split = value_error(problem, w=w, model=LinearModel(w_r, W_d, d, 1.0))
    Z = problem.Z
    np.testing.assert_allclose(split.error, Z @ w - G @ problem.r, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(split.reward, G @ (Z @ w_r - problem.r), rtol=1e-9, atol=1e-9)
    expected = gamma * G @ ((Z @ W_d - problem.dense_P @ Z) @ w)
    np.testing.assert_allclose(split.dynamics, expected, rtol=1e-9, atol=1e-9)
    expected = G @ Z @ (w - w_r - gamma * W_d @ w)
    np.testing.assert_allclose(split.planning, expected, rtol=1e-9, atol=1e-9)
    assert split.horizon == pytest.approx(G.sum(axis=1).max())


@given(seeds)
@few
def test_wrong_next_features_are_caught(seed):
    problem = random_problem(seed, gamma=0.9)
    wrong = problem.Z_next.copy()
    wrong[0, 0] += 1e-6
    split = value_error(problem, w=np.ones(problem.d), Z_next=wrong)
    assert not split.holds
    assert split.identity_residual > 1e-7


@given(seeds)
@few
def test_a_wrong_reward_is_caught(seed):
    problem = random_problem(seed)
    other = with_fields(problem, r=problem.r + 1e-6 * np.eye(problem.n)[0])
    assert not value_error(other, q_true=value_error(problem).q_true).holds


@given(seeds)
@few
def test_a_wrong_chain_is_caught(seed):
    problem = random_problem(seed, gamma=0.9)
    chain = problem.dense_P.copy()
    chain[0] = np.roll(chain[0], 1) if np.ptp(chain[0]) > 1e-3 else 0.5 * chain[0]
    other = Problem.from_chain(chain, problem.r, problem.Z, problem.mu, 0.9)
    assert value_error(other, q_true=value_error(problem).q_true).identity_residual > 1e-5


@given(seeds)
@few
def test_values_of_another_policy_are_caught(seed):
    problem = random_mdp_problem(seed)
    assert value_error(problem).holds
    other = Policy(problem.policy.probs[:, ::-1])
    # The problem keeps its chain, made with one policy; the truth is solved for another.
    split = value_error(with_fields(problem, policy=other))
    assert split.identity_residual > 1e3 * split.tolerance


def test_forgetting_that_an_end_ends_is_caught():
    """The last state pays 5 for ever in the table; its rows must not count."""
    P = [[[0.5, 0.5]], [[0.0, 1.0]]]
    mdp = TabularMDP.from_dense(P, [[1.0], [5.0]], 0.9, terminal=[False, True])
    policy, features = Policy.uniform(mdp), Features.from_array([[[1.0]], [[1.0]]])
    problem = Problem(mdp, policy, features, Weights.uniform(mdp))
    right = value_error(problem)
    assert right.holds
    assert right.q_true == pytest.approx([1.0 / (1.0 - 0.45)])
    ignored = np.linalg.solve(np.eye(2) - 0.9 * np.array(P)[:, 0], [1.0, 5.0])[:1]
    assert value_error(problem, q_true=ignored).identity_residual > 30.0


@given(seeds)
@few
def test_any_functions_obey_the_same_identity(seed):
    problem, rng = random_problem(seed), np.random.default_rng(seed + 1)
    q, r_hat, ahead = rng.normal(size=(3, problem.n))
    split = value_error_of_functions(problem, q, r_hat, ahead)
    assert split.holds
    G = np.linalg.inv(np.eye(problem.n) - problem.gamma * problem.dense_P)
    np.testing.assert_allclose(split.error, q - G @ problem.r, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(split.reward, G @ (r_hat - problem.r), rtol=1e-9, atol=1e-9)
    wrong_truth = split.q_true + 1e-6
    assert not value_error_of_functions(problem, q, r_hat, ahead, q_true=wrong_truth).holds


@given(seeds)
@few
def test_a_linear_model_is_a_special_case_of_functions(seed):
    problem, rng = random_problem(seed), np.random.default_rng(seed + 1)
    d = problem.d
    w_r, W_d, w = rng.normal(size=d), rng.normal(size=(d, d)), rng.normal(size=d)
    linear = value_error(problem, w=w, model=LinearModel(w_r, W_d, d, 1.0))
    functions = value_error_of_functions(problem, problem.Z @ w, problem.Z @ w_r, problem.Z @ (W_d @ w))
    for name in ("error", "reward", "dynamics", "planning"):
        np.testing.assert_allclose(getattr(linear, name), getattr(functions, name), rtol=1e-9, atol=1e-9)


WALK5 = 0.5 * (np.eye(5, k=1) + np.eye(5, k=-1))
WALK19 = 0.5 * (np.eye(19, k=1) + np.eye(19, k=-1))


def visits(chain: np.ndarray, start: int) -> np.ndarray:
    """Return the expected visits to each row from one start, as weights."""
    counts = np.linalg.solve(np.eye(len(chain)) - chain.T, np.eye(len(chain))[start])
    return counts / counts.sum()


def walk_19() -> Problem:
    ends = np.zeros(19)
    ends[[0, -1]] = [-0.5, 0.5]
    return Problem.from_chain(
        WALK19, ends, np.eye(4)[np.repeat(range(4), [5, 5, 5, 4])], visits(WALK19, 9), 1.0
    )


def test_convergent_two_states():
    """w -> 2w at gamma = 1/2 (A10): w = 3/2, values (1.5, 3) against (2, 2)."""
    split = value_error(Problem.from_chain(TVR, [1, 1], [[1], [2]], HALF, 0.5))
    np.testing.assert_allclose(split.w, [1.5], rtol=1e-13)
    np.testing.assert_allclose(split.error, [-0.5, 1.0], rtol=1e-12)


def test_five_state_walk_in_three_groups():
    """E02: weights (1/3, 1/2, 2/3), largest value error 1/6."""
    groups = np.eye(3)[[0, 0, 1, 2, 2]]
    split = value_error(Problem.from_chain(WALK5, [0, 0, 0, 0, 0.5], groups, visits(WALK5, 2), 1.0))
    np.testing.assert_allclose(split.w, [1 / 3, 1 / 2, 2 / 3], rtol=1e-12)
    assert abs(split.error).max() == pytest.approx(1 / 6, rel=1e-11)
    assert split.horizon == pytest.approx(9.0, rel=1e-11)


def test_nineteen_state_walk_in_four_groups():
    """E03: weights (-1/6, 0, 1/10, 7/25), largest value error 11/15, horizon 100 at gamma = 1."""
    split = value_error(walk_19())
    np.testing.assert_allclose(split.w, [-1 / 6, 0, 1 / 10, 7 / 25], rtol=1e-11, atol=1e-13)
    assert abs(split.error).max() == pytest.approx(11 / 15, rel=1e-11)
    assert split.horizon == pytest.approx(100.0, rel=1e-11)


def test_deterministic_chain_of_six():
    """E05: features (1, i), w = (23/39, 1/13), largest value error .025641 = 1/39."""
    Z = np.column_stack([np.ones(6), np.arange(6)])
    split = value_error(Problem.from_chain(np.eye(6, k=1), [0, 0, 0, 0, 0, 1], Z, np.ones(6) / 6, 0.9))
    np.testing.assert_allclose(split.w, [23 / 39, 1 / 13], rtol=1e-12)
    assert abs(split.error).max() == pytest.approx(1 / 39, rel=1e-11)


@pytest.mark.parametrize(
    ("weight", "size"),
    [
        (0.5, 0.00174),
        (0.6, 0.02162),
        (0.7, 0.45199),
        (0.71, 3.88283),
        (0.711, 13.7221),
        (0.72, 0.66264),
        (0.9, 0.05642),
    ],
)
def test_the_error_grows_without_bound_near_a_singular_weighting(weight, size):
    """Kolter 2011 (A23), Euclidean norm of the error as printed."""
    P, V = np.full((2, 2), 0.5), np.array([1.0, 1.05])
    problem = Problem.from_chain(P, V - 0.99 * P @ V, [1.0, 1.051], [weight, 1 - weight], 0.99)
    split = value_error(problem)
    assert split.holds
    assert np.linalg.norm(split.error) == pytest.approx(size, abs=0.6 * 10.0 ** -(4 if size > 10 else 5))


def test_cancelling_parts_leave_no_error():
    """Features that contain the true value: no error, and parts that are not zero."""
    problem = Problem.from_chain(TVR, [1, 1], [[1, 1], [1, 2]], HALF, 0.5)
    model = LinearModel(np.array([1.0, 0.3]), np.array([[1.0, 0.0], [0.0, 1.0]]), 2, 1.0)
    split = value_error(problem, w=[2.0, 0.0], model=model)
    assert split.holds
    assert abs(split.error).max() < 1e-12 < 0.1 < abs(split.reward).max()


def test_without_a_solution_the_planning_part_says_so():
    """A = 0 and b is not (A08): weights 0 are the least-squares answer, and the identity still holds."""
    split = value_error(Problem.from_chain(TVR, [1, 1], [[1], [2]], HALF, 5 / 6))
    assert split.w.tolist() == [0.0]
    assert split.holds
    assert abs(split.planning).max() > 1.0


def test_a_reward_within_the_range_of_a_singular_model_has_the_least_solution():
    split = value_error(Problem.from_chain(TVR, [0, 0], [[1], [2]], HALF, 5 / 6))
    assert split.w.tolist() == [0.0]
    assert abs(split.planning).max() == 0.0


def test_ill_conditioned_features_pass():
    """Monomials to degree 6 on a walk: their condition number is of order 1e6 even with columns scaled."""
    x = np.arange(1.0, 20.0)
    problem = Problem.from_chain(WALK19, np.sin(x), x[:, None] ** np.arange(7), np.ones(19) / 19, 0.95)
    split = value_error(problem)
    assert split.holds
    assert abs(split.planning).max() <= split.tolerance < 1e-3
    assert not value_error(problem, q_true=split.q_true + 1e-2).holds


def test_a_sparse_chain_gives_the_same():
    problem = walk_19()
    thin = Problem.from_chain(sparse.csr_array(WALK19), problem.r, problem.Z, problem.mu, 1.0)
    np.testing.assert_allclose(value_error(thin).error, value_error(problem).error, atol=1e-12)
    assert value_error(thin).holds


def test_single_precision_input_is_computed_in_double():
    problem = Problem.from_chain(
        np.float32(TVR), np.float32([1, 1]), np.float32([[1], [2]]), np.float32(HALF), 0.5
    )
    split = value_error(problem, w=np.float32([1.0]))
    assert split.error.dtype == np.float64
    assert split.holds


def test_infinite_values_are_refused_with_the_row_named():
    problem = Problem.from_chain([[1.0, 0.0], [0.0, 0.5]], [1, 1], [[1], [2]], HALF, 1.0)
    with pytest.raises(InputError, match="row 0"):
        value_error(problem)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("w", [1.0, 2.0]), ("Z_next", [[1.0]]), ("q_true", [1.0]), ("w", [np.nan])],
)
def test_arrays_of_the_wrong_shape_are_named(argument, value):
    problem = Problem.from_chain(TVR, [1, 1], [[1], [2]], HALF, 0.5)
    with pytest.raises(InputError, match=argument):
        value_error(problem, **{argument: value})


def test_a_model_of_other_features_is_refused():
    problem = Problem.from_chain(TVR, [1, 1], [[1], [2]], HALF, 0.5)
    with pytest.raises(InputError, match=r"model\.w_r"):
        value_error(problem, model=LinearModel(np.ones(2), np.eye(2), 2, 1.0))
