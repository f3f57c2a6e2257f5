"""The switches of the encoder's loss on linear networks: values and gradients worked by hand.

    f: z = s/2       g: x = 2 z + a       m: (d, z', r) = (1/4, 1/2, 1) x       f': z = 2 s

As in ``test_encoder_loss``, but m gives the reward itself: with the bins every number would hold a ln 2.

Window A: s_0 = 1, a = (0, 1), next observations (1/2, 0), rewards (1/2, -1).
Window B: s_0 = 2, a = (-1, -1), next observations (1/4, 1), rewards (0, 2), terminal at step 1.

Gradients by hand: with D_t the gradient at z_{t+1} and E_t that at x_t: E_t = D_t / 2 + (direct part),
grad u = sum E_t z_t, grad v = sum E_t a_t, grad q = sum D_t x_t; where the model unrolls
D_{t-1} = 2 E_t + (direct part) and grad w = 2 E_0 s_0, where it does not grad w = sum 2 E_t s_t.
"""

from __future__ import annotations

import math
from fractions import Fraction as Fr
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from uld_torchrl import ULDLoss

PARTS = {
    "dynamics": {"dynamics_coeff": 1.0, "reward_coeff": 0.0, "terminated_coeff": 0.0},
    "reward": {"dynamics_coeff": 0.0, "reward_coeff": 1.0, "terminated_coeff": 0.0},
    "terminated": {"dynamics_coeff": 0.0, "reward_coeff": 0.0, "terminated_coeff": 1.0},
}
HALF, ONE = {"m": [[Fr(1, 4)], [Fr(1, 2)], [1]]}, {"m": [[Fr(1, 4)], [0], [1]]}


def _loss(
    tools: Any, *, m: Any = HALF["m"], target_g: Any = ((2, 1),), pi: int = 7, **kwargs: Any
) -> ULDLoss:
    loss = tools.linear_loss(
        f=[[Fr(1, 2)]],
        g=[[2, 1]],
        m=m,
        pi=[[7]],
        q=[[[5]], [[6]]],
        **({"horizon": 2, "n_steps": 1, "reward_loss": "mse"} | kwargs),
    )
    tools.set_weights(loss, target=True, state_encoder=[[2]])
    tools.set_weights(loss, target=True, state_action_encoder=target_g, actor_network=[[pi]])
    return loss


def _window(tools: Any, **changes: Any) -> TensorDict:
    values = {
        "s0": [[1], [2]],
        "action": [[[0], [1]], [[-1], [-1]]],
        "after": [[[Fr(1, 2)], [0]], [[Fr(1, 4)], [1]]],
        "reward": [[Fr(1, 2), -1], [0, 2]],
        "terminated": [[0, 0], [0, 1]],
    }
    return tools.window(**(values | changes))


def _ended(tools: Any, rest: float, later_flags: int = 0) -> TensorDict:
    """Three steps, A terminal at step 0, B at step 1; ``rest`` stands in everything after."""
    window = tools.window(
        s0=[[1], [2]],
        action=[[[0], [rest], [-rest]], [[-1], [-1], [rest]]],
        after=[[[Fr(1, 2)], [rest], [3 * rest]], [[Fr(1, 4)], [1], [-rest]]],
        reward=[[Fr(1, 2), rest, -rest], [0, 2, 2 * rest]],
        terminated=[[1, later_flags, 0], [0, 1, later_flags]],
    )
    window["observation"][0, 1:], window["observation"][1, 2:] = -5 * rest, 7 * rest
    return window


def _check(tools: Any, loss: ULDLoss, window: TensorDict, part: str, value: Any, gradients: Any) -> None:
    found, metadata = loss.encoder_loss(window)
    tools.same(found, value)
    tools.same(metadata[f"{part}_error"], value)
    given = tools.gradients(found, loss)
    for name, expected in zip(("state_encoder", "state_action_encoder", "predictor"), gradients, strict=True):
        tools.same(given[name], *expected)
    assert not given["actor_network"].any() and not given["qvalue_network"].any()


