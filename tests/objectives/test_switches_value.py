"""The switches of the value on linear networks: square error, heads, scales, embeddings of the target.

The networks and windows are those of ``test_value_loss``, with gamma = 1/2, n = 2, H = 3, c = 2, c' = 4:

    Online: z = s/2, x = 2 z + a, Q = (x, 3 x). Targets: z = 2 s, pi' = z, x = z + 3 a, Q' = (x/2, 2 x).
    Window A: s_0 = 1, a_0 = 0, rewards (1, 2), s_2 = 1/4: Q = (1, 3), y = (2 + 1/4 * 4 * 1) / 2 = 3/2.
    Window B: s_0 = 2, a_0 = -3, terminal at step 0 with reward -2: x_0 = -1, Q = (-1, -3), y = -1.
"""

from __future__ import annotations

from fractions import Fraction as Fr
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from uld_torchrl import ULDLoss

TWO = ([[1]], [[3]])
TWO_TARGETS = ([[Fr(1, 2)]], [[2]])


def _loss(tools: Any, heads: Any = TWO, targets: Any = TWO_TARGETS, **kwargs: Any) -> ULDLoss:
    loss = tools.linear_loss(
        f=[[Fr(1, 2)]],
        g=[[2, 1]],
        m=[[1], [1], [1], [1], [1]],
        pi=[[9]],
        q=heads,
        **({"gamma": 0.5, "horizon": 3, "n_steps": 2, "pre_activation_coeff": 0.0} | kwargs),
    )
    tools.set_weights(loss, target=True, state_encoder=[[2]], state_action_encoder=[[1, 3]])
    tools.set_weights(loss, target=True, actor_network=[[1]], qvalue_network=targets)
    loss.reward_scale.fill_(2)
    loss.target_reward_scale.fill_(4)
    return loss


def _window(tools: Any, **changes: Any) -> TensorDict:
    values = {
        "s0": [[1], [2]],
        "action": [[[0], [0], [0]], [[-3], [0], [0]]],
        "after": [[[50], [Fr(1, 4)], [60]], [[50], [70], [80]]],
        "reward": [[1, 2, 9], [-2, 30, 40]],
        "terminated": [[0, 0, 0], [1, 0, 0]],
    }
    return tools.window(**(values | changes))


def _check(tools: Any, loss: ULDLoss, value: Fr, gradient: tuple[Fr | int, ...], **metadata: Any) -> None:
    """Check the value loss of the two windows, the heads' gradient, that no other is there, and metadata."""
    found, entries = loss.value_loss(_window(tools))
    tools.same(found, value)
    for name, expected in metadata.items():
        tools.same(entries[name], *expected)
    gradients = tools.gradients(found, loss)
    tools.same(gradients.pop("qvalue_network"), *gradient)
    assert not any(other.any() for other in gradients.values())


# Square error


def test_the_square_error_is_not_halved(tools: Any) -> None:
    # Q - y: A (-1/2, 3/2), squares 1/4 and 9/4, mean 5/4; B (0, -2), mean 2: (5/4 + 2) / 2 = 13/8.
    # Gradient of k_i: 2 (Q_i - y) x_0 / 4: k_1 2 (-1/2) / 4, k_2 (2 * 3/2 + 2 * (-2) * (-1)) / 4 = 7/4.
    _check(
        tools,
        _loss(tools, value_loss="mse"),
        Fr(13, 8),
        (Fr(-1, 4), Fr(7, 4)),
        td_error=(Fr(3, 2), 2),  # absolute, not squared
        pred_value=(4, -4),
        target_value=(3, -2),
        state_embedding=(Fr(1, 2), 1),
    )


@pytest.mark.parametrize(
    ("reduction", "expected"), [("none", (Fr(5, 4), Fr(2))), ("sum", (Fr(13, 4),)), (None, (Fr(13, 8),))]
)
def test_reductions_of_the_square_error(tools: Any, reduction: str, expected: tuple[Fr, ...]) -> None:
    value, _ = _loss(tools, value_loss="mse", reduction=reduction).value_loss(_window(tools))
    tools.same(value, *expected)


@pytest.mark.parametrize("rest", [1e6, -3e5])
def test_nothing_after_a_terminal_enters_the_square_error(tools: Any, rest: float) -> None:
    loss, window = _loss(tools, value_loss="mse"), _window(tools)
    window["next", "reward"][1, 1:], window["next", "observation"][1] = rest, rest
    window["action"][1, 1:], window["observation"][1, 1:] = rest, rest
    tools.same(loss.value_loss(window)[0], Fr(13, 8))


