"""The encoder of images: its layers written out, the sizes of the paper, its initialisation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchrl.data import Bounded, OneHot, UnboundedDiscrete

from uld_torchrl.config import ModelConfig
from uld_torchrl.errors import InputError
from uld_torchrl.modules import PixelEncoder, make_networks
from uld_torchrl.modules.layers import Conv2d


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Convolution as a sum over every window, [C, h, w] -> [O, h', w']."""
    rows, columns = ((size - 3) // stride + 1 for size in x.shape[1:])
    out = torch.empty(len(weight), rows, columns, dtype=x.dtype)
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
            out[:, i, j] = (weight * window).sum((1, 2, 3)) + bias
    return out


def test_the_architecture_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    encoder = PixelEncoder((2, 33, 31), conv_channels=3, z_s_dim=5).double()
    for parameter in encoder.parameters():
        parameter.data.normal_()
    pixels = torch.randint(256, (2, 33, 31), dtype=torch.uint8)
    x = pixels.double() / 255 - 0.5
    for convolution, stride in zip(encoder.convolutions, (2, 2, 2, 1), strict=True):
        x = F.elu(_convolve(x, convolution.weight, convolution.bias, stride))
    y = encoder.linear.weight @ x.flatten() + encoder.linear.bias
    y = (y - y.mean()) / (y.var(correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(encoder(pixels), F.elu(y))


def test_sizes_and_parameters_are_the_published_ones() -> None:
    # Convolutions: 32 (9 * 4 + 1) + 3 * 32 (9 * 32 + 1) = 1184 + 27744; Linear: 1569 * 512 = 803328.
    # The other networks differ from HalfCheetah's by 19 instead of 7 rows of z_a and 18 instead of 6 actions.
    encoder = PixelEncoder((4, 84, 84))
    sizes = []
    for convolution in encoder.convolutions:
        convolution.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
    assert encoder(torch.zeros(3, 4, 84, 84, dtype=torch.uint8)).shape == (3, 512)
    assert sizes == [(32, 41, 41), (32, 20, 20), (32, 9, 9), (32, 7, 7)]
    assert sum(p.numel() for p in encoder.parameters()) == 1184 + 27_744 + 803_328
    spec = UnboundedDiscrete((4, 84, 84), dtype=torch.uint8)
    nets = make_networks(spec, OneHot(18))
    others = 3_857_226 - 534_528 + (19 - 7) * 256 + (18 - 6) * 513
    assert sum(p.numel() for net in nets.modules() for p in net.parameters()) == 832_256 + others == 4_164_182


@pytest.mark.parametrize("shape", [(), (5,), (2, 5), (1, 1, 2)])
def test_leading_dimensions_do_not_mix(shape: tuple[int, ...]) -> None:
    encoder = PixelEncoder((3, 31, 31), 4, 8)
    pixels = torch.randint(256, (*shape, 3, 31, 31), dtype=torch.uint8)
    z_s = encoder(pixels)
    assert z_s.shape == (*shape, 8)
    flat, alone = z_s.view(-1, 8), pixels.reshape(-1, 3, 31, 31)
    torch.testing.assert_close(flat[-1], encoder(alone[-1]))


@pytest.mark.parametrize("shape", [(0,), (2, 0)])
def test_no_images_give_no_embeddings(shape: tuple[int, ...]) -> None:
    pixels = torch.zeros(*shape, 3, 31, 31, dtype=torch.uint8)
    assert PixelEncoder((3, 31, 31), 4, 8)(pixels).shape == (*shape, 8)


def test_overlapping_views_are_read_as_copies_are() -> None:
    encoder, frames = PixelEncoder((2, 31, 31), 4, 8), torch.randint(256, (3, 4, 31, 31), dtype=torch.uint8)
    views = frames.as_strided((3, 3, 2, 31, 31), (4 * 961, 961, 961, 31, 1))
    torch.testing.assert_close(encoder(views), encoder(views.clone()), rtol=0, atol=0)


def test_black_and_white_are_minus_and_plus_one_half() -> None:
    encoder = PixelEncoder((1, 31, 31), 1, 2)
    seen = []
    encoder.convolutions[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder(torch.stack([torch.zeros(1, 31, 31), torch.full((1, 31, 31), 255.0)]).to(torch.uint8))
    assert seen[0][0].eq(-0.5).all() and seen[0][1].eq(0.5).all()


def test_convolutions_are_initialised_as_xavier_with_relu_gain() -> None:
    layer = Conv2d(16, 32, 3, 2)
    bound = math.sqrt(2) * math.sqrt(6 / (9 * 16 + 9 * 32))
    largest = layer.weight.abs().max().item()
    assert not layer.bias.any()
    assert 0.99 * bound < largest <= bound
    layer.reset_parameters()
    assert layer.weight.abs().max() <= bound


@pytest.mark.parametrize("side", [1, 30])
def test_images_of_which_nothing_is_left_are_refused(side: int) -> None:
    with pytest.raises(InputError, match=rf"at least 31 pixels, got shape \(3, 84, {side}\)"):
        PixelEncoder((3, 84, side))
    assert PixelEncoder((3, 31, 31), 4, 8).linear.in_features == 4


@pytest.mark.parametrize(
    ("pixels", "got"),
    [
        (torch.zeros(5, 3, 31, 40), "torch.float32 of the shape (5, 3, 31, 40)"),
        (torch.zeros(3, 31, 40, dtype=torch.int64), "torch.int64 of the shape (3, 31, 40)"),
        (torch.zeros(5, 31, 40, 3, dtype=torch.uint8), "torch.uint8 of the shape (5, 31, 40, 3)"),
        (torch.zeros(5, 3, 40, 31, dtype=torch.uint8), "torch.uint8 of the shape (5, 3, 40, 31)"),
        (torch.zeros(5, 1, 31, 40, dtype=torch.uint8), "torch.uint8 of the shape (5, 1, 31, 40)"),
        (torch.zeros(31, 40, dtype=torch.uint8), "torch.uint8 of the shape (31, 40)"),
    ],
)
def test_images_of_another_type_or_shape_are_refused(pixels: Tensor, got: str) -> None:
    with pytest.raises(InputError) as caught:
        PixelEncoder((3, 31, 40), 4, 8)(pixels)
    wanted = "images must be uint8 from 0 to 255 of the shape (..., 3, 31, 40), channels first, got "
    assert str(caught.value) == f"{wanted}{got}."


def test_it_is_one_graph_and_maps_over_samples_and_parameters() -> None:
    encoder = PixelEncoder((3, 31, 31), 4, 8)
    pixels = torch.randint(256, (2, 5, 3, 31, 31), dtype=torch.uint8)
    z_s = encoder(pixels)
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(pixels), z_s)
    torch.testing.assert_close(torch.vmap(encoder)(pixels), z_s)


def test_a_single_image_without_channels_is_refused() -> None:
    with pytest.raises(InputError, match=r"a stack of uint8 images.*got torch.uint8 of shape \(84, 84\)"):
        make_networks(Bounded(0, 255, (84, 84), dtype=torch.uint8), OneHot(2))


def test_channels_follow_the_settings_and_the_key_is_pixels() -> None:
    spec = UnboundedDiscrete((7, 9, 48, 32), dtype=torch.uint8)  # seven environments
    nets = make_networks(spec, OneHot(2), ModelConfig(conv_channels=5, z_s_dim=8))
    assert nets.state_encoder.in_keys == ["pixels"]
    assert [c.out_channels for c in nets.state_encoder.module.convolutions] == [5] * 4
    assert nets.state_encoder.module.convolutions[0].in_channels == 9
    named = make_networks(spec, OneHot(2), observation_key="camera")
    assert named.state_encoder.in_keys == ["camera"]
