"""The encoder loss on linear networks: every value and gradient worked by hand.

Networks and symbols are those of ``conftest``: z_0 = w s_0; x_t = u z_t + v a_t; d_t = p x_t,
z_{t+1} = q x_t, logits_t = (0, L, 0) x_t with L = ln 2, so that softmax(logits) at
x = 0, 1, 2 is (1/3, 1/3, 1/3), (1/4, 1/2, 1/4), (1/6, 2/3, 1/6). w = 1/2, u = 2, v = 1, p = 1/4,
q = 1/2; the target encoder is 2 s.

Window A: s_0 = 1, a = (0, 1), next observations (1/2, 0), rewards (1/2, -1).
    z_0 = 1/2, x_0 = 1, z_1 = 1/2, x_1 = 2, z_2 = 1; d = (1/4, 1/2); targets (1, 0).
Window B: s_0 = 2, a = (-1, -1), next observations (1/4, 1), rewards (0, 3), terminal at step 1.
    z_0 = 1, x_0 = 1, z_1 = 1/2, x_1 = 0, z_2 = 0; d = (1/4, 0); targets (1/2, 2).

Gradients are backpropagated by hand: with D_t the gradient at z_{t+1} and E_t that at x_t,
E_t = q D_t + (direct part), D_{t-1} = u E_t + (direct part), grad q = sum D_t x_t,
grad u = sum E_t z_t, grad v = sum E_t a_t, grad w = u E_0 s_0.
"""

from __future__ import annotations

import math
from fractions import Fraction as Fr
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from uld_torchrl import ULDLoss

L = math.log(2)
PARTS = {
    "dynamics": {"dynamics_coeff": 1.0, "reward_coeff": 0.0, "terminated_coeff": 0.0},
    "reward": {"dynamics_coeff": 0.0, "reward_coeff": 1.0, "terminated_coeff": 0.0},
    "terminated": {"dynamics_coeff": 0.0, "reward_coeff": 0.0, "terminated_coeff": 1.0},
}
# Gradients of each part, mean over A and B: w; (u, v); (p, q, l0, l1, l2).
# Dynamics. Errors z_{t+1} - target: A (-1/2, 1), B (0, -2); values 1/4 + 1 = 5/4 and 4.
#   A: D_1 = 2, E_1 = 1, D_0 = -1 + 2 = 1, E_0 = 1/2: q 2*2 + 1*1 = 5, u 1/2 + 1/4 = 3/4, v 1, w 1.
#   B: D_1 = -4, E_1 = -2, D_0 = -4, E_0 = -2: q 0 - 4 = -4, u -1 - 2 = -3, v 2 + 2 = 4, w -8.
# Reward. CE: A 3/2 L and ln 6, B L and ln 3 (the reward 3 saturates at the last bin).
#   softmax - two-hot: A (1/4, 0, -1/4), (-5/6, 2/3, 1/6); B (1/4, -1/2, 1/4), (1/3, 1/3, -2/3).
#   A: E_1 = 2/3 L, D_0 = 4/3 L, E_0 = 2/3 L + 0: q 4/3 L, u L/3 + L/3, v 2/3 L, w 4/3 L;
#      logits 1 (1/4, 0, -1/4) + 2 (-5/6, 2/3, 1/6) = (-17/12, 4/3, 1/12).
#   B: E_1 = L/3, D_0 = 2/3 L, E_0 = L/3 - L/2 = -L/6: q 2/3 L, u L/6 - L/6 = 0,
#      v -L/3 + L/6 = -L/6, w -2/3 L; logits (1/4, -1/2, 1/4) as x_1 = 0.
# Terminated. A 1/16 + 1/4 = 5/16, B 1/16 + 1 = 17/16.
#   A: at d (1/2, 1): E_1 = 1/4, D_0 = 1/2, E_0 = 1/4 + 1/8 = 3/8: p 1/2 + 2 = 5/2, q 1/2,
#      u 1/8 + 3/16 = 5/16, v 1/4, w 3/4.
#   B: at d (1/2, -2): E_1 = -1/2, D_0 = -1, E_0 = -1/2 + 1/8 = -3/8: p 1/2, q -1,
#      u -1/4 - 3/8 = -5/8, v 1/2 + 3/8 = 7/8, w -3/2.
VALUES = {
    "dynamics": (Fr(5, 4), Fr(4)),
    "reward": (1.5 * L + math.log(6), L + math.log(3)),
    "terminated": (Fr(5, 16), Fr(17, 16)),
}
GRADIENTS = {
    "dynamics": (Fr(-7, 2), (Fr(-9, 8), Fr(5, 2)), (0, Fr(1, 2), 0, 0, 0)),
    "reward": (L / 3, (L / 3, L / 4), (0, L, Fr(-7, 12), Fr(5, 12), Fr(1, 6))),
    "terminated": (Fr(-3, 8), (Fr(-5, 32), Fr(9, 16)), (Fr(3, 2), Fr(-1, 4), 0, 0, 0)),
}


