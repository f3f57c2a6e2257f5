"""Checkpoints by themselves: whatever happens at whichever call, a whole one is found, and it is the newest.

The components are two small ones, so that every single call can fail. Runs are in ``test_disk.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from injected import at_call

from uld_torchrl.errors import InputError
from uld_torchrl.trainers.checkpoints import RunCheckpoints
from uld_torchrl.trainers.files import reserve
from uld_torchrl.trainers.stopping import StoppedAtOnce, StopRequest


class Part:
    """A component of two tensors and a number, all told by its step."""

    def __init__(self, step: int = 0) -> None:
        self.step = step

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "rows": torch.full((3,), self.step), "more": [torch.full((5,), self.step)]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert torch.equal(state["rows"], torch.full((3,), state["step"]))
        assert torch.equal(state["more"][0], torch.full((5,), state["step"]))
        self.step = state["step"]


class Session:
    """Writes checkpoints of a part as one session of a run does."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.part = Part()
        self.checkpoints = RunCheckpoints(folder, {"part": self.part}, keep=keep)

    def save(self, *steps: int) -> None:
        for step in steps:
            self.part.step = step
            self.checkpoints.save(step)


def save(folder: Path, *steps: int, keep: int = 2) -> None:
    Session(folder, keep).save(*steps)


def restored(folder: Path) -> int:
    """Return the step that a new session goes on from."""
    part = Part()
    assert RunCheckpoints(folder, {"part": part}).restore() is not None
    return part.step


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stop_twice() -> None:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)


def die() -> None:
    os._exit(9)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints of steps 1 and 2, to be copied."""
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    save(folder, 1, 2)
    return folder


def at_each_call(two: Path, root: Path) -> Iterator[tuple[int, Path]]:
    """Give the number of each call by which a third checkpoint is written, and a folder to write it to."""
    session = Session(copied(two, root / "counted"))
    with at_call(None) as calls:
        session.save(3)
    assert {"replace", "fsync", "open", "from_file", "symlink", "posix_fallocate"} <= {*calls}
    for number in range(1, len(calls) + 1):
        yield number, copied(two, root / str(number))


def copied(two: Path, folder: Path) -> Path:
    return Path(shutil.copytree(two, folder, symlinks=True))


def check_left(folder: Path) -> None:
    """Check that the newest checkpoint is the second or the third, and that the next one is as ever."""
    newest = restored(folder)
    assert newest in (2, 3)
    save(folder, 4)
    assert names(folder) == ["latest", f"step-{newest:012d}", "step-000000000004"]
    assert os.readlink(folder / "latest") == "step-000000000004"


def test_no_space_at_any_call_leaves_the_older_or_the_new(two: Path, tmp_path: Path) -> None:
    outcomes = set()
    for number, folder in at_each_call(two, tmp_path):
        session = Session(folder)
        with at_call(number):
            try:
                session.save(3)
                outcomes.add("saved")
            except OSError as error:
                assert (error.errno, Path(error.filename).name) == (28, "step-000000000003")
                outcomes.add("refused")
        assert session.checkpoints.newest() == folder / f"step-{restored(folder):012d}"
        check_left(folder)
    assert outcomes == {"saved", "refused"}  # what fails to be deleted is no reason to stop


def test_a_second_signal_at_any_call_does_no_damage(two: Path, tmp_path: Path) -> None:
    for number, folder in at_each_call(two, tmp_path):
        with StopRequest(), at_call(number, stop_twice), pytest.raises(StoppedAtOnce) as caught:
            Session(folder).save(3)
        assert caught.value.signum == signal.SIGINT
        check_left(folder)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_death_at_any_call_does_no_damage(two: Path, tmp_path: Path) -> None:
    """In a process of its own, which ends without any cleaning up, as of SIGKILL."""
    newest = []
    for number, folder in at_each_call(two, tmp_path):
        child = os.fork()
        if child == 0:
            with at_call(number, die):
                Session(folder).save(3)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        newest.append(restored(folder))
        check_left(folder)
    assert newest == sorted(newest) and {*newest} == {2, 3}  # from one call on it is there


def test_the_step_that_is_saved_again_is_never_without_a_checkpoint(tmp_path: Path) -> None:
    """It is the only one; the power fails between its being put aside and the new one's coming."""
    save(tmp_path, 3, keep=1)
    os.rename(tmp_path / "step-000000000003", tmp_path / ".step-000000000003")
    assert restored(tmp_path) == 3
    assert names(tmp_path) == ["latest", "step-000000000003"]


