"""Evaluation: undiscounted episode returns of a policy, on environments and seeds of their own.

The training run's random streams are left as they were. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torch.nn.functional import one_hot
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type, step_mdp

from uld_torchrl.config import AgentConfig
from uld_torchrl.envs import EnvLike, make_env
from uld_torchrl.errors import InputError
from uld_torchrl.modules.specs import is_discrete

# Longest episode in use: Atari's cap of 108 000 frames, in steps of one frame.
MAX_EPISODE_STEPS = 108_000
_RANDOM_ACTIONS = 1  # purpose of the stream derived from an evaluation's seed


_Policy = Callable[[TensorDictBase], TensorDictBase]


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths of the episodes, [episodes] each; lengths in agent steps.

    Example:
        >>> found = Evaluation(torch.tensor([1.0, 3.0]), torch.tensor([10, 20]))
        >>> found.mean, found.std
        (2.0, 1.0)
    """

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


def make_eval_env(
    source: EnvLike,
    episodes: int,
    device: torch.device | str = "cpu",
    config: AgentConfig | None = None,
) -> EnvBase:
    """Make the environments of an evaluation: one an episode, or the lanes that a vector environment has.

    Example:
        >>> make_eval_env("CartPole-v1", 3).batch_size
        torch.Size([3])
    """
    lanes = None if isinstance(source, gymnasium.vector.VectorEnv) else episodes
    return make_env(source, num_envs=lanes, device=device, **eval_images(config or AgentConfig()))


def eval_images(config: AgentConfig) -> dict[str, Any]:
    """Return how ``make_env`` is to make images for an evaluation: as in training, but of whole games.

    Atari games are played to their end and give their own rewards, also where training ends episodes with
    each life or clips rewards.

    Example:
        >>> eval_images(AgentConfig())["pixels"].frame_stack
        3
    """
    whole = replace(config.atari, clip_rewards=False, terminal_on_life_loss=False)
    return {"pixels": config.pixels, "atari": whole}


def eval_epsilon(env_id: str, config: AgentConfig) -> float:
    """Return the probability of a random action in an evaluation: the protocol's for ``atari/``, else 0.

    Example:
        >>> eval_epsilon("atari/Pong", AgentConfig()), eval_epsilon("gym/CartPole-v1", AgentConfig())
        (0.001, 0.0)
    """
    return config.atari.eval_epsilon if env_id.startswith("atari/") else 0.0


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
    epsilon: float = 0.0,
    on_step: Callable[[EnvBase], None] | None = None,
) -> Evaluation:
    """Play one episode in each lane of ``env`` without exploration, and again until there are enough.

    Args:
        env: environment of batch size [num_envs].
        policy: observation -> action.
        seed: of the environments, and of a policy that samples.
        episodes: how many are wanted; one a lane by default. Rounds are played out, so that short
            episodes have no advantage; of the last round the first lanes count.
        epsilon: probability that a random action takes the place of the policy's; from a random stream of
            its own, so that the environments and the policy's samples do not depend on it.
        on_step: called after the reset and after each step, for example to draw a frame.

    Returns:
        Returns and lengths, [episodes].

    Raises:
        InputError: epsilon is no probability.

    Example:
        >>> from uld_torchrl import make_env, make_networks, make_policy, preset
        >>> env = make_env("CartPole-v1", num_envs=2)
        >>> spec = env.action_spec[0]
        >>> networks = make_networks(env.observation_spec["observation"], spec, preset("debug").model)
        >>> evaluate(env, make_policy(networks, spec), seed=0).returns.shape
        torch.Size([2])
    """
    act = _with_random_actions(env, policy, epsilon, seed) if epsilon else policy
    devices = [env.device] if env.device is not None and env.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        torch.no_grad(),
        set_exploration_type(ExplorationType.DETERMINISTIC),
    ):
        torch.manual_seed(seed)
        env.set_seed(seed)
        episodes = episodes or env.batch_size.numel()
        rounds = [_play(env, act, on_step) for _ in range(-(-episodes // env.batch_size.numel()))]
    return Evaluation(
        torch.cat([part.returns for part in rounds])[:episodes],
        torch.cat([part.lengths for part in rounds])[:episodes],
    )


def _with_random_actions(env: EnvBase, policy: _Policy, epsilon: float, seed: int) -> _Policy:
    if not 0 <= epsilon <= 1:
        raise InputError(f"epsilon must lie in [0, 1], got {epsilon}.")
    spec, generator = env.action_spec, torch.Generator().manual_seed(stream_seed(seed, _RANDOM_ACTIONS))
    discrete, shape = is_discrete(spec), spec.shape

    def draw() -> Tensor:
        if discrete:
            return one_hot(torch.randint(shape[-1], shape[:-1], generator=generator), shape[-1])
        return torch.rand(shape, generator=generator) * 2 - 1

    def act(td: TensorDictBase) -> TensorDictBase:
        td = policy(td)
        action, chosen = td.get("action"), torch.rand(*shape[:-1], 1, generator=generator) < epsilon
        return td.set("action", torch.where(chosen.to(action.device), draw().to(action), action))

    return act


def _play(env: EnvBase, policy: _Policy, on_step: Callable[[EnvBase], None] | None) -> Evaluation:
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
