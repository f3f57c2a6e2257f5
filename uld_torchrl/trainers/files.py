"""Files replaced as a whole, so that a crash leaves the old or the new; folders for a while; room on disk.

What a run says when a file cannot be written is here too (:class:`NotWritten`); when it says so, is the
trainer's part.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from uld_torchrl.data.room import take_room

if TYPE_CHECKING:
    from uld_torchrl.trainers.trainer import ULDTrainer

STORAGE_ERRORS = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO")
    if hasattr(errno, name)
)
"""Errors of a disk that is full or may not be written, as opposed to mistakes in a program."""
_BLOCK = 4096
# How torch (mapped files) and safetensors tell of the system's error.
_TOLD = re.compile(r"\((?:os error )?(\d+)\)")


class NotWritten(OSError):
    """A run stopped because a file could not be written; the message says which, why and what is kept.

    Args:
        cause: the system's error.
        step: agent steps done.
        kept: the newest whole checkpoint, None if there is none.
        run: the run's directory.

    Example:
        >>> full = OSError(errno.ENOSPC, "No space left on device", "runs/a/metrics.csv")
        >>> print(NotWritten(full, 70, Path("runs/a/checkpoints/step-000000000050"), Path("runs/a")))
        after step 70: runs/a/metrics.csv could not be written (No space left on device). The checkpoint of
        step 50 in runs/a is kept: make room on the disk, or make it writable, and run the same again to go on
        from there.
    """

    def __init__(self, cause: OSError, step: int, kept: Path | None, run: Path) -> None:
        before, after = f"No checkpoint is in {run} yet", "to begin anew"
        if kept is not None:
            saved = int(kept.name.rpartition("-")[2])
            before, after = f"The checkpoint of step {saved} in {run} is kept", "to go on from there"
        super().__init__(
            f"after step {step}: {cause.filename or run} could not be written ({cause.strerror or cause}). "
            f"{before}: make room on the disk, or make it writable, and run the same again {after}."
        )
        self.errno = cause.errno


@contextmanager
def stopped_by_storage(trainer: ULDTrainer) -> Iterator[None]:
    """Tell of a disk that is full or may not be written as :class:`NotWritten`.

    If it was the evaluation or a callback that could not be written, the step is saved first if it can be:
    the run then goes on with these. A lost row of metrics would stay lost, so that step is done again.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in STORAGE_ERRORS or isinstance(error, NotWritten):
            raise
        if not trainer.looked:
            with suppress(OSError):
                trainer.save()
        raise NotWritten(error, trainer.step, trainer.checkpoints.newest(), trainer.run.path) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let errors of writing be OSErrors that name ``path``, also those of mapped files and safetensors.

    Example:
        >>> with writing(Path("big")):
        ...     raise RuntimeError("unable to resize file <big> to the right size: File too large (27)")
        Traceback (most recent call last):
        ...
        OSError: [Errno 27] File too large: 'big'
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except (RuntimeError, SafetensorError) as error:
        told = _TOLD.search(str(error))
        if told is None:
            raise
        raise OSError(int(told[1]), os.strerror(int(told[1])), str(path)) from error


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a place to write a file or folder to, which then takes that of ``path`` as a whole.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with replaced(path) as aside:
        ...     _ = aside.write_text("hello")
        >>> path.read_text(), [found.name for found in path.parent.iterdir()]
        ('hello', ['note.txt'])
    """
    aside = path.with_name(f".{path.name}.new")
    with writing(path):
        try:
            remove(aside)
            yield aside
            for part in (*aside.rglob("*"), aside):
                flush(part)
            _move(aside, path)
        except BaseException:
            remove(aside)
            raise


def _move(source: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.old")
    if not path.is_dir():
        os.replace(source, path)
        remove(old)  # of a process that died between the two renames below
        return
    remove(old)
    os.replace(path, old)  # a folder cannot be renamed over one that holds files
    try:
        os.replace(source, path)
    except BaseException:
        os.replace(old, path)
        raise
    remove(old)


def remove(path: Path) -> None:
    """Delete a file, link or folder, if it is there; of a folder, as much as can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write ``text`` aside and rename it to ``path``.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> replace_text(path, "hello")
        >>> path.read_text()
        'hello'
    """
    with replaced(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="")


def reserve(folder: Path, sizes: Iterable[int]) -> None:
    """Make sure that files of these sizes have room in ``folder``: take it, and give it back.

    It is taken in files of the largest size, which is quicker than with one for each. A file that is mapped
    to memory is written without asking: on a full disk the process would be killed.

    Raises:
        OSError: the disk is full, a limit of files or of the user is reached, or nothing may be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> reserve(folder, [10, 2000])
        >>> list(folder.iterdir())
        []
    """
    whole = [-(-size // _BLOCK) * _BLOCK for size in sizes]
    largest, total = max(whole, default=0), sum(whole)
    with writing(folder), emptied(folder / ".room") as room:
        for begin in range(0, total, max(largest, 1)):
            with (room / str(begin)).open("wb") as file:
                take_room(file.fileno(), min(largest, total - begin), folder)


@contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """Give an empty folder and delete it in the end; what an earlier process left there goes first.

    Example:
        >>> import tempfile
        >>> with emptied(Path(tempfile.mkdtemp()) / "scratch") as folder:
        ...     _ = (folder / "big").write_text("data")
        >>> folder.exists()
        False
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
