"""What the losses compute, against the equations written out with plain matrices.

Batches hold a terminated and a truncated step: only the first ends the return.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peers_small import BOX, CHOICE, SMALL, N, transitions
from tensordict import TensorDict
from torch import Tensor
from torch.distributions import Normal
from torchrl.data import Bounded, Unbounded, UnboundedDiscrete

from uld_torchrl.errors import InputError
from uld_torchrl.peers import DQNConfig, SACConfig, TD3Config
from uld_torchrl.peers.networks import make_peer, online_networks
from uld_torchrl.peers.stepper import PeerStepper

GAMMA = 0.9


def mlp(params: Any, *inputs: Tensor) -> Tensor:
    """Evaluate three layers with ReLU between, from their weights in order of their names."""
    flat = {key: value.detach() for key, value in params.flatten_keys(".").items()}
    numbers = sorted({key.rsplit(".", 1)[0] for key in flat})
    x = torch.cat(inputs, -1)
    for k, name in enumerate(numbers):
        x = x @ flat[f"{name}.weight"].mT + flat[f"{name}.bias"].unsqueeze(-2)
        x = x.relu() if k < len(numbers) - 1 else x
    return x


def twin(params: Any, observation: Tensor, action: Tensor) -> Tensor:
    """Return the values of both networks (2, batch)."""
    return mlp(params, observation.expand(2, -1, -1), action.expand(2, -1, -1)).squeeze(-1)


def bootstrapped(batch: TensorDict, after: Tensor) -> Tensor:
    """Return r + gamma (1 - terminated) V'."""
    alive = (~batch["next", "terminated"]).float().squeeze(-1)
    return batch["next", "reward"].squeeze(-1) + GAMMA * alive * after


def test_td3_regresses_both_values_on_the_least_target(make: Callable[..., PeerStepper]) -> None:
    peer = dataclasses.replace(SMALL["td3"], target_noise=0.0)
    loss, batch = make(peer).loss_module, transitions(peer)
    after = batch["next", "observation"]
    action = mlp(loss.target_actor_network_params, after).tanh()
    least = twin(loss.target_qvalue_network_params, after, action).min(0).values
    target = bootstrapped(batch, least)
    values = twin(loss.qvalue_network_params, batch["observation"], batch["action"])
    found, metadata = loss.value_loss(batch)
    torch.testing.assert_close(found, (values - target).square().mean(-1).sum())
    torch.testing.assert_close(metadata["target_value"], target)
    assert target[0] == batch["next", "reward"][0] and target[1] != batch["next", "reward"][1]


def test_td3_smooths_the_target_with_clipped_noise(make: Callable[..., PeerStepper]) -> None:
    """Noise far beyond its clip: every entry is moved by exactly the clip, and cut to [-1, 1]."""
    peer = dataclasses.replace(SMALL["td3"], target_noise=1e9, target_noise_clip=0.25)
    loss, batch = make(peer).loss_module, transitions(peer)
    torch.manual_seed(1)
    signs = torch.randn_like(batch["action"]).sign()
    after = batch["next", "observation"]
    action = (mlp(loss.target_actor_network_params, after).tanh() + 0.25 * signs).clamp(-1, 1)
    least = twin(loss.target_qvalue_network_params, after, action).min(0).values
    torch.manual_seed(1)
    _, metadata = loss.value_loss(batch)
    torch.testing.assert_close(metadata["target_value"], bootstrapped(batch, least))


def test_td3_climbs_the_first_value(make: Callable[..., PeerStepper]) -> None:
    peer = SMALL["td3"]
    loss, batch = make(peer).loss_module, transitions(peer)
    action = mlp(loss.actor_network_params, batch["observation"]).tanh()
    first, second = twin(loss.qvalue_network_params, batch["observation"], action).mean(-1)
    found, _ = loss.actor_loss(batch)
    torch.testing.assert_close(found, -first)
    assert not torch.isclose(first, second)


def squashed(params: Any, observation: Tensor, peer: SACConfig, seed: int) -> tuple[Tensor, Tensor]:
    """Draw tanh(x), x ~ N(mean, std^2), and its log-density: log N(x) - log(1 - tanh(x)^2), summed."""
    mean, log_std = mlp(params, observation).chunk(2, -1)
    drawn = Normal(mean, log_std.clamp(peer.log_std_min, peer.log_std_max).exp())
    torch.manual_seed(seed)
    x = drawn.rsample()
    return x.tanh(), (drawn.log_prob(x) - (1 - x.tanh().square()).log()).sum(-1)


