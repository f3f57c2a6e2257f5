"""Which windows the losses refuse: other shapes, and those that run on past a truncation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from uld_torchrl.errors import InputError

LOSSES = ("encoder_loss", "value_loss", "__call__")


def _flags(td: TensorDict, **steps: tuple[int, int]) -> TensorDict:
    """Set (window, step) in the named flags below "next"; done follows the other two if absent."""
    for name, where in steps.items():
        if ("next", name) not in td.keys(True):
            td["next", name] = torch.zeros(*td.shape, 1, dtype=torch.bool)
        td["next", name][where] = True
    return td


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("shape", "words"),
    [((4, 5), r"\(4, 5\)"), ((4, 1), r"\(4, 1\)"), ((4,), r"\(4,\)"), ((2, 4, 3), r"\(2, 4, 3\)")],
)
def test_wrong_batch_shapes_are_named(tools: Any, name: str, shape: tuple[int, ...], words: str) -> None:
    td = tools.random_window(B=40, H=3).reshape(-1)[: math.prod(shape)].reshape(shape)
    with pytest.raises(InputError, match=rf"expected windows of batch size \(B, 3\), got {words}"):
        getattr(tools.real_loss(), name)(td)


def test_the_value_loss_takes_the_steps_it_reads_alone(tools: Any) -> None:
    loss, td = tools.real_loss(policy_noise=0.0), tools.random_window()
    whole, cut = loss.value_loss(td), loss.value_loss(td[:, : loss.n_steps])
    assert loss.n_steps < td.shape[1]
    assert torch.equal(whole[0], cut[0])
    for key in ("td_error", "state_embedding", "pred_value", "target_value"):
        assert torch.equal(whole[1][key], cut[1][key])
    with pytest.raises(InputError, match="expected windows of batch size"):
        loss.encoder_loss(td[:, : loss.n_steps])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("flag", ["truncated", "done"])
@pytest.mark.parametrize("step", [0, 1])
def test_running_on_past_a_truncation_is_refused(tools: Any, name: str, flag: str, step: int) -> None:
    td = _flags(tools.random_window(), **{flag: (2, step)})
    with pytest.raises(InputError, match=f"window 2 runs on past the truncation at its step {step}"):
        getattr(tools.real_loss(), name)(td)


@pytest.mark.parametrize("flags", [("truncated",), ("done",), ("truncated", "done")])
def test_a_truncation_at_the_last_step_is_legal(tools: Any, flags: tuple[str, ...]) -> None:
    loss = tools.real_loss(policy_noise=0.0)
    plain = loss(tools.random_window())
    cut = loss(_flags(tools.random_window(), **dict.fromkeys(flags, (2, 2))))
    assert (plain == cut).all()


def test_a_truncation_after_a_termination_is_legal(tools: Any) -> None:
    loss = tools.real_loss()
    loss(_flags(tools.random_window(), terminated=(2, 0), truncated=(2, 1), done=(2, 0)))
    # At the same step: the task has ended, what follows is masked.
    loss(_flags(tools.random_window(), terminated=(2, 1), truncated=(2, 1), done=(2, 1)))
    with pytest.raises(InputError, match="truncation at its step 0"):
        loss(_flags(tools.random_window(), terminated=(2, 1), truncated=(2, 0)))


@pytest.mark.parametrize("extra", [(), (1,)])
def test_validity_mask_false_after_the_truncation_is_legal(tools: Any, extra: tuple[int, ...]) -> None:
    loss = tools.real_loss()
    td = _flags(tools.random_window(), truncated=(2, 1))
    mask = torch.ones(4, 3, dtype=torch.bool)
    mask[2, 2] = False
    td["validity_mask"] = mask.reshape(4, 3, *extra)
    loss(td)
    mask[2, 2], mask[1, 2] = True, False
    td["validity_mask"] = mask.reshape(4, 3, *extra)
    with pytest.raises(InputError, match="window 2 runs on past"):
        loss(td)


def test_validity_mask_with_a_hole_does_not_let_the_next_episode_in(tools: Any) -> None:
    """Step 1 is cut off, step 2 marked invalid, step 3 is of another episode and marked valid."""
    td = _flags(tools.random_window(H=4), truncated=(2, 1))
    td["validity_mask"] = torch.tensor([[1, 1, 1, 1]] * 4).bool()
    td["validity_mask"][2, 2] = False
    with pytest.raises(InputError, match="window 2"):
        tools.real_loss(horizon=4).encoder_loss(td)


def test_validity_mask_may_not_drop_the_first_n_steps(tools: Any) -> None:
    loss, td = tools.real_loss(n_steps=2), tools.random_window()
    td["validity_mask"] = torch.ones(4, 3, dtype=torch.bool)
    td["validity_mask"][3, 1:] = False
    with pytest.raises(InputError, match=r"false at step 1 of window 3, .* needs the first 2 steps"):
        loss.value_loss(td)
    # After a termination it may: these steps count for nothing anyway.
    loss.value_loss(_flags(td, terminated=(3, 0)))


def test_the_check_can_be_turned_off(tools: Any) -> None:
    td = _flags(tools.random_window(), truncated=(2, 0))
    tools.real_loss(check_windows=False)(td)


def test_the_actor_loss_takes_any_window(tools: Any) -> None:
    """It reads the first observation only."""
    td = tools.random_window()
    loss = tools.real_loss()
    whole = loss.actor_loss(td)[0]
    torch.testing.assert_close(loss.actor_loss(td[:, :1])[0], whole, rtol=0, atol=0)
    torch.testing.assert_close(loss.actor_loss(td[:, 0])[0], whole, rtol=0, atol=0)
