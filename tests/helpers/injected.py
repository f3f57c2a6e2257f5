"""Faults at the k-th call by which anything is written, for tests of what is left on the disk then."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

CALLS = [(os, name) for name in ("replace", "rename", "fsync", "mkdir", "symlink", "unlink", "rmdir")]
CALLS += [(torch, "from_file"), *([(os, "posix_fallocate")] if hasattr(os, "posix_fallocate") else [])]
"""Functions that change files, beside opening one to write."""


def no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def at_call(
    number: int | None, fault: Callable[[], None] = no_space, below: Path | None = None
) -> Iterator[list[str]]:
    """Let the call of this number (from 1; None: no call) end in ``fault``, before it has done anything.

    Gives the list of all calls, by name. With ``below``, files opened elsewhere do not count.
    """
    calls: list[str] = []

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == number:
                fault()
            return call(*arguments, **options)

        return counting

    def opening(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if set(mode) & set("wax+") and (below is None or Path(str(file)).is_relative_to(below)):
            calls.append("open")
            if len(calls) == number:
                fault()
        return opened(file, mode, *arguments, **options)

    opened = io.open
    with mock.patch.object(io, "open", opening), mock.patch.object(builtins, "open", opening):
        patches = [mock.patch.object(home, name, counted(name, getattr(home, name))) for home, name in CALLS]
        for patch in patches:
            patch.start()
        try:
            yield calls
        finally:
            for patch in patches:
                patch.stop()
