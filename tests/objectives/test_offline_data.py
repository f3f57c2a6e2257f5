"""Windows cut from an offline data set: what the losses take, and how they refuse the rest by name.

Such windows have no ``validity_mask`` and were not checked by the replay buffer. Truncations inside
them are in ``test_loss_windows``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, OneHot

from uld_torchrl.errors import InputError

LOSSES = ("encoder_loss", "value_loss", "__call__")
SPECS = {"box": Bounded(-1, 1, (2,)), "one-hot": OneHot(2)}


def _episode(spec: Any, steps: int = 12) -> TensorDict:
    """One episode [steps] as data sets hold it; the last step is terminal."""
    torch.manual_seed(5)
    observations, ended = torch.randn(steps + 1, 3), torch.zeros(steps, 1, dtype=torch.bool)
    ended[-1] = True
    return TensorDict(
        {
            "observation": observations[:-1],
            "action": spec.rand((steps,)),
            "next": {
                "observation": observations[1:],
                "reward": torch.randn(steps, 1),
                "terminated": ended,
                "truncated": torch.zeros_like(ended),
                "done": ended.clone(),
            },
        },
        batch_size=[steps],
    )


def _windows(spec: Any, horizon: int = 3) -> TensorDict:
    """Every window [B, H] of the episode."""
    episode = _episode(spec)
    return torch.stack([episode[t : t + horizon] for t in range(len(episode) - horizon + 1)])


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_slices_of_an_episode_train_every_network(tools: Any, spec: Any) -> None:
    loss, td = tools.real_loss(spec), _windows(spec)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        out = loss(td)
        total = out["loss_encoder"] + out["loss_qvalue"] + out["loss_actor"]
        optimizer.zero_grad()
        total.backward()
        assert all(parameter.grad is not None for parameter in loss.parameters())
        optimizer.step()
        losses.append((out["loss_encoder"].item(), out["loss_qvalue"].item()))
    assert losses[-1][0] < losses[0][0] and losses[-1][1] < losses[0][1]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("extra", [(), (1,)], ids=["BH", "BH1"])
def test_without_a_validity_mask_is_as_with_one_that_is_all_true(
    tools: Any, spec: Any, extra: tuple[int, ...]
) -> None:
    loss, td = tools.real_loss(spec), _windows(spec)
    results = []
    for mask in (None, torch.ones(*td.shape, *extra, dtype=torch.bool)):
        windows = td.clone() if mask is None else td.clone().set("validity_mask", mask)
        torch.manual_seed(3)
        out = loss(windows)
        total = out["loss_encoder"] + out["loss_qvalue"] + out["loss_actor"]
        results.append((dict(out.items()), torch.autograd.grad(total, list(loss.parameters()))))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_only_what_the_losses_read_is_needed(tools: Any) -> None:
    td = _windows(SPECS["box"])
    bare = td.select(*tools.real_loss().in_keys)
    loss = tools.real_loss(policy_noise=0.0)
    torch.testing.assert_close(dict(loss(bare).items()), dict(loss(td).items()), rtol=0, atol=0)


def test_the_padding_mask_of_a_slice_sampler_can_be_named(tools: Any) -> None:
    """TorchRL pads short slices by repeating their last step, and marks it in ("collector", "mask")."""
    loss, td = tools.real_loss(policy_noise=0.0), _windows(SPECS["box"])[:4]
    loss.set_keys(validity_mask=("collector", "mask"))
    td["collector", "mask"] = torch.ones(4, 3, dtype=torch.bool)
    td["collector", "mask"][1, 2] = False
    padded, other = td.clone(), td.clone()
    other["next", "reward"][1, 2], other["action"][1, 2] = 100.0, 0.0
    assert torch.equal(loss(padded)["loss_encoder"], loss(other)["loss_encoder"])


# What is refused

Change = Callable[[TensorDict], Any]


def _reward(value: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda td: td.set(("next", "reward"), value(td["next", "reward"]))


def _flag(name: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda td: td.set(("next", name), value(td["next", "terminated"]))


def _action(value: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda td: td.set("action", value(td["action"]))


def _next_observation(value: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda td: td.set(("next", "observation"), value(td["next", "observation"]))


# The change, and entry, type and shape wanted, type and shape given.
REFUSED: dict[str, tuple[Change, Any, str, str]] = {
    "whole rewards": (
        _reward(torch.Tensor.long),
        ("next", "reward"),
        "float32 (10, 3, 1)",
        "int64 (10, 3, 1)",
    ),
    "doubles": (_reward(torch.Tensor.double), ("next", "reward"), "float32 (10, 3, 1)", "float64 (10, 3, 1)"),
    "flat rewards": (
        _reward(lambda r: r[..., 0]),
        ("next", "reward"),
        "float32 (10, 3, 1)",
        "float32 (10, 3)",
    ),
    "two rewards": (
        _reward(lambda r: r.repeat(1, 1, 2)),
        ("next", "reward"),
        "float32 (10, 3, 1)",
        "float32 (10, 3, 2)",
    ),
    "flat flags": (
        _flag("terminated", lambda f: f[..., 0]),
        ("next", "terminated"),
        "bool (10, 3, 1)",
        "bool (10, 3)",
    ),
    "float flags": (
        _flag("terminated", torch.Tensor.float),
        ("next", "terminated"),
        "bool (10, 3, 1)",
        "float32 (10, 3, 1)",
    ),
    "float truncated": (
        _flag("truncated", torch.Tensor.float),
        ("next", "truncated"),
        "bool (10, 3, 1)",
        "float32 (10, 3, 1)",
    ),
    "flat done": (_flag("done", lambda f: f[..., 0]), ("next", "done"), "bool (10, 3, 1)", "bool (10, 3)"),
    "float mask": (
        lambda td: td.set("validity_mask", torch.ones(10, 3)),
        "validity_mask",
        "bool (10, 3)",
        "float32 (10, 3)",
    ),
    "wide mask": (
        lambda td: td.set("validity_mask", torch.ones(10, 3, 2).bool()),
        "validity_mask",
        "bool (10, 3, 1)",
        "bool (10, 3, 2)",
    ),
    "other next observation": (
        _next_observation(lambda o: o[..., :2]),
        ("next", "observation"),
        "float32 (10, 3, 3)",
        "float32 (10, 3, 2)",
    ),
    "double next observation": (
        _next_observation(torch.Tensor.double),
        ("next", "observation"),
        "float32 (10, 3, 3)",
        "float64 (10, 3, 3)",
    ),
}
BOX_ACTIONS: dict[str, tuple[Change, Any, str, str]] = {
    "short": (_action(lambda a: a[..., :1]), "action", "float32 (10, 3, 2)", "float32 (10, 3, 1)"),
    "long": (_action(lambda a: a.repeat(1, 1, 2)), "action", "float32 (10, 3, 2)", "float32 (10, 3, 4)"),
    "flat": (_action(lambda a: a[..., 0]), "action", "float32 (10, 3, 2)", "float32 (10, 3)"),
    "whole": (_action(torch.Tensor.long), "action", "float32 (10, 3, 2)", "int64 (10, 3, 2)"),
}
ONE_HOT_ACTIONS: dict[str, tuple[Change, Any, str, str]] = {
    "index": (_action(lambda a: a.long().argmax(-1)), "action", "int64 (10, 3, 2)", "int64 (10, 3)"),
    "index of length 1": (
        _action(lambda a: a.long().argmax(-1, keepdim=True)),
        "action",
        "int64 (10, 3, 2)",
        "int64 (10, 3, 1)",
    ),
    "wrong width": (
        _action(lambda a: torch.nn.functional.pad(a.long(), (0, 1))),
        "action",
        "int64 (10, 3, 2)",
        "int64 (10, 3, 3)",
    ),
}
CASES = [
    pytest.param(spec, *case, id=f"{action}, {name}")
    for action, spec in SPECS.items()
    for name, case in {**REFUSED, **(BOX_ACTIONS if action == "box" else ONE_HOT_ACTIONS)}.items()
]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("spec", "change", "entry", "wanted", "given"), CASES)
def test_an_entry_of_another_kind_is_named_with_what_was_wanted(
    tools: Any, name: str, spec: Any, change: Change, entry: Any, wanted: str, given: str
) -> None:
    td = _windows(spec)
    change(td)
    words = "the batch's entry {!r} must be torch.{} of shape {}, got torch.{} of shape {}: give "
    message = words.format(entry, *wanted.split(" ", 1), *given.split(" ", 1))
    with pytest.raises(InputError, match=re.escape(message)):
        getattr(tools.real_loss(spec), name)(td)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_one_hot_actions_may_be_of_any_type(tools: Any, dtype: torch.dtype) -> None:
    loss, td = tools.real_loss(SPECS["one-hot"], policy_noise=0.0), _windows(SPECS["one-hot"])
    expected = loss(td.clone())
    out = loss(td.set("action", td["action"].to(dtype)))
    for key in ("loss_encoder", "target_value"):
        assert torch.isfinite(out[key])
    assert torch.equal(out["loss_encoder"], expected["loss_encoder"])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ("observation", "observation"),
        ("action", "action"),
        (("next", "observation"), ("next", "observation")),
        (("next", "reward"), ("next", "reward")),
        (("next", "terminated"), ("next", "terminated")),
        ("next", ("next", "observation")),
    ],
)
def test_a_missing_entry_is_named(tools: Any, name: str, entry: Any, named: Any) -> None:
    td = _windows(SPECS["box"]).exclude(entry)
    with pytest.raises(
        InputError, match=re.escape(f"the batch lacks the entry {named!r}; the loss")
    ) as error:
        getattr(tools.real_loss(), name)(td)
    assert "set_keys" in str(error.value)


def test_a_missing_observation_is_named_by_the_policy_loss(tools: Any) -> None:
    td = _windows(SPECS["box"]).exclude("observation")
    for batch in (td, td[:, 0]):
        with pytest.raises(InputError, match="the batch lacks the entry 'observation'"):
            tools.real_loss().actor_loss(batch)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(30,), (10, 3, 1), (6, 5), (30, 1), (1, 10, 3)], ids=str)
def test_another_batch_size_is_refused(tools: Any, name: str, shape: tuple[int, ...]) -> None:
    td = _windows(SPECS["box"]).reshape(-1).reshape(shape)
    message = f"expected windows of batch size (B, 3), got {shape}"
    with pytest.raises(InputError, match=re.escape(message)):
        getattr(tools.real_loss(), name)(td)


def test_the_policy_loss_refuses_three_batch_dimensions(tools: Any) -> None:
    td = _windows(SPECS["box"]).unsqueeze(-1)
    with pytest.raises(InputError, match=re.escape("expected a batch size (B,) or (B, 3), got (10, 3, 1)")):
        tools.real_loss().actor_loss(td)


@pytest.mark.parametrize("name", [*LOSSES, "actor_loss"])
def test_an_observation_that_the_encoder_cannot_take_is_named(tools: Any, name: str) -> None:
    td = _windows(SPECS["box"])
    td["observation"], td["next", "observation"] = torch.randn(10, 3, 4), torch.randn(10, 3, 4)
    with pytest.raises(
        InputError, match=r"state_encoder cannot take 'observation' \(10, .*4\) torch.float32"
    ):
        getattr(tools.real_loss(), name)(td)
