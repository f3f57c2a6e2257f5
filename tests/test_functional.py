"""``uld_torchrl.functional``: values worked by hand as fractions, properties, and annotated shapes.

The losses made of these are tested in ``objectives``.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from fractions import Fraction
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import uld_torchrl
from uld_torchrl.functional import (
    alive_mask,
    info_nce,
    n_step_return,
    one_hot_argmax,
    random_shift,
    symexp,
    symexp_bins,
    two_hot,
    two_hot_cross_entropy,
    two_hot_mean,
)

EPS = torch.finfo(torch.float64).eps


def _double(*values: float | Fraction) -> torch.Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def _close(actual: torch.Tensor, *expected: float | Fraction) -> None:
    wanted = _double(*expected).reshape(actual.shape)
    torch.testing.assert_close(actual.double(), wanted, rtol=8 * EPS, atol=8 * EPS)


# n-step return; gamma = 99/100 unless it says otherwise

GAMMA = Fraction(99, 100)


@pytest.mark.parametrize(
    ("reward", "terminated", "total", "discount"),
    [
        # 1 + 99/100 * 10 = 109/10; what follows the terminal (5) does not count, nor does a bootstrap.
        ((1, 10, 5), (False, True, False), Fraction(109, 10), 0),
        # (99/100)^2 * 1: the reward of a terminal third step counts.
        ((0, 0, 1), (False, False, True), Fraction(9801, 10000), 0),
        # Terminal at once: only r_0.
        ((1, 0, 5), (True, False, False), 1, 0),
        # No terminal: 1 + 2 * 99/100 + 4 * 9801/10000 = 6.9004, D = (99/100)^3.
        ((1, 2, 4), (False, False, False), Fraction(69004, 10000), GAMMA**3),
        # Two terminals: the first one counts.
        ((1, 10, 5), (False, True, True), Fraction(109, 10), 0),
        # n = 1.
        ((7,), (False,), 7, GAMMA),
    ],
)
def test_n_step_return_by_hand(
    reward: tuple[int, ...], terminated: tuple[bool, ...], total: Fraction, discount: Fraction
) -> None:
    actual = n_step_return(_double(*reward), torch.tensor(terminated), float(GAMMA))
    _close(actual[0], total)
    _close(actual[1], discount)


def test_n_step_return_does_not_know_truncations() -> None:
    """Only ``terminated`` is read: three rewards of 1 cut by a time limit bootstrap with gamma^3."""
    total, discount = n_step_return(_double(1, 1, 1), torch.zeros(3, dtype=torch.bool), 0.5)
    _close(total, Fraction(7, 4))
    _close(discount, Fraction(1, 8))


def _loop(reward: list[float], terminated: list[bool], gamma: float) -> tuple[float, float]:
    total, discount = 0.0, 1.0
    for r, end in zip(reward, terminated, strict=True):
        total += discount * r
        discount *= gamma
        if end:
            return total, 0.0
    return total, discount


STEPS = st.lists(st.tuples(st.floats(-100, 100), st.booleans()), min_size=1, max_size=8)


@given(st.lists(STEPS, min_size=1, max_size=3), st.floats(0, 1))
def test_n_step_return_is_the_loop(windows: list[list[tuple[float, bool]]], gamma: float) -> None:
    n = min(len(window) for window in windows)
    reward = [[r for r, _ in window[:n]] for window in windows]
    terminated = [[end for _, end in window[:n]] for window in windows]
    total, discount = n_step_return(
        torch.tensor(reward, dtype=torch.float64), torch.tensor(terminated), gamma
    )
    expected = [_loop(r, end, gamma) for r, end in zip(reward, terminated, strict=True)]
    # n terms of at most 100, each with some n roundings: n^2 * 100 * eps bounds the difference.
    bound = 100 * n**2 * EPS
    torch.testing.assert_close(total, _double(*(g for g, _ in expected)), rtol=0, atol=bound)
    torch.testing.assert_close(discount, _double(*(d for _, d in expected)), rtol=0, atol=bound)


# Masks


@pytest.mark.parametrize(
    ("terminated", "alive"),
    [
        ([False, False, False], [1, 1, 1]),
        ([True, False, False], [1, 0, 0]),
        ([False, True, False], [1, 1, 0]),
        ([False, False, True], [1, 1, 1]),
        ([True, False, True], [1, 0, 0]),
        ([True], [1]),
    ],
)
def test_alive_mask(terminated: list[bool], alive: list[int]) -> None:
    assert alive_mask(torch.tensor(terminated)).tolist() == alive
    assert alive_mask(torch.tensor([[terminated] * 2] * 3)).tolist() == [[alive] * 2] * 3


# Two-hot


def test_symexp_bins_default() -> None:
    bins = symexp_bins()
    assert bins.shape == (65,) and bins.dtype == torch.float32
    assert torch.equal(bins, -bins.flip(0)) and bins[32] == 0
    assert (bins.diff() > 0).all()
    # e^10 - 1 = 22025.46...
    assert bins[-1].item() == pytest.approx(math.exp(10) - 1, rel=1e-7)
    # The grid is even: its step is 20 / 64.
    grid = torch.sign(bins) * torch.log1p(bins.abs().double())
    torch.testing.assert_close(grid.diff(), torch.full((64,), 20 / 64).double(), rtol=1e-6, atol=0)


def test_symexp() -> None:
    # expm1(ln 2) = 1, expm1(ln 3) = 2.
    log = math.log
    _close(symexp(_double(-log(3), -log(2), 0, log(2), log(3))), -2, -1, 0, 1, 2)


BINS = (-4, -1, 0, 2)


@pytest.mark.parametrize(
    ("x", "weights"),
    [
        (Fraction(1, 2), (0, 0, Fraction(3, 4), Fraction(1, 4))),  # a quarter of the way from 0 to 2
        (Fraction(-1, 4), (0, Fraction(1, 4), Fraction(3, 4), 0)),
        (-2, (Fraction(1, 3), Fraction(2, 3), 0, 0)),  # (-2 + 4) / 3 = 2/3 towards -1
        (-1, (0, 1, 0, 0)),  # at a bin
        (0, (0, 0, 1, 0)),
        (-4, (1, 0, 0, 0)),  # at the ends
        (2, (0, 0, 0, 1)),
        (-1000, (1, 0, 0, 0)),  # beyond them
        (1000, (0, 0, 0, 1)),
        (math.inf, (0, 0, 0, 1)),
    ],
)
def test_two_hot_by_hand(x: Fraction | float, weights: tuple[Fraction, ...]) -> None:
    _close(two_hot(_double(x), _double(*BINS)).squeeze(0), *weights)


def test_two_hot_saturates_outside_the_default_bins() -> None:
    """Numbered deviation 2: +-22 025 are the outermost bins; what lies beyond takes them whole."""
    weights = two_hot(torch.tensor([22_026.0, 1e9, -22_026.0, -1e9]), symexp_bins())
    assert weights.argmax(-1).tolist() == [64, 64, 0, 0]
    assert weights.amax(-1).tolist() == [1.0] * 4
    assert weights.sum().item() == 4


def test_two_hot_keeps_leading_dimensions_and_reads_non_contiguous_input() -> None:
    x = torch.tensor([[0.0, 0.5, 2.0], [-1.0, 1.0, -4.0]]).T
    weights = two_hot(x, torch.tensor(BINS, dtype=torch.float32))
    assert weights.shape == (3, 2, 4)
    assert weights[0, 1].tolist() == [0, 1, 0, 0] and weights[1, 1].tolist() == [0, 0, 0.5, 0.5]


@given(st.floats(-22_025, 22_025), st.integers(3, 65), st.sampled_from([1.0, 3.0, 10.0]))
def test_two_hot_is_a_distribution_with_mean_x(x: float, num_bins: int, bin_range: float) -> None:
    bins = symexp_bins(num_bins, bin_range).double()
    weights = two_hot(_double(x), bins).squeeze(0)
    assert (weights >= 0).all() and (weights > 0).sum() <= 2
    positions = weights.nonzero().flatten()
    assert positions[-1] - positions[0] <= 1
    # 1 - w is one rounding off; the mean adds one rounding for each of w, two products and a sum.
    assert weights.sum().item() == pytest.approx(1, abs=EPS)
    clamped = min(max(x, bins[0].item()), bins[-1].item())
    assert (weights @ bins).item() == pytest.approx(clamped, abs=4 * EPS * bins[-1].item())


def test_cross_entropy_by_hand() -> None:
    bins, log = _double(-1, 0, 1), math.log
    # softmax(0, ln 2, 0) = (1/4, 1/2, 1/4); two-hot(1/2) = (0, 1/2, 1/2):
    # CE = (ln 2 + ln 4) / 2 = 3/2 ln 2.
    logits = _double(0, log(2), 0)
    _close(two_hot_cross_entropy(logits, torch.tensor(0.5).double(), bins), 1.5 * log(2))
    # All weight on the first bin: ln 4.
    _close(two_hot_cross_entropy(logits, torch.tensor(-7.0).double(), bins), log(4))
    # Uniform: ln 3 whatever x is.
    _close(two_hot_cross_entropy(torch.zeros(2, 3).double(), _double(0.3, -1), bins), log(3), log(3))


def test_cross_entropy_gradient_is_softmax_minus_two_hot() -> None:
    # (1/4, 1/2, 1/4) - (0, 1/2, 1/2) = (1/4, 0, -1/4).
    logits = _double(0, math.log(2), 0).requires_grad_()
    two_hot_cross_entropy(logits, torch.tensor(0.5).double(), _double(-1, 0, 1)).backward()
    assert logits.grad is not None
    _close(logits.grad, Fraction(1, 4), 0, Fraction(-1, 4))


def test_two_hot_mean_by_hand() -> None:
    # (1/4, 1/2, 1/4) . (-4, 0, 6) = 1/2.
    _close(two_hot_mean(_double(0, math.log(2), 0), _double(-4, 0, 6)), Fraction(1, 2))


def test_one_hot_argmax() -> None:
    x = torch.tensor([[0.1, 0.7, 0.2], [2.0, 2.0, 1.0]], dtype=torch.float64)
    out = one_hot_argmax(x)
    assert out.dtype == torch.float64
    assert out.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert one_hot_argmax(torch.tensor([3, 5])).tolist() == [0, 1]


# Random shifts


def _padded_and_cut(image: torch.Tensor, shift: tuple[int, int], pad: int) -> torch.Tensor:
    """The definition: repeat the edge ``pad`` times on all sides, then cut out from (dy, dx) on."""
    height, width = image.shape[-2:]
    padded = torch.nn.functional.pad(image.double(), (pad,) * 4, mode="replicate")
    return padded[..., shift[0] : shift[0] + height, shift[1] : shift[1] + width].to(image.dtype)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 4), st.data())
def test_random_shift_is_padding_and_cutting(
    channels: int, h: int, w: int, pad: int, data: st.DataObject
) -> None:
    images = torch.randint(256, (2, 3, channels, h, w), dtype=torch.uint8)
    steps = st.integers(0, 2 * pad)
    pairs = data.draw(st.lists(st.tuples(steps, steps), min_size=6, max_size=6))
    out = random_shift(images, torch.tensor(pairs).view(2, 3, 2), pad)
    for number, pair in enumerate(pairs):
        row, column = divmod(number, 3)
        assert torch.equal(out[row, column], _padded_and_cut(images[row, column], pair, pad))
    unmoved = random_shift(images, torch.full((2, 3, 2), pad), pad)
    assert torch.equal(unmoved, images)


def test_random_shift_reads_overlapping_views() -> None:
    frames = torch.randint(256, (5, 4, 4), dtype=torch.uint8)
    views = frames.unfold(0, 2, 1).movedim(-1, 1)
    pairs = torch.tensor([[0, 2], [1, 1], [2, 0], [0, 0]])
    assert torch.equal(random_shift(views, pairs, 1), random_shift(views.clone(), pairs, 1))


# InfoNCE

HERE = torch.tensor([True, True, True])
# Cosines of the rows with those of TARGETS: (1, 0, 3/5), (0, 1, 4/5), (-1, 0, -3/5).
ROWS, TARGETS = _double(2, 0, 0, 1, -7, 0).view(3, 2), _double(5, 0, 0, 9, 3, 4).view(3, 2)
COSINES = ((1.0, 0.0, 0.6), (0.0, 1.0, 0.8), (-1.0, 0.0, -0.6))


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("missing", [None, 0, 2])
def test_info_nce_is_the_cross_entropy_among_the_counted_rows_and_the_own(
    missing: int | None, temperature: float
) -> None:
    counted = torch.tensor([row != missing for row in range(3)])
    found = info_nce(ROWS, TARGETS, counted, temperature)
    for i, row in enumerate(COSINES):
        among = [math.exp(c / temperature) for j, c in enumerate(row) if j in (i,) or j != missing]
        expected = math.log(sum(among)) - row[i] / temperature
        assert found[i].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_info_nce_keeps_leading_dimensions_and_is_zero_without_negatives() -> None:
    both = torch.stack([ROWS, 3 * ROWS])
    found = info_nce(both, torch.stack([TARGETS, TARGETS]), torch.stack([HERE, HERE]), 0.1)
    torch.testing.assert_close(found, info_nce(ROWS, TARGETS, HERE).expand(2, 3), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(info_nce(ROWS, TARGETS, ~HERE), torch.zeros(3).double(), rtol=0, atol=1e-12)


def test_info_nce_of_zeros_and_of_uncounted_rows_has_finite_gradients() -> None:
    z = torch.zeros(3, 2, requires_grad=True)
    info_nce(z, TARGETS.float(), torch.tensor([True, False, False])).sum().backward()
    assert z.grad is not None and bool(z.grad.isfinite().all())


# Annotated shapes


@pytest.fixture(scope="module")
def checked() -> Iterator[ModuleType]:
    """``uld_torchrl.functional`` imported anew, its annotations checked at every call."""
    pytest.importorskip("beartype", reason="beartype checks the annotations; it is in .[test]")
    jaxtyping = pytest.importorskip("jaxtyping")
    name = "uld_torchrl.functional"
    plain = sys.modules.pop(name)
    try:
        with jaxtyping.install_import_hook(name, "beartype.beartype"):
            yield importlib.import_module(name)
    finally:
        sys.modules[name] = plain
        setattr(uld_torchrl, "functional", plain)  # noqa: B010


def test_right_shapes_pass_the_annotations(checked: ModuleType) -> None:
    flags, bins = torch.zeros(2, 5, dtype=torch.bool), checked.symexp_bins(3)
    checked.alive_mask(flags)
    checked.n_step_return(torch.zeros(2, 5), flags, 0.99)
    checked.symexp(torch.zeros(()))
    checked.two_hot(torch.zeros(2, 5), bins)
    checked.two_hot_cross_entropy(torch.zeros(2, 5, 3), torch.zeros(2, 5), bins)
    checked.two_hot_mean(torch.zeros(2, 5, 3), bins)
    checked.one_hot_argmax(torch.zeros(2, 3))
    checked.info_nce(torch.zeros(5, 2, 4), torch.zeros(5, 2, 4), torch.zeros(5, 2, dtype=torch.bool))
    checked.random_shift(torch.zeros(2, 5, 4, 8, 9), torch.zeros(2, 5, 2, dtype=torch.long), 4)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("alive_mask", lambda: (torch.zeros(2, 5),)),  # floats for flags
        ("n_step_return", lambda: (torch.zeros(2, 5), torch.zeros(2, 4, dtype=torch.bool), 0.99)),
        ("n_step_return", lambda: (torch.zeros(2, 5, 1), torch.zeros(2, 5, dtype=torch.bool), 0.99)),
        ("two_hot", lambda: (torch.zeros(2), torch.zeros(3, 1))),
        ("two_hot_cross_entropy", lambda: (torch.zeros(2, 4), torch.zeros(2), torch.arange(3.0))),
        ("two_hot_cross_entropy", lambda: (torch.zeros(5, 3), torch.zeros(2), torch.arange(3.0))),
        ("two_hot_mean", lambda: (torch.zeros(2, 4), torch.arange(3.0))),
        ("random_shift", lambda: (torch.zeros(2, 4, 8, 9), torch.zeros(2, 2), 4)),
        ("random_shift", lambda: (torch.zeros(2, 4, 8, 9), torch.zeros(3, 2, dtype=torch.long), 4)),
        ("info_nce", lambda: (torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(2, dtype=torch.bool))),
        ("symexp", lambda: (torch.zeros(2, dtype=torch.int64),)),
    ],
)
def test_wrong_shapes_raise(checked: ModuleType, function: str, arguments: object) -> None:
    from jaxtyping import TypeCheckError

    with pytest.raises(TypeCheckError, match=function):
        getattr(checked, function)(*arguments())  # type: ignore[operator]
