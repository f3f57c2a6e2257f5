"""Every entry of the catalogue that exact arithmetic can take is proved; a wrong expectation is refuted."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from theory import InputError, TabularMDP, catalogue
from theory.__main__ import main
from theory.catalogue import Entry, load, outcomes, proofs, prove_entry
from theory.catalogue.exact_measures import Proofs, Real
from theory.catalogue.proofs import agrees
from theory.exact.backend import using
from theory.exact.optimality import exact_optimal, policy_values
from theory.exact.roots import Disc
from theory.report import Report

TOO_LARGE = ("frozen_lake_8x8", "cliff_walking")


@pytest.mark.parametrize("name", catalogue.names())
def test_every_expectation_is_proved(name: str) -> None:
    report = prove_entry(load(name))
    assert report, [condition.why for condition in report.conditions if not condition.holds]
    expected = {**load(name).expected, **load(name).expected_exactly}
    assert {c.name for c in report.conditions} | set(report.data["left out"]) == set(expected)
    assert bool(report.data["left out"]) is (name in TOO_LARGE)


@pytest.mark.parametrize("name", [n for n in catalogue.names() if load(n).problem.n <= 12])
def test_small_entries_are_proved_without_flint_as_well(name: str) -> None:
    with using("python"):
        report = prove_entry(load(name))
    assert report and report.data["arithmetic"] == "python"


@pytest.mark.parametrize("name", TOO_LARGE)
def test_of_large_tasks_the_values_of_states_are_proved_and_the_rest_is_listed(name: str) -> None:
    report = prove_entry(load(name))
    assert all(condition.holds for condition in report.conditions)
    assert {"optimal_start", "policy_start"} <= {condition.name for condition in report.conditions}
    assert "verdict" in report.data["left out"] and "features" in report.data["left out"]["verdict"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sign_flip", {"td": "unstable"}),
        ("sign_flip", {"w": [str(Fraction(1, 5) + Fraction(1, 10**30))]}),
        ("sign_flip", {"w": ["1/5", "0"]}),
        ("sign_flip", {"w": "1/5"}),
        ("sign_flip", {"step_size_limit": str(Fraction(4, 9) + Fraction(1, 10**30))}),
        ("sign_flip", {"spectral_radius": str(Fraction(3, 2) - Fraction(1, 10**30))}),
        ("basis_dependence_a", {"spectral_radius": "0.88964"}),
        ("basis_dependence_a", {"tau": "1.4246"}),
        ("basis_dependence_a", {"eigenvalues": [["0.3129", "-0.4936"], ["0.3129", "0.4937"]]}),
        ("basis_dependence_a", {"eigenvalues": [["0.3129", "0.4936"], ["0.3129", "0.4936"]]}),
        ("basis_dependence_a", {"eigenvalues": [["0.3129", "0.4936"]]}),
        ("basis_dependence_b", {"least_real_part": "-0.2888"}),
        ("baird_star", {"tau": "1.8047"}),
        ("baird_star", {"kappa": "8"}),
        ("baird_star", {"step_size_limit": "1"}),
        ("garnet_discounted_visitation", {"kappa": "1.03998"}),
        ("kolter_p50", {"value_error_norm": "0.00175"}),
        ("tsitsiklis_van_roy_singular", {"w": ["0"]}),
        ("nearly_dependent", {"rank": "1"}),
        ("frozen_lake_4x4_undiscounted", {"optimal_start": str(Fraction(14, 17) + Fraction(1, 10**30))}),
        ("riverswim_6", {"policy_start": "0.266528986"}),
    ],
)
def test_a_wrong_expectation_is_refuted(name: str, expected: dict[str, Any]) -> None:
    report = prove_entry(
        replace(load(name), expected={"finite_returns": "yes", **expected}, expected_exactly={})
    )
    (wrong,) = [condition for condition in report.conditions if not condition.holds]
    assert report.verdict == "fail" and wrong.name in expected
    assert wrong.why.startswith("expected ") and ", found " in wrong.why


@pytest.mark.parametrize(
    ("wanted", "found", "agree"),
    [
        ("0.25", Fraction(51, 200), True),
        ("0.25", Fraction(51, 200) + Fraction(1, 10**30), False),
        ("1/3", Fraction(1, 3), True),
        (7, Fraction(7), True),
        ("7", "7.0", False),
        ("unique", "unique", True),
        ("1", None, False),
        (["1", "2"], [Fraction(1), Fraction(2)], True),
        (["1", "2"], [Fraction(1)], False),
        (["1"], None, False),
        (["u"], "u", False),
        ("0.5", Real(lambda t: (t < Fraction(1, 2)) - (t > Fraction(1, 2))), True),
        ("0.6", Real(lambda t: (t < Fraction(1, 2)) - (t > Fraction(1, 2))), False),
        ([["1", "0"], ["1", "0"]], [Disc(Fraction(1), Fraction(0), Fraction(0), 2)], True),
        ([["1", "0"]], [Disc(Fraction(1), Fraction(0), Fraction(0), 2)], False),
        ([["1.0", "0"]], [Disc(Fraction(1), Fraction(0), Fraction(1, 10), 1)], False),
    ],
)
def test_agreement_is_decided_exactly(wanted: Any, found: Any, agree: bool) -> None:
    assert agrees(wanted, found) is agree


def test_the_exact_run_uses_the_proofs_and_the_other_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "names", lambda: ("sign_flip", "three_cycle"))
    exact, floats = catalogue.run_all(exact=True), catalogue.run_all()
    assert all(exact) and all(floats)
    assert ["in exact arithmetic" in report.theorem for report in (*exact, *floats)] == [
        True,
        True,
        False,
        False,
    ]


def test_rounding_hides_in_floats_what_exact_arithmetic_shows() -> None:
    differing = {
        name: load(name).expected_exactly for name in catalogue.names() if load(name).expected_exactly
    }
    assert set(differing) == {
        "tsitsiklis_van_roy_singular",
        "tsitsiklis_van_roy_singular_zero_reward",
        "nearly_dependent",
    }
    assert all(exactly == {"verdict": "pass"} for exactly in differing.values())
    assert all(load(name).expected["verdict"] == "inconclusive" for name in differing)


def test_unknown_measurements_and_chains_without_an_mdp_are_refused() -> None:
    with pytest.raises(InputError, match="no exact measurement 'taus'; there are verdict"):
        Proofs(load("sign_flip")).measure("taus")
    for name in ("policy_start", "optimal_start", "optimal_sum"):
        with pytest.raises(InputError, match="bare chain"):
            Proofs(load("sign_flip")).measure(name)


def test_the_command_proves_the_catalogue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        outcomes, "names", lambda: ("sign_flip", "cliff_walking", "tsitsiklis_van_roy_singular")
    )
    assert main(["catalogue", "--exact"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| A12 sign_flip | pass, fixed_point unique, td stable, rollout diverges |")
    assert lines[3].startswith("| E09 cliff_walking |") and "yes (3 of 3, 3 too large)" in lines[3]
    assert lines[4].startswith("| A08 tsitsiklis_van_roy_singular | pass, fixed_point none,")
    assert lines[-1] == "3 of 3 as expected."


def test_the_command_fails_on_a_refuted_expectation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_a_mistake(entry: Entry) -> Report:
        return proofs.prove_entry(replace(entry, expected={"verdict": "pass", "w": ["1/6"]}))

    monkeypatch.setattr(outcomes, "names", lambda: ("sign_flip",))
    monkeypatch.setattr(outcomes, "prove_entry", with_a_mistake)
    assert main(["catalogue", "--exact"]) == 1
    assert "A12 sign_flip, w: expected ['1/6'], found ['1/5']" in capsys.readouterr().out


def test_a_poor_policy_is_improved_until_it_is_optimal() -> None:
    # Staying pays 1 for ever, leaving pays 5 once.
    mdp = TabularMDP.from_dense(
        [[[1, 0], [0, 1]], [[0, 1], [0, 1]]], [[1, 5], [0, 0]], 0.9, terminal=[False, True]
    ).to_exact()
    found = exact_optimal(mdp, [1, 0])
    assert (found.v, found.actions, found.steps) == ((10, 0), (0, 0), 1)
    assert exact_optimal(mdp, [0, 0]).steps == 0


def test_optimality_without_discount_is_claimed_only_where_it_is_proved() -> None:
    P = [[[1, 0], [0, 1]], [[0, 1], [0, 1]]]
    ends = [False, True]
    mixed = TabularMDP.from_dense(P, [[0, -1], [0, 0]], 1.0, terminal=ends).to_exact()
    with pytest.raises(InputError, match="At gamma = 1 optimality is proved only if"):
        exact_optimal(TabularMDP.from_dense(P, [[-1, 1], [0, 0]], 1.0, terminal=ends).to_exact(), [1, 0])
    with pytest.raises(InputError, match=r"optimality is proved only|never ends"):
        exact_optimal(mixed, [1, 0])
    costs = TabularMDP.from_dense(P, [[-1, -2], [0, 0]], 1.0, terminal=ends).to_exact()
    assert exact_optimal(costs, [1, 0]).v == (-2, 0)
    with pytest.raises(InputError, match="some run of this policy never ends"):
        policy_values(costs, [[Fraction(1), Fraction(0)], [Fraction(1), Fraction(0)]], [0])
