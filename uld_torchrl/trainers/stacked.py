"""StackedStepper: the next updates of several runs as one, on tensors [K, ...] that hold all their networks.

What a run has stays its own: its parameters are views of a row, so that acting, evaluating, copying targets,
optimisers and checkpoints know nothing of the stack, and it can go on alone at any time. Only losses and
gradients are worked out together. The loop is in ``seeds``, random numbers in ``streams``, what belongs to an
update in ``stepper``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from uld_torchrl.errors import NonFinite
from uld_torchrl.trainers.stacked_losses import StackedLosses
from uld_torchrl.trainers.stepper import ULDOptimizationStepper, parameters_of
from uld_torchrl.trainers.streams import RandomStreams

_FUNCTIONS = {"encoder": "encoder_loss", "value": "value_loss", "policy": "actor_loss"}


class RunFailed(Exception):
    """In the update of several runs, that of one was not finite.

    Args:
        seed: of the run.
        fault: what its watchdog says.

    Example:
        >>> RunFailed(3, NonFinite("the loss is nan.")).seed
        3
    """

    def __init__(self, seed: int, fault: NonFinite) -> None:
        super().__init__(f"seed {seed}: {fault}")
        self.seed, self.fault = seed, fault


class StackedStepper:
    """Makes the next update of K runs at once; each is the one that its own stepper would make.

    They agree up to rounding, since products of matrices are batched. Gradients are clipped, priorities set,
    and what is not finite is left out, for each run alone.

    Args:
        steppers: of the runs, by seed, with the same settings and shapes. Their networks move to the stack.
        streams: the runs' random states, by seed.

    Example:
        >>> from uld_torchrl import make_loss, make_networks, make_replay_buffer
        >>> from uld_torchrl.config import OptimConfig
        >>> from torchrl.data import Bounded, Unbounded
        >>> spec, streams, steppers = Bounded(-1, 1, (2,)), RandomStreams(), {}
        >>> for seed in (0, 1):
        ...     _ = torch.manual_seed(seed)
        ...     loss = make_loss(make_networks(Unbounded(3), spec), spec)
        ...     buffer = make_replay_buffer(capacity=100, horizon=5, batch_size=8)
        ...     steppers[seed] = ULDOptimizationStepper(loss, buffer, OptimConfig(batch_size=8))
        ...     streams.add(seed)
        >>> StackedStepper(steppers, streams).losses.weights.shape
        torch.Size([2])
    """

    def __init__(self, steppers: Mapping[int, ULDOptimizationStepper], streams: RandomStreams) -> None:
        self._seeds, self._steppers, self._streams = list(steppers), list(steppers.values()), streams
        self._first = self._steppers[0]
        self.losses = StackedLosses([stepper.loss_module for stepper in self._steppers])
        self._learned = {
            part: self.losses.learned(parameters_of(self._first.moved_by(part))) for part in _FUNCTIONS
        }
        loss = self._first.loss_module
        of_pairs = loss.dynamics_target == "state_action"
        self._draws = {"encoder": of_pairs, "value": True, "policy": loss.discrete}

    def step(self, batches: Sequence[TensorDictBase]) -> list[TensorDictBase]:
        """Do one update of every run on its value batch.

        Args:
            batches: window [B, H] of each run's replay buffer, in the order of ``steppers``.

        Returns:
            The metrics of each run, as :meth:`ULDOptimizationStepper.step` gives them.

        Raises:
            RunFailed: a loss, gradient or batch is not finite, unless the run's watchdog skips such updates.
        """
        with self._first.compute.matrix_products():
            self._begin_periods()
            return self._update(batches)

    def _update(self, batches: Sequence[TensorDictBase]) -> list[TensorDictBase]:
        self._watch(batches)
        if self._first.encoder_schedule == "every_step":
            shifted = self._stacked(batches, lambda stepper, batch: stepper._shifted_whole(batch))
            encoder = self._update_encoders(shifted)
            for stepper, metrics in zip(self._steppers, encoder, strict=True):
                stepper._encoder_metrics = metrics
        else:
            shifted = self._stacked(batches, lambda stepper, batch: stepper._shifted_for_value(batch))
        value_losses, values = self._call("value", shifted)
        norms = self._descend("value", value_losses)
        actor_losses, actors = self._call("policy", values)
        self._descend("policy", actor_losses)
        of_each = list(zip(value_losses.detach(), values, norms, actor_losses.detach(), actors, strict=True))
        for k in self._passed(batches):
            self._steppers[k]._set_priorities(batches[k], of_each[k][1])
        return [
            TensorDict({**stepper._encoder_metrics, **stepper._metrics(*own)})
            for stepper, own in zip(self._steppers, of_each, strict=True)
        ]

    def _begin_periods(self) -> None:
        due = [k for k, stepper in enumerate(self._steppers) if stepper._begin_update()]
        for k in due:
            self._steppers[k]._set_scales()
        if self._first.encoder_schedule != "periodic":
            return
        if len(due) == len(self._steppers):
            self._encoder_bursts()
        else:  # after different numbers of updates
            for k in due:
                self._streams.switch(self._seeds[k])
                self._alone(k, self._steppers[k]._encoder_burst)

    def _encoder_bursts(self) -> None:
        passed: list[list[dict[str, Tensor]]] = [[] for _ in self._steppers]
        for _ in range(self._first.config.period):
            batches = self._of_each(lambda stepper: stepper.replay_buffer.sample())
            self._watch(batches)
            shifted = self._stacked(batches, lambda stepper, batch: stepper._shifted_whole(batch))
            metrics = self._update_encoders(shifted)
            for k in self._passed(batches):
                passed[k].append(metrics[k])
        for stepper, rows in zip(self._steppers, passed, strict=True):
            if rows:
                stepper._encoder_metrics = {
                    name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]
                }

    def sample(self) -> list[TensorDictBase]:
        """Draw the value batch of each run from its replay buffer."""
        return self._of_each(lambda stepper: stepper._draw())

    def _of_each(self, draw: Callable[[ULDOptimizationStepper], TensorDictBase]) -> list[TensorDictBase]:
        return [self._in_turn(k, draw, stepper) for k, stepper in enumerate(self._steppers)]

    def _stacked(
        self,
        batches: Sequence[TensorDictBase],
        shift: Callable[[ULDOptimizationStepper, TensorDictBase], TensorDictBase],
    ) -> TensorDictBase:
        """Shift the images of each run's batch, and return all [K, B, H]."""
        return torch.stack(
            [
                self._in_turn(k, shift, stepper, batches[k]).exclude("anchor_index")
                for k, stepper in enumerate(self._steppers)
            ]
        )

    def _in_turn(self, k: int, act: Callable[..., Any], *args: Any) -> Any:
        self._streams.switch(self._seeds[k])
        return act(*args)

    def _call(self, part: str, batches: TensorDictBase) -> tuple[Tensor, TensorDictBase]:
        draws = self._draws[part]
        with self._streams.draws(self._seeds) if draws else nullcontext():
            return self.losses.call(_FUNCTIONS[part], self._learned[part].weights, batches, draws=draws)

    def _update_encoders(self, batches: TensorDictBase) -> list[dict[str, Tensor]]:
        losses, parts = self._call("encoder", batches)
        self._descend("encoder", losses)
        return [
            {"loss_encoder": loss, **dict(part.items())}
            for loss, part in zip(losses.detach(), parts, strict=True)
        ]

    def _descend(self, part: str, losses: Tensor) -> Tensor:
        """Do each run's step of a part's optimiser, unless something is not finite; return the norms [K]."""
        learned = self._learned[part]
        # Each run's loss reaches its own rows only, so the gradient of the sum is that of each.
        found = torch.autograd.grad(losses.sum(), learned.stacked)
        gradients = [gradient.contiguous() for gradient in found]  # as fused optimisers read them
        norms = row_norms(gradients)
        if part == "value":
            clip_rows_(gradients, norms, self._first.config.value_grad_clip)
        for rows, gradient in zip(learned.rows, gradients, strict=True):
            for row, own in zip(rows, gradient, strict=True):
                row.grad = own
        for stepper, loss, norm in zip(self._steppers, losses, norms, strict=True):
            left_out = stepper.watchdog.note(part, loss=loss, gradient=norm)
            for optimizer in stepper.moved_by(part):
                optimizer.found_inf = left_out  # type: ignore[attr-defined]
                optimizer.step()
        return norms

    def _watch(self, batches: Sequence[TensorDictBase]) -> None:
        for stepper, batch in zip(self._steppers, batches, strict=True):
            stepper._watch(batch)

    def _passed(self, batches: Sequence[TensorDictBase]) -> list[int]:
        """Return the places of the runs whose update was applied."""
        return [k for k, batch in enumerate(batches) if self._alone(k, self._steppers[k]._passed, batch)]

    def _alone(self, k: int, act: Callable[..., Any], *args: Any) -> Any:
        """Let one run do something, and say which one it was that failed."""
        try:
            return act(*args)
        except NonFinite as fault:
            raise RunFailed(self._seeds[k], fault) from fault


def row_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the norm of each of K rows, [K], over all tensors [K, ...].

    Example:
        >>> row_norms([torch.tensor([[3.0], [0.0]]), torch.tensor([[[4.0]], [[2.0]]])])
        tensor([5., 2.])
    """
    return torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(tensor.flatten(1), dim=1) for tensor in tensors]), dim=0
    )


def clip_rows_(tensors: Sequence[Tensor], norms: Tensor, limit: float) -> None:
    """Scale the rows of tensors [K, ...] whose norm is above the limit down to it, as torch clips gradients.

    Example:
        >>> gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
        >>> clip_rows_([gradient], row_norms([gradient]), 1.0)
        >>> gradient
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])
    """
    factors = (limit / (norms + 1e-6)).clamp_max(1.0)
    for tensor in tensors:
        tensor.mul_(factors.view(-1, *[1] * (tensor.ndim - 1)))
