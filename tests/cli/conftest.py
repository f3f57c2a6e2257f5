"""What the command line's tests share: running commands here and in processes, a trained run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from uld_torchrl.cli import main

ROOT = Path(__file__).resolve().parents[2]
RUN = Path("my runs", "gym", "CartPole-v1", "debug", "seed0")


@dataclass(frozen=True)
class Outcome:
    """Exit code, standard output and standard error of one command."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The message of a refused command, after checking that there is exactly one and no traceback."""
        assert self.code == 2, self.out + self.err
        assert "Traceback" not in self.err
        assert self.out == ""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("uld: error: ")
        return lines[0]


class Uld:
    """Calls the command line."""

    quick = ("--preset", "debug", "--total-steps", "30", "--set", "run.random_steps=20")
    quick += ("--set", "optim.period=5", "--set", "optim.batch_size=4", "--set", "run.checkpoint_every=10")

    def __init__(self, captured: pytest.CaptureFixture[str] | None = None) -> None:
        self.captured = captured

    def __call__(self, *arguments: Any) -> Outcome:
        """Run a command in this process."""
        assert self.captured is not None
        self.captured.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Outcome(code, *self.captured.readouterr())

    def train_again(self, run: Path, *options: str) -> Outcome:
        """Repeat the command of a trained run."""
        return self("train", "gym/CartPole-v1", *self.quick, "--run-dir", run.parents[3], *options)

    def start(self, *arguments: Any, cwd: Path) -> subprocess.Popen[str]:
        """Start a command in a process of its own, as the installed ``uld`` would."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        return subprocess.Popen(
            [sys.executable, "-m", "uld_torchrl.cli", *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def process(self, *arguments: Any, cwd: Path) -> Outcome:
        """Run a command in a process of its own to its end."""
        with self.start(*arguments, cwd=cwd) as running:
            out, err = running.communicate()
        return Outcome(running.returncode, out, err)


@pytest.fixture
def uld(capfd: pytest.CaptureFixture[str]) -> Uld:
    return Uld(capfd)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A directory in which `uld train gym/CartPole-v1 --run-dir "my runs"` was run, and what it said."""
    folder = tmp_path_factory.mktemp("cli")
    uld = Uld()
    return folder, uld.process("train", "gym/CartPole-v1", *uld.quick, "--run-dir", "my runs", cwd=folder)


@pytest.fixture
def finished(trained: tuple[Path, Outcome], tmp_path: Path) -> Path:
    """A copy of the trained run directory that a test may damage."""
    root = shutil.copytree(trained[0] / "my runs", tmp_path / "runs", symlinks=True)
    return Path(root, *RUN.parts[1:])
