"""Each switch of the loss changes what it names and nothing else, and keeps the contract of the loss.

What the switched losses are worth is in ``test_switches_value`` and ``test_switches_encoder``; here the
package's own networks, tiny, are compared with those of the default, which share all weights that fit.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.data import Bounded, OneHot, Unbounded

from uld_torchrl import PeriodicHardUpdate, ULDLoss, make_loss, make_networks
from uld_torchrl.config import AgentConfig, LossConfig, ModelConfig
from uld_torchrl.errors import InputError

BOX, CHOICE = Bounded(-1, 1, (2,)), OneHot(2)
TINY = ModelConfig(z_s_dim=8, z_a_dim=4, z_sa_dim=8, hidden_dim=8, num_bins=5, bin_range=2.0)
NETWORKS = ("state_encoder", "state_action_encoder", "predictor", "actor_network", "qvalue_network")
ENCODER, VALUE, POLICY = "encoder_loss", "value_loss", "actor_loss"
# Each switch by its settings of the loss and of the model; what is compared with, and all that it changes.
LATENT = {"loss", "dynamics_error", "reward_error", "terminated_error", "reward_mae"}
TARGET = {"loss", "td_error", "target_value"}
VALUED = {ENCODER: set(), VALUE: TARGET | {"pred_value"}, POLICY: {"loss", "actor_value"}}
SWITCHES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, set[str]]]] = {
    "value_loss": ({"value_loss": "mse"}, {}, {}, {VALUE: {"loss"}}),
    "reward_loss": ({"reward_loss": "mse"}, {}, {}, {ENCODER: {"loss", "reward_error", "reward_mae"}}),
    "dynamics_target": (
        {"dynamics_target": "state_action", "unroll": False},
        {},
        {"unroll": False},
        {ENCODER: {"loss", "dynamics_error"}},
    ),
    "unroll": ({"unroll": False}, {}, {}, {ENCODER: LATENT}),
    "target_encoder": (
        {"target_encoder": False},
        {},
        {},
        {ENCODER: {"loss", "dynamics_error"}, VALUE: TARGET},
    ),
    "freeze_encoder": ({"freeze_encoder": True}, {}, {}, {}),
    "reward_scaling": (
        {"reward_scaling": False},
        {},
        {},
        {VALUE: TARGET | {"pred_value"}, POLICY: {"actor_value"}},
    ),
    "value_head": ({}, {"value_head": "linear"}, {}, VALUED),
    "one head": ({}, {"num_values": 1}, {}, VALUED),
    "three heads": ({}, {"num_values": 3}, {}, VALUED),
    "target_value": ({"target_value": "mean"}, {}, {}, {VALUE: TARGET}),
    "encoder_horizon": ({"encoder_horizon": 2}, {}, {}, {ENCODER: LATENT}),
    "end_to_end": ({"end_to_end": True}, {}, {}, {}),
    "predictor": ({}, {"predictor": "mlp"}, {}, {ENCODER: LATENT}),
    "infonce_coeff": ({"infonce_coeff": 0.1}, {}, {}, {ENCODER: {"loss"}}),
    "infonce_temperature": (
        {"infonce_coeff": 0.1, "infonce_temperature": 0.5},
        {},
        {"infonce_coeff": 0.1},
        {ENCODER: {"loss"}},
    ),
}
THEOREM = (
    {
        "value_loss": "mse",
        "reward_loss": "mse",
        "dynamics_target": "state_action",
        "unroll": False,
        "target_encoder": False,
        "freeze_encoder": True,
        "reward_scaling": False,
    },
    {"value_head": "linear", "num_values": 1, "z_sa_dim": 6},
)
ALL = {name: entry[:2] for name, entry in SWITCHES.items()} | {"theorem": THEOREM}
each_switch = pytest.mark.parametrize(("switch", "model"), ALL.values(), ids=ALL)


def _moved(tools: Any, switch: dict[str, Any], model: dict[str, Any], spec: Any = BOX, **kw: Any) -> ULDLoss:
    """A loss whose targets are unlike the online networks, and whose scales are, if they move, unlike 1."""
    loss = tools.real_loss(spec, model=replace(TINY, **model), **switch, **kw)
    torch.manual_seed(7)
    for parameter in loss.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    if loss.num_qvalue_nets == 3:  # the third head is to be the least one
        loss._modules["target_qvalue_network_params"]["module", "out", "bias"][2] -= 5
    loss.update_reward_scale_(0.5)
    loss.update_reward_scale_(2.0)
    return loss


def _share(loss: ULDLoss, source: ULDLoss) -> ULDLoss:
    """Give the loss all weights that fit, of m also the rows that both have."""
    theirs = source.state_dict()
    for key, value in loss.state_dict().items():
        given = theirs.get(key)
        if given is None or "scale" in key:
            continue
        if "predictor" in key:
            value[:9] = given[:9]
        elif value.shape == given.shape:
            value.copy_(given)
    return loss


def _window(tools: Any, spec: Any = BOX) -> TensorDict:
    td = tools.random_window(B=9, spec=spec)
    td["next", "terminated"][0, 0] = td["next", "terminated"][1, 1] = True
    return td


Entries = dict[str, torch.Tensor]


def _results(loss: ULDLoss, td: TensorDict, name: str) -> tuple[Entries, dict[str, Entries]]:
    """Outputs and each network's gradients of one loss, drawing the same random numbers."""
    torch.manual_seed(3)
    loss.zero_grad()
    value, metadata = getattr(loss, name)(td.clone())
    value.backward()
    gradients = {
        network: {
            str(key): torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for key, p in getattr(loss, f"{network}_params").items(True, True)
        }
        for network in NETWORKS
    }
    return {"loss": value.detach(), **dict(metadata.items())}, gradients


