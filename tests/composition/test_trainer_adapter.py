"""TorchRLTrainer: the same losses as our own loop to the last bit, its counters, its log, its checkpoints."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.checkpoint import Checkpoint
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.record.loggers import Logger
from torchrl.trainers import Trainer

from uld_torchrl import InputError, ULDOptimizationStepper, make_env
from uld_torchrl.config import AgentConfig
from uld_torchrl.trainers.adapter import TorchRLTrainer

RANDOM_STEPS = 16


def collect(env: EnvBase, policy: Any, **options: Any) -> Collector:
    """Make TorchRL's collector; the flag only silences a warning about recurrent policies."""
    return Collector(env, policy, auto_register_policy_transforms=False, **options)


def recorded(stepper: ULDOptimizationStepper) -> list[TensorDictBase]:
    """Return the list that all metrics of the stepper will be added to."""
    metrics, step = [], stepper.step

    def spy(trainer: Any, batch: TensorDictBase) -> TensorDictBase:
        metrics.append(step(trainer, batch).clone())
        return metrics[-1].clone()

    stepper.step = spy
    return metrics


def own_loop(env: EnvBase, parts: Any, optim: Any, steps: int, chunk: int) -> list[TensorDictBase]:
    """Act, store and update as ULDTrainer does, with ``chunk`` vector steps between updates."""
    stepper = ULDOptimizationStepper(parts.loss, parts.buffer, optim)
    metrics, td, step, lanes = recorded(stepper), env.reset(), 0, env.batch_size[0]
    torch.manual_seed(7)
    while step < steps:
        for _ in range(chunk):
            with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
                td = env.rand_action(td) if step < RANDOM_STEPS else parts.policy(td)
            stepped, td = env.step_and_maybe_reset(td)
            parts.buffer.add(stepped)
            step += lanes
        if step > RANDOM_STEPS and parts.buffer.can_sample():
            for _ in range(chunk * lanes):
                stepper.step(None, parts.buffer.sample())
    return metrics


def torchrl_loop(env: EnvBase, parts: Any, optim: Any, steps: int, chunk: int) -> list[TensorDictBase]:
    collector = collect(
        env, parts.policy, frames_per_batch=chunk * env.batch_size[0], init_random_frames=RANDOM_STEPS
    )
    trainer = TorchRLTrainer(
        parts.loss, parts.buffer, collector, total_frames=steps, config=optim, progress_bar=False
    )
    metrics = recorded(trainer.optimization_stepper)
    collector.set_seed(3)
    collector.reset()
    torch.manual_seed(7)
    trainer.train()
    return metrics


@pytest.mark.parametrize("schedule", ["periodic", "every_step"])
@pytest.mark.parametrize(
    ("env_id", "num_envs", "chunk"),
    [("CartPole-v1", 1, 1), ("CartPole-v1", 2, 1), ("Pendulum-v1", 2, 1), ("CartPole-v1", 2, 4)],
)
def test_torchrls_trainer_reaches_exactly_the_losses_of_our_own_loop(
    make_parts: Callable, config: AgentConfig, env_id: str, num_envs: int, chunk: int, schedule: str
) -> None:
    optim = dataclasses.replace(config.optim, schedule=schedule)
    found, parts = [], []
    for loop in (own_loop, torchrl_loop):
        env = make_env(env_id, num_envs=num_envs)
        parts.append(make_parts(env, num_envs))
        env.set_seed(3)
        found.append(loop(env, parts[-1], optim, 40, chunk))
    own, theirs = found
    assert len(own) == len(theirs) == 24
    for mine, other in zip(own, theirs, strict=True):
        assert mine.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in mine.items())
    assert len({float(metrics["loss_qvalue"]) for metrics in own}) == 24
    assert bool((parts[0].buffer[:] == parts[1].buffer[:]).all())
    weights = [part.loss.state_dict() for part in parts]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


Make = Callable[..., TorchRLTrainer]


@pytest.fixture
def make_trainer(clock: type, make_parts: Callable, config: AgentConfig) -> Make:
    """Build a trainer on the scripted environment; ``collect`` goes to the collector."""

    def make(
        total_frames: int, *, lanes: int = 1, seed: int = 0, collect: Any = None, **options: Any
    ) -> TorchRLTrainer:
        env = clock(lanes)
        parts = make_parts(env, lanes, seed=seed)
        collector = Collector(
            env,
            parts.policy,
            auto_register_policy_transforms=False,
            **{"frames_per_batch": lanes, **(collect or {})},
        )
        options = {"config": config.optim, "progress_bar": False, **options}
        return TorchRLTrainer(parts.loss, parts.buffer, collector, total_frames=total_frames, **options)

    return make


