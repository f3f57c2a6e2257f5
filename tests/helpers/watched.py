"""What the watchdog's tests poison and compare: a small stepper, its replay buffer, and all it may change."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Bounded, OneHot, Unbounded

from uld_torchrl import make_loss, make_networks
from uld_torchrl.config import AgentConfig, LossConfig, ModelConfig, OptimConfig
from uld_torchrl.data import WindowReplayBuffer, make_replay_buffer
from uld_torchrl.trainers import ULDOptimizationStepper, Watchdog

PERIOD, NAN, INF = 3, math.nan, math.inf
SPECS = {"box": Bounded(-1, 1, (2,)), "one-hot": OneHot(3, dtype=torch.int64)}


def make(
    schedule: str = "every_step", spec: str = "box", dog: Watchdog | None = None, *, updates: int = 2
) -> tuple[ULDOptimizationStepper, WindowReplayBuffer]:
    """Make a small stepper that has done some updates (two: in mid-period), and its replay buffer."""
    torch.manual_seed(0)
    action = SPECS[spec]
    config = AgentConfig(
        model=ModelConfig(z_s_dim=8, z_a_dim=4, z_sa_dim=8, hidden_dim=8),
        loss=LossConfig(horizon=3, n_steps=2),
        optim=OptimConfig(batch_size=6, period=PERIOD, schedule=schedule),  # type: ignore[arg-type]
    )
    loss = make_loss(make_networks(Unbounded(4), action, config.model), action, config)
    rb = make_replay_buffer(capacity=500, horizon=3, batch_size=6)
    no = torch.zeros(1, 60, 1, dtype=torch.bool)
    after = {"observation": torch.randn(1, 60, 4), "reward": torch.randn(1, 60, 1)}
    flags = {"terminated": no, "truncated": no.clone(), "done": no.clone()}
    steps = {"observation": torch.randn(1, 60, 4), "action": action.rand((1, 60)), "next": {**after, **flags}}
    rb.extend(TensorDict(steps, batch_size=[1, 60]))
    stepper = ULDOptimizationStepper(loss, rb, config.optim, dog)
    for _ in range(updates):
        stepper.step(None, rb.sample())
    return stepper, rb


def state(stepper: ULDOptimizationStepper, rb: WindowReplayBuffer) -> dict[str, Any]:
    """Copy all that an update may change but the schedule."""
    optimizers = {name: optimizer.state_dict() for name, optimizer in stepper.optimizers.items()}
    rest = {name: rb.state_dict()[name] for name in ("priorities", "max_priority")}
    return copy.deepcopy({"loss": dict(stepper.loss_module.state_dict()), **optimizers, **rest})


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(torch.equal(one, other)) if isinstance(one, torch.Tensor) else bool(one == other)


def poisoned(batch: TensorDictBase, key: Any = ("next", "reward"), value: float = NAN) -> TensorDictBase:
    """Return a copy of a batch with one value replaced."""
    batch = batch.clone()
    batch.get(key)[3, 1] = torch.as_tensor(value).to(batch.get(key).dtype)
    return batch


def plant(tensor: torch.Tensor, value: float = NAN) -> None:
    tensor.data.view(-1)[0] = value


def poison_draw(patch: pytest.MonkeyPatch, rb: WindowReplayBuffer, draw: int) -> list[TensorDictBase]:
    """Put NaN into a reward of one batch that is drawn; return the list that all batches will be added to."""
    sample, drawn = rb.sample, []

    def spy(**options: Any) -> TensorDictBase:
        batch = sample(**options)
        drawn.append(poisoned(batch) if len(drawn) == draw else batch)
        return drawn[-1]

    patch.setattr(rb, "sample", spy)
    return drawn
