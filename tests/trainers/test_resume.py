"""Interrupted runs: what a repeated command restores, and what it says of a damaged checkpoint.

That a resumed run is the uninterrupted one to the last bit is in ``test_exact_resume.py``.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from uld_torchrl.errors import InputError
from uld_torchrl.tables import read_rows
from uld_torchrl.trainers import ULDOptimizationStepper, ULDTrainer

Make = Callable[..., ULDTrainer]


@pytest.fixture
def copied(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run of 40 steps that a test may go on with, or damage; its root."""
    return Path(shutil.copytree(finished_run, tmp_path / "runs", symlinks=True))


def run_path(root: Path) -> Path:
    return root / "gym" / "CartPole-v1" / "tiny" / "seed0"


def all_bytes(folder: Path) -> dict[str, bytes]:
    """Return the contents of every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def steps(path: Path) -> list[int]:
    return [int(row["step"]) for row in read_rows(path)]


def test_everything_is_restored(tmp_path: Path, make_trainer: Make) -> None:
    old = make_trainer(tmp_path)
    old.train()
    new = make_trainer(tmp_path, total_steps=60)
    assert (new.step, new.episodes, new.stepper.updates) == (40, old.episodes, 30)
    assert new.seconds == old.seconds > 0
    torch.testing.assert_close(
        dict(new.agent.loss.state_dict()), dict(old.agent.loss.state_dict()), rtol=0, atol=0
    )
    for name, optimizer in old.stepper.optimizers.items():
        restored = new.stepper.optimizers[name].state_dict()
        torch.testing.assert_close(restored, optimizer.state_dict(), rtol=0, atol=0)
        assert restored["state"], name
    before, after = old.buffer.state_dict(), new.buffer.state_dict()
    for part in ("records", "priorities", "max_priority"):
        torch.testing.assert_close(after[part], before[part], rtol=0, atol=0)


def test_a_larger_number_of_steps_goes_on(copied: Path, make_trainer: Make) -> None:
    path = run_path(copied)
    rows = {name: read_rows(path / f"{name}.csv") for name in ("metrics", "eval", "timing")}
    trainer = make_trainer(copied, total_steps=60)
    assert trainer.train().step == 60
    assert trainer.stepper.updates == 50
    assert len(trainer.buffer) == 60
    assert steps(path / "metrics.csv") == steps(path / "timing.csv") == [10, 20, 30, 40, 50, 60]
    assert steps(path / "eval.csv") == [20, 40, 60]
    for name, before in rows.items():
        assert read_rows(path / f"{name}.csv")[: len(before)] == before
    seconds = [float(row["seconds"]) for row in read_rows(path / "timing.csv")]
    assert seconds == sorted(seconds)
    assert json.loads((path / "config.json").read_text())["config"]["run"]["total_steps"] == 60


def test_the_first_row_after_resuming_has_every_metric(tmp_path: Path, make_trainer: Make) -> None:
    make_trainer(tmp_path, log_every=1, total_steps=18).train()
    trainer = make_trainer(tmp_path, log_every=1, total_steps=19)
    trainer.train()
    assert trainer.stepper.updates == 9  # in mid-period: its encoder updates are those before the seam
    before, after = read_rows(run_path(tmp_path) / "metrics.csv")[-2:]
    assert after["step"] == "19"
    assert after["loss_encoder"] == before["loss_encoder"] != ""


class Killed(Exception):
    pass


def kill_at(trainer: ULDTrainer, step: int) -> None:
    """Let the training environment fail after ``step`` agent steps of this session."""
    env_step, left = trainer.env.step_and_maybe_reset, iter(range(step))

    def stepping(td: Any) -> Any:
        if next(left, None) is None:
            raise Killed
        return env_step(td)

    trainer.env.step_and_maybe_reset = stepping


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path: Path, make_trainer: Make) -> None:
    killed = make_trainer(tmp_path, total_steps=50, log_every=5)
    kill_at(killed, 37)
    with pytest.raises(Killed):
        killed.train()
    path = run_path(tmp_path)
    assert steps(path / "metrics.csv")[-1] == 35
    assert not (path / "model").exists()

    trainer = make_trainer(tmp_path, total_steps=50, log_every=5)
    assert (trainer.step, trainer.stepper.updates, len(trainer.buffer)) == (20, 10, 20)
    assert steps(path / "metrics.csv") == steps(path / "timing.csv") == [5, 10, 15, 20]
    assert steps(path / "eval.csv") == [20]
    trainer.train()
    assert steps(path / "metrics.csv") == list(range(5, 51, 5))
    assert steps(path / "eval.csv") == [20, 40, 50]
    assert trainer.stepper.updates == 40


def test_a_run_killed_before_its_first_checkpoint_starts_anew(tmp_path: Path, make_trainer: Make) -> None:
    killed = make_trainer(tmp_path)
    kill_at(killed, 15)
    with pytest.raises(Killed):
        killed.train()
    trainer = make_trainer(tmp_path)
    assert (trainer.step, trainer.stepper.updates) == (0, 0)
    assert steps(run_path(tmp_path) / "metrics.csv") == []


def test_a_save_that_was_interrupted_is_passed_over(
    copied: Path, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power fails while the checkpoint of step 60 is being renamed into place."""
    trainer = make_trainer(copied, total_steps=60)
    replace = os.replace

    def fail(source: Any, target: Any) -> None:
        if str(target).endswith("60"):
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(Killed):
            trainer.train()
    assert make_trainer(copied, total_steps=60).step == 40


