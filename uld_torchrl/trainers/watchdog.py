"""Watchdog: no update is applied with a loss or gradient that is not finite; what happens then instead.

The verdict on an update is one tensor on the device. The optimisers heed it themselves (``found_inf``, as
PyTorch's gradient scaler uses it: weights, moments and step counts stay as they are); the host reads it in
one place, :meth:`Watchdog.passed`, or where nobody waits for an update once a period, in
:meth:`Watchdog.settle`. When losses are taken is in ``stepper``, files of a fault in ``dumps``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from uld_torchrl.errors import NonFinite, one_of
from uld_torchrl.trainers.dumps import dump_fault, plain_tensors
from uld_torchrl.trainers.guards import OnNonFinite
from uld_torchrl.trainers.verdicts import Verdicts

LIMIT = 100
"""Updates left out in a row after which a run stops: the weights are broken then, not a batch."""
_DUMPS = {"skip": 3, "stop": 10}  # folders of dumps that are kept
_NAMED = 4  # tensors that a message names; the report has all
_LOG = logging.getLogger(__name__)


class Reading(NamedTuple):
    """One number that must be finite: the loss or the gradient's norm of a part, or its input."""

    part: str
    quantity: str
    value: Tensor


class Watchdog:
    """Keeps what is not finite away from the weights, and says where it came from.

    An update goes :meth:`begin`, :meth:`note` after each gradient, :meth:`passed`. From the first reading on
    that is not finite, its optimisers leave out their steps.

    Args:
        on_nonfinite: "stop" raises :class:`~uld_torchrl.NonFinite`; "skip" leaves the update out and counts
            it, and stops after 100 in a row.
        folder: where the batches are written, in ``step-<step>/``; None: nowhere. The first three are kept in
            mode skip, the first ten in mode stop.
        steps: gives the step that names a dump; default: the number of the update.

    Raises:
        InputError: ``on_nonfinite`` is neither.

    Example:
        >>> from tensordict import TensorDict
        >>> from torch.nn.utils import get_total_norm
        >>> watchdog, network = Watchdog("skip"), nn.Linear(2, 1)
        >>> optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        >>> batch = TensorDict({"observation": torch.tensor([[0.0, math.nan]])})
        >>> watchdog.begin([batch["observation"]])
        >>> loss = network(batch["observation"]).mean()
        >>> loss.backward()
        >>> gradients = [p.grad for p in network.parameters()]
        >>> optimizer.found_inf = watchdog.note("value", loss=loss, gradient=get_total_norm(gradients))
        >>> optimizer.step()
        >>> watchdog.passed(batch, network, update=1)
        False
        >>> bool(network.weight.isfinite().all()), watchdog.skipped_updates
        (True, 1)
    """

    def __init__(
        self,
        on_nonfinite: OnNonFinite = "stop",
        folder: Path | str | None = None,
        steps: Callable[[], int] | None = None,
    ) -> None:
        self.on_nonfinite = one_of("on_nonfinite", on_nonfinite, ("stop", "skip"))
        self.folder, self._steps = None if folder is None else Path(folder), steps
        self.skipped_updates = 0
        self.deferred = False
        """Whether verdicts stay on the device until :meth:`settle`; ``passed`` then knows nothing yet."""
        self._settled = 0
        self._verdicts: dict[tuple[str, torch.Size], tuple[list[Reading], Verdicts]] = {}
        self._in_a_row: dict[str, int] = {}
        self.begin([])

    def begin(self, inputs: Sequence[Tensor]) -> None:
        """Begin an update that reads these tensors.

        They are looked at too, since a loss may hide what it was given: rewards are clipped to the reward
        bins, and the largest of discrete actions' values is found among NaN too.
        """
        self._input = Reading("input", "largest entry", _largest(inputs))
        self._readings: list[Reading] = []
        self._found = _not_finite(self._input.value)

    def note(self, part: str, **quantities: Tensor) -> Tensor:
        """Note scalars of a part of the update, such as loss and gradient norm.

        Returns:
            What its optimiser takes as ``found_inf``: 1.0 if anything of this update so far is not finite.
        """
        self._readings += [Reading(part, name, value.detach()) for name, value in quantities.items()]
        self._found = torch.maximum(self._found, _not_finite(*quantities.values()))
        return self._found

    @property
    def found(self) -> Tensor:
        """1.0 if anything of this update so far is not finite, else 0.0; on the device."""
        return self._found

    def passed(self, batch: TensorDictBase, loss_module: nn.Module, update: int) -> bool:
        """Return whether the update was applied, for which the host waits; true if verdicts are deferred.

        Args:
            batch: what the update was made on, for the report.
            loss_module: the networks, for the report.
            update: its number.

        Raises:
            NonFinite: it was not, in mode "stop", or after 100 in a row.
        """
        kind = self._readings[0].part
        if self.deferred:
            self._defer(kind, batch)
            return True
        if not self._found.item():
            self._in_a_row[kind] = 0
            return True
        self.skipped_updates += 1
        self._in_a_row[kind] = row = self._in_a_row.get(kind, 0) + 1
        stop = self.on_nonfinite == "stop" or row >= LIMIT
        rare = math.log10(self.skipped_updates).is_integer()  # 1, 10, 100, ...
        if stop or rare or self.skipped_updates <= _DUMPS["skip"]:
            fault = self._fault(batch, loss_module, update, row)
            if stop:
                raise fault
            if rare:
                _LOG.warning("update left out, %d so far: %s", self.skipped_updates, fault)
        return False

    def _defer(self, kind: str, batch: TensorDictBase) -> None:
        """Note the verdict on the device; nothing here looks at a value."""
        readings = [*self._readings, self._input]
        numbers = torch.stack([reading.value.float() for reading in readings])
        if (kind, batch.shape) not in self._verdicts:
            verdicts = Verdicts(numbers, batch)
            verdicts.begin_at(self._in_a_row.get(kind, 0))
            self._verdicts[kind, batch.shape] = readings, verdicts
        self._verdicts[kind, batch.shape][1].add(self._found, numbers, batch)

    def settle(self, loss_module: nn.Module, update: int) -> None:
        """Read the verdicts on the updates since the last reading up to ``update``, if they are deferred.

        Raises:
            NonFinite: one was left out, in mode "stop", or 100 in a row; it tells of the first.
        """
        since, self._settled = self._settled, update
        for (kind, _), (readings, verdicts) in self._verdicts.items():
            left_out, longest, self._in_a_row[kind] = verdicts.read()
            if not left_out:
                continue
            before, self.skipped_updates = self.skipped_updates, self.skipped_updates + left_out
            stop = self.on_nonfinite == "stop" or longest >= LIMIT
            rare = _magnitude(self.skipped_updates) > _magnitude(before)
            if stop or rare or before < _DUMPS["skip"]:
                *rest, given = (
                    reading._replace(value=value)
                    for reading, value in zip(readings, verdicts.numbers.clone(), strict=True)
                )
                self._readings, self._input = rest, given
                fault = self._fault(verdicts.batch, loss_module, update, longest, since + 1)
                if stop:
                    raise fault
                if rare:
                    _LOG.warning("%d updates left out so far: %s", self.skipped_updates, fault)

    def _fault(
        self,
        batch: TensorDictBase,
        loss_module: nn.Module,
        update: int,
        row: int,
        first: int | None = None,
    ) -> NonFinite:
        """Write the dump and return the error with the report; from update ``first`` on, if given."""
        step = update if self._steps is None else self._steps()
        range_ = {} if first is None else {"first_update": first}
        where_found = self._found_where(batch, loss_module)
        report = {"step": step, **range_, "update": update, "in_a_row": row, **where_found}
        where = ""
        if self.folder is not None:
            kept = _DUMPS[self.on_nonfinite]
            where = dump_fault(self.folder, step, batch, report, kept=kept) + " "
        return NonFinite(f"{_findings(report)} {where}{_advice(report)}", report)

    def _found_where(self, batch: TensorDictBase, loss_module: nn.Module) -> dict[str, Any]:
        readings = [*self._readings, self._input]
        first = next(reading for reading in readings if not reading.value.isfinite())
        return {
            "part": first.part,
            "quantity": first.quantity,
            "value": str(first.value.item()),  # JSON knows no NaN
            "readings": {f"{part} {name}": str(value.item()) for part, name, value in readings},
            "batch": _counts(plain_tensors(batch)),
            "agent": _counts(loss_module.state_dict()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the counters."""
        return {"skipped_updates": self.skipped_updates, "in_a_row": dict(self._in_a_row)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the counters."""
        self.skipped_updates = int(state_dict["skipped_updates"])
        self._in_a_row = {kind: int(row) for kind, row in state_dict["in_a_row"].items()}


def told(fault: NonFinite, step: int, saved: int | None, path: Path) -> NonFinite:
    """Return the fault with the step of its run and what is kept: the checkpoint of step ``saved``, or none.

    Example:
        >>> print(told(NonFinite("the loss is nan."), 31, 20, Path("runs/mine")))
        after step 31 of runs/mine: the loss is nan. The checkpoint of step 20 is kept, and the same command
        goes on from there.
    """
    if str(fault).startswith("after step "):
        return fault
    kept = f"The checkpoint of step {saved} is kept, and the same command goes on from there."
    if saved is None:
        kept = "There is no checkpoint yet, so the same command begins anew."
    return NonFinite(f"after step {step} of {path}: {fault} {kept}", fault.report)


def _largest(tensors: Sequence[Tensor]) -> Tensor:
    """Return the largest absolute value, NaN if there is one; a norm would take ten times as long."""
    extremes = [extreme.detach() for tensor in tensors for extreme in torch.aminmax(tensor)]
    return torch.stack(extremes).abs().max() if extremes else torch.zeros(())


def _magnitude(count: int) -> int:
    return len(str(count)) if count else 0


def _not_finite(*values: Tensor) -> Tensor:
    return torch.stack([value.detach().isfinite() for value in values]).all().logical_not().float()


def _counts(tensors: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Count, in each tensor that holds any, the values that are not finite."""
    found = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
            if nan or infinite:
                found[name] = {"nan": nan, "infinite": infinite, "values": tensor.numel()}
    return found


def _findings(report: dict[str, Any]) -> str:
    row = f", the {report['in_a_row']}th in a row" if report["in_a_row"] >= LIMIT else ""
    reading = f"{report['quantity']} of the {report['part']}"
    update = f"update {report['update']}"
    if report.get("first_update", report["update"]) != report["update"]:
        update = f"one of updates {report['first_update']} to {report['update']}"
    return (
        f"the {reading} is {report['value']} in {update}{row}. Not finite in the batch: "
        f"{_listed(report['batch'])}; in the agent: {_listed(report['agent'])}."
    )


def _listed(counts: dict[str, dict[str, int]]) -> str:
    named = [f"{name} ({n['nan'] + n['infinite']} of {n['values']})" for name, n in counts.items()]
    more = [f"{len(named) - _NAMED} more"] if len(named) > _NAMED else []
    return ", ".join([*named[:_NAMED], *more]) or "nothing"


def _advice(report: dict[str, Any]) -> str:
    if report["agent"]:
        return "The agent's own values are broken: skipping updates will not mend them, an older state will."
    if report["batch"]:
        return (
            "Find out where these entries come from, or leave such updates out: --on-nonfinite skip "
            "(Guards(on_nonfinite='skip'), Watchdog('skip'))."
        )
    return (
        "The losses have outgrown their numbers: try smaller learning rates (optim.encoder_lr, value_lr, "
        "policy_lr), look at the size of the rewards, or leave such updates out: --on-nonfinite skip "
        "(Guards(on_nonfinite='skip'), Watchdog('skip'))."
    )
