"""The Bellman residual's two parts at a right angle, and TD against the residual's minimiser."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import InputError, Problem, catalogue, td_fixed_point
from theory.bellman_residual import bellman_residual, compare_with_residual_minimiser
from theory.weighted_norms import weighted_norms

seeds = st.integers(0, 10_000)
few = settings(max_examples=30)
A10 = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)


def random_problem(seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 9))
    chain = rng.dirichlet(np.ones(n) * 0.4, n)
    if rng.random() < 0.5:
        chain *= rng.uniform(0.3, 1.0, (n, 1))
    Z = rng.normal(size=(n, int(rng.integers(1, n))))
    gamma = float(rng.choice([0.5, 0.9]))
    return Problem.from_chain(chain, rng.normal(size=n), Z, rng.dirichlet(np.ones(n) * 3), gamma)


def by_hand(problem: Problem, w: np.ndarray) -> tuple[float, float, float]:
    """Return the squares of total, projected and adequacy from explicit matrices."""
    D, Z = np.diag(problem.mu), problem.Z
    Pi = Z @ np.linalg.inv(Z.T @ D @ Z) @ Z.T @ D
    V = Z @ w
    TV = problem.r + problem.gamma * problem.dense_P @ V
    squares = [x @ D @ x for x in (TV - V, Pi @ (TV - V), TV - Pi @ TV)]
    return squares[0], squares[1], squares[2]


@given(seeds)
@few
def test_the_residual_is_the_projected_part_and_the_adequacy_at_a_right_angle(seed):
    problem = random_problem(seed)
    w = np.random.default_rng(seed + 1).normal(size=problem.d)
    found = bellman_residual(problem, w)
    squares = (found.total**2, found.projected**2, found.adequacy**2)
    np.testing.assert_allclose(squares, by_hand(problem, w), rtol=1e-6, atol=1e-9)
    assert found.total**2 == pytest.approx(found.projected**2 + found.adequacy**2, rel=1e-9)
    assert found.holds and found.tolerance < 1e-6 * max(1.0, found.total**2)


def test_by_hand_w_to_2w():
    # TD: w = 3/2, TV - V = (1, -1/2). Minimiser: w = 1, TV - V = (1, 0).
    study = compare_with_residual_minimiser(A10)
    assert study.kind == "unique" and study.minimiser_rank == 1
    assert study.td.w == pytest.approx([1.5]) and study.minimiser.w == pytest.approx([1.0])
    td = [study.td.total**2, study.td.projected**2, study.td.adequacy**2]
    assert td == pytest.approx([5 / 8, 0, 5 / 8], abs=1e-14)
    least = [study.minimiser.total**2, study.minimiser.projected**2, study.minimiser.adequacy**2]
    assert least == pytest.approx([1 / 2, 1 / 10, 2 / 5])
    assert study.td_error == pytest.approx([-0.5, 1.0]) and study.minimiser_error == pytest.approx(
        [-1.0, 0.0]
    )


@given(seeds)
@few
def test_td_makes_the_projected_part_zero_and_the_minimiser_the_sum_smallest(seed):
    problem = random_problem(seed)
    study, rng = compare_with_residual_minimiser(problem), np.random.default_rng(seed)
    assert study.td.projected <= 1e-8 * (1.0 + study.td.total)
    np.testing.assert_allclose(study.td.w, td_fixed_point(problem).w, rtol=1e-7, atol=1e-8)
    assert study.minimiser.total <= study.td.total * (1 + 1e-9)
    for _ in range(5):
        other = bellman_residual(problem, study.minimiser.w + 0.1 * rng.normal(size=problem.d))
        assert study.minimiser.total <= other.total * (1 + 1e-12)
        assert other.projected > 1e-8


@given(seeds)
@few
def test_the_value_error_of_either_is_its_residual_times_the_resolvents_norm_at_most(seed):
    problem = random_problem(seed)
    study, norms = compare_with_residual_minimiser(problem), weighted_norms(problem)
    q = np.linalg.solve(np.eye(problem.n) - problem.gamma * problem.dense_P, problem.r)
    for split, error in [(study.td, study.td_error), (study.minimiser, study.minimiser_error)]:
        np.testing.assert_allclose(error, problem.Z @ split.w - q, atol=1e-8 * (1 + abs(error).max()))
        assert norms.norm(error) <= norms.resolvent * split.total * (1 + 1e-8) + 1e-9


def test_neither_has_always_the_smaller_value_error():
    ratios = []
    for seed in range(40):
        problem = random_problem(seed)
        study = compare_with_residual_minimiser(problem)
        td, least = (np.sqrt(problem.mu @ e**2) for e in (study.td_error, study.minimiser_error))
        ratios.append(td / least)
    assert min(ratios) < 0.9 and max(ratios) > 1.1


def test_both_are_exact_if_the_features_hold_the_value():
    problem = catalogue.load("boyan_chain").problem
    study = compare_with_residual_minimiser(problem)
    assert study.td.total < 1e-12 and study.minimiser.total < 1e-12
    np.testing.assert_allclose(study.minimiser.w, [-24, -16, -8, 0], atol=1e-10)
    np.testing.assert_allclose(study.minimiser_error, 0.0, atol=1e-10)


def test_where_td_has_no_fixed_point_the_minimiser_still_exists():
    study = compare_with_residual_minimiser(catalogue.load("tsitsiklis_van_roy_singular").problem)
    assert study.td is None and study.td_error is None and study.kind == "none"
    # Z - gamma Z' = (-2/3, 1/3): w = (-2/3 + 1/3) / (4/9 + 1/9) = -3/5.
    assert study.minimiser.w == pytest.approx([-0.6]) and study.minimiser.holds


def test_one_of_many_fixed_points_of_td_is_not_compared():
    study = compare_with_residual_minimiser(catalogue.load("tsitsiklis_van_roy_singular_zero_reward").problem)
    assert study.kind == "affine" and study.td is None and study.td_error is None
    assert study.minimiser.w == pytest.approx([0.0]) and study.minimiser_error == pytest.approx([0.0, 0.0])


def test_a_projection_without_the_weights_is_not_at_a_right_angle():
    problem = Problem.from_chain([[0, 1], [0, 1]], [1, 0], [[1], [2]], [0.9, 0.1], 0.5)
    found = bellman_residual(problem, [1.0])
    uniform = copy.copy(problem)
    object.__setattr__(uniform, "mu", np.array([0.5, 0.5]))
    wrong = bellman_residual(uniform, [1.0])
    assert found.holds and wrong.holds
    residual = np.array([1.0, -1.0])  # TV - V with V = (1, 2) and TV = (2, 1)
    assert found.total == pytest.approx(1.0) and wrong.total == pytest.approx(1.0)
    z = problem.Z[:, 0]
    slanted = z * (z @ residual) / (z @ z)  # the unweighted projection, measured under the weights
    rest = residual - slanted
    assert abs(problem.mu @ slanted**2 + problem.mu @ rest**2 - 1.0) > 0.1


def test_badly_scaled_features_keep_the_equality():
    problem = random_problem(7)
    Z = problem.Z * 10.0 ** np.arange(-6, 6)[: problem.d]
    scaled = Problem.from_chain(problem.P_pi, problem.r, Z, problem.mu, problem.gamma)
    first, second = compare_with_residual_minimiser(problem), compare_with_residual_minimiser(scaled)
    assert second.td.holds and second.minimiser.holds
    assert second.td.total == pytest.approx(first.td.total, rel=1e-9)
    assert second.minimiser.total == pytest.approx(first.minimiser.total, rel=1e-9)


def test_dependent_features_have_the_same_values():
    problem = random_problem(8)
    doubled = Problem.from_chain(
        problem.P_pi, problem.r, np.hstack([problem.Z, problem.Z[:, :1]]), problem.mu, problem.gamma
    )
    first, second = compare_with_residual_minimiser(problem), compare_with_residual_minimiser(doubled)
    assert second.minimiser_rank == first.minimiser_rank == problem.d
    np.testing.assert_allclose(second.minimiser_error, first.minimiser_error, atol=1e-9)
    np.testing.assert_allclose(second.td_error, first.td_error, atol=1e-9)


def test_rows_without_weight_do_not_count():
    problem = Problem.from_chain([[0, 1], [0, 0]], [1, 100], [[1.0], [0.0]], [1.0, 0.0], 0.5)
    found = bellman_residual(problem, [1.0])
    assert found.total == found.projected == pytest.approx(0.0) and found.adequacy == 0.0


def test_the_split_needs_no_finite_returns_but_the_comparison_does():
    problem = catalogue.load("continuing_undiscounted").problem
    assert bellman_residual(problem, np.ones(problem.d)).holds
    with pytest.raises(InputError, match="never ends"):
        compare_with_residual_minimiser(problem)


@pytest.mark.parametrize("w", [[1.0, 2.0], [np.nan], 1.0])
def test_bad_weights_are_named(w):
    with pytest.raises(InputError, match="w must"):
        bellman_residual(A10, w)
