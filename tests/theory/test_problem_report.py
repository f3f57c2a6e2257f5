"""The report on one problem: what its first line claims, and which weights its numbers belong to."""

from __future__ import annotations

from pathlib import Path

from theory import catalogue
from theory.__main__ import main
from theory.problem_report import investigate, problem_report, weights_of_error

SINGULAR = "tsitsiklis_van_roy_singular"
NO_SOLUTION = "(I - gamma W_d) w = w_r has no solution"


def test_the_first_line_claims_theorem_2_only_where_returns_are_finite() -> None:
    infinite = problem_report(catalogue.load("continuing_undiscounted").problem, "x")
    assert infinite.verdict == "pass" and infinite.condition("returns are finite").holds is False
    assert infinite.theorem == "Theorem 1 on x (theorem 2 says nothing: returns are infinite)"
    assert problem_report(catalogue.load("sign_flip").problem, "x").theorem == "Theorems 1 and 2 on x"


def test_without_a_solution_numbers_and_pictures_name_the_least_squares_weights(tmp_path: Path) -> None:
    singular, solved = (catalogue.load(name).problem for name in (SINGULAR, "sign_flip"))
    without = "the least-squares w (no solution exists)"
    assert (
        problem_report(singular).data["value error at"] == weights_of_error(investigate(singular)) == without
    )
    assert problem_report(solved).data["value error at"] == "the solution w"
    assert main(["report", "--mdp", f"catalogue:{SINGULAR}", "-o", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text("utf-8")
    assert f"![What the error consists of, at {without}](decomposition.png)" in text


def test_equal_reasons_for_missing_bounds_are_said_once() -> None:
    data = problem_report(catalogue.load(SINGULAR).problem).data
    (line,) = [name for name, value in data.items() if value == NO_SOLUTION]
    missing = line.removeprefix("bounds ").removesuffix(" are missing").split(", ")
    assert sorted(missing) == sorted(investigate(catalogue.load(SINGULAR).problem).ladder.inapplicable)


def test_a_reason_of_one_bound_names_it() -> None:
    found = {
        name: problem_report(catalogue.load(name).problem) for name in ("random_walk_19_groups", "sign_flip")
    }
    for name, report in found.items():
        reasons = investigate(catalogue.load(name).problem).ladder.inapplicable
        alone = {bound for bound, why in reasons.items() if list(reasons.values()).count(why) == 1}
        assert alone == {key.split()[1] for key in report.data if key.endswith(" is missing")} != set()
