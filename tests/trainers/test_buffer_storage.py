"""The replay buffer of a run in memory or in files, with the same result; and whether there is room."""

from __future__ import annotations

import pytest

from uld_torchrl.data import memory
from uld_torchrl.errors import InputError
from uld_torchrl.trainers import ULDTrainer


@pytest.fixture
def trained(make_trainer):
    """Train a small run with its replay buffer in memory or in files; its result, and files at the start."""

    def train(folder, storage):
        trainer = make_trainer(folder, options={"buffer_storage": storage})
        mapped = [path.name for path in trainer.run.path.glob("replay/**/*.memmap")]
        result = trainer.train()
        trainer.close()
        return result, mapped

    return train


def test_a_run_with_mapped_files_is_the_same_run(tmp_path, trained):
    plain, none = trained(tmp_path / "a", "memory")
    mapped, files = trained(tmp_path / "b", "memmap")
    assert none == [] and files == []  # files appear with the first step
    for name in ("metrics.csv", "eval.csv"):
        assert (mapped.path / name).read_bytes() == (plain.path / name).read_bytes()
    assert not (mapped.path / "replay").exists()


def test_the_files_are_there_while_it_runs_and_a_longer_run_goes_on_from_the_checkpoint(
    tmp_path, monkeypatch, trained, make_trainer
):
    seen = []
    save = ULDTrainer.save

    def spied(trainer):
        seen.append(len(list((trainer.run.path / "replay").rglob("*.memmap"))))
        save(trainer)

    monkeypatch.setattr(ULDTrainer, "save", spied)
    trained(tmp_path, "memmap")
    assert min(seen) > 3
    longer = make_trainer(tmp_path, total_steps=52)  # in memory this time
    assert longer.started_from == 40 and longer.buffer.state_dict()["head"] == 40
    assert longer.train().step == 52
    longer.close()


def test_a_buffer_without_room_is_refused_before_anything_is_written(tmp_path, monkeypatch, trained):
    monkeypatch.setattr(memory, "available_bytes", lambda device, folder: 1000)
    with pytest.raises(InputError, match=r"the replay buffer needs .* of memory for 41 steps"):
        trained(tmp_path, "memory")
    with pytest.raises(InputError, match="MB of disk"):
        trained(tmp_path, "memmap")
    assert list(tmp_path.iterdir()) == []


def test_the_checkpoints_count_on_the_disk(tmp_path, monkeypatch, trained):
    """A few hundred kilobytes fit into memory; on the disk there must be room for three."""
    asked = []

    def available(device, folder):
        asked.append(folder)
        return 10**9 if folder is None else 3_000

    monkeypatch.setattr(memory, "available_bytes", available)
    with pytest.raises(InputError, match=r"needs .* of disk for 41 steps.*larger disk"):
        trained(tmp_path, "memory")
    assert asked == [None, tmp_path] and list(tmp_path.iterdir()) == []


def test_another_storage_is_refused(tmp_path, trained):
    with pytest.raises(InputError, match="buffer_storage must be one of memory, memmap; got 'tape'"):
        trained(tmp_path, "tape")
