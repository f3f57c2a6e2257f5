"""TensorModule: a TensorDictModule whose outputs are tensors, written as they are.

The networks are built with it in ``factory``. Own networks may be of class ``TensorDictModule``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from tensordict.utils import NestedKey
from torch import Tensor


class TensorModule(TensorDictModule):
    """A ``TensorDictModule`` for modules that return tensors.

    tensordict's own takes anything a module may return, and to that end looks for pandas on disk at each
    output of each call: a sixth of an acting step with a batch of one.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> module = TensorModule(torch.nn.Linear(3, 2), ["observation"], ["state_embedding"])
        >>> module(TensorDict(observation=torch.zeros(5, 3), batch_size=[5]))["state_embedding"].shape
        torch.Size([5, 2])
    """

    def _write_to_tensordict(
        self,
        tensordict: TensorDictBase,
        tensors: Sequence[Tensor],
        tensordict_out: TensorDictBase | None = None,
        out_keys: Iterable[NestedKey] | None = None,
    ) -> TensorDictBase:
        plain = self.inplace is True and tensordict_out is None
        if not plain or not all(isinstance(tensor, Tensor) for tensor in tensors):
            return super()._write_to_tensordict(tensordict, tensors, tensordict_out, out_keys)
        for key, tensor in zip(out_keys or self.out_keys_source, tensors, strict=True):
            tensordict.set(key, tensor)
        return tensordict
