"""Theorem 2 over the rationals: the identity and every rung hold, and a wrong input is refuted."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import sparse

from theory import (
    ExactModel,
    ExactProblem,
    Features,
    InputError,
    Policy,
    Problem,
    Weights,
    bounds,
    fit_linear_model,
    frozen_lake,
    prove_value_error,
)
from theory.exact.system import (
    exact_model,
    exact_system,
    model_solutions,
)
from theory.exact.theorem1 import prove_fixed_point_equivalence
from theory.exact.theorem2 import exact_value_error, ladder, state_values

TINY = Fraction(1, 10**30)
TO_SECOND = [[0, 1], [0, 1]]
HALVES = ["1/2", "1/2"]
FLOAT_MODEL = fit_linear_model(Problem.from_chain([[0.5]], [1.0], [[1.0]], [1.0], 0.5))


def tsitsiklis_van_roy(gamma, reward=1) -> ExactProblem:
    return ExactProblem.from_chain(TO_SECOND, [reward, reward], [1, 2], HALVES, gamma)


@given(data=st.data())
@settings(max_examples=40)
def test_the_value_error_is_the_sum_of_its_parts_for_any_weights_and_model(problems, data, fractions):
    problem = data.draw(problems())
    assume(prove_fixed_point_equivalence(problem).condition("returns are finite").holds)
    vector = st.lists(fractions(), min_size=problem.d, max_size=problem.d)
    model = ExactModel(data.draw(vector), [data.draw(vector) for _ in range(problem.d)])
    split = exact_value_error(problem, w=data.draw(vector), model=model)
    assert split.holds
    fitted = prove_value_error(problem)
    assert fitted.verdict in ("pass", "inconclusive")
    if fitted.verdict == "pass":
        assert all(condition.holds for condition in fitted.conditions)


@given(data=st.data())
@settings(max_examples=30)
def test_bounds_in_floats_are_those_of_the_proof(problems, data, rounded):
    problem = data.draw(problems(most_rows=5, least_weight=1))
    proof = prove_value_error(problem)
    assume(proof.verdict == "pass" and proof.condition("returns are finite").holds)
    assume(model_solutions(exact_model(exact_system(problem)), problem.gamma).kind == "unique")
    found = bounds(rounded(problem))
    assume(found.S1 is not None)
    for name in ("S1", "S2", "S25", "S3", "published", "lower", "H"):
        exact = float(Fraction(proof.data[name]))
        assert getattr(found, name) == pytest.approx(exact, rel=1e-6, abs=1e-6)


def test_each_part_and_bound_is_what_hand_computation_gives():
    split = exact_value_error(tsitsiklis_van_roy("1/2"))
    # w = 3/2, Q = 2; w_r = 3/5 and W_d = 6/5, so eps_r = (-2/5, 1/5) and eps_d = (-4/5, 2/5).
    assert (split.w, split.q_true, split.H) == ([Fraction(3, 2)], [2, 2], 2)
    assert split.reward == [Fraction(-1, 5), Fraction(2, 5)]
    assert split.dynamics == [Fraction(-3, 10), Fraction(3, 5)] and split.planning == [0, 0]
    assert split.pointwise["B1"] == [Fraction(3, 2), 1]
    wanted = {"lower": "2/3", "S1": "2", "S2": "2", "S25": "2", "S3": "2", "published": "16/5"}
    assert split.supremum == {name: Fraction(x) for name, x in wanted.items()}


@pytest.mark.usefixtures("backend")
def test_next_features_that_are_off_by_ten_to_the_minus_thirty_break_the_identity():
    problem = tsitsiklis_van_roy("1/2")
    report = prove_value_error(problem, Z_next=[[2], [2 + TINY]])
    assert report.verdict == "fail" and report.condition("value error is the sum of its parts").holds is False
    # -gamma w times the error, carried on by G: 1/2 * 3/2 * 2.
    assert report.residual == pytest.approx(1.5e-30, rel=1e-9)
    assert prove_value_error(problem, Z_next=[[2], [2]]).verdict == "pass"


def test_a_rung_that_is_broken_is_refuted():
    split = exact_value_error(tsitsiklis_van_roy("1/2"))
    split.supremum["published"] = split.supremum["S3"] - TINY
    split.pointwise["B1"][0] = abs(split.error[0]) - TINY
    broken = [rung.name for rung in ladder(split) if not rung.holds]
    assert broken == ["|VE| <= B1", "S3 <= published"]
    lower = exact_value_error(tsitsiklis_van_roy("1/2"))
    lower.supremum["lower"] = max(map(abs, lower.error)) + TINY
    assert [rung.name for rung in ladder(lower) if not rung.holds] == ["lower <= max |VE|"]


def test_every_rung_of_the_ladder_is_there():
    assert [rung.name for rung in ladder(exact_value_error(tsitsiklis_van_roy("1/2")))] == [
        "|VE| <= B1",
        "B1 <= B2",
        "B2 <= B25",
        "B25 <= B3",
        "B1 <= S1",
        "B2 <= S2",
        "B25 <= S25",
        "B3 <= S3",
        "S1 <= S2",
        "S2 <= S25",
        "S25 <= S3",
        "S3 <= published",
        "lower <= max |VE|",
    ]


def test_floats_that_are_audited_are_taken_at_their_exact_binary_value():
    problem = tsitsiklis_van_roy("1/2")
    wrong = prove_value_error(problem, Z_next=[[2], [np.nextafter(2, 3)]])
    assert (wrong.verdict, wrong.residual) == ("fail", 1.5 * np.spacing(2.0))
    assert prove_value_error(problem, Z_next=[[2.0], [2.0]]).verdict == "pass"
    assert prove_value_error(problem, w=[0.1 + 0.2]).data["w"] == [str(Fraction(0.1 + 0.2))]


def test_theorem_2_says_nothing_without_finite_returns_or_a_solution():
    endless = ExactProblem.from_chain([[0, 1], [1, 0]], [1, 0], [1, 0], HALVES, 1)
    report = prove_value_error(endless)
    assert (report.verdict, report.data["reason"]) == ("inconclusive", "returns are infinite")
    assert prove_fixed_point_equivalence(endless).data["w_td"] == ["1"]
    singular = prove_value_error(tsitsiklis_van_roy("5/6"))
    assert singular.verdict == "inconclusive" and "no solution" in singular.data["reason"]
    with_w = prove_value_error(tsitsiklis_van_roy("5/6"), w=[1])
    assert with_w.verdict == "pass" and [c.name for c in with_w.conditions] == [
        "returns are finite",
        "value error is the sum of its parts",
    ]
    with pytest.raises(InputError, match="no solution; give w"):
        exact_value_error(tsitsiklis_van_roy("5/6"))
    with pytest.raises(InputError, match="Q is infinite"):
        exact_value_error(endless)


@pytest.mark.parametrize("prove", [prove_value_error, prove_fixed_point_equivalence])
def test_a_large_problem_of_floats_is_refused_before_anything_is_made_exact(prove, monkeypatch):
    n = 3000
    chain = sparse.diags_array(np.full(n - 1, 0.1), offsets=1, format="csr")
    large = Problem.from_chain(chain, np.ones(n), np.ones((n, 1)), np.full(n, 1 / n), 0.9)
    monkeypatch.setattr(ExactProblem, "from_problem", lambda problem: pytest.fail("made exact"))
    with pytest.raises(InputError, match="got n = 3000 and d = 1: use exact=False"):
        prove(large)


@pytest.mark.parametrize("prove", [prove_value_error, prove_fixed_point_equivalence])
def test_a_proof_whose_fractions_have_thousands_of_digits_is_reported_all_the_same(prove):
    reward = Fraction(1, 3**10000)
    report = prove(tsitsiklis_van_roy("1/2", reward))
    texts = [*(report.data.get("w") or report.data["w_td"]), report.data.get("H", "2")]
    assert report.verdict == "pass"
    assert texts == ["about 4.9406564584124654e-324, a fraction of 4771 digits", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"w": [1, 2]}, r"w must have shape \(1,\), got 2"),
        ({"Z_next": [[1]]}, r"Z_next must have shape \(2, 1\)"),
        ({"Z_next": [2, 2]}, r"Z_next must be a list or an array, got 2"),
        ({"Z_next": [[2], [np.nan]]}, r"Z_next must hold finite numbers .* got nan at row 1"),
        ({"w": 1.5}, r"w must be a list or an array, got 1.5"),
        ({"w": [np.inf]}, r"w must hold finite numbers .* got inf at entry 0"),
        ({"model": FLOAT_MODEL}, "model must be an ExactModel of fractions, got a LinearModel"),
        ({"model": ExactModel([0.5], [[1]])}, "model must hold fractions, got 0.5"),
        ({"model": ExactModel([1, 1], [[1, 1], [1, 1]])}, r"w_r of shape \(1,\) and W_d of shape \(1, 1\)"),
    ],
)
def test_arguments_of_a_wrong_shape_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        prove_value_error(tsitsiklis_van_roy("1/2"), **arguments)


def test_values_from_the_states_audit_the_chain_over_pairs():
    lake = frozen_lake("4x4", 0.99)
    problem = Problem(
        lake, Policy.uniform(lake), Features.aggregate([[0] * 4] * 8 + [[1] * 4] * 8), Weights.uniform(lake)
    )
    exact = ExactProblem.from_problem(problem)
    values = state_values(exact)
    ahead = exact.expect(values)
    assert values == [x + exact.gamma * y for x, y in zip(exact.r, ahead, strict=True)]
    assert prove_value_error(exact).verdict == "pass"
