"""``.npz`` files that anybody may have written, read without pickle and without surprises.

What a file declares is checked before memory is taken for it: kinds of numbers, shapes, sizes. What the
arrays mean is not known here.
"""

from __future__ import annotations

import math
import os
import stat
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from theory.errors import InputError

LIMIT = 2**30
"""Bytes that compressed arrays may take in memory; others, as many as the file has on the disk."""
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(path: Path | str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of numbers in an ``.npz`` file, by name.

    Raises:
        InputError: it is missing, no regular file, no such archive, damaged, holds anything but numbers, has
            two arrays of one name, or declares more than it can hold or more than ``LIMIT``.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "export.npz"
        >>> np.savez(path, q=[[1.0, 2.0]])
        >>> read_npz(path)
        {'q': array([[1., 2.]])}
    """
    path = Path(path)
    try:
        # Whatever NumPy warns of is damage here, such as a header of Python 2.
        with _opened(path) as file, warnings.catch_warnings():
            warnings.simplefilter("error")
            return _arrays(file)
    except Exception as error:  # a damaged archive may make Python's own readers raise almost anything
        reason = "".join(letter if letter.isprintable() else " " for letter in str(error)[:200])
        raise InputError(
            f"{path} cannot be read as an export, an .npz file without pickled objects: "
            f"{reason or type(error).__name__}"
        ) from error


def _opened(path: Path) -> BinaryIO:
    """Open a regular file; of a pipe, opening alone would wait for ever."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("it is no regular file.")
    return os.fdopen(descriptor, "rb")


def _arrays(file: BinaryIO) -> dict[str, npt.NDArray[Any]]:
    if file.read(6) == b"\x93NUMPY":
        raise ValueError("it holds a single array; an export is an .npz file with named arrays.")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = [member.filename.removesuffix(".npy") for member in members]
        if len({*names}) < len(names):
            raise ValueError("two arrays have the same name.")
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
            raise ValueError("it is compressed in another way than NumPy does.")
        size, limit = sum(member.file_size for member in members), max(os.fstat(file.fileno()).st_size, LIMIT)
        if size > limit:
            raise ValueError(f"its arrays are said to have {size} bytes; at most {limit} are read.")
        return {name: _array(archive, member) for name, member in zip(names, members, strict=True)}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    with archive.open(member) as stream:
        _check_header(stream, member)
    with archive.open(member) as stream:
        array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        return array


def _check_header(stream: IO[bytes], member: zipfile.ZipInfo) -> None:
    """Compare what an array is said to be with the bytes that are there for it."""
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"{member.filename} has the format {version}.")
    shape, _, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded, as they would be unpickled.")
    if dtype.kind not in "biuf":
        raise ValueError(f"{member.filename} holds {dtype}, which are no numbers.")
    if min(shape, default=0) < 0 or stream.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
        raise ValueError(f"{member.filename} has not as many bytes as an array of shape {shape} and {dtype}.")
