"""Stopping a run from outside: the first Ctrl-C or SIGTERM asks, the second ends the process.

The trainer looks at the request between two steps, saves, and raises :class:`Interrupted`. Saving itself
is not here.
"""

from __future__ import annotations

import logging
import signal
import threading
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


class StopRequest:
    """Notes SIGINT and SIGTERM while entered; a second signal is a ``KeyboardInterrupt`` at once.

    Outside the main thread, where Python allows no signal handlers, nothing is noted.

    Example:
        >>> with StopRequest() as stop:
        ...     signal.raise_signal(signal.SIGINT)
        ...     stop.signum == signal.SIGINT
        True
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

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
            raise KeyboardInterrupt
        self.signum = number
        _LOG.warning("stopping after this step; once more stops at once, without saving")
