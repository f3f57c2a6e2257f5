"""The command ``uld``, with ``cli_experiments``, ``cli_peers``, ``cli_tools``; parsed before importing torch.

Bad input ends with exit code 2 and one message on standard error; only this file prints.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from uld_torchrl.ablations import ablation
from uld_torchrl.cli_experiments import AgentName, Report, StudyGroup, report_command, study_command
from uld_torchrl.cli_peers import peer_command
from uld_torchrl.cli_tools import Cite, Export, cite_command, export_command
from uld_torchrl.config import (
    DEFAULT_ENV,
    AgentConfig,
    Compile,
    Precision,
    PresetName,
    Schedule,
    check_run,
    override,
    preset,
)
from uld_torchrl.duration import parse_duration
from uld_torchrl.errors import InputError
from uld_torchrl.peers import uld_settings
from uld_torchrl.seed_list import parse_seeds

if TYPE_CHECKING:
    from uld_torchrl.trainers import Callback, TrainResult

NOT_FINISHED = 75
"""Exit code of a run that reached its time limit: EX_TEMPFAIL of sysexits.h, for scripts that requeue it."""


@dataclass(frozen=True)
class Train:
    """Train an agent; the same command again goes on where it stopped."""

    env: tyro.conf.Positional[str] = DEFAULT_ENV
    """Environment: gym/<Gymnasium id>, dmc/<domain>-<task>, dmc-pixels/<domain>-<task>, atari/<Game>,
    tabular/<name>, or a bare Gymnasium id."""
    agent: AgentName = "uld"
    """uld, or for comparison td3, sac (Box actions), dqn (Discrete): of a preset they take its run.* only."""
    preset: PresetName = "small"
    """Settings: small (CPU, first contact), uld, mrq (published), debug (seconds, learns nothing)."""
    schedule: Schedule | None = None
    """Encoder updates: 'periodic' (all of a period at its start) or 'every_step'."""
    ablation: str | None = None
    """Take one part of the agent away: linear-value, sa-target, no-target-encoder, revert (these three),
    nonlinear-model, mse-reward, no-reward-scale, no-min, no-lap, no-mr, one-step or no-unroll."""
    seed: int | None = None
    """Seed of everything random in the run."""
    seeds: str | None = None
    """Several runs in one process, one a seed: 0-9, or 0,2,5-7; in place of --seed."""
    num_envs: int | None = None
    """Environments stepped together; a vector step is as many agent steps, and as many updates."""
    env_workers: int = 0
    """Worker processes that step the environments; 0: this process. The result is the same."""
    buffer_storage: Literal["memory", "memmap"] = "memory"
    """Where the replay buffer is: in memory, or mapped to files in the run directory."""
    total_steps: int | None = None
    """Agent steps of the whole run."""
    name: str | None = None
    """Name of the run; default: the ablation, the agent if it is not uld, or the preset."""
    run_dir: Path = Path("runs")
    """Root directory of all runs."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:<k>."""
    precision: Precision | None = None
    """Matrix products of the update: float32, tf32, bfloat16; auto: float32 on a CPU, tf32 on CUDA."""
    compile: Compile | None = None
    """The update: off, on (torch.compile), graph (CUDA graphs); auto: off on a CPU, graph on CUDA."""
    log: tyro.conf.UseAppendAction[tuple[Literal["tensorboard", "wandb"], ...]] = ()
    """Log to tensorboard or wandb as well as to CSV files; may be repeated."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """After a loss, gradient or batch with NaN or infinity: 'stop', or 'skip' that update."""
    env_restarts: int = 3
    """How often environments that raise, misbehave or die are begun anew before the run stops."""
    time_limit: str | None = None
    """Save and stop after this time, with exit code 75 if the run is not finished: 8h, 30m, 1:30:00, 90."""
    audit_every: int | None = None
    """Audit the agent every so many steps, for `uld audit`; tabular environments only."""
    probe_every: int | None = None
    """Probe the agent on replayed windows every so many steps: linearity, ranks, calibration."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Any other setting as section.field=value, e.g. --set loss.gamma=0.98; may be repeated. Agents other
    than uld take run.* and their own, e.g. --set td3.gamma=0.98."""
    fresh: tyro.conf.FlagCreatePairsOff[bool] = False
    """Start a new run <name>-2, -3, ... instead of going on."""


@dataclass(frozen=True)
class Eval:
    """Evaluate the model of a finished run."""

    run: tyro.conf.Positional[Path]
    """Run directory (the one that `uld train` names)."""
    env: str | None = None
    """Environment to play; default: the one of the run. Needed if it is in a module (module:Env-v0)."""
    episodes: int = 10
    """Number of episodes."""
    seed: int = 0
    """Seed of the evaluation's environments."""
    video: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also write a video of one episode to <run>/videos."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:<k>."""


