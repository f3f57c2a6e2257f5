"""Lanes in worker processes: each worker steps its share as :class:`Lanes`, all workers at once.

A worker is a new Python interpreter that imports numpy, Gymnasium and what the environments need, but not
torch. It talks over its standard input and output, and ends when they close, so none outlives the parent.
It starts in about a second, and a step of all workers costs a few tenths of a millisecond more than one in
this process: they pay for environments that are slower than that. Nothing is forked, and the user's script
is not imported again: it needs no ``if __name__ == "__main__"``. What the makers refer to is sent with
cloudpickle: what a script or notebook defines itself goes by value, all else is imported in the worker.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import traceback
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

import cloudpickle
import numpy as np

from uld_torchrl.envs.checks import check_remade, check_same_spaces
from uld_torchrl.envs.faults import Where, not_made
from uld_torchrl.envs.lanes import AgentVectorEnv, Lanes, Maker, StepResult, lane_seeds
from uld_torchrl.envs.tapes import LaneState
from uld_torchrl.errors import EnvironmentFault, InputError

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from uld_torchrl.envs.workers import serve; serve()"
)
_PATIENCE = 5.0  # seconds that a worker has to close its environments


class InWorker(Exception):
    """The traceback of a worker process, as the cause of what is raised in the parent.

    Example:
        >>> InWorker("Traceback (most recent call last): ...")
        InWorker('Traceback (most recent call last): ...')
    """


class WorkerLanes(AgentVectorEnv):
    """Environments in worker processes, shared out as evenly as possible; otherwise the same as Lanes.

    A worker that dies and an environment that raises become an EnvironmentFault here, and :meth:`remake`
    mends them. Workers end with :meth:`close`, when this is garbage-collected, and when this process ends.

    Args:
        makers: one for each lane.
        name: of the environment, for messages; None: as its class.
        workers: number of processes.
        render: whether :meth:`draw` will be called.

    Raises:
        InputError: a maker cannot be sent or fails, unsupported spaces.

    Example:
        >>> from functools import partial
        >>> import gymnasium
        >>> lanes = WorkerLanes([partial(gymnasium.make, "CartPole-v1")] * 3, "gym/CartPole-v1", workers=2)
        >>> lanes.reset(seed=0)[0].shape
        (3, 4)
        >>> lanes.close()
    """

    def __init__(self, makers: Sequence[Maker], name: str | None, workers: int, render: bool = False) -> None:
        shares = np.array_split(np.arange(len(makers)), workers)
        self._workers = [_Worker(name, slice(share[0], share[-1] + 1)) for share in shares]
        self._stop = weakref.finalize(self, _stop, self._workers)
        try:
            for each in self._workers:
                each.payload = _packed(makers[each.lanes], name, each.lanes.start, render)
            commands = [("make", each.payload) for each in self._workers]
            about = [pickle.loads(made) for made in self._exchange(commands)]
            tasks = {
                worker.lanes.start: task for worker, (_, task, _) in zip(self._workers, about, strict=True)
            }
            name, task, self.render_mode = about[0]
            super().__init__(len(makers), task, name)
            check_same_spaces(tasks, name)
        except BaseException:
            self._stop()
            raise
        for worker in self._workers:
            worker.name = name
        self._now = np.zeros(self.observation_space.shape or (), self.observation_space.dtype)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes, in the lanes of ``options["reset_mask"]`` or in all."""
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, np.bool_)))
        seeds = lane_seeds(seed, self.num_envs)
        commands = [
            ("reset", seeds[each.lanes], mask[each.lanes]) if mask[each.lanes].any() else None
            for each in self._workers
        ]
        for worker, rows in zip(self._workers, self._exchange(commands), strict=True):
            if rows is not None:
                self._now[worker.lanes] = rows
        return self._now.copy(), {}

    def step(self, actions: np.ndarray) -> StepResult:
        """Step every lane with its action [num_envs, m], or [num_envs] numbers of choices."""
        parts = self._exchange([("step", actions[worker.lanes]) for worker in self._workers])
        self._now, rewards, terminated, truncated = (
            np.concatenate(part) for part in zip(*parts, strict=True)
        )
        return self._now.copy(), rewards, terminated, truncated, {}

    def states(self) -> list[LaneState]:
        """Return where each lane is."""
        return [state for part in self._exchange([("states",)] * len(self._workers)) for state in part]

    def restore(self, states: Sequence[LaneState]) -> tuple[np.ndarray, np.ndarray]:
        """Play each lane's open episode again; a lane that does not come out the same begins a new one."""
        parts = self._exchange([("restore", states[worker.lanes]) for worker in self._workers])
        self._now, same = (np.concatenate(part) for part in zip(*parts, strict=True))
        return self._now.copy(), same

    def remake(self, lanes: Sequence[int]) -> None:
        """Make the environments of these lanes anew, start dead workers again; then reset all lanes."""
        for worker in self._workers:
            faulty = [lane for lane in lanes if worker.lanes.start <= lane < worker.lanes.stop]
            if worker.is_dead:
                self._start_again(worker)
            elif faulty:
                self._ask(worker, ("remake", faulty))

    def _start_again(self, worker: _Worker) -> None:
        _stop([worker])  # closes its pipes
        try:
            worker.start()
            _, task, _ = pickle.loads(self._ask(worker, ("make", worker.payload)))
            check_remade(self.task, task)
        except Exception as error:
            _stop([worker])
            raise not_made(Where(self.name, worker.lanes.start), error) from error

    def draw(self) -> np.ndarray:
        """Draw the first lane, uint8 [height, width, 3]."""
        return self._ask(self._workers[0], ("draw",))

    def _ask(self, asked: _Worker, command: tuple[Any, ...]) -> Any:
        """Return the answer of one worker."""
        answers = self._exchange([command if worker is asked else None for worker in self._workers])
        return answers[self._workers.index(asked)]

    def _exchange(self, commands: Sequence[tuple[Any, ...] | None]) -> list[Any]:
        """Send each worker its command (None: no command) and return all answers."""
        asked = [
            (worker, command) for worker, command in zip(self._workers, commands, strict=True) if command
        ]
        try:
            for worker, command in asked:
                worker.send(command)
            answers = {worker: worker.receive() for worker, _ in asked}
        except BaseException:
            self.close()  # an answer that nobody fetched would be taken for that to the next command
            raise
        failures = [answer for answer in answers.values() if isinstance(answer, _Failure)]
        if failures:
            raise _of_all(failures) from failures[0].cause
        return [answers.get(worker) for worker in self._workers]

    def close_extras(self, **_: Any) -> None:
        """End the workers."""
        self._stop()


