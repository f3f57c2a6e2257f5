"""Reports: the numbers of runs written by hand, beside published ones; runs that do not fit are refused."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from written_runs import write_run

from uld_torchrl.config import override, preset
from uld_torchrl.errors import InputError
from uld_torchrl.experiments.comparison import compare
from uld_torchrl.experiments.pictures import curves_figure, profile_figure
from uld_torchrl.experiments.records import nearest_preset, read_record
from uld_torchrl.experiments.report import tables, write_report

HOPPER, WALKER = "dmc/hopper-hop", "dmc/walker-run"


def two_variants(root: Path) -> None:
    """Three seeds of two variants on two tasks; the last evaluation of one seed is missing."""
    for seed, value in enumerate((100.0, 200.0, 300.0)):
        write_run(root, HOPPER, "base", seed, [0.0, value], every=5000)
        write_run(root, WALKER, "base", seed, [10.0, 2 * value], every=5000)
        write_run(root, HOPPER, "other", seed, [0.0, value + 50], every=5000, settings=["loss.gamma=0.9"])
        later = [10.0, 900.0, 901.0] if seed else [10.0, 900.0]
        write_run(root, WALKER, "other", seed, later, every=5000, settings=["loss.gamma=0.9"])


def rows_of(folder: Path, table: str) -> list[dict[str, str]]:
    with (folder / f"{table}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_returns_are_those_of_the_step_that_all_runs_have(tmp_path: Path) -> None:
    two_variants(tmp_path / "runs")
    write_report(compare([tmp_path / "runs"], ["mrq", "td7"]), tmp_path / "out", resamples=50)
    hopper, walker = rows_of(tmp_path / "out", "scores")
    assert (hopper["environment"], hopper["agent steps"], hopper["frames"]) == (HOPPER, "10000", "20000")
    assert hopper["base"].startswith("200.0 [") and hopper["base"].endswith("n=3")
    assert walker["other"] == "900.0 [900.0, 900.0] n=3"
    assert "@" not in hopper["mrq"] and hopper["td7"].endswith("@500000")


def test_aggregates_are_normalised_and_stand_beside_the_published(tmp_path: Path) -> None:
    two_variants(tmp_path / "runs")
    comparison = compare([tmp_path / "runs"], ["mrq"])
    assert comparison.on_one_scale and comparison.suite is None
    np.testing.assert_allclose(comparison.scores("base")[WALKER], [0.2, 0.4, 0.6])
    write_report(comparison, tmp_path / "out", resamples=50)
    base, other, mrq = rows_of(tmp_path / "out", "aggregates")
    assert base["mean"].startswith("0.300 [") and other["mean"].startswith("0.575 [")
    # Pooled and sorted .1 .2 .2 .3 .4 .6: one run goes on each side.
    assert base["IQM over runs"].startswith("0.275 [")
    assert mrq["variant"] == "mrq (published)" and mrq["IQM over runs"] == "" and mrq["mean"] != ""


def test_improvement_is_over_the_first_variant(tmp_path: Path) -> None:
    two_variants(tmp_path / "runs")
    write_report(compare([tmp_path / "runs"]), tmp_path / "out", resamples=50)
    (row,) = rows_of(tmp_path / "out", "improvement")
    # Hopper: of 3 x 3 pairs (150, 250, 350) wins 1 + 2 + 3 = 6; walker wins all: (6/9 + 1) / 2.
    assert row["variant"] == "other" and row["P(better)"].startswith("0.833 [")


def test_time_size_and_command_are_those_of_the_run(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", WALKER, "mine", 3, [1.0, 2.0], settings=["loss.gamma=0.9"])
    comparison = compare([tmp_path / "runs"])
    write_report(comparison, tmp_path / "out", resamples=50)
    (costs,) = rows_of(tmp_path / "out", "costs")
    assert (costs["hours"], costs["steps/s"], costs["parameters"]) == ("0.01", "1.0", "16")
    (command,) = rows_of(tmp_path / "out", "commands")
    assert command["command"] == (
        f"uld train {WALKER} --preset small --name mine --seed 3 --set loss.gamma=0.9 "
        "--set run.total_steps=20"
    )
    assert command["versions"] == "torch 2.0, numpy 3"


@pytest.mark.parametrize(
    "settings", [[], ["loss.gamma=0.9", "loss.unroll=false", "optim.schedule=every_step"]]
)
@pytest.mark.parametrize("name", ["uld", "mrq", "small", "debug"])
def test_the_command_gives_the_settings_back(name: str, settings: list[str]) -> None:
    config = override(preset(name), settings)  # type: ignore[arg-type]
    near, given = nearest_preset(config)
    assert override(preset(near), given) == config  # type: ignore[arg-type]


class _Parsed(HTMLParser):
    """Notes the tags and every attribute that could fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_one_file_and_its_tags_close(tmp_path: Path) -> None:
    two_variants(tmp_path / "runs")
    page = write_report(compare([tmp_path / "runs"], ["mrq"]), tmp_path / "out", resamples=50)
    text, parsed = page.read_text(encoding="utf-8"), _Parsed()
    parsed.feed(text)
    assert parsed.open == [] and "script" not in parsed.tags and "link" not in parsed.tags
    assert len(parsed.fetched) == 2 and all(
        each.startswith("data:image/png;base64,") for each in parsed.fetched
    )
    assert parsed.tags.count("table") == 5 and "url(" not in text
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"curves.png", "profile.png"}


