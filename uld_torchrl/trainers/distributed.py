"""ray_collector: one run's environments on the machines of a Ray cluster, where stepping them is slow.

TorchRL's ``RayCollector`` does the work; here is what our replay buffer needs of it. Many runs on a cluster
are ``experiments.launchers``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tensordict.nn import TensorDictModuleBase
from torchrl.collectors import BaseCollector

from uld_torchrl.config import AgentConfig
from uld_torchrl.envs import EnvLike, make_env
from uld_torchrl.errors import InputError
from uld_torchrl.ray_cluster import connect


def ray_collector(
    env: EnvLike,
    policy: TensorDictModuleBase,
    config: AgentConfig | None = None,
    *,
    collectors: int,
    frames_per_batch: int,
    total_frames: int = -1,
    seed: int = 0,
    cpus: float = 1.0,
    ray_address: str | None = None,
) -> BaseCollector:
    """Make a collector of ``collectors`` Ray actors, each with ``config.run.num_envs`` environments.

    Its batches are [collectors, num_envs, frames_per_batch / (collectors num_envs)], in the same order each
    time, so that :class:`~uld_torchrl.trainers.TorchRLTrainer` fills ``collectors * num_envs`` lanes. All
    actors act with the same weights; they get new ones from the trainer after each batch, and wait for each
    other. So data is older than in our own loop, by up to a batch, and a run is not that of
    :func:`~uld_torchrl.train`.

    Args:
        env: a name, or a function that makes an environment; it is sent to the actors.
        policy: from :func:`~uld_torchrl.make_policy`; a copy is sent to each actor.
        config: settings of the environments, and of the random steps; default: those of preset ``uld``.
        collectors: actors.
        frames_per_batch: agent steps of a batch, over all environments.
        total_frames: agent steps after which it ends; -1: never.
        seed: of the environments; the k-th actor's is ``seed + k``.
        cpus: cores that Ray keeps for each actor.
        ray_address: of the cluster; default: the one that Ray finds, or a new one on this machine.

    Raises:
        InputError: Ray is not installed, there is no cluster at the address, ``frames_per_batch`` cannot be
            shared out.

    Example:
        >>> from uld_torchrl import make_networks, make_policy
        >>> from torchrl.data import OneHot, Unbounded
        >>> policy = make_policy(make_networks(Unbounded(4), OneHot(2)), OneHot(2))
        >>> collector = ray_collector(
        ...     "CartPole-v1", policy, collectors=2, frames_per_batch=100, total_frames=10_000
        ... )  # doctest: +SKIP
    """
    config = config or AgentConfig()
    lanes = collectors * config.run.num_envs
    if collectors < 1 or frames_per_batch < 1 or frames_per_batch % lanes:
        raise InputError(
            f"frames_per_batch must be a multiple of collectors ({collectors}) x num_envs "
            f"({config.run.num_envs}), got {frames_per_batch}."
        )
    connect(ray_address, "a Ray collector")
    from torchrl.collectors.distributed import RayCollector  # brings Ray, which takes a second

    parts: dict[str, Any] = {
        "num_envs": config.run.num_envs,
        "pixels": config.pixels,
        "atari": config.atari,
    }
    return RayCollector(
        [partial(make_env, env, seed=seed + k, **parts) for k in range(collectors)],
        policy,
        frames_per_batch=frames_per_batch,
        total_frames=total_frames,
        init_random_frames=config.run.random_steps,
        sync=True,
        remote_configs={"num_cpus": cpus, "num_gpus": 0},
        # The flag only silences a warning about recurrent policies.
        collector_kwargs={"auto_register_policy_transforms": False},
    )