def test_a_checkpoint_without_checksums_is_passed_over(
    copied: Path, make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    (run_path(copied) / "checkpoints" / "step-000000000040" / "checksums.json").unlink()
    assert make_trainer(copied, total_steps=60).step == 20
    assert "checksums.json cannot be read: No such file" in caplog.text


def test_a_cut_csv_row_is_dropped_on_resume(copied: Path, make_trainer: Make) -> None:
    metrics = run_path(copied) / "metrics.csv"
    metrics.write_text(metrics.read_text() + "4")
    make_trainer(copied, total_steps=60)
    assert steps(metrics) == [10, 20, 30, 40]


def test_an_evaluation_cut_at_any_byte_is_dropped_on_resume(copied: Path, make_trainer: Make) -> None:
    evaluations = run_path(copied) / "eval.csv"
    whole = evaluations.read_bytes()
    for kept in range(1, len("40,9.25,1.25,11.5,2")):
        evaluations.write_bytes(whole + b"40,9.25,1.25,11.5,2"[:kept])
        make_trainer(copied, total_steps=60).close()
        assert evaluations.read_bytes() == whole


def test_a_finished_run_only_says_its_result(
    copied: Path, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = all_bytes(copied)

    def refuse(*_: Any) -> NoReturn:
        raise AssertionError("an update was made")

    monkeypatch.setattr(ULDOptimizationStepper, "step", refuse)
    trainer = make_trainer(copied)
    assert trainer.finished
    result = trainer.train()
    last = read_rows(run_path(copied) / "eval.csv")[-1]
    assert (result.step, result.return_mean) == (40, float(last["episode_return_mean"]))
    assert result.started_from == 40
    after = all_bytes(copied)
    assert after.keys() == before.keys()
    different = {Path(name).name for name in after if after[name] != before[name]}
    assert different <= {"curve.png", "environment.txt"}


def test_training_on_does_not_write_into_the_checkpoint_it_came_from(
    copied: Path, make_trainer: Make
) -> None:
    checkpoint = run_path(copied) / "checkpoints" / "step-000000000040"
    before = all_bytes(checkpoint)
    trainer = make_trainer(copied, total_steps=55)
    trainer.train()
    assert trainer.stepper.updates == 45
    assert all_bytes(checkpoint) == before


def test_the_newest_two_checkpoints_are_kept(copied: Path, make_trainer: Make) -> None:
    make_trainer(copied, total_steps=60).train()
    folder = run_path(copied) / "checkpoints"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["latest", "step-000000000040", "step-000000000060"]
    assert os.readlink(folder / "latest") == "step-000000000060"


def test_nothing_is_pickled(copied: Path, make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    names = all_bytes(run_path(copied))
    assert {Path(name).suffix for name in names} == {
        ".json",
        ".memmap",
        ".safetensors",
        ".csv",
        ".txt",
        ".png",
    }
    for name in names:
        if name.endswith(".json"):
            json.loads(names[name])
        assert not names[name].startswith(b"PK\x03\x04"), f"{name} is a zip archive, as of torch.save"

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("something was unpickled")

    for module, function in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, function, refuse)
    assert make_trainer(copied).step == 40


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def largest(checkpoint: Path, component: str) -> Path:
    """Return the largest tensor file of a component."""
    files = (checkpoint / "components").glob(f"*-{component}/state/*.memmap")
    return max(files, key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "no manifest": lambda c: (c / "manifest.json").unlink(),
    "half a manifest": lambda c: cut(c / "manifest.json", 0.5),
    "empty manifest": lambda c: cut(c / "manifest.json", 0),
    "empty folder": lambda c: (shutil.rmtree(c), c.mkdir()),  # type: ignore[func-returns-value]
    "half of the optimisers' description": lambda c: cut(
        next(c.glob("components/*-stepper/state.json")), 0.5
    ),
    "no weights": lambda c: shutil.rmtree(next(c.glob("components/*-loss"))),
    "a missing tensor": lambda c: largest(c, "loss").unlink(),
    "half a weight matrix": lambda c: cut(largest(c, "loss"), 0.5),
    "an empty replay file": lambda c: cut(largest(c, "replay"), 0),
    "a flipped byte in a weight": lambda c: flip(largest(c, "loss")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_passed_over_for_the_last_whole_one(
    damage: Callable[[Path], None], copied: Path, make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_path(copied) / "checkpoints"
    damage(folder / "step-000000000040")
    trainer = make_trainer(copied)
    assert (trainer.step, trainer.stepper.updates) == (20, 10)
    trainer.close()
    assert f"checkpoint {folder / 'step-000000000040'} is damaged" in caplog.text


WHOLLY = ("half a manifest", "empty folder", "half a weight matrix")  # by default, the others when asked for


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(damage, id=name, marks=[] if name in WHOLLY else [pytest.mark.slow])
        for name, damage in DAMAGE.items()
    ],
)
def test_a_damaged_checkpoint_is_written_anew(
    damage: Callable[[Path], None], copied: Path, make_trainer: Make
) -> None:
    folder = run_path(copied) / "checkpoints"
    damage(folder / "step-000000000040")
    trainer = make_trainer(copied)
    trainer.train()
    trainer.close()
    assert sorted(path.name for path in folder.iterdir()) == [
        "latest",
        "step-000000000020",
        "step-000000000040",
    ]
    assert make_trainer(copied, total_steps=60).step == 40


def test_the_way_out_works(copied: Path, make_trainer: Make) -> None:
    folder = run_path(copied) / "checkpoints"
    shutil.rmtree(folder / "step-000000000040")
    trainer = make_trainer(copied)
    assert (trainer.step, trainer.stepper.updates) == (20, 10)
    assert trainer.train().step == 40
    assert os.readlink(folder / "latest") == "step-000000000040"
    assert steps(run_path(copied) / "metrics.csv") == [10, 20, 30, 40]


def test_no_whole_checkpoint_means_a_new_start(copied: Path, make_trainer: Make) -> None:
    folder = run_path(copied) / "checkpoints"
    for step in (20, 40):
        (folder / f"step-{step:012d}" / "manifest.json").unlink()
    with pytest.raises(InputError) as caught:
        make_trainer(copied)
    message = str(caught.value)
    for part in (
        str(folder),
        "step-000000000020",
        "step-000000000040",
        "train anew from the start",
        "--fresh",
    ):
        assert part in message
    assert "\n" not in message


def test_an_error_without_text_is_told_too(
    copied: Path, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchrl.checkpoint import Checkpoint

    def fail(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError

    monkeypatch.setattr(Checkpoint, "load", fail)
    with pytest.raises(InputError, match="cannot be read by this version"):
        make_trainer(copied)


def test_a_save_that_fails_leaves_the_older_ones(
    copied: Path, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full while the checkpoint of step 60 is written."""
    from torchrl.checkpoint import Checkpoint

    save = Checkpoint.save

    def fail(self: Any, path: Path, *arguments: Any, **options: Any) -> NoReturn:
        save(self, path, *arguments, **options)
        raise OSError(28, "No space left on device")

    trainer = make_trainer(copied, total_steps=60)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", fail)
        with pytest.raises(OSError, match="No space left"):
            trainer.train()
    trainer.close()
    names = sorted(path.name for path in (run_path(copied) / "checkpoints").iterdir())
    assert names == ["latest", "step-000000000020", "step-000000000040"]
    assert make_trainer(copied, total_steps=60).step == 40