# Square error of the reward. x = (1, 2) and (1, 0), r = x.
#   A: errors (1/2, 3), value 37/4; at r (1, 6): E_1 = 6, D_0 = 12, E_0 = 6 + 1 = 7:
#      rho 1 + 12 = 13, q 12, u 7/2 + 3 = 13/2, v 6, w 14.
#   B: errors (1, -2), value 5; at r (2, -4): E_1 = -4, D_0 = -8, E_0 = -4 + 2 = -2:
#      rho 2, q -8, u -2 - 2 = -4, v 2 + 4 = 6, w -8.
#   A ended at step 0: 1/4; E_0 = 1: rho 1, u 1/2, w 2.


def test_the_square_error_of_the_reward(tools: Any) -> None:
    loss = _loss(tools, **PARTS["reward"])
    expected = ((3,), (Fr(5, 4), 6), (0, 2, Fr(15, 2)))
    _check(tools, loss, _window(tools), "reward", Fr(57, 8), expected)
    # The reward 2 lies beyond the last bin, 1: there is no saturation. (1/2 + 3 + 1 + 2) / 4.
    tools.same(loss.encoder_loss(_window(tools))[1]["reward_mae"], Fr(13, 8))


@pytest.mark.parametrize(("rest", "later_flags"), [(1e6, 0), (-3e4, 1), (0.0, 1)])
def test_the_square_error_of_the_reward_stops_at_a_terminal(
    tools: Any, rest: float, later_flags: int
) -> None:
    loss, window = _loss(tools, horizon=3, **PARTS["reward"]), _ended(tools, rest, later_flags)
    expected = ((-3,), (Fr(-7, 4), 3), (0, -4, Fr(3, 2)))
    _check(tools, loss, window, "reward", Fr(21, 8), expected)
    tools.same(loss.encoder_loss(window)[1]["reward_mae"], Fr(7, 6))  # (1/2 + 1 + 2) / 3 steps


@pytest.mark.parametrize(
    ("reduction", "expected"), [("none", (Fr(37, 4), 5)), ("sum", (Fr(57, 4),)), ("mean", (Fr(57, 8),))]
)
def test_reductions_of_the_square_error(tools: Any, reduction: str, expected: tuple[Fr, ...]) -> None:
    value, _ = _loss(tools, reduction=reduction, **PARTS["reward"]).encoder_loss(_window(tools))
    tools.same(value, *expected)


def test_the_square_error_has_the_coefficient_of_the_cross_entropy(tools: Any) -> None:
    # z' = x/2 as in test_encoder_loss: dynamics 21/8, terminated 11/16. 21/16 + 57/32 + 11/128.
    loss = _loss(tools, dynamics_coeff=0.5, reward_coeff=0.25, terminated_coeff=0.125)
    value, metadata = loss.encoder_loss(_window(tools))
    tools.same(metadata["dynamics_error"], Fr(21, 8))
    tools.same(metadata["terminated_error"], Fr(11, 16))
    tools.same(value, Fr(21, 16) + Fr(57, 32) + Fr(11, 128))


def test_predicted_reward_reads_either_output(tools: Any) -> None:
    given = torch.tensor([[[0.0], [-3e5]], [[7.5], [1.0]]], dtype=torch.float64)
    assert torch.equal(_loss(tools).predicted_reward(given), given.squeeze(-1))
    bins = _loss(tools, m=[[1]] * 5, reward_loss="two_hot")
    # Softmax of (0, ln 2, ln 5) is (1, 2, 5) / 8, on the bins (-1, 0, 1): 1/2.
    logits = torch.tensor([0, math.log(2), math.log(5)], dtype=torch.float64)
    tools.same(bins.predicted_reward(logits), Fr(1, 2))


