"""Training: the optimisation stepper, the loop, run directories, checkpoints, evaluation."""

from uld_torchrl.trainers.agent import Agent
from uld_torchrl.trainers.evaluation import Evaluation, evaluate
from uld_torchrl.trainers.playback import load
from uld_torchrl.trainers.run_dir import RunDir, open_run
from uld_torchrl.trainers.stepper import ULDOptimizationStepper
from uld_torchrl.trainers.trainer import TrainResult, ULDTrainer

__all__ = [
    "Agent",
    "Evaluation",
    "RunDir",
    "TrainResult",
    "ULDOptimizationStepper",
    "ULDTrainer",
    "evaluate",
    "load",
    "open_run",
]
