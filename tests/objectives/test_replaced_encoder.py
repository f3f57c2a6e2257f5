"""A user's own state encoder in the place of f: any TensorDict module, with any inputs and buffers.

The one here reads two nested entries, keeps running statistics as BatchNorm does, and is a
plain ``nn.Module`` inside. What a wrong encoder says is tested as well.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn
from torchrl.data import Bounded, OneHot, TensorSpec

from uld_torchrl import PeriodicHardUpdate, ULDLoss, ULDOptimizationStepper, make_loss, make_networks
from uld_torchrl.config import AgentConfig, LossConfig, ModelConfig, OptimConfig
from uld_torchrl.data import ReplayKeys, make_replay_buffer
from uld_torchrl.errors import InputError

SPECS = {"box": Bounded(-1, 1, (2,)), "one-hot": OneHot(2)}
CONFIG = AgentConfig(
    model=ModelConfig(z_s_dim=8, z_a_dim=4, z_sa_dim=8, hidden_dim=8, num_bins=5, bin_range=2.0),
    loss=LossConfig(horizon=3, n_steps=2),
    optim=OptimConfig(batch_size=6, period=2),
)
SENSOR, GOAL = ("inputs", "angles"), ("inputs", "goal")

both_actions = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


class TwoInputs(nn.Module):
    """Linear on two standardised inputs; while training, the statistics follow the data."""

    mean: Tensor
    count: Tensor

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.linear = nn.Linear(4, width)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, angles: Tensor, goal: Tensor) -> Tensor:
        x = torch.cat([angles, goal], -1)
        if self.training:
            self.mean.lerp_(x.detach().reshape(-1, 4).mean(0), 0.1)
            self.count.add_(1)
        return torch.tanh(self.linear(x - self.mean))


def _encoder(width: int = 8) -> TensorDictModule:
    return TensorDictModule(TwoInputs(width), in_keys=[SENSOR, GOAL], out_keys=["state_embedding"])


def _loss(spec: TensorSpec, encoder: TensorDictModuleBase | None = None) -> ULDLoss:
    torch.manual_seed(0)
    nets = make_networks(Bounded(-1, 1, (3,)), spec, CONFIG.model)
    nets = dataclasses.replace(nets, state_encoder=_encoder() if encoder is None else encoder)
    loss = make_loss(nets, spec, CONFIG)
    PeriodicHardUpdate(loss)
    return loss


def _steps(spec: TensorSpec, *shape: int) -> TensorDict:
    torch.manual_seed(1)
    now, after = ({"angles": torch.randn(*shape, 3), "goal": torch.rand(*shape, 1)} for _ in range(2))
    ended = torch.zeros(*shape, 1, dtype=torch.bool)
    flags = {"terminated": ended, "truncated": ended.clone(), "done": ended.clone()}
    following = {"inputs": after, "reward": torch.randn(*shape, 1), **flags}
    return TensorDict({"inputs": now, "action": spec.rand(shape), "next": following}, batch_size=shape)


def _buffers(loss: ULDLoss, prefix: str = "") -> dict[str, Any]:
    params = getattr(loss, f"{prefix}state_encoder_params")["module"]
    return {"mean": params["mean"].tolist(), "count": params["count"].item()}


@both_actions
def test_all_losses_read_its_inputs_and_reach_its_parameters(spec: TensorSpec) -> None:
    loss, td = _loss(spec), _steps(spec, 4, 3)
    observed = [SENSOR, GOAL, ("next", *SENSOR), ("next", *GOAL)]
    assert loss.in_keys == [*observed, "action", ("next", "reward"), ("next", "terminated")]
    before = td.clone()
    out = loss(td)
    assert (td.exclude("td_error") == before).all()
    (out["loss_encoder"] + out["loss_qvalue"] + out["loss_actor"]).backward()
    encoder = list(loss.state_encoder_params.parameters())
    assert len(encoder) == 2 and all(parameter.grad.any() for parameter in encoder)
    for name in ("value_loss", "actor_loss"):
        loss.zero_grad()
        getattr(loss, name)(td)[0].backward()
        assert all(parameter.grad is None for parameter in encoder)


def test_each_input_changes_the_loss() -> None:
    loss, td = _loss(SPECS["box"]), _steps(SPECS["box"], 4, 3)
    loss.state_encoder.eval()
    expected = loss.encoder_loss(td)[0]
    for key in (SENSOR, GOAL, ("next", *SENSOR), ("next", *GOAL)):
        changed = td.clone()
        changed[key] = changed[key] + 1
        assert not torch.isclose(loss.encoder_loss(changed)[0], expected), key


def test_its_buffers_follow_the_data_and_targets_take_them_at_the_copy() -> None:
    loss, td = _loss(SPECS["box"]), _steps(SPECS["box"], 4, 3)
    updater = PeriodicHardUpdate(loss, period=2)
    loss.encoder_loss(td)
    # Online from f(s_0), the target from f'(s_1 ... s_H): each has statistics of its own.
    online, target = _buffers(loss), _buffers(loss, "target_")
    first, after = td[:, 0], td["next"]
    expected = torch.cat([first[SENSOR], first[GOAL]], -1).mean(0) * 0.1
    torch.testing.assert_close(torch.tensor(online["mean"]), expected)
    expected = torch.cat([after[SENSOR], after[GOAL]], -1).flatten(0, 1).mean(0) * 0.1
    torch.testing.assert_close(torch.tensor(target["mean"]), expected)
    assert online["count"] == target["count"] == 1
    assert updater.step() and _buffers(loss, "target_") == _buffers(loss)


def test_in_evaluation_mode_its_buffers_rest() -> None:
    loss, td = _loss(SPECS["box"]), _steps(SPECS["box"], 4, 3)
    loss.state_encoder.eval()
    loss(td)
    assert _buffers(loss)["count"] == _buffers(loss, "target_")["count"] == 0


@both_actions
@pytest.mark.parametrize("schedule", ["periodic", "every_step"])
def test_the_stepper_trains_it(spec: TensorSpec, schedule: str) -> None:
    loss = _loss(spec)
    keys = ReplayKeys(observation="inputs", next_observation=("next", "inputs"))
    rb = make_replay_buffer(capacity=200, horizon=3, batch_size=6, keys=keys)
    rb.extend(_steps(spec, 1, 60))
    stepper = ULDOptimizationStepper(loss, rb, dataclasses.replace(CONFIG.optim, schedule=schedule))
    start = {name: value.clone() for name, value in loss.state_dict().items()}
    for _ in range(3):
        metrics = stepper.step(None, rb.sample())
        assert torch.isfinite(metrics["loss_encoder"])
    end = loss.state_dict()
    for prefix in ("", "target_"):  # updates 1 and 3 copy: the target has seen the first two
        weight = f"{prefix}state_encoder_params.module.linear.weight"
        assert not torch.equal(start[weight], end[weight])
    assert _buffers(loss)["count"] > 0


def test_state_dict_and_deepcopy_keep_its_buffers() -> None:
    loss, td = _loss(SPECS["box"]), _steps(SPECS["box"], 4, 3)
    loss(td.clone())
    PeriodicHardUpdate(loss).copy_()
    loss(td.clone())
    other = _loss(SPECS["box"])
    other.load_state_dict(loss.state_dict(), strict=True)
    for same in (other, copy.deepcopy(loss)):
        assert _buffers(same) == _buffers(loss) != _buffers(loss, "target_") == _buffers(same, "target_")
    other(td.clone())
    assert _buffers(other)["count"] > _buffers(loss)["count"]


def test_drawing_anew_uses_its_own_reset_parameters() -> None:
    loss = _loss(SPECS["box"])
    weight = loss.state_encoder_params["module", "linear", "weight"]
    weight.data.fill_(9.0)
    loss.reset_parameters_recursive()
    # nn.Linear's own: uniform on +-1/sqrt(4).
    assert 0.25 < weight.abs().max() <= 0.5
    assert torch.equal(loss.target_state_encoder_params["module", "linear", "weight"], weight)


class Bare(nn.Module):
    """Parameters of its own, and no word on how to draw them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 8))

    def forward(self, angles: Tensor) -> Tensor:
        return angles @ self.scale


