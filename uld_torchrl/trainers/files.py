"""Small files replaced as a whole, so that a crash leaves the old one or the new one; folders for a while."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


def replace_text(path: Path, text: str) -> None:
    """Write ``text`` aside and rename it to ``path``.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> replace_text(path, "hello")
        >>> path.read_text()
        'hello'
    """
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text, encoding="utf-8", newline="")
    os.replace(aside, path)
