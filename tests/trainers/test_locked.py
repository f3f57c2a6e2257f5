"""Who may train in a run directory: one trainer at a time, and nobody where the state is gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from uld_torchrl.errors import InputError
from uld_torchrl.tables import read_rows
from uld_torchrl.trainers import ULDTrainer

Make = Callable[..., ULDTrainer]


def test_two_trainers_cannot_share_a_directory(tmp_path: Path, make_trainer: Make) -> None:
    first = make_trainer(tmp_path)
    with pytest.raises(InputError, match=r"being trained by another .*--fresh"):
        make_trainer(tmp_path)
    other = make_trainer(tmp_path, seed=1)
    first.close()
    make_trainer(tmp_path).close()
    other.close()


def test_a_refused_trainer_holds_nothing(tmp_path: Path, make_trainer: Make) -> None:
    make_trainer(tmp_path).close()
    with pytest.raises(InputError, match="total_steps"):
        make_trainer(tmp_path, total_steps=30)
    make_trainer(tmp_path).close()


def test_a_finished_run_without_checkpoints_is_not_started_anew(
    tmp_path: Path, finished_run: Path, make_trainer: Make
) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "runs", symlinks=True))
    (metrics,) = root.rglob("metrics.csv")
    rows = read_rows(metrics)
    os.rename(metrics.with_name("checkpoints"), tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"checkpoints are gone.*--fresh"):
        make_trainer(root, total_steps=60)
    assert read_rows(metrics) == rows
