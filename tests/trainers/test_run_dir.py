"""Where a run lives, and when a repeated command may go on in its directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from uld_torchrl.config import AgentConfig, override, preset, to_dict
from uld_torchrl.errors import InputError
from uld_torchrl.trainers import RunDir, open_run
from uld_torchrl.trainers.run_dir import record_session

DEBUG = preset("debug")
ENV = "dmc/cartpole-swingup"


def opened(root: Path, config: AgentConfig = DEBUG, **options: bool) -> RunDir:
    return open_run(root, ENV, "mine", 3, config, **options)


def test_layout(tmp_path: Path) -> None:
    run = opened(tmp_path / "new" / "root")
    assert run.path == tmp_path / "new" / "root" / "dmc" / "cartpole-swingup" / "mine" / "seed3"
    started = {"env_id": ENV, "task": {}, "seed": 3, "config": to_dict(DEBUG)}
    assert json.loads(run.config.read_text()) == started
    names = {
        "config": "config.json",
        "metrics": "metrics.csv",
        "evaluations": "eval.csv",
        "timing": "timing.csv",
        "checkpoints": "checkpoints",
        "model": "model",
        "videos": "videos",
        "curve": "curve.png",
    }
    assert {field: getattr(run, field) for field in names} == {
        field: run.path / name for field, name in names.items()
    }


def test_environment_names_versions_and_commit(tmp_path: Path) -> None:
    run = opened(tmp_path)
    record_session(run, DEBUG, 0, "precision float32, compile off")
    text = (run.path / "environment.txt").read_text()
    named = dict(line.split(" ", 1) for line in text.splitlines())
    assert named["from"] == "step 0"
    assert {"python", "torch", "torchrl", "tensordict", "gymnasium", "mujoco", "commit"} <= set(named)
    assert all(named.values()) and named["compute"] == "precision float32, compile off"
    record_session(run, DEBUG, 700, "precision float32, compile off")
    both = (run.path / "environment.txt").read_text()
    assert both == text + text.replace("step 0", "step 700")


@pytest.mark.parametrize("name", ["a", "mrq", "2nd.try_of-it"])
def test_good_names(name: str, tmp_path: Path) -> None:
    assert open_run(tmp_path, ENV, name, 0, DEBUG).path.parent.name == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../up", "-x", "two words", "a\n", "é"])
def test_bad_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name must consist of") as caught:
        open_run(tmp_path / "runs", ENV, name, 0, DEBUG)
    assert repr(name) in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_the_same_configuration_goes_on(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.metrics.write_text("kept")
    assert opened(tmp_path) == first
    assert first.metrics.read_text() == "kept"


def test_another_configuration_is_refused_with_the_fields_that_differ(tmp_path: Path) -> None:
    run = opened(tmp_path)
    before = run.config.read_bytes()
    other = override(DEBUG, ["loss.gamma=0.9", "optim.schedule=every_step", "run.total_steps=999"])
    with pytest.raises(InputError) as caught:
        opened(tmp_path, other)
    message = str(caught.value)
    assert "config.loss.gamma: 0.99 -> 0.9;" in message
    assert "config.optim.schedule: periodic -> every_step)" in message
    assert "total_steps" not in message
    assert "horizon" not in message
    assert str(run.path) in message
    assert "--fresh" in message
    assert "--name" in message
    assert run.config.read_bytes() == before


def test_settings_that_came_with_a_later_version_stand_at_their_defaults(tmp_path: Path) -> None:
    run = opened(tmp_path)
    started = json.loads(run.config.read_text())
    del started["config"]["loss"]["value_loss"], started["config"]["atari"]
    run.config.write_text(json.dumps(started))
    assert opened(tmp_path).path == run.path
    with pytest.raises(InputError, match=r"loss.value_loss: huber -> mse"):
        opened(tmp_path, override(DEBUG, ["loss.value_loss=mse"]))


def test_another_environment_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    run = opened(tmp_path)
    about = json.loads(run.config.read_text())
    run.config.write_text(json.dumps({**about, "env_id": "gym/Ant-v4", "seed": 7}))
    with pytest.raises(InputError, match="env_id: gym/Ant-v4 -> dmc/cartpole-swingup; seed: 7 -> 3"):
        opened(tmp_path)


def test_total_steps_may_grow_and_not_shrink(tmp_path: Path) -> None:
    opened(tmp_path)
    longer = override(DEBUG, ["run.total_steps=400"])
    run = opened(tmp_path, longer)
    opened(tmp_path)  # until it is sure to train, a longer command leaves the settings alone
    record_session(run, longer, 300, "precision float32, compile off")
    opened(tmp_path, longer)
    with pytest.raises(InputError, match="total_steps 400; going on takes at least as many"):
        opened(tmp_path, override(DEBUG, ["run.total_steps=399"]))


def test_fresh_takes_the_next_free_name(tmp_path: Path) -> None:
    names = [opened(tmp_path, fresh=True).path.parent.name for _ in range(3)]
    assert names == ["mine", "mine-2", "mine-3"]
    other = override(DEBUG, ["loss.gamma=0.5"])
    assert opened(tmp_path, other, fresh=True).path.parent.name == "mine-4"


def test_fresh_counts_for_each_seed(tmp_path: Path) -> None:
    opened(tmp_path)
    assert open_run(tmp_path, ENV, "mine", 4, DEBUG, fresh=True).path == (
        tmp_path / "dmc" / "cartpole-swingup" / "mine" / "seed4"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": 3}', '{"config": {"run": []}}', "\xff"])
def test_a_damaged_config_is_named(text: str, tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.config.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        opened(tmp_path)
    assert str(run.config) in str(caught.value)
    assert "--fresh" in str(caught.value)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_root_that_is_a_file(tmp_path: Path, fresh: bool) -> None:
    root = tmp_path / "runs"
    root.write_text("in the way")
    with pytest.raises(InputError, match="cannot be written") as caught:
        opened(root, fresh=fresh)
    assert str(root) in str(caught.value)
    assert root.read_text() == "in the way"


@pytest.mark.parametrize("fresh", [False, True])
def test_a_root_that_may_not_be_read(tmp_path: Path, fresh: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Simulated: for the superuser everything may be read.
    def refuse(self: Path, **_: object) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch, pytest.raises(InputError, match="Permission denied"):
        for method in ("exists", "mkdir"):
            patch.setattr(Path, method, refuse)
        opened(tmp_path, fresh=fresh)
