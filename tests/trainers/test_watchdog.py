"""What is not finite reaches no weights: every place where it may come in, both modes, and what is reported.

Here the stepper is alone, as in a user's own loop; whole runs are in ``test_watchdog_runs.py``.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensordict import TensorDictBase
from watched import INF, NAN, PERIOD, SPECS, make, plant, poison_draw, poisoned, same, state

from uld_torchrl import NonFinite
from uld_torchrl.errors import InputError
from uld_torchrl.trainers import ULDOptimizationStepper, Watchdog, watchdog

SCHEDULES = ("periodic", "every_step")


def refused(stepper: ULDOptimizationStepper, batch: TensorDictBase) -> dict[str, Any]:
    """Do an update that must fail; return the report, of which the message tells the most important."""
    with pytest.raises(NonFinite) as caught:
        stepper.step(None, batch)
    report, message = caught.value.report, str(caught.value)
    for word in (f"the {report['quantity']} of the {report['part']} is {report['value']}", "update"):
        assert word in message
    for name in [*report["batch"], *report["agent"]][:4]:
        assert name in message
    assert "\n" not in message
    return report


# No update is applied


@pytest.mark.parametrize("mode", ["stop", "skip"])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_poisoned_batch_changes_nothing_to_the_last_bit(schedule: str, spec: str, mode: Any) -> None:
    stepper, rb = make(schedule, spec, Watchdog(mode))
    batch, before = poisoned(rb.sample()), state(stepper, rb)
    if mode == "stop":
        refused(stepper, batch)
    else:
        stepper.step(None, batch)
    assert same(state(stepper, rb), before)
    assert stepper.counters == {"updates": 3, "skipped_updates": 1}
    stepper.step(None, rb.sample())  # and the next one goes on
    after = state(stepper, rb)
    assert not same(after["loss"], before["loss"]) and not same(after["priorities"], before["priorities"])
    assert float(after["value"]["state"][0]["step"]) == 3  # a step left out is not counted


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_the_guard_the_weights_become_nan(schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watchdog, "note", lambda *_, **__: torch.zeros(()))
    monkeypatch.setattr(Watchdog, "passed", lambda *_, **__: False)
    stepper, rb = make(schedule)
    stepper.step(None, poisoned(rb.sample()))
    assert all(p.isnan().all() for p in stepper.loss_module.qvalue_network_params.parameters())


class Unwatched(ULDOptimizationStepper):
    """As the stepper was before there was a watchdog."""

    def _descend(self, part: str, loss: torch.Tensor) -> torch.Tensor:
        optimizer, norm = self.optimizers[part], torch.zeros(())
        optimizer.zero_grad()
        loss.backward()
        if part == "value":
            norm = torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 20.0)
        optimizer.step()
        return norm

    def _watch(self, batch: TensorDictBase) -> None: ...

    def _passed(self, batch: TensorDictBase) -> bool:
        return True


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_finite_updates_are_the_same_without_a_watchdog(schedule: str) -> None:
    one, first = make(schedule, updates=0)
    other, second = make(schedule, updates=0)
    other = Unwatched(other.loss_module, second, other.config)
    for stepper, rb in ((one, first), (other, second)):
        torch.manual_seed(1)
        for _ in range(2 * PERIOD + 1):
            metrics = stepper.step(None, rb.sample())
    assert same(state(one, first), state(other, second))
    assert float(metrics["value_grad_norm"]) > 0


def omit(patch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Let one call of a method do nothing."""
    original, calls = getattr(owner, name), iter(range(10**6))

    def spy(*args: Any, **kwargs: Any) -> Any:
        return None if next(calls) == call else original(*args, **kwargs)

    patch.setattr(owner, name, spy)


