"""The three losses and ``forward`` under ``torch.compile(fullgraph=True)``: as eager, and compiled once.

The backend is aot_eager, which traces forward and backward as inductor does and needs no compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, OneHot, TensorSpec

from uld_torchrl import PeriodicHardUpdate, ULDLoss

# Of tensordict's own code while it is traced: a setting that torch 2.13 calls deprecated, and the
# remark that locking is not checked inside a graph.
pytestmark = [
    pytest.mark.filterwarnings("ignore:torch._dynamo.config.inline_inbuilt_nn_modules:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Using lock_.. inside a compiled graph:UserWarning"),
]

SPECS = {"box": Bounded(-1, 1, (2,)), "one-hot": OneHot(2)}
LOSSES = ("loss_encoder", "loss_qvalue", "loss_actor")


def _result(loss: ULDLoss, call: Callable[..., Any], td: TensorDict) -> tuple[Any, ...]:
    """Values, metadata, gradients and what was written, from the same random numbers."""
    torch.manual_seed(3)
    td = td.clone()
    out = call(td)
    value, metadata = out if isinstance(out, tuple) else (sum(out[name] for name in LOSSES), out)
    gradients = torch.autograd.grad(value, list(loss.parameters()), allow_unused=True)
    return value, dict(metadata.items()), list(gradients), td.get("td_error", None)


def _train(loss: ULDLoss, updater: PeriodicHardUpdate, call: int) -> None:
    """Change what changes while training: weights, targets, scales, the coefficient."""
    for parameter in loss.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    updater.step()
    loss.update_reward_scale_(0.3 + call)
    loss.terminated_coeff = 0.5 + call


# Each loss once by default, every one with both kinds of action and `forward` in `pytest -m slow`.
QUICK = {("encoder_loss", "box"), ("value_loss", "box"), ("actor_loss", "one-hot")}
CASES = [
    pytest.param(name, spec, id=f"{name}-{kind}", marks=() if (name, kind) in QUICK else pytest.mark.slow)
    for name in ("encoder_loss", "value_loss", "actor_loss", "forward")
    for kind, spec in SPECS.items()
]


@pytest.mark.parametrize(("name", "spec"), CASES)
def test_compiled_equals_eager_and_is_not_compiled_again(tools: Any, name: str, spec: TensorSpec) -> None:
    torch._dynamo.reset()
    # H 2 makes the unrolled model feed on itself; the other two do not unroll.
    H = 2 if name in ("encoder_loss", "forward") else 1
    loss, td = tools.real_loss(spec, horizon=H, n_steps=H), tools.random_window(H=H, spec=spec)
    updater = PeriodicHardUpdate(loss, period=1)
    # forward as such: the hook of a module's call would be compiled with it.
    eager = getattr(loss, name)
    # tensordict remembers each class it meets, which the compiled code is guarded by: meet all first.
    torch.testing.assert_close(_result(loss, eager, td), _result(loss, eager, td), rtol=0, atol=0)
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    seen = []
    for call in range(3):
        with torch._dynamo.config.patch(error_on_recompile=call > 0):
            result = _result(loss, compiled, td)
        torch.testing.assert_close(result, _result(loss, eager, td))
        assert (result[3] is not None) == (name == "forward")
        seen.append(result[0].item())
        _train(loss, updater, call)
        td = tools.random_window(H=H, seed=call + 5, spec=spec)
        td["next", "terminated"][call, 0] = True
    assert len(set(seen)) == 3
    torch._dynamo.reset()
