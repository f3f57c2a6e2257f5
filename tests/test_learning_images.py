"""The agent learns from images alone: where a bright square is, and which way it went.

Every step is a new question, as in ``test_learning``: a score tells apart nothing learned, the best answer
that ignores the image, and the image. Which way takes two frames: one alone does not show it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from uld_torchrl.config import override, preset
from uld_torchrl.trainers import ULDTrainer

EPISODE, SIDE, SQUARE = 20, 32, 8
SETTINGS = [
    "model.z_s_dim=64",
    "model.z_a_dim=32",
    "model.z_sa_dim=64",
    "model.hidden_dim=64",
    "model.conv_channels=8",
    f"pixels.frame_size={SIDE}",
    "loss.gamma=0",
    "loss.horizon=1",
    "loss.n_steps=1",
    # A few hundred updates: what an image means has to come from the rewards, and soon.
    "loss.reward_coeff=1",
    "optim.batch_size=64",
    "optim.period=25",
    "optim.image_shift=0",  # the answers are about places
    "optim.encoder_lr=3e-3",
    "optim.value_lr=3e-3",
    "optim.policy_lr=3e-3",
    "run.total_steps=600",
    "run.random_steps=150",
    "run.eval_every=600",
    "run.eval_episodes=10",
    "run.checkpoint_every=1000",
]


class Square(gymnasium.Env):
    """Shows a bright square on black, pays for the answer, shows the next; 20 times."""

    observation_space = Box(0, 255, (SIDE, SIDE, 1), np.uint8)

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        self.row, self.column = self.np_random.integers(0, SIDE - SQUARE, 2, endpoint=True)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        reward = self.pay(action)
        self.move()
        return self._seen(), reward, False, self.time == EPISODE, {}

    def _seen(self) -> np.ndarray:
        image = np.zeros((SIDE, SIDE, 1), np.uint8)
        image[self.row : self.row + SQUARE, self.column : self.column + SQUARE] = 255
        return image

    def pay(self, action: Any) -> float:
        """Return the reward of an answer, at most 1."""
        raise NotImplementedError

    def move(self) -> None:
        """Put the square somewhere else."""
        raise NotImplementedError


class Where(Square):
    """Continuous: point at the square; pays 1 - mean |action - place|, places from -1 to 1.

    Of 20, random answers get 6.7 and the best constant one, the middle, 10.
    """

    action_space = Box(-1, 1, (2,), np.float32)

    def pay(self, action: Any) -> float:
        place = 2 * np.array([self.row, self.column]) / (SIDE - SQUARE) - 1
        return 1.0 - float(np.abs(action - place).mean())

    def move(self) -> None:
        self.row, self.column = self.np_random.integers(0, SIDE - SQUARE, 2, endpoint=True)


class WhichWay(Square):
    """Discrete: say whether the square went left or right last; it wraps round. One frame does not show it.

    Of 20, random or constant answers get 10 on average, and 0.5 less for the first image, which shows none.
    """

    action_space = Discrete(2)
    way = 0

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.row, self.way = SIDE // 2, -1
        return self._seen(), {}

    def pay(self, action: Any) -> float:
        return float(action == self.way)

    def move(self) -> None:
        self.way = int(self.np_random.integers(2))
        self.column = (self.column + (6 if self.way else -6)) % (SIDE - SQUARE + 1)


# The mean of 10 episodes; the classes say what ignorance gets. After 600 steps seeds 0 to 4 scored 18.4,
# 17.7, 17.6, 17.8, 17.6 and 17.7, 19.0, 19.0, 19.0, 19.0.
@pytest.mark.parametrize(
    ("env", "frames", "bound"), [(Where, 1, 13.0), (WhichWay, 2, 15.0)], ids=["continuous", "discrete"]
)
def test_the_agent_learns_from_images(env: type[Square], frames: int, bound: float, tmp_path: Path) -> None:
    config = override(preset("debug"), [*SETTINGS, f"pixels.frame_stack={frames}"])
    trainer = ULDTrainer(env, config, run_dir=tmp_path)
    result = trainer.train()
    trainer.close()
    assert result.return_mean > bound
