"""Checkpoints of others, with right checksums: only plain tensors and values in files of ours are read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import Notes, edit_json, seal

from uld_torchrl.errors import InputError
from uld_torchrl.trainers.checkpoints import RunCheckpoints
from uld_torchrl.trainers.manifests import check_checkpoint

EVERYTHING = {
    "tensors": [torch.arange(3), torch.zeros(0, 2), torch.tensor(1.5, dtype=torch.bfloat16)],
    "arrays": (np.arange(2.0), np.zeros((0,), np.int16), np.float32(2.5), np.bool_(True)),
    "plain": {"a": None, "b": True, "c": -(2**70), "d": float("inf"), "e": "x", 3: "y"},
    "shape": torch.Size([2, 3]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints"
    RunCheckpoints(path, {"net": torch.nn.Linear(2, 1), "notes": Notes(**EVERYTHING)}).save(5)
    (made,) = path.glob("step-*")
    return made


def restore(folder: Path) -> dict[str, Any]:
    notes = Notes()
    RunCheckpoints(folder.parent, {"net": torch.nn.Linear(2, 1), "notes": notes}).restore()
    return notes.state


def test_whatever_a_run_may_save_is_read(folder: Path) -> None:
    found = restore(folder)
    for value, wanted in zip(found["tensors"], EVERYTHING["tensors"], strict=True):
        assert value.dtype == wanted.dtype and torch.equal(value, wanted)
    for value, wanted in zip(found["arrays"], EVERYTHING["arrays"], strict=True):
        assert value.dtype == wanted.dtype and np.array_equal(value, wanted)
    assert found["plain"] == EVERYTHING["plain"] and found["shape"] == EVERYTHING["shape"]


def test_tensors_saved_from_a_gpu_are_read_to_the_cpu(folder: Path) -> None:
    # tensordict notes where each tensor was; the files are the same.
    def on_a_gpu(about: dict[str, Any]) -> None:
        for name in about:
            if name.startswith("tensor_"):
                about[name]["device"] = "cuda:0"

    edit_json(folder / NOTES / "state/meta.json", on_a_gpu)
    seal(folder)
    found = restore(folder)["tensors"]
    assert torch.equal(found[0], EVERYTHING["tensors"][0]) and found[0].device.type == "cpu"


NET, NOTES = "components/0000-net", "components/0001-notes"


def add(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            path.unlink()
        make(path)

    return damage


def moved(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).rename(folder.parent.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent.parent / "elsewhere")

    return damage


def record(**fields: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(
        folder / "manifest.json", lambda manifest: manifest["components"]["net"].update(fields)
    )


def meta(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / NET / "state/meta.json", change)


def tensor(**fields: Any) -> Callable[[Path], None]:
    return meta(lambda about: about["tensor_00000000"].update(fields))


def schema(value: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / NOTES / "state.json", lambda data: data["items"].append(value))


def value(**fields: Any) -> Callable[[Path], None]:
    return schema([{"kind": "value", "value": "more"}, fields])


def array(**fields: Any) -> Callable[[Path], None]:
    return value(kind="numpy", key="tensor_00000000", **fields)


OTHER = "is no file of a checkpoint"
KIND = "has a value of an unknown kind"
HELD = "says of 'tensor_00000000' what its file does not hold"
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a payload of torch": (add(f"{NET}/state.pt", Path.touch), OTHER),
    "an archive": (add(f"{NET}/state.tdz", Path.touch), OTHER),
    "a consolidated file": (add(f"{NET}/state.tdc", Path.touch), OTHER),
    "a pickle of tensordict": (add(f"{NET}/state/other.pickle", Path.touch), OTHER),
    "another folder of tensors": (
        add(f"{NET}/state/inner/meta.json", lambda path: path.write_text("{}")),
        OTHER,
    ),
    "a hidden file": (add(f"{NET}/.state.json", Path.touch), OTHER),
    "a pipe": (add(f"{NET}/state.json", os.mkfifo), OTHER),
    "a link for a file": (moved(f"{NET}/state.json"), OTHER),
    "a link for a tensor": (moved(f"{NET}/state/tensor_00000000.memmap"), OTHER),
    "a link for a folder": (moved(f"{NET}/state"), OTHER),
    "a link for a part": (moved(NET), OTHER),
    "a link for all parts": (moved("components"), OTHER),
    "a path out of the folder": (record(path="../../elsewhere"), "names another kind of part 'net'"),
    "a path within": (record(path="components/0000-net/../0001-notes"), "names another kind of part"),
    "an absolute path": (record(path="/etc"), "names another kind of part"),
    "a path of another kind": (record(path=7), "names another kind of part"),
    "another adapter": (record(adapter="torchrl.dump_load"), "names another kind of part"),
    "no components": (lambda folder: (folder / "manifest.json").write_text("[]"), "lists no components"),
    "a part of no kind": (
        lambda folder: edit_json(folder / "manifest.json", lambda data: data["components"].update(net=[])),
        "names another kind of part",
    ),
    "a manifest nested too deep": (
        lambda folder: (folder / "manifest.json").write_text("[" * 10**5),
        "nested too deep",
    ),
    "a part without values": (
        lambda folder: (folder / NET / "state.json").unlink(),
        r"state.json cannot be read",
    ),
    "a part without shapes": (
        lambda folder: (folder / NET / "state/meta.json").unlink(),
        "meta.json cannot be read",
    ),
    "tensors on another device": (
        meta(lambda about: about.update(device="cuda:0")),
        "elsewhere than on the CPU",
    ),
    "a batch size": (meta(lambda about: about.update(shape=[10**12])), "no plain TensorDict"),
    "shapes that are no table": (meta(lambda about: [about]), "no plain TensorDict"),
    "a nested collection": (
        meta(lambda about: about.update(tensor_00000000={"type": "NonTensorData"})),
        HELD,
    ),
    "a tensor of petabytes": (tensor(shape=[2**50]), HELD),
    "a tensor that is too short": (tensor(shape=[1]), HELD),
    "a shape that overflows": (tensor(shape=[2**62, 2**62, 0]), HELD),
    "a shape beyond int64": (tensor(shape=[2**64, 0]), HELD),
    "a negative shape": (tensor(shape=[-1, -2]), HELD),
    "a shape of switches": (tensor(shape=[True, 2]), HELD),
    "a shape that is no list": (tensor(shape=2), HELD),
    "an unknown type": (tensor(dtype="torch.complex64"), HELD),
    "a type of another kind": (tensor(dtype=["torch.float32"]), HELD),
    "a nested tensor": (tensor(is_nested=True), HELD),
    "a tensor elsewhere": (tensor(device="meta"), HELD),
    "a tensor of another name": (
        meta(lambda about: about.update({"../../x": about.pop("tensor_00000000")})),
        "says of '../../x' what",
    ),
    "a missing tensor": (lambda folder: (folder / NET / "state/tensor_00000000.memmap").unlink(), HELD),
    "a path as value": (value(kind="path", value="/etc"), KIND),
    "bytes": (value(kind="bytes", value="AA=="), KIND),
    "a type as value": (value(kind="torch_dtype", value="hub"), KIND),
    "a range": (value(kind="range", items=[0, 10**18, 1]), KIND),
    "an array of objects": (array(dtype="|O"), KIND),
    "an array of long words": (array(dtype="<U1000000000"), KIND),
    "an array of no type": (array(dtype=3), KIND),
    "an array that is not there": (value(kind="numpy", key="tensor_99999999", dtype="<f4"), KIND),
    "a tensor that is not there": (value(kind="tensor", key="../x", device="cpu"), KIND),
    "a tensor of no name": (value(kind="tensor", key=["x"], device="cpu"), KIND),
    "a number of a terabyte": (value(kind="numpy_scalar", dtype="|V1000000000000", value=0), KIND),
    "a list in a number": (value(kind="numpy_scalar", dtype="<f4", value=[1]), KIND),
    "a table as plain value": (value(kind="value", value={}), KIND),
    "a size of words": (value(kind="torch_size", items=["x"]), KIND),
    "a list without items": (value(kind="list"), KIND),
    "a kind that is no word": (value(kind=["list"], items=[]), KIND),
    "an entry that is no pair": (schema([1, 2, 3]), KIND),
    "an entry that is no table": (schema([1, 2]), KIND),
    "an odd value within metadata": (value(kind="ordered_dict", items=[], metadata={"kind": "path"}), KIND),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE.keys())
def test_what_a_run_does_not_write_is_refused_before_torchrl_sees_it(
    damage: Callable[[Path], None], words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(folder)
    with pytest.raises(InputError, match=words) as caught:
        check_checkpoint(folder)
    assert str(caught.value).startswith(str(folder)) and len(str(caught.value)) < 600
    # A pipe is left out of the checksums, as it has none.
    seal(folder)
    monkeypatch.setattr("torchrl.checkpoint.Checkpoint.load", lambda *_: pytest.fail("TorchRL was asked"))
    with pytest.raises(InputError, match=words):
        restore(folder)


def test_a_pipe_for_the_checksums_does_not_make_a_run_wait(folder: Path) -> None:
    (folder / "checksums.json").unlink()
    os.mkfifo(folder / "checksums.json")
    with pytest.raises(InputError, match="is whole"):
        restore(folder)


def test_names_in_the_checksums_cannot_write_to_the_terminal(folder: Path) -> None:
    edit_json(folder / "checksums.json", lambda sums: sums.update({"\x1b[2J\n" + "x" * 10**6: "0"}))
    with pytest.raises(InputError, match="is missing or changed") as caught:
        restore(folder)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_a_hostile_checkpoint_of_a_whole_run_ends_it(full_run: Path, again: Callable[[Path], Path]) -> None:
    before = json.loads((full_run / "model/config.json").read_text())
    newest = max(full_run.glob("checkpoints/step-*"))
    (newest / "components/0000-loss/state.pt").touch()
    seal(newest)
    with pytest.raises(InputError, match=r"state\.pt is no file of a checkpoint.*--fresh"):
        again(full_run, 16)
    assert json.loads((full_run / "model/config.json").read_text()) == before
