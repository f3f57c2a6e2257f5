"""`python -m theory`: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from theory import Policy, Report, catalogue
from theory.__main__ import main
from theory.catalogue import load, outcomes
from theory.commands import choices, report, sweep
from theory.interpolation import FeatureSweep, SweepPoint
from theory.problem_report import COUNTEREXAMPLES, investigate, problem_report

SWEEP = ["sweep", "--mdp", "riverswim", "-o", "out"]
RUN = ["trajectory", "--mdp", "riverswim", "--features", "random:3", "-o", "out"]
REPORT = ["report", "--mdp", "frozenlake4x4", "--policy", "uniform", "--features", "random:8"]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures out where a test asks for the JSON only: drawing takes longer than the rest."""
    monkeypatch.setattr(report, "_pictures", lambda *arguments: [])


def test_the_whole_catalogue_is_as_expected() -> None:
    done = subprocess.run([sys.executable, "-m", "theory", "catalogue"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines, count = done.stdout.splitlines(), len(catalogue.names())
    assert lines[0] == "| id | verdict | expected | ok |"
    words = "pass, fixed_point unique, td stable, rollout diverges"
    assert f"| A12 sign_flip | {words} | {words} | yes (9 of 9) |" in lines
    assert sum(" | yes (" in line for line in lines) == count
    assert lines[-1] == f"{count} of {count} as expected."


def test_a_missed_expectation_is_named_and_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(outcomes, "names", lambda: ("sign_flip", "three_cycle"))
    expected = {"verdict": "pass", "td": "stable", "rollout": "converges"}
    monkeypatch.setattr(outcomes, "load", lambda name: replace(load(name), expected=expected))
    assert main(["catalogue"]) == 1
    lines = capsys.readouterr().out.splitlines()
    found, wanted = "pass, td stable, rollout diverges", "pass, td stable, rollout converges"
    assert lines[2] == f"| A12 sign_flip | {found} | {wanted} | NO (2 of 3) |"
    assert lines[3].endswith("| yes (3 of 3) |")
    assert lines[-2:] == [
        "1 of 2 as expected.",
        "A12 sign_flip, rollout: expected converges, found diverges",
    ]


def test_a_report_is_a_sentence_then_conditions_then_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    assert main([*REPORT, "--weights", "stationary", "--gamma", ".95", "-o", str(out)]) == 0
    sentence, table, numbers, *pictures = (out / "report.md").read_text("utf-8").split("\n\n")
    # Every run on the lake ends, so "stationary" means: of starting again. The report says so.
    used = "episodic weights in place of stationary ones since every run ends"
    setting = f"uniform policy, random:8 features, {used}, gamma 0.95"
    assert sentence.startswith(f"Theorems 1 and 2 on frozenlake4x4 ({setting}): pass, ")
    assert sentence == capsys.readouterr().out.strip()
    assert table.startswith("| condition | value | threshold | margin | holds | why |")
    assert "\n- gamma: 0.95\n" in numbers and "\n- features: 8\n" in numbers
    shown = re.findall(r"!\[.+\]\((.+\.png)\)", "\n".join(pictures))
    assert sorted(path.name for path in out.iterdir()) == sorted(["report.json", "report.md", *shown])
    assert shown == ["bounds.png", "tightness.png", "eigenvalues.png", "td_error.png", "decomposition.png",
                     "error_map.png", "parts_map.png"]  # fmt: skip
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in shown)


def test_without_a_directory_the_report_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*REPORT, "--gamma", "0.95"]) == 0
    printed = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [] and "![" not in printed
    main([*REPORT, "--gamma", "0.95", "-o", "out"])
    assert Path("out/report.md").read_text("utf-8").startswith(printed)