@pytest.mark.parametrize(
    ("lanes", "frames_per_batch", "random_frames", "updates_at"),
    [
        # Three steps make the first window of three; then one update a step.
        (1, 1, 0, {1: 0, 2: 0, 3: 1, 4: 2, 12: 10}),
        # Not when random_frames steps are stored, but when more are.
        (1, 1, 5, {5: 0, 6: 1, 12: 7}),
        (2, 2, 6, {6: 0, 8: 2, 10: 4, 12: 6}),
        (2, 6, 6, {6: 0, 12: 6}),
    ],
)
def test_one_update_an_agent_step_once_more_than_the_random_steps_are_stored(
    make_trainer: Make, lanes: int, frames_per_batch: int, random_frames: int, updates_at: dict[int, int]
) -> None:
    options = {"frames_per_batch": frames_per_batch, "init_random_frames": random_frames}
    trainer = make_trainer(12, lanes=lanes, collect=options)
    updates = {}

    def note(_: TensorDictBase) -> None:
        updates[trainer.collected_frames] = trainer.optimization_stepper.updates

    trainer.register_op("post_steps_log", note)
    trainer.train()
    assert {frames: updates[frames] for frames in updates_at} == updates_at
    assert trainer._optim_count == trainer.optimization_stepper.updates == updates_at[12]


def test_updates_a_step_and_falling_rates_are_as_in_our_own_loop(
    make_trainer: Make, config: AgentConfig
) -> None:
    """7 of 12 steps come after the random ones; the last of 14 updates has a 14th of the rate."""
    falling = {"lr_decay": "linear", "lr_final": 0.0}
    optim = dataclasses.replace(config.optim, updates_per_step=2, **falling)
    trainer = make_trainer(12, collect={"init_random_frames": 5}, config=optim)
    trainer.train()
    stepper = trainer.optimization_stepper
    assert stepper.updates == trainer._optim_count == 14
    rates = [float(each.param_groups[0]["lr"]) for each in stepper.optimizers.values()]
    begun = [optim.encoder_lr, optim.value_lr, optim.policy_lr]
    assert rates == pytest.approx([lr / 14 for lr in begun], rel=1e-5)


