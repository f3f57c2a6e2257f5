"""A finished run's model, evaluated again, and filmed."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import imageio
import numpy as np
import torch

from uld_torchrl.envs import make_env, render_frame
from uld_torchrl.errors import InputError, check_seed
from uld_torchrl.trainers.agent import Agent
from uld_torchrl.trainers.evaluation import Evaluation, evaluate
from uld_torchrl.trainers.run_dir import RunDir

FRAMES_PER_SECOND = 25


@dataclass(frozen=True)
class Playback:
    """Result of :func:`evaluate_run`."""

    env_id: str
    result: Evaluation
    video: Path | None


def load(path: Path | str, device: torch.device | str = "cpu") -> Agent:
    """Load the final model of a run directory; its ``policy`` maps observations to actions.

    Raises:
        InputError: no such run, no model in it yet, a damaged file.

    Example:
        >>> load("runs/nowhere")
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.InputError: runs/nowhere is not a run directory (it has no config.json).
    """
    return Agent.load(_model_folder(Path(path)), device)


def evaluate_run(
    path: Path, *, episodes: int = 10, seed: int = 0, video: bool = False, device: torch.device | str = "cpu"
) -> Playback:
    """Evaluate the final model of a run directory without exploration.

    Args:
        path: run directory.
        episodes: how many, played side by side.
        seed: of the environments.
        video: also write an mp4 of one episode, seeded the same, to ``<path>/videos``.
        device: where the networks run.

    Raises:
        InputError: no such run, no model in it yet, a damaged file, no renderer.
    """
    if episodes < 1:
        raise InputError(f"episodes must be greater than zero, got {episodes}.")
    check_seed(seed)
    agent = load(path, device)
    with closing(make_env(agent.env_id, num_envs=episodes, device=device)) as env:
        result = evaluate(env, agent.policy, seed=seed)
    return Playback(agent.env_id, result, _film(agent, Path(path), seed, device) if video else None)


def _model_folder(path: Path) -> Path:
    run = RunDir(path)
    if (run.model / "config.json").exists():
        return run.model
    if run.config.exists():
        raise InputError(f"{path} has no model yet: let its `uld train` finish first.")
    raise InputError(f"{path} is not a run directory (it has no config.json).")


def _film(agent: Agent, path: Path, seed: int, device: torch.device | str) -> Path:
    frames: list[np.ndarray] = []
    with closing(make_env(agent.env_id, num_envs=1, device=device, render=True)) as env:
        evaluate(env, agent.policy, seed=seed, on_step=lambda env: frames.append(render_frame(env)))
    target = RunDir(path).videos / f"seed{seed}.mp4"
    target.parent.mkdir(parents=True, exist_ok=True)
    imageio.mimwrite(target, list(frames), fps=FRAMES_PER_SECOND, macro_block_size=1)
    return target
