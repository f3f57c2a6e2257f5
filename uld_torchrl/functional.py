"""The equations of MR.Q / ULD as pure functions of tensors, one equation a function.

Shapes are annotated; ``*b`` is any number of leading batch dimensions. Nothing here keeps state,
knows a TensorDict or touches a network: those are in ``modules`` and ``objectives``.

Sources: MR.Q (arXiv 2501.16142), of which ULD (arXiv 2602.12643) keeps the losses.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def alive_mask(terminated: Bool[Tensor, "*b h"]) -> Float[Tensor, "*b h"]:
    """Mark the steps that no earlier termination precedes: ``alive_t = prod_{k<t} (1 - terminated_k)``.

    Args:
        terminated: (..., H) true where the episode ended in a terminal state.

    Returns:
        (..., H) ones up to and including the first terminal step, zeros after it.

    Example:
        >>> alive_mask(torch.tensor([False, True, False]))
        tensor([1., 1., 0.])
    """
    survived = (~terminated).to(torch.get_default_dtype()).cumprod(-1)
    return torch.cat([torch.ones_like(survived[..., :1]), survived[..., :-1]], -1)


def n_step_return(
    reward: Float[Tensor, "*b n"], terminated: Bool[Tensor, "*b n"], gamma: float
) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
    """Sum n discounted rewards and give the discount of the bootstrap value.

    ``G = sum_{k<n} gamma^k alive_k r_k`` and ``D = gamma^n alive_n`` with
    ``alive_t = prod_{k<t} (1 - terminated_k)``: the reward of the terminal step counts, what
    follows it does not (numbered deviation 1).

    Args:
        reward: (..., n) rewards r_0 ... r_{n-1}.
        terminated: (..., n) true where step k ended in a terminal state.
        gamma: discount factor.

    Returns:
        ``G`` (...), in the units of the reward, and ``D`` (...), zero after a termination.

    Example:
        >>> n_step_return(torch.tensor([1.0, 10.0, 5.0]), torch.tensor([False, True, False]), 0.99)
        (tensor(10.9000), tensor(0.))
    """
    n = reward.shape[-1]
    alive = alive_mask(terminated).to(reward.dtype)
    discount = gamma ** torch.arange(n, dtype=reward.dtype, device=reward.device)
    survived = (~terminated).all(-1).to(reward.dtype)
    return (discount * alive * reward).sum(-1), gamma**n * survived


def symexp(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Return ``sign(x) (exp|x| - 1)``, the inverse of symlog (DreamerV3, arXiv 2301.04104).

    Example:
        >>> symexp(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-1.7183,  0.0000,  1.7183])
    """
    return torch.sign(x) * torch.expm1(x.abs())


def symexp_bins(
    num_bins: int = 65, bin_range: float = 10.0, dtype: torch.dtype | None = None
) -> Float[Tensor, "k"]:
    """Return the reward bins: symexp of an even grid on [-bin_range, bin_range] (MR.Q, arXiv 2501.16142).

    Worked out in float64; of torch's default type unless ``dtype`` names another.

    Example:
        >>> symexp_bins(3, 1.0)
        tensor([-1.7183,  0.0000,  1.7183])
    """
    grid = torch.linspace(-bin_range, bin_range, num_bins, dtype=torch.float64)
    return symexp(grid).to(dtype or torch.get_default_dtype())


def two_hot(x: Float[Tensor, "*b"], bins: Float[Tensor, "k"]) -> Float[Tensor, "*b k"]:
    """Spread each x over its two neighbouring bins, so that ``two_hot(x) @ bins == x``.

    Values outside the bins go to the outermost one (numbered deviation 2).

    Args:
        x: (...) scalars.
        bins: (K,) increasing bin centres.

    Returns:
        (..., K) weights, at most two of them non-zero, that sum to one.

    Example:
        >>> two_hot(torch.tensor(0.25), torch.tensor([-1.0, 0.0, 1.0]))
        tensor([0.0000, 0.7500, 0.2500])
    """
    x = x.clamp(bins[0], bins[-1])
    lower = (torch.searchsorted(bins, x.contiguous(), right=True) - 1).clamp(0, len(bins) - 2)
    left, right = bins[lower], bins[lower + 1]
    upper_weight = ((x - left) / (right - left)).unsqueeze(-1)
    lower = lower.unsqueeze(-1)
    out = torch.zeros(*x.shape, len(bins), dtype=x.dtype, device=x.device)
    return out.scatter(-1, lower, 1 - upper_weight).scatter(-1, lower + 1, upper_weight)


