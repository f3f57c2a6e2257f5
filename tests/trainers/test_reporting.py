"""What a run shows: CSV files, progress on a terminal and elsewhere, the learning curve, the device."""

from __future__ import annotations

import io
import re
from pathlib import Path

import matplotlib.image
import pytest
import torch

from uld_torchrl.errors import InputError
from uld_torchrl.tables import read_rows
from uld_torchrl.trainers import progress as progress_module
from uld_torchrl.trainers.device import pick_device
from uld_torchrl.trainers.logs import CsvLog
from uld_torchrl.trainers.plots import plot_learning_curve
from uld_torchrl.trainers.progress import Progress

COLUMNS = ["step", "x", "y"]


def test_rows_are_on_disk_at_once(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "log.csv", COLUMNS)
    assert log.path.read_text() == "step,x,y\n"
    log.append({"step": 1, "y": 2.5})
    log.append({"step": 2, "x": None, "y": -1})
    assert read_rows(log.path) == [{"step": "1", "x": "", "y": "2.5"}, {"step": "2", "x": "", "y": "-1"}]


def test_a_column_that_is_not_documented_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="z"):
        CsvLog(tmp_path / "log.csv", COLUMNS).append({"step": 1, "z": 0.0})


@pytest.mark.parametrize(("keep", "left"), [(None, []), (0, []), (2, ["1", "2"]), (9, ["1", "2", "3"])])
def test_later_rows_are_cut(keep: int | None, left: list[str], tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "log.csv", COLUMNS)
    for step in (1, 2, 3):
        log.append({"step": step, "x": step / 3})
    before = {row["step"]: row for row in read_rows(log.path)}
    CsvLog(log.path, COLUMNS, keep_until=keep)
    assert read_rows(log.path) == [before[step] for step in left]


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "none.csv") == []
    assert read_rows(CsvLog(tmp_path / "log.csv", COLUMNS, keep_until=5).path) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Stands in for time.monotonic; tests set ``now``."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module.time, "monotonic", clock)
    return clock


def test_plain_lines_come_now_and_then(clock: Clock) -> None:
    stream = io.StringIO()
    progress = Progress(1000, initial=100, stream=stream)
    progress.update(50, {"return": 12.345678})
    clock.now += 29
    progress.update(50)
    assert stream.getvalue() == ""
    clock.now += 11  # 200 steps in 40 s
    progress.update(100)
    assert stream.getvalue() == "step 300/1000  5.0 steps/s  2.3 min left  return 12.35\n"
    progress.update(1, {"value": 0.5})
    assert stream.getvalue().count("\n") == 1
    progress.close()
    assert stream.getvalue().splitlines()[1].endswith("return 12.35  value 0.5")


def test_a_run_of_no_time_has_a_last_line(clock: Clock) -> None:
    stream = io.StringIO()
    Progress(10, stream=stream).close()
    assert stream.getvalue().startswith("step 0/10 ")


def test_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    progress = Progress(40, initial=10, stream=stream)
    progress.update(25, {"return": 7.0, "value": 0.125})
    progress.update(5)
    progress.close()
    last = re.split(r"[\r\n]", stream.getvalue().rstrip())[-1]
    assert "40/40" in last
    assert "step/s" in last
    assert "return=7, value=0.125" in last
    assert "10/40" in stream.getvalue()


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_switched_off_shows_nothing(kind: type[io.StringIO], clock: Clock) -> None:
    stream = kind()
    progress = Progress(10, enabled=False, stream=stream)
    clock.now += 100
    progress.update(10, {"return": 1.0})
    progress.close()
    assert stream.getvalue() == ""


def evaluations(path: Path, level: float) -> Path:
    log = CsvLog(path, ["step", "episode_return_mean", "episode_return_std"])
    for step in (100, 200, 300):
        log.append({"step": step, "episode_return_mean": level + step / 10, "episode_return_std": 5.0})
    return path


@pytest.mark.parametrize("runs", [1, 3])
def test_learning_curve(runs: int, tmp_path: Path) -> None:
    files = [evaluations(tmp_path / f"{k}.csv", 20.0 * k) for k in range(runs)]
    plot_learning_curve(files, tmp_path / "curve.png", "title")
    image = matplotlib.image.imread(tmp_path / "curve.png")
    assert image.shape[:2] == (480, 720)
    blue = (image[..., 2] > image[..., 0] + 0.3).sum()
    assert blue > 200  # the curve itself, next to axes and text in black


def test_a_curve_of_one_point(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "eval.csv", ["step", "episode_return_mean", "episode_return_std"])
    log.append({"step": 5, "episode_return_mean": 1.0, "episode_return_std": 0.0})
    plot_learning_curve([log.path], tmp_path / "curve.png", "one")
    assert matplotlib.image.imread(tmp_path / "curve.png").std() > 0


def test_auto_takes_cuda_if_there_is_one() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["", "gpu", "tpu", "meta", "cuda:99", "cpu:x", "cuda:-1", "mps:7"])
def test_a_device_that_is_not_here(name: str) -> None:
    with pytest.raises(InputError, match=r"device must be .*cpu") as caught:
        pick_device(name)
    assert repr(name) in str(caught.value)


def test_cuda_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(InputError, match=r"one of auto, cpu on this machine, got 'cuda'"):
        pick_device("cuda")
