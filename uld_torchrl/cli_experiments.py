"""The commands ``uld study`` and ``uld report``: arguments, and what is printed.

Part of ``cli``: what is heavy is imported when a command runs, so that ``uld --help`` answers at once. Torch
is not imported.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from uld_torchrl.config import PresetName
from uld_torchrl.errors import InputError
from uld_torchrl.seed_list import parse_seeds

AgentName = Literal["uld", "td3", "sac", "dqn"]

if TYPE_CHECKING:
    from uld_torchrl.experiments.launchers import Outcome, Plan
    from uld_torchrl.experiments.study import Study


@dataclass(frozen=True)
class StudyList:
    """Show the suites."""


@dataclass(frozen=True)
class StudyRun:
    """Run a study: environments x variants x seeds; the same command again goes on where it stopped."""

    suite: str | None = None
    """Suite of environments, see `uld study list`."""
    envs: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """An environment, in place of a suite; may be repeated."""
    seeds: str = "0-9"
    """Seeds: 0-9, or 0,2,5-7."""
    preset: PresetName = "uld"
    """Settings that all runs start from."""
    agent: AgentName = "uld"
    """Agent of the first variant, which is then called by its name: td3, sac or dqn in place of uld."""
    variant: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A further variant as name:section.field=value,...; may be repeated."""
    ablation: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Ablations of the published design study as further variants, with commas; all: each."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A setting of all runs, section.field=value; may be repeated."""
    total_steps: int | None = None
    """Agent steps of each run; default: the suite's, or the preset's."""
    name: str | None = None
    """Name of the study; default: the suite's, or "study"."""
    run_dir: Path = Path("runs")
    """Root directory of all runs; with Ray on storage that all nodes share."""
    launcher: Literal["local", "ray"] = "local"
    """Processes on this machine, or tasks of a Ray cluster."""
    workers: int | None = None
    """Runs at the same time (local); default: one for each GPU, without GPUs as many as have cores."""
    threads: int = 1
    """Threads of each run."""
    gpus: float | None = None
    """Share of a GPU of each run (ray); default: none."""
    ray_address: str | None = None
    """Address of the cluster (ray); default: the one that Ray finds, or a new one on this machine."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:<k>; auto: where this machine has several GPUs, runs share them out."""
    retries: int = 2
    """How often a run that failed is started again."""


@dataclass(frozen=True)
class StudyStatus:
    """Show how far a study is."""

    name: tyro.conf.Positional[str]
    """Name of the study."""
    run_dir: Path = Path("runs")
    """Root directory of all runs."""


@dataclass(frozen=True)
class Report:
    """Report runs: tables with intervals, learning curves beside published ones, one HTML file."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories, or folders that hold some."""
    against: str = ""
    """Published methods to stand beside them, with commas: mrq,td7,tdmpc2,dreamerv3."""
    out: Path = Path("report")
    """Folder of the report."""


StudyCommand = (
    Annotated[StudyList, tyro.conf.subcommand("list")]
    | Annotated[StudyRun, tyro.conf.subcommand("run")]
    | Annotated[StudyStatus, tyro.conf.subcommand("status")]
)


@dataclass(frozen=True)
class StudyGroup:
    """List, run and look after studies."""

    command: tyro.conf.OmitSubcommandPrefixes[StudyCommand]


def study_command(given: StudyGroup) -> int:
    """Do what is asked; return the exit code: 1 if runs failed."""
    from uld_torchrl.experiments.study import load_study, status
    from uld_torchrl.experiments.suites import SUITES

    command = given.command
    if isinstance(command, StudyList):
        for each in SUITES.values():
            print(
                f"{each.name:13} {len(each.envs):3} environments, {each.total_steps} agent steps "
                f"({each.total_steps * each.frames_per_step} frames), evaluated every {each.eval_every}"
            )
        return 0
    if isinstance(command, StudyStatus):
        study = load_study(command.run_dir / f"{command.name}.study.json")
        print(status(study.jobs(), command.run_dir))
        return 0
    return _run(command)


