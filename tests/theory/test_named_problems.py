"""Four problems of the literature and of our own in full: Baird's star, basis dependence, a visited Garnet.

The catalogue's verdicts are checked elsewhere; here is the rest of what is claimed about these problems, each
number from a second route, and each claim with what happens without its condition.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import (
    Problem,
    catalogue,
    check_fixed_point_equivalence,
    fit_linear_model,
    model_based_solution,
    stability,
    td_fixed_point,
    td_system,
    td_trajectory,
    value_error,
)
from theory.localised import localised_bounds
from theory.truncation import truncation

BAIRD = catalogue.load("baird_star_reward_one").problem
BASIS_A = catalogue.load("basis_dependence_a").problem
BASIS_B = catalogue.load("basis_dependence_b").problem
VISITED = catalogue.load("garnet_discounted_visitation").problem
seeds = st.integers(0, 10_000)
few = settings(max_examples=40)


def with_features(problem: Problem, Z: np.ndarray, mu: np.ndarray | None = None) -> Problem:
    return Problem.from_chain(problem.P_pi, problem.r, Z, problem.mu if mu is None else mu, problem.gamma)


def with_reward(problem: Problem, r: np.ndarray) -> Problem:
    return Problem.from_chain(problem.P_pi, r, problem.Z, problem.mu, problem.gamma)


# Baird's star with reward one (A11r).


def test_baird_is_the_star_of_the_book():
    Z = 2.0 * np.eye(7, 8)
    Z[6, 6], Z[:6, 7], Z[6, 7] = 1.0, 1.0, 2.0
    np.testing.assert_array_equal(BAIRD.Z, Z)
    np.testing.assert_array_equal(BAIRD.dense_P, np.tile(np.eye(7)[6], (7, 1)))
    np.testing.assert_allclose(BAIRD.mu, 1 / 7, rtol=1e-15)
    assert BAIRD.gamma == 0.99 and BAIRD.r.tolist() == [1.0] * 7


def test_baird_has_eight_features_and_rank_seven_so_weights_are_not_unique_and_values_are():
    point, model = td_fixed_point(BAIRD), fit_linear_model(BAIRD)
    assert model.rank == 7 and point.kind == "affine" and point.nullity == 1
    for step in (-10.0, 0.0, 3.0):
        np.testing.assert_allclose(BAIRD.Z @ (point.w + step * point.null_space[:, 0]), 100.0, rtol=1e-10)


def test_the_model_of_baird_is_exact_and_its_least_norm_weights_are_thirteenths():
    w = model_based_solution(BAIRD).w
    expected = [float(Fraction(300, 13))] * 6 + [float(Fraction(-100, 13)), float(Fraction(700, 13))]
    np.testing.assert_allclose(w, expected, rtol=1e-11)
    np.testing.assert_allclose(w, [23.0769] * 6 + [-7.6923, 53.8462], atol=5e-5)
    # The least-norm solution of Zw = 100: a pseudo-inverse knows nothing of models or TD.
    np.testing.assert_allclose(np.linalg.pinv(BAIRD.Z) @ np.full(7, 100.0), w, rtol=1e-11)
    split = value_error(BAIRD)
    assert split.holds and abs(split.error).max() < 1e-9
    np.testing.assert_allclose(split.q_true, 100.0, rtol=1e-12)
    assert localised_bounds(BAIRD).L1.max() < 1e-6


def test_bairds_rollout_converges_at_the_rate_of_the_discount_where_td_diverges_at_every_step_size():
    stable = stability(BAIRD)
    assert stable.td == "unstable" and stable.step_size_limit is None
    assert stable.rollout == stable.rollout_for_reward == "converges"
    assert stable.spectral_radius == pytest.approx(0.99, abs=1e-12)
    run = truncation(BAIRD, 50)
    np.testing.assert_allclose(run.error, 100.0 * 0.99 ** np.arange(51), rtol=1e-9)
    assert run.holds and run.kind == "unique"
    for method in ("series", "doubling"):
        rolled = model_based_solution(BAIRD, method=method)
        assert rolled.converged
        np.testing.assert_allclose(BAIRD.Z @ rolled.w, 100.0, rtol=1e-9)
    for step_size in (1e-2, 0.1, 1.0):
        path = td_trajectory(BAIRD, step_size=step_size, steps=int(40 / step_size), w0=np.ones(8))
        assert path.predicted_rate > 1.0 and path.error[-1] > 10.0 * path.error.min()


def test_bairds_eigenvalues_tau_and_kappa_from_dense_matrices():
    stable, n = stability(BAIRD), 7
    expected = [-0.23925, -0.02218, *[0.57143] * 5]
    np.testing.assert_allclose(sorted(stable.eigenvalues.real), expected, atol=5e-6)
    assert abs(stable.eigenvalues.imag).max() < 1e-7
    A = BAIRD.Z.T @ (BAIRD.Z - 0.99 * BAIRD.dense_P @ BAIRD.Z) / n
    nonzero = sorted(np.linalg.eigvals(A).real[abs(np.linalg.eigvals(A)) > 1e-9])
    np.testing.assert_allclose(nonzero, expected, atol=5e-6)
    # Uniform weights: N is the discounted chain, ones in the last column; its symmetric part has rank two
    # with eigenvalues gamma (1 +- sqrt(7)) / 2.
    assert stable.tau == pytest.approx(0.99 * (1 + np.sqrt(7)) / 2, rel=1e-12)
    assert stable.sigma == pytest.approx(0.99 * np.sqrt(7), rel=1e-12)
    assert stable.kappa == pytest.approx(7.0, rel=1e-12) and not stable.certificate


def test_baird_under_weights_of_the_star_itself_is_stable():
    # On-policy weights are all on the middle; nearly so is enough for TD, and the certificate knows it.
    mu = np.array([1e-3] * 6 + [1 - 6e-3])
    stable = stability(with_features(BAIRD, BAIRD.Z, mu))
    assert stable.td == "stable" and stable.spectral_radius == pytest.approx(0.99, abs=1e-9)


def test_bairds_equivalence_is_checked_in_spite_of_dependent_features():
    report = check_fixed_point_equivalence(BAIRD)
    assert report.verdict == "pass" and report.data["rank"] == 7
    assert not report.condition("features are independent").holds
    # A reward with no value in the span is still equivalent, but the model is then wrong.
    other = with_reward(BAIRD, np.arange(7.0))
    assert check_fixed_point_equivalence(other).verdict == "pass"


# The same span in two bases (A20a, A20b).


def test_the_two_bases_differ_by_a_factor_of_twenty_in_one_feature():
    np.testing.assert_allclose(BASIS_B.Z, BASIS_A.Z * [1.0, 1 / 20], rtol=1e-15)
    np.testing.assert_array_equal(BASIS_A.dense_P, BASIS_B.dense_P)
    np.testing.assert_array_equal(BASIS_A.mu, BASIS_B.mu)
    np.testing.assert_allclose(BASIS_A.dense_P, [[0.2, 0.8, 0], [1 / 3, 0, 2 / 3], [0, 0, 1]], rtol=1e-15)
    assert BASIS_A.mu.tolist() == [0.32, 0.58, 0.1] and BASIS_A.gamma == BASIS_B.gamma == 0.95


def test_stability_of_td_depends_on_the_basis_and_nothing_else_does():
    a, b = stability(BASIS_A), stability(BASIS_B)
    assert (a.td, b.td) == ("stable", "unstable")
    np.testing.assert_allclose(a.eigenvalues.real, 0.3129, atol=5e-5)
    np.testing.assert_allclose(abs(a.eigenvalues.imag), 0.4936, atol=5e-5)
    assert b.eigenvalues.real.min() == pytest.approx(-0.2887, abs=5e-5)
    for name in ("spectral_radius", "tau", "sigma", "kappa"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-10)
    assert a.rollout == b.rollout == "converges" and not a.certificate and not b.certificate
    assert a.spectral_radius == pytest.approx(0.88963, abs=5e-6)
    assert a.tau == pytest.approx(1.4245, abs=5e-5)
    first, second = td_fixed_point(BASIS_A), td_fixed_point(BASIS_B)
    np.testing.assert_allclose(first.w, second.w / [1.0, 20.0], rtol=1e-9)
    np.testing.assert_allclose(BASIS_A.Z @ first.w, BASIS_B.Z @ second.w, rtol=1e-9)
    np.testing.assert_allclose(localised_bounds(BASIS_A).L1, localised_bounds(BASIS_B).L1, rtol=1e-8)


def test_the_numbers_of_both_bases_from_dense_matrices():
    D, root = np.diag(BASIS_A.mu), np.sqrt(BASIS_A.mu)
    for problem, name in ((BASIS_A, "a"), (BASIS_B, "b")):
        Z, Z_next = problem.Z, problem.dense_P @ problem.Z
        C, X = Z.T @ D @ Z, Z.T @ D @ Z_next
        radius = 0.95 * abs(np.linalg.eigvals(np.linalg.inv(C) @ X)).max()
        assert radius == pytest.approx(0.88963, abs=5e-6), name
        np.testing.assert_allclose(td_system(problem).A, C - 0.95 * X, atol=1e-15)
    N = 0.95 * root[:, None] * BASIS_A.dense_P / root
    assert np.linalg.eigvalsh(0.5 * (N + N.T))[-1] == pytest.approx(1.4245, abs=5e-5)


def test_td_is_seen_to_converge_in_one_basis_and_to_diverge_in_the_other():
    limit = stability(BASIS_A).step_size_limit
    inside = td_trajectory(BASIS_A, step_size=0.9 * limit, steps=800)
    assert inside.error[-1] < 1e-6 * inside.error[0] and inside.predicted_rate < 1.0
    outside = td_trajectory(BASIS_A, step_size=1.1 * limit, steps=800)
    assert outside.error[-1] > 1e3 * outside.error[0] and outside.predicted_rate > 1.0
    for step_size in (1e-3, 1e-2, 0.1):
        path = td_trajectory(BASIS_B, step_size=step_size, steps=int(20 / step_size))
        assert path.predicted_rate > 1.0 and path.error[-1] > 10.0 * path.error[0]


def test_between_the_two_bases_lies_one_threshold():
    scales = np.geomspace(1.0, 1 / 20, 30)
    stable = [stability(with_features(BASIS_A, BASIS_A.Z * [1.0, scale])).td for scale in scales]
    flips = sum(one != other for one, other in itertools.pairwise(stable))
    assert stable[0] == "stable" and stable[-1] == "unstable" and flips == 1


def test_no_basis_matters_once_the_symmetric_part_is_definite():
    # With weights that earn the certificate, every basis of this span and of any other is stable.
    chain = BASIS_A.dense_P
    even = Problem.from_chain(chain, BASIS_A.r, BASIS_A.Z, [0.1, 0.1, 0.8], 0.95)
    assert stability(even).certificate
    for scale in (1.0, 1 / 20, 20.0, 1e-4):
        assert stability(with_features(even, BASIS_A.Z * [1.0, scale])).td == "stable"


# A Garnet under discounted visitation (A22).


def test_the_weights_are_a_discounted_visitation_of_some_start():
    # mu = (1 - gamma) start + gamma mu P: what is left must be a distribution.
    start = (VISITED.mu - VISITED.gamma * VISITED.mu @ VISITED.dense_P) / (1 - VISITED.gamma)
    assert start.min() > -1e-12 and start.sum() == pytest.approx(1.0, abs=1e-12)
    # No uniform distribution is: some row is visited more often than it would have to be.
    uniform = np.full(VISITED.n, 1 / VISITED.n)
    assert (uniform - VISITED.gamma * uniform @ VISITED.dense_P).min() < -1e-3


def test_visitation_bounds_kappa_and_earns_the_certificate():
    stable = stability(VISITED)
    assert stable.kappa == pytest.approx(1.03997, abs=5e-6) and stable.kappa <= 1 / VISITED.gamma
    assert stable.tau == pytest.approx(0.90053, abs=5e-6) and stable.certificate
    assert stable.tau <= stable.sigma <= VISITED.gamma * np.sqrt(stable.kappa) <= np.sqrt(VISITED.gamma)
    assert VISITED.gamma**2 * stable.kappa < 1.0  # the easy sufficient test
    assert (stable.td, stable.rollout) == ("stable", "converges")


def test_the_numbers_of_the_visited_garnet_from_dense_matrices():
    mu, P, root = VISITED.mu, VISITED.dense_P, np.sqrt(VISITED.mu)
    np.testing.assert_allclose(P.sum(axis=1), 1.0, rtol=1e-12)
    assert ((mu @ P) / mu).max() == pytest.approx(1.03997, abs=5e-6)
    N = 0.9 * root[:, None] * P / root
    half = 0.5 * (N + N.T)
    assert np.linalg.eigvalsh(half)[-1] == pytest.approx(0.90053, abs=5e-6)
    assert stability(VISITED).sigma == pytest.approx(np.linalg.norm(N, 2), rel=1e-10)
    M = np.diag(mu) @ (np.eye(VISITED.n) - 0.9 * P)
    assert np.linalg.eigvalsh(M + M.T)[0] > 0.0  # the certificate, as it is stated


@given(seeds, st.integers(1, 12))
@few
def test_every_choice_of_features_is_then_safe(seed, d):
    Z = np.random.default_rng(seed).normal(size=(VISITED.n, d))
    found, tau = stability(with_features(VISITED, Z)), stability(VISITED).tau
    assert (found.td, found.rollout) == ("stable", "converges")
    assert found.spectral_radius <= tau * (1 + 1e-9)
    assert found.tau == pytest.approx(tau, rel=1e-12)


def test_the_worst_feature_is_safe_here_and_breaks_both_where_the_certificate_fails():
    good = stability(VISITED)
    alone = with_features(VISITED, good.worst_feature[:, None])
    assert td_system(alone).A.item() == pytest.approx(1 - good.tau, rel=1e-9)
    assert VISITED.gamma * fit_linear_model(alone).W_d.item() == pytest.approx(good.tau, rel=1e-9)
    mu = np.full(VISITED.n, 1e-3)
    mu[0] = 1.0 - mu[1:].sum()
    lopsided = with_features(VISITED, VISITED.Z, mu)
    bad = stability(lopsided)
    assert bad.tau > 1.0 and not bad.certificate and bad.kappa > 1 / VISITED.gamma
    broken = stability(with_features(lopsided, bad.worst_feature[:, None]))
    assert (broken.td, broken.rollout) == ("unstable", "diverges")
