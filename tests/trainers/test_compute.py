"""Precision and compilation of an update: what is refused where, what bfloat16 costs, compiled as uncompiled.

Each loss under ``fullgraph`` is in ``tests/objectives/test_loss_compile.py``, CUDA graphs in ``test_graphs``.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from watched import PERIOD, SPECS, make, same, state

from uld_torchrl.config import OptimConfig, from_dict, preset, to_dict
from uld_torchrl.errors import InputError
from uld_torchrl.trainers import ULDOptimizationStepper, compute
from uld_torchrl.trainers.compute import Compute, Losses, pick_compute, use_cache_folder

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
UNIT = 2.0**-8  # of bfloat16, which has 8 significant bits
LOSSES = ("encoder_loss", "value_loss", "actor_loss")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set what the machine can do."""

    def can(*, bfloat16: bool = True, compiler: bool = True) -> None:
        monkeypatch.setattr(compute, "has_bfloat16", lambda device: bfloat16)
        monkeypatch.setattr(compute, "has_compiler", lambda: compiler)

    return can


# What is chosen and refused


@pytest.mark.parametrize(
    ("device", "precision", "compiled", "chosen"),
    [
        (CPU, "auto", "auto", ("float32", "off")),
        (CPU, "bfloat16", "on", ("bfloat16", "on")),
        (CPU, "float32", "on", ("float32", "on")),
        (CUDA, "auto", "auto", ("tf32", "graph")),
        (CUDA, "bfloat16", "off", ("bfloat16", "off")),
        (CUDA, "float32", "on", ("float32", "on")),
    ],
)
def test_auto_is_exact_on_a_cpu_and_fast_on_cuda(
    machine: Any, device: torch.device, precision: Any, compiled: Any, chosen: tuple[str, str]
) -> None:
    machine()
    assert pick_compute(OptimConfig(precision=precision, compile=compiled), device) == Compute(*chosen)


@pytest.mark.parametrize(
    ("device", "abilities", "settings", "message"),
    [
        (CPU, {"bfloat16": False}, {"precision": "bfloat16"}, "bfloat16 needs .* use precision float32, or"),
        (CUDA, {"bfloat16": False}, {"precision": "bfloat16"}, "bfloat16 needs .* float32 or tf32, or auto"),
        (CPU, {}, {"precision": "tf32"}, "tf32 is for CUDA, got device cpu: use float32, bfloat16 or auto"),
        (CPU, {"bfloat16": False}, {"precision": "tf32"}, "got device cpu: use float32 or auto"),
        (CPU, {}, {"compile": "graph"}, "graph means CUDA graphs, got device cpu: use off, on or auto"),
        (CPU, {"compiler": False}, {"compile": "on"}, r"needs a C\+\+ compiler .* use off"),
    ],
)
def test_what_a_machine_lacks_is_refused_with_what_it_has(
    machine: Any, device: torch.device, abilities: Any, settings: Any, message: str
) -> None:
    machine(**abilities)
    with pytest.raises(InputError, match=message):
        pick_compute(OptimConfig(**settings), device)


def test_nothing_is_asked_of_the_machine_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("has_bfloat16", "has_compiler"):
        monkeypatch.setattr(compute, name, lambda *_: pytest.fail("asked"))
    assert pick_compute(OptimConfig(), CPU) == Compute("float32", "off")


@pytest.mark.parametrize("settings", [{"precision": "float16"}, {"compile": "yes"}])
def test_other_words_are_refused(settings: Any) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        OptimConfig(**settings)


def test_settings_of_runs_before_there_was_a_choice_still_load() -> None:
    data = to_dict(preset("debug"))
    for name in ("precision", "compile"):
        assert data["optim"].pop(name) == "auto"
    assert from_dict(data) == preset("debug")


def test_matrix_products_are_in_tf32_only_within() -> None:
    assert torch.get_float32_matmul_precision() == "highest"
    with Compute("tf32", "off").matrix_products():
        assert torch.get_float32_matmul_precision() == "high"
    with pytest.raises(KeyError), Compute("tf32", "off").matrix_products():
        raise KeyError
    assert torch.get_float32_matmul_precision() == "highest"
    with Compute("bfloat16", "on").matrix_products():
        assert torch.get_float32_matmul_precision() == "highest"


