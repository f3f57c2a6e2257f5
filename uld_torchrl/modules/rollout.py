"""The latent rollout: m(g(., a_t)) unrolled on its own predictions, as one module on tensors.

Kept in one module so that a functional loss swaps the parameters in once, not once a step.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn


class LatentRollout(nn.Module):
    """Unroll the latent model over an action sequence (MR.Q, arXiv 2501.16142).

    ``z_{t+1}, d_t, logits_t = m(g(z_t, a_t))`` from ``z_0 = f(s_0)``, on predictions only.

    Args:
        state_action_encoder: TensorDict module g, reading ``state_key`` and ``action_key``.
        predictor: TensorDict module m, writing ``terminated_key``, ``predicted_key`` (default
            ``("next", state_key)``, which the unroll needs) and ``logits_key``.

    Example:
        >>> from uld_torchrl.modules import make_networks
        >>> from torchrl.data import Bounded, Unbounded
        >>> nets = make_networks(Unbounded(3), Bounded(-1, 1, (2,)))
        >>> rollout = LatentRollout(nets.state_action_encoder, nets.predictor)
        >>> terminated, z_s, logits = rollout(torch.zeros(4, 512), torch.zeros(4, 5, 2))
        >>> terminated.shape, z_s.shape, logits.shape
        (torch.Size([4, 5]), torch.Size([4, 5, 512]), torch.Size([4, 5, 65]))
    """

    def __init__(
        self,
        state_action_encoder: TensorDictModuleBase,
        predictor: TensorDictModuleBase,
        *,
        state_key: NestedKey = "state_embedding",
        action_key: NestedKey = "action",
        terminated_key: NestedKey = "terminated_pred",
        predicted_key: NestedKey | None = None,
        logits_key: NestedKey = "reward_logits",
    ) -> None:
        super().__init__()
        self.state_action_encoder = state_action_encoder
        self.predictor = predictor
        self.state_key, self.action_key = state_key, action_key
        self.out_keys = (terminated_key, predicted_key or next_key(state_key), logits_key)

    def predict(self, z_s: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map z_s (..., z_s_dim) and action (..., A) one step on: (...), (..., width), (..., K)."""
        td = TensorDict(batch_size=z_s.shape[:-1], device=z_s.device)
        td.set(self.state_key, z_s).set(self.action_key, action)
        td = self.predictor(self.state_action_encoder(td))
        terminated, z_next, logits = (td.get(key) for key in self.out_keys)
        return terminated.squeeze(-1), z_next, logits

    def forward(self, z_s: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map z_0 (B, z_s_dim) and actions (B, H, A) to (B, H), (B, H, z_s_dim) and (B, H, K)."""
        steps = []
        for action in actions.unbind(1):
            step = self.predict(z_s, action)
            z_s = step[1]
            steps.append(step)
        terminated, z_next, logits = (torch.stack(part, 1) for part in zip(*steps, strict=True))
        return terminated, z_next, logits


def next_key(key: NestedKey) -> NestedKey:
    """Return the key of the same entry at the next step.

    Example:
        >>> next_key(("agent", "state_embedding"))
        ('next', 'agent', 'state_embedding')
    """
    return ("next", key) if isinstance(key, str) else ("next", *key)
