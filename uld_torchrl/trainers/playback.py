"""A finished run's model, evaluated again, and filmed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio
import torch
from torchrl.envs import EnvBase

from uld_torchrl.envs import EnvLike, copy_env, make_env, render_frame, task_spaces
from uld_torchrl.envs.registry import env_of_file
from uld_torchrl.errors import InputError, check_seed
from uld_torchrl.trainers.agent import Agent
from uld_torchrl.trainers.evaluation import Evaluation, eval_epsilon, eval_images, evaluate, make_eval_env
from uld_torchrl.trainers.run_dir import RunDir
from uld_torchrl.untrusted import check_links, read_json

_LOG = logging.getLogger(__name__)
FRAMES_PER_SECOND = 25


@dataclass(frozen=True)
class Playback:
    """Result of :func:`evaluate_run`."""

    env_id: str
    result: Evaluation
    video: Path | None


def load(path: Path | str, device: torch.device | str = "cpu") -> Agent:
    """Load the agent of a finished run: ``agent.predict`` for a plain loop, ``agent.policy`` for TorchRL.

    Args:
        path: run directory, or its ``model`` folder, which may be copied elsewhere.
        device: where the networks run.

    Raises:
        InputError: no such run, no model in it yet, a damaged file.

    Example:
        >>> load("runs/nowhere")
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.InputError: runs/nowhere is not a run directory (it has no config.json).
    """
    folder = _model_folder(Path(path))
    check_links(Path(path))
    agent = Agent.load(folder, device)
    if folder != Path(path):
        _warn_of_older_model(RunDir(Path(path)))
    return agent


def _warn_of_older_model(run: RunDir) -> None:
    """Say so if the run has been extended since its model was saved, and has not finished again."""
    with suppress(ValueError, KeyError, TypeError):  # the model is whole, the rest does not matter
        saved = int(read_json(run.model / "config.json")["step"])
        wanted = int(read_json(run.config)["config"]["run"]["total_steps"])
        if saved < wanted:
            _LOG.warning("the model in %s is that of step %d; the run goes on to %d", run.path, saved, wanted)


def evaluate_run(
    path: Path | str,
    *,
    env: EnvLike | None = None,
    episodes: int = 10,
    seed: int = 0,
    video: bool = False,
    device: torch.device | str = "cpu",
) -> Playback:
    """Evaluate the final model of a run directory without exploration.

    Args:
        path: run directory.
        env: what to play; by default the environment of that name. One that was passed from Python has to
            be passed here as well, and so has the name of one in a module ("module:Env-v0"), which a file
            alone must not import. For a video its render mode must be "rgb_array".
        episodes: how many, played side by side.
        seed: of the environments.
        video: also write an mp4 of one episode, seeded the same, to ``<path>/videos``.
        device: where the networks run.

    Raises:
        InputError: no such run, no model in it yet, a damaged file, no renderer, an environment with other
            spaces.

    Example:
        >>> import tempfile
        >>> import uld_torchrl
        >>> result = uld_torchrl.train("debug", "CartPole-v1", run_dir=tempfile.mkdtemp(), progress=False)
        >>> len(evaluate_run(result.path, episodes=3).result.returns)
        3
    """
    if not isinstance(episodes, int) or episodes < 1:
        raise InputError(f"episodes must be an integer greater than zero, got {episodes!r}.")
    check_seed(seed)
    agent = load(path, device)
    source = env_of_file(agent.env_id, "pass env=, or --env at the command line") if env is None else env
    epsilon = eval_epsilon(agent.env_id, agent.config)
    with closing(make_eval_env(copy_env(source), episodes, device, agent.config)) as lanes:
        _check_fits(agent, lanes)
        result = evaluate(lanes, agent.policy, seed=seed, episodes=episodes, epsilon=epsilon)
    return Playback(agent.env_id, result, _film(agent, source, Path(path), seed, device) if video else None)


def _check_fits(agent: Agent, env: EnvBase) -> None:
    if task_spaces(env) != agent.spaces:
        raise InputError(
            f"env must have the spaces of {agent.env_id} as it was trained, {agent.spaces}; got "
            f"{task_spaces(env)}."
        )


def _model_folder(path: Path) -> Path:
    run = RunDir(path)
    if (path / "model.safetensors").exists():
        return path
    if (run.model / "config.json").exists():
        return run.model
    if run.config.exists():
        raise InputError(f"{path} has no model yet: let its `uld train` finish first.")
    raise InputError(f"{path} is not a run directory (it has no config.json).")


def _film(agent: Agent, source: EnvLike, path: Path, seed: int, device: torch.device | str) -> Path:
    target = RunDir(path).videos / f"seed{seed}.mp4"
    epsilon, images = eval_epsilon(agent.env_id, agent.config), eval_images(agent.config)
    with closing(make_env(copy_env(source), num_envs=1, device=device, render=True, **images)) as env:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Frame by frame into the file: those of a long game would not fit into memory.
        with _video(target) as writer:
            evaluate(
                env,
                agent.policy,
                seed=seed,
                epsilon=epsilon,
                on_step=lambda env: writer.append_data(render_frame(env)),
            )
    return target


@contextmanager
def _video(target: Path) -> Iterator[Any]:
    """Give a writer of frames; the file gets its name when it is whole."""
    aside = target.with_name(f".{target.name}")
    try:
        # Used as a context manager itself, the writer would not close after an error.
        with closing(imageio.get_writer(aside, fps=FRAMES_PER_SECOND, macro_block_size=1)) as writer:
            yield writer
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
