"""TrainResult: what training gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class TrainResult:
    """The last evaluation of a run: return (mean, standard deviation) and length over episodes.

    ``started_from`` is the step at which this call began: 0 for a new run, ``step`` for a finished one.
    """

    step: int
    return_mean: float
    return_std: float
    length_mean: float
    path: Path
    started_from: int = field(compare=False)
