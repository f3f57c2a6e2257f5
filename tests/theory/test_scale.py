"""What holds at a size where nothing square fits: memory, numbers that are not computed, dense-only calls."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from theory import (
    Features,
    InputError,
    Policy,
    Problem,
    TabularMDP,
    Weights,
    bounds,
    check_fixed_point_equivalence,
    garnet,
    problem_report,
    stability,
    value_error,
)
from theory.certificate import uniform_certificate
from theory.weighted_norms import weighted_norms

MEGABYTE = 2**20


@pytest.fixture
def large() -> Problem:
    """20,000 rows of 5,000 states, nothing computed yet: n by n takes 3.2 GB, n by S 0.8 GB."""
    mdp = garnet(5000, 4, 3, 0.95, seed=1, dense=False, num_terminal=5)
    Z = Features.random(mdp, 8, seed=2)
    return Problem(mdp, Policy.uniform(mdp), Z, Weights.uniform(mdp))


def peak(action) -> float:
    """The most memory that Python objects took during the call beyond what they took before, in MB."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1] / MEGABYTE
    finally:
        tracemalloc.stop()


def test_every_check_of_twenty_thousand_rows_stays_far_below_a_square_array(large):
    def everything():
        assert check_fixed_point_equivalence(large).verdict == "pass"
        assert stability(large).td == "stable"
        assert value_error(large).holds
        assert bounds(large).B1 is not None
        assert problem_report(large).verdict == "pass"

    assert peak(everything) < 60


def test_the_measurement_would_see_a_dense_array(large):
    assert peak(lambda: large.chain.P[:4000].toarray()) > 100


def test_the_numbers_at_scale_are_right(large):
    """Against iterating the chain written out."""
    split, ladder = value_error(large), bounds(large)
    q = large.r
    for _ in range(800):  # 0.95 ** 800 < 1e-17
        q = large.r + large.gamma * (large.P_pi @ q)
    np.testing.assert_allclose(split.q_true, q, atol=1e-10)
    np.testing.assert_allclose(split.error, large.Z @ split.w - q, atol=1e-10)
    assert np.all(ladder.B2 + ladder.rounding >= ladder.B1) and np.all(
        ladder.B25 + ladder.rounding >= ladder.B2
    )
    assert np.all(abs(split.error) <= ladder.B1 + ladder.rounding)
    N = stability(large)
    assert N.spectral_radius <= N.tau <= N.sigma <= large.gamma * np.sqrt(N.kappa) * (1 + 1e-12)
    assert 1.0 / (1.0 - large.gamma) * 0.9 < weighted_norms(large).resolvent


def walk(mu: np.ndarray, gamma: float) -> Problem:
    """A walk on a line that stays or steps, whose spectrum Lanczos does not find in a few products."""
    n = len(mu)
    chain = sparse.diags_array([0.5, 0.25, 0.25], offsets=[0, -1, 1], shape=(n, n)).tolil()
    chain[0, 0] = chain[n - 1, n - 1] = 0.75
    features = np.random.default_rng(0).normal(size=(n, 2))
    return Problem.from_chain(sparse.csr_array(chain), np.arange(n) / n, features, mu / mu.sum(), gamma)


