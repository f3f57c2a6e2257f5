"""``uld bench step``: one update, in encoder, value and policy, beside the time of its matrix products.

The yardsticks: the matrix products of each part alone, at their shapes and strides ("products alone", the
roofline); the rate of one product of the networks' sizes; and the same update of our own networks in plain
float32 without compiling.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDictBase

from uld_torchrl.bench.products import products_of
from uld_torchrl.bench.report import Figure, Report, machine
from uld_torchrl.bench.setup import DEFAULT_ENV, Parts, assemble
from uld_torchrl.bench.timing import Call, milliseconds
from uld_torchrl.config import AgentConfig, override
from uld_torchrl.trainers import ULDOptimizationStepper

PLAIN = ("optim.precision=float32", "optim.compile=off")
"""Settings of the yardstick."""
PARTS = ("encoder", "value", "policy")


def bench_step(
    config: AgentConfig, *, env: str = DEFAULT_ENV, device: torch.device | str = "cpu", quick: bool = False
) -> Report:
    """Measure one update on a batch of recorded steps, gathering included in "update" only.

    Args:
        config: widths, batch size, precision and compiling are taken from it.
        env: whose observations and actions the networks take.
        device: of networks and replay buffer.
        quick: few rounds; for tests.

    Example:
        >>> from uld_torchrl import bench, preset
        >>> report = bench.bench_step(preset("debug"), env="Pendulum-v1", quick=True)
        >>> report["update"].unit
        'ms'
    """
    parts = assemble(config, env, device, steps=64 if quick else 2000)
    own, plain = parts.stepper(), parts.stepper(override(config, list(PLAIN)))
    batch = parts.buffer.sample()
    left, right = _factors(parts)
    found = {name: products_of(call, left.dtype) for name, call in _calls(plain, batch).items()}
    flops = {name: operations for name, (_, operations) in found.items()}
    timed: dict[str, Call] = {f"{name}, products alone": again for name, (again, _) in found.items()}
    timed |= {"product": lambda: left @ right, "update": update_call(own), "plain update": update_call(plain)}
    if not own.engine.reuses:  # within a recording the parts cannot be told apart
        timed |= _calls(own, batch)
    times = milliseconds(timed, rounds=3 if quick else 20, device=device)
    rates = [2e-6 * left.shape[0] * left.shape[1] * right.shape[1] / each for each in times["product"]]
    return Report("step", _settings(config, parts), _figures(times, flops, rates))


def _settings(config: AgentConfig, parts: Parts) -> dict[str, object]:
    model, loss = config.model, config.loss
    sizes = {"batch": config.optim.batch_size, "width": model.hidden_dim, "horizon": loss.horizon}
    return {**machine(parts.device), "env": parts.env_id, **sizes, **compute_of(config)}


def compute_of(config: AgentConfig) -> dict[str, str]:
    """Return precision and compiling of a configuration.

    Example:
        >>> compute_of(AgentConfig())["precision"]
        'auto'
    """
    return {"precision": config.optim.precision, "compile": config.optim.compile}


def _factors(parts: Parts) -> tuple[torch.Tensor, torch.Tensor]:
    """Return matrices of the unroll's largest product: a batch, and a hidden layer's weights."""
    model, rows = parts.config.model, parts.config.optim.batch_size
    kind = torch.bfloat16 if parts.config.optim.precision == "bfloat16" else torch.float32
    left = torch.randn(rows, model.hidden_dim, device=parts.device, dtype=kind)
    return left, torch.randn(model.hidden_dim, model.hidden_dim, device=parts.device, dtype=kind)


def _calls(stepper: ULDOptimizationStepper, batch: TensorDictBase) -> dict[str, Call]:
    """Return the parts of an update on one batch."""
    whole, cut = stepper._shifted_whole(batch), stepper._shifted_for_value(batch)
    with torch.no_grad():
        value = stepper.losses("value_loss", cut)[1]

    def part(name: str, loss: Callable[[], torch.Tensor]) -> Call:
        def call() -> None:
            with stepper.compute.matrix_products():
                stepper._watch(batch)
                stepper._descend(name, loss())

        return call

    return {
        "encoder": part("encoder", lambda: stepper.losses("encoder_loss", whole)[0]),
        "value": part("value", lambda: stepper.losses("value_loss", cut)[0]),
        "policy": part("policy", lambda: stepper.losses("actor_loss", value)[0]),
    }


def update_call(stepper: ULDOptimizationStepper) -> Call:
    """Return a whole update: one of the encoder and one of value and policy, each on a batch of its own.

    Example:
        >>> from uld_torchrl import preset
        >>> parts = assemble(preset("debug"), "Pendulum-v1", "cpu", steps=32)
        >>> update_call(parts.stepper())()
    """

    def call() -> None:
        if stepper.encoder_schedule == "periodic":
            with stepper.compute.matrix_products():
                stepper.engine.run(stepper._draw_and_update_encoder)
        stepper.step(None)

    return call


def _figures(times: dict[str, list[float]], flops: dict[str, float], rates: list[float]) -> list[Figure]:
    plain = Figure.of("plain update", times["plain update"], "ms")
    found = [Figure.of("rate of products", rates, "GFLOP/s")]
    for name in PARTS:
        alone = Figure.of(f"{name}, products alone", times[f"{name}, products alone"], "ms")
        found += [Figure.of(f"{name}, operations", [flops[name]], "GFLOP"), alone]
        if name in times:
            found.append(Figure.of(name, times[name], "ms", to=alone))
    rounds = zip(*(times[f"{name}, products alone"] for name in PARTS), strict=True)
    alone = Figure.of("update, products alone", [sum(each) for each in rounds], "ms")
    update = Figure.of("update", times["update"], "ms", to=alone)
    compared = Figure.of("update against plain", times["update"], "ms", to=plain)
    total = Figure.of("update, operations", [sum(flops.values())], "GFLOP")
    return [*found, total, alone, plain, update, compared]
