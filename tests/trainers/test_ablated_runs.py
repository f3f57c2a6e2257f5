"""Runs with the ablations of the design study: they train, are saved and loaded, and the right parts learn.

What each of them computes is in ``objectives/test_ablations``.
"""

from __future__ import annotations

import copy
import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch.nn.utils import clip_grad_norm_
from torchrl.data import Bounded, OneHot, Unbounded

from uld_torchrl import Agent, InputError, make_loss, make_networks, make_replay_buffer, trainers
from uld_torchrl.ablations import ABLATIONS
from uld_torchrl.cli import Train, main, settings
from uld_torchrl.config import AgentConfig, differences, from_dict, override, preset, to_dict
from uld_torchrl.trainers import ULDOptimizationStepper, ULDTrainer, Watchdog
from uld_torchrl.trainers.run_dir import open_run

BOX, CHOICE = Bounded(-1, 1, (2,)), OneHot(3, dtype=torch.int64)
NETWORKS = ("state_encoder", "state_action_encoder", "predictor", "actor_network", "qvalue_network")
QUICK = ["run.total_steps=40", "run.random_steps=28", "run.eval_every=40", "run.checkpoint_every=40"]
QUICK += ["optim.period=5", "optim.batch_size=8", "run.log_every=10"]
END_TO_END = "loss.end_to_end=true"


# Each on one of the two, the other in `-m slow`.
ON_BOTH = [
    pytest.param(name, env, id=f"{name}-{env}", marks=[pytest.mark.slow] if (k + other) % 2 else [])
    for k, name in enumerate(ABLATIONS)
    for other, env in enumerate(("CartPole-v1", "Pendulum-v1"))
]


