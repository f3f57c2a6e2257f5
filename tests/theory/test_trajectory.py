"""Runs of expected TD: they follow the predicted rate, and the step-size limit is sharp."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from theory import InputError, Problem, td_fixed_point, td_system, td_trajectory
from theory.stability import stability
from theory.trajectory import observed_rate

TO_SECOND = [[0.0, 1.0], [0.0, 1.0]]


def three_cycle() -> Problem:
    chain = np.roll(np.eye(3), 1, axis=1)
    return Problem.from_chain(chain, [1.0, 0.0, 0.0], np.eye(3), np.full(3, 1 / 3), 0.9)


def basis() -> Problem:
    chain = [[0.2, 0.8, 0.0], [1 / 3, 0.0, 2 / 3], [0.0, 0.0, 1.0]]
    Z = [[2.0, -2.0], [1.0, -2.0], [3.0, -1.0]]
    return Problem.from_chain(chain, np.ones(3), Z, [0.32, 0.58, 0.1], 0.95)


def boyan() -> Problem:
    chain = 0.5 * (np.eye(12, k=1) + np.eye(12, k=2))
    Z = np.array([[max(0.0, 1 - abs(i - 4 * j) / 4) for j in range(4)] for i in range(12)])
    return Problem.from_chain(chain, [-3.0] * 11 + [-2.0], Z, np.full(12, 1 / 12), 1.0)


def tsitsiklis_van_roy(gamma: float, reward: float) -> Problem:
    return Problem.from_chain(TO_SECOND, [reward, reward], [1.0, 2.0], [0.5, 0.5], gamma)


def test_the_run_is_the_td_update_step_by_step() -> None:
    problem, system, w = basis(), td_system(basis()), np.array([3.0, -1.0])
    limit, expected = td_fixed_point(problem).w, []
    for _ in range(6):
        expected.append(np.linalg.norm(w - limit))
        w = w + 0.4 * (system.b - system.A @ w)
    run = td_trajectory(problem, step_size=0.4, steps=5, w0=[3.0, -1.0])
    np.testing.assert_allclose(run.error, expected, rtol=1e-12)


def test_a_real_rate_is_observed_as_predicted_and_known_by_hand() -> None:
    # Features (1, i) on a chain of six: eigenvalues 1/6 and 13/4.
    Z = [[1.0, float(i)] for i in range(6)]
    problem = Problem.from_chain(np.eye(6, k=1), [0, 0, 0, 0, 0, 1.0], Z, np.full(6, 1 / 6), 0.9)
    run = td_trajectory(problem, step_size=0.5, steps=1000)
    assert run.predicted_rate == pytest.approx(11 / 12, rel=1e-13)
    assert run.observed_rate == pytest.approx(11 / 12, rel=1e-7)
    assert run.error[-1] < 1e-9 * run.error[0]


def test_a_complex_rate_is_observed_as_predicted_and_known_by_hand() -> None:
    # At alpha = 3.1 the modes are 1 - 3.1 (1 - .9 u) / 3: the conjugate pair dominates.
    pair = 1 - 3.1 / 3 * (1 - 0.9 * complex(-0.5, math.sqrt(0.75)))
    run = td_trajectory(three_cycle(), step_size=3.1, steps=600)
    assert run.predicted_rate == pytest.approx(abs(pair), rel=1e-14)
    assert run.observed_rate == pytest.approx(abs(pair), rel=1e-6)


def test_an_oscillating_error_is_averaged_out_of_the_rate() -> None:
    for problem, step_size in ((basis(), 0.5), (boyan(), 2.7), (boyan(), 5.4)):
        run = td_trajectory(problem, step_size=step_size, steps=400, w0=np.arange(1.0, problem.d + 1))
        factors = run.error[1:40] / run.error[:39]
        assert factors.max() > factors.min() + 0.1
        assert run.observed_rate == pytest.approx(run.predicted_rate, rel=1e-5)


@pytest.mark.parametrize("problem", [three_cycle(), basis(), boyan(), tsitsiklis_van_roy(0.5, 1.0)])
def test_the_step_size_limit_is_sharp_to_a_thousandth(problem: Problem) -> None:
    limit = stability(problem).step_size_limit
    assert limit is not None
    start = np.arange(1.0, problem.d + 1)
    below = td_trajectory(problem, step_size=0.999 * limit, steps=20_000, w0=start)
    above = td_trajectory(problem, step_size=1.001 * limit, steps=20_000, w0=start)
    assert below.error[-1] < 1e-3 * below.error[0] and below.predicted_rate < 1.0
    assert above.error[-1] > 1e3 * above.error[0] and above.predicted_rate > 1.0
    assert above.observed_rate == pytest.approx(above.predicted_rate, rel=1e-4)


def test_unstable_td_diverges_for_a_small_step_too_and_stops_before_it_overflows() -> None:
    run = td_trajectory(tsitsiklis_van_roy(0.9, 1.0), step_size=0.1, steps=10**6)
    assert run.predicted_rate == pytest.approx(1.02, rel=1e-12)  # 1 + .1 / 5
    assert run.observed_rate == pytest.approx(1.02, rel=1e-9)
    assert 1e100 < run.error[-1] < 1.03e100 and len(run.error) < 10**6


def test_half_the_limit_is_left_to_the_squared_loss() -> None:
    # The gradient of the squared error has a factor of two: the same run at twice the step size.
    problem = tsitsiklis_van_roy(0.5, 1.0)  # A = 1, limit 2
    system, w = td_system(problem), 0.0
    for _ in range(50):
        w = w + 2 * 0.999 * float(system.b[0] - system.A[0, 0] * w)
    run = td_trajectory(problem, step_size=2 * 0.999, steps=50)
    assert run.error[-1] == pytest.approx(abs(w - 1.5), rel=1e-9)


def test_every_start_reaches_the_affine_set_of_dependent_features() -> None:
    Z = np.array([[1.0, 1.0], [2.0, 2.0]])
    problem = Problem.from_chain(TO_SECOND, [1.0, 1.0], Z, [0.5, 0.5], 0.5)
    run = td_trajectory(problem, step_size=0.25, steps=200, w0=[7.0, -3.0])
    assert run.error[0] == pytest.approx(abs(4.0 - 1.5) / math.sqrt(2), rel=1e-12)
    assert run.error[-1] < 1e-13
    assert run.predicted_rate == pytest.approx(0.5, rel=1e-12)  # not 1, that of the null space
    assert run.observed_rate == pytest.approx(0.5, rel=1e-6)  # the last errors used are 1e6 roundings


def test_where_every_w_is_a_fixed_point_there_is_no_error_and_no_rate() -> None:
    run = td_trajectory(tsitsiklis_van_roy(5 / 6, 0.0), step_size=0.1, steps=10, w0=[4.0])
    assert run.error.tolist() == [0.0] * 11 and run.observed_rate is None
    assert run.predicted_rate == pytest.approx(1.0, rel=1e-14)


def test_without_a_fixed_point_there_is_nothing_to_measure() -> None:
    with pytest.raises(InputError, match="TD has no fixed point on this problem"):
        td_trajectory(tsitsiklis_van_roy(5 / 6, 1.0), step_size=0.1, steps=10)


@pytest.mark.parametrize("step_size", [0.0, math.nan, math.inf])
def test_a_step_size_that_moves_nothing_is_refused(step_size: float) -> None:
    with pytest.raises(InputError, match="step_size must be finite and not zero"):
        td_trajectory(basis(), step_size=step_size, steps=10)


def test_bad_numbers_of_steps_and_bad_starts_are_refused() -> None:
    with pytest.raises(InputError, match="steps must be at least 1, got 0"):
        td_trajectory(basis(), step_size=0.1, steps=0)
    with pytest.raises(InputError, match=r"w0 must have shape \(2,\) \(features,\), got \(3,\)"):
        td_trajectory(basis(), step_size=0.1, steps=1, w0=[0.0, 0.0, 0.0])
    with pytest.raises(InputError, match="w0 must be finite"):
        td_trajectory(basis(), step_size=0.1, steps=1, w0=[0.0, math.nan])


def test_the_rate_leaves_out_early_modes_and_rounding() -> None:
    steps = np.arange(200.0)
    error = 0.8**steps + 100 * 0.3**steps + 1e-14
    assert observed_rate(error, 1.0) == pytest.approx(0.8, rel=1e-4)
    assert observed_rate(np.array([1.0, 0.5, 0.25]), 1.0) is None
    assert observed_rate(np.array([1.0, 0.5, 0.25, 0.125]), 1.0) == pytest.approx(0.5)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 8))
def test_random_certified_problems_follow_their_predicted_rate(seed: int, n: int) -> None:
    draws = np.random.default_rng(seed)
    chain = 0.9 * draws.dirichlet(np.ones(n), size=n)
    Z, mu = draws.normal(size=(n, 2)), draws.dirichlet(np.full(n, 20.0))
    problem = Problem.from_chain(chain, draws.normal(size=n), Z, mu, 0.9)
    found = stability(problem)
    assume(found.best_step_size is not None)
    step = 0.5 * float(found.best_step_size or 0.0)
    rates = np.sort(np.abs(1 - step * found.eigenvalues))
    # One slowest mode, clear of the other, and not too slow for the run.
    assume(found.td == "stable" and rates[0] < 0.9 * rates[1] and rates[1] < 0.95)
    run = td_trajectory(problem, step_size=step, steps=600, w0=draws.normal(size=2) * 10)
    assert run.observed_rate == pytest.approx(run.predicted_rate, rel=1e-3)
