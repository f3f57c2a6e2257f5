"""Stability of TD and of the rollout, and the certificate for every choice of features."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import sparse

from theory import Problem, model_based_solution
from theory.certificate import uniform_certificate
from theory.spectrum import sides_of_axis, sides_of_circle
from theory.stability import _transient_growth as transient_growth
from theory.stability import best_step, stability, td_spectrum
from theory.td import td_system

TO_SECOND = [[0.0, 1.0], [0.0, 1.0]]
SWAP = [[0.0, 1.0], [1.0, 0.0]]
DEPENDENT = [[0.2, 0.8, 0.0], [1 / 3, 0.0, 2 / 3], [0.0, 0.0, 1.0]]


def tsitsiklis_van_roy(gamma: float, reward: float = 1.0) -> Problem:
    return Problem.from_chain(TO_SECOND, [reward, reward], [1.0, 2.0], [0.5, 0.5], gamma)


def baird() -> Problem:
    chain = np.zeros((7, 7))
    chain[:, 6] = 1.0
    Z = [[2.0 * (j == i) for j in range(7)] + [1.0] for i in range(6)] + [[0.0] * 6 + [1.0, 2.0]]
    return Problem.from_chain(chain, np.zeros(7), Z, np.full(7, 1 / 7), 0.99)


def sign_flip(first_weight: float) -> Problem:
    return Problem.from_chain(SWAP, [1.0, 0.0], [1.0, -3.0], [first_weight, 1 - first_weight], 0.9)


def basis(second: float) -> Problem:
    Z = np.array([[2.0, -2.0], [1.0, -2.0], [3.0, -1.0]]) * [1.0, second]
    return Problem.from_chain(DEPENDENT, np.ones(3), Z, [0.32, 0.58, 0.1], 0.95)


def three_cycle() -> Problem:
    chain = np.roll(np.eye(3), 1, axis=1)
    return Problem.from_chain(chain, [1.0, 0.0, 0.0], np.eye(3), np.full(3, 1 / 3), 0.9)


def unexcited(Z: list[list[float]], rewards: list[float]) -> Problem:
    chain = np.zeros((4, 4))
    chain[0, 1] = chain[1, 1] = chain[2, 3] = chain[3, 2] = 1.0
    return Problem.from_chain(chain, rewards, Z, np.full(4, 0.25), 0.9)


def random_chain(draws: np.random.Generator, n: int) -> np.ndarray:
    chain = np.zeros((n, n))
    for row in chain:
        row[draws.choice(n, min(n, 2), replace=False)] = draws.dirichlet(np.ones(min(n, 2)))
    return chain


@pytest.mark.parametrize(
    ("problem", "td", "rollout"),
    [
        (tsitsiklis_van_roy(0.5), "stable", "converges"),
        (sign_flip(0.9), "stable", "diverges"),
        (baird(), "unstable", "converges"),
        (tsitsiklis_van_roy(0.9), "unstable", "diverges"),
    ],
    ids=["both", "TD only", "rollout only", "neither"],
)
def test_td_and_rollout_are_stable_independently_of_each_other(
    problem: Problem, td: str, rollout: str
) -> None:
    found = stability(problem)
    assert (found.td, found.rollout) == (td, rollout)
    assert (found.step_size_limit is None) is (found.best_rate is None) is (td != "stable")


def test_baird_has_the_eigenvalues_known_on_the_row_space() -> None:
    found = stability(baird())
    expected = [-0.23925, -0.02218, *[4 / 7] * 5]
    np.testing.assert_allclose(np.sort(found.eigenvalues.real), expected, atol=6e-6)
    np.testing.assert_allclose(found.eigenvalues.imag, 0.0, atol=1e-12)
    assert found.spectral_radius == pytest.approx(0.99, rel=1e-12)
    assert found.tau == pytest.approx(1.8046468989769726, rel=1e-12) and found.kappa == pytest.approx(7.0)
    assert not found.certificate


def test_step_sizes_of_a_cycle_are_those_computed_by_hand() -> None:
    # Eigenvalues (1 - .9 u) / 3 for the cube roots of unity u: 2 Re / |.|^2 = 6 (1.45) / 2.71.
    found = stability(three_cycle())
    assert found.step_size_limit == pytest.approx(8.7 / 2.71, rel=1e-13)
    expected = [1 / 30, (29 - 9j * math.sqrt(3)) / 60, (29 + 9j * math.sqrt(3)) / 60]
    np.testing.assert_allclose(np.sort_complex(found.eigenvalues), expected, rtol=1e-12)
    # At alpha = 3 the matrix I - alpha A is .9 times the cycle: every mode decays at .9.
    assert found.best_step_size == pytest.approx(3.0, rel=1e-12)
    assert found.best_rate == pytest.approx(0.9, rel=1e-12)
    assert found.transient_growth == pytest.approx(1.0, rel=1e-12)


def test_the_best_step_is_no_worse_than_any_other() -> None:
    eigenvalues = stability(basis(1.0)).eigenvalues
    best, rate = best_step(eigenvalues)
    grid = [float(np.abs(1 - a * eigenvalues).max()) for a in np.linspace(0.0, 2.0 * best, 4001)]
    assert rate <= min(grid) + 1e-12 and min(grid) < rate + 1e-3


def test_the_transient_growth_is_the_largest_norm_of_a_power() -> None:
    problem = basis(1.0)
    found = stability(problem)
    A = problem.Z.T @ (problem.mu[:, None] * (problem.Z - 0.95 * problem.Z_next))
    step = np.eye(2) - found.best_step_size * A
    norms = [np.linalg.norm(np.linalg.matrix_power(step, t), 2) for t in range(60)]
    assert found.transient_growth == pytest.approx(max(norms), rel=1e-12) and max(norms) > 1.5


@given(seed=st.integers(0, 10**6), d=st.integers(1, 9), slowest=st.sampled_from([0.5, 0.9, 0.99]))
@settings(max_examples=40, deadline=None)
def test_the_transient_growth_of_any_triangular_matrix_is_found(seed: int, d: int, slowest: float) -> None:
    draws = np.random.default_rng(seed)
    step = np.triu(draws.normal(size=(d, d)), 1) + np.diag(draws.uniform(-slowest, slowest, d))
    power, norms = np.eye(d), [1.0]
    for _ in range(1000):
        power = power @ step
        norms.append(float(np.linalg.norm(power, 2)))
        if norms[-1] <= 1.0:
            break
    assert transient_growth(step) == pytest.approx(max(norms), rel=1e-10)


def test_a_slow_mode_beside_many_fast_ones_takes_few_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand powers of a large matrix, of which two columns are left after a few."""
    widths: list[int] = []
    norm = np.linalg.norm

    def counted(power: np.ndarray, *order: int) -> float:
        widths.append(power.shape[1])
        return float(norm(power, *order))

    monkeypatch.setattr(np.linalg, "norm", counted)
    step = np.triu(np.full((60, 60), 0.1), 1) + np.diag([0.99999, -0.99999] + [0.1] * 58)
    assert transient_growth(step) > 1.0
    assert len(widths) > 9000 and sum(widths) / len(widths) < 4


