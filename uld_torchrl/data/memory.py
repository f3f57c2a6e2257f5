"""What a replay buffer will take, and what the machine has: asked before a run, not found out after hours.

Sizes are worked out from one time step. What networks and updates need comes on top and is not counted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch
from tensordict import TensorDictBase

from uld_torchrl.data.frames import frames_for
from uld_torchrl.data.keys import ReplayKeys
from uld_torchrl.data.pixels import FrameKeys
from uld_torchrl.errors import InputError

GB = 1e9
PRIORITY_BYTES = 8 + 8 / 64 + 8 / 64**2  # float64, and the sums of blocks of 64, and of 64 blocks
FRAME_NAME_BYTES = 24  # lane, position and depth

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
OWN_GROUPS = Path("/proc/self/cgroup")
# Files of the limit and of what is used, and the entry of memory.stat for cached files.
NAMES_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
NAMES_V2 = ("memory.max", "memory.current", "inactive_file")
NO_LIMIT = 2**60  # version 1 writes a number near 2**63


def replay_bytes(
    step: TensorDictBase, capacity: int, *, frame_stack: int | None = None, keys: ReplayKeys | None = None
) -> int:
    """Return the bytes of a full replay buffer.

    Args:
        step: one time step of all lanes, [num_lanes], such as ``env.fake_tensordict()``.
        capacity: agent steps over all lanes.
        frame_stack: frames k in an image observation, each stored once; None for vectors.
        keys: what is stored.

    Raises:
        KeyError: the step lacks an entry.

    Example:
        >>> from tensordict import TensorDict
        >>> flag = torch.zeros(1, 1, dtype=torch.bool)
        >>> after = {"observation": torch.zeros(1, 17), "reward": torch.zeros(1, 1)}
        >>> after |= {"terminated": flag, "truncated": flag, "done": flag}
        >>> step = {"observation": torch.zeros(1, 17), "action": torch.zeros(1, 6), "next": after}
        >>> replay_bytes(TensorDict(step, batch_size=[1]), 1_000_000)
        175126953
    """
    keys = keys or ReplayKeys()
    lanes, ring = len(step), capacity // len(step)
    kept = keys if frame_stack is None else FrameKeys.of(keys)
    entries = [step.get(key) for key in kept.stored if key in step.keys(True, True)]
    record = sum(entry[0].nbytes for entry in entries) + PRIORITY_BYTES
    if frame_stack is None:
        return int(ring * lanes * record)
    frame = step.get(keys.observation)[0].nbytes // frame_stack
    return int(lanes * (ring * (record + FRAME_NAME_BYTES) + frames_for(ring, frame_stack) * frame))


def available_bytes(device: torch.device | str = "cpu", folder: Path | None = None) -> int | None:
    """Return the free bytes of a device's memory, or of the disk that holds ``folder``; None if not known.

    On Linux the limits of this process's control group and of those around it count (versions 1 and 2), as
    containers and batch systems set them.

    Example:
        >>> free = available_bytes()
        >>> free is None or free > 0
        True
    """
    if folder is not None:
        there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        return shutil.disk_usage(there).free
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    known = [size for size in (_machine_bytes(), _group_bytes()) if size is not None]
    return min(known, default=None)


def _machine_bytes() -> int | None:
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:  # not Linux
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _group_bytes() -> int | None:
    left = [_left_in(folder, names) for folder, names in _groups()]
    return min((size for size in left if size is not None), default=None)


def _groups() -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Give the folders of this process's control group and of those around it, and their files' names."""
    for line in _lines(OWN_GROUPS) or ["0::/"]:
        _, controllers, own = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (CGROUP / "memory", NAMES_V1) if controllers else (CGROUP, NAMES_V2)
        # Of a container the path may be the host's, which is not there: then only the root is.
        for group in (PurePosixPath(own), *PurePosixPath(own).parents):
            yield root / group.relative_to("/"), names


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _left_in(folder: Path, names: tuple[str, ...]) -> int | None:
    """Return what a control group has left below its limit; None if it has none."""
    limit, used, cached = names
    try:
        largest = int((folder / limit).read_text())  # no number: "max"
        taken = int((folder / used).read_text())
        entries = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # Cached files count as used, but make room when memory is needed.
    return None if largest > NO_LIMIT else max(largest - taken + int(entries.get(cached, 0)), 0)


def check_room(
    size: int, capacity: int, device: torch.device | str = "cpu", folder: Path | None = None
) -> str:
    """Return a sentence on what the replay buffer will take and what there is.

    Raises:
        InputError: there is less; the message says what can be done.

    Example:
        >>> check_room(8_000_000, 1000).split(",")[0]
        'replay buffer: 8.0 MB of memory for 1000 steps'
    """
    place = "disk" if folder is not None else "memory"
    free = available_bytes(device, folder)
    need = f"{_readable(size)} of {place} for {capacity} steps"
    if free is None:
        return f"replay buffer: {need}; how much is free is not known"
    if size < free:
        return f"replay buffer: {need}, {_readable(free)} free"
    fewer = f"replay.capacity below {int(capacity * 0.8 * free / size)}; --set replay.capacity=..."
    raise InputError(
        f"the replay buffer needs {need}, but only {_readable(free)} are free. Keep fewer steps ({fewer})"
        f"{_way_out(device, folder)}."
    )


def _way_out(device: torch.device | str, folder: Path | None) -> str:
    if folder is not None:
        return ", or keep it on a larger disk (--run-dir)"
    on_cpu = torch.device(device).type == "cpu"
    return ", or map it to files (--buffer-storage memmap)" if on_cpu else " or train with --device cpu"


def _readable(size: float) -> str:
    return f"{size / GB:.2f} GB" if size >= GB else f"{size / 1e6:.1f} MB"
