"""Atari: the published protocol, frame by frame that of Gymnasium's own wrappers, and each of its options."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import ale_py
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from torchrl.envs import EnvBase
from torchrl.envs.utils import check_env_specs

from uld_torchrl.config import AgentConfig, AtariConfig, PixelConfig
from uld_torchrl.envs import make_env, render_frame, task_spaces
from uld_torchrl.envs.atari import game_names, load_emulator
from uld_torchrl.errors import InputError
from uld_torchrl.trainers import Agent
from uld_torchrl.trainers.evaluation import make_eval_env

GAMES = (
    "Alien Amidar Assault Asterix Asteroids Atlantis BankHeist BattleZone BeamRider Berzerk Bowling "
    "Boxing Breakout Centipede ChopperCommand CrazyClimber Defender DemonAttack DoubleDunk Enduro "
    "FishingDerby Freeway Frostbite Gopher Gravitar Hero IceHockey Jamesbond Kangaroo Krull KungFuMaster "
    "MontezumaRevenge MsPacman NameThisGame Phoenix Pitfall Pong PrivateEye Qbert Riverraid RoadRunner "
    "Robotank Seaquest Skiing Solaris SpaceInvaders StarGunner Surround Tennis TimePilot Tutankham "
    "UpNDown Venture VideoPinball WizardOfWor YarsRevenge Zaxxon "
)

PUBLISHED = AtariConfig()


def by_hand(game: str, config: AtariConfig) -> gymnasium.Env:
    """Return the game in Gymnasium's wrappers, as documented there: observations [k, h, w(, 3)]."""
    gymnasium.register_envs(ale_py)
    env = gymnasium.make(
        f"ALE/{game}-v5",
        frameskip=1,
        repeat_action_probability=config.sticky_actions,
        full_action_space=config.full_action_space,
        max_num_frames_per_episode=config.max_frames,
    )
    env = AtariPreprocessing(
        env,
        noop_max=config.noop_max,
        frame_skip=config.frame_skip,
        screen_size=config.frame_size,
        terminal_on_life_loss=config.terminal_on_life_loss,
        grayscale_obs=config.grayscale,
    )
    return FrameStackObservation(env, config.frame_stack, padding_type="reset")


def planes(stack: np.ndarray) -> np.ndarray:
    """Return [k, h, w(, 3)] as [k C, h, w]."""
    return stack if stack.ndim == 3 else np.concatenate(np.moveaxis(stack, -1, 1))


def one_hot(action: int, count: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor([action]), count)


