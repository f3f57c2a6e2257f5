"""Every metric: documented once, written to CSV, and the same numbers to TensorBoard and W&B on request."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uld_torchrl.errors import InputError
from uld_torchrl.tables import read_rows
from uld_torchrl.trainers import RunDir, ULDTrainer
from uld_torchrl.trainers.logs import LOGGED, RunLog

Make = Callable[..., ULDTrainer]
FILES = {"train": "metrics.csv", "eval": "eval.csv", "time": "timing.csv"}


def in_csv(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Every number of a run's CSV files: <table>/<column> -> [(step, value), ...]."""
    found: dict[str, list[tuple[int, float]]] = {}
    for table, file in FILES.items():
        for row in read_rows(path / file):
            step = int(row.pop("step"))
            for name, value in row.items():
                if value:
                    found.setdefault(f"{table}/{name}", []).append((step, float(value)))
    return found


def test_what_is_logged_is_what_the_table_documents(finished_run: Path) -> None:
    (path,) = finished_run.rglob("seed0")
    documented = {f"{table}/{name}" for table, names in LOGGED.items() for name in names} - {
        f"{table}/step" for table in LOGGED
    }
    assert set(in_csv(path)) == documented
    assert all(len(meaning) > 10 for names in LOGGED.values() for meaning in names.values())


def test_the_documents_show_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    tables = tuple(f"| `{table}/" for table in LOGGED)  # what is logged on request has a table of its own
    rows = [line for line in text.splitlines() if line.startswith(tables)]
    assert rows == [
        f"| `{table}/{name}` | {FILES[table]} | {meaning} |"
        for table, names in LOGGED.items()
        for name, meaning in names.items()
    ]


def in_tensorboard(path: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path / "tensorboard"))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def test_tensorboard_gets_every_number(tmp_path: Path, make_trainer: Make) -> None:
    pytest.importorskip("tensorboard", reason="install uld-torchrl[tensorboard]")
    trainer = make_trainer(tmp_path, options={"log_to": ["tensorboard"]})
    trainer.train()
    trainer.close()
    expected, found = in_csv(trainer.run.path), in_tensorboard(trainer.run.path)
    assert found.keys() == expected.keys()
    for tag, points in expected.items():
        assert [step for step, _ in found[tag]] == [step for step, _ in points]
        values = [value for _, value in points]
        assert [value for _, value in found[tag]] == pytest.approx(values, rel=1e-6)  # float32


def test_tensorboard_drops_what_a_resumed_run_writes_anew(
    tmp_path: Path, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="install uld-torchrl[tensorboard]")
    killed = make_trainer(tmp_path, options={"log_to": ["tensorboard"]})
    evaluate = killed._evaluate

    def die_at_the_end() -> Any:
        if killed.finished:
            raise MemoryError
        return evaluate()

    monkeypatch.setattr(killed, "_evaluate", die_at_the_end)
    with pytest.raises(MemoryError):
        killed.train()
    killed.close()
    assert len(read_rows(killed.run.metrics)) == 4  # and the checkpoint is that of step 20
    trainer = make_trainer(tmp_path, options={"log_to": ["tensorboard"]})
    trainer.train()
    trainer.close()
    steps = {tag: [step for step, _ in points] for tag, points in in_csv(trainer.run.path).items()}
    found = {tag: [step for step, _ in points] for tag, points in in_tensorboard(trainer.run.path).items()}
    assert {tag: points for tag, points in found.items() if points} == steps
    assert found["train/loss_actor"] == [20, 30, 40]


def test_wandb_gets_every_number(tmp_path: Path, make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """With W&B itself in offline mode, its calls recorded."""
    wandb = pytest.importorskip("wandb", reason="install uld-torchrl[wandb]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged: dict[str, list[tuple[int, float]]] = {}
    ids, init = [], wandb.init

    def recording(**settings: Any) -> Any:
        ids.append(settings["id"])
        session = init(**settings)
        log = session.log

        def note(payload: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            steps = [int(value) for name, value in payload.items() if name.endswith("step")]
            for name, value in payload.items():
                if not name.endswith("step"):
                    logged.setdefault(name, []).append((*steps, float(value)))  # type: ignore[arg-type]
            log(payload, *args, **kwargs)

        session.log = note
        return session

    monkeypatch.setattr(wandb, "init", recording)
    for steps in (30, 40):
        trainer = make_trainer(tmp_path, total_steps=steps, options={"log_to": ["wandb"]})
        trainer.train()
        trainer.close()
    assert logged == in_csv(trainer.run.path)
    assert ids[0] == ids[1]
    assert list((trainer.run.path / "wandb").glob("offline-run-*"))


@pytest.mark.parametrize("target", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_with_its_extra(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchrl.record.loggers import wandb

    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr(wandb, "_has_wandb", False)
    with pytest.raises(InputError, match=rf"pip install 'uld-torchrl\[{target}\]'"):
        RunLog(RunDir(tmp_path), log_to=[target])
    assert not (tmp_path / "metrics.csv").exists()


def test_one_target_may_be_named_without_a_list(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="install uld-torchrl[tensorboard]")
    RunLog(RunDir(tmp_path), log_to="tensorboard").close()  # type: ignore[arg-type]
    assert list(tmp_path.glob("tensorboard/events.*"))


def test_an_unknown_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="log_to must be one of tensorboard, wandb; got 'csv'"):
        RunLog(RunDir(tmp_path), log_to=["csv"])  # type: ignore[list-item]


def test_logging_elsewhere_changes_nothing_else(
    tmp_path: Path, finished_run: Path, make_trainer: Make
) -> None:
    pytest.importorskip("tensorboard", reason="install uld-torchrl[tensorboard]")
    trainer = make_trainer(tmp_path, options={"log_to": ["tensorboard"]})
    trainer.train()
    trainer.close()
    (plain,) = finished_run.rglob("seed0")
    for name in ("metrics.csv", "eval.csv", "config.json"):
        assert (trainer.run.path / name).read_bytes() == (plain / name).read_bytes()
    assert "tensorboard" not in json.loads((plain / "config.json").read_text())


def test_neither_package_is_imported_without_being_asked_for() -> None:
    import subprocess

    code = (
        "import sys, uld_torchrl.trainers;"
        "sys.exit(', '.join({'tensorboard', 'wandb'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr[-300:]) == (0, "")
