"""What may stand side by side: variants and protocols, published figures, and what a report says of gaps."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from written_runs import write_run

from uld_torchrl.errors import InputError
from uld_torchrl.experiments import aggregates, points, probability_of_improvement, suite
from uld_torchrl.experiments.comparison import Comparison, compare
from uld_torchrl.experiments.pictures import curves_figure
from uld_torchrl.experiments.records import read_record
from uld_torchrl.experiments.report import Table, tables, write_report
from uld_torchrl.peers import DQNConfig

WALKER, RUN, PONG, CARTPOLE = "dmc/walker-run", "dmc/cheetah-run", "atari/Pong", "gym/CartPole-v1"


def table(comparison: Comparison, name: str) -> Table:
    return next(each for each in tables(comparison, 50) if each.name == name)


def rows(comparison: Comparison, name: str) -> list[dict[str, str]]:
    found = table(comparison, name)
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def notes(comparison: Comparison, folder: Path) -> str:
    """Return what stands in the report above its first table."""
    write_report(comparison, folder, resamples=10)
    return (folder / "report.md").read_text(encoding="utf-8").partition("\n## ")[0]


def test_mrq_s_own_returns_give_its_published_atari_row(tmp_path: Path) -> None:
    for env in suite("atari57").envs:
        last = points(env, "mrq")[-1]
        write_run(tmp_path, env, "copy", 0, [last.mean], every=last.step, finished=False)
    ours, theirs = rows(compare([tmp_path], ["mrq"]), "aggregates")
    published = aggregates("atari57", 2_500_000)
    assert ours["environments"] == theirs["environments"] == "55"
    for name in ("mean", "median"):
        assert ours[name] == f"{published[name].mean:.3f}"
        assert theirs[name].startswith(f"{ours[name]} [")
    assert theirs["IQM over task means"] == ours["IQM over task means"]
    assert theirs["IQM over runs"].startswith(f"{published['iqm'].mean:.3f} [")


def test_the_games_left_out_are_named_and_still_reported(tmp_path: Path) -> None:
    for env in ("atari/Defender", PONG):
        for variant in ("a", "b"):
            write_run(tmp_path, env, variant, 0, [1.0])
    comparison = compare([tmp_path])
    assert list(comparison.scores("a")) == [PONG] and len(rows(comparison, "scores")) == 2
    assert "but atari/Defender, which published aggregates" in table(comparison, "aggregates").caption


def test_a_game_that_is_left_out_elsewhere_stands_when_it_is_alone(tmp_path: Path) -> None:
    write_run(tmp_path, "atari/Defender", "a", 0, [1.0])
    comparison = compare([tmp_path])
    assert list(comparison.scores("a")) == ["atari/Defender"]
    assert ", with 95 %" in table(comparison, "aggregates").caption  # nothing is said to be left out


def test_one_name_for_two_settings_is_refused_across_environments(tmp_path: Path) -> None:
    write_run(tmp_path, WALKER, "a", 0, [1.0])
    write_run(tmp_path, RUN, "a", 0, [1.0], settings=["loss.gamma=0.9"])
    with pytest.raises(InputError, match=r"one name but of different settings \(loss.gamma: 0.9 -> 0.99\)"):
        compare([tmp_path])


def test_one_name_for_two_agents_is_refused_across_environments(tmp_path: Path) -> None:
    write_run(tmp_path, CARTPOLE, "a", 0, [1.0], peer=DQNConfig())
    write_run(tmp_path, WALKER, "a", 0, [1.0])
    with pytest.raises(InputError, match=r"agent: uld -> dqn"):
        compare([tmp_path])


def test_a_variant_may_have_another_suite_s_steps_evaluations_and_images(tmp_path: Path) -> None:
    write_run(tmp_path, WALKER, "a", 0, [1.0], every=10, settings=["run.eval_every=10"])
    other = ["run.eval_every=20", "run.eval_episodes=3", "run.checkpoint_every=7", "atari.frame_skip=1"]
    write_run(tmp_path, PONG, "a", 0, [1.0], every=20, settings=other, episodes=3)
    assert len(compare([tmp_path]).records) == 2


def test_games_of_one_variant_have_one_protocol(tmp_path: Path) -> None:
    write_run(tmp_path, PONG, "a", 0, [1.0])
    write_run(tmp_path, "atari/Alien", "a", 0, [1.0], settings=["atari.frame_skip=1"])
    with pytest.raises(InputError, match=r"atari.frame_skip: 1 -> 4"):
        compare([tmp_path])


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_another_length_is_another_variant_where_learning_rates_fall_over_it(
    tmp_path: Path, decay: str
) -> None:
    for root, settings in (("falling", [f"optim.lr_decay={decay}"]), ("constant", [])):
        write_run(tmp_path / root, WALKER, "a", 0, [1.0], settings=settings)
        write_run(tmp_path / root, WALKER, "a", 1, [1.0, 2.0], settings=settings)
    with pytest.raises(InputError, match=r"run.total_steps: 10 -> 20"):
        compare([tmp_path / "falling"])
    assert len(compare([tmp_path / "constant"]).records) == 2


@pytest.mark.parametrize(("env", "space"), [(CARTPOLE, "Discrete"), (PONG, None)])
def test_sampled_and_greedy_evaluations_are_not_mixed(tmp_path: Path, env: str, space: str | None) -> None:
    sampled = ["run.greedy_discrete_eval=false"]
    write_run(tmp_path, env, "a", 0, [1.0], settings=sampled, action_space=space)
    write_run(tmp_path, env, "b", 0, [1.0], action_space=space)
    with pytest.raises(InputError, match=r"different protocols \(greedy evaluation: False -> True\)"):
        compare([tmp_path])


def test_a_dqn_between_them_hides_no_mixture(tmp_path: Path) -> None:
    sampled = ["run.greedy_discrete_eval=false"]
    write_run(tmp_path, CARTPOLE, "a-dqn", 0, [1.0], peer=DQNConfig(), action_space="Discrete")
    write_run(tmp_path, CARTPOLE, "b", 0, [1.0], settings=sampled, action_space="Discrete")
    assert len(compare([tmp_path]).records) == 2
    write_run(tmp_path, CARTPOLE, "c", 0, [1.0], action_space="Discrete")
    with pytest.raises(InputError, match="greedy evaluation"):
        compare([tmp_path])


def test_continuous_actions_are_always_evaluated_greedily(tmp_path: Path) -> None:
    sampled = ["run.greedy_discrete_eval=false"]
    write_run(tmp_path, WALKER, "a", 0, [1.0], settings=sampled, action_space="Box")
    write_run(tmp_path, WALKER, "b", 0, [1.0], action_space="Box")
    assert len(compare([tmp_path]).records) == 2


def test_frames_are_those_of_the_run_s_frame_skip(tmp_path: Path) -> None:
    write_run(tmp_path, PONG, "a", 0, [1.0], every=100, settings=["atari.frame_skip=3"])
    write_run(tmp_path, WALKER, "a", 0, [1.0], every=100, settings=["atari.frame_skip=3"])
    assert [row["frames"] for row in rows(compare([tmp_path]), "scores")] == ["300", "200"]


@pytest.mark.parametrize(
    ("env", "setting", "told"),
    [
        (PONG, "atari.sticky_actions=0.0", "atari.sticky_actions: 0.25 -> 0.0"),
        ("dmc-pixels/walker-run", "pixels.frame_stack=1", "pixels.frame_stack: 3 -> 1"),
    ],
)
def test_published_figures_of_other_settings_are_withheld(
    tmp_path: Path, env: str, setting: str, told: str
) -> None:
    step = points(env, "mrq")[0].step
    for root, settings in (("same", []), ("other", [setting])):
        write_run(tmp_path / root, env, "a", 0, [1.0], every=step, settings=settings)
    same, other = (compare([tmp_path / root], ["mrq"]) for root in ("same", "other"))
    assert rows(same, "scores")[0]["mrq"] != "" and rows(other, "scores")[0]["mrq"] == ""
    assert len(rows(same, "aggregates")) == 2 and len(rows(other, "aggregates")) == 1
    assert [len(curves_figure(each, 10).axes[0].lines) for each in (same, other)] == [2, 1]
    assert f"{env} ({told})" in notes(other, tmp_path / "out")
    assert "No published figures" not in notes(same, tmp_path / "out")
    assert "No published figures" not in notes(compare([tmp_path / "other"]), tmp_path / "out")  # none asked


def test_settings_of_other_kinds_of_environments_withhold_nothing(tmp_path: Path) -> None:
    settings = ["atari.sticky_actions=0.0", "pixels.frame_stack=1"]
    write_run(tmp_path, WALKER, "a", 0, [1.0], every=5000, settings=settings)
    assert rows(compare([tmp_path], ["mrq"]), "scores")[0]["mrq"] != ""


@pytest.mark.parametrize("cell", ["abc", "nan", "inf", "-5"])
def test_a_damaged_time_is_not_known(tmp_path: Path, cell: str) -> None:
    run = write_run(tmp_path, WALKER, "a", 0, [1.0])
    (run / "timing.csv").write_text(f"step,seconds\n10,{cell}\n")
    (costs,) = rows(compare([tmp_path]), "costs")
    assert (costs["hours"], costs["steps/s"]) == ("not known", "not known")


@pytest.mark.parametrize(
    "header", ["[]", "1", '{"a": []}', '{"a": {"shape": ["x"]}}', '{"a": {"shape": [0.5]}}', "[" * 100_000]
)
def test_a_damaged_header_of_weights_is_no_size(tmp_path: Path, header: str) -> None:
    run = write_run(tmp_path, WALKER, "a", 0, [1.0])
    text = header.encode()
    (run / "model" / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    assert read_record(run).parameters is None


def test_the_run_that_holds_the_others_back_is_named(tmp_path: Path) -> None:
    for variant, returns in (("a", [1.0, 2.0, 3.0]), ("b", [1.0, 2.0])):
        write_run(tmp_path / "runs", WALKER, variant, 0, returns)
    write_run(tmp_path / "runs", RUN, "a", 0, [1.0])
    said = notes(compare([tmp_path / "runs"]), tmp_path / "out")
    assert f"{WALKER}/b/seed0 ends at step 20, others at up to 30, all are compared at step 20." in said
    assert RUN not in said.partition("Held back")[2]


def test_uneven_seeds_are_noted_for_the_pooled_iqm(tmp_path: Path) -> None:
    """With 8 runs of 900 and 2 of 0 the pooled IQM is 0.9, where the mean is 0.45."""
    for seed in range(8):
        write_run(tmp_path / "runs", WALKER, "a", seed, [900.0], finished=False)
    for seed in range(2):
        write_run(tmp_path / "runs", RUN, "a", seed, [0.0], finished=False)
    comparison = compare([tmp_path / "runs"])
    (row,) = rows(comparison, "aggregates")
    assert row["mean"].startswith("0.450") and row["IQM over runs"].startswith("0.900")
    assert "different numbers of seeds for a: the IQM over runs" in notes(comparison, tmp_path / "out")


def test_nothing_is_noted_of_even_and_whole_runs(tmp_path: Path) -> None:
    for env in (WALKER, RUN):
        for seed in range(5):
            write_run(tmp_path / "runs", env, "a", seed, [1.0], every=5000, finished=False)
    said = notes(compare([tmp_path / "runs"], ["mrq"]), tmp_path / "out")
    for note in ("Held back", "numbers of seeds", "Fewer than five", "No published figures"):
        assert note not in said


@pytest.mark.parametrize(
    ("ours", "theirs", "lead", "decided"),
    [(4, 5, 9, "too few seeds"), (5, 4, 9, "too few seeds"), (5, 5, 9, "yes"), (5, 5, 0, "no")],
)
def test_an_improvement_is_decided_from_five_runs_on(
    tmp_path: Path, ours: int, theirs: int, lead: int, decided: str
) -> None:
    for seed in range(theirs):
        write_run(tmp_path, WALKER, "a", seed, [float(seed)], finished=False)
    for seed in range(ours):
        write_run(tmp_path, WALKER, "b", seed, [float(seed + lead)], finished=False)
    (row,) = rows(compare([tmp_path]), "improvement")
    assert row["decided"] == decided


@pytest.mark.parametrize(("runs", "share"), [(2, "33 %"), (3, "20 %"), (5, "10 %")])
def test_the_caption_s_false_decisions_are_those_of_all_orders(tmp_path: Path, runs: int, share: str) -> None:
    """Without a difference all orders of the runs are equally likely, and only their order counts."""
    found = []
    for ours in combinations(range(2 * runs), runs):
        theirs = [rank for rank in range(2 * runs) if rank not in ours]
        interval = probability_of_improvement({"a": ours}, {"a": theirs})
        found.append(interval.low > 0.5 or interval.high < 0.5)
    for variant in ("a", "b"):
        write_run(tmp_path, WALKER, variant, 0, [1.0])
    assert f"{100 * np.mean(found):.0f} %" == share
    assert share in table(compare([tmp_path]), "improvement").caption
