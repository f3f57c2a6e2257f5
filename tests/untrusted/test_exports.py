"""Exports of others: numbers of the declared sizes, or one message before memory is taken for them."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import exact_export

from theory import InputError, Policy, audit_embeddings, npz, river_swim
from theory.__main__ import main
from theory.npz import read_npz

MDP = river_swim(4, 0.9)
GOOD = exact_export(MDP, Policy.uniform(MDP), step=3)


def npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), version=version)
    return stream.getvalue()


def declared(shape: str, dtype: str = "'<f8'", data: bytes = bytes(8), more: str = "") -> bytes:
    """A file of an array whose header says what one likes."""
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, {more}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def written(path: Path, *extra: tuple[str, bytes], how: int = zipfile.ZIP_STORED, without: str = "") -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, array in GOOD.items():
            if name != without:
                archive.writestr(f"{name}.npy", npy(array))
        for name, data in extra:
            archive.writestr(name, data)
    return path


def patched(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert len(old) == len(new) and old in data
    path.write_bytes(data.replace(old, new))
    return path


def repeated(path: Path) -> Path:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return written(path, ("q.npy", npy(GOOD["q"])))


def q_of(data: bytes) -> Callable[[Path], Path]:
    return lambda path: written(path, ("q.npy", data), without="q")


def made(make: Callable[[Path], Any]) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        make(path)
        return path

    return write


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a shape of petabytes": (q_of(declared(f"({2**50},)")), "has not as many bytes"),
    "a shape that overflows": (q_of(declared(f"({2**40}, {2**40}, {2**40})")), "has not as many bytes"),
    "a negative shape": (q_of(declared("(-1, -1)")), "has not as many bytes"),
    "a shape of words": (q_of(declared("('a',)")), "shape is not valid"),
    "a shape of no data": (q_of(declared("(0, 2)")), "has not as many bytes"),
    "a shape of many dimensions": (q_of(declared(f"({'1, ' * 70})")), "cannot be read"),
    "objects": (q_of(declared("(1,)", "'|O'")), "Object arrays cannot be loaded"),
    "objects in a structure": (q_of(declared("(1,)", "[('a', '|O')]")), "Object arrays cannot be loaded"),
    "a structure": (q_of(npy(np.zeros((4, 2), [("a", "f4")]))), "which are no numbers"),
    "words": (q_of(npy(np.full((4, 2), "x"))), "holds <U1, which are no numbers"),
    "dates": (q_of(npy(np.zeros((4, 2), "M8[s]"))), "which are no numbers"),
    "complex numbers": (q_of(npy(np.zeros((4, 2), complex))), "which are no numbers"),
    "a header of Python 2": (q_of(declared("(1L,)")), "cannot be read"),
    "a header that is a program": (q_of(declared("__import__('os').mkdir('x')")), "cannot be read"),
    "a header nested too deep": (q_of(declared("(" * 3000)), "cannot be read"),
    "a header of another version": (q_of(npy(np.zeros((4, 2)), (3, 0))), r"has the format \(3, 0\)"),
    "no header": (q_of(b""), "cannot be read"),
    "more data than declared": (q_of(npy(np.zeros((4, 2))) + b"x"), "has not as many bytes"),
    "one name twice": (repeated, "two arrays have the same name"),
    "the same with and without ending": (lambda path: written(path, ("q", npy(1))), "have the same name"),
    "an unknown name": (lambda path: written(path, ("../../x.npy", npy(1))), r"An export has no '../../x'"),
    "a name missing": (lambda path: written(path, without="q"), "The export lacks q"),
    "another compression": (lambda path: written(path, how=zipfile.ZIP_LZMA), "another way than NumPy"),
    "NaN": (q_of(npy(GOOD["q"] * np.nan)), "q must be finite"),
    "nothing in it": (made(lambda path: zipfile.ZipFile(path, "w").close()), "The export lacks zs"),
    "a pipe": (made(os.mkfifo), "no regular file"),
    "a folder": (made(Path.mkdir), "cannot be read"),
    "a broken checksum": (
        lambda path: patched(written(path), npy(GOOD["q"])[-8:], b"\x01" * 8),
        "Bad CRC-32",
    ),
}


@pytest.mark.parametrize(("write", "words"), FILES.values(), ids=FILES.keys())
def test_a_bad_export_is_one_message(
    write: Callable[[Path], Path], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "export.npz")
    with pytest.raises(InputError, match=words) as caught:
        audit_embeddings(path, MDP)
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()
    assert main(["audit", str(path), "--mdp", "riverswim", "--gamma", "0.9"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert {file.name for file in tmp_path.iterdir()} == {"export.npz"}


def test_the_control_is_audited(tmp_path: Path) -> None:
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert audit_embeddings(written(tmp_path / "export.npz", how=how), MDP).verdict == "pass"


def test_all_that_numpy_writes_of_numbers_is_read(tmp_path: Path) -> None:
    arrays = {
        "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.zeros((0, 3), np.int16),
        "single": np.float16(2.5),
        "big": np.arange(3, dtype=">i4"),
        "flags": np.array([True, False]),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "export.npz", **arrays)
        found = read_npz(tmp_path / "export.npz")
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


def test_a_bomb_is_refused_by_what_it_declares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "LIMIT", 2**20)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("q.npy", declared(f"({2**20 // 8},)", data=bytes(2**20)))
    with pytest.raises(InputError, match=r"are said to have 1048\d+ bytes; at most 1048576 are read"):
        read_npz(tmp_path / "bomb.npz")
    np.savez(tmp_path / "large.npz", q=np.zeros(2**17 + 1))  # as much on the disk: no bomb
    assert read_npz(tmp_path / "large.npz")["q"].nbytes == 2**20 + 8


def test_a_bomb_that_declares_less_than_it_holds_is_cut(tmp_path: Path) -> None:
    path, small = tmp_path / "bomb.npz", declared("(2,)", data=bytes(16))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("q.npy", declared("(2,)", data=bytes(2**20)))
        real = archive.getinfo("q.npy").file_size
    patched(path, real.to_bytes(4, "little"), len(small).to_bytes(4, "little"))
    with pytest.raises(InputError, match="Bad CRC-32"):
        read_npz(path)
