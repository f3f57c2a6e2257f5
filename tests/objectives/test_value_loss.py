"""The value loss and its target on linear networks: values and gradients worked by hand.

Online: z = s/2, x = 2 z + a, Q = (x, 3 x). Targets: z = 2 s, pi' = z, x = z + 3 a, Q' = (x/2, 2 x).
gamma = 1/2, n = 2, H = 3, reward scale c = 2, target reward scale c' = 4. No noise, actions in [-1, 1].

Window A: s_0 = 1, a_0 = 0, rewards (1, 2), s_2 = 1/4 (the next observation of step 1).
    x_0 = 1, Q = (1, 3). G = 1 + 2/2 = 2, D = 1/4. z = 1/2, a' = 1/2, x = 2, Q' = (1, 4), least 1.
    y = (2 + 1/4 * 4 * 1) / 2 = 3/2. Q - y = (-1/2, 3/2): Huber 1/8 and 1, mean 9/16; td_error 3/2.
Window B: s_0 = 2, a_0 = -3, terminal at step 0 with reward -2.
    x_0 = 2 - 3 = -1, Q = (-1, -3). G = -2, D = 0, y = -1. Q - y = (0, -2): Huber 0 and 3/2, mean 3/4;
    td_error 2.
Loss (9/16 + 3/4) / 2 = 21/32. Gradient of k_i: Huber' x_0 / 4:
    k_1: (-1/2 * 1 + 0) / 4 = -1/8, k_2: (1 * 1 + (-1) * (-1)) / 4 = 1/2.
"""

from __future__ import annotations

from fractions import Fraction as Fr
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from uld_torchrl import ULDLoss


def _loss(tools: Any, scales: tuple[float, float] = (2, 4), pi: Fr | int = 1, **kwargs: Any) -> ULDLoss:
    loss = tools.linear_loss(
        f=[[Fr(1, 2)]],
        g=[[2, 1]],
        m=[[1], [1], [1], [1], [1]],
        pi=[[9]],
        q=[[[1]], [[3]]],
        **({"gamma": 0.5, "horizon": 3, "n_steps": 2} | kwargs),
    )
    tools.set_weights(loss, target=True, state_encoder=[[2]], state_action_encoder=[[1, 3]])
    tools.set_weights(loss, target=True, actor_network=[[pi]], qvalue_network=[[[Fr(1, 2)]], [[2]]])
    loss.reward_scale.fill_(scales[0])
    loss.target_reward_scale.fill_(scales[1])
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


def _target(tools: Any, loss: ULDLoss, window: TensorDict) -> torch.Tensor:
    """y, from ``target_value``, which is y times the reward scale."""
    return loss.value_loss(window)[1]["target_value"] / loss.reward_scale


def test_value_target_and_td_error(tools: Any) -> None:
    loss = _loss(tools)
    value, metadata = loss.value_loss(_window(tools))
    tools.same(value, Fr(21, 32))
    assert metadata.shape == (2,)
    tools.same(metadata["td_error"], Fr(3, 2), 2)
    tools.same(metadata["target_value"], 3, -2)  # y = (3/2, -1), times c = 2
    tools.same(metadata["pred_value"], 4, -4)  # mean Q = (2, -2), times c = 2
    tools.same(metadata["state_embedding"], Fr(1, 2), 1)
    assert not any(entry.requires_grad for entry in metadata.values())


def test_gradients_reach_the_heads_only(tools: Any) -> None:
    loss = _loss(tools)
    found = tools.gradients(loss.value_loss(_window(tools))[0], loss)
    tools.same(found.pop("qvalue_network"), Fr(-1, 8), Fr(1, 2))
    assert not any(gradient.any() for gradient in found.values())


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("none", (Fr(9, 16), Fr(3, 4))), ("sum", (Fr(21, 16),)), (None, (Fr(21, 32),))],
)
def test_reductions(tools: Any, reduction: str, expected: tuple[Fr, ...]) -> None:
    value, _ = _loss(tools, reduction=reduction).value_loss(_window(tools))
    tools.same(value, *expected)


