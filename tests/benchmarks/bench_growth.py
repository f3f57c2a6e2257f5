"""How the cost of an update grows with batch, width and horizon, and speed with the number of environments.

Run: ``python tests/benchmarks/bench_growth.py [--quick] [--picture docs/growth.png]``; a few minutes on a
machine that does nothing else. Prints tables and draws one picture. The sizes of a table are timed in turn.
Nothing is asserted here.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from matplotlib.axes import Axes

from theory.plots import save
from theory.plots.style import PALETTE, describe, new_figure
from uld_torchrl import preset
from uld_torchrl.bench.env import acting_call, wrapped_call
from uld_torchrl.bench.setup import assemble
from uld_torchrl.bench.step import update_call
from uld_torchrl.bench.timing import milliseconds
from uld_torchrl.config import AgentConfig, override

ENV = "HalfCheetah-v5"
BATCHES = (64, 128, 256, 512, 1024)
WIDTHS = (64, 128, 256, 512, 1024)
HORIZONS = (3, 5, 8, 12)
LANES = (1, 2, 4, 8, 16)
TICKS = [digit * 10**zeros for zeros in range(6) for digit in (1, 2, 5)]
Curve = dict[int, float]


def sized(batch: int = 256, width: int = 512, horizon: int = 5) -> AgentConfig:
    """Return the published settings with another batch, width of all networks, or horizon."""
    widths = [f"model.{name}={width}" for name in ("hidden_dim", "z_s_dim", "z_sa_dim")]
    changes = [f"optim.batch_size={batch}", f"loss.horizon={horizon}", f"model.z_a_dim={width // 2}"]
    return override(preset("uld"), [*widths, *changes])


def updates(configs: dict[int, AgentConfig], rounds: int) -> Curve:
    """Return milliseconds of one update for each configuration."""
    calls = {
        str(size): update_call(assemble(config, ENV, "cpu", steps=500).stepper())
        for size, config in configs.items()
    }
    times = milliseconds(calls, rounds=rounds, warm_up=2)
    return {int(size): statistics.median(samples) for size, samples in times.items()}


def speeds(rounds: int) -> dict[str, Curve]:
    """Return agent steps a second without a policy, and with policy and replay."""
    config = preset("uld")
    wrapped = {str(lanes): wrapped_call(ENV, lanes, config, "cpu") for lanes in LANES}
    acting = {str(lanes): acting_call(assemble(config, ENV, "cpu", steps=50, lanes=lanes)) for lanes in LANES}
    found = {}
    for name, calls in (("no policy", wrapped), ("policy and replay", acting)):
        times = milliseconds(calls, rounds=rounds)
        found[name] = {
            int(lanes): 1e3 * int(lanes) / statistics.median(each) for lanes, each in times.items()
        }
    return found


def table(heading: str, unit: str, curves: dict[str, Curve]) -> str:
    """Return curves as a Markdown table, each beside its growth from the first size."""
    sizes = list(next(iter(curves.values())))
    lines = [f"| {heading} | {' | '.join(map(str, sizes))} |", "|---" * (len(sizes) + 1) + "|"]
    for name, curve in curves.items():
        cells = [f"{curve[size]:.4g} ({curve[size] / curve[sizes[0]]:.2f})" for size in sizes]
        lines.append(f"| {name}, {unit} (ratio to the first) | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(axes: Axes, curves: dict[str, Curve], heading: str, unit: str, power: int) -> None:
    """Draw curves on doubly logarithmic axes beside a line that grows with this power of the size."""
    for colour, (name, curve) in zip(("blue", "vermillion"), curves.items(), strict=False):
        axes.loglog(list(curve), list(curve.values()), "o-", color=PALETTE[colour], label=name)
    first = next(iter(curves.values()))
    sizes = list(first)
    at = sizes[-1] if unit == "ms" else sizes[0]  # where the line touches the first curve
    line = [first[at] * (size / at) ** power for size in sizes]
    label = "proportional" if power == 1 else "proportional to the square"
    axes.loglog(sizes, line, "--", color=PALETTE["black"], linewidth=1, label=label)
    axes.minorticks_off()
    axes.set_xticks(sizes, [str(size) for size in sizes])
    shown = [number for number in TICKS if axes.get_ylim()[0] <= number <= axes.get_ylim()[1]]
    axes.set_yticks(shown, [str(number) for number in shown])
    describe(axes, heading, unit, "")
    axes.legend(frameon=False, fontsize=8)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--picture", type=Path, default=Path(__file__).parents[2] / "docs/growth.png")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rounds = 2 if given.quick else 15
    panels = [
        ("batch size", "ms", {"one update": updates({n: sized(batch=n) for n in BATCHES}, rounds)}),
        ("width of all networks", "ms", {"one update": updates({n: sized(width=n) for n in WIDTHS}, rounds)}),
        ("horizon", "ms", {"one update": updates({n: sized(horizon=n) for n in HORIZONS}, rounds)}),
        ("environments", "steps/s", speeds(200 if given.quick else 2000)),
    ]
    print(f"{given.threads} thread(s), {ENV}, preset uld but for what is named")
    figure, axes = new_figure(4, panel=(3.4, 3.2))
    for panel, (heading, unit, curves) in zip(axes, panels, strict=True):
        print(table(heading, unit, curves))
        draw(panel, curves, heading, unit, power=2 if heading.startswith("width") else 1)
    save(figure, given.picture)
    print(f"wrote {given.picture}")


if __name__ == "__main__":
    main()
