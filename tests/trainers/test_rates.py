"""Learning rates that fall over a run: their values, when they are set, and that nothing else changes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from recorded import StandIn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR
from watched import PERIOD, make, same, state

from uld_torchrl import InputError
from uld_torchrl.config import OptimConfig
from uld_torchrl.trainers import ULDOptimizationStepper
from uld_torchrl.trainers.engines import Engine, Replayed
from uld_torchrl.trainers.rates import FallingRates
from uld_torchrl.trainers.stacked import StackedStepper
from uld_torchrl.trainers.streams import RandomStreams

TOTAL = 8
RATES = {"encoder": 1e-4, "value": 3e-4, "policy": 3e-4}


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)


def rate(optimizer: torch.optim.Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_the_rates_are_those_of_torchs_own_schedulers(decay: Any, final: float) -> None:
    mine, theirs = sgd(), sgd()
    rates = FallingRates([mine], OptimConfig(lr_decay=decay, lr_final=final), TOTAL)
    theirs_schedule = (
        LinearLR(theirs, 1.0, final, TOTAL)
        if decay == "linear"
        else CosineAnnealingLR(theirs, TOTAL, eta_min=0.3 * final)
    )
    for update in range(TOTAL + 1):
        rates.set(update)
        assert rate(mine) == pytest.approx(rate(theirs), rel=1e-6, abs=1e-8)
        theirs.step()
        theirs_schedule.step()
    rates.set(TOTAL + 5)
    assert rate(mine) == pytest.approx(0.3 * final, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("total", [None, 0, -3])
def test_the_updates_of_the_whole_run_must_be_known(total: int | None) -> None:
    with pytest.raises(
        InputError, match=f"total_updates must be at least 1 for lr_decay 'linear', got {total}"
    ):
        FallingRates([sgd()], OptimConfig(lr_decay="linear"), total)


# In the updates


def build(
    schedule: str = "periodic",
    decay: str = "linear",
    *,
    engine: Engine | None = None,
    total: int | None = TOTAL,
    **optim: Any,
) -> ULDOptimizationStepper:
    """Make a small stepper; networks and records are always the same."""
    plain, rb = make(schedule, updates=0)
    rb._sampler.waits = rb._sampler._priorities.waits = False
    plain.loss_module.check_windows = False
    config = OptimConfig(**{**vars(plain.config), "lr_decay": decay, "lr_final": 0.2, **optim})
    return ULDOptimizationStepper(plain.loss_module, rb, config, engine=engine, total_updates=total)


def watch_rates(stepper: ULDOptimizationStepper, patch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Return the list to which each step of an optimiser will add its name and learning rate."""
    seen: list[tuple[str, float]] = []
    for name, optimizer in stepper.optimizers.items():

        def stepping(name: str = name, optimizer: Any = optimizer, step: Any = optimizer.step) -> None:
            seen.append((name, rate(optimizer)))
            step()

        patch.setattr(optimizer, "step", stepping)
    return seen


def expected_rates(schedule: str, updates: int) -> list[tuple[str, float]]:
    """Linear to a fifth in 8 updates: a tenth less with each."""
    rows = []
    for update in range(updates):
        now = {name: lr * (1 - 0.1 * min(update, 8)) for name, lr in RATES.items()}
        first = PERIOD if update % PERIOD == 0 else 0
        rows += [("encoder", now["encoder"])] * (first if schedule == "periodic" else 1)
        rows += [("value", now["value"]), ("policy", now["policy"])]
    return rows


@pytest.mark.parametrize("schedule", ["periodic", "every_step"])
def test_all_three_optimisers_step_with_the_rate_of_the_update(
    schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepper = build(schedule)
    seen = watch_rates(stepper, monkeypatch)
    for _ in range(10):
        stepper.step(None)
    wanted = expected_rates(schedule, 10)
    assert [name for name, _ in seen] == [name for name, _ in wanted]
    assert [lr for _, lr in seen] == pytest.approx([lr for _, lr in wanted], rel=1e-6)


def weights(stepper: ULDOptimizationStepper) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in stepper.loss_module.parameters()])