@dataclass(frozen=True)
class Audit:
    """Audit a finished run on its tabular MDP, over its training time: writes <run>/audit."""

    run: tyro.conf.Positional[Path]
    """Run directory (the one that `uld train` names)."""
    mdp: str | None = None
    """The MDP by its name, as in tabular/<name>; default: the one of the run's environment."""
    policy: Literal["greedy", "softmax"] = "greedy"
    """Policy of the final model, where the run did not audit it itself."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:<k>."""


@dataclass(frozen=True)
class Bench:
    """Measure a part of a run on this machine, beside what bounds it: step, sample, env or memory."""

    what: tyro.conf.Positional[Literal["step", "sample", "env", "memory"]]
    """One update; the replay buffer by its size; stepping the environment; memory."""
    preset: PresetName = "uld"
    """Settings: uld, mrq (full size), small, debug."""
    env: str = "gym/HalfCheetah-v5"
    """Environment whose observations and actions are used."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:<k>."""
    threads: int | None = None
    """Threads of PyTorch; default: its own."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Any setting as section.field=value, e.g. --set optim.precision=bfloat16; may be repeated."""
    json: Path | None = None
    """Write the figures to this file as well."""
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Few rounds and small sizes: shows that it works, measures little."""


@dataclass(frozen=True)
class Info:
    """Show versions, devices, the renderer, and what is missing."""


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Eval, tyro.conf.subcommand("eval")]
    | Annotated[Audit, tyro.conf.subcommand("audit")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[StudyGroup, tyro.conf.subcommand("study")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Cite, tyro.conf.subcommand("cite")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code.

    0; 1 for a failed file or audit; 2 for bad input; 75 at the time limit; 128 + n when stopped by signal n.
    """
    command = tyro.cli(Command, prog="uld", args=arguments)
    try:
        if isinstance(command, Train):
            return _train(command)
        elif isinstance(command, Eval):
            _eval(command)
        elif isinstance(command, Audit):
            return _audit(command)
        elif isinstance(command, Bench):
            _bench(command)
        elif isinstance(command, StudyGroup):
            return study_command(command)
        elif isinstance(command, Report):
            return report_command(command)
        elif isinstance(command, Export):
            export_command(command)
        elif isinstance(command, Cite):
            cite_command(command)
        else:
            _info()
    except InputError as error:
        print(f"uld: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        kept = "" if str(error).endswith(".") else "; what was saved before is kept"
        print(f"uld: error: {error}{kept}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        return _interrupted(stop, command, sys.argv[1:] if arguments is None else arguments)
    return 0


def settings(command: Train) -> AgentConfig:
    """Return the preset's settings with the command's options applied.

    Example:
        >>> settings(Train(total_steps=100)).run.total_steps
        100
    """
    if command.agent != "uld":
        return peer_command(command)[0]
    options = {
        "optim.schedule": command.schedule,
        "optim.precision": command.precision,
        "optim.compile": command.compile,
        "run.num_envs": command.num_envs,
        "run.total_steps": command.total_steps,
    }
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    ablated = () if command.ablation is None else ablation(command.ablation).settings
    return override(preset(command.preset), [*ablated, *given, *uld_settings(command.set)])


def _interrupted(stop: KeyboardInterrupt, command: Command, arguments: list[str]) -> int:
    """Say what was saved and how to go on; return the exit code of that signal."""
    again = f"; to go on: {_again(arguments)}" if isinstance(command, Train | StudyGroup) else ""
    print(f"uld: {str(stop) or 'interrupted'}{again}", file=sys.stderr)
    return 128 + getattr(stop, "signum", signal.SIGINT)


def _again(arguments: list[str]) -> str:
    if "--fresh" in arguments:
        return "the same command with --name of that directory in place of --fresh"
    return shlex.join(["uld", *arguments])


def _train(command: Train) -> int:
    begin, limit = time.monotonic(), _time_limit(command)
    config = check_run(settings(command))
    seeds, peer = _seeds(command), None if command.agent == "uld" else peer_command(command)[1]
    from uld_torchrl.trainers import Guards, OutOfTime, SeedsTrainer, ULDTrainer
    from uld_torchrl.trainers.device import pick_device

    options: dict[str, Any] = {
        "name": command.name or command.ablation or (command.preset if peer is None else command.agent),
        "run_dir": command.run_dir,
        "fresh": command.fresh,
        "device": pick_device(command.device),
        "env_workers": command.env_workers,
        "buffer_storage": command.buffer_storage,
        "log_to": command.log,
        "callbacks": _callbacks(command, config),
        "guards": Guards(command.on_nonfinite, command.env_restarts, limit and _left(limit, begin)),
        "progress": True,
    }
    trainer: ULDTrainer | SeedsTrainer
    if len(seeds) == 1:
        trainer = ULDTrainer(command.env, config, seed=seeds[0], peer=peer, **options)
    else:
        trainer = SeedsTrainer(command.env, config, seeds=seeds, **options)
    with closing(trainer):
        runs = [trainer] if isinstance(trainer, ULDTrainer) else trainer.trainers
        for run in runs:
            if run.step:
                state = "is finished" if run.finished else f"goes on from step {run.step}"
                print(f"{run.run.path} {state}")
        if not trainer.finished:
            print(runs[0].room)
        try:
            found = trainer.train()
        except OutOfTime as stop:
            print(f"uld: {stop}", file=sys.stderr)
            return NOT_FINISHED
    print(_outcome(found if isinstance(found, list) else [found], command, config))
    return 0


def _outcome(results: list[TrainResult], command: Train, config: AgentConfig) -> str:
    """Return what came of the runs, a line each, and what to do next."""
    lines = [
        f"return {result.return_mean:.1f} (sd {result.return_std:.1f}, {config.run.eval_episodes} episodes) "
        f"at step {result.step} in {result.path}"
        for result in results
    ]
    if len(results) > 1:
        returns = [result.return_mean for result in results]
        lines.append(f"return {mean(returns):.1f} (sd {stdev(returns):.1f} over {len(returns)} seeds)")
    program = "eval" if command.audit_every is None else "audit"
    return "\n".join(lines) + f"; next: uld {program} {shlex.quote(str(results[0].path))}"


def _seeds(command: Train) -> list[int]:
    if command.seeds is None:
        return [command.seed or 0]
    if command.seed is not None:
        raise InputError(
            f"--seed {command.seed} and --seeds {command.seeds} exclude each other: name all in --seeds."
        )
    return parse_seeds("--seeds", command.seeds)


def _time_limit(command: Train) -> float | None:
    return None if command.time_limit is None else parse_duration("--time-limit", command.time_limit)


def _left(limit: float, begin: float) -> float:
    """Return the seconds that are left of a limit after torch was imported; a trainer counts from there."""
    return max(limit - (time.monotonic() - begin), 1e-3)


def _callbacks(command: Train, config: AgentConfig) -> list[Callback]:
    """Return what the run is to call; refused here, before it has a directory."""
    if command.audit_every is None and command.probe_every is None:
        return []
    from uld_torchrl.diagnostics import AuditEvery, ProbeEvery, mdp_of_env
    from uld_torchrl.envs import canonical_id

    chosen: list[Callback] = []
    if command.audit_every is not None:
        mdp = mdp_of_env(canonical_id(command.env), config.loss.gamma)
        chosen.append(AuditEvery(command.audit_every, mdp))
    if command.probe_every is not None:
        chosen.append(ProbeEvery(command.probe_every))
    return chosen


def _eval(command: Eval) -> None:
    from uld_torchrl.trainers.device import pick_device
    from uld_torchrl.trainers.playback import evaluate_run

    outcome = evaluate_run(
        command.run,
        env=command.env,
        episodes=command.episodes,
        seed=command.seed,
        video=command.video,
        device=pick_device(command.device),
    )
    print(
        f"return {outcome.result.mean:.1f} (sd {outcome.result.std:.1f} over {command.episodes} episodes) "
        f"of {outcome.env_id}"
    )
    if outcome.video is not None:
        print(f"video: {outcome.video}")


def _audit(command: Audit) -> int:
    from uld_torchrl.diagnostics import audit_run
    from uld_torchrl.trainers.device import pick_device

    found = audit_run(command.run, mdp=command.mdp, policy=command.policy, device=pick_device(command.device))
    print(found.report.sentence)
    print(f"report: {found.path / 'report.md'}")
    return 1 if found.report.verdict == "fail" else 0


def _bench(command: Bench) -> None:
    most = 4 * (os.cpu_count() or 1)
    if command.threads is not None and not 1 <= command.threads <= most:
        raise InputError(f"--threads must lie in 1 ... {most} on this machine, got {command.threads}.")
    if command.json is not None and not command.json.parent.is_dir():
        raise InputError(f"--json {command.json}: there is no folder {command.json.parent}; make it first.")
    config = override(preset(command.preset), list(command.set))
    from uld_torchrl.bench import BENCHES, with_threads
    from uld_torchrl.trainers.device import pick_device

    with with_threads(command.threads):
        report = BENCHES[command.what](
            config, env=command.env, device=pick_device(command.device), quick=command.quick
        )
    print(report.table())
    if command.json is not None:
        command.json.write_text(report.json() + "\n")
        print(f"wrote {command.json}")


def _info() -> None:
    from uld_torchrl.info import collect_info, format_info

    print(format_info(collect_info()))


if __name__ == "__main__":
    sys.exit(main())
