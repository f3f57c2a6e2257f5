"""Image observations that are refused: spaces, frames in mid-run, settings; each message names a way out.

What accepted images become is in ``test_pixels.py``.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Space
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation, TimeLimit

from uld_torchrl.config import PixelConfig
from uld_torchrl.envs import make_env, stack_frames
from uld_torchrl.errors import EnvironmentFault, InputError

# Workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SMALL = PixelConfig(frame_size=8, frame_stack=3)


class Blank(gymnasium.Env):
    """Has an observation space, and returns what it is told to."""

    action_space = Discrete(2)

    def __init__(self, space: Space, first: Any = None, later: Any = None) -> None:
        self.observation_space = space
        self.first = np.zeros(space.shape or (), space.dtype) if first is None else first
        self.later = self.first if later is None else later

    def reset(self, **_: Any) -> Any:
        return self.first, {}

    def step(self, action: int) -> Any:
        return self.later, 0.0, False, False, {}


IMAGE = Box(0, 255, (8, 8, 3), np.uint8)
REFUSED: dict[str, tuple[Space, str]] = {
    "floats": (Box(0, 1, (8, 8, 3), np.float32), "if it is an image, .*uint8 from 0 to 255"),
    "large floats": (Box(0, 255, (8, 8, 3), np.float64), "if it is an image, .*uint8 from 0 to 255"),
    "int64": (Box(0, 255, (8, 8, 3), np.int64), "if it is an image, .*uint8 from 0 to 255"),
    "floats without channels": (Box(0, 1, (8, 8), np.float32), "flatten it with .*FlattenObservation"),
    "stacked before": (Box(0, 255, (4, 8, 8, 3), np.uint8), "leave the stacking to make_env"),
    "five channels": (Box(0, 255, (5, 8, 8), np.uint8), "up to 4 channels"),
    "channels in the middle": (Box(0, 255, (8, 3, 8), np.uint8), r"\(height, width, channels\)"),
    "both ends small": (Box(0, 255, (3, 8, 3), np.uint8), "at least 5 x 5 pixels"),
    "too flat": (Box(0, 255, (2, 8), np.uint8), "at least 5 x 5 pixels"),
    "empty": (Box(0, 255, (8, 8, 0), np.uint8), "up to 4 channels"),
    "other bounds": (Box(0, 7, (8, 8, 3), np.uint8), "uint8 from 0 to 255"),
    "image and vector": (
        Dict(camera=IMAGE, speed=Box(-1, 1, (2,))),
        r"nothing is dropped silently.*lambda o: o\['camera'\], env.observation_space\['camera'\]",
    ),
    "image alone in a dict": (Dict(camera=IMAGE), r"o\['camera'\]"),
    "image deep in a dict": (
        Dict(speed=Discrete(2), eyes=Dict(left=IMAGE, right=IMAGE)),
        r"o\['eyes'\]\['left'\]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_images_are_refused_with_what_is_supported(case: str) -> None:
    space, message = REFUSED[case]
    image = "(?s)custom/Blank has the observation space .*not supported; supported are vectors .*images.*"
    with pytest.raises(InputError, match=image + message.replace("if it", "[iI]f it")):
        make_env(lambda: Blank(space))


RAW = {"gray": (8, 8), "gray with its channel": (8, 8, 1), "channels first": (1, 8, 8), "colours": (8, 8, 3)}


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("shape", RAW.values(), ids=RAW)
def test_frames_that_gymnasium_has_stacked_are_not_stacked_again(shape: tuple[int, ...], count: int) -> None:
    env = FrameStackObservation(Blank(Box(0, 255, shape, np.uint8)), count)
    for given in (env, TimeLimit(env, 9), FrameStackObservation(env, 1)):
        with pytest.raises(InputError, match=r"custom/Blank has the .*leave the stacking to make_env: pix"):
            make_env(given)
        with pytest.raises(InputError, match=r"Blank has the .*leave the stacking to make_env: pix"):
            stack_frames(given)
    vectors = FrameStackObservation(Blank(Box(-1, 1, (3,))), count)
    assert stack_frames(vectors) is vectors


def test_the_dict_that_is_refused_is_accepted_as_advised() -> None:
    env: Any = Blank(Dict(camera=IMAGE, speed=Box(-1, 1, (2,))), {"camera": np.full((8, 8, 3), 7, np.uint8)})
    env = gymnasium.wrappers.TransformObservation(env, lambda o: o["camera"], env.observation_space["camera"])
    assert (make_env(env, pixels=SMALL).reset()["pixels"] == 7).all()


def test_gray_needs_three_colours() -> None:
    with pytest.raises(InputError, match=r"custom/Blank has images of 4 channels.*grayscale=False"):
        make_env(lambda: Blank(Box(0, 255, (8, 8, 4), np.uint8)), pixels=PixelConfig(grayscale=True))


def test_lanes_of_different_images_are_refused() -> None:
    spaces = iter([IMAGE, Box(0, 255, (8, 8), np.uint8)])
    with pytest.raises(InputError, match="all lanes need the same spaces"):
        make_env(lambda: Blank(next(spaces)), num_envs=2)


def test_without_opencv_frames_of_the_right_size_still_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert make_env(partial(Blank, IMAGE), pixels=SMALL).reset()["pixels"].shape == (1, 9, 8, 8)
    with pytest.raises(InputError, match=r"custom/Blank needs OpenCV.*pip install opencv-python-headless"):
        make_env(partial(Blank, IMAGE), pixels=PixelConfig(frame_size=9))


@pytest.mark.parametrize("name", ["pixels", "atari"])
def test_settings_of_another_kind_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} must be a uld_torchrl.config.\w+Config or None, got \{{"):
        make_env(partial(Blank, IMAGE), **{name: {"frame_stack": 2}})


WRONG = {
    "floats": (np.zeros((8, 8, 3)), r"must be uint8 of shape \(8, 8, 3\), got float64 of shape \(8, 8, 3\)"),
    "int64": (np.zeros((8, 8, 3), np.int64), "got int64"),
    "channels first": (np.zeros((3, 8, 8), np.uint8), r"got uint8 of shape \(3, 8, 8\)"),
    "larger": (np.zeros((9, 9, 3), np.uint8), r"got uint8 of shape \(9, 9, 3\)"),
    "no channels": (np.zeros((8, 8), np.uint8), r"got uint8 of shape \(8, 8\)"),
    "ragged": ([[1], [1, 2]], "an image must be an array, got list"),
    "a word": ("dark", r"got <U4 of shape \(\)"),
}


@pytest.mark.parametrize("size", [8, 16], ids=["as they are", "resized"])
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_frame_is_reported_with_its_lane(case: str, size: int) -> None:
    wrong, message = WRONG[case]
    for call, told in (("reset", (wrong, None)), ("step", (None, wrong))):
        makers = [partial(Blank, IMAGE), partial(Blank, IMAGE, *told)]
        env = make_env(SyncVectorEnv(makers), pixels=PixelConfig(frame_size=size))
        words = rf"custom/Blank, lane 1: in the result of {call}\(\), .*{message}"
        with pytest.raises(EnvironmentFault, match=words):
            env.step(env.rand_action(env.reset()))


def test_a_wrong_frame_in_a_worker_is_reported_with_its_lane() -> None:
    makers = [partial(Blank, IMAGE), partial(Blank, IMAGE), partial(Blank, IMAGE, None, np.zeros((8, 8, 3)))]
    env = make_env(SyncVectorEnv(makers), env_workers=2, pixels=SMALL)
    td = env.rand_action(env.reset())
    with pytest.raises(EnvironmentFault, match=r"custom/Blank, lane 2: in the result of step\(\), .*float64"):
        env.step(td)
    env.close()
