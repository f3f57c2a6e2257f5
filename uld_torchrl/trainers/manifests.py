"""What a checkpoint may consist of: looked at before TorchRL reads anything of it.

TorchRL and tensordict take more than we write: by the files that lie there and by what ``meta.json`` says
they would load pickles, archives and classes. Here everything is refused that a run does not write itself.
Whether the files are whole is told by their checksums, in ``checkpoints``; what the values mean by the parts
that take them.
"""

from __future__ import annotations

import math
import os
import re
import stat
from pathlib import Path
from typing import Any

import torch

from uld_torchrl.errors import InputError
from uld_torchrl.untrusted import brief, read_json, unreadable

_FILES = re.compile(
    r"(manifest|checksums)\.json|components/[0-9]{4}-\w+/(state\.json|state/(meta\.json|tensor_[0-9]{8}\.memmap))"
)
_PART = re.compile(r"components/[0-9]{4}-\w+")
_TENSOR = re.compile(r"tensor_[0-9]{8}")
_DEVICE = re.compile(r"cpu|(cuda|mps|xpu)(:[0-9]+)?")  # where it was saved from; it is loaded to the CPU
_ADAPTER = "torchrl.state_dict"
_CLASS = "<class 'tensordict._td.TensorDict'>"
_DTYPES = {
    str(dtype): dtype.itemsize
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
_PLAIN = (type(None), bool, int, float, str)
_NUMPY = re.compile(r"[<>|=]?[biuf][1248]")


def check_checkpoint(path: Path) -> None:
    """Refuse a checkpoint folder that holds anything but plain tensors and values in files of our own names.

    Raises:
        InputError: a file of another name, a link, pipe or device, a path that leaves the folder, a class
            other than TensorDict, a tensor whose file has another size, a value of an unknown kind.

    Example:
        >>> import tempfile
        >>> from uld_torchrl.trainers.checkpoints import RunCheckpoints
        >>> folder = Path(tempfile.mkdtemp())
        >>> saved = RunCheckpoints(folder, {"net": torch.nn.Linear(2, 1)}).save(5)
        >>> check_checkpoint(folder / "latest")
        >>> _ = (folder / "latest" / "components" / "0000-net" / "state.pt").write_bytes(b"")
        >>> check_checkpoint(folder / "latest")
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.InputError: ...state.pt is no file of a checkpoint: delete that checkpoint, ...
    """
    sizes = _sizes(path)
    for name, record in _components(path / "manifest.json"):
        where = record.get("path") if isinstance(record, dict) else None
        if not isinstance(where, str) or not _PART.fullmatch(where) or record.get("adapter") != _ADAPTER:
            raise _refused(path / "manifest.json", f"names another kind of part {brief(repr(name))}")
    for part in sorted({"/".join(name.split("/")[:2]) for name in sizes if "/" in name}):
        tensors = _check_tensors(path, f"{part}/state", sizes)
        _check_values(path / part / "state.json", tensors)


def _sizes(path: Path) -> dict[str, int]:
    """Return the size of each file by its name in the checkpoint."""
    found = {}
    for folder, folders, names in os.walk(path):
        # os.walk counts links to folders among the folders.
        for file in (Path(folder, name) for name in (*folders, *names)):
            about, name = file.lstat(), file.relative_to(path).as_posix()
            if stat.S_ISDIR(about.st_mode):
                continue
            if not stat.S_ISREG(about.st_mode) or not _FILES.fullmatch(name):
                raise _refused(file, "is no file of a checkpoint")
            found[name] = about.st_size
    return found


def _components(manifest: Path) -> list[tuple[str, Any]]:
    data = read_json(manifest)
    parts = data.get("components") if isinstance(data, dict) else None
    if not isinstance(parts, dict):
        raise unreadable(manifest, "it lists no components")
    return list(parts.items())


def _check_tensors(path: Path, folder: str, sizes: dict[str, int]) -> set[str]:
    """Check one ``meta.json``, which says what is in the files beside it; return the names of the tensors."""
    meta = path / folder / "meta.json"
    data = read_json(meta)
    if not isinstance(data, dict) or data.pop("_type", None) != _CLASS or data.pop("shape", None) != []:
        raise _refused(meta, "describes no plain TensorDict")
    if data.pop("device", None) not in ("cpu", "None", None):
        raise _refused(meta, "has tensors elsewhere than on the CPU")
    for name, about in data.items():
        size = _bytes(about) if _TENSOR.fullmatch(name) else None
        if size is None or size != sizes.get(f"{folder}/{name}.memmap", 0):
            raise _refused(meta, f"says of {brief(repr(name), 50)} what its file does not hold")
    return set(data)


def _bytes(about: Any) -> int | None:
    """Return how many bytes a tensor takes; None if it is described in another way than ours."""
    if not isinstance(about, dict) or about.keys() != {"device", "shape", "dtype", "is_nested"}:
        return None
    shape, dtype = about["shape"], about["dtype"]
    if about["is_nested"] is not False or not _DEVICE.fullmatch(str(about["device"])):
        return None
    if not isinstance(dtype, str) or dtype not in _DTYPES or not isinstance(shape, list):
        return None
    if not all(type(length) is int and 0 <= length < 2**63 for length in shape):
        return None
    return math.prod(shape) * _DTYPES[dtype]


def _check_values(schema: Path, tensors: set[str]) -> None:
    """Check a ``state.json``: nested tables and lists of plain values and of tensors that are there."""
    # Python writes NaN and Infinity, which a state may hold.
    left: list[Any] = [read_json(schema, constants=True)]
    while left:
        value = left.pop()
        found = _parts(value, tensors)
        if found is None:
            raise _refused(schema, f"has a value of an unknown kind {brief(repr(value), 50)}")
        left += found


def _parts(value: Any, tensors: set[str]) -> list[Any] | None:
    """Return what a value holds, None if it is of no kind that we write."""
    if not isinstance(value, dict):
        return None
    kind, items = value.get("kind"), value.get("items")
    if kind == "value":
        return [] if isinstance(value.get("value"), _PLAIN) else None
    if kind in ("tensor", "numpy"):
        key, known = value.get("key"), kind == "tensor" or _is_number(value.get("dtype"))
        return [] if isinstance(key, str) and key in tensors and known else None
    if kind == "numpy_scalar":
        known = _is_number(value.get("dtype")) and isinstance(value.get("value"), _PLAIN)
        return [] if known else None
    if not isinstance(items, list):
        return None
    if kind == "torch_size":
        return [] if all(type(length) is int for length in items) else None
    if kind in ("tuple", "list"):
        return items
    return _pairs(value, items) if kind in ("dict", "ordered_dict") else None


def _pairs(value: dict[str, Any], items: list[Any]) -> list[Any] | None:
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in items):
        return None
    metadata = [value["metadata"]] if "metadata" in value else []
    return [*(part for pair in items for part in pair), *metadata]


def _is_number(dtype: Any) -> bool:
    return isinstance(dtype, str) and _NUMPY.fullmatch(dtype) is not None


def _refused(path: Path, what: str) -> InputError:
    return InputError(
        f"{path} {what}: delete that checkpoint, or use --fresh for a new run. Checkpoints of others are not "
        "to be trusted."
    )
