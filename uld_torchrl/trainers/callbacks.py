"""What a run calls every so many agent steps: the base class, and calls that leave the run as it was.

What is called is made elsewhere (``uld_torchrl.diagnostics``, or by the user); when, is the trainer's part.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchrl.checkpoint import GlobalRNGState

from uld_torchrl.errors import InputError

if TYPE_CHECKING:
    from uld_torchrl.trainers.trainer import ULDTrainer

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Callback(ABC):
    """Called with the trainer every ``every`` agent steps, and at the end of the run.

    With several environments, after the vector step that reaches or passes a multiple of ``every``. The run
    goes on as if there had been no call: random states are put back, so draws from the replay buffer cost
    nothing; what else a call changes in the trainer stays changed. A resumed run calls for the steps after
    its checkpoint again.

    Args:
        every: agent steps, at least 1.

    Raises:
        InputError: ``every`` is no such number.

    Example:
        >>> import tempfile
        >>> from uld_torchrl import train
        >>> class Tell(Callback):
        ...     def __call__(self, trainer):
        ...         print(trainer.step, len(trainer.buffer))
        >>> options = {"run_dir": tempfile.mkdtemp(), "progress": False}
        >>> _ = train("debug", "CartPole-v1", callbacks=[Tell(120)], **options)
        120 120
        240 240
        300 300
    """

    every: int

    def __post_init__(self) -> None:
        if not isinstance(self.every, int) or self.every < 1:
            kind = type(self).__name__  # a run may have several, each with its own
            raise InputError(f"{kind}: every must be an integer of at least 1, got {self.every!r}.")

    def begin(self, trainer: ULDTrainer) -> None:  # noqa: B027 - most callbacks need none
        """Get ready before the first step of a session, which goes on from ``trainer.step``.

        Raises:
            InputError: the run cannot be served; it then does not begin.
        """

    @abstractmethod
    def __call__(self, trainer: ULDTrainer) -> None:
        """Look at the run, which stands at ``trainer.step``.

        Raises:
            Exception: anything; the run is saved and ends with it.
        """


def checked_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    """Return the callbacks of a run.

    Raises:
        InputError: they are not a sequence of :class:`Callback`.

    Example:
        >>> checked_callbacks([print])
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.InputError: callbacks must be a sequence of uld_torchrl.trainers.Callback, got ...
    """
    given = tuple(callbacks) if isinstance(callbacks, Iterable) else (callbacks,)
    wrong = [one for one in given if not isinstance(one, Callback)]
    if wrong or not isinstance(callbacks, Iterable):
        raise InputError(
            f"callbacks must be a sequence of uld_torchrl.trainers.Callback, got {(wrong or given)[0]!r}. "
            "Give a list of them, such as [AuditEvery(1000)]; of one of your own, derive from Callback."
        )
    return given


def call_between_steps(callback: Callback, trainer: ULDTrainer) -> None:
    """Call and put back random states; what the call raises goes on as it is, after the run has been saved.

    Between two steps the state of a run is whole. That it was saved goes to the log.
    """
    try:
        with same_random_state():
            callback(trainer)
    except Exception as error:
        _save_despite(error, callback, trainer)
        raise


def _save_despite(error: Exception, callback: Callback, trainer: ULDTrainer) -> None:
    raised = f"callback {type(callback).__name__} raised {type(error).__name__}"
    try:
        trainer.save()
    except Exception as other:  # such as a full disk; it must not hide the first one
        _LOG.error("%s, and saving failed too (%s: %s)", raised, type(other).__name__, other)
    else:
        _LOG.error(
            "%s; step %d is saved in %s: the same again goes on from there",
            raised,
            trainer.step,
            trainer.run.path,
        )


@contextmanager
def same_random_state() -> Iterator[None]:
    """Put back all global random states in the end: Python's, NumPy's and those of torch, on every device.

    Example:
        >>> import torch
        >>> with same_random_state():
        ...     first = torch.rand(3)
        >>> bool((torch.rand(3) == first).all())
        True
    """
    state = GlobalRNGState()
    before = state.state_dict()
    try:
        yield
    finally:
        state.load_state_dict(before)
