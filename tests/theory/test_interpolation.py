"""Error against the number of features: exact at the ends, best below TD, and not monotone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import (
    Features,
    InputError,
    Policy,
    Problem,
    TabularMDP,
    Weights,
    garnet,
    random_walk,
    value_error,
)
from theory.interpolation import FEATURE_KINDS, FeatureSweep, SweepPoint, eigen_features, feature_sweep
from theory.regression import weighted_regression
from theory.splitmix import SplitMix64

seeds = st.integers(0, 10_000)
few = settings(max_examples=15)
GAMMA = 0.95


def random_setting(seed: int, *, states: int = 4, terminal: int = 0) -> tuple[TabularMDP, Policy, Weights]:
    rng = np.random.default_rng(seed)
    mdp = garnet(states, 2, 2, GAMMA, seed=seed, num_terminal=terminal)
    mu = rng.uniform(0.2, 1.0, (states, 2)) * ~mdp.terminal[:, None]
    return mdp, Policy(rng.dirichlet(np.ones(2) * 3, states)), Weights.custom(mu)


def sweep(
    setting: tuple[TabularMDP, Policy, Weights], kind: str, dims: object, seed: int = 0
) -> FeatureSweep:
    return feature_sweep(*setting, kind, dims, seed=seed)


def dense_values(setting: tuple[TabularMDP, Policy, Weights]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the chain over live rows, its values and its weights, by an explicit inverse."""
    mdp, policy, weights = setting
    problem = Problem(mdp, policy, Features.one_hot(mdp), weights)
    chain = problem.dense_P
    q = np.linalg.inv(np.eye(len(chain)) - mdp.gamma * chain) @ problem.r
    return chain, q, problem.mu


@pytest.mark.parametrize("kind", ["random", "svd"])
@given(seeds)
@few
def test_as_many_independent_features_as_rows_leave_no_error(kind, seed):
    setting = random_setting(seed)
    found = sweep(setting, kind, [8], seed=seed)
    (point,) = found.points
    assert point.rank == found.rows == 8 and point.kind == "unique"
    assert point.error_sup < 1e-7 * found.size_sup and point.best_sup < 1e-9 * found.size_sup


@pytest.mark.parametrize("kind", FEATURE_KINDS)
@given(seeds)
@few
def test_no_weights_come_below_the_best_error_which_never_grows(kind, seed):
    found = sweep(random_setting(seed, terminal=1), kind, range(1, 7), seed=seed)
    best, td = found.curve("best_D"), found.curve("error_D")
    assert np.all(np.diff(best) <= 1e-9 * found.size_D)  # nested spans, unlike the error of TD below
    assert np.all(td >= best * (1 - 1e-9) - 1e-9 * found.size_D)
    assert np.all(best <= found.size_D * (1 + 1e-9))


@given(seeds)
@few
def test_every_number_is_what_dense_matrices_give(seed):
    setting = random_setting(seed, terminal=1)
    mdp, policy, _ = setting
    chain, q, mu = dense_values(setting)
    Z = Features.svd(mdp, policy, 3).Z.reshape(8, -1)[:6]
    (point,) = sweep(setting, "svd", [3]).points
    A = Z.T @ np.diag(mu) @ (Z - GAMMA * chain @ Z)
    error = Z @ np.linalg.solve(A, Z.T @ (mu * setting[0].r.reshape(-1)[:6])) - q
    best = Z @ np.linalg.solve(Z.T @ np.diag(mu) @ Z, Z.T @ (mu * q)) - q
    size = abs(q).max()
    assert point.error_sup == pytest.approx(abs(error).max(), rel=1e-6, abs=1e-8 * size)
    assert point.error_D == pytest.approx(np.sqrt(mu @ error**2), rel=1e-6, abs=1e-8 * size)
    assert point.best_sup == pytest.approx(abs(best).max(), rel=1e-8, abs=1e-9 * size)
    assert point.best_D == pytest.approx(np.sqrt(mu @ best**2), rel=1e-8, abs=1e-9 * size)


