"""Checkpoints of a run, ``checkpoints/step-<steps>/`` and the link ``latest``: no pickle, whole or not there.

A checkpoint is written aside, with the checksums of its files, flushed to the disk, and only then renamed;
older ones go after that (TorchRL's own rotation renames before there could be checksums). Whatever begins
with a dot is unfinished. Reading takes the newest whole one. The format of the parts is that of
``torchrl.checkpoint``; what is saved is decided by the trainer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torchrl.checkpoint import Checkpoint, StateDictCheckpointAdapter

from uld_torchrl.errors import InputError
from uld_torchrl.trainers.files import STORAGE_ERRORS, flush, remove, reserve, writing
from uld_torchrl.trainers.manifests import check_checkpoint
from uld_torchrl.untrusted import brief, read_json

_CHECKSUMS = "checksums.json"
_PREFIX = "step-"
_DESCRIPTION = 4096  # bytes, generously: of what is written about eight tensors
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was written: its step, its size, and how long that took.

    Example:
        >>> str(Saved(5000, 41_200_000, 0.18))
        'checkpoint at step 5000: 41.2 MB in 0.18 s'
    """

    step: int
    size: int
    seconds: float

    def __str__(self) -> str:
        return f"checkpoint at step {self.step}: {self.size / 1e6:.1f} MB in {self.seconds:.2f} s"


