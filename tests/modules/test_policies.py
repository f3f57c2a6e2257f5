"""Policies and exploration: what is random when, bounds, and the widths of the noise."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, OneHot
from torchrl.envs.utils import ExplorationType, set_exploration_type

from uld_torchrl.modules import ExplorationNoise, GumbelPolicy, TanhPolicy

RANDOM, QUIET = ExplorationType.RANDOM, ExplorationType.DETERMINISTIC
BOX = Bounded(-1, 1, (2,))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("mode", [RANDOM, QUIET, ExplorationType.MODE, ExplorationType.MEAN])
def test_gumbel_samples_under_every_exploration_type(mode: ExplorationType) -> None:
    policy, z_s = GumbelPolicy(4, 3, 8), torch.randn(5, 4)
    with set_exploration_type(mode):
        first, second = policy(z_s), policy(z_s)
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    torch.testing.assert_close(first[0].sum(-1), torch.ones(5))
    assert (first[0] > 0).all()


def test_gumbel_has_the_probabilities_of_the_logits_and_is_soft() -> None:
    # argmax of softmax((l + g) / tau) has the probabilities softmax(l), whatever tau.
    policy = GumbelPolicy(1, 2, 8, tau=10.0)
    policy.mlp.l3.weight.data.zero_()
    policy.mlp.l3.bias.data.copy_(torch.tensor([0.0, math.log(3)]))
    action, logits = policy(torch.zeros(20_000, 1))
    assert logits[0].tolist() == pytest.approx([0, math.log(3)])
    assert (action.argmax(-1) == 1).float().mean().item() == pytest.approx(0.75, abs=4 * 0.0031)
    # log(a_1 / a_0) = (l_1 - l_0 + logistic noise) / tau: standard deviation pi / sqrt(3) / 10,
    # with standard error sd * sqrt((4.2 - 1) / 4 / n).
    ratio = (action[:, 1] / action[:, 0]).log()
    deviation = math.pi / math.sqrt(3) / 10
    assert ratio.std().item() == pytest.approx(deviation, rel=4 * math.sqrt(0.8 / 20_000))
    assert ratio.mean().item() == pytest.approx(math.log(3) / 10, abs=4 * deviation / math.sqrt(20_000))


def test_gumbel_passes_gradients() -> None:
    policy = GumbelPolicy(4, 3, 8)
    policy(torch.randn(5, 4))[0][:, 0].sum().backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())


def test_tanh_is_deterministic_and_bounded() -> None:
    policy, z_s = TanhPolicy(4, 3, 8), 100 * torch.randn(5, 4)
    assert torch.equal(policy(z_s)[0], policy(z_s)[0])
    assert (policy(z_s)[0].abs() <= 1).all()


def _box(action: torch.Tensor) -> TensorDict:
    return TensorDict(action=action, pre_activation=action * 7, batch_size=action.shape[:-1])


def test_box_without_exploration_is_the_policys_action() -> None:
    action = torch.tensor([[0.3, -0.9]])
    for mode in (QUIET, ExplorationType.MODE, ExplorationType.MEAN):
        with set_exploration_type(mode):
            assert torch.equal(ExplorationNoise(BOX, 0.2)(_box(action))["action"], action)


def test_box_noise_has_the_given_width() -> None:
    n = 20_000
    noise = ExplorationNoise(BOX, 0.2)
    with set_exploration_type(RANDOM):
        action = noise(_box(torch.tensor([0.1, -0.1]).expand(n, 2)))["action"]
    # Four standard errors: sd / sqrt(n) of a mean, sd / sqrt(2 n) of a deviation. 0.9 is 4.5 sd away.
    assert action.mean(0).tolist() == pytest.approx([0.1, -0.1], abs=4 * 0.2 / math.sqrt(n))
    assert action.std(0).tolist() == pytest.approx([0.2, 0.2], rel=4 / math.sqrt(2 * n))
    correlation = torch.corrcoef(action.T)[0, 1].item()
    assert correlation == pytest.approx(0, abs=4 / math.sqrt(n))


def test_box_noise_is_clipped_to_each_dimensions_bounds() -> None:
    spec = Bounded(low=torch.tensor([-0.5, 2.0]), high=torch.tensor([0.25, 3.0]))
    with set_exploration_type(RANDOM):
        action = ExplorationNoise(spec, 5.0)(_box(torch.zeros(500, 2)))["action"]
    assert action.amin(0).tolist() == [-0.5, 2.0] and action.amax(0).tolist() == [0.25, 3.0]
    with set_exploration_type(QUIET):
        action = ExplorationNoise(spec, 5.0)(_box(torch.tensor([[9.0, 0.0]])))["action"]
    assert action.tolist() == [[0.25, 2.0]]


def test_bounds_of_a_batched_spec() -> None:
    spec = Bounded(-1, 1, (7, 2))
    with set_exploration_type(RANDOM):
        assert ExplorationNoise(spec, 5.0)(_box(torch.zeros(7, 2)))["action"].abs().max() <= 1


def test_noise_keeps_the_specs_dtype() -> None:
    spec = Bounded(-1, 1, (2,), dtype=torch.float64)
    with set_exploration_type(RANDOM):
        assert ExplorationNoise(spec, 0.2)(_box(torch.zeros(3, 2)))["action"].dtype == torch.float64


def _discrete(n: int = 1) -> TensorDict:
    """The sample prefers action 1, the logits action 0."""
    return TensorDict(
        action=torch.tensor([0.45, 0.55]).repeat(n, 1),
        pre_activation=torch.tensor([3.0, 1.0]).repeat(n, 1),
        batch_size=[n],
    )


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_one_hot_greedy_and_sampled(dtype: torch.dtype) -> None:
    spec = OneHot(2, dtype=dtype)
    with set_exploration_type(QUIET):
        greedy = ExplorationNoise(spec, 0.1)(_discrete())["action"]
        sampled = ExplorationNoise(spec, 0.1, greedy=False)(_discrete())["action"]
    assert greedy.tolist() == [[1, 0]] and sampled.tolist() == [[0, 1]]
    assert greedy.dtype == sampled.dtype == dtype


@pytest.mark.parametrize("greedy", [True, False])
def test_one_hot_noise_is_added_before_the_argmax(greedy: bool) -> None:
    # a_0 + e_0 > a_1 + e_1 where e_0 - e_1 > 1/10; of width .1 sqrt(2): P(N > .7071) = .2398.
    n = 20_000
    with set_exploration_type(RANDOM):
        action = ExplorationNoise(OneHot(2), 0.1, greedy=greedy)(_discrete(n))["action"]
    assert (action.sum(-1) == 1).all()
    frequency = action[:, 0].float().mean().item()
    assert frequency == pytest.approx(0.2398, abs=4 * math.sqrt(0.2398 * 0.7602 / n))


def test_without_a_set_type_it_explores() -> None:
    with set_exploration_type(None):
        action = ExplorationNoise(BOX, 0.2)(_box(torch.zeros(3, 2)))["action"]
    assert action.any()


def test_nested_keys() -> None:
    noise = ExplorationNoise(OneHot(2), 0.0, action_key=("agent", "act"), pre_activation_key=("agent", "pre"))
    td = TensorDict({"agent": {"act": torch.tensor([[0.9, 0.1]]), "pre": torch.tensor([[0.0, 1.0]])}}, [1])
    with set_exploration_type(QUIET):
        assert noise(td)["agent", "act"].tolist() == [[False, True]]
    assert noise.out_keys == [("agent", "act")]
