"""The schedule of updates, read off a log of everything the stepper calls, in order.

What the losses are worth is tested with the objectives, which windows are drawn with the replay.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Bounded, OneHot, Unbounded

from uld_torchrl import make_loss, make_networks
from uld_torchrl.config import AgentConfig, LossConfig, ModelConfig, OptimConfig
from uld_torchrl.data import WindowReplayBuffer, make_replay_buffer
from uld_torchrl.objectives import ULDLoss
from uld_torchrl.trainers import ULDOptimizationStepper

PERIOD = 3
ENCODER = {"state_encoder", "state_action_encoder", "predictor"}
ALL = ENCODER | {"qvalue_network", "actor_network"}
TARGETS = {f"target_{name}" for name in ALL - {"predictor"}}
BOX, CHOICE = Bounded(-1, 1, (2,)), OneHot(3, dtype=torch.int64)


def records(steps: int, spec: Any = BOX, *, reward: float = 1.0, terminal: bool = False) -> TensorDict:
    """Time steps [1, steps] of one lane; ``terminal``: the last one ends in a terminal state."""
    ended = torch.zeros(1, steps, 1, dtype=torch.bool)
    ended[:, -1] = terminal
    return TensorDict(
        {
            "observation": torch.randn(1, steps, 4),
            "action": spec.rand((1, steps)),
            "next": {
                "observation": torch.randn(1, steps, 4),
                "reward": torch.full((1, steps, 1), reward),
                "terminated": ended,
                "truncated": torch.zeros_like(ended),
                "done": ended.clone(),
            },
        },
        batch_size=[1, steps],
    )


def make(
    schedule: str = "periodic", spec: Any = BOX, *, seed: int = 0, **optim: Any
) -> tuple[ULDOptimizationStepper, WindowReplayBuffer]:
    """Make a stepper with small networks and period 3, and a replay buffer of 60 steps of reward 1."""
    torch.manual_seed(seed)
    config = AgentConfig(
        model=ModelConfig(z_s_dim=8, z_a_dim=4, z_sa_dim=8, hidden_dim=8),
        loss=LossConfig(horizon=3, n_steps=2, terminated_coeff=0.37),
        optim=OptimConfig(**{"batch_size": 6, "period": PERIOD, "schedule": schedule, **optim}),
    )
    loss = make_loss(make_networks(Unbounded(4), spec, config.model), spec, config)
    rb = make_replay_buffer(capacity=500, horizon=3, batch_size=6)
    rb.extend(records(60, spec))
    return ULDOptimizationStepper(loss, rb, config.optim), rb


class Log:
    """Writes down, in order, what the stepper calls; batches by number, in the order they were drawn."""

    def __init__(self, stepper: ULDOptimizationStepper, rb: WindowReplayBuffer, patch: Any) -> None:
        self.events: list[Any] = []
        self.batches: list[TensorDictBase] = []
        self.errors: list[torch.Tensor] = []
        self.patch, loss = patch, stepper.loss_module
        self._spy(rb, "sample", after=self._drawn)
        self._spy(rb, "update_priority", before=self._prioritised)
        self._spy(stepper.target_updater, "copy_", before=lambda: self.events.append("copy targets"))
        self._spy(loss, "update_reward_scale_", before=lambda _: self.events.append("set scales"))
        self._spy(loss, "encoder_loss", before=lambda td: self.events.append(("encoder", self.number(td))))
        self._spy(loss, "value_loss", before=lambda td: self.events.append(("value", self.number(td))))
        self._spy(loss, "actor_loss", before=lambda _: self.events.append("policy"))
        for name, optimizer in stepper.optimizers.items():
            self._spy(optimizer, "step", before=lambda name=name: self.events.append(f"{name} steps"))

    def _spy(self, owner: Any, name: str, before: Any = None, after: Any = None) -> None:
        original = getattr(owner, name)

        def spy(*args: Any, **kwargs: Any) -> Any:
            if before is not None:
                before(*args, **kwargs)
            result = original(*args, **kwargs)
            if after is not None:
                after(result)
            return result

        self.patch.setattr(owner, name, spy)

    def number(self, td: TensorDictBase) -> int:
        return next(k for k, batch in enumerate(self.batches) if batch is td)

    def _drawn(self, batch: TensorDictBase) -> None:
        self.batches.append(batch)
        self.events.append(("draw", len(self.batches) - 1))

    def _prioritised(self, anchors: torch.Tensor, error: torch.Tensor) -> None:
        found = [k for k, batch in enumerate(self.batches) if batch.get("anchor_index") is anchors]
        self.events.append(("priorities", *found))
        self.errors.append(error.clone())


def burst(first: int) -> list[Any]:
    """Return the events of one period's encoder updates, which draw batches ``first``, first + 1, ..."""
    return [
        event
        for k in range(first, first + PERIOD)
        for event in (("draw", k), ("encoder", k), "encoder steps")
    ]