@given(seeds)
@few
def test_krylov_features_are_exact_once_their_span_is_invariant_and_not_before(seed):
    setting = random_setting(seed)
    chain, _, _ = dense_values(setting)
    reward = setting[0].r.reshape(-1)
    powers = np.column_stack([np.linalg.matrix_power(chain, t) @ reward for t in range(8)])
    invariant = int(np.linalg.matrix_rank(powers, tol=1e-9))  # r, Pr, ... from here on add nothing
    assert invariant <= 5  # the reward, and what the four states can tell apart
    found = sweep(setting, "krylov", range(1, 9))
    error = found.curve("error_sup")
    assert np.all(error[invariant - 1 :] < 1e-7 * found.size_sup)
    if invariant == 5:
        assert np.all(error[: invariant - 1] > 1e-7 * found.size_sup)
    assert found.curve("rank").tolist() == [min(d, invariant) for d in range(1, 9)]


def test_a_reward_that_is_an_eigenvector_needs_one_krylov_feature():
    # Row sums of r over a two-cycle alternate: P r = -r.
    mdp = TabularMDP.from_dense([[[0, 1]], [[1, 0]]], [[1], [-1]], 0.5)
    found = sweep((mdp, Policy.uniform(mdp), Weights.uniform(mdp)), "krylov", [1])
    assert found.points[0].error_sup < 1e-15 and found.size_sup == pytest.approx(2 / 3)
    random = sweep((mdp, Policy.uniform(mdp), Weights.uniform(mdp)), "random", [1])
    assert random.points[0].error_sup > 0.01


def test_bellman_error_features_span_the_krylov_space():
    # Built one by one from TD's Bellman residual, as by Parr et al. 2007, they give the same curve.
    setting = random_setting(11)
    mdp, policy, weights = setting
    _, q, _ = dense_values(setting)
    Z = mdp.r.reshape(-1, 1)
    expected = []
    for _ in range(5):
        problem = Problem(mdp, policy, Features.from_array(Z), weights)
        split = value_error(problem)
        expected.append(abs(split.error).max())
        residual = problem.r + GAMMA * problem.P_pi @ problem.Z @ split.w - problem.Z @ split.w
        Z = np.column_stack([Z, residual / max(np.linalg.norm(residual), 1e-300)])
    curve = sweep(setting, "krylov", range(1, 6)).curve("error_sup")
    np.testing.assert_allclose(curve, expected, rtol=1e-6, atol=1e-9 * abs(q).max())
    assert expected[3] > 1e-3 > expected[4]


def test_the_curves_of_td_are_not_monotone():
    # Never assume that another feature helps: here it hurts, for two kinds, although the best error falls.
    mdp = garnet(4, 2, 2, GAMMA, seed=4)
    setting = (mdp, Policy.uniform(mdp), Weights.uniform(mdp))
    for kind, d in [("random", 1), ("random", 5), ("svd", 4), ("eigen", 1)]:
        found = sweep(setting, kind, [d, d + 1], seed=4)
        td, best = found.curve("error_sup"), found.curve("best_D")
        assert td[1] > td[0] * 1.003 and best[1] < best[0]
    curve = sweep(setting, "random", range(1, 9), seed=4).curve("error_sup")
    expected = [0.7688, 0.9896, 0.7726, 0.3008, 0.3069, 0.3150, 0.1133, 0.0]
    np.testing.assert_allclose(curve, expected, atol=5e-5)


def test_a_number_of_features_means_the_same_in_every_sweep():
    setting = random_setting(6)
    for kind in FEATURE_KINDS:
        alone, among = sweep(setting, kind, [2]).points[0], sweep(setting, kind, [4, 2, 1, 2]).points
        assert among[1] == among[3]
        assert alone.error_sup == pytest.approx(among[1].error_sup, rel=1e-9)
        assert [point.d for point in among] == [4, 2, 1, 2]
        assert sweep(setting, kind, [4, 2]).dims.tolist() == [4, 2]


def test_the_seed_matters_to_random_features_only():
    setting = random_setting(6)
    first, second = (sweep(setting, "random", [3], seed=seed).points[0].error_sup for seed in (1, 2))
    assert abs(first - second) > 1e-3
    assert sweep(setting, "svd", [3], seed=1).points == sweep(setting, "svd", [3], seed=2).points


