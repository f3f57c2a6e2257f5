"""A disk that is full or may not be written: one message, nothing half-written, and the same again goes on.

Faults are injected, or come from a limit or a small file system that the system itself enforces (slow).
Every call by which a checkpoint is written is in ``test_checkpoints.py``.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from injected import at_call
from killed import outcome

from uld_torchrl.cli import main
from uld_torchrl.data import make_replay_buffer
from uld_torchrl.diagnostics import AuditEvery, ProbeEvery
from uld_torchrl.tables import read_rows
from uld_torchrl.trainers import NotWritten, ULDTrainer
from uld_torchrl.trainers.files import replaced

Make = Callable[..., ULDTrainer]
ENV = "tabular/frozenlake4x4"
CALLBACKS = [AuditEvery(20), ProbeEvery(20)]


def make(make_trainer: Make, root: Path, **options: Any) -> ULDTrainer:
    return make_trainer(root, ENV, options={"callbacks": CALLBACKS, **options})


def everything(run: Path) -> dict[str, bytes]:
    names = ["probes.csv", "audits.csv", *(f"audits/step-{step}.npz" for step in (20, 40))]
    return {**outcome(run), **{name: (run / name).read_bytes() for name in names}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_trainer: Make) -> dict[str, bytes]:
    """What the undisturbed run leaves."""
    trainer = make(make_trainer, tmp_path_factory.mktemp("whole"))
    trainer.train()
    trainer.close()
    return everything(trainer.run.path)


class _Half(io.StringIO):
    """A file whose last bytes do not fit any more."""

    def __init__(self, file: Any, code: int) -> None:
        super().__init__()
        self._file, self._code = file, code

    def close(self) -> None:
        if not self.closed:
            text = self.getvalue()
            self._file.write(text[: len(text) // 2])
            self._file.close()
            super().close()
            raise OSError(self._code, os.strerror(self._code))


@contextmanager
def full_for(name: str, when: Callable[[], bool], code: int = errno.ENOSPC) -> Iterator[None]:
    """Let files whose name holds ``name`` be written by half only."""
    opened = io.open

    def opening(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if name in str(file) and set(mode) & set("wax+") and when():
            if "b" in mode:
                raise OSError(code, os.strerror(code))
            return _Half(opened(file, mode, *arguments, **options), code)
        return opened(file, mode, *arguments, **options)

    with mock.patch.object(io, "open", opening), mock.patch("builtins.open", opening):
        yield


WRITTEN = {
    # what cannot be written: from which step, what the message names, the step of the checkpoint that is kept
    "metrics.csv": (30, "metrics.csv", 20),
    "eval.csv": (40, "eval.csv", 40),
    "timing.csv": (20, "timing.csv", None),
    "probes.csv": (40, "probes.csv", 40),
    "step-40.npz": (40, "", 40),
    "checksums.json": (40, "step-000000000040", 20),
    "curve.png": (40, "curve.png", 40),
    "config.json": (40, "model", 40),
    "environment.txt": (0, "environment.txt", None),
}


QUICK = ("metrics.csv", "checksums.json", "config.json")  # a row, a checkpoint, the model
"""Tested by default, the others when asked for slow tests."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in WRITTEN]
)
def test_a_file_that_does_not_fit_stops_the_run_which_then_goes_on(
    name: str, tmp_path: Path, make_trainer: Make, whole: dict[str, bytes]
) -> None:
    step, named, kept = WRITTEN[name]
    trainer = make(make_trainer, tmp_path)
    with full_for(name, lambda: trainer.step >= step), pytest.raises(NotWritten) as caught:
        trainer.train()
    trainer.close()
    run, message = trainer.run.path, str(caught.value)
    assert caught.value.errno == errno.ENOSPC
    said = "No checkpoint is in" if kept is None else f"The checkpoint of step {kept} in"
    for part in (f"after step {step}: {run}", named, "No space left on device", said, "run the same again"):
        assert part in message
    assert not list(run.rglob(".*")), "half-written files are left"
    assert (run / "model").exists() == (name == "curve.png")
    again = make(make_trainer, tmp_path)
    assert again.step == (kept or 0)
    again.train()
    again.close()
    assert everything(run) == whole


def test_a_directory_that_has_become_read_only_is_told_before_the_run_goes_on(
    tmp_path: Path, finished_run: Path, make_trainer: Make
) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "runs", symlinks=True))
    with full_for(".csv", lambda: True, errno.EROFS), pytest.raises(NotWritten) as caught:
        make_trainer(root, total_steps=60)
    assert "after step 40" in str(caught.value) and "Read-only file system" in str(caught.value)
    make_trainer(root, total_steps=60).close()  # nothing is held


