"""``ULDLoss`` and TensorDict keys: what it reads, what it writes, other names, dispatch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.data import Bounded

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


@pytest.mark.parametrize("key", ["observation", "action", ("next", "reward"), ("next", "terminated")])
def test_a_missing_entry_is_named(tools: Any, key: Any) -> None:
    name = key if isinstance(key, str) else key[-1]
    with pytest.raises((KeyError, InputError), match=name):
        tools.real_loss()(tools.random_window().exclude(key))


def test_the_input_is_untouched_but_for_td_error(tools: Any) -> None:
    loss, td = tools.real_loss(), tools.random_window()
    before = td.clone()
    loss.encoder_loss(td), loss.value_loss(td), loss.actor_loss(td)
    assert set(td.keys(True, True)) == set(before.keys(True, True))
    loss(td)
    assert set(td.keys(True, True)) - set(before.keys(True, True)) == {"td_error"}
    assert (td.exclude("td_error") == before).all()
    assert td["td_error"].shape == td.shape
    _, metadata = tools.real_loss(policy_noise=0.0).value_loss(td)
    loss = tools.real_loss(policy_noise=0.0)
    loss(td)
    for step in range(td.shape[1]):
        assert torch.equal(td["td_error"][:, step], metadata["td_error"])


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
}


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
    )
    renamed.set_keys(**keys)
    PeriodicHardUpdate(renamed)
    renamed.load_state_dict(loss.state_dict())
    return renamed


def test_renamed_and_nested_keys_give_the_same_losses(tools: Any) -> None:
    loss, td = tools.real_loss(policy_noise=0.0), tools.random_window()
    td["next", "terminated"][0, 1] = True
    td["next", "truncated"] = torch.zeros(4, 3, 1, dtype=torch.bool)
    td["next", "truncated"][1, -1] = True
    td["next", "done"] = td["next", "truncated"] | td["next", "terminated"]
    td["validity_mask"] = torch.ones(4, 3, dtype=torch.bool)
    new = TensorDict(batch_size=td.shape)
    new.set(("sensor", "obs"), td["observation"]).set(("next", "sensor", "obs"), td["next", "observation"])
    new.set(NEW_KEYS["action"], td["action"]).set(NEW_KEYS["validity_mask"], td["validity_mask"])
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
    with pytest.raises(ValueError, match="value_target is not an accepted tensordict key"):
        tools.real_loss().set_keys(value_target="y")


def test_dispatch_takes_keyword_arguments(tools: Any) -> None:
    loss, td = tools.real_loss(policy_noise=0.0), tools.random_window()
    out = loss(
        observation=td["observation"],
        action=td["action"],
        next_observation=td["next", "observation"],
        next_reward=td["next", "reward"],
        next_terminated=td["next", "terminated"],
    )
    expected = loss(td)
    assert len(out) == len(loss.out_keys)
    for key, value in zip(loss.out_keys, out, strict=True):
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


def test_select_out_keys(tools: Any) -> None:
    loss = tools.real_loss()
    loss.select_out_keys("loss_actor", "loss_encoder")
    assert set(loss(tools.random_window()).keys()) == {"loss_actor", "loss_encoder"}