def _differ(one: Entries, other: Entries, rounding: float = 0.0) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if not torch.allclose(one[name], other[name], rtol=rounding, atol=rounding)}


def _in_double(td: TensorDict) -> TensorDict:
    return td.apply(lambda x: x.double() if x.is_floating_point() else x)


@pytest.mark.parametrize("spec", [BOX, CHOICE], ids=["box", "one-hot"])
@pytest.mark.parametrize("name", [ENCODER, VALUE, POLICY])
@pytest.mark.parametrize(("switch", "model", "base", "changes"), SWITCHES.values(), ids=SWITCHES)
def test_a_switch_changes_what_it_names_and_nothing_else(
    tools: Any, switch: Any, model: Any, base: Any, changes: dict[str, set[str]], name: str, spec: Any
) -> None:
    default = _moved(tools, base, {}, spec, policy_noise=0.2, noise_clip=0.3)
    switched = _share(_moved(tools, switch, model, spec, policy_noise=0.2, noise_clip=0.3), default)
    # Products are rounded otherwise with fewer rows of m, or under vmap where their input takes gradients;
    # all else is equal to the last bit.
    exact = not {"reward_loss", "end_to_end"} & set(switch)
    expected = changes.get(name, set())
    td = _window(tools, spec)
    if not exact:
        default, switched, td = default.double(), switched.double(), _in_double(td)
    (old, old_gradients), (new, new_gradients) = (_results(loss, td, name) for loss in (default, switched))
    rounding = 0.0 if exact else 1e-12
    assert _differ(old, new, rounding) == expected
    if expected & {"loss"} or (name, *switch) in [(ENCODER, "freeze_encoder"), (VALUE, "end_to_end")]:
        return
    for network in NETWORKS:
        one, other = old_gradients[network], new_gradients[network]
        if [(key, value.shape) for key, value in one.items()] == [(k, v.shape) for k, v in other.items()]:
            assert not _differ(one, other, rounding), network
        else:
            assert not any(gradient.any() for gradient in [*one.values(), *other.values()]), network


def test_freezing_takes_the_gradient_of_the_encoders_alone(tools: Any) -> None:
    default, frozen = _moved(tools, {}, {}), _moved(tools, {"freeze_encoder": True}, {})
    (_, old), (_, new) = (_results(loss, _window(tools), ENCODER) for loss in (default, frozen))
    assert not _differ(old["predictor"], new["predictor"])
    for network in ("state_encoder", "state_action_encoder"):
        assert all(gradient.any() for gradient in old[network].values())
        assert not any(gradient.any() for gradient in new[network].values())


OWN = {ENCODER: NETWORKS[:3], VALUE: NETWORKS[4:], POLICY: NETWORKS[3:4]}


@pytest.mark.parametrize("spec", [BOX, CHOICE], ids=["box", "one-hot"])
@pytest.mark.parametrize("name", OWN)
@each_switch
def test_gradients_reach_all_of_a_loss_own_networks_and_no_others(
    tools: Any, switch: dict[str, Any], model: dict[str, Any], name: str, spec: Any
) -> None:
    loss = _moved(tools, switch, model, spec)
    getattr(loss, name)(_window(tools, spec))[0].backward()
    frozen = NETWORKS[:2] if switch.get("freeze_encoder") else ()
    shared = NETWORKS[:2] if switch.get("end_to_end") and name == VALUE else ()
    for network in NETWORKS:
        for key, parameter in getattr(loss, f"{network}_params").items(True, True):
            if network in (*OWN[name], *shared) and network not in frozen:
                assert parameter.grad is not None and parameter.grad.any(), (network, key)
            else:
                assert parameter.grad is None, (network, key)
    targets = [value for key, value in loss.named_buffers() if key.startswith("target_")]
    assert len(targets) > 20 and not any(target.requires_grad for target in targets)


