"""`python -m theory trajectory`: where a run starts, and that a wrong run is found wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from theory import InputError, Problem, catalogue, td_fixed_point, td_trajectory
from theory.__main__ import main
from theory.commands import trajectory as command
from theory.commands.trajectory import chosen_start, trajectory_report
from theory.report import Report
from theory.stability import stability
from theory.trajectory import Trajectory, expected_errors

SMALL = [
    name
    for name in catalogue.names()
    if catalogue.load(name).problem.d <= 44 and td_fixed_point(catalogue.load(name).problem).w is not None
]
STAR = ["trajectory", "--mdp", "catalogue:baird_star"]


def run(name: str, change: Callable[[Trajectory], Trajectory] = lambda path: path) -> Report:
    problem = catalogue.load(name).problem
    found, w0 = stability(problem), np.ones(problem.d)
    alpha = 0.7 / (float(np.abs(found.eigenvalues).max()) or 1.0)
    path = td_trajectory(problem, step_size=alpha, steps=60, w0=w0)
    expected = expected_errors(problem, step_size=alpha, steps=len(path.error) - 1, w0=w0)
    return trajectory_report(name, change(path), expected, found, alpha, "ones")


@pytest.mark.parametrize("name", SMALL)
def test_no_run_of_the_catalogue_is_called_wrong(name: str) -> None:
    report = run(name)
    assert report.verdict != "fail" and report.residual <= report.tolerance
    assert name == "nearly_dependent" or report.tolerance < 1e-6 * max(1.0, report.data["largest error"])


@pytest.mark.parametrize("name", ["boyan_chain", "baird_star", "three_cycle", "off_support", "sign_flip"])
def test_a_run_that_is_off_by_a_ten_thousandth_at_one_step_fails(name: str) -> None:
    def nudge(path: Trajectory) -> Trajectory:
        return replace(path, error=path.error + 1e-4 * path.error[0] * (np.arange(len(path.error)) == 5))

    report = run(name, nudge)
    assert report.verdict == "fail" and report.residual > report.tolerance
    assert not report.condition("every error is that of the powers of I - alpha A").holds


def test_a_run_at_half_the_step_size_fails() -> None:
    problem = catalogue.load("boyan_chain").problem
    other = td_trajectory(problem, step_size=0.1, steps=60, w0=np.ones(problem.d))
    assert run("boyan_chain", lambda path: replace(path, error=other.error)).verdict == "fail"


def test_a_predicted_rate_that_is_no_spectral_radius_fails() -> None:
    report = run("basis_dependence_a", lambda path: replace(path, predicted_rate=path.predicted_rate + 1e-4))
    assert report.verdict == "fail"
    assert report.condition("the predicted rate is their spectral radius").holds is False


def test_where_rounding_is_larger_than_the_error_nothing_is_said() -> None:
    report = run("nearly_dependent")
    assert report.verdict == "inconclusive" and report.tolerance > report.data["first error"]


def test_a_tolerance_of_the_size_of_the_first_error_decides_nothing() -> None:
    problem, w0 = catalogue.load("boyan_chain").problem, np.ones(4)
    found = stability(problem)
    alpha = float(found.best_step_size or 0.0)
    path = td_trajectory(problem, step_size=alpha, steps=117, w0=w0)
    expected = expected_errors(problem, step_size=alpha, steps=117, w0=w0)
    verdicts = [
        trajectory_report(
            "x", path, replace(expected, tolerance=np.full(118, size)), found, alpha, ""
        ).verdict
        for size in (1e-4 * path.error[0], 1e-2 * path.error[0])
    ]
    assert verdicts == ["pass", "inconclusive"]


def test_errors_that_are_expected_are_powers_by_hand() -> None:
    # Features 1 and 2: A = (1 (1 - 1.8) + 2 (2 - 1.8)) / 2 = -1/5, and the fixed point is 0 without rewards.
    problem = Problem.from_chain([[0, 1], [0, 1]], [0, 0], [[1], [2]], [0.5, 0.5], 0.9)
    found = expected_errors(problem, step_size=0.5, steps=3, w0=[2.0])
    np.testing.assert_allclose(found.error, 2.0 * 1.1 ** np.arange(4), rtol=1e-14)
    assert found.rate == pytest.approx(1.1, rel=1e-14) and found.rate_tolerance < 1e-12


def test_expected_errors_refuse_what_takes_too_long_and_what_has_no_fixed_point() -> None:
    n = 301
    wide = Problem.from_chain(np.zeros((n, n)), np.ones(n), np.eye(n), np.full(n, 1 / n), 0.5)
    with pytest.raises(InputError, match="at most 300 features"):
        expected_errors(wide, step_size=1.0, steps=1, w0=np.zeros(n))
    singular = catalogue.load("tsitsiklis_van_roy_singular").problem
    with pytest.raises(InputError, match="no fixed point"):
        expected_errors(singular, step_size=1.0, steps=1, w0=[0.0])


def test_beyond_three_hundred_features_the_steps_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MOST_FEATURES", 2)
    assert main(["trajectory", "--mdp", "catalogue:boyan_chain"]) == 0


@pytest.mark.parametrize("name", ["baird_star", "tsitsiklis_van_roy"])
def test_a_run_that_would_start_at_the_fixed_point_starts_elsewhere_and_says_so(
    name: str, tmp_path: Path
) -> None:
    assert main(["trajectory", "--mdp", f"catalogue:{name}", "-o", str(tmp_path)]) == 0
    stored = json.loads((tmp_path / "trajectory.json").read_text("utf-8"))
    assert stored["verdict"] == "pass" and stored["data"]["last error"] > 1e6 * stored["data"]["first error"]
    assert stored["data"]["start"] == "random:0, since zeros are a fixed point"
    assert (tmp_path / "td_error.png").exists()


def test_the_start_is_what_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = {}
    for start in ("zeros", "ones", "random:0", "random:1"):
        assert main([*STAR, "--start", start, "-o", str(tmp_path)]) == 0
        data = json.loads((tmp_path / "trajectory.json").read_text("utf-8"))["data"]
        assert data["start"] == start
        first[start] = data["first error"]
    assert first["zeros"] == 0.0 < first["random:0"] != first["random:1"]
    problem = catalogue.load("baird_star").problem
    assert first["ones"] == pytest.approx(td_trajectory(problem, step_size=1, steps=1, w0=[1] * 8).error[0])
    assert main(["trajectory", "--mdp", "catalogue:boyan_chain"]) == 0
    assert "\n- start: zeros\n" in capsys.readouterr().out
    assert np.abs(chosen_start(problem, "random:3")[1]).max() <= 1.0


@pytest.mark.parametrize("start", ["twos", "random", "random:x", "random:-1", "zeros:1", ""])
def test_a_start_that_is_none_is_exit_code_2(start: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*STAR, "--start", start]) == 2
    assert "--start" in capsys.readouterr().err


def test_a_step_size_below_zero_has_no_margin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trajectory", "--mdp", "catalogue:sign_flip", "--step-size", "-1"]) == 0
    out = capsys.readouterr().out
    assert "| the step size is below its limit | -1 | 0.444444 | -1 | no |" in out
