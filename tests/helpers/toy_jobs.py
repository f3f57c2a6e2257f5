"""Jobs for the tests of launchers: processes that leave a run's files without training anything."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from uld_torchrl.experiments.jobs import Job

SCRIPT = """
import fcntl, json, os, pathlib, signal, sys, time
path, behaviour, total = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
path.mkdir(parents=True, exist_ok=True)
folder = os.open(path, os.O_RDONLY)
try:
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("uld: error: it is being trained by another process"); sys.exit(2)
starts = path / "starts"
count = int(starts.read_text()) + 1 if starts.exists() else 1
starts.write_text(str(count))
(path / "config.json").write_text("{}")
print("start", count, os.environ["OMP_NUM_THREADS"], flush=True)
(path / "device").write_text(sys.argv[4])
if behaviour == "refused":
    sys.exit(2)
if behaviour == "waits":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    (path / "ready.tmp").write_text(str(os.getpid()))
    (path / "ready.tmp").replace(path / "ready")  # whoever sees it can read it
    time.sleep(120)
if behaviour == "fails" or (behaviour == "once" and count == 1):
    print("no luck"); sys.exit(3)
(path / "eval.csv").write_text(f"step\\n{total}\\n")
(path / "model").mkdir(exist_ok=True)
(path / "model" / "config.json").write_text("{}")
"""


@dataclass(frozen=True)
class ToyJob(Job):
    """A job that is done at once, fails once, fails always, is refused, or waits for a signal."""

    behaviour: str = "done"

    def command(self, run_dir: Path) -> list[str]:
        total = str(self.config.run.total_steps)
        return [sys.executable, "-c", SCRIPT, str(self.path(run_dir)), self.behaviour, total, self.device]


def starts(job: Job, run_dir: Path) -> int:
    """How often the job was started."""
    file = job.path(run_dir) / "starts"
    return int(file.read_text()) if file.exists() else 0
