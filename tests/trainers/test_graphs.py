"""CUDA graphs without CUDA: parts of an update recorded by a stand-in and replayed, as eager to the last bit.

The stand-in (``recorded``) keeps Python's numbers as they were and refuses to look at a value, as a GPU does.
What only a GPU can show is at the end, marked ``gpu``.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded import HostWaits, StandIn
from tensordict import TensorDict
from watched import PERIOD, SPECS, make, plant, poisoned, same, state

from uld_torchrl import NonFinite
from uld_torchrl.data import WindowReplayBuffer, make_replay_buffer
from uld_torchrl.errors import InputError
from uld_torchrl.trainers import ULDOptimizationStepper, Watchdog, watchdog
from uld_torchrl.trainers.engines import Eager, Engine, Replayed
from uld_torchrl.trainers.verdicts import Verdicts

SCHEDULES = ("periodic", "every_step")
UPDATES = 3 * PERIOD + 2


def as_on_a_gpu(rb: WindowReplayBuffer) -> None:
    """Let drawing and setting priorities look at no value."""
    rb._sampler.waits = rb._sampler._priorities.waits = False


def build(
    engine: Engine | None = None, schedule: str = "periodic", spec: str = "box", dog: Watchdog | None = None
) -> tuple[ULDOptimizationStepper, WindowReplayBuffer]:
    """Make a stepper with an engine, and its replay buffer; networks and records are always the same."""
    plain, rb = make(schedule, spec, updates=0)
    as_on_a_gpu(rb)
    plain.loss_module.check_windows = False
    return ULDOptimizationStepper(plain.loss_module, rb, plain.config, dog, engine=engine), rb


def metrics_of(stepper: ULDOptimizationStepper, updates: int = UPDATES) -> list[dict[str, Any]]:
    torch.manual_seed(7)
    return [stepper.step(None).to_dict() for _ in range(updates)]


# The same as eager


@pytest.mark.parametrize("warm_ups", [1, 3])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_replayed_updates_are_the_eager_ones_to_the_last_bit(schedule: str, spec: str, warm_ups: int) -> None:
    recorder = StandIn()
    one, first = build(None, schedule, spec)
    other, second = build(Replayed(recorder, warm_ups=warm_ups), schedule, spec)
    assert all(same(a, b) for a, b in zip(metrics_of(one), metrics_of(other), strict=True))
    assert one.counters == other.counters
    for name, group in state(one, first).items():
        assert name in one.optimizers or same(group, state(other, second)[name]), name
    for name, optimizer in one.optimizers.items():
        assert same(optimizer.state_dict()["state"], other.optimizers[name].state_dict()["state"])
    bursts = 4 * PERIOD if schedule == "periodic" else 0  # four periods begin in eleven updates
    parts = 3 if bursts else 2
    assert len(recorder.recordings) == parts and recorder.warm_ups == parts * warm_ups
    assert recorder.replays == 2 * UPDATES + bursts - parts * warm_ups


def test_batches_of_the_caller_are_copied_to_where_the_recording_reads() -> None:
    results = []
    for engine in (Eager(), Replayed(StandIn(), warm_ups=1)):
        stepper, rb = build(engine)
        torch.manual_seed(7)
        for _ in range(UPDATES):
            batch = rb.sample()
            kept = batch.clone()
            stepper.step(None, batch)
            assert same(batch.to_dict(), kept.to_dict())
        results.append(state(stepper, rb))
    assert same(results[0]["loss"], results[1]["loss"])
    assert same(results[0]["priorities"], results[1]["priorities"])


def test_batches_drawn_by_the_stepper_and_by_the_caller_may_alternate() -> None:
    results = []
    for engine in (Eager(), Replayed(StandIn(), warm_ups=1)):
        stepper, rb = build(engine)
        torch.manual_seed(7)
        for update in range(UPDATES):
            stepper.step(None, rb.sample() if update % 2 else None)
        results.append(state(stepper, rb))
    assert same(results[0]["loss"], results[1]["loss"])
    assert same(results[0]["priorities"], results[1]["priorities"])


def test_what_is_written_between_updates_is_drawn() -> None:
    results = []
    for engine in (Eager(), Replayed(StandIn(), warm_ups=1)):
        stepper, rb = build(engine)
        torch.manual_seed(7)
        for step in range(UPDATES):
            no = torch.zeros(1, 1, 1, dtype=torch.bool)
            after = {"observation": torch.randn(1, 1, 4), "reward": torch.full((1, 1, 1), float(step))}
            flags = {"terminated": no, "truncated": no.clone(), "done": no.clone()}
            entries = {"observation": torch.randn(1, 1, 4), "action": torch.rand(1, 1, 2)}
            rb.extend(TensorDict({**entries, "next": {**after, **flags}}, batch_size=[1, 1]))
            rb.can_sample()
            stepper.step(None)
        results.append(state(stepper, rb))
    assert same(results[0]["loss"], results[1]["loss"])
    assert same(results[0]["priorities"], results[1]["priorities"])


def test_metrics_of_an_update_outlive_the_next() -> None:
    stepper, _ = build(Replayed(StandIn(), warm_ups=1))
    before = metrics_of(stepper, 3)[-1]
    kept = {name: value.clone() for name, value in before.items()}
    stepper.step(None)
    assert same(before, kept)


def test_a_saved_state_goes_on_with_the_other_engine() -> None:
    one, _ = build(Replayed(StandIn(), warm_ups=1))
    metrics_of(one, 4)
    other, _ = build(None)
    other.load_state_dict(one.state_dict())
    assert other.updates == 4 and not other.value_optimizer.param_groups[0]["capturable"]
    one.load_state_dict(other.state_dict())
    assert all(optimizer.param_groups[0]["capturable"] for optimizer in one.optimizers.values())


# The host does not wait


def test_the_stand_in_notices_what_a_gpu_would_wait_for() -> None:
    values = torch.arange(3.0)
    for wait in (
        lambda: values.sum().item(),
        lambda: values[values > 1],
        lambda: bool(values.any()),
        lambda: torch.tensor(3.0),
        lambda: values.nonzero(),
    ):
        with pytest.raises(HostWaits):
            StandIn().record(wait)


def test_the_stand_in_keeps_numbers_of_python_and_reads_tensors_anew() -> None:
    number, tensor, recorder = [2.0], torch.ones(2), StandIn()
    result, replay = recorder.record(lambda: tensor * number[0])
    replay()
    assert result.tolist() == [2.0, 2.0]
    number[0] = 5.0
    tensor.fill_(3.0)
    replay()
    assert result.tolist() == [6.0, 6.0]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_replayed_update_waits_once_a_period(schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, _ = build(Replayed(StandIn(), warm_ups=1), schedule)
    metrics_of(stepper, PERIOD)
    read: list[int] = []
    original = Verdicts.read
    monkeypatch.setattr(Verdicts, "read", lambda self: read.append(stepper.updates) or original(self))
    for _ in range(2 * PERIOD):
        stepper.step(None)
    kinds = 2 if schedule == "periodic" else 1
    assert read == [2 * PERIOD] * kinds + [3 * PERIOD] * kinds


def test_a_part_that_waits_is_an_error_or_is_told_and_runs_as_it_is() -> None:
    def part() -> float:
        return torch.ones(()).item()

    strict = Replayed(StandIn(), warm_ups=1)
    strict.run(part)
    with pytest.raises(InputError, match=r"compile graph: part cannot be recorded .*makes the host wait"):
        strict.run(part)
    told: list[str] = []
    lenient = Replayed(StandIn(), warm_ups=1, tell=told.append)
    assert [lenient.run(part) for _ in range(4)] == [1.0] * 4
    assert len(told) == 1 and "makes the host wait" in told[0]


# What is not finite


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_replayed_update_that_is_not_finite_changes_nothing(schedule: str) -> None:
    stepper, rb = build(Replayed(StandIn(), warm_ups=1), schedule, dog=Watchdog("skip"))
    torch.manual_seed(7)
    for _ in range(2 * PERIOD + 1):  # in mid-period
        stepper.step(None, rb.sample())
    before = state(stepper, rb)
    stepper.step(None, poisoned(rb.sample()))
    assert same(state(stepper, rb), before)
    assert stepper.counters["skipped_updates"] == 1
    stepper.step(None, rb.sample())
    after = state(stepper, rb)
    assert not same(after["loss"], before["loss"]) and not same(after["priorities"], before["priorities"])
    assert stepper.counters["skipped_updates"] == 1


@pytest.mark.parametrize("drawn", [True, False])
def test_a_shape_that_comes_after_the_warm_ups_is_watched_too(drawn: bool) -> None:
    stepper, rb = build(Replayed(StandIn(), warm_ups=1), dog=Watchdog("skip"))
    for own in (drawn, not drawn):  # windows of n steps, which the stepper draws, and of the horizon
        for _ in range(3):
            stepper.step(None, None if own else rb.sample())
    stepper.step(None, poisoned(rb.sample()))
    for own in (drawn, not drawn):
        stepper.step(None, None if own else rb.sample())
    assert stepper.counters["skipped_updates"] == 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_report_names_the_range_and_holds_the_first_batch(schedule: str, tmp_path: Path) -> None:
    stepper, rb = build(Replayed(StandIn(), warm_ups=1), schedule, dog=Watchdog(folder=tmp_path))
    torch.manual_seed(7)
    for _ in range(PERIOD + 1):
        stepper.step(None, rb.sample())
    bad = poisoned(rb.sample())
    stepper.step(None, bad)
    with pytest.raises(
        NonFinite, match=rf"is nan in one of updates {PERIOD + 1} to {2 * PERIOD}\."
    ) as caught:
        stepper.step(None, poisoned(rb.sample(), value=-torch.inf))
    report = caught.value.report
    assert (report["first_update"], report["update"]) == (PERIOD + 1, 2 * PERIOD)
    assert report["batch"] == {
        "next.reward": {"nan": 1, "infinite": 0, "values": bad["next", "reward"].numel()}
    }
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "report.json").read_text())["first_update"] == PERIOD + 1
    assert all(bool(p.isfinite().all()) for p in stepper.loss_module.parameters())


def test_a_burst_leaves_out_what_is_not_finite_and_averages_the_rest() -> None:
    stepper, rb = build(Replayed(StandIn(), warm_ups=1), dog=Watchdog("skip"))
    metrics_of(stepper, PERIOD)
    plant(rb._storage._storage["next", "reward"])  # one record in sixty
    shown = [stepper.step(None) for _ in range(4 * PERIOD)]
    assert 0 < stepper.counters["skipped_updates"] < 8 * PERIOD
    assert all(bool(metrics["loss_encoder"].isfinite()) for metrics in shown)
    assert all(bool(p.isfinite().all()) for p in stepper.loss_module.parameters())


def test_a_hundred_updates_left_out_in_a_row_stop_a_run_that_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LIMIT", 2 * PERIOD)
    stepper, rb = build(Replayed(StandIn(), warm_ups=1), "every_step", dog=Watchdog("skip"))
    metrics_of(stepper, PERIOD + 1)
    with pytest.raises(NonFinite, match="th in a row"):
        for _ in range(4 * PERIOD):
            stepper.step(None, poisoned(rb.sample()))
    assert stepper.updates == 4 * PERIOD  # five by the end of the third period, eight by that of the fourth
    assert stepper.watchdog.state_dict()["in_a_row"] == {"encoder": 3 * PERIOD - 1}


@pytest.mark.parametrize("found", [[0, 1, 1, 0, 1, 0, 0], [1, 1, 1], [0, 0], [0, 1]])
def test_verdicts_count_as_one_would_by_hand(found: list[int]) -> None:
    verdicts = Verdicts(torch.zeros(1), TensorDict(x=torch.zeros(1)))
    for number, bad in enumerate(found, 1):
        numbers = torch.full((1,), float(number))
        verdicts.add(torch.tensor(float(bad)), numbers, TensorDict(x=-numbers))
    rows = "".join(map(str, found)).split("0")
    counted = verdicts.read()
    assert counted == (sum(found), max(map(len, rows)), len(rows[-1]))
    if any(found):
        assert verdicts.numbers.tolist() == [1.0 + found.index(1)]
        assert verdicts.batch["x"].tolist() == [-1.0 - found.index(1)]
    assert verdicts.read() == (0, len(rows[-1]), len(rows[-1]))


# On a GPU


def on_a_gpu(compiled: Any, updates: int) -> dict[str, Any]:
    """Return the weights after some updates in float32, from the same random numbers."""
    plain, host = make(updates=0)
    loss = plain.loss_module.to("cuda")
    loss.check_windows = False
    rb = make_replay_buffer(capacity=500, horizon=3, batch_size=6, device="cuda")
    rb.extend(host._storage._storage[:60].transpose(0, 1).to("cuda"))
    rb.can_sample()
    config = replace(plain.config, precision="float32", compile=compiled)
    stepper = ULDOptimizationStepper(loss, rb, config)
    torch.manual_seed(5)
    for _ in range(updates):
        stepper.step(None)
    return {name: p.detach().cpu() for name, p in loss.named_parameters()}


@pytest.mark.gpu
def test_eager_compiled_and_graph_have_the_same_weights_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    # Eager and graph run the same kernels. Compiled sums in another order: Adam turns that, where a gradient
    # is all but zero, into at most a step of the learning rate, 3e-4, an update, and there are at most
    # period of the encoder's for each.
    updates = 2 * PERIOD + 1
    eager = on_a_gpu("off", updates)
    torch.testing.assert_close(on_a_gpu("graph", updates), eager, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(on_a_gpu("on", updates), eager, rtol=1e-4, atol=3e-4 * updates * PERIOD)
