"""Checkpoints of a run, ``checkpoints/step-<steps>/`` and the link ``latest``: no pickle, whole or not there.

A checkpoint is written aside, with the checksums of its files, flushed to the disk, and only then renamed;
older ones go after that (TorchRL's own rotation renames before there could be checksums). Reading takes the
newest whole one. The format of the parts is that of ``torchrl.checkpoint``; what is saved is decided by the
trainer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torchrl.checkpoint import Checkpoint, StateDictCheckpointAdapter

from uld_torchrl.errors import InputError

_CHECKSUMS = "checksums.json"
_PREFIX = "step-"
_LOG = logging.getLogger(__name__)


class RunCheckpoints:
    """Save and restore the components of a run, keeping the newest few.

    Args:
        folder: where checkpoints go.
        components: objects with ``state_dict`` and ``load_state_dict``, by name.
        keep: how many are kept.
    """

    def __init__(self, folder: Path, components: Mapping[str, Any], keep: int = 2) -> None:
        self.folder, self.keep = folder, keep
        self._checkpoint = Checkpoint()
        for name, component in components.items():
            self._checkpoint.register(name, component, adapter=StateDictCheckpointAdapter())

    def save(self, step: int) -> None:
        """Write a checkpoint of ``step`` and drop the oldest beyond ``keep``.

        Raises:
            OSError: the disk is full, or the folder read-only; older checkpoints stay.
        """
        path, aside = self.folder / f"{_PREFIX}{step:012d}", self.folder / ".writing"
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in (aside, self.folder / ".old"):
            shutil.rmtree(stale, ignore_errors=True)
        try:
            self._checkpoint.save(aside)
            _seal(aside)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        if path.exists():  # a damaged one, of the step that this run has now reached again
            os.replace(path, self.folder / ".old")
        os.replace(aside, path)
        _flush(self.folder)
        self._link(path)
        for old in (*self._saved()[: -self.keep], self.folder / ".old"):
            shutil.rmtree(old, ignore_errors=True)

    def _link(self, path: Path) -> None:
        aside = self.folder / ".latest"
        aside.unlink(missing_ok=True)
        aside.symlink_to(path.name)
        os.replace(aside, self.folder / "latest")

    def restore(self) -> Path | None:
        """Load the newest whole checkpoint into the components; None if there is no checkpoint.

        A damaged one is passed over with a warning, as long as an older one is whole.

        Raises:
            InputError: none is whole, or it is of another program version; the message says what to do.
        """
        paths, problems = self._saved(), []
        for path in reversed(paths):
            problem = _damage(path)
            if problem is None:
                self._load(path)
                return path
            problems.append(f"{path.name}: {problem}")
            _LOG.warning("checkpoint %s is damaged (%s); it is passed over", path, problem)
        if not problems:
            return None
        raise InputError(
            f"no checkpoint in {self.folder} is whole ({'; '.join(problems)}): delete that folder to train "
            "anew from the start, or use --fresh for a new run."
        )

    def _load(self, path: Path) -> None:
        try:
            self._checkpoint.load(path)
        except Exception as error:  # whatever does not fit, told to the user in one line
            reason = (str(error).splitlines() or [""])[0][:200]
            raise InputError(
                f"checkpoint {path} is whole but cannot be read by this version ({type(error).__name__}: "
                f"{reason}): use --fresh for a new run."
            ) from error

    def _saved(self) -> list[Path]:
        """Return all checkpoints, damaged ones too, oldest first."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if path.name.startswith(_PREFIX)]
        return sorted(found, key=lambda path: path.name)


def _seal(path: Path) -> None:
    """Write the checksums of a checkpoint's files, and flush everything to the disk."""
    checksums = {name: _digest(path / name) for name in _files(path)}
    (path / _CHECKSUMS).write_text(json.dumps(checksums, indent=1), encoding="utf-8")
    for folder, _, names in os.walk(path):
        for name in names:
            _flush(Path(folder, name))
        _flush(Path(folder))


def _files(path: Path) -> Iterator[str]:
    for file in sorted(path.rglob("*")):
        if file.is_symlink() or (file.is_file() and file.name != _CHECKSUMS):
            yield file.relative_to(path).as_posix()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        expected = json.loads((path / _CHECKSUMS).read_text(encoding="utf-8"))
        found = {name: _digest(path / name) for name in _files(path)}
        if not isinstance(expected, dict):
            return f"{_CHECKSUMS} holds no table"
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    changed = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    return f"{changed[0]} is missing or changed" if changed else None