@pytest.mark.parametrize(
    ("scale", "target_scale", "y"),
    [
        (1, 1, Fr(9, 4)),  # 2 + 1/4
        (2, 4, Fr(3, 2)),
        (4, 2, Fr(5, 8)),  # (2 + 1/2) / 4
        (1, 4, 3),
        (2, 1, Fr(9, 8)),
    ],
)
def test_reward_scales_enter_the_target(tools: Any, scale: int, target_scale: int, y: Fr) -> None:
    tools.same(_target(tools, _loss(tools, (scale, target_scale)), _window(tools)), y, Fr(-2, scale))


def test_the_target_action_is_clipped(tools: Any) -> None:
    # pi' = 4 z = 2 -> 1: x = 1/2 + 3 = 7/2, least 7/4, y = (2 + 7/4) / 2 = 15/8.
    tools.same(_target(tools, _loss(tools, pi=4), _window(tools))[0], Fr(15, 8))
    # pi' = -4 z = -2 -> -1: x = 1/2 - 3 = -5/2, Q' = (-5/4, -5), least -5, y = (2 - 5) / 2.
    tools.same(_target(tools, _loss(tools, pi=-4), _window(tools))[0], Fr(-3, 2))


def test_the_smaller_target_head_is_taken_in_each_window(tools: Any) -> None:
    # s_2 = -1/4: z = -1/2, a' = -1/2, x = -2, Q' = (-1, -4): y = (2 - 4) / 2 = -1; with s_2 = 1/4, 3/2.
    window = _window(
        tools,
        after=[[[50], [Fr(1, 4)], [60]], [[50], [Fr(-1, 4)], [80]]],
        reward=[[1, 2, 9], [1, 2, 40]],
        terminated=[[0, 0, 0], [0, 0, 0]],
    )
    tools.same(_target(tools, _loss(tools), window), Fr(3, 2), -1)


# The end of an episode


@pytest.mark.parametrize("rest", [0.0, 1e6, -3e5])
def test_nothing_after_a_terminal_counts(tools: Any, rest: float) -> None:
    loss, window = _loss(tools), _window(tools)
    window["next", "reward"][1, 1:], window["next", "observation"][1] = rest, rest
    window["action"][1, 1:], window["observation"][1, 1:] = rest, rest
    # Of A the third step is beyond n.
    window["next", "reward"][0, 2], window["next", "observation"][0, 2] = rest, rest
    value, metadata = loss.value_loss(window)
    tools.same(value, Fr(21, 32))
    tools.same(metadata["td_error"], Fr(3, 2), 2)
    tools.same(tools.gradients(value, loss)["qvalue_network"], Fr(-1, 8), Fr(1, 2))


@pytest.mark.parametrize(
    ("terminated", "y"),
    [
        ([0, 0, 0], Fr(3, 2)),
        ([0, 1, 0], 1),  # terminal at step n - 1: both rewards, no bootstrap: 2 / 2
        ([1, 1, 0], Fr(1, 2)),  # the first one counts: r_0 / 2
        ([0, 0, 1], Fr(3, 2)),  # after the first n steps: no effect
    ],
)
def test_terminations_stop_the_bootstrap(tools: Any, terminated: list[int], y: Fr) -> None:
    window = _window(tools, terminated=[terminated, [1, 0, 0]])
    tools.same(_target(tools, _loss(tools), window)[0], y)


@pytest.mark.parametrize("flags", [("truncated",), ("done",), ("truncated", "done")])
def test_a_truncation_at_the_last_step_still_bootstraps(tools: Any, flags: tuple[str, ...]) -> None:
    """With n = H the step that is cut off is the one that is bootstrapped from: y stays 3/2."""
    window = tools.window(
        s0=[[1]],
        action=[[[0], [0]]],
        after=[[[50], [Fr(1, 4)]]],
        reward=[[1, 2]],
        terminated=[[0, 0]],
        **{flag: [[0, 1]] for flag in flags},
    )
    tools.same(_target(tools, _loss(tools, horizon=2), window), Fr(3, 2))


def test_horizon_may_equal_n(tools: Any) -> None:
    window = _window(
        tools,
        action=[[[0], [0]], [[-3], [0]]],
        after=[[[50], [Fr(1, 4)]], [[50], [70]]],
        reward=[[1, 2], [-2, 30]],
        terminated=[[0, 0], [1, 0]],
    )
    tools.same(_loss(tools, horizon=2).value_loss(window)[0], Fr(21, 32))


