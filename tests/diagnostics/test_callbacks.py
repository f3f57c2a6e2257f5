"""Callbacks: when a run calls, that it goes on as if it had not, and what audits and probes leave behind."""

from __future__ import annotations

import dataclasses
import random
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.wrappers import TimeLimit

import theory
from uld_torchrl.config import AgentConfig, override, preset
from uld_torchrl.diagnostics import AuditEvery, ProbeEvery, export_embeddings, mdp_of_env
from uld_torchrl.diagnostics.figures import AUDIT_COLUMNS
from uld_torchrl.diagnostics.probes import PROBE_COLUMNS, probe_columns
from uld_torchrl.envs.tabular import TabularEnv, named_mdp
from uld_torchrl.errors import InputError
from uld_torchrl.tables import read_rows
from uld_torchrl.trainers import Callback, ULDTrainer

TINY = override(
    preset("debug"),
    [
        "optim.batch_size=4",
        "optim.period=5",
        "run.total_steps=40",
        "run.random_steps=10",
        "run.eval_every=20",
        "run.checkpoint_every=20",
        "run.log_every=10",
    ],
)
RIVER = "tabular/riverswim"


def trainer_of(
    root: Path, *callbacks: Callback, env: Any = RIVER, config: AgentConfig = TINY, **run: int
) -> ULDTrainer:
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, **run))
    return ULDTrainer(env, config, name="tiny", run_dir=root, callbacks=callbacks)


def trained(root: Path, *callbacks: Callback, **options: Any) -> Path:
    trainer = trainer_of(root, *callbacks, **options)
    try:
        return trainer.train().path
    finally:
        trainer.close()


@dataclass(frozen=True)
class Note(Callback):
    """Notes the steps at which it is called, and the checkpoints that there are by then."""

    calls: list[int] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)
    saved: list[set[str]] = field(default_factory=list)

    def begin(self, trainer: ULDTrainer) -> None:
        self.begun.append(trainer.step)

    def __call__(self, trainer: ULDTrainer) -> None:
        self.calls.append(trainer.step)
        self.saved.append({path.name[-2:] for path in trainer.run.checkpoints.glob("step-*")})


@dataclass(frozen=True)
class Disturb(Callback):
    """Draws from every random state, and from the replay buffer."""

    def __call__(self, trainer: ULDTrainer) -> None:
        torch.rand(7), np.random.rand(7), random.random()
        if trainer.buffer.can_sample():
            trainer.buffer.sample()


class PowerCut(BaseException):
    """As SIGKILL: unlike what else a callback raises, it leaves no time to save."""


@dataclass(frozen=True)
class Stop(Callback):
    """Ends the run as a crash would."""

    def __call__(self, trainer: ULDTrainer) -> None:
        raise PowerCut


# When


def test_a_callback_is_called_at_every_multiple_and_at_the_end(tmp_path: Path) -> None:
    often, once, late = Note(12), Note(1000), Note(20)
    trained(tmp_path, often, once, late)
    assert (often.calls, once.calls, late.calls) == ([12, 24, 36, 40], [40], [20, 40])
    assert often.begun == once.begun == [0]
    assert late.saved == [set(), {"20"}]  # before the checkpoint of its step


def test_with_several_environments_it_is_called_when_a_multiple_is_passed(tmp_path: Path) -> None:
    note = Note(6)
    trained(tmp_path, note, num_envs=4)
    assert note.calls == [8, 12, 20, 24, 32, 36, 40]  # 6, 12, 18, 24, 30, 36 reached or passed


def test_a_resumed_run_calls_for_the_steps_after_its_checkpoint_again(tmp_path: Path) -> None:
    first, second = Note(8), Note(8)
    with pytest.raises(PowerCut):
        trained(tmp_path, first, Stop(35))
    trained(tmp_path, second)
    assert first.calls == [8, 16, 24, 32]
    assert second.begun == [20]
    assert second.calls == [24, 32, 40]


def test_a_finished_run_calls_nothing(tmp_path: Path) -> None:
    trained(tmp_path)
    note = Note(1)
    trained(tmp_path, note)
    assert note.calls == note.begun == []


def test_a_run_that_goes_on_calls_on(tmp_path: Path) -> None:
    first, second = Note(16), Note(16)
    trained(tmp_path, first)
    trained(tmp_path, second, total_steps=56)
    assert (first.calls, second.calls) == ([16, 32, 40], [48, 56])