def _loss(tools: Any, **kwargs: Any) -> ULDLoss:
    loss = tools.linear_loss(
        f=[[Fr(1, 2)]],
        g=[[2, 1]],
        m=[[Fr(1, 4)], [Fr(1, 2)], [0], [L], [0]],
        pi=[[7]],
        q=[[[5]], [[6]]],
        **({"horizon": 2, "n_steps": 2} | kwargs),
    )
    tools.set_weights(loss, target=True, state_encoder=[[2]])
    return loss


def _window(tools: Any, **changes: Any) -> TensorDict:
    values = {
        "s0": [[1], [2]],
        "action": [[[0], [1]], [[-1], [-1]]],
        "after": [[[Fr(1, 2)], [0]], [[Fr(1, 4)], [1]]],
        "reward": [[Fr(1, 2), -1], [0, 3]],
        "terminated": [[0, 0], [0, 1]],
    }
    return tools.window(**(values | changes))


def _check_gradients(tools: Any, loss: ULDLoss, value: torch.Tensor, expected: tuple[Any, ...]) -> None:
    found = tools.gradients(value, loss)
    tools.same(found["state_encoder"], expected[0])
    tools.same(found["state_action_encoder"], *expected[1])
    tools.same(found["predictor"], *expected[2])
    assert not found["actor_network"].any() and not found["qvalue_network"].any()


@pytest.mark.parametrize("part", PARTS)
def test_each_part_and_its_gradients(tools: Any, part: str) -> None:
    loss = _loss(tools, **PARTS[part])
    value, metadata = loss.encoder_loss(_window(tools))
    expected = sum(float(x) for x in VALUES[part]) / 2
    tools.same(value, expected)
    tools.same(metadata[f"{part}_error"], expected)
    _check_gradients(tools, loss, value, GRADIENTS[part])


def test_the_parts_add_up_with_their_coefficients(tools: Any) -> None:
    # 1/2 * 21/8 + 1/4 (7/4 ln 2 + ln 3) + 1/8 * 11/16
    loss = _loss(tools, dynamics_coeff=0.5, reward_coeff=0.25, terminated_coeff=0.125)
    value, metadata = loss.encoder_loss(_window(tools))
    tools.same(metadata["dynamics_error"], Fr(21, 8))
    tools.same(metadata["reward_error"], 1.75 * L + math.log(3))
    tools.same(metadata["terminated_error"], Fr(11, 16))
    tools.same(value, 21 / 16 + (1.75 * L + math.log(3)) / 4 + 11 / 128)
    # w: -7/4 + L/12 - 3/64, v: 5/4 + L/16 + 9/128
    found = tools.gradients(value, loss)
    tools.same(found["state_encoder"], -7 / 4 + L / 12 - 3 / 64)
    tools.same(found["state_action_encoder"][0, 1], 5 / 4 + L / 16 + 9 / 128)


def test_reward_mae(tools: Any) -> None:
    # The predicted rewards are all 0 (symmetric); |0 - r| over the batch: (1/2 + 1 + 0 + 3) / 4.
    _, metadata = _loss(tools).encoder_loss(_window(tools))
    tools.same(metadata["reward_mae"], Fr(9, 8))


def test_dynamics_are_a_mean_over_elements_and_a_sum_over_steps(tools: Any) -> None:
    # f, g and m's middle are identities, the action does nothing, targets are (0, 0):
    # z stays (1, 2), each step costs (1 + 4) / 2, two steps 5.
    # Gradient of m's 2x2 block W at W = 1: step 1's error e = (1, 2) at z_2 = W W z_0, step 0's at W z_0:
    # (2/2) [e z^T (step 0) + e z^T + W^T e z^T (step 1)] = 3 z z^T.
    loss = tools.linear_loss(
        f=[[1, 0], [0, 1]],
        g=[[1, 0, 0], [0, 1, 0]],
        m=[[0, 0], [1, 0], [0, 1], [0, 0], [0, 0], [0, 0]],
        pi=[[0, 0]],
        q=[[[0, 0]], [[0, 0]]],
        horizon=2,
        n_steps=1,
        **PARTS["dynamics"],
    )
    window = tools.window(
        s0=[[1, 2]], action=[[[0], [0]]], after=[[[0, 0], [0, 0]]], reward=[[0, 0]], terminated=[[0, 0]]
    )
    value, _ = loss.encoder_loss(window)
    tools.same(value, 5)
    tools.same(tools.gradients(value, loss)["predictor"][1:3], 3, 6, 6, 12)


