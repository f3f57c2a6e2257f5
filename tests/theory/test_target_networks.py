"""Target networks: the radius against the two loops as they are run, and what K does to convergence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import InputError, Problem, catalogue, stability, target_network_radius, target_network_trajectory
from theory.td import td_fixed_point, td_system

SMALL = [name for name in catalogue.names() if catalogue.load(name).problem.n <= 19]


def sign_flip() -> Problem:
    return catalogue.load("sign_flip").problem


def baird() -> Problem:
    return catalogue.load("baird_star").problem


def row_space(problem: Problem) -> np.ndarray:
    """(d, k), by singular values, not by the package's route."""
    _, values, Vt = np.linalg.svd(np.sqrt(problem.mu)[:, None] * problem.Z)
    return Vt[: int(np.sum(values > 1e-12 * values[0]))].T


def run_loops(problem: Problem, step_size: float, inner: int) -> np.ndarray:
    """(k, k): what one frozen target does to weights in the row space, without reward.

    The inner steps descend on half the weighted square of Z w - gamma Z' w_frozen.
    """
    V, Z, D = row_space(problem), problem.Z, np.diag(problem.mu)
    columns = []
    for start in V.T:
        w, target = start, problem.gamma * (problem.dense_P @ (Z @ start))
        for _ in range(inner):
            w = w - step_size * Z.T @ D @ (Z @ w - target)
        columns.append(V.T @ w)
    return np.array(columns).T


def random_problem(
    seed: int, n: int, d: int, *, support: int | None = None, rank: int | None = None
) -> Problem:
    draws = np.random.default_rng(seed)
    chain = draws.dirichlet(np.full(n, 0.5), size=n) * draws.uniform(0.5, 1.0, size=(n, 1))
    mu = np.where(np.arange(n) < (support or n), draws.uniform(0.1, 1.0, size=n), 0.0)
    Z = draws.normal(size=(n, rank or d)) @ (np.eye(d) if rank is None else draws.normal(size=(rank, d)))
    return Problem.from_chain(chain, draws.normal(size=n), Z, mu / mu.sum(), draws.uniform(0.5, 1.0))


def test_a_target_network_rescues_bairds_star() -> None:
    found = target_network_radius(baird(), 0.1, [1, 10, 250, 5000])
    assert found.radii[:2] == pytest.approx([1.0239, 0.9824], abs=5e-5)
    assert found.radii[3] == pytest.approx(0.99, rel=1e-12) == found.limit_radius
    assert found.verdicts == ("unstable", "stable", "stable", "stable")
    assert {each.name: each.holds for each in found.conditions} == {
        "inner loop converges": True,
        "TD converges (K = 1)": False,
        "rollout converges (K to infinity)": True,
    }


def test_a_target_network_destroys_the_sign_flip() -> None:
    # One feature: C = 1.8, M = .82, gamma W_d = -1.5, so H_K = 2.5 * .82^K - 1.5.
    steps = [1, 8, 9, 10, 400]
    found = target_network_radius(sign_flip(), 0.1, steps)
    np.testing.assert_allclose(found.radii, [abs(2.5 * 0.82**K - 1.5) for K in steps], rtol=1e-13)
    assert found.radii[[0, 1, 3]].round(3).tolist() == [0.55, 0.989, 1.156]
    assert found.verdicts == ("stable", "stable", "unstable", "unstable", "unstable")
    assert found.limit_radius == pytest.approx(1.5, rel=1e-14) and found.limit_verdict == "unstable"
    assert found.inner_limit == pytest.approx(2 / 1.8, rel=1e-14)
    assert [each.holds for each in found.conditions] == [True, True, False]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("inner", [1, 2, 7, 40])
def test_the_radius_is_that_of_the_two_loops_as_run(name: str, inner: int) -> None:
    problem = catalogue.load(name).problem
    step_size = 1.3 / np.linalg.eigvalsh(td_system(problem).C).max()
    run = np.abs(np.linalg.eigvals(run_loops(problem, step_size, inner))).max()
    assert target_network_radius(problem, step_size, inner).radii[0] == pytest.approx(run, rel=1e-9)


