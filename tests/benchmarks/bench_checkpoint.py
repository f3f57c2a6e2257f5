"""Time and size of a checkpoint of a full-size agent with a full replay buffer: writing, checking, restoring.

Run ``python tests/benchmarks/bench_checkpoint.py [steps]``: preset uld with HalfCheetah's shapes and, by
default, a million steps in the replay buffer. ``--profile`` shows where the time goes.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import sys
import tempfile
import time
from pathlib import Path

import torch
from tensordict import TensorDict

from uld_torchrl.config import override, preset
from uld_torchrl.trainers import ULDTrainer
from uld_torchrl.trainers.checkpoints import RunCheckpoints, _damage

STEPS = 1_000_000


def make(root: Path, steps: int) -> ULDTrainer:
    settings = [f"run.total_steps={steps}", f"replay.capacity={steps}"]
    return ULDTrainer("gym/HalfCheetah-v4", override(preset("uld"), settings), run_dir=root)


def fill(trainer: ULDTrainer, steps: int) -> None:
    """Write random records, and make one update, so that the optimisers have their state."""
    part = 10_000
    for _ in range(steps // part):
        no = torch.zeros(1, part, 1, dtype=torch.bool)
        after = {"observation": torch.randn(1, part, 17), "reward": torch.randn(1, part, 1)}
        after |= {"terminated": no, "truncated": no, "done": no}
        step = {"observation": torch.randn(1, part, 17), "action": torch.rand(1, part, 6), "next": after}
        trainer.buffer.extend(TensorDict(step, batch_size=[1, part]))
    for optimizer in trainer.stepper.optimizers.values():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()


def main() -> None:
    steps = int(next((given for given in sys.argv[1:] if given.isdigit()), STEPS))
    with tempfile.TemporaryDirectory(dir=".") as root:
        trainer = make(Path(root), steps)
        fill(trainer, steps)
        profile = cProfile.Profile()
        for step in (1, 2, 3):
            trainer.step = step
            profile.enable()
            print(trainer.checkpoints.save(step))
            profile.disable()
        newest = trainer.checkpoints.newest()
        assert newest is not None
        print(len([path for path in newest.rglob("*") if path.is_file()]), "files")
        begin = time.perf_counter()
        assert _damage(newest) is None
        checked = time.perf_counter()
        RunCheckpoints(trainer.run.checkpoints, trainer._components()).restore()
        print(
            f"checked in {checked - begin:.2f} s, and restored in {time.perf_counter() - checked:.2f} s"
            f"; load {os.getloadavg()[0]:.1f}"
        )
        trainer.close()
    if "--profile" in sys.argv:
        pstats.Stats(profile).sort_stats("tottime").print_stats(12)


if __name__ == "__main__":
    main()
