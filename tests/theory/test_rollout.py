"""The value of a linear model: three ways to compute it, and the h-step expansion."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from theory import (
    InputError,
    LinearModel,
    Problem,
    check_fixed_point_equivalence,
    fit_linear_model,
    h_step_solution,
    model_based_solution,
    td_fixed_point,
)

TO_SECOND = [[0.0, 1.0], [0.0, 1.0]]
SWAP = [[0.0, 1.0], [1.0, 0.0]]


def sign_flip(first_weight: float) -> Problem:
    """Features (1, -3) on a 2-cycle; weights (.9, .1) give W_d = -5/3, (63, 17)/80 give -10/9."""
    return Problem.from_chain(SWAP, [1.0, 0.0], [1.0, -3.0], [first_weight, 1 - first_weight], 0.9)


def unexcited(Z: list[list[float]]) -> Problem:
    """w -> 2w beside a stable 2-cycle; only the cycle is rewarded."""
    chain = np.zeros((4, 4))
    chain[0, 1] = chain[1, 1] = chain[2, 3] = chain[3, 2] = 1.0
    return Problem.from_chain(chain, [0.0, 0.0, 1.0, 2.0], Z, np.full(4, 0.25), 0.9)


def garnet(seed: int, n: int, d: int, gamma: float) -> Problem:
    draws = np.random.default_rng(seed)
    chain = np.zeros((n, n))
    for row in chain:
        row[draws.choice(n, min(n, 3), replace=False)] = draws.dirichlet(np.ones(min(n, 3)))
    chain *= draws.uniform(0.8, 1.0, size=(n, 1))  # some of every row terminates
    mu = draws.dirichlet(np.full(n, 3.0))
    return Problem.from_chain(chain, draws.normal(size=n), draws.normal(size=(n, d)), mu, gamma)


@pytest.mark.parametrize("method", ["solve", "series", "doubling"])
def test_every_method_gives_the_value_known_by_hand(method: str) -> None:
    # w_r = 3/5 and gamma W_d = 3/5.
    problem = Problem.from_chain(TO_SECOND, [1.0, 1.0], [1.0, 2.0], [0.5, 0.5], 0.5)
    rollout = model_based_solution(problem, method=method)  # type: ignore[arg-type]
    assert rollout.w == pytest.approx([1.5], rel=1e-14)
    assert rollout.spectral_radius == pytest.approx(0.6, rel=1e-14)
    assert rollout.converged is (None if method == "solve" else True)


def test_a_sum_of_h_terms_misses_exactly_the_part_beyond_the_horizon() -> None:
    problem = garnet(1, 6, 3, 0.9)
    whole, G = model_based_solution(problem).w, 0.9 * fit_linear_model(problem).W_d
    assert whole is not None
    for terms in (1, 2, 8):
        left = np.linalg.matrix_power(G, terms) @ whole
        for method in ("series", "doubling"):
            part = model_based_solution(problem, method=method, horizon=terms)
            assert part.terms == terms
            np.testing.assert_allclose(whole - part.w, left, atol=1e-13)


def test_a_horizon_for_doubling_is_rounded_up_to_a_power_of_two() -> None:
    problem = garnet(2, 5, 2, 0.9)
    assert model_based_solution(problem, method="doubling", horizon=5).terms == 8
    assert model_based_solution(problem, method="series", horizon=5).terms == 5


def test_the_series_is_fitted_q_iteration_from_zero() -> None:
    problem, w = garnet(3, 6, 3, 0.9), np.zeros(3)
    root = np.sqrt(problem.mu)
    for _ in range(10):
        target = problem.r + 0.9 * problem.P_pi @ (problem.Z @ w)
        w = np.linalg.lstsq(root[:, None] * problem.Z, root * target)[0]
    found = model_based_solution(problem, method="series", horizon=10).w
    np.testing.assert_allclose(found, w, rtol=1e-11)


@pytest.mark.parametrize("method", ["series", "doubling"])
def test_a_divergent_series_is_said_to_diverge_though_the_solution_exists(method: str) -> None:
    problem = sign_flip(0.9)
    assert model_based_solution(problem).w == pytest.approx([0.2], rel=1e-14)
    rollout = model_based_solution(problem, method=method)  # type: ignore[arg-type]
    assert rollout.converged is False
    assert rollout.spectral_radius == pytest.approx(1.5, rel=1e-14)
    assert rollout.w is not None and np.isfinite(rollout.w).all()


@pytest.mark.parametrize("method", ["series", "doubling"])
def test_an_oscillating_series_is_left_open(method: str) -> None:
    rollout = model_based_solution(sign_flip(63 / 80), method=method, horizon=4096)  # type: ignore[arg-type]
    assert (rollout.converged, rollout.terms) == (None, 4096)
    assert rollout.spectral_radius == pytest.approx(1.0, rel=1e-14)


def test_terms_that_cancel_exactly_are_not_convergence() -> None:
    # gamma W_d = -1 to the last bit: two terms sum to zero, and so do four.
    problem = Problem.from_chain([[1.0]], [1.0], [[1.0]], [1.0], 1.0)
    model = LinearModel(np.array([1.0]), np.array([[-1.0]]), 1, 1.0)
    rollout = model_based_solution(problem, method="doubling", model=model)
    assert (rollout.w, rollout.converged) == (np.array([0.0]), None)


def test_a_singular_model_has_no_solution_instead_of_a_number() -> None:
    for gamma in (np.nextafter(5 / 6, 0.0), 5 / 6, np.nextafter(5 / 6, 1.0)):  # 1 up to rounding
        problem = Problem.from_chain(TO_SECOND, [1.0, 1.0], [1.0, 2.0], [0.5, 0.5], gamma)
        rollout = model_based_solution(problem)
        assert (rollout.w, rollout.terms) == (None, 0)
        assert rollout.spectral_radius == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("method", ["series", "doubling"])
def test_without_reward_every_series_converges_to_zero(method: str) -> None:
    problem = Problem.from_chain(TO_SECOND, [0.0, 0.0], [1.0, 2.0], [0.5, 0.5], 0.9)
    rollout = model_based_solution(problem, method=method)  # type: ignore[arg-type]
    assert rollout.converged is True and rollout.w == pytest.approx([0.0], abs=0.0)


def test_a_growing_mode_that_the_reward_leaves_alone_does_not_disturb_the_sum() -> None:
    problem = unexcited([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    rollout = model_based_solution(problem, method="series")
    assert rollout.converged is True and rollout.spectral_radius == pytest.approx(1.08, rel=1e-14)
    np.testing.assert_allclose(rollout.w, [0.0, 15.0], atol=1e-12)


def test_in_a_mixed_basis_rounding_excites_the_growing_mode() -> None:
    problem = unexcited([[1.0, 1.0], [2.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    exact = model_based_solution(problem).w
    np.testing.assert_allclose(exact, [-15.0, 15.0], rtol=1e-12)
    errors = [
        float(np.abs(model_based_solution(problem, method="series", horizon=h).w - exact).max())
        for h in (200, 500, 1000)
    ]
    assert errors[0] < 1e-5 and errors[1] > 1.0 and errors[2] > 1e16
    assert model_based_solution(problem, method="series").converged is False


def test_rewards_of_any_size_give_the_same_answer_scaled() -> None:
    problem = garnet(4, 5, 2, 0.9)
    for factor in (1e-69, 1e70 / abs(problem.r).max()):
        large = Problem.from_chain(problem.P_pi, factor * problem.r, problem.Z, problem.mu, 0.9)
        for method in ("series", "doubling"):
            found, plain = (model_based_solution(p, method=method) for p in (large, problem))
            assert found.converged is True
            np.testing.assert_allclose(found.w, factor * plain.w, rtol=1e-12)


def test_a_given_model_is_the_one_rolled_out() -> None:
    problem = Problem.from_chain([[0.0]], [5.0], [[2.0]], [1.0], 0.5)
    model = LinearModel(np.array([3.0]), np.array([[1.0]]), 1, 1.0)
    assert model_based_solution(problem, model=model).w == pytest.approx([6.0], rel=1e-15)


@pytest.mark.parametrize("horizon", [0, -1])
def test_a_horizon_below_one_is_refused(horizon: int) -> None:
    with pytest.raises(InputError, match=f"horizon must be at least 1, got {horizon}"):
        model_based_solution(sign_flip(0.9), method="series", horizon=horizon)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InputError, match="method must be one of solve, series, doubling; got 'sum'"):
        model_based_solution(sign_flip(0.9), method="sum")  # type: ignore[arg-type]


def test_a_root_of_unity_among_the_eigenvalues_makes_that_horizon_singular() -> None:
    problem = sign_flip(63 / 80)
    kinds = [h_step_solution(problem, h).kind for h in range(1, 7)]
    assert kinds == ["unique", "affine"] * 3
    for h in (1, 3, 5):
        assert h_step_solution(problem, h).w == pytest.approx([7 / 48], rel=1e-13)
    assert h_step_solution(problem, 2).nullity == 1


def test_a_rotation_is_singular_at_its_own_order_only() -> None:
    # Three rows in a cycle, undiscounted, reward summing to zero, features orthogonal to the constant.
    chain, Z = np.roll(np.eye(3), 1, axis=1), [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]
    problem = Problem.from_chain(chain, [1.0, 0.0, -1.0], Z, np.full(3, 1 / 3), 1.0)
    fixed = [h_step_solution(problem, h) for h in range(1, 8)]
    assert [f.nullity for f in fixed] == [0, 0, 2, 0, 0, 2, 0]
    for h in (1, 2, 4, 5, 7):
        np.testing.assert_allclose(fixed[h - 1].w, fixed[0].w, rtol=1e-12)


def test_a_singular_expansion_is_still_solved_by_the_one_step_solution() -> None:
    chain, Z = np.roll(np.eye(3), 1, axis=1), [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]
    problem = Problem.from_chain(chain, [1.0, 0.0, -1.0], Z, np.full(3, 1 / 3), 1.0)
    triple, single = h_step_solution(problem, 3), h_step_solution(problem, 1)
    assert triple.kind == "affine" and triple.w is not None and single.w is not None
    apart = single.w - triple.w
    np.testing.assert_allclose(triple.null_space @ (triple.null_space.T @ apart), apart, atol=1e-13)


def test_without_a_solution_no_horizon_has_one() -> None:
    problem = Problem.from_chain(TO_SECOND, [1.0, 1.0], [1.0, 2.0], [0.5, 0.5], 5 / 6)
    assert [h_step_solution(problem, h).kind for h in (1, 2, 5)] == ["none"] * 3
    assert h_step_solution(problem, 2).w is None


def test_a_horizon_too_long_for_a_growing_model_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match="h = 5000 is too large: the model grows"):
        h_step_solution(sign_flip(0.9), 5000)
    with pytest.raises(InputError, match="h must be at least 1, got 0"):
        h_step_solution(sign_flip(0.9), 0)


@given(seed=st.integers(0, 10**6), n=st.integers(2, 8), d=st.integers(1, 8), h=st.integers(2, 9))
def test_every_horizon_has_the_fixed_point_of_td(seed: int, n: int, d: int, h: int) -> None:
    problem = garnet(seed, n, min(n, d), 0.95)
    eigenvalues = np.linalg.eigvals(0.95 * fit_linear_model(problem).W_d)
    # Away from roots of unity and not ill-conditioned: there the statement has something to say.
    assume(float(np.abs(eigenvalues**h - 1).min()) > 0.05 and fit_linear_model(problem).condition < 1e3)
    report = check_fixed_point_equivalence(problem)
    expanded, fixed = h_step_solution(problem, h), td_fixed_point(problem)
    assert expanded.kind == "unique" and report.verdict == "pass" and fixed.w is not None
    growth = max(1.0, float(np.abs(eigenvalues).max())) ** h
    size = float(np.linalg.norm(fixed.w)) + math.sqrt(float(problem.mu @ problem.r**2))
    np.testing.assert_allclose(expanded.w, fixed.w, atol=1e-8 * growth * size)
