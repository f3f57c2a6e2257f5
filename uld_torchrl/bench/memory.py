"""``uld bench memory``: what replay, networks and updates take at their peak, and what one record takes.

On a CPU the peak is that of the process's resident memory, on a GPU what torch has allocated. The replay
buffer is filled with few records only: its whole size is worked out, which tests hold against real buffers.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

from uld_torchrl.bench.report import Figure, Report, machine
from uld_torchrl.bench.setup import DEFAULT_ENV, Parts, assemble
from uld_torchrl.bench.step import compute_of, update_call
from uld_torchrl.config import AgentConfig
from uld_torchrl.data import ReplayKeys, replay_bytes
from uld_torchrl.envs import task_spaces
from uld_torchrl.trainers.replay import run_capacity

MB = 1e6
STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


def bench_memory(
    config: AgentConfig, *, env: str = DEFAULT_ENV, device: torch.device | str = "cpu", quick: bool = False
) -> Report:
    """Measure the memory of a run's parts.

    Args:
        config: sizes are taken from it.
        env: whose records are stored.
        device: of networks and replay buffer.
        quick: one update; for tests.

    Example:
        >>> from uld_torchrl import bench, preset
        >>> report = bench.bench_memory(preset("debug"), env="Pendulum-v1", quick=True)
        >>> report["a record"].unit
        'bytes'
    """
    _forget_peak(device)
    before = _peak(device)
    parts = assemble(config, env, device, steps=64 if quick else 2000)
    capacity = run_capacity(config)
    size = _replay_size(parts, capacity)
    stepper = parts.stepper()
    built, update = _peak(device), update_call(stepper)
    for _ in range(1 if quick else 5):
        update()
    peak = _peak(device)
    weights = sum(tensor.nbytes for tensor in stepper.loss_module.state_dict().values())
    found = {
        "before": before,
        "networks and their targets": weights,
        "environment, agent and few records": built - before,
        "updates": peak - built,
        f"replay buffer of {capacity} records": size,
        "all together": peak + size,
    }
    figures = [Figure.of(name, [value / MB], "MB") for name, value in found.items()]
    figures.append(Figure.of("a record", [size / capacity], "bytes"))
    settings = {"env": parts.env_id, "batch": config.optim.batch_size, **compute_of(config)}
    return Report("memory", {**machine(device), **settings}, figures)


def _replay_size(parts: Parts, capacity: int) -> int:
    frames = task_spaces(parts.env).frames
    keys = None if frames is None else ReplayKeys.of_images()
    return replay_bytes(parts.env.fake_tensordict(), capacity, frame_stack=frames, keys=keys)


def _forget_peak(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif RESET.exists():
        RESET.write_text("5")  # Linux: the peak is from now on


def _peak(device: torch.device | str) -> int:
    """Return the largest memory in use since the peak was forgotten, in bytes."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if STATUS.exists():
        lines = STATUS.read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
