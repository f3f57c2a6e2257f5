"""Launchers: who starts the jobs of a study, on this machine or on a Ray cluster, and what becomes of each.

Every job is a process of its own, ``uld train``, whose output goes to a log file. A job that stops before it
is done is started again, and goes on from its checkpoint. A run that another process holds is left to it and
looked at again later, so that several launchers may share the work of one study.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue

from uld_torchrl.errors import InputError, check_positive
from uld_torchrl.experiments.jobs import Job
from uld_torchrl.ray_cluster import connect

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_STOPPED = 143  # exit code of a run that was told to stop: it has saved itself
_BAD_INPUT = 2  # exit code of a command that is refused: it is the next time, too
_SAVING = 600.0  # seconds that runs on a cluster have to save themselves
_GPU_NODES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, WSL
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
    devices: tuple[str, ...] = ()
    """Devices of this machine that jobs of the device ``auto`` share out; none: each job looks itself."""

    def __post_init__(self) -> None:
        check_positive(self, "workers", "threads", "poll")
        if self.retries < 0:
            raise InputError(f"retries must not be negative, got {self.retries}.")

    def log(self, job: Job) -> Path:
        """Return the file of a job's output."""
        return self.run_dir / "logs" / f"{job.name.replace('/', '_')}.log"

    def placed(self, job: Job, slot: int) -> Job:
        """Return a job on the device of the ``slot``-th of the runs at the same time.

        Example:
            >>> plan = Plan(Path("runs"), workers=3, devices=("cuda:0", "cuda:1"))
            >>> [plan.placed(Job("CartPole-v1", "small", 0), slot).device for slot in range(3)]
            ['cuda:0', 'cuda:1', 'cuda:0']
        """
        if job.device != "auto" or not self.devices:
            return job
        return replace(job, device=self.devices[slot % len(self.devices)])


def local_plan(run_dir: Path, workers: int | None, threads: int, retries: int, device: str = "auto") -> Plan:
    """Return how jobs are run on this machine: by default as many at once as it has GPUs, or cores for.

    Args:
        run_dir: root of all runs.
        workers: runs at the same time; None: one for each GPU that ``device`` allows, without one as many as
            have ``threads`` cores each.
        threads: of each run.
        retries: how often a job that failed is started again.
        device: of all jobs.

    Raises:
        InputError: a number that is not positive.

    Example:
        >>> local_plan(Path("runs"), 3, threads=1, retries=2, device="cpu").workers
        3
    """
    plan = Plan(run_dir, 1 if workers is None else workers, threads, retries)
    devices = tuple(f"cuda:{k}" for k in range(_gpus())) if device == "auto" else ()
    if workers is None:
        on_gpus = len(devices) or int(device not in ("auto", "cpu"))
        workers = on_gpus or max(_cores() // threads, 1)
    return replace(plan, workers=workers, devices=devices)


def _cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> int:
    """Return the devices that torch sees, asked in a process of its own: importing it takes seconds."""
    if sys.platform == "linux" and not any(os.path.exists(node) for node in _GPU_NODES):
        return 0
    asked = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    return int(found.stdout) if found.returncode == 0 else 0


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
                return _ended(child)
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


def _ended(child: subprocess.Popen[bytes]) -> int:
    """Return the exit code; Ray interrupts Python, but no system call, so that none may last."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=60)


def run_job(job: Job, plan: Plan, children: Children | None = None, slot: int = 0) -> Outcome:
    """Run one job until it is done, refused, fails too often, is stopped, or another process holds it."""
    children, log, code, failures = children or Children(), plan.log(job), 0, 0
    command = plan.placed(job, slot).command(plan.run_dir)
    while job.state(plan.run_dir) != "done" and not children.stopping.is_set() and failures <= plan.retries:
        begin = log.stat().st_size if log.exists() else 0
        code = children.run(command, log, plan.threads)
        if code and HELD in _tail(log, begin):
            children.stopping.wait(plan.poll)
            return Outcome(job, False, code, log, held=True)
        if code == _BAD_INPUT:
            break
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
    children, outcomes, slots = Children(), [], SimpleQueue[int]()
    for slot in range(plan.workers):
        slots.put(slot)

    def run(job: Job) -> Outcome:
        slot = slots.get()
        try:
            return run_job(job, plan, children, slot)
        finally:
            slots.put(slot)

    with ThreadPoolExecutor(plan.workers) as pool:
        waiting: set[Future[Outcome]] = {pool.submit(run, job) for job in jobs}
        try:
            while waiting:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for outcome in (future.result() for future in ended):
                    if outcome.held:
                        waiting.add(pool.submit(run, outcome.job))
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
        KeyboardInterrupt: when it was stopped, after all runs have ended.
    """
    ray = connect(address, "launcher ray")
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
    except BaseException:
        for reference in waiting:
            ray.cancel(reference, force=False)
        # Without this the end of this process would end a cluster of its own, and the runs before they saved.
        if waiting:
            ray.wait(waiting, num_returns=len(waiting), timeout=_SAVING)
        raise
    return outcomes
