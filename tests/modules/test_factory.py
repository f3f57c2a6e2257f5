"""``make_networks``, ``make_policy`` and the specs they read."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    Composite,
    MultiOneHot,
    OneHot,
    TensorSpec,
    Unbounded,
)
from torchrl.envs.utils import ExplorationType, set_exploration_type

from uld_torchrl.config import AgentConfig, LossConfig, ModelConfig, RunConfig, preset
from uld_torchrl.errors import InputError
from uld_torchrl.modules import (
    GumbelPolicy,
    LinearPredictor,
    Networks,
    PixelEncoder,
    StateActionEncoder,
    TanhPolicy,
    ValueHead,
    VectorEncoder,
    make_networks,
    make_policy,
    noise_scale,
)
from uld_torchrl.modules.specs import action_bounds, check_unit_bounds, is_discrete, vector_size

BOX = Bounded(-1, 1, (2,))
TINY = ModelConfig(z_s_dim=8, z_a_dim=4, z_sa_dim=6, hidden_dim=8, num_bins=5)


def _count(networks: Networks) -> int:
    return sum(parameter.numel() for net in networks.modules() for parameter in net.parameters())


def test_halfcheetah_has_the_published_number_of_parameters() -> None:
    # Linear(a, b) has (a + 1) b. f 17-512-512-512: 9216 + 2 * 262656 = 534528. z_a 7 * 256 = 1792,
    # g 768-512-512-512: 393728 + 2 * 262656 = 919040. m 513 * 578 = 296514.
    # pi 512-512-512-6: 2 * 262656 + 3078 = 528390. Two heads of 3 * 262656 + 513 = 788481.
    nets = make_networks(Unbounded(17), Bounded(-1, 1, (6,)))
    counts = [sum(p.numel() for p in net.parameters()) for net in nets.modules()]
    assert counts == [534_528, 1_792 + 919_040, 296_514, 528_390, 788_481, 788_481]
    assert _count(nets) == 3_857_226


def test_sizes_are_those_of_the_settings() -> None:
    nets = make_networks(Unbounded(3), OneHot(2), ModelConfig(9, 4, 6, 8, num_bins=5, gumbel_tau=3.0))
    td = TensorDict(observation=torch.randn(5, 3), action=torch.eye(2)[[0, 1, 0, 1, 1]], batch_size=[5])
    for net in (nets.state_encoder, nets.state_action_encoder, nets.predictor, nets.qvalue_network[0]):
        net(td)
    assert td["state_embedding"].shape == td["next", "state_embedding"].shape == (5, 9)
    assert td["state_action_embedding"].shape == (5, 6)
    assert td["terminated_pred"].shape == td["state_action_value"].shape == (5, 1)
    assert td["reward_logits"].shape == (5, 5)
    assert nets.state_encoder.module.mlp.l1.out_features == 8
    assert nets.state_action_encoder.module.action_embedding.out_features == 4
    assert isinstance(nets.actor_network.module, GumbelPolicy) and nets.actor_network.module.tau == 3
    assert nets.actor_network(td)["pre_activation"].shape == td["action"].shape == (5, 2)


def test_defaults_of_the_parts_are_those_of_the_settings() -> None:
    settings = vars(ModelConfig()) | {"tau": ModelConfig().gumbel_tau}
    parts = (
        VectorEncoder,
        PixelEncoder,
        StateActionEncoder,
        LinearPredictor,
        TanhPolicy,
        GumbelPolicy,
        ValueHead,
    )
    defaults = {
        (part.__name__, name): parameter.default
        for part in parts
        for name, parameter in inspect.signature(part).parameters.items()
        if parameter.default is not parameter.empty
    }
    assert defaults == {(part, name): settings[name] for part, name in defaults}
    assert len(defaults) == 15


@pytest.mark.parametrize("spec", [Bounded(-1, 1, (2,)), OneHot(2)])
def test_two_heads_differ(spec: TensorSpec) -> None:
    first, second = make_networks(Unbounded(3), spec, TINY).qvalue_network
    assert not torch.equal(first.module.out.weight, second.module.out.weight)


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize(("name", "size"), [("mlp", 56 + 72 + 72 + 9), ("linear", 6)])
def test_heads_are_as_many_and_of_the_kind_that_is_asked_for(name: Any, size: int, heads: int) -> None:
    # TINY's MLP is 6-8-8-8, (a + 1) b each, and an output 8-1; the linear head has no bias.
    torch.manual_seed(0)
    made = make_networks(Unbounded(3), BOX, replace(TINY, value_head=name, num_values=heads)).qvalue_network
    assert len(made) == heads
    assert [sum(p.numel() for p in head.parameters()) for head in made] == [size] * heads
    first = [next(head.parameters()) for head in made]
    assert all(not torch.equal(one, other) for k, one in enumerate(first) for other in first[k + 1 :])


def test_a_linear_head_is_a_product_without_a_bias() -> None:
    (head,) = make_networks(
        Unbounded(3), BOX, replace(TINY, value_head="linear", num_values=1)
    ).qvalue_network
    assert [name for name, _ in head.named_parameters()] == ["module.weight"]
    head.module.weight.data.copy_(torch.tensor([[1.0, -2.0, 3.0, 0.5, 0.0, 4.0]]))
    z_sa = torch.tensor([[0.0] * 6, [1.0] * 6, [2.0, 1.0, 0.0, 4.0, 9.0, -1.0]])
    td = head(TensorDict(state_action_embedding=z_sa, batch_size=[3]))
    assert td["state_action_value"].tolist() == [[0.0], [6.5], [-2.0]]


@pytest.mark.parametrize(
    ("loss", "predicted", "width", "rewards"),
    [
        (None, "state_embedding", 8, 5),
        (LossConfig(reward_loss="mse"), "state_embedding", 8, 1),
        (LossConfig(dynamics_target="state_action", unroll=False), "state_action_embedding", 6, 5),
        (
            LossConfig(dynamics_target="state_action", unroll=False, reward_loss="mse"),
            "state_action_embedding",
            6,
            1,
        ),
    ],
)
def test_m_predicts_what_the_loss_asks_for(
    loss: LossConfig | None, predicted: str, width: int, rewards: int
) -> None:
    m = make_networks(Unbounded(3), BOX, TINY, loss=loss).predictor
    assert m.out_keys == ["terminated_pred", ("next", predicted), "reward_logits"]
    td = m(TensorDict(state_action_embedding=torch.randn(7, 6), batch_size=[7]))
    assert td["terminated_pred"].shape == (7, 1) and td["reward_logits"].shape == (7, rewards)
    assert td["next", predicted].shape == (7, width) and set(td["next"].keys()) == {predicted}


def test_settings_that_m_does_not_read_change_no_network() -> None:
    others = LossConfig(
        value_loss="mse", unroll=False, target_encoder=False, freeze_encoder=True, reward_scaling=False
    )
    made = []
    for loss in (None, LossConfig(), others):
        torch.manual_seed(0)
        made.append(
            [
                p
                for net in make_networks(Unbounded(3), BOX, TINY, loss=loss).modules()
                for p in net.parameters()
            ]
        )
    for one, other, third in zip(*made, strict=True):
        assert torch.equal(one, other) and torch.equal(one, third)


def test_batched_specs_and_another_observation_key() -> None:
    nets = make_networks(Unbounded((7, 3)), Bounded(-1, 1, (7, 2)), TINY, observation_key=("sensor", "obs"))
    td = TensorDict({"sensor": {"obs": torch.randn(7, 3)}}, [7])
    assert nets.actor_network(nets.state_encoder(td))["action"].shape == (7, 2)


# The policy


def test_the_policy_shares_parameters_and_explores_only_when_asked() -> None:
    torch.manual_seed(0)
    spec = Bounded(-1, 1, (2,))
    nets = make_networks(Unbounded(3), spec, TINY)
    policy = make_policy(nets, spec)
    td = TensorDict(observation=torch.randn(4, 3), batch_size=[4])
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        quiet = policy(td.clone())["action"]
    torch.testing.assert_close(
        quiet, nets.actor_network.module(nets.state_encoder.module(td["observation"]))[0]
    )
    with set_exploration_type(ExplorationType.RANDOM):
        assert not torch.equal(policy(td.clone())["action"], quiet)
    for parameter in nets.actor_network.parameters():
        parameter.data.zero_()
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert not policy(td.clone())["action"].any()


@pytest.mark.parametrize(("spec", "std"), [(Bounded(-1, 1, (2,)), 0.2), (OneHot(2), 0.1)])
def test_exploration_noise_is_halved_for_discrete_actions(spec: TensorSpec, std: float) -> None:
    assert noise_scale(spec) == std / 0.2
    noise: Any = make_policy(make_networks(Unbounded(3), spec, TINY), spec).module[-1]
    assert noise.std == std


@pytest.mark.parametrize(("name", "greedy"), [("uld", True), ("mrq", False)])
def test_discrete_evaluation_follows_the_preset(name: str, greedy: bool) -> None:
    nets = make_networks(Unbounded(3), OneHot(3), TINY)
    policy = make_policy(nets, OneHot(3), AgentConfig(run=preset(name).run))
    td = TensorDict(observation=torch.randn(1, 3).expand(300, 3), batch_size=[300])
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        kinds = policy(td)["action"].unique(dim=0)
    assert (len(kinds) == 1) == greedy
    assert RunConfig().greedy_discrete_eval is True


# Specs


@pytest.mark.parametrize(
    "spec",
    [
        Categorical(3),
        Unbounded(2),
        Bounded(0, 3, (2,), dtype=torch.int64),
        Binary(2),
        Composite(action=OneHot(2)),
        MultiOneHot((2, 3)),
    ],
    ids=lambda spec: type(spec).__name__,
)
def test_unsupported_actions_are_refused(spec: TensorSpec) -> None:
    with pytest.raises(InputError, match=f"action_spec .*{type(spec).__name__}"):
        is_discrete(spec)
    with pytest.raises(InputError):
        make_networks(Unbounded(3), spec, TINY)


def test_infinite_bounds_are_refused() -> None:
    with pytest.raises(InputError, match=r"finite bounds, got low=\[-inf, -1"):
        action_bounds(Bounded(low=torch.tensor([-torch.inf, -1.0]), high=torch.tensor([1.0, 1.0])))


def test_bounds_drop_batch_dimensions() -> None:
    low, high = torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 3.0])
    for shape in ((2,), (4, 2), (3, 4, 2)):
        found = action_bounds(Bounded(low=low.expand(shape), high=high.expand(shape)))
        assert torch.equal(found[0], low) and torch.equal(found[1], high)


@pytest.mark.parametrize(
    ("low", "high"), [([-2.0], [2.0]), ([-1.0, -0.5], [1.0, 1.0]), ([-1.0, -1.0], [1.0, 3.0]), ([0.0], [1.0])]
)
def test_bounds_that_a_tanh_policy_does_not_fill_are_refused(low: list[float], high: list[float]) -> None:
    spec = Bounded(low=torch.tensor(low), high=torch.tensor(high))
    with pytest.raises(InputError, match=r"bounds -1 and 1, got low=\[.*ActionScaling.*make_env") as raised:
        check_unit_bounds(spec)
    assert f"low={low}, high={high}" in str(raised.value)


@pytest.mark.parametrize("spec", [Bounded(-1, 1, (2,)), Bounded(-1, 1, (4, 2)), OneHot(3)])
def test_unit_bounds_and_discrete_actions_are_not_refused(spec: TensorSpec) -> None:
    check_unit_bounds(spec)


def test_an_action_without_dimensions_is_refused() -> None:
    with pytest.raises(InputError, match="action_spec"):
        make_networks(Unbounded(3), Bounded(-1, 1, ()), TINY)


@pytest.mark.parametrize(
    "spec", [Bounded(0, 255, (64,), dtype=torch.uint8), Unbounded(()), Categorical(5), OneHot(5)]
)
def test_unsupported_observations_are_refused(spec: TensorSpec) -> None:
    with pytest.raises(InputError, match="the observation must be a float vector"):
        vector_size(spec)
    assert vector_size(Unbounded((2, 5))) == 5
