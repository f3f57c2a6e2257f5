"""Switches of the loss that do not fit each other, or networks made for others: refused, and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torchrl.data import Bounded, Unbounded

from uld_torchrl import PeriodicHardUpdate, ULDLoss, make_loss, make_networks
from uld_torchrl.config import AgentConfig, LossConfig, ModelConfig
from uld_torchrl.errors import InputError

BOX = Bounded(-1, 1, (2,))
TINY = ModelConfig(z_s_dim=8, z_a_dim=4, z_sa_dim=8, hidden_dim=8, num_bins=5, bin_range=2.0)
NETWORKS = ("state_encoder", "state_action_encoder", "predictor", "actor_network", "qvalue_network")


def _mismatched(model: dict[str, Any], made: dict[str, Any], asked: dict[str, Any]) -> ULDLoss:
    nets = make_networks(Unbounded(3), BOX, replace(TINY, **model), loss=LossConfig(3, 2, **made))
    config = AgentConfig(model=replace(TINY, **model), loss=LossConfig(3, 2, **asked))
    loss = make_loss(nets, BOX, config)
    PeriodicHardUpdate(loss)
    return loss


PAIRS = {"dynamics_target": "state_action", "unroll": False}


@pytest.mark.parametrize(
    ("made", "asked", "words"),
    [
        (
            {},
            {"reward_loss": "mse"},
            r"predictor must write 'reward_logits' of shape \(9, 3, 1\), got \(9, 3, 5",
        ),
        (
            {"reward_loss": "mse"},
            {},
            r"predictor must write 'reward_logits' of shape \(9, 3, 5\), got \(9, 3, 1",
        ),
        ({}, PAIRS, r"predictor must write \('next', 'state_action_embedding'\), but it writes"),
        (PAIRS, {"unroll": False}, r"predictor must write \('next', 'state_embedding'\), but it writes"),
    ],
)
def test_networks_made_for_other_switches_are_refused(
    tools: Any, made: dict[str, Any], asked: dict[str, Any], words: str
) -> None:
    loss = _mismatched({}, made, asked)
    with pytest.raises(InputError, match=words):
        loss.encoder_loss(tools.random_window(B=9))


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ({"value_loss": "l1"}, "huber, mse"),
        ({"reward_loss": "huber"}, "two_hot, mse"),
        ({"dynamics_target": "pair"}, "state, state_action"),
        ({"target_value": "max"}, "min, mean"),
    ],
)
@pytest.mark.parametrize("build", ["config", "loss"])
def test_an_unknown_choice_is_refused_with_the_known_ones(
    tools: Any, setting: dict[str, str], allowed: str, build: str
) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(InputError, match=rf"{name} must be one of {allowed}; got '{value}'"):
        if build == "config":
            LossConfig(**setting)
        else:
            nets = make_networks(Unbounded(3), BOX, TINY)
            parts = {part: getattr(nets, part) for part in NETWORKS}
            ULDLoss(**parts, action_spec=BOX, **setting)


FLAGS = ["unroll", "target_encoder", "freeze_encoder", "reward_scaling", "end_to_end"]


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("build", ["config", "loss"])
def test_a_word_in_place_of_a_flag_is_refused(tools: Any, name: str, build: str) -> None:
    """The truth of "false" is True."""
    construct: Callable[..., Any] = LossConfig if build == "config" else tools.real_loss
    with pytest.raises(InputError, match=f"{name} must be True or False, got 'false'"):
        construct(**{name: "false"})


@pytest.mark.parametrize("horizon", [1, 2, 3])
@pytest.mark.parametrize("unroll", [True, False])
@pytest.mark.parametrize("build", ["config", "loss"])
def test_the_next_pair_is_not_unrolled_over_recorded_actions(
    tools: Any, horizon: int, unroll: bool, build: str
) -> None:
    settings = {"dynamics_target": "state_action", "unroll": unroll, "horizon": horizon, "n_steps": 1}
    construct: Callable[..., Any] = LossConfig if build == "config" else tools.real_loss
    if horizon == 1 or not unroll:
        made = construct(**settings)
        assert (made.dynamics_target, made.unroll, made.horizon) == ("state_action", unroll, horizon)
        return
    with pytest.raises(InputError, match=f"unroll must be false .* horizon {horizon}: .*loss.unroll=false"):
        construct(**settings)


@pytest.mark.parametrize("build", ["config", "loss"])
def test_the_next_pair_may_be_predicted_one_step_ahead_of_longer_windows(tools: Any, build: str) -> None:
    construct: Callable[..., Any] = LossConfig if build == "config" else tools.real_loss
    made = construct(dynamics_target="state_action", encoder_horizon=1)
    assert made.unroll and made.dynamics_target == "state_action"
    with pytest.raises(InputError, match=r"unroll must be false .* horizon 2: .*loss\.encoder_horizon=1"):
        construct(dynamics_target="state_action", encoder_horizon=2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoder_horizon": 4}, r"encoder_horizon must be at most horizon \(3\), or 0 for all of it, got 4"),
        ({"encoder_horizon": -1}, "encoder_horizon must be at most horizon .*, got -1"),
        ({"end_to_end": True, "freeze_encoder": True}, "end_to_end and freeze_encoder exclude each other"),
    ],
)
def test_switches_that_contradict_each_other_are_refused(
    tools: Any, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        tools.real_loss(**settings)
