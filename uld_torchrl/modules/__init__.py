"""Networks of the agent: encoders, latent rollout, policies, value heads, exploration, factory.

Plain ``nn.Module`` classes on tensors, and :func:`make_networks`, which wraps them as TensorDict
modules. Losses are in ``objectives``.
"""

from uld_torchrl.modules.encoders import (
    LinearPredictor,
    MLPPredictor,
    PixelEncoder,
    StateActionEncoder,
    VectorEncoder,
)
from uld_torchrl.modules.exploration import ExplorationNoise
from uld_torchrl.modules.factory import Networks, make_networks, make_policy, noise_scale
from uld_torchrl.modules.policies import GumbelPolicy, TanhPolicy
from uld_torchrl.modules.rollout import LatentRollout
from uld_torchrl.modules.value import ValueHead

__all__ = [
    "ExplorationNoise",
    "GumbelPolicy",
    "LatentRollout",
    "LinearPredictor",
    "MLPPredictor",
    "Networks",
    "PixelEncoder",
    "StateActionEncoder",
    "TanhPolicy",
    "ValueHead",
    "VectorEncoder",
    "make_networks",
    "make_policy",
    "noise_scale",
]
