"""The loss module and its target updater, on TensorDict windows [B, H].

No optimiser, no schedule, no I/O: these are in ``trainers``.
"""

from uld_torchrl.objectives.factory import make_loss
from uld_torchrl.objectives.hard_update import PeriodicHardUpdate
from uld_torchrl.objectives.uld import ULDLoss

__all__ = ["PeriodicHardUpdate", "ULDLoss", "make_loss"]
