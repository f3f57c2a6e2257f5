"""Peers in studies and reports, beside ULD: jobs, merged studies, records, the command that repeats a run."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pytest
import tyro
from written_runs import write_run

from uld_torchrl.cli import Command, Train, main, settings
from uld_torchrl.cli_experiments import StudyRun, make_study
from uld_torchrl.cli_peers import peer_command
from uld_torchrl.config import RunConfig, preset, to_dict
from uld_torchrl.errors import InputError
from uld_torchrl.experiments.comparison import compare
from uld_torchrl.experiments.jobs import check_jobs, make_jobs
from uld_torchrl.experiments.records import read_record
from uld_torchrl.experiments.report import write_report
from uld_torchrl.experiments.study import Study, load_study
from uld_torchrl.peers import PeerConfig, TD3Config, about_peer, harness_config

ENV = "dmc/cartpole-swingup"


def write_peer(root: Path, seed: int, returns: list[float], peer: PeerConfig, variant: str = "td3") -> Path:
    path = write_run(root, ENV, variant, seed, returns)
    run = dataclasses.replace(preset("small").run, total_steps=10 * len(returns))
    about = {"config": to_dict(harness_config(run, peer)), **about_peer(peer)}
    (path / "config.json").write_text(json.dumps({"env_id": ENV, "seed": seed, **about}))
    return path


def test_a_study_of_a_peer_has_a_variant_of_its_name() -> None:
    study = make_study(StudyRun(envs=(ENV,), agent="td3", seeds="0-2", preset="small", name="mine"))
    assert study.variants == {"td3": ("agent=td3",)}
    job = study.jobs()[0]
    assert (job.agent, job.peer) == ("td3", TD3Config())
    assert job.config == harness_config(preset("small").run, TD3Config())
    assert str(job.path(Path("runs"))) == f"runs/{ENV}/td3/seed0"


def test_the_command_of_a_job_is_read_as_its_settings() -> None:
    command = StudyRun(
        envs=(ENV,), agent="td3", preset="small", total_steps=3000, variant=("slow:td3.tau=0.001",)
    )
    for job in make_study(command).jobs()[:2]:
        given = tyro.cli(Command, args=job.command(Path("runs"))[3:])
        assert isinstance(given, Train) and given.agent == "td3" and given.name == job.variant
        assert peer_command(given) == (job.config, job.peer) and settings(given).run.total_steps == 3000
    assert job.peer == TD3Config(tau=0.001)


def test_ablations_of_a_peer_are_refused() -> None:
    with pytest.raises(InputError, match="--ablation takes parts of ULD away, got --agent td3"):
        make_study(StudyRun(envs=(ENV,), agent="td3", ablation=("no-mr",)))


def test_settings_of_all_runs_reach_those_that_take_them() -> None:
    variants = {"small": (), "td3": ("agent=td3",)}
    shared = ["run.total_steps=3000", "loss.gamma=0.5", "td3.tau=0.25"]
    uld, td3 = make_jobs([ENV], variants, [0], settings=shared)
    assert uld.settings == ("run.total_steps=3000", "loss.gamma=0.5") and uld.config.loss.gamma == 0.5
    assert td3.config.run.total_steps == 3000 and td3.peer == TD3Config(tau=0.25)
    with pytest.raises(InputError, match=r"no run of this study takes the setting 'loss\.gamma=0\.5'"):
        make_jobs([ENV], {"td3": ("agent=td3",)}, [0], settings=shared)
    with pytest.raises(InputError, match=r"no run of this study takes the setting 'td3\.tau=0\.25'"):
        make_jobs([ENV], {"small": ()}, [0], settings=shared)


def test_a_peer_joins_a_study_whose_settings_it_does_not_take(tmp_path: Path) -> None:
    uld = Study("toy", (ENV,), {"small": ()}, (0,), "small", ("optim.precision=bfloat16",))
    td3 = Study("toy", (ENV,), {"td3": ("agent=td3",)}, (1,), "small")
    for first, second in ((uld, td3), (td3, uld)):
        first.save(tmp_path)
        second.save(tmp_path)
        whole = load_study(uld.path(tmp_path))
        assert set(whole.variants) == {"small", "td3"} and whole.settings == ("optim.precision=bfloat16",)
        assert {job.config.optim.precision for job in whole.jobs() if job.agent == "td3"} == {"float32"}
        uld.path(tmp_path).unlink()
    uld.save(tmp_path)
    longer = Study("toy", (ENV,), {"td3": ("agent=td3",)}, (1,), "small", ("run.total_steps=9",))
    with pytest.raises(InputError, match="another settings"):
        longer.save(tmp_path)


def test_jobs_whose_directory_holds_another_peer_are_refused(tmp_path: Path) -> None:
    write_peer(tmp_path, 0, [1.0], TD3Config(tau=0.25))
    jobs = make_jobs([ENV], {"td3": ("agent=td3",)}, [0])
    with pytest.raises(InputError, match=r"peer\.tau: 0\.25 -> 0\.005"):
        check_jobs(jobs, tmp_path)
    check_jobs(make_jobs([ENV], {"td3": ("agent=td3", "td3.tau=0.25")}, [0]), tmp_path)
    with pytest.raises(InputError, match="agent: td3 -> None"):
        check_jobs(make_jobs([ENV], {"td3": ()}, [0]), tmp_path)


def test_a_record_repeats_its_run(tmp_path: Path) -> None:
    record = read_record(write_peer(tmp_path, 3, [1.0, 2.0], TD3Config(tau=0.25)))
    assert record.agent == "td3" and record.peer == TD3Config(tau=0.25) and record.parameters == 16
    given = tyro.cli(Command, args=shlex.split(record.command)[1:])
    assert isinstance(given, Train) and (given.seed, given.name, given.env) == (3, "td3", ENV)
    assert peer_command(given) == (record.config, record.peer)


def test_a_report_has_peers_and_uld_in_one_table(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, ENV, "small", seed, [10.0, 30.0])
        write_peer(tmp_path, seed, [10.0, 20.0], TD3Config())
    found = compare([tmp_path])
    assert found.variants == ["small", "td3"]
    text = write_report(found, tmp_path / "report").with_name("report.md").read_text()
    assert "| environment | agent steps | frames | small | td3 |" in text
    assert f"| {ENV} | 20 | 40 | 30.0 [30.0, 30.0] n=2 | 20.0 [20.0, 20.0] n=2 |" in text
    assert f"uld train {ENV} --agent td3 --preset" in text


def test_runs_of_one_name_and_different_peers_are_refused(tmp_path: Path) -> None:
    write_peer(tmp_path, 0, [1.0], TD3Config())
    write_peer(tmp_path, 1, [1.0], TD3Config(gamma=0.5))
    with pytest.raises(InputError, match=r"of different settings .*peer\.gamma: 0\.99 -> 0\.5"):
        compare([tmp_path])


def test_a_study_of_a_peer_runs_counts_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunConfig(
        total_steps=12, random_steps=8, eval_every=12, eval_episodes=1, checkpoint_every=12, log_every=4
    )
    changed = {
        name: value for name, value in to_dict(run).items() if value != getattr(preset("debug").run, name)
    }
    given = [f"--set=run.{name}={value}" for name, value in changed.items()]
    small = ["--set=dqn.hidden_dim=4", "--set=dqn.batch_size=2", "--set=dqn.update_every=2"]
    where = ["--name", "toy", "--run-dir", str(tmp_path)]
    arguments = [
        "study",
        "run",
        "--envs",
        "CartPole-v1",
        "--agent",
        "dqn",
        "--seeds",
        "0",
        "--preset",
        "debug",
    ]
    assert main([*arguments, *where, *given, *small]) == 0
    path = tmp_path / "gym" / "CartPole-v1" / "dqn" / "seed0"
    written = (path / "environment.txt").read_text()
    assert main([*arguments, *where, *given, *small]) == 0, "done: nothing is run again"
    assert (path / "environment.txt").read_text() == written
    capsys.readouterr()
    assert main(["study", "status", *where[1:]]) == 0
    assert capsys.readouterr().out == "dqn: 1 of 1 runs done, 0 begun\n"
    assert main(["eval", str(path), "--episodes", "1"]) == 0
    assert "of gym/CartPole-v1" in capsys.readouterr().out
