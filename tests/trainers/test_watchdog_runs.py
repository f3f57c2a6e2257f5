"""Runs with something not finite in them: what is kept, what is said, and that the same command goes on.

Also callbacks that raise, since a run must tell them from divergence. Single updates are in
``test_watchdog.py``.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from safetensors.torch import load_file
from tensordict import TensorDictBase
from torchrl.collectors import Collector
from watched import poison_draw, same

from uld_torchrl import NonFinite, TorchRLTrainer, make_env, make_loss, make_networks, make_policy
from uld_torchrl import make_replay_buffer as make_buffer
from uld_torchrl.cli import main
from uld_torchrl.config import AgentConfig, override, preset
from uld_torchrl.data import WindowReplayBuffer
from uld_torchrl.errors import InputError
from uld_torchrl.tables import read_rows
from uld_torchrl.trainers import Callback, Guards, ULDTrainer, Watchdog

Make = Callable[..., ULDTrainer]
SKIP = {"guards": Guards(on_nonfinite="skip")}


def break_value(trainer: ULDTrainer, step: int) -> None:
    """Put NaN into the value's weights just before the update after ``step``."""
    learn = trainer._learn

    def learning() -> None:
        if trainer.step == step:
            trainer.stepper.value_optimizer.param_groups[0]["params"][0].data.fill_(math.nan)
        learn()

    trainer._learn = learning  # type: ignore[method-assign]


def ended(trainer: ULDTrainer) -> tuple[dict[str, Any], list[str]]:
    """Train to the end; return the weights, and the tables as text."""
    trainer.train()
    trainer.close()
    tables = [(trainer.run.path / name).read_text() for name in ("metrics.csv", "eval.csv")]
    return dict(trainer.agent.loss.state_dict()), tables