@pytest.mark.parametrize(
    ("schedule", "draw", "left_out"),
    [
        # Draws of `periodic`: the value batch, three of the burst, value, value, value, three of the burst.
        ("periodic", 4, {"value": 1, "policy": 1, "priorities": 1}),
        ("periodic", 2, {"encoder": 1}),
        ("periodic", 8, {"encoder": 4}),
        ("every_step", 4, {"encoder": 4, "value": 4, "policy": 4, "priorities": 4}),
    ],
)
def test_a_run_that_skips_one_update_is_the_run_with_that_update_left_out_by_hand(
    schedule: str, draw: int, left_out: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for by_hand in (False, True):
        stepper, rb = make(schedule, dog=Watchdog("skip"), updates=0)
        if by_hand:
            for part, call in left_out.items():
                owner: Any = rb if part == "priorities" else stepper.optimizers[part]
                omit(monkeypatch, owner, "update_priority" if part == "priorities" else "step", call)
        else:
            poison_draw(monkeypatch, rb, draw)
        metrics = [stepper.step(None, rb.sample()) for _ in range(2 * PERIOD + 1)]
        ends.append((state(stepper, rb), dict(metrics[-1].items()), rb.sample().to_dict()))
        assert stepper.watchdog.skipped_updates == (0 if by_hand else 1)
    assert same(ends[0][0], ends[1][0])
    assert same(ends[0][1]["loss_qvalue"], ends[1][1]["loss_qvalue"])
    assert same(ends[0][2], ends[1][2])


def test_the_figures_of_a_burst_leave_out_what_was_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, rb = make("periodic", dog=Watchdog("skip"), updates=0)
    poison_draw(monkeypatch, rb, 2)
    losses, encoder_loss = [], stepper.loss_module.encoder_loss

    def spy(td: TensorDictBase) -> Any:
        losses.append(encoder_loss(td))
        return losses[-1]

    monkeypatch.setattr(stepper.loss_module, "encoder_loss", spy)
    shown = stepper.step(None, rb.sample())["loss_encoder"]
    first, second, third = (loss.item() for loss, _ in losses)
    assert math.isnan(second)
    assert float(shown) == pytest.approx((first + third) / 2, rel=1e-6)


# Where it comes from

PARTS = {
    "state_encoder": "encoder",
    "state_action_encoder": "encoder",
    "predictor": "encoder",
    "target_state_encoder": "encoder",
    "target_state_action_encoder": "value",
    "qvalue_network": "value",
    "target_qvalue_network": "value",
    "actor_network": "policy",
    "target_actor_network": "value",
}


@pytest.mark.parametrize(
    ("name", "spec", "value"),
    [*((name, spec, NAN) for name in PARTS for spec in SPECS), *((name, "box", INF) for name in PARTS)],
)
def test_broken_weights_are_named_and_spread_no_further(name: str, spec: str, value: float) -> None:
    stepper, rb = make(spec=spec)
    loss = stepper.loss_module
    tensors = {str(key): t for key, t in getattr(loss, f"{name}_params").data.flatten_keys(".").items()}
    where = next(key for key in tensors if key.endswith(("out.bias", "l3.bias", "linear.bias")))
    plant(tensors[where], value)
    report = refused(stepper, rb.sample())
    # Of actions the largest is chosen, and tanh bounds them: the target policy shows in no loss then.
    hidden = name == "target_actor_network" and (spec == "one-hot" or value == INF)
    assert report["part"] == ("input" if hidden else PARTS[name])
    assert list(report["agent"]) == [f"{name}_params.{where}"]
    (found,) = report["agent"].values()
    assert found == {
        "nan": int(value != value),
        "infinite": int(value == INF),
        "values": tensors[where].numel(),
    }
    assert report["batch"] == {}
    bad = [key for key, tensor in loss.state_dict().items() if not tensor.isfinite().all()]
    assert bad == [f"{name}_params.{where}"]


@pytest.mark.parametrize("name", ["reward_scale", "target_reward_scale"])
def test_a_broken_reward_scale_is_named(name: str) -> None:
    stepper, rb = make()
    plant(getattr(stepper.loss_module, name))
    report = refused(stepper, rb.sample())
    assert (report["part"], report["quantity"], report["value"]) == ("value", "loss", "nan")
    assert list(report["agent"]) == [name]


def test_a_broken_predictor_waits_for_the_burst_that_reads_it() -> None:
    stepper, rb = make("periodic")
    plant(stepper.loss_module.predictor_params.module.linear.weight)
    stepper.step(None, rb.sample())
    report = refused(stepper, rb.sample())
    assert (report["part"], report["update"]) == ("encoder", 4)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("key", ["observation", "action", ("next", "observation"), ("next", "reward")])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_the_replay_buffer_should_not_hold_is_found(schedule: str, key: Any, value: float) -> None:
    stepper, rb = make(schedule)
    before = state(stepper, rb)
    rb._storage._storage.get(key)[:] = value
    report = refused(stepper, rb.sample())
    name = key if isinstance(key, str) else ".".join(key)
    assert list(report["batch"]) == [name] and report["agent"] == {}
    assert report["batch"][name]["values"] == sum(report["batch"][name][kind] for kind in ("nan", "infinite"))
    assert same(state(stepper, rb)["loss"], before["loss"])


def test_an_infinite_reward_is_found_where_the_encoders_loss_hides_it() -> None:
    stepper, rb = make()
    batch = poisoned(rb.sample(), value=INF)
    assert stepper.loss_module.encoder_loss(batch)[0].isfinite()  # clipped to the last reward bin
    before = state(stepper, rb)
    report = refused(stepper, batch)
    assert report["batch"] == {"next.reward": {"nan": 0, "infinite": 1, "values": 18}}
    assert same(state(stepper, rb), before)


def test_entries_that_no_loss_reads_may_be_nan() -> None:
    stepper, rb = make()
    batch = rb.sample().set("note", torch.full((6, 3), NAN))
    stepper.step(None, batch)
    assert stepper.watchdog.skipped_updates == 0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_loss_may_overflow_where_its_gradient_does_not(schedule: str) -> None:
    stepper, rb = make(schedule)
    batch = rb.sample()
    batch.get(("next", "reward")).fill_(3e38)  # the sum of two is infinite, the Huber loss's slope is 1
    before = state(stepper, rb)
    report = refused(stepper, batch)
    assert (report["part"], report["quantity"], report["value"]) == ("value", "loss", "inf")
    assert math.isfinite(float(report["readings"]["value gradient"]))
    assert (report["batch"], report["agent"]) == ({}, {})
    unchanged = (name for name in before["loss"] if name.startswith(("qvalue", "actor")))
    assert all(same(before["loss"][name], stepper.loss_module.state_dict()[name]) for name in unchanged)


@pytest.mark.parametrize("part", ["encoder", "value", "policy"])
def test_a_gradient_may_be_nan_where_its_loss_is_not(part: str) -> None:
    stepper, rb = make()
    parameter = stepper.optimizers[part].param_groups[0]["params"][0]
    parameter.register_hook(lambda gradient: gradient * NAN)
    before = parameter.detach().clone()
    report = refused(stepper, rb.sample())
    assert (report["part"], report["quantity"], report["value"]) == (part, "gradient", "nan")
    assert math.isfinite(float(report["readings"][f"{part} loss"]))
    assert torch.equal(parameter, before)


def test_the_mean_reward_leaves_out_what_is_not_finite() -> None:
    _, rb = make()
    rewards = rb._storage._storage.get(("next", "reward"))
    rewards[:3, 0, 0] = torch.tensor([NAN, INF, -INF])
    torch.testing.assert_close(rb.mean_abs_reward(), rewards[3:60].abs().mean())
    rewards[:] = NAN
    assert rb.mean_abs_reward().isnan()


# Counting, and stopping in the end


def test_after_a_hundred_in_a_row_skipping_stops_though_bursts_succeed() -> None:
    stepper, rb = make("periodic", dog=Watchdog("skip"))
    plant(stepper.value_optimizer.param_groups[0]["params"][0])
    for _ in range(99):
        stepper.step(None, rb.sample())
    report = refused(stepper, rb.sample())
    assert (report["part"], report["in_a_row"], stepper.watchdog.skipped_updates) == ("value", 100, 100)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_good_update_begins_the_row_anew(schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LIMIT", 3)
    stepper, rb = make(schedule, dog=Watchdog("skip"))
    for bad in (True, True, False, True, True):
        stepper.step(None, poisoned(rb.sample()) if bad else rb.sample())
    assert stepper.watchdog.skipped_updates == 4
    assert refused(stepper, poisoned(rb.sample()))["in_a_row"] == 3


def test_counters_are_saved_and_older_states_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LIMIT", 3)
    stepper, rb = make(dog=Watchdog("skip"))
    for _ in range(2):
        stepper.step(None, poisoned(rb.sample()))
    saved = copy.deepcopy(stepper.state_dict())
    again, rb = make(dog=Watchdog("skip"))
    again.load_state_dict(saved)
    assert refused(again, poisoned(rb.sample()))["in_a_row"] == 3
    del saved["watchdog"]
    older, _ = make(dog=Watchdog("skip"))
    older.load_state_dict(saved)
    assert older.watchdog.skipped_updates == 0


def test_skips_are_logged_at_the_first_the_tenth_and_so_on(caplog: pytest.LogCaptureFixture) -> None:
    stepper, rb = make(dog=Watchdog("skip"))
    for _ in range(25):
        stepper.step(None, poisoned(rb.sample()))
    told = [record.getMessage() for record in caplog.records if record.name.endswith("watchdog")]
    assert [text.split(" so far")[0] for text in told] == ["update left out, 1", "update left out, 10"]
    assert "next.reward (1 of 18)" in told[0]


def test_a_mode_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="on_nonfinite must be one of stop, skip; got 'ignore'"):
        Watchdog("ignore")  # type: ignore[arg-type]


# The dump


def contents(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    assert {path.name for path in folder.iterdir()} == {"batch.safetensors", "report.json"}
    return load_file(folder / "batch.safetensors"), json.loads((folder / "report.json").read_text())


def test_the_batch_of_a_burst_that_failed_is_the_one_that_is_dumped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepper, rb = make("periodic", dog=Watchdog(folder=tmp_path), updates=PERIOD)
    drawn = poison_draw(monkeypatch, rb, 2)
    with pytest.raises(NonFinite, match=rf"The batch is in {tmp_path}/step-4\.") as caught:
        stepper.step(None, rb.sample())
    batch, report = contents(tmp_path / "step-4")
    expected = {".".join(key) if isinstance(key, tuple) else key: v for key, v in drawn[2].items(True, True)}
    assert {"observation", "next.reward", "anchor_index"} < batch.keys() == expected.keys()
    torch.testing.assert_close(batch, expected, rtol=0, atol=0, equal_nan=True)
    assert report == caught.value.report
    assert (report["part"], report["step"], report["update"], len(drawn)) == ("encoder", 4, 4, 3)
    assert float(stepper.encoder_optimizer.state_dict()["state"][0]["step"]) == PERIOD + 1
    assert pickle.loads(pickle.dumps(caught.value)).report == report


@pytest.mark.parametrize(("mode", "kept"), [("skip", 3), ("stop", 10)])
def test_dumps_are_few_and_never_overwritten(mode: Any, kept: int, tmp_path: Path) -> None:
    stepper, rb = make(dog=Watchdog(mode, tmp_path / "faults", lambda: 7))
    for _ in range(12):
        with pytest.raises(NonFinite) if mode == "stop" else nullcontext():
            stepper.step(None, poisoned(rb.sample()))
    names = ["step-7", *(f"step-7-{k}" for k in range(2, kept + 1))]
    assert {path.name for path in (tmp_path / "faults").iterdir()} == set(names)
    assert [contents(tmp_path / "faults" / name)[1]["update"] for name in names] == list(range(3, kept + 3))


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("name", ["save_file", "os.fsync", "os.rename"])
def test_a_dump_that_fails_does_not_hide_the_fault(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stepper, rb = make(dog=Watchdog(folder=tmp_path))
    monkeypatch.setattr(f"uld_torchrl.trainers.dumps.{name}", full_disk)
    with pytest.raises(NonFinite, match=r"next\.reward \(1 of 18\).*could not be written.*No space left"):
        stepper.step(None, poisoned(rb.sample()))
    assert list(tmp_path.iterdir()) == []
    assert "No space left" in caplog.text


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stepper, rb = make()
    report = refused(stepper, poisoned(rb.sample()))
    assert (report["step"], report["update"]) == (3, 3)
    assert list(tmp_path.iterdir()) == []
