"""Image observations: from an environment's frames to stacks of the last ones, by Gymnasium's own wrappers.

Every frame is looked at, put as (height, width, channels), made gray and resized if so wished, and stacked;
the first frame of an episode fills its stack. Here are no renderers, emulators or action repeats: those
are in ``dmc.py`` and ``atari.py``, and what they give passes through here as well.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Space
from gymnasium.wrappers import FrameStackObservation, GrayscaleObservation, ResizeObservation

from uld_torchrl.config_images import PixelConfig
from uld_torchrl.envs.spaces import TaskSpaces, is_image, task_of, unsupported
from uld_torchrl.errors import InputError

MAX_CHANNELS = 4
"""More of them, last or first, are taken for height or width."""


class WrongFrame(InputError):
    """A frame that does not fit its observation space.

    Example:
        >>> raise WrongFrame("the frame is float64.")
        Traceback (most recent call last):
        ...
        uld_torchrl.envs.images.WrongFrame: the frame is float64.
    """


def stack_frames(
    env: gymnasium.Env, pixels: PixelConfig | None = None, name: str | None = None
) -> gymnasium.Env:
    """Wrap an environment that observes images so that it observes the last ones: uint8 (k C, h, w).

    The oldest of the k frames comes first; at the start of an episode all are its first frame. An environment
    that observes no images is returned as it is.

    Args:
        env: with a uint8 observation (H, W), (H, W, C) or (C, H, W), C from 1 to 4.
        pixels: size and number of the frames, and whether they are made gray.
        name: of the environment, for messages; by default its class.

    Raises:
        InputError: images of another shape or stacked already, gray wished for what has no three colours,
            OpenCV is missing.

    Example:
        >>> from gymnasium.wrappers import TransformObservation
        >>> image = Box(0, 255, (96, 96, 3), np.uint8)
        >>> env = TransformObservation(gymnasium.make("CartPole-v1"), lambda _: image.sample(), image)
        >>> stack_frames(env).reset()[0].shape
        (9, 84, 84)
    """
    if isinstance(env, StackedFrames) or not is_image(getattr(env, "observation_space", None)):
        return env
    pixels, name = pixels or PixelConfig(), name or type(env.unwrapped).__name__
    _check_not_stacked(env, name)
    env = _Frames(env, name)
    height, width, channels = env.shape
    if pixels.grayscale and channels != 1:
        _check_colours(channels, name)
        env = GrayscaleObservation(env, keep_dim=True)
    size = (pixels.frame_size, pixels.frame_size)
    if (height, width) != size:
        require_opencv(name)
        env = ResizeObservation(env, size)
    return StackedFrames(FrameStackObservation(env, pixels.frame_stack))


def stacked_task(env: gymnasium.Env) -> TaskSpaces:
    """Return the spaces of an environment, with the number of frames if it comes from :func:`stack_frames`.

    Example:
        >>> stacked_task(gymnasium.make("CartPole-v1")).frames is None
        True
    """
    task = task_of(env)
    return replace(task, frames=env.frames) if isinstance(env, StackedFrames) else task


def observation_stack(space: Space[Any], observation: Any) -> np.ndarray:
    """Return stacked frames as uint8 (k C, h, w), or a batch of B as (B, k C, h, w).

    Raises:
        InputError: other shapes, or other numbers than uint8.

    Example:
        >>> space = Box(0, 255, (12, 84, 84), np.uint8)
        >>> observation_stack(space, np.zeros((5, 12, 84, 84), np.uint8)).shape
        (5, 12, 84, 84)
    """
    values, shape = _array(observation, InputError), space.shape or ()
    if values.dtype != np.uint8 or values.shape not in (shape, (*values.shape[:1], *shape)):
        raise InputError(
            f"observation must be uint8 of the shape {shape}, or (B, {str(shape)[1:]} for a batch, got "
            f"{values.dtype} of the shape {values.shape}. It is the last frames, the oldest first, channels "
            "before height and width: what make_env's environments call 'pixels', and what those of "
            "uld_torchrl.envs.stack_frames observe."
        )
    return values


def _array(value: Any, error_type: type[InputError]) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:  # ragged
        raise error_type(f"an image must be an array, got {type(value).__name__} ({error}).") from error


def require_opencv(name: str) -> None:
    """Refuse to go on without OpenCV, which resizes.

    Raises:
        InputError: it is not installed, or cannot be loaded.

    Example:
        >>> require_opencv("atari/Pong")
    """
    try:
        importlib.import_module("cv2")
    except ImportError as error:
        raise InputError(
            f"{name} needs OpenCV to resize its frames ({error}): pip install opencv-python-headless."
        ) from error


def _check_not_stacked(env: gymnasium.Env, name: str) -> None:
    """Refuse Gymnasium's stacks: four gray frames look like one frame of four channels, first."""
    space = env.observation_space
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, FrameStackObservation):
            raise unsupported(space, name)
        env = env.env


def _check_colours(channels: int, name: str) -> None:
    if channels != 3:
        raise InputError(
            f"{name} has images of {channels} channels, of which no gray can be made: set grayscale=False."
        )


def _axes(space: Box, name: str) -> tuple[int, ...]:
    """Return the order of axes that makes a frame (H, W, C), or leaves it (H, W)."""
    shape = space.shape
    large = tuple(size > MAX_CHANNELS for size in shape)
    known: dict[tuple[bool, ...], tuple[int, ...]] = {
        (True, True): (0, 1),
        (True, True, False): (0, 1, 2),
        (False, True, True): (1, 2, 0),
    }
    bounded = (space.low == 0).all() and (space.high == 255).all()
    if large not in known or not bounded or 0 in shape:
        raise unsupported(space, name)
    return known[large]


class _Frames(gymnasium.ObservationWrapper):
    """The frames of an environment as uint8 (H, W, C), each looked at and copied."""

    def __init__(self, env: gymnasium.Env, name: str) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, Box)
        self._axes, self._given = _axes(space, name), space.shape
        self.shape = (*(space.shape[axis] for axis in self._axes), 1)[:3]
        self.observation_space = Box(0, 255, self.shape, np.uint8)

    def observation(self, observation: Any) -> np.ndarray:
        frame = _array(observation, WrongFrame)
        if frame.shape != self._given or frame.dtype != np.uint8:
            raise WrongFrame(
                f"the frame must be uint8 of shape {self._given}, got {frame.dtype} of shape {frame.shape}."
            )
        # A copy: an environment may draw the next frame into the same array.
        return np.array(frame.transpose(self._axes), order="C").reshape(self.shape)


class StackedFrames(gymnasium.ObservationWrapper):
    """Stacks [k, h, w, C] of Gymnasium's wrapper as uint8 (k C, h, w): frame after frame.

    Example:
        >>> noise = Box(0, 255, (12, 10, 3), np.uint8)
        >>> env = gymnasium.make("CartPole-v1")
        >>> env = gymnasium.wrappers.TransformObservation(env, lambda _: noise.sample(), noise)
        >>> StackedFrames(FrameStackObservation(env, 4)).observation_space.shape
        (12, 12, 10)
    """

    def __init__(self, env: FrameStackObservation) -> None:
        super().__init__(env)
        assert env.observation_space.shape is not None
        self.frames, height, width, channels = env.observation_space.shape
        self.observation_space = Box(0, 255, (self.frames * channels, height, width), np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Return the stack with channels before height and width."""
        return observation.transpose(0, 3, 1, 2).reshape(self.observation_space.shape)