# Without the unroll each step starts from its own observation: z = (1/2, 1/4) and (1, 1/8),
# x = (1, 3/2) and (1, -3/4).
#   Dynamics, z' = (1/2, 3/4) and (1/2, -3/8), targets (1, 0) and (1/2, 2).
#     A: errors (-1/2, 3/4), 13/16; D (-1, 3/2), E (-1/2, 3/4): q -1 + 9/4, u -1/4 + 3/16, v 3/4,
#        w 2 (-1/2 + 3/8) = -1/4. B: (0, -19/8), 361/64; D_1 -19/4, E_1 -19/8: q 57/16, u -19/64,
#        v 19/8, w 2 (-19/8) / 4 = -19/16.
#   Reward. A: errors (1/2, 5/2), 13/2; E (1, 5): rho 1 + 15/2, u 1/2 + 5/4, v 5, w 2 (1 + 5/2) = 7.
#     B: (1, -11/4), 137/16; E (2, -11/2): rho 2 + 33/8, u 2 - 11/16, v -2 + 11/2, w 2 (4 - 11/8) = 21/4.
#   Terminated, d = (1/4, 3/8) and (1/4, -3/16). A: 13/64; at d (1/2, 3/4), E (1/8, 3/16): p 1/2 + 9/8,
#     u 1/16 + 3/64, v 3/16, w 2 (1/8 + 3/32) = 7/16. B: errors (1/4, -19/16), 377/256; at d (1/2, -19/8),
#     E (1/8, -19/32): p 1/2 + 57/32, u 1/8 - 19/256, v -1/8 + 19/32, w 2 (1/4 - 19/128) = 13/64.
SINGLE_STEPS = {
    "dynamics": (Fr(413, 128), ((Fr(-23, 32),), (Fr(-23, 128), Fr(25, 16)), (0, Fr(77, 32), 0))),
    "reward": (Fr(241, 32), ((Fr(49, 8),), (Fr(49, 32), Fr(17, 4)), (0, 0, Fr(117, 16)))),
    "terminated": (Fr(429, 512), ((Fr(41, 128),), (Fr(41, 512), Fr(21, 64)), (Fr(125, 64), 0, 0))),
}
# A ended at step 0, B as above.
ENDED_STEPS = {
    # A: 1/4; D -1, E -1/2: q -1, u -1/4, v 0, w -1.
    "dynamics": (Fr(377, 128), ((Fr(-35, 32),), (Fr(-35, 128), Fr(19, 16)), (0, Fr(41, 32), 0))),
    # A: 1/4; E 1: rho 1, u 1/2, v 0, w 2.
    "reward": (Fr(141, 32), ((Fr(29, 8),), (Fr(29, 32), Fr(7, 4)), (0, 0, Fr(57, 16)))),
    # A: (1/4 - 1)^2 = 9/16; at d -3/2, E -3/8: p -3/2, u -3/16, v 0, w -3/4.
    "terminated": (Fr(521, 512), ((Fr(-35, 128),), (Fr(-35, 512), Fr(15, 64)), (Fr(25, 64), 0, 0))),
}


@pytest.mark.parametrize("part", PARTS)
def test_without_the_unroll_each_step_starts_from_its_own_observation(tools: Any, part: str) -> None:
    loss = _loss(tools, unroll=False, **PARTS[part])
    _check(tools, loss, _window(tools), part, *SINGLE_STEPS[part])
    tools.same(loss.encoder_loss(_window(tools))[1]["reward_mae"], Fr(27, 16))  # (1/2 + 5/2 + 1 + 11/4) / 4


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("rest", "later_flags"), [(1e6, 0), (-3e4, 1), (0.0, 1)])
def test_without_the_unroll_nothing_after_a_terminal_counts(
    tools: Any, part: str, rest: float, later_flags: int
) -> None:
    """Nor do the later observations, which belong to another episode."""
    loss = _loss(tools, horizon=3, unroll=False, **PARTS[part])
    _check(tools, loss, _ended(tools, rest, later_flags), part, *ENDED_STEPS[part])


def test_without_the_unroll_a_truncation_at_the_last_step_changes_nothing(tools: Any) -> None:
    loss = _loss(tools, unroll=False)
    plain = loss.encoder_loss(_window(tools))[0]
    cut = loss.encoder_loss(_window(tools, truncated=[[0, 1], [0, 0]], done=[[0, 1], [0, 1]]))[0]
    assert torch.equal(plain, cut)


