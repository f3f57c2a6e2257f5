"""``ULDLoss`` as a TorchRL loss module: gradient isolation, reductions, state, weights.

Keys are in ``test_loss_keys``, the numbers in ``test_encoder_loss``, ``test_value_loss`` and
``test_actor_loss``; here the package's own networks are used, tiny.
"""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Bounded, Categorical, OneHot

from uld_torchrl import PeriodicHardUpdate, ULDLoss, make_loss, make_networks
from uld_torchrl.config import LossConfig, ModelConfig
from uld_torchrl.errors import InputError

NETWORKS = ("state_encoder", "state_action_encoder", "predictor", "actor_network", "qvalue_network")
OWN = {
    "loss_encoder": {"state_encoder", "state_action_encoder", "predictor"},
    "loss_qvalue": {"qvalue_network"},
    "loss_actor": {"actor_network"},
}
SPECS = {"box": Bounded(-1, 1, (2,)), "one-hot": OneHot(2)}


def _three(loss: ULDLoss, td: TensorDict) -> dict[str, torch.Tensor]:
    return {
        "loss_encoder": loss.encoder_loss(td)[0],
        "loss_qvalue": loss.value_loss(td)[0],
        "loss_actor": loss.actor_loss(td)[0],
    }


# Gradients


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("call", [_three, lambda loss, td: loss(td)], ids=["methods", "forward"])
@pytest.mark.parametrize("name", OWN)
def test_a_loss_reaches_all_its_own_parameters_and_no_others(
    tools: Any, spec: Any, call: Callable[..., Any], name: str
) -> None:
    loss, td = tools.real_loss(spec), tools.random_window(spec=spec)
    call(loss, td)[name].backward()
    for network in NETWORKS:
        for key, parameter in getattr(loss, f"{network}_params").items(True, True):
            if network in OWN[name]:
                assert parameter.grad is not None and parameter.grad.any(), (network, key)
            else:
                assert parameter.grad is None, (network, key)
    targets = [value for key, value in loss.named_buffers() if key.startswith("target_")]
    assert targets and not any(value.requires_grad for value in targets)


def test_forward_is_the_three_methods(tools: Any) -> None:
    loss, td = tools.real_loss(policy_noise=0.0), tools.random_window()
    alone = _three(loss, td)
    out = loss(td)
    for name, value in alone.items():
        torch.testing.assert_close(out[name], value, rtol=0, atol=0)
    parameters = list(loss.parameters())
    together = torch.autograd.grad(sum(out[name] for name in alone), parameters)
    apart = torch.autograd.grad(sum(alone.values()), parameters)
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_forward_returns_what_out_keys_says(tools: Any) -> None:
    loss = tools.real_loss()
    out = loss(tools.random_window())
    assert set(out.keys()) == set(loss.out_keys)
    assert all(value.shape == () for value in out.values())
    assert {key for key, value in out.items() if value.requires_grad} == set(OWN)


# Reductions, heads, weights


@pytest.mark.parametrize("name", OWN)
def test_none_gives_one_loss_a_window(tools: Any, name: str) -> None:
    td = tools.random_window()
    td["next", "terminated"][1, 0] = True
    losses = {
        reduction: tools.real_loss(reduction=reduction, policy_noise=0.0)(td.clone())[name]
        for reduction in ("none", "mean", "sum")
    }
    assert losses["none"].shape == (4,)
    torch.testing.assert_close(losses["none"].mean(), losses["mean"])
    torch.testing.assert_close(losses["none"].sum(), losses["sum"])
    # Each window's loss is its own: the batch of one gives the same.
    alone = tools.real_loss(reduction="none", policy_noise=0.0)(td[1:2].clone())[name]
    torch.testing.assert_close(alone, losses["none"][1:2])


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_loop_over_the_heads_equals_vmap(tools: Any, spec: Any) -> None:
    results = []
    for deactivate in (False, True):
        loss, td = tools.real_loss(spec, deactivate_vmap=deactivate), tools.random_window(spec=spec)
        torch.manual_seed(3)
        out = loss(td)
        total = out["loss_encoder"] + out["loss_qvalue"] + out["loss_actor"]
        results.append((out, torch.autograd.grad(total, list(loss.parameters()))))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_a_single_value_network_is_copied_and_drawn_anew(tools: Any) -> None:
    nets = make_networks(Bounded(-1, 1, (3,)), SPECS["box"], ModelConfig(8, 4, 8, 8, 5, 2.0))
    parts = (nets.state_encoder, nets.state_action_encoder, nets.predictor, nets.actor_network)
    loss = ULDLoss(
        *parts,
        nets.qvalue_network[0],
        action_spec=SPECS["box"],
        horizon=3,
        num_bins=5,
        bin_range=2.0,
        num_qvalue_nets=3,
    )
    PeriodicHardUpdate(loss)
    heads = loss.qvalue_network_params["module", "out", "weight"]
    assert heads.shape == (3, 1, 8)
    assert not torch.equal(heads[0], heads[1]) and not torch.equal(heads[1], heads[2])
    loss(tools.random_window())["loss_qvalue"].backward()
    assert heads.grad.flatten(1).any(-1).all()