def few_products(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("theory.certificate.DENSE_ROWS", 1)
    monkeypatch.setattr("theory.lanczos.MOST_PRODUCTS", count)
    monkeypatch.setattr("theory.lanczos.FEWEST_PRODUCTS", count)


def dip(depth: float) -> np.ndarray:
    """Weights that are even but for one row in the middle, from which tau comes."""
    return np.where(np.arange(80) == 40, 1.0 / depth, 1.0)


@pytest.mark.parametrize(
    ("depth", "gamma", "verdict", "truth"),
    [(2.0, 0.9, True, True), (8.0, 0.95, False, False), (4.0, 0.95, None, True), (8.0, 0.9, None, False)],
    ids=["the bounds prove it", "the bounds refute it", "open, though true", "open, though false"],
)
def test_tau_that_was_not_found_is_none_and_what_is_still_known_is_said(
    monkeypatch, depth, gamma, verdict, truth
):
    assert stability(walk(dip(depth), gamma)).certificate is truth
    few_products(monkeypatch, 3)
    found = stability(walk(dip(depth), gamma))
    assert (found.tau, found.sigma, found.worst_feature, found.certificate) == (None, None, None, verdict)
    assert found.not_computed == {
        "tau": "Lanczos did not converge within 3 products",
        "sigma": "Lanczos did not converge within 3 products",
    }
    assert found.spectral_radius < 1.0 and found.kappa > 0.0  # the rest is as always
    condition = problem_report(walk(dip(depth), gamma)).condition("stable for every choice of features")
    assert (condition.value, condition.holds) == (None, verdict)


def test_enough_products_find_what_few_do_not(monkeypatch):
    few_products(monkeypatch, 2000)
    found = stability(walk(dip(8.0), 0.9))
    monkeypatch.undo()
    dense = stability(walk(dip(8.0), 0.9))
    assert (found.not_computed, found.certificate) == ({}, dense.certificate)
    assert (found.tau, found.sigma) == pytest.approx((dense.tau, dense.sigma), rel=1e-9)


def test_where_tau_was_found_its_bounds_are_its_residual_apart(monkeypatch):
    few_products(monkeypatch, 2000)
    mu = np.exp(3.0 * np.random.default_rng(0).normal(size=80))  # the vector has entries of every size
    found = uniform_certificate(walk(mu, 0.3))
    low, high = found.tau_bounds
    assert low == found.tau < high <= found.tau * (1 + 1e-8)


@given(
    seed=st.integers(0, 10**6), count=st.integers(1, 6), gamma=st.floats(0.5, 1.0), spread=st.floats(0.0, 3.0)
)
@settings(max_examples=60, deadline=None)
def test_tau_lies_between_its_bounds_and_no_verdict_contradicts_it(seed, count, gamma, spread):
    rng = np.random.default_rng(seed)
    chain = rng.dirichlet(np.full(12, 0.3), 12) * 0.999
    mu = np.exp(spread * rng.normal(size=12))
    problem, again = (
        Problem.from_chain(chain, np.ones(12), np.ones(12), mu / mu.sum(), gamma) for _ in range(2)
    )
    truth = uniform_certificate(problem)
    with pytest.MonkeyPatch.context() as patch:
        few_products(patch, count)
        found = uniform_certificate(again)
    low, high = found.tau_bounds
    assert low <= truth.tau * (1 + 1e-12) and truth.tau <= high * (1 + 1e-12)
    assert found.holds in (truth.holds, None)
    assert found.tau is None or found.tau == pytest.approx(truth.tau, rel=1e-7)


def test_bounds_without_norms_say_which_number_was_not_computed(monkeypatch):
    few_products(monkeypatch, 2)
    monkeypatch.setattr("theory.weighted_norms.DENSE_ROWS", 1)
    monkeypatch.setattr("theory.weighted_norms.FEWEST_SOLVES", 2)
    monkeypatch.setattr("theory.weighted_norms.MOST_WORK", 1.0)
    ladder = bounds(walk(dip(4.0), 0.99))
    within = "Lanczos did not converge within 2"
    assert ladder.inapplicable["residual"] == f"||G||_D was not computed: {within} pairs of solves"
    assert ladder.inapplicable["loss_to_value"] == ladder.inapplicable["residual"]
    assert ladder.inapplicable["sigma"] == f"sigma was not computed: {within} products"
    assert ladder.inapplicable["cea"].startswith(("sigma was not", "tau was not"))
    assert (ladder.residual, ladder.loss_to_value, ladder.sigma, ladder.cea) == (None, None, None, None)
    assert ladder.B1 is not None and ladder.oblique is not None
    monkeypatch.undo()
    whole = bounds(walk(dip(4.0), 0.99))
    assert whole.residual is not None and "residual" not in whole.inapplicable
    assert ladder.oblique == pytest.approx(whole.oblique, rel=1e-9)


@pytest.mark.parametrize("stationary", [True, False])
def test_the_norm_of_the_resolvent_is_found_at_once_under_stationary_weights(monkeypatch, stationary):
    """Elsewhere the value after one pair of solves is below the norm, and must not be taken for it."""
    problem = walk(np.ones(80) if stationary else dip(4.0), 0.99)
    root = np.sqrt(problem.mu)
    expected = np.linalg.norm(root[:, None] * np.linalg.inv(np.eye(80) - 0.99 * problem.dense_P) / root, 2)
    monkeypatch.setattr("theory.weighted_norms.DENSE_ROWS", 1)
    monkeypatch.setattr("theory.weighted_norms.FEWEST_SOLVES", 1 if stationary else 200)
    monkeypatch.setattr("theory.weighted_norms.MOST_WORK", 1.0)
    assert weighted_norms(problem).resolvent == pytest.approx(expected, rel=1e-9)
    assert bool(abs(expected - 100.0) < 1e-6) is stationary


def test_the_norm_of_the_oblique_projection_is_that_of_matrices_written_out():
    rng = np.random.default_rng(4)
    mdp = garnet(6, 3, 2, 0.9, seed=2, num_terminal=1, dense=False)
    mu = rng.dirichlet(np.ones(18)).reshape(6, 3) * ~mdp.terminal[:, None]
    policy = Policy(rng.dirichlet(np.ones(3), 6))
    problem = Problem(mdp, policy, Features(rng.normal(size=(6, 3, 2))), Weights(mu))
    Z, P, root = problem.Z, problem.dense_P, np.sqrt(problem.mu)[:, None]
    right = Z.T * problem.mu @ (np.eye(problem.n) - 0.9 * P)
    projection = Z @ np.linalg.solve(right @ Z, right)
    expected = np.linalg.norm(root * projection / root.T, 2)
    assert weighted_norms(problem).oblique == pytest.approx(expected, rel=1e-12)


def test_what_is_dense_only_says_what_to_use_instead(monkeypatch):
    monkeypatch.setattr("theory.features.LARGEST_DENSE", 5)
    dense, thin = (garnet(3, 2, 2, 0.9, seed=0, dense=dense) for dense in (True, False))
    policy, features = Policy.uniform(dense), Features(np.ones((3, 2, 1)))
    with pytest.raises(InputError, match=r"One-hot features are dense, with at most 5 rows .* got 6 rows"):
        Features.one_hot(dense)
    with pytest.raises(InputError, match=r"Spectral features are dense.*Use Features.krylov"):
        Features.svd(dense, policy, 1)
    with pytest.raises(InputError, match=r"P_pi of a dense MDP is dense.*Use chain, or an MDP with sparse"):
        _ = Problem(dense, policy, features, Weights.uniform(dense)).P_pi
    problem = Problem(thin, policy, features, Weights.uniform(thin))
    with pytest.raises(InputError, match=r"dense_P is dense.*Use chain"):
        _ = problem.dense_P
    assert problem.P_pi.shape == (6, 6) and value_error(problem).holds


def test_a_dense_mdp_of_many_rows_never_forms_the_square(monkeypatch):
    monkeypatch.setattr("theory.features.LARGEST_DENSE", 5)
    mdp: TabularMDP = garnet(5, 3, 2, 0.9, seed=0, dense=True)
    rng = np.random.default_rng(0)
    problem = Problem(
        mdp, Policy.uniform(mdp), Features(rng.normal(size=(5, 3, 2))), Weights(rng.random((5, 3)))
    )
    assert problem_report(problem).verdict == "pass"