# Heads


def test_a_single_head_is_its_own_minimum_and_mean(tools: Any) -> None:
    # A: Q = 1, Q' = 1, y = 3/2: Huber 1/8. B: Q = -1 = y. Mean 1/16, gradient (-1/2 * 1) / 2.
    loss = _loss(tools, heads=([[1]],), targets=([[Fr(1, 2)]],))
    assert loss.num_qvalue_nets == 1
    _check(tools, loss, Fr(1, 16), (Fr(-1, 4),), td_error=(Fr(1, 2), 0), pred_value=(2, -2))


def test_of_three_heads_the_least_is_the_target(tools: Any) -> None:
    # Q = (x, 3 x, -2 x), Q' = (x/2, 2 x, -x): A: least -2, y = (2 - 2) / 2 = 0, Q - y = (1, 3, -2):
    # Huber (1/2, 5/2, 3/2), mean 3/2. B: Q - y = (0, -2, 3): (0, 3/2, 5/2), mean 4/3.
    # Gradient, Huber' x_0 / 6: (1 + 0, 1 + 1, -1 - 1) / 6.
    loss = _loss(tools, heads=([[1]], [[3]], [[-2]]), targets=([[Fr(1, 2)]], [[2]], [[-1]]))
    _check(
        tools,
        loss,
        Fr(17, 12),
        (Fr(1, 6), Fr(1, 3), Fr(-1, 3)),
        td_error=(3, 3),
        target_value=(0, -2),
        pred_value=(Fr(4, 3), Fr(-4, 3)),  # mean Q = (2/3, -2/3), times c = 2
    )


@pytest.mark.parametrize(
    ("heads", "value", "gradient"),
    [
        # a = 9 z, x = 2 z + 9 z = 11/2 and 11; mean 33/4. Gradient of c: k z, mean z = 3/4.
        (([[1]],), Fr(-33, 4), Fr(-3, 4)),
        (([[1]], [[3]]), Fr(-33, 2), Fr(-3, 2)),
        (([[1]], [[3]], [[-2]]), Fr(-11, 2), Fr(-1, 2)),
    ],
)
def test_the_policy_climbs_the_mean_of_any_number_of_heads(
    tools: Any, heads: Any, value: Fr, gradient: Fr
) -> None:
    loss = _loss(tools, heads=heads, targets=heads)
    found, metadata = loss.actor_loss(_window(tools))
    tools.same(found, value)
    tools.same(metadata["actor_value"], -2 * value)
    gradients = tools.gradients(found, loss)
    tools.same(gradients.pop("actor_network"), gradient)
    assert not any(other.any() for other in gradients.values())


# Without target encoders: f and g of the target are the online ones; its policy and heads stay.


def test_without_target_encoders_the_bootstrap_embeds_with_the_online_ones(tools: Any) -> None:
    # A: z = 1/8, a' = pi'(1/8) = 1/8, x = 2/8 + 1/8 = 3/8, Q' = (3/16, 3/4), least 3/16:
    # y = (2 + 3/16) / 2 = 35/32. Q - y = (-3/32, 61/32): Huber 9/2048 and 45/32, mean 2889/4096. B: 3/4.
    # (The online f alone would give y = 9/8, the online g alone 11/8.)
    _check(
        tools,
        _loss(tools, target_encoder=False),
        Fr(5961, 8192),
        (Fr(-3, 128), Fr(1, 2)),
        target_value=(Fr(35, 16), -2),
        td_error=(Fr(61, 32), 2),
        pred_value=(4, -4),
    )


def test_without_target_encoders_a_truncated_window_bootstraps_as_well(tools: Any) -> None:
    window = tools.window(
        s0=[[1]],
        action=[[[0], [0]]],
        after=[[[50], [Fr(1, 4)]]],
        reward=[[1, 2]],
        terminated=[[0, 0]],
        truncated=[[0, 1]],
        done=[[0, 1]],
    )
    loss = _loss(tools, horizon=2, target_encoder=False)
    tools.same(loss.value_loss(window)[1]["target_value"], Fr(35, 16))


@pytest.mark.parametrize(("terminated", "target"), [([0, 1, 0], 2), ([1, 0, 0], 1), ([0, 0, 1], Fr(35, 16))])
def test_without_target_encoders_a_termination_stops_the_bootstrap(
    tools: Any, terminated: list[int], target: Fr | int
) -> None:
    window = _window(tools, terminated=[terminated, [1, 0, 0]])
    found = _loss(tools, target_encoder=False).value_loss(window)[1]["target_value"]
    tools.same(found, target, -2)


