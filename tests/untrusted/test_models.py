"""Model folders of others: what is wrong with a file is said in one message, and nothing large is made."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import SETTINGS, edit_json
from safetensors.torch import load_file, save_file

from uld_torchrl import cli, load
from uld_torchrl.errors import InputError
from uld_torchrl.trainers.agent import Agent
from uld_torchrl.untrusted import read_json

Damage = Callable[[Path], Any]


def setting(section: str, name: str, value: Any) -> Damage:
    def damage(folder: Path) -> None:
        edit_json(folder / "config.json", lambda about: about["config"][section].update({name: value}))

    return damage


def entry(name: str, value: Any) -> Damage:
    return lambda folder: edit_json(folder / "config.json", lambda about: about.update({name: value}))


def text(change: Callable[[bytes], bytes]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_bytes(change(path.read_bytes()))

    return damage


def instead(name: str, make: Callable[[Path], Any]) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def linked(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).rename(folder.parent.parent / f"moved-{name}")
        (folder / name).symlink_to(folder.parent.parent / f"moved-{name}")

    return damage


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


def header(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Change what the file of weights says of itself; its data stay."""

    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        about = json.loads(data[8 : 8 + size])
        change(about)
        made = json.dumps(about).encode()
        path.write_bytes(struct.pack("<Q", len(made)) + made + data[8 + size :])

    return damage


def first(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], None]:
    def on_all(tensors: dict[str, torch.Tensor]) -> None:
        name = min(tensors)
        tensors[name] = change(tensors[name])

    return on_all