def run(stepper: ULDOptimizationStepper, updates: int = 5) -> ULDOptimizationStepper:
    torch.manual_seed(7)
    for _ in range(updates):
        stepper.step(None)
    return stepper


def test_only_the_rates_change() -> None:
    """Rates that stay where they are give the plain updates, up to their rounding to float32."""
    plain = run(build(decay="none"))
    still, falling = run(build(lr_final=1.0)), run(build(lr_final=0.0))
    assert torch.allclose(weights(still), weights(plain), rtol=0, atol=1e-7)
    assert not torch.allclose(weights(falling), weights(plain), rtol=0, atol=1e-5)
    assert type(plain.value_optimizer.param_groups[0]["lr"]) is float


def test_after_rates_of_zero_the_weights_rest() -> None:
    stepper = run(build(total=2, lr_final=0.0), 2)
    before = weights(stepper)
    assert torch.equal(weights(run(stepper, 3)), before)


@pytest.mark.parametrize("schedule", ["periodic", "every_step"])
def test_recorded_updates_read_the_rates_anew(schedule: str) -> None:
    plain = run(build(schedule), 10)
    recorder = StandIn()
    replayed = run(build(schedule, engine=Replayed(recorder, warm_ups=1)), 10)
    assert recorder.replays > 10
    assert torch.equal(weights(replayed), weights(plain))
    for name, optimizer in plain.optimizers.items():
        assert same(optimizer.state_dict()["state"], replayed.optimizers[name].state_dict()["state"])


# Going on


@pytest.mark.parametrize("updates", [2, 3])
def test_a_saved_state_goes_on_exactly(updates: int) -> None:
    """In mid-period, and at its end; also what is recorded reads the rates that are set."""
    whole, first = run(build(), updates), run(build(), updates)
    other = build(engine=Replayed(StandIn(), warm_ups=1))
    other.load_state_dict(first.state_dict())
    other.loss_module.load_state_dict(first.loss_module.state_dict())
    other.replay_buffer.load_state_dict(first.replay_buffer.state_dict())
    assert rate(other.value_optimizer) == pytest.approx(3e-4 * (1 - 0.1 * updates), rel=1e-6)
    for stepper in (whole, other):
        run(stepper, 5)
    assert torch.equal(weights(other), weights(whole))
    assert same(
        state(other, other.replay_buffer)["priorities"], state(whole, whole.replay_buffer)["priorities"]
    )


def test_more_updates_in_all_than_when_it_was_saved_raise_the_rate() -> None:
    first, longer = run(build(), 4), build(total=2 * TOTAL)
    longer.load_state_dict(first.state_dict())
    assert rate(first.policy_optimizer) == pytest.approx(3e-4 * (1 - 0.1 * 3), rel=1e-6)
    assert rate(longer.policy_optimizer) == pytest.approx(3e-4 * (1 - 0.1 * 2), rel=1e-6)


@pytest.mark.parametrize("schedule", ["periodic", "every_step"])
def test_several_seeds_have_the_rates_that_each_has_alone(
    schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steppers, streams, alone = {}, RandomStreams(), build(schedule, "cosine")
    for seed in (3, 4):
        steppers[seed] = build(schedule, "cosine")
        torch.manual_seed(seed)
        streams.add(seed)
    stacked, seen = StackedStepper(steppers, streams), [watch_rates(alone, monkeypatch)]
    seen += [watch_rates(stepper, monkeypatch) for stepper in steppers.values()]
    for _ in range(5):
        alone.step(None)
        stacked.step(stacked.sample())
    assert seen[0] == seen[1] == seen[2]
    half = 0.2 + 0.8 * (1 + math.cos(math.pi * 4 / TOTAL)) / 2
    assert seen[1][-1] == ("policy", pytest.approx(3e-4 * half, rel=1e-6))