def test_without_the_unroll_steps_that_are_not_valid_are_masked(tools: Any) -> None:
    window = _window(tools, truncated=[[1, 0], [0, 0]])
    window["validity_mask"] = torch.tensor([[True, False], [True, True]])
    window["observation"][0, 1], window["next", "reward"][0, 1] = 1e5, 1e5
    _, metadata = _loss(tools, unroll=False).encoder_loss(window)
    tools.same(metadata["dynamics_error"], (Fr(1, 4) + Fr(361, 64)) / 2)
    tools.same(metadata["reward_error"], (Fr(1, 4) + Fr(137, 16)) / 2)
    tools.same(metadata["terminated_error"], (Fr(1, 16) + Fr(377, 256)) / 2)


@pytest.mark.parametrize("reward_loss", ["two_hot", "mse"])
def test_without_the_unroll_a_window_is_the_sum_of_its_steps(tools: Any, reward_loss: str) -> None:
    """On the package's own networks: H steps cost what H windows of one step cost, gradients included."""
    settings = {"n_steps": 1, "reward_loss": reward_loss, "reduction": "none"}
    whole = tools.real_loss(horizon=3, unroll=False, **settings).double()
    single = tools.real_loss(horizon=1, **settings).double()
    single.load_state_dict(whole.state_dict())
    td = tools.random_window().apply(lambda x: x.double() if x.is_floating_point() else x)
    td["next", "terminated"][:, -1] = True
    value = whole.encoder_loss(td)[0]
    steps = sum(single.encoder_loss(td[:, t : t + 1])[0] for t in range(3))
    torch.testing.assert_close(value, steps)
    gradients = [
        torch.autograd.grad(total.sum(), list(loss.parameters()), allow_unused=True)
        for loss, total in ((whole, value), (single, steps))
    ]
    torch.testing.assert_close(*gradients)


# Without target encoders: targets s/2, so (1/4, 0) and (1/8, 1/2); no gradient through them.
#   A: z_1 = 1/2, z_2 = 1: errors (1/4, 1), 17/16; D_1 = 2, E_1 = 1, D_0 = 1/2 + 2, E_0 = 5/4:
#      q 5/2 + 4, u 5/8 + 1/2, v 1, w 5/2.
#   B: z_1 = 1/2, z_2 = 0: errors (3/8, -1/2), 25/64; D_1 = -1, E_1 = -1/2, D_0 = 3/4 - 1, E_0 = -1/8:
#      q -1/4, u -1/8 - 1/4, v 1/8 + 1/2, w -1/2.
ONLINE_TARGETS = (Fr(93, 128), ((1,), (Fr(3, 8), Fr(13, 16)), (0, Fr(25, 8), 0)))


def test_without_target_encoders_the_online_one_gives_the_target_and_gets_no_gradient(tools: Any) -> None:
    loss = _loss(tools, target_encoder=False, **PARTS["dynamics"])
    _check(tools, loss, _window(tools), "dynamics", *ONLINE_TARGETS)


# Target x'a': f': z = 2 s, g': x = z + 3 a, pi': a' = clip(z).
#   Next z (1, 0) and (1/2, 2), a' (1, 0) and (1/2, 1), targets (4, 0) and (2, 5). From each step's own
#   observation, predictions (1/2, 3/4) and (1/2, -3/8):
#   A: errors (-7/2, 3/4), 205/16; D (-7, 3/2), E (-7/2, 3/4): q -7 + 9/4, u -7/4 + 3/16, v 3/4,
#      w 2 (-7/2 + 3/8) = -25/4.
#   B: errors (-3/2, -43/8), 1993/64; D (-3, -43/4), E (-3/2, -43/8): q -3 + 129/16, u -3/2 - 43/64,
#      v 3/2 + 43/8, w 2 (-3 - 43/32) = -139/16.
PAIRS = {"dynamics_target": "state_action", "unroll": False, "target_g": ((1, 3),), "pi": 1}


