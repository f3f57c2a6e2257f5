"""The scripts of tests/benchmarks run, in their shortest form; what they measure is not judged."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from uld_torchrl import preset

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> Any:
    """Return a script as a module."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_growth_is_told_beside_the_first_size() -> None:
    table = script("bench_growth").table("batch size", "ms", {"one update": {64: 2.0, 128: 3.0}})
    assert table.splitlines() == [
        "| batch size | 64 | 128 |",
        "|---|---|---|",
        "| one update, ms (ratio to the first) | 2 (1.00) | 3 (1.50) |",
    ]


def test_growth_times_an_update_of_each_size() -> None:
    growth = script("bench_growth")
    found = growth.updates({16: preset("debug"), 17: preset("debug")}, 1)
    assert list(found) == [16, 17] and min(found.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("bench_gpu", ["1"], "float32"),
        ("bench_seeds", ["--repeats", "1"], "10"),
        ("bench_growth", ["--quick", "--picture", "growth.png"], "wrote growth.png"),
    ],
)
def test_a_script_runs_to_its_end(name: str, options: list[str], told: str, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert told in done.stdout