OPTIONS: dict[str, dict[str, Any]] = {
    "published": {},
    "colours": {"grayscale": False},
    "frame_skip": {"frame_skip": 2},
    "every frame": {"frame_skip": 1},
    "frame_size": {"frame_size": 50},
    "frame_stack": {"frame_stack": 2},
    "no sticky actions": {"sticky_actions": 0.0},
    "stickier": {"sticky_actions": 0.9},
    "no-ops": {"noop_max": 20},
    "lives": {"terminal_on_life_loss": True},
    "all actions": {"full_action_space": True},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_frame_is_that_of_gymnasiums_wrappers(option: str) -> None:
    """Three episodes cut by the cap on frames, with actions that make Breakout's ball fly."""
    config = replace(PUBLISHED, max_frames=80, **OPTIONS[option])
    env, theirs = make_env("atari/Breakout", seed=3, atari=config), by_hand("Breakout", config)
    theirs.reset(seed=3)  # make_env has begun an episode with its seed
    td, stack = env.reset(), theirs.reset()[0]
    actions, ends = np.random.default_rng(0).integers(theirs.action_space.n, size=260), 0
    for action in (1, *actions):
        np.testing.assert_array_equal(td["pixels"][0].numpy(), planes(stack))
        step, td = env.step_and_maybe_reset(td.set("action", one_hot(int(action), theirs.action_space.n)))
        stack, reward, terminated, truncated, _ = theirs.step(action)
        record = step["next"]
        np.testing.assert_array_equal(record["pixels"][0].numpy(), planes(stack))
        given = [float(record[key]) for key in ("reward", "terminated", "truncated")]
        assert given == [reward, terminated, truncated]
        if terminated or truncated:
            stack, ends = theirs.reset()[0], ends + 1
        if ends == 3:
            return
    raise AssertionError("no three episodes")


@pytest.mark.parametrize("game", ["Pong", "Breakout"])
def test_specs(game: str) -> None:
    env = make_env(f"atari/{game}", num_envs=2, seed=0)
    check_env_specs(env)
    assert list(env.observation_spec.keys()) == ["pixels"]
    assert env.observation_spec["pixels"].shape == (2, 4, 84, 84)
    assert task_spaces(env).frames == 4


def test_all_published_games_are_known() -> None:
    load_emulator("atari/Pong")
    assert len(GAMES.split()) == 57 and set(GAMES.split()) <= set(game_names())


def pixels_after(env: EnvBase, steps: int = 12) -> torch.Tensor:
    torch.manual_seed(1)
    return env.rollout(steps, break_when_any_done=False)["next", "pixels"]


def test_sticky_actions_are_random_and_the_game_itself_is_not() -> None:
    def differ(**options: Any) -> bool:
        one, other = (
            pixels_after(make_env("atari/Pong", seed=seed, atari=AtariConfig(**options)), 40)
            for seed in (1, 2)
        )
        return bool((one != other).any())

    assert differ() and not differ(sticky_actions=0.0)


def test_no_ops_move_the_start() -> None:
    def start(seed: int, **options: Any) -> torch.Tensor:
        return make_env("atari/Pong", seed=seed, atari=AtariConfig(**options)).reset()["pixels"]

    assert torch.equal(start(1), start(2))
    assert not torch.equal(start(1, noop_max=30), start(1))


def test_an_episode_begins_with_its_first_frame_in_the_whole_stack() -> None:
    env = make_env("atari/Pong", seed=0, atari=AtariConfig(max_frames=12))
    td = env.reset()
    for _ in range(2):
        assert (td["pixels"] == td["pixels"][:, :1]).all()
        for _ in range(3):
            step, td = env.step_and_maybe_reset(env.rand_action(td))
        assert (
            step["next", "truncated"].all()
            and (step["next", "pixels"] != step["next", "pixels"][:, :1]).any()
        )


def test_the_cap_counts_game_frames_and_truncates() -> None:
    steps = make_env("atari/Pong", seed=0, atari=AtariConfig(max_frames=40)).rollout(50)
    assert steps.shape == (1, 10)
    assert bool(steps[0, -1]["next", "truncated"]) and not bool(steps["next", "terminated"].any())


def hold(env: EnvBase, action: int, steps: int) -> Any:
    """Play one action all the time."""
    chosen = one_hot(action, env.action_spec.shape[-1])
    return env.rollout(steps, lambda td: td.set("action", chosen), break_when_any_done=False)["next"]


def test_a_lost_life_ends_nothing_unless_asked_for() -> None:
    whole = hold(make_env("atari/Breakout", seed=0), 1, 60)
    cut = hold(make_env("atari/Breakout", seed=0, atari=AtariConfig(terminal_on_life_loss=True)), 1, 60)
    assert not whole["done"].any() and cut["terminated"].any()


def test_rewards_are_the_games_own_unless_clipped_and_evaluation_has_the_whole_game() -> None:
    """In Riverraid, to hold UP pays 30 and then costs a life."""
    training = AtariConfig(clip_rewards=True, terminal_on_life_loss=True, sticky_actions=0.0)
    own = hold(make_env("atari/Riverraid", seed=0, atari=replace(training, clip_rewards=False)), 2, 90)
    clipped = hold(make_env("atari/Riverraid", seed=0, atari=training), 2, 90)
    assert own["reward"].max() == 30
    assert torch.equal(clipped["reward"], own["reward"].clamp(-1, 1))
    evaluated = make_eval_env("atari/Riverraid", 1, config=AgentConfig(atari=training))
    evaluated.set_seed(0)
    whole = hold(evaluated, 2, 90)
    life = int(own["terminated"].squeeze().nonzero()[0])
    assert torch.equal(whole["reward"][:, :life], own["reward"][:, :life])
    assert not whole["done"].any()


def test_actions_are_those_of_the_game_or_all_eighteen() -> None:
    assert make_env("atari/Pong").action_spec.shape == (1, 6)
    env = make_env("atari/Pong", atari=AtariConfig(full_action_space=True))
    assert env.action_spec.shape == (1, 18)
    assert Agent.for_env("atari/Pong", env, AgentConfig()).num_parameters == 4_164_182


def test_workers_give_the_same_bytes_as_this_process() -> None:
    settings = {"num_envs": 2, "seed": 5, "atari": AtariConfig(frame_stack=2)}
    with closing(make_env("atari/Pong", env_workers=2, **settings)) as env:
        assert torch.equal(pixels_after(env), pixels_after(make_env("atari/Pong", **settings)))


def test_frames_for_videos_are_the_games_own() -> None:
    env = make_env("atari/Pong", seed=0, render=True)
    drawn = render_frame(env)
    assert drawn.shape == (210, 160, 3) and drawn.dtype == np.uint8 and drawn.std() > 5


def test_making_games_is_silent() -> None:
    """In a process of its own: ALE shows its banner once."""
    code = "from uld_torchrl.envs import make_env; make_env('Atari-Pong-v5', num_envs=2, seed=0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_game_by_its_gymnasium_id_has_raw_frames_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "uld_torchrl"):
        env = make_env("ALE/Pong-v5", num_envs=2, pixels=PixelConfig(frame_stack=2))
    assert env.observation_spec["pixels"].shape == (2, 6, 84, 84)
    (said,) = caplog.messages
    assert said.startswith("gym/ALE/Pong-v5 is stepped as it is registered") and "use atari/Pong." in said
    with pytest.raises(InputError, match="Did you mean gym/ALE/Pong-v5"):
        make_env("ALE/Pongg-v5")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_raw_game_of_make_vec_says_so_too(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    small = PixelConfig(frame_stack=2)
    with caplog.at_level(logging.WARNING, "uld_torchrl"):
        for wrappers in ([], [partial(AtariPreprocessing, frame_skip=1)]):
            vector = gymnasium.make_vec("ALE/Pong-v5", 2, mode, wrappers=wrappers)
            channels = make_env(vector, pixels=small).observation_spec["pixels"].shape[1]
            assert channels == (2 if wrappers else 6)
            vector.close()
    (said,) = caplog.messages  # the wrappers bring the preprocessing
    assert said.startswith("gym/ALE/Pong-v5 is stepped as it is registered")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("ale_py", "atari/Pong needs the Arcade Learning Environment .*pip install ale-py"),
        ("cv2", "atari/Pong needs OpenCV .*pip install opencv-python-headless"),
    ],
)
def test_a_missing_package_is_named(module: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=message):
        make_env("atari/Pong")
