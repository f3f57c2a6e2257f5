"""Reading TorchRL specs: which actions and observations are supported, and their sizes.

The one place where an unsupported space is refused, with a message for the user.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchrl.data import Bounded, MultiOneHot, OneHot, TensorSpec

from uld_torchrl.errors import InputError


def is_discrete(action_spec: TensorSpec) -> bool:
    """Tell one-hot actions (True) from bounded continuous ones (False).

    Raises:
        InputError: the spec is neither.

    Example:
        >>> is_discrete(OneHot(3))
        True
    """
    if isinstance(action_spec, OneHot) and not isinstance(action_spec, MultiOneHot):
        return True
    if isinstance(action_spec, Bounded) and action_spec.dtype.is_floating_point and action_spec.ndim:
        return False
    raise InputError(
        f"action_spec must be a one-hot or a bounded float spec of vectors, got "
        f"{type(action_spec).__name__} "
        f"({action_spec.dtype}, shape {tuple(action_spec.shape)})."
    )


def action_bounds(action_spec: Bounded) -> tuple[Tensor, Tensor]:
    """Return lower and upper bounds (A,) of a bounded spec; batch dimensions are dropped.

    Raises:
        InputError: a bound is infinite.

    Example:
        >>> action_bounds(Bounded(-1, 1, (2,)))
        (tensor([-1., -1.]), tensor([1., 1.]))
    """
    size = action_spec.shape[-1]
    low, high = (
        bound.reshape(-1, size)[0].clone() for bound in (action_spec.space.low, action_spec.space.high)
    )
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise InputError(
            f"action_spec must have finite bounds, got low={low.tolist()}, high={high.tolist()}."
        )
    return low, high


def check_unit_bounds(action_spec: TensorSpec) -> None:
    """Refuse continuous actions that a policy ending in tanh would reach only in part, or overshoot.

    Raises:
        InputError: a bound is not -1 or 1; the message says how to scale.

    Example:
        >>> check_unit_bounds(Bounded(-1, 1, (2,)))
    """
    if is_discrete(action_spec):
        return
    low, high = action_bounds(action_spec)
    if bool((low == -1).all() and (high == 1).all()):
        return
    raise InputError(
        f"action_spec must have the bounds -1 and 1, got low={low.tolist()}, high={high.tolist()}: "
        "the policy acts in [-1, 1]. Scale them with TransformedEnv(env, torchrl.envs.ActionScaling()), "
        "or make the environment with uld_torchrl.make_env, which scales."
    )


def is_image(observation_spec: TensorSpec) -> bool:
    """Tell stacks of uint8 images, (..., k C, h, w), from other observations.

    Example:
        >>> from torchrl.data import UnboundedDiscrete
        >>> is_image(UnboundedDiscrete((4, 84, 84), dtype=torch.uint8))
        True
    """
    return observation_spec.dtype == torch.uint8 and observation_spec.ndim >= 3


def vector_size(observation_spec: TensorSpec) -> int:
    """Return the length of a flat float observation.

    Raises:
        InputError: the observation is not a float vector; images of floats among others.

    Example:
        >>> from torchrl.data import Unbounded
        >>> vector_size(Unbounded(17))
        17
    """
    if not observation_spec.shape or not observation_spec.dtype.is_floating_point:
        raise InputError(
            "the observation must be a float vector (n,), or a stack of uint8 images (k * channels, height, "
            f"width) with values from 0 to 255; got {observation_spec.dtype} of shape "
            f"{tuple(observation_spec.shape)}."
        )
    return observation_spec.shape[-1]