def value_and_policy(batch: int) -> list[Any]:
    return [("value", batch), "value steps", "policy", "policy steps", ("priorities", batch)]


def test_periodic_schedule_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, rb = make()
    log = Log(stepper, rb, monkeypatch)
    expected: list[Any] = []
    for update in range(1, 2 * PERIOD + 2):
        # Batches: the value batch of this update, drawn by the caller, then those of the burst.
        batch = len(log.batches)
        stepper.step(None, rb.sample())
        expected.append(("draw", batch))
        if update in (1, PERIOD + 1, 2 * PERIOD + 1):
            expected += ["copy targets", "set scales", *burst(batch + 1)]
        expected += value_and_policy(batch)
        assert stepper.updates == update
    assert log.events == expected


def test_every_step_schedule_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, rb = make("every_step")
    log = Log(stepper, rb, monkeypatch)
    expected: list[Any] = []
    for batch in range(2 * PERIOD + 1):
        stepper.step(None, rb.sample())
        expected.append(("draw", batch))
        if batch % PERIOD == 0:
            expected += ["copy targets", "set scales"]
        expected += [("encoder", batch), "encoder steps", *value_and_policy(batch)]
    assert log.events == expected


def test_both_schedules_cost_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for schedule in ("periodic", "every_step"):
        stepper, rb = make(schedule)
        log = Log(stepper, rb, monkeypatch)
        for _ in range(2 * PERIOD):
            stepper.step(None, rb.sample())
        steps = Counter(event for event in log.events if str(event).endswith("steps"))
        counts.append(dict(steps))
    assert counts[0] == counts[1] == dict.fromkeys(counts[0], 2 * PERIOD)


def test_priorities_are_the_td_errors_before_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, rb = make()
    for _ in range(2):  # so that values, targets and batches are not those of the very start
        stepper.step(None, rb.sample())
    batch = rb.sample()
    log = Log(stepper, rb, monkeypatch)
    log.batches.append(batch)
    random_state = torch.get_rng_state()
    _, value = stepper.loss_module.value_loss(batch)
    torch.set_rng_state(random_state)
    stepper.step(None, batch)
    (error,) = log.errors
    torch.testing.assert_close(error, value["td_error"], rtol=0, atol=0)