@given(seeds)
@few
def test_eigen_features_span_eigenvectors_and_predict_themselves_exactly(seed):
    mdp, policy, weights = random_setting(seed, states=5)
    chain = Problem(mdp, policy, Features.one_hot(mdp), weights).dense_P
    Z = eigen_features(mdp, policy, 10).Z.reshape(10, -1)
    np.testing.assert_allclose(Z.T @ Z, np.eye(Z.shape[1]), atol=1e-12)
    moduli = sorted(abs(np.linalg.eigvals(chain)), reverse=True)[: Z.shape[1]]
    for d in range(1, Z.shape[1] + 1):
        ahead = chain @ Z[:, :d]
        left = ahead - Z[:, :d] @ (Z[:, :d].T @ ahead)
        whole = d == Z.shape[1] or moduli[d - 1] - moduli[d] > 1e-6
        if whole:  # not a cut through a pair
            np.testing.assert_allclose(left, 0.0, atol=1e-6)
            values = abs(np.linalg.eigvals(Z[:, :d].T @ ahead))
            np.testing.assert_allclose(sorted(values, reverse=True), moduli[:d], atol=1e-6)
    assert Z[:, 0] == pytest.approx(np.full(10, Z[0, 0]))  # the constant: nothing terminates


def test_a_complex_pair_gives_its_real_and_its_imaginary_part():
    # A three-cycle: eigenvalues are the cube roots of one, all of modulus one; the constant comes first.
    mdp = TabularMDP.from_dense([[[0, 1, 0]], [[0, 0, 1]], [[1, 0, 0]]], [[1], [0], [0]], 0.9)
    Z = eigen_features(mdp, Policy.uniform(mdp), 3).Z[:, 0]
    assert Z.shape == (3, 3) and abs(Z[:, 0]) == pytest.approx(np.full(3, 3**-0.5))
    np.testing.assert_allclose(Z[:, 1:].sum(axis=0), 0.0, atol=1e-12)


def test_there_are_no_more_eigen_features_than_states():
    setting = random_setting(0)
    found = sweep(setting, "eigen", [4, 8])
    assert found.curve("rank").tolist() == [4.0, 4.0]
    assert found.points[0].error_sup == found.points[1].error_sup


def test_eigen_features_leave_only_the_error_of_the_reward():
    mdp, policy, weights = random_setting(0)
    problem = Problem(mdp, policy, eigen_features(mdp, policy, 8), weights)
    split = value_error(problem)
    assert abs(split.dynamics).max() < 1e-8 < 1e-2 < abs(split.reward).max()


def test_undiscounted_walks_end_and_have_curves():
    walk = random_walk(5)
    found = sweep((walk, Policy.uniform(walk), Weights.uniform(walk)), "svd", [1, 2, 5])
    assert found.rows == 5 and found.size_sup == pytest.approx(5 / 6)
    assert found.points[-1].error_sup < 1e-12 and found.points[0].error_sup > 0.05


def test_a_number_without_a_fixed_point_is_left_out_of_the_curve_not_out_of_the_sweep():
    # w -> 2w at gamma 5/6: the first left singular vector of the resolvent is not (1, 2), so take the reward.
    mdp = TabularMDP.from_dense([[[0, 1]], [[0, 1]]], [[1], [2]], 5 / 6)
    found = sweep((mdp, Policy.uniform(mdp), Weights.uniform(mdp)), "krylov", [1, 2])
    assert [point.kind for point in found.points] == ["none", "unique"]
    assert np.isnan(found.curve("error_sup")).tolist() == [True, False]
    assert np.isnan(found.curve("error_D")).tolist() == [True, False]
    assert found.points[0].error_sup is None and np.isfinite(found.curve("best_sup")).all()


def test_one_of_many_fixed_points_is_not_taken_for_the_error():
    # 0 -> 1 -> 1 with one random feature z: weights that make A zero, and a reward that makes b zero.
    chain, gamma = [[[0, 1]], [[0, 1]]], 0.9
    for seed in range(20):
        a, b = 2.0 * SplitMix64(seed).uniform(2) - 1.0
        ratio = b**2 * (1 - gamma) / (a * (gamma * b - a))  # of the two weights
        if ratio > 0.0:
            break
    mdp = TabularMDP.from_dense(chain, [[-b / (ratio * a)], [1]], gamma)
    found = feature_sweep(mdp, Policy.uniform(mdp), Weights.custom([[ratio], [1]]), "random", [1], seed=seed)
    (point,) = found.points
    assert point.kind == "affine" and point.error_sup is None and point.error_D is None
    assert np.isfinite(point.best_D)


