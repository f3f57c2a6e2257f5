"""The value head on z_sa. Two of them, stacked by the loss, make the twin value."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from uld_torchrl.modules.layers import MLP, ExactLinear, layer_norm


class ValueHead(nn.Module):
    """``Q(z_sa) = Linear(ELU(LN(MLP(z_sa))))``, in units of the reward scale.

    Example:
        >>> import torch
        >>> ValueHead(16, 64)(torch.zeros(5, 16)).shape
        torch.Size([5, 1])
    """

    def __init__(self, z_sa_dim: int = 512, hidden_dim: int = 512) -> None:
        super().__init__()
        self.mlp = MLP(z_sa_dim, hidden_dim, hidden_dim, F.elu)
        self.out = ExactLinear(hidden_dim, 1)

    def forward(self, z_sa: Tensor) -> Tensor:
        """Map z_sa (..., z_sa_dim) to the value (..., 1)."""
        return self.out(F.elu(layer_norm(self.mlp(z_sa))))
