"""ULD and MR.Q for TorchRL: one agent for vectors and pixels, continuous and discrete actions.

The public names are below; torch is imported when the first of them is used (PEP 562), so that
``import uld_torchrl`` and ``uld --help`` stay quick.

Glossary (MR.Q, arXiv 2501.16142):
    z_s    state_embedding             f(s), state encoder
    z_sa   state_action_embedding      g(z_s, a), state-action encoder
    m      predictor                   (d, z_s', reward logits) = m(z_sa), linear
    pi     actor_network               policy on z_s
    Q_i    qvalue_network              value heads on z_sa
    c, c'  reward_scale, target_reward_scale
    H, n   horizon, n_steps
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AgentConfig": "config",
    "preset": "config",
    "InputError": "errors",
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
    "load": "trainers",
}
__all__ = sorted(_HOMES)

if TYPE_CHECKING:
    from uld_torchrl.config import AgentConfig, preset
    from uld_torchrl.data import HorizonWindow, SubTrajectorySampler, make_replay_buffer
    from uld_torchrl.envs import make_env
    from uld_torchrl.errors import InputError
    from uld_torchrl.modules import ExplorationNoise, LatentRollout, make_networks, make_policy
    from uld_torchrl.objectives import PeriodicHardUpdate, ULDLoss, make_loss
    from uld_torchrl.trainers import ULDOptimizationStepper, ULDTrainer, load


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
