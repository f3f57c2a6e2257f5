"""Theorem 1 over the rationals: proved on any problem, refuted for any wrong model, agreeing with floats."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from theory import (
    ExactModel,
    ExactProblem,
    InputError,
    Problem,
    check_fixed_point_equivalence,
    fit_linear_model,
    prove_value_error,
    stability,
    td_fixed_point,
)
from theory.exact.backend import has_flint, using
from theory.exact.linear import apply, identity, minus, product, rank, scaled, transpose
from theory.exact.system import (
    exact_model,
    exact_system,
    model_solutions,
    solves_only,
    td_solutions,
    td_solutions_in_row_space,
)
from theory.exact.theorem1 import prove_fixed_point_equivalence

TINY = Fraction(1, 10**30)
TO_SECOND = [[0, 1], [0, 1]]
HALVES = ["1/2", "1/2"]


def tsitsiklis_van_roy(gamma, reward=1) -> ExactProblem:
    return ExactProblem.from_chain(TO_SECOND, [reward, reward], [1, 2], HALVES, gamma)


def perturbed(model: ExactModel, row: int, column: int, by: Fraction) -> ExactModel:
    W_d = [list(line) for line in model.W_d]
    W_d[row][column] += by
    return ExactModel(list(model.w_r), W_d)


@given(data=st.data())
@settings(max_examples=80)
def test_the_equality_holds_on_every_problem_of_any_rank_and_support(problems, data):
    problem = data.draw(problems())
    report = prove_fixed_point_equivalence(problem)
    assert (report.verdict, report.residual, report.tolerance) == ("pass", 0.0, 0.0)
    system = exact_system(problem)
    # Independently of the sets: every fixed point in the row space solves the model's equation.
    w = td_solutions_in_row_space(system).w
    model = exact_model(system)
    if w is not None:
        assert apply(system.A, w) == system.b
        assert [x - problem.gamma * y for x, y in zip(w, apply(model.W_d, w), strict=True)] == model.w_r


@given(data=st.data())
@settings(max_examples=60)
def test_the_model_solves_the_normal_equations_in_the_row_space(problems, data):
    problem = data.draw(problems())
    system = exact_system(problem)
    model = exact_model(system)
    assert apply(system.C, model.w_r) == system.b and product(system.C, model.W_d) == system.X
    null = [v for v in identity(problem.d) if not any(apply(system.C, v))]
    for v in null:
        assert not sum(x * y for x, y in zip(v, model.w_r, strict=True))
        assert not any(apply(transpose(model.W_d), v))


@given(data=st.data())
@settings(max_examples=60)
def test_an_error_of_ten_to_the_minus_thirty_in_the_model_is_caught(problems, data):
    problem = data.draw(problems(least_weight=1))
    td = td_solutions_in_row_space(exact_system(problem))
    assume(td.kind == "unique" and td.w is not None and any(td.w) and problem.gamma > 0)
    column = data.draw(st.sampled_from([j for j, x in enumerate(td.w) if x]))
    row = data.draw(st.integers(0, problem.d - 1))
    wrong = perturbed(exact_model(exact_system(problem)), row, column, TINY)
    report = prove_fixed_point_equivalence(problem, model=wrong)
    assert report.verdict == "fail" and report.residual > 0.0
    assert prove_fixed_point_equivalence(problem).condition("would notice an error").holds


@pytest.mark.usefixtures("backend")
def test_a_wrong_model_is_caught_by_either_backend():
    problem = tsitsiklis_van_roy("9/10")
    model = exact_model(exact_system(problem))
    off = prove_fixed_point_equivalence(problem, model=perturbed(model, 0, 0, TINY))
    # w = w_r / (1 - gamma W_d): the derivative is gamma w_r / (1 - gamma W_d)^2 = .54 / .0064.
    assert off.verdict == "fail" and off.residual == pytest.approx(84.375e-30, rel=1e-9)
    assert off.condition("would notice an error").value == pytest.approx(0.9 * 7.5e-30, rel=1e-9)
    shifted = ExactModel([x + TINY for x in model.w_r], model.W_d)
    assert prove_fixed_point_equivalence(problem, model=shifted).verdict == "fail"


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("gamma", "reward", "kind", "w"),
    [("9/10", 1, "unique", ["-15/2"]), ("5/6", 1, "none", None), ("5/6", 0, "affine", ["0"])],
)
def test_the_two_sides_agree_on_one_many_and_no_solutions(gamma, reward, kind, w):
    report = prove_fixed_point_equivalence(tsitsiklis_van_roy(gamma, reward))
    assert (report.verdict, report.data["kind"], report.data["w_td"]) == ("pass", kind, w)
    assert report.data["w_model"] == w
    assert report.condition("exactly one solution").holds is (kind == "unique")
    assert ("would notice an error" in [c.name for c in report.conditions]) is (kind == "unique")


def test_a_model_without_the_solutions_is_refuted_where_there_are_none_or_many():
    for reward in (0, 1):
        problem = tsitsiklis_van_roy("5/6", reward)
        wrong = perturbed(exact_model(exact_system(problem)), 0, 0, TINY)
        report = prove_fixed_point_equivalence(problem, model=wrong)
        assert (report.verdict, report.residual) == ("fail", np.inf)


def baird(reward: int = 0) -> ExactProblem:
    Z = [[2 * int(j == i) for j in range(7)] + [1] for i in range(6)] + [[0] * 6 + [1, 2]]
    return ExactProblem.from_chain([{6: 1}] * 7, [reward] * 7, Z, [Fraction(1, 7)] * 7, "99/100")


@pytest.mark.usefixtures("backend")
def test_dependent_features_have_one_solution_in_the_row_space():
    report = prove_fixed_point_equivalence(baird(1))
    assert (report.verdict, report.data["kind"], report.data["kind in the row space"]) == (
        "pass",
        "affine",
        "unique",
    )
    assert report.data["w_td"] == ["300/13"] * 6 + ["-100/13", "700/13"]
    assert report.condition("features are independent").holds is False
    assert (report.data["td"], report.data["rollout"]) == ("unstable", "converges")
    rollout = report.condition("rollout converges")
    assert (rollout.holds, rollout.value) == (True, 0.99)


@pytest.mark.usefixtures("backend")
def test_features_that_are_zero_have_the_solution_zero():
    report = prove_fixed_point_equivalence(ExactProblem.from_chain([[0]], [1], [[0, 0]], [1], "1/2"))
    assert (report.verdict, report.data["rank"], report.data["w_td"]) == ("pass", 0, ["0", "0"])
    assert (report.data["td"], report.data["rollout"]) == ("stable", "converges")
    assert report.condition("TD is stable").value is None


def test_off_support_the_least_fixed_point_is_not_the_models():
    """A row without weight is reached and the features are dependent under the weights."""
    problem = ExactProblem.from_chain([[0, 1], [0, 0]], [2, 0], [[1, 0], [0, 1]], [1, 0], 1)
    report = prove_fixed_point_equivalence(problem)
    assert (report.verdict, report.data["w_td"], report.data["w_model"]) == ("pass", ["2", "0"], ["2", "0"])
    assert td_solutions(exact_system(problem)).w == (1, -1)
    assert report.condition("every row has weight").holds is False


def test_equal_ranks_of_A_and_C_are_not_enough():
    """A has the rank of C and fixed points exist, yet the model's equation is singular."""
    problem = ExactProblem.from_chain([[0, 1], [0, 0]], [1, 0], [[1, 1], [2, 0]], [1, 0], 1)
    system = exact_system(problem)
    assert system.rank == rank(system.A) == 1 and td_solutions(system).kind == "affine"
    report = prove_fixed_point_equivalence(problem)
    assert (report.verdict, report.data["kind"], report.data["kind in the row space"]) == (
        "pass",
        "affine",
        "none",
    )
    assert report.data["w_td"] is report.data["w_model"] is None


