"""The policy loss on linear networks: values and gradients worked by hand.

z = s/2, pi = pre = z, x = 2 z + a, Q = (x, 3 x), so mean Q = 2 x; penalty coefficient 1/4.
A: s_0 = 1: z = 1/2, a = 1/2, x = 3/2: -3 + 1/4 * 1/4 = -47/16.
B: s_0 = 2: z = 1, a = 1, x = 3: -6 + 1/4 = -23/4.
Mean -139/32. Gradient of the policy's weight c: -2 z + 2 * 1/4 * c z^2 =
-1 + 1/8 = -7/8 and -2 + 1/2 = -3/2, mean -19/16.
"""

from __future__ import annotations

from fractions import Fraction as Fr
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from uld_torchrl import ULDLoss


def _loss(tools: Any, **kwargs: Any) -> ULDLoss:
    loss = tools.linear_loss(
        f=[[Fr(1, 2)]],
        g=[[2, 1]],
        m=[[1], [1], [1], [1], [1]],
        pi=[[1]],
        q=[[[1]], [[3]]],
        **({"horizon": 2, "n_steps": 1, "pre_activation_coeff": 0.25} | kwargs),
    )
    # No target takes part.
    tools.set_weights(loss, target=True, state_encoder=[[70]], state_action_encoder=[[80, 90]])
    tools.set_weights(loss, target=True, actor_network=[[60]], qvalue_network=[[[50]], [[40]]])
    loss.reward_scale.fill_(4)
    return loss


def _window(tools: Any) -> TensorDict:
    return tools.window(
        s0=[[1], [2]],
        action=[[[9], [9]], [[9], [9]]],
        after=[[[9], [9]], [[9], [9]]],
        reward=[[9, 9], [9, 9]],
        terminated=[[0, 0], [0, 0]],
    )


def test_value_and_gradient(tools: Any) -> None:
    loss = _loss(tools)
    value, metadata = loss.actor_loss(_window(tools))
    tools.same(value, Fr(-139, 32))
    tools.same(metadata["actor_value"], 18)  # mean Q = (3 + 6) / 2, times the reward scale 4
    tools.same(metadata["pre_activation_sq"], Fr(5, 8))  # (1/4 + 1) / 2
    found = tools.gradients(value, loss)
    tools.same(found.pop("actor_network"), Fr(-19, 16))
    assert not any(gradient.any() for gradient in found.values())


@pytest.mark.parametrize(
    ("reduction", "expected"), [("none", (Fr(-47, 16), Fr(-23, 4))), ("sum", (Fr(-139, 16),))]
)
def test_reductions(tools: Any, reduction: str, expected: tuple[Fr, ...]) -> None:
    tools.same(_loss(tools, reduction=reduction).actor_loss(_window(tools))[0], *expected)


def test_the_penalty_is_a_mean_over_action_dimensions(tools: Any) -> None:
    # pre = (1, 3) at z = 1: mean of squares 5, times 1/2; Q does not depend on the action: Q = (1, 3).
    loss = tools.linear_loss(
        f=[[1]],
        g=[[1, 0, 0]],
        m=[[1], [1], [1], [1], [1]],
        pi=[[1], [3]],
        q=[[[1]], [[3]]],
        horizon=2,
        n_steps=1,
        pre_activation_coeff=0.5,
    )
    td = TensorDict(state_embedding=torch.ones(1, 1, dtype=torch.float64), batch_size=[1])
    value, _ = loss.actor_loss(td)
    tools.same(value, Fr(1, 2))  # -2 + 5/2
    # 1/2 * mean: d/dc_j = 1/2 * c_j z^2 = (1/2, 3/2).
    tools.same(tools.gradients(value, loss)["actor_network"], Fr(1, 2), Fr(3, 2))


def test_a_given_state_embedding_is_used_and_gets_no_gradient(tools: Any) -> None:
    loss = _loss(tools)
    z_s = torch.tensor([[0.5], [1.0]], dtype=torch.float64, requires_grad=True)
    value, _ = loss.actor_loss(TensorDict(state_embedding=z_s, batch_size=[2]))
    tools.same(value, Fr(-139, 32))
    assert torch.autograd.grad(value, z_s, allow_unused=True) == (None,)


def test_it_takes_what_the_value_loss_returns(tools: Any) -> None:
    loss, window = _loss(tools), _window(tools)
    tools.same(loss.actor_loss(loss.value_loss(window)[1])[0], Fr(-139, 32))


def test_it_uses_the_value_weights_as_they_are_now(tools: Any) -> None:
    """The policy's update follows the value's step: halved heads halve the gain."""
    loss, window = _loss(tools, pre_activation_coeff=0.0), _window(tools)
    tools.same(loss.actor_loss(window)[0], Fr(-9, 2))
    tools.weight(loss, "qvalue_network").data.mul_(0.5)
    tools.same(loss.actor_loss(window)[0], Fr(-9, 4))
