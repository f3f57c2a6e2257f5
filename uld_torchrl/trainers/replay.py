"""The replay buffer of a run: how many steps it keeps, whether there is room for them, and making it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import torch
from torchrl.envs import EnvBase

from uld_torchrl.config import AgentConfig
from uld_torchrl.data import (
    ReplayKeys,
    StorageName,
    WindowReplayBuffer,
    check_room,
    make_replay_buffer,
    replay_bytes,
)
from uld_torchrl.envs import task_spaces
from uld_torchrl.errors import InputError, one_of

CHECKPOINTS = 3
"""On disk at the same time, at most."""


def run_capacity(config: AgentConfig) -> int:
    """Return the steps to keep: no more than the run can fill, and room for one window in each lane.

    Example:
        >>> run_capacity(AgentConfig())
        500001
    """
    run = config.run
    useful = max(run.total_steps, config.loss.horizon * run.num_envs) + run.num_envs
    return min(config.replay.capacity, useful)


def room_for_replay(
    env: EnvBase,
    config: AgentConfig,
    device: torch.device,
    storage: StorageName,
    root: Path,
    runs: int = 1,
) -> str:
    """Return a sentence on what the replay buffer of a run, or of several, takes, and what there is.

    Checkpoints hold the replay buffer too: two are kept while a third is written.

    Raises:
        InputError: there is less; or ``storage`` is no name of one, or none for that device.
    """
    one_of("buffer_storage", storage, get_args(StorageName))
    if storage == "memmap" and device.type != "cpu":
        raise InputError(f"buffer_storage 'memmap' needs the device cpu, got {device}. Use 'memory'.")
    size = runs * replay_bytes(env.fake_tensordict(), run_capacity(config), **_observed(env))
    mapped, together = storage == "memmap", f"{runs} runs together: " if runs > 1 else ""
    try:
        said = check_room(size, run_capacity(config), device, root if mapped else None)
        check_room((CHECKPOINTS + mapped) * size, run_capacity(config), "cpu", root)
    except InputError as error:
        raise InputError(f"{together}{error}") from error
    return f"{together}{said}"


def make_run_replay(
    env: EnvBase, config: AgentConfig, device: torch.device, folder: Path | None
) -> WindowReplayBuffer:
    """Make the run's replay buffer, in memory, or mapped to files in ``folder``."""
    return make_replay_buffer(
        capacity=run_capacity(config),
        num_lanes=config.run.num_envs,
        horizon=config.loss.horizon,
        batch_size=config.optim.batch_size,
        alpha=config.replay.lap_alpha,
        min_priority=config.replay.lap_min_priority,
        fade=config.replay.fade,
        fade_floor=config.replay.fade_floor,
        device=device,
        storage="memory" if folder is None else "memmap",
        folder=folder,
        **_observed(env),
    )


def _observed(env: EnvBase) -> dict[str, Any]:
    """Return what the replay buffer must know of the observations."""
    frames = task_spaces(env).frames
    return {} if frames is None else {"frame_stack": frames, "keys": ReplayKeys.of_images()}
