"""dm_control tasks: values against a direct rollout, order, action repeat, and what an end means."""

from __future__ import annotations

import dm_env
import numpy as np
import pytest
import torch
from dm_control import suite

from uld_torchrl.envs import make_env


def direct(domain: str, task: str, seed: int) -> dm_env.Environment:
    return suite.load(domain, task, task_kwargs={"random": seed})


def vector(time_step: dm_env.TimeStep) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in time_step.observation.values()]).astype(np.float32)


@pytest.mark.parametrize(
    ("domain", "task"), [("walker", "walk"), ("ball_in_cup", "catch"), ("quadruped", "run")]
)
def test_values_equal_a_direct_rollout_with_each_action_twice(domain: str, task: str) -> None:
    env, raw = make_env(f"dmc/{domain}-{task}", seed=4), direct(domain, task, seed=4)
    raw.reset()
    time_step, step = raw.reset(), env.reset()
    bounds = raw.action_spec()
    torch.manual_seed(0)
    for _ in range(20):
        np.testing.assert_array_equal(step["observation"][0], vector(time_step))
        stored, step = env.step_and_maybe_reset(env.rand_action(step))
        unit = stored["action"][0].double().numpy()
        action = (bounds.minimum + bounds.maximum) / 2 + (bounds.maximum - bounds.minimum) / 2 * unit
        reward = raw.step(action).reward
        time_step = raw.step(action)
        np.testing.assert_array_equal(stored["next", "observation"][0], vector(time_step))
        assert stored["next", "reward"].item() == np.float32(reward + time_step.reward)


def test_order_is_dm_controls_own_and_not_the_alphabets() -> None:
    observation = direct("walker", "walk", seed=0).reset().observation
    assert list(observation) == ["orientations", "height", "velocity"]  # height is a scalar
    height = make_env("dmc/walker-walk", seed=0).rollout(1)["next", "observation"][0, 0, 14]
    assert 0.5 < height < 2.5, "the walker's torso is about 1.3 m above the ground"


@pytest.mark.parametrize("env_id", ["dmc/cartpole-swingup", "dmc/point_mass-easy"])
def test_an_episode_is_500_steps_and_is_truncated_never_terminated(env_id: str) -> None:
    env = make_env(env_id, num_envs=2, seed=0)
    torch.manual_seed(0)
    steps = env.rollout(510, break_when_any_done=False)["next"]
    assert steps["done"].squeeze(-1).nonzero().tolist() == [[0, 499], [1, 499]]
    assert torch.equal(steps["truncated"], steps["done"]) and not steps["terminated"].any()


def test_an_end_that_dm_control_calls_terminal_is_a_truncation(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env("dmc/cartpole-swingup", seed=0)
    task = env._env.envs[0].unwrapped._env.task
    monkeypatch.setattr(task, "get_termination", lambda physics: 0.0)
    last = env.rand_step(env.reset())["next"]
    assert last["truncated"].all() and last["done"].all() and not last["terminated"].any()


def test_repeats_stop_at_the_end_of_the_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env("dmc/cartpole-swingup", seed=0)
    task = env._env.envs[0].unwrapped._env.task
    monkeypatch.setattr(task, "get_termination", lambda physics: 1.0)
    monkeypatch.setattr(task, "get_reward", lambda physics: 1.0)
    assert env.rand_step(env.reset())["next", "reward"].item() == 1.0
