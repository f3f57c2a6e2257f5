"""An environment that follows a script, and what its lanes must therefore give, worked out in plain Python.

Observations say where they come from: (lane, episode, step in the episode, last action).
"""

from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from uld_torchrl.envs import make_env

# Workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

Script = list[tuple[int, str]]

# Episodes of a lane: length and how it ends; then from the first one again.
SCRIPTS: tuple[Script, ...] = (
    [(3, "terminated"), (2, "truncated"), (4, "both")],
    [(5, "truncated"), (1, "terminated"), (1, "truncated")],
    [(2, "terminated"), (6, "terminated")],
)
REWARD = 100.0


class Scripted(gymnasium.Env):
    """Lane ``lane``: episodes of the lengths and endings of ``script``, over and over."""

    observation_space = Box(-np.inf, np.inf, (4,), np.float64)
    action_space = Box(-2.0, 6.0, (1,), np.float64)

    def __init__(self, lane: int = 0, script: Script = SCRIPTS[0], render_mode: str | None = None) -> None:
        self.lane, self.script, self.render_mode = lane, script, render_mode
        self.episode, self.time, self.seeds = -1, 0, []
        self.closed = False

    def _observe(self, action: float) -> np.ndarray:
        return np.array([self.lane, self.episode, self.time, action])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.seeds.append(seed)
        self.episode, self.time = self.episode + 1, 0
        return self._observe(0.0), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        length, ending = self.script[self.episode % len(self.script)]
        assert self.time <= length, "stepped past the end of an episode"
        ended = self.time == length
        terminated, truncated = ended and ending != "truncated", ended and ending != "terminated"
        return self._observe(action.item()), self.time + REWARD * action.item(), terminated, truncated, {}

    def render(self) -> np.ndarray:
        return np.full((2, 3, 3), self.time, np.uint8)

    def close(self) -> None:
        self.closed = True


def expect(lane: int, actions: list[float], *, seams: bool = False, first_episode: int = 0) -> list[tuple]:
    """Return the records (before, action, reward, terminated, truncated, after, seam) of a lane.

    ``actions`` are in [-1, 1]; ``seams`` says whether a step lies between two episodes.
    """
    records, episode, time, last, between = [], first_episode, 0, 0.0, False
    for unit in actions:
        before = (lane, episode, time, last)
        if between:
            episode, time, last, between = episode + 1, 0, 0.0, False
            records.append((before, unit, 0.0, False, True, (lane, episode, 0, 0.0), True))
            continue
        native = 2.0 + 4.0 * unit
        time, last = time + 1, native
        length, ending = SCRIPTS[lane][episode % len(SCRIPTS[lane])]
        flags = (time == length and ending != "truncated", time == length and ending != "terminated")
        records.append((before, unit, time + REWARD * native, *flags, (lane, episode, time, last), False))
        if time == length and seams:
            between = True
        elif time == length:
            episode, time, last = episode + 1, 0, 0.0
    return records


def makers() -> list[Any]:
    return [partial(Scripted, lane, script) for lane, script in enumerate(SCRIPTS)]


def vector(mode: AutoresetMode) -> VectorWrapper:
    """Return a vector environment that make_env must step as it is."""
    return VectorWrapper(SyncVectorEnv(makers(), autoreset_mode=mode))


KINDS = {
    "lanes": lambda: make_env(SyncVectorEnv(makers())),
    "workers": lambda: make_env(SyncVectorEnv(makers()), env_workers=2),
    "disabled": lambda: make_env(vector(AutoresetMode.DISABLED)),
    "same_step": lambda: make_env(vector(AutoresetMode.SAME_STEP)),
    "next_step": lambda: make_env(vector(AutoresetMode.NEXT_STEP)),
}


def play(env: EnvBase, steps: int, seed: int = 0) -> tuple[TensorDictBase, torch.Tensor]:
    """Step with random actions in eighths, exact in float32; return steps [lanes, T] and seams."""
    generator = torch.Generator().manual_seed(seed)
    td, stored, seams = env.reset(), [], []
    for _ in range(steps):
        action = torch.randint(-8, 9, (env.num_envs, 1), generator=generator) / 8
        before, td = env.step_and_maybe_reset(td.set("action", action))
        stored.append(before.clone())
        seams.append(env.seam)
    return torch.stack(stored, 1), torch.stack(seams, 1)


@pytest.fixture(scope="session")
def scripted() -> SimpleNamespace:
    return SimpleNamespace(
        Env=Scripted, expect=expect, makers=makers, vector=vector, kinds=KINDS, play=play, scripts=SCRIPTS
    )