def test_rescaling_a_feature_can_destabilise_td_but_not_the_rollout() -> None:
    stable, unstable = stability(basis(1.0)), stability(basis(0.05))
    assert (stable.td, unstable.td) == ("stable", "unstable")
    assert unstable.eigenvalues.real.min() == pytest.approx(-0.2887, abs=5e-5)
    np.testing.assert_allclose(
        np.sort_complex(stable.eigenvalues), [0.3129 - 0.4936j, 0.3129 + 0.4936j], atol=8e-5
    )
    assert stable.spectral_radius == pytest.approx(0.88963, abs=5e-6)
    assert unstable.spectral_radius == pytest.approx(stable.spectral_radius, rel=1e-12)
    assert unstable.tau == stable.tau == pytest.approx(1.4245, abs=5e-5)


def test_a_radius_of_one_is_a_boundary_and_not_a_verdict() -> None:
    found = stability(sign_flip(63 / 80))
    assert (found.td, found.rollout, found.rollout_for_reward) == ("stable", "boundary", "boundary")


@pytest.mark.parametrize(("reward", "for_reward"), [(1.0, "boundary"), (0.0, "converges")])
def test_a_singular_system_is_a_boundary_for_both(reward: float, for_reward: str) -> None:
    found = stability(tsitsiklis_van_roy(5 / 6, reward))
    assert (found.td, found.rollout, found.rollout_for_reward) == ("boundary", "boundary", for_reward)
    assert found.step_size_limit is None and found.best_step_size is None


def test_a_thousandth_off_the_boundary_is_a_verdict() -> None:
    below, above = stability(tsitsiklis_van_roy(0.833)), stability(tsitsiklis_van_roy(0.834))
    assert (below.td, below.rollout) == ("stable", "converges")
    assert (above.td, above.rollout) == ("unstable", "diverges")


