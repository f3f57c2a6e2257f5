"""InfoNCE in the encoder's loss: which predictions are told from which embeddings, in two dimensions.

The equation itself is in ``test_functional``; that nothing else changes, in ``test_switches_contract``.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from uld_torchrl import ULDLoss

EYE = ((1, 0), (0, 1))


def _loss(tools: Any, **kwargs: Any) -> ULDLoss:
    """z = s, x = z + (a, a), z' = x, f' = f: the prediction from s_0 over the actions is s_0 + sum (a, a)."""
    loss = tools.linear_loss(
        f=EYE,
        g=[[1, 0, 1], [0, 1, 1]],
        m=[[0, 0], *EYE, *[[0, 0]] * 3],
        pi=[[0, 0]],
        q=[[[1, 1]], [[1, 1]]],
        **({"horizon": 2, "n_steps": 1, "infonce_coeff": 0.25, "infonce_temperature": 0.5} | kwargs),
    )
    for name in ("dynamics_coeff", "reward_coeff"):
        setattr(loss, name, 0.0)
    loss.terminated_coeff.zero_()
    return loss


def _window(tools: Any, ended: int = 0) -> TensorDict:
    """A: (1, 0) stays, then goes on by (1, 1); B: (0, 1) goes on by (-1, -1) twice."""
    return tools.window(
        s0=[[1, 0], [0, 1]],
        action=[[[0], [1]], [[-1], [-1]]],
        after=[[[2, 0], [0, 1]], [[0, 3], [3, 4]]],
        reward=[[0, 0], [0, 0]],
        terminated=[[0, 0], [ended, 0]],
    )


def _ce(own: float, *others: float) -> float:
    return math.log(sum(math.exp(2 * c) for c in (own, *others))) - 2 * own


# Step 0: A predicts (1, 0), cosines 1 and 0; B predicts (-1, 0), with A's target -1, with its own 0.
# Step 1: A predicts (2, 1), over sqrt 5: with (0, 1) 1, with (3, 4) / 5 2; B (-2, -1): own -2, A's -1.
ROOT = math.sqrt(5)
FIRST = (_ce(1, 0), _ce(0, -1))
SECOND = (_ce(1 / ROOT, 2 / ROOT), _ce(-2 / ROOT, -1 / ROOT))


def test_each_step_is_told_from_the_batch_at_that_step(tools: Any) -> None:
    value, _ = _loss(tools, reduction="none").encoder_loss(_window(tools))
    tools.same(value, *(0.25 * (one + other) for one, other in zip(FIRST, SECOND, strict=True)))
    mean, _ = _loss(tools).encoder_loss(_window(tools))
    torch.testing.assert_close(mean, value.mean())


@pytest.mark.parametrize("rest", [0.0, 1e6])
def test_what_follows_a_terminal_is_neither_told_nor_told_from(tools: Any, rest: float) -> None:
    window = _window(tools, ended=1)
    window["next", "observation"][1, 1], window["action"][1, 1] = rest, rest
    value, _ = _loss(tools, reduction="none").encoder_loss(window)
    tools.same(value, 0.25 * FIRST[0], 0.25 * FIRST[1])


def test_the_target_encoder_gives_the_embeddings_and_takes_no_gradient(tools: Any) -> None:
    loss = _loss(tools)
    tools.set_weights(loss, target=True, state_encoder=((0, 1), (1, 0)))
    value, _ = loss.encoder_loss(_window(tools))
    # Targets swapped. Step 0: A 0 own, 1 B's; B own -1, A's 0. Step 1: A own 2, B's (4, 3) / 5 11/5, ...
    far = (_ce(0, 1) + _ce(2 / ROOT, 11 / 5 / ROOT), _ce(-1, 0) + _ce(-11 / 5 / ROOT, -2 / ROOT))
    tools.same(value, 0.25 * sum(far) / 2)
    gradients = tools.gradients(value, loss)
    assert gradients["state_encoder"].any() and gradients["predictor"].any()
    assert not gradients["actor_network"].any() and not gradients["qvalue_network"].any()


def test_a_weight_of_zero_leaves_the_loss_as_it_is(tools: Any) -> None:
    tools.same(_loss(tools, infonce_coeff=0.0).encoder_loss(_window(tools))[0], 0)
