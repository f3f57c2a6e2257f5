"""Reading the CSV tables of a run, in whatever state a killed process left them.

They are written in ``trainers.logs``. Whole rows that have a step; what a crash cut off is none. No torch.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from uld_torchrl.errors import InputError
from uld_torchrl.untrusted import brief, read_text, unreadable

_LARGEST = 2**30


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    r"""Return the columns of a CSV file and its whole rows; none if there is no such file.

    Raises:
        InputError: it is no regular file of text, or no table.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "eval.csv"
        >>> _ = path.write_text("step,return\n5,1.5\n10,2")
        >>> read_table(path)
        (['step', 'return'], [{'step': '5', 'return': '1.5'}])
    """
    if not os.path.lexists(path):
        return [], []
    text = read_text(path, _LARGEST)
    # A crash may have cut the last row: what has no line end is not whole.
    table = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    try:
        rows = [row for row in table if _is_whole(row)]
    except csv.Error as error:
        raise unreadable(path, f"it is no table ({error})") from error
    return list(table.fieldnames or []), rows


def _is_whole(row: Mapping[str | None, str | None]) -> bool:
    # Cells beyond the columns stand under None.
    step = str(row.get("step"))
    return None not in row and None not in row.values() and step.isdecimal() and len(step) < 19


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the whole rows of a CSV file, which have a step; none if there is no such file.

    Raises:
        InputError: see :func:`read_table`.

    Example:
        >>> read_rows(Path("no-such.csv"))
        []
    """
    return read_table(path)[1]


def read_numbers(path: Path, columns: Sequence[str]) -> list[list[float]]:
    r"""Return those columns of a CSV file as numbers, one list a row.

    Raises:
        InputError: see :func:`read_table`; or a column is missing, or a cell holds something else.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "log.csv"
        >>> _ = path.write_text("step,x\n1,0.5\n")
        >>> read_numbers(path, ["x", "step"])
        [[0.5, 1.0]]
    """
    try:
        return [[float(row[name]) for name in columns] for row in read_rows(path)]
    except KeyError as error:
        raise unreadable(path, f"it has no column {error}") from error
    except InputError:
        raise
    except ValueError as error:
        raise unreadable(path, brief(error)) from error


def last_step(path: Path) -> int:
    """Return the agent steps of the last whole row, 0 if there is none.

    Raises:
        InputError: see :func:`read_table`.

    Example:
        >>> last_step(Path("no-such.csv"))
        0
    """
    return int((read_rows(path) or [{"step": "0"}])[-1]["step"])
