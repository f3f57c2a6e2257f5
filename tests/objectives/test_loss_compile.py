"""The three losses under ``torch.compile(fullgraph=True)``: equal to eager, and compiled once.

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

BOX, ONE_HOT = Bounded(-1, 1, (2,)), OneHot(2)


def _gradients(loss: ULDLoss, value: torch.Tensor) -> list[torch.Tensor | None]:
    return list(torch.autograd.grad(value, list(loss.parameters()), allow_unused=True))


def _same(one: Callable[..., Any], other: Callable[..., Any], loss: ULDLoss, td: TensorDict) -> None:
    """Values, metadata and gradients agree, from the same random numbers."""
    results = []
    for call in (one, other):
        torch.manual_seed(3)
        value, metadata = call(td.clone())
        results.append((value, dict(metadata.items()), _gradients(loss, value)))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize(
    ("name", "spec"), [("encoder_loss", BOX), ("value_loss", BOX), ("actor_loss", ONE_HOT)]
)
def test_compiled_equals_eager_and_is_not_compiled_again(tools: Any, name: str, spec: TensorSpec) -> None:
    torch._dynamo.reset()
    loss, td = tools.real_loss(spec, horizon=2), tools.random_window(H=2, spec=spec)
    updater = PeriodicHardUpdate(loss, period=1)
    eager = getattr(loss, name)
    # tensordict remembers each class it meets, which the compiled code is guarded by: meet all first.
    _same(eager, eager, loss, td)
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    for call in range(3):
        with torch._dynamo.config.patch(error_on_recompile=call > 0):
            _same(compiled, eager, loss, td)
        # What changes while training: weights, targets, scales, the coefficient, the data.
        for parameter in loss.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
        updater.step()
        loss.update_reward_scale_(0.3 + call)
        loss.terminated_coeff = 0.5 + call
        td = tools.random_window(H=2, seed=call + 5, spec=spec)
        td["next", "terminated"][call, 0] = True
    torch._dynamo.reset()
