"""Runs whose environments fail: begun anew up to a limit, and nothing that did not happen is learned from.

What a run stores is compared with the diaries of its environments (``tests/helpers/mortals.py``). How an
environment is made anew is in ``tests/envs/test_restarts.py``.
"""

from __future__ import annotations

import os
import re
import signal
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from hypothesis import given, settings
from hypothesis import strategies as st
from mortals import Mortal, Unlucky, check_drawn, check_replay, diary, stored_steps

from uld_torchrl.cli import Train, main
from uld_torchrl.config import AgentConfig, override
from uld_torchrl.data import WindowReplayBuffer, make_replay_buffer
from uld_torchrl.envs import make_env
from uld_torchrl.envs.lanes import lane_seeds
from uld_torchrl.errors import EnvironmentFault
from uld_torchrl.tables import read_rows
from uld_torchrl.trainers import Callback, Guards, ULDTrainer
from uld_torchrl.trainers.episodes import OpenEpisodes
from uld_torchrl.trainers.restarts import Restarts

Make = Callable[..., ULDTrainer]
KEYS = ("steps", "resets")


def lanes_of(folder: Path, plans: list[dict[str, Any]], **options: Any) -> SyncVectorEnv:
    """Return what makes one lane for each plan; it is used for its ``env_fns``."""
    makers = [partial(Mortal, folder, lane, **plan, **options) for lane, plan in enumerate(plans)]
    return SyncVectorEnv(makers)


def run_of(
    make: Make, root: Path, env: Any, config: AgentConfig, restarts: int = 3, **options: Any
) -> ULDTrainer:
    """Make a trainer that acts at random and evaluates at the end, on environments that keep no diary."""
    options = {"guards": Guards(env_restarts=restarts), "eval_env": Mortal, **options}
    often = {"random_steps": 40, "eval_every": 1000, "checkpoint_every": 1000, "log_every": 1000}
    return make(root, env, config=config, options=options, **often)


def trained(trainer: ULDTrainer) -> ULDTrainer:
    trainer.train()
    trainer.close()
    return trainer


def lines(trainer: ULDTrainer) -> dict[str, str]:
    return {name: (trainer.run.path / name).read_text() for name in ("metrics.csv", "eval.csv")}


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name.endswith("restarts")]


