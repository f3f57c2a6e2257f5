"""Benchmarks of the parts of a run, each beside what bounds it, measured in the same process and moment.

``uld bench step|sample|env|memory`` prints them. Nothing imports this package but the command line; what is
measured is in ``trainers``, ``data`` and ``envs``.
"""

from uld_torchrl.bench.env import bench_env
from uld_torchrl.bench.memory import bench_memory
from uld_torchrl.bench.report import Figure, Report
from uld_torchrl.bench.sample import bench_sample
from uld_torchrl.bench.step import bench_step
from uld_torchrl.bench.timing import with_threads

BENCHES = {"step": bench_step, "sample": bench_sample, "env": bench_env, "memory": bench_memory}
"""By their names at the command line."""

__all__ = [
    "BENCHES",
    "Figure",
    "Report",
    "bench_env",
    "bench_memory",
    "bench_sample",
    "bench_step",
    "with_threads",
]
