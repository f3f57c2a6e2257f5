"""Updates with the switches of the loss: what moves, what stays, and that all combinations train.

What the switched losses are worth is tested with the objectives, the schedule in ``test_stepper``, images
in ``test_augmentation_switches``.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, OneHot, Unbounded

from uld_torchrl import make_loss, make_networks
from uld_torchrl.config import AgentConfig, LossConfig, ModelConfig, OptimConfig
from uld_torchrl.data import WindowReplayBuffer, make_replay_buffer
from uld_torchrl.errors import InputError
from uld_torchrl.objectives import ULDLoss
from uld_torchrl.trainers import ULDOptimizationStepper

BOX, CHOICE = Bounded(-1, 1, (2,)), OneHot(3, dtype=torch.int64)
TINY = ModelConfig(z_s_dim=8, z_a_dim=4, z_sa_dim=6, hidden_dim=8, num_bins=5, bin_range=2.0)
ENCODERS = {"state_encoder", "state_action_encoder"}
ALL = ENCODERS | {"predictor", "qvalue_network", "actor_network"}
TARGETS = {f"target_{name}" for name in ALL - {"predictor"}}


def records(steps: int, spec: Any, reward: float = 1.0) -> TensorDict:
    """Time steps [1, steps] of one lane; every seventh ends in a terminal state."""
    ended = (torch.arange(steps) % 7 == 6).view(1, steps, 1)
    after = {
        "observation": torch.randn(1, steps, 4),
        "reward": torch.full((1, steps, 1), reward),
        "terminated": ended,
        "truncated": torch.zeros_like(ended),
        "done": ended.clone(),
    }
    now = {"observation": torch.randn(1, steps, 4), "action": spec.rand((1, steps))}
    return TensorDict({**now, "next": after}, batch_size=[1, steps])


def make(
    loss: dict[str, Any], model: dict[str, Any] | None = None, spec: Any = BOX, **optim: Any
) -> tuple[ULDOptimizationStepper, WindowReplayBuffer]:
    torch.manual_seed(0)
    config = AgentConfig(
        model=replace(TINY, **(model or {})),
        loss=LossConfig(horizon=3, n_steps=2, **loss),
        optim=OptimConfig(**{"batch_size": 4, "period": 2, "schedule": "every_step", **optim}),
    )
    networks = make_networks(Unbounded(4), spec, config.model, loss=config.loss)
    rb = make_replay_buffer(capacity=100, horizon=3, batch_size=4)
    rb.extend(records(40, spec))
    return ULDOptimizationStepper(make_loss(networks, spec, config), rb, config.optim), rb


def weights(loss: ULDLoss) -> dict[str, list[torch.Tensor]]:
    """Copy all networks, online and target ones."""
    return {
        name: [value.clone() for value in loss._modules[f"{name}_params"].data.values(True, True)]
        for name in ALL | TARGETS
    }


def moved(old: dict[str, list[torch.Tensor]], new: dict[str, list[torch.Tensor]]) -> set[str]:
    return {
        name for name in old if any(not torch.equal(*pair) for pair in zip(old[name], new[name], strict=True))
    }


# Frozen encoders


@pytest.mark.parametrize("spec", [BOX, CHOICE], ids=["box", "one-hot"])
@pytest.mark.parametrize("schedule", ["periodic", "every_step"])
@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_encoders_rest_while_all_else_learns(frozen: bool, schedule: str, spec: Any) -> None:
    """Weight decay included: half of everything would be gone in a few updates."""
    stepper, rb = make({"freeze_encoder": frozen}, spec=spec, schedule=schedule, weight_decay=100.0)
    before = weights(stepper.loss_module)
    for _ in range(5):
        stepper.step(None, rb.sample())
    resting = ENCODERS | {f"target_{name}" for name in ENCODERS} if frozen else set()
    assert moved(before, weights(stepper.loss_module)) == (ALL | TARGETS) - resting


@pytest.mark.parametrize("frozen", [True, False])
def test_the_optimisers_hold_what_learns_and_nothing_twice(frozen: bool) -> None:
    stepper, _ = make({"freeze_encoder": frozen})
    taken = [id(p) for opt in stepper.optimizers.values() for p in opt.param_groups[0]["params"]]
    learning = ALL - ENCODERS if frozen else ALL
    loss = stepper.loss_module
    assert sorted(taken) == sorted(
        id(p) for name in learning for p in getattr(loss, f"{name}_params").parameters()
    )


def test_every_parameter_of_m_learns_behind_frozen_encoders() -> None:
    stepper, rb = make({"freeze_encoder": True}, weight_decay=0.0)
    before = weights(stepper.loss_module)["predictor"]
    for _ in range(3):
        stepper.step(None, rb.sample())
    after = weights(stepper.loss_module)["predictor"]
    assert all((old != new).any(-1).all() for old, new in zip(before, after, strict=True))


# The reward scale


@pytest.mark.parametrize(("scaling", "expected"), [(False, [1, 1, 1, 1, 1, 1]), (True, [1, 1, 3, 3, 3, 3])])
@pytest.mark.parametrize("schedule", ["periodic", "every_step"])
def test_the_scale_follows_the_buffer_at_each_period_or_not_at_all(
    scaling: bool, expected: list[int], schedule: str
) -> None:
    stepper, rb = make({"reward_scaling": scaling}, schedule=schedule)
    loss, seen, targets = stepper.loss_module, [], []
    for update in range(6):
        if update == 1:  # 40 rewards of 1, 40 of 5
            rb.extend(records(40, BOX, reward=5.0))
        metrics = stepper.step(None, rb.sample())
        seen.append(metrics["reward_scale"].item())
        targets.append(loss.target_reward_scale.item())
    assert seen == expected
    assert targets == ([1, 1, 1, 1, 3, 3] if scaling else [1] * 6)


# Heads


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_every_head_learns_and_sets_priorities(head: str, heads: int) -> None:
    stepper, rb = make({}, {"num_values": heads, "value_head": head})
    before = {key: p.clone() for key, p in stepper.loss_module.qvalue_network_params.items(True, True)}
    old = rb.state_dict()["priorities"].clone()
    for _ in range(3):
        stepper.step(None, rb.sample())
    for key, value in stepper.loss_module.qvalue_network_params.items(True, True):
        assert value.shape[0] == heads
        assert (value != before[key]).flatten(1).any(-1).all(), key
    assert not torch.equal(rb.state_dict()["priorities"], old)


# Every combination


def _combinations() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    latent = itertools.product(("two_hot", "mse"), ("state", "state_action"), *[(True, False)] * 3)
    names = ("reward_loss", "dynamics_target", "unroll", "target_encoder", "freeze_encoder")
    value = itertools.product(("huber", "mse"), (True, False), ("mlp", "linear"), (1, 2, 3))
    pairs = itertools.product([dict(zip(names, row, strict=True)) for row in latent], value)
    return [
        (
            {**switches, "value_loss": error, "reward_scaling": scaling},
            {"value_head": head, "num_values": heads},
        )
        for switches, (error, scaling, head, heads) in pairs
    ]


def _trains(loss: dict[str, Any], model: dict[str, Any], spec: Any) -> None:
    if loss["dynamics_target"] == "state_action" and loss["unroll"]:
        with pytest.raises(InputError, match="unroll must be false for dynamics_target 'state_action'"):
            make(loss, model, spec)
        return
    stepper, rb = make(loss, model, spec)
    before = weights(stepper.loss_module)
    for _ in range(3):
        metrics = stepper.step(None, rb.sample())
        assert all(bool(torch.isfinite(value)) for value in metrics.values())
    learned = ALL - ENCODERS if loss["freeze_encoder"] else ALL
    assert moved(before, weights(stepper.loss_module)) & ALL == learned
    (scale, target) = stepper.loss_module.reward_scale, stepper.loss_module.target_reward_scale
    assert (scale.item(), target.item()) == (1, 1)  # every reward is 1


# Each of the 32 settings of the encoder's loss with two of the 24 of the value; all 768 in `-m slow`.
SOME = [24 * row + (row + 12 * k) % 24 for row in range(32) for k in range(2)]


def test_the_sample_meets_every_pair_of_choices() -> None:
    """Of settings that are allowed; so that no two switches are met apart only."""
    combinations = [{**loss, **model} for loss, model in _combinations()]
    allowed = [c for c in combinations if not (c["unroll"] and c["dynamics_target"] == "state_action")]
    sampled = [combinations[k] for k in SOME if combinations[k] in allowed]

    def pairs(rows: list[dict[str, Any]]) -> set[Any]:
        return {pair for row in rows for pair in itertools.combinations(sorted(row.items()), 2)}

    assert len(combinations) == 768 and len(SOME) == len(set(SOME)) == 64
    assert pairs(sampled) == pairs(allowed)


@pytest.mark.parametrize("number", SOME)
def test_a_combination_of_switches_trains_or_is_refused(number: int) -> None:
    _trains(*_combinations()[number], [BOX, CHOICE][number % 2])


@pytest.mark.slow
@pytest.mark.parametrize("spec", [BOX, CHOICE], ids=["box", "one-hot"])
def test_every_combination_of_switches_trains_or_is_refused(spec: Any) -> None:
    for loss, model in _combinations():
        _trains(loss, model, spec)
