"""Dumps of a fault: the batch and a report in a folder of their own, whole or not there, never replaced.

What is reported, and when, is in ``watchdog``. No pickle: ``batch.safetensors`` and ``report.json``.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tensordict import TensorDictBase
from torch import Tensor

_LOG = logging.getLogger(__name__)


def plain_tensors(batch: TensorDictBase) -> dict[str, Tensor]:
    """Return the tensors of a batch by joined names, nested ones as ``next.reward``.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> list(plain_tensors(TensorDict({"a": torch.zeros(2), "next": {"a": torch.ones(2)}})))
        ['a', 'next.a']
    """
    named = ((key if isinstance(key, tuple) else (key,), value) for key, value in batch.items(True, True))
    return {".".join(key): value for key, value in named if isinstance(value, Tensor)}


def dump_fault(folder: Path, step: int, batch: TensorDictBase, report: dict[str, Any], *, kept: int) -> str:
    """Write ``<folder>/step-<step>/``, ``step-<step>-2/`` if there is one, and so on; say where, or why not.

    Args:
        folder: of all dumps.
        step: where the run stands.
        batch: its tensors are written as they are.
        report: what JSON can hold.
        kept: nothing is written if there are as many dumps.

    Example:
        >>> import tempfile, torch
        >>> from tensordict import TensorDict
        >>> folder, batch = Path(tempfile.mkdtemp()), TensorDict({"reward": torch.ones(2)})
        >>> dump_fault(folder, 7, batch, {"part": "value"}, kept=3).replace(str(folder), "faults")
        'The batch is in faults/step-7.'
    """
    try:
        earlier = {path.name for path in folder.glob("step-*")}
        if len(earlier) >= kept:
            return f"The first {len(earlier)} batches are in {folder}, this one is not."
        return f"The batch is in {_write(folder, _free_name(step, earlier), batch, report)}."
    except Exception as error:  # it must not hide the fault that it is about
        reason = " ".join(str(error).split())
        _LOG.warning("the batch could not be written to %s (%s: %s)", folder, type(error).__name__, reason)
        return f"The batch could not be written to {folder} ({type(error).__name__}: {reason})."


def _free_name(step: int, taken: set[str]) -> str:
    names = [f"step-{step}", *(f"step-{step}-{k}" for k in range(2, len(taken) + 2))]
    return next(name for name in names if name not in taken)


def _write(folder: Path, name: str, batch: TensorDictBase, report: dict[str, Any]) -> Path:
    aside = folder / f".{name}.new"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        tensors = plain_tensors(batch).items()
        # Copies, since tensors that share memory are refused.
        copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors}
        save_file(copies, aside / "batch.safetensors")
        (aside / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        for file in aside.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        os.rename(aside, folder / name)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return folder / name
