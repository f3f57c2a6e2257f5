"""Stopping a run from outside: the first Ctrl-C or SIGTERM asks, the second ends the process; a time limit.

The trainer asks between two steps, and within an evaluation, saves, and raises :class:`Interrupted` or
:class:`OutOfTime`. Saving itself is not here.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

_LOG = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal after its state had been saved.

    Args:
        signum: the signal.
        step: agent steps saved.
        path: the run's directory.

    Example:
        >>> str(Interrupted(signal.SIGINT, 120, Path("runs/mine")))
        'interrupted at step 120, saved in runs/mine: the same again goes on'
    """

    def __init__(self, signum: int, step: int, path: Path) -> None:
        super().__init__(f"interrupted at step {step}, saved in {path}: the same again goes on")
        self.signum, self.step, self.path = signum, step, path


class StoppedAtOnce(KeyboardInterrupt):
    """A second signal ended a run without saving; checkpoints from before are kept.

    Args:
        signum: the second signal.

    Example:
        >>> StoppedAtOnce(signal.SIGTERM).signum == 15
        True
    """

    def __init__(self, signum: int) -> None:
        super().__init__("stopped at once, without saving; the last checkpoint is kept")
        self.signum = signum


class OutOfTime(Exception):
    """A run reached its time limit and stopped after its state had been saved; it is not finished.

    Args:
        limit: seconds.
        step: agent steps saved.
        path: the run's directory.

    Example:
        >>> str(OutOfTime(60.0, 120, Path("runs/mine")))
        'the time limit of 60 s was reached at step 120, saved in runs/mine: the same again goes on'
    """

    def __init__(self, limit: float, step: int, path: Path) -> None:
        super().__init__(
            f"the time limit of {limit:g} s was reached at step {step}, saved in {path}: the same again goes "
            "on"
        )
        self.limit, self.step, self.path = limit, step, path


class Cut(Exception):
    """What was being done was cut short because the run is to stop; nothing of it counts."""


class StopRequest:
    """Notes SIGINT and SIGTERM while entered; a second signal is :class:`StoppedAtOnce`, wherever it comes.

    Outside the main thread, where Python allows no signal handlers, no signal is noted.

    Args:
        time_limit: seconds from now after which the run is to stop as well; None: no limit.

    Example:
        >>> with StopRequest() as stop:
        ...     signal.raise_signal(signal.SIGINT)
        ...     stop.signum == signal.SIGINT
        True
        >>> stop.wanted, StopRequest(time_limit=3600.0).wanted
        (True, False)
    """

    def __init__(self, time_limit: float | None = None) -> None:
        self.signum: int | None = None
        self.time_limit = time_limit
        self._begin = time.monotonic()
        self._previous: dict[int, Any] = {}

    @property
    def wanted(self) -> bool:
        """Whether the run is to stop: a signal came, or the time is over."""
        over = self.time_limit is not None and time.monotonic() - self._begin >= self.time_limit
        return over or self.signum is not None

    def cut(self, *_: Any) -> None:
        """Cut short what is being done if the run is to stop.

        Raises:
            Cut: it is.
        """
        if self.wanted:
            raise Cut

    def reason(self, step: int, path: Path) -> Interrupted | OutOfTime:
        """Return what to raise once ``step`` is saved in ``path``."""
        if self.signum is not None:
            return Interrupted(self.signum, step, path)
        return OutOfTime(self.time_limit or 0.0, step, path)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            # None: installed from C, and not to be restored from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise StoppedAtOnce(number)
        self.signum = number
        _LOG.warning("stopping after this update; once more stops at once, without saving")