# Copies


def _outputs(loss: ULDLoss, td: TensorDict) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return dict(loss(td.clone()).items())


@each_switch
def test_a_copy_gives_the_same_and_is_independent(
    tools: Any, switch: dict[str, Any], model: dict[str, Any]
) -> None:
    loss, td = _moved(tools, switch, model), _window(tools)
    before, twin = _outputs(loss, td), copy.deepcopy(loss)
    for value in [*loss.parameters(), *loss.buffers()]:
        value.data.mul_(0)
    assert not _differ(_outputs(twin, td), before)
    sum(value for key, value in twin(td.clone()).items() if key.startswith("loss_")).backward()
    assert all(p.grad is None for p in loss.parameters())


@each_switch
def test_a_state_dict_gives_a_fresh_loss_the_same_outputs(
    tools: Any, switch: dict[str, Any], model: dict[str, Any]
) -> None:
    loss, td = _moved(tools, switch, model), _window(tools)
    fresh = tools.real_loss(model=replace(TINY, **model), **switch)
    assert _differ(_outputs(fresh, td), _outputs(loss, td))
    fresh.load_state_dict(loss.state_dict())
    assert not _differ(_outputs(fresh, td), _outputs(loss, td))


def test_a_state_dict_of_another_number_of_heads_or_rewards_is_refused(tools: Any) -> None:
    loss = tools.real_loss()
    for switch, model in (ALL["reward_loss"], ALL["one head"], ALL["three heads"], ALL["value_head"]):
        other = tools.real_loss(model=replace(TINY, **model), **switch)
        with pytest.raises((RuntimeError, ValueError, KeyError)):
            other.load_state_dict(loss.state_dict())


@each_switch
def test_double_computes_in_float64(tools: Any, switch: dict[str, Any], model: dict[str, Any]) -> None:
    loss, td = _moved(tools, switch, model, policy_noise=0.0), _window(tools)
    single = _outputs(loss, td)
    doubled = _outputs(loss.double(), _in_double(td))
    assert {value.dtype for value in doubled.values()} == {torch.float64}
    assert {p.dtype for p in loss.parameters()} == {torch.float64}
    for name, value in single.items():
        torch.testing.assert_close(value.double(), doubled[name], rtol=1e-4, atol=1e-5)


@each_switch
def test_drawing_anew_gives_targets_equal_to_the_networks(
    tools: Any, switch: dict[str, Any], model: dict[str, Any]
) -> None:
    loss = _moved(tools, switch, model)
    before = {key: value.clone() for key, value in loss.named_parameters()}
    loss.reset_parameters_recursive()
    after = dict(loss.named_parameters())
    assert all(not torch.equal(before[key], after[key]) for key in before)
    for network in NETWORKS:
        target = loss._modules.get(f"target_{network}_params")
        if target is not None:
            assert all(
                torch.equal(value, target[key])
                for key, value in getattr(loss, f"{network}_params").items(True, True)
            )
    assert (loss.reward_scale.item(), loss.target_reward_scale.item()) == (1, 1)


# Heads


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_listed_heads_are_taken_over_as_parameters_with_targets(heads: int) -> None:
    nets = make_networks(Unbounded(3), BOX, replace(TINY, num_values=heads))
    loss = make_loss(nets, BOX, AgentConfig(model=TINY))
    assert len(nets.qvalue_network) == loss.num_qvalue_nets == heads
    for key, value in loss.qvalue_network_params.items(True, True):
        given = torch.stack([dict(head.named_parameters())[".".join(key)] for head in nets.qvalue_network])
        assert torch.equal(value, given) and value.requires_grad and value.is_leaf
        assert torch.equal(loss._modules["target_qvalue_network_params"][key], given)
    online = {id(p) for p in loss.parameters()}
    assert {id(p) for p in loss.qvalue_network_params.values(True, True)} <= online
    assert len(list(loss.qvalue_network_params.parameters())) == 8  # four Linear layers


