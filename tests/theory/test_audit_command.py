"""``python -m theory audit`` and the pictures of audits."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from exports import exact_export, planted_export

from theory import (
    AuditReport,
    InputError,
    Policy,
    TabularMDP,
    audit_embeddings,
    frozen_lake,
    optimal,
    plots,
    river_swim,
)
from theory.__main__ import main
from theory.audit import assemble
from theory.catalogue import load

LAKE = frozen_lake("4x4", 0.95)
SINGLE = ["bounds.png", "decomposition.png", "linearity.png", "parts_map.png"]


def trained(step: int) -> dict[str, np.ndarray]:
    """An agent whose errors halve every 1000 steps."""
    rng = np.random.default_rng(step)
    best, size = optimal(LAKE), 0.5 ** (step / 1000)
    off = {part: 0.2 * size * rng.normal(size=(16, 4)) for part in ("reward", "dynamics", "planning")}
    export = planted_export(LAKE, best.policy, **off, counts=np.ones((16, 4)), n_step=3, step=step)
    mixed = np.concatenate([export["q"][..., None], size * rng.normal(size=(16, 4, 8))], axis=-1)
    export["zsa"] = np.tanh(mixed @ rng.normal(size=(9, 12)))
    export["zs_next_pred"] = export["zs_next_pred"] + size * rng.normal(size=(16, 4, 16))
    return export


@cache
def history() -> tuple[tuple[int, AuditReport], ...]:
    return tuple((step, audit_embeddings(trained(step), LAKE)) for step in (0, 1000, 2000, 3000))


def stored(folder: Path, step: int, **changes: object) -> str:
    path = folder / f"{step}.npz"
    np.savez(path, **{**trained(step), **changes})
    return str(path)


def test_an_export_is_reported_with_its_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = stored(tmp_path, 1000), tmp_path / "out"
    assert main(["audit", path, "--mdp", "frozenlake4x4", "-o", str(out)]) == 0
    assert sorted(file.name for file in out.iterdir()) == sorted([*SINGLE, "report.json", "report.md"])
    text = (out / "report.md").read_text("utf-8")
    first = f"Audit of {path} on frozenlake4x4: pass, every equality checked holds, as it must"
    assert text.startswith(first) and capsys.readouterr().out.startswith(first)
    assert all(f"]({name})" in text for name in SINGLE) and "not drawn" not in text
    data = json.loads((out / "report.json").read_text("utf-8"))["data"]
    assert data["gamma"] == 0.95 and data["step"] == 1000 and len(data["planning"]) == 44


def test_without_a_folder_it_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", stored(tmp_path, 0), "--mdp", "frozenlake4x4"]) == 0
    assert "| value error is the sum of its parts |" in capsys.readouterr().out


def test_the_discount_is_the_exports_unless_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stored(tmp_path, 0)
    for options, holds in (([], "yes"), (["--gamma", "0.95"], "yes"), (["--gamma", "0.9"], "no")):
        assert main(["audit", path, "--mdp", "frozenlake4x4", *options]) == 0
        (row,) = (
            line for line in capsys.readouterr().out.splitlines() if line.startswith("| the discount is")
        )
        assert f"| {holds} |" in row
    without = {name: value for name, value in trained(0).items() if name != "gamma"}
    np.savez(tmp_path / "without.npz", **without)
    assert main(["audit", str(tmp_path / "without.npz"), "--mdp", "frozenlake4x4"]) == 0
    assert "\n- gamma: 0.99\n" in capsys.readouterr().out


def test_several_exports_are_a_course(tmp_path: Path) -> None:
    paths = [stored(tmp_path, step) for step in (2000, 0, 1000)]
    out = tmp_path / "out"
    assert main(["audit", *paths, "--mdp", "frozenlake4x4", "-o", str(out)]) == 0
    text = (out / "report.md").read_text("utf-8")
    assert text.startswith(f"Audit of {paths[0]} on") and "](history.png)" in text
    rows = [
        line.split(" | ") for line in text.splitlines() if line.startswith(("| 0 |", "| 1000 |", "| 2000 |"))
    ]
    assert [row[0] for row in rows] == ["| 0", "| 1000", "| 2000"]
    errors = [float(row[2]) for row in rows]
    assert errors[0] > errors[1] > errors[2] > 0.0 and all(row[1] == "pass" for row in rows)


def test_the_mdp_of_a_catalogue_entry_will_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swim = load("riverswim_6").problem.mdp
    assert isinstance(swim, TabularMDP)
    np.savez(tmp_path / "swim.npz", **exact_export(swim, Policy.uniform(swim)))
    arguments = ["audit", str(tmp_path / "swim.npz"), "--mdp"]
    assert main([*arguments, "catalogue:riverswim_6"]) == 0
    assert ": pass, " in capsys.readouterr().out
    for mdp, more, message in (
        ("catalogue:riverswim_6", ["--gamma", "0.5"], "--gamma is a part of catalogue:riverswim_6 already"),
        ("catalogue:sign_flip", [], "catalogue:sign_flip is a bare chain without states and actions"),
        ("catalogue:nowhere", [], "The catalogue has no 'nowhere'"),
        ("nowhere", [], "--mdp must be one of frozenlake4x4"),
        ("frozenlake4x4", [], "Is the export of another?"),
        ("riverswim", ["--gamma", "1.5"], "gamma must lie in"),
    ):
        assert main([*arguments, mdp, *more]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_bad_files_are_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = stored(tmp_path, 0)
    np.savez(tmp_path / "stepless.npz", **{k: v for k, v in trained(1000).items() if k != "step"})
    for paths, message in (
        ([str(tmp_path / "none.npz")], "none.npz cannot be read as an export"),
        (
            [first, str(tmp_path / "stepless.npz")],
            "stepless.npz has no step; of several exports each needs one",
        ),
    ):
        assert main(["audit", *paths, "--mdp", "frozenlake4x4"]) == 2
        assert message in capsys.readouterr().err


def test_what_has_no_picture_says_why(tmp_path: Path) -> None:
    """Without discount a river that never ends has no values."""
    swim = river_swim(6, 0.9)
    np.savez(tmp_path / "swim.npz", **exact_export(swim, Policy.uniform(swim)) | {"gamma": 1.0})
    out = tmp_path / "out"
    assert main(["audit", str(tmp_path / "swim.npz"), "--mdp", "riverswim", "-o", str(out)]) == 0
    text = (out / "report.md").read_text("utf-8")
    assert ": inconclusive, the network's values cannot be judged." in text.splitlines()[0]
    assert sorted(file.name for file in out.iterdir()) == ["linearity.png", "report.json", "report.md"]
    assert "What the network's value error consists of: not drawn. gamma is 1 and the run never ends" in text
    assert "its true error: not drawn. Returns are infinite" in text


def test_an_equality_that_fails_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(assemble, "_verdict", lambda value, conditions: "fail")
    assert main(["audit", stored(tmp_path, 0), "--mdp", "frozenlake4x4"]) == 1
    assert ": fail, an equality does not hold" in capsys.readouterr().out


# Pictures


def line(figure: object, panel: int, label: str) -> tuple[list[float], list[float]]:
    (found,) = (each for each in figure.axes[panel].lines if each.get_label() == label)  # type: ignore[attr-defined]
    return [float(x) for x in found.get_xdata()], [float(y) for y in found.get_ydata()]


def test_the_course_of_training_shows_what_the_audits_say() -> None:
    audits = history()
    figure = plots.plot_audit_history(audits[::-1])
    expected = {
        (0, "value error"): lambda r: r.value.error.weighted,
        (0, "reward part"): lambda r: r.value.parts["reward"].weighted,
        (0, "dynamics part"): lambda r: r.value.parts["dynamics"].weighted,
        (0, "planning part"): lambda r: r.value.parts["planning"].weighted,
        (1, "value error"): lambda r: r.value.error.weighted,
        (1, "n-step part, not to be learned away"): lambda r: r.returns.sizes["n-step part"].weighted,
        (1, "rest"): lambda r: r.returns.sizes["rest"].weighted,
        (2, "greedy in the network's values"): lambda r: r.acting.greedy.ratio,
        (2, "exported policy"): lambda r: r.acting.exported.ratio,
        (3, "true value"): lambda r: r.linearity.true.r2[r.linearity.at],
        (3, "network's value"): lambda r: r.linearity.network.r2[r.linearity.at],
        (3, "as many random features"): lambda r: r.linearity.random[r.linearity.at],
        (4, "error of the probe"): lambda r: r.probe.error,
        (4, "network's error"): lambda r: r.value.error.largest,
        (4, "S1"): lambda r: r.probe.findings.ladder.S1,
        (4, "S2"): lambda r: r.probe.findings.ladder.S2,
        (4, "S2.5"): lambda r: r.probe.findings.ladder.S25,
        (4, "published"): lambda r: r.probe.findings.ladder.published,
        (5, "expected loss"): lambda r: r.noise.loss,
        (5, "noise floor"): lambda r: r.noise.mean_noise,
        (5, "bias"): lambda r: r.noise.mean_bias,
        (5, "predicting a constant"): lambda r: r.noise.spread,
    }
    for (panel, label), number in expected.items():
        steps, values = line(figure, panel, label)
        assert steps == [0.0, 1000.0, 2000.0, 3000.0]
        assert values == pytest.approx([number(report) for _, report in audits]), label
    assert sum(len(axes.lines) for axes in figure.axes) == len(expected)
    scales = [axes.get_yscale() for axes in figure.axes]
    assert scales == ["log", "log", "linear", "linear", "log", "log"]


def test_what_no_audit_judged_is_an_empty_panel_and_what_one_did_not_a_gap() -> None:
    export = trained(0)
    without = {name: value for name, value in export.items() if name != "n_step"}
    figure = plots.plot_audit_history([(0, audit_embeddings(without, LAKE))])
    assert [text.get_text() for text in figure.axes[1].texts] == ["not judged"] and not figure.axes[1].lines
    figure = plots.plot_audit_history([(0, audit_embeddings(without, LAKE)), *history()[1:2]])
    assert np.isnan(line(figure, 1, "rest")[1]).tolist() == [True, False]


def test_errors_of_rounding_are_drawn_at_a_floor_and_zero_is_said() -> None:
    exact = audit_embeddings(exact_export(LAKE, optimal(LAKE).policy), LAKE)
    figure = plots.plot_audit_history([history()[0], (9000, exact)])
    _, values = line(figure, 0, "value error")
    assert values[1] == pytest.approx(
        1e-9 * max(line(figure, 0, name)[1][0] for name in ("value error", "planning part"))
    )
    assert "at or below rounding" in [each.get_label() for each in figure.axes[0].lines]
    nothing = audit_embeddings(
        {
            **exact_export(LAKE, optimal(LAKE).policy),
            "zs": np.ones((16, 2)),
            "zs_next_pred": np.ones((16, 4, 2)),
        },
        LAKE,
    )
    figure = plots.plot_audit_history([(0, nothing)])
    assert [text.get_text() for text in figure.axes[5].texts] == ["zero everywhere"]


def test_the_curve_of_linearity_is_that_of_the_report() -> None:
    report = history()[1][1]
    figure, found = plots.plot_audit_linearity(report), report.linearity
    assert line(figure, 0, "true value")[1] == pytest.approx(found.true.r2.tolist())
    assert line(figure, 0, "network's value")[1] == pytest.approx(found.network.r2.tolist())
    assert line(figure, 0, "k random features, on average")[1] == pytest.approx(found.random.tolist())
    assert line(figure, 0, f"effective rank {found.effective_rank:.3g}")[0] == [found.effective_rank] * 2
    assert f"rank {found.rank} of 12 columns, 44 rows" in figure.axes[0].get_title()


@pytest.mark.parametrize("name", ["history", "linearity"])
def test_texts_stay_inside_the_picture_and_the_bytes_repeat(name: str, tmp_path: Path) -> None:
    for attempt in ("one", "two"):
        figure = (
            plots.plot_audit_history(history())
            if name == "history"
            else plots.plot_audit_linearity(history()[0][1])
        )
        plots.save(figure, tmp_path / f"{attempt}.png")
        frame = figure.bbox
        for axes in figure.axes:
            for part in (axes.title, axes.xaxis.label, axes.yaxis.label, axes.get_legend()):
                box = part.get_window_extent()
                assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= frame.x1 + 1 and box.y1 <= frame.y1 + 1, (
                    part
                )
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_what_cannot_be_drawn_is_an_input_error() -> None:
    with pytest.raises(InputError, match="at least one pair of step and report"):
        plots.plot_audit_history([])
    with pytest.raises(InputError, match="pairs of step and AuditReport, got a AuditReport"):
        plots.plot_audit_history([history()[0][1]])  # type: ignore[list-item]
    with pytest.raises(InputError, match="pairs of step and AuditReport, got a tuple"):
        plots.plot_audit_history([(1, 2)])  # type: ignore[list-item]
    report = AuditReport("t", "inconclusive", None, None, unjudged={"linearity": "for want of rows"})
    with pytest.raises(InputError, match="Linearity was not judged: for want of rows"):
        plots.plot_audit_linearity(report)
