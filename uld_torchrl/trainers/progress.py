"""Progress of a run: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm

_LINE_EVERY_S = 30.0
# Updates come in bursts, and the warm-up is quick: the rate is that of the last lines only.
_LINES_IN_RATE = 5


class Progress:
    """Show step, steps/s, time left and a few figures on a stream.

    Args:
        total: agent steps of the run. initial: steps already done. enabled: False shows nothing.
        stream: default standard error.

    Example:
        >>> progress = Progress(10, enabled=False)
        >>> progress.update(1, {"return": 3.0})
    """

    def __init__(
        self, total: int, initial: int = 0, *, enabled: bool = True, stream: TextIO | None = None
    ) -> None:
        self.stream = stream or sys.stderr
        self.total, self.step, self.enabled = total, initial, enabled
        self.marks = deque([(time.monotonic(), initial)], maxlen=_LINES_IN_RATE)
        self.figures: dict[str, float] = {}
        on_terminal = enabled and self.stream.isatty()
        self.bar = (
            tqdm(
                total=total,
                initial=initial,
                file=self.stream,
                unit="step",
                dynamic_ncols=True,
                smoothing=0.01,
            )
            if on_terminal
            else None
        )

    def update(self, steps: int, figures: Mapping[str, float] | None = None) -> None:
        """Count ``steps`` more, and show ``figures`` from now on."""
        self.step += steps
        self.figures.update(figures or {})
        if self.bar is not None:
            if figures:
                self.bar.set_postfix({name: f"{value:.4g}" for name, value in self.figures.items()})
            self.bar.update(steps)
        elif self.enabled and time.monotonic() - self.marks[-1][0] >= _LINE_EVERY_S:
            self._line()

    def note(self, text: str) -> None:
        """Show a line of its own, above the bar."""
        if self.bar is not None:
            self.bar.write(text, file=self.stream)
        elif self.enabled:
            self.stream.write(f"{text}\n")
            self.stream.flush()

    def _line(self) -> None:
        (since, start), now = self.marks[0], time.monotonic()
        rate = (self.step - start) / max(now - since, 1e-9)
        self.marks.append((now, self.step))
        left = (self.total - self.step) / rate if rate else float("nan")
        figures = "".join(f"  {name} {value:.4g}" for name, value in self.figures.items())
        self.stream.write(
            f"step {self.step}/{self.total}  {rate:.1f} steps/s  {left / 60:.1f} min left{figures}\n"
        )
        self.stream.flush()

    def close(self) -> None:
        """End the bar, or write the last line."""
        if self.bar is not None:
            self.bar.close()
        elif self.enabled:
            self._line()


@contextmanager
def quiet_torchrl() -> Iterator[None]:
    """Silence what TorchRL tells on standard output about its storages; warnings remain.

    Example:
        >>> with quiet_torchrl():
        ...     logging.getLogger("torchrl").isEnabledFor(logging.INFO)
        False
    """
    logger = logging.getLogger("torchrl")
    before = logger.level
    logger.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(before)
