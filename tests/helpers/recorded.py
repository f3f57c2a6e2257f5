"""A stand-in for CUDA graphs: records a call's kernels with the tensors they had, and runs these again.

As in a graph, numbers of Python are those of the recording, a tensor is where it was then, and looking at a
value is an error. As in no graph, recording computes; the first replay therefore does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")
aten = torch.ops.aten
# What would make the host wait for a GPU: values it reads, shapes that depend on values, data from the host.
WAITS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.unique_dim.default,
    aten._unique2.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.lift_fresh.default,
    aten.lift_fresh_copy.default,
}


class HostWaits(RuntimeError):
    """Raised while recording; a GPU would say that the operation is not permitted during capture."""


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, kernel: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        boolean = kernel in (aten.index.Tensor, aten.index_put_.default) and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if kernel in WAITS or boolean:
            raise HostWaits(f"{kernel} makes the host wait")
        outputs = kernel(*args, **(kwargs or {}))
        if not kernel.is_view:
            self.kernels.append((kernel, args, kwargs or {}, outputs))
        return outputs


class StandIn:
    """A recorder for :class:`~uld_torchrl.trainers.engines.Replayed` on a CPU."""

    def __init__(self) -> None:
        self.recordings: list[int] = []
        self.warm_ups = self.replays = 0

    def warm_up(self, call: Callable[[], T]) -> T:
        self.warm_ups += 1
        return call()

    def record(self, call: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        with _Tape() as tape:
            outputs = call()
        self.recordings.append(len(tape.kernels))
        first = iter([True])

        def replay() -> None:
            self.replays += 1
            if not next(first, False):
                _again(tape.kernels)

        return outputs, replay


@torch.no_grad()
def _again(kernels: list[tuple[Any, Any, Any, Any]]) -> None:
    """Run the kernels, and put what they return where it was when they were recorded."""
    for kernel, args, kwargs, outputs in kernels:
        new = kernel(*args, **kwargs)
        for was, now in zip(tree_leaves(outputs), tree_leaves(new), strict=True):
            if isinstance(was, Tensor) and was is not now and was.data_ptr() != now.data_ptr():
                was.copy_(now)