@pytest.mark.parametrize("shape", ["B", "B1", "BH", "BH1"])
def test_priority_weights_only_when_asked_for(tools: Any, shape: str) -> None:
    td, weights = tools.random_window(), torch.tensor([1.0, 2.0, 0.0, 5.0])
    expand = {
        "B": weights.unsqueeze(-1).expand(4, 3),
        "B1": weights.reshape(4, 1, 1).expand(4, 3, 1),
        "BH": weights.unsqueeze(-1).repeat(1, 3),
        "BH1": weights.reshape(4, 1, 1).repeat(1, 3, 1),
    }
    each = tools.real_loss(reduction="none", policy_noise=0.0)(td.clone())
    plain = tools.real_loss(policy_noise=0.0)(td.clone())
    td["priority_weight"] = expand[shape]
    ignored = tools.real_loss(policy_noise=0.0)(td.clone())
    used = tools.real_loss(policy_noise=0.0, use_prioritized_weights=True)(td.clone())
    for name in OWN:
        torch.testing.assert_close(ignored[name], plain[name], rtol=0, atol=0)
        torch.testing.assert_close(used[name], (weights * each[name]).sum() / 8)


# State


def _changed(tools: Any, **kwargs: Any) -> ULDLoss:
    """Targets unlike the online networks, scales unlike 1."""
    loss = tools.real_loss(policy_noise=0.0, **kwargs)
    torch.manual_seed(7)
    for parameter in loss.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    loss.update_reward_scale_(0.5)
    loss.update_reward_scale_(2.0)
    return loss


def test_state_dict_round_trip(tools: Any) -> None:
    loss, td = _changed(tools, terminated_coeff=0.7), tools.random_window()
    other = tools.real_loss(policy_noise=0.0)
    other.reset_parameters_recursive()
    assert not (other(td.clone()) == loss(td.clone())).all()
    other.load_state_dict(loss.state_dict())
    assert (other(td.clone()) == loss(td.clone())).all()
    assert (other.reward_scale, other.target_reward_scale) == (2.0, 0.5)
    names = set(loss.state_dict())
    for network in ("state_encoder", "state_action_encoder", "actor_network", "qvalue_network"):
        assert any(name.startswith(f"target_{network}_params") for name in names)
    assert {"reward_scale", "target_reward_scale", "terminated_coeff"} <= names


def test_deepcopy_is_equal_and_independent(tools: Any) -> None:
    loss, td = _changed(tools), tools.random_window()
    before = loss(td.clone())
    twin = copy.deepcopy(loss)
    assert (twin(td.clone()) == before).all()
    for parameter in twin.parameters():
        parameter.data.zero_()
    PeriodicHardUpdate(twin).copy_()
    twin.reward_scale.fill_(9)
    assert (loss(td.clone()) == before).all()
    assert twin(td.clone())["actor_value"] == 0


def test_double(tools: Any) -> None:
    loss, td = _changed(tools), tools.random_window()
    single = loss(td.clone())
    twice = loss.double()(td.apply(lambda x: x.double() if x.is_floating_point() else x))
    assert all(value.dtype == torch.float64 for value in twice.values())
    for key, value in single.items():
        torch.testing.assert_close(twice[key], value.double(), rtol=1e-4, atol=1e-5)


def test_reset_restores_this_initialisation(tools: Any) -> None:
    loss = _changed(tools)
    old = {name: parameter.clone() for name, parameter in loss.named_parameters()}
    torch.manual_seed(11)
    loss.reset_parameters_recursive()
    for name, parameter in loss.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
            continue
        bound = math.sqrt(2) * math.sqrt(6 / (parameter.shape[-1] + parameter.shape[-2]))
        largest = parameter.abs().max().item()
        # Uniform: of 8 or more draws, one is above half the bound but for a chance of 2^-8.
        assert bound / 2 < largest <= bound, name
        assert not torch.equal(parameter, old[name]), name
    heads = loss.qvalue_network_params["module", "mlp", "l1", "weight"]
    assert not torch.equal(heads[0], heads[1])
    for network in set(NETWORKS) - {"predictor"}:
        online, target = getattr(loss, f"{network}_params"), getattr(loss, f"target_{network}_params")
        assert (online.data == target.data).all(), network
    assert (loss.reward_scale, loss.target_reward_scale) == (1.0, 1.0)