def test_without_target_encoders_discrete_bootstraps_are_online_too(tools: Any) -> None:
    # Online z = s/2, x = 2 z + a_1 + 4 a_2; pi' = (z, 2 z), Q' = (x/2, 2 x).
    # s_2 = 1/4: z = 1/8, second action, x = 17/4, least 17/8, c y = 2 + 17/8.
    # s_2 = -1/4: z = -1/8, first action, x = 3/4, least 3/8, c y = 2 + 3/8.
    loss = tools.linear_loss(
        f=[[Fr(1, 2)]],
        g=[[2, 1, 4]],
        m=[[1], [1], [1], [1], [1]],
        pi=[[9], [9]],
        q=TWO,
        discrete=True,
        gamma=0.5,
        horizon=2,
        n_steps=2,
        target_encoder=False,
    )
    tools.set_weights(loss, target=True, state_encoder=[[2]], state_action_encoder=[[1, 5, 3]])
    tools.set_weights(loss, target=True, actor_network=[[1], [2]], qvalue_network=TWO_TARGETS)
    loss.target_reward_scale.fill_(4)
    window = tools.window(
        s0=[[1], [1]],
        action=[[[1, 0], [0, 1]], [[0, 1], [0, 1]]],
        after=[[[50], [Fr(1, 4)]], [[50], [Fr(-1, 4)]]],
        reward=[[1, 2], [1, 2]],
        terminated=[[0, 0], [0, 0]],
    )
    tools.same(loss.value_loss(window)[1]["target_value"], Fr(33, 8), Fr(19, 8))


def test_without_target_encoders_the_targets_follow_the_online_encoders_at_once(tools: Any) -> None:
    loss = _loss(tools, target_encoder=False)
    # z = s = 1/4, a' = 1/4, x = 3/4, least 3/8: c y = 2 + 3/8, and the heads' targets stay what they are.
    tools.set_weights(loss, state_encoder=[[1]], qvalue_network=([[7]], [[-9]]), actor_network=[[5]])
    tools.same(loss.value_loss(_window(tools))[1]["target_value"], Fr(19, 8), -2)


# Without the reward scale


def test_without_scaling_the_scales_stay_one_and_the_target_in_reward_units(tools: Any) -> None:
    loss = _loss(tools, reward_scaling=False)
    loss.reward_scale.fill_(1)
    loss.target_reward_scale.fill_(1)
    for mean in (0.5, 8.0, torch.tensor(0.0)):
        loss.update_reward_scale_(mean)
        assert (loss.reward_scale.item(), loss.target_reward_scale.item()) == (1, 1)
    # y = 2 + 1/4 * 1 and -2; Q - y = (-5/4, 3/4), (1, -1): Huber 3/4, 9/32, 1/2, 1/2, sum 65/32.
    # Gradient: k_1 (-1 * 1 + 1 * (-1)) / 4, k_2 (3/4 + (-1) (-1)) / 4.
    _check(
        tools,
        loss,
        Fr(65, 128),
        (Fr(-1, 2), Fr(7, 16)),
        td_error=(Fr(5, 4), 1),
        target_value=(Fr(9, 4), -2),
        pred_value=(2, -2),
    )


def test_with_scaling_the_same_calls_move_the_scales(tools: Any) -> None:
    loss = _loss(tools)
    loss.update_reward_scale_(8.0)
    assert (loss.reward_scale.item(), loss.target_reward_scale.item()) == (8, 2)


def test_all_switches_of_the_value_at_once(tools: Any) -> None:
    # One head, its square, online embeddings, scales 1. A: Q' = 3/16, y = 2 + 1/4 * 3/16 = 131/64,
    # Q - y = -67/64. B: y = -2, Q - y = 1. (4489/4096 + 1) / 2; gradient (2 (-67/64) - 2) / 2 = -131/64.
    loss = _loss(
        tools,
        heads=([[1]],),
        targets=([[Fr(1, 2)]],),
        value_loss="mse",
        target_encoder=False,
        reward_scaling=False,
    )
    loss.reward_scale.fill_(1)
    loss.target_reward_scale.fill_(1)
    _check(tools, loss, Fr(8585, 8192), (Fr(-131, 64),), td_error=(Fr(67, 64), 1))
