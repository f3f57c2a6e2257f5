"""What must not change when a problem is written down differently, and solvers that would change it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from theory import Features, Policy, Problem, TabularMDP, Weights, td_fixed_point
from theory.bounds import bounds
from theory.equivariance import _same_spectrum, change_of_basis, check_equivariances, listed
from theory.theorem1 import check_fixed_point_equivalence
from theory.value_error import value_error
from theory.whitening import whiten

TVR = [[0.0, 1.0], [0.0, 1.0]]
HALF = [0.5, 0.5]
BASIS, SPECTRUM, SCALED = "change of basis", "rollout spectrum", "rewards scaled"
TRUE, PREDICTED = "rewards shifted, true values", "rewards shifted, predicted values"
TWICE, ORDER = "row listed twice", "rows in another order"

seeds = st.integers(0, 10_000)


def random_problem(seed: int, *, ends: bool = False, constant: bool = False) -> Problem:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 9))
    chain = rng.dirichlet(np.ones(n) * 0.5, n) * (rng.uniform(0.3, 1.0, (n, 1)) if ends else 1.0)
    Z = rng.normal(size=(n, int(rng.integers(1, n))))
    if constant:
        Z[:, -1] = 1.0 - Z[:, :-1].sum(axis=1)
    return Problem.from_chain(chain, rng.normal(size=n), Z, rng.dirichlet(np.ones(n) * 3), 0.9)


@given(seeds, st.booleans(), st.booleans())
@settings(max_examples=25)
def test_every_equivariance_holds_on_random_problems(seed, ends, constant):
    report = check_equivariances(random_problem(seed, ends=ends, constant=constant))
    assert report.verdict == "pass", report.to_markdown()
    applies = {condition.name: condition.holds for condition in report.conditions}
    assert applies.pop(PREDICTED) is (True if constant and not ends else None)
    assert all(applies.values())


@given(seeds)
@settings(max_examples=20)
def test_the_table_holds_for_the_weights_themselves(seed):
    problem = random_problem(seed)
    w, T = td_fixed_point(problem).w, change_of_basis(problem.d)
    if np.linalg.cond(problem.Z) > 1e4 or abs(w).max() > 1e4:
        return
    P, r, Z, mu = problem.P_pi, problem.r, problem.Z, problem.mu
    rebased = td_fixed_point(Problem.from_chain(P, r, Z @ T, mu, 0.9)).w
    np.testing.assert_allclose(T @ rebased, w, rtol=1e-6, atol=1e-8)
    scaled = Problem.from_chain(P, -3.0 * r, Z, mu, 0.9)
    np.testing.assert_allclose(td_fixed_point(scaled).w, -3.0 * w, rtol=1e-6, atol=1e-8)
    before, after = bounds(problem), bounds(scaled)
    for name in ("lower", "S1", "S2", "S25", "S3", "published", "oblique", "residual", "loss_to_value"):
        assert getattr(after, name) == pytest.approx(3.0 * getattr(before, name), rel=1e-6, abs=1e-8)
    shift = value_error(Problem.from_chain(P, r + 2.0, Z, mu, 0.9)).q_true - value_error(problem).q_true
    np.testing.assert_allclose(shift, 20.0, rtol=1e-10)


@given(seeds)
@settings(max_examples=20)
def test_the_step_size_limit_moves_with_the_basis_and_the_spectrum_does_not(seed):
    report = check_equivariances(random_problem(seed))
    data = report.data
    assert data["spectral_radius_after"] == pytest.approx(data["spectral_radius"], rel=1e-5, abs=1e-7)
    if data["step_size_limit"] is not None and data["step_size_limit_after"] is not None:
        assert data["step_size_limit_after"] != pytest.approx(data["step_size_limit"], rel=1e-3)


def test_constants_outside_the_span_are_not_claimed_to_shift():
    """Features (1, 2): with reward r + 1 the predictions gain (-10, -20) or so, not 10."""
    problem = Problem.from_chain(TVR, [1, 1], [[1], [2]], HALF, 0.9)
    condition = check_equivariances(problem).condition(PREDICTED)
    assert condition.holds is None and "outside the span" in condition.why
    after = td_fixed_point(Problem.from_chain(TVR, [2, 2], [[1], [2]], HALF, 0.9)).w
    gained = problem.Z @ (after - td_fixed_point(problem).w)
    np.testing.assert_allclose(gained, [-7.5, -15.0], rtol=1e-12)


def test_where_runs_end_a_shift_is_worth_the_steps_left():
    problem = Problem.from_chain(np.eye(3, k=1), [0, 0, 1], np.ones((3, 1)), np.ones(3) / 3, 1.0)
    report = check_equivariances(problem)
    assert report.condition(TRUE).holds and report.condition(PREDICTED).holds is None
    shifted = Problem.from_chain(problem.P_pi, problem.r + 1.0, problem.Z, problem.mu, 1.0)
    np.testing.assert_allclose(
        value_error(shifted).q_true - value_error(problem).q_true, [3, 2, 1], atol=1e-13
    )


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_without_exactly_one_fixed_point_nothing_is_said(reward):
    report = check_equivariances(Problem.from_chain(TVR, [reward] * 2, [[1], [2]], HALF, 5 / 6))
    assert report.verdict == "inconclusive"
    assert not report


def test_dependent_features_and_rows_without_weight_pass():
    problem = random_problem(1)
    doubled = np.column_stack([problem.Z, problem.Z[:, 0]])
    assert check_equivariances(Problem.from_chain(problem.P_pi, problem.r, doubled, problem.mu, 0.9))
    mu = np.append(0.0, problem.mu[1:] / problem.mu[1:].sum())
    assert check_equivariances(Problem.from_chain(problem.P_pi, problem.r, problem.Z, mu, 0.9))


def test_a_model_that_guesses_outside_the_data_is_not_claimed_to_ignore_the_basis():
    """Two features, one row of data: the weights of least norm differ with the basis, and so does row 1."""
    problem = Problem.from_chain(TVR, [1, 1], [[1, 1], [1, 2]], [1.0, 0.0], 0.5)
    report = check_equivariances(problem)
    assert report.condition(BASIS).holds is None and "outside the data" in report.condition(BASIS).why
    assert report.condition(PREDICTED).holds is None
    assert report.verdict == "pass"
    rebased = Problem.from_chain(TVR, [1, 1], problem.Z @ [[1, 0], [0, 10]], [1.0, 0.0], 0.5)
    assert not np.allclose(value_error(rebased).error, value_error(problem).error)


def test_one_row_reached_outside_the_data_is_enough_to_guess():
    chain = [[0, 1, 0], [0, 1, 0], [0, 0, 1]]
    Z = [[1, 1], [1, 2], [0, 1]]
    report = check_equivariances(Problem.from_chain(chain, [1, 1, 1], Z, [1.0, 0.0, 0.0], 0.5))
    assert report.condition(BASIS).holds is None


def test_features_that_nearly_vanish_outside_the_data_are_a_guess_too():
    """On the data the features are equal, on the row that follows they differ by a millionth."""
    problem = Problem.from_chain(TVR, [1, 1], [[1, 1], [1, 1 + 1e-6]], [1.0, 0.0], 0.5)
    assert check_equivariances(problem).condition(BASIS).holds is None


def test_constants_a_billionth_outside_the_span_are_outside():
    condition = check_equivariances(Problem.from_chain(TVR, [1, 1], [[1], [1 + 1e-9]], HALF, 0.5)).condition(
        PREDICTED
    )
    assert condition.holds is None and "outside the span" in condition.why


def test_large_features_outside_the_data_make_the_spectrum_less_certain():
    """Each row leads outside, to 1e8 times features that cancel: the model is 0 but for rounding of 1e8."""
    rng = np.random.default_rng(0)
    Z, mu = rng.normal(size=(4, 2)), rng.dirichlet(np.ones(4) * 3)
    root = np.sqrt(mu)[:, None]
    Q, B = np.linalg.qr(root * Z)[0], rng.normal(size=(4, 2))
    outside = 1e8 * (B - Q @ (Q.T @ B)) / root
    chain, every = np.kron([[0, 1], [0, 1]], np.eye(4)), np.append(mu, np.zeros(4))
    one, other = (
        Problem.from_chain(chain, np.ones(8), np.vstack([Z, outside]) @ T, every, 0.9)
        for T in (np.eye(2), change_of_basis(2))
    )
    condition = _same_spectrum(one, other)
    assert condition.holds and condition.value > 1e-10


def test_constants_that_only_the_data_see_are_not_claimed_to_shift():
    """The feature is 1 on the data and 2 on a row that follows."""
    report = check_equivariances(Problem.from_chain(TVR, [1, 1], [[1], [2]], [1.0, 0.0], 0.4))
    assert report.verdict == "pass"
    assert report.condition(PREDICTED).holds is None


def test_a_sparse_chain_is_listed_as_a_dense_one():
    problem, rows = random_problem(2), np.array([2, 0, 2, 1])
    chain = problem.dense_P.copy()
    chain[:, 3:] = 0.0
    chain /= chain.sum(axis=1, keepdims=True)
    dense = Problem.from_chain(chain, problem.r, problem.Z, problem.mu, 0.9)
    thin = Problem.from_chain(sparse.csr_array(chain), problem.r, problem.Z, problem.mu, 0.9)
    np.testing.assert_array_equal(listed(thin, rows).dense_P, listed(dense, rows).dense_P)
    np.testing.assert_allclose(listed(dense, rows).dense_P.sum(axis=1), 1.0)
    assert check_equivariances(thin).verdict == "pass"


def broken(change):
    """Return the theorem-1 check with its solution replaced by ``change(problem)``."""

    def solve(problem: Problem):
        report = check_fixed_point_equivalence(problem)
        return replace(report, data=dict(report.data) | {"w_td": change(problem)})

    return solve


def solve_weighted(Z: np.ndarray, r: np.ndarray, problem: Problem, weights: np.ndarray) -> np.ndarray:
    A = (Z.T * weights) @ (Z - problem.gamma * problem.P_pi @ Z)
    return np.linalg.solve(A, (Z.T * weights) @ r)


def without_weights(problem: Problem) -> np.ndarray:
    return solve_weighted(problem.Z, problem.r, problem, np.ones(problem.n))


def clipped_rewards(problem: Problem) -> np.ndarray:
    return solve_weighted(problem.Z, np.clip(problem.r, -1, 1), problem, problem.mu)


def penalised(problem: Problem) -> np.ndarray:
    C = (problem.Z.T * problem.mu) @ problem.Z
    A = C - problem.gamma * (problem.Z.T * problem.mu) @ problem.Z_next
    return np.linalg.solve(A + 1e-6 * np.eye(problem.d), (problem.Z.T * problem.mu) @ problem.r)


def first_row_favoured(problem: Problem) -> np.ndarray:
    weights = problem.mu.copy()
    weights[0] *= 1.0 + 1e-6
    return solve_weighted(problem.Z, problem.r, problem, weights)


@pytest.mark.parametrize(
    ("solver", "caught_by"),
    [
        (without_weights, TWICE),
        (penalised, BASIS),
        (clipped_rewards, SCALED),
        (first_row_favoured, ORDER),
    ],
)
def test_a_solver_with_a_mistake_is_caught(monkeypatch, solver, caught_by):
    problem = random_problem(7)
    monkeypatch.setattr("theory.equivariance.check_fixed_point_equivalence", broken(solver))
    report = check_equivariances(problem)
    assert report.verdict == "fail"
    assert report.condition(caught_by).holds is False
    assert report.residual > report.tolerance


def test_a_bias_is_caught_by_scaling_alone(monkeypatch):
    problem = random_problem(7)

    def biased(problem: Problem) -> np.ndarray:
        return solve_weighted(problem.Z, problem.r + 1e-6, problem, problem.mu)

    monkeypatch.setattr("theory.equivariance.check_fixed_point_equivalence", broken(biased))
    failed = [c.name for c in check_equivariances(problem).conditions if c.holds is False]
    assert failed == [SCALED]


@pytest.mark.parametrize("bias", [1e-6, 1e-10])
def test_a_model_that_depends_on_the_basis_is_caught(monkeypatch, bias):
    problem = random_problem(7)

    def biased(problem: Problem):
        white = whiten(problem)
        return replace(white, M=white.M + bias * problem.Z[0, 0] * np.eye(white.rank))

    monkeypatch.setattr("theory.equivariance.whiten", biased)
    failed = [c.name for c in check_equivariances(problem).conditions if c.holds is False]
    assert failed == [SPECTRUM]


THREE = [[0.2, 0.8, 0.0], [0.5, 0.2, 0.3], [0.1, 0.3, 0.6]]


def three_rows(Z) -> Problem:
    return Problem.from_chain(THREE, [1, 2, -1], Z, [0.3, 0.3, 0.4], 0.9)


def test_columns_of_very_different_size_are_mixed_without_losing_digits():
    """Mixed as they are, 1e-8 would be lost in 1e8."""
    report = check_equivariances(three_rows([[1e8, 1e-8], [2e8, -1e-8], [3e8, 4e-8]]))
    assert report.verdict == "pass"
    assert report.condition(BASIS).holds and report.condition(SPECTRUM).holds


def test_columns_are_levelled_exactly_so_that_limits_are_those_of_level_features():
    """Features 1 and 2 have D-norm 1.58, which is level; 1024 times them is the same when levelled."""
    small, large = (
        check_equivariances(Problem.from_chain(TVR, [1, 1], [[size], [2 * size]], HALF, 0.5)).data
        for size in (1.0, 1024.0)
    )
    assert small["step_size_limit_after"] == large["step_size_limit_after"] == pytest.approx(2 / 9, rel=1e-12)
    assert large["step_size_limit"] == pytest.approx(2.0 / 1024**2, rel=1e-12)


@pytest.mark.parametrize("distance", [0.0, 1e-17, 1e-15, 4e-15, 1e-14, 1e-13, 1e-12])
def test_nearly_parallel_features_are_no_failure(distance):
    report = check_equivariances(three_rows([[1, 1], [2, 2], [3, 3 + distance]]))
    assert report.verdict in ("pass", "inconclusive"), report.to_markdown()


def test_a_rank_that_the_change_moves_leaves_the_values_open(monkeypatch):
    def rank_counts_features(problem: Problem):
        report = check_fixed_point_equivalence(problem)
        return replace(report, data=dict(report.data) | {"rank": 1 if problem.r[0] < 0.0 else 2})

    problem = Problem.from_chain(THREE, [1, 2, -1], np.eye(3)[:, :2], [0.3, 0.3, 0.4], 0.9)
    monkeypatch.setattr("theory.equivariance.check_fixed_point_equivalence", rank_counts_features)
    condition = check_equivariances(problem).condition(SCALED)
    assert condition.holds is None and "rank" in condition.why


def test_a_weight_as_good_as_zero_is_no_data():
    """With weight 1e-35 on row 1 two features have rank one, and what they say about row 1 is a guess."""
    problem = Problem.from_chain([HALF, HALF], [1, 0], [[1, 2], [3, 1]], [1, 1e-35], 0.9)
    report = check_equivariances(problem)
    assert report.verdict == "pass"
    assert [report.condition(name).holds for name in (BASIS, SPECTRUM, PREDICTED)] == [None] * 3


def test_features_that_are_dependent_everywhere_are_no_guess():
    """Row 2 has no weight and is reached, but the copy of a feature vanishes there too."""
    Z = np.array([[1.0, 2.0], [2.0, -1.0], [1.0, 1.0]])
    doubled = np.column_stack([Z, Z[:, 0]])
    report = check_equivariances(Problem.from_chain(THREE, [1, 2, -1], doubled, [0.5, 0.5, 0.0], 0.9))
    assert report.condition(BASIS).holds and report.condition(SPECTRUM).holds


def test_at_gamma_one_every_run_must_end_for_true_values_to_shift():
    """Row 0 may end, row 1 never does."""
    problem = Problem.from_chain([[0.5, 0.0], [0.0, 1.0]], [1, 1], np.eye(2), [1.0, 0.0], 1.0)
    condition = check_equivariances(problem).condition(TRUE)
    assert condition.holds is None and "infinite" in condition.why


def test_a_faint_chance_to_end_known_from_the_mdp_is_an_end():
    """State 0 stays but for 1e-13, which as a bare row sum would be rounding, its values infinite."""
    P = [[[1.0 - 1e-13, 0.0, 1e-13]], [[0, 0, 1]], [[0, 0, 1]]]
    mdp = TabularMDP.from_dense(P, [[1], [1], [0]], 1.0, terminal=[False, False, True])
    problem = Problem(mdp, Policy.uniform(mdp), Features.one_hot(mdp), Weights([[0], [1], [0]]))
    assert check_equivariances(problem).condition(TRUE).holds


def test_rows_that_sum_to_one_roughly_shift_roughly():
    """A row of 1 - 9e-13 does not end, yet G 1 is not 1 / (1 - gamma) to the last digit."""
    report = check_equivariances(Problem.from_chain([[1.0 - 9e-13]], [1], [[1]], [1], 0.99))
    for name in (TRUE, PREDICTED):
        condition = report.condition(name)
        assert condition.holds and condition.value > 9e-10
        assert condition.threshold < 1e2 * condition.value