def test_markdown_has_every_table_of_the_page(tmp_path: Path) -> None:
    two_variants(tmp_path / "runs")
    comparison = compare([tmp_path / "runs"])
    page = write_report(comparison, tmp_path / "out", resamples=50).read_text(encoding="utf-8")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    headings = [table.heading for table in tables(comparison, 50)]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == headings
    assert all(f"<h2>{heading}</h2>" in page for heading in headings)


def test_returns_without_a_scale_have_no_aggregate(tmp_path: Path) -> None:
    for env in ("gym/CartPole-v1", "gym/Pendulum-v1"):
        write_run(tmp_path / "runs", env, "a", 0, [1.0])
        write_run(tmp_path / "runs", env, "b", 0, [2.0])
    comparison = compare([tmp_path / "runs"])
    found = {table.name for table in tables(comparison, 50)}
    assert "aggregates" not in found and "improvement" in found
    write_report(comparison, tmp_path / "out", resamples=50)
    assert "no common scale" in (tmp_path / "out" / "report.md").read_text()


def test_curves_carry_the_published_points_up_to_the_last_step(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", WALKER, "a", 0, [1.0, 2.0, 3.0], every=5000)
    write_run(tmp_path / "runs", WALKER, "a", 1, [3.0, 2.0, 5.0], every=5000)
    axes = curves_figure(compare([tmp_path / "runs"], ["mrq", "dreamerv3"]), 50).axes[0]
    drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
    assert set(drawn) == {"a, n=2", "mrq (published)"}  # DreamerV3 is published at 500 000 only
    np.testing.assert_allclose(drawn["a, n=2"], [[5000, 2], [10000, 2], [15000, 4]])
    assert drawn["mrq (published)"][:, 0].tolist() == [5000, 10000, 15000]


def test_the_profile_falls_from_one_to_nothing(tmp_path: Path) -> None:
    two_variants(tmp_path / "runs")
    for line in profile_figure(compare([tmp_path / "runs"])).axes[0].lines:
        shares = np.asarray(line.get_ydata())
        assert shares[0] == 1.0 and shares[-1] == 0.0 and (np.diff(shares) <= 0).all()


def test_an_empty_or_half_written_run_is_left_out_and_named(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", WALKER, "a", 0, [1.0, 2.0])
    empty = write_run(tmp_path / "runs", WALKER, "a", 1, [], finished=False)
    damaged = write_run(tmp_path / "runs", WALKER, "a", 2, [1.0])
    (damaged / "config.json").write_text('{"env_id": "dmc/walk')
    odd = write_run(tmp_path / "runs", WALKER, "a", 3, [1.0, float("nan")])
    half = write_run(tmp_path / "runs", WALKER, "a", 4, [1.0, 2.0], finished=False)
    with (half / "eval.csv").open("a") as file:
        file.write("30,5")  # killed while it wrote
    comparison = compare([tmp_path / "runs"])
    assert [record.seed for record in comparison.records] == [0, 4]
    assert read_record(half).steps == (10, 20)
    left = {path.name: why for path, why in comparison.left_out.items()}
    assert left["seed1"] == "no evaluation yet" and "config.json cannot be read" in left["seed2"]
    assert "not finite" in left["seed3"] and {empty.name, odd.name} <= set(left)
    write_report(comparison, tmp_path / "out", resamples=50)
    assert len(rows_of(tmp_path / "out", "left_out")) == 3


def test_runs_without_a_common_step_are_listed_without_a_score(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", WALKER, "a", 0, [1.0], every=7)
    write_run(tmp_path / "runs", WALKER, "b", 0, [1.0], every=10)
    comparison = compare([tmp_path / "runs"])
    write_report(comparison, tmp_path / "out", resamples=50)
    (row,) = rows_of(tmp_path / "out", "scores")
    assert (row["agent steps"], row["a"], row["b"]) == ("0", "", "") and not comparison.on_one_scale


def test_another_protocol_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", WALKER, "a", 0, [1.0])
    write_run(tmp_path / "runs", WALKER, "b", 0, [1.0], episodes=3)
    with pytest.raises(InputError, match=r"different protocols \(episodes of an evaluation: 10 -> 3\)"):
        compare([tmp_path / "runs"])


def test_other_image_settings_are_another_protocol_for_images_only(tmp_path: Path) -> None:
    for env in (WALKER, "dmc-pixels/walker-run"):
        write_run(tmp_path / env.partition("/")[0], env, "a", 0, [1.0])
        write_run(tmp_path / env.partition("/")[0], env, "b", 0, [1.0], settings=["pixels.frame_stack=4"])
    assert len(compare([tmp_path / "dmc"]).records) == 2
    with pytest.raises(InputError, match="frame_stack: 3 -> 4"):
        compare([tmp_path / "dmc-pixels"])


def test_one_name_for_two_settings_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", WALKER, "a", 0, [1.0])
    write_run(tmp_path / "runs", WALKER, "a", 1, [1.0], settings=["loss.gamma=0.9"])
    with pytest.raises(InputError, match=r"different settings \(loss.gamma: 0.99 -> 0.9\)"):
        compare([tmp_path / "runs"])


def test_two_runs_of_a_seed_are_refused(tmp_path: Path) -> None:
    for root in ("here", "there"):
        write_run(tmp_path / root, WALKER, "a", 0, [1.0])
    with pytest.raises(InputError, match="both seed 0 of a"):
        compare([tmp_path / "here", tmp_path / "there"])
    assert len(compare([tmp_path / "here", tmp_path / "here"]).records) == 1  # named twice


@pytest.mark.parametrize(
    ("paths", "against", "told"),
    [
        (["nowhere"], [], "does not exist"),
        (["empty"], [], "no run at or below"),
        (["runs"], ["td8"], "method must be one of"),
    ],
)
def test_what_cannot_be_reported_is_told(
    tmp_path: Path, paths: list[str], against: list[str], told: str
) -> None:
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "runs", WALKER, "a", 0, [1.0])
    with pytest.raises(InputError, match=told):
        compare([tmp_path / path for path in paths], against)


def test_names_in_a_report_are_text_and_not_html(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", WALKER, "a", 0, [1.0])
    (run / "environment.txt").write_text("from step 0\n<b>torch & co</b>\n")
    page = write_report(compare([tmp_path / "runs"]), tmp_path / "out", resamples=50)
    assert "&lt;b&gt;torch &amp; co&lt;/b&gt;" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_real_browser_shows_the_page(tmp_path: Path) -> None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    two_variants(tmp_path / "runs")
    page = write_report(compare([tmp_path / "runs"], ["mrq"]), tmp_path / "out", resamples=50)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    shown = subprocess.run(
        [browser, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True
    )
    assert shown.stdout.count("<table") == 5 and shown.stdout.count("<img") == 2
