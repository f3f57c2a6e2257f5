"""Environments of TorchRL whose actions are not in [-1, 1]: the spec is refused, ActionScaling mends it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import Unbounded
from torchrl.envs import ActionScaling, EnvBase, GymEnv, TransformedEnv

from uld_torchrl import InputError, make_env, make_networks
from uld_torchrl.config import AgentConfig
from uld_torchrl.trainers.adapter import TorchRLTrainer


def scaled() -> EnvBase:
    return TransformedEnv(GymEnv("Pendulum-v1"), ActionScaling())


def torque_step(env: EnvBase, action: float) -> TensorDict:
    """Return what follows one action after the reset of seed 0."""
    env.set_seed(0)
    td = env.reset()
    shape = env.action_spec.shape
    return env.step(td.set("action", torch.full(shape, action)))["next"]


def test_torchrls_own_pendulum_is_refused_until_its_actions_are_scaled() -> None:
    with pytest.raises(InputError, match=r"bounds -1 and 1, got low=\[-2.0\], high=\[2.0\].*ActionScaling"):
        make_networks(Unbounded(3), GymEnv("Pendulum-v1").action_spec)
    for env in (scaled(), make_env("Pendulum-v1")):
        make_networks(Unbounded(3), env.action_spec)


@pytest.mark.parametrize("action", [-1.0, -0.25, 0.5, 1.0])
def test_action_scaling_and_make_env_reach_the_whole_range(action: float) -> None:
    raw = torque_step(GymEnv("Pendulum-v1"), 2 * action)
    for env in (scaled(), make_env("Pendulum-v1")):
        found = torque_step(env, action)
        assert torch.allclose(found["observation"].reshape(-1), raw["observation"])
        assert torch.allclose(found["reward"].reshape(-1), raw["reward"])


def test_a_scaled_environment_of_torchrl_trains(make_parts: Callable, config: AgentConfig) -> None:
    env = scaled()
    agent = make_parts(env, 1)
    collector = Collector(
        env, agent.policy, frames_per_batch=5, init_random_frames=10, auto_register_policy_transforms=False
    )
    trainer = TorchRLTrainer(
        agent.loss, agent.buffer, collector, total_frames=30, config=config.optim, progress_bar=False
    )
    trainer.train()
    stored = agent.buffer[:]["action"]
    assert trainer.optimization_stepper.updates == 20
    assert stored.shape == (1, 30, 1) and float(stored.abs().max()) <= 1