def test_compiled_code_is_kept_in_the_users_cache_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = "TORCHINDUCTOR_CACHE_DIR"
    monkeypatch.setenv(name, str(tmp_path / "mine"))
    assert use_cache_folder() == tmp_path / "mine"
    monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert use_cache_folder() == tmp_path / "uld-torchrl" / "inductor" == Path(os.environ[name])
    monkeypatch.setenv(name, default_cache_dir())  # torch's own choice is none
    assert use_cache_folder() == tmp_path / "uld-torchrl" / "inductor"
    monkeypatch.delenv(name)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert use_cache_folder() == tmp_path / ".cache" / "uld-torchrl" / "inductor"
    monkeypatch.delenv(name)


# bfloat16


def with_losses(stepper: ULDOptimizationStepper, precision: str, compiled: str = "off") -> Losses:
    return Losses(stepper.loss_module, Compute(precision, compiled), backend="aot_eager")


def stream(spec: str, length: int = 4) -> tuple[ULDOptimizationStepper, list[TensorDictBase]]:
    """Return a stepper with some updates behind it, and batches as they come."""
    stepper, rb = make("every_step", spec, updates=6)
    return stepper, [rb.sample() for _ in range(length)]


def differentiated(losses: Losses, name: Any, batch: TensorDictBase) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a loss and its gradient as one vector, from the same random numbers."""
    torch.manual_seed(3)
    value, _ = losses(name, batch)
    gradients = torch.autograd.grad(value, list(losses.loss_module.parameters()), allow_unused=True)
    return value.detach(), torch.cat([g.flatten() for g in gradients if g is not None])


def depth(name: str, horizon: int) -> int:
    """Count the matrix products one after another; a value head has one more, which is exact."""
    f, g, m, policy, value = 3, 4, 1, 3, 3
    deepest = {
        "encoder_loss": f + horizon * (g + m),
        "value_loss": f + policy + g + value,
        "actor_loss": f + policy + g + value,
    }
    return deepest[name]


def errors(spec: str, name: Any, precision: str) -> tuple[float, float]:
    """Return the largest relative error over the stream of a loss and of its gradient, in their norms."""
    stepper, batches = stream(spec)
    exact, other = with_losses(stepper, "float32"), with_losses(stepper, precision)
    found = []
    for batch in batches:
        (loss, gradient), (near, slope) = (differentiated(each, name, batch) for each in (exact, other))
        # The value's loss is a difference of values: its error is small beside these, not beside itself.
        scale = loss.abs() + (1.0 if name != "encoder_loss" else 0.0)
        found.append((float((near - loss).abs() / scale), float((slope - gradient).norm() / gradient.norm())))
    return max(error for error, _ in found), max(error for _, error in found)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_errs_by_its_roundings_only(name: str, spec: str) -> None:
    # A product rounds its weights, its input and its output: 3 units. Layer norm keeps errors relative. A
    # gradient passes all products again, with the errors of what they were given: twice as much.
    bound = 3 * UNIT * depth(name, 3)
    loss, gradient = errors(spec, name, "bfloat16")
    assert 0 < loss < bound
    assert 0 < gradient < 2 * bound
    assert errors(spec, name, "float32") == (0, 0)


def test_weights_of_two_bits_err_more_than_those_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Losses._plain

    def coarse(self: Losses, name: Any, batch: TensorDictBase) -> Any:
        """Keep two bits of the weights in place of eight."""
        if self.compute.precision != "bfloat16":
            return plain(self, name, batch)
        kept = {key: p.detach().clone() for key, p in self.loss_module.named_parameters()}
        for p in self.loss_module.parameters():
            mantissa, exponent = torch.frexp(p.data)
            p.data.copy_(torch.ldexp((mantissa * 4).round() / 4, exponent))
        result = plain(self, name, batch)
        for key, p in self.loss_module.named_parameters():
            p.data.copy_(kept[key])
        return result

    monkeypatch.setattr(Losses, "_plain", coarse)
    assert errors("box", "value_loss", "bfloat16")[1] > 0.3


@pytest.mark.parametrize("spec", SPECS)
def test_values_targets_and_states_are_float32_to_the_last_bit(spec: str) -> None:
    stepper, (batch, *_) = stream(spec)
    losses = with_losses(stepper, "bfloat16")
    loss, value = losses("value_loss", batch)
    actor, metrics = losses("actor_loss", value)
    encoder, parts = losses("encoder_loss", batch)
    tensors = [loss, actor, encoder, *value.values(), *metrics.values(), *parts.values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    for name in ("td_error", "pred_value", "target_value"):
        full = value[name]
        assert not torch.equal(full, full.bfloat16().float()), name
    loss.backward()
    heads = list(stepper.loss_module.qvalue_network_params.parameters())
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in heads)


def test_the_return_and_the_reward_scale_are_those_of_float32() -> None:
    stepper, (batch, *_) = stream("box")
    loss = stepper.loss_module
    batch["next", "terminated"][:, 0] = True  # the target is the first reward then
    loss.reward_scale.fill_(0.7)
    _, value = with_losses(stepper, "bfloat16")("value_loss", batch)
    torch.testing.assert_close(value["target_value"], batch["next", "reward"][:, 0, 0], rtol=3e-7, atol=0)


# Compiled


def test_a_few_policy_updates_compiled_are_those_uncompiled_and_are_compiled_once() -> None:
    told: list[str] = []
    weights = []
    for compiled in ("off", "on"):
        stepper, rb = make("every_step", updates=0)
        how = Compute("float32", compiled)
        losses = Losses(stepper.loss_module, how, told.append, backend="aot_eager")
        torch.manual_seed(5)
        for update in range(4):
            stepper._watch(batch := rb.sample())
            with torch.no_grad():
                _, value = stepper.loss_module.value_loss(batch)
            with torch._dynamo.config.patch(error_on_recompile=update > 0):
                stepper._descend("policy", losses("actor_loss", value)[0])
            if update == 1:
                stepper.loss_module.update_reward_scale_(0.4)
                stepper.target_updater.copy_()
        weights.append(stepper.loss_module.actor_network_params.data.to_dict())
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-5, atol=1e-6)
    assert len(told) == 1 and told[0].startswith("compiling")


@pytest.mark.slow
def test_a_few_updates_compiled_are_those_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "has_compiler", lambda: True)
    told: list[str] = []
    results = []
    for compiled in ("on", "off"):  # in this order: what was met before is not met for the first time
        plain, rb = make("every_step", updates=0)
        stepper = ULDOptimizationStepper(
            plain.loss_module, rb, replace(plain.config, compile=compiled), tell=told.append
        )
        stepper.losses.backend = "aot_eager"
        torch.manual_seed(5)
        for update in range(PERIOD + 2):  # over a copy of the targets and a change of the scales
            with torch._dynamo.config.patch(error_on_recompile=update > 0):
                stepper.step(None)
        results.append(state(stepper, rb))
    torch.testing.assert_close(results[0]["loss"], results[1]["loss"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[0]["priorities"], results[1]["priorities"], rtol=1e-5, atol=1e-6)
    assert len(told) == 1 and told[0].startswith("compiling")


def run(options: dict[str, Any], updates: int) -> tuple[ULDOptimizationStepper, Any]:
    plain, rb = make(updates=0)
    stepper = ULDOptimizationStepper(plain.loss_module, rb, replace(plain.config, **options))
    torch.manual_seed(5)
    for _ in range(updates):
        stepper.step(None)
    return stepper, rb


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_inductors_updates_are_the_uncompiled_ones(precision: str) -> None:
    plain, first = run({"precision": precision, "compile": "off"}, PERIOD + 2)
    compiled, second = run({"precision": precision, "compile": "on"}, PERIOD + 2)
    # In bfloat16 code that keeps more bits between kernels is another rounding of the same.
    error = 1e-4 if precision == "float32" else 3 * UNIT * depth("encoder_loss", 3)
    torch.testing.assert_close(
        state(compiled, second)["loss"], state(plain, first)["loss"], rtol=error, atol=error
    )


def test_a_bfloat16_run_goes_on_exactly(machine: Any) -> None:
    machine()
    options = {"precision": "bfloat16"}
    whole, rb = run(options, 5)
    half, first = run(options, 2)
    saved = (half.state_dict(), half.loss_module.state_dict(), first.state_dict(), torch.get_rng_state())
    other, second = run(options, 0)
    other.load_state_dict(saved[0])
    other.loss_module.load_state_dict(saved[1])
    second.load_state_dict(saved[2])
    torch.set_rng_state(saved[3])
    for _ in range(3):
        other.step(None)
    assert same(state(other, second), state(whole, rb))
    exact, third = run({"precision": "float32"}, 5)
    assert not same(state(exact, third)["loss"], state(whole, rb)["loss"])
