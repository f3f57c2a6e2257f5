"""``PeriodicHardUpdate``: before which updates it copies, and what."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Bounded

from uld_torchrl import PeriodicHardUpdate, ULDLoss, make_networks
from uld_torchrl.config import ModelConfig, OptimConfig
from uld_torchrl.errors import InputError

NAMES = ("state_encoder", "state_action_encoder", "actor_network", "qvalue_network")


def _equal(loss: ULDLoss, name: str) -> bool:
    online, target = getattr(loss, f"{name}_params"), getattr(loss, f"target_{name}_params")
    return bool((online.data == target.data).all())


def _shift(loss: ULDLoss) -> None:
    for parameter in loss.parameters():
        parameter.data.add_(1)


@pytest.mark.parametrize("period", [1, 2, 3, 7])
def test_it_copies_before_updates_1_K1_2K1(tools: Any, period: int) -> None:
    loss = tools.real_loss()
    updater = PeriodicHardUpdate(loss, period=period)
    copied = []
    for update in range(1, 2 * period + 3):
        _shift(loss)
        due = updater.due
        assert updater.step() == due
        assert len({_equal(loss, name) for name in NAMES}) == 1
        if _equal(loss, "state_encoder"):
            copied.append(update)
        assert due == _equal(loss, "state_encoder")
    expected = [update for update in range(1, 2 * period + 3) if update % period == 1 % period]
    assert copied == expected
    assert copied[:3] == [1, period + 1, 2 * period + 1]


def test_it_copies_in_place(tools: Any) -> None:
    loss = tools.real_loss()
    before = [value.data_ptr() for value in loss.target_qvalue_network_params.values(True, True)]
    updater = PeriodicHardUpdate(loss, period=1)
    _shift(loss)
    updater.step()
    assert [value.data_ptr() for value in loss.target_qvalue_network_params.values(True, True)] == before


class _Counting(nn.Module):
    """An encoder with buffers, as BatchNorm has: a running mean and an integer count."""

    mean: torch.Tensor
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 8)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x - self.mean)


def test_buffers_are_copied_too(tools: Any) -> None:
    spec = Bounded(-1, 1, (2,))
    nets = make_networks(Bounded(-1, 1, (3,)), spec, ModelConfig(8, 4, 8, 8, 5, 2.0))
    loss = ULDLoss(
        TensorDictModule(_Counting(), ["observation"], ["state_embedding"]),
        nets.state_action_encoder,
        nets.predictor,
        nets.actor_network,
        nets.qvalue_network,
        action_spec=spec,
        horizon=3,
        num_bins=5,
        bin_range=2.0,
    )
    updater = PeriodicHardUpdate(loss, period=2)
    online = loss.state_encoder_params["module"]
    target = loss.target_state_encoder_params["module"]
    online["mean"].fill_(5.0)
    online["count"].fill_(7)
    assert target["mean"].tolist() == [0, 0, 0] and target["count"].item() == 0
    updater.step()
    assert target["mean"].tolist() == [5, 5, 5] and target["count"].item() == 7
    online["mean"].fill_(6.0)
    updater.step()
    assert target["mean"].tolist() == [5, 5, 5]
    loss(tools.random_window())


def test_state_dict_keeps_the_position_in_the_period(tools: Any) -> None:
    first = PeriodicHardUpdate(tools.real_loss(), period=3)
    for _ in range(4):
        first.step()
    second = PeriodicHardUpdate(tools.real_loss(), period=3)
    second.load_state_dict(first.state_dict())
    assert [second.step() for _ in range(6)] == [first.step() for _ in range(6)]
    assert second.counter == 10
    # A checkpoint may give the counter back as a tensor.
    second.load_state_dict({"counter": torch.tensor(3), "initialized": True})
    assert second.due is True and type(second.counter) is int


@pytest.mark.parametrize("period", [0, -250])
def test_a_period_below_one_is_refused(tools: Any, period: int) -> None:
    with pytest.raises(InputError, match=f"period must be at least 1, got {period}"):
        PeriodicHardUpdate(tools.real_loss(), period=period)


def test_the_default_period_is_that_of_the_settings() -> None:
    assert inspect.signature(PeriodicHardUpdate).parameters["period"].default == OptimConfig().period
