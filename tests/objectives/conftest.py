"""What the loss tests share: linear networks with known weights, small real networks, windows.

The linear networks make every loss and gradient a number that can be worked by hand:

    f: z = w s        g: x = u z + v a        m: (d, z', logits) = (p, q, l0, l1, l2) x
    pi: a = pre = c z        Q_i = k_i x

With ``reward_loss="mse"`` m has one reward output in place of the logits, and with
``dynamics_target="state_action"`` it gives x' in place of z'.

All are float64. Targets are set apart from the online weights where a test says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.data import Bounded, OneHot, TensorSpec

from uld_torchrl import PeriodicHardUpdate, ULDLoss, make_networks
from uld_torchrl.config import LossConfig, ModelConfig

Number = float | Fraction
Matrix = Sequence[Sequence[Number]]


class _Joint(nn.Module):
    def __init__(self, z_s_dim: int, action_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(z_s_dim + action_dim, out_dim, bias=False)

    def forward(self, z_s: Tensor, action: Tensor) -> Tensor:
        return self.linear(torch.cat([z_s, action.to(z_s.dtype)], -1))


class _Split(nn.Module):
    def __init__(self, in_dim: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.linear = nn.Linear(in_dim, sum(sizes), bias=False)

    def forward(self, z_sa: Tensor) -> tuple[Tensor, ...]:
        return self.linear(z_sa).split(self.sizes, -1)


class _LinearPolicy(nn.Module):
    def __init__(self, z_s_dim: int, action_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(z_s_dim, action_dim, bias=False)

    def forward(self, z_s: Tensor) -> tuple[Tensor, Tensor]:
        pre = self.linear(z_s)
        return pre, pre


def matrix(rows: Matrix) -> Tensor:
    """Rows of numbers or fractions as a float64 tensor."""
    return torch.tensor([[float(x) for x in row] for row in rows], dtype=torch.float64)


def make_linear_loss(
    *, f: Matrix, g: Matrix, m: Matrix, pi: Matrix, q: Sequence[Matrix], discrete: bool = False, **kwargs: Any
) -> ULDLoss:
    """A loss on linear networks with these weights (out x in); three bins -1, 0, 1; no policy noise."""
    z_s_dim, z_sa_dim, action_dim = len(f), len(g), len(pi)
    of_pairs = kwargs.get("dynamics_target") == "state_action"
    predicted, width = ("state_action_embedding", z_sa_dim) if of_pairs else ("state_embedding", z_s_dim)
    networks = [
        TensorDictModule(nn.Linear(len(f[0]), z_s_dim, bias=False), ["observation"], ["state_embedding"]),
        TensorDictModule(
            _Joint(z_s_dim, action_dim, z_sa_dim), ["state_embedding", "action"], ["state_action_embedding"]
        ),
        TensorDictModule(
            _Split(z_sa_dim, (1, width, 1 if kwargs.get("reward_loss") == "mse" else 3)),
            ["state_action_embedding"],
            ["terminated_pred", ("next", predicted), "reward_logits"],
        ),
        TensorDictModule(
            _LinearPolicy(z_s_dim, action_dim), ["state_embedding"], ["action", "pre_activation"]
        ),
        [
            TensorDictModule(
                nn.Linear(z_sa_dim, 1, bias=False), ["state_action_embedding"], ["state_action_value"]
            )
            for _ in q
        ],
    ]
    spec: TensorSpec = OneHot(action_dim) if discrete else Bounded(-1, 1, (action_dim,))
    # symexp(+-ln 2) = +-1: the bins are -1, 0, 1.
    settings = {"num_bins": 3, "bin_range": math.log(2), "policy_noise": 0.0} | kwargs
    loss = ULDLoss(*networks, action_spec=spec, **settings).double()  # type: ignore[arg-type]
    PeriodicHardUpdate(loss)
    set_weights(loss, state_encoder=f, state_action_encoder=g, predictor=m, actor_network=pi)
    set_weights(loss, qvalue_network=q)
    PeriodicHardUpdate(loss).copy_()
    return loss


def weight(loss: ULDLoss, network: str, target: bool = False) -> Tensor:
    """The one weight of a linear network (the heads' stacked)."""
    params = getattr(loss, f"{'target_' if target else ''}{network}_params")
    (found,) = params.values(True, True)
    return found


def set_weights(loss: ULDLoss, target: bool = False, **weights: Any) -> None:
    for network, rows in weights.items():
        heads = [matrix(head) for head in rows] if network == "qvalue_network" else None
        new = matrix(rows) if heads is None else torch.stack(heads)
        weight(loss, network, target).data.copy_(new)


def gradients(value: Tensor, loss: ULDLoss) -> dict[str, Tensor]:
    """Gradient of ``value`` for each network's weight, zeros where none arrives."""
    names = ("state_encoder", "state_action_encoder", "predictor", "actor_network", "qvalue_network")
    weights = [weight(loss, name) for name in names]
    found = torch.autograd.grad(value, weights, allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(w) if grad is None else grad
        for name, w, grad in zip(names, weights, found, strict=True)
    }


def same(actual: Tensor, *expected: Number) -> None:
    """Equal up to a few roundings of float64."""
    wanted = torch.tensor([float(x) for x in expected], dtype=torch.float64).reshape(actual.shape)
    torch.testing.assert_close(actual.detach(), wanted, rtol=4e-15, atol=4e-15)


def make_window(
    *,
    s0: Sequence[Sequence[Number]],
    action: Sequence[Matrix],
    after: Sequence[Matrix],
    reward: Matrix,
    terminated: Sequence[Sequence[int]],
    **flags: Sequence[Sequence[int]],
) -> TensorDict:
    """Windows [B, H] in float64: first observations [B, O]; next ones [B, H, O]; flags below next."""
    following = torch.stack([matrix(rows) for rows in after])
    first = matrix(s0).unsqueeze(1)
    B, H = following.shape[:2]
    td = TensorDict(
        {
            "observation": torch.cat([first, following[:, :-1]], 1),
            "action": torch.stack([matrix(rows) for rows in action]),
            "next": {
                "observation": following,
                "reward": matrix(reward).unsqueeze(-1),
                "terminated": torch.tensor(terminated).bool().unsqueeze(-1),
                **{name: torch.tensor(flag).bool().unsqueeze(-1) for name, flag in flags.items()},
            },
        },
        batch_size=[B, H],
    )
    assert td["next", "reward"].shape == (B, H, 1) == td["next", "terminated"].shape
    return td


TINY = ModelConfig(z_s_dim=8, z_a_dim=4, z_sa_dim=8, hidden_dim=8, num_bins=5, bin_range=2.0)


def make_real_loss(
    spec: TensorSpec | None = None, updater: bool = True, model: ModelConfig = TINY, **kwargs: Any
) -> ULDLoss:
    """A loss on the package's own networks, tiny; observations of 3, actions of 2, H 3, n 2."""
    spec = Bounded(-1, 1, (2,)) if spec is None else spec
    torch.manual_seed(0)
    # Of the settings only what m predicts; some tests give the others wrong on purpose.
    predicted = {key: kwargs[key] for key in ("reward_loss", "dynamics_target") if key in kwargs}
    nets = make_networks(Bounded(-1, 1, (3,)), spec, model, loss=LossConfig(**predicted, unroll=False))
    settings = {"horizon": 3, "n_steps": 2, "num_bins": 5, "bin_range": 2.0} | kwargs
    loss = ULDLoss(
        nets.state_encoder,
        nets.state_action_encoder,
        nets.predictor,
        nets.actor_network,
        nets.qvalue_network,
        action_spec=spec,
        **settings,  # type: ignore[arg-type]
    )
    if updater:
        PeriodicHardUpdate(loss)
    return loss


def make_random_window(B: int = 4, H: int = 3, spec: TensorSpec | None = None, seed: int = 1) -> TensorDict:
    spec = Bounded(-1, 1, (2,)) if spec is None else spec
    torch.manual_seed(seed)
    return TensorDict(
        {
            "observation": torch.randn(B, H, 3),
            "action": spec.rand((B, H)),
            "next": {
                "observation": torch.randn(B, H, 3),
                "reward": torch.randn(B, H, 1),
                "terminated": torch.zeros(B, H, 1, dtype=torch.bool),
            },
        },
        batch_size=[B, H],
    )


class Tools:
    """The helpers above, for test files that cannot import this one."""

    linear_loss = staticmethod(make_linear_loss)
    weight = staticmethod(weight)
    set_weights = staticmethod(set_weights)
    gradients = staticmethod(gradients)
    same = staticmethod(same)
    window = staticmethod(make_window)
    real_loss = staticmethod(make_real_loss)
    random_window = staticmethod(make_random_window)


@pytest.fixture(scope="session")
def tools() -> Callable[..., Any] | Any:
    return Tools
