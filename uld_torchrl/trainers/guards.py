"""Guards: what a run does when something goes wrong, and how long it may go on.

None of it changes a run in which nothing goes wrong, so it is no part of the settings that a run directory
belongs to: a resumed run may have others.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

from uld_torchrl.errors import InputError, check_positive, one_of

OnNonFinite = Literal["stop", "skip"]


@dataclass(frozen=True)
class Guards:
    """What a run does when something goes wrong.

    Raises:
        InputError: a value out of its range.

    Example:
        >>> Guards(on_nonfinite="skip", time_limit=3600.0).env_restarts
        3
    """

    on_nonfinite: OnNonFinite = "stop"
    """After a loss or gradient that is not finite: 'stop', or 'skip' that update."""
    env_restarts: int = 3
    """How often a session begins environments that raise, misbehave or die anew before the run stops."""
    time_limit: float | None = None
    """Seconds of this session after which the run saves and stops; None: no limit."""

    def __post_init__(self) -> None:
        one_of("on_nonfinite", self.on_nonfinite, ("stop", "skip"))
        restarts, limit = self.env_restarts, self.time_limit
        if isinstance(restarts, bool) or not isinstance(restarts, Integral) or restarts < 0:
            raise InputError(f"env_restarts must be an integer of at least 0, got {restarts!r}.")
        if limit is None:
            return
        if isinstance(limit, bool) or not isinstance(limit, Real):
            raise InputError(f"time_limit must be a number of seconds or None, got {limit!r}.")
        check_positive(self, "time_limit")


def checked_guards(guards: Guards | None) -> Guards:
    """Return the guards of a run, by default those of ``Guards()``.

    Raises:
        InputError: they are something else.

    Example:
        >>> checked_guards(None).on_nonfinite
        'stop'
    """
    if guards is None:
        return Guards()
    if not isinstance(guards, Guards):
        raise InputError(f"guards must be a uld_torchrl.trainers.Guards or None, got {guards!r}.")
    return guards
