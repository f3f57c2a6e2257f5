"""``ULDLoss`` and TensorDict keys: what it reads, what it writes, other names, dispatch."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.data import Bounded, OneHot

from uld_torchrl import PeriodicHardUpdate, ULDLoss, make_networks
from uld_torchrl.config import ModelConfig
from uld_torchrl.errors import InputError

BOX = Bounded(-1, 1, (2,))


def test_in_keys(tools: Any) -> None:
    loss = tools.real_loss()
    assert loss.in_keys == [
        "observation",
        ("next", "observation"),
        "action",
        ("next", "reward"),
        ("next", "terminated"),
    ]
    td = tools.random_window()
    loss(td.select(*loss.in_keys))


def _full_window(tools: Any, spec: Any) -> TensorDict:
    """A window with all that a loss may read, and more."""
    td = tools.random_window(spec=spec)
    td["next", "truncated"] = torch.zeros(4, 3, 1, dtype=torch.bool)
    td["next", "done"] = td["next", "terminated"].clone()
    td["validity_mask"] = torch.ones(4, 3, dtype=torch.bool)
    td["priority_weight"], td["other", "entry"] = torch.ones(4, 3), torch.randn(4, 3, 2)
    # What a policy leaves in collected data; the losses work it out anew.
    td["state_embedding"], td["next", "state_embedding"] = torch.randn(4, 3, 8), torch.randn(4, 3, 8)
    return td


@pytest.mark.parametrize("spec", [BOX, OneHot(2)], ids=["box", "one-hot"])
@pytest.mark.parametrize("name", ["encoder_loss", "value_loss", "actor_loss", "__call__"])
def test_the_input_is_untouched_but_for_td_error(tools: Any, spec: Any, name: str) -> None:
    loss, td = tools.real_loss(spec, use_prioritized_weights=True), _full_window(tools, spec)
    before = td.clone()
    places = {key: value.data_ptr() for key, value in td.items(True, True)}
    getattr(loss, name)(td)
    written = {"td_error"} if name == "__call__" else set()
    assert set(td.keys(True, True)) - set(before.keys(True, True)) == written
    for key, value in before.items(True, True):
        assert torch.equal(td[key], value) and td[key].data_ptr() == places[key], key


def test_td_error_is_that_of_the_value_loss_at_every_step(tools: Any) -> None:
    loss, td = tools.real_loss(policy_noise=0.0), tools.random_window()
    _, metadata = loss.value_loss(td)
    loss(td)
    assert td["td_error"].shape == td.shape
    for step in range(td.shape[1]):
        assert torch.equal(td["td_error"][:, step], metadata["td_error"])


@pytest.mark.parametrize("name", ["encoder_loss", "value_loss", "actor_loss", "__call__"])
def test_embeddings_that_came_with_the_window_are_not_used(tools: Any, name: str) -> None:
    loss, td = tools.real_loss(policy_noise=0.0), tools.random_window()
    plain, stale = getattr(loss, name)(td.clone()), getattr(loss, name)(_full_window(tools, BOX))
    if name == "__call__":
        plain, stale = [[out["loss_actor"], out["loss_qvalue"]] for out in (plain, stale)]
    torch.testing.assert_close(plain[0], stale[0], rtol=0, atol=0)
    torch.testing.assert_close(plain[1], stale[1], rtol=0, atol=0)


NEW_KEYS: dict[str, Any] = {
    "action": ("agent", "act"),
    "reward": ("agent", "pay"),
    "terminated": "over",
    "truncated": ("agent", "cut"),
    "done": "end",
    "validity_mask": ("extra", "valid"),
    "state_embedding": ("latent", "z_s"),
    "state_action_embedding": ("latent", "z_sa"),
    "reward_logits": ("latent", "logits"),
    "terminated_pred": "d",
    "pre_activation": ("agent", "pre"),
    "state_action_value": ("latent", "q"),
    "priority": ("extra", "error"),
    "priority_weight": ("replay", "weight"),
}


def test_every_accepted_key_is_renamed_below() -> None:
    assert set(NEW_KEYS) == {field.name for field in dataclasses.fields(ULDLoss._AcceptedKeys)}


def _nested(key: Any) -> tuple[Any, ...]:
    return ("next", key) if isinstance(key, str) else ("next", *key)


def _renamed(loss: ULDLoss, keys: dict[str, Any]) -> ULDLoss:
    """The same parameters behind modules that read and write other keys."""
    z_s, z_sa, logits = keys["state_embedding"], keys["state_action_embedding"], keys["reward_logits"]
    nets = make_networks(Bounded(-1, 1, (3,)), BOX, ModelConfig(8, 4, 8, 8, 5, 2.0))
    renamed = ULDLoss(
        TensorDictModule(nets.state_encoder.module, [("sensor", "obs")], [z_s]),
        TensorDictModule(nets.state_action_encoder.module, [z_s, keys["action"]], [z_sa]),
        TensorDictModule(nets.predictor.module, [z_sa], [keys["terminated_pred"], _nested(z_s), logits]),
        TensorDictModule(nets.actor_network.module, [z_s], [keys["action"], keys["pre_activation"]]),
        [TensorDictModule(head.module, [z_sa], [keys["state_action_value"]]) for head in nets.qvalue_network],
        action_spec=BOX,
        horizon=3,
        n_steps=2,
        num_bins=5,
        bin_range=2.0,
        policy_noise=0.0,
        use_prioritized_weights=True,
    )
    renamed.set_keys(**keys)
    PeriodicHardUpdate(renamed)
    renamed.load_state_dict(loss.state_dict())
    return renamed


def test_renamed_and_nested_keys_give_the_same_losses(tools: Any) -> None:
    loss = tools.real_loss(policy_noise=0.0, use_prioritized_weights=True)
    td = tools.random_window()
    td["next", "terminated"][0, 1] = True
    td["priority_weight"] = torch.rand(4, 3)
    td["next", "truncated"] = torch.zeros(4, 3, 1, dtype=torch.bool)
    td["next", "truncated"][1, -1] = True
    td["next", "done"] = td["next", "truncated"] | td["next", "terminated"]
    td["validity_mask"] = torch.ones(4, 3, dtype=torch.bool)
    td["validity_mask"][2, 2] = False
    new = TensorDict(batch_size=td.shape)
    new.set(("sensor", "obs"), td["observation"]).set(("next", "sensor", "obs"), td["next", "observation"])
    for name in ("action", "validity_mask", "priority_weight"):
        new.set(NEW_KEYS[name], td[name])
    for name in ("reward", "terminated", "truncated", "done"):
        new.set(_nested(NEW_KEYS[name]), td["next", name])
    renamed = _renamed(loss, NEW_KEYS)
    expected, actual = loss(td), renamed(new)
    assert (expected == actual).all()
    assert torch.equal(new[NEW_KEYS["priority"]], td["td_error"])
    assert ("sensor", "obs") in renamed.in_keys and ("next", "agent", "pay") in renamed.in_keys
    # The checks read the new keys as well.
    new["next", "agent", "cut"][2, 0] = True
    with pytest.raises(InputError, match="truncation"):
        renamed(new)


def test_an_unknown_key_is_refused(tools: Any) -> None:
    loss = tools.real_loss()
    with pytest.raises(InputError, match=r"^value_target is not an accepted tensordict key") as error:
        loss.set_keys(value_target="y")
    assert all(field.name in str(error.value) for field in dataclasses.fields(loss.tensor_keys))
    with pytest.raises(InputError, match=r"priorty is not .* Did you mean priority\?"):
        loss.set_keys(reward="pay", priorty="p")
    # Nothing of a refused call is kept.
    assert loss.tensor_keys == ULDLoss.default_keys()


@pytest.mark.parametrize("key", [3, ("a", 1), (), ["reward"]])
def test_what_is_no_key_is_refused(tools: Any, key: Any) -> None:
    with pytest.raises(InputError, match=r"the key for reward must be a string or a tuple of strings"):
        tools.real_loss().set_keys(reward=key)


def test_none_gives_the_default_name_back(tools: Any) -> None:
    loss = tools.real_loss()
    loss.set_keys(reward="pay", action=("agent", "act"))
    loss.set_keys(reward=None)
    assert loss.tensor_keys == ULDLoss.default_keys(action=("agent", "act"))


@pytest.mark.parametrize("name", ["encoder_loss", "value_loss", "actor_loss", "__call__"])
@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("state_embedding", r"state_encoder must write 'new', but it writes \['state_embedding'\]"),
        ("state_action_embedding", "state_action_encoder must write 'new'"),
        ("reward_logits", "predictor must write 'new'"),
        ("terminated_pred", "predictor must write 'new'"),
        ("pre_activation", "actor_network must write 'new'"),
        ("state_action_value", "qvalue_network must write 'new'"),
    ],
)
def test_a_key_that_no_network_knows_is_refused(tools: Any, name: str, entry: str, words: str) -> None:
    loss = tools.real_loss()
    loss.set_keys(**{entry: "new"})
    with pytest.raises(InputError, match=words):
        getattr(loss, name)(tools.random_window())


def test_an_action_key_that_the_encoder_does_not_read_is_refused(tools: Any) -> None:
    loss, td = tools.real_loss(), tools.random_window()
    loss.set_keys(action=("agent", "act"))
    td["agent", "act"] = td["action"]
    with pytest.raises(InputError, match=r"state_action_encoder reads 'action', but the loss gives it \["):
        loss(td)


# Dispatch


def _arguments(td: TensorDict) -> dict[str, torch.Tensor]:
    return {
        "observation": td["observation"],
        "action": td["action"],
        "next_observation": td["next", "observation"],
        "next_reward": td["next", "reward"],
        "next_terminated": td["next", "terminated"],
    }


@pytest.mark.parametrize("spec", [BOX, OneHot(2)], ids=["box", "one-hot"])
def test_dispatch_takes_keyword_arguments(tools: Any, spec: Any) -> None:
    loss, td = tools.real_loss(spec), tools.random_window(spec=spec)
    torch.manual_seed(3)
    out = loss(**_arguments(td))
    torch.manual_seed(3)
    expected = loss(td)
    assert len(out) == len(loss.out_keys)
    for key, value in zip(loss.out_keys, out, strict=True):
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


def test_dispatch_with_one_observation_and_one_action(tools: Any) -> None:
    """Every entry is then (B, H, 1), and the batch size still (B, H)."""
    loss = tools.linear_loss(
        f=[[1]], g=[[2, 1]], m=[[1]] * 5, pi=[[1]], q=[[[1]], [[3]]], horizon=2, n_steps=1
    )
    td = tools.window(
        s0=[[1], [2]],
        action=[[[0], [1]]] * 2,
        after=[[[1], [2]]] * 2,
        reward=[[1, 2]] * 2,
        terminated=[[0, 0]] * 2,
    )
    out = loss(**_arguments(td))
    for key, value in zip(loss.out_keys, out, strict=True):
        torch.testing.assert_close(value, loss(td)[key], rtol=0, atol=0)


def test_dispatch_with_nested_keys(tools: Any) -> None:
    loss, td = tools.real_loss(policy_noise=0.0), tools.random_window()
    loss.set_keys(reward=("agent", "pay"))
    arguments = _arguments(td)
    arguments["next_agent_pay"] = arguments.pop("next_reward")
    expected = tools.real_loss(policy_noise=0.0)(td)
    for key, value in zip(loss.out_keys, loss(**arguments), strict=True):
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


@pytest.mark.parametrize("argument", ["observation", "action", "next_observation", "next_reward"])
def test_dispatch_names_a_missing_argument(tools: Any, argument: str) -> None:
    arguments = _arguments(tools.random_window())
    del arguments[argument]
    with pytest.raises(InputError, match=f"lacks the entry .*{argument.removeprefix('next_')}"):
        tools.real_loss()(**arguments)


def test_select_out_keys(tools: Any) -> None:
    loss, td = tools.real_loss(policy_noise=0.0), tools.random_window()
    expected = loss(td)
    loss.select_out_keys("loss_actor", "loss_encoder")
    out = loss(td)
    assert set(out.keys()) == {"loss_actor", "loss_encoder"}
    for key, value in zip(("loss_actor", "loss_encoder"), loss(**_arguments(td)), strict=True):
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)
        torch.testing.assert_close(out[key], expected[key], rtol=0, atol=0)
    loss.reset_out_keys()
    assert set(loss(td).keys()) == set(expected.keys())
    loss.select_out_keys("loss_qvalue")
    torch.testing.assert_close(loss(**_arguments(td)), expected["loss_qvalue"], rtol=0, atol=0)
