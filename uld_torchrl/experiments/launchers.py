"""Launchers: who starts the jobs of a study, on this machine or on a Ray cluster, and what becomes of each.

Every job is a process of its own, ``uld train``, whose output goes to a log file. A job that stops before it
is done is started again, and goes on from its checkpoint. A run that another process holds is left to it and
looked at again later, so that several launchers may share the work of one study.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uld_torchrl.errors import InputError, check_positive
from uld_torchrl.experiments.jobs import Job

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_STOPPED = 143  # exit code of a run that was told to stop: it has saved itself
HELD = "is being trained by another process"


@dataclass(frozen=True)
class Outcome:
    """What became of a job: done, held by others, or its last exit code, and the log that says why."""

    job: Job
    done: bool
    code: int
    log: Path
    held: bool = False


@dataclass(frozen=True)
class Plan:
    """How jobs are run.

    Raises:
        InputError: a number that is not positive.
    """

    run_dir: Path
    workers: int = 1
    """Runs at the same time."""
    threads: int = 1
    """Threads of each run."""
    retries: int = 2
    """How often a job that failed is started again."""
    poll: float = 5.0
    """Seconds between two looks at a run that another process holds."""

    def __post_init__(self) -> None:
        check_positive(self, "workers", "threads", "poll")
        if self.retries < 0:
            raise InputError(f"retries must not be negative, got {self.retries}.")

    def log(self, job: Job) -> Path:
        """Return the file of a job's output."""
        return self.run_dir / "logs" / f"{job.name.replace('/', '_')}.log"


@dataclass
class Children:
    """The processes that are running, so that a stop reaches them all."""

    stopping: threading.Event = field(default_factory=threading.Event)
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, command: Sequence[str], log: Path, threads: int) -> int:
        """Run a command to its end; return its exit code."""
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **dict.fromkeys(_THREADS, str(threads))}
        with log.open("ab") as output:
            with self._lock:
                if self.stopping.is_set():
                    return _STOPPED
                # A session of its own: Ctrl-C reaches it through stop() only, once.
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
                self._running.add(child)
            try:
                return child.wait()
            except BaseException:  # a Ray task that is cancelled
                child.terminate()
                child.wait()
                raise
            finally:
                with self._lock:
                    self._running.discard(child)

    def stop(self) -> None:
        """Ask all to save and end, and start no more."""
        with self._lock:
            self.stopping.set()
            for child in self._running:
                child.terminate()


def run_job(job: Job, plan: Plan, children: Children | None = None) -> Outcome:
    """Run one job until it is done, fails too often, is stopped, or another process holds it."""
    children, log, code, failures = children or Children(), plan.log(job), 0, 0
    while job.state(plan.run_dir) != "done" and not children.stopping.is_set() and failures <= plan.retries:
        begin = log.stat().st_size if log.exists() else 0
        code = children.run(job.command(plan.run_dir), log, plan.threads)
        if code and HELD in _tail(log, begin):
            children.stopping.wait(plan.poll)
            return Outcome(job, False, code, log, held=True)
        failures += 1
    return Outcome(job, job.state(plan.run_dir) == "done", code, log)


def _tail(log: Path, begin: int) -> str:
    with log.open("rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace")


def run_local(jobs: Sequence[Job], plan: Plan, report: Callable[[Outcome], None]) -> list[Outcome]:
    """Run jobs on this machine, ``plan.workers`` at a time; a stop is passed on, and all runs are saved.

    Args:
        jobs: what is to be run; those that are done are told at once.
        plan: how.
        report: called with each outcome, as it comes.

    Raises:
        KeyboardInterrupt: when it was stopped, after all runs have ended.
    """
    children, outcomes = Children(), []
    with ThreadPoolExecutor(plan.workers) as pool:
        waiting: set[Future[Outcome]] = {pool.submit(run_job, job, plan, children) for job in jobs}
        try:
            while waiting:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for outcome in (future.result() for future in ended):
                    if outcome.held:
                        waiting.add(pool.submit(run_job, outcome.job, plan, children))
                        continue
                    outcomes.append(outcome)
                    report(outcome)
        except BaseException:
            children.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return outcomes


def run_ray(
    jobs: Sequence[Job],
    plan: Plan,
    report: Callable[[Outcome], None],
    *,
    address: str | None = None,
    gpus: float = 0.0,
) -> list[Outcome]:
    """Run jobs on a Ray cluster, each with ``plan.threads`` cores and ``gpus`` GPUs.

    ``plan.run_dir`` must be on storage that all nodes share, at the same path: a job whose node is lost
    starts again on another one, and goes on from its checkpoint there.

    Args:
        jobs: what is to be run.
        plan: how; ``workers`` is not used, the cluster's resources say how many run at once.
        report: called with each outcome, as it comes.
        address: of the cluster; None: the one that Ray finds, or a new one on this machine.
        gpus: share of a GPU for each run.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """
    ray = _ray(address)
    task = ray.remote(num_cpus=plan.threads, num_gpus=gpus, max_retries=-1)(run_job)
    waiting, outcomes = [task.remote(job, plan) for job in jobs], []
    try:
        while waiting:
            ended, waiting = ray.wait(waiting)
            for outcome in ray.get(ended):
                if outcome.held:
                    waiting.append(task.remote(outcome.job, plan))
                    continue
                outcomes.append(outcome)
                report(outcome)
    except KeyboardInterrupt:
        for reference in waiting:
            ray.cancel(reference, force=False)
        raise
    return outcomes


def _ray(address: str | None) -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError('launcher ray needs Ray: pip install "uld-torchrl[ray]".') from error
    if not ray.is_initialized():
        _check_reachable(address)
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"there is no Ray cluster at {address!r}: {str(error)[:300]}.") from error
    return ray


def _check_reachable(address: str | None) -> None:
    """Refuse host:port that nobody listens at; Ray itself would try for minutes, and then end the process."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"there is no Ray cluster at {address!r}: {error}.") from error
