"""Training: one call, the loop, the optimisation stepper, run directories, checkpoints, evaluation."""

from uld_torchrl.trainers.adapter import TorchRLTrainer
from uld_torchrl.trainers.agent import Agent
from uld_torchrl.trainers.callbacks import Callback
from uld_torchrl.trainers.distributed import ray_collector
from uld_torchrl.trainers.evaluation import Evaluation, evaluate
from uld_torchrl.trainers.export import export_policy
from uld_torchrl.trainers.files import NotWritten
from uld_torchrl.trainers.guards import Guards
from uld_torchrl.trainers.playback import evaluate_run, load
from uld_torchrl.trainers.result import TrainResult
from uld_torchrl.trainers.run import train, train_seeds
from uld_torchrl.trainers.run_dir import RunDir, open_run
from uld_torchrl.trainers.seeds import SeedsTrainer
from uld_torchrl.trainers.stepper import ULDOptimizationStepper
from uld_torchrl.trainers.stopping import Interrupted, OutOfTime
from uld_torchrl.trainers.trainer import ULDTrainer
from uld_torchrl.trainers.watchdog import Watchdog

__all__ = [
    "Agent",
    "Callback",
    "Evaluation",
    "Guards",
    "Interrupted",
    "NotWritten",
    "OutOfTime",
    "RunDir",
    "SeedsTrainer",
    "TorchRLTrainer",
    "TrainResult",
    "ULDOptimizationStepper",
    "ULDTrainer",
    "Watchdog",
    "evaluate",
    "evaluate_run",
    "export_policy",
    "load",
    "open_run",
    "ray_collector",
    "train",
    "train_seeds",
]
