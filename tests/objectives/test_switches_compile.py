"""Each switch under ``torch.compile(fullgraph=True)``: as eager. The default is in ``test_loss_compile``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torchrl.data import Bounded, OneHot

from uld_torchrl.config import ModelConfig

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch._dynamo.config.inline_inbuilt_nn_modules:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Using lock_.. inside a compiled graph:UserWarning"),
]

LOSSES = ("loss_encoder", "loss_qvalue", "loss_actor")
SPECS = {"box": Bounded(-1, 1, (2,)), "one-hot": OneHot(2)}
TINY = ModelConfig(z_s_dim=8, z_a_dim=4, z_sa_dim=8, hidden_dim=8, num_bins=5, bin_range=2.0)
SWITCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "value_loss": ({"value_loss": "mse"}, {}),
    "reward_loss": ({"reward_loss": "mse"}, {}),
    "dynamics_target": ({"dynamics_target": "state_action", "unroll": False}, {}),
    "unroll": ({"unroll": False}, {}),
    "target_encoder": ({"target_encoder": False}, {}),
    "freeze_encoder": ({"freeze_encoder": True}, {}),
    "reward_scaling": ({"reward_scaling": False}, {}),
    "value_head": ({}, {"value_head": "linear"}),
    "one head": ({}, {"num_values": 1}),
    "three heads": ({}, {"num_values": 3}),
    "target_value": ({"target_value": "mean"}, {}),
    "encoder_horizon": ({"encoder_horizon": 1}, {}),
    "end_to_end": ({"end_to_end": True}, {}),
    "predictor": ({}, {"predictor": "mlp"}),
    "infonce_coeff": ({"infonce_coeff": 0.1}, {}),
}
SWITCHES["theorem"] = (
    {name: value for switch, _ in list(SWITCHES.values())[:7] for name, value in switch.items()},
    {"value_head": "linear", "num_values": 1, "z_sa_dim": 6},
)
# Each switch with each loss that it is read in; one-hot actions where a target action is chosen.
READ = {
    "encoder_loss": (
        "reward_loss",
        "dynamics_target",
        "unroll",
        "target_encoder",
        "freeze_encoder",
        "encoder_horizon",
        "predictor",
        "infonce_coeff",
        "theorem",
    ),
    "value_loss": (
        "value_loss",
        "target_encoder",
        "value_head",
        "one head",
        "three heads",
        "target_value",
        "end_to_end",
        "theorem",
    ),
    "actor_loss": ("value_head", "one head", "three heads", "theorem"),
    "forward": ("reward_scaling", "theorem"),
}
CHOOSING = {"encoder_loss": {"dynamics_target", "theorem"}, "value_loss": {"target_encoder", "theorem"}}
# All switches at once by default, each alone in `pytest -m slow`.
QUICK = {("encoder_loss", "theorem", "box"), ("value_loss", "theorem", "box")}
CASES = [
    pytest.param(
        name,
        *SWITCHES[switch],
        spec,
        id=f"{name}-{switch}-{kind}",
        marks=() if (name, switch, kind) in QUICK else pytest.mark.slow,
    )
    for name, switches in READ.items()
    for switch in switches
    for kind, spec in SPECS.items()
    if kind == "box" or switch in CHOOSING.get(name, ())
]


@pytest.mark.parametrize(("name", "switch", "model", "spec"), CASES)
def test_compiled_equals_eager(
    tools: Any, name: str, switch: dict[str, Any], model: dict[str, Any], spec: Any
) -> None:
    torch._dynamo.reset()
    loss = tools.real_loss(spec, model=replace(TINY, **model), horizon=2, n_steps=2, **switch)
    for parameter in loss.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    td = tools.random_window(H=2, spec=spec)
    td["next", "terminated"][0, 0] = True
    eager = getattr(loss, name)
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    results = []
    for call in (eager, compiled):
        torch.manual_seed(3)
        out = call(td.clone())
        value, metadata = out if isinstance(out, tuple) else (sum(out[key] for key in LOSSES), out)
        gradients = torch.autograd.grad(value, list(loss.parameters()), allow_unused=True)
        assert any(gradient is not None and gradient.any() for gradient in gradients)
        results.append((value, dict(metadata.items()), list(gradients)))
    torch.testing.assert_close(*results)
    torch._dynamo.reset()
