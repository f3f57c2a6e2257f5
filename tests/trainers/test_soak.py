"""A soak: a small run in a process of its own for half an hour, its memory, files and threads watched.

``ULD_SOAK_SECONDS`` sets another length; ``ULD_SOAK_CSV`` keeps the samples, which
``tests/benchmarks/draw_soak.py`` draws.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from uld_torchrl.cli import main
from uld_torchrl.tables import read_rows
from uld_torchrl.trainers.checkpoints import RunCheckpoints

SECONDS = int(os.environ.get("ULD_SOAK_SECONDS", "1800"))
SAMPLES = 240
WARM_UP = 0.3
"""Share of the time in which buffers fill and libraries load; not judged."""
MAX_GROWTH_MB = 8.0
"""Of the fitted line over the rest of the time: a leak of 100 bytes an update would show in half an hour."""
COMMAND = ["train", "gym/Pendulum-v1", "--preset", "debug", "--total-steps", "100000000", "--set"]
COMMAND += ["replay.capacity=2000", "--set", "optim.batch_size=8", "--set", "optim.period=20"]
COMMAND += [part for name in ("log", "eval", "checkpoint") for part in ("--set", f"run.{name}_every=500")]


def sampled(pid: int) -> tuple[float, int, int]:
    """Return resident memory in MB, open files and threads of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return int(status["VmRSS"].split()[0]) / 1024, files, int(status["Threads"])


def watched(process: subprocess.Popen[bytes]) -> np.ndarray:
    """Sample a process for the time of the soak, then stop it: seconds, MB, files, threads, [samples, 4]."""
    begin, rows = time.monotonic(), []
    for number in range(1, SAMPLES + 1):
        time.sleep(max(begin + SECONDS * number / SAMPLES - time.monotonic(), 0))
        assert process.poll() is None, "the run ended by itself"
        rows.append((time.monotonic() - begin, *sampled(process.pid)))
    process.send_signal(signal.SIGINT)
    return np.array(rows)


def keep(samples: np.ndarray) -> None:
    if "ULD_SOAK_CSV" in os.environ:
        with Path(os.environ["ULD_SOAK_CSV"]).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["seconds", "megabytes", "files", "threads"])
            writer.writerows(samples.round(3).tolist())


def growth(samples: np.ndarray) -> float:
    """Return how many MB the fitted line of the memory rises after the warm-up."""
    settled = samples[int(WARM_UP * len(samples)) :]
    slope = np.polyfit(settled[:, 0], settled[:, 1], 1)[0]
    return float(slope * (settled[-1, 0] - settled[0, 0]))


def check_files(run: Path) -> None:
    """Check that the tables are whole and that a checkpoint can be read."""
    for name in ("metrics", "eval", "timing"):
        steps = [int(row["step"]) for row in read_rows(run / f"{name}.csv")]
        assert steps == list(range(500, steps[-1] + 1, 500))
        assert len(steps) + 1 == len((run / f"{name}.csv").read_text().splitlines())
    assert RunCheckpoints(run / "checkpoints", {}).restore() is not None
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert len(names) == 3 and names[0] == "latest"


def test_growth_is_that_of_the_fitted_line() -> None:
    """Steep in the warm-up, then 2 MB a minute for 70 minutes, with noise that leaves the line alone."""
    time_s = np.arange(100) * 60.0
    memory = np.where(np.arange(100) < 30, time_s, 2 * np.arange(100) + 0.5 * (-1.0) ** np.arange(100))
    assert growth(np.stack([time_s, memory], 1)) == pytest.approx(138, abs=0.1)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_files_and_threads_stay_as_they_are(tmp_path: Path) -> None:
    command = [*COMMAND, "--run-dir", str(tmp_path), "--device", "cpu"]
    with (tmp_path / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "uld_torchrl.cli", *command], stdout=output, stderr=output
        )
        try:
            samples = watched(process)
            assert process.wait(120) == 128 + signal.SIGINT
        finally:
            process.kill()
            process.wait()
    keep(samples)
    settled = samples[int(WARM_UP * len(samples)) :]
    assert growth(samples) < MAX_GROWTH_MB
    assert np.ptp(settled[:, 3]) == 0
    assert np.median(settled[: len(settled) // 2, 2]) == np.median(settled[len(settled) // 2 :, 2])
    check_files(tmp_path / "gym" / "Pendulum-v1" / "debug" / "seed0")
    assert main([*command, "--total-steps", "10"]) == 2  # whole enough to say what does not fit
