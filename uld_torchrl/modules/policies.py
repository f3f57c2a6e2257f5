"""Policies on z_s: tanh for Box actions, Gumbel-softmax for discrete ones.

Both return the action and its pre-activation, which the policy loss penalises. Exploration noise
is added elsewhere (``exploration``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uld_torchrl.modules.layers import MLP


class TanhPolicy(nn.Module):
    """Deterministic policy for actions in [-1, 1]: ``a = tanh(MLP(z_s))``, ReLU inside.

    Example:
        >>> action, pre_activation = TanhPolicy(32, 6, 64)(torch.zeros(5, 32))
        >>> action.shape, pre_activation.shape
        (torch.Size([5, 6]), torch.Size([5, 6]))
    """

    def __init__(self, z_s_dim: int, action_dim: int, hidden_dim: int = 512) -> None:
        super().__init__()
        self.mlp = MLP(z_s_dim, hidden_dim, action_dim, F.relu)

    def forward(self, z_s: Tensor) -> tuple[Tensor, Tensor]:
        """Map z_s (..., z_s_dim) to action and pre-activation, both (..., action_dim)."""
        pre_activation = _own_type(self.mlp, z_s)
        return torch.tanh(pre_activation), pre_activation


class GumbelPolicy(nn.Module):
    """Policy over discrete actions: a soft Gumbel-softmax sample, ``softmax((logits + g) / tau)``.

    It always samples, inside losses too (a policy that asked ``exploration_type()`` would lose its
    noise there); the greedy action is the argmax of the pre-activation, i.e. of the logits.

    Example:
        >>> action, logits = GumbelPolicy(32, 3, 64)(torch.zeros(5, 32))
        >>> torch.allclose(action.sum(-1), torch.ones(5))
        True
    """

    def __init__(self, z_s_dim: int, num_actions: int, hidden_dim: int = 512, tau: float = 10.0) -> None:
        super().__init__()
        self.tau = tau
        self.mlp = MLP(z_s_dim, hidden_dim, num_actions, F.relu)

    def forward(self, z_s: Tensor) -> tuple[Tensor, Tensor]:
        """Map z_s (..., z_s_dim) to a point of the simplex and the logits, both (..., num_actions)."""
        logits = _own_type(self.mlp, z_s)
        return F.gumbel_softmax(logits, tau=self.tau, dim=-1), logits


def _own_type(mlp: MLP, z_s: Tensor) -> Tensor:
    """Return the output in the weights' type: in autocast's bfloat16 tanh and Gumbel noise are coarse."""
    return mlp(z_s).to(mlp.l3.weight.dtype)
