"""Nothing is unpickled: pickles that leave a trace, in every file of a run and where libraries look."""

from __future__ import annotations

import json
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensordict
import torch
from hostile import edit_json, seal, trap

import theory
from theory.npz import read_npz
from uld_torchrl import load
from uld_torchrl.data.sampler import SubTrajectorySampler
from uld_torchrl.diagnostics import audit_run, run_audit
from uld_torchrl.errors import InputError
from uld_torchrl.tables import read_rows
from uld_torchrl.trainers.checkpoints import RunCheckpoints
from uld_torchrl.trainers.logs import RunLog
from uld_torchrl.trainers.run_dir import RunDir


@pytest.fixture(autouse=True)
def unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report and its pictures out, which take most of the time."""
    monkeypatch.setattr(run_audit, "_write", lambda *_: None)


def every_loader(run: Path, again: Callable[[Path], Path], part: str = "") -> list[Exception]:
    """Read the run in every way there is, or in those that read that part of it; return what was said."""
    said: list[Exception] = []
    ways: list[Callable[[], object]] = [
        lambda: load(run),
        lambda: load(run / "model"),
        lambda: audit_run(run),
        lambda: again(run),
        lambda: RunLog(RunDir(run), keep_until=14),
        lambda: RunCheckpoints(run / "checkpoints", {"net": torch.nn.Linear(2, 1)}).restore(),
        *(lambda path=path: read_npz(path) for path in run.glob("audits/*")),
        *(lambda path=path: read_rows(path) for path in run.glob("*.csv")),
    ]
    reading = {"": ways, "model": ways[:3], "audits": [ways[2], *ways[6:]], "checkpoints": ways[3:4]}
    for way in reading.get(part, [*ways[3:5], *ways[6:]]):
        try:
            way()
        except (InputError, theory.InputError) as error:
            said.append(error)
    return said


def test_a_pickle_in_place_of_any_file_is_not_unpickled(
    full_run: Path, tmp_path: Path, again: Callable[[Path], Path]
) -> None:
    made, newest = tmp_path / "unpickled", max(full_run.glob("checkpoints/step-*"))
    files = [
        path
        for path in sorted(full_run.rglob("*"))
        if path.is_file() and full_run / "checkpoints" not in path.parents
    ]
    files += [newest / "manifest.json", newest / "checksums.json", *newest.glob("*/0000-loss/state.json")]
    files += [
        *newest.glob("*/0000-loss/state/meta.json"),
        *newest.glob("*/0000-loss/state/*_00000000.memmap"),
    ]
    survived = {
        "checksums.json",
        "curve.png",
        "environment.txt",
        "tensor_00000000.memmap",
        "audits.csv",
        "timing.csv",
        "metrics.csv",
    }
    assert len(files) == 15
    for path in files:
        before = path.read_bytes()
        path.write_bytes(trap(made))
        if path.name != "checksums.json":
            seal(newest)
        said = every_loader(full_run, again, path.relative_to(full_run).parts[0])
        assert said or path.name in survived, path
        assert not made.exists(), path
        path.write_bytes(before)
        seal(newest)


def test_a_pickle_of_any_name_is_not_unpickled(
    full_run: Path, tmp_path: Path, again: Callable[[Path], Path]
) -> None:
    made = tmp_path / "unpickled"
    names = (
        "state.pt",
        "other.pickle",
        "pickle.pkl",
        "model.pt",
        "data.pkl",
        "pytorch_model.bin",
        "config.pkl",
    )
    folders = [full_run, *(path for path in full_run.rglob("*") if path.is_dir() and not path.is_symlink())]
    for folder in folders:
        for name in names:
            (folder / name).write_bytes(trap(made))
    for checkpoint in full_run.glob("checkpoints/step-*"):
        seal(checkpoint)
    said = every_loader(full_run, again)
    assert any("is no file of a checkpoint" in str(error) for error in said)
    assert not made.exists()


def stack_of_pickles(state: Path, made: Path) -> None:
    """Make tensordict load pickles from this folder."""
    about = {"_type": "<class 'tensordict.tensorclass.NonTensorStack'>", "data": "pickle.pkl", "device": None}
    (state / "meta.json").write_text(json.dumps({**about, "stack_dim": 0}))
    (state / "pickle.pkl").write_bytes(trap(made))


def checkpoint_of(folder: Path) -> Path:
    RunCheckpoints(folder, {"net": torch.nn.Linear(2, 1)}).save(5)
    (path,) = folder.glob("step-*")
    return path


def test_the_libraries_would_unpickle_what_is_refused_here(tmp_path: Path) -> None:
    path, made = checkpoint_of(tmp_path / "checkpoints"), tmp_path / "unpickled"
    stack_of_pickles(path / "components/0000-net/state", made)
    seal(path)
    with pytest.raises(InputError, match=r"pickle\.pkl is no file of a checkpoint"):
        RunCheckpoints(path.parent, {"net": torch.nn.Linear(2, 1)}).restore()
    assert not made.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception):  # noqa: B017 (after it was unpickled)
            tensordict.load(path / "components/0000-net/state")
    assert made.exists()


def test_a_class_other_than_tensordict_is_refused(tmp_path: Path) -> None:
    path = checkpoint_of(tmp_path / "checkpoints")
    edit_json(
        path / "components/0000-net/state/meta.json",
        lambda meta: meta.update(_type="<class 'tensordict.tensorclass.NonTensorData'>"),
    )
    seal(path)
    with pytest.raises(InputError, match="describes no plain TensorDict"):
        RunCheckpoints(path.parent, {"net": torch.nn.Linear(2, 1)}).restore()


def test_an_export_of_objects_is_not_unpickled(run: Path, tmp_path: Path) -> None:
    (export,) = run.glob("audits/*.npz")
    made, objects = tmp_path / "unpickled", np.array([[{}]], dtype=object)
    np.savez(export, **{**read_npz(export), "q": objects})
    with zipfile.ZipFile(export) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    head = parts["q.npy"].index(b"\n") + 1
    with zipfile.ZipFile(export, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data[:head] + trap(made) if name == "q.npy" else data)
    with pytest.raises(
        InputError, match=r"without pickled objects: Object arrays cannot be loaded.*Delete it"
    ):
        audit_run(run)
    assert not made.exists()
    with np.load(export, allow_pickle=True) as arrays, pytest.raises(Exception):  # noqa: B017 (the control)
        arrays["q"].tolist()[0][0]["x"]
    assert made.exists()


def test_a_saved_sampler_is_not_unpickled(tmp_path: Path) -> None:
    sampler = SubTrajectorySampler(ring_length=10, num_lanes=1, horizon=2)
    sampler.dumps(tmp_path / "sampler")
    stack_of_pickles(tmp_path / "sampler", tmp_path / "unpickled")
    with pytest.raises(RuntimeError, match="Refusing to load pickled"):
        sampler.loads(tmp_path / "sampler")
    assert not (tmp_path / "unpickled").exists()


def test_what_is_never_read_may_be_anything(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "audits")
    (run / "environment.txt").write_bytes(trap(tmp_path / "unpickled"))
    assert load(run).num_parameters > 0
    assert not (tmp_path / "unpickled").exists()