class _Failure:
    """An error that the user is to see, and its cause: by default the traceback of the worker."""

    def __init__(self, error: InputError, cause: Exception | None = None) -> None:
        self.error = error
        self.cause = cause or InWorker("".join(traceback.format_exception(error)))


def _of_all(failures: Sequence[_Failure]) -> InputError:
    """Return the first worker's error, with the faulty lanes of all."""
    first = failures[0].error
    if isinstance(first, EnvironmentFault):
        first.lanes = tuple(lane for failure in failures for lane in getattr(failure.error, "lanes", ()))
    return first


class _Worker:
    """The parent's side of one worker process."""

    def __init__(self, name: str | None, lanes: slice) -> None:
        self.name, self.lanes = name, lanes
        self.payload = b""
        self.start()

    def start(self) -> None:
        """Start the process, in place of one that is dead."""
        paths = json.dumps([path for path in sys.path if isinstance(path, str)])
        command = [sys.executable, "-c", _START, paths]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    @property
    def is_dead(self) -> bool:
        return self.process.poll() is not None

    def send(self, command: tuple[Any, ...]) -> None:
        with suppress(OSError, ValueError):  # it is dead, as receive will find
            pickle.dump(command, self._pipe("stdin"), protocol=5)
            self._pipe("stdin").flush()

    def receive(self) -> Any:
        try:
            return pickle.load(self._pipe("stdout"))
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            return _Failure(self._dead(), error)

    def _pipe(self, name: str) -> IO[bytes]:
        pipe: IO[bytes] = getattr(self.process, name)
        return pipe

    def _dead(self) -> EnvironmentFault:
        try:
            code: Any = self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            code = "unknown"
            self.process.kill()  # nothing that it says can be understood any more
            self.process.wait()
        last = self.lanes.stop - 1
        which = f"lane {last}" if last == self.lanes.start else f"lanes {self.lanes.start} to {last}"
        return EnvironmentFault(
            f"{self.name or 'env'}, {which}: the worker process is gone (exit code {code}; a negative one is "
            "the signal that killed it). Look for its own message above, run with env_workers=0 to see where "
            "it happens, and check that memory suffices.",
            range(self.lanes.start, self.lanes.stop),
        )


