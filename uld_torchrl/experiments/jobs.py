"""A study as a list of jobs: one run each, of one environment, variant and seed, as ``uld train`` starts it.

A job knows its command, its directory and how far it is; who starts it is in ``launchers``. Torch is not
imported: a job is a process of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from uld_torchrl.config import (
    AgentConfig,
    PresetName,
    RunConfig,
    check_run,
    differences,
    from_dict,
    override,
    preset,
    to_dict,
)
from uld_torchrl.envs import canonical_id
from uld_torchrl.errors import InputError, check_name
from uld_torchrl.peers import (
    PeerConfig,
    about_peer,
    harness_config,
    peer_of,
    read_settings,
    shared_settings,
    split_agent,
    uld_settings,
)
from uld_torchrl.tables import last_step

State = Literal["new", "begun", "done"]


@dataclass(frozen=True)
class Job:
    """One run of a study; ``agent=td3`` among the settings makes it one of that agent.

    Example:
        >>> job = Job("CartPole-v1", "small", 0, settings=("loss.gamma=0.98",))
        >>> job.config.loss.gamma, str(job.path(Path("runs")))
        (0.98, 'runs/gym/CartPole-v1/small/seed0')
    """

    env: str
    variant: str
    seed: int
    preset: PresetName = "small"
    settings: tuple[str, ...] = ()
    device: str = "auto"

    @property
    def agent(self) -> str:
        """The agent that ``agent=NAME`` among the settings names; without one ULD."""
        return split_agent(self.settings)[0]

    @property
    def peer(self) -> PeerConfig | None:
        """The settings of the agent if it is another one than ULD."""
        return None if self.agent == "uld" else self._read()[1]

    @property
    def config(self) -> AgentConfig:
        """The settings of the run."""
        if self.agent == "uld":
            return override(preset(self.preset), uld_settings(split_agent(self.settings)[1]))
        return harness_config(*self._read())

    def _read(self) -> tuple[RunConfig, PeerConfig]:
        return read_settings(self.agent, self.preset, split_agent(self.settings)[1])

    @property
    def name(self) -> str:
        """Environment, variant and seed in one word."""
        return f"{self.env}/{self.variant}/seed{self.seed}"

    def path(self, run_dir: Path) -> Path:
        """Return where the run is."""
        return run_dir / canonical_id(self.env) / self.variant / f"seed{self.seed}"

    def command(self, run_dir: Path) -> list[str]:
        """Return the command that runs it, and goes on with it."""
        options = {
            "--preset": self.preset,
            "--name": self.variant,
            "--seed": self.seed,
            "--run-dir": run_dir,
            "--device": self.device,
        }
        given = [str(part) for option in options.items() for part in option]
        if self.agent != "uld":
            given += ["--agent", self.agent]
        settings = [part for setting in split_agent(self.settings)[1] for part in ("--set", setting)]
        return [sys.executable, "-m", "uld_torchrl.cli", "train", self.env, *given, *settings]

    def step(self, run_dir: Path) -> int:
        """Return the agent steps of the last row of metrics.csv; 0 if there is none."""
        return last_step(self.path(run_dir) / "metrics.csv")

    def state(self, run_dir: Path) -> State:
        """Return whether the run is done, begun, or has no directory."""
        path = self.path(run_dir)
        if not (path / "config.json").exists():
            return "new"
        finished = (path / "model" / "config.json").exists()
        return "done" if finished and last_step(path / "eval.csv") >= self.config.run.total_steps else "begun"


def make_jobs(
    envs: Sequence[str],
    variants: dict[str, tuple[str, ...]],
    seeds: Sequence[int],
    *,
    preset: PresetName = "small",
    settings: Sequence[str] = (),
    device: str = "auto",
) -> list[Job]:
    """Return the jobs of a study, seed by seed: an interrupted one then has whole sets of tasks.

    Args:
        envs: environment ids; one under two names counts once.
        variants: name -> settings of each variant, applied after ``settings``.
        seeds: of the runs.
        preset: what settings start from.
        settings: of all runs, ``section.field=value``; other agents than ULD take ``run.*`` and their own.
        device: of all runs.

    Raises:
        InputError: nothing to run, a setting that does not exist, or one that no run takes.

    Example:
        >>> [job.name for job in make_jobs(["CartPole-v1"], {"a": (), "b": ("loss.gamma=0.9",)}, [0])]
        ['CartPole-v1/a/seed0', 'CartPole-v1/b/seed0']
    """
    for name, given in (("environment", envs), ("variant", variants), ("seed", seeds)):
        if not given:
            raise InputError(f"a study needs at least one {name}, got none.")
    shared = {name: shared_settings(split_agent(extra)[0], settings) for name, extra in variants.items()}
    for setting in settings:
        if not any(setting in taken for taken in shared.values()):
            raise InputError(
                f"no run of this study takes the setting {setting!r}: write run.field=value, or "
                f"<agent>.field=value for one of its agents, {', '.join(_agents(variants))}."
            )
    jobs = [
        Job(env, variant, seed, preset, (*shared[variant], *extra), device)
        for seed in seeds
        for variant, extra in variants.items()
        for env in unique_envs(envs)
    ]
    for job in jobs:
        if job.seed == seeds[0]:
            _ = job.config  # refuses what is wrong before anything runs
    return jobs


def unique_envs(envs: Iterable[str]) -> tuple[str, ...]:
    """Return environment ids without those that name one of the others again.

    Example:
        >>> unique_envs(["Pendulum-v1", "gym/Pendulum-v1", "dmc/walker-run"])
        ('Pendulum-v1', 'dmc/walker-run')
    """
    found: dict[str, str] = {}
    for env in envs:
        found.setdefault(canonical_id(env), env)
    return tuple(found.values())


def check_runnable(jobs: Iterable[Job]) -> None:
    """Refuse jobs that ``uld train`` would refuse, as far as it shows without making the environment.

    Raises:
        InputError: a variant that no directory can be called, a run that ends before it learns, images for
            a peer.

    Example:
        >>> check_runnable([Job("CartPole-v1", "small", 0)])
    """
    for job in {(job.env, job.variant): job for job in jobs}.values():
        check_name("the name of a variant", job.variant)
        check_run(job.config)
        if job.agent != "uld" and canonical_id(job.env).partition("/")[0] in ("dmc-pixels", "atari"):
            raise InputError(
                f"agent {job.agent} takes vectors, got {job.env}, which shows images: take agent uld for it."
            )


def _agents(variants: dict[str, tuple[str, ...]]) -> list[str]:
    return list(dict.fromkeys(split_agent(settings)[0] for settings in variants.values()))


def check_jobs(jobs: Iterable[Job], run_dir: Path) -> None:
    """Refuse jobs whose directory holds a run of other settings; more steps than before are allowed.

    Not where learning rates fall: they do so over the steps of the whole run.

    Raises:
        InputError: there are some; each is named with what differs.
    """
    found = [f"{job.path(run_dir)}: {other}" for job in jobs if (other := _differs(job, run_dir))]
    if found:
        more = [f"... and {len(found) - 5} more"] if len(found) > 5 else []
        listed = "\n  ".join([*found[:5], *more])
        raise InputError(
            f"{len(found)} runs of this study exist with another configuration:\n  {listed}\nUse another "
            "--run-dir, or name the variant anew."
        )


def _differs(job: Job, run_dir: Path) -> str:
    path = job.path(run_dir) / "config.json"
    if not path.exists():
        return ""
    try:
        started = json.loads(path.read_text(encoding="utf-8"))
        old = {**to_dict(from_dict(started["config"])), **about_peer(peer_of(started))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"config.json cannot be read ({type(error).__name__}: {str(error)[:200]})"
    new = {**to_dict(job.config), **about_peer(job.peer)}
    before, after = old["run"].pop("total_steps"), new["run"].pop("total_steps")
    decays = job.config.optim.lr_decay != "none"  # over the steps of the whole run
    other = after < before or (decays and after != before)
    steps = [f"run.total_steps was {before}, got {after}"] if other else []
    return "; ".join([*steps, *differences(old, new)])
