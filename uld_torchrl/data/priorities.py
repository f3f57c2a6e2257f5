"""Drawing indices in proportion to priorities, at a cost that hardly depends on how many there are.

Three levels: the priorities, the sums of blocks of 64 of them, and the sums of 64 such sums. A draw finds its
place in the cumulative sum of the last level, then in that of one block in each level below. Sums are summed
afresh from their block whenever one of its entries changes, so they cannot drift. Nothing here waits for an
accelerator.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from uld_torchrl.errors import InputError

PROPOSALS = 128
"""Proposals for each draw where their number cannot depend on how many are accepted."""
BLOCK = 64
"""Entries in a block; of ten million priorities the last level has 2442, whose sum costs next to nothing."""


class PrioritySum:
    """Non-negative priorities [size] in float64, drawn in proportion to their value.

    Differs from a sum tree in: 1. three levels instead of log2(size); 2. every operation takes a
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
        self.size = size
        self.waits = torch.device(device).type == "cpu"
        """Whether drawing may look at values, which an accelerator would wait for."""
        top = -(-size // BLOCK**2)
        # In blocks; whoever looks for an entry flattens. The top's one block has no level above it.
        self._entries = torch.zeros(top * BLOCK, BLOCK, dtype=torch.float64, device=device)
        self._sums = torch.zeros(top, BLOCK, dtype=torch.float64, device=device)
        self._top = torch.zeros(1, top, dtype=torch.float64, device=device)

    @property
    def values(self) -> Tensor:
        """The priorities [size]; a view, to be changed only through :meth:`assign`."""
        return self._entries.view(-1)[: self.size]

    @property
    def total(self) -> Tensor:
        """The sum of all priorities, a 0-dim tensor."""
        return self._top.sum()

    @property
    def nbytes(self) -> int:
        """Bytes of all levels."""
        return self._entries.nbytes + self._sums.nbytes + self._top.nbytes

    def assign(self, index: Tensor, values: Tensor) -> None:
        """Set the priorities at ``index`` [N] to ``values`` [N]; of duplicates the largest counts."""
        flat = self._entries.view(-1)
        flat.scatter_reduce_(0, index, values.to(flat.dtype), "amax", include_self=False)
        for level, above in ((self._entries, self._sums), (self._sums, self._top)):
            index = index // BLOCK
            above.view(-1)[index] = level.index_select(0, index).sum(-1)

    def assign_range(self, first: int, values: Tensor) -> None:
        """Set the priorities from index ``first`` on to ``values`` [N], in order, without wrapping."""
        end = first + len(values)
        self._entries.view(-1)[first:end] = values
        for level, above in ((self._entries, self._sums), (self._sums, self._top)):
            first, end = first // BLOCK, -(-end // BLOCK)
            above.view(-1)[first:end] = level[first:end].sum(-1)

    def clear(self) -> None:
        """Set all priorities to zero."""
        for level in (self._entries, self._sums, self._top):
            level.zero_()

    def locate(self, u: Tensor, first: int = 0) -> Tensor:
        """Map ``u`` [N] in [0, 1) to indices [N]: the inverse of the cumulative distribution.

        The priorities are laid end to end starting at index ``first`` and wrapping round; the index
        that covers the fraction ``u`` of their total is returned. At least one must be positive.
        """
        ends = self._top.cumsum(-1)
        total = ends[0, -1]
        mass = u.to(ends.dtype) * total + self._mass_before(first, ends)
        mass = torch.where(mass >= total, mass - total, mass).unsqueeze(-1)
        if not self.waits:  # to ask whether care is needed would make it wait
            return self._descend(mass, ends, careful=True)
        index = self._descend(mass, ends, careful=False)
        if bool((self._entries.view(-1).index_select(0, index) > 0).all()):
            return index
        return self._descend(mass, ends, careful=True)

    def _mass_before(self, index: int, ends: Tensor) -> Tensor:
        before = ends.new_zeros(())
        for level in (self._entries, self._sums):
            block, place = divmod(index, BLOCK)
            if place:
                before = before + level[block, :place].sum()
            index = block
        return before + ends[0, index - 1] if index else before

    def _descend(self, mass: Tensor, ends: Tensor, careful: bool) -> Tensor:
        """Return the indices [N] at the masses [N, 1]; unless careful, some empty ones by rounding."""
        block = _place(self._top, ends, mass, careful)
        mass = mass - (ends - self._top).view(-1)[block]
        # index_select takes a third of the time of self._sums[...] where the level exceeds the caches.
        rows = self._sums.index_select(0, block.view(-1))
        ends = rows.cumsum(-1)
        place = _place(rows, ends, mass, careful)
        mass, block = mass - (ends - rows).gather(-1, place), block * BLOCK + place
        rows = self._entries.index_select(0, block.view(-1))
        return (block * BLOCK + _place(rows, rows.cumsum(-1), mass, careful)).view(-1)


def _place(rows: Tensor, ends: Tensor, mass: Tensor, careful: bool) -> Tensor:
    """Return where in its row a mass [N, 1] falls, [N, 1].

    Args:
        rows: [N, E], or [1, E] for all.
        ends: their cumulative sums.
        mass: in a row without rounding from zero to below its sum.
        careful: avoid empty entries, where rounding leads to one.
    """
    ends = ends.view(-1) if len(ends) == 1 else ends
    place = torch.searchsorted(ends, mass, right=True).clamp_(max=rows.shape[-1] - 1)
    if not careful:
        return place
    # The last positive entry up to that place, else the first one after it.
    number = torch.arange(rows.shape[-1], device=rows.device)
    before = torch.where((rows > 0) & (number <= place), number, -1).amax(-1, keepdim=True)
    after = torch.where(rows > 0, number, len(number) - 1).amin(-1, keepdim=True)
    return torch.where(before >= 0, before, after)


def faded(
    draw: Callable[[int], Tensor], accepted: Callable[[Tensor], Tensor], count: int, *, waits: bool
) -> Tensor:
    """Draw ``count`` indices by rejection: in proportion to priority times the chance of being accepted.

    Faded prioritised replay (DR.Q, arXiv 2605.11711): the chance, ``max(0.9999 ** age, 0.1)`` there, changes
    with every step, and so is worked out for what is drawn, and stored nowhere.

    Args:
        draw: gives that many indices, in proportion to their priorities.
        accepted: says by chance which indices [N] are taken, [N].
        count: how many indices.
        waits: draw until all are taken, which looks at values; else take the first accepted of 128 each, or
            where none is, which has a chance of 1e-6 if all are as old as can be, the first.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> found = faded(lambda n: torch.randint(3, (n,)), lambda index: index > 0, 100, waits=True)
        >>> sorted(set(found.tolist()))
        [1, 2]
    """
    if not waits:
        proposed = draw(PROPOSALS * count)
        first = accepted(proposed).view(PROPOSALS, count).to(torch.uint8).argmax(0, keepdim=True)
        return proposed.view(PROPOSALS, count).gather(0, first).view(-1)
    index = draw(count)
    left = (~accepted(index)).nonzero().view(-1)
    while len(left):
        index[left] = draw(len(left))
        left = left[~accepted(index[left])]
    return index


def check_fade(fade: float, fade_floor: float) -> None:
    """Refuse factors by which nearly nothing would be accepted.

    Raises:
        InputError: one is out of its range.

    Example:
        >>> check_fade(0.9999, 0.1)
    """
    for name, value, least in (("fade", fade, 0.5), ("fade_floor", fade_floor, 0.01)):
        if not least <= value <= 1:
            raise InputError(f"{name} must lie in [{least}, 1], got {value}.")
