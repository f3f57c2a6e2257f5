"""ULDTrainer: the loop of one run: act, store, update, evaluate, save.

Our own and small: ``torchrl.trainers.Trainer`` keeps every value it ever logged, shares state between
trainers and has no evaluation (``adapter`` plugs the agent into it for those who want its hooks). The
update is in ``stepper``; files are in ``run_dir``, ``logs`` and ``checkpoints``; signals in ``stopping``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.checkpoint import GlobalRNGState
from torchrl.envs.utils import ExplorationType, set_exploration_type

from uld_torchrl.config import AgentConfig
from uld_torchrl.data import StorageName
from uld_torchrl.envs import EnvLike, copy_env, describe_env, make_env, task_spaces, task_to_json
from uld_torchrl.errors import EnvironmentFault, InputError, NonFinite, check_seed
from uld_torchrl.modules.exploration import held_noise
from uld_torchrl.peers import PeerConfig
from uld_torchrl.tables import read_numbers, read_rows
from uld_torchrl.trainers.agent import Agent
from uld_torchrl.trainers.callbacks import (
    Callback,
    call_between_steps,
    checked_callbacks,
    same_random_state,
)
from uld_torchrl.trainers.checkpoints import RunCheckpoints
from uld_torchrl.trainers.compute import pick_compute
from uld_torchrl.trainers.engines import Engine
from uld_torchrl.trainers.environments import check_pair, warn_of_statistics
from uld_torchrl.trainers.episodes import OpenEpisodes
from uld_torchrl.trainers.evaluation import Evaluation, make_eval_env, stream_seed
from uld_torchrl.trainers.files import emptied, replaced, stopped_by_storage
from uld_torchrl.trainers.guards import Guards, checked_guards
from uld_torchrl.trainers.logs import LogTarget, RunLog, flush_tables, forget_after
from uld_torchrl.trainers.parts import check_task, make_run_stepper, run_config, run_metrics
from uld_torchrl.trainers.plots import plot_learning_curve
from uld_torchrl.trainers.progress import Progress, quiet_torchrl
from uld_torchrl.trainers.replay import make_run_replay, room_for_replay
from uld_torchrl.trainers.reporter import Reporter
from uld_torchrl.trainers.restarts import Restarts
from uld_torchrl.trainers.result import TrainResult
from uld_torchrl.trainers.run_dir import locked, open_run, record_session
from uld_torchrl.trainers.stopping import Cut, StopRequest
from uld_torchrl.trainers.streams import seed_everything
from uld_torchrl.trainers.watchdog import Watchdog, told

_TRAIN_ENV = 1  # purpose of the random stream derived from the run's seed


class ULDTrainer:
    """Train an agent on an environment, into a run directory; goes on from its last checkpoint.

    Training starts when more than ``random_steps`` agent steps are stored; from then on ``updates_per_step``
    updates an agent step, ``num_envs`` times as many a vector step. Evaluation uses environments and random
    streams of its own. A resumed run repeats the uninterrupted one to the last bit on the same machine; where
    an environment cannot be brought back, its open episode is cut, marked as truncated, and the log says so.

    The run is in ``<run_dir>/<env>/<name>/seed<k>/``, see :func:`~uld_torchrl.trainers.open_run`, which this
    process holds until :meth:`train` ends.

    Args:
        env: see :func:`~uld_torchrl.make_env`. A vector environment sets ``config.run.num_envs``.
        config: all settings.
        name: of the run.
        run_dir: root of all runs.
        seed: of networks, environments, exploration and sampling.
        fresh: take ``<name>-2``, ``<name>-3``, ... instead of an existing directory.
        device: of networks and replay buffer.
        eval_env: what evaluation plays; by default ``env``, of an instance a copy made now.
        env_workers: processes that step the training environments; 0: this one. The result is the same.
        buffer_storage: "memory", or "memmap" to map the replay buffer to files in the run's directory, which
            are deleted in the end. The result is the same.
        log_to: "tensorboard", "wandb": log there too.
        callbacks: what is called every so many steps, see :class:`~uld_torchrl.trainers.Callback`.
        guards: what the run does when something goes wrong, and how long it may go on.
        progress: show progress on standard error.
        engine: what runs the parts of an update; default: what ``optim.compile`` says.
        room_for: replay buffers like this one, itself included, that memory must have room for.
        peer: TD3, SAC or DQN in place of ULD; of ``config`` only ``run`` then counts.

    Raises:
        InputError: no room for the replay buffer, unsupported spaces, another configuration in the directory,
            a damaged checkpoint, a directory that another trainer holds.

    Example:
        >>> import tempfile
        >>> from uld_torchrl.config import preset
        >>> trainer = ULDTrainer("CartPole-v1", preset("debug"), run_dir=tempfile.mkdtemp())
        >>> trainer.train().step
        300
        >>> trainer.close()
    """

    def __init__(
        self,
        env: EnvLike,
        config: AgentConfig,
        *,
        name: str = "run",
        run_dir: Path | str = "runs",
        seed: int = 0,
        fresh: bool = False,
        device: torch.device | str = "cpu",
        eval_env: EnvLike | None = None,
        env_workers: int = 0,
        buffer_storage: StorageName = "memory",
        log_to: Sequence[LogTarget] = (),
        callbacks: Sequence[Callback] = (),
        guards: Guards | None = None,
        progress: bool = False,
        engine: Engine | None = None,
        room_for: int = 1,
        peer: PeerConfig | None = None,
    ) -> None:
        self.env_id, layers = describe_env(env)
        self.peer, self.config = peer, (config := run_config(config, env, peer))
        self.seed, self.device, self.show_progress = check_seed(seed), torch.device(device), progress
        self.guards = checked_guards(guards)
        self._stop, self.looked = StopRequest(self.guards.time_limit), True
        self._note: Callable[[str], None] = lambda text: None
        self.step = self.episodes = 0
        self._seconds = 0.0
        self._log_to, self._held, self.callbacks = tuple(log_to), ExitStack(), checked_callbacks(callbacks)
        self._held.enter_context(quiet_torchrl())
        warn_of_statistics(layers)
        other = copy_env(env) if eval_env is None else eval_env
        self.env = make_env(
            env,
            num_envs=config.run.num_envs,
            env_workers=env_workers,
            device=self.device,
            pixels=config.pixels,
            atari=config.atari,
        )
        try:
            self.eval_env = make_eval_env(other, config.run.eval_episodes, self.device, config)
            check_pair(self.env, self.eval_env, config.loss.horizon)
            check_task(self.env, config, peer)
            room = (self.env, config, self.device, buffer_storage, Path(run_dir), room_for)
            self.room = room_for_replay(*room)
            task = {"layers": layers, **task_to_json(task_spaces(self.env))}
            self.compute = pick_compute(config.optim, self.device)  # refused before there is a directory
            place = (Path(run_dir), self.env_id, name, self.seed)
            self.run = open_run(*place, config, task=task, fresh=fresh, peer=peer)
            self._held.enter_context(locked(self.run))
            self._build(buffer_storage, engine)
        except BaseException:
            self.close()
            raise

    def _build(self, storage: StorageName, engine: Engine | None) -> None:
        seed_everything(self.seed)
        self.agent = Agent.for_env(self.env_id, self.env, self.config, self.device, self.peer)
        mapped = self._held.enter_context(emptied(self.run.replay)) if storage == "memmap" else None
        self.buffer = make_run_replay(self.env, self.config, self.device, mapped)
        watchdog = Watchdog(self.guards.on_nonfinite, self.run.path / "faults", lambda: self.step)
        parts = (self.agent, self.buffer, self.config, watchdog)
        self.stepper = make_run_stepper(*parts, lambda line: self._note(line), engine)
        self.checkpoints = RunCheckpoints(self.run.checkpoints, self._components())
        self._resume()

    # Saving and resuming

    def _components(self) -> dict[str, Any]:
        return {
            "loss": self.agent.loss,
            "stepper": self.stepper,
            "replay": self.buffer,
            "random": GlobalRNGState(),
            "progress": self,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the counters of the run and its open episodes."""
        return {
            "step": self.step,
            "looked": self.looked,
            "episodes": self.episodes,
            "seconds": self.seconds,
            "open": self._open.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the counters of the run, and note its open episodes."""
        self.step, self.episodes = int(state_dict["step"]), int(state_dict["episodes"])
        self._seconds = float(state_dict["seconds"])
        self.looked = bool(state_dict.get("looked", True))  # earlier versions saved none
        if "open" in state_dict:  # earlier versions saved none
            self._open.load_state_dict(state_dict["open"])

    def _resume(self) -> None:
        self._open = OpenEpisodes(self.env, self.device, held_noise(self.agent.policy))
        self._restarts = Restarts(self._open, self.guards.env_restarts, self.seed)
        with stopped_by_storage(self):
            restored = self.checkpoints.restore() is not None
        if not restored and (self.run.model / "config.json").exists():
            raise InputError(
                f"{self.run.path} holds a finished run whose checkpoints are gone, so it cannot go on: use "
                "--fresh for a new directory, or another --name (`uld eval` still works)."
            )
        self.started_from = self.step
        self._saved_step, self._saved_looked = (self.step if restored else None), self.looked
        with stopped_by_storage(self):
            columns = run_metrics(self.peer)
            log = RunLog(self.run, keep_until=self._saved_step, log_to=self._log_to, metrics=columns)
        self._held.callback(log.close)
        self._reporter = Reporter(log, self.agent, self.eval_env, self.seed, self._seconds)
        # Looked at all but for the row: it was lost.
        self.looked &= not self.finished or self._last_evaluation().get("step") == str(self.step)

    # The loop

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.config.run.total_steps

    @property
    def seconds(self) -> float:
        """Wall-clock seconds up to the last row of metrics, over all sessions."""
        return self._reporter.seconds

    def train(self) -> TrainResult:
        """Run until ``total_steps``, save the final model and the learning curve.

        Raises:
            EnvironmentFault: an environment misbehaved; what was done before is saved.
            NonFinite: a loss, gradient or batch is not finite; the last checkpoint is kept.
            NotWritten: an OSError of a disk that is full or may not be written; the last checkpoint is kept.
            Interrupted: a KeyboardInterrupt after SIGINT or SIGTERM; what was done is saved.
            OutOfTime: the time limit was reached; what was done is saved.
        """
        with self._held, self._stop, stopped_by_storage(self):
            if not (self.finished and self.looked):
                self._loop()
                self.save()
            self._finish()
            return self._result()

    def _prepare(self) -> None:
        """Make sure of a session that is to train."""
        for callback in self.callbacks:
            with same_random_state():
                callback.begin(self)
        forget_after(self.run, self.step, looked=self.looked)
        record_session(self.run, self.config, self.step, str(self.compute))

    def _loop(self) -> None:
        self._prepare()
        progress = Progress(self.config.run.total_steps, self.step, enabled=self.show_progress)
        self._note = progress.note
        try:
            self._begin()
            if not self.looked:
                progress.update(0, self._look())
            while not (self.finished or self._stop.wanted):
                if self._interact():
                    self._learn()
                    progress.update(self.config.run.num_envs, self._report())
        except Cut:
            pass
        except EnvironmentFault as fault:
            raise self._saved_before(fault) from fault
        except NonFinite as fault:  # not saved: the replay buffer may hold what is not finite
            raise told(fault, self.step, self._saved_step, self.run.path) from fault
        finally:
            progress.close()
        if not (self.finished and self.looked):
            self.save()
            raise self._stop.reason(self.step, self.run.path)

    def _saved_before(self, fault: EnvironmentFault) -> EnvironmentFault:
        """Save, and return the fault with the step and the way on."""
        if self.step == 0:
            return EnvironmentFault(f"at the start: {fault}")
        self.save()
        return EnvironmentFault(
            f"after step {self.step}: {fault} These {self.step} steps are saved in {self.run.path}: mend the "
            "environment and run the same again to go on."
        )

    def _begin(self) -> None:
        seed = stream_seed(self.seed, _TRAIN_ENV, self.step)
        with same_random_state() if self.step else nullcontext():
            self._td = self._open.begin(seed, self.buffer)
        self._latest: TensorDictBase | None = None
        self._reporter.begin(self.step)

    def _interact(self) -> bool:
        """Act in all lanes and store it; where an environment fails, begin anew and return False."""
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            warm_up = self.step < self.config.run.random_steps
            td = self.env.rand_action(self._td) if warm_up else self.agent.policy(self._td)
        self._open.stepping = True
        try:
            stepped, self._td = self.env.step_and_maybe_reset(td)
        except EnvironmentFault as fault:
            self._td = self._restarts.after(fault, self.step, self.buffer)
            return False
        self.buffer.add(stepped)
        self._open.stepping = False
        self.step += self.config.run.num_envs
        self.episodes += self._open.count(stepped.get("next"))
        return True

    @property
    def _learns(self) -> bool:
        """Whether updates follow the last step."""
        return self.step > self.config.run.random_steps and self.buffer.can_sample()

    def _learn(self) -> None:
        if not self._learns:
            return
        for _ in range(self.config.updates_per_round):
            self._latest = self.stepper.step(None)

    def _report(self) -> dict[str, float]:
        run = self.config.run
        figures = self._log_metrics() if self._due(run.log_every) else {}
        self.looked = False
        figures |= self._look()
        if self._due(run.checkpoint_every) and not self.finished:
            self.save()
        return figures

    def _look(self) -> dict[str, float]:
        """Evaluate and call back, where due; if it is cut short, the run goes on with this."""
        figures: dict[str, float] = {}
        if self._due(self.config.run.eval_every) or self.finished:
            figures["eval"] = self._evaluate().mean
        self._call_back()
        self.looked = True
        return figures

    def _call_back(self) -> None:
        for callback in self.callbacks:
            if self._due(callback.every) or self.finished:
                call_between_steps(callback, self)

    def _due(self, every: int) -> bool:
        """Whether the last vector step reached or passed a multiple of ``every``."""
        return self.step // every != (self.step - self.config.run.num_envs) // every

    def _log_metrics(self) -> dict[str, float]:
        counters = {"step": self.step, "episodes": self.episodes, **self.stepper.counters}
        shown = self._reporter.metrics(counters, self._open.finished, self._latest)
        self._open.finished = []
        return shown

    def _evaluate(self) -> Evaluation:
        return self._reporter.evaluate(self.step, self._stop.cut)

    def save(self) -> None:
        """Write a checkpoint, unless this step has one."""
        if (self.step, self.looked) != (self._saved_step, self._saved_looked):
            try:
                _ = self.stepper.counters  # settles what was deferred
            except NonFinite as fault:
                raise told(fault, self.step, self._saved_step, self.run.path) from fault
            flush_tables(self.run)
            saved = self.checkpoints.save(self.step)
            self._saved_step, self._saved_looked = self.step, self.looked
            self._reporter.saved(saved)
            self._note(str(saved))

    def _finish(self) -> None:
        with replaced(self.run.model) as aside:
            self.agent.save(aside, step=self.step)
        plot_learning_curve([self.run.evaluations], self.run.curve, f"{self.env_id}, seed {self.seed}")

    def _last_evaluation(self) -> dict[str, str]:
        return (read_rows(self.run.evaluations) or [{}])[-1]

    def _result(self) -> TrainResult:
        names = [f"episode_{name}" for name in ("return_mean", "return_std", "length_mean")]
        mean, std, length = read_numbers(self.run.evaluations, names)[-1]
        return TrainResult(self.step, mean, std, length, self.run.path, self.started_from)

    def close(self) -> None:
        """Free the environments and the run directory."""
        self._held.close()
        for env in (self.env, getattr(self, "eval_env", None)):
            if env is not None and not env.is_closed:
                env.close()
