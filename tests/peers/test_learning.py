"""Peers learn: two tasks whose steps are questions with known answers, in seconds.

As for ULD in ``tests/test_learning.py``: a score tells the random policy (6.7 of 20) and the best answer that
ignores the question (6.7 and 10) from what was learned.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from uld_torchrl.config import AgentConfig, RunConfig
from uld_torchrl.peers import DQNConfig, PeerConfig, SACConfig, TD3Config
from uld_torchrl.trainers import ULDTrainer

EPISODE = 20
RUN = RunConfig(total_steps=500, random_steps=100, eval_every=500, checkpoint_every=1000)


class Question(gymnasium.Env):
    """Shows a number of [-1, 1], pays for the action that answers it, shows the next; 20 times."""

    observation_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, discrete: bool) -> None:
        self.discrete = discrete
        self.action_space = Discrete(3) if discrete else Box(-1, 1, (1,), np.float32)

    def pay(self, action: Any) -> float:
        """Discrete: which third it lies in. Box: 1 - |action - number|."""
        if self.discrete:
            return float(action == int((self.shown[0] + 1) * 1.4999))
        return 1.0 - float(np.abs(action - self.shown).mean())

    def ask(self) -> np.ndarray:
        self.shown = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.shown

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self.ask(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        reward = self.pay(action)
        return self.ask(), reward, False, self.time == EPISODE, {}


SMALL = {"gamma": 0.0, "batch_size": 64, "hidden_dim": 64}  # an answer changes nothing that follows


@pytest.mark.parametrize(
    "peer",
    [
        TD3Config(policy_lr=3e-3, value_lr=3e-3, **SMALL),
        SACConfig(policy_lr=3e-3, value_lr=3e-3, temperature_lr=3e-3, temperature=0.1, **SMALL),
        DQNConfig(value_lr=3e-3, update_every=1, epsilon_steps=200, **SMALL),
    ],
    ids=["td3", "sac", "dqn"],
)
def test_a_peer_answers_questions(peer: PeerConfig, tmp_path: Path) -> None:
    trainer = ULDTrainer(
        lambda: Question(isinstance(peer, DQNConfig)), AgentConfig(run=RUN), run_dir=tmp_path, peer=peer
    )
    result = trainer.train()
    trainer.close()
    assert result.return_mean > 15.0
