"""What a benchmark found: figures with units, spread and a ratio to a yardstick; as a table or as JSON.

How times are taken is in ``timing``.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Figure:
    """One figure: the median of its samples and the quartiles around it.

    ``ratio`` is the figure divided by that of the same run named ``yardstick``, where there is one.

    Example:
        >>> Figure.of("draw", [1.0, 2.0, 9.0], "ms").value
        2.0
    """

    name: str
    value: float
    low: float
    high: float
    unit: str
    ratio: float | None = None
    yardstick: str | None = None

    @classmethod
    def of(cls, name: str, samples: Sequence[float], unit: str, to: Figure | None = None) -> Figure:
        """Return the figure of these samples, with its ratio to that of ``to``."""
        low, middle, high = (
            statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else 3 * list(samples)
        )
        ratio = None if to is None or to.value == 0 else middle / to.value
        return cls(name, middle, low, high, unit, ratio, None if to is None else to.name)


@dataclass(frozen=True)
class Report:
    """All figures of a benchmark, and what they were measured with.

    Example:
        >>> report = Report("sample", {"threads": 1}, [Figure.of("draw", [1.0], "ms")])
        >>> print(report.table().splitlines()[-1].split())
        ['draw', '1', '1', '1', 'ms']
    """

    name: str
    settings: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)

    def __getitem__(self, name: str) -> Figure:
        """Return a figure by its name."""
        return next(figure for figure in self.figures if figure.name == name)

    def table(self) -> str:
        """Return lines of text: the settings, and a row a figure."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        rows: list[tuple[str, ...]] = [("", "median", "25 %", "75 %", "", "")]
        for each in self.figures:
            ratio = "" if each.ratio is None else f"{each.ratio:.2f} x {each.yardstick}"
            rows.append((each.name, *map(_short, (each.value, each.low, each.high)), each.unit, ratio))
        widths = [max(len(row[column]) for row in rows) for column in range(6)]
        lines = [
            f"{row[0]:<{widths[0]}}  "
            + "  ".join(f"{cell:>{width}}" for cell, width in zip(row[1:4], widths[1:4], strict=True))
            + f"  {row[4]:<{widths[4]}}  {row[5]}"
            for row in rows
        ]
        return "\n".join([f"uld bench {self.name}: {settings}", *(line.rstrip() for line in lines)])

    def json(self) -> str:
        """Return the same as JSON."""
        figures = [asdict(each) for each in self.figures]
        return json.dumps({"bench": self.name, "settings": self.settings, "figures": figures}, indent=1)


def machine(device: torch.device | str) -> dict[str, Any]:
    """Return what every report says of the machine.

    Example:
        >>> machine("cpu")["device"]
        'cpu'
    """
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": str(device),
        "processor": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
