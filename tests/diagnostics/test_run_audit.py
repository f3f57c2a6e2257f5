"""``uld audit``: a whole run on a tabular environment, its audit over training time, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import theory
import uld_torchrl
from uld_torchrl import cli
from uld_torchrl.config import override, preset
from uld_torchrl.diagnostics import audit_run, export_embeddings, run_audit, save_export
from uld_torchrl.diagnostics.figures import AUDIT_COLUMNS
from uld_torchrl.envs.tabular import TabularEnv, named_mdp, state_observations
from uld_torchrl.errors import InputError
from uld_torchrl.tables import read_rows

SETTINGS = (
    "optim.batch_size=4",
    "optim.period=5",
    "run.random_steps=10",
    "run.log_every=10",
    "run.eval_every=60",
)
OPTIONS = ["--preset", "debug", *(word for setting in SETTINGS for word in ("--set", setting))]
PICTURES = {"bounds.png", "decomposition.png", "history.png", "linearity.png", "parts_map.png", "values.png"}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 steps on FrozenLake, audited every 25 and probed every 30; copy it before changing it."""
    root = tmp_path_factory.mktemp("lake")
    asked = ["--audit-every", "25", "--probe-every", "30", "--total-steps", "60", "--run-dir", str(root)]
    assert cli.main(["train", "tabular/frozenlake4x4", *OPTIONS, *asked]) == 0
    (run,) = root.rglob("seed0")
    return run


