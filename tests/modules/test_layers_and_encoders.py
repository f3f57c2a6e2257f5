"""The networks one by one: shapes, normalisation, initialisation, parameter counts."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uld_torchrl.modules import (
    GumbelPolicy,
    LinearPredictor,
    StateActionEncoder,
    TanhPolicy,
    ValueHead,
    VectorEncoder,
)
from uld_torchrl.modules.layers import MLP, Linear, layer_norm, xavier_uniform_

SHAPES = [(), (5,), (2, 5), (2, 1, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_output_shapes_for_any_leading_dimensions(shape: tuple[int, ...]) -> None:
    s, a, z_s, z_sa = (torch.randn(*shape, size) for size in (3, 2, 8, 6))
    assert VectorEncoder(3, 16, 8)(s).shape == (*shape, 8)
    assert StateActionEncoder(8, 2, 4, 16, 6)(z_s, a).shape == (*shape, 6)
    assert [out.shape for out in LinearPredictor(6, 8, 5)(z_sa)] == [(*shape, 1), (*shape, 8), (*shape, 5)]
    assert ValueHead(6, 16)(z_sa).shape == (*shape, 1)
    for policy in (TanhPolicy(8, 2, 16), GumbelPolicy(8, 2, 16)):
        assert [out.shape for out in policy(z_s)] == [(*shape, 2)] * 2


def test_the_batch_does_not_mix() -> None:
    encoder, s = VectorEncoder(3, 16, 8), torch.randn(4, 3)
    torch.testing.assert_close(encoder(s)[2], encoder(s[2]))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_one_hot_actions_of_any_kind(dtype: torch.dtype) -> None:
    g, z_s, action = StateActionEncoder(8, 3, 4, 16, 6), torch.randn(2, 8), torch.eye(3)[:2]
    torch.testing.assert_close(g(z_s, action.to(dtype)), g(z_s, action), rtol=0, atol=0)


def test_layer_norm_by_hand() -> None:
    # (1, 3, 8): mean 4, variance (9 + 1 + 16) / 3 = 26/3, eps 1e-5.
    x = torch.tensor([1.0, 3.0, 8.0], dtype=torch.float64)
    scale = math.sqrt(26 / 3 + 1e-5)
    torch.testing.assert_close(layer_norm(x), torch.tensor([-3.0, -1.0, 4.0]).double() / scale)


def _norm(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()


def _mlp(net: MLP, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    for layer in (net.l1, net.l2):
        x = activation(_norm(x @ layer.weight.T + layer.bias))
    return x @ net.l3.weight.T + net.l3.bias


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _randomise(net: nn.Module) -> nn.Module:
    """Biases start at zero, which would hide them."""
    for parameter in net.parameters():
        parameter.data.normal_()
    return net.double()


def test_architectures_are_those_of_the_paper() -> None:
    """f, g, value head and policies written out with matrix products (DESIGN, section 3)."""
    s, z_s, z_sa, a = (torch.randn(4, size, dtype=torch.float64) for size in (3, 8, 6, 2))
    f = _randomise(VectorEncoder(3, 16, 8))
    torch.testing.assert_close(f(s), F.elu(_norm(_mlp(f.mlp, s, F.elu))))
    g = _randomise(StateActionEncoder(8, 2, 4, 16, 6))
    z_a = F.elu(a @ g.action_embedding.weight.T + g.action_embedding.bias)
    torch.testing.assert_close(g(z_s, a), _mlp(g.mlp, torch.cat([z_s, z_a], -1), F.elu))
    head = _randomise(ValueHead(6, 16))
    features = F.elu(_norm(_mlp(head.mlp, z_sa, F.elu)))
    torch.testing.assert_close(head(z_sa), features @ head.out.weight.T + head.out.bias)
    pi = _randomise(TanhPolicy(8, 2, 16))
    action, pre = pi(z_s)
    torch.testing.assert_close(pre, _mlp(pi.mlp, z_s, F.relu))
    torch.testing.assert_close(action, pre.tanh())
    gumbel = _randomise(GumbelPolicy(8, 2, 16))
    torch.testing.assert_close(gumbel(z_s)[1], _mlp(gumbel.mlp, z_s, F.relu))
    m = _randomise(LinearPredictor(6, 8, 5))
    out = z_sa @ m.linear.weight.T + m.linear.bias
    for part, wanted in zip(m(z_sa), (out[:, :1], out[:, 1:9], out[:, 9:]), strict=True):
        torch.testing.assert_close(part, wanted)


def test_the_state_embedding_is_the_elu_of_a_normalised_vector() -> None:
    z_s = VectorEncoder(3, 16, 64)(100 * torch.randn(50, 3))
    assert z_s.min() > -1
    normalised = torch.where(z_s > 0, z_s, torch.log1p(z_s))  # ELU inverted
    torch.testing.assert_close(normalised.mean(-1), torch.zeros(50), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalised.var(-1, correction=0), torch.ones(50), atol=1e-2, rtol=0)


def test_normalisation_has_no_parameters() -> None:
    names = {name.rpartition(".")[0] for name, _ in VectorEncoder(3, 16, 8).named_parameters()}
    assert names == {"mlp.l1", "mlp.l2", "mlp.l3"}


@pytest.mark.parametrize(("fan_in", "fan_out"), [(40, 60), (300, 7)])
def test_initialisation_is_xavier_with_relu_gain(fan_in: int, fan_out: int) -> None:
    layer = Linear(fan_in, fan_out)
    bound = math.sqrt(2) * math.sqrt(6 / (fan_in + fan_out))
    assert not layer.bias.any()
    largest = layer.weight.abs().max().item()
    # Of 2000 uniform draws the largest is above 99% of the bound but for a chance of 2e-9.
    assert 0.99 * bound < largest <= bound
    # Uniform: variance bound^2 / 3; four standard errors, sqrt(4/5) / sqrt(n) relative.
    n = fan_in * fan_out
    assert layer.weight.var().item() == pytest.approx(bound**2 / 3, rel=4 * math.sqrt(0.8 / n))


def test_stacked_heads_are_initialised_as_single_ones() -> None:
    weight = xavier_uniform_(torch.empty(5, 20, 30))
    bound = math.sqrt(2) * math.sqrt(6 / 50)
    assert (weight.abs() <= bound).all() and (weight.abs().amax((1, 2)) > 0.9 * bound).all()
    assert len({head.sum().item() for head in weight}) == 5


def test_a_linear_layer_without_bias() -> None:
    layer = Linear(3, 2, bias=False)
    layer.reset_parameters()
    assert layer.bias is None
