"""What somebody writes on the first day: an environment of their own, train, load, predict, look.

``test_newcomer.py`` runs this file and checks its types, against the installed wheel only.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

import uld_torchrl
from uld_torchrl import Agent, AgentConfig, EnvironmentFault, InputError
from uld_torchrl.config import override


class Thermostat(gymnasium.Env[Any, np.ndarray]):
    """Keep a room at a wanted temperature; a Dict observation and an action in kilowatts."""

    observation_space = Dict({"room": Box(-50, 50, (1,)), "wanted": Box(15, 25, (1,))})
    action_space = Box(-2, 4, (1,))

    def _look(self) -> dict[str, np.ndarray]:
        return {"room": np.array([self.room]), "wanted": np.array([self.wanted])}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        self.room, self.wanted = self.np_random.uniform(5, 35), self.np_random.uniform(15, 25)
        return self._look(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.room += float(action[0]) - 0.05 * (self.room - 5)
        return self._look(), -abs(self.room - self.wanted), False, self.time == 20, {}


def train(root: Path) -> Agent:
    """Train two environments side by side, and again: a finished run only says its result."""
    config: AgentConfig = override(uld_torchrl.preset("debug"), ["run.num_envs=2", "run.total_steps=120"])
    result = uld_torchrl.train(config, Thermostat, run_dir=root, name="first", progress=False)
    again = uld_torchrl.train(config, Thermostat, run_dir=root, name="first", progress=False)
    assert again.return_mean == result.return_mean
    return uld_torchrl.load(result.path)


def play(agent: Agent) -> float:
    """Play one episode in the environment itself."""
    env = Thermostat()
    observation, _ = env.reset(seed=1)
    total, over = 0.0, False
    while not over:
        action = agent.predict(observation, deterministic=True)
        assert env.action_space.contains(action)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, over = total + reward, terminated or truncated
    return total


def main(root: Path) -> None:
    """Run everything."""
    agent = train(root)
    assert play(agent) < 0
    batch = {"room": np.zeros((7, 1), np.float32), "wanted": np.full((7, 1), 20, np.float32)}
    assert agent.predict(batch).shape == (7, 1)
    try:
        uld_torchrl.train("debug", "CartPoll-v1", run_dir=root)
    except InputError as error:
        assert "CartPole" in str(error)
    assert issubclass(EnvironmentFault, InputError)
    played = uld_torchrl.evaluate_run(root / "custom/Thermostat/first/seed0", env=Thermostat, episodes=3)
    assert len(played.result.returns) == 3


if __name__ == "__main__":
    main(Path(sys.argv[1]))