def damage(path: Path) -> None:
    file = next(path.rglob("*.memmap"))
    file.write_bytes(bytes(reversed(file.read_bytes())) + b"x")


def test_a_damaged_checkpoint_does_not_count_among_those_kept(tmp_path: Path) -> None:
    save(tmp_path, 10, 20)
    damage(tmp_path / "step-000000000020")
    session = Session(tmp_path)
    assert session.checkpoints.restore() == tmp_path / "step-000000000010"
    session.save(25)
    assert names(tmp_path) == ["latest", "step-000000000010", "step-000000000025"]


def test_damaged_ones_of_later_steps_do_not_push_out_the_good_ones(tmp_path: Path) -> None:
    save(tmp_path, 10, 20, 30, keep=3)
    for step in (20, 30):
        damage(tmp_path / f"step-{step:012d}")
    session = Session(tmp_path)
    session.checkpoints.restore()
    with at_call(10), pytest.raises(OSError, match="No space"):
        session.save(15)
    assert len(names(tmp_path)) == 4  # nothing goes before the new one is there
    session.save(15)
    assert names(tmp_path) == ["latest", "step-000000000010", "step-000000000015"]
    assert restored(tmp_path) == 15


def test_unfinished_ones_of_killed_processes_are_deleted(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for name in (".writing", "..writing.stage-00ff", ".old"):
        shutil.copytree(tmp_path / "step-000000000001", tmp_path / name)
    (tmp_path / ".latest").symlink_to("nowhere")
    assert restored(tmp_path) == 1
    assert names(tmp_path) == ["latest", "step-000000000001"]


Harm = Callable[[bytes, int], bytes]
HARMS: list[Harm] = [
    lambda data, at: data[:at],
    lambda data, at: data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :],
    lambda data, at: data[:at] + b"\0" + data[at:],
]


@given(st.data())
def test_any_cut_flipped_added_or_lost_byte_is_noticed(two: Path, data: st.DataObject) -> None:
    files = [path for path in sorted((two / "step-000000000002").rglob("*")) if path.is_file()]
    file = data.draw(st.sampled_from([path for path in files if path.name != "checksums.json"]))
    whole = file.read_bytes()
    file.write_bytes(data.draw(st.sampled_from(HARMS))(whole, data.draw(st.integers(0, len(whole) - 1))))
    try:
        assert restored(two) == 1
    finally:
        file.write_bytes(whole)
    assert restored(two) == 2


@given(st.data())
def test_a_harmed_table_of_checksums_is_noticed_or_says_the_same(two: Path, data: st.DataObject) -> None:
    file = two / "step-000000000002" / "checksums.json"
    whole = file.read_text()
    harmed = data.draw(st.sampled_from(HARMS))(whole.encode(), data.draw(st.integers(0, len(whole) - 1)))
    file.write_bytes(harmed)
    try:
        same = json.loads(harmed) == json.loads(whole)
    except ValueError:
        same = False
    try:
        assert restored(two) == (2 if same else 1)
    finally:
        file.write_text(whole)


def test_a_lost_file_is_noticed(two: Path, tmp_path: Path) -> None:
    names = [path.relative_to(two) for path in (two / "step-000000000002").rglob("*") if path.is_file()]
    for number, name in enumerate(names):
        folder = copied(two, tmp_path / str(number))
        (folder / name).unlink()
        assert restored(folder) == 1
    assert len(names) >= 6


def test_one_harmed_everywhere_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for step in (1, 2):
        damage(tmp_path / f"step-{step:012d}")
    with pytest.raises(InputError, match=r"no checkpoint in .* is whole"):
        restored(tmp_path)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
@pytest.mark.parametrize("sizes", [[], [0], [1], [5000, 3, 4097, 0, 9000]])
def test_all_room_that_is_needed_is_taken_and_given_back(
    sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    fallocate = os.posix_fallocate
    monkeypatch.setattr(
        os, "posix_fallocate", lambda fd, at, size: (taken.append(size), fallocate(fd, at, size))
    )
    reserve(tmp_path, sizes)
    blocks = [-(-size // 4096) for size in sizes]
    assert sum(taken) == 4096 * sum(blocks)
    assert max(taken, default=0) == 4096 * max(blocks, default=0)  # the limit of a file's size is asked too
    assert list(tmp_path.iterdir()) == []
