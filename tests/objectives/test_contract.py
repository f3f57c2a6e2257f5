"""``ULDLoss`` keeps the contract of TorchRL's loss modules. What is promised, and where it is tested:

- keys (accepted, unknown, renamed, nested), unchanged input, dispatch, selected outputs: ``test_loss_keys``
- gradients reach each loss's own networks only; vmap = loop; reductions and priority weights: here
- state_dict, deepcopy, ``double``, ``to``, ``reset_parameters_recursive``: here
- ``torch.compile(fullgraph=True)`` = eager, compiled once: ``test_loss_compile``
- the helpers of TorchRL's own loss tests: ``test_torchrl_contract``

Each is asked of the box and of the one-hot action, on the package's own networks, tiny.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, OneHot

from uld_torchrl import PeriodicHardUpdate, ULDLoss
from uld_torchrl.errors import InputError
from uld_torchrl.functional import symexp_bins

NETWORKS = ("state_encoder", "state_action_encoder", "predictor", "actor_network", "qvalue_network")
OWN = {
    "loss_encoder": {"state_encoder", "state_action_encoder", "predictor"},
    "loss_qvalue": {"qvalue_network"},
    "loss_actor": {"actor_network"},
}
SPECS = {"box": Bounded(-1, 1, (2,)), "one-hot": OneHot(2)}

both_actions = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def _three(loss: ULDLoss, td: TensorDict) -> dict[str, torch.Tensor]:
    return {
        "loss_encoder": loss.encoder_loss(td)[0],
        "loss_qvalue": loss.value_loss(td)[0],
        "loss_actor": loss.actor_loss(td)[0],
    }


def _targets(loss: ULDLoss) -> dict[str, torch.Tensor]:
    return {key: value for key, value in loss.named_buffers() if key.startswith("target_")}


def _changed(tools: Any, spec: Any = SPECS["box"], **kwargs: Any) -> ULDLoss:
    """A loss whose targets are unlike the online networks, and whose scales are unlike 1."""
    loss = tools.real_loss(spec, **({"policy_noise": 0.0} | kwargs))
    torch.manual_seed(7)
    for parameter in loss.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    loss.update_reward_scale_(0.5)
    loss.update_reward_scale_(2.0)
    return loss


def _outputs(loss: ULDLoss, td: TensorDict) -> TensorDict:
    """All outputs, from the same random numbers (the discrete policy always draws some)."""
    torch.manual_seed(3)
    return loss(td.clone())


def _same(one: TensorDict, other: TensorDict) -> None:
    torch.testing.assert_close(dict(one.items()), dict(other.items()), rtol=0, atol=0)


# Gradients


@both_actions
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
    assert all(target.grad is None and not target.requires_grad for target in _targets(loss).values())


@both_actions
def test_one_backward_over_the_sum_gives_each_network_its_own_gradient(tools: Any, spec: Any) -> None:
    loss, td = _changed(tools, spec), tools.random_window(spec=spec)
    before = {name: target.clone() for name, target in _targets(loss).items()}
    out = _outputs(loss, td)
    sum(out[name] for name in OWN).backward()
    together = {name: parameter.grad.clone() for name, parameter in loss.named_parameters()}
    for name, networks in OWN.items():
        loss.zero_grad()
        _outputs(loss, td)[name].backward()
        for network in networks:
            prefix = f"{network}_params."
            own = {key: p.grad for key, p in loss.named_parameters() if key.startswith(prefix)}
            assert own
            for key, gradient in own.items():
                torch.testing.assert_close(together[key], gradient, rtol=0, atol=0, msg=key)
    assert all(target.grad is None and not target.requires_grad for target in _targets(loss).values())
    torch.testing.assert_close(_targets(loss), before, rtol=0, atol=0)


def test_forward_is_the_three_methods(tools: Any) -> None:
    loss, td = _changed(tools), tools.random_window()
    alone, out = _three(loss, td), loss(td)
    for name, value in alone.items():
        torch.testing.assert_close(out[name], value, rtol=0, atol=0)


@both_actions
def test_a_loop_over_the_heads_equals_vmap(tools: Any, spec: Any) -> None:
    results = []
    for deactivate in (False, True):
        loss, td = _changed(tools, spec, deactivate_vmap=deactivate), tools.random_window(spec=spec)
        out = _outputs(loss, td)
        total = sum(out[name] for name in OWN)
        results.append((dict(out.items()), torch.autograd.grad(total, list(loss.parameters()))))
    torch.testing.assert_close(*results)


# Reductions and weights


@both_actions
@pytest.mark.parametrize("name", OWN)
def test_none_gives_one_loss_a_window(tools: Any, spec: Any, name: str) -> None:
    td = tools.random_window(spec=spec)
    td["next", "terminated"][1, 0] = True
    losses = {
        reduction: _outputs(_changed(tools, spec, reduction=reduction), td)[name]
        for reduction in ("none", "mean", "sum", None)
    }
    assert losses["none"].shape == (4,) and losses["none"].unique().numel() == 4
    torch.testing.assert_close(losses["none"].mean(), losses["mean"])
    torch.testing.assert_close(losses["none"].sum(), losses["sum"])
    torch.testing.assert_close(losses[None], losses["mean"], rtol=0, atol=0)


@pytest.mark.parametrize("name", OWN)
def test_each_window_has_a_loss_of_its_own(tools: Any, name: str) -> None:
    td, loss = tools.random_window(), _changed(tools, reduction="none")
    torch.testing.assert_close(loss(td[1:2].clone())[name], loss(td.clone())[name][1:2])


WEIGHTS = torch.tensor([1.0, 2.0, 0.0, 5.0])


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("key", ["priority_weight", ("replay", "weight")], ids=["plain", "nested"])
@pytest.mark.parametrize("asked", [True, "auto"])
def test_priority_weights_enter_every_reduction(tools: Any, reduction: str, key: Any, asked: Any) -> None:
    td = tools.random_window()
    each = _changed(tools, reduction="none")(td.clone())
    loss = _changed(tools, reduction=reduction, use_prioritized_weights=asked)
    loss.set_keys(priority_weight=key)
    td[key] = WEIGHTS.unsqueeze(-1).repeat(1, 3)
    out = loss(td)
    for name in OWN:
        weighted = WEIGHTS * each[name]
        expected = {"none": weighted, "sum": weighted.sum(), "mean": weighted.sum() / WEIGHTS.sum()}
        torch.testing.assert_close(out[name], expected[reduction])


@pytest.mark.parametrize("shape", ["B", "B1", "BH", "BH1"])
def test_priority_weights_come_in_any_of_the_usual_shapes(tools: Any, shape: str) -> None:
    td, each = tools.random_window(), _changed(tools, reduction="none")(tools.random_window())
    td["priority_weight"] = {
        "B": WEIGHTS.unsqueeze(-1).expand(4, 3),
        "B1": WEIGHTS.reshape(4, 1, 1).expand(4, 3, 1),
        "BH": WEIGHTS.unsqueeze(-1).repeat(1, 3),
        "BH1": WEIGHTS.reshape(4, 1, 1).repeat(1, 3, 1),
    }[shape]
    used = _changed(tools, use_prioritized_weights=True)(td.clone())
    ignored, plain = _changed(tools)(td.clone()), _changed(tools)(tools.random_window())
    for name in OWN:
        torch.testing.assert_close(used[name], (WEIGHTS * each[name]).sum() / 8)
        torch.testing.assert_close(ignored[name], plain[name], rtol=0, atol=0)


def test_the_policy_loss_on_what_the_value_loss_returns_is_weighted_too(tools: Any) -> None:
    """As the stepper calls it."""
    td, each = tools.random_window(), _changed(tools, reduction="none")(tools.random_window())
    td["priority_weight"] = WEIGHTS.unsqueeze(-1).repeat(1, 3)
    loss = _changed(tools, use_prioritized_weights=True)
    value = loss.value_loss(td)[1]
    expected = (WEIGHTS * each["loss_actor"]).sum() / 8
    torch.testing.assert_close(loss.actor_loss(value)[0], expected)


@pytest.mark.parametrize("name", ["encoder_loss", "value_loss", "__call__"])
def test_weights_asked_for_but_missing_are_refused(tools: Any, name: str) -> None:
    td = tools.random_window()
    with pytest.raises(InputError, match="lacks the entry 'priority_weight'"):
        getattr(tools.real_loss(use_prioritized_weights=True), name)(td)
    getattr(tools.real_loss(use_prioritized_weights="auto"), name)(td)


# State


@both_actions
def test_state_dict_round_trip(tools: Any, spec: Any) -> None:
    loss, td = _changed(tools, spec, terminated_coeff=0.7), tools.random_window(spec=spec)
    other = tools.real_loss(spec, policy_noise=0.0)
    other.reset_parameters_recursive()
    assert not torch.equal(_outputs(other, td)["loss_qvalue"], _outputs(loss, td)["loss_qvalue"])
    result = other.load_state_dict(loss.state_dict(), strict=True)
    assert result is None or not (result.missing_keys or result.unexpected_keys)
    _same(_outputs(other, td), _outputs(loss, td))
    assert (other.reward_scale, other.target_reward_scale) == (2.0, 0.5)
    assert other.terminated_coeff == pytest.approx(0.7)
    torch.testing.assert_close(dict(other.state_dict()), dict(loss.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize(
    "prefix",
    ["target_state_encoder_params", "target_qvalue_network_params", "reward_scale", "terminated_coeff"],
)
def test_a_state_dict_that_lacks_something_is_refused(tools: Any, prefix: str) -> None:
    loss = tools.real_loss()
    state = loss.state_dict()
    lacking = {key: value for key, value in state.items() if not key.startswith(prefix)}
    assert len(lacking) < len(state)
    with pytest.raises(RuntimeError, match=prefix):
        loss.load_state_dict(lacking)


@both_actions
def test_deepcopy_is_equal_and_independent(tools: Any, spec: Any) -> None:
    loss, td = _changed(tools, spec), tools.random_window(spec=spec)
    before = _outputs(loss, td)
    twin = copy.deepcopy(loss)
    _same(_outputs(twin, td), before)
    shared = {value.data_ptr() for value in loss.state_dict().values()}
    assert not shared & {value.data_ptr() for value in twin.state_dict().values()}
    for parameter in twin.parameters():
        parameter.data.zero_()
    PeriodicHardUpdate(twin).copy_()
    twin.reward_scale.fill_(9)
    twin.set_keys(priority="error")
    _same(_outputs(loss, td), before)
    assert twin(td.clone())["actor_value"] == 0


def test_a_deepcopy_calls_its_own_networks(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original's modules are broken: the copy must not reach any of them."""
    loss, td = _changed(tools), tools.random_window()
    before, twin = loss(td.clone()), copy.deepcopy(loss)
    for network in NETWORKS:
        monkeypatch.setattr(getattr(loss, network), "forward", None)
    _same(twin(td.clone()), before)
    with pytest.raises(TypeError):
        loss(td.clone())


