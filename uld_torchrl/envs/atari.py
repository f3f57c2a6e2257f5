"""Atari games by name, with the preprocessing of the published results: Gymnasium's own wrapper.

Frame skip, maximum over two frames, gray and resizing are in ``gymnasium.wrappers.AtariPreprocessing``;
sticky actions and the cap on frames in the emulator; the stack of frames in ``images.py``; random actions
in evaluation are the evaluation's. Worker processes import this without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium
from gymnasium.wrappers import AtariPreprocessing, ClipReward

from uld_torchrl.config_images import AtariConfig, PixelConfig
from uld_torchrl.envs.images import require_opencv
from uld_torchrl.errors import InputError


def load_emulator(name: str) -> None:
    """Register ALE's environments with Gymnasium, and silence its banner.

    Raises:
        InputError: ale-py is missing.

    Example:
        >>> load_emulator("atari/Pong")
        >>> gymnasium.spec("ALE/Pong-v5").max_episode_steps is None
        True
    """
    try:
        ale = importlib.import_module("ale_py")  # registers when imported
    except ImportError as error:
        raise InputError(
            f"{name} needs the Arcade Learning Environment ({error}): pip install ale-py."
        ) from error
    ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)


def game_names() -> list[str]:
    """Return the names of all games, as ``atari/`` takes them; :func:`load_emulator` has been called.

    Example:
        >>> load_emulator("atari/Pong")
        >>> "Pong" in game_names()
        True
    """
    return [
        spec.name for spec in gymnasium.registry.values() if spec.namespace == "ALE" and spec.version == 5
    ]


def make_game(game: str, config: AtariConfig, render: bool = False) -> gymnasium.Env:
    """Make a game whose observation is one frame, uint8 (size, size), or (size, size, 3) in colours.

    Gymnasium's wrapper draws no frame at the end of a game: its last observation is made of older ones.

    Args:
        game: one of :func:`game_names`.
        config: the protocol.
        render: whether it will be drawn.

    Raises:
        InputError: OpenCV is missing.

    Example:
        >>> load_emulator("atari/Pong")
        >>> make_game("Pong", AtariConfig()).observation_space.shape
        (84, 84)
    """
    require_opencv(f"atari/{game}")
    mode: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
    env = gymnasium.make(
        f"ALE/{game}-v5",
        frameskip=1,  # the wrapper skips
        obs_type="grayscale" if config.grayscale else "rgb",
        repeat_action_probability=config.sticky_actions,
        full_action_space=config.full_action_space,
        max_num_frames_per_episode=config.max_frames,
        disable_env_checker=True,
        **mode,
    )
    env = AtariPreprocessing(
        env,
        noop_max=config.noop_max,
        frame_skip=config.frame_skip,
        screen_size=config.frame_size,
        terminal_on_life_loss=config.terminal_on_life_loss,
        grayscale_obs=config.grayscale,
    )
    return ClipReward(env, -1.0, 1.0) if config.clip_rewards else env


def frames_of_games(config: AtariConfig) -> PixelConfig:
    """Return how the frames that :func:`make_game` gives are stacked.

    Example:
        >>> frames_of_games(AtariConfig()).frame_stack
        4
    """
    return PixelConfig(frame_size=config.frame_size, frame_stack=config.frame_stack)
