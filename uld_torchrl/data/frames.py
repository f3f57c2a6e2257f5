r"""Frames of image observations, each stored once; stacks are views built when a window is drawn.

An episode of T steps is T + 1 consecutive frames of its lane's ring. A record keeps two numbers: the
absolute ``position`` of its newest frame, and its ``depth``, how many older frames of its stack belong to
the episode, so that its stack is the frames ``max(position - j, position - depth)``, j = k - 1, ..., 0,
and its next stack the same one frame later. The terminal frame is a frame like any other.

Which records there are, and which of them are drawn, is the buffer's and the sampler's part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tensordict import MemoryMappedTensor
from torch import Tensor

from uld_torchrl.data.room import allocate
from uld_torchrl.errors import InputError

SPARE = 64
"""One frame in so many is kept free for the first frames of episodes."""


class FrameStore:
    """A ring of uint8 frames in each lane.

    It holds the frames of ``steps`` records if episodes are 64 steps long or longer on average; with
    shorter ones, the frames of fewer records: :meth:`lives` says which are left.

    Args:
        steps: records that each lane holds.
        num_lanes: lanes.
        stack: frames k in an observation.
        device: where the frames live.
        path: a file to map the frames into; None keeps them in memory.

    Raises:
        InputError: ``stack`` is not at least one.

    Example:
        >>> store = FrameStore(steps=100, num_lanes=1, stack=2)
        >>> first = torch.zeros(1, 2, 8, 8, dtype=torch.uint8)
        >>> after = torch.cat([first[:, 1:], first[:, 1:] + 7], 1)
        >>> position, depth = store.write(first, after, torch.tensor([False]))
        >>> position.tolist(), depth.tolist()
        ([0], [0])
        >>> now, then = store.windows(torch.tensor([0]), position, depth, torch.tensor([1]), horizon=1)
        >>> torch.equal(now[:, 0], first), torch.equal(then[:, 0], after)
        (True, True)
    """

    def __init__(
        self,
        steps: int,
        num_lanes: int,
        stack: int,
        *,
        device: torch.device | str = "cpu",
        path: Path | None = None,
    ) -> None:
        if stack < 1:
            raise InputError(f"frame_stack must be at least 1, got {stack}.")
        self.num_lanes, self.stack, self.device, self.path = num_lanes, stack, torch.device(device), path
        self.length = frames_for(steps, stack)
        self._frames: Tensor | None = None
        self.clear()

    def clear(self) -> None:
        """Forget all frames; the memory is kept."""
        self._head = torch.zeros(self.num_lanes, dtype=torch.long)
        self._reach = self._head.clone()  # one past the newest frame that was ever written
        self._depth = torch.zeros(self.num_lanes, dtype=torch.long)
        self._ended = torch.ones(self.num_lanes, dtype=torch.bool)
        self._next: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the ring, 0 before the first write."""
        return 0 if self._frames is None else self._frames.nbytes

    def write(self, now: Tensor, then: Tensor, ended: Tensor) -> tuple[Tensor, Tensor]:
        """Store one step of every lane.

        Args:
            now: uint8 stacks [L, k C, h, w] before the step, oldest frame first.
            then: uint8 stacks [L, k C, h, w] after it.
            ended: bool [L], whether the episode ended with the step.

        Returns:
            Position and depth of the records, int64 [L] each.

        Raises:
            InputError: the stacks have another type or shape, ``then`` is not ``now`` moved on by one
                frame, or ``now`` is not what followed the lane's last step. Nothing is stored then.
        """
        self._check(now, then)
        self._allocate(now)
        begins = self._ended.clone()
        for lane in begins.nonzero().flatten().tolist():
            self._begin(lane, now[lane])
        self._depth = torch.where(begins, self._depth, (self._depth + 1).clamp(max=self.stack - 1))
        position = self._head - 1
        for lane, frame in enumerate(then[:, -self._channels :]):
            self._put(lane, frame)
        self._next, self._ended = then.clone(), ended.cpu().clone()
        return position, self._depth.clone()

    def _begin(self, lane: int, stack: Tensor) -> None:
        """Store the first frame, or all k of a recording that begins in the middle of an episode."""
        frames = stack.view(self.stack, self._channels, *stack.shape[1:])
        fresh = bool((frames == frames[-1]).all())
        frames = frames[-1:] if fresh else frames
        for frame in frames:
            self._put(lane, frame)
        self._depth[lane] = len(frames) - 1

    def _put(self, lane: int, frame: Tensor) -> None:
        # One copy a frame: indexed assignment to all lanes starts threads, which costs milliseconds.
        self._ring[lane, int(self._head[lane]) % self.length].copy_(frame)
        self._head[lane] += 1
        self._reach[lane] = max(self._reach[lane], self._head[lane])

    @property
    def _ring(self) -> Tensor:
        assert self._frames is not None
        return self._frames

    def _check(self, now: Tensor, then: Tensor) -> None:
        for name, stacks in (("pixels", now), ("next pixels", then)):
            self._check_stacks(name, stacks)
        wanted = now.shape if self._next is None else self._next.shape
        if not now.shape == then.shape == wanted:
            raise InputError(
                f"pixels must keep their shape: stacks of {tuple(wanted[1:])} came first, got "
                f"{tuple(now.shape[1:])} and {tuple(then.shape[1:])}."
            )
        channels = now.shape[1] // self.stack
        moved = (then[:, :-channels] == now[:, channels:]).flatten(1).all(1)
        if not bool(moved.all()):
            raise InputError(
                f"in lane {_first(~moved)}, next pixels are not pixels moved on by one frame of {channels} "
                "channel(s): frame_stack must be the number of frames in an observation, oldest first; got "
                f"frame_stack={self.stack}."
            )
        self._check_follows(now)

    def _check_stacks(self, name: str, stacks: Tensor) -> None:
        whole = stacks.ndim == 4 and len(stacks) == self.num_lanes and stacks.shape[1] % self.stack == 0
        if stacks.dtype != torch.uint8 or not whole:
            raise InputError(
                f"{name} must be uint8 stacks of {self.stack} frames, channels first: shape "
                f"[{self.num_lanes}, {self.stack} * channels, height, width]; got {stacks.dtype} of shape "
                f"{tuple(stacks.shape)}."
            )

    def _check_follows(self, now: Tensor) -> None:
        if self._next is None:
            return
        follows = (now == self._next.to(now.device)).flatten(1).all(1).cpu() | self._ended
        if not bool(follows.all()):
            raise InputError(
                f"in lane {_first(~follows)}, pixels are not the next pixels of the step before, which was "
                "not done: steps must be written in the order in which they were taken. Mark the last step "
                "of a recording as truncated."
            )

    def _allocate(self, stacks: Tensor) -> None:
        channels = stacks.shape[1] // self.stack
        shape = (self.num_lanes, self.length, channels, *stacks.shape[2:])
        if self._frames is not None and tuple(self._frames.shape) == shape:
            return
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        if self.path is None:
            self._frames = torch.empty(shape, dtype=torch.uint8, device=self.device)
        else:
            self._frames = MemoryMappedTensor.empty(shape, dtype=torch.uint8, filename=str(self.path))
            allocate(self.path.parent)

    @property
    def _channels(self) -> int:
        return int(self._ring.shape[2])

    def mark(self) -> dict[str, Any]:
        """Return where the lanes stand, for :meth:`rewind`."""
        places = {name: getattr(self, name).clone() for name in ("_head", "_depth", "_ended")}
        return {**places, "_next": self._next}

    def rewind(self, mark: dict[str, Any]) -> None:
        """Undo the writes since :meth:`mark`; what they have overwritten stays lost, see :meth:`lives`."""
        vars(self).update(mark)

    def end_episodes(self, lanes: Tensor | None = None) -> None:
        """Let the next step of these lanes (None: all) begin a new episode, as after a run that was cut."""
        self._ended |= torch.ones_like(self._ended) if lanes is None else lanes.to(self._ended)

    def lives(self, position: Tensor, depth: Tensor) -> Tensor:
        """Return whether the oldest frame of records [..., L] is still stored, bool [..., L]."""
        return position - depth >= (self._reach - self.length).to(position.device)

    def windows(
        self, lane: Tensor, position: Tensor, depth: Tensor, steps: Tensor, horizon: int
    ) -> tuple[Tensor, Tensor]:
        """Build the stacks of windows.

        Args:
            lane: [B].
            position: of the windows' first records, [B].
            depth: of the same, [B].
            steps: records of the window up to and including the first that ends an episode, [B].
            horizon: records H in a window.

        Returns:
            uint8 stacks [B, H, k C, h, w] before and after each step. They are views of the same
            [B, H + k, C, h, w] frames: copy before writing into them. After the end of an episode the
            last frame repeats.
        """
        offsets = torch.arange(-self.stack + 1, horizon + 1, device=self.device)
        first, last = (position - depth).unsqueeze(-1), (position + steps).unsqueeze(-1)
        wanted = torch.minimum(torch.maximum(position.unsqueeze(-1) + offsets, first), last)
        index = (lane.unsqueeze(-1) * self.length + wanted % self.length).flatten()
        frames = self._ring.flatten(0, 1).index_select(0, index)
        frames = frames.view(*wanted.shape, *self._ring.shape[2:])
        stacks = stack_view(frames, self.stack)
        return stacks[:, :-1], stacks[:, 1:]

    def state_dict(self) -> dict[str, Any]:
        """Return the ring of every lane and where the lanes stand.

        The rings are views, since a copy would need as much memory again: save them before the next write.
        """
        if self._frames is None or self._next is None:
            return {}
        used = int(self._head.max().clamp(max=self.length))
        return {
            "rings": {str(lane): ring[:used] for lane, ring in enumerate(self._frames)},
            "length": self.length,
            "head": self._head.clone(),
            "reach": self._reach.clone(),
            "depth": self._depth.clone(),
            "ended": self._ended.clone(),
            "next": self._next.cpu(),
            "stack": self.stack,
        }

    def check_state(self, state: dict[str, Any]) -> None:
        """Refuse a state of another kind.

        Raises:
            InputError: it is of another number of lanes, or of frames in a stack.
        """
        if state and len(state["head"]) != self.num_lanes:
            raise InputError(f"num_lanes must be {len(state['head'])}, as saved; got {self.num_lanes}.")
        if state and state["stack"] != self.stack:
            raise InputError(f"frame_stack must be {state['stack']}, as saved; got {self.stack}.")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the frames; of more than the ring holds, the newest.

        Raises:
            InputError: see :meth:`check_state`.
        """
        self.check_state(state)
        self.clear()
        if not state:
            return
        self._allocate(state["next"])
        self._next = state["next"].clone()
        self._head, self._depth = state["head"].clone(), state["depth"].clone()
        self._reach, self._ended = state["reach"].clone(), state["ended"].clone()
        for lane, head in enumerate(self._head.tolist()):
            self._load_ring(lane, head, state["rings"][str(lane)], int(state["length"]))

    def _load_ring(self, lane: int, head: int, saved: Tensor, length: int) -> None:
        if length == self.length:
            self._ring[lane, : len(saved)].copy_(saved)
            return
        for position in range(head - min(head, length, self.length), head):
            self._ring[lane, position % self.length].copy_(saved[position % length])


def frames_for(steps: int, stack: int) -> int:
    """Return the frames that a lane keeps for so many records.

    Example:
        >>> frames_for(6400, stack=4)
        6532
    """
    return steps + steps // SPARE + 8 * stack


def stack_view(frames: Tensor, stack: int) -> Tensor:
    """Return all stacks of ``stack`` consecutive frames, oldest first, without copying.

    Args:
        frames: [B, W, C, h, w], contiguous.
        stack: frames k in a stack.

    Returns:
        [B, W - k + 1, k C, h, w]; neighbours share memory.

    Example:
        >>> stack_view(torch.arange(3).view(1, 3, 1, 1, 1), 2).flatten(2)
        tensor([[[0, 1],
                 [1, 2]]])
    """
    batch, width, channels, *size = frames.shape
    outer, inner, plane, *rest = frames.stride()
    shape = (batch, width - stack + 1, stack * channels, *size)
    return frames.as_strided(shape, (outer, inner, plane, *rest), frames.storage_offset())


def _first(flags: Tensor) -> int:
    return int(flags.nonzero()[0, 0])