# A terminal in the middle of the window, H = 3: A ends at step 0, B at step 1; the rest is masked.
#   Dynamics. A: 1/4; D_0 = -1, E_0 = -1/2: q -1, u -1/4, v 0, w -1. B as above.
#   Reward.  A: 3/2 L; no direct part: logits (1/4, 0, -1/4). B as above.
#   Terminated. A: (1/4 - 1)^2 = 9/16; E_0 = -3/2 * 1/4 = -3/8: p -3/2, q 0, u -3/16, v 0, w -3/4. B as above.
MASKED_VALUES = {
    "dynamics": Fr(17, 8),
    "reward": 1.25 * L + math.log(3) / 2,
    "terminated": Fr(13, 16),
}
MASKED_GRADIENTS = {
    "dynamics": (Fr(-9, 2), (Fr(-13, 8), 2), (0, Fr(-5, 2), 0, 0, 0)),
    "reward": (-L / 3, (0, -L / 12), (0, L / 3, Fr(1, 4), Fr(-1, 4), 0)),
    "terminated": (Fr(-9, 8), (Fr(-13, 32), Fr(7, 16)), (Fr(-1, 2), Fr(-1, 2), 0, 0, 0)),
}


def _ended(tools: Any, rest: float = 0.0, later_flags: int = 0) -> TensorDict:
    window = tools.window(
        s0=[[1], [2]],
        action=[[[0], [rest], [-rest]], [[-1], [-1], [rest]]],
        after=[[[Fr(1, 2)], [rest], [3 * rest]], [[Fr(1, 4)], [1], [-rest]]],
        reward=[[Fr(1, 2), rest, -rest], [0, 3, 2 * rest]],
        terminated=[[1, later_flags, 0], [0, 1, later_flags]],
    )
    # The observation that follows the terminal one in the ring belongs to another episode.
    window["observation"][0, 1:], window["observation"][1, 2:] = -5 * rest, 7 * rest
    return window


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("rest", [0.0, 1e6, -3e4])
@pytest.mark.parametrize("later_flags", [0, 1])
def test_nothing_after_a_terminal_counts(tools: Any, part: str, rest: float, later_flags: int) -> None:
    loss = _loss(tools, horizon=3, **PARTS[part])
    value, metadata = loss.encoder_loss(_ended(tools, rest, later_flags))
    tools.same(value, MASKED_VALUES[part])
    tools.same(metadata[f"{part}_error"], MASKED_VALUES[part])
    # Alive steps: one of A, two of B, errors 1/2, 0, 3.
    tools.same(metadata["reward_mae"], Fr(7, 6))
    _check_gradients(tools, loss, value, MASKED_GRADIENTS[part])


def test_the_terminal_observation_is_the_target_of_the_terminal_step(tools: Any) -> None:
    # Window A, ended at step 0: (z_1 - 2 s_1)^2 / B; s_1 = 1/2 gives 1/4, s_1 = 1 gives (1/2 - 2)^2 = 9/4.
    loss, window = _loss(tools, horizon=3, reduction="none", **PARTS["dynamics"]), _ended(tools)
    tools.same(loss.encoder_loss(window)[0], Fr(1, 4), 4)
    window["next", "observation"][0, 0] = 1
    tools.same(loss.encoder_loss(window)[0], Fr(9, 4), 4)


def test_validity_mask_false_counts_as_masked(tools: Any) -> None:
    # Window A with a truncation at step 0 and step 1 marked as invalid: 1/4, 3/2 L, (1/4)^2.
    loss = _loss(tools, n_steps=1, reduction="none")
    window = _window(tools, truncated=[[1, 0], [0, 0]])
    window["validity_mask"] = torch.tensor([[True, False], [True, True]])
    value, metadata = loss.encoder_loss(window)
    tools.same(metadata["dynamics_error"], (Fr(1, 4) + 4) / 2)
    tools.same(metadata["reward_error"], (1.5 * L + L + math.log(3)) / 2)
    tools.same(metadata["terminated_error"], (Fr(1, 16) + Fr(17, 16)) / 2)
    before = value.clone()
    window["next", "reward"][0, 1], window["action"][0, 1] = 1e5, 1e5
    tools.same(loss.encoder_loss(window)[0], *before.tolist())


def test_a_truncation_changes_nothing_at_the_last_step(tools: Any) -> None:
    plain = _loss(tools).encoder_loss(_window(tools))[0]
    cut = _loss(tools).encoder_loss(_window(tools, truncated=[[0, 1], [0, 0]], done=[[0, 1], [0, 1]]))[0]
    assert torch.equal(plain, cut)


def test_it_unrolls_on_predictions_not_on_later_observations(tools: Any) -> None:
    window = _window(tools)
    before = _loss(tools).encoder_loss(window)[0]
    window["observation"][:, 1] = 99
    assert torch.equal(_loss(tools).encoder_loss(window)[0], before)


@pytest.mark.parametrize(
    ("reduction", "expected"), [("none", (Fr(5, 4), 4)), ("sum", (Fr(21, 4),)), ("mean", (Fr(21, 8),))]
)
def test_reductions(tools: Any, reduction: str, expected: tuple[Fr, ...]) -> None:
    value, _ = _loss(tools, reduction=reduction, **PARTS["dynamics"]).encoder_loss(_window(tools))
    assert value.shape == ((2,) if reduction == "none" else ())
    tools.same(value, *expected)
