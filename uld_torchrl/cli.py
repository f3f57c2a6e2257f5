"""The command ``uld``: train, eval, info. Arguments are parsed before torch is imported.

Bad input ends with exit code 2 and one message on standard error; only this file prints.
"""

from __future__ import annotations

import shlex
import signal
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from uld_torchrl.config import (
    DEFAULT_ENV,
    AgentConfig,
    PresetName,
    Schedule,
    check_run,
    override,
    preset,
)
from uld_torchrl.errors import InputError


@dataclass(frozen=True)
class Train:
    """Train an agent; the same command again goes on where it stopped."""

    env: tyro.conf.Positional[str] = DEFAULT_ENV
    """Environment: gym/<Gymnasium id>, dmc/<domain>-<task>, dmc-pixels/<domain>-<task>, atari/<Game>, or a
    bare Gymnasium id."""
    preset: PresetName = "small"
    """Settings: small (CPU, first contact), uld, mrq (published), debug (seconds, learns nothing)."""
    schedule: Schedule | None = None
    """Encoder updates: 'periodic' (all of a period at its start) or 'every_step'."""
    seed: int = 0
    """Seed of everything random in the run."""
    num_envs: int | None = None
    """Environments stepped together; a vector step is as many agent steps, and as many updates."""
    env_workers: int = 0
    """Worker processes that step the environments; 0: this process. The result is the same."""
    buffer_storage: Literal["memory", "memmap"] = "memory"
    """Where the replay buffer is: in memory, or mapped to files in the run directory."""
    total_steps: int | None = None
    """Agent steps of the whole run."""
    name: str | None = None
    """Name of the run; default: the preset."""
    run_dir: Path = Path("runs")
    """Root directory of all runs."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:<k>."""
    log: tyro.conf.UseAppendAction[tuple[Literal["tensorboard", "wandb"], ...]] = ()
    """Log to tensorboard or wandb as well as to CSV files; may be repeated."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Any other setting as section.field=value, e.g. --set loss.gamma=0.98; may be repeated."""
    fresh: tyro.conf.FlagCreatePairsOff[bool] = False
    """Start a new run <name>-2, -3, ... instead of going on."""


@dataclass(frozen=True)
class Eval:
    """Evaluate the model of a finished run."""

    run: tyro.conf.Positional[Path]
    """Run directory (the one that `uld train` names)."""
    episodes: int = 10
    """Number of episodes."""
    seed: int = 0
    """Seed of the evaluation's environments."""
    video: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also write a video of one episode to <run>/videos."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:<k>."""


@dataclass(frozen=True)
class Info:
    """Show versions, devices, the renderer, and what is missing."""


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Eval, tyro.conf.subcommand("eval")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 0, 1 for a failed file, 2 for bad input, 130 when interrupted."""
    command = tyro.cli(Command, prog="uld", args=arguments)
    try:
        if isinstance(command, Train):
            _train(command)
        elif isinstance(command, Eval):
            _eval(command)
        else:
            _info()
    except InputError as error:
        print(f"uld: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"uld: error: {error}; what was saved before is kept", file=sys.stderr)
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
    options = {
        "optim.schedule": command.schedule,
        "run.num_envs": command.num_envs,
        "run.total_steps": command.total_steps,
    }
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    return override(preset(command.preset), [*given, *command.set])


def _interrupted(stop: KeyboardInterrupt, command: Command, arguments: list[str]) -> int:
    """Say what was saved and how to go on; return the exit code of that signal."""
    again = f"; to go on: {_again(arguments)}" if isinstance(command, Train) else ""
    print(f"uld: {str(stop) or 'interrupted'}{again}", file=sys.stderr)
    return 128 + getattr(stop, "signum", signal.SIGINT)


def _again(arguments: list[str]) -> str:
    if "--fresh" in arguments:
        return "the same command with --name of that directory in place of --fresh"
    return shlex.join(["uld", *arguments])


def _train(command: Train) -> None:
    config = check_run(settings(command))
    from uld_torchrl.trainers import ULDTrainer
    from uld_torchrl.trainers.device import pick_device

    trainer = ULDTrainer(
        command.env,
        config,
        name=command.name or command.preset,
        run_dir=command.run_dir,
        seed=command.seed,
        fresh=command.fresh,
        device=pick_device(command.device),
        env_workers=command.env_workers,
        buffer_storage=command.buffer_storage,
        log_to=command.log,
        progress=True,
    )
    with closing(trainer):
        if trainer.step:
            state = "is finished" if trainer.finished else f"goes on from step {trainer.step}"
            print(f"{trainer.run.path} {state}")
        if not trainer.finished:
            print(trainer.room)
        result = trainer.train()
    print(
        f"return {result.return_mean:.1f} (sd {result.return_std:.1f}, {config.run.eval_episodes} episodes) "
        f"at step {result.step} in {result.path}; next: uld eval {shlex.quote(str(result.path))}"
    )


def _eval(command: Eval) -> None:
    from uld_torchrl.trainers.device import pick_device
    from uld_torchrl.trainers.playback import evaluate_run

    outcome = evaluate_run(
        command.run,
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


def _info() -> None:
    from uld_torchrl.info import collect_info, format_info

    print(format_info(collect_info()))


if __name__ == "__main__":
    sys.exit(main())
