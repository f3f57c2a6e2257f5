"""The replay buffer put together from its parts: for vectors or images, in memory or mapped to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, RoundRobinWriter, TensorStorage

from uld_torchrl.data.buffer import WindowReplayBuffer
from uld_torchrl.data.frames import FrameStore
from uld_torchrl.data.keys import ReplayKeys
from uld_torchrl.data.pixels import FrameKeys, PixelReplayBuffer
from uld_torchrl.data.room import allocate
from uld_torchrl.data.sampler import SubTrajectorySampler
from uld_torchrl.data.windows import HorizonWindow
from uld_torchrl.errors import InputError, one_of

StorageName = Literal["memory", "memmap"]


def make_replay_buffer(
    *,
    capacity: int,
    num_lanes: int = 1,
    horizon: int = 5,
    batch_size: int = 256,
    alpha: float = 0.4,
    min_priority: float = 1.0,
    fade: float = 1.0,
    fade_floor: float = 0.1,
    device: torch.device | str = "cpu",
    keys: ReplayKeys | None = None,
    generator: torch.Generator | None = None,
    frame_stack: int | None = None,
    storage: StorageName = "memory",
    folder: Path | str | None = None,
) -> WindowReplayBuffer:
    """Make the replay buffer: ``rb.add(step)``, ``rb.sample()``, ``rb.update_priority(anchors, td_error)``.

    Args:
        capacity: agent steps kept over all lanes; each lane holds ``capacity // num_lanes``.
        num_lanes: environments stepped together, one lane each.
        horizon: records H in a window.
        batch_size: windows in a sample.
        alpha: exponent of the priorities.
        min_priority: TD errors below this count as this.
        fade: factor on the priority for each agent step of age, when drawing; 1: none.
        fade_floor: the least factor of old windows.
        device: where records and priorities live.
        keys: names of the entries to store.
        generator: source of the draws; without one, torch's global one.
        frame_stack: frames k in an image observation; each is then stored once. None: plain vectors.
        storage: "memory", or "memmap" for files in ``folder``, which must hold no others.
        folder: where the files of "memmap" go.

    Returns:
        A buffer whose samples have the batch size [batch_size, horizon]. With ``frame_stack`` it is a
        :class:`PixelReplayBuffer`, whose observations are ``pixels`` and ``("next", "pixels")`` unless
        ``keys`` says otherwise.

    Raises:
        InputError: an argument is out of its range, or a lane would not hold more than one window.

    Example:
        >>> from uld_torchrl.data import make_replay_buffer
        >>> len(make_replay_buffer(capacity=1000, num_lanes=4))
        0
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}.")
    if num_lanes < 1:
        raise InputError(f"num_lanes must be at least 1, got {num_lanes}.")
    ring, folder = capacity // num_lanes, _folder(storage, folder, device)
    given = keys or (ReplayKeys() if frame_stack is None else ReplayKeys.of_images())
    kept = given if frame_stack is None else FrameKeys.of(given)
    sampler = SubTrajectorySampler(
        ring,
        num_lanes,
        horizon,
        alpha=alpha,
        min_priority=min_priority,
        fade=fade,
        fade_floor=fade_floor,
        keys=kept,
        device=device,
    )
    parts: dict[str, Any] = {
        "storage": _storage(ring * num_lanes, device, folder),
        "sampler": sampler,
        "sample_unit": HorizonWindow(horizon, given.terminated),
        "writer": RoundRobinWriter(),
        "batch_size": batch_size,
        "generator": generator,
    }
    if frame_stack is None:
        return WindowReplayBuffer(**parts)
    path = folder / "frames.memmap" if folder else None
    frames = FrameStore(ring, num_lanes, frame_stack, device=device, path=path)
    return PixelReplayBuffer(frames=frames, given=given, **parts)


def _folder(storage: str, folder: Path | str | None, device: torch.device | str) -> Path | None:
    one_of("storage", storage, ("memory", "memmap"))
    if storage == "memory":
        return None
    if folder is None:
        raise InputError("storage='memmap' needs a folder for its files, got None. Give folder=...")
    if torch.device(device).type != "cpu":
        raise InputError(f"storage='memmap' lives on the CPU, got device={device}. Use storage='memory'.")
    return Path(folder)


def _storage(size: int, device: torch.device | str, folder: Path | None) -> TensorStorage:
    if folder is None:
        return _Storage(size, ndim=2, device=device)
    folder.mkdir(parents=True, exist_ok=True)
    return _MappedStorage(size, ndim=2, scratch_dir=folder / "records", existsok=True)


class _Gathers(TensorStorage):
    """Reads windows by the rows' numbers: half the time of two indices on a CPU, less beyond its caches."""

    def get(self, index: Any) -> Any:
        if not (isinstance(index, tuple) and all(isinstance(part, Tensor) for part in index)):
            return super().get(index)
        time, lane = index
        rows = (time * self._total_shape[1] + lane).view(-1)

        def read(entry: Tensor) -> Tensor:
            return entry.flatten(0, 1).index_select(0, rows).view(*time.shape, *entry.shape[2:])

        return self._storage.apply(read, batch_size=time.shape)


class _Storage(_Gathers, LazyTensorStorage):
    """TorchRL's, in memory."""


class _MappedStorage(_Gathers, LazyMemmapStorage):
    """TorchRL's, whose files have their room on the disk from the start."""

    def _init(self, data: Any) -> None:
        super()._init(data)
        allocate(Path(str(self.scratch_dir)))
