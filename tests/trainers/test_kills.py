"""SIGKILL at random moments, also while a checkpoint is written: the run ends as if nothing had been.

Every session is a process. That a run goes on exactly from a checkpoint, wherever it stood, is in
``test_exact_resume.py``; here nothing is arranged but the time of the kill.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killed import Sessions, outcome

KILLS = 10
MOMENTS: list[Callable[[Sessions], Callable[[], bool]]] = [lambda run: lambda: True, lambda run: run.writing]
CASES: list[tuple[str, list[str], dict[str, Any]]] = [
    ("CartPole-v1", [], {}),
    ("CartPole-v1", ["optim.schedule=every_step", "run.num_envs=2"], {"env_workers": 2}),
    ("gym/Pendulum-v1", ["optim.schedule=every_step"], {"buffer_storage": "memmap"}),
    ("gym/Pendulum-v1", ["run.num_envs=2"], {}),
    ("dmc/cartpole-swingup", ["optim.schedule=every_step", "run.num_envs=2"], {}),
]


def check_kills(root: Path, case: tuple[str, list[str], dict[str, Any]], kills: int) -> None:
    """Kill sessions at random moments, every other one while it writes a checkpoint, over as many runs."""
    begin, chance, done = time.monotonic(), random.Random(repr(case)), 0
    whole = Sessions(root / "whole", *case)
    whole.finish()
    length = time.monotonic() - begin
    for number in itertools.count():
        cut = Sessions(root / f"cut-{number}", *case)
        while done < kills and cut.kill(chance.uniform(0, 0.6) * length, MOMENTS[done % 2](cut)):
            done += 1
        cut.finish()
        assert outcome(cut.path) == outcome(whole.path)
        left = sorted(path.name for path in (cut.path / "checkpoints").iterdir())
        assert left == ["latest", "step-000000000144", "step-000000000160"]
        if done == kills:
            return


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_two_kills_leave_no_trace(tmp_path: Path) -> None:
    check_kills(tmp_path, CASES[0], 2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_signals_while_a_checkpoint_is_written_leave_no_trace(tmp_path: Path) -> None:
    case = CASES[0]
    whole, cut = (Sessions(tmp_path / name, *case) for name in ("whole", "cut"))
    whole.finish()
    for number in range(3):
        process = cut.start()
        while process.is_alive() and not cut.writing():
            time.sleep(0.0005)
        process.terminate()
        time.sleep(0.002 * number)
        process.terminate()
        process.join()
        assert process.exitcode != 0
    cut.finish()
    assert outcome(cut.path) == outcome(whole.path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {' '.join(case[1])}")
def test_fifty_kills_leave_no_trace(tmp_path: Path, case: Any) -> None:
    check_kills(tmp_path, case, KILLS)
