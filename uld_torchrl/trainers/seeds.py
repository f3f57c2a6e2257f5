"""SeedsTrainer: the runs of several seeds in one process, step by step side by side.

Everything is each run's own, as if it ran alone: environments, replay buffer, random numbers, files. Only the
updates are made together, in ``stacked``. A run that is behind, or cannot yet learn, goes on alone until it
stands where the others stand.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv
from tensordict import TensorDictBase

from uld_torchrl.config import AgentConfig
from uld_torchrl.envs import EnvLike, describe_env
from uld_torchrl.envs.sources import is_plain_vector
from uld_torchrl.errors import EnvironmentFault, InputError, NonFinite
from uld_torchrl.peers import refuse_peer
from uld_torchrl.seed_list import check_seeds
from uld_torchrl.trainers.engines import Eager
from uld_torchrl.trainers.files import stopped_by_storage
from uld_torchrl.trainers.guards import Guards, checked_guards
from uld_torchrl.trainers.progress import Progress
from uld_torchrl.trainers.result import TrainResult
from uld_torchrl.trainers.run_dir import forget_untrained, fresh_name
from uld_torchrl.trainers.stacked import RunFailed, StackedStepper
from uld_torchrl.trainers.stopping import Cut, StopRequest
from uld_torchrl.trainers.streams import RandomStreams
from uld_torchrl.trainers.trainer import ULDTrainer
from uld_torchrl.trainers.watchdog import told

_LOG = logging.getLogger(__name__)

_T = TypeVar("_T")
_Outcomes = tuple[dict[ULDTrainer, _T], dict[ULDTrainer, Exception]]


class SeedsTrainer:
    """Train one agent a seed, into the directories ``<run_dir>/<env>/<name>/seed<k>/`` of single runs.

    Each run is the one that :class:`ULDTrainer` makes of its seed, up to rounding in the updates, whichever
    seeds run beside it; it can be gone on with alone, and the reverse. What stops one of them stops all:
    after a fault of an environment, a signal, or at the time limit all are saved.

    Args:
        env: a name, or a function that makes an environment; see :func:`~uld_torchrl.make_env`.
        config: all settings, of each run.
        seeds: of the runs.
        name: of the runs.
        run_dir: root of all runs.
        fresh: take ``<name>-2``, ``<name>-3``, ... for all instead of existing directories.
        guards: see :class:`ULDTrainer`; the time limit is that of all together.
        progress: show progress on standard error.
        options: others of :class:`ULDTrainer`, for each run.

    Raises:
        InputError: see :class:`ULDTrainer`; nothing has then been trained. Or something of which several runs
            cannot make use together: the message says what.

    Example:
        >>> import tempfile
        >>> from uld_torchrl.config import preset
        >>> trainer = SeedsTrainer("CartPole-v1", preset("debug"), seeds=[0, 1], run_dir=tempfile.mkdtemp())
        >>> [result.path.name for result in trainer.train()]
        ['seed0', 'seed1']
        >>> trainer.close()
    """

    def __init__(
        self,
        env: EnvLike,
        config: AgentConfig,
        *,
        seeds: Sequence[int],
        name: str = "run",
        run_dir: Path | str = "runs",
        fresh: bool = False,
        guards: Guards | None = None,
        progress: bool = False,
        **options: Any,
    ) -> None:
        self.seeds = check_seeds("seeds", seeds)
        refuse_peer(options.get("peer"), "SeedsTrainer, which updates several seeds together,")
        check_together(env, options.get("eval_env"), config, options.get("log_to", ()))
        self.show_progress = progress
        self.trainers: list[ULDTrainer] = []
        self._streams = RandomStreams()
        self._stop = StopRequest(checked_guards(guards).time_limit)
        self._stacked: StackedStepper | None = None
        self._in_stack: list[ULDTrainer] = []
        if fresh:
            name = fresh_name(Path(run_dir), describe_env(env)[0], name, self.seeds)
        # A graph would hold the update of one run; "auto" is as good without.
        engine = Eager() if config.optim.compile == "auto" else None
        shared = {"name": name, "run_dir": run_dir, "guards": guards, "engine": engine, **options}
        try:
            for opened, seed in enumerate(self.seeds):
                room_for = len(self.seeds) - opened
                self.trainers.append(ULDTrainer(env, config, seed=seed, room_for=room_for, **shared))
                self.trainers[-1]._stop = self._stop
                self._streams.add(seed)
        except BaseException:
            self.close()
            for trainer in self.trainers:
                forget_untrained(trainer.run)
            raise

    @property
    def finished(self) -> bool:
        """Whether all steps of all runs are done."""
        return all(trainer.finished for trainer in self.trainers)

    @property
    def path(self) -> Path:
        """The runs' directories in the notation of shells: ``.../seed{0,1}``."""
        path = self.trainers[0].run.path
        names = ",".join(str(seed) for seed in self.seeds)
        return path if len(self.seeds) == 1 else path.with_name(f"seed{{{names}}}")

    def train(self) -> list[TrainResult]:
        """Run all until ``total_steps``, and save their final models and learning curves.

        Returns:
            The result of each run, in the order of the seeds.

        Raises:
            EnvironmentFault: an environment misbehaved; all runs are saved.
            NonFinite: a loss, gradient or batch of a run is not finite; the last checkpoint of each is kept.
            NotWritten: an OSError of a disk that is full or may not be written; the other runs are saved.
            Interrupted, OutOfTime: see :meth:`ULDTrainer.train`; all runs are saved.
        """
        with ExitStack() as held, self._stop:
            for trainer in self.trainers:
                held.enter_context(trainer._held)
            self._training = [each for each in self.trainers if not (each.finished and each.looked)]
            if self._training:
                self._loop()
            for trainer in self.trainers:
                with stopped_by_storage(trainer):
                    trainer._finish()
            return [trainer._result() for trainer in self.trainers]

    @property
    def _step(self) -> int:
        """The step of the run that is furthest behind."""
        return min(trainer.step for trainer in self._training)

    def _loop(self) -> None:
        total = self._training[0].config.run.total_steps
        self._stack([trainer for trainer in self._training if not trainer.finished])
        progress = Progress(total, self._step, enabled=self.show_progress)
        try:
            self._each(self._training, lambda trainer: _begin(trainer, progress))
            while self._step < total and not self._stop.wanted:
                progress.update(*self._round())
        except RunFailed as failed:  # not saved: a replay buffer may hold what is not finite
            raise self._told(failed) from failed.fault
        finally:
            progress.close()
        self._each(self._training, ULDTrainer.save)
        if not all(trainer.finished and trainer.looked for trainer in self._training):
            raise self._stop.reason(self._step, self.path)

    def _stack(self, trainers: list[ULDTrainer]) -> None:
        if len(trainers) > 1:
            self._in_stack = trainers
            steppers = {trainer.seed: trainer.stepper for trainer in trainers}
            self._stacked = StackedStepper(steppers, self._streams)

    def _round(self) -> tuple[int, dict[str, float]]:
        """Let the runs furthest behind go a step; return by how much all are further, and figures."""
        before = self._step
        moved, failed = self._try([each for each in self._training if each.step == before], _interact)
        self._learn(list(moved))
        reported, more = self._try(list(moved), ULDTrainer._report)
        self._stop_at(failed | more)
        return self._step - before, _means(list(reported.values()))

    def _learn(self, moved: list[ULDTrainer]) -> None:
        learning = [trainer for trainer in moved if trainer._learns]
        together = self._stacked is not None and learning == self._in_stack
        for _ in range(self.trainers[0].config.updates_per_round):
            latest = self._learn_together() if together else map(self._learn_alone, learning)
            for trainer, metrics in zip(learning, latest, strict=True):
                trainer._latest = metrics

    def _learn_together(self) -> list[TensorDictBase]:
        assert self._stacked is not None
        return self._stacked.step(self._stacked.sample())

    def _learn_alone(self, trainer: ULDTrainer) -> TensorDictBase:
        self._streams.switch(trainer.seed)
        try:
            return trainer.stepper.step(None)
        except NonFinite as fault:
            raise RunFailed(trainer.seed, fault) from fault

    # One after another

    def _try(self, trainers: Sequence[ULDTrainer], act: Callable[[ULDTrainer], _T]) -> _Outcomes[_T]:
        """Let each run do something with its own random numbers; return results, and failures."""
        results: dict[ULDTrainer, _T] = {}
        failed: dict[ULDTrainer, Exception] = {}
        for trainer in trainers:
            self._streams.switch(trainer.seed)
            try:
                with stopped_by_storage(trainer):
                    results[trainer] = act(trainer)
            except Cut:
                continue  # the run is to stop, which the loop sees as well
            except Exception as error:  # raised once the others are where they can be saved
                failed[trainer] = error
        return results, failed

    def _each(self, trainers: Sequence[ULDTrainer], act: Callable[[ULDTrainer], Any]) -> None:
        self._stop_at(self._try(trainers, act)[1])

    def _stop_at(self, failed: Mapping[ULDTrainer, Exception]) -> None:
        """Save what can be saved and raise the first failure, if there is any."""
        if failed:
            told, unsaved = self._try(self._training, lambda trainer: _saved(trainer, failed.get(trainer)))
            for trainer, why in unsaved.items():
                _LOG.error("seed %d could not be saved: %s", trainer.seed, why)
            first, error = next(iter(failed.items()))
            raise (told.get(first) or error) from error

    def _told(self, failed: RunFailed) -> NonFinite:
        trainer = self.trainers[self.seeds.index(failed.seed)]
        fault = told(failed.fault, trainer.step, trainer._saved_step, trainer.run.path)
        return NonFinite(
            f"{fault} The other seeds stopped with it, and keep their checkpoints.", fault.report
        )

    def close(self) -> None:
        """Free the environments and the run directories."""
        for trainer in reversed(self.trainers):
            trainer.close()


