"""TD's matrices, its fixed points, and the least-squares model."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from theory import Problem, fit_linear_model, td_fixed_point, td_system
from theory.td import solve_any

TO_SECOND = [[0.0, 1.0], [0.0, 1.0]]  # Tsitsiklis and Van Roy: both rows lead to the second
BAIRD_Z = [[2.0 * (j == i) for j in range(7)] + [1.0] for i in range(6)] + [[0.0] * 6 + [1.0, 2.0]]


def tsitsiklis_van_roy(gamma: float, reward: float) -> Problem:
    return Problem.from_chain(TO_SECOND, [reward, reward], [1.0, 2.0], [0.5, 0.5], gamma)


def baird(reward: float) -> Problem:
    chain = np.zeros((7, 7))
    chain[:, 6] = 1.0
    return Problem.from_chain(chain, np.full(7, reward), BAIRD_Z, np.full(7, 1 / 7), 0.99)


def random_problem(seed: int, n: int, d: int, gamma: float = 0.9) -> Problem:
    draws = np.random.default_rng(seed)
    chain = draws.dirichlet(np.ones(n), size=n)
    return Problem.from_chain(
        chain, draws.normal(size=n), draws.normal(size=(n, d)), draws.dirichlet(np.ones(n)), gamma
    )


def test_the_system_is_the_weighted_sum_over_transitions() -> None:
    problem = random_problem(1, 5, 3)
    A, b, X = np.zeros((3, 3)), np.zeros(3), np.zeros((3, 3))
    for i in range(5):
        b += problem.mu[i] * problem.Z[i] * problem.r[i]
        A += problem.mu[i] * np.outer(problem.Z[i], problem.Z[i])
        for j in range(5):
            seen = problem.mu[i] * problem.dense_P[i, j] * np.outer(problem.Z[i], problem.Z[j])
            A, X = A - 0.9 * seen, X + seen
    system = td_system(problem)
    np.testing.assert_allclose(system.A, A, atol=1e-15)
    np.testing.assert_allclose(system.b, b, atol=1e-15)
    np.testing.assert_allclose(system.X, X, atol=1e-15)
    np.testing.assert_allclose(system.C, A + 0.9 * X, atol=1e-15)


def test_a_positive_reward_can_have_a_negative_fixed_point() -> None:
    fixed = td_fixed_point(tsitsiklis_van_roy(0.9, 1.0))
    assert (fixed.kind, fixed.nullity) == ("unique", 0)
    assert fixed.w == pytest.approx([-7.5], rel=1e-13)
    assert float(td_system(tsitsiklis_van_roy(0.9, 1.0)).A.item()) == pytest.approx(-0.2, rel=1e-13)


def test_a_singular_system_is_named_and_never_solved() -> None:
    fixed = td_fixed_point(tsitsiklis_van_roy(5 / 6, 1.0))
    assert (fixed.kind, fixed.nullity, fixed.w) == ("none", 1, None)
    # The projection of r = (1, 1) on (1, 2) has D-norm 3/sqrt(10): all of it stays unexplained.
    assert fixed.residual == pytest.approx(3 / np.sqrt(10), rel=1e-13)


def test_a_singular_system_without_reward_is_solved_by_every_w() -> None:
    fixed = td_fixed_point(tsitsiklis_van_roy(5 / 6, 0.0))
    assert (fixed.kind, fixed.nullity, fixed.residual) == ("affine", 1, 0.0)
    assert fixed.w is not None and fixed.w.tolist() == [0.0]
    assert np.abs(fixed.null_space).tolist() == [[1.0]]


def test_a_singular_value_is_judged_against_the_features_not_against_the_matrix() -> None:
    # One ulp off: A is about 1e-17, which relative to itself has full rank.
    fixed = td_fixed_point(tsitsiklis_van_roy(float(np.nextafter(5 / 6, 0.0)), 1.0))
    assert fixed.kind == "none"


def test_dependent_features_give_an_affine_set_with_one_value_function() -> None:
    problem = baird(1.0)
    fixed = td_fixed_point(problem)
    assert (fixed.kind, fixed.nullity) == ("affine", 1)
    assert fixed.w is not None
    np.testing.assert_allclose(fixed.w, [*[300 / 13] * 6, -100 / 13, 700 / 13], rtol=1e-11)
    np.testing.assert_allclose(problem.Z @ fixed.w, 100.0, rtol=1e-11)
    np.testing.assert_allclose(problem.Z @ fixed.null_space, 0.0, atol=1e-13)


def test_with_rows_left_out_the_least_fixed_point_is_not_that_of_the_row_space() -> None:
    # z = (1, 0) leads to a row without weight at (0, 1): A = [[1, -1], [0, 0]], b = (2, 0).
    fixed = td_fixed_point(Problem.from_chain(TO_SECOND, [2.0, 0.0], np.eye(2), [1.0, 0.0], 1.0))
    assert (fixed.kind, fixed.nullity) == ("affine", 1)
    np.testing.assert_allclose(fixed.w, [1.0, -1.0], atol=1e-15)
    np.testing.assert_allclose(np.abs(fixed.null_space[:, 0]), np.sqrt(0.5), atol=1e-15)


def test_the_least_fixed_point_is_least_in_the_given_units_of_the_features() -> None:
    # The same with the second row at (0, 3): A = [[1, -3], [0, 0]], b = (2, 0).
    problem = Problem.from_chain(TO_SECOND, [2.0, 0.0], [[1.0, 0.0], [0.0, 3.0]], [1.0, 0.0], 1.0)
    np.testing.assert_allclose(td_fixed_point(problem).w, [0.2, -0.6], atol=1e-15)


def test_fixed_points_may_exist_only_outside_the_row_space() -> None:
    # The same with the second row at (1, 1): A = [[0, -1], [0, 0]] has rank one, as C, but vanishes on it.
    problem = Problem.from_chain(TO_SECOND, [2.0, 0.0], [[1.0, 0.0], [1.0, 1.0]], [1.0, 0.0], 1.0)
    fixed = td_fixed_point(problem)
    assert fixed.kind == "affine"
    np.testing.assert_allclose(fixed.w, [0.0, -2.0], atol=1e-14)


def test_a_fixed_point_satisfies_the_equation_whatever_the_kind() -> None:
    for problem in (baird(1.0), random_problem(2, 6, 3), random_problem(3, 4, 9)):
        fixed, system = td_fixed_point(problem), td_system(problem)
        assert fixed.w is not None
        np.testing.assert_allclose(system.A @ fixed.w, system.b, atol=1e-12)
        np.testing.assert_allclose(system.A @ fixed.null_space, 0.0, atol=1e-12)
        assert fixed.null_space.shape == (problem.d, fixed.nullity)
        assert np.linalg.matrix_rank(system.A) == problem.d - fixed.nullity


def test_the_fixed_point_of_least_norm_is_that_of_the_pseudoinverse() -> None:
    problem = random_problem(4, 3, 5)
    system = td_system(problem)
    np.testing.assert_allclose(td_fixed_point(problem).w, np.linalg.pinv(system.A) @ system.b, rtol=1e-9)


def test_features_that_are_all_zero_leave_every_w_a_fixed_point() -> None:
    problem = Problem.from_chain([[0.5]], [1.0], [[0.0, 0.0]], [1.0], 0.9)
    fixed, model = td_fixed_point(problem), fit_linear_model(problem)
    assert (fixed.kind, fixed.nullity, model.rank) == ("affine", 2, 0)
    assert not model.w_r.any() and not model.W_d.any()


def test_the_uniform_random_walk_has_the_values_known_by_hand() -> None:
    chain = 0.5 * (np.eye(5, k=1) + np.eye(5, k=-1))
    problem = Problem.from_chain(chain, [0, 0, 0, 0, 0.5], np.eye(5), np.full(5, 0.2), 1.0)
    np.testing.assert_allclose(td_fixed_point(problem).w, np.arange(1, 6) / 6, rtol=1e-13)


def test_a_sparse_chain_gives_the_answer_of_the_dense_one() -> None:
    dense = random_problem(5, 6, 3)
    loose = Problem.from_chain(sparse.csr_array(dense.dense_P), dense.r, dense.Z, dense.mu, dense.gamma)
    np.testing.assert_allclose(td_fixed_point(loose).w, td_fixed_point(dense).w, rtol=1e-12)
    np.testing.assert_allclose(fit_linear_model(loose).W_d, fit_linear_model(dense).W_d, rtol=1e-12)


def test_the_model_is_the_weighted_fit_and_not_the_plain_one() -> None:
    problem = random_problem(6, 7, 2)
    model = fit_linear_model(problem)
    system = td_system(problem)
    np.testing.assert_allclose(model.w_r, np.linalg.solve(system.C, system.b), rtol=1e-12)
    np.testing.assert_allclose(model.W_d, np.linalg.solve(system.C, system.X), rtol=1e-12)
    plain = np.linalg.lstsq(problem.Z, problem.r)[0]
    assert np.abs(plain - model.w_r).max() > 0.01


def test_with_dependent_features_the_model_is_the_fit_of_least_norm() -> None:
    problem = baird(1.0)
    root = np.sqrt(problem.mu)[:, None]
    inverse = np.linalg.pinv(root * problem.Z)
    model = fit_linear_model(problem)
    assert model.rank == 7
    np.testing.assert_allclose(model.w_r, inverse @ (root[:, 0] * problem.r), atol=1e-14)
    np.testing.assert_allclose(model.W_d, inverse @ (root * problem.Z_next), atol=1e-14)


def test_the_condition_number_does_not_depend_on_the_scale_of_a_feature() -> None:
    problem = random_problem(7, 6, 3)
    scaled = Problem.from_chain(
        problem.P_pi, problem.r, problem.Z * [1e-8, 1.0, 1e8], problem.mu, problem.gamma
    )
    assert fit_linear_model(scaled).rank == 3
    assert fit_linear_model(scaled).condition == pytest.approx(fit_linear_model(problem).condition, rel=1e-12)


def test_rows_of_tiny_weight_do_not_spoil_the_solution() -> None:
    # Exact rational solution of the two-feature problem as the reference.
    mu = [1.0 - 2.0**-40, 2.0**-41, 2.0**-41]
    chain, r, Z = (
        [[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]],
        [1.0, 2.0, 4.0],
        [[1, 0], [1, 1], [1, 3]],
    )
    fixed = td_fixed_point(Problem.from_chain(chain, r, Z, mu, 0.5))
    expected = exact_fixed_point(chain, r, Z, mu, Fraction(1, 2))
    np.testing.assert_allclose(fixed.w, expected, rtol=1e-9)


@pytest.mark.parametrize("tiny", [2.0**-40, 2.0**-120, 2.0**-1000])
def test_a_row_of_tiny_weight_that_is_reached_counts_with_its_features(tiny: float) -> None:
    # First: there the factorisation mixes it with heavier rows.
    mu, r, Z = [tiny, 0.5 - tiny, 0.5], [4.0, 1.0, 2.0], [[1, 3], [1, 0], [1, 1]]
    chain = [[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.75, 0.25, 0.0]]
    fixed = td_fixed_point(Problem.from_chain(chain, r, Z, mu, 0.5))
    assert fixed.kind == "unique"
    np.testing.assert_allclose(fixed.w, exact_fixed_point(chain, r, Z, mu, Fraction(1, 2)), rtol=1e-13)


def exact_fixed_point(chain: list, r: list, Z: list, mu: list, gamma: Fraction) -> list[float]:
    """Solve Aw = b for two features by Cramer's rule, in rational arithmetic."""
    rows = range(len(r))
    P, Z = [[Fraction(p) for p in row] for row in chain], [[Fraction(z) for z in row] for row in Z]
    after = [[sum(P[i][j] * Z[j][k] for j in rows) for k in range(2)] for i in rows]
    A = [
        [sum(Fraction(mu[i]) * Z[i][k] * (Z[i][m] - gamma * after[i][m]) for i in rows) for m in range(2)]
        for k in range(2)
    ]
    b = [sum(Fraction(mu[i]) * Z[i][k] * Fraction(r[i]) for i in rows) for k in range(2)]
    det = A[0][0] * A[1][1] - A[0][1] * A[1][0]
    return [
        float((b[0] * A[1][1] - A[0][1] * b[1]) / det),
        float((A[0][0] * b[1] - b[0] * A[1][0]) / det),
    ]


@given(seed=st.integers(0, 10**6), n=st.integers(1, 8), d=st.integers(1, 8))
def test_one_solution_on_the_row_space_means_nullity_d_minus_rank(seed: int, n: int, d: int) -> None:
    problem = random_problem(seed, n, d, gamma=0.5)
    fixed, rank = td_fixed_point(problem), min(n, d)
    assert fixed.kind == ("unique" if rank == d else "affine")
    assert fixed.nullity == d - rank
    assert fixed.residual < 1e-9


@pytest.mark.parametrize(
    ("least", "miss", "solvable"), [(1.0, 1e-10, False), (1.0, 1e-14, True), (1e-6, 1e-9, True)]
)
def test_what_no_solution_reaches_is_rounding_only_as_far_as_the_equation_magnifies_it(
    least: float, miss: float, solvable: bool
) -> None:
    system = np.diag([1.0, least, 0.0])
    assert solve_any(system, np.array([1.0, 1.0, miss]), 1.0, 1.0)[3] is solvable