def two_hot_cross_entropy(
    logits: Float[Tensor, "*b k"], x: Float[Tensor, "*b"], bins: Float[Tensor, "k"]
) -> Float[Tensor, "*b"]:
    """Return ``CE = - two_hot(x) . log softmax(logits)`` (MR.Q, arXiv 2501.16142).

    Example:
        >>> bins = torch.tensor([-1.0, 0.0, 1.0])
        >>> two_hot_cross_entropy(torch.zeros(3), torch.tensor(0.25), bins)
        tensor(1.0986)
    """
    return -(two_hot(x, bins) * F.log_softmax(logits, -1)).sum(-1)


def two_hot_mean(logits: Float[Tensor, "*b k"], bins: Float[Tensor, "k"]) -> Float[Tensor, "*b"]:
    """Return the expected value of the categorical distribution over the bins.

    Example:
        >>> two_hot_mean(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 3.0]))
        tensor(1.5000)
    """
    return (logits.softmax(-1) * bins).sum(-1)


def info_nce(
    z: Float[Tensor, "*b n d"],
    z_target: Float[Tensor, "*b n d"],
    counted: Bool[Tensor, "*b n"],
    temperature: float = 0.1,
) -> Float[Tensor, "*b n"]:
    """Return how hard each z_i is to tell from the batch: ``-log softmax_j(cos(z_i, z'_j) / temperature)_i``.

    InfoNCE (arXiv 1807.03748) on cosine similarities, as DR.Q has it on predicted next embeddings (arXiv
    2605.11711). The negatives of row i are the counted rows of the batch.

    Args:
        z: (..., n, d) predicted embeddings.
        z_target: (..., n, d) what they should resemble, row by row.
        counted: (..., n) false for rows that are nobody's negative.
        temperature: small ones weigh the nearest negatives most.

    Example:
        >>> z, both = torch.eye(2), torch.tensor([True, True])
        >>> info_nce(z, 3 * z, both, temperature=1.0)  # log(1 + e) - 1
        tensor([0.3133, 0.3133])
    """
    similarity = F.normalize(z, dim=-1) @ F.normalize(z_target, dim=-1).mT / temperature
    own = torch.eye(z.shape[-2], dtype=torch.bool, device=z.device)
    among = similarity.masked_fill(~(own | counted.unsqueeze(-2)), -torch.inf)
    return torch.logsumexp(among, -1) - similarity.diagonal(dim1=-2, dim2=-1)


def random_shift(
    pixels: Shaped[Tensor, "*b c h w"], shifts: Int[Tensor, "*b 2"], pad: int
) -> Shaped[Tensor, "*b c h w"]:
    """Move each image as if cut from a padded copy: ``out[i, j] = in[i + dy - pad, j + dx - pad]``.

    Indices beyond the image are those of its edge. All channels of an image, and so all frames of a stack,
    move together (DrQ-v2, arXiv 2107.09645, without its interpolation; MR.Q, arXiv 2501.16142).

    Args:
        pixels: (..., C, h, w) of any type.
        shifts: (..., 2) integers (dy, dx) in [0, 2 pad], one pair an image.
        pad: pixels of padding; ``shifts == pad`` leaves the image as it is.

    Example:
        >>> image = torch.arange(9).view(1, 3, 3)
        >>> random_shift(image, torch.tensor([2, 1]), pad=1)
        tensor([[[3, 4, 5],
                 [6, 7, 8],
                 [6, 7, 8]]])
    """
    height, width = pixels.shape[-2:]
    rows, columns = (
        (shifts[..., axis, None] - pad + torch.arange(size, device=pixels.device)).clamp(0, size - 1)
        for axis, size in enumerate((height, width))
    )
    index = (rows.unsqueeze(-1) * width + columns.unsqueeze(-2)).flatten(-2).unsqueeze(-2)
    flat = pixels.flatten(-2)
    return flat.gather(-1, index.expand(flat.shape)).view(pixels.shape)


def one_hot_argmax(x: Shaped[Tensor, "*b a"]) -> Shaped[Tensor, "*b a"]:
    """Return the one-hot vector of the largest entry, in x's dtype; the first one wins a tie.

    Example:
        >>> one_hot_argmax(torch.tensor([0.1, 0.7, 0.2]))
        tensor([0., 1., 0.])
    """
    # F.one_hot would look at the indices first.
    return torch.zeros_like(x).scatter(-1, x.argmax(-1, keepdim=True), 1)
