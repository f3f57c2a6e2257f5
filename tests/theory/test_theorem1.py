"""Theorem 1: the equality holds where it should, and the check notices when it does not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory import (
    LinearModel,
    Problem,
    check_fixed_point_equivalence,
    fit_linear_model,
    td_fixed_point,
    td_system,
)
from theory.theorem1 import discrepancy

TO_SECOND = [[0.0, 1.0], [0.0, 1.0]]
SWAP = [[0.0, 1.0], [1.0, 0.0]]


def garnet(seed: int, n: int, d: int, gamma: float = 0.9) -> Problem:
    draws = np.random.default_rng(seed)
    chain = np.zeros((n, n))
    for row in chain:
        row[draws.choice(n, min(n, 3), replace=False)] = draws.dirichlet(np.ones(min(n, 3)))
    mu = draws.dirichlet(np.full(n, 2.0))
    return Problem.from_chain(chain, draws.normal(size=n), draws.normal(size=(n, d)), mu, gamma)


def monomials(degree: int) -> Problem:
    """A random walk on 0..20 that ends to the right; features 1, x, ..., x^degree of the unscaled x."""
    n = 21
    chain = 0.5 * (np.eye(n, k=1) + np.eye(n, k=-1))
    chain[0, 0] = 0.5
    x = np.arange(n, dtype=np.float64)
    return Problem.from_chain(
        chain, np.cos(x), np.vander(x, degree + 1, increasing=True), np.full(n, 1 / n), 0.9
    )


def baird() -> Problem:
    chain = np.zeros((7, 7))
    chain[:, 6] = 1.0
    Z = [[2.0 * (j == i) for j in range(7)] + [1.0] for i in range(6)] + [[0.0] * 6 + [1.0, 2.0]]
    return Problem.from_chain(chain, np.ones(7), Z, np.full(7, 1 / 7), 0.99)


def plain_fit(Z: np.ndarray, r: np.ndarray, Z_next: np.ndarray) -> LinearModel:
    fit = np.linalg.lstsq(Z, np.column_stack([r, Z_next]))[0]
    return LinearModel(fit[:, 0], fit[:, 1:], Z.shape[1], 1.0)


def test_the_equality_needs_neither_stable_td_nor_a_convergent_rollout() -> None:
    problem = Problem.from_chain(TO_SECOND, [1.0, 1.0], [1.0, 2.0], [0.5, 0.5], 0.9)
    report = check_fixed_point_equivalence(problem)
    assert bool(report) and report.residual is not None and report.residual < 1e-14
    for route in ("w_td", "w_model", "w_reference"):
        assert report.data[route] == pytest.approx([-7.5], rel=1e-13)
    stable, rolls = report.condition("TD is stable"), report.condition("rollout converges")
    assert (stable.holds, rolls.holds) == (False, False)
    assert stable.value == pytest.approx(-0.2, rel=1e-13) and rolls.value == pytest.approx(1.08, rel=1e-13)
    assert rolls.margin == pytest.approx(-0.08, rel=1e-12)


@pytest.mark.parametrize(("reward", "kind"), [(1.0, "none"), (0.0, "affine")])
def test_without_exactly_one_solution_it_is_inconclusive_and_gives_no_number(
    reward: float, kind: str
) -> None:
    problem = Problem.from_chain(TO_SECOND, [reward, reward], [1.0, 2.0], [0.5, 0.5], 5 / 6)
    report = check_fixed_point_equivalence(problem)
    assert (report.verdict, report.residual, report.data["kind"]) == ("inconclusive", None, kind)
    assert report.condition("exactly one solution").holds is False
    assert report.condition("rollout converges").holds is None
    assert "w_td" not in report.data
    json.loads(report.to_json())


def test_a_wrong_model_matrix_is_caught_at_one_part_in_a_million() -> None:
    for problem in (garnet(1, 12, 5), garnet(2, 30, 8, 0.99), baird()):
        fit, report = fit_linear_model(problem), check_fixed_point_equivalence(problem)
        assert report.verdict == "pass" and report.condition("would notice an error").holds
        w = td_fixed_point(problem).w
        assert w is not None
        nudge = 1e-6 * np.linalg.norm(fit.W_d, 2) * np.outer(w, w) / (w @ w)
        wrong = check_fixed_point_equivalence(problem, model=replace(fit, W_d=fit.W_d + nudge))
        assert wrong.verdict == "fail" and wrong.residual == pytest.approx(report.data["power"], rel=1e-6)


def test_a_wrong_reward_model_is_caught() -> None:
    problem = garnet(3, 10, 4)
    fit = fit_linear_model(problem)
    assert not check_fixed_point_equivalence(problem, model=replace(fit, w_r=fit.w_r * (1 + 1e-9)))


def test_a_wrong_model_cannot_buy_itself_a_larger_tolerance() -> None:
    # The model's own equation is singular; judged by its condition number it would be inconclusive.
    problem = garnet(4, 8, 2)
    wrong = replace(fit_linear_model(problem), W_d=np.eye(2) / 0.9)
    report = check_fixed_point_equivalence(problem, model=wrong)
    assert (report.verdict, report.residual) == ("fail", np.inf)


def test_formulas_without_the_data_weights_fail() -> None:
    problem = garnet(5, 10, 4)
    plain = plain_fit(problem.Z, problem.r, problem.Z_next)
    assert check_fixed_point_equivalence(problem, model=plain).verdict == "fail"
    uniform = Problem.from_chain(problem.P_pi, problem.r, problem.Z, np.full(10, 0.1), 0.9)
    assert check_fixed_point_equivalence(uniform, model=plain).verdict == "pass"


def test_next_features_of_another_policy_fail() -> None:
    problem = garnet(6, 10, 4)
    other = Problem.from_chain(garnet(7, 10, 4).P_pi, problem.r, problem.Z, problem.mu, 0.9)
    assert check_fixed_point_equivalence(problem, model=fit_linear_model(other)).verdict == "fail"


def test_the_most_likely_next_features_instead_of_the_expected_ones_fail() -> None:
    problem = garnet(8, 10, 4)
    likeliest = np.eye(10)[np.argmax(problem.dense_P, axis=1)]
    other = Problem.from_chain(likeliest, problem.r, problem.Z, problem.mu, 0.9)
    assert check_fixed_point_equivalence(problem, model=fit_linear_model(other)).verdict == "fail"


def test_the_transposed_model_matrix_fails() -> None:
    problem = garnet(9, 10, 4)
    fit = fit_linear_model(problem)
    assert check_fixed_point_equivalence(problem, model=replace(fit, W_d=fit.W_d.T)).verdict == "fail"


def test_monomials_to_degree_six_pass_by_their_tolerance_where_a_fixed_one_would_not() -> None:
    problem = monomials(6)
    report = check_fixed_point_equivalence(problem)
    assert report.verdict == "pass"
    assert report.residual is not None and report.tolerance is not None
    assert 1e-12 < report.residual < report.tolerance < 1e-3
    system, w = td_system(problem), report.data["w_td"]
    assert np.abs(system.A @ w - system.b).max() > 1e-8  # what a fixed tolerance would look at
    assert report.condition("would notice an error").holds


def test_columns_are_scaled_before_anything_is_judged() -> None:
    numbers = check_fixed_point_equivalence(monomials(6)).data["condition_numbers"]
    assert numbers["A"] < 1e-3 * np.linalg.cond(td_system(monomials(6)).A)


def test_features_too_close_to_parallel_are_inconclusive_but_still_solved() -> None:
    base = garnet(10, 9, 2)
    close = np.column_stack([base.Z, base.Z @ [1.0, 1.0] + 1e-9 * np.arange(9.0) ** 2])
    problem = Problem.from_chain(base.P_pi, base.r, close, base.mu, 0.9)
    report = check_fixed_point_equivalence(problem)
    assert report.verdict == "inconclusive" and report.condition("decidable in float64").holds is False
    assert report.tolerance is not None and report.tolerance > 1e-3
    apart = np.column_stack([base.Z, np.arange(9.0) ** 2])
    whitened = td_fixed_point(Problem.from_chain(base.P_pi, base.r, apart, base.mu, 0.9)).w
    w = td_fixed_point(problem).w
    assert w is not None and whitened is not None
    np.testing.assert_allclose(close @ w, apart @ whitened, atol=1e-5)


def test_what_cancels_in_a_single_number_counts_as_condition() -> None:
    # A = 1 - gamma: by its own size a 1 by 1 matrix has condition 1, yet three digits are lost.
    problem = Problem.from_chain([[1.0]], [0.3], [[0.7]], [1.0], 0.999)
    report = check_fixed_point_equivalence(problem)
    assert report.verdict == "pass"
    assert report.data["condition_numbers"]["A"] == pytest.approx(1999.0, rel=1e-9)


def test_the_tolerance_grows_with_the_condition_of_the_features() -> None:
    tolerances = [check_fixed_point_equivalence(monomials(k)).tolerance for k in (1, 3, 5)]
    assert tolerances == sorted(tolerances) and tolerances[2] > 1e3 * tolerances[0]  # type: ignore[type-var]


def test_dependent_features_pass_on_their_row_space_and_the_report_says_so() -> None:
    report = check_fixed_point_equivalence(baird())
    assert report.verdict == "pass"
    rank = report.condition("features are independent")
    assert (rank.holds, rank.value, rank.threshold, rank.margin) == (False, 7, 8, -1)
    assert "Baird" in rank.why and report.data["nullity"] == 1
    np.testing.assert_allclose(report.data["w_model"], [*[300 / 13] * 6, -100 / 13, 700 / 13], rtol=1e-10)


def test_with_rows_left_out_the_solution_on_the_row_space_is_the_models() -> None:
    problem = Problem.from_chain(TO_SECOND, [2.0, 0.0], np.eye(2), [1.0, 0.0], 1.0)
    report = check_fixed_point_equivalence(problem)
    assert report.verdict == "pass" and report.condition("every row has weight").holds is False
    for route in ("w_td", "w_model", "w_reference"):
        np.testing.assert_allclose(report.data[route], [2.0, 0.0], atol=1e-15)
    assert td_fixed_point(problem).w == pytest.approx([1.0, -1.0])


def test_fixed_points_outside_the_row_space_do_not_make_the_equality() -> None:
    problem = Problem.from_chain(TO_SECOND, [2.0, 0.0], [[1.0, 0.0], [1.0, 1.0]], [1.0, 0.0], 1.0)
    report = check_fixed_point_equivalence(problem)
    assert report.verdict == "inconclusive" and report.data["kind"] == "affine"


def test_an_undiscounted_continuing_chain_is_solved_but_called_infinite() -> None:
    problem = Problem.from_chain(SWAP, [1.0, 1.0], [1.0, 3.0], [0.5, 0.5], 1.0)
    report = check_fixed_point_equivalence(problem)
    finite = report.condition("returns are finite")
    assert report.verdict == "pass" and (finite.holds, finite.value) == (False, 2.0)


def test_an_undiscounted_chain_with_the_constant_in_its_span_has_no_solution() -> None:
    problem = Problem.from_chain(SWAP, [1.0, 1.0], [[1.0, 0.0], [1.0, 3.0]], [0.5, 0.5], 1.0)
    assert check_fixed_point_equivalence(problem).verdict == "inconclusive"


def test_an_undiscounted_episodic_chain_is_fine() -> None:
    problem = Problem.from_chain([[0.0, 1.0], [0.5, 0.0]], [1.0, 1.0], np.eye(2), [0.5, 0.5], 1.0)
    report = check_fixed_point_equivalence(problem)
    assert report.verdict == "pass" and report.condition("returns are finite").holds
    np.testing.assert_allclose(report.data["w_model"], [4.0, 3.0], rtol=1e-14)


def test_a_reward_outside_the_span_leaves_rounding_and_not_a_failure() -> None:
    base = garnet(11, 6, 2)
    weighted = np.sqrt(base.mu)[:, None] * base.Z
    outside = np.linalg.svd(weighted.T)[2][-1] / np.sqrt(base.mu)
    problem = Problem.from_chain(base.P_pi, outside, base.Z, base.mu, 0.9)
    assert check_fixed_point_equivalence(problem).verdict == "pass"


def test_without_reward_the_check_says_that_it_could_not_have_failed() -> None:
    problem = Problem.from_chain(TO_SECOND, [0.0, 0.0], [1.0, 2.0], [0.5, 0.5], 0.5)
    report = check_fixed_point_equivalence(problem)
    assert report.verdict == "pass" and report.condition("would notice an error").holds is False


def test_every_condition_says_why_it_matters() -> None:
    report = check_fixed_point_equivalence(garnet(12, 6, 3))
    assert [c.name for c in report.conditions] == [
        "exactly one solution",
        "decidable in float64",
        "features are independent",
        "every row has weight",
        "returns are finite",
        "TD is stable",
        "rollout converges",
        "would notice an error",
    ]
    for condition in report.conditions:
        assert condition.why.startswith("else") and condition.margin is not None


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 12),
    d=st.integers(1, 12),
    gamma=st.sampled_from([0.0, 0.5, 0.9, 0.999]),
)
def test_random_problems_never_fail(seed: int, n: int, d: int, gamma: float) -> None:
    base = garnet(seed, n, d, gamma)
    scales = 10.0 ** np.random.default_rng(seed).uniform(-4, 4, size=d)
    problem = Problem.from_chain(base.P_pi, base.r, base.Z * scales, base.mu, gamma)
    report = check_fixed_point_equivalence(problem)
    assert report.verdict != "fail"
    if report.verdict == "pass":
        assert report.residual is not None and report.tolerance is not None
        assert report.residual <= report.tolerance <= 1e-3


def test_a_discrepancy_is_measured_with_features_of_norm_one_and_against_the_reward() -> None:
    problem = Problem.from_chain([[0.5]], [100.0], [[4.0, 0.0]], [1.0], 0.5)
    one, two = np.array([1.0, 7.0]), np.array([2.0, -7.0])  # the second feature is zero
    assert discrepancy(problem, one, two) == pytest.approx(0.04, rel=1e-14)


def test_the_tolerance_is_what_the_docstring_says() -> None:
    """One feature 2, I - gamma M = 1 - 1/4: all three condition numbers are (1 + 1/4) / (3/4)."""
    report = check_fixed_point_equivalence(Problem.from_chain([[0.5]], [1.0], [[2.0]], [1.0], 0.5))
    assert report.tolerance == pytest.approx(64 * np.finfo(np.float64).eps * 3 * 5 / 3, rel=1e-12)


def test_a_discrepancy_is_measured_with_features_of_D_norm_one() -> None:
    """1e-3 of a feature of D-norm 1000 / sqrt(2) is as much as 1 of a feature of D-norm 1 / sqrt(2)."""
    problem = Problem.from_chain(np.eye(2), [0.0, 0.0], np.diag([1.0, 1000.0]), [0.5, 0.5], 0.5)
    found = discrepancy(problem, np.array([2.0, 0.0]), np.array([2.0, 1e-3]))
    assert found == pytest.approx(1.0 / np.sqrt(5.0), rel=1e-12)


def test_a_failing_condition_names_its_catalogue_entry() -> None:
    singular = check_fixed_point_equivalence(
        Problem.from_chain(TO_SECOND, [1.0, 1.0], [1.0, 2.0], [0.5, 0.5], 5 / 6)
    )
    why = singular.condition("exactly one solution").why
    assert why.endswith("; see catalogue tsitsiklis_van_roy_singular")
    report = check_fixed_point_equivalence(baird())
    assert report.condition("features are independent").why.endswith("; see catalogue baird_star")
    assert not any("see catalogue" in condition.why for condition in report.conditions if condition.holds)
