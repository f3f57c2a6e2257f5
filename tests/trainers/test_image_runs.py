"""Runs on images: refused before anything is written, and stopped and resumed with every frame as it was.

The environment paints noise from its own generator, so that no two frames are alike. Agents on images are in
``test_images.py``; resuming in general is in ``test_resume.py``.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from tensordict import TensorDictBase

from uld_torchrl.config import AgentConfig, override
from uld_torchrl.errors import InputError
from uld_torchrl.trainers import ULDTrainer

Make = Callable[..., ULDTrainer]
RUN = ["pixels.frame_size=32", "pixels.frame_stack=3", "model.conv_channels=2", "optim.image_shift=2"]


class Noise(gymnasium.Env):
    """Episodes of seven steps of noise, terminated and truncated in turn; rewards tell which frame came."""

    observation_space = Box(0, 255, (32, 32), np.uint8)
    action_space = Discrete(2)

    def __init__(self) -> None:
        self.time, self.episode = 0, -1

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.episode = 0, self.episode + 1
        return self._paint(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        ended, even = self.time == 7, self.episode % 2 == 0
        frame = self._paint()
        return frame, float(frame[0, 0]), ended and even, ended and not even, {}

    def _paint(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (32, 32), np.uint8)


@pytest.fixture
def settings(tiny: AgentConfig) -> AgentConfig:
    """Two environments of images, and a replay buffer that wraps around in a run of 100 steps."""
    return override(tiny, [*RUN, "replay.capacity=60", "run.num_envs=2", "run.total_steps=100"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            "pixels.frame_size=30",
            r"frame_size must be at least 31 .* got images of 30 x 30: set pixels",
        ),
        ("optim.image_shift=32", "image_shift must be smaller than .*, 32 and 32, got 32"),
    ],
)
def test_images_that_do_not_fit_are_refused_before_anything_is_written(
    wrong: str, message: str, settings: AgentConfig, make_trainer: Make, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        make_trainer(tmp_path, Noise, config=override(settings, [wrong]))
    assert list(tmp_path.iterdir()) == []


def test_the_smallest_images_and_the_largest_shift_are_accepted(
    settings: AgentConfig, make_trainer: Make, tmp_path: Path
) -> None:
    least = override(settings, ["pixels.frame_size=31", "optim.image_shift=30", "run.total_steps=20"])
    with closing(make_trainer(tmp_path, Noise, config=least)) as trainer:
        assert trainer.train().step == 20 and trainer.stepper.updates == 10


def windows(trainer: ULDTrainer) -> TensorDictBase:
    """Draw what any buffer with the same contents draws."""
    torch.manual_seed(7)
    return torch.cat([trainer.buffer.sample() for _ in range(20)])


def check_frames(drawn: TensorDictBase) -> None:
    """Every reward is the first pixel of the frame that its step led to, and stacks move on by one frame."""
    done = drawn["next", "done"].squeeze(-1).long()
    steps = drawn[done.cumsum(-1) - done == 0]  # up to the end of the episode
    now, then = steps["pixels"], steps["next", "pixels"]
    assert torch.equal(then[:, -1, 0, 0].float(), steps["next", "reward"].squeeze(-1))
    assert torch.equal(now[:, 1:], then[:, :-1])
    assert len(then[:, -1].unique(dim=0)) > 30


def interrupted(trainer: ULDTrainer, calls: int) -> ULDTrainer:
    """Train as if Ctrl-C were pressed during a step; return the trainer, closed."""
    step, left = trainer.env.step_and_maybe_reset, iter(range(calls))

    def stepping(td: TensorDictBase) -> Any:
        if next(left) == calls - 1:
            signal.raise_signal(signal.SIGINT)
        return step(td)

    trainer.env.step_and_maybe_reset = stepping
    with closing(trainer), pytest.raises(KeyboardInterrupt):
        trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("memmap", "memory"),
        pytest.param("memory", "memmap", marks=pytest.mark.slow),
        *(pytest.param(each, each, marks=pytest.mark.slow) for each in ("memory", "memmap")),
    ],
)
def test_a_stopped_run_goes_on_with_the_same_frames(
    first: str, then: str, settings: AgentConfig, make_trainer: Make, tmp_path: Path
) -> None:
    old = make_trainer(tmp_path, Noise, config=settings, options={"buffer_storage": first})
    interrupted(old, 36)
    old.buffer.mark_newest_truncated()  # as resuming does
    with closing(make_trainer(tmp_path, Noise, config=settings, options={"buffer_storage": then})) as new:
        assert (new.started_from, new.stepper.updates) == (72, old.stepper.updates)
        before, restored = windows(old), windows(new)
        assert (before == restored).all()
        check_frames(restored)
        new.train()
        check_frames(windows(new))
        assert (new.step, new.stepper.updates) == (100, old.stepper.updates + 28)