def test_weights_that_are_ignored_give_another_solution():
    """(-24/113, 114/113) without weights, (-944/2043, 2176/2043) with D = (1, 2, 3, 4)/10."""
    args = (
        [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]],
        [0, 0, 0, 1],
        [[1, 0], [1, 1], [1, 2], [1, 3]],
    )
    uniform = ExactProblem.from_chain(*args, ["1/4"] * 4, "9/10")
    weighted = ExactProblem.from_chain(*args, ["0.1", "0.2", "0.3", "0.4"], "9/10")
    unweighted_model = exact_model(exact_system(uniform))
    assert prove_fixed_point_equivalence(uniform, model=unweighted_model).verdict == "pass"
    assert prove_fixed_point_equivalence(weighted, model=unweighted_model).verdict == "fail"


@given(data=st.data())
@settings(max_examples=50)
def test_floats_agree_with_the_proof_within_their_tolerance(problems, data, rounded):
    problem = data.draw(problems(most_rows=5, least_weight=1))
    floats, proof = rounded(problem), prove_fixed_point_equivalence(problem)
    report = check_fixed_point_equivalence(floats)
    assert report.verdict != "fail"
    if report.verdict == "pass" and report.condition("features are independent").holds:
        w = np.array([float(Fraction(x)) for x in proof.data["w_td"]])
        scale = np.sqrt(floats.mu @ floats.Z**2)
        size = max(np.linalg.norm(scale * w), np.sqrt(floats.mu @ floats.r**2), 1e-300)
        for route in ("w_td", "w_model", "w_reference"):
            assert np.linalg.norm(scale * (report.data[route] - w)) <= report.tolerance * size
        assert td_fixed_point(floats).kind == proof.data["kind"]
    both = ("features are independent", "every row has weight", "returns are finite")
    assert [report.condition(name).holds for name in both] == [proof.condition(name).holds for name in both]
    found = stability(floats)
    assert found.td in (proof.data["td"], "boundary")
    assert found.rollout in (proof.data["rollout"], "boundary")
    assert found.certificate in (proof.data["stable for every choice of features"], False)


