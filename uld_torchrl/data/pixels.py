"""The replay buffer of image observations: records without images, beside the frames they name.

How frames are stored and stacked is in :mod:`uld_torchrl.data.frames`, everything about records and
priorities in the plain buffer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from uld_torchrl.data.buffer import WindowReplayBuffer
from uld_torchrl.data.frames import FrameStore
from uld_torchrl.data.keys import ReplayKeys, stored
from uld_torchrl.data.windows import HorizonWindow
from uld_torchrl.errors import InputError

FRAME = "frame"
"""The entry of a record that names its frames: lane, position and depth, int64 [3]."""


@dataclass(frozen=True)
class FrameKeys(ReplayKeys):
    """The entries that are stored where a buffer takes and gives ``ReplayKeys``, but keeps images apart.

    Example:
        >>> FrameKeys().stored[:2]
        ('frame', 'action')
    """

    observation: NestedKey = FRAME
    """Names the stack before the step."""
    next_observation: NestedKey = FRAME
    """The stack after it is one frame further."""

    @property
    def stored(self) -> tuple[NestedKey, ...]:
        """All keys, each once."""
        return tuple(dict.fromkeys(super().stored))

    @classmethod
    def of(cls, given: ReplayKeys) -> FrameKeys:
        """Return the stored keys for the names that a buffer takes and gives."""
        own = {field.name: getattr(given, field.name) for field in dataclasses.fields(ReplayKeys)}
        return cls(**{**own, "observation": FRAME, "next_observation": FRAME})


class FrameStacks:
    """Puts the stacks into a sampled window: what a buffer's ``collate_fn`` does.

    Args:
        frames: where the frames are.
        keys: the names that the stacks get.
    """

    def __init__(self, frames: FrameStore, keys: ReplayKeys) -> None:
        self.frames, self.keys = frames, keys

    def __call__(self, window: TensorDictBase) -> TensorDictBase:
        """Replace ``frame`` [B, H, 3] by the stacks before and after each step, uint8 [B, H, k C, h, w]."""
        lane, position, depth = window.pop(FRAME)[:, 0].unbind(-1)
        terminated = window.get(self.keys.terminated)
        steps = HorizonWindow.validity(terminated.flatten(1)).sum(1)
        stacks = self.frames.windows(lane, position, depth, steps, window.shape[1])
        window.set(self.keys.observation, stacks[0])
        window.set(self.keys.next_observation, stacks[1])
        return window


class PixelReplayBuffer(WindowReplayBuffer):
    """A :class:`WindowReplayBuffer` of image stacks that stores each frame once.

    It takes uint8 stacks [num_lanes, k C, h, w] as observation and next observation and gives them back as
    [B, H, k C, h, w], equal to the last bit at every step up to the first termination in the window; after
    it the terminal frame repeats. Stacks of one window are views of the same memory: copy before you write.

    Differs from it in: 1. a step must begin with the observation that the step before led to, unless that
    was done; 2. where episodes are shorter than 64 steps on average it holds fewer steps than its capacity,
    since the first frame of each episode takes a place too (``len`` counts the ring's records, also those
    forgotten); 3. single records cannot be read. See :func:`make_replay_buffer`.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from uld_torchrl.data import make_replay_buffer
        >>> rb = make_replay_buffer(capacity=100, horizon=2, batch_size=4, frame_stack=3)
        >>> frames = torch.randint(256, (1, 9, 8, 8), dtype=torch.uint8)
        >>> stacks = frames.unfold(1, 3, 1).movedim(-1, 2)
        >>> no = torch.zeros(1, 6, 1, dtype=torch.bool)
        >>> flags = {"terminated": no, "truncated": no, "done": no}
        >>> after = {"pixels": stacks[:, 1:], "reward": torch.ones(1, 6, 1), **flags}
        >>> steps = {"pixels": stacks[:, :-1], "action": torch.rand(1, 6, 1), "next": after}
        >>> _ = rb.extend(TensorDict(steps, batch_size=[1, 6]))
        >>> rb.sample()["next", "pixels"].shape
        torch.Size([4, 2, 3, 8, 8])
    """

    _holds = "images"

    def __init__(self, *, frames: FrameStore, given: ReplayKeys, **parts: Any) -> None:
        super().__init__(collate_fn=FrameStacks(frames, given), **parts)
        self.frames, self._given = frames, given

    def add(self, data: TensorDictBase) -> Tensor:
        """Write one time step of all lanes, a tensordict [num_lanes]; see :class:`WindowReplayBuffer`."""
        with self._whole_or_not_at_all():
            return super().add(data)

    def extend(self, tensordicts: TensorDictBase, *, update_priority: bool | None = None) -> Tensor:
        """Write T time steps of all lanes, a tensordict [num_lanes, T]; see :class:`WindowReplayBuffer`."""
        if tensordicts.ndim < 2 or tensordicts.shape[1] <= self._sampler.ring_length:
            with self._whole_or_not_at_all():
                return super().extend(tensordicts)
        return torch.cat([self.extend(part) for part in tensordicts.split(self._sampler.ring_length, 1)])

    @contextmanager
    def _whole_or_not_at_all(self) -> Iterator[None]:
        """Let frames be stored only with their records, and forget the records that lose theirs."""
        mark = self.frames.mark()
        try:
            yield
        except BaseException:
            self.frames.rewind(mark)
            raise
        finally:
            self._forget_overwritten()

    def __getitem__(self, index: Any) -> Any:
        """Refuse: stacks are built for the windows of a sample.

        Raises:
            InputError: always.
        """
        raise InputError("a replay buffer of images gives windows only: use rb.sample().")

    def dumps(self, path: Any) -> None:
        """Refuse: TorchRL's own format knows nothing of the frames.

        Raises:
            InputError: always.
        """
        raise InputError("dumps would leave the frames out: save rb.state_dict() with torchrl.checkpoint.")

    def _selected(self, data: TensorDictBase, shape: tuple[int, ...]) -> TensorDictBase:
        chosen = self._checked(data, shape, self._given)
        images = (self._given.observation, self._given.next_observation)
        self._check_shapes(chosen.exclude(*images))
        steps = [chosen] if len(shape) == 1 else list(chosen.unbind(1))
        names = [self._write(step) for step in steps]
        records = chosen.exclude(*images)
        return records.set(FRAME, names[0] if len(shape) == 1 else torch.stack(names, 1))

    def _ended(self, step: TensorDictBase) -> Tensor:
        keys = (self._given.terminated, self._given.truncated, self._given.done)
        return torch.cat([step.get(key) for key in keys], -1).any(-1)

    def _write(self, step: TensorDictBase) -> Tensor:
        """Store one step's frames and return what its records keep of them, [num_lanes, 3]."""
        now, then = step.get(self._given.observation), step.get(self._given.next_observation)
        position, depth = self.frames.write(now, then, self._ended(step))
        return torch.stack([torch.arange(len(position)), position, depth], -1)

    def _forget_overwritten(self) -> None:
        """Drop the time steps of which a lane's oldest frame is overwritten; they are the oldest."""
        sampler = self._sampler
        if not sampler.num_written:
            return
        frame = stored(self._storage, FRAME)
        if not bool(self._lives(frame[sampler.oldest])):
            sampler.drop_oldest(int((~self._lives(frame[self._rows()])).sum()))

    def _lives(self, frame: Tensor) -> Tensor:
        """Return for records [..., L, 3] whether all lanes' frames are there, bool [...]."""
        _, position, depth = frame.unbind(-1)
        return self.frames.lives(position, depth).all(-1)

    def mark_newest_truncated(self, lanes: Tensor | None = None) -> None:
        """Set truncated and done in these lanes' newest records; the next step may then begin anywhere."""
        super().mark_newest_truncated(lanes)
        self.frames.end_episodes(lanes)

    def empty(self, *arguments: Any, **options: Any) -> None:
        """Forget all records and frames."""
        super().empty(*arguments, **options)
        self.frames.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return what :class:`WindowReplayBuffer` returns, and the frames."""
        return {**super().state_dict(), "frames": self.frames.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Replace the contents, see :class:`WindowReplayBuffer`.

        Raises:
            InputError: the state does not fit, has no images, or was saved with another ``frame_stack``. Then
                nothing has changed.
        """
        self._check_state(state_dict)
        self.frames.check_state(state_dict["frames"])
        super().load_state_dict(state_dict)
        self.frames.load_state_dict(state_dict["frames"])
        self._forget_overwritten()