def _cast(td: TensorDict, dtype: torch.dtype) -> TensorDict:
    return td.apply(lambda x: x.to(dtype) if x.is_floating_point() else x)


@both_actions
@pytest.mark.parametrize("how", ["double", "to"])
def test_double_equals_a_loss_that_was_built_in_double(tools: Any, spec: Any, how: str) -> None:
    """But for what is given in float32: weights, scales and the coefficient (1/2 here, exact)."""
    loss = _changed(tools, spec, terminated_coeff=0.5)
    td = _cast(tools.random_window(spec=spec), torch.float64)
    twice = loss.double() if how == "double" else loss.to(torch.float64)
    torch.set_default_dtype(torch.float64)
    try:
        built = _changed(tools, spec, terminated_coeff=0.5)
        wanted = symexp_bins(5, 2.0)
    finally:
        torch.set_default_dtype(torch.float32)
    floats = {key: value for key, value in twice.state_dict().items() if value.is_floating_point()}
    assert {value.dtype for value in floats.values()} == {torch.float64}
    # expm1 of 1 and 2 to the last bit; the float32 bins are off by 1e-7.
    assert torch.equal(twice.bins, wanted) and not torch.equal(wanted, wanted.float().double())
    built.load_state_dict({**twice.state_dict(), "bins": built.bins})
    _same(_outputs(twice, td), _outputs(built, td))