def test_the_dynamics_target_may_be_the_embedding_of_the_next_pair(tools: Any) -> None:
    loss = _loss(tools, **PAIRS, **PARTS["dynamics"])
    expected = ((Fr(-239, 32),), (Fr(-239, 128), Fr(61, 16)), (0, Fr(5, 32), 0))
    _check(tools, loss, _window(tools), "dynamics", Fr(2813, 128), expected)


@pytest.mark.parametrize(("rest", "later_flags"), [(1e6, 0), (-3e4, 1)])
def test_the_terminal_pair_is_the_last_target(tools: Any, rest: float, later_flags: int) -> None:
    # A ended at step 0: (-7/2)^2 = 49/4; D -7, E -7/2: q -7, u -7/4, v 0, w -7. B as above.
    loss = _loss(tools, horizon=3, **PAIRS, **PARTS["dynamics"])
    expected = ((Fr(-251, 32),), (Fr(-251, 128), Fr(55, 16)), (0, Fr(-31, 32), 0))
    _check(tools, loss, _ended(tools, rest, later_flags), "dynamics", Fr(2777, 128), expected)


def test_a_pair_after_a_truncation_is_a_target_like_any_other(tools: Any) -> None:
    window = _window(tools, truncated=[[0, 1], [0, 0]], done=[[0, 1], [0, 1]])
    tools.same(_loss(tools, **PAIRS, **PARTS["dynamics"]).encoder_loss(window)[0], Fr(2813, 128))


def _squared_targets(tools: Any, **kwargs: Any) -> torch.Tensor:
    """Squares of the targets after s' = 1/2, 0, 1/4, 1, one window each: m's prediction is zero."""
    loss = _loss(tools, **(PAIRS | ONE | {"horizon": 1, "reduction": "none"} | PARTS["dynamics"] | kwargs))
    window = tools.window(
        s0=[[1]] * 4,
        action=[[[1]]] * 4,
        after=[[[Fr(1, 2)]], [[0]], [[Fr(1, 4)]], [[1]]],
        reward=[[0]] * 4,
        terminated=[[0]] * 4,
    )
    value = loss.encoder_loss(window)[0]
    gradients = tools.gradients(value.sum(), loss)
    # Nothing of the target learns: without its prediction m's middle is all that does.
    assert not any(gradients[name].any() for name in gradients if name != "predictor")
    return value


# Noise of standard deviation 1/2, clipped at 1/4, on a' = 1, 0, 1/2, clip(2).
@pytest.mark.parametrize(
    ("noise", "targets"),
    [
        (0.0, (4, 0, 2, 5)),
        (1.0, (4, Fr(3, 4), Fr(11, 4), 5)),  # a' = 1 (clipped), 1/4, 3/4, 1
        (-1.0, (Fr(13, 4), Fr(-3, 4), Fr(5, 4), 5)),  # a' = 3/4, -1/4, 1/4, 1: clip(2 - 1/4)
        (0.25, (4, Fr(3, 8), Fr(19, 8), 5)),  # 1/8 is not clipped
    ],
)
def test_the_next_action_is_that_of_the_target_policy_with_clipped_noise(
    tools: Any, monkeypatch: pytest.MonkeyPatch, noise: float, targets: tuple[Any, ...]
) -> None:
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.full_like(like, noise))
    found = _squared_targets(tools, policy_noise=0.5, noise_clip=0.25)
    tools.same(found, *(Fr(x) ** 2 for x in targets))


def test_without_target_encoders_the_next_pair_is_embedded_online(tools: Any) -> None:
    # z = s'/2 = 1/4, 0, 1/8, 1/2, a' = z, x = 2 z + a' = 3 z.
    found = _squared_targets(tools, target_encoder=False)
    tools.same(found, Fr(9, 16), 0, Fr(9, 64), Fr(9, 4))


def test_one_step_needs_no_unroll_for_the_next_pair(tools: Any) -> None:
    tools.same(_squared_targets(tools, unroll=True), 16, 0, 4, 25)


