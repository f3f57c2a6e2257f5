"""Lengths of time as people write them: ``90``, ``30m``, ``1h30m``, ``1:30:00``. No torch here."""

from __future__ import annotations

import re

from uld_torchrl.errors import InputError

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_PARTS = re.compile("".join(rf"(?:(?P<{unit}>\d+(?:\.\d+)?){unit})?" for unit in _UNITS))
_CLOCK = re.compile(r"(?P<h>\d+):(?P<m>[0-5]\d):(?P<s>[0-5]\d)")
_PLAIN = re.compile(r"(?P<s>\d+(?:\.\d+)?)")


def parse_duration(argument: str, text: str) -> float:
    """Return the seconds of a length of time.

    Args:
        argument: whose value it is, for the message.
        text: seconds, or numbers with the units d, h, m, s in this order, or hours:minutes:seconds.

    Raises:
        InputError: it is none of these, or zero.

    Example:
        >>> [parse_duration("--time-limit", text) for text in ("90", "1h30m", "0.5h", "1:30:00")]
        [90.0, 5400.0, 1800.0, 5400.0]
    """
    for form in (_PLAIN, _CLOCK, _PARTS):
        found = form.fullmatch(text.strip().lower())
        if found is not None:
            seconds = sum(float(number) * _UNITS[unit] for unit, number in found.groupdict("0").items())
            if 0 < seconds < float("inf"):
                return seconds
    raise InputError(
        f"{argument} must be a length of time greater than zero, such as 8h, 30m, 1h30m, 1:30:00 "
        f"(hours:minutes:seconds) or 90 (seconds); got {text!r}."
    )