def test_targets_start_equal_and_are_not_parameters(tools: Any) -> None:
    loss = tools.real_loss()
    assert not any(name.startswith("target_") for name, _ in loss.named_parameters())
    for network in set(NETWORKS) - {"predictor"}:
        online, target = getattr(loss, f"{network}_params"), getattr(loss, f"target_{network}_params")
        for key, value in online.items(True, True):
            assert torch.equal(value, target[key]) and value.data_ptr() != target[key].data_ptr()


def test_it_warns_without_an_updater(tools: Any) -> None:
    loss = tools.real_loss(updater=False)
    with pytest.warns(UserWarning, match="No target network updater"):
        loss.value_loss(tools.random_window())
    PeriodicHardUpdate(loss)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss.value_loss(tools.random_window())


# Construction


@pytest.mark.parametrize(("n_steps", "horizon"), [(4, 3), (0, 3), (-1, 3)])
def test_n_steps_outside_the_horizon(tools: Any, n_steps: int, horizon: int) -> None:
    with pytest.raises(InputError, match=rf"n_steps must lie in 1 \.\.\. horizon \(3\), got {n_steps}"):
        tools.real_loss(n_steps=n_steps, horizon=horizon)


def test_unsupported_action_spec(tools: Any) -> None:
    with pytest.raises(InputError, match="action_spec must be a one-hot or a bounded float spec"):
        make_loss(make_networks(Bounded(-1, 1, (3,)), SPECS["box"]), Categorical(3))


def test_make_loss_hands_on_every_setting_and_halves_the_discrete_noise() -> None:
    from uld_torchrl.config import AgentConfig

    settings = LossConfig(
        horizon=4,
        n_steps=2,
        gamma=0.5,
        dynamics_coeff=2.0,
        reward_coeff=3.0,
        terminated_coeff=4.0,
        pre_activation_coeff=5.0,
        target_noise=0.6,
        target_noise_clip=0.8,
    )
    config = AgentConfig(model=ModelConfig(8, 4, 8, 8, 7, 2.0), loss=settings)
    for spec, scale in ((SPECS["box"], 1.0), (SPECS["one-hot"], 0.5)):
        loss = make_loss(make_networks(Bounded(-1, 1, (3,)), spec, config.model), spec, config)
        assert (loss.horizon, loss.n_steps, loss.gamma) == (4, 2, 0.5)
        assert (loss.dynamics_coeff, loss.reward_coeff, loss.terminated_coeff) == (2, 3, 4)
        assert loss.pre_activation_coeff == 5
        assert (loss.policy_noise, loss.noise_clip) == (0.6 * scale, 0.8 * scale)
        assert len(loss.bins) == 7 and loss.bins[-1].item() == pytest.approx(math.exp(2) - 1)


def test_defaults_are_those_of_the_settings() -> None:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(ULDLoss).parameters.items()
        if parameter.default is not parameter.empty
    }
    names = {"policy_noise": "target_noise", "noise_clip": "target_noise_clip"}
    known = {**vars(LossConfig()), **vars(ModelConfig())}
    compared = {name: known[names.get(name, name)] for name in defaults if names.get(name, name) in known}
    assert compared == {name: defaults[name] for name in compared}
    assert set(defaults) - set(compared) == {
        "num_qvalue_nets",
        "reduction",
        "deactivate_vmap",
        "use_prioritized_weights",
        "check_windows",
    }
    assert defaults["use_prioritized_weights"] is False
    # All of LossConfig is a setting of the loss, but for the acting noise.
    used = {names.get(name, name) for name in compared}
    assert set(vars(LossConfig())) - used == {"exploration_noise"}


def test_user_modules_of_any_kind_are_taken(tools: Any) -> None:
    """f may be any TensorDict module, such as one with two inputs."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 8)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.linear(torch.cat([a, b], -1))

    nets = make_networks(Bounded(-1, 1, (3,)), SPECS["box"], ModelConfig(8, 4, 8, 8, 5, 2.0))
    loss = ULDLoss(
        TensorDictModule(Two(), ["observation", ("extra", "goal")], ["state_embedding"]),
        nets.state_action_encoder,
        nets.predictor,
        nets.actor_network,
        nets.qvalue_network,
        action_spec=SPECS["box"],
        horizon=3,
        num_bins=5,
        bin_range=2.0,
    )
    PeriodicHardUpdate(loss)
    td = tools.random_window()
    td["extra", "goal"], td["next", "extra", "goal"] = torch.ones(4, 3, 1), torch.ones(4, 3, 1)
    assert ("next", "extra", "goal") in loss.in_keys
    assert torch.isfinite(loss(td)["loss_encoder"])
