"""The ladder of theorem 2: its order at every row, the known numbers, and what does not apply."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from theory import Features, InputError, Policy, Problem, Weights, fit_linear_model, garnet, stability
from theory.bounds import POINTWISE, SUPREMUM, WEIGHTED, bounds
from theory.value_error import value_error
from theory.weighted_norms import weighted_norms

TVR = [[0.0, 1.0], [0.0, 1.0]]
HALF = [0.5, 0.5]
A13 = Problem.from_chain(TVR, [1, 1], [[1], [2]], HALF, 0.9)
WALK19 = 0.5 * (np.eye(19, k=1) + np.eye(19, k=-1))


def random_problem(seed: int) -> Problem:
    """Return a chain of up to 8 rows, some of which may end, with random features and positive weights."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9))
    chain = rng.dirichlet(np.ones(n) * 0.4, n)
    if rng.random() < 0.5:
        chain *= rng.uniform(0.3, 1.0, (n, 1))
    Z = rng.normal(size=(n, int(rng.integers(1, n + 1))))
    gamma = float(rng.choice([0.0, 0.5, 0.9, 0.99]))
    return Problem.from_chain(chain, rng.normal(size=n), Z, rng.dirichlet(np.ones(n) * 3), gamma)


def stationary_problem(seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    mdp = garnet(num_states=6, num_actions=2, branching=3, gamma=0.9, seed=seed)
    policy = Policy(rng.dirichlet(np.ones(2), 6))
    features = Features.from_array(rng.normal(size=(6, 2, 3)))
    return Problem(mdp, policy, features, Weights.stationary(mdp, policy))


def boyan() -> Problem:
    """Return the 13-state chain of Boyan 2002 without its end, features interpolated between 4 corners."""
    chain = 0.5 * (np.eye(12, k=1) + np.eye(12, k=2))
    chain[10, 11] = 0.5
    corners = np.minimum(np.arange(12) / 4.0, 3.0)
    Z = np.maximum(0.0, 1.0 - abs(corners[:, None] - np.arange(4)))
    return Problem.from_chain(chain, [-3.0] * 11 + [-2.0], Z, np.ones(12) / 12, 1.0)


def slack(ladder) -> float:
    return 4 * ladder.rounding + 1e-12


seeds = st.integers(0, 10_000)
few = settings(max_examples=25)


@given(seeds)
@few
def test_the_ladder_is_in_order_at_every_row(seed):
    problem = random_problem(seed)
    ladder, error = bounds(problem), abs(value_error(problem).error)
    rungs = [error, ladder.B1, ladder.B2, ladder.B25, ladder.B3]
    for low, high in itertools.pairwise(rungs):
        assert np.all(low <= high * (1 + 1e-9) + slack(ladder))


@given(seeds)
@few
def test_every_pointwise_bound_is_below_its_supremum_form(seed):
    ladder = bounds(random_problem(seed))
    sups = [ladder.S1, ladder.S2, ladder.S25, ladder.S3]
    for name, sup in zip(POINTWISE, sups, strict=True):
        assert getattr(ladder, name).max() <= sup * (1 + 1e-9) + slack(ladder)
    assert sorted(sups) == pytest.approx(sups, rel=1e-9, abs=slack(ladder))
    assert ladder.published * (1 + 1e-12) >= ladder.S3
    assert ladder.lower <= ladder.error_sup * (1 + 1e-9) + slack(ladder)


@given(seeds)
@few
def test_bounds_in_the_weighted_norm_hold_in_order(seed):
    ladder = bounds(random_problem(seed))
    room = slack(ladder)
    for name in WEIGHTED:
        bound = getattr(ladder, name)
        assert (bound is None) == (name in ladder.inapplicable)
        assert bound is None or ladder.error_D <= bound * (1 + 1e-8) + room
    for name in {"sigma", "cea", "kappa"} & set(ladder.factors):
        assert ladder.factors["oblique"] <= ladder.factors[name] * (1 + 1e-8)
    if "kappa" in ladder.factors:
        assert ladder.factors["sigma"] <= ladder.factors["kappa"] * (1 + 1e-8)


@given(seeds)
@few
def test_every_number_is_what_explicit_matrices_give(seed):
    problem = random_problem(seed)
    P, Z, gamma, D = problem.dense_P, problem.Z, problem.gamma, np.diag(problem.mu)
    G = np.linalg.inv(np.eye(problem.n) - gamma * P)
    A = Z.T @ D @ (Z - gamma * P @ Z)
    if np.linalg.cond(A) > 1e8:
        return
    w = np.linalg.solve(A, Z.T @ D @ problem.r)
    model = fit_linear_model(problem)
    eps_r, eps_d = Z @ model.w_r - problem.r, Z @ model.W_d - P @ Z
    ladder, H = bounds(problem), G.sum(axis=1).max()
    close = {"rtol": 1e-6, "atol": 1e-8}
    np.testing.assert_allclose(ladder.B1, G @ abs(Z @ w - problem.r - gamma * P @ Z @ w), **close)
    np.testing.assert_allclose(ladder.B2, G @ (abs(eps_r) + gamma * abs(eps_d @ w)), **close)
    np.testing.assert_allclose(ladder.B25, G @ (abs(eps_r) + gamma * abs(eps_d) @ abs(w)), **close)
    norm = abs(eps_d).sum(axis=1) * abs(w).max()
    np.testing.assert_allclose(ladder.B3, G @ (abs(eps_r) + gamma * norm), **close)
    np.testing.assert_allclose(ladder.published, H * (abs(eps_r) + norm).max(), **close)
    root = np.diag(np.sqrt(problem.mu))
    oblique = Z @ np.linalg.solve(A, Z.T @ D @ (np.eye(problem.n) - gamma * P))
    expected = np.linalg.norm(root @ oblique @ np.linalg.inv(root), 2)
    assert ladder.factors["oblique"] == pytest.approx(expected, rel=1e-6)
    q = G @ problem.r
    fitted = Z @ np.linalg.lstsq(root @ Z, root @ q)[0]
    np.testing.assert_allclose(ladder.best_D, np.linalg.norm(root @ (q - fitted)), **close)
    size = np.linalg.norm(root @ G @ np.linalg.inv(root), 2)
    losses = [np.sqrt(problem.mu @ (x**2).reshape(problem.n, -1).sum(axis=1)) for x in (eps_r, eps_d)]
    expected = size * (losses[0] + gamma * np.linalg.norm(w) * losses[1])
    np.testing.assert_allclose(ladder.loss_to_value, expected, **close)


@given(seeds)
@few
def test_tightness_is_truth_over_bound(seed):
    problem = random_problem(seed)
    ladder, error = bounds(problem), abs(value_error(problem).error)
    if ladder.error_sup < 1e-6:
        return
    assert ladder.tightness["S1"] == pytest.approx(np.median(error) / ladder.S1)
    assert ladder.tightness["B2"] == pytest.approx(np.median(error / ladder.B2))
    assert ladder.tightness["residual"] == pytest.approx(np.sqrt(problem.mu @ error**2) / ladder.residual)
    assert ladder.tightness["lower"] == pytest.approx(ladder.lower / error.max())
    assert set(ladder.tightness) | set(ladder.inapplicable) == {"lower", *POINTWISE, *SUPREMUM, *WEIGHTED}
    assert max(ladder.tightness.values()) <= 1.0 + 1e-6


@given(seeds)
@few
def test_stationary_weights_give_the_classical_factor(seed):
    """Tsitsiklis and Van Roy: sigma <= gamma, so at most 1 / sqrt(1 - gamma^2)."""
    ladder = bounds(stationary_problem(seed))
    assert ladder.factors["kappa"] == pytest.approx(1.0 / np.sqrt(1.0 - 0.81), rel=1e-9)
    assert ladder.factors["sigma"] <= ladder.factors["kappa"] * (1 + 1e-12)
    assert ladder.error_D <= ladder.kappa


@given(seeds)
@few
def test_discounted_visitation_bounds_the_factor_by_the_horizon(seed):
    mdp = garnet(num_states=6, num_actions=2, branching=3, gamma=0.9, seed=seed)
    policy, features = Policy.uniform(mdp), Features.random(mdp, 3, seed)
    problem = Problem(mdp, policy, features, Weights.discounted(mdp, policy))
    factors = bounds(problem).factors
    assert factors.get("sigma", 0.0) <= 1.0 / np.sqrt(1.0 - 0.9) * (1 + 1e-9)


@given(seeds)
@few
def test_scaling_features_moves_only_the_rungs_that_use_norms(seed):
    """B25 is invariant; S3 is not, and is least where all weights have one size, where it equals S25."""
    problem = random_problem(seed)
    before, w = bounds(problem), value_error(problem).w
    stretch = np.ones(problem.d)
    stretch[0] = 100.0
    after = bounds(
        Problem.from_chain(problem.P_pi, problem.r, problem.Z * stretch, problem.mu, problem.gamma)
    )
    for name in ("S1", "S2", "S25", "oblique"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-6, abs=1e-8)
    if abs(w).min() < 1e-6:
        return
    even = bounds(Problem.from_chain(problem.P_pi, problem.r, problem.Z * w, problem.mu, problem.gamma))
    assert pytest.approx(even.S25, rel=1e-6, abs=1e-8) == even.S3
    assert pytest.approx(before.S25, rel=1e-6, abs=1e-8) == even.S3


def test_one_feature_stretched_worsens_the_published_bound_alone():
    chain = [[0.1, 0.9, 0.0], [0.0, 0.2, 0.8], [0.5, 0.0, 0.5]]
    Z = np.array([[1.0, 0.5], [0.3, -1.0], [-0.7, 0.2]])
    before = bounds(Problem.from_chain(chain, [1, 0, 2], Z, np.ones(3) / 3, 0.9))
    after = bounds(Problem.from_chain(chain, [1, 0, 2], Z * [100, 1], np.ones(3) / 3, 0.9))
    assert pytest.approx(before.S25) == after.S25
    assert after.published > 2.5 * before.published


def test_the_ladder_of_the_two_state_counterexample():
    """w = -15/2; residuals of the reward model (-.4, .2), of the dynamics model (-.8, .4), H = 10 (A13)."""
    ladder = bounds(A13)
    assert ladder.error_sup == pytest.approx(25.0)
    assert pytest.approx([50, 58, 58, 58]) == [ladder.S1, ladder.S2, ladder.S25, ladder.S3]
    assert ladder.published == pytest.approx(64.0)
    assert ladder.lower == pytest.approx(5.0 / 1.9)
    assert ladder.tightness["oblique"] == pytest.approx(1.0)


def test_the_largest_weight_without_absolute_value_bounds_nothing():
    """The circulating text says "the maximum of the elements of w": with w = -7.5 that "bound" is -28."""
    model, w = fit_linear_model(A13), value_error(A13).w
    eps_r = abs(A13.Z @ model.w_r - A13.r)
    eps_d = abs(A13.Z @ model.W_d - A13.Z_next).sum(axis=1)
    literal = 10.0 * (eps_r + w.max() * eps_d).max()
    assert literal == pytest.approx(-28.0)
    assert literal < bounds(A13).error_sup == pytest.approx(25.0)


def test_a_bound_may_be_vacuous_where_the_value_is_exact():
    """Boyan's chain (B03): exact values -24, ..., 0, horizon 8.2222, S3 = 121.43, nothing to bound."""
    ladder = bounds(boyan())
    np.testing.assert_allclose(value_error(boyan()).w, [-24, -16, -8, 0], atol=1e-10)
    assert ladder.error_sup < 1e-11
    assert pytest.approx(8.2222, abs=5e-5) == ladder.H
    assert ladder.S1 < 1e-10
    assert pytest.approx(121.43, abs=5e-3) == ladder.S3
    assert ladder.published == ladder.S3


def test_the_horizon_is_finite_without_discount_if_everything_ends():
    """Ten steps to the end (B09): H = 10 where 1 / (1 - gamma) is infinite."""
    chain = np.eye(10, k=1)
    ladder = bounds(Problem.from_chain(chain, np.ones(10), np.ones((10, 1)), np.ones(10) / 10, 1.0))
    assert pytest.approx(10.0) == ladder.H
    assert np.isfinite([getattr(ladder, name) for name in SUPREMUM]).all()
    assert ladder.error_sup <= ladder.S1


def test_cea_holds_where_sigma_does_not():
    """The 19-state walk in 4 groups (E03): sigma >= 1, tau < 1, horizon 100."""
    counts = np.linalg.solve(np.eye(19) - WALK19.T, np.eye(19)[9])
    r = np.zeros(19)
    r[[0, -1]] = [-0.5, 0.5]
    groups = np.eye(4)[np.repeat(range(4), [5, 5, 5, 4])]
    ladder = bounds(Problem.from_chain(WALK19, r, groups, counts / counts.sum(), 1.0))
    assert ladder.sigma is None and "sigma" in ladder.inapplicable
    assert ladder.error_D <= ladder.oblique <= ladder.cea
    assert pytest.approx(100.0) == ladder.H


@given(seeds)
@few
def test_the_oblique_bound_is_attained(seed):
    """For the reward whose value is the worst for this projection, the bound is the error."""
    problem = random_problem(seed)
    n, P, Z, gamma = problem.n, problem.dense_P, problem.Z, problem.gamma
    root = np.sqrt(problem.mu)
    A = (Z.T * problem.mu) @ (Z - gamma * P @ Z)
    if problem.d == n or np.linalg.cond(A) > 1e6:
        return
    oblique = Z @ np.linalg.solve(A, (Z.T * problem.mu) @ (np.eye(n) - gamma * P))
    worst = np.linalg.svd(root[:, None] * (np.eye(n) - oblique) / root)[2][0] / root
    r = worst - gamma * P @ worst
    ladder = bounds(Problem.from_chain(P, r, Z, problem.mu, gamma))
    assert ladder.tightness["oblique"] == pytest.approx(1.0, rel=1e-6)


def test_without_a_solution_nothing_is_bounded():
    ladder = bounds(Problem.from_chain(TVR, [1, 1], [[1], [2]], HALF, 5 / 6))
    for name in ("lower", *POINTWISE, *SUPREMUM, *WEIGHTED):
        assert getattr(ladder, name) is None
        assert "no solution" in ladder.inapplicable[name]
    assert ladder.tightness == {}


def test_many_solutions_leave_only_the_oblique_projection_out():
    ladder = bounds(Problem.from_chain(TVR, [0, 0], [[1], [2]], HALF, 5 / 6))
    assert ladder.oblique is None and ladder.inapplicable["oblique"] == "A is singular"
    assert ladder.S1 == 0.0 and ladder.residual == 0.0


def test_a_row_reached_without_weight_leaves_the_weighted_norm_out():
    ladder = bounds(Problem.from_chain(TVR, [1, 1], [[1], [2]], [1.0, 0.0], 0.4))
    assert all(getattr(ladder, name) is None for name in WEIGHTED)
    assert ladder.best_D is None
    assert ladder.error_sup <= ladder.S1


def test_rows_without_weight_enter_the_maximum():
    """All data on row 0, whose model is exact; row 1 is far off, and 0 would be no bound."""
    problem = Problem.from_chain([[0.0, 1.0], [0.0, 0.0]], [1.0, 9.0], [[1.0], [2.0]], [1.0, 0.0], 0.4)
    model = fit_linear_model(problem)
    on_data = abs(problem.Z @ model.w_r - problem.r)[0] + abs(problem.Z @ model.W_d - problem.Z_next)[0, 0]
    ladder = bounds(problem)
    assert on_data == pytest.approx(0.0, abs=1e-12)
    assert ladder.error_sup > 1.0
    assert ladder.error_sup <= ladder.S1


def test_transient_rows_without_weight_are_left_out_of_the_norm():
    inner = [[0.3, 0.7], [0.6, 0.4]]
    chain = np.zeros((3, 3))
    chain[1:, 1:], chain[0, 1] = inner, 1.0
    mu, Z, r = np.array([6, 7]) / 13, np.array([[1.0], [-0.5]]), [1.0, 0.0]
    whole = bounds(Problem.from_chain(chain, [5.0, *r], [[3.0], *Z], [0.0, *mu], 0.9))
    part = bounds(Problem.from_chain(inner, r, Z, mu, 0.9))
    for name in WEIGHTED:
        assert getattr(whole, name) == pytest.approx(getattr(part, name), rel=1e-9)
    assert whole.error_D == pytest.approx(part.error_D)


def test_norms_agree_with_the_stability_report():
    problem = stationary_problem(3)
    norms, stable = weighted_norms(problem), stability(problem)
    assert (norms.sigma, norms.tau, norms.kappa) == pytest.approx((stable.sigma, stable.tau, stable.kappa))


def test_lanczos_finds_the_norm_that_dense_algebra_finds(monkeypatch):
    rng = np.random.default_rng(0)
    chain = sparse.random_array((60, 60), density=0.1, rng=rng) + sparse.eye_array(60)
    chain = sparse.csr_array(sparse.diags_array(1.0 / chain.sum(axis=1)) @ chain)
    problem = Problem.from_chain(
        chain, rng.normal(size=60), rng.normal(size=(60, 3)), rng.dirichlet(np.ones(60) * 5), 0.9
    )
    root = np.sqrt(problem.mu)
    G = np.linalg.inv(np.eye(60) - 0.9 * problem.dense_P)
    expected = np.linalg.norm(root[:, None] * G / root, 2)
    assert weighted_norms(problem).resolvent == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr("theory.weighted_norms.DENSE_ROWS", 1)
    assert weighted_norms(problem).resolvent == pytest.approx(expected, rel=1e-9)


def test_infinite_values_are_refused():
    with pytest.raises(InputError, match="gamma is 1"):
        bounds(Problem.from_chain(TVR, [1, 1], [[1], [2]], HALF, 1.0))
