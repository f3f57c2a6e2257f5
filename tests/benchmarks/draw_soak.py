"""Draw the memory of a soak over time: ``python tests/benchmarks/draw_soak.py SAMPLES.csv PICTURE.png``.

The samples are what ``ULD_SOAK_CSV=SAMPLES.csv pytest -m slow tests/trainers/test_soak.py`` keeps.
"""

from __future__ import annotations

import sys

import numpy as np
from matplotlib.figure import Figure


def main(samples: str, picture: str) -> None:
    seconds, megabytes, *_ = np.loadtxt(samples, delimiter=",", skiprows=1).T
    figure = Figure(figsize=(6, 3), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(seconds / 60, megabytes, color="#0072B2", linewidth=1)
    axes.set(xlabel="minutes", ylabel="resident memory, MB", ylim=(0, 1.1 * megabytes.max()))
    axes.grid(alpha=0.3)
    figure.savefig(picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
