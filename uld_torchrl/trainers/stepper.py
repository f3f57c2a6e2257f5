"""ULDOptimizationStepper: when each update happens, in which order, with which optimiser.

One call is one update. What the losses are is in ``objectives``; in which precision they are computed, in
``compute``; what CUDA graphs make of an update's parts, in ``engines``; where batches come from, in ``data``;
the loop around it, in ``trainer``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torchrl.trainers import OptimizationStepper

from uld_torchrl.config import OptimConfig
from uld_torchrl.data import WindowReplayBuffer
from uld_torchrl.objectives import PeriodicHardUpdate, ULDLoss
from uld_torchrl.trainers.augmentation import EVERY, FIRST, shift_images
from uld_torchrl.trainers.compute import Losses, pick_compute
from uld_torchrl.trainers.engines import CudaGraphs, Eager, Engine, Replayed
from uld_torchrl.trainers.rates import FallingRates
from uld_torchrl.trainers.watchdog import Watchdog

_ENCODER = ("state_encoder_params", "state_action_encoder_params", "predictor_params")


class ULDOptimizationStepper(OptimizationStepper):
    """One update of MR.Q / ULD on a value batch.

    Before updates 1, ``period`` + 1, 2 ``period`` + 1, ..., in this order: the targets of encoder,
    policy and value are copied; the target reward scale takes the reward scale, and this the mean
    absolute reward in the buffer; with schedule "periodic", ``period`` encoder updates follow, each
    on a batch of its own. Then, at every update: the value on ``sub_batch`` (and with "every_step"
    the encoder before it), its TD errors as new priorities, the policy.

    Images in a batch are shifted at random before the losses see them, see
    ``trainers.augmentation.shift_images``.

    What is not finite reaches no weights: an update whose batch, loss or gradient is not is left out from
    there on (a value update before a policy loss that is not stands), sets no priorities, and is told by
    ``watchdog``.

    Of a loss with ``end_to_end`` there are no encoder updates: the step on the value's loss is that of the
    encoders' optimiser too, so that f and g keep their learning rate, and one clip holds for the gradient
    of all three.

    The termination loss counts from the first period at whose start the buffer holds a termination.

    With ``lr_decay`` the learning rates of all three optimisers fall with the number of updates done, to
    ``lr_final`` of what they were after ``total_updates``; the encoder updates at the start of a period
    have the rate of the update that follows.

    With ``compile`` "graph" three parts of it are recorded once and replayed: a batch's drawing, an encoder
    update with its drawing, the value's and policy's update. Nothing in them waits for the GPU, so what
    was left out is known at the end of a period; until then the priorities of such a batch stay as they are.

    Args:
        loss_module: the losses and networks.
        replay_buffer: source of the encoder batches, and taker of the priorities.
        config: learning rates and their decay, batch size, schedule, period, precision, compile.
        watchdog: what else happens then; default: :class:`~uld_torchrl.NonFinite` is raised.
        tell: told a line before something that takes long, such as compiling.
        engine: what runs the parts; default: what ``compile`` says.
        total_updates: of the whole run, for ``lr_decay``.

    Raises:
        InputError: a precision or way of compiling that the device lacks; ``lr_decay`` without
            ``total_updates``.

    Example:
        >>> from uld_torchrl import make_loss, make_networks, make_replay_buffer
        >>> from torchrl.data import Bounded, Unbounded
        >>> spec = Bounded(-1, 1, (2,))
        >>> loss = make_loss(make_networks(Unbounded(3), spec), spec)
        >>> rb = make_replay_buffer(capacity=1000, horizon=5, batch_size=8)
        >>> stepper = ULDOptimizationStepper(loss, rb, OptimConfig(batch_size=8, period=4))
        >>> B = 30
        >>> _ = rb.extend(TensorDict({
        ...     "observation": torch.randn(1, B, 3), "action": spec.rand((1, B)),
        ...     "next": {
        ...         "observation": torch.randn(1, B, 3), "reward": torch.randn(1, B, 1),
        ...         "terminated": torch.zeros(1, B, 1, dtype=torch.bool),
        ...         "truncated": torch.zeros(1, B, 1, dtype=torch.bool),
        ...         "done": torch.zeros(1, B, 1, dtype=torch.bool),
        ...     }}, batch_size=[1, B]))
        >>> metrics = stepper.step(None, rb.sample())
        >>> stepper.updates
        1
    """

    def __init__(
        self,
        loss_module: ULDLoss,
        replay_buffer: WindowReplayBuffer,
        config: OptimConfig | None = None,
        watchdog: Watchdog | None = None,
        tell: Callable[[str], None] = lambda line: None,
        engine: Engine | None = None,
        total_updates: int | None = None,
    ) -> None:
        self.loss_module, self.replay_buffer = loss_module, replay_buffer
        self.watchdog = watchdog or Watchdog()
        self.config = config = config or OptimConfig()
        self.compute = pick_compute(config, loss_module.reward_scale.device)
        self.losses = Losses(loss_module, self.compute, tell)
        self.engine = engine or self._make_engine(tell)
        self.target_updater = PeriodicHardUpdate(loss_module, period=config.period)
        # Frozen parameters stay out: with a gradient of zero in place of none, weight decay would move them.
        encoder = [p for name in _taught(loss_module) for p in getattr(loss_module, name).parameters()]
        self.encoder_optimizer = self._adamw(encoder, config.encoder_lr)
        value = list(loss_module.qvalue_network_params.parameters())
        self.value_optimizer = self._adamw(value, config.value_lr)
        policy = list(loss_module.actor_network_params.parameters())
        self.policy_optimizer = self._adamw(policy, config.policy_lr)
        falls, optimizers = config.lr_decay != "none", list(self.optimizers.values())
        self._rates = FallingRates(optimizers, config, total_updates) if falls else None
        loss_module.terminated_coeff.zero_()
        self.encoder_schedule = "with_value" if loss_module.end_to_end else config.schedule
        self._encoder_metrics: dict[str, Tensor] = {}
        self._burst: dict[str, Tensor] = {}
        self.watchdog.deferred = self.engine.reuses

    def _make_engine(self, tell: Callable[[str], None]) -> Engine:
        if self.compute.compile != "graph":
            return Eager()
        generator = self.replay_buffer._rng
        recorder = CudaGraphs(self.loss_module.reward_scale.device, [] if generator is None else [generator])
        return Replayed(recorder, tell=tell if self.config.compile == "auto" else None)

    def _adamw(self, parameters: list[Tensor], lr: float) -> torch.optim.AdamW:
        # fused: 2.3 ms against 15.7 for 3.9M parameters on a CPU, and one kernel on a GPU.
        return torch.optim.AdamW(
            parameters,
            lr=lr,
            weight_decay=self.config.weight_decay,
            fused=True,
            capturable=self.engine.reuses,
        )

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The three optimisers by name."""
        return {
            "encoder": self.encoder_optimizer,
            "value": self.value_optimizer,
            "policy": self.policy_optimizer,
        }

    def moved_by(self, part: str) -> list[torch.optim.Optimizer]:
        """Return the optimisers that the loss of a part moves, its own first."""
        own = [self.optimizers[part]]
        shared = part == "value" and self.loss_module.end_to_end
        return [*own, self.encoder_optimizer] if shared else own

    @property
    def updates(self) -> int:
        """Updates done so far."""
        return self.target_updater.counter

    @property
    def counters(self) -> dict[str, int]:
        """Updates done so far, and those that were left out."""
        self._settle()
        return {"updates": self.updates, "skipped_updates": self.watchdog.skipped_updates}

    def step(self, trainer: Any, sub_batch: TensorDictBase | None = None) -> TensorDictBase:
        """Do one update on the value batch.

        Args:
            trainer: the TorchRL trainer that calls, or None; not used.
            sub_batch: window [B, H] or [B, n] from the replay buffer; None: the stepper draws it.

        Returns:
            Detached scalar metrics; those of the encoder are the latest ones.

        Raises:
            NonFinite: a loss, gradient or batch is not finite, unless the watchdog skips such updates.
        """
        with self.compute.matrix_products():
            batch = self.engine.run(self._draw) if sub_batch is None else sub_batch
            if self._begin_update():
                self._begin_period()
            encoder, metrics = self.engine.run(self._update, batch)
        if self.engine.reuses and self.target_updater.due:
            self._settle()
        self._encoder_metrics = encoder or self._encoder_metrics
        metrics = TensorDict({**self._encoder_metrics, **metrics})
        return metrics.clone() if self.engine.reuses else metrics

    def _begin_update(self) -> bool:
        """Set the learning rates of the next update and count it; return whether a period begins."""
        if self._rates is not None:
            self._rates.set(self.updates)
        return self.target_updater.step()

    def _draw(self) -> TensorDictBase:
        """Draw a value batch; of its windows only what is read."""
        n = self.loss_module.n_steps
        return self.replay_buffer.sample(steps=None if self.encoder_schedule == "every_step" else n)

    def _update(self, sub_batch: TensorDictBase) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Update value and policy, and with "every_step" the encoder; return its and their metrics."""
        self._watch(sub_batch)
        encoder: dict[str, Tensor] = {}
        if self.encoder_schedule == "every_step":
            batch = self._shifted_whole(sub_batch)
            encoder = self._update_encoder(batch)
        else:
            batch = self._shifted_for_value(sub_batch)
        value_loss, value = self.losses("value_loss", batch)
        grad_norm = self._descend("value", value_loss)
        actor_loss, actor = self.losses("actor_loss", value)
        self._descend("policy", actor_loss)
        if self._passed(sub_batch):
            self._set_priorities(batch, value)
        return encoder, self._metrics(value_loss, value, grad_norm, actor_loss, actor)

    def _begin_period(self) -> None:
        self._set_scales()
        if self.encoder_schedule == "periodic":
            self._encoder_burst()

    def _set_scales(self) -> None:
        loss = self.loss_module
        loss.update_reward_scale_(self.replay_buffer.mean_abs_reward())
        if float(loss.terminated_coeff) == 0.0 and self.replay_buffer.has_termination():
            loss.terminated_coeff.fill_(loss.full_terminated_coeff)

    def _encoder_burst(self) -> None:
        for total in self._burst.values():
            total.zero_()
        for _ in range(self.config.period):
            self.engine.run(self._draw_and_update_encoder)
        done = self._burst["updates"]
        if done > 0:
            self._encoder_metrics = {name: total / done for name, total in self._burst.items()}
            del self._encoder_metrics["updates"]

    def _draw_and_update_encoder(self) -> None:
        batch = self.replay_buffer.sample()
        self._watch(batch)
        metrics = self._update_encoder(self._shifted_whole(batch))
        self._passed(batch)
        left_out = self.watchdog.found > 0
        metrics["updates"] = torch.ones_like(metrics["loss_encoder"])
        for name, value in metrics.items():
            if name not in self._burst:
                self._burst[name] = torch.zeros_like(value)
            self._burst[name].add_(value.masked_fill(left_out, 0.0))  # in place, as a recording needs it

    def _shifted(
        self, batch: TensorDictBase, next_steps: slice = EVERY, steps: slice = FIRST
    ) -> TensorDictBase:
        keys = self.loss_module.state_encoder.in_keys
        return shift_images(batch, keys, self.config.image_shift, next_steps, steps)

    def _shifted_whole(self, batch: TensorDictBase) -> TensorDictBase:
        """Shift what the encoder's loss reads: without the unroll all observations."""
        return self._shifted(batch, steps=FIRST if self.loss_module.unroll else EVERY)

    def _shifted_for_value(self, batch: TensorDictBase) -> TensorDictBase:
        """Shift what the value's loss reads of the next observations: the last one of its return."""
        n = self.loss_module.n_steps
        return self._shifted(batch, slice(n - 1, n))

    def _update_encoder(self, batch: TensorDictBase) -> dict[str, Tensor]:
        loss, parts = self.losses("encoder_loss", batch)
        self._descend("encoder", loss)
        return {"loss_encoder": loss.detach(), **dict(parts.items())}

    def _descend(self, part: str, loss: Tensor) -> Tensor:
        """Do a part's optimiser step, unless something is not finite; return its gradient's norm."""
        optimizers = self.moved_by(part)
        parameters = parameters_of(optimizers)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        if part == "value":
            norm = clip_grad_norm_(parameters, self.config.value_grad_clip)
        else:
            norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        # While the norm is finite so are the second moments, which hold squares of the gradient.
        found = self.watchdog.note(part, loss=loss, gradient=norm)
        for optimizer in optimizers:
            optimizer.found_inf = found  # type: ignore[attr-defined]
            optimizer.step()
        return norm

    def _watch(self, batch: TensorDictBase) -> None:
        """Begin an update on the batch."""
        read = (batch.get(key, None) for key in self.loss_module.in_keys)
        entries = [entry for entry in read if entry is not None and entry.is_floating_point()]
        # Weights that show in no loss: of NaN values too the largest is chosen as the next action.
        target_policy = self.loss_module.target_actor_network_params.data.values(True, True)
        self.watchdog.begin([*entries, *target_policy])

    def _passed(self, batch: TensorDictBase) -> bool:
        """Return whether the update was applied; ``batch`` is as it was sampled."""
        return self.watchdog.passed(batch, self.loss_module, self.updates)

    def _settle(self) -> None:
        """Read what was deferred."""
        self.watchdog.settle(self.loss_module, self.updates)

    def _set_priorities(self, batch: TensorDictBase, value: TensorDictBase) -> None:
        anchors = batch.get("anchor_index", None)
        if anchors is None:
            return
        error = value.get(self.loss_module.tensor_keys.priority)
        if self.watchdog.deferred:  # such errors change no priority
            error = error.masked_fill(self.watchdog.found > 0, torch.nan)
        self.replay_buffer.update_priority(anchors, error)

    def _metrics(
        self,
        value_loss: Tensor,
        value: TensorDictBase,
        grad_norm: Tensor,
        actor_loss: Tensor,
        actor: TensorDictBase,
    ) -> dict[str, Tensor]:
        return {
            "loss_qvalue": value_loss.detach(),
            "loss_actor": actor_loss.detach(),
            "value_grad_norm": grad_norm,
            "td_error_mean": value.get(self.loss_module.tensor_keys.priority).mean(),
            "pred_value": value.get("pred_value").mean(),
            "target_value": value.get("target_value").mean(),
            "reward_scale": self.loss_module.reward_scale.clone(),
            **dict(actor.items()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return optimiser states and the position in the schedule; the loss keeps its own."""
        self._settle()
        return {
            "target_updater": self.target_updater.state_dict(),
            "encoder_metrics": dict(self._encoder_metrics),
            "watchdog": self.watchdog.state_dict(),
            **{name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.target_updater.load_state_dict(state_dict["target_updater"])
        self._encoder_metrics = dict(state_dict["encoder_metrics"])
        if "watchdog" in state_dict:  # earlier versions saved none
            self.watchdog.load_state_dict(state_dict["watchdog"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state_dict[name])
            optimizer.param_groups[0]["capturable"] = self.engine.reuses  # another device may have saved it
        if self._rates is not None:
            self._rates.set(self.updates)


def _taught(loss: ULDLoss) -> tuple[str, ...]:
    """Return what of f, g and m the encoders' optimiser learns."""
    if loss.end_to_end:
        return _ENCODER[:2]
    return _ENCODER[2:] if loss.freeze_encoder else _ENCODER


def parameters_of(optimizers: Sequence[torch.optim.Optimizer]) -> list[Tensor]:
    """Return all parameters of optimisers of one group each.

    Example:
        >>> first, second = (torch.optim.SGD([torch.ones(n)], lr=0.1) for n in (1, 2))
        >>> parameters_of([first, second])
        [tensor([1.]), tensor([1., 1.])]
    """
    return [parameter for optimizer in optimizers for parameter in optimizer.param_groups[0]["params"]]
