"""A run that is killed and resumed is the uninterrupted one, to the last bit.

Runs are killed in the middle of an episode and between two checkpoints. Environments that cannot be brought
back are cut at the seam, and said so. The environments themselves are in ``tests/envs/test_tapes.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from uld_torchrl.config import AgentConfig, override, preset
from uld_torchrl.trainers import ULDTrainer

Make = Callable[..., ULDTrainer]
CONFIG = override(
    preset("debug"),
    [
        "optim.batch_size=4",
        "optim.period=7",
        "run.total_steps=60",
        "run.random_steps=12",
        "run.eval_every=30",
        "run.checkpoint_every=22",
        "run.log_every=9",
    ],
)
IMAGES = ["model.conv_channels=2", "atari.frame_size=40", "pixels.frame_size=40", "replay.capacity=2000"]


class Killed(BaseException):
    """As SIGKILL: nothing is saved on the way out."""


def killed(trainer: ULDTrainer, step: int) -> None:
    """Train, and end without saving once ``step`` is reached."""
    report = trainer._report

    def reporting() -> dict[str, float]:
        figures = report()
        if trainer.step >= step:
            raise Killed
        return figures

    trainer._report = reporting  # type: ignore[method-assign]
    with pytest.raises(Killed):
        trainer.train()
    trainer.close()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(torch.equal(one, other)) if isinstance(one, torch.Tensor) else bool(one == other)


def finished(trainer: ULDTrainer) -> tuple[ULDTrainer, dict[str, str]]:
    trainer.train()
    trainer.close()
    files = {name: (trainer.run.path / name).read_text() for name in ("metrics.csv", "eval.csv")}
    return trainer, files


def check_same_run(make: Make, root: Path, env: Any, config: AgentConfig, **options: Any) -> None:
    whole, files = finished(make(root / "whole", env, config=config, options=options))
    killed(make(root / "cut", env, config=config, options=options), 41)
    resumed, again = finished(make(root / "cut", env, config=config, options=options))
    assert resumed.started_from == 22
    assert again == files
    assert same(dict(whole.agent.loss.state_dict()), dict(resumed.agent.loss.state_dict()))
    assert same(whole.buffer.state_dict(), resumed.buffer.state_dict())


@pytest.mark.parametrize(
    ("env", "changes", "workers"),
    [
        ("gym/Pendulum-v1", [], 0),
        ("CartPole-v1", ["optim.schedule=every_step", "run.num_envs=2"], 1),
        ("tabular/frozenlake4x4", ["loss.unroll=false"], 0),
        ("gym/Pendulum-v1", ["loss.exploration_noise_repeat=7"], 0),
        ("CartPole-v1", ["optim.lr_decay=linear"], 0),
        ("CartPole-v1", ["optim.updates_per_step=2"], 0),
    ],
)
def test_a_killed_run_is_the_uninterrupted_one(
    tmp_path: Path, make_trainer: Make, env: str, changes: list[str], workers: int
) -> None:
    check_same_run(make_trainer, tmp_path, env, override(CONFIG, changes), env_workers=workers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "changes"),
    [
        ("gym/HalfCheetah-v4", ["run.num_envs=2"]),
        ("gym/Hopper-v4", ["optim.schedule=every_step"]),
        ("dmc/walker-walk", []),
        ("atari/Pong", [*IMAGES, "optim.schedule=every_step", "run.num_envs=2"]),
        ("dmc-pixels/cartpole-balance", IMAGES),
    ],
)
def test_so_it_is_in_every_family(tmp_path: Path, make_trainer: Make, env: str, changes: list[str]) -> None:
    check_same_run(make_trainer, tmp_path, env, override(CONFIG, changes))


@pytest.mark.slow
def test_a_longer_run_is_the_same_as_one_that_was_as_long_from_the_start(
    tmp_path: Path, make_trainer: Make
) -> None:
    whole, files = finished(make_trainer(tmp_path / "whole", "gym/Pendulum-v1", config=CONFIG))
    finished(make_trainer(tmp_path / "two", "gym/Pendulum-v1", config=CONFIG, total_steps=30))
    resumed, again = finished(make_trainer(tmp_path / "two", "gym/Pendulum-v1", config=CONFIG))
    assert again == files
    assert same(whole.buffer.state_dict(), resumed.buffer.state_dict())


class Forgetful(gymnasium.Env[Any, Any]):
    """Counts steps over all episodes, which no replay of one episode brings back."""

    observation_space, action_space = Box(-np.inf, np.inf, (1,)), Discrete(2)

    def __init__(self) -> None:
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.array([self.steps], np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.array([self.steps], np.float32), 1.0, False, self.steps % 15 == 0, {}


def test_an_environment_that_cannot_come_back_is_cut_at_the_seam_and_said_so(
    tmp_path: Path, make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    killed(make_trainer(tmp_path, Forgetful, config=CONFIG), 41)
    resumed, _ = finished(make_trainer(tmp_path, Forgetful, config=CONFIG))
    assert "lane 0: the environment did not come back" in caplog.text
    after = resumed.buffer.state_dict()["records"]["next"]
    assert bool(after["truncated"][21]) and bool(after["done"][21])  # step 22, the checkpoint's newest
    assert not bool(after["truncated"][20])