def test_a_defective_matrix_far_from_the_boundary_is_decided() -> None:
    # A deterministic chain: gamma W_d is nilpotent, all eigenvalues of A equal, no basis of eigenvectors.
    chain = np.eye(8, k=1)
    found = stability(Problem.from_chain(chain, np.ones(8), np.eye(8), np.full(8, 1 / 8), 0.9))
    assert (found.td, found.rollout) == ("stable", "converges")


def test_a_defective_eigenvalue_on_the_circle_is_a_boundary_though_rounding_moves_it() -> None:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    matrix = turn @ (np.eye(3) + np.eye(3, k=1)) @ turn.T
    values, sides = sides_of_circle(matrix)
    assert np.abs(np.abs(values) - 1.0).max() > 1e-7  # far beyond rounding of a simple eigenvalue
    assert np.all(sides == 0)
    assert np.all(sides_of_axis(matrix - np.eye(3), 1.0)[1] == 0)


def test_a_series_can_converge_for_one_reward_and_diverge_for_another() -> None:
    for Z in (
        [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 1.0]],
        [[1.0, 1.0], [2.0, 2.0], [1.0, 2.0], [1.0, 2.0]],
    ):
        quiet = stability(unexcited(Z, [0.0, 0.0, 1.0, 2.0]))
        loud = stability(unexcited(Z, [1e-6, 0.0, 1.0, 2.0]))
        assert (quiet.rollout, quiet.rollout_for_reward) == ("diverges", "converges")
        assert (loud.rollout, loud.rollout_for_reward) == ("diverges", "diverges")


@pytest.mark.parametrize(
    ("rewards", "verdict"), [([0.0, 0.0, 1.0], "converges"), ([1.8, 3.6, -1.08], "diverges")]
)
def test_what_a_reward_excites_is_read_off_the_left_eigenvectors(rewards: list[float], verdict: str) -> None:
    # w -> 2w, and a third row that leads into it: gamma W_d = [[1.08, 0], [1.8, 0]], growing to the left of
    # (1, 0) and along (1.08, 1.8). The second reward is orthogonal to the latter.
    chain, Z = [[0.0, 1.0, 0.0]] * 3, [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]
    found = stability(Problem.from_chain(chain, rewards, Z, [0.1, 0.1, 0.8], 0.9))
    assert (found.rollout, found.rollout_for_reward) == ("diverges", verdict)


def test_a_reward_on_the_boundary_mode_alone_is_a_boundary_beside_a_growing_one() -> None:
    # w -> 2w (gamma W_d = 1.2) beside a row that keeps itself (gamma W_d = 1).
    chain, Z = np.zeros((3, 3)), [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]
    chain[0, 1] = chain[1, 1] = chain[2, 2] = 1.0
    found = stability(Problem.from_chain(chain, [0.0, 0.0, 1.0], Z, np.full(3, 1 / 3), 1.0))
    assert (found.rollout, found.rollout_for_reward) == ("diverges", "boundary")


def test_features_that_are_all_zero_have_nothing_to_be_unstable() -> None:
    found = stability(Problem.from_chain(SWAP, [1.0, 1.0], np.zeros((2, 1)), [0.5, 0.5], 0.9))
    assert (found.td, found.rollout, found.spectral_radius) == ("stable", "converges", 0.0)
    assert found.step_size_limit is None


def test_stationary_weights_are_certified_and_tau_is_at_most_gamma() -> None:
    draws = np.random.default_rng(5)
    chain = 0.5 * random_chain(draws, 6) + 0.5 / 6
    values, vectors = np.linalg.eig(chain.T)
    stationary = np.abs(vectors[:, np.argmax(values.real)].real)
    problem = Problem.from_chain(
        chain, np.ones(6), draws.normal(size=(6, 2)), stationary / stationary.sum(), 0.9
    )
    found = stability(problem)
    assert found.certificate and found.tau == pytest.approx(0.9) and found.kappa == pytest.approx(1.0)
    undiscounted = Problem.from_chain(chain, np.ones(6), problem.Z, problem.mu, 1.0)
    assert not stability(undiscounted).certificate  # tau is 1 exactly, whatever the last bit says


def test_a_row_reached_but_never_weighted_lets_some_feature_break_everything() -> None:
    problem = Problem.from_chain(SWAP, [1.0, 1.0], [1.0, 0.0], [1.0, 0.0], 0.9)
    found = stability(problem)
    assert (found.tau, found.kappa, found.sigma) == (math.inf,) * 3 and not found.certificate
    broken = stability(Problem.from_chain(SWAP, [1.0, 1.0], found.worst_feature, [1.0, 0.0], 0.9))
    assert (broken.td, broken.rollout) == ("unstable", "diverges")


