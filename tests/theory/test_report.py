"""Reports and conditions: what a verdict means and how it is written."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from theory.report import Condition, Report, plain

RANK = Condition("rank | full", False, 1.0, 2.0, -1.0, "w is not unique")


def test_only_a_pass_is_true() -> None:
    assert [bool(Report("t", v, 0.0, 0.0)) for v in ("pass", "fail", "inconclusive")] == [True, False, False]


def test_an_unknown_verdict_is_refused() -> None:
    with pytest.raises(ValueError, match="verdict must be one of pass, fail, inconclusive; got 'ok'"):
        Report("t", "ok", 0.0, 0.0)  # type: ignore[arg-type]


def test_a_condition_is_found_by_name_and_a_wrong_name_lists_those_there_are() -> None:
    report = Report("t", "pass", 0.0, 0.0, (Condition("first", True), RANK))
    assert report.condition("rank | full") is RANK
    with pytest.raises(KeyError, match=r"no condition 'second'; there are \['first', 'rank"):
        report.condition("second")


def test_json_is_strict_and_keeps_every_field() -> None:
    data = {"limit": math.inf, "gap": np.float64(-math.inf), "nothing": math.nan, "w": np.array([1.5, -0.0])}
    read = json.loads(
        Report("t", "inconclusive", None, 1e-9, (RANK,), data).to_json(), parse_constant=pytest.fail
    )
    assert read == {
        "theorem": "t",
        "verdict": "inconclusive",
        "residual": None,
        "tolerance": 1e-9,
        "conditions": [
            {
                "name": "rank | full",
                "holds": False,
                "value": 1.0,
                "threshold": 2.0,
                "margin": -1.0,
                "why": "w is not unique",
            }
        ],
        "data": {"limit": "inf", "gap": "-inf", "nothing": "nan", "w": [1.5, 0.0]},
    }
    assert math.copysign(1.0, read["data"]["w"][1]) == 1.0


def test_complex_eigenvalues_are_written_in_one_order_whatever_the_order_computed() -> None:
    values = np.array([0.5 + 0.25j, 0.5 - 0.25j, -1.0 + 1e-17j])
    expected = [[-1.0, 0.0], [0.5, -0.25], [0.5, 0.25]]
    assert plain(values) == plain(values[::-1]) == expected


def test_numpy_scalars_and_booleans_become_those_of_python() -> None:
    found = plain({"a": np.bool_(True), "b": np.int64(3), "c": (np.float32(0.5),), "d": 1 + 2j})
    assert found == {"a": True, "b": 3, "c": [0.5], "d": [1.0, 2.0]}
    assert type(found["a"]) is bool and type(found["b"]) is int


def test_what_has_no_plain_form_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot hold a set"):
        plain({"x": {1, 2}})


def test_markdown_has_the_verdict_first_then_the_table_then_the_numbers() -> None:
    lines = Report(
        "TD = model", "fail", 0.25, 1e-12, (RANK,), {"gap": math.inf, "kind": "none"}
    ).to_markdown()
    assert lines.splitlines() == [
        "TD = model: fail, the statement does not hold on this problem (residual 0.25, tolerance 1e-12).",
        "",
        "| condition | value | threshold | margin | holds | why |",
        "|---|---|---|---|---|---|",
        "| rank \\| full | 1 | 2 | -1 | no | w is not unique |",
        "",
        "- gap: inf",
        "- kind: none",
    ]


def test_markdown_of_a_bare_report_is_its_sentence() -> None:
    text = Report("t", "inconclusive", None, None).to_markdown()
    assert text == "t: inconclusive, nothing can be said on this problem (residual -, tolerance -)."


def test_a_number_at_its_threshold_holds_and_beyond_it_does_not() -> None:
    cases = [Condition.at_most("c", value, 1.0, "why") for value in (0.5, 1.0, 1.5)]
    assert [(c.holds, c.margin) for c in cases] == [(True, 0.5), (True, 0.0), (False, -0.5)]
    assert cases[0] == Condition("c", True, 0.5, 1.0, 0.5, "why")


@pytest.mark.parametrize(
    ("value", "threshold"), [(1.0, math.inf), (math.inf, math.inf), (math.nan, 1.0), (1, math.nan)]
)
def test_nothing_is_within_a_bound_that_was_not_proved(value: float, threshold: float) -> None:
    condition = Condition.at_most("c", value, threshold, "why")
    assert condition.holds is None and condition.margin is None


def test_an_infinite_number_exceeds_a_finite_threshold() -> None:
    assert Condition.at_most("c", math.inf, 1.0, "why").holds is False


def test_reports_with_arrays_are_compared_by_identity_and_can_be_kept_in_sets() -> None:
    one, other = (Report("t", "pass", 0.0, 0.0, (), {"w": np.ones(2)}) for _ in range(2))
    assert one == one and one != other and len({one, other}) == 2


def test_complex_numbers_with_infinite_parts_are_sorted_too() -> None:
    values = np.array([complex(np.inf, 0), 1 + 2j, 1 - 2j, complex(-np.inf, 0)])
    assert plain(values) == [["-inf", 0.0], [1.0, -2.0], [1.0, 2.0], ["inf", 0.0]]


def test_no_number_of_a_table_is_minus_zero() -> None:
    text = Report("t", "pass", -0.0, 0.0, (Condition("c", True, 0.0, 0.0, -0.0),)).to_markdown()
    assert "| c | 0 | 0 | 0 | yes |" in text and "-0" not in text