@pytest.mark.parametrize(("name", "env"), ON_BOTH)
def test_every_ablation_trains_and_gives_a_model(
    name: str, env: str, tmp_path: Path, make_trainer: Callable[..., ULDTrainer]
) -> None:
    config = override(preset("debug"), [*QUICK, *ABLATIONS[name].settings])
    trainer = make_trainer(tmp_path, env, config=config)
    result = trainer.train()
    trainer.close()
    assert result.step == 40 and np.isfinite(result.return_mean)
    with (result.path / "metrics.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    learned = {key: value for key, value in row.items() if key not in ("step", "episode_return")}
    assert {key for key, value in learned.items() if value == ""} == (_ENCODERS if name == "no-mr" else set())
    assert all(np.isfinite(float(value)) for value in learned.values() if value)
    agent = Agent.load(result.path / "model")
    assert agent.config == config
    seen = np.zeros(agent.observation_space.shape, np.float32)
    assert agent.action_space.contains(agent.predict(seen))


def test_a_run_with_the_options_from_later_work_is_another_one(
    tmp_path: Path, make_trainer: Callable[..., ULDTrainer]
) -> None:
    runs = [[], ["loss.infonce_coeff=0.1"], ["replay.fade=0.99"]]
    weights = []
    for number, options in enumerate(runs):
        config = override(preset("debug"), [*QUICK, *options])
        trainer = make_trainer(tmp_path / str(number), config=config)
        weights.append((trainer.train().path / "model" / "model.safetensors").read_bytes())
        trainer.close()
    assert len(set(weights)) == 3


_ENCODERS = {"loss_encoder", "dynamics_error", "reward_error", "terminated_error", "reward_mae"}


# The update end to end


def stepper_of(*changes: str, spec: Any = BOX, **options: Any) -> ULDOptimizationStepper:
    torch.manual_seed(0)
    config = override(preset("debug"), ["optim.batch_size=8", "optim.period=3", *changes])
    loss = make_loss(make_networks(Unbounded(4), spec, config.model, loss=config.loss), spec, config)
    buffer = make_replay_buffer(capacity=200, horizon=config.loss.horizon, batch_size=8)
    buffer.extend(records(60, spec))
    return ULDOptimizationStepper(loss, buffer, config.optim, **options)


def records(steps: int, spec: Any) -> TensorDict:
    """Steps [1, steps] of one lane, of which every seventh is terminal."""
    ended = (torch.arange(steps) % 7 == 6).view(1, steps, 1)
    after = {"reward": torch.randn(1, steps, 1), "terminated": ended, "done": ended.clone()}
    after |= {"truncated": torch.zeros_like(ended), "observation": torch.randn(1, steps, 4)}
    now = {"observation": torch.randn(1, steps, 4), "action": spec.rand((1, steps))}
    return TensorDict({**now, "next": after}, batch_size=[1, steps])


def weights(stepper: ULDOptimizationStepper, name: str) -> torch.Tensor:
    params = stepper.loss_module._modules[f"{name}_params"]
    return torch.cat([value.detach().flatten() for value in params.values(True, True)]).clone()


@pytest.mark.parametrize("spec", [BOX, CHOICE], ids=["box", "one-hot"])
@pytest.mark.parametrize("schedule", ["periodic", "every_step"])
def test_end_to_end_all_but_the_latent_model_learns_and_no_encoder_loss_is_computed(
    schedule: str, spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weight decay included: half of everything would be gone in a few updates."""
    changes = [END_TO_END, f"optim.schedule={schedule}", "optim.weight_decay=100"]
    stepper = stepper_of(*changes, spec=spec)
    monkeypatch.setattr(stepper.loss_module, "encoder_loss", None)
    before = {name: weights(stepper, name) for name in NETWORKS}
    for _ in range(4):
        metrics = stepper.step(None)
    moved = {name for name in NETWORKS if not torch.equal(before[name], weights(stepper, name))}
    assert moved == set(NETWORKS) - {"predictor"}
    assert not _ENCODERS & set(metrics.keys()) and "loss_qvalue" in metrics.keys()  # noqa: SIM118
    # The target encoders were copied before update 4.
    assert not torch.equal(weights(stepper, "target_state_encoder"), before["state_encoder"])


@pytest.mark.parametrize("clip", [20.0, 1e-3])
def test_an_end_to_end_update_is_the_value_loss_for_two_optimisers_under_one_clip(clip: float) -> None:
    """The oracle: torch's AdamW on a copy of the loss, with a rate for each group of weights."""
    stepper = stepper_of(END_TO_END, f"optim.value_grad_clip={clip}", "optim.encoder_lr=0.01")
    batch = stepper._draw()
    loss = copy.deepcopy(stepper.loss_module)
    loss.update_reward_scale_(stepper.replay_buffer.mean_abs_reward())
    networks = (NETWORKS[4], *NETWORKS[:2])
    groups = [list(getattr(loss, f"{name}_params").parameters()) for name in networks]
    rates = (stepper.config.value_lr, 0.01, 0.01)
    optimizer = torch.optim.AdamW(
        [{"params": group, "lr": lr} for group, lr in zip(groups, rates, strict=True)],
        weight_decay=stepper.config.weight_decay,
        fused=True,
    )
    torch.manual_seed(5)
    loss.value_loss(batch)[0].backward()
    norm = clip_grad_norm_([p for group in groups for p in group], clip)
    optimizer.step()
    torch.manual_seed(5)
    metrics = stepper.step(None, batch)
    torch.testing.assert_close(metrics["value_grad_norm"], norm, rtol=1e-6, atol=0.0)
    assert norm > 1e-3
    for name in networks:
        expected = torch.cat([v.flatten() for v in getattr(loss, f"{name}_params").data.values(True, True)])
        torch.testing.assert_close(weights(stepper, name), expected, rtol=1e-5, atol=1e-7)


def test_an_end_to_end_update_that_is_not_finite_leaves_the_encoders_as_they_are() -> None:
    stepper = stepper_of(END_TO_END, watchdog=Watchdog("skip"))
    stepper.step(None)
    before = {name: weights(stepper, name) for name in NETWORKS}
    batch = stepper._draw()
    batch["next", "reward"][0, 0] = torch.nan
    stepper.step(None, batch)
    assert stepper.counters == {"updates": 2, "skipped_updates": 1}
    assert all(torch.equal(before[name], weights(stepper, name)) for name in NETWORKS)


# Names and settings


def test_the_command_line_puts_options_over_the_ablation_and_the_ablation_over_the_preset() -> None:
    found = settings(Train(preset="debug", ablation="no-lap", set=("loss.value_loss=huber",)))
    assert differences(to_dict(preset("debug")), to_dict(found)) == ["replay.lap_alpha: 0.4 -> 0.0"]
    assert settings(Train(ablation=None)) == settings(Train())
    assert settings(Train(ablation="no-mr", schedule="every_step")).optim.schedule == "every_step"


@pytest.mark.parametrize(
    ("options", "name", "n_steps"),
    [
        (["--ablation", "one-step"], "one-step", 1),
        (["--ablation", "one-step", "--name", "mine"], "mine", 1),
        ([], "debug", 3),
    ],
)
def test_a_run_takes_the_name_of_its_ablation(
    options: list[str], name: str, n_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def trainer(env: str, config: AgentConfig, **given: Any) -> None:
        made.append((given["name"], config.loss.n_steps))
        raise InputError("enough.")

    monkeypatch.setattr(trainers, "ULDTrainer", trainer)
    assert main(["train", "CartPole-v1", "--preset", "debug", *options]) == 2
    assert made == [(name, n_steps)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nolap", "'nolap' is unknown; did you mean no-lap"),
        ("One_Step", "'One_Step' is unknown; did you mean one-step?"),
        ("qqq", "'qqq' is unknown; known are linear-value, sa-target"),
        ("", "'' is unknown; known are linear-value"),
    ],
)
def test_an_unknown_ablation_is_refused_with_the_nearest_names(
    name: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["train", "--ablation", name, "--run-dir", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_runs_and_settings_of_before_the_ablations_are_those_of_the_default(tmp_path: Path) -> None:
    old = to_dict(preset("debug"))
    for section, name in (
        *(("loss", name) for name in ("target_value", "encoder_horizon", "end_to_end")),
        ("model", "predictor"),
    ):
        del old[section][name]
    assert from_dict(old) == preset("debug")
    run = open_run(tmp_path, "gym/CartPole-v1", "old", 0, preset("debug"))
    text = run.config.read_text()
    for name in ('"target_value": "min",', '"encoder_horizon": 0,', '"predictor": "linear"'):
        assert name in text
    assert open_run(tmp_path, "gym/CartPole-v1", "old", 0, replace(AgentConfig(), **vars(preset("debug"))))


def test_the_table_of_the_documentation_has_every_ablation_with_its_settings() -> None:
    text = (Path(__file__).parents[2] / "docs" / "ablations.md").read_text(encoding="utf-8")
    table, published = (text.split(head)[1].split("##")[0] for head in ("What changes |\n", "Atari 1M |\n"))
    rows = {
        line.split("`")[1]: re.findall(r"`(\w+\.\w+=\w+)`", line)
        for line in table.splitlines()
        if "`" in line
    }
    expected = {name: list(found.settings) for name, found in ABLATIONS.items()} | {"revert": []}
    assert rows == expected
    assert [line.split("`")[1] for line in published.splitlines() if "`" in line] == list(ABLATIONS)
