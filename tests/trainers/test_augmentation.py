"""Random shifts of a window's images: which stacks get one, how far, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from uld_torchrl.errors import InputError
from uld_torchrl.functional import random_shift
from uld_torchrl.trainers.augmentation import shift_images

B, H, SIZE, PAD = 40, 3, 12, 2


def coordinates() -> torch.Tensor:
    """Images that name their own rows and columns, so that a shift can be read off: [B, H, 2, h, w]."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return torch.stack([rows, columns]).to(torch.uint8).expand(B, H, 2, SIZE, SIZE).contiguous()


def window() -> TensorDict:
    image = coordinates()
    return TensorDict(
        {
            "pixels": image,
            "state": torch.randn(B, H, 4),
            "next": {"pixels": image, "state": torch.randn(B, H, 4)},
        },
        batch_size=[B, H],
    )


def shifts(images: torch.Tensor) -> torch.Tensor:
    """Read the shift (dy, dx) of each image off its middle, [..., 2]."""
    middle = SIZE // 2
    return images[..., middle, middle].to(torch.long) - middle + PAD


def test_each_stack_draws_its_own_shift_and_its_frames_share_it() -> None:
    torch.manual_seed(0)
    given = window()
    out = shift_images(given, ["pixels"], PAD)
    now, then = shifts(out["pixels"]), shifts(out["next", "pixels"])
    for drawn in (now[:, 0], *then.unbind(1)):
        assert drawn.min() == 0 and drawn.max() == 2 * PAD  # all directions, up to the limit
        assert len(drawn.unique(dim=0)) > 10
    pairs = [(now[:, 0], then[:, 0]), (then[:, 0], then[:, 1]), (then[:, 1], then[:, 2])]
    assert all((a != b).any(-1).float().mean() > 0.8 for a, b in pairs)
    # The whole image is the given one moved, in both of its channels (frames) alike.
    moved = random_shift(coordinates(), then, PAD)
    assert torch.equal(out["next", "pixels"], moved)


def test_draws_are_uniform() -> None:
    torch.manual_seed(1)
    counts = torch.zeros(2 * PAD + 1, 2 * PAD + 1)
    for _ in range(50):
        for pair in shifts(shift_images(window(), ["pixels"], PAD)["next", "pixels"]).view(-1, 2):
            counts[pair[0], pair[1]] += 1
    expected = counts.sum() / counts.numel()
    # 25 cells: chi-square beyond 60 has a chance of 6e-5.
    assert ((counts - expected) ** 2 / expected).sum() < 60


@pytest.mark.parametrize("step", range(H))
def test_the_value_reads_one_next_observation(step: int) -> None:
    torch.manual_seed(2)
    out = shift_images(window(), ["pixels"], PAD, slice(step, step + 1))
    then = shifts(out["next", "pixels"])
    assert torch.equal(then[:, 0], then[:, step]) and len(then[:, step].unique(dim=0)) > 10


def test_the_window_given_and_its_vectors_stay_as_they_are() -> None:
    given = window()
    before = given.clone()
    out = shift_images(given, ["pixels", "state"], PAD)
    assert (given == before).all()
    assert torch.equal(out["state"], given["state"]) and torch.equal(
        out["next", "state"], given["next", "state"]
    )


def test_a_shift_of_zero_and_vectors_alone_cost_nothing() -> None:
    given = window()
    state = torch.get_rng_state()
    assert shift_images(given, ["pixels"], 0) is given
    assert shift_images(given, ["state"], PAD) is given
    assert torch.equal(torch.get_rng_state(), state)


def test_a_shift_of_the_whole_image_is_refused() -> None:
    assert shift_images(window(), ["pixels"], SIZE - 1)["pixels"].shape == (B, H, 2, SIZE, SIZE)
    wide = window().apply(lambda x: x.repeat_interleave(2, -1))
    for given, pad, size in ((window(), SIZE, "12 and 12"), (wide, SIZE + 3, "12 and 24")):
        with pytest.raises(InputError, match=f"image_shift must be smaller than .*, {size}, got {pad}"):
            shift_images(given, ["pixels"], pad)
    assert shift_images(wide, ["state"], 100) is wide