class _StateDictAdapter(StateDictCheckpointAdapter):
    """TorchRL's, that first makes sure of the room on the disk of ``folder``: it writes to mapped files."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def save(self, component: Any, path: Path, *, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        state = component.state_dict(*args, **kwargs)
        sizes = list(_sizes(state))
        reserve(self._folder, [*sizes, *[_DESCRIPTION] * (len(sizes) // 8 + 2)])
        return super().save(_Taken(state), path, args=(), kwargs={})


@dataclass(frozen=True)
class _Taken:
    state: Any

    def state_dict(self) -> Any:
        return self.state


def _sizes(state: Any) -> Iterator[int]:
    """Give the bytes of all tensors in a state."""
    if isinstance(state, Tensor):
        yield state.nbytes
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _sizes(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from _sizes(value)


class RunCheckpoints:
    """Save and restore the components of a run, keeping the newest few.

    Args:
        folder: where checkpoints go.
        components: objects with ``state_dict`` and ``load_state_dict``, by name.
        keep: how many are kept.
    """

    def __init__(self, folder: Path, components: Mapping[str, Any], keep: int = 2) -> None:
        self.folder, self.keep = folder, keep
        self._damaged: set[Path] = set()
        self._checkpoint = Checkpoint()
        for name, component in components.items():
            self._checkpoint.register(name, component, adapter=_StateDictAdapter(folder))

    def save(self, step: int) -> Saved:
        """Write a checkpoint of ``step``, and drop damaged ones and the oldest beyond ``keep``.

        Raises:
            OSError: the disk is full, or the folder read-only; older checkpoints stay.
        """
        begin, path = time.perf_counter(), self.folder / f"{_PREFIX}{step:012d}"
        with writing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear()
            size = self._write(path)
            self._link(path)
        self._rotate(path)
        return Saved(step, size, time.perf_counter() - begin)

    def _write(self, path: Path) -> int:
        """Write aside and rename; return the bytes."""
        aside = self.folder / ".writing"  # TorchRL puts its own unfinished folder beside the one it is given
        try:
            self._checkpoint.save(aside / path.name)
            size = _seal(aside / path.name)
            if path.exists():  # of this very step: a damaged one, or from before it was evaluated
                os.replace(path, self._hidden(path))
            os.replace(aside / path.name, path)
            flush(self.folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return size

    def _link(self, path: Path) -> None:
        aside = self.folder / ".latest"
        aside.symlink_to(path.name)
        os.replace(aside, self.folder / "latest")

    def _rotate(self, written: Path) -> None:
        # Of a later step, a run that did this one again has passed over them.
        useless = {path for path in self._saved() if path in self._damaged or path.name > written.name}
        useless.discard(written)
        good = [path for path in self._saved() if path not in useless]
        for path in (*useless, *good[: -self.keep]):
            shutil.rmtree(path, ignore_errors=True)
        self._damaged.clear()
        self._clear()

    def _clear(self) -> None:
        """Delete what a killed process left unfinished, but for a checkpoint whose place is still empty."""
        for path in self._saved(hidden=True):
            if not (self.folder / path.name[1:]).exists():
                os.replace(path, self.folder / path.name[1:])
        for path in self.folder.glob(".*"):
            remove(path)

    def _hidden(self, path: Path) -> Path:
        return self.folder / f".{path.name}"

    def newest(self) -> Path | None:
        """Return the newest whole checkpoint."""
        return next((path for path in reversed(self._saved()) if _damage(path) is None), None)

    def restore(self) -> Path | None:
        """Load the newest whole checkpoint into the components; None if there is no checkpoint.

        A damaged one is passed over with a warning, as long as an older one is whole.

        Raises:
            InputError: none is whole, or it is of another program version; the message says what to do.
        """
        self._clear()
        paths, problems = self._saved(), []
        for path in reversed(paths):
            problem = _damage(path)
            if problem is None:
                self._load(path)
                return path
            self._damaged.add(path)
            problems.append(f"{path.name}: {problem}")
            _LOG.warning("checkpoint %s is damaged (%s); it is passed over", path, problem)
        if not problems:
            return None
        raise InputError(
            f"no checkpoint in {self.folder} is whole ({'; '.join(problems)}): delete that folder to train "
            "anew from the start, or use --fresh for a new run."
        )

    def _load(self, path: Path) -> None:
        check_checkpoint(path)
        try:
            self._checkpoint.load(path)
        except Exception as error:  # whatever does not fit, told to the user in one line
            cause = error if isinstance(error, OSError) else error.__cause__
            if isinstance(cause, OSError) and cause.errno in STORAGE_ERRORS:
                raise cause from error  # no room for a mapped replay buffer: the checkpoint is good
            reason = (str(error).splitlines() or [""])[0][:200]
            raise InputError(
                f"checkpoint {path} is whole but cannot be read by this version ({type(error).__name__}: "
                f"{reason}): use --fresh for a new run."
            ) from error

    def _saved(self, *, hidden: bool = False) -> list[Path]:
        """Return all checkpoints, damaged ones too, oldest first; or those that were to be replaced."""
        return sorted(self.folder.glob(f".{_PREFIX}*" if hidden else f"{_PREFIX}*"))


def _seal(path: Path) -> int:
    """Write the checksums of a checkpoint's files, and flush everything to the disk; return the bytes."""
    checksums = {name: _digest(path / name) for name in _files(path)}
    (path / _CHECKSUMS).write_text(json.dumps(checksums, indent=1), encoding="utf-8")
    size = 0
    for folder, _, names in os.walk(path):
        for file in (Path(folder, name) for name in names):
            flush(file)
            size += file.stat().st_size
        flush(Path(folder))
    return size


def _files(path: Path) -> Iterator[str]:
    for file in sorted(path.rglob("*")):
        if file.is_symlink() or (file.is_file() and file.name != _CHECKSUMS):
            yield file.relative_to(path).as_posix()


def _digest(file: Path) -> str:
    if file.is_symlink():
        return "a link"
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _damage(path: Path) -> str | None:
    """Compare every file with its checksum (a cut file would end the process when it is mapped)."""
    try:
        expected = read_json(path / _CHECKSUMS)
        found = {name: _digest(path / name) for name in _files(path)}
        if not isinstance(expected, dict):
            return f"{_CHECKSUMS} holds no table"
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    changed = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    return f"{brief(changed[0])} is missing or changed" if changed else None
