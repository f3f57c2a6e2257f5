"""Launchers: every job ends as told, failures are tried again, stops reach all, launchers share the work."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import toy_jobs
from toy_jobs import ToyJob, starts

from uld_torchrl.errors import InputError
from uld_torchrl.experiments import launchers
from uld_torchrl.experiments.jobs import Job
from uld_torchrl.experiments.launchers import (
    Children,
    Outcome,
    Plan,
    local_plan,
    run_job,
    run_local,
    run_ray,
)


def toy(behaviour: str = "done", seed: int = 0) -> ToyJob:
    return ToyJob("CartPole-v1", "small", seed, behaviour=behaviour)


def wait_for(path: Path) -> None:
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not come")


def test_every_job_is_run_once_and_told(tmp_path: Path) -> None:
    jobs, told = [toy(seed=seed) for seed in range(3)], list[Outcome]()
    found = run_local(jobs, Plan(tmp_path, workers=2, threads=3), told.append)
    assert {outcome.job.seed for outcome in found} == {0, 1, 2} and found == told
    assert all(outcome.done and outcome.code == 0 for outcome in found)
    assert [starts(job, tmp_path) for job in jobs] == [1, 1, 1]
    assert found[0].log.read_text() == "start 1 3\n"  # one start, three threads


def test_what_is_done_is_not_run_again(tmp_path: Path) -> None:
    job, plan = toy(), Plan(tmp_path)
    run_local([job], plan, lambda outcome: None)
    (outcome,) = run_local([job], plan, lambda outcome: None)
    assert outcome.done and starts(job, tmp_path) == 1


def test_more_steps_than_it_was_done_with_are_run(tmp_path: Path) -> None:
    plan, longer = Plan(tmp_path), ("run.total_steps=200000",)
    run_local([toy()], plan, lambda outcome: None)
    more = ToyJob("CartPole-v1", "small", 0, settings=longer)
    assert more.state(tmp_path) == "begun"
    run_local([more], plan, lambda outcome: None)
    assert more.state(tmp_path) == "done" and starts(more, tmp_path) == 2


def test_a_job_that_fails_is_started_again(tmp_path: Path) -> None:
    job = toy("once")
    (outcome,) = run_local([job], Plan(tmp_path, retries=1), lambda outcome: None)
    assert outcome.done and starts(job, tmp_path) == 2


def test_a_job_that_fails_too_often_says_where_to_look(tmp_path: Path) -> None:
    bad, good = toy("fails"), toy(seed=1)
    found = run_local([bad, good], Plan(tmp_path, retries=2), lambda outcome: None)
    outcome = next(each for each in found if each.job == bad)
    assert not outcome.done and outcome.code == 3 and starts(bad, tmp_path) == 3
    assert outcome.log.read_text().count("no luck") == 3
    assert next(each for each in found if each.job == good).done


def test_a_job_that_is_refused_is_not_started_again(tmp_path: Path) -> None:
    job = toy("refused")
    (outcome,) = run_local([job], Plan(tmp_path, retries=2), lambda outcome: None)
    assert not outcome.done and outcome.code == 2 and starts(job, tmp_path) == 1


@pytest.mark.parametrize(
    ("gpus", "threads", "device", "workers", "devices"),
    [
        (0, 1, "auto", 12, ()),
        (0, 5, "auto", 2, ()),
        (0, 13, "auto", 1, ()),
        (3, 2, "auto", 3, ("cuda:0", "cuda:1", "cuda:2")),
        (3, 2, "cpu", 6, ()),
        (3, 2, "cuda:1", 1, ()),
    ],
)
def test_as_many_runs_go_on_at_once_as_there_are_gpus_or_cores(
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    threads: int,
    device: str,
    workers: int,
    devices: tuple[str, ...],
) -> None:
    monkeypatch.setattr(launchers, "_gpus", lambda: gpus)
    monkeypatch.setattr(launchers, "_cores", lambda: 12)
    plan = local_plan(Path("runs"), None, threads, 4, device)
    assert plan == Plan(Path("runs"), workers, threads, 4, devices=devices)
    assert local_plan(Path("runs"), 7, threads, 4, device) == dataclasses.replace(plan, workers=7)


def test_the_cores_and_gpus_of_this_machine_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launchers._cores() == len(os.sched_getaffinity(0))
    monkeypatch.setattr(launchers, "_GPU_NODES", (os.devnull,))  # there is one: torch is asked
    assert launchers._gpus() == torch.cuda.device_count()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert launchers._gpus() == 0


def test_runs_at_the_same_time_are_on_different_gpus(tmp_path: Path) -> None:
    jobs = [toy("waits", seed) for seed in (0, 1)]
    plan = Plan(tmp_path, workers=2, retries=0, devices=("cuda:0", "cuda:1"))
    found: list[Outcome] = []
    thread = threading.Thread(target=lambda: found.extend(run_local(jobs, plan, lambda outcome: None)))
    thread.start()
    for job in jobs:
        wait_for(job.path(tmp_path) / "ready")
    devices = {(job.path(tmp_path) / "device").read_text() for job in jobs}
    for job in jobs:
        os.kill(int((job.path(tmp_path) / "ready").read_text()), signal.SIGKILL)
    thread.join(30)
    assert devices == {"cuda:0", "cuda:1"} and [outcome.job.device for outcome in found] == ["auto"] * 2


def test_a_slot_is_free_again_after_its_run(tmp_path: Path) -> None:
    plan = Plan(tmp_path, workers=1, devices=("cuda:0", "cuda:1"))
    jobs = [toy(seed=0), toy(seed=1), dataclasses.replace(toy(seed=2), device="cpu")]
    run_local(jobs, plan, lambda outcome: None)
    assert [(job.path(tmp_path) / "device").read_text() for job in jobs] == ["cuda:0", "cuda:0", "cpu"]


def test_a_stop_reaches_what_is_running_and_starts_no_more(tmp_path: Path) -> None:
    children, plan = Children(), Plan(tmp_path)
    running, found = toy("waits"), list[Outcome]()
    thread = threading.Thread(target=lambda: found.append(run_job(running, plan, children)))
    thread.start()
    wait_for(running.path(tmp_path) / "ready")
    children.stop()
    thread.join(30)
    assert not found[0].done and found[0].code == 143 and starts(running, tmp_path) == 1
    late = toy(seed=1)
    assert not run_job(late, plan, children).done and starts(late, tmp_path) == 0


def test_an_error_of_the_caller_stops_all_runs(tmp_path: Path) -> None:
    """As Ctrl-C does, which surfaces in the wait or in the report: the runs save themselves first."""
    waiting, done = toy("waits", seed=1), toy()

    def stop(outcome: Outcome) -> None:
        wait_for(waiting.path(tmp_path) / "ready")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_local([done, waiting, toy(seed=2)], Plan(tmp_path, workers=2), stop)
    folder = os.open(waiting.path(tmp_path), os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it any more
    os.close(folder)
    assert not (waiting.path(tmp_path) / "model").exists()


def test_a_run_that_another_process_holds_is_left_to_it_until_it_lets_go(tmp_path: Path) -> None:
    held, free, told = toy(), toy(seed=1), list[int]()
    held.path(tmp_path).mkdir(parents=True)
    folder = os.open(held.path(tmp_path), os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)

    def report(outcome: Outcome) -> None:
        told.append(outcome.job.seed)
        if outcome.job == free:
            os.close(folder)  # the other process ends

    found = run_local([held, free], Plan(tmp_path, poll=0.01, retries=0), report)
    assert told == [1, 0] and all(outcome.done for outcome in found)
    assert starts(held, tmp_path) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({"workers": 0}, "workers"), ({"threads": -1}, "threads"), ({"retries": -1}, "retries")],
)
def test_a_plan_without_sense_is_refused(tmp_path: Path, arguments: dict[str, int], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Plan(tmp_path, **arguments)  # type: ignore[arg-type]


def test_a_job_starts_the_command_that_goes_on_with_it(tmp_path: Path) -> None:
    command = Job("dmc/walker-run", "fast", 3, "small", ("loss.gamma=0.9",)).command(tmp_path)
    assert command[1:5] == ["-m", "uld_torchrl.cli", "train", "dmc/walker-run"]
    assert command[command.index("--name") + 1] == "fast" and command[command.index("--seed") + 1] == "3"
    assert command[command.index("--set") + 1] == "loss.gamma=0.9"


def test_without_ray_the_launcher_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'pip install "uld-torchrl\[ray\]"'):
        run_ray([toy()], Plan(tmp_path), lambda outcome: None)


@pytest.mark.slow
def test_ray_runs_jobs_and_tries_again(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="install uld-torchrl[ray]")
    helpers = {"env_vars": {"PYTHONPATH": str(Path(toy_jobs.__file__).parent)}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=helpers)
    try:
        jobs, told = [toy(), toy("once", 1), toy("fails", 2)], list[Outcome]()
        found = run_ray(jobs, Plan(tmp_path, retries=1), told.append)
        assert sorted((outcome.job.seed, outcome.done) for outcome in found) == [
            (0, True),
            (1, True),
            (2, False),
        ]
        assert len(told) == 3
    finally:
        ray.shutdown()


def test_an_unreachable_cluster_is_told(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="install uld-torchrl[ray]")
    with pytest.raises(InputError, match="no Ray cluster at"):
        run_ray([toy()], Plan(tmp_path), lambda outcome: None, address="127.0.0.1:1")
