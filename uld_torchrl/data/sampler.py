"""Which windows may be drawn, and how often: legality of anchors and LAP priorities.

A window is H consecutive records of one lane, named by its first record, the anchor. It is legal if
its records are all written, in write order (it never passes the write head), and if the first
ending inside it is a termination, or a truncation in its very last record, or if there is none. So a
window may run on past a termination, whose later steps are masked, but never past a truncation.

LAP (arXiv 2007.06049): priority max(td_error, min_priority) ** alpha; a new anchor gets the largest
priority seen so far. What a window consists of is in :mod:`uld_torchrl.data.windows`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import TensorStorage
from torchrl.data.replay_buffers.samplers import Sampler

from uld_torchrl.data.keys import ReplayKeys, stored
from uld_torchrl.data.priorities import PrioritySum, check_fade, faded
from uld_torchrl.errors import InputError


class SubTrajectorySampler(Sampler):
    """Draws anchors of windows of ``horizon`` records, in proportion to their LAP priority.

    For a :class:`~torchrl.data.TensorStorage` with ``ndim=2``: time, then lanes, one for each
    environment, written by a round-robin writer one time step of all lanes after the other.
    An anchor is legal if and only if its priority is above zero, so there is no second book to keep.
    A write looks at the records of the H - 1 time steps before it and at no others.

    Differs from TorchRL's ``PrioritizedSliceSampler`` in: 1. windows cross terminations; 2. all
    anchors are drawn by their own priority, not by trajectory; 3. stored flags are never changed;
    4. no importance weights.

    Args:
        ring_length: time steps that the storage holds in each lane.
        num_lanes: lanes of the storage.
        horizon: records H in a window.
        alpha: exponent of the priorities; 0 draws all windows equally often.
        min_priority: TD errors below this count as this.
        fade, fade_floor: factor on the priority for each agent step of age, when drawing, and its least.
        keys: names of the stored entries.
        device: where the priorities live; best the storage's device.

    Raises:
        InputError: an argument is out of its range.

    Example:
        >>> import torch
        >>> from torchrl.data import LazyTensorStorage
        >>> from uld_torchrl.data import HorizonWindow, SubTrajectorySampler, WindowReplayBuffer
        >>> rb = WindowReplayBuffer(
        ...     storage=LazyTensorStorage(100, ndim=2),
        ...     sampler=SubTrajectorySampler(100, 1, horizon=3),
        ...     sample_unit=HorizonWindow(3),
        ...     batch_size=4,
        ... )
        >>> rb.can_sample()
        False
    """

    def __init__(
        self,
        ring_length: int,
        num_lanes: int = 1,
        horizon: int = 5,
        *,
        alpha: float = 0.4,
        min_priority: float = 1.0,
        fade: float = 1.0,
        fade_floor: float = 0.1,
        keys: ReplayKeys | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_arguments(ring_length, num_lanes, horizon, alpha, min_priority)
        check_fade(fade, fade_floor)
        self.ring_length = ring_length
        self.num_lanes = num_lanes
        self.horizon = horizon
        self.alpha = alpha
        self.min_priority = min_priority
        self.fade, self.fade_floor = fade, fade_floor
        self.keys = keys or ReplayKeys()
        self._clock = torch.zeros((), dtype=torch.long, device=device)
        self._priorities = PrioritySum(ring_length * num_lanes, device)
        self._max_priority = torch.full((), min_priority**alpha, dtype=torch.float64, device=device)
        self.waits = self._max_priority.device.type == "cpu"
        """Whether drawing and setting priorities may look at values, which an accelerator would wait for."""
        self._empty()

    def _empty(self) -> None:
        self._move_head(0)
        self._written = 0
        self._drawable = False
        self._priorities.clear()
        self._max_priority.fill_(self.min_priority**self.alpha)

    def _move_head(self, head: int) -> None:
        self._head = head
        if self.fade < 1:
            self._clock.fill_(head)  # where a CUDA graph reads it anew

    @property
    def num_written(self) -> int:
        """Time steps that hold records, in each lane."""
        return self._written

    @property
    def head(self) -> int:
        """Time step in the ring that is written next."""
        return self._head

    @property
    def oldest(self) -> int:
        """Time step in the ring of the oldest record."""
        return (self._head - self._written) % self.ring_length

    @property
    def priorities(self) -> Tensor:
        """Priorities [ring_length, num_lanes], zero where no legal window begins; a view."""
        return self._priorities.values.view(self.ring_length, self.num_lanes)

    @property
    def max_priority(self) -> Tensor:
        """The largest priority seen so far, which new anchors get; a 0-dim tensor."""
        return self._max_priority

    def sample(self, storage: TensorStorage, batch_size: int) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
        """Draw anchors (time [B], lane [B]) with replacement.

        Raises:
            InputError: the storage holds no legal window.
        """
        if not self.can_sample(storage, batch_size):
            raise InputError(
                f"no window of horizon {self.horizon} can be drawn: the replay buffer holds {self._written} "
                f"time steps in each of its {self.num_lanes} lane(s); at least {self.horizon} consecutive "
                "ones without a truncation before the last are needed. Collect more steps first."
            )
        if self.fade < 1:
            anchor = faded(self._draw, self._accepted, batch_size, waits=self.waits)
        else:
            anchor = self._draw(batch_size)
        return (anchor // self.num_lanes, anchor % self.num_lanes), {}

    def _uniform(self, count: int) -> Tensor:
        device = self._max_priority.device if self._rng is None else self._rng.device
        u = torch.rand(count, dtype=torch.float64, device=device, generator=self._rng)
        return u.to(self._max_priority.device)

    def _draw(self, count: int) -> Tensor:
        # From the oldest record on: a buffer restored into a larger ring draws the same records. Not where a
        # CUDA graph may record it, which would keep this number.
        first = self.oldest * self.num_lanes if self.waits else 0
        return self._priorities.locate(self._uniform(count), first)

    def _accepted(self, anchor: Tensor) -> Tensor:
        """Accept with the chance max(fade ** age, fade_floor), the age in agent steps."""
        age = (self._clock - 1 - anchor // self.num_lanes) % self.ring_length * self.num_lanes
        return self._uniform(len(anchor)) < (self.fade ** age.double()).clamp(min=self.fade_floor)

    def can_sample(self, storage: TensorStorage, batch_size: int) -> bool:
        """Return whether at least one legal window is stored; waits for the device once a write."""
        if not self._drawable:
            self._drawable = bool(self._priorities.total > 0)
        return self._drawable

    def mark_update(self, index: int | Tensor, *, storage: TensorStorage | None = None) -> None:
        """Take note of records just written at ``index`` [N, 2] (time, lane); the writer calls this.

        Raises:
            InputError: the storage has another shape, or the records do not follow the last ones.
        """
        steps = self._steps_written(index, storage)
        self._move_head((self._head + steps) % self.ring_length)
        self._written = min(self._written + steps, self.ring_length)
        # Anchors of the H - 1 steps before were waiting for these records, all others were decided.
        self._decide(min(steps + self.horizon - 1, self._written), storage)
        self._drawable = False

    def drop_oldest(self, steps: int) -> None:
        """Forget the oldest ``steps`` time steps, as if the ring were that much shorter for now."""
        zeros = torch.zeros(steps, self.num_lanes, dtype=torch.float64, device=self._max_priority.device)
        self._assign(self._head - self._written, zeros)
        self._written, self._drawable = self._written - steps, False

    def _steps_written(self, index: int | Tensor, storage: TensorStorage | None) -> int:
        shape = (self.ring_length, self.num_lanes)
        if storage is None or storage.ndim != 2 or tuple(storage._total_shape) != shape:
            found = "none" if storage is None else f"ndim={storage.ndim}, shape {tuple(storage._total_shape)}"
            raise InputError(f"storage must have ndim=2 and hold {shape} (time, lanes) records, got {found}.")
        index = torch.as_tensor(index)
        # Looking at the index would wait for an accelerator; there the writer is trusted.
        if index.device.type == "cpu" and (time := int(index[0, 0])) != self._head:
            raise InputError(
                f"records must be written in ring order, next to time step {self._head}; "
                f"got time step {time}. Use a round-robin writer, and the buffer's own methods."
            )
        return index.numel() // (2 * self.num_lanes)

    def _decide(self, steps: int, storage: TensorStorage) -> None:
        """Set the priorities of the newest ``steps`` time steps to the maximum where legal, else to zero."""
        terminated, truncated, done = (
            self._newest(stored(storage, key), steps)
            for key in (self.keys.terminated, self.keys.truncated, self.keys.done)
        )
        legal = legal_anchors(terminated, terminated | truncated | done, self.horizon)
        self._assign_newest(legal * self._max_priority)

    def _newest(self, entry: Tensor, steps: int) -> Tensor:
        """Return the newest ``steps`` time steps of an entry [ring_length, L, 1] as [steps, L], in order."""
        start = self._head - steps
        newest = entry[start : self._head] if start >= 0 else torch.cat([entry[start:], entry[: self._head]])
        return newest.view(steps, self.num_lanes)

    def _assign_newest(self, priorities: Tensor) -> None:
        """Set the priorities of the newest time steps, [steps, L]."""
        self._assign(self._head - len(priorities), priorities)

    def _assign(self, start: int, priorities: Tensor) -> None:
        """Set the priorities [steps, L] of the time steps from ``start`` on, which may be negative."""
        before = max(-start, 0)
        if before:
            self._priorities.assign_range(
                (self.ring_length - before) * self.num_lanes, priorities[:before].reshape(-1)
            )
        if before < len(priorities):
            self._priorities.assign_range(max(start, 0) * self.num_lanes, priorities[before:].reshape(-1))

    def update_priority(self, index: Any, priority: Any, *, storage: TensorStorage | None = None) -> None:
        """Set the priorities of drawn anchors to ``max(td_error, min_priority) ** alpha``.

        Anchors overwritten since they were drawn are left alone until another window begins there.
        If an anchor occurs twice its largest error counts. On an accelerator nothing is refused, which would
        make it wait: errors that are not finite or negative change nothing there.

        Args:
            index: anchors [B, 2] as (time, lane), or a sample's ``anchor_index`` [B, H, 2].
            priority: absolute TD errors [B] or [B, 1].
            storage: not used.

        Raises:
            InputError: the shapes do not fit, or (on a CPU) a value is not finite, negative or out of range.
                Then no priority has changed.
        """
        anchor, td_error, good = self._checked(torch.as_tensor(index), torch.as_tensor(priority))
        if anchor.numel() == 0:
            return
        before = self._priorities.values[anchor]
        value = td_error.clamp(min=self.min_priority).pow(self.alpha)
        value = torch.where((before > 0) & good, value, before)
        self._priorities.assign(anchor, value)
        self._max_priority.copy_(torch.maximum(self._max_priority, value.max()))

    def _checked(self, index: Tensor, td_error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return anchors [B] in the flat order, errors [B] in float64, and which of these are good."""
        device = self._max_priority.device
        if index.ndim == 3:
            index = index[:, 0]
        if index.ndim != 2 or index.shape[-1] != 2 or index.is_floating_point() or index.dtype == torch.bool:
            raise InputError(
                "index must hold integer (time, lane) coordinates of shape [B, 2] or [B, H, 2], such as a "
                f"sample's anchor_index; got shape {tuple(index.shape)} of {index.dtype}."
            )
        if td_error.numel() != len(index) or td_error.ndim > 2:
            raise InputError(
                f"td_error must hold one value for each of the {len(index)} anchors, shape [B] or [B, 1]; "
                f"got shape {tuple(td_error.shape)}."
            )
        td_error = td_error.detach().to(device, torch.float64).reshape(-1)
        time, lane = index.to(device, torch.long).unbind(-1)
        inside = (time >= 0) & (time < self.ring_length) & (lane >= 0) & (lane < self.num_lanes)
        good = (td_error >= 0) & torch.isfinite(td_error)
        if self.waits and not bool((inside & good).all()):
            self._refuse(inside, good, td_error)
        return time * self.num_lanes + lane, td_error, good

    def _refuse(self, inside: Tensor, good: Tensor, td_error: Tensor) -> None:
        if bool(good.all()):
            raise InputError(
                f"index holds {int((~inside).sum())} anchors outside the storage; time must lie in "
                f"[0, {self.ring_length}) and lane in [0, {self.num_lanes})."
            )
        bad = td_error[~good]
        raise InputError(
            f"td_error must be finite and not negative, got {bad[0].item()} ({len(bad)} of {len(td_error)} "
            "values). Absolute TD errors are expected; NaN or infinity means that training has diverged."
        )

    def load_priorities(self, priorities: Tensor, max_priority: Tensor) -> None:
        """Give the written records [num_written, num_lanes], oldest first, the priorities they once had.

        Raises:
            InputError: they belong to other windows: zero where an anchor is legal, or the reverse.
        """
        mine = self._newest(self.priorities, self._written)
        saved = priorities.to(mine.device)
        if saved.shape != mine.shape or not torch.equal(saved > 0, mine > 0):
            raise InputError("the saved priorities do not fit the saved records; the state is damaged.")
        self._assign_newest(saved)
        self._max_priority.copy_(max_priority)

    def seek(self, head: int) -> None:
        """Let an empty ring be written from time step ``head`` on; the writer must be told as well."""
        if self._written:
            raise InputError(
                f"the sampler must be empty to move its head, it holds {self._written} time steps."
            )
        self._move_head(head)

    def state_dict(self) -> dict[str, Any]:
        """Return all priorities [ring_length, num_lanes] and the ring's position, for the same storage."""
        return {
            "priorities": self.priorities.clone(),
            "max_priority": self._max_priority.clone(),
            "head": self._head,
            "written": self._written,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of a sampler of the same shape.

        Raises:
            InputError: the shape is another one.
        """
        priorities = state_dict["priorities"]
        if priorities.shape != self.priorities.shape:
            raise InputError(
                f"priorities must have the shape {tuple(self.priorities.shape)} (time, lanes), "
                f"got {tuple(priorities.shape)}."
            )
        self._priorities.assign_range(0, priorities.reshape(-1))
        self._max_priority.copy_(state_dict["max_priority"])
        self._move_head(int(state_dict["head"]))
        self._written = int(state_dict["written"])
        self._drawable = False

    def dumps(self, path: str | Path) -> None:
        """Write the state to the directory ``path``, as memory-mapped tensors."""
        state = {key: torch.as_tensor(value) for key, value in self.state_dict().items()}
        TensorDict(state, batch_size=[]).cpu().memmap(str(path))

    def loads(self, path: str | Path) -> None:
        """Read what :meth:`dumps` has written."""
        self.load_state_dict(dict(TensorDict.load_memmap(str(path), allow_pickle=False).items()))


def legal_anchors(terminated: Tensor, ended: Tensor, horizon: int) -> Tensor:
    """Return which of the consecutive records [T, L] begin a legal window inside these records.

    Args:
        terminated: whether the task ended with the record, [T, L].
        ended: whether it was terminated or truncated, [T, L].
        horizon: records H in a window; the last H - 1 records begin none.

    Returns:
        bool [T, L].

    Example:
        >>> import torch
        >>> truncated = torch.tensor([[False], [True], [False], [False]])
        >>> legal_anchors(torch.zeros(4, 1, dtype=torch.bool), truncated, horizon=2)[:, 0].tolist()
        [True, False, True, False]
    """
    legal = torch.zeros_like(ended)
    anchors = len(ended) - horizon + 1
    if anchors <= 0:
        return legal
    if horizon == 1:
        return ~legal
    # Of the records before a window's last the first that ended decides; argmax finds it, or record 0.
    before_last = ended[:-1].unfold(0, horizon - 1, 1)
    first = before_last.to(torch.uint8).argmax(-1, keepdim=True)
    cut = (ended & ~terminated)[:-1].unfold(0, horizon - 1, 1)
    legal[:anchors] = ~cut.gather(-1, first).squeeze(-1)
    return legal


def _check_arguments(
    ring_length: int, num_lanes: int, horizon: int, alpha: float, min_priority: float
) -> None:
    if horizon < 1:
        raise InputError(f"horizon must be at least 1, got {horizon}.")
    if num_lanes < 1:
        raise InputError(f"num_lanes must be at least 1, got {num_lanes}.")
    if ring_length <= horizon:
        raise InputError(
            f"the replay buffer must hold more than horizon ({horizon}) time steps in each of its "
            f"{num_lanes} lane(s), got {ring_length}. Raise capacity to at least {num_lanes * (horizon + 1)}."
        )
    if not 0 <= alpha < float("inf"):
        raise InputError(f"alpha must be finite and not negative, got {alpha}.")
    if not 0 < min_priority < float("inf"):
        raise InputError(f"min_priority must be finite and greater than zero, got {min_priority}.")
