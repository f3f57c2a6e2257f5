"""Each ablation of the design study, by its name: what it computes, by hand, and that the rest is as before.

The linear networks of the hand-worked cases, all in fractions:

    f: z = s/2      g: x = 2 z + a      m: (d, z', l...) = (1/4, 1/2, ...) x      pi: a = z      Q = (x, 3 x)
    f': z = 2 s     g': x = z + 3 a     pi': a = z/2                             Q' = (x/2, 2 x)

with gamma 1/2, n 2, c 2, c' 4. Runs with ablations are in ``trainers/test_ablated_runs``, single switches in
``test_switches_value`` and ``test_switches_encoder``.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from fractions import Fraction as Fr
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torchrl.data import Bounded, OneHot, Unbounded

from uld_torchrl import PeriodicHardUpdate, ULDLoss, make_loss, make_networks, make_replay_buffer
from uld_torchrl.ablations import ABLATIONS
from uld_torchrl.config import AgentConfig, LossConfig, ModelConfig, override

BOX, CHOICE = Bounded(-1, 1, (2,)), OneHot(2)
TINY = ModelConfig(z_s_dim=8, z_a_dim=4, z_sa_dim=8, hidden_dim=8, num_bins=5, bin_range=2.0)
NETWORKS = ("state_encoder", "state_action_encoder", "predictor", "actor_network", "qvalue_network")
OWN = {"encoder_loss": NETWORKS[:3], "value_loss": NETWORKS[4:], "actor_loss": NETWORKS[3:4]}
Entries = dict[str, torch.Tensor]


def ablated(name: str, **loss: Any) -> AgentConfig:
    """Tiny settings, with the ablation if there is a name."""
    plain = AgentConfig(model=TINY, loss=LossConfig(**({"horizon": 3, "n_steps": 2} | loss)))
    return override(plain, ABLATIONS[name].settings) if name else plain


# By hand


def linear(tools: Any, name: str, m: Any = None, **kwargs: Any) -> ULDLoss:
    """The loss on linear networks with what the ablation sets of the loss."""
    changed = asdict(override(AgentConfig(), ABLATIONS[name].settings).loss)
    switches = {key: value for key, value in changed.items() if value != getattr(LossConfig(), key)}
    one_output = switches.get("reward_loss") == "mse"
    loss = tools.linear_loss(
        f=[[Fr(1, 2)]],
        g=[[2, 1]],
        m=m or [[Fr(1, 4)], [Fr(1, 2)], *[[1]] * (1 if one_output else 3)],
        pi=[[1]],
        q=([[1]], [[3]]),
        **({"gamma": 0.5, "horizon": 2, "n_steps": 2} | kwargs | switches),
    )
    tools.set_weights(loss, target=True, state_encoder=[[2]], state_action_encoder=[[1, 3]])
    tools.set_weights(loss, target=True, actor_network=[[Fr(1, 2)]], qvalue_network=([[Fr(1, 2)]], [[2]]))
    loss.reward_scale.fill_(2)
    loss.target_reward_scale.fill_(4)
    return loss


def window(tools: Any) -> TensorDict:
    """A: s = 1, 1/2, 1/4, rewards 1 and 2. B: s = 2, 1/4, 1, terminal at once with reward -2.

    A: z_0 = 1/2, a_0 = 0, x_0 = 1, Q = (1, 3). B: z_0 = 1, a_0 = -3, x_0 = -1, Q = (-1, -3).
    """
    return tools.window(
        s0=[[1], [2]],
        action=[[[0], [1]], [[-3], [-1]]],
        after=[[[Fr(1, 2)], [Fr(1, 4)]], [[Fr(1, 4)], [1]]],
        reward=[[1, 2], [-2, 30]],
        terminated=[[0, 0], [1, 0]],
    )


def test_no_min_takes_the_mean_of_the_target_heads(tools: Any) -> None:
    # s_2 = 1/4: z = 1/2, a' = 1/4, x = 5/4, Q' = (5/8, 5/2), mean 25/16, least 5/8.
    found = linear(tools, "no-min").value_loss(window(tools))[1]["target_value"]
    tools.same(found, 2 + Fr(25, 16), -2)  # G + 1/4 * 4 * mean
    least = linear(tools, "no-mr").value_loss(window(tools))[1]["target_value"]
    tools.same(least, 2 + Fr(5, 8), -2)


def test_one_step_bootstraps_from_the_next_state(tools: Any) -> None:
    # s_1 = 1/2: z = 1, a' = 1/2, x = 5/2, least 5/4: 1 + 1/2 * 4 * 5/4.
    found = linear(tools, "one-step").value_loss(window(tools))[1]["target_value"]
    tools.same(found, Fr(7, 2), -2)


def test_no_mr_sends_the_gradient_of_the_value_into_the_encoders(tools: Any) -> None:
    # y = (21/16, -1): Q - y = A (-5/16, 27/16), B (0, -2): Huber (25/512, 19/16), (0, 3/2).
    # dx = sum_i Huber'_i k_i / 4: A (-5/16 + 3) / 4 = 43/64, B -3/4.
    # u: 43/64 * 1/2 - 3/4; v: -3/4 * -3; w: 2 (43/64 * 1 - 3/4 * 2). Heads, Huber' x / 4: -5/64, (1 + 1) / 4.
    loss = linear(tools, "no-mr")
    value, metadata = loss.value_loss(window(tools))
    tools.same(value, (Fr(25, 512) + Fr(19, 16) + Fr(3, 2)) / 4)
    gradients = tools.gradients(value, loss)
    tools.same(gradients.pop("state_action_encoder"), Fr(-53, 128), Fr(9, 4))
    tools.same(gradients.pop("state_encoder"), Fr(-53, 32))
    tools.same(gradients.pop("qvalue_network"), Fr(-5, 64), Fr(1, 2))
    assert not any(gradient.any() for gradient in gradients.values())
    assert not any(entry.requires_grad for entry in metadata.values())


def test_no_mr_has_no_encoder_loss(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = linear(tools, "no-mr")
    monkeypatch.setattr(loss, "encoder_loss", None)
    out = loss(window(tools))
    assert [key for key in out.keys() if key.startswith("loss_")] == ["loss_qvalue", "loss_actor"]  # noqa: SIM118
    assert set(out.keys()) == set(loss.out_keys)
    assert set(linear(tools, "no-min").out_keys) - set(loss.out_keys) == {
        *("loss_encoder", "dynamics_error", "reward_error", "terminated_error", "reward_mae")
    }


def test_no_unroll_reads_the_first_step_alone(tools: Any) -> None:
    # d = x/4, z' = x/2, targets 2 s_1: A (1/4, 1/2), 1; B (-1/4, -1/2), 1/2, terminal.
    loss = linear(tools, "no-unroll", dynamics_coeff=1.0, reward_coeff=0.0, terminated_coeff=0.0)
    value, parts = loss.encoder_loss(window(tools))
    tools.same(value, Fr(5, 8))  # 1/4 and 1
    tools.same(parts["terminated_error"], (Fr(1, 16) + Fr(25, 16)) / 2)
    # D = (-1/2, -1): q = D x = -1/2 + 1; E = D / 2: u -1/8 - 1/2, v 3/2, w 2 (-1/4 - 1/2 * 2).
    gradients = tools.gradients(value, loss)
    tools.same(gradients["predictor"], 0, Fr(1, 2), 0, 0, 0)
    tools.same(gradients["state_action_encoder"], Fr(-5, 8), Fr(3, 2))
    tools.same(gradients["state_encoder"], Fr(-5, 2))
    later = window(tools)
    later["action"][:, 1], later["next", "reward"][:, 1], later["next", "observation"][:, 1] = 7, 7, 7
    assert torch.equal(loss.encoder_loss(later)[0], value)


def test_mse_reward_is_the_square_of_one_output(tools: Any) -> None:
    # r = x, A unrolled: x = (1, 2 z' + 1) = (1, 2), rewards (1, 2): 0. B ends at once: (-1 + 2)^2.
    found = linear(tools, "mse-reward").encoder_loss(window(tools))[1]["reward_error"]
    tools.same(found, Fr(1, 2))


def test_sa_target_predicts_the_pair_of_the_target_policy_from_each_observation(tools: Any) -> None:
    # z' = x/2. A: x = (1, 2/4 + 1), predicted (1/2, 3/4); x' of s = 1/2, 1/4: (5/2, 5/4).
    # B: predicted -1/2; x' of s = 1/4: z = 1/2, a' = 1/4, 5/4. Errors: 4 + 1/4, 49/16.
    found = linear(tools, "sa-target").encoder_loss(window(tools))[1]["dynamics_error"]
    tools.same(found, (4 + Fr(1, 4) + Fr(49, 16)) / 2)


def test_no_target_encoder_takes_both_targets_from_the_online_encoders(tools: Any) -> None:
    # Predicted z' = (1/2, 1) and -1/2, targets s/2: (1/4, 1/8), 1/8.
    loss = linear(tools, "no-target-encoder")
    found = loss.encoder_loss(window(tools))[1]["dynamics_error"]
    tools.same(found, (Fr(1, 16) + Fr(49, 64) + Fr(25, 64)) / 2)
    # s_2 = 1/4: z = 1/8, a' = 1/16, x = 5/16, least 5/32.
    tools.same(loss.value_loss(window(tools))[1]["target_value"], 2 + Fr(5, 32), -2)


def test_revert_is_these_three_together(tools: Any) -> None:
    parts = [ABLATIONS[name].settings for name in ("linear-value", "sa-target", "no-target-encoder")]
    assert ABLATIONS["revert"].settings == sum(parts, ())
    # Online g at (z, a') of pi': s = 1/2: z = 1/4, a' = 1/8, 5/8; s = 1/4: 5/16. Predicted as with sa-target.
    loss = linear(tools, "revert")
    found = loss.encoder_loss(window(tools))[1]["dynamics_error"]
    tools.same(found, (Fr(1, 64) + Fr(49, 256) + Fr(169, 256)) / 2)
    tools.same(loss.value_loss(window(tools))[1]["target_value"], 2 + Fr(5, 32), -2)
    assert ablated("revert").model.value_head == "linear"


def test_no_lap_squares_the_error_and_draws_uniformly(tools: Any) -> None:
    # y = (21/16, -1) as with no-mr: errors (-5/16, 27/16), (0, -2).
    value, metadata = linear(tools, "no-lap").value_loss(window(tools))
    tools.same(value, (Fr(25, 256) + Fr(729, 256) + 4) / 4)
    tools.same(metadata["td_error"], Fr(27, 16), 2)
    config = ablated("no-lap").replay
    rb = make_replay_buffer(
        capacity=50, horizon=3, batch_size=8, alpha=config.lap_alpha, min_priority=config.lap_min_priority
    )
    steps = {key: torch.zeros(1, 20, 1) for key in ("observation", "action", "reward")}
    ends = {key: torch.zeros(1, 20, 1, dtype=torch.bool) for key in ("terminated", "truncated", "done")}
    after = {"observation": steps["observation"], "reward": steps.pop("reward"), **ends}
    rb.extend(TensorDict({**steps, "next": after}, batch_size=[1, 20]))
    rb.update_priority(rb.sample()["anchor_index"], 100 * torch.rand(8))
    assert set(rb.state_dict()["priorities"].flatten().tolist()) == {0, 1}


def test_no_reward_scale_leaves_the_scales_at_one(tools: Any) -> None:
    for name, expected in (("no-reward-scale", (1, 1)), ("no-min", (8, 2))):
        loss = _loss(name)
        loss.update_reward_scale_(2.0)
        loss.update_reward_scale_(8.0)
        assert (loss.reward_scale.item(), loss.target_reward_scale.item()) == expected


def test_linear_value_is_the_product_with_its_weights(tools: Any) -> None:
    loss, td = _loss("linear-value"), tools.random_window()
    with torch.no_grad():
        z_sa = loss._join(
            loss._encode(td[:, 0], loss.state_encoder_params),
            td["action"][:, 0],
            loss.state_action_encoder_params,
        )
    (w,) = loss.qvalue_network_params.values(True, True)
    torch.testing.assert_close(loss.value_loss(td)[1]["pred_value"], (z_sa @ w[:, 0].mT).mean(-1).detach())


def test_nonlinear_model_is_an_mlp_of_three_layers() -> None:
    config = ablated("nonlinear-model")
    m = make_networks(Unbounded(3), BOX, config.model, loss=config.loss).predictor
    l1, l2, l3 = m.module.mlp.l1, m.module.mlp.l2, m.module.mlp.l3
    assert (l1.in_features, l1.out_features, l3.out_features) == (8, 8, 1 + 8 + 5)
    for layer in (l1, l2, l3):
        layer.bias.data.uniform_(-1, 1)
    x = torch.randn(4, 8)
    h = F.elu(F.layer_norm(x @ l1.weight.mT + l1.bias, (8,)))
    y = F.elu(F.layer_norm(h @ l2.weight.mT + l2.bias, (8,))) @ l3.weight.mT + l3.bias
    for found, expected in zip(m(state_action_embedding=x), (y[:, :1], y[:, 1:9], y[:, 9:]), strict=True):
        torch.testing.assert_close(found, expected)


# And nothing else

LATENT = {"loss", "dynamics_error", "reward_error", "terminated_error", "reward_mae"}
TARGET = {"loss", "td_error", "target_value"}
VALUED = {"value_loss": TARGET | {"pred_value"}, "actor_loss": {"loss", "actor_value"}}
CHANGES: dict[str, dict[str, set[str]]] = {
    "linear-value": VALUED,
    "sa-target": {"encoder_loss": LATENT},
    "no-target-encoder": {"encoder_loss": {"loss", "dynamics_error"}, "value_loss": TARGET},
    "revert": {"encoder_loss": LATENT, **VALUED},
    "nonlinear-model": {"encoder_loss": LATENT},
    "mse-reward": {"encoder_loss": {"loss", "reward_error", "reward_mae"}},
    "no-reward-scale": {"value_loss": TARGET | {"pred_value"}, "actor_loss": {"actor_value"}},
    "no-min": {"value_loss": TARGET},
    "no-lap": {"value_loss": {"loss"}},
    "no-mr": {},
    "one-step": {"value_loss": TARGET},
    "no-unroll": {"encoder_loss": LATENT},
}
each_ablation = pytest.mark.parametrize("name", ABLATIONS)
each_spec = pytest.mark.parametrize("spec", [BOX, CHOICE], ids=["box", "one-hot"])


def _loss(name: str, spec: Any = BOX, source: ULDLoss | None = None) -> ULDLoss:
    """A loss away from its first weights; of another one it takes all weights that fit, of m rows too."""
    torch.manual_seed(0)
    config = ablated(name)
    loss = make_loss(make_networks(Unbounded(3), spec, config.model, loss=config.loss), spec, config)
    PeriodicHardUpdate(loss)
    for parameter in loss.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    theirs = {} if source is None else source.state_dict()
    for key, value in loss.state_dict().items():
        given = theirs.get(key)
        if given is not None and given.shape[1:] == value.shape[1:] and "scale" not in key:
            value.copy_(given[: len(value)] if value.ndim else given)
    return loss


def _moved_scales(loss: ULDLoss) -> ULDLoss:
    loss.update_reward_scale_(0.5)
    loss.update_reward_scale_(2.0)
    return loss


def _results(loss: ULDLoss, td: TensorDict, part: str) -> tuple[Entries, dict[str, Entries]]:
    """What a loss returns, and the gradients it sends to each network, for the same random numbers."""
    torch.manual_seed(3)
    loss.zero_grad()
    value, metadata = getattr(loss, part)(td.clone())
    value.backward()
    gradients = {
        network: {
            str(key): p.grad.clone()
            for key, p in getattr(loss, f"{network}_params").items(True, True)
            if p.grad is not None
        }
        for network in NETWORKS
    }
    return {"loss": value.detach(), **dict(metadata.items())}, gradients


def _window(tools: Any, spec: Any) -> TensorDict:
    td = tools.random_window(B=9, spec=spec)
    td["next", "terminated"][0, 0] = td["next", "terminated"][1, 1] = True
    return td.apply(lambda x: x.double() if x.is_floating_point() else x)


@each_spec
@each_ablation
def test_an_ablation_changes_what_it_names_and_nothing_else(tools: Any, name: str, spec: Any) -> None:
    default = _moved_scales(_loss("", spec))
    other = _moved_scales(_loss(name, spec, default)).double()
    default, td = default.double(), _window(tools, spec)
    for part in OWN:
        (old, old_gradients), (new, new_gradients) = (_results(loss, td, part) for loss in (default, other))
        assert old.keys() == new.keys()
        # Products are rounded otherwise with fewer rows of m, or under vmap where their input takes
        # gradients; all else is equal to the last bit.
        rounding = 1e-12 if name in ("mse-reward", "no-mr") else 0.0
        near = {"rtol": rounding, "atol": rounding}
        changed = {key for key in old if not torch.allclose(old[key], new[key], **near)}
        assert changed == CHANGES[name].get(part, set()), part
        if "loss" not in changed:
            for network in OWN[part]:
                assert all(
                    torch.allclose(gradient, new_gradients[network][key], **near)
                    for key, gradient in old_gradients[network].items()
                )


@each_spec
@each_ablation
def test_gradients_reach_all_of_a_loss_own_networks_and_no_others(tools: Any, name: str, spec: Any) -> None:
    loss, td = _moved_scales(_loss(name, spec)).double(), _window(tools, spec)
    for part, own in OWN.items():
        end_to_end = name == "no-mr" and part == "value_loss"
        reached = {*own, *(NETWORKS[:2] if end_to_end else ())}
        _, gradients = _results(loss, td, part)
        for network in NETWORKS:
            count = len(list(getattr(loss, f"{network}_params").parameters()))
            assert len(gradients[network]) == (count if network in reached else 0), (part, network)
            assert all(gradient.any() for gradient in gradients[network].values()), (part, network)


def test_every_ablation_is_looked_at() -> None:
    assert list(CHANGES) == list(ABLATIONS) and len(ABLATIONS) == 12
    settings = [replace(ablated(name)) for name in ABLATIONS]
    assert all(one != other for k, one in enumerate(settings) for other in [*settings[:k], ablated("")])