@pytest.fixture
def copied(lake: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lake, tmp_path / "run"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures out, which take most of the time."""
    monkeypatch.setattr(run_audit, "_drawings", lambda *_: [])


def plain_run(root: Path, env: Any = "tabular/riverswim", *settings: str) -> Path:
    config = override(preset("debug"), [*SETTINGS, "run.total_steps=30", *settings])
    return uld_torchrl.train(config, env, run_dir=root, progress=False).path


def test_the_command_says_the_verdict_and_where_the_report_is(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["audit", str(copied)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("Audit of tabular/frozenlake4x4 at step 60: pass, every equality checked holds, ")
    assert second == f"report: {copied / 'audit' / 'report.md'}"
    text = (copied / "audit" / "report.md").read_text(encoding="utf-8")
    assert text.splitlines()[0] == first
    assert {path.name for path in (copied / "audit").iterdir()} == PICTURES | {"report.md", "report.json"}
    for name in PICTURES:
        assert f"]({name})" in text
        assert (copied / "audit" / name).read_bytes()[1:4] == b"PNG"


@pytest.mark.usefixtures("undrawn")
def test_the_report_follows_the_run(copied: Path) -> None:
    found = audit_run(copied)
    rows = read_rows(copied / "audits.csv")
    assert [row["step"] for row in found.rows] == [25, 50, 60] == [int(row["step"]) for row in rows]
    for row, written in zip(found.rows, rows, strict=True):
        for name in AUDIT_COLUMNS:
            value = row.get(name)
            assert written[name] == ("" if value is None else str(value)), name
    data = json.loads((copied / "audit" / "report.json").read_text(encoding="utf-8"))
    assert data["over_training_time"] == found.rows
    assert data["last"] == json.loads(found.report.to_json())
    table = (copied / "audit" / "report.md").read_text(encoding="utf-8").partition("## Over training time")[2]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0] for line in lines] == ["| step", "| ---", "| 25", "| 50", "| 60"]
    assert lines[0].strip("| ").split(" | ") == list(run_audit._SHOWN)


@pytest.mark.usefixtures("undrawn")
def test_the_last_report_is_that_of_the_trained_agent(copied: Path) -> None:
    mdp = named_mdp("frozenlake4x4", 0.99)
    with np.load(copied / "audits" / "step-60.npz") as file:
        counts = file["counts"]
    arrays = export_embeddings(uld_torchrl.load(copied), mdp, counts=counts)
    wanted = theory.audit_embeddings(arrays, mdp)
    found = audit_run(copied).report
    assert wanted.value is not None and found.value is not None
    assert found.value.error == wanted.value.error
    assert found.value.parts == wanted.value.parts


def test_an_audit_can_be_repeated_and_leaves_nothing_old(copied: Path) -> None:
    audit_run(copied)
    before = {path.name: path.read_bytes() for path in (copied / "audit").iterdir()}
    (copied / "audit" / "old.png").write_bytes(b"old")
    audit_run(copied)
    assert {path.name: path.read_bytes() for path in (copied / "audit").iterdir()} == before


def test_a_run_without_audits_is_audited_in_its_final_model(tmp_path: Path) -> None:
    path = plain_run(tmp_path)
    found = audit_run(path, policy="softmax")
    (row,) = found.rows
    assert (row["step"], row["pairs_visited"]) == (30, None)
    agent = uld_torchrl.load(path)
    mdp = named_mdp("riverswim", 0.99)
    report = theory.audit_embeddings(export_embeddings(agent, mdp, "softmax"), mdp)
    assert found.report.value is not None and report.value is not None
    assert row["value_error"] == report.value.error.weighted
    assert not {"values.png", "history.png", "parts_map.png"} & {file.name for file in found.path.iterdir()}


@pytest.mark.usefixtures("undrawn")
def test_a_final_model_that_was_not_audited_is_added(copied: Path) -> None:
    (copied / "audits" / "step-60.npz").unlink()
    found = audit_run(copied)
    assert [row["step"] for row in found.rows] == [25, 50, 60]
    assert [row["pairs_visited"] is None for row in found.rows] == [False, False, True]


def test_rewards_of_a_loaded_agent_are_in_reward_units(copied: Path) -> None:
    with np.load(copied / "audits" / "step-60.npz") as file:
        last = dict(file)
    assert float(last["reward_scale"]) != 1.0
    loaded = export_embeddings(uld_torchrl.load(copied), named_mdp("frozenlake4x4", 0.99))
    for name in ("q", "q_heads", "v_at_pred", "r_hat", "reward_scale"):
        np.testing.assert_array_equal(loaded[name], last[name], err_msg=name)


@pytest.mark.usefixtures("undrawn")
def test_a_gymnasium_table_is_audited_by_its_name(tmp_path: Path) -> None:
    report = audit_run(plain_run(tmp_path, "FrozenLake-v1")).report
    assert report.verdict == "pass"
    assert report.setting is not None
    assert report.setting.mdp.num_states == 16


@pytest.mark.usefixtures("undrawn")
def test_an_environment_of_ones_own_is_audited_on_a_named_mdp(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(plain_run(tmp_path, lambda: TabularEnv("frozenlake4x4")))
    capsys.readouterr()
    assert cli.main(["audit", path]) == 2
    assert "custom/TabularEnv has no tabular MDP" in capsys.readouterr().err
    assert cli.main(["audit", path, "--mdp", "frozenlake4x4"]) == 0
    assert capsys.readouterr().out.startswith("Audit of custom/TabularEnv at step 30: pass")


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_sees_coordinates_is_audited_with_its_observations(tmp_path: Path) -> None:
    path = plain_run(tmp_path, lambda: TabularEnv("frozenlake4x4", "coordinates"))
    with pytest.raises(InputError, match="give observations, one for each state"):
        audit_run(path, mdp="frozenlake4x4")
    seen = state_observations("frozenlake4x4", "coordinates")
    report = audit_run(path, mdp="frozenlake4x4", observations=seen).report
    expected = export_embeddings(uld_torchrl.load(path), named_mdp("frozenlake4x4", 0.99), observations=seen)
    assert report.value is not None
    # The claim is of state 0, where every episode begins.
    assert report.value.claimed_start == pytest.approx((expected["pi"] * expected["q"])[0].sum(), rel=1e-12)


# Refusals


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("uld: error: ")
    assert err.count("\n") == 1
    return err


def test_a_run_that_is_not_tabular_is_refused_with_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plain_run(tmp_path, "CartPole-v1")
    said = refused(capsys, "audit", str(path))
    assert "gym/CartPole-v1 has no tabular MDP" in said
    assert "uld audit --mdp frozenlake4x4" in said
    assert "--probe-every" in said
    assert not (path / "audit").exists()


def test_audits_of_what_is_not_tabular_are_refused_before_there_is_a_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "train", "CartPole-v1", "--audit-every", "10", "--run-dir", str(tmp_path / "runs"))
    assert "gym/CartPole-v1 has no tabular MDP" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option", ["--audit-every", "--probe-every"])
def test_an_interval_of_zero_is_refused(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = str(tmp_path / "runs")
    assert "every must be" in refused(capsys, "train", "tabular/chain", option, "0", "--run-dir", run_dir)
    assert not (tmp_path / "runs").exists()


def test_another_mdp_is_refused(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "at step 25" in refused(capsys, "audit", str(copied), "--mdp", "riverswim")
    assert "names no known tabular MDP" in refused(capsys, "audit", str(copied), "--mdp", "frozenlake")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not a run directory" in refused(capsys, "audit", str(tmp_path))


def test_a_run_without_a_model_is_refused(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copied / "model")
    assert "has no model yet" in refused(capsys, "audit", str(copied))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def pickled(path: Path) -> None:
    np.savez(path, q=np.array([object()]))


def with_nan(path: Path) -> None:
    with np.load(path) as file:
        save_export(path, {**file, "q": np.full((16, 4), np.nan)})


def without_q(path: Path) -> None:
    with np.load(path) as file:
        save_export(path, {name: file[name] for name in file if name != "q"})


@pytest.mark.parametrize("damage", [cut, empty, pickled, with_nan, without_q])
def test_a_damaged_export_is_named(damage: Any, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(copied / "audits" / "step-50.npz")
    assert "step-50" in refused(capsys, "audit", str(copied)).replace("step 50", "step-50")


@pytest.mark.usefixtures("undrawn")
def test_an_equality_that_fails_is_exit_code_1(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = theory.audit_embeddings

    def broken(*arguments: Any, **options: Any) -> theory.AuditReport:
        return replace(real(*arguments, **options), verdict="fail", sentence="it does not hold")

    monkeypatch.setattr(theory, "audit_embeddings", broken)
    assert cli.main(["audit", str(copied)]) == 1
    assert capsys.readouterr().out.startswith("it does not hold\n")


@pytest.mark.usefixtures("undrawn")
def test_files_of_other_names_are_left_alone(copied: Path) -> None:
    (copied / "audits" / "step-final.npz").write_bytes(b"mine")
    (copied / "audits" / "notes.txt").write_text("mine")
    assert len(audit_run(copied).rows) == 3


@pytest.mark.usefixtures("undrawn")
def test_an_mdp_that_is_given_is_used(copied: Path) -> None:
    slippery = named_mdp("frozenlake4x4", 0.99)
    easy = named_mdp("frozenlake4x4-deterministic", 0.99)
    assert audit_run(copied, mdp=slippery).rows == audit_run(copied).rows
    with pytest.raises(InputError, match="mdp must be the one that was exported"):
        audit_run(copied, mdp=easy)  # as many states and actions, but not what it was trained on
    shutil.rmtree(copied / "audits")
    assert audit_run(copied, mdp=easy).rows[0]["best_value"] == pytest.approx(0.99**5)
    with pytest.raises(InputError, match="tabular/nowhere"):
        audit_run(copied, mdp="nowhere")
