"""Every outcome that the catalogue expects comes out, and an expectation that is wrong is caught."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from theory import InputError, catalogue, model_based_solution, problem_report, stability, td_system
from theory.catalogue import Entry, check_entry, load, outcomes
from theory.catalogue.measures import measure
from theory.problem_report import COUNTEREXAMPLES

KOLTER = ("kolter_p50", "kolter_p60", "kolter_p70", "kolter_p71", "kolter_p711", "kolter_p72", "kolter_p90")


@pytest.mark.parametrize("name", catalogue.names())
def test_every_expected_outcome_comes_out(name: str) -> None:
    report = check_entry(load(name))
    assert report, [condition.why for condition in report.conditions if not condition.holds]
    assert [condition.name for condition in report.conditions] == list(load(name).expected)


def test_every_entry_says_where_it_is_from_and_what_it_shows() -> None:
    entries = [load(name) for name in catalogue.names()]
    assert all(entry.source and entry.title and entry.id[0] in "ABEG" for entry in entries)
    assert all("verdict" in entry.expected and len(entry.expected) > 1 for entry in entries)
    ids = {entry.id for entry in entries}
    assert {"A07", "A08", "A09", "A10", "A11", "A11r", "A12", "A13", "A14", "A15", "A15r", "A16"} <= ids
    assert {"A20a", "A20b", "A22", "A23", "B03"} | {f"E0{i}" for i in range(1, 10)} <= ids


@pytest.mark.parametrize(
    ("name", "td", "rollout"),
    [
        ("tsitsiklis_van_roy_convergent", "stable", "converges"),
        ("sign_flip", "stable", "diverges"),
        ("baird_star", "unstable", "converges"),
        ("tsitsiklis_van_roy_reward_one", "unstable", "diverges"),
    ],
)
def test_the_four_quadrants_are_there(name: str, td: str, rollout: str) -> None:
    found = stability(load(name).problem)
    assert (found.td, found.rollout) == (td, rollout)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sign_flip", {"td": "unstable"}),
        ("sign_flip", {"certificate": "yes"}),
        ("sign_flip", {"w": ["1/6"]}),
        ("sign_flip", {"w": ["10000001/50000000"]}),
        ("sign_flip", {"w": ["1/5", "0"]}),
        ("sign_flip", {"w": "1/5"}),
        ("sign_flip", {"rank": "2"}),
        ("basis_dependence_a", {"spectral_radius": "0.88964"}),
        ("basis_dependence_a", {"eigenvalues": [["0.3129", "-0.4936"], ["0.3129", "0.4937"]]}),
        ("baird_star", {"step_size_limit": "1"}),
        ("baird_star", {"tau": "1.8047"}),
        ("tsitsiklis_van_roy_singular", {"w": ["0"]}),
        ("tsitsiklis_van_roy_singular", {"verdict": "pass"}),
        ("riverswim_6", {"policy_start": "0.266528986"}),
    ],
)
def test_a_wrong_expectation_is_caught(name: str, expected: dict[str, Any]) -> None:
    report = check_entry(
        replace(load(name), expected={"rank": measure(load(name).problem, "rank"), **expected})
    )
    (wrong,) = [condition for condition in report.conditions if not condition.holds]
    assert report.verdict == "fail" and wrong.name in expected and report.residual == wrong.value > 1.0
    assert wrong.why.startswith("expected ") and ", found " in wrong.why


@pytest.mark.parametrize(
    ("wanted", "found", "deviation"),
    [
        ("0.25", 0.2549, 0.98),
        ("0.25", 0.2551, 1.02),
        ("-0.2500", -0.25004, 0.8),
        ("2", 2.0 + 1e-9, 0.5),
        (2, 2, 0.0),
        ("1.5e-3", 0.00152, 0.4),
        ("1/4", 0.25 + 5e-10, 0.5),
        ("-2000", -2000.0 - 4e-6, 2.0),
    ],
)
def test_a_decimal_holds_to_its_printed_digits_and_a_fraction_exactly(
    wanted: str | int, found: float, deviation: float
) -> None:
    assert outcomes._deviation(wanted, found) == pytest.approx(deviation, rel=1e-5)


@pytest.mark.parametrize("found", [None, "inf", True, [0.25]])
def test_what_is_no_number_never_equals_one(found: Any) -> None:
    assert outcomes._deviation("1", found) == np.inf


def test_all_entries_are_run_in_order_and_only_what_is_wrong_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_with_one_mistake(name: str) -> Entry:
        wrong = {"td": "boundary"} if name == "three_cycle" else {"td": "stable"}
        return replace(load(name), expected=wrong)

    monkeypatch.setattr(outcomes, "names", lambda: ("sign_flip", "three_cycle", "kolter_p50"))
    monkeypatch.setattr(outcomes, "load", load_with_one_mistake)
    reports = catalogue.run_all()
    assert [report.data["name"] for report in reports] == ["sign_flip", "three_cycle", "kolter_p50"]
    assert [report.verdict for report in reports] == ["pass", "fail", "pass"]


def test_partial_sums_at_the_boundary_oscillate_about_the_solution() -> None:
    """Eigenvalue -1: the sums jump between 0 and w_r, and their mean is the fixed point."""
    problem = load("sign_flip_boundary").problem
    sums = [model_based_solution(problem, method="series", horizon=h).w[0] for h in range(1, 41)]
    assert np.ptp(sums) == pytest.approx(7 / 24, rel=1e-12)
    assert np.mean(sums) == pytest.approx(7 / 48, rel=1e-12)


def test_kolters_family_is_singular_where_it_was_found_to_be() -> None:
    """A is linear in the weight p, so two problems give its zero."""
    A, p = np.transpose([(td_system(load(n).problem).A.item(), load(n).problem.mu[0]) for n in KOLTER])
    slope, at_zero = np.polyfit(p, A, 1)
    assert np.abs(A - slope * p - at_zero).max() < 1e-14
    assert -at_zero / slope == pytest.approx(0.7113974, abs=5e-8)


@pytest.mark.parametrize(("condition", "name"), COUNTEREXAMPLES.items())
def test_a_failing_condition_names_an_entry_in_which_it_fails(condition: str, name: str) -> None:
    found = problem_report(load(name).problem).condition(condition)
    assert found.holds is False
    assert found.why.endswith(f"; see catalogue {name}")


def test_every_condition_that_a_problem_can_break_has_an_entry() -> None:
    report = problem_report(load("tsitsiklis_van_roy_convergent").problem)
    # Only a mistake in the arrays breaks the equality of theorem 2, and a problem holds none.
    identity = "value error is the sum of its parts"
    assert {condition.name for condition in report.conditions} - {identity} == set(COUNTEREXAMPLES)
    held = [condition for condition in report.conditions if condition.holds]
    assert held and not any("see catalogue" in condition.why for condition in held)


def test_a_report_has_both_theorems_and_the_numbers_of_the_entry() -> None:
    report = problem_report(load("tsitsiklis_van_roy_convergent").problem, "w to 2w")
    assert report and report.theorem == "Theorems 1 and 2 on w to 2w"
    assert report.data["w"] == pytest.approx([1.5])
    assert report.data["largest value error"] == pytest.approx(1.0)
    assert report.data["bound published"] == pytest.approx(3.2)
    assert report.data["bound B1"] == pytest.approx(1.5)
    assert report.data["largest planning part"] == pytest.approx(0.0, abs=1e-14)


def test_a_bound_that_does_not_apply_is_named_with_the_reason() -> None:
    data = problem_report(load("sign_flip").problem).data
    assert data["bound cea"] is None and data["bound cea is missing"] == "tau = 1.5 is not below 1"


def test_infinite_returns_leave_theorem_2_out() -> None:
    report = problem_report(load("continuing_undiscounted").problem)
    assert report.verdict == "pass" and "largest value error" not in report.data
    assert "value error is the sum of its parts" not in [condition.name for condition in report.conditions]


def test_a_broken_identity_fails_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    module = __import__("theory.problem_report", fromlist=["value_error"])
    wrong = module.value_error

    def with_swapped_truth(problem: Any) -> Any:
        return wrong(problem, q_true=[0.0] * problem.n)

    monkeypatch.setattr(module, "value_error", with_swapped_truth)
    assert problem_report(load("tsitsiklis_van_roy_convergent").problem).verdict == "fail"


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"no 'bairds_star'; it has tsitsiklis_van_roy, .*baird_star"):
        load("bairds_star")
    with pytest.raises(InputError, match=r"no measurement 'taus'; there are verdict, .*tau"):
        measure(load("sign_flip").problem, "taus")
    for name in ("optimal_start", "policy_start"):
        with pytest.raises(InputError, match="bare chain"):
            measure(load("sign_flip").problem, name)