def check_together(
    env: EnvLike, eval_env: EnvLike | None, config: AgentConfig, log_to: Sequence[str]
) -> None:
    """Refuse what several runs in one process cannot have.

    Raises:
        InputError: environments that are objects, updates that are compiled or of less than float32, W&B.

    Example:
        >>> check_together("CartPole-v1", None, AgentConfig(), ["tensorboard"])
    """
    for argument, given in (("env", env), ("eval_env", eval_env)):
        if isinstance(given, (gymnasium.Env, VectorEnv)) and not is_plain_vector(given):
            raise InputError(
                f"{argument} must be a name, or a function that makes an environment, for several seeds: "
                f"each needs its own; got {type(given).__name__}."
            )
    optim = config.optim
    if optim.compile not in ("auto", "off") or optim.precision == "bfloat16":
        raise InputError(
            "several seeds are updated by batched kernels, neither compiled nor in bfloat16: use --compile "
            "off and --precision float32, or auto for both, or a process for each seed; got compile "
            f"{optim.compile}, precision {optim.precision}."
        )
    if "wandb" in log_to:
        raise InputError(
            "log_to 'wandb' keeps one run a process; for several seeds use tensorboard, or none."
        )


def _begin(trainer: ULDTrainer, progress: Progress) -> None:
    trainer._note = lambda text: progress.note(f"seed {trainer.seed}: {text}")
    trainer._prepare()
    trainer._begin()
    if not trainer.looked:
        trainer._look()


def _interact(trainer: ULDTrainer) -> None:
    while not trainer._interact():
        pass  # its environments were begun anew


def _saved(trainer: ULDTrainer, error: Exception | None) -> Exception | None:
    """Save the run, unless it is its own failure that forbids it; return what to tell of that."""
    if isinstance(error, EnvironmentFault):
        return EnvironmentFault(
            f"{trainer._saved_before(error)} The other seeds are saved too, unless the log names.",
            error.lanes,
        )
    if error is None and trainer.step:
        trainer.save()
    return error


def _means(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over the runs that have it."""
    names = dict.fromkeys(name for own in figures for name in own)
    return {name: float(np.mean([own[name] for own in figures if name in own])) for name in names}