@pytest.mark.parametrize("every", [0, -3, 2.5, "often"])
def test_a_bad_interval_is_refused(every: Any) -> None:
    with pytest.raises(InputError, match="every must be an integer of at least 1, got"):
        Note(every)


def test_the_refusal_says_whose_interval_it_is() -> None:
    with pytest.raises(InputError, match=r"^ProbeEvery: every must be"):
        ProbeEvery(0)


@pytest.mark.parametrize(
    ("given", "named"), [([print], "built-in function print"), (AuditEvery(9), "AuditEvery")]
)
def test_what_is_no_list_of_callbacks_is_refused(given: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"callbacks must be a sequence of .*Callback, got .*{named}"):
        ULDTrainer(RIVER, TINY, name="tiny", run_dir=tmp_path, callbacks=given)
    assert not list(tmp_path.iterdir())


def test_a_policy_or_mdp_of_an_audit_is_refused_before_training() -> None:
    with pytest.raises(InputError, match="policy must be one of greedy, softmax; got 'boltzmann'"):
        AuditEvery(10, policy="boltzmann")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"mdp must be a theory\.TabularMDP, got str"):
        AuditEvery(10, mdp="riverswim")  # type: ignore[arg-type]


def test_probes_of_one_window_are_refused() -> None:
    with pytest.raises(InputError, match="windows must be an integer of at least 2, got 1"):
        ProbeEvery(10, windows=1)


# Nothing is disturbed


def files_of(run: Path) -> dict[str, bytes]:
    names = ("metrics.csv", "eval.csv", "config.json", "model/config.json", "model/model.safetensors")
    return {name: (run / name).read_bytes() for name in names}


@pytest.mark.parametrize("schedule", ["periodic", "every_step"])
def test_a_run_is_the_same_with_and_without_audits_and_probes(tmp_path: Path, schedule: str) -> None:
    config = override(TINY, [f"optim.schedule={schedule}"])
    plain = trained(tmp_path / "plain", config=config)
    watched = trained(
        tmp_path / "watched", AuditEvery(7), ProbeEvery(9, windows=9), Disturb(3), config=config
    )
    assert len(read_rows(watched / "audits.csv")) == 6
    assert files_of(watched) == files_of(plain)


def test_the_run_above_would_notice_a_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uld_torchrl.trainers.callbacks.same_random_state", nullcontext)
    plain, disturbed = trained(tmp_path / "plain"), trained(tmp_path / "disturbed", Disturb(3))
    assert files_of(disturbed)["metrics.csv"] != files_of(plain)["metrics.csv"]


