"""Fixtures for the trainer's tests: settings of a second or less, one trained run, a clean registry.

Nothing here learns; that is in ``tests/test_learning.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from brief import brief_episodes

from uld_torchrl.config import AgentConfig, override, preset
from uld_torchrl.envs import EnvLike
from uld_torchrl.trainers import ULDTrainer

TINY = override(
    preset("debug"),
    [
        "optim.batch_size=4",
        "optim.period=5",
        "run.total_steps=40",
        "run.random_steps=10",
        "run.eval_every=20",
        "run.checkpoint_every=20",
        "run.log_every=10",
    ],
)

MakeTrainer = Callable[..., ULDTrainer]


@pytest.fixture(scope="session")
def tiny() -> AgentConfig:
    """Settings of a run of 40 steps: 10 random ones, a checkpoint and an evaluation at 20 and 40."""
    return TINY


@pytest.fixture(scope="session")
def make_trainer() -> MakeTrainer:
    """Make a trainer in ``root``; keywords replace fields of the run's settings.

    Episodes of CartPole and Pendulum are brief; those in worker processes are not.
    """

    def make(
        root: Path,
        env: EnvLike = "gym/CartPole-v1",
        *,
        seed: int = 0,
        config: AgentConfig = TINY,
        options: dict[str, Any] | None = None,
        **run: int,
    ) -> ULDTrainer:
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, **run))
        with brief_episodes():
            return ULDTrainer(env, config, name="tiny", run_dir=root, seed=seed, **(options or {}))

    return make


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, make_trainer: MakeTrainer) -> Path:
    """Root that holds one finished run of the tiny settings; copy it before changing it."""
    root = tmp_path_factory.mktemp("finished")
    trainer = make_trainer(root)
    trainer.train()
    trainer.close()
    return root
