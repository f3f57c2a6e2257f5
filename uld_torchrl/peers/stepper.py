"""Steppers: one call a step of the loop; what TD3, SAC and DQN then update, and in which order.

Losses are those of ``networks``, batches single transitions drawn uniformly. The loop around is the
trainer's, the same as for ULD; so is the watchdog that keeps what is not finite away from the weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torch.nn.utils import get_total_norm
from torchrl.objectives import HardUpdate, SoftUpdate
from torchrl.objectives.common import LossModule
from torchrl.trainers import OptimizationStepper

from uld_torchrl.data import WindowReplayBuffer
from uld_torchrl.peers.config import DQNConfig, PeerConfig, SACConfig, TD3Config

if TYPE_CHECKING:
    from uld_torchrl.trainers.watchdog import Watchdog

Metrics = dict[str, Tensor]


class PeerStepper(OptimizationStepper):
    """Counts the calls, draws batches and steps optimisers; subclasses say what an update is.

    Args:
        loss_module: of :func:`~uld_torchrl.peers.networks.make_peer`.
        policy: the same, for what explores less with time.
        replay_buffer: source of the batches, windows [B, 1].
        watchdog: what happens where a loss, gradient or batch is not finite.

    Attributes:
        calls: steps of the loop so far.
        updates: updates so far, those left out included.
    """

    update_every = 1

    def __init__(
        self,
        loss_module: LossModule,
        policy: TensorDictSequential,
        replay_buffer: WindowReplayBuffer,
        watchdog: Watchdog,
    ) -> None:
        self.loss_module, self.policy, self.replay_buffer = loss_module, policy, replay_buffer
        self.watchdog = watchdog
        self.calls = self.updates = 0
        self.optimizers = self._optimizers()
        self._latest: Metrics = {}

    @abstractmethod
    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimisers by the part that each moves."""

    @abstractmethod
    def _update(self, batch: TensorDictBase) -> Metrics:
        """Do one update on a batch [B]; return scalars."""

    def _after_call(self) -> None:
        """Do what is due by calls, not by updates."""

    @property
    def counters(self) -> dict[str, int]:
        """Updates done so far, and those that were left out."""
        return {"updates": self.updates, "skipped_updates": self.watchdog.skipped_updates}

    def step(self, trainer: Any, sub_batch: TensorDictBase | None = None) -> TensorDictBase:
        """Take note of a step of the loop, and update if that is due.

        Args:
            trainer: not used.
            sub_batch: transitions [B]; None: the stepper draws them.

        Returns:
            Detached scalar metrics, the latest of each.

        Raises:
            NonFinite: a loss, gradient or batch is not finite, unless the watchdog skips such updates.
        """
        self.calls += 1
        if self.calls % self.update_every == 0:
            batch = self.replay_buffer.sample()[:, 0] if sub_batch is None else sub_batch
            self._watched_update(batch)
        self._after_call()
        return TensorDict(self._latest)

    def _watched_update(self, batch: TensorDictBase) -> None:
        self.updates += 1
        read = [batch.get(key) for key in self.loss_module.in_keys]
        self.watchdog.begin([entry for entry in read if entry.is_floating_point()])
        metrics = self._update(batch)
        self._latest = {**self._latest, **{name: value.detach() for name, value in metrics.items()}}
        self.watchdog.passed(batch, self.loss_module, self.updates)

    def _adam(self, network: str, lr: float) -> torch.optim.Adam:
        return torch.optim.Adam(list(getattr(self.loss_module, network).parameters()), lr=lr, fused=True)

    def _descend(self, part: str, loss: Tensor) -> Tensor:
        """Do a part's optimiser step, unless something is not finite; return its gradient's norm."""
        optimizer = self.optimizers[part]
        optimizer.zero_grad()
        loss.backward()
        norm = get_total_norm([p.grad for p in optimizer.param_groups[0]["params"] if p.grad is not None])
        optimizer.found_inf = self.watchdog.note(part, loss=loss, gradient=norm)  # type: ignore[attr-defined]
        optimizer.step()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Return counters, optimisers and exploration; the loss keeps its own."""
        return {
            "calls": self.calls,
            "updates": self.updates,
            "latest": dict(self._latest),
            "watchdog": self.watchdog.state_dict(),
            "exploration": dict(self.policy[-1].state_dict()),
            **{name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.calls, self.updates = int(state_dict["calls"]), int(state_dict["updates"])
        self._latest = dict(state_dict["latest"])
        self.watchdog.load_state_dict(state_dict["watchdog"])
        self.policy[-1].load_state_dict(state_dict["exploration"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state_dict[name])


class TD3Stepper(PeerStepper):
    """TD3: the values; at every ``policy_delay``-th update then the policy and all targets."""

    def __init__(self, config: TD3Config, *parts: Any) -> None:
        self.config = config
        super().__init__(*parts)
        self.target_updater = SoftUpdate(self.loss_module, tau=config.tau)

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "value": self._adam("qvalue_network_params", self.config.value_lr),
            "policy": self._adam("actor_network_params", self.config.policy_lr),
        }

    def _update(self, batch: TensorDictBase) -> Metrics:
        value_loss, value = self.loss_module.value_loss(batch)
        metrics = {
            "loss_qvalue": value_loss,
            "value_grad_norm": self._descend("value", value_loss),
            "td_error_mean": value["td_error"].max(0).values.sqrt().mean(),
            "pred_value": value["pred_value"].mean(),
            "target_value": value["target_value"].mean(),
        }
        if self.updates % self.config.policy_delay == 0:
            actor_loss, _ = self.loss_module.actor_loss(batch)
            self._descend("policy", actor_loss)
            self.target_updater.step()
            metrics |= {"loss_actor": actor_loss, "actor_value": -actor_loss}
        return metrics


class SACStepper(PeerStepper):
    """SAC: the values, the policy, the temperature, the targets; all at every update."""

    def __init__(self, config: SACConfig, *parts: Any) -> None:
        self.config = config
        super().__init__(*parts)
        self.target_updater = SoftUpdate(self.loss_module, tau=config.tau)

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        log_alpha, lr = self.loss_module.log_alpha, self.config.temperature_lr
        return {
            "value": self._adam("qvalue_network_params", self.config.value_lr),
            "policy": self._adam("actor_network_params", self.config.policy_lr),
            "temperature": torch.optim.Adam([log_alpha], lr=lr, fused=True),
        }

    def _update(self, batch: TensorDictBase) -> Metrics:
        loss = self.loss_module
        value_loss, value = loss.qvalue_v2_loss(batch)
        norm = self._descend("value", value_loss)
        actor_loss, actor = loss.actor_loss(batch)
        self._descend("policy", actor_loss)
        self._descend("temperature", loss.alpha_loss(actor["log_prob"]).mean())
        self.target_updater.step()
        return {
            "loss_qvalue": value_loss,
            "value_grad_norm": norm,
            "td_error_mean": value["td_error"].mean(),
            "loss_actor": actor_loss,
            "temperature": loss.log_alpha.detach().exp(),
            "entropy": -actor["log_prob"].mean(),
        }


class DQNStepper(PeerStepper):
    """DQN: an update every ``update_every`` calls, a copy of the target every ``target_period`` calls."""

    def __init__(self, config: DQNConfig, *parts: Any) -> None:
        self.config, self.update_every = config, config.update_every
        super().__init__(*parts)
        # TorchRL's copies at every call after so many without: with 0 at each.
        self.target_updater = HardUpdate(self.loss_module, value_network_update_interval=0)

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"value": self._adam("value_network_params", self.config.value_lr)}

    def _update(self, batch: TensorDictBase) -> Metrics:
        value_loss = self.loss_module(batch)["loss"]
        return {
            "loss_qvalue": value_loss,
            "value_grad_norm": self._descend("value", value_loss),
            "td_error_mean": batch["td_error"].sqrt().mean(),
            "epsilon": self.policy[-1].eps.clone(),
        }

    def _after_call(self) -> None:
        self.policy[-1].step()
        if self.calls % self.config.target_period == 0:
            self.target_updater.step()


def make_stepper(peer: PeerConfig, *parts: Any) -> PeerStepper:
    """Make the stepper of a peer; ``parts`` are the arguments of :class:`PeerStepper`.

    Example:
        >>> from torchrl.data import OneHot, Unbounded
        >>> from uld_torchrl.data import make_replay_buffer
        >>> from uld_torchrl.peers.networks import make_peer
        >>> from uld_torchrl.trainers import Watchdog
        >>> networks = make_peer(DQNConfig(), Unbounded(3), OneHot(2))
        >>> buffer = make_replay_buffer(capacity=100, horizon=1, batch_size=4, alpha=0.0)
        >>> make_stepper(DQNConfig(), *networks, buffer, Watchdog()).update_every
        10
    """
    if isinstance(peer, TD3Config):
        return TD3Stepper(peer, *parts)
    return SACStepper(peer, *parts) if isinstance(peer, SACConfig) else DQNStepper(peer, *parts)