def test_one_step_return(tools: Any) -> None:
    # n = 1: bootstrap from the next observation of step 0, s_1 = 1/2: z = 1, a' = 1, x = 4, least 2:
    # y = (1 + 1/2 * 4 * 2) / 2 = 5/2.
    window = _window(tools, after=[[[Fr(1, 2)], [70], [60]], [[50], [70], [80]]])
    tools.same(_target(tools, _loss(tools, n_steps=1), window)[0], Fr(5, 2))


# Reward scales over time


def test_zero_rewards_then_the_first_reward(tools: Any) -> None:
    loss = _loss(tools, scales=(1, 1))
    still = _window(tools, reward=[[0, 0, 0], [0, 0, 0]])
    loss.update_reward_scale_(0.0)
    assert (loss.reward_scale.item(), loss.target_reward_scale.item()) == (1e-8, 1.0)
    # y = (0 + 1/4 * 1 * 1) / 1e-8 = 2.5e7 for A, 0 for the terminated B.
    value, metadata = loss.value_loss(still)
    assert torch.isfinite(value) and torch.isfinite(metadata["td_error"]).all()
    torch.testing.assert_close(metadata["target_value"], torch.tensor([0.25, 0.0], dtype=torch.float64))
    loss.update_reward_scale_(torch.tensor(0.0))
    assert (loss.reward_scale.item(), loss.target_reward_scale.item()) == (1e-8, 1e-8)
    # Both scales the same: y = 1/4.
    torch.testing.assert_close(_target(tools, loss, still)[0].item(), 0.25, rtol=1e-12, atol=0)
    # The first reward: mean |r| = 1/2. y = (2 + 1/4 * 1e-8 * 1) / (1/2).
    loss.update_reward_scale_(0.5)
    assert (loss.reward_scale.item(), loss.target_reward_scale.item()) == (0.5, 1e-8)
    expected = (2 + 0.25e-8) / 0.5
    torch.testing.assert_close(_target(tools, loss, _window(tools))[0].item(), expected, rtol=1e-14, atol=0)


def test_scales_start_at_one_and_follow_one_another(tools: Any) -> None:
    loss = tools.real_loss()
    seen = [(loss.reward_scale.item(), loss.target_reward_scale.item())]
    for mean in (2.0, 3.0, 0.25):
        loss.update_reward_scale_(mean)
        seen.append((loss.reward_scale.item(), loss.target_reward_scale.item()))
    assert seen == [(1, 1), (2, 1), (3, 2), (0.25, 3)]


# Noise on the target action: policy_noise 1/2, clipped at 1/4


@pytest.mark.parametrize(
    ("pi", "noise", "y"),
    [
        (1, 1.0, Fr(27, 16)),  # 1/2 -> 1/4: a' = 3/4, x = 11/4, least 11/8, y = (2 + 11/8) / 2
        (1, -1.0, Fr(21, 16)),  # a' = 1/4, x = 5/4, y = (2 + 5/8) / 2
        (1, 0.25, Fr(51, 32)),  # 1/8 is not clipped: a' = 5/8, x = 19/8, y = (2 + 19/16) / 2
        (2, 1.0, Fr(15, 8)),  # the sum 5/4 is clipped to 1: x = 7/2, y = (2 + 7/4) / 2
        (4, -1.0, Fr(15, 8)),  # 2 - 1/4 -> 1: the policy's output is not clipped before the noise is added
    ],
)
def test_noise_is_clipped_and_so_is_the_action(
    tools: Any, monkeypatch: pytest.MonkeyPatch, pi: int, noise: float, y: Fr
) -> None:
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.full_like(like, noise))
    loss = _loss(tools, pi=pi, policy_noise=0.5, noise_clip=0.25)
    tools.same(_target(tools, loss, _window(tools))[0], y)


