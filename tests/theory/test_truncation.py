"""Truncated rollouts: the identity at every horizon, and horizons that keep a tolerance for good."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import InputError, Problem, catalogue, fit_linear_model, stability, td_fixed_point
from theory.truncation import Horizon, _guarantees, truncation, truncation_horizon

TVR = [[0.0, 1.0], [0.0, 1.0]]
HALF = [0.5, 0.5]
A10 = Problem.from_chain(TVR, [1, 1], [[1], [2]], HALF, 0.5)
A12 = catalogue.load("sign_flip").problem
seeds = st.integers(0, 10_000)
few = settings(max_examples=25)


def random_problem(seed: int, gamma: float | None = None) -> Problem:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9))
    chain = rng.dirichlet(np.ones(n) * 0.4, n)
    d = int(rng.integers(1, n + 1))
    discount = float(rng.choice([0.0, 0.5, 0.9])) if gamma is None else gamma
    return Problem.from_chain(
        chain, rng.normal(size=n), rng.normal(size=(n, d)), rng.dirichlet(np.ones(n) * 3), discount
    )


def corridor(length: int, ratio: float) -> Problem:
    """Return a walk to the end that pays at the last step only, tabular, weights falling by a ratio."""
    mu = ratio ** -np.arange(length)
    return Problem.from_chain(np.eye(length, k=1), np.eye(length)[-1], np.eye(length), mu / mu.sum(), 0.9)


def jordan() -> Problem:
    """Return two copies of w -> 2w, the first leaking into the second: 1 is a defective eigenvalue."""
    chain = np.zeros((4, 4))
    chain[0, [1, 2]] = 0.75, 0.25
    chain[1, 1] = chain[3, 3] = 1.0
    chain[2, 3] = 0.75
    Z = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    return Problem.from_chain(chain, [1, 1, 0, 0], Z, np.ones(4) / 4, 10 / 11)


def rollout_errors(problem: Problem, steps: int) -> np.ndarray:
    """Return the D-norm of Z(w* - w_h) for h = 0 ... steps, by the recursion and td_fixed_point alone."""
    model, w_star = fit_linear_model(problem), td_fixed_point(problem).w
    w, errors = np.zeros(problem.d), []
    for _ in range(steps + 1):
        errors.append(np.sqrt(problem.mu @ (problem.Z @ (w_star - w)) ** 2))
        w = model.w_r + problem.gamma * model.W_d @ w
    return np.array(errors)


@given(seeds)
@few
def test_the_error_after_h_steps_is_the_h_th_power_of_the_model_applied_to_the_solution(seed):
    problem = random_problem(seed)
    run = truncation(problem, 12)
    assert run.kind == "unique" and run.reason == "" and run.holds
    model, w_star = fit_linear_model(problem), td_fixed_point(problem).w
    w, power = np.zeros(problem.d), np.eye(problem.d)
    for h in range(13):
        ahead = problem.Z @ power @ w_star
        np.testing.assert_allclose(problem.Z @ (w_star - w), ahead, atol=1e-8 * max(1, abs(ahead).max()))
        assert run.error[h] == pytest.approx(np.sqrt(problem.mu @ ahead**2), rel=1e-6, abs=1e-9)
        w, power = model.w_r + problem.gamma * model.W_d @ w, problem.gamma * model.W_d @ power


@given(seeds)
@few
def test_errors_follow_the_compression_and_stay_below_their_bound(seed):
    run = truncation(random_problem(seed), 12)
    np.testing.assert_allclose(run.error, run.predicted, rtol=1e-6, atol=1e-9 * run.error[0])
    assert np.all(run.error <= run.bound * (1 + 1e-9) + 1e-12)


def test_by_hand_w_to_2w():
    run = truncation(A10, 4)  # W_d = 6/5, gamma 1/2, w = 3/2; |Z| = sqrt(5/2)
    expected = 1.5 * np.sqrt(2.5) * 0.6 ** np.arange(5)
    np.testing.assert_allclose(run.error, expected, rtol=1e-13)
    np.testing.assert_allclose(run.predicted, expected, rtol=1e-13)
    np.testing.assert_allclose(run.bound, expected, rtol=1e-13)  # one feature: nothing is given away
    assert run.w_star == pytest.approx([1.5])


def test_the_identity_needs_no_convergence():
    run = truncation(A12, 20)  # radius 3/2
    assert run.holds and run.kind == "unique"
    np.testing.assert_allclose(run.error, run.error[0] * 1.5 ** np.arange(21), rtol=1e-10)


@pytest.mark.parametrize("name", ["sign_flip", "three_cycle", "basis_dependence_a", "random_walk_19_groups"])
def test_a_model_that_is_off_by_a_millionth_breaks_the_identity(name):
    problem = catalogue.load(name).problem
    model = fit_linear_model(problem)
    wrong = replace(model, W_d=model.W_d * (1 + 1e-6))
    assert truncation(problem, 5).holds
    found = truncation(problem, 5, model=wrong)
    assert not found.holds and found.identity_residual > 10.0
    assert not truncation(problem, 5, model=replace(model, w_r=model.w_r * (1 + 1e-6))).holds


def test_a_rollout_that_explodes_is_cut_off():
    run = truncation(A12, 10_000)
    assert 390 < len(run.error) < 410 and len(run.bound) == len(run.predicted) == len(run.error)
    assert run.holds and np.isfinite(run.error).all()


def test_no_solution_is_typed():
    singular = catalogue.load("tsitsiklis_van_roy_singular").problem
    run, horizon = truncation(singular, 3), truncation_horizon(singular, 0.1)
    assert run.kind == "none" and run.w_star is None and run.error is None and run.holds is None
    assert run.reason == horizon.reason == "(I - gamma W_d) w = w_r has no solution"
    assert horizon.needed is None and horizon.guaranteed is None and horizon.size is None
    assert horizon.spectral_radius == pytest.approx(1.0)


def test_one_of_many_solutions_is_the_one_the_rollout_reaches():
    # Two states that forget where they were, undiscounted: w is (1, -1) plus any constant.
    problem = Problem.from_chain([HALF, HALF], [1, -1], np.eye(2), HALF, 1.0)
    run = truncation(problem, 3)
    assert run.kind == "affine" and run.holds and "one of many" in run.reason
    np.testing.assert_allclose(run.w_star, [1.0, -1.0], atol=1e-14)
    np.testing.assert_allclose(run.error, [1.0, 0.0, 0.0, 0.0], atol=1e-14)
    horizon = truncation_horizon(problem, 0.5)
    assert horizon.needed == 1 and horizon.radius_only == 1 and "one of many" in horizon.reason


def test_the_least_norm_solution_is_not_always_the_limit():
    # The same chain in another basis: the limit is not orthogonal to the null space in w.
    Z = np.array([[1.0, 1.0], [1.0, 0.0]])
    problem = Problem.from_chain([HALF, HALF], [1, -1], Z, HALF, 1.0)
    run = truncation(problem, 3)
    np.testing.assert_allclose(run.w_star, [-1.0, 2.0], atol=1e-13)
    np.testing.assert_allclose(run.error[1:], 0.0, atol=1e-13)
    assert abs(td_fixed_point(problem).w - run.w_star).max() > 0.5


def test_the_limit_lies_in_the_range_of_what_is_inverted_not_at_a_right_angle_to_its_null_space():
    # P r = 0.6 r, so the series is r / 0.4; the weights are not stationary.
    problem = Problem.from_chain([[0.9, 0.1], [0.3, 0.7]], [1, -3], np.eye(2), HALF, 1.0)
    run = truncation(problem, 10)
    np.testing.assert_allclose(run.w_star, [2.5, -7.5], rtol=1e-12)
    np.testing.assert_allclose(run.error, run.error[0] * 0.6 ** np.arange(11), rtol=1e-10)
    assert truncation_horizon(problem, 0.6**3.5 * run.error[0]).needed == 4


def test_zero_is_reached_at_once():
    problem = catalogue.load("tsitsiklis_van_roy_singular_zero_reward").problem
    run = truncation(problem, 2)
    assert run.kind == "affine" and run.error.tolist() == [0.0, 0.0, 0.0]
    assert truncation_horizon(problem, 1e-12).needed == 0


def test_a_defective_eigenvalue_one_has_solutions_but_no_horizon():
    problem = jordan()
    run = truncation(problem, 200)
    assert run.kind == "affine" and run.holds and "defective" in run.reason
    # gamma W_d = ((1, 1/22), (0, 1)), w_r = (3/5, 0): w_h = (3/5 h, 0) never settles.
    np.testing.assert_allclose(np.diff(run.error)[100:], 0.6 * np.sqrt(5 / 4), rtol=0.03)
    horizon = truncation_horizon(problem, 0.1)
    assert horizon.needed is None and horizon.guaranteed is None
    assert "defective" in horizon.reason and "do not shrink" in horizon.reason


@given(seeds, st.sampled_from([1e-1, 1e-3, 1e-6]))
@few
def test_the_needed_horizon_is_the_last_crossing_and_the_guarantee_lies_above(seed, tolerance):
    problem = random_problem(seed, gamma=0.9)
    horizon = truncation_horizon(problem, tolerance)
    if stability(problem).rollout != "converges":
        assert horizon.needed is None and horizon.radius_only is None and horizon.guaranteed is None
        return
    errors = rollout_errors(problem, horizon.guaranteed + 60)
    h = horizon.needed
    assert np.all(errors[h:] <= tolerance * (1 + 1e-6))
    assert h == 0 or errors[h - 1] > tolerance * (1 - 1e-6)
    assert h <= horizon.guaranteed and horizon.radius_only <= horizon.guaranteed
    assert horizon.contraction is None or horizon.guaranteed <= horizon.contraction
    assert (horizon.contraction is None) == (horizon.norm >= 1.0)


@given(seeds)
@few
def test_a_guarantee_holds_for_every_reward_whose_value_is_as_large(seed):
    problem = random_problem(seed, gamma=0.9)
    horizon = truncation_horizon(problem, 1e-2)
    if horizon.guaranteed is None:
        return
    errors = truncation(problem, horizon.guaranteed + 5).bound
    assert np.all(errors[horizon.guaranteed :] <= 1e-2 * (1 + 1e-9))


@given(seeds)
@few
def test_the_norm_of_the_compression_lies_between_radius_and_sigma(seed):
    problem = random_problem(seed, gamma=0.9)
    horizon, stable = truncation_horizon(problem, 0.1), stability(problem)
    assert horizon.spectral_radius == pytest.approx(stable.spectral_radius, rel=1e-6, abs=1e-9)
    assert horizon.spectral_radius <= horizon.norm * (1 + 1e-9)
    assert horizon.norm <= stable.sigma * (1 + 1e-9)


def test_the_spectral_radius_alone_is_far_too_short_on_a_corridor():
    # The model is nilpotent: its radius is 0, and rolling out once is said to be enough. It takes all 8.
    problem = corridor(8, ratio=4.0)
    horizon = truncation_horizon(problem, 1e-3)
    assert horizon.spectral_radius == pytest.approx(0.0, abs=1e-12)
    assert horizon.radius_only == 1 and horizon.needed == 8 and horizon.guaranteed == 8
    assert horizon.norm == pytest.approx(0.9 * 2.0) and horizon.contraction is None
    run = truncation(problem, 8)
    values = 0.9 ** np.arange(7, -1, -1)  # of the 8 rows
    for h in range(9):  # h steps see the reward from the last h rows
        left = (problem.mu * values**2)[: 8 - h].sum()
        assert run.error[h] == pytest.approx(np.sqrt(left), abs=1e-13)
    assert (run.bound / run.bound[0]).max() == pytest.approx(1.8**7)  # a transient


def test_a_tolerance_above_the_first_error_still_minds_the_transient():
    # Nothing at all is within the tolerance, and so it stays here; where the error grows first it may not.
    assert truncation_horizon(corridor(8, 4.0), 1.0).needed == 0
    chain = np.array([[0.0, 0.0], [1.0, 0.0]])  # row 1 leads to row 0, which pays and has little weight
    Z = np.array([[1.0, 0.0], [0.0, 1.0]])
    problem = Problem.from_chain(chain, [1.0, -0.9], Z, [0.01, 0.99], 0.9)
    # w* = (1, 0): |w*|_D = 0.1; w_1 = (1, -0.9) misses row 1 by 0.9; w_2 is exact.
    np.testing.assert_allclose(truncation(problem, 2).error, [0.1, 0.9 * np.sqrt(0.99), 0.0], atol=1e-14)
    horizon = truncation_horizon(problem, 0.2)
    assert horizon.size == pytest.approx(0.1) and horizon.needed == 2 and horizon.radius_only == 0


def test_baird_star_needs_hundreds_of_steps_although_td_never_gets_there():
    problem = catalogue.load("baird_star_reward_one").problem
    horizon = truncation_horizon(problem, 1.0)  # the value is 100, the error 100 * .99^h
    assert horizon.size == pytest.approx(100.0)
    assert horizon.needed == horizon.radius_only == 459 == int(np.ceil(np.log(0.01) / np.log(0.99)))
    assert horizon.norm > 1.0 and horizon.contraction is None and 459 <= horizon.guaranteed < 2000


def test_an_eigenvalue_minus_one_has_no_horizon():
    problem = catalogue.load("sign_flip_boundary").problem
    run, horizon = truncation(problem, 6), truncation_horizon(problem, 1e-3)
    np.testing.assert_allclose(run.error, run.error[0], rtol=1e-12)
    assert run.kind == "unique" and horizon.needed is None and "do not shrink" in horizon.reason
    assert horizon.guaranteed is None and horizon.radius_only is None and horizon.contraction is None


def test_a_growing_mode_that_this_reward_does_not_excite_has_no_guaranteed_horizon():
    problem = catalogue.load("unexcited_mode").problem
    horizon = truncation_horizon(problem, 1e-3)
    assert horizon.spectral_radius == pytest.approx(1.08)
    assert horizon.needed is None and horizon.guaranteed is None and "do not shrink" in horizon.reason


def test_without_discounting_ahead_one_step_is_exact():
    problem = random_problem(1, gamma=0.0)
    horizon = truncation_horizon(problem, 1e-9)
    assert horizon.needed == horizon.guaranteed == 1 and horizon.norm == 0.0


def test_a_model_that_hardly_contracts_is_given_up_on_with_a_reason():
    problem = Problem.from_chain([[1.0]], [1.0], [[1.0]], [1.0], 1 - 1e-7)
    horizon = truncation_horizon(problem, 1.0)
    assert horizon.needed is None and horizon.reason == "more than 100,000 steps"
    assert horizon.guaranteed == horizon.radius_only == pytest.approx(np.log(1e7) * 1e7, rel=1e-6)


def test_features_scaled_apart_change_nothing():
    problem = catalogue.load("three_cycle").problem
    Z = problem.Z * np.array([1e-6, 1.0, 1e6])
    scaled = Problem.from_chain(problem.P_pi, problem.r, Z, problem.mu, problem.gamma)
    first, second = truncation_horizon(problem, 1e-3), truncation_horizon(scaled, 1e-3)
    assert (first.needed, first.guaranteed) == (second.needed, second.guaranteed)
    np.testing.assert_allclose(truncation(scaled, 9).error, truncation(problem, 9).error, rtol=1e-9)
    assert truncation(scaled, 9).holds


@pytest.mark.parametrize("tolerance", [0.0, -1.0, np.nan, np.inf, "3"])
def test_a_tolerance_that_is_none_is_refused(tolerance):
    with pytest.raises(InputError, match="tolerance must be"):
        truncation_horizon(A10, tolerance)


@pytest.mark.parametrize("steps", [2.5, "3", True])
def test_steps_that_are_no_whole_number_are_refused(steps):
    with pytest.raises(InputError, match="steps must be a whole number"):
        truncation(A10, steps)


def last_above(G: np.ndarray, share: float) -> int:
    """Return the step after the last one whose power is larger than the share, step by step."""
    power, last = np.eye(len(G)), 0
    for t in range(1, 2000):
        power = G @ power
        if np.linalg.norm(power, 2) > share * (1 + 1e-9):
            last = t + 1
    return last if last or share >= 1.0 else 1


def test_a_guarantee_allows_for_growth_before_decay():
    G = np.array([[-0.172, -5.258], [0.0, -0.384]])  # powers of norm 5.3, 2.9 and then 1.3
    found = [steps for steps, _ in _guarantees(G, 1.735).values()]
    assert last_above(G, 1.735) == 3 and min(found) >= 3


@few
@given(seeds, st.floats(1e-4, 3.0))
def test_no_power_beyond_a_guarantee_is_larger_than_the_share(seed, share):
    rng = np.random.default_rng(seed)
    low, high = rng.uniform(-0.8, 0.8, 2)  # closer to one, growth hides all powers in rounding: no guarantee
    G = np.array([[low, rng.uniform(-30.0, 30.0)], [0.0, high]])
    found = [steps for steps, _ in _guarantees(G, share).values()]
    assert min(found, default=np.inf) >= last_above(G, share)


def test_a_norm_below_one_by_rounding_guarantees_nothing():
    assert _guarantees(np.array([[np.nextafter(1.0, 0.0)]]), 0.5) == {}
    assert _guarantees(np.array([[0.5]]), 0.5)[0][0] == 1


def test_negative_steps_are_refused_and_no_step_is_the_value_itself():
    with pytest.raises(InputError, match="steps must be at least 0, got -1"):
        truncation(A10, -1)
    assert truncation(A10, 0).error == pytest.approx([1.5 * np.sqrt(2.5)])
    assert isinstance(truncation_horizon(A10, 100.0), Horizon) and truncation_horizon(A10, 100.0).needed == 0
