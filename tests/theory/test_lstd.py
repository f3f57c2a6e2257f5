"""Sampled LSTD: its law by hand and by brute force, its errors against exact expectations, its verdicts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from theory import InputError, Problem, catalogue, frozen_lake, lstd_study, td_fixed_point, td_system
from theory.features import Features
from theory.lstd import _judge, sizes_for_law
from theory.policy import Policy
from theory.sampling_law import draw_errors, sampling_law
from theory.weights import Weights


def stays(p: float, gamma: float = 1.0) -> Problem:
    """One row that is left with probability 1 - p: w = 1 / (1 - gamma p)."""
    return Problem.from_chain([[p]], [1.0], [[1.0]], [1.0], gamma)


def fair() -> Problem:
    return Problem.from_chain(np.full((2, 2), 0.5), [1.0, 0.0], np.eye(2), [0.5, 0.5], 0.5)


def random_problem(seed: int, n: int, d: int) -> Problem:
    draws = np.random.default_rng(seed)
    chain = draws.dirichlet(np.full(n, 0.5), size=n) * draws.uniform(0.5, 1.0, size=(n, 1))
    mu = draws.dirichlet(np.ones(n)) * 0.9 + 0.1 / n
    return Problem.from_chain(chain, draws.normal(size=n), draws.normal(size=(n, d)), mu, 0.8)


def covariance_by_loops(problem: Problem, reward_std: float = 0.0) -> np.ndarray:
    """A^-1 Sigma A^-T from all transitions, one by one, ends included."""
    A, w = td_system(problem).A, td_fixed_point(problem).w
    Sigma = np.zeros_like(A)
    for i in range(problem.n):
        after = [(p, problem.Z[j]) for j, p in enumerate(problem.dense_P[i])]
        after.append((1.0 - problem.dense_P[i].sum(), np.zeros(problem.d)))
        for p, z_next in after:
            delta = problem.r[i] + problem.gamma * z_next @ w - problem.Z[i] @ w
            Sigma += problem.mu[i] * p * (delta**2 + reward_std**2) * np.outer(problem.Z[i], problem.Z[i])
    return np.linalg.inv(A) @ Sigma @ np.linalg.inv(A).T


@pytest.mark.parametrize(("p", "gamma"), [(0.75, 1.0), (0.5, 0.9)])
def test_the_trace_of_one_row_is_known_by_hand(p: float, gamma: float) -> None:
    # delta = +- gamma w with the variance of a coin: trace gamma^2 p (1 - p) / (1 - gamma p)^4.
    study = lstd_study(stays(p, gamma), [2000, 8000], runs=300, seed=1)
    assert study.predicted_trace == pytest.approx(gamma**2 * p * (1 - p) / (1 - gamma * p) ** 4, rel=1e-13)
    assert study.w == pytest.approx([1 / (1 - gamma * p)], rel=1e-14)


def test_the_covariance_of_two_rows_is_known_by_hand() -> None:
    # w = (3/2, 1/2), delta = +-1/4, A^-1 = 2 (I + P): covariance (I + P)(I + P)^T / 8.
    study = lstd_study(fair(), [100, 200], runs=2, seed=0)
    np.testing.assert_allclose(study.covariance, [[5 / 16, 3 / 16], [3 / 16, 5 / 16]], rtol=1e-13)
    assert study.predicted_trace == pytest.approx(5 / 8, rel=1e-13)


@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(1, 3), st.sampled_from([0.0, 0.7]))
@settings(max_examples=40, deadline=None)
def test_the_covariance_is_that_of_all_transitions_one_by_one(
    seed: int, n: int, d: int, reward_std: float
) -> None:
    problem = random_problem(seed, n, min(n, d))
    law, _ = sampling_law(problem, reward_std=reward_std)
    expected = covariance_by_loops(problem, reward_std)
    np.testing.assert_allclose(law.covariance, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_another_basis_transforms_the_covariance_and_not_the_curvature(seed: int) -> None:
    problem, T = random_problem(seed, 5, 3), np.array([[2.0, 0.0, 1.0], [0.0, 50.0, 0.0], [0.0, 1.0, 0.1]])
    other = Problem.from_chain(problem.P_pi, problem.r, problem.Z @ T, problem.mu, problem.gamma)
    (one, _), (two, _) = sampling_law(problem), sampling_law(other)
    back = T @ two.covariance @ T.T
    np.testing.assert_allclose(back, one.covariance, rtol=1e-6, atol=1e-7 * np.abs(one.covariance).max())
    assert two.curvature == pytest.approx(one.curvature, rel=1e-6)


def test_the_curvature_of_one_row_is_known_by_hand() -> None:
    # A^-1 (z - gamma z') is (1 - Bernoulli(p)) / (1 - p): variance p / (1 - p).
    assert sampling_law(stays(0.75))[0].curvature == pytest.approx(3.0, rel=1e-13)
    assert sizes_for_law(stays(0.75), 3) == [600, 2400, 9600]


def test_small_samples_have_the_exact_expected_error() -> None:
    # w = N / ends, and 0 by least norm if no run ended: exact expectations from the binomial.
    problem, runs = stays(0.5), 400_000
    study = lstd_study(problem, [4, 12], runs=runs, seed=3)
    for size, mse, error, singular in zip(
        study.sizes.tolist(), study.mse, study.mse_error, study.singular, strict=True
    ):
        ends = np.arange(size + 1)
        p = stats.binom.pmf(ends, size, 0.5)
        squares = (np.where(ends > 0, size / np.maximum(ends, 1), 0.0) - 2.0) ** 2
        assert abs(mse - p @ squares) < 4.5 * error
        assert error == pytest.approx(math.sqrt((p @ squares**2 - (p @ squares) ** 2) / runs), rel=0.1)
        assert abs(singular - runs * p[0]) < 4.5 * math.sqrt(runs * p[0])
    assert study.verdict == "inconclusive" and not study.used.any() and study.slope is None


def test_counts_have_the_law_of_transitions_drawn_one_after_another() -> None:
    problem, size, runs = random_problem(5, 3, 2), 40, 4000
    chain = np.column_stack([problem.dense_P, 1.0 - problem.dense_P.sum(axis=1)])
    draws, w = np.random.default_rng(0), td_fixed_point(problem).w
    Z = np.vstack([problem.Z, np.zeros(2)])
    errors = []
    for _ in range(runs):
        rows = draws.choice(3, size=size, p=problem.mu)
        after = (draws.random(size)[:, None] > np.cumsum(chain, axis=1)[rows]).sum(axis=1)
        A = Z[rows].T @ (Z[rows] - problem.gamma * Z[after])
        errors.append(np.linalg.solve(A, Z[rows].T @ problem.r[rows]) - w)
    found, singular = draw_errors(sampling_law(problem)[0], size, runs, np.random.default_rng(1))
    assert singular == 0
    # Heavy tails at so small a size: distributions are compared, not means.
    for one, other in zip(np.array(errors).T, found.T, strict=True):
        assert stats.ks_2samp(one, other).pvalue > 1e-3


@pytest.mark.parametrize(
    "name", ["tsitsiklis_van_roy_reward_one", "basis_dependence_b", "random_walk_19_groups", "kolter_p711"]
)
def test_slope_and_constant_are_those_of_the_law_where_td_and_rollout_may_diverge(name: str) -> None:
    problem = catalogue.load(name).problem
    study = lstd_study(problem, sizes_for_law(problem), runs=1000, seed=0)
    assert study.verdict == "pass" and study.used.all() and study.singular.sum() == 0
    low, high = study.slope_ci
    assert low < study.slope < high and high - low < 0.05
    assert abs(study.slope + 0.5) < 0.03 and abs(study.ratio[-1] - 1.0) < 0.2
    np.testing.assert_allclose(study.ratio, study.sizes * study.mse / study.predicted_trace, rtol=1e-14)


def test_frozen_lake_with_a_reward_only_at_the_end_follows_the_law() -> None:
    mdp = frozen_lake("4x4", 0.95)
    problem = Problem(mdp, Policy.uniform(mdp), Features.random(mdp, 6, seed=0), Weights.uniform(mdp))
    study = lstd_study(problem, sizes_for_law(problem, 4), runs=400, seed=0)
    assert study.verdict == "pass" and study.predicted_trace > 0.0


def test_a_wrong_constant_and_a_wrong_slope_fail() -> None:
    study = lstd_study(fair(), sizes_for_law(fair(), 4), runs=1000, seed=0)
    assert study.verdict == "pass"
    bare = replace(study, conditions=study.conditions[:1])
    wrong = _judge(replace(bare, predicted_trace=1.25 * study.predicted_trace), 0.0)
    assert wrong.verdict == "fail"
    assert [each.holds for each in wrong.conditions] == [True, True, True, True, False]
    steeper = (study.sizes[-1] / study.sizes) ** 0.2
    wrong = _judge(replace(bare, mse=study.mse * steeper, mse_error=study.mse_error * steeper), 0.0)
    assert wrong.verdict == "fail" and wrong.slope == pytest.approx(study.slope - 0.1, rel=1e-9)
    assert [each.holds for each in wrong.conditions] == [True, True, True, False, True]


def test_the_intervals_cover_the_slope_as_often_as_they_say() -> None:
    problem = fair()
    sizes = sizes_for_law(problem, 3)
    covered = 0
    for seed in range(300):
        low, high = lstd_study(problem, sizes, runs=100, seed=seed).slope_ci
        covered += low < -0.5 < high
    assert abs(covered / 300 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 300)


def test_dependent_features_are_taken_in_their_row_space() -> None:
    one = random_problem(7, 4, 1)
    twice = Problem.from_chain(one.P_pi, one.r, np.hstack([one.Z, one.Z]), one.mu, one.gamma)
    (single, _), (double, _) = sampling_law(one), sampling_law(twice)
    # w is shared evenly: (w / 2, w / 2).
    np.testing.assert_allclose(double.covariance, np.full((2, 2), single.covariance[0, 0] / 4), rtol=1e-10)
    study = lstd_study(twice, sizes_for_law(twice), runs=400, seed=0)
    assert study.verdict == "pass"
    np.testing.assert_allclose(study.w, np.full(2, td_fixed_point(one).w[0] / 2), rtol=1e-10)


def test_rows_without_weight_are_never_drawn() -> None:
    problem = random_problem(9, 4, 2)
    chain = sparse.block_diag([problem.P_pi, [[0.5]]], format="csr")
    wider = Problem.from_chain(
        chain, [*problem.r, 5.0], np.vstack([problem.Z, [7.0, 7.0]]), [*problem.mu, 0.0], problem.gamma
    )
    one, other = (lstd_study(each, [500, 1000], runs=5, seed=0) for each in (problem, wider))
    np.testing.assert_allclose(other.mse, one.mse, rtol=1e-9)
    assert other.predicted_trace == pytest.approx(one.predicted_trace, rel=1e-10)


def test_noise_of_the_rewards_enters_error_and_law() -> None:
    # One row that always ends: w is the mean of N rewards.
    ends = Problem.from_chain([[0.0]], [3.0], [[1.0]], [1.0], 0.9)
    study = lstd_study(ends, [50, 400], runs=2000, seed=0, reward_std=2.0)
    assert study.predicted_trace == pytest.approx(4.0, rel=1e-14) and study.verdict == "pass"
    # N mse / 4 is a mean of 2000 squares of standard normal numbers, exactly.
    assert np.abs(study.ratio - 1.0).max() < 4.0 * math.sqrt(2 / 2000)
    without = lstd_study(ends, [50, 400], runs=20, seed=0)
    assert without.verdict == "inconclusive" and without.conditions[1].holds is False
    one_row = lstd_study(fair(), sizes_for_law(fair()), runs=1000, seed=0, reward_std=[0.0, 1.0])
    # Noise of row 1 only: (1/2) ||A^-1 e_1||^2 = (1/2) * 4 * (1/4 + 9/4) = 5.
    assert one_row.predicted_trace == pytest.approx(5 / 8 + 5, rel=1e-13) and one_row.verdict == "pass"


@pytest.mark.parametrize("name", ["tsitsiklis_van_roy_singular", "tsitsiklis_van_roy_singular_zero_reward"])
def test_without_a_unique_fixed_point_there_is_no_law(name: str) -> None:
    study = lstd_study(catalogue.load(name).problem, [100, 200], runs=10, seed=0)
    assert study.verdict == "inconclusive"
    (condition,) = study.conditions
    assert condition.name == "exactly one fixed point" and condition.holds is False
    numbers = (study.w, study.mse, study.slope, study.slope_ci, study.predicted_trace, study.ratio)
    assert numbers == (None,) * 6
    assert sizes_for_law(catalogue.load(name).problem, 2) == [100, 400]


@pytest.mark.parametrize("name", ["three_cycle", "baird_star_reward_one", "nearly_dependent"])
def test_where_every_td_error_is_zero_there_is_nothing_to_compare(name: str) -> None:
    problem = catalogue.load(name).problem
    study = lstd_study(problem, sizes_for_law(problem, 2), runs=10, seed=0)
    assert study.verdict == "inconclusive" and study.slope is None and study.ratio is None
    assert [each.holds for each in study.conditions] == [True, False, True]
    assert study.mse.max() < 1e-9


def test_samples_too_small_for_the_law_are_said_to_be() -> None:
    problem = catalogue.load("random_walk_19_groups").problem
    study = lstd_study(problem, [2, 50, 10**7], runs=50, seed=0)
    assert study.singular[0] == 50 and study.used.tolist() == [False, False, True]
    assert study.verdict == "inconclusive" and study.slope is None
    assert study.conditions[-1].name == "at least two sizes are large enough"
    assert study.conditions[-1].holds is False and study.conditions[-1].value == 1
    assert np.isfinite(study.mse).all() and np.isfinite(study.ratio).all()


def test_a_row_that_samples_miss_keeps_their_size_from_the_slope() -> None:
    # It is drawn once in 20,000 times, so a tenth of the smallest samples is singular.
    rare = Problem.from_chain(np.zeros((2, 2)), [1.0, 1.0], np.eye(2), [1 - 5e-5, 5e-5], 0.9)
    law, _ = sampling_law(rare, reward_std=1.0)
    assert law.curvature == pytest.approx(1 / (1 - 5e-5) + 20_000 - 2, rel=1e-9)
    study = lstd_study(rare, [40_000, 4_000_000, 8_000_000], runs=200, seed=0, reward_std=1.0)
    assert abs(study.singular[0] - 200 * math.exp(-2)) < 4 * math.sqrt(200 * math.exp(-2))
    assert study.singular[1:].tolist() == [0, 0] and study.used.tolist() == [False, True, True]


def test_the_same_seed_is_the_same_study_in_any_order_and_another_is_not() -> None:
    one, same, other = (
        lstd_study(fair(), sizes, runs=20, seed=seed)
        for sizes, seed in (([400, 100], 5), ([100, 400], 5), ([100, 400], 6))
    )
    assert one.sizes.tolist() == [100, 400]
    np.testing.assert_array_equal(one.mse, same.mse)
    assert (one.mse != other.mse).all()


def test_batches_do_not_change_the_errors_much_less_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    law = sampling_law(random_problem(3, 4, 2))[0]
    whole, _ = draw_errors(law, 100, 7, np.random.default_rng(0))
    monkeypatch.setattr("theory.sampling_law.BATCH", 2 * law.step.size)
    parts, _ = draw_errors(law, 100, 7, np.random.default_rng(0))
    np.testing.assert_allclose(parts, whole, rtol=1e-12)


@pytest.mark.parametrize("sizes", [[100], [100, 100], [0, 5], [1.5, 2.5], [[1, 2]], []])
def test_sizes_that_cannot_be_are_refused(sizes: Any) -> None:
    with pytest.raises(InputError, match="sizes must hold at least two different whole numbers from 1"):
        lstd_study(fair(), sizes, runs=5, seed=0)


def test_other_arguments_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="runs must be at least 2, got 1"):
        lstd_study(fair(), [10, 20], runs=1, seed=0)
    with pytest.raises(InputError, match="seed must be at least 0"):
        lstd_study(fair(), [10, 20], runs=2, seed=-1)
    with pytest.raises(InputError, match=r"runs must be a whole number, got 2\.5"):
        lstd_study(fair(), [10, 20], runs=2.5, seed=0)
    with pytest.raises(InputError, match=r"seed must be a whole number, got 0\.5"):
        lstd_study(fair(), [10, 20], runs=2, seed=0.5)
    for wrong in (-1.0, [1.0, 2.0, 3.0], [1.0, -1.0]):
        with pytest.raises(InputError, match="reward_std must be a number or 2 numbers"):
            lstd_study(fair(), [10, 20], runs=2, seed=0, reward_std=wrong)
    blank = Problem.from_chain(np.eye(2), [1.0, 1.0], [0.0, 3.0], [1.0, 0.0], 0.9)
    with pytest.raises(InputError, match="Z is zero on every row with weight"):
        lstd_study(blank, [10, 20], runs=2, seed=0)