def test_the_noise_is_normal_and_cut_at_the_clip(tools: Any) -> None:
    # G = 0, c = c' = 1, D = 1/4, z = 0, Q' = (x/2, 2 x) with x = 3 noise: y = 1/4 min(3/2 e, 6 e).
    B = 20_000
    window = tools.window(
        s0=[[1]], action=[[[0]] * 3], after=[[[0]] * 3], reward=[[0] * 3], terminated=[[0] * 3]
    )
    loss = _loss(tools, scales=(1, 1), policy_noise=0.2, noise_clip=0.3)
    torch.manual_seed(0)
    y = _target(tools, loss, window.expand(B, 3).contiguous())
    noise = torch.where(y > 0, y * 8 / 3, y * 2 / 3)
    assert noise.abs().max().item() == pytest.approx(0.3)
    # P(|N| > 1.5) = .1336, and four standard errors of a frequency and of a mean.
    clipped = (noise.abs() > 0.3 - 1e-9).double().mean().item()
    assert clipped == pytest.approx(0.1336, abs=4 * (0.1336 * 0.8664 / B) ** 0.5)
    assert noise.mean().item() == pytest.approx(0, abs=4 * 0.2 / B**0.5)
    # P(|N| < 1/2) = .3829: the part that is not cut has the right width.
    inner = (noise.abs() < 0.1).double().mean().item()
    assert inner == pytest.approx(0.3829, abs=4 * (0.3829 * 0.6171 / B) ** 0.5)


# Discrete actions


def _discrete(tools: Any, **kwargs: Any) -> ULDLoss:
    """g' = z + 5 a_1 + 3 a_2, pi' = (z, 2 z)."""
    loss = tools.linear_loss(
        f=[[Fr(1, 2)]],
        g=[[2, 1, 4]],
        m=[[1], [1], [1], [1], [1]],
        pi=[[9], [9]],
        q=[[[1]], [[3]]],
        discrete=True,
        **({"gamma": 0.5, "horizon": 2, "n_steps": 2} | kwargs),
    )
    tools.set_weights(loss, target=True, state_encoder=[[2]], state_action_encoder=[[1, 5, 3]])
    tools.set_weights(loss, target=True, actor_network=[[1], [2]], qvalue_network=[[[Fr(1, 2)]], [[2]]])
    loss.reward_scale.fill_(2)
    loss.target_reward_scale.fill_(4)
    return loss


def _discrete_window(tools: Any) -> TensorDict:
    window = tools.window(
        s0=[[1], [1]],
        action=[[[1, 0], [0, 1]], [[0, 1], [0, 1]]],
        after=[[[50], [Fr(1, 4)]], [[50], [Fr(-1, 4)]]],
        reward=[[1, 2], [1, 2]],
        terminated=[[0, 0], [0, 0]],
    )
    return window.set("action", window["action"].bool())


def test_discrete_target_action_is_the_one_hot_of_the_argmax(tools: Any) -> None:
    # A: z = 1/2, pi' = (1/2, 1): second action, x = 1/2 + 3 = 7/2, least 7/4, y = (2 + 7/4) / 2.
    # B: z = -1/2, pi' = (-1/2, -1): first action, x = -1/2 + 5 = 9/2, least 9/4, y = (2 + 9/4) / 2.
    loss, window = _discrete(tools), _discrete_window(tools)
    value, metadata = loss.value_loss(window)
    tools.same(_target(tools, loss, window), Fr(15, 8), Fr(17, 8))
    # Online: x = 2 * 1/2 + (1, 4) = (2, 5), Q = (2, 6), (5, 15).
    # Q - y = (1/8, 33/8), (23/8, 103/8): Huber 1/128 + 29/8 and 19/8 + 99/8, over 4.
    tools.same(metadata["td_error"], Fr(33, 8), Fr(103, 8))
    tools.same(value, (Fr(1, 128) + Fr(29, 8) + Fr(19, 8) + Fr(99, 8)) / 4)


def test_discrete_noise_is_added_before_the_argmax(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Noise (+1/2, -1/2) turns A's (1/2, 1) into (1, 1/2): first action, x = 11/2, y = (2 + 11/4) / 2;
    # clipped at 1/8 it would be (5/8, 7/8): second action, as without noise.
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
    monkeypatch.setattr(torch, "randn_like", lambda like: signs.expand_as(like))
    window = _discrete_window(tools)
    wide = _discrete(tools, policy_noise=0.5, noise_clip=0.5)
    tools.same(_target(tools, wide, window)[0], Fr(19, 8))
    clipped = _discrete(tools, policy_noise=0.5, noise_clip=0.125)
    tools.same(_target(tools, clipped, window)[0], Fr(15, 8))