def test_casting_back_and_forth_keeps_the_bins_exact(tools: Any) -> None:
    loss = tools.real_loss()
    single = loss.bins.clone()
    loss.half().double()
    assert torch.equal(loss.float().bins, single)
    assert loss.bins.dtype == torch.float32


def test_to_keeps_optimisers_targets_and_updaters(tools: Any) -> None:
    loss, td = _changed(tools), tools.random_window()
    updater, optimizer = PeriodicHardUpdate(loss), torch.optim.SGD(loss.parameters(), lr=1.0)
    before = loss(td.clone())
    assert loss.to("cpu") is loss
    _same(loss(td.clone()), before)
    loss.to(torch.float64)
    out = loss(_cast(td, torch.float64))
    for key, value in before.items():
        torch.testing.assert_close(out[key], value.double(), rtol=1e-4, atol=1e-5)
    out["loss_actor"].backward()
    old = [parameter.clone() for parameter in loss.actor_network_params.parameters()]
    optimizer.step()
    for was, now in zip(old, loss.actor_network_params.parameters(), strict=True):
        assert not torch.equal(was, now)
    updater.copy_()
    target = loss.target_actor_network_params
    assert all(torch.equal(v, target[k]) for k, v in loss.actor_network_params.items(True, True))


@pytest.mark.gpu
@both_actions
def test_cuda_equals_cpu(tools: Any, spec: Any) -> None:
    """In float64, without target noise; what a draw of the discrete policy enters is left out."""
    loss, td = _changed(tools, spec).double(), _cast(tools.random_window(spec=spec), torch.float64)
    expected = {name: value for name, value in _outputs(loss, td).items() if name != "loss_actor"}
    if loss.discrete:
        expected = {name: expected[name] for name in ("loss_encoder", "dynamics_error", "reward_mae")}
    loss.to("cuda")
    assert {value.device.type for value in loss.state_dict().values()} == {"cuda"}
    out = _outputs(loss, td.to("cuda"))
    for name, value in expected.items():
        torch.testing.assert_close(out[name].cpu(), value)
    sum(out[name] for name in OWN).backward()
    assert all(parameter.grad.is_cuda for parameter in loss.parameters())


# Drawing anew


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


def test_reset_is_in_place_so_that_optimisers_go_on(tools: Any) -> None:
    loss, td = _changed(tools), tools.random_window()
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    places = {name: value.data_ptr() for name, value in loss.state_dict().items()}
    loss.reset_parameters_recursive()
    assert {name: value.data_ptr() for name, value in loss.state_dict().items()} == places
    drawn = {name: parameter.detach().clone() for name, parameter in loss.named_parameters()}
    out = loss(td)
    sum(out[name] for name in OWN).backward()
    optimizer.step()
    for name, parameter in loss.named_parameters():
        torch.testing.assert_close(parameter.data, drawn[name] - 0.1 * parameter.grad)
        assert parameter.grad.any(), name


def test_targets_start_equal_and_are_not_parameters(tools: Any) -> None:
    loss = tools.real_loss()
    assert not any(name.startswith("target_") for name, _ in loss.named_parameters())
    for network in set(NETWORKS) - {"predictor"}:
        online, target = getattr(loss, f"{network}_params"), getattr(loss, f"target_{network}_params")
        for key, value in online.items(True, True):
            assert torch.equal(value, target[key]) and value.data_ptr() != target[key].data_ptr()
