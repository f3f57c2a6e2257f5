"""The benchmarks in their short form: what they measure, beside what, and what they print."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from uld_torchrl import preset
from uld_torchrl.bench import BENCHES, Figure, Report, bench_sample, with_threads
from uld_torchrl.bench.memory import _forget_peak, _peak
from uld_torchrl.bench.products import products_of
from uld_torchrl.bench.setup import assemble
from uld_torchrl.bench.step import _calls
from uld_torchrl.bench.timing import milliseconds
from uld_torchrl.cli import main
from uld_torchrl.config import override

KEYS = {"name", "value", "low", "high", "unit", "ratio", "yardstick"}
NAMES = {
    "step": {"rate of products", "encoder", "value", "policy", "update", "plain update"},
    "sample": {"draw, 1e+03 records", "draw and gather windows, 2e+03 records", "write, 2e+03 records"},
    "env": {"bare", "wrapped", "wrapped, above bare", "with policy and replay", "training, 1 lane"},
    "memory": {"a record", "updates", "networks and their targets", "all together"},
}


@pytest.mark.parametrize("what", NAMES)
def test_a_benchmark_prints_a_table_and_writes_json(what: str, tmp_path: Any, capsys: Any) -> None:
    path = tmp_path / "figures.json"
    options = ["--preset", "debug", "--env", "Pendulum-v1", "--device", "cpu", "--threads", "1", "--quick"]
    assert main(["bench", what, *options, "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"uld bench {what}: device cpu, ")
    found = json.loads(path.read_text())
    assert found["bench"] == what
    assert found["settings"]["threads"] == 1
    assert {figure["name"] for figure in found["figures"]} >= NAMES[what]
    for figure in found["figures"]:
        assert set(figure) == KEYS
        assert figure["low"] <= figure["value"] <= figure["high"]
        assert figure["name"] in printed
        assert figure["unit"] in {"ms", "s", "%", "MB", "bytes", "steps/s", "GFLOP", "GFLOP/s"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["step", "--threads", "0"], "--threads must lie in 1 ... "),
        (["step", "--set", "optim.nothing=1"], "optim.nothing"),
        (["env", "--env", "HalfCheeta-v5"], "HalfCheetah-v5"),
        (["memory", "--device", "gpu"], "gpu"),
    ],
)
def test_bad_input_ends_with_code_two_and_one_line(options: list[str], message: str, capsys: Any) -> None:
    assert main(["bench", *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) == 1


def test_an_unknown_benchmark_is_refused(capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "speed"])
    assert stop.value.code == 2


def test_the_operations_of_an_update_are_those_of_its_layers() -> None:
    """Worked by hand for the value: 2 m n k of each product, forwards and twice backwards."""
    config = override(preset("debug"), ["model.hidden_dim=24", "model.z_s_dim=10", "model.z_a_dim=6"])
    config = override(config, ["model.z_sa_dim=14", "optim.batch_size=32"])
    parts = assemble(config, "Pendulum-v1", "cpu", steps=64)
    stepper = parts.stepper()
    again, found = products_of(_calls(stepper, parts.buffer.sample())["value"])
    _, repeated = products_of(again)
    b, hidden, z_s, z_a, z_sa, obs, act = 32, 24, 10, 6, 14, 3, 1

    def mlp(first: int, last: int) -> int:
        return 2 * b * (first * hidden + hidden * hidden + hidden * last)

    f, g = mlp(obs, z_s), 2 * b * act * z_a + mlp(z_s + z_a, z_sa)
    head = mlp(z_sa, hidden) + 2 * b * hidden
    policy = mlp(z_s, act)
    # Of two heads the backward pass makes the products again twice, but for the gradient of their input.
    learned = 2 * (3 * head - 2 * b * z_sa * hidden)
    assert found * 1e9 == f + g + policy + g + 2 * head + f + learned
    assert repeated == found  # the yardstick does the same products, and nothing else is counted


def test_a_benchmarks_stepper_never_begins_a_period() -> None:
    parts = assemble(preset("debug"), "Pendulum-v1", "cpu", steps=64)
    stepper = parts.stepper()
    before = stepper.loss_module.target_state_encoder_params.clone()
    for _ in range(preset("debug").optim.period + 2):
        stepper.step(None)
    assert (stepper.loss_module.target_state_encoder_params == before).all()


def test_calls_are_timed_in_turn_after_the_warm_up() -> None:
    order: list[str] = []
    times = milliseconds(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warm_up=2
    )
    assert order == ["a", "b"] * 5
    assert [len(times[name]) for name in "ab"] == [3, 3]


def test_a_figure_has_median_quartiles_and_ratio() -> None:
    yard = Figure.of("yard", [2.0], "ms")
    figure = Figure.of("own", [1.0, 2.0, 3.0, 4.0, 100.0], "ms", to=yard)
    assert (figure.value, figure.low, figure.high) == (3.0, 2.0, 4.0)
    assert (figure.ratio, figure.yardstick) == (1.5, "yard")
    assert (yard.ratio, yard.low, yard.high) == (None, 2.0, 2.0)
    report = Report("step", {"threads": 1}, [yard, figure])
    assert report["own"] is figure
    assert report.table().splitlines()[-1].split() == ["own", "3", "2", "4", "ms", "1.50", "x", "yard"]


def test_threads_are_set_for_the_benchmark_only() -> None:
    before = torch.get_num_threads()
    with with_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with with_threads(None):
        assert torch.get_num_threads() == before


def test_the_peak_of_memory_is_seen_and_forgotten() -> None:
    _forget_peak("cpu")
    before = _peak("cpu")
    large = torch.ones(30_000_000)
    assert _peak("cpu") - before > 100e6
    del large
    _forget_peak("cpu")
    assert _peak("cpu") < before + 60e6


def test_images_are_compared_with_whole_stacks(monkeypatch: Any) -> None:
    monkeypatch.setattr("uld_torchrl.bench.sample.EPISODE", 7)
    config = override(preset("debug"), ["atari.frame_size=20"])
    report = bench_sample(config, env="atari/Pong", quick=True)
    naive = report["draw and gather windows, 2e+02 records, whole stacks"]
    assert naive.yardstick == "2e+02 records"
    assert naive.ratio == pytest.approx(naive.value / report["draw and gather windows, 2e+02 records"].value)


def test_every_benchmark_is_a_command() -> None:
    assert list(BENCHES) == list(NAMES)
