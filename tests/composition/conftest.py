"""The scripted environment of these tests, the oracle that reads it, and an agent small enough for it.

An observation is (lane, episode, time), so that any record tells where it belongs. Worker processes
cannot import a test's helpers, so this module travels to them by value.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import cloudpickle
import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from uld_torchrl import make_loss, make_networks, make_policy, make_replay_buffer
from uld_torchrl.config import AgentConfig, LossConfig, ModelConfig, OptimConfig
from uld_torchrl.data import WindowReplayBuffer
from uld_torchrl.objectives import ULDLoss

cloudpickle.register_pickle_by_value(sys.modules[__name__])

HORIZON = 3
CONFIG = AgentConfig(
    model=ModelConfig(z_s_dim=8, z_a_dim=4, z_sa_dim=8, hidden_dim=8),
    loss=LossConfig(horizon=HORIZON, n_steps=2),
    optim=OptimConfig(batch_size=4, period=5),
)


class ClockEnv(EnvBase):
    """Lanes ``first`` ... whose episodes last 2 to 6 steps; even ones terminate, odd ones are truncated."""

    def __init__(self, num_lanes: int = 1, first: int = 0) -> None:
        super().__init__(batch_size=[num_lanes])
        shape = self.batch_size
        self.lane = torch.arange(first, first + num_lanes)
        self.episode, self.time = torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)
        self.observation_spec = Composite(observation=Unbounded((*shape, 3)), shape=shape)
        self.action_spec = Bounded(-1, 1, (*shape, 1))
        self.reward_spec = Unbounded((*shape, 1))
        flags = {name: Bounded(0, 1, (*shape, 1), dtype=torch.bool) for name in ("terminated", "truncated")}
        self.done_spec = Composite(**flags, done=flags["terminated"].clone(), shape=shape)

    def _reset(self, tensordict: TensorDictBase | None = None) -> TensorDict:
        reset = None if tensordict is None else tensordict.get("_reset", None)
        chosen = torch.ones(self.batch_size, dtype=torch.bool) if reset is None else reset.squeeze(-1)
        self.episode[chosen] += 1
        self.time[chosen] = 0
        no = torch.zeros(*self.batch_size, 1, dtype=torch.bool)
        flags = {"terminated": no, "truncated": no.clone(), "done": no.clone()}
        return TensorDict({"observation": self._observe(), **flags}, self.batch_size)

    def _observe(self) -> Tensor:
        return torch.stack([self.lane, self.episode, self.time], -1).float()

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        before = self._observe()
        self.time += 1
        terminated, truncated = ends(before)
        return TensorDict(
            {
                "observation": self._observe(),
                "reward": before.sum(-1, keepdim=True),
                "terminated": terminated,
                "truncated": truncated,
                "done": terminated | truncated,
            },
            self.batch_size,
        )

    def _set_seed(self, seed: int | None) -> None:
        """Nothing is random here."""


def ends(observation: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether the step after an observation (..., 3) is terminal, and truncated, by the script."""
    lane, episode, time = observation.split(1, -1)
    last = time + 1 == 2 + (lane + 2 * episode) % 5
    return last & (episode % 2 == 0), last & (episode % 2 == 1)


def strays(window: TensorDictBase) -> Tensor:
    """Return the windows [B] with a step that counts and does not follow its anchor in the same episode."""
    observation, steps = window["observation"], torch.arange(window.shape[1])
    expected = observation[:, :1].repeat(1, len(steps), 1)
    expected[..., 2] += steps
    follows = (observation == expected).all(-1)
    return (window["validity_mask"] & ~follows).any(-1)


@dataclass
class Parts:
    """What a user puts together."""

    loss: ULDLoss
    policy: TensorDictSequential
    buffer: WindowReplayBuffer


@pytest.fixture
def config() -> AgentConfig:
    """Settings of the small agent: windows of 3 steps, batches of 4, period 5."""
    return CONFIG


@pytest.fixture
def clock() -> type[ClockEnv]:
    """Return the scripted environment's class."""
    return ClockEnv


@pytest.fixture
def script() -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return the function that tells from observations which steps end an episode, and how."""
    return ends


@pytest.fixture
def find_strays() -> Callable[[TensorDictBase], Tensor]:
    """Return the oracle for windows."""
    return strays


@pytest.fixture
def make_parts() -> Callable[..., Parts]:
    """Build the small agent for an environment, with a replay buffer of ``num_lanes`` lanes."""

    def make(env: EnvBase, num_lanes: int, *, seed: int = 0, config: AgentConfig = CONFIG) -> Parts:
        torch.manual_seed(seed)
        spec = env.action_spec
        spec = spec[0] if spec.ndim > 1 else spec
        nets = make_networks(env.observation_spec["observation"], spec, config.model)
        buffer = make_replay_buffer(
            capacity=4000,
            num_lanes=num_lanes,
            horizon=config.loss.horizon,
            batch_size=config.optim.batch_size,
        )
        return Parts(make_loss(nets, spec, config), make_policy(nets, spec, config), buffer)

    return make
