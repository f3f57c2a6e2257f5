"""Mutated files of every kind: a clean error, or a result that is whole; never anything else.

Bytes are flipped, cut, put in and taken out; in JSON values are exchanged, dropped and renamed too. Where
checksums would hide the rest, they are made right again, as an attacker would.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import exact_export
from hostile import Notes, damaged_bytes, damaged_json, seal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import theory
from theory import Policy, river_swim
from theory.audit import read_export
from uld_torchrl import load
from uld_torchrl.config import preset
from uld_torchrl.errors import InputError
from uld_torchrl.tables import read_numbers, read_rows
from uld_torchrl.trainers.checkpoints import RunCheckpoints
from uld_torchrl.trainers.logs import CsvLog, forget_after
from uld_torchrl.trainers.run_dir import RunDir, open_run

MDP = river_swim(4, 0.9)
Target = tuple[st.SearchStrategy[Any], Callable[[Any], None]]


def clean(error: Exception) -> None:
    """Check that a message is for people: one line, not endless, nothing that a terminal obeys."""
    text = str(error)
    assert 20 < len(text) < 2500 and text.isprintable(), repr(text)


def written(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
    return path


def json_and_bytes(path: Path) -> st.SearchStrategy[str | bytes]:
    return damaged_json(path.read_text(encoding="utf-8")) | damaged_bytes(path.read_bytes())


def model_file(name: str) -> Callable[[Path, Path], Target]:
    def target(run: Path, scratch: Path) -> Target:
        folder = Path(shutil.copytree(run / "model", scratch / "model"))
        original = load(folder)
        shapes = {key: value.shape for key, value in original._tensors().items()}

        def check(data: str | bytes) -> None:
            written(folder / name, data)
            try:
                agent = load(folder)
            except InputError as error:
                clean(error)
                return
            assert {key: value.shape for key, value in agent._tensors().items()} == shapes
            assert all(value.isfinite().all() for value in agent._tensors().values())
            assert type(agent.env_id) is str and 0.0 < float(agent.loss.reward_scale) < float("inf")

        path = run / "model" / name
        return (json_and_bytes(path) if name == "config.json" else damaged_bytes(path.read_bytes())), check

    return target


def run_config(run: Path, scratch: Path) -> Target:
    made = open_run(scratch, "gym/CartPole-v1", "x", 0, preset("debug"), task={"layers": []})

    def check(data: str | bytes) -> None:
        written(made.config, data)
        try:
            open_run(scratch, "gym/CartPole-v1", "x", 0, preset("debug"), task={"layers": []})
        except InputError as error:
            clean(error)

    return json_and_bytes(made.config), check


def checkpoint_file(name: str, *, sealed: bool = True) -> Callable[[Path, Path], Target]:
    def components() -> dict[str, Any]:
        notes = Notes(
            list=[1, "x", None, 2.5], array=np.arange(3), size=torch.Size([2]), tensor=torch.ones(2)
        )
        return {"net": torch.nn.Linear(2, 1), "notes": notes}

    def target(run: Path, scratch: Path) -> Target:
        RunCheckpoints(scratch, components()).save(5)
        (folder,) = scratch.glob("step-*")

        def check(data: str | bytes) -> None:
            written(folder / name, data)
            if sealed:
                seal(folder)
            parts = components()
            try:
                assert RunCheckpoints(scratch, parts).restore() == folder
            except InputError as error:
                clean(error)
            else:
                assert parts["net"].weight.shape == (1, 2)

        is_json = name.endswith("json")
        return (
            json_and_bytes(folder / name) if is_json else damaged_bytes((folder / name).read_bytes())
        ), check

    return target


def export_bytes() -> dict[str, bytes]:
    stream = io.BytesIO()
    np.savez(stream, **exact_export(MDP, Policy.uniform(MDP), step=3, n_step=2, counts=np.ones((4, 2))))
    with zipfile.ZipFile(stream) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def read_whole(path: Path) -> None:
    try:
        found = read_export(path, MDP)
    except theory.InputError as error:
        clean(error)
        return
    assert found.q.shape == MDP.r.shape and np.isfinite(found.zsa).all()


def packed_export(run: Path, scratch: Path) -> Target:
    path = scratch / "export.npz"
    np.savez(path, **exact_export(MDP, Policy.uniform(MDP), step=3))
    data = path.read_bytes()
    directory = data.rindex(b"PK\x01\x02")
    tail = damaged_bytes(data[directory:]).map(lambda end: data[:directory] + end)
    return damaged_bytes(data) | tail, lambda made: read_whole(written(path, made))


def arrays_of_export(run: Path, scratch: Path) -> Target:
    """Damage within an array, in an archive that is right."""
    parts = export_bytes()
    one = st.sampled_from(sorted(parts))

    def check(damage: tuple[str, str, bytes]) -> None:
        name, renamed, data = damage
        with zipfile.ZipFile(scratch / "export.npz", "w") as archive:
            for each, whole in parts.items():
                archive.writestr(renamed if each == name else each, data if each == name else whole)
        read_whole(scratch / "export.npz")

    new = one | st.sampled_from(("../x.npy", "q", "x" * 100, "\x1b.npy", ".npy"))
    usual = one.flatmap(
        lambda name: st.tuples(
            st.just(name),
            st.just(name),
            damaged_bytes(parts[name][:160]).map(lambda b: b + parts[name][160:]),
        )
    )
    other = one.flatmap(lambda name: st.tuples(st.just(name), new, st.just(parts[name])))
    return usual | other.filter(lambda each: each[1] not in parts or each[1] == each[0]), check


def table(run: Path, scratch: Path) -> Target:
    path = scratch / "eval.csv"
    columns = (run / "eval.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    data = (run / "eval.csv").read_bytes() * 2

    def check(made: bytes) -> None:
        for read in (
            lambda: read_numbers(path, columns),
            lambda: CsvLog(path, columns, keep_until=20),
            lambda: forget_after(RunDir(scratch), 13),
        ):
            written(path, made)
            try:
                read()
                read_rows(path)
            except InputError as error:
                clean(error)

    return damaged_bytes(data), check


NET, NOTES = "components/0000-net", "components/0001-notes"
TARGETS: dict[str, Callable[[Path, Path], Target]] = {
    "config.json of a model": model_file("config.json"),
    "model.safetensors": model_file("model.safetensors"),
    "config.json of a run": run_config,
    "manifest.json": checkpoint_file("manifest.json"),
    "checksums.json": checkpoint_file("checksums.json", sealed=False),
    "meta.json": checkpoint_file(f"{NET}/state/meta.json"),
    "state.json": checkpoint_file(f"{NOTES}/state.json"),
    "a tensor": checkpoint_file(f"{NET}/state/tensor_00000000.memmap"),
    "an export": packed_export,
    "an array of an export": arrays_of_export,
    "a table": table,
}


def hunt(name: str, examples: int, run: Path, scratch: Path) -> None:
    strategy, check = TARGETS[name](run, scratch)

    @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def once(data: Any) -> None:
        check(data)

    once()


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("name", TARGETS)
def test_a_mutated_file_is_a_clean_error_or_whole(name: str, whole_run: Path, tmp_path: Path) -> None:
    hunt(name, 25, whole_run, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TARGETS)
def test_many_mutated_files_are_clean_errors_or_whole(name: str, whole_run: Path, tmp_path: Path) -> None:
    hunt(name, 1500, whole_run, tmp_path)