def test_several_environments_are_not_disturbed_either(tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", num_envs=3)
    watched = trained(tmp_path / "watched", AuditEvery(7), ProbeEvery(9), num_envs=3)
    assert files_of(watched) == files_of(plain)


# Audits


def test_an_audit_leaves_the_export_of_its_step(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, AuditEvery(15, policy="softmax"))
    run = trainer.train().path
    trainer.close()
    names = sorted(path.name for path in (run / "audits").iterdir())
    assert names == ["step-15.npz", "step-30.npz", "step-40.npz"]
    with np.load(run / "audits" / "step-40.npz", allow_pickle=False) as file:
        last = dict(file)
    mdp = named_mdp("riverswim", 0.99)
    for name, array in export_embeddings(trainer.agent, mdp, "softmax").items():
        np.testing.assert_array_equal(last[name], array, err_msg=name)
    assert (int(last["step"]), last["counts"].sum()) == (40, 40)
    states = trainer.buffer[:]["observation"].flatten(0, 1).argmax(-1)
    actions = trainer.buffer[:]["action"].flatten(0, 1).argmax(-1)
    for state, action in np.ndindex(6, 2):
        assert last["counts"][state, action] == int(((states == state) & (actions == action)).sum())


def test_the_table_holds_what_theory_says_of_each_export(tmp_path: Path) -> None:
    run = trained(tmp_path, AuditEvery(20))
    rows = read_rows(run / "audits.csv")
    assert [row["step"] for row in rows] == ["20", "40"]
    mdp = named_mdp("riverswim", 0.99)
    for row in rows:
        path = run / "audits" / f"step-{row['step']}.npz"
        report = theory.audit_embeddings(path, mdp)
        assert report.value is not None and report.acting is not None and report.acting.greedy is not None
        assert report.linearity is not None and report.linearity.true is not None and report.noise is not None
        assert report.returns is not None
        with np.load(path) as file:
            visited = float((file["counts"] > 0).mean())  # every state is live and reached from the start
        parts = report.value.parts
        wanted = {
            "pairs_visited": visited,
            "equalities_hold": 1.0,
            "best_value": report.acting.best,
            "greedy_value": report.acting.greedy.value,
            "greedy_share": report.acting.greedy.ratio,
            "policy_value": report.value.true_start,
            "claimed_value": report.value.claimed_start,
            "value_error": report.value.error.weighted,
            "value_error_max": report.value.error.largest,
            **{f"{name}_part": parts[name].weighted for name in ("reward", "dynamics", "planning")},
            "n_step_part": report.returns.sizes["n-step part"].weighted,
            "n_step_rest": report.returns.sizes["rest"].weighted,
            "effective_rank": report.linearity.effective_rank,
            "r2_true": report.linearity.true.r2[report.linearity.at],
            "r2_random": report.linearity.random[report.linearity.at],
            "dynamics_loss": report.noise.mean_noise + report.noise.mean_bias,
            "dynamics_noise": report.noise.mean_noise,
        }
        for name, value in wanted.items():
            assert float(row[name]) == pytest.approx(value, rel=1e-9, abs=1e-12), name
        assert list(row) == list(AUDIT_COLUMNS)


def test_a_resumed_run_forgets_audits_and_probes_of_steps_that_it_does_again(tmp_path: Path) -> None:
    with pytest.raises(PowerCut):
        trained(tmp_path, AuditEvery(6), ProbeEvery(6), Stop(35))
    (run,) = tmp_path.rglob("seed0")
    assert {path.stem for path in (run / "audits").iterdir()} == {f"step-{n}" for n in (6, 12, 18, 24, 30)}
    trained(tmp_path, AuditEvery(16), ProbeEvery(16))  # from step 20
    assert {path.stem for path in (run / "audits").iterdir()} == {f"step-{n}" for n in (6, 12, 18, 32, 40)}
    assert [row["step"] for row in read_rows(run / "audits.csv")] == ["6", "12", "18", "32", "40"]
    assert [row["step"] for row in read_rows(run / "probes.csv")] == ["6", "12", "18", "32", "40"]


def test_so_does_one_that_goes_on_without_audits(tmp_path: Path) -> None:
    with pytest.raises(PowerCut):
        trained(tmp_path, AuditEvery(6), ProbeEvery(6), Stop(35))
    run = trained(tmp_path)  # from step 20
    assert {path.stem for path in (run / "audits").iterdir()} == {f"step-{n}" for n in (6, 12, 18)}
    for table in ("audits", "probes"):
        assert [row["step"] for row in read_rows(run / f"{table}.csv")] == ["6", "12", "18"]


def test_a_fresh_start_in_an_old_directory_forgets_everything(tmp_path: Path) -> None:
    with pytest.raises(PowerCut):
        trained(tmp_path, AuditEvery(6), Stop(15))  # before the first checkpoint
    run = trained(tmp_path, AuditEvery(40))
    assert [path.name for path in (run / "audits").iterdir()] == ["step-40.npz"]
    assert [row["step"] for row in read_rows(run / "audits.csv")] == ["40"]


def test_an_environment_of_ones_own_is_audited_on_the_mdp_it_is(tmp_path: Path) -> None:
    mdp = named_mdp("chain", 0.5)
    places = np.linspace(-1, 1, 11)[:, None]

    def make() -> Any:
        return TimeLimit(TabularEnv(mdp, places), 20)

    run = trained(tmp_path, AuditEvery(40, mdp, observations=places), env=make)
    with np.load(run / "audits" / "step-40.npz") as file:
        assert (file["counts"].sum(), float(file["gamma"])) == (40, 0.99)


def begun(tmp_path: Path, callback: Callback, env: Any = RIVER, config: AgentConfig = TINY) -> str:
    with pytest.raises(InputError) as caught:
        trained(tmp_path, callback, env=env, config=config)
    (run,) = tmp_path.rglob("seed0")
    assert not (run / "audits.csv").exists()
    assert not (run / "environment.txt").exists()  # no step was taken
    return str(caught.value)


def test_an_audit_of_what_is_not_tabular_is_refused_before_the_first_step(tmp_path: Path) -> None:
    said = begun(tmp_path, AuditEvery(5), env="CartPole-v1")
    assert "gym/CartPole-v1 has no tabular MDP" in said
    assert "uld audit --mdp frozenlake4x4" in said


def test_an_audit_on_another_mdp_is_refused_before_the_first_step(tmp_path: Path) -> None:
    assert "the MDP has 4 actions" in begun(tmp_path, AuditEvery(5, theory.frozen_lake()))
    chain = theory.garnet(7, 2, 2, gamma=0.9, seed=0)
    assert "in which the 7 states of the MDP are not known" in begun(tmp_path, AuditEvery(5, chain))


def test_an_audit_of_predicted_pairs_is_refused_before_the_first_step(tmp_path: Path) -> None:
    config = override(TINY, ["loss.dynamics_target=state_action", "loss.unroll=false"])
    assert "dynamics_target 'state_action'" in begun(tmp_path, AuditEvery(5), config=config)


def test_an_mdp_in_which_the_agent_is_not_is_refused_when_it_shows(tmp_path: Path) -> None:
    shifted = np.eye(6)[[1, 2, 3, 4, 5, 0]] * 2
    with pytest.raises(InputError, match="which is none of the observations of the MDP's 6"):
        trained(tmp_path, AuditEvery(5, observations=shifted))


@pytest.mark.parametrize(
    ("name", "states", "actions"),
    [("tabular/frozenlake4x4", 16, 4), ("gym/FrozenLake-v1", 16, 4), ("gym/Taxi-v4", 500, 6)],
)
def test_the_mdp_of_an_environment_is_found_by_its_name(name: str, states: int, actions: int) -> None:
    mdp = mdp_of_env(name, 0.9)
    assert (mdp.num_states, mdp.num_actions, mdp.gamma) == (states, actions, 0.9)


def test_the_mdp_of_frozen_lake_is_the_one_that_is_stepped() -> None:
    found, wanted = mdp_of_env("gym/FrozenLake-v1", 0.9), theory.frozen_lake("4x4", 0.9)
    np.testing.assert_allclose(found.P, wanted.P, atol=1e-15)
    np.testing.assert_allclose(found.r, wanted.r, atol=1e-15)


@pytest.mark.parametrize("name", ["dmc/walker-run", "atari/Pong", "custom/TabularEnv", "gym/CartPole-v1"])
def test_other_environments_have_no_mdp(name: str) -> None:
    with pytest.raises(InputError, match="has no tabular MDP that is known by its name"):
        mdp_of_env(name, 0.9)


def test_an_unknown_tabular_name_is_refused() -> None:
    with pytest.raises(InputError, match="tabular/riverswin names no known tabular MDP"):
        mdp_of_env("tabular/riverswin", 0.9)


# Probes


def test_probes_leave_a_row_as_soon_as_there_is_a_window(tmp_path: Path) -> None:
    run = trained(tmp_path, ProbeEvery(3, windows=10))
    rows = read_rows(run / "probes.csv")
    assert [int(row["step"]) for row in rows] == [*range(6, 40, 3), 40]  # a window is five steps
    assert {row["windows"] for row in rows} == {"10.0"}
    assert list(rows[0]) == ["step", *probe_columns(5)]


def test_probes_are_for_any_environment(tmp_path: Path) -> None:
    for name in ("CartPole-v1", "Pendulum-v1"):
        rows = read_rows(trained(tmp_path, ProbeEvery(20), env=name) / "probes.csv")
        assert [(row["step"], row["windows"]) for row in rows] == [("20", "256.0"), ("40", "256.0")]
        assert all(0 < float(row["effective_rank"]) <= 16 for row in rows)


# Documents


def test_the_documents_show_what_audits_and_probes_write() -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = [line for line in text.partition("## On request")[2].splitlines() if line.startswith("| `")]
    probes = {"step": AUDIT_COLUMNS["step"], **PROBE_COLUMNS}
    assert rows == [
        *(f"| `audit/{name}` | audits.csv | {meaning} |" for name, meaning in AUDIT_COLUMNS.items()),
        *(f"| `probe/{name}` | probes.csv | {meaning} |" for name, meaning in probes.items()),
    ]