def test_an_error_that_is_not_the_disks_is_left_as_it_is(
    tmp_path: Path, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path)
    monkeypatch.setattr(trainer, "_learn", lambda: os.stat(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError):
        trainer.train()
    trainer.close()


def test_a_model_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    model = tmp_path / "model"

    def write(text: str) -> None:
        with replaced(model) as aside:
            aside.mkdir()
            for name in ("one", "two"):
                (aside / name).write_text(text)

    write("old")
    with at_call(None) as calls:
        write("old")
    seen = set()
    for number in range(1, len(calls) + 1):
        try:
            with at_call(number):
                write("new")
        except OSError:
            assert not list(tmp_path.glob(".*.new"))
        texts = {(model / name).read_text() for name in ("one", "two")}
        assert len(texts) == 1
        seen |= texts
        write("old")
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert seen == {"old", "new"}


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
@pytest.mark.parametrize("shape", [(4,), (3, 8, 8)], ids=["vectors", "images"])
def test_a_mapped_replay_buffer_has_its_room_from_the_first_step(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    images = len(shape) == 3
    buffer = make_replay_buffer(
        capacity=5000, storage="memmap", folder=tmp_path, frame_stack=3 if images else None
    )
    no, name = torch.zeros(1, 1, dtype=torch.bool), "pixels" if images else "observation"
    seen = torch.zeros(1, *shape, dtype=torch.uint8 if images else torch.float32)
    from tensordict import TensorDict

    after = {name: seen, "reward": torch.zeros(1, 1), "terminated": no, "truncated": no, "done": no}
    buffer.add(TensorDict({name: seen, "action": torch.zeros(1, 2), "next": after}, batch_size=[1]))
    files = list(tmp_path.rglob("*.memmap"))
    assert len(files) >= 6
    for file in files:
        assert file.stat().st_blocks * 512 >= file.stat().st_size > 0


def test_no_room_for_a_mapped_replay_buffer_is_one_message(tmp_path: Path, make_trainer: Make) -> None:
    trainer = make_trainer(tmp_path, options={"buffer_storage": "memmap"})
    with (
        mock.patch.object(os, "posix_fallocate", side_effect=OSError(errno.EDQUOT, "Disk quota exceeded")),
        pytest.raises(
            NotWritten, match=r"after step 0: .*replay/records.*Disk quota exceeded.*No checkpoint"
        ),
    ):
        trainer.train()
    trainer.close()


def test_no_room_for_it_on_resume_blames_the_disk_and_not_the_checkpoint(
    tmp_path: Path, make_trainer: Make
) -> None:
    options = {"buffer_storage": "memmap"}
    first = make_trainer(tmp_path, options=options)
    first.train()
    first.close()
    full = mock.patch.object(os, "posix_fallocate", side_effect=OSError(errno.ENOSPC, "No space left"))
    with full, pytest.raises(NotWritten, match=r"No space left.*The checkpoint of step 40.*make room"):
        make_trainer(tmp_path, total_steps=60, options=options)
    again = make_trainer(tmp_path, total_steps=60, options=options)
    assert again.step == 40
    again.close()


def test_each_checkpoint_is_told_with_its_size_and_time(
    tmp_path: Path, make_trainer: Make, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "uld_torchrl"):
        trainer = make_trainer(tmp_path, options={"progress": True})
        trainer.train()
        trainer.close()
    folder = trainer.run.checkpoints / "step-000000000020"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    told = [text for text in caplog.messages if text.startswith("checkpoint at step")]
    assert [text.split(" in ")[0] for text in told] == [
        f"checkpoint at step {step}: {size / 1e6:.1f} MB" for step in (20, 40)
    ]
    shown = capsys.readouterr().err.splitlines()
    assert [text for text in told if text in shown] == told
    rows = read_rows(trainer.run.timing)
    assert [bool(row["checkpoint_seconds"]) for row in rows] == [False, False, True, False]
    assert float(rows[2]["checkpoint_megabytes"]) == pytest.approx(size / 1e6, abs=0.001)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_space_at_any_call_of_a_run_costs_nothing(
    tmp_path: Path, make_trainer: Make, whole: dict[str, bytes]
) -> None:
    """At 40 calls, half of them while something else than a checkpoint is written."""
    trainer = make(make_trainer, tmp_path / "counted")
    with at_call(None, below=tmp_path) as calls:
        trainer.train()
    trainer.close()
    chance = random.Random(0)
    opened = [number for number, name in enumerate(calls, 1) if name in ("open", "replace")]
    chosen = [*chance.sample(opened, 20), *chance.sample(range(1, len(calls) + 1), 20)]
    for number in chosen:
        root = tmp_path / str(number)
        trainer = make(make_trainer, root)
        with at_call(number, below=tmp_path):
            try:
                trainer.train()
            except NotWritten as error:
                assert "No space left" in str(error)
        trainer.close()
        again = make(make_trainer, root)
        again.train()
        again.close()
        assert everything(again.run.path) == whole, f"{calls[number - 1]}, call {number}"
        shutil.rmtree(root)


COMMAND = ["train", "gym/Pendulum-v1", "--preset", "debug", "--total-steps", "300", "--device", "cpu"]
COMMAND += ["--set", "run.checkpoint_every=50", "--set", "run.random_steps=250"]
COMMAND += ["--set", "model.hidden_dim=128"]
LIMITED = """
import resource, sys
from uld_torchrl.cli import main
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_the_systems_limit_of_a_files_size_is_one_message(tmp_path: Path) -> None:
    command = [*COMMAND, "--run-dir", str(tmp_path)]
    script = [sys.executable, "-c", LIMITED]
    refused = subprocess.run([*script, "20000", *command], capture_output=True, text=True)
    assert refused.returncode == 1, refused.stderr
    assert "after step 50: " in refused.stderr and "File too large" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list(tmp_path.rglob("step-*"))
    assert main(command) == 0


@pytest.mark.slow
def test_a_file_system_that_is_really_full_is_one_message(tmp_path: Path) -> None:
    """Mapped files on a full disk end the process with SIGBUS, unless their room is taken before."""
    mount = f"mount -t tmpfs -o size=3m none {tmp_path}"
    inner = f"{mount} && {sys.executable} -m uld_torchrl.cli " + " ".join(
        [*COMMAND, "--run-dir", str(tmp_path)]
    )
    inside = ["unshare", "-rm", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*inside, mount], capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    fill = f"{inner} || {{ code=$?; find {tmp_path} -name 'step-*' -o -name '.*'; exit $code; }}"
    done = subprocess.run([*inside, fill], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "could not be written (No space left on device). The checkpoint of step" in done.stderr
    assert ".writing" not in done.stdout and ".room" not in done.stdout
