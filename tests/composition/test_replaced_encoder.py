"""A replaced encoder: the user's own network over two observation entries, from environment to update.

Two ways to store two entries: name them in a subclass of ReplayKeys, or let the observation be a
nested tensordict. The networks after the encoder are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.data import Unbounded
from torchrl.envs import DMControlEnv, DoubleToFloat, EnvBase, RenameTransform, TransformedEnv

from uld_torchrl import make_loss, make_networks, make_policy, make_replay_buffer
from uld_torchrl.config import AgentConfig
from uld_torchrl.data import ReplayKeys
from uld_torchrl.trainers.adapter import TorchRLTrainer


class TwoSensors(nn.Module):
    """Encode position and velocity apart, and join them."""

    def __init__(self, z_s_dim: int) -> None:
        super().__init__()
        self.position, self.velocity = nn.Linear(3, z_s_dim), nn.Linear(2, z_s_dim)

    def forward(self, position: Tensor, velocity: Tensor) -> Tensor:
        return torch.tanh(self.position(position) + self.velocity(velocity))


@dataclass(frozen=True)
class TwoEntries(ReplayKeys):
    """One more entry to store, now and next; the fields are the list of what is stored."""

    observation: NestedKey = "position"
    next_observation: NestedKey = ("next", "position")
    velocity: NestedKey = "velocity"
    next_velocity: NestedKey = ("next", "velocity")


def flat_env() -> EnvBase:
    return TransformedEnv(DMControlEnv("cartpole", "swingup"), DoubleToFloat())


def nested_env() -> EnvBase:
    env = flat_env()
    nested = [("sensors", name) for name in ("position", "velocity")]
    env.append_transform(RenameTransform(["position", "velocity"], nested))
    return env


@pytest.mark.parametrize(
    ("make", "in_keys", "replay_keys"),
    [
        (flat_env, ["position", "velocity"], TwoEntries()),
        (
            nested_env,
            [("sensors", "position"), ("sensors", "velocity")],
            ReplayKeys(observation="sensors", next_observation=("next", "sensors")),
        ),
    ],
    ids=["two entries", "nested"],
)
def test_an_encoder_of_two_entries_acts_is_stored_and_learns(
    make: Callable[[], EnvBase],
    in_keys: list[NestedKey],
    replay_keys: ReplayKeys,
    config: AgentConfig,
) -> None:
    torch.manual_seed(0)
    env = make()
    nets = make_networks(Unbounded(1), env.action_spec, config.model)
    encoder = TensorDictModule(
        TwoSensors(config.model.z_s_dim), in_keys=in_keys, out_keys=["state_embedding"]
    )
    nets = dataclasses.replace(nets, state_encoder=encoder)
    loss = make_loss(nets, env.action_spec, config)
    buffer = make_replay_buffer(capacity=100, horizon=3, batch_size=4, keys=replay_keys)
    policy = make_policy(nets, env.action_spec, config)
    collector = Collector(env, policy, frames_per_batch=10, auto_register_policy_transforms=False)
    trainer = TorchRLTrainer(
        loss, buffer, collector, total_frames=30, config=config.optim, progress_bar=False
    )
    before = [parameter.clone() for parameter in encoder.parameters()]
    trainer.train()
    assert trainer.optimization_stepper.updates == 30
    assert not any(map(torch.equal, before, encoder.parameters()))
    window = buffer.sample()
    assert loss.in_keys[:2] == in_keys
    # What a step saw next is what the following step saw.
    same_episode = ~window["next", "done"][:, :-1, 0]
    for key in in_keys:
        after = ("next", *([key] if isinstance(key, str) else key))
        assert torch.equal(window[after][:, :-1][same_episode], window[key][:, 1:][same_episode])