def _packed(*parts: Any) -> bytes:
    try:
        return cloudpickle.dumps(parts)
    except Exception as error:
        raise InputError(
            f"env: the callable cannot be sent to a worker process ({type(error).__name__}: {error}). Use "
            "env_workers=0, or a callable that makes everything it needs when it is called."
        ) from error


def _stop(workers: Sequence[_Worker]) -> None:
    processes = [worker.process for worker in workers]
    for process in processes:
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # what was not sent yet no longer can be
                pipe.close()  # type: ignore[union-attr]
    for process in processes:
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serve() -> None:
    """Run a worker: make lanes, then answer commands until standard input closes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group, and the parent's to handle
        signal.signal(number, signal.SIG_IGN)
    commands, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    # What environments print goes to standard error, and they read nothing.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    worker = _Server()
    with suppress(BrokenPipeError):  # the parent has stopped listening: another worker died
        while (command := _next(commands)) is not None:
            _reply(replies, worker.answer(command))
    worker.close()


def _reply(pipe: int, answer: Any) -> None:
    # Not through a file object, which would try again, and complain, when the process ends.
    rest = memoryview(pickle.dumps(answer, protocol=5))
    while rest:
        rest = rest[os.write(pipe, rest) :]


def _next(commands: IO[bytes]) -> tuple[Any, ...] | None:
    try:
        command: tuple[Any, ...] = pickle.load(commands)
    except EOFError:
        return None
    return command


class _Server:
    """The commands of a worker."""

    lanes: Lanes | None = None

    def answer(self, command: tuple[Any, ...]) -> Any:
        try:
            return getattr(self, command[0])(*command[1:])
        except InputError as error:
            return _Failure(error)

    def make(self, payload: bytes) -> bytes:
        try:
            makers, name, first, render = pickle.loads(payload)
        except Exception as error:
            raise InputError(
                f"env: the callable cannot be rebuilt in a worker process ({type(error).__name__}: {error}). "
                "Define it in a module that can be imported, or in the script itself; or use env_workers=0."
            ) from error
        self.lanes = Lanes(makers, name, first, render)
        return cloudpickle.dumps((self.lanes.name, self.lanes.task, self.lanes.render_mode))

    def reset(self, seeds: list[int], mask: np.ndarray) -> np.ndarray:
        return self._made.reset(seed=seeds, options={"reset_mask": mask})[0]

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, ...]:
        return self._made.step(actions)[:4]

    def states(self) -> list[LaneState]:
        return self._made.states()

    def restore(self, states: list[LaneState]) -> tuple[np.ndarray, np.ndarray]:
        return self._made.restore(states)

    def remake(self, lanes: list[int]) -> None:
        self._made.remake(lanes)

    def draw(self) -> np.ndarray:
        return self._made.draw()

    @property
    def _made(self) -> Lanes:
        assert self.lanes is not None
        return self.lanes

    def close(self) -> None:
        if self.lanes is not None:
            self.lanes.close()
