"""TorchRLTrainer: our replay buffer and stepper inside ``torchrl.trainers.Trainer``.

For users of TorchRL's collectors, loggers, hooks and checkpoints. From the same seed it does the
same as our own loop: every loss is the same to the last bit. Run directories, evaluation and the
command line belong to that loop, in ``trainer``, and are not here.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

from tensordict import TensorDictBase
from torchrl.collectors import BaseCollector, MultiAsyncCollector, MultiSyncCollector
from torchrl.trainers import Trainer

from uld_torchrl.config import OptimConfig
from uld_torchrl.data import WindowReplayBuffer
from uld_torchrl.errors import InputError
from uld_torchrl.objectives import ULDLoss
from uld_torchrl.trainers.stepper import ULDOptimizationStepper
from uld_torchrl.trainers.watchdog import Watchdog


class TorchRLTrainer(Trainer):
    """A :class:`torchrl.trainers.Trainer` that stores the collector's batches and updates on windows.

    ``updates_per_step`` updates follow for each agent step in a batch, once more than the collector's
    ``init_random_frames`` steps are stored. All of a batch's dimensions but the last, time, become lanes of
    the replay buffer, so one collector of ``num_envs`` environments fills ``num_envs`` lanes and a
    ``MultiSyncCollector`` of W such workers fills W ``num_envs``. The workers get the new weights after
    each batch.

    Differs from the ``Trainer`` in: 1. it keeps the last ``history`` values of a metric, not all of them
    (0.9 GB after 1e5 batches); 2. its log times are its own, where a second ``Trainer`` resets those of
    the first; 3. when training begins, what the buffer already holds ends in a truncation, so
    that no window runs from it into the collector's first episode.

    Args:
        loss_module: the losses and networks.
        replay_buffer: from :func:`~uld_torchrl.make_replay_buffer`.
        collector: source of the agent steps; the caller chooses ``frames_per_batch`` (our own loop's
            is num_envs) and ``init_random_frames``.
        total_frames: agent steps of the whole run.
        config: learning rates, batch size, schedule, period, updates a step; a decay of the learning rates
            goes over the updates that ``total_frames`` less the collector's ``init_random_frames`` make.
        watchdog: what happens with a loss, gradient or batch that is not finite; default: an error.
        history: values kept of each metric; all of them reach the logger.
        **trainer_options: of the ``Trainer``, such as ``logger``, ``log_interval``, ``checkpoint``,
            ``save_trainer_file``, ``progress_bar``.

    Raises:
        InputError: a collector that would put the steps of several environments into one lane, or
            that writes to a replay buffer of its own.

    Example:
        >>> from torchrl.collectors import Collector
        >>> from uld_torchrl import make_env, make_loss, make_networks, make_policy, make_replay_buffer
        >>> from uld_torchrl.config import preset
        >>> config, env = preset("debug"), make_env("CartPole-v1", num_envs=2, seed=0)
        >>> spec = env.action_spec[0]
        >>> nets = make_networks(env.observation_spec["observation"], spec, config.model)
        >>> trainer = TorchRLTrainer(
        ...     make_loss(nets, spec, config),
        ...     make_replay_buffer(capacity=1000, num_lanes=2, batch_size=4),
        ...     Collector(
        ...         env, make_policy(nets, spec, config), frames_per_batch=10, init_random_frames=20,
        ...         auto_register_policy_transforms=False,
        ...     ),
        ...     total_frames=50, config=config.optim, progress_bar=False,
        ... )
        >>> trainer.train()
        >>> trainer.optimization_stepper.updates
        30
    """

    def __init__(
        self,
        loss_module: ULDLoss,
        replay_buffer: WindowReplayBuffer,
        collector: BaseCollector,
        *,
        total_frames: int,
        config: OptimConfig | None = None,
        watchdog: Watchdog | None = None,
        history: int = 1000,
        **trainer_options: Any,
    ) -> None:
        _check_collector(collector)
        config = config or OptimConfig()
        total = (total_frames - (collector.init_random_frames or 0)) * config.updates_per_step
        stepper = ULDOptimizationStepper(
            loss_module, replay_buffer, config, watchdog, total_updates=max(total, 1)
        )
        options = {"frame_skip": 1, "optim_steps_per_batch": 1, **trainer_options}
        super().__init__(
            collector=collector,
            total_frames=total_frames,
            loss_module=loss_module,
            replay_buffer=replay_buffer,
            optimization_stepper=stepper,
            **options,
        )
        self.updates_per_step = config.updates_per_step
        self._last_log: dict[str, int] = {}
        self._log_dict: dict[str, deque[Any]] = defaultdict(lambda: deque(maxlen=history))
        self.register_module("replay_buffer", replay_buffer)
        self.register_op("setup", replay_buffer.mark_newest_truncated)
        self.register_op("batch_process", self._store)
        self.register_op("process_optim_batch", lambda _: replay_buffer.sample())

    def _store(self, batch: TensorDictBase) -> None:
        self.replay_buffer.extend(batch.reshape(-1, batch.shape[-1]))

    def optim_steps(self, batch: TensorDictBase) -> None:
        """Do the updates for the agent steps in the batch, and hand the weights to the workers."""
        warm_up = self.collected_frames <= self.collector.init_random_frames
        if warm_up or not self.replay_buffer.can_sample():
            return
        self.optim_steps_per_batch = batch.numel() * self.updates_per_step
        super().optim_steps(batch)
        self.collector.update_policy_weights_()


def _check_collector(collector: BaseCollector) -> None:
    if getattr(collector, "replay_buffer", None) is not None:
        raise InputError(
            "collector must have no replay_buffer of its own: TorchRLTrainer stores its batches. "
            "Leave the collector's replay_buffer out."
        )
    if getattr(collector, "set_truncated", False):
        return
    if isinstance(collector, MultiAsyncCollector):
        raise InputError(
            "a MultiAsyncCollector delivers its workers' batches in any order, one after another into "
            "the same lanes: give it set_truncated=True, so that no window runs from one into the next."
        )
    if isinstance(collector, MultiSyncCollector) and collector.cat_results not in (None, "stack"):
        raise InputError(
            f"cat_results must be 'stack' (the default), got {collector.cat_results!r}: one lane would "
            "hold the steps of several workers. Or give the collector set_truncated=True."
        )
