"""The representation: state encoder f, state-action encoder g and the linear predictor m.

``z_s = f(s)``, ``z_sa = g(z_s, a)``, ``(d, z_s', reward logits) = m(z_sa)`` (MR.Q, arXiv 2501.16142).
Plain modules on tensors; ``factory`` wraps them for TensorDicts. Pixels come in a later version.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uld_torchrl.modules.layers import MLP, Linear, layer_norm


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