def test_a_row_neither_weighted_nor_reached_does_not_count() -> None:
    chain = [[0.5, 0.0], [0.5, 0.5]]
    found = stability(Problem.from_chain(chain, [1.0, 1.0], np.eye(2), [1.0, 0.0], 0.9))
    assert found.certificate and found.tau == pytest.approx(0.45, rel=1e-14)
    assert found.worst_feature.tolist() == [1.0, 0.0]


def test_the_iterative_solver_agrees_with_the_dense_one(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(6)
    chain, mu = sparse.csr_array(random_chain(draws, 40)), draws.dirichlet(np.full(40, 5.0))
    dense, sparse_one = (Problem.from_chain(chain, np.ones(40), np.ones(40), mu, 0.9) for _ in range(2))
    expected = uniform_certificate(dense)
    monkeypatch.setattr("theory.certificate.DENSE_ROWS", 10)
    found = uniform_certificate(sparse_one)
    assert found.tau == pytest.approx(expected.tau, rel=1e-9)
    assert found.sigma == pytest.approx(expected.sigma, rel=1e-9)
    np.testing.assert_allclose(found.worst_feature, expected.worst_feature, atol=1e-6)
    assert found.tau_bounds[0] <= expected.tau * (1 + 1e-12) <= found.tau_bounds[1] * (1 + 2e-12)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 8), d=st.integers(1, 8), gamma=st.floats(0.3, 0.99))
def test_the_certificate_holds_for_every_choice_of_features(seed: int, n: int, d: int, gamma: float) -> None:
    draws = np.random.default_rng(seed)
    mu = draws.dirichlet(np.full(n, 20.0))
    problem = Problem.from_chain(
        random_chain(draws, n), np.ones(n), draws.normal(size=(n, min(n, d))), mu, gamma
    )
    found = stability(problem)
    assert found.spectral_radius <= found.tau * (1 + 1e-9)
    assert found.tau <= found.sigma * (1 + 1e-12) <= gamma * math.sqrt(found.kappa) * (1 + 1e-9)
    if found.certificate:
        assert (found.td, found.rollout, found.rollout_for_reward) == ("stable", "converges", "converges")


@given(seed=st.integers(0, 10**6), n=st.integers(2, 8), gamma=st.floats(0.8, 0.99))
def test_the_worst_feature_attains_tau_and_breaks_both_where_the_certificate_fails(
    seed: int, n: int, gamma: float
) -> None:
    draws = np.random.default_rng(seed)
    chain, mu = random_chain(draws, n), draws.dirichlet(np.full(n, 2.0))
    assume(mu.min() > 1e-6)
    feature = stability(Problem.from_chain(chain, np.ones(n), np.ones(n), mu, gamma)).worst_feature
    problem = Problem.from_chain(chain, np.ones(n), feature, mu, gamma)
    found = stability(problem)
    assert float(mu @ feature**2) == pytest.approx(1.0, rel=1e-12) and feature.min() >= 0.0
    assert found.eigenvalues[0].real == pytest.approx(1.0 - found.tau, abs=1e-9)
    assert found.spectral_radius == pytest.approx(found.tau, rel=1e-9)
    broken = found.tau > 1.0 + 1e-9
    assume(broken or found.tau < 1.0 - 1e-9)
    assert found.certificate is not broken
    assert (found.td, found.rollout) == (("unstable", "diverges") if broken else ("stable", "converges"))


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 6), d=st.integers(1, 6))
def test_the_verdict_on_the_rollout_is_what_summing_finds(seed: int, n: int, d: int) -> None:
    draws = np.random.default_rng(seed)
    problem = Problem.from_chain(
        random_chain(draws, n),
        draws.normal(size=n),
        draws.normal(size=(n, d)),
        draws.dirichlet(np.ones(n)),
        0.95,
    )
    found = stability(problem)
    assume(abs(found.spectral_radius - 1.0) > 0.01)
    summed = model_based_solution(problem, method="series").converged
    assert summed is (found.rollout == "converges")


@pytest.mark.parametrize("size", [1.1, 1 / 3])
def test_a_one_by_one_matrix_of_rounding_errors_has_no_sign(size: float) -> None:
    """C - gamma X of w to 2w at gamma = 5/6 is 0; in float64 it is -4e-16 or -6e-17 of terms around 1."""
    problem = Problem.from_chain(TO_SECOND, [1.0, 1.0], [size, 2.0 * size], [0.5, 0.5], 5 / 6)
    assert td_system(problem).A[0, 0] < 0.0
    assert td_spectrum(problem)[1] == "boundary"
