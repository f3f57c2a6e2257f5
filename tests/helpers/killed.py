"""Sessions of small runs in processes of their own, to be killed; and what two finished runs must share.

A module of its own, so that a process of another can find :func:`session`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from uld_torchrl.config import override, preset
from uld_torchrl.trainers import ULDTrainer

SMALL = ["optim.batch_size=4", "optim.period=7", "run.total_steps=160", "run.random_steps=12"]
SMALL += ["run.eval_every=40", "run.checkpoint_every=16", "run.log_every=9", "run.eval_episodes=2"]
PARTS = ("loss", "random", "replay", "stepper")
"""Of a checkpoint; ``progress`` holds the time that was spent."""


def session(root: str, env: str, changes: list[str], options: dict[str, Any]) -> None:
    """Train a run, or go on with it."""
    trainer = ULDTrainer(env, override(preset("debug"), [*SMALL, *changes]), run_dir=root, **options)
    trainer.train()
    trainer.close()


@dataclass
class Sessions:
    """Starts sessions of one run, each in a process that is forked from one that has imported everything."""

    root: Path
    env: str
    changes: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def start(self) -> BaseProcess:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["uld_torchrl.trainers.trainer"])
        process = context.Process(target=session, args=(str(self.root), self.env, self.changes, self.options))
        process.start()
        return process

    def finish(self) -> None:
        process = self.start()
        process.join()
        assert process.exitcode == 0

    def kill(self, delay: float, at: Callable[[], bool] = lambda: True) -> bool:
        """Kill a session after so many seconds, at the first moment when ``at``; False if it has finished."""
        process = self.start()
        begin = time.monotonic()
        while process.is_alive() and not (time.monotonic() - begin >= delay and at()):
            time.sleep(0.0005)
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode != 0

    @property
    def path(self) -> Path:
        (config,) = self.root.rglob("seed0/config.json")
        return config.parent

    def writing(self) -> bool:
        """Whether a checkpoint is being written."""
        try:
            return any(self.root.rglob("checkpoints/.writing"))
        except FileNotFoundError:  # a folder went while it was walked
            return False


def outcome(run: Path) -> dict[str, bytes]:
    """Return what a finished run must share with another, by name: model, tables, training state."""
    names = ["model/model.safetensors", "metrics.csv", "eval.csv"]
    for part in PARTS:
        found = (run / "checkpoints" / "latest").glob(f"components/*-{part}/**/*")
        names += [path.relative_to(run).as_posix() for path in sorted(found) if path.is_file()]
    return {name: (run / name).read_bytes() for name in names}
