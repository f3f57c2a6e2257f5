"""The matrix products of a computation, to be run again alone: the least time that it could take.

Each at its own shape and strides, forward and backward, on tensors that stay: what lies between the products,
and what it costs that weights leave the caches, is what the computation adds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

_ATEN = torch.ops.aten
PRODUCTS = (
    *(_ATEN.mm.default, _ATEN.addmm.default, _ATEN.bmm.default, _ATEN.baddbmm.default),
    *(_ATEN.convolution.default, _ATEN.convolution_backward.default),
)


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            shapes = tree_map(lambda x: _Shape(x) if isinstance(x, Tensor) else x, (args, kwargs or {}))
            self.calls.append((func, *shapes))
        return func(*args, **(kwargs or {}))


class _Shape:
    """Shape, strides and place of a tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self.key = (tuple(tensor.shape), tensor.stride(), tensor.device, tensor.dtype)

    def fill(self, dtype: torch.dtype) -> Tensor:
        """Return a tensor of random numbers that lies in memory like this one."""
        shape, stride, device, _ = self.key
        last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        return torch.randn(last + 1, device=device).to(dtype).as_strided(shape, stride)


def products_of(
    call: Callable[[], object], dtype: torch.dtype = torch.float32
) -> tuple[Callable[[], None], float]:
    """Return what runs the products of a call again, and their operations in GFLOP.

    Args:
        call: the computation; it is run once.
        dtype: of the products when they are run again.

    Example:
        >>> x = torch.ones(4, 3)
        >>> again, operations = products_of(lambda: (x @ torch.ones(3, 2)).relu())
        >>> again()
        >>> round(operations * 1e9)
        48
    """
    with FlopCounterMode(display=False) as counter, _Recording() as recording:
        call()
    tensors: dict[Any, Tensor] = {}

    def tensor_of(entry: Any) -> Any:
        if not isinstance(entry, _Shape):
            return entry
        if entry.key not in tensors:
            tensors[entry.key] = entry.fill(dtype)
        return tensors[entry.key]

    calls = [(func, *tree_map(tensor_of, (args, kwargs))) for func, args, kwargs in recording.calls]

    def again() -> None:
        with torch.no_grad():
            for func, args, kwargs in calls:
                func(*args, **kwargs)

    return again, counter.get_total_flops() / 1e9
