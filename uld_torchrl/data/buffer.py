"""The replay buffer: TorchRL's, written in time steps of all lanes and sampled in windows.

Here are also what it takes to save and restore it by its records instead of by its memory, and the
mean reward that sets the loss's scale. Rules and priorities are the sampler's, windows the unit's,
images are in ``pixels``, and ``make`` puts the parts together.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer, TensorDictReplayBuffer

from uld_torchrl.data.keys import ReplayKeys, stored
from uld_torchrl.data.sampler import SubTrajectorySampler
from uld_torchrl.data.windows import HorizonWindow
from uld_torchrl.errors import InputError


class WindowReplayBuffer(TensorDictReplayBuffer):
    """A :class:`~torchrl.data.TensorDictReplayBuffer` of time steps, sampled in windows.

    Differs from it in: 1. :meth:`add` takes one time step of all lanes and :meth:`extend` takes
    [num_lanes, T] (TorchRL 0.14 writes the records and then fails, if T or num_lanes is 1);
    2. only the entries in ``keys`` are stored; 3. :meth:`state_dict` holds the records in the order
    they were written and fits larger buffers too. See :func:`make_replay_buffer`.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from uld_torchrl.data import make_replay_buffer
        >>> rb = make_replay_buffer(capacity=100, num_lanes=2, horizon=3, batch_size=4)
        >>> no = torch.zeros(2, 6, 1, dtype=torch.bool)
        >>> flags = {"terminated": no, "truncated": no, "done": no}
        >>> after = {"observation": torch.rand(2, 6, 3), "reward": torch.ones(2, 6, 1), **flags}
        >>> steps = {"observation": torch.rand(2, 6, 3), "action": torch.rand(2, 6, 1), "next": after}
        >>> _ = rb.extend(TensorDict(steps, batch_size=[2, 6]))
        >>> batch = rb.sample()
        >>> batch.shape, batch["observation"].shape
        (torch.Size([4, 3]), torch.Size([4, 3, 3]))
        >>> rb.sample(steps=2).shape
        torch.Size([4, 2])
        >>> rb.update_priority(batch["anchor_index"], torch.rand(4))
        >>> rb.mean_abs_reward()
        tensor(1.)
    """

    _sampler: SubTrajectorySampler
    _sample_unit: HorizonWindow
    _holds = "vectors"

    def add(self, data: TensorDictBase) -> Tensor:
        """Write one time step of all lanes, a tensordict [num_lanes].

        Returns:
            The storage coordinates (time, lane) of the records, [num_lanes, 2].

        Raises:
            InputError: the batch size is another one, or an entry is missing.
        """
        if len(self._transform):
            return self.extend(data.unsqueeze(-1))
        return self._add(self._selected(data, (self._sampler.num_lanes,)))

    def extend(self, tensordicts: TensorDictBase, *, update_priority: bool | None = None) -> Tensor:
        """Write T time steps of all lanes, a tensordict [num_lanes, T].

        If T exceeds what a lane holds, the last steps remain; TorchRL writes them in no fixed order
        where the tensors are large, so split such data.

        Returns:
            The storage coordinates (time, lane) of the records, time by time, [T * num_lanes, 2].

        Raises:
            InputError: the batch size is another one, or an entry is missing.
        """
        lanes = self._sampler.num_lanes
        steps = tensordicts.shape[1] if tensordicts.ndim > 1 else -1
        return ReplayBuffer.extend(self, self._selected(tensordicts, (lanes, steps)))

    def sample(
        self,
        batch_size: int | None = None,
        return_info: bool = False,
        include_info: bool | None = None,
        *,
        steps: int | None = None,
    ) -> Any:
        """Draw windows, a tensordict [batch_size, horizon], or with ``steps`` only the beginnings of them.

        Args:
            batch_size: windows; default: the buffer's.
            return_info: return (windows, what is known of them).
            include_info: TorchRL's former name of it.
            steps: of each window only the first so many steps are gathered. The windows are those that would
                have been drawn without it.

        Raises:
            InputError: no window can be drawn, or ``steps`` does not lie in 1 ... horizon.
        """
        unit = self._sample_unit
        if steps is None:
            return super().sample(batch_size, return_info, include_info)
        if not 1 <= steps <= unit.horizon or self._prefetch:
            raise InputError(
                f"steps must lie in 1 ... horizon ({unit.horizon}), and needs a buffer without prefetch; "
                f"got {steps}."
            )
        unit.steps = steps
        try:
            return super().sample(batch_size, return_info, include_info)
        finally:
            unit.steps = unit.horizon

    def _selected(self, data: TensorDictBase, shape: tuple[int, ...]) -> TensorDictBase:
        """Return what is stored of the data."""
        records = self._checked(data, shape, self._sampler.keys)
        self._check_shapes(records)
        return records

    def _check_shapes(self, records: TensorDictBase) -> None:
        """Refuse entries of another shape before the writer moves on; it would stay ahead of the records."""
        if not self._sampler.num_written:
            return
        for key, entry in records.items(True, True):
            wanted, given = stored(self._storage, key).shape[2:], entry.shape[records.ndim :]
            if given != wanted:
                raise InputError(
                    f"{key!r} must have the shape {tuple(wanted)} as before, got {tuple(given)}."
                )

    @staticmethod
    def _checked(data: TensorDictBase, shape: tuple[int, ...], keys: ReplayKeys) -> TensorDictBase:
        if tuple(data.shape) != shape:
            wanted = "[num_lanes] for add, [num_lanes, T] for extend"
            raise InputError(
                f"data must have the batch size {wanted} with num_lanes = {shape[0]}, got {list(data.shape)}."
            )
        try:
            # Without the graph of what made it, which the storage would keep, and losses go back through.
            return data.select(*keys.stored).detach()
        except KeyError as error:
            raise InputError(
                f"data lacks an entry that the replay buffer stores: {error.args[0]} "
                "Name the entries with ReplayKeys."
            ) from error

    def mean_abs_reward(self) -> Tensor:
        """Return the mean of |reward| over all written records, a 0-dim tensor on the storage's device.

        NaN and infinities are left out: one would spoil the scale of all losses.

        Raises:
            InputError: the buffer is empty.
        """
        if not self._sampler.num_written:
            raise InputError("mean_abs_reward needs at least one record, the replay buffer is empty.")
        rewards = self._written(self._sampler.keys.reward).abs()
        mean = rewards.mean()
        return mean if bool(mean.isfinite()) else rewards[rewards.isfinite()].mean()

    def has_termination(self) -> bool:
        """Return whether any written record ends in a terminal state; waits for the device."""
        return bool(self._written(self._sampler.keys.terminated).any())

    def _written(self, key: NestedKey) -> Tensor:
        """Return an entry of all written records [num_written, num_lanes, ...], in the ring's order."""
        entry, sampler = stored(self._storage, key), self._sampler
        start, end = sampler.oldest, sampler.oldest + sampler.num_written
        over = end - sampler.ring_length
        if over <= 0:
            return entry[start:end]
        return entry if over == start else torch.cat([entry[:over], entry[start:]])

    def mark_newest_truncated(self, lanes: Tensor | None = None) -> None:
        """Set truncated and done in each lane's newest record, unless it is terminated.

        For a run that goes on without the environment's state: no window then runs over the seam.

        Args:
            lanes: bool [num_lanes], of which lanes; None: of all.
        """
        if not self._sampler.num_written:
            return
        keys, newest = self._sampler.keys, self._sampler.head - 1
        goes_on = ~stored(self._storage, keys.terminated)[newest]
        if lanes is not None:
            goes_on &= lanes.to(goes_on.device).unsqueeze(-1)
        for key in (keys.truncated, keys.done):
            stored(self._storage, key)[newest].logical_or_(goes_on)

    def state_dict(self) -> dict[str, Any]:
        """Return the written records [T, num_lanes, ...], oldest first, their priorities and the maximum.

        Tensors (copies) and plain values only. The generator's state is included if the buffer has
        one of its own. Nothing here depends on the capacity but ``head``, the position in the ring.
        """
        sampler, rows = self._sampler, self._rows()
        records = self._storage._storage[rows].to_dict() if len(rows) else {}
        return {
            "records": records,
            "priorities": sampler.priorities[rows],
            "max_priority": sampler.max_priority.clone(),
            "horizon": sampler.horizon,
            "head": sampler.head,
            "ring_length": sampler.ring_length,
            "write_count": self.write_count,
            "rng": None if self._rng is None else self._rng.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Replace the contents by those of a buffer of at most this capacity, and go on drawing the same.

        Legality is worked out anew from the records. In a ring of the same length each record returns to
        its place and all later draws are the same to the last bit; in a longer one they are the same
        records (but for draws within rounding of the border between two).

        Raises:
            InputError: the state has more records, other lanes or another horizon, or is damaged.
        """
        steps = self._check_state(state_dict)
        same_ring = state_dict["ring_length"] == self._sampler.ring_length
        start = (state_dict["head"] - steps) % self._sampler.ring_length if same_ring else 0
        self.empty()
        if steps:
            self._writer.load_state_dict(
                {"_cursor": start, "_write_count": state_dict["write_count"] - steps}
            )
            self._sampler.seek(start)
            lanes = self._sampler.num_lanes
            records = TensorDict(state_dict["records"], batch_size=[steps, lanes])
            ReplayBuffer.extend(self, records.transpose(0, 1))
        self._sampler.load_priorities(state_dict["priorities"], state_dict["max_priority"])
        if state_dict["rng"] is not None and self._rng is not None:
            self._rng.set_state(state_dict["rng"].cpu())

    def _rows(self) -> Tensor:
        sampler = self._sampler
        steps = torch.arange(sampler.num_written, device=sampler.max_priority.device)
        return (sampler.oldest + steps) % sampler.ring_length

    def _check_state(self, state_dict: dict[str, Any]) -> int:
        sampler, saved = self._sampler, "images" if "frames" in state_dict else "vectors"
        if saved != self._holds:
            raise InputError(f"the saved replay buffer holds {saved}, this one takes {self._holds}.")
        steps, lanes = state_dict["priorities"].shape
        if lanes != sampler.num_lanes:
            raise InputError(f"num_lanes must be {lanes}, as in the saved buffer; got {sampler.num_lanes}.")
        if state_dict["horizon"] != sampler.horizon:
            wanted = state_dict["horizon"]
            raise InputError(f"horizon must be {wanted}, as in the saved buffer; got {sampler.horizon}.")
        if steps > sampler.ring_length:
            raise InputError(
                f"capacity must be at least {steps * lanes} to hold the saved replay buffer, "
                f"got {sampler.ring_length * lanes}."
            )
        return int(steps)
