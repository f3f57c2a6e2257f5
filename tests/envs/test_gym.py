"""Gymnasium environments: values against a direct rollout, action scaling, spaces, ends of episodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from uld_torchrl.envs import make_env
from uld_torchrl.envs.silence import without_harmless_warnings
from uld_torchrl.errors import InputError

VECTOR = Box(-1.0, 1.0, (2,), np.float32)


class Recorder(gymnasium.Env):
    """Keeps the actions that arrive; observations are ones."""

    def __init__(self, action_space: gymnasium.Space, observation_space: gymnasium.Space = VECTOR) -> None:
        self.action_space, self.observation_space = action_space, observation_space
        self.arrived: list[Any] = []

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return np.ones(self.observation_space.shape, self.observation_space.dtype), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.arrived.append(action)
        return self.reset()[0], 0.0, False, False, {}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    # Anew for each test, so that a test may change its arguments.
    gymnasium.register("Recorder-v0", Recorder)
    yield
    del gymnasium.registry["Recorder-v0"]


def record(actions: Any, num_envs: int = 1, **spaces: Any) -> list[list[Any]]:
    """Step a Recorder of the given spaces and return what arrived in each lane."""
    gymnasium.registry["Recorder-v0"].kwargs.update(spaces)
    env = make_env("Recorder-v0", num_envs=num_envs)
    step = env.reset()
    for action in actions:
        step = env.step(step.set("action", torch.as_tensor(action)))["next"].exclude("reward")
    return [lane.unwrapped.arrived for lane in env._env.envs]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_action_dimension_is_scaled_to_its_own_bounds(dtype: type) -> None:
    bounds = Box(np.array([-2, 0, -0.5], dtype), np.array([1, 10, 3.25], dtype), dtype=dtype)
    actions = torch.tensor([[[-1.0] * 3], [[1.0] * 3], [[0.0] * 3], [[0.5, -0.5, 1.0]]])
    (arrived,) = record(actions, action_space=bounds)
    expected = [[-2, 0, -0.5], [1, 10, 3.25], [-0.5, 5, 1.375], [0.25, 2.5, 3.25]]
    np.testing.assert_array_equal(arrived, expected)
    assert all(action.dtype == dtype for action in arrived)


def test_bounds_are_met_and_unit_bounds_change_nothing() -> None:
    low, high = np.array([0.1, -0.7, -1], np.float32), np.array([0.3, 1e-3, 1], np.float32)
    value = np.float32(0.3)
    actions = torch.tensor([[[-1.0] * 3], [[1.0] * 3], [[value.item()] * 3]])
    (arrived,) = record(actions, action_space=Box(low, high))
    np.testing.assert_array_equal(arrived[0], low)
    np.testing.assert_array_equal(arrived[1], high)
    assert arrived[2][2] == value


def test_lanes_get_their_own_actions() -> None:
    lanes = record([[[0.5], [-1.0]]], num_envs=2, action_space=Box(0.0, 4.0, (1,)))
    assert lanes == [[3.0], [0.0]]


def test_an_action_matrix_is_flattened() -> None:
    (arrived,) = record([[[-1.0, 0.0, 0.5, 1.0]]], action_space=Box(-2.0, 2.0, (2, 2)))
    np.testing.assert_array_equal(arrived[0], [[-2, 0], [1, 2]])


@pytest.mark.parametrize("start", [0, 5])
def test_one_hot_actions_arrive_as_numbers(start: int) -> None:
    actions = torch.eye(3, dtype=torch.int64)[:, None]
    (arrived,) = record(actions, action_space=Discrete(3, start=start))
    assert arrived == [start, start + 1, start + 2]


@pytest.mark.parametrize(
    "space", [Box(0, 255, (3,), np.uint8), Box(-np.inf, np.inf, (3,), np.float64), Box(-1, 1, (), np.float32)]
)
def test_vectors_of_any_type_become_float32(space: Box) -> None:
    gymnasium.registry["Recorder-v0"].kwargs.update(action_space=Discrete(2), observation_space=space)
    env = make_env("Recorder-v0", num_envs=2)
    expected = torch.ones(2, *space.shape or (1,))
    torch.testing.assert_close(env.reset()["observation"], expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("spaces", "parts"),
    [
        ({"action_space": Box(-np.inf, np.inf, (2,))}, ["action space Box(-inf, inf", "finite", "bounds"]),
        ({"action_space": Box(np.float32([0, 1]), np.float32([1, 1]))}, ["action space Box", "below"]),
        ({"action_space": Box(0, 3, (2,), np.int64)}, ["Box(0, 3, (2,), int64)", "Box of floats"]),
        ({"action_space": MultiDiscrete([2, 3])}, ["action space MultiDiscrete([2 3])", "Discrete"]),
        ({"action_space": MultiBinary(2)}, ["action space MultiBinary(2)"]),
        ({"observation_space": Dict(a=MultiBinary(2))}, ["observation space Dict('a'", "vectors"]),
        ({"observation_space": Box(0, 1, (8, 8, 3))}, ["(8, 8, 3)", "vectors"]),
        ({"observation_space": MultiDiscrete([4])}, ["observation space MultiDiscrete([4])", "vectors"]),
        ({"observation_space": Box(-1.0, 1.0, (0,))}, ["(0,)", "vectors"]),
    ],
)
def test_other_spaces_are_refused_by_name(spaces: dict[str, gymnasium.Space], parts: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        record([], **{"action_space": Discrete(2), **spaces})
    for part in ["gym/Recorder-v0", *parts]:
        assert part in str(refused.value)


@pytest.mark.parametrize("env_id", ["HalfCheetah-v4", "Hopper-v4", "Pendulum-v1"])
def test_values_equal_a_direct_rollout(env_id: str) -> None:
    env = make_env(env_id, seed=11)
    with without_harmless_warnings():
        raw = gymnasium.make(env_id)
    raw.reset(seed=11)
    observation, _ = raw.reset()
    step = env.reset()
    half_range = raw.action_space.high
    torch.manual_seed(0)
    for _ in range(60):
        np.testing.assert_array_equal(step["observation"][0], observation.astype(np.float32))
        stored, step = env.step_and_maybe_reset(env.rand_action(step))
        observation, reward, terminated, truncated, _ = raw.step(stored["action"][0].numpy() * half_range)
        np.testing.assert_array_equal(stored["next", "observation"][0], observation.astype(np.float32))
        assert stored["next", "reward"].item() == np.float32(reward)
        assert stored["next", "terminated"].item() == terminated
        assert stored["next", "truncated"].item() == truncated
        if terminated or truncated:
            observation, _ = raw.reset()


def balance(step: TensorDictBase) -> torch.Tensor:
    """Push CartPole towards where the pole falls: it stays up for the whole 500 steps."""
    push_right = (step["observation"] @ torch.tensor([0.0, 0.1, 1.0, 0.5]) > 0).long()
    return torch.nn.functional.one_hot(push_right, 2)


def run(env: EnvBase, steps: int, falling: list[bool]) -> TensorDictBase:
    """Step CartPole; in lanes that are ``falling`` always push right."""
    step, stored = env.reset(), []
    right = torch.tensor([0, 1]).expand(len(falling), 2)
    for _ in range(steps):
        action = torch.where(torch.tensor(falling)[:, None], right, balance(step))
        before, step = env.step_and_maybe_reset(step.set("action", action))
        stored.append(before)
    return torch.stack(stored, -1)


def test_falling_terminates_and_the_time_limit_truncates() -> None:
    steps = run(make_env("CartPole-v1", num_envs=2, seed=0), 500, falling=[True, False])
    fell, held = steps["next"].unbind(0)
    first_end = int(fell["done"].flatten().nonzero()[0])
    assert first_end < 15 and fell["terminated"][first_end] and not fell["truncated"].any()
    assert not held["done"][:-1].any()
    assert held["truncated"][-1] and held["done"][-1] and not held["terminated"][-1]


def test_lanes_end_and_begin_again_on_their_own() -> None:
    steps = run(make_env("CartPole-v1", num_envs=3, seed=2), 40, falling=[True, False, True])
    done = steps["next", "done"].squeeze(-1)
    ends = [lane.nonzero().flatten().tolist() for lane in done]
    assert len(ends[0]) >= 3 and ends[1] == [] and ends[0] != ends[2]
    for lane in range(3):
        for time in range(39):
            last, following = steps["next", "observation"][lane, time], steps["observation"][lane, time + 1]
            if done[lane, time]:
                assert following.abs().max() <= 0.05 < last.abs().max()  # CartPole begins within 0.05
            else:
                assert torch.equal(following, last)
