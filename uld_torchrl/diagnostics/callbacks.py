"""What a run calls to look at itself while it trains: audits on its tabular MDP, probes on its replay buffer.

Both write into the run's directory and leave the run as it was. When they are called is decided by the
trainer; what they measure, in ``theory`` and in ``probes``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from tensordict import TensorDictBase

from theory import InputError as TheoryError
from theory import TabularMDP, audit_embeddings
from uld_torchrl.data import WindowReplayBuffer
from uld_torchrl.diagnostics.export import (
    PolicyName,
    check_agent,
    check_mdp,
    export_embeddings,
    read_states,
    save_export,
)
from uld_torchrl.diagnostics.figures import AUDIT_COLUMNS, audit_row
from uld_torchrl.diagnostics.mdps import mdp_of_env
from uld_torchrl.diagnostics.probes import probe, probe_columns
from uld_torchrl.diagnostics.visits import replay_counts
from uld_torchrl.errors import InputError, one_of
from uld_torchrl.peers import refuse_peer
from uld_torchrl.trainers import Callback, ULDTrainer
from uld_torchrl.trainers.logs import CsvLog

WINDOWS = 256
"""Drawn for a probe; fewer leave little to be left out of its regressions."""


@dataclass(frozen=True, eq=False)
class AuditEvery(Callback):
    """Audit the agent every ``every`` steps: ``<run>/audits/step-<step>.npz`` and a row of ``audits.csv``.

    Each file is an export with the visits in the replay buffer, which ``theory.audit_embeddings`` reads;
    ``uld audit RUN`` makes reports and pictures of them. The columns are ``AUDIT_COLUMNS``.

    Args:
        every: agent steps.
        mdp: that the environment is; None: the one that its name says, see
            :func:`~uld_torchrl.diagnostics.mdp_of_env`. The discount is the agent's in any case.
        policy: see :func:`~uld_torchrl.diagnostics.export_embeddings`.
        observations: what the agent sees in each state, likewise.

    Raises:
        InputError: no such interval or policy; ``mdp`` is no MDP.

    Example:
        >>> import tempfile
        >>> from uld_torchrl import train
        >>> options = {"run_dir": tempfile.mkdtemp(), "progress": False}
        >>> run = train("debug", "tabular/riverswim", callbacks=[AuditEvery(200)], **options)
        >>> sorted(path.name for path in (run.path / "audits").iterdir())
        ['step-200.npz', 'step-300.npz']
    """

    mdp: TabularMDP | None = None
    policy: PolicyName = "greedy"
    observations: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("policy", self.policy, get_args(PolicyName))  # not only when the first audit is due
        if self.mdp is not None:
            check_mdp(self.mdp)

    def begin(self, trainer: ULDTrainer) -> None:
        """Refuse an environment that is no such MDP."""
        mdp = self._mdp(trainer)
        check_agent(trainer.agent, mdp)
        read_states(trainer.agent, mdp, self.observations)
        _table(trainer, "audits", AUDIT_COLUMNS)

    def __call__(self, trainer: ULDTrainer) -> None:
        """Write the export and the row of this step."""
        mdp, agent = self._mdp(trainer), trainer.agent
        counts = replay_counts(trainer.buffer, agent, mdp, self.observations)
        arrays: dict[str, Any] = export_embeddings(
            agent, mdp, self.policy, observations=self.observations, counts=counts
        )
        arrays["step"] = trainer.step
        save_export(trainer.run.audits / f"step-{trainer.step}.npz", arrays)
        try:
            report = audit_embeddings(arrays, mdp)
        except TheoryError as error:
            raise InputError(f"the audit of step {trainer.step}: {error}") from error
        _table(trainer, "audits", AUDIT_COLUMNS).append(audit_row(report, arrays, mdp))

    def _mdp(self, trainer: ULDTrainer) -> TabularMDP:
        return self.mdp or mdp_of_env(trainer.env_id, trainer.config.loss.gamma)


@dataclass(frozen=True, eq=False)
class ProbeEvery(Callback):
    """Probe the agent every ``every`` steps on windows of its replay buffer: a row of ``<run>/probes.csv``.

    For any environment; what is measured is in :func:`~uld_torchrl.diagnostics.probe`. Steps at which the
    buffer holds no window yet have no row.

    Args:
        every: agent steps.
        windows: how many are drawn, with the buffer's priorities.

    Example:
        >>> import tempfile
        >>> from uld_torchrl import train
        >>> from uld_torchrl.tables import read_rows
        >>> options = {"run_dir": tempfile.mkdtemp(), "progress": False}
        >>> run = train("debug", "CartPole-v1", callbacks=[ProbeEvery(150)], **options)
        >>> [row["step"] for row in read_rows(run.path / "probes.csv")]
        ['150', '300']
    """

    windows: int = WINDOWS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.windows, int) or self.windows < 2:
            raise InputError(f"windows must be an integer of at least 2, got {self.windows!r}.")

    def begin(self, trainer: ULDTrainer) -> None:
        """Refuse an agent without ULD's networks, and begin the table."""
        refuse_peer(trainer.peer, "ProbeEvery")
        _table(trainer, "probes", self._columns(trainer))

    def __call__(self, trainer: ULDTrainer) -> None:
        """Draw windows and write the row of this step."""
        if trainer.buffer.can_sample():
            row = probe(trainer.agent, _drawn(trainer.buffer, self.windows))
            _table(trainer, "probes", self._columns(trainer)).append({"step": trainer.step, **row})

    @staticmethod
    def _columns(trainer: ULDTrainer) -> dict[str, str]:
        return {"step": AUDIT_COLUMNS["step"], **probe_columns(trainer.config.loss.horizon)}


def _drawn(buffer: WindowReplayBuffer, windows: int) -> TensorDictBase:
    """Return so many windows, drawn a batch of the run's size at a time: TorchRL warns of any other size."""
    batches = [buffer.sample()]
    while len(batches) * len(batches[0]) < windows:
        batches.append(buffer.sample())
    return torch.cat(batches)[:windows]


def _table(trainer: ULDTrainer, name: str, columns: Mapping[str, str]) -> CsvLog:
    """Return a table of the run, without rows of later steps, which an interrupted session left there."""
    return CsvLog(trainer.run.path / f"{name}.csv", list(columns), keep_until=trainer.step)