@pytest.mark.parametrize(("step", "kept"), [(27, 20), (13, None)])
def test_a_run_stops_with_a_dump_and_goes_on_from_its_last_checkpoint(
    step: int, kept: int | None, tmp_path: Path, finished_run: Path, make_trainer: Make
) -> None:
    trainer = make_trainer(tmp_path)
    break_value(trainer, step)
    with pytest.raises(NonFinite) as caught:
        trainer.train()
    trainer.close()
    dump = trainer.run.path / "faults" / f"step-{step}"
    for words in (
        f"after step {step} of {trainer.run.path}: the loss of the value is nan in update {step - 10}.",
        "qvalue_network_params.",
        f"The batch is in {dump}.",
        "There is no checkpoint yet" if kept is None else f"The checkpoint of step {kept} is kept, and",
    ):
        assert words in str(caught.value)
    assert json.loads((dump / "report.json").read_text())["step"] == caught.value.report["step"] == step
    saved = [path.name for path in trainer.run.checkpoints.glob("step-*")]
    assert saved == ([] if kept is None else [f"step-{kept:012d}"])
    weights, tables = ended(make_trainer(tmp_path))
    (whole,) = finished_run.rglob("seed0")
    assert tables == [(whole / name).read_text() for name in ("metrics.csv", "eval.csv")]
    model = load_file(whole / "model" / "model.safetensors")
    assert same(load_file(trainer.run.model / "model.safetensors"), model)
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_run_that_skips_counts_and_goes_on(
    tmp_path: Path, make_trainer: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(tmp_path, options=SKIP)
    drawn = poison_draw(monkeypatch, trainer.buffer, 17)
    whole, tables = ended(trainer)
    assert [row["skipped_updates"] for row in read_rows(trainer.run.metrics)] == ["0", "1", "1", "1"]
    assert "nan" not in "".join(tables)
    assert all(tensor.isfinite().all() for tensor in whole.values())
    (dump,) = (trainer.run.path / "faults").iterdir()
    batch = load_file(dump / "batch.safetensors")
    torch.testing.assert_close(batch["next.reward"], drawn[17]["next", "reward"], equal_nan=True)
    assert "update left out, 1 so far: the loss of the value is nan" in caplog.text
    shutil.rmtree(trainer.run.checkpoints / "step-000000000040")  # as if it had been killed
    with closing(make_trainer(tmp_path, options=SKIP)) as again:
        assert (again.step, again.stepper.counters) == (20, {"updates": 10, "skipped_updates": 1})
        weights, rows = ended(again)
    assert same(weights, whole) and rows == tables


def test_skipping_changes_nothing_in_a_finite_run(
    tmp_path: Path, finished_run: Path, make_trainer: Make
) -> None:
    _, tables = ended(make_trainer(tmp_path, options=SKIP))
    (plain,) = finished_run.rglob("seed0")
    assert tables == [(plain / name).read_text() for name in ("metrics.csv", "eval.csv")]


class Noise(gymnasium.Env[Any, Any]):
    """Endless images of noise."""

    observation_space, action_space = Box(0, 255, (32, 32), np.uint8), Discrete(2)

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._paint(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self._paint(), 1.0, False, False, {}

    def _paint(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (32, 32), np.uint8)


@pytest.mark.parametrize("schedule", ["periodic", "every_step"])
def test_images_are_dumped_as_they_were_sampled(
    schedule: str, tiny: AgentConfig, tmp_path: Path, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ["pixels.frame_size=32", "pixels.frame_stack=2", "model.conv_channels=2", "optim.image_shift=2"]
    config = override(tiny, [*images, f"optim.schedule={schedule}", "run.eval_every=100"])
    with closing(make_trainer(tmp_path, Noise, config=config)) as trainer:
        drawn = poison_draw(monkeypatch, trainer.buffer, 3)
        with pytest.raises(NonFinite):
            trainer.train()
        (dump,) = (trainer.run.path / "faults").iterdir()
    batch, sampled = load_file(dump / "batch.safetensors"), drawn[3]
    assert batch["pixels"].dtype == torch.uint8 and batch["pixels"].float().std() > 50
    for key, name in (("pixels", "pixels"), (("next", "pixels"), "next.pixels"), ("action", "action")):
        assert torch.equal(batch[name], sampled[key])


# TorchRL's trainer and the command line


@pytest.mark.parametrize("mode", ["stop", "skip"])
def test_torchrls_trainer_has_a_watchdog_too(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, env = preset("debug"), make_env("CartPole-v1", num_envs=1, seed=0)
    spec = env.action_spec[0]
    nets = make_networks(env.observation_spec["observation"], spec, config.model)
    trainer = TorchRLTrainer(
        make_loss(nets, spec, config),
        make_buffer(capacity=100, batch_size=4),
        Collector(
            env,
            make_policy(nets, spec, config),
            frames_per_batch=5,
            init_random_frames=10,
            auto_register_policy_transforms=False,
        ),
        total_frames=20,
        config=override(config, ["optim.schedule=every_step"]).optim,
        progress_bar=False,
        **({} if mode == "stop" else {"watchdog": Watchdog("skip")}),
    )
    poison_draw(monkeypatch, trainer.replay_buffer, 2)
    if mode == "stop":
        with pytest.raises(NonFinite, match=r"in update 3\. Not finite in the batch: next\.reward"):
            trainer.train()
        trainer.collector.shutdown()
    else:
        trainer.train()
        assert trainer.optimization_stepper.counters == {"updates": 10, "skipped_updates": 1}


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch that any replay buffer gives from the fifth on holds NaN."""
    sample, count = WindowReplayBuffer.sample, iter(range(10**6))

    def spy(self: WindowReplayBuffer, *args: Any, **options: Any) -> TensorDictBase:
        batch = sample(self, *args, **options)
        if next(count) == 4:
            batch["next", "reward"][0, 0] = math.nan
        return batch

    monkeypatch.setattr(WindowReplayBuffer, "sample", spy)


@pytest.mark.parametrize("options", [[], ["--on-nonfinite", "stop"], ["--on-nonfinite", "skip"]])
@pytest.mark.usefixtures("poison")
def test_the_command_line_stops_with_one_message_or_skips(
    options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    quick = [
        "--total-steps",
        "115",
        "--preset",
        "debug",
        "--set",
        "optim.schedule=every_step",
        "--set",
        "run.log_every=5",
    ]
    code = main(["train", "CartPole-v1", *quick, "--run-dir", str(tmp_path), *options])
    (metrics,) = tmp_path.rglob("metrics.csv")
    error = capfd.readouterr().err
    if "skip" in options:
        assert (code, read_rows(metrics)[-1]["skipped_updates"]) == (0, "1")
        return
    (line,) = [line for line in error.splitlines() if line.startswith("uld: error: ")]
    assert code == 2 and "Traceback" not in error
    for words in ("after step 105", "next.reward (1 of", "faults/step-105", "--on-nonfinite skip"):
        assert words in line


# Callbacks that raise


@dataclass(frozen=True)
class Failing(Callback):
    """Raises once, at step 27."""

    error: Exception

    def __call__(self, trainer: ULDTrainer) -> None:
        if trainer.step == 27:
            torch.rand(3)
            raise self.error


@pytest.mark.parametrize("error", [InputError("no such plot"), ZeroDivisionError("my own")])
def test_what_a_callback_raises_is_told_as_it_is_after_saving(
    error: Exception,
    tmp_path: Path,
    finished_run: Path,
    make_trainer: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer = make_trainer(tmp_path, options={"callbacks": [Failing(1, error)]})
    with pytest.raises(type(error)) as caught:
        trainer.train()
    trainer.close()
    assert caught.value is error
    said = f"callback Failing raised {type(error).__name__}; step 27 is saved in {trainer.run.path}"
    assert any(said in text for name, level, text in caplog.record_tuples if level == logging.ERROR)
    again = make_trainer(tmp_path)
    assert again.step == 27
    _, tables = ended(again)
    (whole,) = finished_run.rglob("seed0")
    assert tables == [(whole / name).read_text() for name in ("metrics.csv", "eval.csv")]


def test_a_callback_that_raises_on_a_full_disk_is_still_told(
    tmp_path: Path, make_trainer: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    error = KeyError("mine")
    with closing(make_trainer(tmp_path, options={"callbacks": [Failing(1, error)]})) as trainer:
        save = trainer.save

        def full() -> None:
            if trainer.step == 27:
                raise OSError(28, "No space left on device")
            save()

        monkeypatch.setattr(trainer, "save", full)
        with pytest.raises(KeyError, match="mine"):
            trainer.train()
    assert "saving failed too (OSError: [Errno 28] No space left on device)" in caplog.text


def test_other_bad_input_in_an_update_is_not_called_divergence(tmp_path: Path, make_trainer: Make) -> None:
    with closing(make_trainer(tmp_path)) as trainer:
        error = InputError("expected a batch size (B, 5)")

        def fail() -> None:
            raise error

        trainer._learn = fail  # type: ignore[method-assign]
        with pytest.raises(InputError) as caught:
            trainer.train()
    assert caught.value is error
