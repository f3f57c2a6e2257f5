"""Lists of seeds, such as ``0-9`` and ``0,2,5-7`` at the command line. Nothing here imports torch."""

from __future__ import annotations

import re
from collections.abc import Iterable

from uld_torchrl.errors import InputError, check_seed

MOST = 1000
"""Seeds in a list; a longer one is a slip of the finger."""
_PART = re.compile(r"\s*([0-9]{1,10})\s*(?:-\s*([0-9]{1,10})\s*)?")


def parse_seeds(argument: str, text: str) -> list[int]:
    """Return the seeds of a list such as ``0,2,5-7``, in the order given.

    Args:
        argument: name of the option, for messages.
        text: seeds and ranges of seeds, both ends included, separated by commas.

    Raises:
        InputError: it is no such list, or names a seed twice.

    Example:
        >>> parse_seeds("--seeds", "0,2,5-7")
        [0, 2, 5, 6, 7]
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise InputError(
                f"{argument} must be seeds and ranges such as 0-9 or 0,2,5-7, got {part.strip()!r} in "
                f"{text!r}."
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"{argument}: the range {part.strip()} runs backwards; write {last}-{first}.")
        if len(seeds) + last - first >= MOST:
            raise InputError(f"{argument} must be at most {MOST} seeds, got more in {text!r}.")
        seeds += range(first, last + 1)
    return check_seeds(argument, seeds)


def check_seeds(argument: str, seeds: Iterable[int]) -> list[int]:
    """Return the seeds of several runs as a list.

    Raises:
        InputError: there is none, one is no seed, or one is there twice.

    Example:
        >>> check_seeds("seeds", range(3))
        [0, 1, 2]
    """
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise InputError(f"{argument} must be a list of integers such as [0, 1, 2], got {seeds!r}.")
    checked = [check_seed(seed) for seed in seeds]
    if not checked:
        raise InputError(f"{argument} must hold at least one seed, got none.")
    twice = sorted({seed for seed in checked if checked.count(seed) > 1})
    if twice:
        raise InputError(f"{argument} must name each seed once, got {twice[0]} twice.")
    return checked