def test_a_batch_without_anchors_sets_no_priorities(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, rb = make("every_step")
    log = Log(stepper, rb, monkeypatch)
    batch = rb.sample().exclude("anchor_index")
    log.batches.append(batch)
    stepper.step(None, batch)
    assert "policy steps" in log.events
    assert not log.errors


def weights(loss: ULDLoss) -> dict[str, dict[str, torch.Tensor]]:
    """Copy all networks, online and target ones."""
    return {
        name: {
            str(key): value.clone()
            for key, value in getattr(loss, f"{name}_params").data.flatten_keys(".").items()
        }
        for name in ALL | TARGETS
    }


def changed(old: dict[str, dict[str, torch.Tensor]], new: dict[str, dict[str, torch.Tensor]]) -> set[str]:
    return {name for name in old if any(not torch.equal(old[name][key], new[name][key]) for key in old[name])}


@pytest.mark.parametrize("spec", [BOX, CHOICE], ids=["box", "one-hot"])
@pytest.mark.parametrize("schedule", ["periodic", "every_step"])
def test_which_networks_an_update_changes(schedule: str, spec: Any) -> None:
    stepper, rb = make(schedule, spec)
    loss = stepper.loss_module
    for update in range(1, 2 * PERIOD + 1):
        before = weights(loss)
        stepper.step(None, rb.sample())
        first = update % PERIOD == 1
        expected = {"qvalue_network", "actor_network"}
        if first or schedule == "every_step":
            expected |= ENCODER
        if first and update > 1:  # before update 1 the targets are equal to the networks already
            expected |= TARGETS
        assert changed(before, weights(loss)) == expected, f"update {update}"


def test_targets_are_the_networks_before_the_encoder_updates() -> None:
    stepper, rb = make()
    loss = stepper.loss_module
    for _ in range(PERIOD):
        stepper.step(None, rb.sample())
    before = weights(loss)
    for _ in range(PERIOD):  # the whole next period looks at the same targets
        stepper.step(None, rb.sample())
        after = weights(loss)
        for name in TARGETS:
            torch.testing.assert_close(after[name], before[name.removeprefix("target_")], rtol=0, atol=0)


def test_reward_scale_moves_to_the_target_one_period_later() -> None:
    stepper, rb = make()
    loss = stepper.loss_module
    seen = []
    for update in range(2 * PERIOD + 1):
        if update == 1:  # in mid-period: counts from the next one on; 60 rewards of 1, 60 of -4
            rb.extend(records(60, reward=-4.0))
        stepper.step(None, rb.sample())
        seen.append((float(loss.target_reward_scale), float(loss.reward_scale)))
    assert seen == [(1.0, 1.0)] * PERIOD + [(1.0, 2.5)] * PERIOD + [(2.5, 2.5)]


def test_first_period_uses_target_scale_one() -> None:
    stepper, rb = make()
    rb.extend(records(60, reward=7.0))
    metrics = stepper.step(None, rb.sample())
    assert float(stepper.loss_module.target_reward_scale) == 1.0
    assert float(stepper.loss_module.reward_scale) == float(metrics["reward_scale"]) == 4.0


@pytest.mark.parametrize("schedule", ["periodic", "every_step"])
def test_termination_loss_waits_for_a_termination_at_the_start_of_a_period(
    schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepper, rb = make(schedule)
    loss, seen = stepper.loss_module, []
    original = loss.encoder_loss

    def spy(td: TensorDictBase) -> Any:
        seen.append(float(loss.terminated_coeff))
        return original(td)

    monkeypatch.setattr(loss, "encoder_loss", spy)
    for update in range(2 * PERIOD):
        if update == 1:
            rb.extend(records(5, terminal=True))
        stepper.step(None, rb.sample())
    assert seen == pytest.approx([0.0] * PERIOD + [0.37] * PERIOD)


def test_termination_loss_stays_when_the_termination_is_overwritten() -> None:
    stepper, rb = make()
    rb.extend(records(5, terminal=True))
    stepper.step(None, rb.sample())
    for _ in range(9):
        rb.extend(records(60))
    assert not rb.has_termination()
    for _ in range(PERIOD):
        stepper.step(None, rb.sample())
    assert float(stepper.loss_module.terminated_coeff) == pytest.approx(0.37)


def test_a_second_stepper_on_the_same_loss_keeps_the_termination_weight() -> None:
    first, rb = make()
    rb.extend(records(5, terminal=True))
    second = ULDOptimizationStepper(first.loss_module, rb, first.config)
    assert float(second.loss_module.terminated_coeff) == 0.0
    second.step(None, rb.sample())
    assert float(second.loss_module.terminated_coeff) == pytest.approx(0.37)


def test_policy_loss_sees_the_value_after_its_step() -> None:
    stepper, rb = make()
    loss = stepper.loss_module
    stepper.step(None, rb.sample())  # mid-period from here on: encoders and targets rest
    batch, before = rb.sample(), copy.deepcopy(loss.state_dict())
    metrics = stepper.step(None, batch)
    after = copy.deepcopy(loss.state_dict())
    values = [key for key in after if key.startswith("qvalue_network_params")]
    assert values

    def policy_loss(value_weights: dict[str, torch.Tensor]) -> torch.Tensor:
        loss.load_state_dict({**before, **{key: value_weights[key] for key in values}})
        return loss.actor_loss(batch)[0]

    torch.testing.assert_close(metrics["loss_actor"], policy_loss(after).detach(), rtol=1e-6, atol=1e-7)
    assert not torch.isclose(metrics["loss_actor"], policy_loss(before), rtol=1e-4)


def gradient_norms(stepper: ULDOptimizationStepper, rb: WindowReplayBuffer) -> dict[str, float]:
    """Do one update and return the norm of the gradient that each optimiser then still holds."""
    stepper.step(None, rb.sample())
    return {
        name: float(torch.cat([p.grad.flatten() for p in optimizer.param_groups[0]["params"]]).norm())
        for name, optimizer in stepper.optimizers.items()
    }


def test_only_the_value_gradient_is_clipped() -> None:
    assert OptimConfig().value_grad_clip == 20.0
    free = gradient_norms(*make("every_step"))
    clipped = gradient_norms(*make("every_step", value_grad_clip=1e-3))
    assert clipped["value"] == pytest.approx(1e-3, rel=1e-2)
    assert free["value"] > 1e-2
    assert clipped["encoder"] == free["encoder"] > 1e-3
    assert clipped["policy"] > 1e-3


def test_gradients_below_the_limit_are_left_alone() -> None:
    stepper, rb = make("every_step", value_grad_clip=1e6)
    metrics = stepper.step(None, rb.sample())
    norm = torch.cat([p.grad.flatten() for p in stepper.value_optimizer.param_groups[0]["params"]]).norm()
    torch.testing.assert_close(metrics["value_grad_norm"], norm)


def test_optimisers_share_no_parameter_and_leave_none_out() -> None:
    stepper, _ = make(encoder_lr=0.1, value_lr=0.2, policy_lr=0.3, weight_decay=0.4)
    groups = {name: optimizer.param_groups for name, optimizer in stepper.optimizers.items()}
    taken = [id(p) for (group,) in groups.values() for p in group["params"]]
    online = [id(p) for name in ALL for p in getattr(stepper.loss_module, f"{name}_params").parameters()]
    assert sorted(taken) == sorted(online)
    assert {name: group["lr"] for name, (group,) in groups.items()} == {
        "encoder": 0.1,
        "value": 0.2,
        "policy": 0.3,
    }
    assert {group["weight_decay"] for (group,) in groups.values()} == {0.4}
    assert all(isinstance(optimizer, torch.optim.AdamW) for optimizer in stepper.optimizers.values())


def test_metrics_are_detached_scalars() -> None:
    stepper, rb = make()
    for _ in range(2):
        metrics = stepper.step(None, rb.sample())
        assert metrics.batch_size == torch.Size([])
        assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())
        assert all(torch.isfinite(value) for value in metrics.values())


def test_encoder_metrics_are_the_mean_of_the_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, rb = make()
    original, losses = stepper.loss_module.encoder_loss, []

    def spy(td: TensorDictBase) -> Any:
        result = original(td)
        losses.append(result[0].detach())
        return result

    monkeypatch.setattr(stepper.loss_module, "encoder_loss", spy)
    first, second = stepper.step(None, rb.sample()), stepper.step(None, rb.sample())
    torch.testing.assert_close(first["loss_encoder"], torch.stack(losses).mean())
    assert first["loss_encoder"] == second["loss_encoder"]


@pytest.mark.parametrize("schedule", ["periodic", "every_step"])
@pytest.mark.parametrize("done", [1, PERIOD, PERIOD + 2])
def test_state_dict_continues_bit_for_bit(schedule: str, done: int) -> None:
    old, rb = make(schedule, CHOICE)
    rb.extend(records(9, CHOICE, reward=3.0, terminal=True))
    for _ in range(done):
        old.step(None, rb.sample())
    saved = copy.deepcopy((old.loss_module.state_dict(), old.state_dict(), rb.state_dict()))
    random_state = torch.get_rng_state()
    new, new_rb = make(schedule, CHOICE, seed=1)
    for target, state in zip((new.loss_module, new, new_rb), saved, strict=True):
        target.load_state_dict(state)

    def go_on(stepper: ULDOptimizationStepper, rb: WindowReplayBuffer) -> dict[str, Any]:
        torch.set_rng_state(random_state)
        for _ in range(PERIOD + 1):
            metrics = stepper.step(None, rb.sample())
        return {
            "loss": dict(stepper.loss_module.state_dict()),
            "stepper": stepper.state_dict(),
            "replay": rb.state_dict(),
            "metrics": metrics.to_dict(),
        }

    torch.testing.assert_close(go_on(old, rb), go_on(new, new_rb), rtol=0, atol=0)
    assert new.updates == done + PERIOD + 1
