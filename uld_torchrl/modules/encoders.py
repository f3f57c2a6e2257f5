"""The representation: state encoder f, state-action encoder g and the predictor m.

``z_s = f(s)``, ``z_sa = g(z_s, a)``, ``(d, z_s', reward logits) = m(z_sa)`` (MR.Q, arXiv 2501.16142).
Plain modules on tensors; ``factory`` wraps them for TensorDicts. Shifting pixels is the stepper's part.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uld_torchrl.errors import InputError
from uld_torchrl.modules.layers import MLP, Conv2d, Linear, layer_norm


class VectorEncoder(nn.Module):
    """State encoder f for vectors: ``z_s = ELU(LN(MLP(s)))``.

    Example:
        >>> VectorEncoder(17, 64, 32)(torch.zeros(5, 17)).shape
        torch.Size([5, 32])
    """

    def __init__(self, observation_dim: int, hidden_dim: int = 512, z_s_dim: int = 512) -> None:
        super().__init__()
        self.mlp = MLP(observation_dim, hidden_dim, z_s_dim, F.elu)

    def forward(self, observation: Tensor) -> Tensor:
        """Map (..., observation_dim) to z_s (..., z_s_dim)."""
        return F.elu(layer_norm(self.mlp(observation)))


class PixelEncoder(nn.Module):
    """State encoder f for stacks of uint8 frames: ``z_s = ELU(LN(Linear(convolutions(x / 255 - 0.5))))``.

    Four unpadded 3x3 convolutions with strides 2, 2, 2, 1, an ELU after each; a side of 84 becomes 41, 20,
    9 and 7, and with 32 channels z_s is made of 1568 features (MR.Q, arXiv 2501.16142).

    Args:
        shape: (k C, h, w) of a stack.
        conv_channels: output channels of every convolution.
        z_s_dim: width of the embedding.

    Raises:
        InputError: a side is shorter than 31 pixels, of which the convolutions leave nothing; in ``forward``,
            images of another type or shape.

    Example:
        >>> PixelEncoder((4, 84, 84), 32, 512)(torch.zeros(2, 3, 4, 84, 84, dtype=torch.uint8)).shape
        torch.Size([2, 3, 512])
    """

    STRIDES = (2, 2, 2, 1)
    MIN_SIDE = 31

    def __init__(self, shape: Sequence[int], conv_channels: int = 32, z_s_dim: int = 512) -> None:
        super().__init__()
        self.shape = torch.Size(shape)
        channels, *sides = shape
        if min(sides) < self.MIN_SIDE:
            raise InputError(
                f"images must have sides of at least {self.MIN_SIDE} pixels, got shape {tuple(self.shape)}."
            )
        left = [self._left(side) for side in sides]
        widths = [channels, *[conv_channels] * len(self.STRIDES)]
        pairs = zip(widths, widths[1:], self.STRIDES, strict=False)
        self.convolutions = nn.ModuleList(Conv2d(i, o, 3, stride) for i, o, stride in pairs)
        self.linear = Linear(conv_channels * left[0] * left[1], z_s_dim)

    @classmethod
    def _left(cls, side: int) -> int:
        for stride in cls.STRIDES:
            side = (side - 3) // stride + 1
        return side

    def forward(self, pixels: Tensor) -> Tensor:
        """Map uint8 (..., k C, h, w) to z_s (..., z_s_dim)."""
        if pixels.dtype != torch.uint8 or pixels.shape[-3:] != self.shape:
            raise InputError(
                f"images must be uint8 from 0 to 255 of the shape (..., {str(tuple(self.shape))[1:]}, "
                f"channels first, got {pixels.dtype} of the shape {tuple(pixels.shape)}."
            )
        lead = pixels.shape[:-3]
        x = pixels.flatten(0, -4) if lead else pixels.unsqueeze(0)
        x = x.to(self.linear.weight.dtype) / 255.0 - 0.5
        for convolution in self.convolutions:
            x = F.elu(convolution(x))
        return F.elu(layer_norm(self.linear(x.flatten(1)))).view(*lead, self.linear.out_features)


class StateActionEncoder(nn.Module):
    """State-action encoder g: ``z_a = ELU(Linear(a))``, ``z_sa = MLP([z_s, z_a])``.

    There is no normalisation or activation at its end, so that m and the value act on it linearly.

    Example:
        >>> g = StateActionEncoder(32, 6, z_a_dim=8, hidden_dim=64, z_sa_dim=16)
        >>> g(torch.zeros(5, 32), torch.zeros(5, 6)).shape
        torch.Size([5, 16])
    """

    def __init__(
        self, z_s_dim: int, action_dim: int, z_a_dim: int = 256, hidden_dim: int = 512, z_sa_dim: int = 512
    ) -> None:
        super().__init__()
        self.action_embedding = Linear(action_dim, z_a_dim)
        self.mlp = MLP(z_s_dim + z_a_dim, hidden_dim, z_sa_dim, F.elu)

    def forward(self, z_s: Tensor, action: Tensor) -> Tensor:
        """Map z_s (..., z_s_dim) and action (..., action_dim; float or one-hot) to z_sa (..., z_sa_dim)."""
        z_a = F.elu(self.action_embedding(action.to(z_s.dtype)))
        return self.mlp(torch.cat([z_s, z_a], -1))


class LinearPredictor(nn.Module):
    """Latent model m: one Linear from z_sa to (terminated, next z_s, reward logits).

    The termination output has no sigmoid (it is trained by squared error).

    Example:
        >>> terminated, z_s, logits = LinearPredictor(16, 32, 65)(torch.zeros(5, 16))
        >>> terminated.shape, z_s.shape, logits.shape
        (torch.Size([5, 1]), torch.Size([5, 32]), torch.Size([5, 65]))
    """

    def __init__(self, z_sa_dim: int = 512, z_s_dim: int = 512, num_bins: int = 65) -> None:
        super().__init__()
        self.sizes = (1, z_s_dim, num_bins)
        self.linear = Linear(z_sa_dim, sum(self.sizes))

    def forward(self, z_sa: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map z_sa (..., z_sa_dim) to (..., 1), (..., z_s_dim) and (..., num_bins)."""
        terminated, z_s, logits = self.linear(z_sa).split(self.sizes, -1)
        return terminated, z_s, logits


class MLPPredictor(nn.Module):
    """Latent model m that is not linear: one MLP from z_sa to (terminated, next z_s, reward logits).

    For the ablation "nonlinear-model" of MR.Q's design study (arXiv 2501.16142); that all three outputs
    share one MLP is our interpretation.

    Example:
        >>> terminated, z_s, logits = MLPPredictor(16, 32, 65, hidden_dim=24)(torch.zeros(5, 16))
        >>> terminated.shape, z_s.shape, logits.shape
        (torch.Size([5, 1]), torch.Size([5, 32]), torch.Size([5, 65]))
    """

    def __init__(
        self, z_sa_dim: int = 512, z_s_dim: int = 512, num_bins: int = 65, hidden_dim: int = 512
    ) -> None:
        super().__init__()
        self.sizes = (1, z_s_dim, num_bins)
        self.mlp = MLP(z_sa_dim, hidden_dim, sum(self.sizes), F.elu)

    def forward(self, z_sa: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map z_sa (..., z_sa_dim) to (..., 1), (..., z_s_dim) and (..., num_bins)."""
        terminated, z_s, logits = self.mlp(z_sa).split(self.sizes, -1)
        return terminated, z_s, logits
