"""``make_env``: from a name, an environment or a callable to a TorchRL environment of ``num_envs`` lanes.

Lanes run in one vector environment under one TorchRL ``GymWrapper``: with one lane a step costs three
quarters of ``SerialEnv``'s, with four less than half, and no transforms are needed. What runs in this
process is in ``lanes.py``, what runs in others in ``workers.py``, a user's own vector environment in
``vector.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from tensordict import NestedKey, TensorDict, TensorDictBase
from torchrl.envs import EnvBase, GymWrapper, TransformedEnv

from uld_torchrl.config_images import AtariConfig, PixelConfig
from uld_torchrl.envs.lanes import AgentVectorEnv, Lanes
from uld_torchrl.envs.rendering import choose_renderer
from uld_torchrl.envs.sources import EnvLike, check_number, env_name, find_source, is_plain_vector
from uld_torchrl.envs.spaces import TaskSpaces
from uld_torchrl.envs.tapes import LaneState
from uld_torchrl.envs.vector import UserVectorEnv
from uld_torchrl.envs.workers import WorkerLanes
from uld_torchrl.errors import InputError, check_seed


def make_env(
    env: EnvLike,
    *,
    num_envs: int | None = None,
    env_workers: int = 0,
    seed: int | None = None,
    device: torch.device | str = "cpu",
    render: bool = False,
    pixels: PixelConfig | None = None,
    atari: AtariConfig | None = None,
) -> EnvBase:
    """Make a TorchRL environment of batch size ``[num_envs]``, also when that is one.

    ``observation`` is float32 [num_envs, n], see :func:`observation_vector`; ``action`` float32
    [num_envs, m] in [-1, 1], scaled per dimension to the task's bounds, or one-hot int64. An environment that
    observes images has ``pixels`` instead of ``observation``: the last k frames, uint8 [num_envs, k C, h, w],
    oldest first, the first of an episode repeated at its start; see :func:`stack_frames`. ``dmc/`` and
    ``dmc-pixels/`` tasks repeat each action twice, last 500 steps and are truncated, never terminated. Lane
    0 takes ``seed`` itself, every other lane a seed drawn from it; ``set_seed`` does the same later on.

    An environment given as an object is itself lane 0, with its wrappers, and is closed with what is
    returned; the other lanes are deep copies of it. A callable is called once for each lane. Of a
    ``SyncVectorEnv`` or ``AsyncVectorEnv`` only the ``env_fns`` are used, and called again. Any other
    vector environment is stepped as it is, in each autoreset mode, and takes the seed by its own rule;
    with NEXT_STEP there is a step between two episodes that belongs to neither: it is truncated, has the
    reward 0 (which enters a mean of rewards), and ``env.seam``, bool [num_envs], says in which lanes the
    last step was one. For all other environments ``env.seam`` is all False.

    Args:
        env: ``gym/<Gymnasium id>`` (or the bare id), ``dmc/<domain>-<task>``,
            ``dmc-pixels/<domain>-<task>``, ``atari/<Game>``, ``tabular/<name>``, or a published name; a
            ``gymnasium.Env``; a ``gymnasium.vector.VectorEnv``; or a callable that makes a ``gymnasium.Env``.
        num_envs: number of lanes; None: 1, or the vector environment's own number.
        env_workers: processes that step the lanes; 0: this one. The data are the same. For names and
            callables only; see ``workers.py`` for what a callable may refer to.
        seed: from 0 to 2**32 - 1; the same seed gives the same observations. None: not reproducible.
        device: where tensors are delivered; the simulation itself runs on the CPU.
        render: whether :func:`render_frame` will be called; an object must have render_mode "rgb_array".
        pixels: size, number and colours of the frames of all image observations but those of ``atari/``;
            None: the published ones.
        atari: the protocol of ``atari/`` environments; None: the published one.

    Raises:
        InputError: an unknown name (nearest names are given), a space of an unsupported kind, a wrong
            number or seed, a missing package or renderer, a callable that fails.
        EnvironmentFault: later on, in ``reset`` and ``step``: the environment raised, or returned
            something that is not finite or does not fit its spaces.

    Example:
        >>> env = make_env("CartPole-v1", num_envs=2, seed=0)
        >>> env.reset()["observation"].shape
        torch.Size([2, 4])
        >>> make_env("atari/Pong", seed=0).reset()["pixels"].shape
        torch.Size([1, 4, 84, 84])
    """
    _check_numbers(num_envs, env_workers, seed)
    _check_sections(pixels, atari)
    choose_renderer()
    made = _GymLanes(_make_lanes(env, num_envs, env_workers, render, pixels, atari), device=device)
    if seed is None and isinstance(env, gymnasium.Env) and made.num_envs > 1:
        seed = _fresh_seed()  # deep copies share their random state
    if seed is not None:
        made.set_seed(seed)
    if render:
        if seed is None:
            made.reset()
        render_frame(made)  # fails now rather than after an evaluation
    return made


def task_spaces(env: EnvBase) -> TaskSpaces:
    """Return the environment's own spaces, before scaling and flattening, of one made by :func:`make_env`.

    Example:
        >>> task_spaces(make_env("Pendulum-v1")).action
        Box(-2.0, 2.0, (1,), float32)
    """
    return _vector_env(env).task


def share_environments(first: EnvBase, second: EnvBase) -> bool:
    """Return whether two environments of :func:`make_env` step one and the same object.

    Example:
        >>> env = gymnasium.make("CartPole-v1")
        >>> share_environments(make_env(env), make_env(env))
        True
        >>> share_environments(make_env("CartPole-v1"), make_env("CartPole-v1"))
        False
    """
    ids = [{id(env.unwrapped) for env in _vector_env(each).objects} for each in (first, second)]
    return bool(ids[0] & ids[1])


def lane_states(env: EnvBase) -> list[LaneState] | None:
    """Return where each lane of an environment of :func:`make_env` is, for :func:`restore_lanes`.

    None for a user's own vector environment, which cannot be brought back.

    Example:
        >>> env = make_env("CartPole-v1", seed=0)
        >>> _ = env.rollout(3)
        >>> len(lane_states(env)[0].actions)
        3
    """
    return _vector_env(env).states()


def restore_lanes(env: EnvBase, states: Sequence[LaneState]) -> tuple[TensorDictBase, torch.Tensor]:
    """Bring every lane to where :func:`lane_states` found it, by playing its open episode again.

    Exact for Gymnasium's, dm_control's and Atari environments, in this process and in workers. It is
    checked by the last observation and the random state; a lane that does not come out the same (a user's
    environment that remembers earlier episodes, for example) begins a new episode instead.

    Returns:
        The tensordict [num_envs] to act on, as ``reset`` gives it, and in which lanes it succeeded, bool
        [num_envs].

    Example:
        >>> env, other = make_env("CartPole-v1", seed=0), make_env("CartPole-v1", seed=1)
        >>> reached = env.rollout(3)["next", "observation"][:, -1]
        >>> td, same = restore_lanes(other, lane_states(env))
        >>> bool(same), bool((td["observation"] == reached).all())
        (True, True)
    """
    td = env.reset()
    observations, same = _vector_env(env).restore(states)
    key = "pixels" if _vector_env(env).task.frames is not None else "observation"
    td.set(key, torch.as_tensor(observations, device=td.device))
    return td, torch.as_tensor(same)


def restart_lanes(env: EnvBase, seed: int, lanes: Sequence[int] = ()) -> TensorDictBase:
    """Begin new episodes in all lanes after a fault, with the environments of the faulty ones made anew.

    An environment of a name or callable is closed and its maker called again; a worker process that has died
    is started again with all of its lanes; an object, and a user's own vector environment, is only reset.

    Args:
        env: of :func:`make_env`.
        seed: of the episodes, see :func:`make_env`.
        lanes: the faulty ones, :attr:`~uld_torchrl.EnvironmentFault.lanes`.

    Returns:
        The tensordict [num_envs] to act on, as ``reset`` gives it.

    Raises:
        EnvironmentFault: that failed too; it may be tried again.

    Example:
        >>> env = make_env("CartPole-v1", num_envs=2)
        >>> restart_lanes(env, seed=3, lanes=[1])["observation"].shape
        torch.Size([2, 4])
    """
    _vector_env(env).remake(lanes)
    return env.reset(seed=seed)


def render_frame(env: EnvBase) -> np.ndarray:
    """Draw the first lane of an environment made with ``render=True``: uint8 [height, width, 3].

    Raises:
        InputError: no renderer, or the package that draws is missing; the message says how to get it.

    Example:
        >>> render_frame(make_env("dmc/cartpole-swingup", render=True)).shape  # doctest: +SKIP
        (480, 480, 3)
    """
    vector_env = _vector_env(env)
    if vector_env.render_mode != "rgb_array":
        raise InputError("render_frame needs an environment made with render=True.")
    return vector_env.draw()


def _vector_env(env: EnvBase) -> AgentVectorEnv:
    base = env.base_env if isinstance(env, TransformedEnv) else env
    if not isinstance(base, _GymLanes):
        raise InputError(f"env must come from make_env, got {type(base).__name__}.")
    return base._env


def _make_lanes(
    env: EnvLike,
    num_envs: int | None,
    env_workers: int,
    render: bool,
    pixels: PixelConfig | None,
    atari: AtariConfig | None,
) -> AgentVectorEnv:
    if env_workers and isinstance(env, (gymnasium.Env, VectorEnv)) and not is_plain_vector(env):
        raise InputError(
            f"env_workers must be 0 for an environment given as an object, got {env_workers}: it lives in "
            "this process. Pass a callable that makes it, or a name."
        )
    if isinstance(env, VectorEnv) and not is_plain_vector(env):
        check_number(num_envs, env)
        return UserVectorEnv(env, env_name(env), render)
    source = find_source(env, num_envs, render, pixels, atari)
    if env_workers > len(source.makers):
        raise InputError(
            f"env_workers must be from 0 to num_envs = {len(source.makers)}, got {env_workers}: each "
            "worker steps at least one environment."
        )
    if env_workers:
        return WorkerLanes(source.makers, source.name, env_workers, render)
    return Lanes(source.makers, source.name, render=render, given=source.given)


class _GymLanes(GymWrapper):
    def _make_specs(self, env: AgentVectorEnv, batch_size: Any = None) -> None:
        self.from_pixels = env.task.frames is not None  # names the entry: pixels, or observation
        super()._make_specs(env, batch_size)
        self._seen: NestedKey = "pixels" if self.from_pixels else "observation"

    # TorchRL's own step finds out anew each time what is known here: arrays of these types and shapes.
    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = self.read_action(tensordict.get(self.action_key))
        observations, rewards, terminated, truncated, _ = self._env.step(action)
        arrays = {
            "reward": rewards.astype(np.float32),
            "terminated": terminated,
            "truncated": truncated,
            "done": terminated | truncated,
        }
        step = {name: torch.from_numpy(array).unsqueeze(-1) for name, array in arrays.items()}
        step[self._seen] = torch.from_numpy(observations)
        stepped = TensorDict(step, self.batch_size)
        return stepped if self.device is None else stepped.to(self.device)

    # GymWrapper fails on reset(td) without a "_reset" mask, and on a mask that is not on the CPU.
    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        if tensordict is not None:
            tensordict = tensordict.select("_reset", strict=False).cpu()
            tensordict = None if tensordict.is_empty() else tensordict
        return super()._reset(tensordict, **kwargs)

    @property
    def has_seams(self) -> bool:
        """Whether there can be steps between two episodes (NEXT_STEP)."""
        return self._env.has_seams

    @property
    def seam(self) -> torch.Tensor:
        """Whether the last step of each lane was the one between two episodes, bool [num_envs]."""
        return torch.from_numpy(self._env.seam.copy()).to(self.device)


def _check_numbers(num_envs: int | None, env_workers: int, seed: int | None) -> None:
    if num_envs is not None and (not _is_integer(num_envs) or num_envs < 1):
        raise InputError(f"num_envs must be greater than zero, got {num_envs!r}.")
    if not _is_integer(env_workers) or env_workers < 0:
        raise InputError(f"env_workers must be zero (this process) or greater, got {env_workers!r}.")
    if seed is not None:
        check_seed(seed)


def _check_sections(pixels: PixelConfig | None, atari: AtariConfig | None) -> None:
    for name, value, kind in (("pixels", pixels, PixelConfig), ("atari", atari, AtariConfig)):
        if value is not None and not isinstance(value, kind):
            raise InputError(f"{name} must be a uld_torchrl.config.{kind.__name__} or None, got {value!r}.")


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _fresh_seed() -> int:
    return int(np.random.SeedSequence().generate_state(1)[0])
