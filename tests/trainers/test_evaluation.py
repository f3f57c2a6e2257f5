"""Evaluation: right returns and lengths when lanes end at different times, and no traces elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from tensordict.nn import TensorDictModule
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, exploration_type

from uld_torchrl.envs import make_env
from uld_torchrl.trainers import Evaluation, evaluate
from uld_torchrl.trainers.evaluation import stream_seed


class Ends(gymnasium.Env):
    """Episodes of 1 to 9 steps, terminated or truncated; keeps the rewards of all its episodes."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Discrete(2)

    def __init__(self) -> None:
        self.episodes: list[list[float]] = []

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episodes.append([])
        self.length = int(self.np_random.integers(1, 10))
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.episodes[-1].append(float(self.np_random.integers(-50, 50)) + 0.25 * float(action))
        end = len(self.episodes[-1]) == self.length
        terminal = self.length % 2 == 0
        observation = np.array([len(self.episodes[-1])], np.float32)
        return observation, self.episodes[-1][-1], end and terminal, end and not terminal, {}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register("Ends-v0", Ends)
    yield
    del gymnasium.registry["Ends-v0"]


def lanes(env: EnvBase) -> list[Ends]:
    return [lane.unwrapped for lane in env._env.envs]


def always(choice: int) -> TensorDictModule:
    action = torch.nn.functional.one_hot(torch.tensor(choice), 2)
    return TensorDictModule(lambda x: action.expand(*x.shape[:-1], 2), ["observation"], ["action"])


@pytest.mark.parametrize("choice", [0, 1])
def test_each_lane_counts_its_first_episode_and_no_more(choice: int) -> None:
    env = make_env("Ends-v0", num_envs=7)
    result = evaluate(env, always(choice), seed=1)
    played = [next(filter(None, lane.episodes)) for lane in lanes(env)]  # resets alone leave empty ones
    assert result.lengths.tolist() == [len(episode) for episode in played]
    assert result.returns.tolist() == [sum(episode) for episode in played]
    assert len(set(result.lengths.tolist())) > 3
    assert any(len(list(filter(None, lane.episodes))) > 1 for lane in lanes(env))
    assert result.mean == pytest.approx(np.mean([sum(episode) for episode in played]))
    assert result.std == pytest.approx(np.std([sum(episode) for episode in played]))


@pytest.mark.parametrize(("wanted", "rounds"), [(3, 1), (6, 2), (7, 3)])
def test_more_episodes_than_lanes_are_played_in_rounds(wanted: int, rounds: int) -> None:
    env = make_env("Ends-v0", num_envs=3)
    result = evaluate(env, always(1), seed=1, episodes=wanted)
    again = evaluate(env, always(1), seed=1, episodes=wanted)
    assert len(result.returns) == len(result.lengths) == wanted
    assert torch.equal(result.returns, again.returns)
    # Whole rounds, and in each the first episode of every lane after its reset.
    whole = evaluate(env, always(1), seed=1, episodes=3 * rounds)
    assert torch.equal(whole.returns[:wanted], result.returns)
    assert torch.equal(evaluate(env, always(1), seed=1).returns, result.returns[:3])
    assert len(set(whole.returns.tolist())) > 2


def test_one_episode_has_no_spread() -> None:
    assert Evaluation(torch.tensor([3.0]), torch.tensor([2.0])).std == 0.0


def test_the_seed_decides() -> None:
    env = make_env("Ends-v0", num_envs=5)
    first, other, again = (evaluate(env, always(0), seed=seed) for seed in (1, 2, 1))
    assert torch.equal(first.returns, again.returns)
    assert torch.equal(first.lengths, again.lengths)
    assert not torch.equal(first.returns, other.returns)


def test_a_policy_that_samples_is_seeded_and_leaves_the_global_stream_alone() -> None:
    asked = []

    def sample(x: torch.Tensor) -> torch.Tensor:
        asked.append(exploration_type())
        return torch.nn.functional.one_hot(torch.randint(2, x.shape[:-1]), 2)

    policy = TensorDictModule(sample, ["observation"], ["action"])
    env = make_env("Ends-v0", num_envs=5)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = evaluate(env, policy, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    assert torch.equal(evaluate(env, policy, seed=1).returns, first.returns)
    assert set(asked) == {ExplorationType.DETERMINISTIC}


def test_on_step_sees_every_state_of_the_episode() -> None:
    env = make_env("Ends-v0", num_envs=1)
    seen: list[int] = []

    def note(env: EnvBase) -> None:
        seen.append(len(lanes(env)[0].episodes[-1]))

    result = evaluate(env, always(0), seed=4, on_step=note)
    assert result.lengths > 2
    assert seen == list(range(int(result.lengths) + 1))


def test_the_policy_is_not_differentiated() -> None:
    weight = torch.ones((), requires_grad=True)

    def act(x: torch.Tensor) -> torch.Tensor:
        value = weight * x
        assert not value.requires_grad
        return torch.nn.functional.one_hot((value[..., 0] > 2).long(), 2)

    policy = TensorDictModule(act, ["observation"], ["action"])
    result = evaluate(make_env("Ends-v0", num_envs=2), policy, seed=0)
    assert result.lengths.min() >= 1


def test_stream_seeds_differ_and_stay() -> None:
    seeds = {stream_seed(*parts) for parts in itertools.product(range(3), (1, 2), range(50))}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert stream_seed(0, 1, 2) == stream_seed(0, 1, 2) != stream_seed(0, 2, 1)
