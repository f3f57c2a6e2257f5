"""Environments come back to where they were: all that follows is the same, in another process too."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from uld_torchrl.envs import lane_states, make_env, restore_lanes
from uld_torchrl.envs.tapes import LaneState, known_random_state, random_state, restore_random_state


def played(env: EnvBase, td: TensorDictBase, steps: int, seed: int = 1) -> TensorDictBase:
    """Act at random and return the results of the steps, [num_envs, steps]."""
    torch.manual_seed(seed)
    found = []
    for _ in range(steps):
        stepped, td = env.step_and_maybe_reset(env.rand_action(td))
        found.append(stepped["next"])
    return torch.stack(found, 1)


def check_comes_back(name: Any, before: int, **options: Any) -> None:
    env, other = (make_env(name, num_envs=2, seed=seed, **options) for seed in (3, 99))
    torch.manual_seed(0)
    td = env.reset()
    for _ in range(before):
        _, td = env.step_and_maybe_reset(env.rand_action(td))
    states = lane_states(env)
    assert states is not None
    again, same = restore_lanes(other, states)
    assert same.all()
    key = "observation" if td.get("pixels", None) is None else "pixels"
    assert torch.equal(again[key], td[key])
    assert (played(env, td, 60) == played(other, again, 60)).all()
    for each in (env, other):
        each.close()


@pytest.mark.parametrize("before", [0, 1, 37])
@pytest.mark.parametrize(
    "name", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "tabular/chain", "gym/Hopper-v4"]
)
def test_gymnasiums(name: str, before: int) -> None:
    check_comes_back(name, before)


def test_control_suite() -> None:
    check_comes_back("dmc/finger-turn_hard", 20)


def test_atari() -> None:
    check_comes_back("atari/Pong", 20)


def test_between_this_process_and_workers() -> None:
    here, there = (make_env("CartPole-v1", num_envs=3, env_workers=n, seed=n) for n in (0, 2))
    td = here.reset()
    torch.manual_seed(0)
    for _ in range(25):
        _, td = here.step_and_maybe_reset(here.rand_action(td))
    again, same = restore_lanes(there, lane_states(here) or [])
    assert same.all() and torch.equal(again["observation"], td["observation"])
    back, same = restore_lanes(here, lane_states(there) or [])
    assert same.all() and torch.equal(back["observation"], td["observation"])
    there.close()


def test_a_state_goes_through_plain_data() -> None:
    env = make_env("Pendulum-v1", seed=0)
    env.rollout(5)
    (state,) = lane_states(env) or []
    copy = LaneState.from_dict(state.to_dict())
    assert np.array_equal(copy.actions, state.actions) and copy.before == state.before
    assert restore_lanes(make_env("Pendulum-v1", seed=1), [copy])[1].all()


class OwnChance(gymnasium.Env[Any, Any]):
    """Draws from a generator of its own, which it shows or not."""

    observation_space, action_space = Box(-np.inf, np.inf, (1,)), Discrete(2)

    def __init__(self) -> None:
        self.chance = np.random.RandomState(5)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self.chance.normal(size=1).astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.chance.normal(size=1).astype(np.float32), 0.0, False, False, {}


class Shown(OwnChance):
    def get_random_state(self) -> Any:
        return self.chance.get_state(legacy=False)

    def set_random_state(self, state: Any) -> None:
        key = np.asarray(state["state"]["key"], np.uint32)
        self.chance.set_state({**state, "state": {**state["state"], "key": key}})


def test_chance_of_ones_own_comes_back_if_it_is_shown() -> None:
    check_comes_back(Shown, 9)


def test_what_does_not_come_back_begins_a_new_episode() -> None:
    env, other = make_env(OwnChance, seed=0), make_env(OwnChance, seed=0)
    env.rollout(4)
    other.rollout(9)
    td, same = restore_lanes(other, lane_states(env) or [])
    assert not same.any() and td["observation"].isfinite().all()
    (state,) = lane_states(other) or []
    assert len(state.actions) == 0


def test_a_wrong_action_on_the_tape_is_noticed() -> None:
    env = make_env("Pendulum-v1", seed=0)
    env.rollout(6)
    (state,) = lane_states(env) or []
    state.actions[2] += 0.1
    assert not restore_lanes(make_env("Pendulum-v1", seed=0), [state])[1].any()


def test_a_users_vector_environment_says_that_it_cannot() -> None:
    class Own(gymnasium.vector.VectorWrapper):
        pass

    assert lane_states(make_env(Own(gymnasium.make_vec("CartPole-v1", 2)))) is None


def test_an_odd_np_random_is_no_reason_to_fail() -> None:
    env = gymnasium.make("CartPole-v1")
    env.unwrapped.np_random = np.random.RandomState(0)  # type: ignore[assignment]
    assert known_random_state(env) is None
    restore_random_state(env, None)


def test_random_states_of_a_game_hold_the_emulator() -> None:
    env = gymnasium.make("CartPole-v1")
    env.reset(seed=0)
    assert set(random_state(env)) == {"numpy"}