def make_study(command: StudyRun) -> Study:
    """Return the study that a command describes.

    Raises:
        InputError: neither or both of suite and envs, an unknown suite, seeds or variants that say nothing.

    Example:
        >>> make_study(StudyRun(envs=("CartPole-v1",), seeds="0-2", preset="debug")).seeds
        (0, 1, 2)
    """
    from uld_torchrl.experiments.study import Study
    from uld_torchrl.experiments.suites import suite

    if (command.suite is None) == (not command.envs):
        raise InputError("say either --suite or --envs: which environments is the study about?")
    chosen = None if command.suite is None else suite(command.suite)
    settings = list(command.set) if chosen is None else [*chosen.settings, *command.set]
    if command.total_steps is not None:
        settings.append(f"run.total_steps={command.total_steps}")
    return Study(
        name=command.name or command.suite or "study",
        envs=command.envs if chosen is None else chosen.envs,
        variants=_variants(command),
        seeds=tuple(parse_seeds("--seeds", command.seeds)),
        preset=command.preset,
        settings=tuple(settings),
        suite=command.suite,
    )


def _variants(command: StudyRun) -> dict[str, tuple[str, ...]]:
    """Return the preset itself, the ablations and the variants, each name once."""
    from uld_torchrl.ablations import ABLATIONS, ablation

    asked = [name.strip() for text in command.ablation for name in text.split(",") if name.strip()]
    if asked and command.agent != "uld":
        raise InputError(
            f"--ablation takes parts of ULD away, got --agent {command.agent}: use one command for each; the "
            "same --name makes one study of both."
        )
    names = list(ABLATIONS) if "all" in asked else asked
    agent = [] if command.agent == "uld" else [f"agent={command.agent}"]
    given = [(name, ablation(name).settings) for name in names]
    given += [(name, (*agent, *settings)) for name, settings in map(_variant, command.variant)]
    found: dict[str, tuple[str, ...]] = {command.agent if agent else command.preset: tuple(agent)}
    for name, settings in given:
        if found.setdefault(name, settings) != settings:
            raise InputError(f"two variants are called {name!r}, with other settings each: rename one.")
    return found


def _variant(text: str) -> tuple[str, tuple[str, ...]]:
    name, colon, settings = text.partition(":")
    if not name or not colon or not settings:
        raise InputError(f"a variant is written name:section.field=value,..., got {text!r}.")
    return name, tuple(settings.split(","))


def _run(command: StudyRun) -> int:
    from uld_torchrl.experiments.jobs import check_jobs, check_runnable
    from uld_torchrl.experiments.launchers import run_local, run_ray
    from uld_torchrl.experiments.study import status

    study = make_study(command)
    plan = _plan(command)
    jobs = study.jobs(command.device)
    check_runnable(jobs)
    check_jobs(jobs, command.run_dir)
    study.save(command.run_dir)
    print(f"{len(jobs)} runs of study {study.name} in {command.run_dir}")
    told = _Told(len(jobs))
    with _terminated_is_interrupted():
        if command.launcher == "ray":
            found = run_ray(jobs, plan, told, address=command.ray_address, gpus=command.gpus or 0.0)
        else:
            found = run_local(jobs, plan, told)
    failed = [outcome for outcome in found if not outcome.done]
    print(status(jobs, command.run_dir))
    return 1 if failed else 0


def _plan(command: StudyRun) -> Plan:
    """Return how the jobs are run; refuse options of the other launcher."""
    from uld_torchrl.experiments.launchers import Plan, local_plan

    others = ("workers",) if command.launcher == "ray" else ("gpus", "ray_address")
    for option in others:
        if (value := getattr(command, option)) is not None:
            raise InputError(
                f"--{option.replace('_', '-')} {value} does not go with --launcher {command.launcher}: leave "
                "it out, or take the other launcher, local or ray."
            )
    if command.launcher == "ray":
        return Plan(command.run_dir, threads=command.threads, retries=command.retries)
    return local_plan(command.run_dir, command.workers, command.threads, command.retries, command.device)


class _Told:
    """Prints a line for each run that has ended."""

    def __init__(self, total: int) -> None:
        self.total, self.ended = total, 0

    def __call__(self, outcome: Outcome) -> None:
        self.ended += 1
        what = "done" if outcome.done else f"failed with exit code {outcome.code}, see {outcome.log}"
        stream = sys.stdout if outcome.done else sys.stderr
        print(f"[{self.ended} of {self.total}] {outcome.job.name}: {what}", file=stream, flush=True)


@contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """Let SIGTERM end a study as Ctrl-C does: its runs save themselves."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt("stopped; the runs are saved and the same command goes on")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def report_command(command: Report) -> int:
    """Write a report; return the exit code."""
    from uld_torchrl.experiments.comparison import compare
    from uld_torchrl.experiments.report import write_report

    against = [name.strip() for name in command.against.split(",") if name.strip()]
    comparison = compare(command.runs, against)
    print(f"{len(comparison.records)} runs, {len(comparison.left_out)} left out")
    print(f"report: {write_report(comparison, command.out)}")
    return 0
