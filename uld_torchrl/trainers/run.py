"""``train``: one call from settings and an environment to a trained agent on disk.

The same as the command ``uld train``, for environments that exist in Python only as well.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import torch
from gymnasium.vector import VectorEnv, VectorWrapper

from uld_torchrl.config import DEFAULT_ENV, PRESETS, AgentConfig, PresetName, check_run, preset
from uld_torchrl.data import StorageName
from uld_torchrl.envs import EnvLike
from uld_torchrl.envs.sources import is_plain_vector
from uld_torchrl.errors import InputError
from uld_torchrl.peers import PeerConfig, name_of
from uld_torchrl.trainers.callbacks import Callback
from uld_torchrl.trainers.device import pick_device
from uld_torchrl.trainers.guards import Guards
from uld_torchrl.trainers.logs import LogTarget
from uld_torchrl.trainers.result import TrainResult
from uld_torchrl.trainers.seeds import SeedsTrainer
from uld_torchrl.trainers.trainer import ULDTrainer


def train(
    config: AgentConfig | PresetName = "small",
    env: EnvLike = DEFAULT_ENV,
    *,
    seed: int = 0,
    name: str | None = None,
    run_dir: Path | str = "runs",
    fresh: bool = False,
    device: torch.device | str = "auto",
    eval_env: EnvLike | None = None,
    env_workers: int = 0,
    buffer_storage: StorageName = "memory",
    log_to: Sequence[LogTarget] = (),
    callbacks: Sequence[Callback] = (),
    guards: Guards | None = None,
    progress: bool = True,
    peer: PeerConfig | None = None,
) -> TrainResult:
    """Train an agent; the same call again goes on where it stopped, or gives the result if it is finished.

    Args:
        config: settings, or the name of a preset.
        env: a name such as ``"dmc/cartpole-swingup"`` or ``"CartPole-v1"``, a ``gymnasium.Env``, a function
            that makes one, or a Gymnasium vector environment; see :func:`~uld_torchrl.make_env`. An object
            is trained in itself and stays open, but for ``SyncVectorEnv`` and ``AsyncVectorEnv``: their
            ``env_fns`` are called again. A run is found again by the classes and spaces of its environment;
            where arguments make the difference, give the runs a ``name``. What wrappers such as
            ``NormalizeObservation`` learn while training stays in the training environment.
        seed: of everything random in the run.
        name: of the run; default: the preset's, or "custom".
        run_dir: root directory; the run is in ``<run_dir>/<env>/<name>/seed<k>/``.
        fresh: start a new run ``<name>-2``, ``-3``, ... instead of going on.
        device: auto, cpu, cuda, cuda:<k>.
        eval_env: what evaluation plays; by default ``env``, of an object a deep copy made at the start
            (Gymnasium's MuJoCo tasks copy themselves by being made again with their arguments).
        env_workers: worker processes that step the training environments; 0: this process.
        buffer_storage: "memory", or "memmap" to map the replay buffer to files in the run's directory.
        log_to: "tensorboard", "wandb": log there too.
        callbacks: what is called every so many steps, such as ``uld_torchrl.diagnostics.AuditEvery(1000)``.
        guards: what to do when something goes wrong, how long to go on: ``Guards(time_limit=3600)``.
        progress: show progress on standard error.
        peer: ``TD3Config()``, ``SACConfig()`` or ``DQNConfig()`` of ``uld_torchrl.peers`` in place of ULD; of
            ``config`` only ``run`` then counts.

    Returns:
        The last evaluation, and the run's directory for :func:`~uld_torchrl.load`.

    Raises:
        InputError: unusable settings, spaces or directory.
        EnvironmentFault, NonFinite, OSError, KeyboardInterrupt: see :meth:`ULDTrainer.train`.

    Example:
        >>> import tempfile
        >>> import uld_torchrl
        >>> result = uld_torchrl.train("debug", "CartPole-v1", run_dir=tempfile.mkdtemp(), progress=False)
        >>> result.step
        300
        >>> agent = uld_torchrl.load(result.path)
        >>> agent.predict([0.0, 0.1, 0.0, -0.1]) in (0, 1)
        True
    """
    settings = _settings(config)
    trainer = ULDTrainer(
        _kept_open(env),
        settings,
        name=name or (run_name(settings) if peer is None else name_of(peer)),
        run_dir=run_dir,
        seed=seed,
        fresh=fresh,
        device=pick_device(str(device)),
        eval_env=None if eval_env is None else _kept_open(eval_env),
        env_workers=env_workers,
        buffer_storage=buffer_storage,
        log_to=log_to,
        callbacks=callbacks,
        guards=guards,
        progress=progress,
        peer=peer,
    )
    with closing(trainer):
        return trainer.train()


def train_seeds(
    config: AgentConfig | PresetName = "small",
    env: EnvLike = DEFAULT_ENV,
    *,
    seeds: Sequence[int],
    name: str | None = None,
    run_dir: Path | str = "runs",
    fresh: bool = False,
    device: torch.device | str = "auto",
    eval_env: EnvLike | None = None,
    env_workers: int = 0,
    buffer_storage: StorageName = "memory",
    log_to: Sequence[LogTarget] = (),
    callbacks: Sequence[Callback] = (),
    guards: Guards | None = None,
    progress: bool = True,
) -> list[TrainResult]:
    """Train one agent a seed, in one process, with updates made together.

    The runs are in the directories ``seed<k>`` of single runs, and are those of :func:`train` up to rounding;
    the same call again goes on, and so does :func:`train` with one of the seeds.

    Args:
        config: settings, or the name of a preset.
        env: a name, or a function that makes an environment.
        seeds: of the runs, such as ``range(10)``.
        name: of the runs; default: the preset's, or "custom".
        run_dir: see :func:`train`, also for what follows.
        fresh: start new runs ``<name>-2``, ``-3``, ... of all seeds instead of going on.
        device: auto, cpu, cuda, cuda:<k>.
        eval_env: what evaluation plays; by default ``env``.
        env_workers: worker processes that step the training environments of each run.
        buffer_storage: "memory" or "memmap".
        log_to: "tensorboard": log there too.
        callbacks: called with each run's trainer.
        guards: what to do when something goes wrong; the time limit is that of all runs together.
        progress: show progress on standard error.

    Returns:
        The last evaluation of each run, in the order of the seeds.

    Raises:
        InputError: unusable settings, spaces, seeds or directories; nothing was trained.
        EnvironmentFault, NonFinite, OSError, KeyboardInterrupt: see :meth:`SeedsTrainer.train`.

    Example:
        >>> import tempfile
        >>> import uld_torchrl
        >>> options = {"run_dir": tempfile.mkdtemp(), "progress": False}
        >>> results = uld_torchrl.train_seeds("debug", "CartPole-v1", seeds=[0, 1], **options)
        >>> [(result.path.name, result.step) for result in results]
        [('seed0', 300), ('seed1', 300)]
    """
    settings = _settings(config)
    trainer = SeedsTrainer(
        env,
        settings,
        seeds=seeds,
        name=name or run_name(settings),
        run_dir=run_dir,
        fresh=fresh,
        device=pick_device(str(device)),
        eval_env=eval_env,
        env_workers=env_workers,
        buffer_storage=buffer_storage,
        log_to=log_to,
        callbacks=callbacks,
        guards=guards,
        progress=progress,
    )
    with closing(trainer):
        return trainer.train()


def _settings(config: Any) -> AgentConfig:
    settings = preset(config) if isinstance(config, str) else config
    if not isinstance(settings, AgentConfig):
        raise InputError(f"config must be an AgentConfig or the name of a preset, got {config!r}.")
    return check_run(settings)


class _KeptOpen(gymnasium.Wrapper[Any, Any, Any, Any]):
    def close(self) -> None:
        """Leave the environment to the one who made it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> gymnasium.Env[Any, Any]:
        return copy.deepcopy(self.env, memo)  # copies are the trainer's own, and closed


class _KeptOpenVector(VectorWrapper):
    def close(self, **_: Any) -> None:
        """Leave the environment to the one who made it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> VectorEnv[Any, Any, Any]:
        return copy.deepcopy(self.env, memo)


def _kept_open(env: EnvLike) -> EnvLike:
    if is_plain_vector(env):
        return env  # only its makers are used
    if isinstance(env, VectorEnv):
        return _KeptOpenVector(env)
    return _KeptOpen(env) if isinstance(env, gymnasium.Env) else env


def run_name(config: AgentConfig) -> str:
    """Return the name of the preset with these settings, "custom" if there is none.

    Example:
        >>> run_name(preset("mrq"))
        'mrq'
    """
    return next((name for name, settings in PRESETS.items() if settings == config), "custom")
