"""Reading the CSV files of a run without torch, and whatever state a killed process left them in."""

from __future__ import annotations

import csv
from pathlib import Path


def read_table(path: Path) -> list[dict[str, str]]:
    r"""Return the whole rows of a CSV file; empty if there is no file, without a last half row.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "eval.csv"
        >>> _ = path.write_text("step,return\n5,1.5\n10,2")
        >>> read_table(path)
        [{'step': '5', 'return': '1.5'}]
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    whole = text[: text.rfind("\n") + 1]
    return [row for row in csv.DictReader(whole.splitlines()) if None not in row and None not in row.values()]


def last_step(path: Path) -> int:
    """Return the agent steps of the last whole row, 0 if there is none.

    Example:
        >>> last_step(Path("no-such.csv"))
        0
    """
    rows = [row for row in read_table(path) if row.get("step", "").isdecimal()]
    return int(rows[-1]["step"]) if rows else 0
