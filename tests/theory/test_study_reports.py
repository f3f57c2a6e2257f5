"""Reports on target networks, n-step returns and sampled LSTD, and the commands that write them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from theory import (
    Problem,
    Report,
    catalogue,
    lstd_study,
    n_step_fixed_point,
    river_swim,
    study_reports,
    target_network_radius,
)
from theory.__main__ import main
from theory.lstd import sizes_for_law
from theory.study_reports import lstd_report, n_step_report, target_network_report
from theory.target_networks import inner_step_limit

SMALL = [name for name in catalogue.names() if catalogue.load(name).problem.n <= 44]
LAKE = ["--mdp", "frozenlake4x4", "--features", "random:6", "--gamma", "0.95"]


def problem(name: str) -> Problem:
    return catalogue.load(name).problem


def targets(name: str) -> Report:
    found = target_network_radius(problem(name), 0.5 * inner_step_limit(problem(name)), [1, 2, 7, 30, 300])
    return target_network_report(problem(name), found, name)


@pytest.mark.parametrize("name", SMALL)
def test_on_the_whole_catalogue_the_loops_have_the_predicted_radii(name: str) -> None:
    report = targets(name)
    assert report.verdict == "pass" and report.residual <= report.tolerance < 1e-7


@pytest.mark.parametrize("name", SMALL)
def test_on_the_whole_catalogue_n_step_fixed_points_stand_still(name: str) -> None:
    report = n_step_report(
        problem(name), [n_step_fixed_point(problem(name), n) for n in (1, 2, 3, 100)], name
    )
    # Nearly dependent features: rounding explains more than the check could see.
    assert report.verdict == ("inconclusive" if name == "nearly_dependent" else "pass")
    assert report.residual <= report.tolerance


def test_a_radius_that_is_off_by_a_millionth_fails() -> None:
    for name in ("baird_star", "basis_dependence_b", "boyan_chain", "frozen_lake_4x4"):
        found = target_network_radius(problem(name), 0.1, [1, 10])
        wrong = replace(found, radii=found.radii * [1.0, 1.0 + 1e-6])
        assert target_network_report(problem(name), wrong).verdict == "fail"
        assert target_network_report(problem(name), found).verdict == "pass"


def test_a_fixed_point_that_moves_by_a_millionth_fails() -> None:
    for name in ("random_walk_19_groups", "tsitsiklis_van_roy_reward_one", "frozen_lake_4x4"):
        one, two = (n_step_fixed_point(problem(name), n) for n in (1, 2))
        moved = replace(two, q=two.q + 1e-6 * np.abs(two.q).max() * problem(name).Z[:, 0])
        assert n_step_report(problem(name), [one, moved]).verdict == "fail"
    walk = problem("random_walk_19_groups")
    another = replace(n_step_fixed_point(walk, 1), n=3)  # of data returns each n has its own
    assert n_step_report(walk, [another]).verdict == "fail"


def test_an_n_step_report_is_about_its_behaviour() -> None:
    flip, P_b = problem("sign_flip"), np.eye(2)
    found = [n_step_fixed_point(flip, n, behaviour=P_b) for n in (1, 2, 3)]
    report = n_step_report(flip, found, behaviour=P_b)
    assert report.verdict == "pass" and report.condition("returns follow the policy").holds is False
    assert report.data["bias in the limit"] == found[0].limit_bias > 1.0
    assert n_step_report(flip, found).verdict == "fail"


def test_without_any_fixed_point_nothing_is_said() -> None:
    singular = problem("tsitsiklis_van_roy_singular")
    report = n_step_report(singular, [n_step_fixed_point(singular, 1)])
    assert report.verdict == "inconclusive" and report.residual is None
    why = report.condition("exactly one fixed point").why
    assert why.endswith("; see catalogue tsitsiklis_van_roy_singular")
    # With one that has, the failing condition is still shown.
    report = n_step_report(singular, [n_step_fixed_point(singular, n) for n in (1, 2)])
    assert report.verdict == "pass" and report.condition("exactly one fixed point").holds is False


def test_failing_conditions_lead_to_entries_of_the_catalogue_that_fail_them() -> None:
    assert set(study_reports.COUNTEREXAMPLES.values()) <= set(catalogue.names())
    td = targets(study_reports.COUNTEREXAMPLES["TD converges (K = 1)"]).condition("TD converges (K = 1)")
    assert td.holds is False and td.why.endswith("; see catalogue baird_star")
    name = "rollout converges (K to infinity)"
    assert targets(study_reports.COUNTEREXAMPLES[name]).condition(name).holds is False
    cycle = problem(study_reports.COUNTEREXAMPLES["sampling leaves an error"])
    study = lstd_study(cycle, [100, 200], runs=2, seed=0)
    assert lstd_report(cycle, study).condition("sampling leaves an error").holds is False
    endless = problem(study_reports.COUNTEREXAMPLES["returns are finite"])
    report = n_step_report(endless, [n_step_fixed_point(endless, 1)])
    assert report.condition("returns are finite").holds is False


def test_an_lstd_report_has_the_residual_and_tolerance_of_the_constant() -> None:
    walk = problem("random_walk_5_groups")
    study = lstd_study(walk, sizes_for_law(walk, 3), runs=100, seed=0)
    report = lstd_report(walk, study, "the walk")
    assert report.verdict == study.verdict == "pass"
    assert report.residual == pytest.approx(abs(study.ratio[-1] - 1), rel=1e-12)
    assert 0.0 < report.residual < report.tolerance < 1.0
    low, high = study.slope_ci
    assert report.data["95% interval of the slope"] == f"{low:.4f} to {high:.4f}"
    assert report.data["rewards"] == "their expectation"
    noisy = lstd_report(walk, lstd_study(walk, [100, 200], runs=2, seed=0, reward_std=1.0))
    assert noisy.data["rewards"] == "their expectation, with Gaussian noise"
    assert noisy.residual is None and noisy.verdict == "inconclusive"


def test_targets_writes_table_numbers_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["targets", *LAKE, "--step-size", "0.5", "--inner-steps", "1,250"]
    assert main([*chosen, "-o", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["targets.json", "targets.md", "targets.png"]
    assert (tmp_path / "targets.png").read_bytes()[:4] == b"\x89PNG"
    text, stored = (
        (tmp_path / "targets.md").read_text("utf-8"),
        json.loads((tmp_path / "targets.json").read_text()),
    )
    assert text.startswith("The two loops, run, have the predicted radii on frozenlake4x4 (uniform policy, ")
    assert capsys.readouterr().out == text.splitlines()[0] + "\n"
    assert stored["data"]["inner steps"] == [1, 250] and stored["data"]["step size"] == 0.5
    first, last = stored["data"]["radii"]
    assert f"| 1 | {first:.6g} | stable |" in text and f"| 250 | {last:.6g} | stable |" in text
    assert main(chosen) == 0  # without -o: Markdown on standard output, no picture
    printed = capsys.readouterr().out
    assert text.startswith(printed.rstrip("\n")) and "| 250 |" in printed and ".png" not in printed


def test_targets_takes_half_the_largest_step_size_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "--mdp", "riverswim", "--inner-steps", "1"]) == 0
    # One-hot features of 12 rows: C is I / 12.
    assert "\n- step size: 12\n- largest step size of the inner loop: 24\n" in capsys.readouterr().out


def test_nstep_writes_the_bias_of_the_behaviours_returns(tmp_path: Path) -> None:
    chosen = ["nstep", "--mdp", "riverswim", "--policy", "optimal", "--steps", "1,2,50"]
    assert main([*chosen, "--behaviour", "uniform", "-o", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nstep.json", "nstep.md", "nstep.png"]
    stored, text = (
        json.loads((tmp_path / "nstep.json").read_text())["data"],
        (tmp_path / "nstep.md").read_text(),
    )
    assert stored["n"] == [1, 2, 50] and stored["fixed points"] == ["unique"] * 3
    bias = stored["bias"]
    assert bias[0] == 0.0 < bias[1] < bias[2] < stored["bias in the limit"]
    assert f"| 2 | unique | {bias[1]:.6g} | " in text and "returns of the uniform policy: pass" in text
    assert np.shape(stored["w"]) == (3, 2 * river_swim().num_states)
    assert main([*chosen, "-o", str(tmp_path)]) == 0
    stored = json.loads((tmp_path / "nstep.json").read_text())["data"]
    assert max(stored["bias"]) < 1e-9 and stored["bias in the limit"] == 0.0
    assert ", its own returns: pass" in (tmp_path / "nstep.md").read_text()


@pytest.mark.parametrize("word", ["uniform", "nonsense"])
def test_a_behaviour_on_a_chain_without_actions_is_refused(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nstep", "--mdp", "catalogue:baird_star", "--behaviour", word, "--steps", "1"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "--behaviour needs actions, and this problem is a bare chain; leave it out" in err
    assert main(["nstep", "--mdp", "catalogue:baird_star", "--steps", "1"]) == 0


def test_lstd_writes_sizes_slope_and_picture(tmp_path: Path) -> None:
    chosen = ["lstd", *LAKE, "--runs", "50", "--seed", "3"]
    assert main([*chosen, "-o", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lstd.json", "lstd.md", "lstd.png"]
    stored, text = (
        json.loads((tmp_path / "lstd.json").read_text())["data"],
        (tmp_path / "lstd.md").read_text(),
    )
    assert len(stored["sizes"]) == 5 and all(stored["compared"])
    assert stored["slope_ci"][0] < stored["slope"] < stored["slope_ci"][1]
    assert f"| {stored['sizes'][0]} | {stored['mean squared error'][0]:.4g} | " in text
    again = tmp_path / "again"
    main([*chosen, "-o", str(again)])
    assert (again / "lstd.json").read_bytes() == (tmp_path / "lstd.json").read_bytes()


def test_lstd_says_where_samples_are_too_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lstd", *LAKE, "--runs", "5", "--sizes", "20,40", "--reward-std", "1"]) == 0
    printed = capsys.readouterr().out
    assert "Sampled LSTD follows its law on frozenlake4x4" in printed and ": inconclusive, " in printed
    assert "| at least two sizes are large enough | 0 | 2 | -2 | no |" in printed
    assert "\n- slope: -\n" in printed and printed.count(" | 0 | no |\n") == 2
    assert "- rewards: their expectation, with Gaussian noise" in printed


def test_lstd_without_an_error_draws_nothing_and_says_why(tmp_path: Path) -> None:
    # Undiscounted, continuing, a constant feature: A is zero.
    arguments = ["lstd", "--mdp", "riverswim", "--gamma", "1", "--features", "tile:1", "--runs", "5"]
    assert main([*arguments, "-o", str(tmp_path)]) == 0
    text = (tmp_path / "lstd.md").read_text()
    assert ": inconclusive, " in text.splitlines()[0]
    assert "| exactly one fixed point | 1 | 0 | -1 | no |" in text
    assert "not drawn. " in text and not (tmp_path / "lstd.png").exists()
    assert "nan" not in text.lower() and "inf" not in text.replace("infinity", "").lower()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["targets", "--inner-steps", "1,x"], "--inner-steps 1,x: 'x' is not a number"),
        (["targets", "--inner-steps", "0"], "inner_steps must be a whole number from 1"),
        (["targets", "--step-size", "-1"], "step_size must be positive and finite"),
        (["targets", "--step-size", "100"], "step_size 100 is above 2 / lambda_max(C) = 24"),
        (["nstep", "--steps", "0,1"], "n must be a whole number from 1, got 0"),
        (["nstep", "--behaviour", "best"], "--behaviour must be one of uniform, optimal"),
        (["lstd", "--sizes", "10"], "sizes must hold at least two different whole numbers"),
        (["lstd", "--runs", "1"], "runs must be at least 2"),
        (["lstd", "--reward-std", "-1"], "reward_std must be a number"),
    ],
)
def test_arguments_that_cannot_be_used_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--mdp", "riverswim"]) == 2
    out, err = capsys.readouterr()
    assert (
        out == "" and err.count("\n") == 1 and err.startswith("python -m theory: error: ") and message in err
    )


def test_a_prediction_that_fails_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    right = study_reports.outer_matrices
    monkeypatch.setattr(study_reports, "outer_matrices", lambda *given: [2.0 * H for H in right(*given)])
    assert main(["targets", "--mdp", "riverswim"]) == 1


def test_a_sweep_says_where_features_have_run_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--mdp", "riverswim", "--features", "svd,eigen", "--dims", "6,7"]) == 0
    six, seven = capsys.readouterr().out.splitlines()[-2:]
    assert "rank" not in six and seven.count(" (rank 6) |") == 1
