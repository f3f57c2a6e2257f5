"""What a run's files name: no module is imported for a name, and no link leads out of the folder."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from hostile import edit_json

from uld_torchrl import cli, evaluate_run, load
from uld_torchrl.diagnostics import audit_run
from uld_torchrl.envs import make_env
from uld_torchrl.envs.registry import env_of_file
from uld_torchrl.errors import InputError
from uld_torchrl.tables import read_numbers, read_rows
from uld_torchrl.trainers import logs
from uld_torchrl.trainers.logs import CsvLog, RunLog
from uld_torchrl.trainers.run_dir import RunDir


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a trace when it is imported."""
    made = tmp_path / "imported"
    (tmp_path / "planted_module.py").write_text(f"import os; os.mkdir({str(made)!r})", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield made
    sys.modules.pop("planted_module", None)


def rename(run: Path, env_id: str) -> None:
    for path in (run / "config.json", run / "model/config.json"):
        edit_json(path, lambda about: about.update(env_id=env_id))


@pytest.mark.parametrize(
    "env_id",
    [
        *("gym/planted_module:CartPole-v1", "planted_module:CartPole-v1", "Gym-planted_module:CartPole-v1"),
        *("gym/planted_module:ALE/Pong-v5", "gym/x:planted_module:CartPole-v1", "gym/.planted_module:a"),
    ],
)
def test_a_name_in_a_file_imports_no_module(
    env_id: str, planted: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rename(run, env_id)
    assert load(run).env_id == env_id  # the agent itself can be had
    for command, way in (("eval", "--env"), ("audit", "--mdp")):
        assert cli.main([command, str(run)]) == 2
        err = capsys.readouterr().err
        assert f"{env_id} would import the module" in err and way in err and len(err.splitlines()) == 1
    for read in (evaluate_run, audit_run):
        with pytest.raises(InputError, match="which a file alone must not do"):
            read(run)
    assert not planted.exists()


def test_the_name_would_have_imported_it(planted: Path) -> None:
    with pytest.raises(InputError, match="names no known"):
        make_by_hand("planted_module:Nothing-v0")
    assert planted.exists()


def make_by_hand(name: str) -> None:
    make_env(name)


def test_a_name_given_by_hand_may_import(planted: Path, run: Path) -> None:
    rename(run, "gym/planted_module:tabular/riverswim")
    assert len(evaluate_run(run, env="tabular/riverswim", episodes=2).result.returns) == 2
    assert not planted.exists()
    assert cli.main(["eval", str(run), "--env", "planted_module:CartPole-v1"]) == 2
    assert planted.exists()


def test_a_module_that_the_user_has_imported_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "planted_module", types.ModuleType("planted_module"))
    assert env_of_file("gym/planted_module:CartPole-v1", "") == "gym/planted_module:CartPole-v1"


@pytest.mark.parametrize("name", [".a:X-v0", ":X-v0", "..:X-v0"])
def test_a_module_that_cannot_be_is_one_message(name: str) -> None:
    with pytest.raises(InputError, match="cannot be imported"):
        make_by_hand(name)
    assert name not in gymnasium.registry


LINKS: dict[str, Callable[[Path], Path]] = {
    "the reports": lambda run: run / "audit",
    "the videos": lambda run: run / "videos",
    "the exports": lambda run: run / "audits",
    "the model": lambda run: run / "model",
    "a table": lambda run: run / "metrics.csv",
    "a file written aside": lambda run: run / ".config.json.new",
    "a model written aside": lambda run: run / "model" / ".model.safetensors.new",
    "versions": lambda run: run / "environment.txt",
    "an export": lambda run: run / "audits" / "step-7.npz",
}


@pytest.mark.parametrize("place", LINKS.values(), ids=LINKS.keys())
def test_no_link_leads_out_of_a_run(
    place: Callable[[Path], Path], run: Path, tmp_path: Path, again: Callable[[Path], Path]
) -> None:
    path, outside = place(run), tmp_path / "outside"
    if path.exists():
        path.rename(outside)
    else:
        outside.mkdir()
        (outside / "mine.png").touch()
    path.symlink_to(outside)
    for read in (evaluate_run, audit_run, load, again):
        with pytest.raises(InputError, match=rf"{path.name} is a link"):
            read(run)
    assert outside.exists()


def test_a_run_whose_parent_is_a_link_is_read(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(run.parents[3], target_is_directory=True)
    assert load(tmp_path / "elsewhere" / Path(*run.parts[-4:])).num_parameters > 0


def test_the_link_to_the_latest_checkpoint_is_ours(full_run: Path) -> None:
    assert (full_run / "checkpoints/latest").is_symlink()
    assert load(full_run).num_parameters > 0


TABLES: dict[str, tuple[bytes, str]] = {
    "another encoding": ("step,x\n1,ä".encode("latin-1"), "it is not UTF-8"),
    "a field without end": (b'step,x\n1,"' + b"y" * 200_000 + b"\n", "it is no table"),
}


@pytest.mark.parametrize(("data", "words"), TABLES.values(), ids=TABLES.keys())
def test_a_bad_table_is_one_message(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "eval.csv").write_bytes(data)
    with pytest.raises(InputError, match=rf"eval\.csv cannot be read: {words}"):
        read_rows(tmp_path / "eval.csv")


def test_rows_without_a_plain_step_are_none(tmp_path: Path) -> None:
    steps = ["1", "²", "-1", "1.5", "x", "", "9" * 5000, "2"]
    text = "step,x\n" + "".join(f"{step},0\n" for step in steps) + "3\n4,0,0\n"
    (tmp_path / "log.csv").write_text(text, encoding="utf-8")
    assert [row["step"] for row in read_rows(tmp_path / "log.csv")] == ["1", "2"]
    CsvLog(tmp_path / "log.csv", ["step", "x"], keep_until=1)
    assert read_rows(tmp_path / "log.csv") == [{"step": "1", "x": "0"}]


def test_a_table_with_other_columns_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,mine\n1,0\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"columns that this version does not write \(mine\): move it away"):
        CsvLog(tmp_path / "log.csv", ["step", "x"], keep_until=5)
    assert (tmp_path / "log.csv").read_text(encoding="utf-8") == "step,mine\n1,0\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("step\n1\n", "it has no column 'x'"),
        ("step,x\n1,many\n", "many"),
        ("step,x\n1,\n", "could not convert"),
    ],
)
def test_cells_that_are_no_numbers_are_one_message(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        read_numbers(tmp_path / "log.csv", ["step", "x"])


def test_a_run_with_a_broken_table_of_evaluations_does_not_begin(full_run: Path, again: Any) -> None:
    path = full_run / "eval.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("14,", "14,x", 1), encoding="utf-8")
    before = {file.name: file.read_bytes() for file in full_run.glob("*.*")}
    with pytest.raises(InputError, match=r"eval\.csv cannot be read"):
        again(full_run, 20)
    assert {file.name: file.read_bytes() for file in full_run.glob("*.*")} == before


@pytest.mark.parametrize("session", ["../../x", "a b", "", "x" * 500, "a/b"])
def test_a_bad_id_of_weights_and_biases_is_not_handed_on(
    session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "WandbLogger", lambda *_, **__: pytest.fail("W&B was asked"))
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/id.txt").write_text(session, encoding="utf-8")
    with pytest.raises(InputError, match=r"id\.txt cannot be read: it holds no W&B id"):
        RunLog(RunDir(tmp_path), log_to=["wandb"])


def test_exports_of_no_plain_step_are_left_alone(run: Path) -> None:
    for name in ("step-².npz", "step-x.npz", "step--1.npz"):
        (run / "audits" / name).touch()
    assert list(RunDir(run).audit_files()) == [14]