@pytest.mark.parametrize(
    ("noise", "targets"),
    [
        # pi' = (z, 2 z), x' = z + 5 a_1 + 3 a_2; after s' = 1/4 z = 1/2: second action, 7/2;
        # after -1/4 z = -1/2: first action, 9/2.
        ((0, 0), (Fr(7, 2), Fr(9, 2))),
        # (1, 1/2): now the first, 11/2; (0, -3/2).
        ((1, -1), (Fr(11, 2), Fr(9, 2))),
    ],
)
def test_a_discrete_next_action_is_the_one_hot_of_the_argmax(
    tools: Any, monkeypatch: pytest.MonkeyPatch, noise: tuple[int, int], targets: tuple[Fr, Fr]
) -> None:
    drawn = torch.tensor(noise, dtype=torch.float64)
    monkeypatch.setattr(torch, "randn_like", lambda like: drawn.expand_as(like))
    loss = tools.linear_loss(
        f=[[Fr(1, 2)]],
        g=[[2, 1, 4]],
        m=ONE["m"],
        pi=[[9], [9]],
        q=[[[1]]],
        discrete=True,
        horizon=1,
        n_steps=1,
        reduction="none",
        policy_noise=0.5,
        noise_clip=0.5,
        reward_loss="mse",
        dynamics_target="state_action",
        **PARTS["dynamics"],
    )
    tools.set_weights(loss, target=True, state_encoder=[[2]], state_action_encoder=[[1, 5, 3]])
    tools.set_weights(loss, target=True, actor_network=[[1], [2]])
    window = tools.window(
        s0=[[1], [1]],
        action=[[[1, 0]], [[0, 1]]],
        after=[[[Fr(1, 4)]], [[Fr(-1, 4)]]],
        reward=[[0], [0]],
        terminated=[[0], [0]],
    )
    tools.same(loss.encoder_loss(window)[0], *(x**2 for x in targets))


def test_the_next_pair_may_be_wider_than_the_state(tools: Any) -> None:
    # z = s; x = (z, 10 a) of width 2, m predicts (0, 0): mean of (z', 10 a')^2 / 2 with a' = z' = 1/2.
    loss = tools.linear_loss(
        f=[[1]],
        g=[[1, 0], [0, 10]],
        m=[[0, 0]] * 4,
        pi=[[1]],
        q=[[[1, 1]]],
        horizon=1,
        n_steps=1,
        reward_loss="mse",
        dynamics_target="state_action",
        **PARTS["dynamics"],
    )
    window = tools.window(s0=[[1]], action=[[[0]]], after=[[[Fr(1, 2)]]], reward=[[0]], terminated=[[0]])
    tools.same(loss.encoder_loss(window)[0], (Fr(1, 4) + 25) / 2)


# Frozen encoders: m's gradients as ever, also those that come back through the frozen g.


@pytest.mark.parametrize(
    ("kwargs", "part", "value", "predictor"),
    [
        ({}, "reward", Fr(57, 8), (0, 2, Fr(15, 2))),
        ({"unroll": False}, "dynamics", Fr(413, 128), (0, Fr(77, 32), 0)),
        ({"target_encoder": False}, "dynamics", Fr(93, 128), (0, Fr(25, 8), 0)),
        (PAIRS, "dynamics", Fr(2813, 128), (0, Fr(5, 32), 0)),
    ],
    ids=["unrolled", "single steps", "online targets", "pairs"],
)
def test_frozen_encoders_get_no_gradient_and_m_the_same(
    tools: Any, kwargs: Any, part: str, value: Fr, predictor: tuple[Any, ...]
) -> None:
    loss = _loss(tools, freeze_encoder=True, **kwargs, **PARTS[part])
    _check(tools, loss, _window(tools), part, value, ((0,), (0, 0), predictor))
    loss.encoder_loss(_window(tools))[0].backward()
    assert tools.weight(loss, "state_encoder").grad is tools.weight(loss, "state_action_encoder").grad is None
