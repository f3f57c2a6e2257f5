"""Studies: what they consist of, their file, their commands; a real one from the command to its report."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from written_runs import write_run

from uld_torchrl.ablations import ABLATIONS
from uld_torchrl.cli import main
from uld_torchrl.cli_experiments import StudyRun, make_study
from uld_torchrl.config import override, preset, to_dict
from uld_torchrl.errors import InputError
from uld_torchrl.experiments.jobs import check_jobs, make_jobs
from uld_torchrl.experiments.study import Study, load_study, status
from uld_torchrl.tables import last_step

TOY = Study("toy", ("CartPole-v1", "Pendulum-v1"), {"a": (), "b": ("loss.gamma=0.9",)}, (0, 1), "debug")


def test_jobs_are_all_combinations_seed_by_seed() -> None:
    names = [job.name for job in TOY.jobs()]
    assert names[:4] == [f"{env}/{v}/seed0" for v in "ab" for env in ("CartPole-v1", "Pendulum-v1")]
    assert len(set(names)) == 8
    assert [job.config.loss.gamma for job in TOY.jobs()[:4]] == [0.99, 0.99, 0.9, 0.9]


def test_the_settings_of_a_variant_come_last() -> None:
    (job,) = make_jobs(["CartPole-v1"], {"a": ("loss.gamma=0.9",)}, [0], settings=["loss.gamma=0.5"])
    assert job.config.loss.gamma == 0.9


@pytest.mark.parametrize(
    ("envs", "variants", "seeds", "told"),
    [
        ([], {"a": ()}, [0], "at least one environment"),
        (["CartPole-v1"], {}, [0], "at least one variant"),
        (["CartPole-v1"], {"a": ()}, [], "at least one seed"),
        (["CartPole-v1"], {"a": ("loss.gama=1",)}, [0], "no setting 'loss.gama=1'"),
    ],
)
def test_a_study_of_nothing_is_refused(
    envs: list[str], variants: dict[str, tuple[str, ...]], seeds: list[int], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        make_jobs(envs, variants, seeds)


def test_one_environment_under_two_names_is_one(tmp_path: Path) -> None:
    envs = ("Pendulum-v1", "gym/Pendulum-v1", "Dmc-walker-run", "dmc/walker-run")
    jobs = make_jobs(envs, {"a": ()}, [0])
    paths = [str(job.path(Path("runs"))) for job in jobs]
    assert paths == ["runs/gym/Pendulum-v1/a/seed0", "runs/dmc/walker-run/a/seed0"]
    for env in envs:
        Study("toy", (env,), {"a": ()}, (0,)).save(tmp_path)
    assert load_study(tmp_path / "toy.study.json").envs == ("Pendulum-v1", "Dmc-walker-run")


@pytest.mark.parametrize("name", ["a/b", "", "..", ".hidden", "a b"])
def test_a_study_is_called_as_a_file_can_be(name: str) -> None:
    with pytest.raises(InputError, match="the name of a study must consist of letters"):
        Study(name, ("CartPole-v1",), {"a": ()}, (0,))


def test_a_study_may_become_longer(tmp_path: Path) -> None:
    def toy(*settings: str, seed: int = 0) -> Study:
        return Study("toy", ("CartPole-v1",), {"a": ()}, (seed,), "debug", settings)

    toy("loss.gamma=0.9").save(tmp_path)
    for seed, steps in enumerate((301, 301, 5000), 1):  # the preset has 300
        toy("loss.gamma=0.9", f"run.total_steps={steps}", seed=seed).save(tmp_path)
    whole = load_study(toy().path(tmp_path))
    assert whole.settings == ("loss.gamma=0.9", "run.total_steps=5000") and whole.seeds == (0, 1, 2, 3)
    with pytest.raises(InputError, match=r"another settings \(run\.total_steps: 5000 -> 4999\)"):
        toy("loss.gamma=0.9", "run.total_steps=4999").save(tmp_path)
    with pytest.raises(
        InputError, match=r"settings \(loss\.gamma: 0\.9 -> as the preset, run\.total_steps: 5000"
    ):
        toy("run.total_steps=6000").save(tmp_path)
    assert load_study(toy().path(tmp_path)) == whole


def test_a_study_is_kept_and_grows(tmp_path: Path) -> None:
    TOY.save(tmp_path)
    assert load_study(TOY.path(tmp_path)) == TOY
    Study("toy", ("Acrobot-v1",), {"c": ("loss.gamma=0.8",)}, (5,), "debug").save(tmp_path)
    whole = load_study(TOY.path(tmp_path))
    assert whole.envs == (*TOY.envs, "Acrobot-v1") and list(whole.variants) == ["a", "b", "c"]
    assert whole.seeds == (0, 1, 5)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            Study("toy", ("CartPole-v1",), {"a": ("loss.gamma=0.5",)}, (0,), "debug"),
            "another variant a .loss.gamma: as the preset -> 0.5",
        ),
        (Study("toy", ("CartPole-v1",), {"a": ()}, (0,), "small"), "another preset .debug -> small"),
        (
            Study("toy", ("CartPole-v1",), {"a": ()}, (0,), "debug", ("loss.gamma=0.5",)),
            "another settings .loss.gamma: as the preset -> 0.5",
        ),
    ],
)
def test_one_name_is_one_study(tmp_path: Path, other: Study, told: str) -> None:
    TOY.save(tmp_path)
    with pytest.raises(InputError, match=told):
        other.save(tmp_path)
    assert load_study(TOY.path(tmp_path)) == TOY


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"name": "toy"}', '{"envs": 3}'])
def test_a_damaged_study_file_is_told(tmp_path: Path, damage: str) -> None:
    TOY.path(tmp_path).write_text(damage)
    with pytest.raises(InputError, match="is no study"):
        load_study(TOY.path(tmp_path))


def test_an_unknown_preset_in_a_study_file_is_told(tmp_path: Path) -> None:
    TOY.save(tmp_path)
    text = TOY.path(tmp_path).read_text().replace('"debug"', '"large"')
    TOY.path(tmp_path).write_text(text)
    with pytest.raises(InputError, match="preset must be one of"):
        load_study(TOY.path(tmp_path))


def test_seeds_of_another_configuration_are_named_before_anything_runs(tmp_path: Path) -> None:
    write_run(tmp_path, "gym/CartPole-v1", "a", 0, [1.0])  # preset small
    with pytest.raises(InputError) as told:
        check_jobs(TOY.jobs(), tmp_path)
    assert str(tmp_path / "gym" / "CartPole-v1" / "a" / "seed0") in str(told.value)
    assert "1 runs of this study exist" in str(told.value) and "model.z_s_dim: 256 -> 16" in str(told.value)


def test_more_steps_are_the_same_configuration_and_fewer_are_not(tmp_path: Path) -> None:
    write_run(tmp_path, "gym/CartPole-v1", "a", 0, [1.0], every=500)
    for steps, refused in ((500, False), (501, False), (499, True)):
        jobs = make_jobs(["CartPole-v1"], {"a": ()}, [0], settings=[f"run.total_steps={steps}"])
        if refused:
            with pytest.raises(InputError, match=r"run\.total_steps was 500, got 499"):
                check_jobs(jobs, tmp_path)
        else:
            check_jobs(jobs, tmp_path)


@pytest.mark.parametrize(
    ("decay", "told"), [("none", None), ("linear", r"run\.total_steps was 500, got 600")]
)
def test_where_learning_rates_fall_more_steps_are_another_configuration(
    tmp_path: Path, decay: str, told: str | None
) -> None:
    path = write_run(tmp_path, "gym/CartPole-v1", "a", 0, [1.0], every=500)
    fall = f"optim.lr_decay={decay}"
    config = override(preset("small"), [fall, "run.total_steps=500"])
    (path / "config.json").write_text(json.dumps({"env_id": "x", "seed": 0, "config": to_dict(config)}))
    check_jobs(make_jobs(["CartPole-v1"], {"a": ()}, [0], settings=[fall, "run.total_steps=500"]), tmp_path)
    longer = make_jobs(["CartPole-v1"], {"a": ()}, [0], settings=[fall, "run.total_steps=600"])
    if told is None:
        check_jobs(longer, tmp_path)
    else:
        with pytest.raises(InputError, match=told):
            check_jobs(longer, tmp_path)


def test_status_counts_what_is_done_and_begun(tmp_path: Path) -> None:
    jobs = make_jobs(["CartPole-v1"], {"a": ()}, [0, 1, 2], settings=["run.total_steps=500"])
    write_run(tmp_path, "gym/CartPole-v1", "a", 0, [1.0], every=500)
    write_run(tmp_path, "gym/CartPole-v1", "a", 1, [1.0], every=100, finished=False)
    (tmp_path / "gym/CartPole-v1/a/seed1/metrics.csv").write_text("step,x\n100,1\n250,1\n30")
    assert status(jobs, tmp_path) == ("a: 1 of 3 runs done, 1 begun\n  CartPole-v1/a/seed1: step 250 of 500")


def test_a_suite_sets_steps_and_evaluation_and_options_come_after(capsys: pytest.CaptureFixture[str]) -> None:
    study = make_study(
        StudyRun(suite="dmc-hard7", seeds="0-2", set=("run.eval_every=1000",), total_steps=7000)
    )
    run = study.jobs()[0].config.run
    assert (len(study.jobs()), run.total_steps, run.eval_every, run.eval_episodes) == (21, 7000, 1000, 10)
    assert study.name == "dmc-hard7" and list(study.variants) == ["uld"]


def test_ablations_are_variants_of_their_names() -> None:
    given = StudyRun(
        envs=("CartPole-v1",), ablation=("no-mr,linear-value", "no-min"), variant=("g:loss.gamma=0.9",)
    )
    variants = make_study(given).variants
    assert list(variants) == ["uld", "no-mr", "linear-value", "no-min", "g"]
    assert variants["uld"] == () and variants["no-mr"] == ABLATIONS["no-mr"].settings
    every = make_study(StudyRun(envs=("CartPole-v1",), ablation=("all",))).variants
    assert list(every) == ["uld", *ABLATIONS]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run"], "either --suite or --envs"),
        (["run", "--suite", "gym5", "--envs", "CartPole-v1"], "either --suite or --envs"),
        (["run", "--suite", "gym6"], "Did you mean gym5"),
        (["run", "--envs", "CartPole-v1", "--seeds", "3-1"], "runs backwards"),
        (["run", "--envs", "CartPole-v1", "--variant", "fast"], "name:section.field=value"),
        (["run", "--envs", "CartPole-v1", "--variant", "fast:loss.gama=1"], "no setting"),
        (["run", "--envs", "CartPole-v1", "--ablation", "no-mins"], "did you mean no-min"),
        (
            ["run", "--envs", "CartPole-v1", "--ablation", "no-min", "--variant", "no-min:loss.gamma=0.9"],
            "two variants are called 'no-min'",
        ),
        (["run", "--envs", "CartPole-v1", "--workers", "0"], "workers"),
        (["run", "--envs", "CartPole-v1", "--gpus", "0.5"], "--gpus 0.5 does not go with --launcher local"),
        (["run", "--envs", "CartPole-v1", "--ray-address", "auto"], "--ray-address auto does not go with"),
        (
            ["run", "--envs", "CartPole-v1", "--launcher", "ray", "--workers", "2"],
            "--workers 2 does not go with --launcher ray",
        ),
        (["run", "--envs", "CartPole-v1", "--name", "a/b"], "the name of a study must consist of"),
        (
            ["run", "--envs", "CartPole-v1", "--variant", "a/b:loss.gamma=0.9"],
            "the name of a variant must consist of",
        ),
        (["run", "--envs", "CartPole-v1", "--total-steps", "10"], "total_steps must be greater than"),
        (
            ["run", "--envs", "CartPole-v1", "--variant", "fine:agent=dqn", "--envs", "atari/Pong"],
            "agent dqn takes vectors, got atari/Pong",
        ),
        (["run", "--envs", "dmc-pixels/walker-run", "--agent", "td3"], "agent td3 takes vectors"),
        (["run", "--envs", "CartPole-v1", "--set", "agent=td3"], "use --agent, or --variant name:agent=td3"),
        (["run", "--envs", "CartPole-v1", "--variant", "a:td3.tau=0.1"], "to a variant agent=td3"),
        (["status", "nothing"], "there is no study nothing"),
    ],
)
def test_bad_commands_end_with_one_message(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", *arguments, "--run-dir", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("uld: error: ") and told in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_the_suites_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "list"]) == 0
    out = capsys.readouterr().out
    assert "dmc28          28 environments, 500000 agent steps (1000000 frames), evaluated every 5000" in out


def command(run_dir: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "uld_torchrl.cli", "study", "run", "--run-dir", str(run_dir), *more]


def test_a_real_study_is_run_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, options = tmp_path / "runs", ["--preset", "debug", "--name", "toy", "--workers", "2"]
    asked = ["--envs", "CartPole-v1", "--seeds", "0-1", "--set", "run.total_steps=150", *options]
    assert main(["study", "run", "--run-dir", str(runs), *asked]) == 0
    assert capsys.readouterr().out.endswith("debug: 2 of 2 runs done, 0 begun\n")
    assert main(["report", str(runs), "--out", str(tmp_path / "report")]) == 0
    assert "2 runs, 0 left out" in capsys.readouterr().out
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
    assert json.loads((runs / "toy.study.json").read_text())["seeds"] == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["local", "ray"])
def test_a_study_killed_in_the_middle_goes_on_to_the_same_result(launcher: str, tmp_path: Path) -> None:
    """Two tasks, three seeds, two variants; beside it the same study undisturbed."""
    if launcher == "ray":
        pytest.importorskip("ray", reason="install uld-torchrl[ray]")
    options = ["--preset", "debug", "--seeds", "0-2", "--variant", "short:loss.n_steps=1", "--name", "toy"]
    options += ["--envs", "CartPole-v1", "--envs", "Pendulum-v1", "--launcher", launcher]
    options += ["--workers", "2"] if launcher == "local" else []
    options += ["--set", "run.checkpoint_every=100", "--set", "run.eval_every=100"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    study = subprocess.Popen(command(killed, *options))
    first = killed / "gym" / "CartPole-v1" / "debug" / "seed0" / "eval.csv"
    for _ in range(6000):
        if last_step(first) >= 100:
            break
        time.sleep(0.05)
    study.send_signal(signal.SIGKILL)
    study.wait()
    assert subprocess.run(command(killed, *options), check=False).returncode == 0
    assert subprocess.run(command(whole, *options), check=False).returncode == 0
    files = sorted(path.relative_to(whole) for path in whole.rglob("eval.csv"))
    assert len(files) == 12
    for file in files:
        assert (killed / file).read_text() == (whole / file).read_text()
    assert main(["report", str(killed), "--out", str(tmp_path / "report")]) == 0


@pytest.mark.parametrize(
    ("launcher", "stop"),
    [
        ("local", signal.SIGTERM),
        pytest.param("ray", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("ray", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_study_told_to_stop_saves_its_runs(launcher: str, stop: signal.Signals, tmp_path: Path) -> None:
    if launcher == "ray":
        pytest.importorskip("ray", reason="install uld-torchrl[ray]")
    options = [
        "--launcher",
        launcher,
        "--preset",
        "debug",
        "--seeds",
        "0",
        "--envs",
        "CartPole-v1",
        "--set",
        "run.total_steps=100000",
    ]
    options += ["--set", "optim.period=100000", "--set", "run.random_steps=99000"]
    options += ["--set", "run.checkpoint_every=100000"]  # what is saved is saved for the stop
    study = subprocess.Popen(command(tmp_path, *options), stderr=subprocess.PIPE, text=True)
    run = tmp_path / "gym" / "CartPole-v1" / "debug" / "seed0"
    for _ in range(6000):
        if last_step(run / "metrics.csv"):
            break
        time.sleep(0.05)
    study.send_signal(stop)
    _, error = study.communicate(timeout=300)
    assert study.returncode == 130 and "to go on: uld study run" in error
    assert list((run / "checkpoints").iterdir()) != []