def test_a_linear_head_is_the_product_with_its_weights(tools: Any) -> None:
    nets = make_networks(Unbounded(3), BOX, replace(TINY, value_head="linear", num_values=1, z_sa_dim=6))
    loss, td = make_loss(nets, BOX, AgentConfig(model=TINY, loss=LossConfig(3, 2))), _window(tools)
    PeriodicHardUpdate(loss)
    f, g = nets.state_encoder.module, nets.state_action_encoder.module
    z_sa = g(f(td["observation"][:, 0]), td["action"][:, 0])
    (w,) = loss.qvalue_network_params.values(True, True)
    assert w.shape == (1, 1, 6) and w.any()
    torch.testing.assert_close(loss.value_loss(td)[1]["pred_value"], (z_sa @ w[0, 0]).detach())


# Keys


def _renamed(tools: Any, loss: ULDLoss, predicted: Any) -> ULDLoss:
    """The same parameters behind networks with nested names; m writes its prediction to ``predicted``."""
    z_s, z_sa = ("latent", "z_s"), ("latent", "z_sa")
    settings = LossConfig(3, 2, dynamics_target="state_action", unroll=False)
    nets = make_networks(Unbounded(3), BOX, replace(TINY, z_sa_dim=6), loss=settings)
    renamed = ULDLoss(
        TensorDictModule(nets.state_encoder.module, ["observation"], [z_s]),
        TensorDictModule(nets.state_action_encoder.module, [z_s, "action"], [z_sa]),
        TensorDictModule(nets.predictor.module, [z_sa], ["terminated_pred", predicted, "reward_logits"]),
        TensorDictModule(nets.actor_network.module, [z_s], ["action", "pre_activation"]),
        [TensorDictModule(head.module, [z_sa], ["state_action_value"]) for head in nets.qvalue_network],
        action_spec=BOX,
        horizon=3,
        n_steps=2,
        num_bins=5,
        bin_range=2.0,
        dynamics_target="state_action",
        unroll=False,
    )
    renamed.set_keys(state_embedding=z_s, state_action_embedding=z_sa)
    PeriodicHardUpdate(renamed)
    renamed.load_state_dict(loss.state_dict())
    return renamed


def test_the_key_of_the_predicted_pair_follows_the_embedding(tools: Any) -> None:
    switch = {"dynamics_target": "state_action", "unroll": False}
    loss, td = _moved(tools, switch, {"z_sa_dim": 6}), _window(tools)
    assert loss.predicted_key == ("next", "state_action_embedding")
    renamed = _renamed(tools, loss, ("next", "latent", "z_sa"))
    assert renamed.predicted_key == ("next", "latent", "z_sa")
    assert not _differ(_outputs(renamed, td), _outputs(loss, td))
    renamed.set_keys(state_action_embedding=None)
    assert renamed.predicted_key == ("next", "state_action_embedding")


@pytest.mark.parametrize("name", [ENCODER, VALUE, POLICY, "forward"])
def test_a_prediction_under_the_old_key_is_refused(tools: Any, name: str) -> None:
    loss = _moved(tools, {"dynamics_target": "state_action", "unroll": False}, {"z_sa_dim": 6})
    for key in (("next", "state_action_embedding"), ("next", "latent", "z_s")):
        with pytest.raises(InputError, match=r"predictor must write \('next', 'latent', 'z_sa'\), but it"):
            getattr(_renamed(tools, loss, key), name)(_window(tools))


def test_make_loss_hands_on_every_switch() -> None:
    """One at a time, so that no two can be confused; the loss itself has the settings' defaults."""
    default = LossConfig()
    attributes = {name: name for switch, *_ in SWITCHES.values() for name in switch}
    attributes |= {"value_loss": "value_kind", "reward_loss": "reward_kind"}
    attributes |= {"target_value": "target_kind", "encoder_horizon": "encoder_steps"}
    assert len(attributes) == 12
    for switch, model, *_ in SWITCHES.values():
        config = AgentConfig(model=replace(TINY, **model), loss=LossConfig(**switch))
        loss = make_loss(make_networks(Unbounded(3), BOX, config.model, loss=config.loss), BOX, config)
        found = {name: getattr(loss, attribute) for name, attribute in attributes.items()}
        steps = {} if "encoder_horizon" in switch else {"encoder_horizon": default.horizon}
        assert found == {name: switch.get(name, getattr(default, name)) for name in attributes} | steps
        assert loss.num_qvalue_nets == model.get("num_values", 2)
        assert loss.num_outputs == (1 if "reward_loss" in switch else 5)
    parameters = inspect.signature(ULDLoss).parameters
    assert all(parameters[name].default == getattr(default, name) for name in attributes)
