"""`python -m theory`: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from theory import Report, __main__, catalogue
from theory.__main__ import main
from theory.catalogue import load, outcomes

REPORT = ["report", "--mdp", "frozenlake4x4", "--policy", "uniform", "--features", "random:8"]


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
    assert sorted(path.name for path in out.iterdir()) == ["report.json", "report.md"]
    sentence, table, numbers = (out / "report.md").read_text("utf-8").split("\n\n")
    # Every run on the lake ends, so "stationary" means: of starting again.
    setting = "uniform policy, random:8 features, episodic weights, gamma 0.95"
    assert sentence.startswith(f"Theorems 1 and 2 on frozenlake4x4 ({setting}): pass, ")
    assert sentence == capsys.readouterr().out.strip()
    assert table.startswith("| condition | value | threshold | holds | why |")
    assert "\n- gamma: 0.95\n" in numbers and "\n- features: 8\n" in numbers


def test_a_report_says_the_same_in_json(tmp_path: Path) -> None:
    main([*REPORT, "--gamma", "0.95", "-o", str(tmp_path)])
    stored = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert stored["verdict"] == "pass" and stored["residual"] <= stored["tolerance"]
    assert stored["data"]["rows"] == 44 and stored["data"]["gamma"] == 0.95
    # One-hot features of all rows make no error.
    main(["report", "--mdp", "frozenlake4x4", "--gamma", "0.95", "-o", str(tmp_path)])
    exact = json.loads((tmp_path / "report.json").read_text("utf-8"))["data"]
    assert exact["largest value error"] < 1e-12 < 0.1 < stored["data"]["largest value error"]


def test_a_failing_condition_leads_to_the_catalogue(tmp_path: Path) -> None:
    assert main(["report", "--mdp", "riverswim", "--weights", "uniform", "-o", str(tmp_path)]) == 0
    lines = (tmp_path / "report.md").read_text("utf-8").splitlines()
    (failing,) = [line for line in lines if "| no |" in line]
    assert failing.startswith("| stable for every choice of features | 1.0396")
    assert failing.endswith("; see catalogue basis_dependence_b |")


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


def test_another_seed_gives_other_features(tmp_path: Path) -> None:
    found = []
    for seed in ("", ":0", ":1"):
        main(["report", "--mdp", "riverswim", "--features", f"random:2{seed}", "-o", str(tmp_path)])
        found.append(json.loads((tmp_path / "report.json").read_text("utf-8"))["data"]["w"])
    assert found[0] == found[1] != found[2]


def test_a_theorem_that_fails_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(__main__, "problem_report", lambda problem, name: Report(name, "fail", 1.0, 0.0))
    assert main([*REPORT, "-o", str(tmp_path)]) == 1
    assert ": fail, " in (tmp_path / "report.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: command"),
        (["audits"], "invalid choice: 'audits'"),
        (["catalogue", "--fast"], "unrecognized arguments: --fast"),
        (["report", "-o", "out"], "required: --mdp"),
        (["report", "--mdp", "riverswim"], "required: -o"),
        (["report", "--mdp", "taxi", "-o", "out"], "--mdp must be one of frozenlake4x4, .*; got 'taxi'"),
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