def test_an_encoder_that_cannot_be_drawn_anew_says_so_before_anything_is() -> None:
    loss = _loss(SPECS["box"], TensorDictModule(nn.Sequential(Bare()), [SENSOR], ["state_embedding"]))
    loss(_steps(SPECS["box"], 4, 3))
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    with pytest.raises(InputError, match="state_encoder cannot be drawn anew: Bare has parameters but no"):
        loss.reset_parameters_recursive()
    torch.testing.assert_close(dict(loss.state_dict()), before, rtol=0, atol=0)


# Wrong encoders

LOSSES = ("encoder_loss", "value_loss", "actor_loss", "__call__")


class Silent(TensorDictModuleBase):
    """Says that it writes the embedding, and does not."""

    in_keys, out_keys = [SENSOR], ["state_embedding"]

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 8)

    def forward(self, tensordict: TensorDict) -> TensorDict:
        return tensordict


class Deep(nn.Module):
    """Adds a dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 8)

    def forward(self, angles: Tensor) -> Tensor:
        return self.linear(angles).unsqueeze(-2)


WRONG: dict[str, tuple[TensorDictModuleBase, str]] = {
    "another out key": (
        TensorDictModule(nn.Linear(3, 8), [SENSOR], ["latent"]),
        r"state_encoder must write 'state_embedding', but it writes \['latent'\]",
    ),
    "nothing written": (Silent(), r"state_encoder must write 'state_embedding' of shape .*, got nothing"),
    "another dimension": (
        TensorDictModule(Deep(), [SENSOR], ["state_embedding"]),
        r"state_encoder must write 'state_embedding' of shape \(4, .*any\), got \(4, .*1, 8\)",
    ),
    "no batch dimension": (
        TensorDictModule(nn.Sequential(nn.Linear(3, 8), nn.Flatten(0)), [SENSOR], ["state_embedding"]),
        r"state_encoder cannot take \('inputs', 'angles'\) \(4, .*: batch dimension mismatch",
    ),
    "wrong width": (
        _encoder(width=7),
        r"(state_action_encoder|actor_network).* cannot take 'state_embedding' \(4, 7\) torch.float32",
    ),
    "an input that is not there": (
        TensorDictModule(nn.Linear(3, 8), ["camera"], ["state_embedding"]),
        "the batch lacks the entry 'camera'",
    ),
    "wrong input width": (
        TensorDictModule(nn.Linear(5, 8), [SENSOR], ["state_embedding"]),
        r"state_encoder cannot take \('inputs', 'angles'\) \(4, .*3\) torch.float32: .*shapes",
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("encoder", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_encoder_is_named_at_first_use(
    name: str, encoder: TensorDictModuleBase, message: str
) -> None:
    loss = _loss(SPECS["box"], copy.deepcopy(encoder))
    with pytest.raises(InputError, match=message):
        getattr(loss, name)(_steps(SPECS["box"], 4, 3))


def _with(**networks: Any) -> ULDLoss:
    nets = make_networks(Bounded(-1, 1, (3,)), SPECS["box"], CONFIG.model)
    loss = make_loss(dataclasses.replace(nets, state_encoder=_encoder(), **networks), SPECS["box"], CONFIG)
    PeriodicHardUpdate(loss)
    return loss


class Many(nn.Module):
    """Outputs of these widths."""

    def __init__(self, in_dim: int, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(in_dim, width) for width in widths)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer in self.layers)


def _predictor(*widths: int) -> TensorDictModule:
    keys = ["terminated_pred", ("next", "state_embedding"), "reward_logits"]
    return TensorDictModule(Many(8, *widths), ["state_action_embedding"], keys)


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (
            {"predictor": _predictor(1, 8, 6)},
            r"predictor must write 'reward_logits' of shape \(4, 3, 5\), got \(4, 3, 6\)",
        ),
        (
            {"predictor": _predictor(2, 8, 5)},
            r"predictor must write 'terminated_pred' of shape \(4, 3\), got \(4, 3, 2\)",
        ),
        ({"predictor": _predictor(1, 9, 5)}, r"state_action_encoder or predictor cannot take"),
        (
            {
                "actor_network": TensorDictModule(
                    Many(8, 3, 3), ["state_embedding"], ["action", "pre_activation"]
                )
            },
            r"actor_network must write 'action' of shape \(4, 2\), got \(4, 3\)",
        ),
        (
            {
                "qvalue_network": [
                    TensorDictModule(nn.Linear(8, 2), ["state_action_embedding"], ["state_action_value"])
                    for _ in range(2)
                ]
            },
            r"qvalue_network must write 'state_action_value' of shape \(2, 4, 1\), got \(2, 4, 2\)",
        ),
    ],
    ids=["logits", "terminated", "next embedding", "action", "value"],
)
def test_other_replaced_networks_of_a_wrong_width_are_named(networks: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _with(**copy.deepcopy(networks))(_steps(SPECS["box"], 4, 3))
