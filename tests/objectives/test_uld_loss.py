"""``ULDLoss``: its construction, its settings and defaults, and what it returns.

What it shares with every TorchRL loss is in ``test_contract``, the numbers in ``test_encoder_loss``,
``test_value_loss`` and ``test_actor_loss``.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import warnings
from typing import Any

import pytest
import torch
from torchrl.data import Bounded, Categorical, OneHot

from uld_torchrl import PeriodicHardUpdate, ULDLoss, make_loss, make_networks
from uld_torchrl.config import LossConfig, ModelConfig
from uld_torchrl.errors import InputError

SPECS = {"box": Bounded(-1, 1, (2,)), "one-hot": OneHot(2)}


def test_forward_returns_what_out_keys_says(tools: Any) -> None:
    loss = tools.real_loss()
    out = loss(tools.random_window())
    assert set(out.keys()) == set(loss.out_keys)
    assert all(value.shape == () for value in out.values())
    assert {key for key, value in out.items() if value.requires_grad} == {
        "loss_encoder",
        "loss_qvalue",
        "loss_actor",
    }


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


def test_an_unknown_reduction(tools: Any) -> None:
    with pytest.raises(InputError, match="reduction must be one of none, mean, sum; got 'max'"):
        tools.real_loss(reduction="max")


NETWORKS = ["state_encoder", "state_action_encoder", "predictor", "actor_network", "qvalue_network"]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_that_is_no_tensordict_module_is_named(name: str) -> None:
    nets = make_networks(Bounded(-1, 1, (3,)), SPECS["box"], ModelConfig(8, 4, 8, 8, 5, 2.0))
    network = getattr(nets, name)
    bare = [network[0], network[1].module] if name == "qvalue_network" else network.module
    changed = dataclasses.replace(nets, **{name: bare})
    with pytest.raises(InputError, match=rf"^{name} must be a TensorDict module, got \w+: wrap it"):
        make_loss(changed, SPECS["box"])


@pytest.mark.parametrize("heads", [{"qvalue_network": []}, {"num_qvalue_nets": 0}])
def test_at_least_one_value_head(heads: dict[str, Any]) -> None:
    nets = make_networks(Bounded(-1, 1, (3,)), SPECS["box"], ModelConfig(8, 4, 8, 8, 5, 2.0))
    parts = {name: getattr(nets, name) for name in NETWORKS} | {"qvalue_network": nets.qvalue_network[0]}
    with pytest.raises(InputError, match="qvalue_network needs at least one value head, got 0"):
        ULDLoss(**(parts | heads), action_spec=SPECS["box"])


def test_a_single_value_network_is_copied_and_drawn_anew(tools: Any) -> None:
    nets = make_networks(Bounded(-1, 1, (3,)), SPECS["box"], ModelConfig(8, 4, 8, 8, 5, 2.0))
    loss = ULDLoss(
        nets.state_encoder,
        nets.state_action_encoder,
        nets.predictor,
        nets.actor_network,
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
    assert set(vars(LossConfig())) - used == {"exploration_noise", "exploration_noise_repeat"}