def test_what_cannot_be_drawn_is_a_reason_and_a_picture_of_an_earlier_run_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(choices.MDPS, "baird", lambda gamma: None)
    star = catalogue.load("baird_star").problem
    monkeypatch.setattr(report, "chosen_problem", lambda parsed: (star, "Baird's star"))
    (tmp_path / "td_error.png").write_bytes(b"old")
    assert main(["report", "--mdp", "baird", "-o", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "TD against its predicted rate: not drawn. TD is unstable: there is no best step size" in text
    assert not (tmp_path / "td_error.png").exists() and (tmp_path / "eigenvalues.png").exists()
    assert "error_map" not in text  # not a grid world


def test_infinite_returns_have_no_picture_of_values(tmp_path: Path) -> None:
    assert main(["report", "--mdp", "riverswim", "--gamma", "1", "-o", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text("utf-8")
    assert text.count("not drawn. Returns are infinite") == 3
    assert re.search(r"\| returns are finite \| 12 \| 0 \|.* no \|", text)
    json.loads((tmp_path / "report.json").read_text("utf-8"), parse_constant=pytest.fail)


def test_every_condition_that_can_fail_names_a_catalogue_entry() -> None:
    found = problem_report(catalogue.load("sign_flip").problem)
    named = set(COUNTEREXAMPLES)
    assert {condition.name for condition in found.conditions} - named == {
        "value error is the sum of its parts"
    }
    for name, entry in COUNTEREXAMPLES.items():
        condition = problem_report(catalogue.load(entry).problem).condition(name)
        assert not condition.holds and condition.why.endswith(f"; see catalogue {entry}")


def test_what_was_not_computed_is_said_with_the_reason() -> None:
    problem = catalogue.load("sign_flip").problem
    found = investigate(problem)
    reason = "Lanczos did not converge within 300 products"
    unknown = replace(
        found.stability, tau=None, sigma=None, certificate=None, worst_feature=None,
        not_computed={"tau": reason, "sigma": reason},
    )  # fmt: skip
    report = problem_report(problem, findings=replace(found, stability=unknown))
    assert report.data["tau"] == report.data["sigma"] == f"not computed: {reason}"
    condition = report.condition("stable for every choice of features")
    assert (condition.holds, condition.value, condition.margin) == (None, None, None)
    assert f"tau was not computed: {reason}; see catalogue" in condition.why
    assert re.search(
        r"\| stable for every choice of features \| - \| 1 \|.* undecided \|", report.to_markdown()
    )


def test_a_split_that_does_not_add_up_fails_the_report() -> None:
    problem = catalogue.load("sign_flip").problem
    found = investigate(problem)
    assert found.split is not None
    wrong = replace(found, split=replace(found.split, identity_residual=1e-3))
    report = problem_report(problem, findings=wrong)
    assert report.verdict == "fail" and not report.condition("value error is the sum of its parts").holds
    assert problem_report(problem, findings=found).verdict == "pass"


def test_a_sweep_writes_its_table_its_numbers_and_its_picture(tmp_path: Path) -> None:
    arguments = ["sweep", "--mdp", "frozenlake4x4", "--features", "svd,krylov", "--dims", "1:44:43"]
    assert main([*arguments, "--gamma", ".95", "-o", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.json", "sweep.md", "sweep.png"]
    text = (tmp_path / "sweep.md").read_text("utf-8")
    setting = "uniform policy, uniform weights, gamma 0.95"
    assert text.startswith(f"TD against the projection on frozenlake4x4 ({setting}): pass, ")
    assert "| d | svd: TD | svd: best | krylov: TD | krylov: best |\n" in text and "(sweep.png)" in text
    data = json.loads((tmp_path / "sweep.json").read_text("utf-8"))["data"]
    assert [point["d"] for point in data["svd"]] == [1, 44]
    first, last = data["krylov"]
    assert 0.0 < first["best_D"] <= first["error_D"] and last["error_D"] < 1e-12 and last["rank"] == 12
    assert f"| 1 | {data['svd'][0]['error_D']:.4g} |" in text


def test_a_sweep_that_beats_the_projection_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cheat(*arguments: object, seed: int) -> FeatureSweep:
        point = SweepPoint(1, 1, "unique", 0.1, 0.1, 0.2, 0.2)
        return FeatureSweep("svd", (point, replace(point, d=2, error_D=0.4, best_D=0.3)), 4, 1.0, 1.0)

    monkeypatch.setattr(sweep, "feature_sweep", cheat)
    assert main(["sweep", "--mdp", "riverswim", "--features", "svd", "--dims", "1,2"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert ": fail, " in lines[0]
    for name in ("TD is never better than the projection", "more features fit no worse"):
        assert any(line.startswith(f"| {name} | 0.1 |") and "| no |" in line for line in lines)


def test_the_dims_of_a_sweep_may_be_a_range_or_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    for text, expected in (
        ("1:3", [1, 2, 3]),
        ("2:8:3", [2, 5, 8]),
        ("4", [4]),
        ("3,1", [3, 1]),
        (None, range(1, 13)),
    ):
        dims = [] if text is None else ["--dims", text]
        assert main(["sweep", "--mdp", "riverswim", "--features", "krylov", *dims]) == 0
        rows = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\| \d+ \|", line)]
        assert [int(row.split("|")[1]) for row in rows] == list(expected)


def test_a_trajectory_follows_its_prediction(tmp_path: Path) -> None:
    arguments = ["trajectory", "--mdp", "riverswim", "--features", "random:3"]
    assert main([*arguments, "-o", str(tmp_path)]) == 0
    names = ["eigenvalues.png", "td_error.png", "trajectory.json", "trajectory.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    stored = json.loads((tmp_path / "trajectory.json").read_text("utf-8"))
    data = stored["data"]
    assert stored["verdict"] == "pass" and abs(data["observed rate"] - data["predicted rate"]) < 1e-6
    assert (
        data["predicted rate"] == pytest.approx(data["best rate"]) and len(data["error"]) == data["steps"] + 1
    )
    assert '"error"' not in (tmp_path / "trajectory.md").read_text("utf-8")


def test_a_step_size_beyond_the_limit_diverges_and_few_steps_say_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["trajectory", "--mdp", "riverswim", "--features", "random:3", "--step-size"]
    assert main([*arguments, "3.5", "--steps", "400"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\| TD converges at this step size \| 1\.1544\d* \| 1 \|.* no \|", out)
    assert "see catalogue tsitsiklis_van_roy |" in out and "see catalogue baird_star |" in out
    assert ": pass, " in out.splitlines()[0]  # as predicted, it diverges
    assert main([*arguments, "1", "--steps", "2"]) == 0
    assert ": inconclusive, " in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(
    ("mdp", "features", "shape"),
    [
        ("taxi", "tile:2", (500, 6, 96)),  # 2^4 tiles for each of 6 actions
        ("riverswim", "tile:3:2", (6, 2, 14)),  # 3 tiles and 4 shifted ones for each of 2 actions
        ("frozenlake4x4", "rbf:2", (16, 4, 20)),  # 2 x 2 centres and a constant for each of 4 actions
    ],
)
def test_taxi_tiles_and_radial_features_are_understood(
    mdp: str, features: str, shape: tuple[int, ...]
) -> None:
    if mdp == "taxi":
        pytest.importorskip("gymnasium")
    world = choices.MDPS[mdp](0.9)
    Z = choices.choose_features(features, mdp, world, Policy.uniform(world)).Z
    assert Z.shape == shape
    # The features of an action are zero in the blocks of the others, and the same in its own.
    blocks = Z.reshape(*shape[:2], shape[1], -1)
    for action in range(shape[1]):
        np.testing.assert_array_equal(blocks[:, action, action], blocks[:, 0, 0])
        assert not np.delete(blocks[:, action], action, axis=1).any() and blocks[:, action, action].any()


def test_taxi_without_gymnasium_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert main(["report", "--mdp", "taxi"]) == 2
    assert "taxi needs Gymnasium; install it with 'pip install gymnasium'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "sweep", "trajectory", "catalogue"])
def test_help_names_every_choice(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    if command != "catalogue":
        for word in (*choices.MDPS, *choices.WEIGHTS, "epsilon:NUMBER", "krylov", "--gamma", "--output"):
            assert word in text


@pytest.mark.usefixtures("undrawn")
def test_a_report_says_the_same_in_json(tmp_path: Path) -> None:
    main([*REPORT, "--gamma", "0.95", "-o", str(tmp_path)])
    stored = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert stored["verdict"] == "pass" and stored["residual"] <= stored["tolerance"]
    assert stored["data"]["rows"] == 44 and stored["data"]["gamma"] == 0.95
    # One-hot features of all rows make no error.
    main(["report", "--mdp", "frozenlake4x4", "--gamma", "0.95", "-o", str(tmp_path)])
    exact = json.loads((tmp_path / "report.json").read_text("utf-8"))["data"]
    assert exact["largest value error"] < 1e-12 < 0.1 < stored["data"]["largest value error"]


@pytest.mark.usefixtures("undrawn")
def test_a_failing_condition_leads_to_the_catalogue(tmp_path: Path) -> None:
    assert main(["report", "--mdp", "riverswim", "--weights", "uniform", "-o", str(tmp_path)]) == 0
    lines = (tmp_path / "report.md").read_text("utf-8").splitlines()
    (failing,) = [line for line in lines if "| no |" in line]
    assert failing.startswith("| stable for every choice of features | 1.0396")
    assert failing.endswith("; see catalogue basis_dependence_b |")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("options", "setting"),
    [
        (["--policy", "optimal", "--weights", "discounted"], "optimal policy, one_hot features, discounted"),
        (["--policy", "epsilon:0.1", "--features", "svd:3"], "epsilon:0.1 policy, svd:3 features, uniform"),
        (
            ["--features", "krylov:4", "--weights", "stationary"],
            "uniform policy, krylov:4 features, stationary",
        ),
        (["--features", "random:2:7"], "uniform policy, random:2:7 features, uniform"),
    ],
)
def test_every_kind_of_choice_is_understood(tmp_path: Path, options: list[str], setting: str) -> None:
    assert main(["report", "--mdp", "riverswim", *options, "-o", str(tmp_path)]) == 0
    assert f"on riverswim ({setting} weights, gamma 0.99): pass" in (tmp_path / "report.md").read_text(
        "utf-8"
    )


@pytest.mark.usefixtures("undrawn")
def test_another_seed_gives_other_features(tmp_path: Path) -> None:
    found = []
    for seed in ("", ":0", ":1"):
        main(["report", "--mdp", "riverswim", "--features", f"random:2{seed}", "-o", str(tmp_path)])
        found.append(json.loads((tmp_path / "report.json").read_text("utf-8"))["data"]["w"])
    assert found[0] == found[1] != found[2]


@pytest.mark.usefixtures("undrawn")
def test_a_theorem_that_fails_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        report, "problem_report", lambda problem, name, findings: Report(name, "fail", 1.0, 0.0)
    )
    assert main([*REPORT, "-o", str(tmp_path)]) == 1
    assert ": fail, " in (tmp_path / "report.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: command"),
        (["audits"], "invalid choice: 'audits'"),
        (["catalogue", "--fast"], "unrecognized arguments: --fast"),
        (["report", "-o", "out"], "required: --mdp"),
        (["report", "--mdp", "lake", "-o", "out"], "--mdp must be one of frozenlake4x4, .*; got 'lake'"),
        ([*REPORT, "--policy", "greed", "-o", "out"], "--policy must be one of uniform, .*; got 'greed'"),
        ([*REPORT, "--policy", "epsilon:x", "-o", "out"], "--policy epsilon:x: 'x' is not a number"),
        ([*REPORT, "--policy", "epsilon:2", "-o", "out"], r"epsilon must lie in \[0, 1\], got 2"),
        ([*REPORT, "--features", "rbf", "-o", "out"], "--features must be one of one_hot, .*; got 'rbf'"),
        ([*REPORT, "--features", "random", "-o", "out"], "--features must be one of .*; got 'random'"),
        ([*REPORT, "--features", "svd:1.5", "-o", "out"], "--features svd:1.5: '1.5' is not a number"),
        ([*REPORT, "--features", "svd:0", "-o", "out"], "d must be at least 1"),
        ([*REPORT, "--weights", "even", "-o", "out"], "--weights must be one of uniform, .*; got 'even'"),
        ([*REPORT, "--gamma", "1.5", "-o", "out"], "gamma .* got 1.5"),
        ([*REPORT, "--gamma", "nan", "-o", "out"], "gamma .* got nan"),
        ([*REPORT, "--gamma", "high", "-o", "out"], "invalid float value: 'high'"),
        ([*REPORT, "--features", "tile:0", "-o", "out"], "tiles must be at least 1"),
        ([*REPORT, "--features", "rbf:1", "-o", "out"], "at least 2 centres"),
        ([*SWEEP, "--features", "svd,onehot"], "--features must be one or more of random, .*; got 'onehot'"),
        ([*SWEEP, "--dims", "0:3"], "--dims must be numbers from 1 to the 12 live rows, .*; got '0:3'"),
        ([*SWEEP, "--dims", "1:13"], "--dims must be numbers from 1 to the 12 live rows"),
        ([*SWEEP, "--dims", "3:1"], "--dims must be numbers from 1 to the 12 live rows"),
        ([*SWEEP, "--dims", "1:9:0"], "--dims 1:9:0: the step must be at least 1"),
        ([*SWEEP, "--dims", "1:2,5"], "--dims must be FIRST:LAST, .*; got '1:2,5'"),
        ([*SWEEP, "--dims", "1:x"], "--dims 1:x: 'x' is not a number"),
        ([*SWEEP, "--seed", "-1"], "seed"),
        ([*SWEEP, "--gamma", "1"], "infinite|gamma"),
        ([*RUN, "--step-size", "0"], "step_size must be finite and not zero"),
        ([*RUN, "--step-size", "inf"], "step_size must be finite and not zero"),
        ([*RUN, "--steps", "0"], "steps must be at least 1"),
        ([*RUN, "--steps", "1.5"], "invalid int value: '1.5'"),
    ],
)
def test_a_bad_argument_is_one_message_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    shown = capsys.readouterr()
    assert (code, shown.out, list(tmp_path.iterdir())) == (2, "", [])
    (line,) = shown.err.splitlines()
    assert line.startswith("python -m theory: error: ")
    assert re.search(message, line), line


def test_an_output_that_is_a_file_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("kept")
    assert main([*REPORT, "-o", str(blocked)]) == 2
    assert blocked.read_text() == "kept" and "file" in capsys.readouterr().err