def test_a_problem_of_floats_is_proved_after_rationalising_which_the_report_tells():
    floats = Problem.from_chain(TO_SECOND, [1.0, 1.0], [1.0, 2.0], [0.5, 0.5], 0.9)
    report = check_fixed_point_equivalence(floats, exact=True)
    assert report.verdict == "pass" and report.data["w_td"] == ["-15/2"]
    assert report.data["rationalised"] == ["gamma: 1 number changed, by at most 2.2e-17"]
    assert prove_value_error(floats).data["rationalised"] == report.data["rationalised"]
    binary = Problem.from_chain(TO_SECOND, [1.0, 1.0], [1.0, 2.0], [0.5, 0.5], 0.5)
    assert check_fixed_point_equivalence(binary, exact=True).data["rationalised"] == "nothing"


def test_the_float_trap_of_five_sixths():
    """In floats 5/6 * 6/5 is 1, and so it is here, because 5/6 is recovered."""
    floats = Problem.from_chain(TO_SECOND, [1.0, 1.0], [1.0, 2.0], [0.5, 0.5], 5 / 6)
    report = check_fixed_point_equivalence(floats, exact=True)
    assert (report.data["kind"], report.data["td"], report.data["rollout"]) == (
        "none",
        "boundary",
        "boundary",
    )
    assert (
        check_fixed_point_equivalence(tsitsiklis_van_roy(Fraction(5 / 6)), exact=True).data["kind"]
        == "unique"
    )


def test_one_by_one_systems_have_their_true_rank(rounded):
    tiny = Fraction(1, 10**17)
    problem = ExactProblem.from_chain([[1 - tiny]], [1], [1], [1], 1)
    report = prove_fixed_point_equivalence(problem)
    assert (report.data["kind"], report.data["w_td"]) == ("unique", [str(10**17)])
    assert td_fixed_point(rounded(problem)).kind == "none"  # floats round 1 - 1e-17 to 1
    zero = ExactProblem.from_chain([[1]], [-0.0], [1], [1], 1)
    assert prove_fixed_point_equivalence(zero).data["w_td"] == ["0"]


def test_features_too_close_to_parallel_for_floats_are_proved(rounded):
    close = ExactProblem.from_chain(
        [[0, 1], [1, 0]], [1, 0], [[1, 1], [1, 1 + Fraction(1, 10**9)]], HALVES, "9/10"
    )
    report = check_fixed_point_equivalence(close, exact=True)
    assert report.verdict == "pass" and report.condition("exactly one solution").holds
    assert check_fixed_point_equivalence(rounded(close)).verdict == "inconclusive"


def test_the_conditions_are_those_of_the_float_check(rounded):
    problem = tsitsiklis_van_roy("9/10")
    exact = [c.name for c in prove_fixed_point_equivalence(problem).conditions]
    floats = [c.name for c in check_fixed_point_equivalence(rounded(problem)).conditions]
    assert exact == [name for name in floats if name != "decidable in float64"]


def test_fractions_need_exact_mode_and_exact_mode_needs_fractions_of_the_model(rounded):
    problem = tsitsiklis_van_roy("9/10")
    with pytest.raises(InputError, match="needs exact=True"):
        check_fixed_point_equivalence(problem)
    with pytest.raises(InputError, match="needs exact=True"):
        check_fixed_point_equivalence(rounded(problem), model=exact_model(exact_system(problem)))
    with pytest.raises(InputError, match="must be an ExactModel of fractions"):
        check_fixed_point_equivalence(problem, exact=True, model=fit_linear_model(rounded(problem)))


def test_a_report_writes_itself():
    report = prove_fixed_point_equivalence(tsitsiklis_van_roy("9/10"))
    assert json.loads(report.to_json())["data"]["w_td"] == ["-15/2"]
    assert report.to_markdown().startswith("Theorem 1 in exact arithmetic")


def test_substitution_proves_only_the_one_solution():
    half = ExactModel([Fraction(1)], [[Fraction(1, 2)]])
    assert solves_only([Fraction(2)], half, Fraction(1))
    assert not solves_only([2 + TINY], half, Fraction(1))
    free = ExactModel([Fraction(0)], [[Fraction(1)]])
    assert not solves_only([Fraction(5)], free, Fraction(1))  # a solution, but not the only one
    assert model_solutions(free, Fraction(1), [Fraction(5)]).kind == "affine"


@pytest.mark.skipif(not has_flint(), reason="python-flint is not installed")
@given(data=st.data())
@settings(max_examples=25)
def test_both_backends_write_the_same_reports(problems, data):
    problem = data.draw(problems())
    texts = []
    for name in ("python", "flint"):
        with using(name):
            reports = (prove_fixed_point_equivalence(problem), prove_value_error(problem))
            texts.append([report.to_json().replace(f'"arithmetic": "{name}"', "") for report in reports])
    assert texts[0] == texts[1]


def test_row_space_fixed_points_are_the_whole_set_where_features_are_independent():
    problem = tsitsiklis_van_roy("9/10")
    system = exact_system(problem)
    assert td_solutions(system) == td_solutions_in_row_space(system)
    assert minus(system.C, scaled(problem.gamma, system.X)) == system.A == [[Fraction(-1, 5)]]