@given(st.integers(0, 2**32), st.integers(2, 8), st.integers(1, 5), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_one_inner_step_is_td(seed: int, n: int, d: int, partial: bool, dependent: bool) -> None:
    problem = random_problem(
        seed, n, d, support=max(1, n // 2) if partial else None, rank=max(1, d // 2) if dependent else None
    )
    V, step_size = row_space(problem), 0.3
    A = V.T @ td_system(problem).A @ V
    radius = np.abs(np.linalg.eigvals(np.eye(len(A)) - step_size * A)).max()
    assert target_network_radius(problem, step_size, 1).radii[0] == pytest.approx(radius, rel=1e-7)


@given(st.integers(0, 2**32), st.integers(2, 8), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_many_inner_steps_are_the_rollout(seed: int, n: int, d: int) -> None:
    problem = random_problem(seed, n, min(n, d))
    curvature = np.linalg.eigvalsh(td_system(problem).C)
    step_size = 1.0 / curvature.max()
    enough = math.ceil(40.0 * curvature.max() / curvature.min())
    found, rollout = target_network_radius(problem, step_size, enough), stability(problem)
    assert found.radii[0] == pytest.approx(rollout.spectral_radius, rel=1e-7)
    assert found.limit_radius == pytest.approx(rollout.spectral_radius, rel=1e-7)
    words = {"converges": "stable", "diverges": "unstable", "boundary": "boundary"}
    assert found.limit_verdict == words[rollout.rollout]


def test_the_inner_loop_is_descent_on_the_loss_with_the_target_frozen() -> None:
    problem, w, step_size = catalogue.load("basis_dependence_a").problem, np.array([3.0, -1.0]), 0.2
    limit = td_fixed_point(problem).w
    errors = [np.linalg.norm(w - limit)]
    for _ in range(4):
        target = problem.r + problem.gamma * (problem.dense_P @ (problem.Z @ w))
        for _ in range(3):
            w = w - step_size * problem.Z.T @ (problem.mu * (problem.Z @ w - target))
        errors.append(np.linalg.norm(w - limit))
    run = target_network_trajectory(
        problem, step_size=step_size, inner_steps=3, outer_steps=4, w0=[3.0, -1.0]
    )
    np.testing.assert_allclose(run.error, errors, rtol=1e-12)


@pytest.mark.parametrize(("name", "inner"), [("baird_star", 1), ("baird_star", 100), ("sign_flip", 8)])
def test_the_observed_rate_is_the_radius(name: str, inner: int) -> None:
    problem = catalogue.load(name).problem
    w0 = [1.0] * (problem.d - 2) + [10.0, 1.0] if problem.d > 1 else [1.0]
    run = target_network_trajectory(problem, step_size=0.1, inner_steps=inner, outer_steps=900, w0=w0)
    assert run.observed_rate == pytest.approx(run.predicted_rate, rel=1e-4)
    assert (run.error[-1] > run.error[0]) == (run.predicted_rate > 1.0)


def test_the_loops_reach_tds_fixed_point_for_every_number_of_inner_steps() -> None:
    problem = catalogue.load("boyan_chain").problem
    for inner in (1, 5, 50):
        run = target_network_trajectory(problem, step_size=1.0, inner_steps=inner, outer_steps=4000 // inner)
        assert run.error[-1] < 1e-6 * run.error[0]


def test_a_diverging_run_is_stopped() -> None:
    run = target_network_trajectory(sign_flip(), step_size=0.1, inner_steps=100, outer_steps=100_000)
    assert 1e100 < run.error[-1] < 2e100 and len(run.error) < 1000


def test_the_basis_matters_for_few_inner_steps_and_not_in_the_limit() -> None:
    one, other = (catalogue.load(f"basis_dependence_{which}").problem for which in "ab")
    first, second = (target_network_radius(problem, 0.1, [1, 5]) for problem in (one, other))
    assert first.verdicts[0] == "stable" and second.verdicts[0] == "unstable"
    assert np.abs(first.radii - second.radii).min() > 1e-3
    assert first.limit_radius == pytest.approx(0.88963, abs=5e-6)
    assert second.limit_radius == pytest.approx(first.limit_radius, rel=1e-12)


def test_a_singular_system_is_on_the_boundary_for_every_number_of_inner_steps() -> None:
    problem = catalogue.load("tsitsiklis_van_roy_singular").problem
    found = target_network_radius(problem, 0.1, [1, 3, 1000])
    assert found.verdicts == ("boundary",) * 3 and found.limit_verdict == "boundary"
    assert [each.holds for each in found.conditions] == [True, None, None]


def test_a_rollout_on_the_boundary_is_told_in_the_limit_only() -> None:
    # Eigenvalue -1: H_K = M^K * 2 - 1 is inside for every finite K, on the boundary once M^K is rounding.
    found = target_network_radius(catalogue.load("sign_flip_boundary").problem, 0.1, [1, 10, 1000])
    assert found.verdicts == ("stable", "stable", "boundary")
    assert found.limit_verdict == "boundary"


def test_above_the_inner_limit_there_is_no_limit_and_the_result_says_so() -> None:
    limit = 2 / 1.8
    found = target_network_radius(sign_flip(), 1.1 * limit, [1, 2, 30])
    # M = 1 - 2.2 = -1.2.
    np.testing.assert_allclose(found.radii, [abs(2.5 * (-1.2) ** K - 1.5) for K in (1, 2, 30)], rtol=1e-12)
    assert found.limit_radius is None and found.limit_verdict is None
    inner, _, rollout = found.conditions
    assert inner.holds is False and inner.value == pytest.approx(2.2) and inner.margin == pytest.approx(-0.2)
    assert rollout.holds is None and "no limit" in rollout.why
    exactly = target_network_radius(sign_flip(), limit, 1)
    assert exactly.conditions[0].holds is None and exactly.limit_radius is None
    just_below = target_network_radius(sign_flip(), limit * (1 - 1e-9), 1)
    assert just_below.conditions[0].holds is True and just_below.limit_radius is not None


def test_features_without_weight_leave_nothing_to_learn() -> None:
    problem = Problem.from_chain(np.eye(2), [1.0, 1.0], [0.0, 3.0], [1.0, 0.0], 0.9)
    found = target_network_radius(problem, 0.1, 3)
    assert found.radii.tolist() == [0.0] and found.verdicts == ("stable",)
    assert found.inner_limit == math.inf


@pytest.mark.parametrize("inner", [0, -3, 1.5, True, [], [[1]], [2, 0]])
def test_inner_steps_that_cannot_be_are_refused(inner: Any) -> None:
    with pytest.raises(InputError, match="inner_steps must be a whole number from 1"):
        target_network_radius(sign_flip(), 0.1, inner)


@pytest.mark.parametrize("step_size", [0.0, -0.1, math.inf, math.nan, "a", None])
def test_step_sizes_that_cannot_be_are_refused(step_size: Any) -> None:
    with pytest.raises(InputError, match="step_size must be positive and finite"):
        target_network_radius(sign_flip(), step_size, 1)


def test_a_diverging_inner_loop_of_many_steps_is_refused_with_the_limit() -> None:
    with pytest.raises(InputError, match=r"step_size 2 is above 2 / lambda_max\(C\) = 1.11111.*1000"):
        target_network_radius(sign_flip(), 2.0, [1, 1000])


def test_a_run_needs_a_fixed_point_a_start_and_steps() -> None:
    loops = {"step_size": 0.1, "inner_steps": 2, "outer_steps": 3}
    with pytest.raises(InputError, match="no fixed point"):
        target_network_trajectory(catalogue.load("tsitsiklis_van_roy_singular").problem, **loops)
    with pytest.raises(InputError, match=r"w0 must have shape \(1,\)"):
        target_network_trajectory(sign_flip(), **loops, w0=[1.0, 2.0])
    with pytest.raises(InputError, match="outer_steps must be at least 1"):
        target_network_trajectory(sign_flip(), **(loops | {"outer_steps": 0}))
    with pytest.raises(InputError, match=r"outer_steps must be a whole number, got 1\.5"):
        target_network_trajectory(sign_flip(), **(loops | {"outer_steps": 1.5}))
    with pytest.raises(InputError, match="inner_steps must be a whole number"):
        target_network_trajectory(sign_flip(), **(loops | {"inner_steps": [1, 2]}))
