"""Vector environments stepped as they are: Gymnasium's own, Dict and Discrete spaces, masks, final states."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

from uld_torchrl.envs import make_env, task_spaces
from uld_torchrl.errors import InputError

OWN_MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]


def test_gymnasiums_cart_pole_gives_what_it_gives_without_us() -> None:
    raw, env = gymnasium.make_vec("CartPole-v1", 3), make_env(gymnasium.make_vec("CartPole-v1", 3), seed=8)
    raw.reset(seed=8)
    now, _ = raw.reset()
    step, ended = env.reset(), np.zeros(3, bool)
    torch.manual_seed(0)
    seams = 0
    for _ in range(80):
        np.testing.assert_array_equal(step["observation"], now)
        stored, step = env.step_and_maybe_reset(env.rand_action(step))
        now, reward, terminated, truncated, _ = raw.step(stored["action"].argmax(-1).numpy())
        np.testing.assert_array_equal(env.seam, ended)
        np.testing.assert_array_equal(stored["next", "observation"], now)
        np.testing.assert_array_equal(stored["next", "reward"][:, 0], reward)
        np.testing.assert_array_equal(stored["next", "terminated"][:, 0], terminated)
        np.testing.assert_array_equal(stored["next", "truncated"][:, 0], truncated | ended)
        ended = terminated | truncated
        seams += int(env.seam.sum())
    assert seams > 5


class Coded(gymnasium.Env):
    """Observes (episode, time) in a Dict with a choice in it; records its actions; episodes of two steps."""

    observation_space = Dict(time=Discrete(3), place=Dict(episode=Box(0, 99, (), np.int64)))
    action_space = Discrete(3, start=-1)

    def __init__(self) -> None:
        self.episode, self.arrived = -1, []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.episode, self.time = self.episode + 1, 0
        return self._observe(), {}

    def _observe(self) -> dict[str, Any]:
        return {"place": {"episode": np.int64(self.episode)}, "time": self.time}

    def step(self, action: Any) -> tuple[Any, ...]:
        self.arrived.append(action)
        self.time += 1
        return self._observe(), 1.0, self.time == 2, False, {"odd": [1] * self.time}


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_dicts_and_choices_go_through_vector_environments(mode: AutoresetMode) -> None:
    inner = SyncVectorEnv([Coded, Coded], autoreset_mode=mode)
    env = make_env(VectorWrapper(inner))
    assert task_spaces(env).observation == Coded.observation_space
    assert env._env.single_action_space == Discrete(3), "the agent counts from 0"
    step = env.reset()
    assert step["observation"].tolist() == [[1, 0, 0, 0]] * 2
    for choice in (0, 2):
        stored, step = env.step_and_maybe_reset(
            step.set("action", torch.eye(3, dtype=torch.int64)[[choice, 1]])
        )
    assert stored["next", "observation"].tolist() == [[0, 0, 1, 0]] * 2
    assert stored["next", "terminated"].all() and not stored["next", "truncated"].any()
    assert [lane.arrived for lane in inner.envs] == [[-1, 1], [0, 0]]
    if mode is AutoresetMode.NEXT_STEP:
        _, step = env.step_and_maybe_reset(env.rand_action(step))
        assert env.seam.all()
    assert step["observation"].tolist() == [[1, 0, 0, 1]] * 2


class Batched(VectorEnv):
    """SAME_STEP with ``final_obs`` batched like the observations, and observations in one reused array."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    single_action_space = Box(-1, 1, (2,))
    num_envs = 2

    def __init__(self, wrap: Callable[[Any], Any]) -> None:
        self.wrap, self.time = wrap, np.zeros((2, 1))
        self.single_observation_space = wrap(Box(0, 9, (1,), np.float64))
        if isinstance(self.single_observation_space, dict):
            self.single_observation_space = Dict(self.single_observation_space)

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        self.time[:] = [[0], [1]]
        return self.wrap(self.time), {}

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        assert actions.shape == (2, 2) and actions.dtype == np.float32
        self.time += 1
        ended = self.time[:, 0] == 3
        info = {"final_obs": self.wrap(self.time.copy())}
        self.time[ended] = 0
        return self.wrap(self.time), np.ones(2, int), ended.astype(int), np.zeros(2, bool), info


@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"time": value}], ids=["Box", "Dict"])
def test_final_observations_may_be_batched_and_arrays_reused(wrap: Callable[[Any], Any]) -> None:
    env = make_env(Batched(wrap))
    after = env.rollout(5, break_when_any_done=False)
    assert after["observation"][..., 0].tolist() == [[0, 1, 2, 0, 1], [1, 2, 0, 1, 2]]
    assert after["next", "observation"][..., 0].tolist() == [[1, 2, 3, 1, 2], [2, 3, 1, 2, 3]]
    assert after["next", "done"][..., 0].tolist() == [[0, 0, 1, 0, 0], [0, 1, 0, 0, 1]]


class Forgetful(Batched):
    """DISABLED, and a masked reset leaves nothing of the other lanes in the reused array."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}

    def reset(self, *, options: Any = None, **_: Any) -> tuple[Any, dict[str, Any]]:
        self.time[:] = 0.5 if options is None else np.where(options["reset_mask"][:, None], 0.5, -99)
        return self.time, {}

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        self.time += [[1], [2]]
        return self.time, np.ones(2), np.array([False, self.time[1, 0] > 2]), np.zeros(2, bool), {}


def test_a_masked_reset_changes_nothing_in_the_other_lanes() -> None:
    env = make_env(Forgetful(lambda value: value))
    stored, step = env.step_and_maybe_reset(env.rand_action(env.reset()))
    assert stored["next", "observation"].flatten().tolist() == [1.5, 2.5]
    assert step["observation"].flatten().tolist() == [1.5, 0.5]


@pytest.mark.parametrize("mode", OWN_MODES)
def test_single_lanes_that_go_on_cannot_be_reset_but_all_can(
    mode: AutoresetMode, scripted: SimpleNamespace
) -> None:
    env = make_env(scripted.vector(mode))
    _, step = env.step_and_maybe_reset(env.rand_action(env.reset()))
    mask = torch.tensor([[True], [False], [False]])
    with pytest.raises(InputError, match="single lanes cannot be reset"):
        env.reset(step.clone().set("_reset", mask))
    again = env.reset(step.clone().set("_reset", torch.ones_like(mask)))
    assert again["observation"][:, 1:3].tolist() == [[1, 0]] * 3


def test_single_lanes_can_be_reset_where_the_environment_lets_us(scripted: SimpleNamespace) -> None:
    env = make_env(scripted.vector(AutoresetMode.DISABLED))
    _, step = env.step_and_maybe_reset(env.rand_action(env.reset()))
    mask = torch.tensor([[False], [True], [False]])
    again = env.reset(step.clone().set("_reset", mask))
    assert again["observation"][:, 1:3].tolist() == [[0, 1], [1, 0], [0, 1]]


def test_closing_closes_the_vector_environment(scripted: SimpleNamespace) -> None:
    inner = scripted.vector(AutoresetMode.DISABLED)
    make_env(inner).close()
    assert all(lane.closed for lane in inner.unwrapped.envs)
