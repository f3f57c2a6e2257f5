"""Building blocks of all networks: initialised Linear and Conv2d, and the three-layer MLP.

LayerNorm has no parameters (MR.Q, arXiv 2501.16142). The encoders, policies and value heads made of
these are in the neighbouring files.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]


def xavier_uniform_(weight: Tensor) -> Tensor:
    """Fill ``weight`` (..., out, in) from U(-a, a), ``a = sqrt(2) sqrt(6 / (in + out))``, in place.

    The gain is ReLU's. Leading dimensions are ensemble members (stacked heads): unlike
    ``torch.nn.init.xavier_uniform_`` they do not count as a receptive field.

    Example:
        >>> bool(xavier_uniform_(torch.empty(2, 4, 8)).abs().max() <= 1.0)
        True
    """
    bound = math.sqrt(2.0) * math.sqrt(6.0 / (weight.shape[-1] + weight.shape[-2]))
    with torch.no_grad():
        return weight.uniform_(-bound, bound)


class Linear(nn.Linear):
    """``nn.Linear`` with Xavier-uniform weights (ReLU gain) and zero bias.

    Example:
        >>> bool(Linear(4, 2).bias.eq(0).all())
        True
    """

    def reset_parameters(self) -> None:
        """Draw the weights anew and zero the bias."""
        xavier_uniform_(self.weight)
        if self.bias is not None:
            with torch.no_grad():
                self.bias.zero_()


class ExactLinear(Linear):
    """A :class:`Linear` that ``torch.autocast`` leaves in the precision of its weights.

    For narrow outputs whose value counts: in bfloat16 they would keep 8 bits, and save nothing.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     Linear(4, 1)(torch.zeros(4)).dtype, ExactLinear(4, 1)(torch.zeros(4)).dtype
        (torch.bfloat16, torch.float32)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out), of the weights' type."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


class Conv2d(nn.Conv2d):
    """Unpadded ``nn.Conv2d`` with Xavier-uniform weights (ReLU gain) and zero bias.

    Example:
        >>> Conv2d(4, 32, 3, 2)(torch.zeros(1, 4, 84, 84)).shape
        torch.Size([1, 32, 41, 41])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)

    def reset_parameters(self) -> None:
        """Draw the weights anew and zero the bias."""
        # Here the kernel is a receptive field: torch's own counts it.
        nn.init.xavier_uniform_(self.weight, math.sqrt(2.0))
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def layer_norm(x: Tensor) -> Tensor:
    """Normalise the last dimension to mean 0 and variance 1, without parameters.

    Example:
        >>> layer_norm(torch.tensor([1.0, 3.0])).round()
        tensor([-1.,  1.])
    """
    return F.layer_norm(x, x.shape[-1:])


class MLP(nn.Module):
    """Linear, LayerNorm, activation, Linear, LayerNorm, activation, Linear.

    Example:
        >>> MLP(3, 8, 2, F.elu)(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        self.l1 = Linear(in_dim, hidden_dim)
        self.l2 = Linear(hidden_dim, hidden_dim)
        self.l3 = Linear(hidden_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_dim) to (..., out_dim)."""
        x = self.activation(layer_norm(self.l1(x)))
        x = self.activation(layer_norm(self.l2(x)))
        return self.l3(x)