HUGE = {
    f"{section}.{name} = {size:g}": (setting(section, name, size), words)
    for section, name, size, words in (
        ("model", "z_s_dim", 10**9, "does not fit its config.json"),
        ("model", "z_sa_dim", 10**18, "Storage size calculation overflowed"),
        ("model", "hidden_dim", 10**9, "does not fit its config.json"),
        ("model", "hidden_dim", 10**30, "Overflow"),
        ("model", "num_bins", 10**9, "num_bins must be at most 100000"),
        ("model", "num_values", 10**9, "num_values must be at most 1000"),
        ("pixels", "frame_size", 10**6, "images of 9000000000000 numbers"),
        ("atari", "frame_stack", 10**9, "images of 7056000000000 numbers"),
    )
}
DAMAGE: dict[str, tuple[Damage, str]] = {
    **HUGE,
    "an enormous action space": (
        entry("action_space", {"type": "Discrete", "n": 10**6, "start": 0}),
        "does not fit its config.json",
    ),
    "an action space beyond all bounds": (
        entry("action_space", {"type": "Discrete", "n": 10**12, "start": 0}),
        "an integer from 1 to 1000000",
    ),
    "an observation of petabytes": (
        entry(
            "observation_space",
            {"type": "Box", "shape": [10**5] * 3, "dtype": "float32", "low": 0, "high": 1},
        ),
        "up to 1000000 numbers",
    ),
    "spaces nested without end": (
        entry("observation_space", json.loads('{"type":"Dict","spaces":[["a",' * 100 + "0" + "]]}" * 100)),
        "nested no deeper than",
    ),
    "NaN": (setting("loss", "gamma", float("nan")), "NaN is no number of JSON"),
    "infinity": (setting("optim", "value_lr", float("inf")), "Infinity is no number of JSON"),
    "a number beyond float64": (
        text(lambda data: data.replace(b"0.99", b"1e999")),
        "1e999 is beyond float64",
    ),
    "an integer of many digits": (
        text(lambda data: data.replace(b'"step": 14', b'"step": ' + b"9" * 10**5)),
        "an integer of 100000 digits",
    ),
    "a switch for a number": (
        setting("model", "num_values", True),
        "num_values must be of type int, got True",
    ),
    "a number for a switch": (setting("loss", "unroll", 1), "unroll must be of type bool, got 1"),
    "a fraction for an integer": (setting("loss", "horizon", 2.5), "horizon must be of type int, got 2.5"),
    "a number for a word": (setting("optim", "schedule", 3), "schedule must be of type str, got 3"),
    "a list for a section": (
        lambda folder: edit_json(folder / "config.json", lambda about: about["config"].update(model=[])),
        "must be a table",
    ),
    "an unknown setting": (setting("model", "__class__", "x"), "model.__class__"),
    "a long unknown setting": (setting("model", "x" * 10**6, 1), "unknown model.xxx"),
    "the same name twice": (
        text(lambda data: data.replace(b'"step"', b'"format": 2, "step"')),
        "'format' is there twice",
    ),
    "nested too deep": (text(lambda data: b"[" * 10**6), "nested too deep"),
    "another encoding": (text(lambda data: data.decode().encode("utf-16")), "it is not UTF-8"),
    "a byte order mark": (text(lambda data: b"\xef\xbb\xbf" + data), "BOM"),
    "nothing": (text(lambda data: b""), "it is no valid JSON"),
    "a pickle": (text(lambda data: b"\x80\x04N."), "it is not UTF-8"),
    "a list": (text(lambda data: b"[2]"), "is not a file of format 2"),
    "a format that is only equal": (entry("format", 2.0), "is not a file of format 2"),
    "too large a description": (text(lambda data: data + b" " * 2**26), "larger than 67108864 bytes"),
    "no name": (entry("env_id", ["gym/CartPole-v1"]), "env_id ['gym/CartPole-v1']"),
    "a name that writes to the terminal": (entry("env_id", "gym/\x1b[2J"), "env_id 'gym/\\x1b[2J'"),
    "an endless name": (entry("env_id", "gym/" + "x" * 10**6), "env_id 'gym/xxx"),
    "a negative scale": (entry("reward_scale", -1.0), "reward_scale -1.0"),
    "a switch for a scale": (entry("reward_scale", True), "reward_scale True"),
    "a scale beyond float32": (entry("reward_scale", 1e39), "reward_scale 1e+39"),
    "a folder for a file": (
        instead("config.json", Path.mkdir),
        "config.json cannot be read: it is no regular file",
    ),
    "a pipe for a file": (
        instead("config.json", os.mkfifo),
        "config.json cannot be read: it is no regular file",
    ),
    "a pipe for the weights": (
        instead("model.safetensors", os.mkfifo),
        "model.safetensors cannot be read: it is no regular file",
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "model.safetensors cannot be read",
    ),
    "empty weights": (instead("model.safetensors", Path.touch), "model.safetensors cannot be read"),
    "weights of another type": (weights(first(lambda value: value.long())), "does not fit its config.json"),
    "weights of another shape": (
        weights(first(lambda value: value[:1].clone())),
        "does not fit its config.json",
    ),
    "one of the weights missing": (weights(lambda all: all.pop(min(all))), "does not fit its config.json"),
    "weights with NaN": (weights(first(lambda value: value * float("nan"))), "holds NaN or infinity"),
    "weights beyond float32": (
        weights(first(lambda value: value.double() + 1e300)),
        "holds NaN or infinity",
    ),
    "weights of unknown names": (
        weights(lambda all: all.update({"\x1b[2J\n": torch.zeros(1)})),
        "does not fit its config.json: '\\x1b[2J\\n' differ",
    ),
    "weights that are said to be enormous": (
        header(lambda about: about[min(about)].update(shape=[2**40, 2**20])),
        "model.safetensors cannot be read",
    ),
    "weights that overlap": (
        header(lambda about: about[max(about)].update(data_offsets=about[min(about)]["data_offsets"])),
        "model.safetensors cannot be read",
    ),
    "weights beyond the end of the file": (
        header(lambda about: about[max(about)].update(data_offsets=[10**6, 10**6 + 16])),
        "model.safetensors cannot be read",
    ),
    "a header that is said to be enormous": (
        instead("model.safetensors", lambda path: path.write_bytes(struct.pack("<Q", 2**62) + b"{}")),
        "its header is said to have 4611686018427387904 bytes",
    ),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_bad_model_is_one_message_before_anything_large_is_made(
    damage: Damage, words: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(run / "model")
    built, build = [], Agent.build

    def noted(*parts: Any, device: str, **more: Any) -> Agent:
        built.append(device)
        return build(*parts, device=device, **more)

    monkeypatch.setattr(Agent, "build", noted)
    with pytest.raises(InputError) as caught:
        load(run)
    message = str(caught.value)
    assert words in message
    assert message.startswith(str(run / "model")) and len(message) < 700 and message.isprintable()
    assert built in ([], ["meta"]) or "NaN or infinity" in message


def test_the_control_is_loaded(run: Path) -> None:
    assert load(run).env_id == "tabular/riverswim"


def test_a_link_is_not_followed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run / "model/config.json")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("link", "circle"):
        with pytest.raises(InputError, match=rf"{name} cannot be read: it is a link, which may"):
            read_json(tmp_path / name)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_link_for_a_file_of_the_model_is_refused(name: str, run: Path) -> None:
    linked(name)(run / "model")
    for path in (run, run / "model"):
        with pytest.raises(InputError, match=rf"{name} is a link"):
            load(path)


def test_a_model_of_nothing_but_shapes_takes_no_memory_and_no_random_numbers(run: Path) -> None:
    agent = load(run)
    torch.manual_seed(0)
    shapes = Agent.build("x/y", agent.spaces, agent.config, "meta")._tensors()
    after = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(3))
    assert {name: value.shape for name, value in shapes.items()} == {
        name: value.shape for name, value in agent._tensors().items()
    }
    assert {value.device.type for value in shapes.values()} == {"meta"}


def test_weights_of_other_floating_point_types_are_taken(run: Path) -> None:
    before = load(run)._tensors()
    weights(lambda tensors: tensors.update({name: value.double() for name, value in tensors.items()}))(
        run / "model"
    )
    for name, value in load(run)._tensors().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (command, f"model/{name}")
        for command in ("eval", "audit")
        for name in ("config.json", "model.safetensors")
    ]
    + [("train", "config.json"), ("train", "eval.csv")],
)
def test_the_command_line_says_it_in_one_line(
    command: str, name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / name).write_bytes(b"\x80\x04\n\x1b[2J")
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    where = ["--preset", "debug", "--name", run.parent.name, "--run-dir", str(run.parents[3]), *options]
    if name == "eval.csv":
        shutil.rmtree(run / "model")  # else the run cannot go on without its checkpoints
    assert (
        cli.main(["train", "tabular/riverswim", *where] if command == "train" else [command, str(run)]) == 2
    )
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and err.strip().isprintable()
    assert err.startswith(f"uld: error: {run / name} cannot be read")