def test_the_workers_get_the_weights_after_each_batchs_updates(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(16, collect={"frames_per_batch": 4, "init_random_frames": 4})
    handed_on = []
    monkeypatch.setattr(
        trainer.collector,
        "update_policy_weights_",
        lambda: handed_on.append((trainer.collected_frames, trainer.optimization_stepper.updates)),
    )
    trainer.train()
    assert handed_on == [(8, 4), (12, 8), (16, 12)]


class Memory(Logger):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__("memory", "")
        self.rows: list[tuple[str, float, int]] = []

    def _create_experiment(self) -> None:
        return None

    def log_scalar(self, name: str, value: float, step: int | None = None) -> None:
        self.rows.append((name, float(value), step))

    def log_video(self, *args: Any, **kwargs: Any) -> None: ...
    def log_hparams(self, *args: Any, **kwargs: Any) -> None: ...
    def log_histogram(self, *args: Any, **kwargs: Any) -> None: ...
    def __repr__(self) -> str:
        return "Memory()"


def test_every_metric_of_every_update_reaches_the_logger(make_trainer: Make) -> None:
    logger = Memory()
    trainer = make_trainer(10, logger=logger, log_interval=0)
    metrics = recorded(trainer.optimization_stepper)
    trainer.train()
    # The first update is at step 3.
    expected = {
        (name, float(value), 3 + k) for k, update in enumerate(metrics) for name, value in update.items()
    }
    assert len(metrics) == 8
    assert {row for row in logger.rows if row[0] != "optim_steps"} == expected
    assert [row[1:] for row in logger.rows if row[0] == "optim_steps"] == [(k, k + 2) for k in range(1, 9)]


def test_a_batch_of_several_steps_logs_the_mean_over_its_updates(make_trainer: Make) -> None:
    logger = Memory()
    trainer = make_trainer(4, collect={"frames_per_batch": 4}, logger=logger, log_interval=0)
    metrics = recorded(trainer.optimization_stepper)
    trainer.train()
    (logged,) = [value for name, value, _ in logger.rows if name == "loss_qvalue"]
    assert logged == pytest.approx(sum(float(update["loss_qvalue"]) for update in metrics) / 4, rel=1e-6)


def test_only_the_last_values_of_each_metric_are_kept(make_trainer: Make) -> None:
    trainer = make_trainer(12, history=3)
    metrics = recorded(trainer.optimization_stepper)
    trainer.train()
    assert {len(values) for values in trainer._log_dict.values()} == {3}
    kept = [float(value) for value in trainer._log_dict["loss_actor"]]
    assert kept == [float(update["loss_actor"]) for update in metrics[-3:]]


def test_a_second_trainer_leaves_the_log_times_of_the_first_alone(make_trainer: Make) -> None:
    first = make_trainer(8, log_interval=0)
    first.train()
    before = dict(first._last_log)
    second = make_trainer(8, log_interval=0)
    assert before and first._last_log == before
    assert (second._last_log, second.collected_frames, second.optimization_stepper.updates) == ({}, 0, 0)


def trained_state(trainer: TorchRLTrainer) -> dict[str, Any]:
    """Train, and return the state at the end; afterwards TorchRL's collector has none any more."""
    states = []
    trainer.register_op("shutdown", lambda: states.append(copy.deepcopy(trainer.state_dict())))
    trainer.train()
    return states[0]


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("unified", [True, False], ids=["Checkpoint", "state_dict"])
def test_a_loaded_trainer_goes_on_from_the_same_weights_records_and_optimisers(
    make_trainer: Make, tmp_path: Path, unified: bool, lanes: int
) -> None:
    def options() -> dict[str, Any]:
        if not unified:
            return {}
        return {"checkpoint": Checkpoint(), "save_trainer_file": tmp_path / "saved"}

    saved = make_trainer(20, lanes=lanes, collect={"init_random_frames": 10}, **options())
    state = trained_state(saved)
    loaded = make_trainer(40, lanes=lanes, seed=1, collect={"init_random_frames": 10}, **options())
    if unified:
        loaded.load_from_file(tmp_path / "saved")
    else:
        loaded.load_state_dict(state)

    counters = [(t.collected_frames, t._optim_count, t.optimization_stepper.updates) for t in (saved, loaded)]
    assert counters == [(20, 10, 10)] * 2
    for _ in range(6):  # over the start of a period
        metrics = []
        for trainer in (saved, loaded):
            torch.manual_seed(0)
            metrics.append(trainer.optimization_stepper.step(trainer, trainer.replay_buffer.sample()))
        assert all(torch.equal(value, metrics[1][name]) for name, value in metrics[0].items())
    acting = {parameter.data_ptr() for parameter in loaded.collector.policy.parameters()}
    assert acting <= {parameter.data_ptr() for parameter in loaded.loss_module.parameters()}


def test_no_window_runs_from_the_loaded_records_into_the_new_episode(
    make_trainer: Make, find_strays: Callable, script: Callable
) -> None:
    # The first two episodes of lane 0 have 2 and 4 steps: after 8 the third is open.
    first = make_trainer(8)
    second = make_trainer(30)
    second.load_state_dict(trained_state(first))
    second.train()
    records = second.replay_buffer[:][0]
    assert records["observation"][7:9].tolist() == [[0.0, 2.0, 1.0], [0.0, 0.0, 0.0]]
    _, truncated = script(records["observation"])
    seam = torch.zeros_like(truncated)
    seam[7] = True
    assert not truncated[7]
    assert torch.equal(records["next", "truncated"], truncated | seam)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # another batch size than the buffer's
        windows = second.replay_buffer.sample(500)
    assert not find_strays(windows).any()


def test_an_empty_buffer_gets_no_seam(make_trainer: Make, script: Callable) -> None:
    trainer = make_trainer(12)
    trainer.train()
    records = trainer.replay_buffer[:]
    assert torch.equal(records["next", "truncated"], script(records["observation"])[1])


def test_a_collector_with_a_replay_buffer_of_its_own_is_refused(make_trainer: Make) -> None:
    buffer = ReplayBuffer(storage=LazyTensorStorage(10))
    with pytest.raises(InputError, match="no replay_buffer of its own"):
        make_trainer(10, collect={"replay_buffer": buffer})


def test_the_options_of_torchrls_trainer_are_passed_on(make_trainer: Make) -> None:
    trainer = make_trainer(10, log_interval=77, save_trainer_interval=55)
    assert (trainer._log_interval, trainer.save_trainer_interval) == (77, 55)
    assert isinstance(trainer, Trainer) and trainer.total_frames == 10


def test_a_batch_of_other_lanes_than_the_buffers_is_refused(make_trainer: Make) -> None:
    trainer = make_trainer(10, lanes=2)
    with pytest.raises(InputError, match="num_lanes = 2"):
        trainer._store(TensorDict(batch_size=[3, 4]))
