"""A run's environments on Ray: lanes stay whole from batch to batch, updates and weights go round."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from uld_torchrl import InputError, make_env, make_loss, make_networks, make_policy, make_replay_buffer
from uld_torchrl.config import AgentConfig, override, preset
from uld_torchrl.trainers import TorchRLTrainer, ray_collector

CONFIG = override(preset("debug"), ["run.num_envs=2", "run.random_steps=40"])


def networks(config: AgentConfig) -> tuple[Any, Any]:
    """Networks and action spec for CartPole."""
    env = make_env("CartPole-v1", num_envs=2)
    return make_networks(
        env.observation_spec["observation"], env.action_spec[0], config.model
    ), env.action_spec[0]


@pytest.mark.parametrize(("collectors", "frames"), [(2, 10), (0, 4), (1, 0)])
def test_frames_that_cannot_be_shared_out_are_refused(collectors: int, frames: int) -> None:
    nets, spec = networks(CONFIG)
    policy = make_policy(nets, spec, CONFIG)
    with pytest.raises(
        InputError, match=f"multiple of collectors \\({collectors}\\) x num_envs .*got {frames}"
    ):
        ray_collector("CartPole-v1", policy, CONFIG, collectors=collectors, frames_per_batch=frames)


def test_without_ray_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    nets, spec = networks(CONFIG)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'pip install "uld-torchrl\[ray\]"'):
        ray_collector("CartPole-v1", make_policy(nets, spec), CONFIG, collectors=1, frames_per_batch=4)


def test_an_unreachable_cluster_is_told() -> None:
    pytest.importorskip("ray", reason="install uld-torchrl[ray]")
    nets, spec = networks(CONFIG)
    policy = make_policy(nets, spec, CONFIG)
    with pytest.raises(InputError, match=r"no Ray cluster at '127\.0\.0\.1:1'"):
        ray_collector(
            "CartPole-v1", policy, CONFIG, collectors=1, frames_per_batch=4, ray_address="127.0.0.1:1"
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_lanes_are_whole_and_the_actors_get_new_weights() -> None:
    ray = pytest.importorskip("ray", reason="install uld-torchrl[ray]")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        torch.manual_seed(0)
        nets, spec = networks(CONFIG)
        policy = make_policy(nets, spec, CONFIG)
        collector = ray_collector(
            "CartPole-v1", policy, CONFIG, collectors=2, frames_per_batch=40, total_frames=160
        )
        sent, send = [], collector.update_policy_weights_
        collector.update_policy_weights_ = lambda: (sent.append(1), send())
        buffer = make_replay_buffer(capacity=1000, num_lanes=4, batch_size=8)
        trainer = TorchRLTrainer(
            make_loss(nets, spec, CONFIG),
            buffer,
            collector,
            total_frames=160,
            config=CONFIG.optim,
            progress_bar=False,
        )
        trainer.train()
        assert trainer.collected_frames == 160
        assert trainer.optimization_stepper.updates == 120  # the first 40 steps are random
        assert len(sent) == 3
        records = buffer.storage.get(slice(None))  # [time, lane]
        assert tuple(records.shape) == (40, 4)
        after, before = records["next", "observation"][:-1], records["observation"][1:]
        going_on = ~records["next", "done"][:-1, :, 0]
        assert going_on.sum() > 80
        assert torch.equal(after[going_on], before[going_on])
        assert not torch.equal(before[:, 0], before[:, 2])  # the actors' seeds differ
    finally:
        ray.shutdown()
