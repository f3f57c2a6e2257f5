"""Settings of image observations: frames of any environment, and of Atari games.

The other settings are in ``config.py``, which holds these two as sections. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from uld_torchrl.errors import InputError, check_kinds, check_non_negative, check_positive


@dataclass(frozen=True)
class PixelConfig:
    """Images of dm_control and of Gymnasium environments; those of ``atari/`` have settings of their own.

    Example:
        >>> PixelConfig().frame_stack
        3
    """

    frame_size: int = 84
    """Height and width of a frame; larger and smaller images are resized to it."""
    frame_stack: int = 3
    """Last frames that make one observation."""
    grayscale: bool = False
    """Turn colours into one channel of brightness."""

    def __post_init__(self) -> None:
        check_kinds(self)
        check_positive(self, "frame_size", "frame_stack")


@dataclass(frozen=True)
class AtariConfig:
    """The protocol of ``atari/`` environments: Machado et al. (arXiv 1709.06009), as MR.Q uses it.

    Evaluation always counts the game's own score, over whole games: ``clip_rewards`` and
    ``terminal_on_life_loss`` are for training only.

    Example:
        >>> AtariConfig().sticky_actions
        0.25
    """

    frame_skip: int = 4
    """Game frames of each action; the last two are merged by their maximum."""
    frame_size: int = 84
    """Height and width of a frame."""
    frame_stack: int = 4
    """Last frames that make one observation."""
    grayscale: bool = True
    """One channel of brightness instead of colours."""
    sticky_actions: float = 0.25
    """Probability that a game frame repeats the action of the one before."""
    clip_rewards: bool = False
    """Clip rewards to [-1, 1] (training only)."""
    terminal_on_life_loss: bool = False
    """End the episode with each life (training only)."""
    noop_max: int = 0
    """Largest number of no-ops that begin an episode; the number is random, from 1 on. 0: none."""
    max_frames: int = 108_000
    """Game frames after which an episode is truncated."""
    eval_epsilon: float = 0.001
    """Probability of a random action, in evaluation only."""
    full_action_space: bool = False
    """All 18 actions instead of those that the game uses; Gymnasium's v5 environments have it off."""

    def __post_init__(self) -> None:
        check_kinds(self)
        check_positive(self, "frame_skip", "frame_size", "frame_stack", "max_frames")
        check_non_negative(self, "noop_max")
        for name in ("sticky_actions", "eval_epsilon"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
