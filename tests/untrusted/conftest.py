"""A short run with everything in its folder, to be copied and damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import SETTINGS

import uld_torchrl
from uld_torchrl.config import override, preset
from uld_torchrl.diagnostics import AuditEvery


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished and audited run of 14 steps on a river; copy it before changing it."""
    return uld_torchrl.train(
        override(preset("debug"), SETTINGS),
        "tabular/riverswim",
        run_dir=tmp_path_factory.mktemp("runs"),
        callbacks=[AuditEvery(14)],
        progress=False,
    ).path


def copied(run: Path, to: Path, *left_out: str) -> Path:
    # Its name and those of three folders above are where `uld train` finds it again.
    copy = to.joinpath("runs", *run.parts[-4:])
    return Path(shutil.copytree(run, copy, symlinks=True, ignore=shutil.ignore_patterns(*left_out)))


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    """A copy without checkpoints, whose hundreds of files take time."""
    return copied(whole_run, tmp_path, "checkpoints")


@pytest.fixture
def full_run(whole_run: Path, tmp_path: Path) -> Path:
    """A copy with checkpoints."""
    return copied(whole_run, tmp_path)


@pytest.fixture
def again() -> Callable[[Path], Path]:
    """Train the run of that folder again, to its 14 steps or further."""

    def train(run: Path, total_steps: int = 14) -> Path:
        config = override(preset("debug"), [*SETTINGS, f"run.total_steps={total_steps}"])
        options = {"run_dir": run.parents[3], "name": run.parent.name, "progress": False}
        return uld_torchrl.train(config, "tabular/riverswim", **options).path

    return train
