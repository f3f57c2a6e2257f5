"""Room on the disk, taken before it is needed: for files that are mapped to memory.

Such a file is written without asking, and on a disk that has become full the process is killed (SIGBUS).
What a replay buffer will take is worked out in ``memory``.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path


def allocate(folder: Path) -> None:
    """Give the mapped files below ``folder`` their room on the disk now, not when a page is first written.

    Raises:
        OSError: there is too little.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "rewards.memmap").write_bytes(bytes(10))
        >>> allocate(folder)
    """
    for path in folder.rglob("*.memmap"):
        with path.open("r+b") as file:
            try:
                take_room(file.fileno(), path.stat().st_size, folder)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error


def take_room(descriptor: int, size: int, folder: Path) -> None:
    """Give an open file in ``folder`` its room on the disk, where the system can; else look whether there is.

    Raises:
        OSError: the disk is full, a limit of files or of the user is reached.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryFile() as file:
        ...     take_room(file.fileno(), 1000, Path(tempfile.gettempdir()))
        ...     os.fstat(file.fileno()).st_size
        1000
    """
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows
        if size > shutil.disk_usage(folder).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif size:
        os.posix_fallocate(descriptor, 0, size)
