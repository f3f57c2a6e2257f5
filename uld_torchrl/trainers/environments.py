"""What a run asks of its environments before it begins, and what it warns of.

Making them is in ``uld_torchrl.envs``; playing episodes in ``evaluation``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import gymnasium
from torchrl.envs import EnvBase

from uld_torchrl.config import AgentConfig
from uld_torchrl.envs import EnvLike, share_environments, task_spaces
from uld_torchrl.errors import InputError
from uld_torchrl.modules import PixelEncoder
from uld_torchrl.trainers.augmentation import check_shift

_LOG = logging.getLogger(__name__)


def with_lanes(config: AgentConfig, env: EnvLike) -> AgentConfig:
    """Return the settings with the number of environments that a vector environment has.

    Example:
        >>> with_lanes(AgentConfig(), gymnasium.make_vec("CartPole-v1", 3)).run.num_envs
        3
    """
    if isinstance(env, gymnasium.vector.VectorEnv) and config.run.num_envs == 1:
        return replace(config, run=replace(config.run, num_envs=env.num_envs))
    return config


def check_pair(env: EnvBase, eval_env: EnvBase, horizon: int) -> None:
    """Refuse environments that cannot be trained on, or that cannot evaluate what was trained.

    Raises:
        InputError: they are one object, have different spaces, or give steps between two episodes that
            windows of one record would hold.

    Example:
        >>> from uld_torchrl import make_env
        >>> check_pair(make_env("CartPole-v1"), make_env("CartPole-v1"), horizon=5)
    """
    if share_environments(env, eval_env):
        raise InputError(
            "env: training and evaluation would step one and the same environment; its callable must make a "
            "new one at each call, and eval_env must be another object."
        )
    if task_spaces(env) != task_spaces(eval_env):
        raise InputError(
            f"eval_env must have the spaces of env, {task_spaces(env)}; got {task_spaces(eval_env)}."
        )
    if env.has_seams and horizon == 1:
        raise InputError(
            "horizon must be at least 2 for a vector environment of AutoresetMode.NEXT_STEP, got 1: its "
            "steps between two episodes could be drawn. Make it with SAME_STEP or DISABLED."
        )


def check_images(env: EnvBase, config: AgentConfig) -> None:
    """Refuse images too small for the encoder, or for their random shifts; other observations pass.

    Raises:
        InputError: they are; the message names the setting.

    Example:
        >>> from uld_torchrl import make_env
        >>> check_images(make_env("CartPole-v1"), AgentConfig())
    """
    task = task_spaces(env)
    if task.frames is None:
        return
    height, width = (task.observation.shape or ())[-2:]
    if min(height, width) < PixelEncoder.MIN_SIDE:
        raise InputError(
            f"frame_size must be at least {PixelEncoder.MIN_SIDE} for the encoder of images, got images of "
            f"{height} x {width}: set pixels.frame_size, or atari.frame_size for atari/ environments."
        )
    check_shift(config.optim.image_shift, (height, width))


def warn_of_statistics(layers: Sequence[str]) -> None:
    """Log a warning for wrappers that learn while training and would have to be carried elsewhere.

    Example:
        >>> warn_of_statistics(["gymnasium.wrappers.TimeLimit"])
    """
    for layer in layers:
        if layer.rpartition(".")[2] in ("NormalizeObservation", "NormalizeReward"):
            _LOG.warning(
                "the statistics of %s stay in each training environment: evaluation, other lanes and a "
                "resumed or loaded run begin with their own. ULD needs neither of the two wrappers.",
                layer,
            )
