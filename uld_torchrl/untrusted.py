"""Files that anybody may have written: opened and parsed so that nothing but bytes and plain values comes in.

No links, pipes or devices, bounded sizes, strict JSON. What the values mean is checked by who asked for
them; arrays are read in ``theory.npz``, checkpoints checked in ``trainers.manifests``. No torch here.
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from uld_torchrl.errors import InputError

JSON_LIMIT = 64 * 2**20
"""Bytes of the largest JSON file: bounds of a million numbers each."""
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_BINARY"))
_DIGITS = 40
_LINKS = ("latest", ".latest")


def open_plain(path: Path) -> BinaryIO:
    """Open a regular file for reading; of a pipe, opening alone would wait for ever.

    Raises:
        InputError: it is missing, a link, a folder, a pipe or a device, or may not be read.

    Example:
        >>> open_plain(Path("/dev/zero"))
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.InputError: /dev/zero cannot be read: it is no regular file. Put an undamaged ...
    """
    try:
        if path.is_symlink():
            raise unreadable(path, "it is a link, which may lead anywhere")
        descriptor = os.open(path, _FLAGS)
    except (OSError, UnicodeError) as error:
        raise unreadable(path, getattr(error, "strerror", None) or "no such name") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise unreadable(path, "it is no regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the contents of a regular file of at most ``limit`` bytes.

    Raises:
        InputError: see :func:`open_plain`; or it is larger.

    Example:
        >>> read_bytes(Path(__file__), 10)
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.InputError: ...untrusted.py cannot be read: it is larger than 10 bytes. Put ...
    """
    try:
        with open_plain(path) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise unreadable(path, brief(error)) from error
    if len(data) > limit:
        raise unreadable(path, f"it is larger than {limit} bytes")
    return data


def read_text(path: Path, limit: int) -> str:
    """Return the text of a regular file of at most ``limit`` bytes, UTF-8.

    Raises:
        InputError: see :func:`read_bytes`; or it is not UTF-8.

    Example:
        >>> read_text(Path(__file__), 10**5).splitlines()[1]
        ''
    """
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise unreadable(path, f"it is not UTF-8 ({error.reason} at byte {error.start})") from error


def read_json(path: Path, *, constants: bool = False) -> Any:
    """Return what a JSON file holds, by the letter of RFC 8259: no NaN, no name twice in an object.

    Args:
        path: the file, of at most ``JSON_LIMIT`` bytes.
        constants: take NaN and Infinity, which Python writes.

    Raises:
        InputError: see :func:`read_text`; or it is no such JSON, is nested too deep, has numbers beyond
            float64 or integers of more than 40 digits.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "config.json"
        >>> _ = path.write_text('{"a": 1, "a": 2}')
        >>> read_json(path)
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.InputError: ... cannot be read: it is no valid JSON ('a' is there twice). Put ...
    """
    text, constant = read_text(path, JSON_LIMIT), float if constants else _refuse
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_number, parse_constant=constant
        )
    except RecursionError as error:
        raise unreadable(path, "it is no valid JSON (nested too deep)") from error
    except ValueError as error:
        raise unreadable(path, f"it is no valid JSON ({brief(error)})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} is there twice")
        found[name] = value
    return found


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is beyond float64")
    return value


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def unreadable(path: Path, reason: str) -> InputError:
    """Return what to say of a file that cannot be used as it is.

    Example:
        >>> print(unreadable(Path("config.json"), "it is empty"))
        config.json cannot be read: it is empty. Put an undamaged copy there.
    """
    return InputError(f"{path} cannot be read: {reason}. Put an undamaged copy there.")


def brief(value: Any, limit: int = 200) -> str:
    """Return the first line of a text or an error, at most ``limit`` characters, all of them printable.

    Names and values of a file that somebody else wrote may be long, or hold what a terminal obeys.

    Example:
        >>> brief("a" + chr(27) + "b"), brief("first" + chr(10) + "second"), brief("long", 3)
        ('a?b', 'first', 'lon...')
    """
    line = next(iter(str(value)[: 10 * limit].splitlines()), "")
    plain = "".join(letter if letter.isprintable() else "?" for letter in line)
    return plain if len(plain) <= limit else f"{plain[:limit]}..."


def check_links(run: Path) -> None:
    """Refuse a run or model folder in which a name that may be written to leads elsewhere.

    Reports, videos, checkpoints and tables are written, moved and deleted by name, so that a link in a copied
    run would reach files outside of it. ``checkpoints/latest`` is ours, and is never followed.

    Raises:
        InputError: there is a link in it, or in a folder in it.

    Example:
        >>> check_links(Path("no/such/run"))
    """
    # W&B keeps links of its own in its folder.
    for folder in (run, *(part for part in _entries(run) if part.is_dir() and part.name != "wandb")):
        for path in _entries(folder):
            if path.is_symlink() and not (folder == run / "checkpoints" and path.name in _LINKS):
                raise InputError(
                    f"{path} is a link, through which files outside of {run} would be read or changed: put "
                    "what it names in its place, or delete it."
                )


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
