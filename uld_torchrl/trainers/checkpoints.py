"""Checkpoints of a run through ``torchrl.checkpoint``: no pickle, written aside, renamed, rotated.

``checkpoints/step-<steps>/`` and the link ``latest``. What is saved is decided by the trainer; the
environment's own state is not (a later version).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchrl.checkpoint import Checkpoint, CheckpointRotation, StateDictCheckpointAdapter

from uld_torchrl.errors import InputError

_CHECKSUMS = "checksums.json"
_LOG = logging.getLogger(__name__)


class RunCheckpoints:
    """Save and restore the components of a run, keeping the newest few.

    Args:
        folder: where checkpoints go.
        components: objects with ``state_dict`` and ``load_state_dict``, by name.
        keep: how many are kept.
    """

    def __init__(self, folder: Path, components: Mapping[str, Any], keep: int = 2) -> None:
        self.folder = folder
        self._checkpoint = Checkpoint()
        for name, component in components.items():
            self._checkpoint.register(name, component, adapter=StateDictCheckpointAdapter())
        self._rotation = CheckpointRotation(folder, keep_last=keep, prefix="step")

    def save(self, step: int) -> Path:
        """Write a checkpoint of ``step`` and drop the oldest beyond ``keep``."""
        path = self._rotation.save(self._checkpoint, step=step)
        (path / _CHECKSUMS).write_text(json.dumps(_checksums(path), indent=1), encoding="utf-8")
        link = self.folder / "latest"
        aside = self.folder / ".latest"
        aside.unlink(missing_ok=True)
        aside.symlink_to(path.name)
        os.replace(aside, link)
        return path

    def restore(self) -> Path | None:
        """Load the newest checkpoint into the components; None if there is none.

        Raises:
            InputError: it is damaged, or of another program version; the message says what to do.
        """
        paths = self._saved()
        while len(paths) > 1 and _unfinished(paths[-1]):
            unfinished = paths.pop()
            _LOG.warning("checkpoint %s was not finished; going on from %s", unfinished, paths[-1].name)
        if not paths:
            return None
        try:
            _verify(paths[-1])
            self._checkpoint.load(paths[-1])
        except Exception as error:  # anything a damaged file may raise, told to the user in one line
            raise InputError(_damaged(paths, error)) from error
        return paths[-1]

    def _saved(self) -> list[Path]:
        """Return all checkpoints, damaged ones too (which the rotation passes over), oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if path.name.startswith("step-"))


def _unfinished(path: Path) -> bool:
    """Tell whether saving ended between renaming the folder and writing its checksums."""
    return (path / "manifest.json").exists() and not (path / _CHECKSUMS).exists()


def _checksums(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != _CHECKSUMS)
    return {file.relative_to(path).as_posix(): _digest(file) for file in files}


def _digest(file: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _verify(path: Path) -> None:
    """Compare every file with its checksum: a cut file would end the process when it is mapped."""
    expected = json.loads((path / _CHECKSUMS).read_text(encoding="utf-8"))
    found = _checksums(path)
    changed = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if changed:
        raise ValueError(f"{changed[0]} is missing or changed")


def _damaged(paths: list[Path], error: Exception) -> str:
    older = f"go on from {paths[-2].name}" if len(paths) > 1 else "train anew from the start"
    reason = (str(error).splitlines() or [""])[0][:200]
    return (
        f"checkpoint {paths[-1]} is damaged ({type(error).__name__}: {reason}): "
        f"delete that folder to {older}, or use --fresh for a new run."
    )
