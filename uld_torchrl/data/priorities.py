"""Drawing indices in proportion to priorities, at a cost that hardly depends on how many there are.

Two levels: the priorities, and the sums of blocks of 64. A draw finds its block in the cumulative
sum of the block sums, then its place in the cumulative sum of that one block. Block sums are summed
afresh from the block whenever one of its priorities changes, so they cannot drift.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64
"""Priorities in a block; for 256 draws among 1e4 to 1e6 entries 512 would cost three times as much."""


class PrioritySum:
    """Non-negative priorities [size] in float64, drawn in proportion to their value.

    Differs from a sum tree in: 1. two levels instead of log2(size); 2. every operation takes a
    batch; 3. an index of priority zero is never drawn, whatever the rounding.

    Args:
        size: how many priorities there are; all start at zero.
        device: where they live.

    Example:
        >>> import torch
        >>> from uld_torchrl.data import PrioritySum
        >>> priorities = PrioritySum(4)
        >>> priorities.assign(torch.tensor([1, 3]), torch.tensor([1.0, 3.0]))
        >>> priorities.locate(torch.tensor([0.0, 0.24, 0.26, 0.99])).tolist()
        [1, 1, 3, 3]
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        num_blocks = -(-size // BLOCK)
        self.size = size
        self._blocks = torch.zeros(num_blocks, BLOCK, dtype=torch.float64, device=device)
        self._sums = torch.zeros(num_blocks, dtype=torch.float64, device=device)

    @property
    def values(self) -> Tensor:
        """The priorities [size]; a view, to be changed only through :meth:`assign`."""
        return self._blocks.view(-1)[: self.size]

    @property
    def total(self) -> Tensor:
        """The sum of all priorities, a 0-dim tensor."""
        return self._sums.sum()

    def assign(self, index: Tensor, values: Tensor) -> None:
        """Set the priorities at ``index`` [N] to ``values`` [N]; of duplicates the largest counts."""
        flat = self._blocks.view(-1)
        flat.scatter_reduce_(0, index, values.to(flat.dtype), "amax", include_self=False)
        blocks = index // BLOCK
        self._sums[blocks] = self._blocks[blocks].sum(-1)

    def assign_range(self, first: int, values: Tensor) -> None:
        """Set the priorities from index ``first`` on to ``values`` [N], in order, without wrapping."""
        end = first + len(values)
        self._blocks.view(-1)[first:end] = values
        touched = slice(first // BLOCK, -(-end // BLOCK))
        self._sums[touched] = self._blocks[touched].sum(-1)

    def clear(self) -> None:
        """Set all priorities to zero."""
        self._blocks.zero_()
        self._sums.zero_()

    def locate(self, u: Tensor, first: int = 0) -> Tensor:
        """Map ``u`` [N] in [0, 1) to indices [N]: the inverse of the cumulative distribution.

        The priorities are laid end to end starting at index ``first`` and wrapping round; the index
        that covers the fraction ``u`` of their total is returned. At least one must be positive.
        """
        ends = self._ends()
        total = ends[-1]
        mass = u.to(ends.dtype) * total + self._mass_before(first, ends)
        mass = _below(torch.where(mass >= total, mass - total, mass), total)
        block = torch.searchsorted(ends, mass, right=True)
        starts = torch.cat([ends.new_zeros(1), ends])
        return block * BLOCK + _locate_in_rows(self._blocks[block], mass - starts[block])

    def _ends(self) -> Tensor:
        # Where a block is empty, its end is that of the block before it, to the last bit (a parallel
        # cumulative sum does not promise it): the search can then never stop at an empty block.
        ends = torch.where(self._sums > 0, self._sums.cumsum(0), 0.0)
        return ends.cummax(0).values

    def _mass_before(self, index: int, ends: Tensor) -> Tensor:
        block = index // BLOCK
        before = ends[block - 1] if block else ends.new_zeros(())
        return before + self._blocks[block, : index % BLOCK].sum()


def _below(mass: Tensor, total: Tensor) -> Tensor:
    return torch.minimum(mass, torch.nextafter(total, torch.zeros_like(total)))


def _locate_in_rows(rows: Tensor, mass: Tensor) -> Tensor:
    ends = rows.cumsum(-1)
    place = torch.searchsorted(ends, _below(mass, ends[:, -1]).unsqueeze(-1), right=True)
    # Only the rounding of a parallel cumulative sum leads to an empty place: take the row's largest then.
    place = place.clamp(max=BLOCK - 1)
    empty = rows.gather(-1, place) <= 0
    return torch.where(empty, rows.argmax(-1, keepdim=True), place).squeeze(-1)