def test_weights_decide_what_is_best():
    mdp, policy, _ = random_setting(2)
    heavy = np.ones((4, 2))
    heavy[0, 0] = 1e6
    even = feature_sweep(mdp, policy, Weights.uniform(mdp), "random", [2]).points[0]
    skewed = feature_sweep(mdp, policy, Weights.custom(heavy), "random", [2]).points[0]
    assert skewed.best_D < 0.01 * even.best_D and skewed.best_sup > even.best_sup


@pytest.mark.parametrize(
    ("kind", "dims", "message"),
    [
        ("wavelet", [1], "features must be one of random, svd, eigen, krylov; got 'wavelet'"),
        ("svd", [], "dims must be numbers from 1 to the 8 live rows"),
        ("svd", [0, 1], r"dims must be numbers from 1 to the 8 live rows, got \[0, 1\]"),
        ("random", [9], r"dims must be numbers from 1 to the 8 live rows, got \[9\]"),
    ],
)
def test_bad_input_is_named(kind, dims, message):
    with pytest.raises(InputError, match=message):
        sweep(random_setting(0), kind, dims)


def test_dense_kinds_say_so_when_there_are_too_many_rows():
    mdp = garnet(2001, 1, 1, 0.9, seed=0, dense=False)
    setting = (mdp, Policy.uniform(mdp), Weights.uniform(mdp))
    with pytest.raises(InputError, match="svd features are dense: they need at most 2000 rows, got 2001"):
        sweep(setting, "svd", [1])
    with pytest.raises(InputError, match="eigen features are dense: they need at most 2000 states, got 2001"):
        sweep(setting, "eigen", [1])
    assert sweep(setting, "krylov", [2]).points[0].kind == "unique"


def test_eigen_features_refuse_more_than_there_are_rows():
    mdp, policy, _ = random_setting(0)
    with pytest.raises(InputError, match="d must be from 1 to the 8 live rows, got 9"):
        eigen_features(mdp, policy, 9)


def test_an_unknown_curve_is_named():
    empty = FeatureSweep("svd", (SweepPoint(1, 1, "unique", 1.0, 1.0, 1.0, 1.0),), 2, 1.0, 1.0)
    with pytest.raises(InputError, match="name must be one of error_sup"):
        empty.curve("error")


@given(seeds)
@few
def test_a_regression_is_the_pseudo_inverse_under_the_weights(seed):
    rng = np.random.default_rng(seed)
    n, d, m = rng.integers(2, 7), rng.integers(1, 6), rng.integers(1, 4)
    Z, Y, mu = rng.normal(size=(n, d)), rng.normal(size=(n, m)), rng.uniform(0.1, 1.0, n)
    if rng.random() < 0.5:
        Z = Z @ np.diag(rng.integers(0, 2, d)) @ rng.normal(size=(d, d))  # of lower rank
    fit = weighted_regression(Z, Y, mu)
    root = np.sqrt(mu)[:, None]
    expected = np.linalg.pinv(root * Z, rcond=1e-10) @ (root * Y)
    np.testing.assert_allclose(fit.coefficients, expected, rtol=1e-6, atol=1e-8 * (1 + abs(expected).max()))
    assert fit.rank == np.linalg.matrix_rank(root * Z, tol=1e-10)


def test_a_regression_without_weight_or_features_is_zero():
    fit = weighted_regression(np.ones((2, 2)), np.ones((2, 1)), np.zeros(2))
    assert fit.coefficients.tolist() == [[0.0], [0.0]] and fit.rank == 0 and fit.condition == 1.0


def test_a_regression_does_not_mind_how_features_are_scaled():
    Z = np.array([[1e9, 1e-9], [1e9, -1e-9], [2e9, 0.0]])
    fit = weighted_regression(Z, Z @ [[1e-9], [1e9]], np.ones(3))
    assert fit.rank == 2 and fit.condition < 2.0
    np.testing.assert_allclose(fit.coefficients[:, 0], [1e-9, 1e9], rtol=1e-14)