@pytest.mark.parametrize(
    ("plans", "workers"),
    [
        ([{"steps": {1: "raise"}}], 0),
        ([{"steps": {9: "nan observation", 10: "nan reward", 30: "form"}}], 0),
        ([{"resets": {3: "raise", 4: "form", 5: "nan observation"}}], 0),
        ([{}, {"steps": {7: "raise"}, "resets": {4: "raise"}}, {"steps": {12: "nan reward"}}], 0),
        pytest.param([{"steps": {11: "raise", 12: "exit"}}], 1, marks=pytest.mark.slow),
        ([{}, {"steps": {6: "kill"}, "resets": {4: "raise"}}, {"steps": {6: "nan reward"}}], 2),
    ],
)
def test_all_that_is_stored_really_happened_and_no_window_runs_over_a_seam(
    tmp_path: Path,
    make_trainer: Make,
    tiny: AgentConfig,
    caplog: pytest.LogCaptureFixture,
    plans: list[dict[str, Any]],
    workers: int,
) -> None:
    env = lanes_of(tmp_path, plans)
    trainer = trained(run_of(make_trainer, tmp_path, env, tiny, env_workers=workers))
    faults = sum(len(plan.get(key, {})) for plan in plans for key in KEYS)
    said = warnings_of(caplog)
    assert 1 <= len(said) <= faults  # workers fail at the same time
    assert trainer.step == -(-40 // len(plans)) * len(plans)
    assert trainer.buffer.state_dict()["priorities"].shape == (trainer.step // len(plans), len(plans))
    check_replay(tmp_path, trainer.buffer, len(plans), len(said))
    check_drawn(tmp_path, trainer.buffer, draws=5, lanes=len(plans))


PLANS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "steps": st.dictionaries(
                st.integers(1, 40), st.sampled_from(["raise", "nan reward", "form"]), max_size=3
            ),
            "resets": st.dictionaries(
                st.integers(3, 9), st.sampled_from(["raise", "nan observation"]), max_size=2
            ),
        },
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=8)
@given(plans=PLANS)
def test_wherever_environments_fail(make_trainer: Make, tiny: AgentConfig, plans: list[dict]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer = run_of(make_trainer, folder, lanes_of(folder, plans), tiny, restarts=15)
        trainer._begin()
        while not trainer.finished:
            trainer._interact()
        trainer.close()
        check_replay(folder, trainer.buffer, len(plans), faults=15)
        state = trainer.buffer.state_dict()
        # Returns are told of the episodes that ended by themselves, whole and stored, and of no others.
        returns, counted = [0.0] * len(plans), []
        stored = [stored_steps(folder, lane, state) for lane in range(len(plans))]
        for step in (each for together in zip(*stored, strict=True) for each in enumerate(together)):
            lane, real = step
            assert real is not None
            returns[lane] = real.reward + (returns[lane] if real.time else 0.0)
            if real.terminated or real.truncated:
                counted.append(returns[lane])
        assert trainer._open.finished == counted and trainer.episodes == len(counted)


def test_without_the_mark_a_window_runs_over_the_seam(
    tmp_path: Path, make_trainer: Make, tiny: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check that the other tests rely on fails where it must."""
    monkeypatch.setattr(WindowReplayBuffer, "mark_newest_truncated", lambda self, lanes=None: None)
    env = lanes_of(tmp_path, [{"steps": {14: "raise"}}])
    trainer = trained(run_of(make_trainer, tmp_path, env, tiny))
    with pytest.raises(AssertionError):
        check_replay(tmp_path, trainer.buffer, lanes=1, faults=1)
    with pytest.raises(AssertionError):
        check_drawn(tmp_path, trainer.buffer, draws=50, lanes=1)


def test_stacks_of_images_hold_frames_of_one_episode(
    tmp_path: Path, make_trainer: Make, tiny: AgentConfig
) -> None:
    small = ["model.conv_channels=2", "pixels.frame_size=40", "replay.capacity=2000"]
    plans = [{"steps": {13: "raise"}, "resets": {3: "raise"}}, {"steps": {9: "form"}}]
    env = lanes_of(tmp_path, plans, image=True)
    config, eval_env = override(tiny, small), partial(Mortal, image=True)
    trainer = trained(run_of(make_trainer, tmp_path, env, config, eval_env=eval_env))
    assert trainer.step == 40
    check_drawn(tmp_path, trainer.buffer, draws=20, lanes=2)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_vector_environment_of_the_users_is_reset(
    tmp_path: Path, make_trainer: Make, tiny: AgentConfig, mode: AutoresetMode
) -> None:
    plans = [{"steps": {8: "raise"}}, {"steps": {12: "nan reward"}, "resets": {5: "raise"}}]
    made = lanes_of(tmp_path, plans).env_fns
    env = VectorWrapper(SyncVectorEnv(made, autoreset_mode=mode))
    trainer = trained(run_of(make_trainer, tmp_path, env, tiny))
    check_replay(tmp_path, trainer.buffer, 2, faults=3, seams=mode is AutoresetMode.NEXT_STEP)
    assert len({line["body"] for line in diary(tmp_path, 1, "call of reset")}) == 1


def test_an_object_is_reset_and_closed_in_the_end_only(
    tmp_path: Path, make_trainer: Make, tiny: AgentConfig
) -> None:
    env = Mortal(tmp_path, steps={5: "raise", 20: "nan reward"})
    trainer = trained(run_of(make_trainer, tmp_path, env, tiny))
    check_replay(tmp_path, trainer.buffer, 1, faults=2)
    assert len(diary(tmp_path, 0, "made")) == 1 and len(diary(tmp_path, 0, "closed")) == 1


@pytest.mark.parametrize(("limit", "done"), [(0, 6), (1, 12), (2, None)])
def test_after_the_limit_the_run_stops_saved_and_says_how_often(
    tmp_path: Path,
    make_trainer: Make,
    tiny: AgentConfig,
    caplog: pytest.LogCaptureFixture,
    limit: int,
    done: int | None,
) -> None:
    env = lanes_of(tmp_path, [{"steps": {7: "raise", 14: "raise"}}])
    trainer = run_of(make_trainer, tmp_path, env, tiny, restarts=limit)
    with pytest.raises(EnvironmentFault) if limit < 2 else nullcontext() as fault:
        trainer.train()
    trainer.close()
    said = warnings_of(caplog)
    assert len(said) == limit
    for left, (step, message) in enumerate(zip((6, 12), said, strict=False), 1):
        start = (
            f"seed 0, after step {step}: custom/Mortal, lane 0: step() raised ZeroDivisionError: no wheels"
        )
        assert message.startswith(start)
        assert message.endswith(f"Restarts left in this session: {limit - left}.")
    if fault is not None:
        told = str(fault.value)
        assert told.startswith(f"after step {done}: custom/Mortal, lane 0: step() raised ZeroDivisionError")
        assert "mend the environment and run the same again" in told
        assert ("restart" in told) == (limit > 0) == (f"had its {limit} restart(s)" in told)
        again = run_of(make_trainer, tmp_path, env, tiny, restarts=1)
        assert again.started_from == done == len(again.buffer)
        trainer = trained(again)
    assert trainer.step == 40
    check_replay(tmp_path, trainer.buffer, 1, faults=2)


def test_a_fault_that_no_restart_heals_does_not_loop(
    tmp_path: Path, make_trainer: Make, tiny: AgentConfig, caplog: pytest.LogCaptureFixture
) -> None:
    env = lanes_of(tmp_path, [{"resets": dict.fromkeys(range(3, 99), "raise")}])
    trainer = run_of(make_trainer, tmp_path, env, tiny)
    with pytest.raises(EnvironmentFault, match=r"reset\(\) raised .* had its 3 restart\(s\)"):
        trainer.train()
    trainer.close()
    seeds = [line["seed"] for line in diary(tmp_path, 0, "call of reset")]
    assert len(seeds) == 6 and len({None, *seeds}) == 5 and len(warnings_of(caplog)) == 3


class Episodes:
    """Stands in for the open episodes of a run: fails twice to begin anew, and draws random numbers."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, list[int]]] = []

    def restart(self, seed: int, lanes: list[int], buffer: Any) -> str:
        torch.rand(3)
        self.asked.append((seed, lanes))
        if len(self.asked) < 3:
            raise EnvironmentFault("not yet", [len(self.asked)])
        return "begun"


def test_attempts_add_up_their_lanes_have_their_seeds_and_leave_the_runs_random_numbers_alone() -> None:
    episodes, state = Episodes(), torch.get_rng_state()
    restarts = Restarts(episodes, limit=5, seed=0)  # type: ignore[arg-type]
    buffer: Any = None
    assert restarts.after(EnvironmentFault("gone", [4]), 8, buffer) == "begun"
    assert torch.equal(torch.get_rng_state(), state)
    restarts.after(EnvironmentFault("gone again", [0]), 8, buffer)
    restarts.after(EnvironmentFault("later", []), 10, buffer)
    assert [lanes for _, lanes in episodes.asked] == [[4], [1, 4], [1, 2, 4], [0], []]
    assert len({seed for seed, _ in episodes.asked}) == 5
    # A resumed session goes on with the seeds that it would have had.
    for step, wanted in ((8, episodes.asked[:3]), (10, episodes.asked[4:])):
        resumed = Episodes()
        again = Restarts(resumed, limit=3, seed=0)  # type: ignore[arg-type]
        again.after(EnvironmentFault("gone", []), step, buffer)
        assert [seed for seed, _ in resumed.asked][: len(wanted)] == [seed for seed, _ in wanted]


def test_a_run_that_is_stopped_just_after_a_restart_keeps_the_new_episodes() -> None:
    env = make_env(Unlucky, num_envs=2, seed=0)
    episodes, buffer = OpenEpisodes(env, "cpu"), make_replay_buffer(capacity=50, num_lanes=2)
    episodes.stepping = True
    assert episodes.state_dict()["lanes"] is None
    episodes.restart(5, (0,), buffer)
    assert [lane["seed"] for lane in episodes.state_dict()["lanes"]] == lane_seeds(5, 2)


def test_the_first_reset_is_not_tried_again(tmp_path: Path, make_trainer: Make, tiny: AgentConfig) -> None:
    trainer = run_of(make_trainer, tmp_path, lanes_of(tmp_path, [{"resets": {1: "raise"}}]), tiny)
    with pytest.raises(EnvironmentFault, match=r"^at the start: "):
        trainer.train()
    trainer.close()
    assert len(diary(tmp_path, 0, "call of reset")) == 1


def test_two_runs_that_fail_alike_are_the_same(tmp_path: Path, make_trainer: Make, tiny: AgentConfig) -> None:
    """In this process and in workers."""
    files = []
    for number, workers in enumerate((0, 0, 1)):
        (folder := tmp_path / str(number)).mkdir()
        env = lanes_of(folder, [{}, {"steps": {4: "raise", 5: "nan reward", 17: "raise"}}])
        options = {"env_workers": workers, "eval_env": Mortal}
        files.append(lines(trained(make_trainer(folder, env, config=tiny, options=options, random_steps=36))))
        seeds = [line["seed"] for line in diary(folder, 1, "reset") if line["seed"] is not None]
        assert len(seeds) == len(set(seeds)) >= 4
    assert files[0] == files[1] == files[2]


def test_a_step_that_failed_is_followed_by_no_update_and_no_row(
    tmp_path: Path, make_trainer: Make, tiny: AgentConfig
) -> None:
    env, options = lanes_of(tmp_path, [{"steps": {37: "raise"}}]), {"eval_env": Mortal}
    trainer = make_trainer(tmp_path, env, config=tiny, options=options, random_steps=34, log_every=6)
    trained(trainer)
    assert trainer.stepper.updates == 6
    assert [row["step"] for row in read_rows(trainer.run.metrics)] == ["6", "12", "18", "24", "30", "36"]


def test_without_failures_the_limit_changes_nothing(
    tmp_path: Path, make_trainer: Make, tiny: AgentConfig
) -> None:
    runs = []
    for limit in (0, 3):
        root, options = tmp_path / str(limit), {"guards": Guards(env_restarts=limit)}
        runs.append(trained(make_trainer(root, config=tiny, options=options, random_steps=36)))
    assert lines(runs[0]) == lines(runs[1])


class Killed(BaseException):
    """As SIGKILL: nothing is saved on the way out."""


def test_a_run_killed_after_restarts_goes_on_to_the_last_bit(
    tmp_path: Path, make_trainer: Make, tiny: AgentConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config = override(tiny, ["run.num_envs=2", "run.checkpoint_every=8", "run.random_steps=32"])
    env, options = partial(Unlucky, 0.08), {"eval_env": Unlucky, "guards": Guards(env_restarts=99)}
    whole = trained(make_trainer(tmp_path / "whole", env, config=config, options=options))
    steps = [int(re.findall(r"after step (\d+)", said)[0]) for said in warnings_of(caplog)]
    killed = make_trainer(tmp_path / "cut", env, config=config, options=options)
    report = killed._report

    def reporting() -> dict[str, float]:
        figures = report()
        if killed.step == 30:
            raise Killed
        return figures

    killed._report = reporting  # type: ignore[method-assign]
    with pytest.raises(Killed):
        killed.train()
    killed.close()
    resumed = make_trainer(tmp_path / "cut", env, config=config, options=options)
    assert resumed.started_from == 24 and min(steps) < 24 <= max(steps), steps
    trained(resumed)
    assert lines(resumed) == lines(whole)
    one, other = (trainer.buffer.state_dict()["records"] for trainer in (whole, resumed))
    assert torch.equal(one["observation"], other["observation"])
    assert torch.equal(one["next"]["truncated"], other["next"]["truncated"])
    weights, again = (dict(trainer.agent.loss.state_dict()) for trainer in (whole, resumed))
    assert all(torch.equal(weights[key], again[key]) for key in weights if hasattr(weights[key], "shape"))


class KillWorker(Callback):
    """Kills the worker in the step before a checkpoint."""

    def __call__(self, trainer: ULDTrainer) -> None:
        if trainer.step == self.every:
            (worker,) = trainer.env._env._workers  # type: ignore[attr-defined]
            os.kill(worker.process.pid, signal.SIGKILL)
            worker.process.wait()


@pytest.mark.parametrize("limit", [0, 1])
def test_a_worker_that_died_between_two_steps_does_not_prevent_the_checkpoint(
    tmp_path: Path, make_trainer: Make, tiny: AgentConfig, limit: int
) -> None:
    options = {"env_workers": 1, "guards": Guards(env_restarts=limit), "callbacks": [KillWorker(20)]}
    trainer = make_trainer(tmp_path, Unlucky, config=tiny, options=options)
    if limit:
        assert trained(trainer).step == 40
        return
    with pytest.raises(EnvironmentFault, match=r"after step 20: .*worker process is gone"):
        trainer.train()
    trainer.close()
    again = make_trainer(tmp_path, Unlucky, config=tiny)
    assert again.started_from == 20 and trained(again).step == 40


def test_the_command_line_has_the_same_default_and_refuses_what_is_no_number_of_restarts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Train().env_restarts == Guards().env_restarts == 3
    arguments = ["train", "CartPole-v1", "--run-dir", str(tmp_path / "runs"), "--env-restarts", "-1"]
    assert main(arguments) == 2
    assert "env_restarts must be" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_returns_that_are_not_in_a_row_yet_outlive_lanes_that_cannot_come_back() -> None:
    episodes = OpenEpisodes(make_env("CartPole-v1", seed=0), "cpu")
    episodes.load_state_dict({"lanes": None, "returns": torch.tensor([4.0]), "finished": [57.0, 11.0]})
    episodes.begin(0, make_replay_buffer(capacity=50))
    assert episodes.finished == [57.0, 11.0]
