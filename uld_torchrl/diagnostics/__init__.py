"""The bridge: what an agent has learned, measured against the exact theory of ``theory``.

Exports of an agent's embeddings on a tabular MDP, the audit of a run over its training time, probes on a
replay buffer of any environment, and what a run calls to do these while it trains. The theorems are in
``theory``, training is in ``uld_torchrl.trainers``.
"""

from uld_torchrl.diagnostics.callbacks import AuditEvery, ProbeEvery
from uld_torchrl.diagnostics.export import export_embeddings, save_export
from uld_torchrl.diagnostics.mdps import mdp_of_env
from uld_torchrl.diagnostics.probes import probe
from uld_torchrl.diagnostics.run_audit import RunAudit, audit_run
from uld_torchrl.diagnostics.tabular import (
    model_weights,
    tabular_loss,
    transition_batch,
    value_weights,
)
from uld_torchrl.diagnostics.visits import replay_counts

__all__ = [
    "AuditEvery",
    "ProbeEvery",
    "RunAudit",
    "audit_run",
    "export_embeddings",
    "mdp_of_env",
    "model_weights",
    "probe",
    "replay_counts",
    "save_export",
    "tabular_loss",
    "transition_batch",
    "value_weights",
]
