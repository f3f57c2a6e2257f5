"""ULD and MR.Q for TorchRL: one agent for vectors and pixels, continuous and discrete actions.

The public names are below; torch is imported when the first of them is used (PEP 562), so that
``import uld_torchrl`` and ``uld --help`` stay quick. Gymnasium is told of the environments ``tabular/...``.

Glossary (MR.Q, arXiv 2501.16142; a prime marks target networks):

    symbol    identifier                         equation or meaning
    z_s       state_embedding                    z_s = f(s)
    f         state_encoder                      ELU(LN(MLP(s)))
    z_a       action_embedding                   ELU(Linear(a)), inside g
    z_sa      state_action_embedding             z_sa = g(z_s, a)
    g         state_action_encoder               MLP([z_s, z_a])
    m         predictor                          (d, z_s', reward logits) = m(z_sa), linear by default
    d         terminated_pred                    prediction of terminated, without sigmoid
    pi        actor_network                      a = tanh(pre), pre = MLP(z_s); discrete: Gumbel-softmax
    pre       pre_activation                     penalised by 1e-5 mean(pre^2)
    Q_i       qvalue_network                     state_action_value = Q_i(z_sa), two heads
    H, n      horizon, n_steps                   steps of the latent unroll, of the return
    alive_t   functional.alive_mask              prod_{k<t} (1 - terminated_k)
    G, D      functional.n_step_return           G = sum_{k<n} gamma^k alive_k r_k, D = gamma^n alive_n
    c, c'     reward_scale, target_reward_scale  c = mean |r| over the replay buffer, c' the one before
    y         target_value / c                   y = (G + D c' min_i Q'_i(g'(f'(s_n), a'))) / c
    delta     td_error                           max_i |Q_i - y|, the LAP priority max(delta, 1)^0.4
    two-hot   functional.two_hot_cross_entropy   reward bins: symexp of an even grid on [-10, 10]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from uld_torchrl.gymnasium_ids import register_in_time

__version__ = "0.1.0"

register_in_time()

_HOMES = {
    "AgentConfig": "config",
    "preset": "config",
    "EnvironmentFault": "errors",
    "InputError": "errors",
    "NonFinite": "errors",
    "make_networks": "modules",
    "make_policy": "modules",
    "LatentRollout": "modules",
    "ExplorationNoise": "modules",
    "ULDLoss": "objectives",
    "PeriodicHardUpdate": "objectives",
    "make_loss": "objectives",
    "SubTrajectorySampler": "data",
    "HorizonWindow": "data",
    "make_replay_buffer": "data",
    "make_env": "envs",
    "ULDOptimizationStepper": "trainers",
    "ULDTrainer": "trainers",
    "Agent": "trainers",
    "TorchRLTrainer": "trainers",
    "evaluate_run": "trainers",
    "export_policy": "trainers",
    "load": "trainers",
    "train": "trainers",
    "train_seeds": "trainers",
}
# Written out, so that type checkers see it.
__all__ = [
    "Agent",
    "AgentConfig",
    "EnvironmentFault",
    "ExplorationNoise",
    "HorizonWindow",
    "InputError",
    "LatentRollout",
    "NonFinite",
    "PeriodicHardUpdate",
    "SubTrajectorySampler",
    "TorchRLTrainer",
    "ULDLoss",
    "ULDOptimizationStepper",
    "ULDTrainer",
    "evaluate_run",
    "export_policy",
    "load",
    "make_env",
    "make_loss",
    "make_networks",
    "make_policy",
    "make_replay_buffer",
    "preset",
    "train",
    "train_seeds",
]

if TYPE_CHECKING:
    from uld_torchrl.config import AgentConfig, preset
    from uld_torchrl.data import HorizonWindow, SubTrajectorySampler, make_replay_buffer
    from uld_torchrl.envs import make_env
    from uld_torchrl.errors import EnvironmentFault, InputError, NonFinite
    from uld_torchrl.modules import ExplorationNoise, LatentRollout, make_networks, make_policy
    from uld_torchrl.objectives import PeriodicHardUpdate, ULDLoss, make_loss
    from uld_torchrl.trainers import (
        Agent,
        TorchRLTrainer,
        ULDOptimizationStepper,
        ULDTrainer,
        evaluate_run,
        export_policy,
        load,
        train,
        train_seeds,
    )


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