def test_sac_takes_the_entropy_into_the_target(make: Callable[..., PeerStepper]) -> None:
    peer = dataclasses.replace(SMALL["sac"], temperature=0.3)
    loss, batch = make(peer).loss_module, transitions(peer)
    after = batch["next", "observation"]
    action, log_prob = squashed(loss.actor_network_params, after, peer, 7)
    least = twin(loss.target_qvalue_network_params, after, action).min(0).values
    target = bootstrapped(batch, least - 0.3 * log_prob)
    values = twin(loss.qvalue_network_params, batch["observation"], batch["action"])
    torch.manual_seed(7)
    found, metadata = loss.qvalue_v2_loss(batch)
    torch.testing.assert_close(found, (values - target).square().mean(-1).sum(), rtol=1e-4, atol=1e-5)
    error = (values - target).abs().max(0).values
    torch.testing.assert_close(metadata["td_error"], error, rtol=1e-4, atol=1e-5)


def test_sac_weighs_entropy_and_value_in_the_policy(make: Callable[..., PeerStepper]) -> None:
    peer = dataclasses.replace(SMALL["sac"], temperature=0.3)
    loss, batch = make(peer).loss_module, transitions(peer)
    action, log_prob = squashed(loss.actor_network_params, batch["observation"], peer, 7)
    least = twin(loss.qvalue_network_params, batch["observation"], action).min(0).values
    torch.manual_seed(7)
    found, metadata = loss.actor_loss(batch)
    torch.testing.assert_close(found, (0.3 * log_prob - least).mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metadata["log_prob"], log_prob, rtol=1e-4, atol=1e-4)
    # Two dimensions of -1 each: at an entropy of 1.5 the temperature is to fall, by log alpha (1.5 + 2).
    falling = loss.alpha_loss(torch.tensor([-1.5])).mean()
    torch.testing.assert_close(falling, loss.log_alpha * 3.5)


def test_dqn_takes_the_largest_target_value(make: Callable[..., PeerStepper]) -> None:
    peer = SMALL["dqn"]
    loss, batch = make(peer).loss_module, transitions(peer)
    largest = mlp(loss.target_value_network_params, batch["next", "observation"]).max(-1).values
    values = mlp(loss.value_network_params, batch["observation"])
    chosen = values.gather(-1, batch["action"].argmax(-1, keepdim=True)).squeeze(-1)
    error = (chosen - bootstrapped(batch, largest)).square()
    torch.testing.assert_close(loss(batch)["loss"], error.mean())
    torch.testing.assert_close(batch["td_error"].squeeze(-1), error)


@pytest.mark.parametrize("name", ["td3", "sac"])
def test_the_two_values_are_drawn_apart_and_as_torch_draws_them(name: str) -> None:
    torch.manual_seed(0)
    loss, _ = make_peer(dataclasses.replace(SMALL[name], hidden_dim=256), Unbounded(N), BOX)
    layers = loss.qvalue_network_params.flatten_keys(".")
    weights = [value for key, value in layers.items() if key.endswith("weight")]
    assert len(weights) == 3
    for weight in weights:
        bound = weight.shape[-1] ** -0.5  # nn.Linear: uniform within 1 / sqrt(inputs)
        assert not torch.equal(weight[0], weight[1])
        assert (weight.abs().amax((1, 2)) <= bound).all() and (weight.abs().amax((1, 2)) > 0.9 * bound).all()


def test_the_networks_have_the_published_sizes() -> None:
    """HalfCheetah, 17 numbers and 6 actions, counted by hand: weights and biases of each layer."""

    def layers(*widths: int) -> int:
        return sum((a + 1) * b for a, b in itertools.pairwise(widths))

    values = 2 * layers(23, 256, 256, 1)
    wanted = {
        TD3Config(): (layers(17, 256, 256, 6) + values, Bounded(-1, 1, (6,))),
        SACConfig(): (layers(17, 256, 256, 12) + values, Bounded(-1, 1, (6,))),
        DQNConfig(): (layers(17, 120, 84, 2), CHOICE),
    }
    for peer, (count, spec) in wanted.items():
        loss, _ = make_peer(peer, Unbounded(17), spec)
        found = (getattr(loss, f"{name}_params").parameters() for name in online_networks(loss))
        assert sum(p.numel() for parameters in found for p in parameters) == count


@pytest.mark.parametrize(
    ("peer", "observed", "action", "told"),
    [
        (TD3Config(), Unbounded(3), CHOICE, "agent td3 needs Box actions, got Discrete: take agent dqn"),
        (SACConfig(), Unbounded(3), CHOICE, "agent sac needs Box actions, got Discrete"),
        (DQNConfig(), Unbounded(3), BOX, "agent dqn needs Discrete actions, got Box: take agent td3, sac"),
        (TD3Config(), UnboundedDiscrete((3, 40, 40), dtype=torch.uint8), BOX, "must be a float vector"),
    ],
)
def test_tasks_that_a_peer_does_not_take_are_refused(
    peer: Any, observed: Any, action: Any, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        make_peer(peer, observed, action)
