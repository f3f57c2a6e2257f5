"""Evaluation: undiscounted episode returns of a policy, on environments and seeds of their own.

The training run's random streams are left as they were. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type, step_mdp

from uld_torchrl.envs import EnvLike, make_env

# Longest episode in use: Atari's cap of 108 000 frames, in steps of one frame.
MAX_EPISODE_STEPS = 108_000


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths of the episodes, [episodes] each; lengths in agent steps."""

    returns: Tensor
    lengths: Tensor

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the return over the episodes (population form, 0 for one)."""
        return float(self.returns.std(correction=0))


def make_eval_env(source: EnvLike, episodes: int, device: torch.device | str = "cpu") -> EnvBase:
    """Make the environments of an evaluation: one an episode, or the lanes that a vector environment has.

    Example:
        >>> make_eval_env("CartPole-v1", 3).batch_size
        torch.Size([3])
    """
    lanes = None if isinstance(source, gymnasium.vector.VectorEnv) else episodes
    return make_env(source, num_envs=lanes, device=device)


def stream_seed(*parts: int) -> int:
    """Derive the seed of an independent random stream from integers, such as seed, purpose, step.

    Example:
        >>> stream_seed(0, 1, 5000) == stream_seed(0, 1, 5000) != stream_seed(0, 1, 5001)
        True
    """
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def evaluate(
    env: EnvBase,
    policy: TensorDictModuleBase,
    *,
    seed: int,
    episodes: int | None = None,
    on_step: Callable[[EnvBase], None] | None = None,
) -> Evaluation:
    """Play one episode in each lane of ``env`` without exploration, and again until there are enough.

    Args:
        env: environment of batch size [num_envs].
        policy: observation -> action.
        seed: of the environments, and of a policy that samples.
        episodes: how many are wanted; one a lane by default. Rounds are played out, so that short
            episodes have no advantage; of the last round the first lanes count.
        on_step: called after the reset and after each step, for example to draw a frame.

    Returns:
        Returns and lengths, [episodes].
    """
    devices = [env.device] if env.device is not None and env.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        torch.no_grad(),
        set_exploration_type(ExplorationType.DETERMINISTIC),
    ):
        torch.manual_seed(seed)
        env.set_seed(seed)
        episodes = episodes or env.batch_size.numel()
        rounds = [_play(env, policy, on_step) for _ in range(-(-episodes // env.batch_size.numel()))]
    return Evaluation(
        torch.cat([part.returns for part in rounds])[:episodes],
        torch.cat([part.lengths for part in rounds])[:episodes],
    )


def _play(
    env: EnvBase, policy: TensorDictModuleBase, on_step: Callable[[EnvBase], None] | None
) -> Evaluation:
    notify = on_step or (lambda env: None)
    td = env.reset()
    notify(env)
    running = torch.ones(env.batch_size, dtype=torch.bool, device=td.device)
    returns, lengths = torch.zeros(2, *env.batch_size, device=td.device)
    for _ in range(MAX_EPISODE_STEPS):
        td = env.step(policy(td))
        notify(env)
        result = td.get("next")
        returns, lengths = returns + running * result.get("reward").squeeze(-1), lengths + running
        running &= ~result.get("done").squeeze(-1)
        if not bool(running.any()):
            break
        td = env.maybe_reset(step_mdp(td))
    return Evaluation(returns.cpu(), lengths.cpu())
