"""``LatentRollout``: the unrolled model equals a loop by hand, on predictions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict.nn import TensorDictModule
from torchrl.data import Bounded

from uld_torchrl.config import ModelConfig
from uld_torchrl.modules import LatentRollout, Networks, make_networks
from uld_torchrl.modules.rollout import next_key

TINY = ModelConfig(z_s_dim=8, z_a_dim=4, z_sa_dim=6, hidden_dim=8, num_bins=5)


def _networks() -> Networks:
    torch.manual_seed(0)
    return make_networks(Bounded(-1, 1, (3,)), Bounded(-1, 1, (2,)), TINY)


@pytest.mark.parametrize("horizon", [1, 4])
def test_it_is_the_loop_on_predictions(horizon: int) -> None:
    nets = _networks()
    g, m = nets.state_action_encoder.module, nets.predictor.module
    z_0, actions = torch.randn(7, 8), torch.rand(7, horizon, 2)
    terminated, z_s, logits = LatentRollout(nets.state_action_encoder, nets.predictor)(z_0, actions)
    z = z_0
    for t in range(horizon):
        d, z, l = m(g(z, actions[:, t]))  # noqa: E741
        torch.testing.assert_close(terminated[:, t], d[:, 0])
        torch.testing.assert_close(z_s[:, t], z)
        torch.testing.assert_close(logits[:, t], l)
    assert terminated.shape == (7, horizon)


def test_a_prediction_depends_on_earlier_actions_only() -> None:
    nets = _networks()
    rollout = LatentRollout(nets.state_action_encoder, nets.predictor)
    z_0, actions = torch.randn(7, 8), torch.rand(7, 4, 2)
    before = rollout(z_0, actions)[1]
    actions[:, 2] = -actions[:, 2]
    after = rollout(z_0, actions)[1]
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.equal(before[:, 2], after[:, 2]) and not torch.equal(before[:, 3], after[:, 3])


def test_keys_can_be_renamed() -> None:
    nets = _networks()
    z_s, z_sa, act = ("latent", "z"), ("latent", "joint"), ("agent", "act")
    rollout = LatentRollout(
        TensorDictModule(nets.state_action_encoder.module, [z_s, act], [z_sa]),
        TensorDictModule(nets.predictor.module, [z_sa], ["d", ("next", *z_s), ("latent", "logits")]),
        state_key=z_s,
        action_key=act,
        terminated_key="d",
        logits_key=("latent", "logits"),
    )
    plain = LatentRollout(nets.state_action_encoder, nets.predictor)
    z_0, actions = torch.randn(7, 8), torch.rand(7, 4, 2)
    for ours, theirs in zip(rollout(z_0, actions), plain(z_0, actions), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("key", "expected"), [("a", ("next", "a")), (("a", "b"), ("next", "a", "b")), (("a",), ("next", "a"))]
)
def test_next_key(key: Any, expected: tuple[str, ...]) -> None:
    assert next_key(key) == expected
