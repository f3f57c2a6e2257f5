"""The figures of an audit that are followed over training time: one row of audits.csv, and what it means.

The audit itself, with all of its conditions and numbers, is ``theory.audit_embeddings``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from theory import TabularMDP
from theory.audit import AuditReport

Row = dict[str, float | int | None]

AUDIT_COLUMNS = {
    "step": "agent steps stored so far",
    "pairs_visited": "share of the pairs of an action and a live state that the start leads to which the "
    "replay buffer holds; empty without counts, and norms then weigh all pairs the same",
    "equalities_hold": "1 if every equality of the theory holds on this agent, as it must; 0 if not",
    "best_value": "optimal value from the start, V*",
    "greedy_value": "true value from the start of the policy that is greedy in the network's values",
    "greedy_share": "its share of V*; empty unless V* is positive",
    "policy_value": "true value from the start of the exported policy, V^pi",
    "claimed_value": "value from the start that the network claims for it",
    "value_error": "error of the network's values against Q^pi, norm weighted by the visits",
    "value_error_max": "the largest one",
    "reward_part": "the part of it from predicted rewards, same norm",
    "dynamics_part": "the part from predicted next embeddings, same norm",
    "planning_part": "the part from values that do not follow from the predictions, same norm",
    "n_step_part": "the part of it that n-step returns of the visits ask for, however well the critic learns",
    "n_step_rest": "the rest of it, same norm",
    "effective_rank": "effective rank of the centred z_sa, exp of the entropy of its singular values",
    "r2_true": "R^2 of Q^pi on the first principal components of z_sa, as many as the effective rank",
    "r2_network": "the same of the network's values",
    "r2_random": "what as many random features explain of anything on average",
    "dynamics_loss": "expected one-step squared error of the predicted embedding, mean over its elements",
    "dynamics_noise": "what no model could predict of it with this embedding of states",
}
"""Columns of audits.csv and what they mean; values in reward units, empty what cannot be judged."""


def audit_row(report: AuditReport, arrays: Mapping[str, Any], mdp: TabularMDP) -> Row:
    """Return one row of audits.csv.

    Args:
        report: of the audit.
        arrays: the export that was audited.
        mdp: its MDP.

    Example:
        >>> import theory
        >>> mdp = theory.river_swim()
        >>> q, pi, one = np.zeros((6, 2)), np.full((6, 2), 0.5), np.ones((6, 2, 1))
        >>> arrays = {"zs": one[:, 0], "zsa": one, "zs_next_pred": one, "q": q, "pi": pi, "r_hat": q}
        >>> arrays |= {"v_at_pred": q, "counts": np.eye(6, 2), "step": 7}
        >>> row = audit_row(theory.audit_embeddings(arrays, mdp), arrays, mdp)
        >>> row["step"], round(row["pairs_visited"], 3), row["claimed_value"]
        (7, 0.167, 0.0)
    """
    return {
        "step": report.step,
        "pairs_visited": _visited(arrays, mdp),
        "equalities_hold": {"pass": 1, "fail": 0}.get(report.verdict),
        **_worth(report),
        **_errors(report),
        **_returns(report),
        **_linearity(report),
        **_dynamics(report),
    }


def _visited(arrays: Mapping[str, Any], mdp: TabularMDP) -> float | None:
    if "counts" not in arrays:
        return None
    return float((np.asarray(arrays["counts"])[mdp.live_states("start")] > 0).mean())


def _worth(report: AuditReport) -> Row:
    acting = report.acting
    if acting is None:
        return {}
    greedy, exported = acting.greedy, acting.exported
    return {
        "best_value": acting.best,
        "greedy_value": None if greedy is None else greedy.value,
        "greedy_share": None if greedy is None else greedy.ratio,
        "policy_value": None if exported is None else exported.value,
    }


def _errors(report: AuditReport) -> Row:
    value = report.value
    if value is None:
        return {}
    return {
        "claimed_value": value.claimed_start,
        "value_error": value.error.weighted,
        "value_error_max": value.error.largest,
        **{f"{part}_part": size.weighted for part, size in value.parts.items()},
    }


def _returns(report: AuditReport) -> Row:
    found = report.returns
    if found is None:
        return {}
    return {
        "n_step_part": found.sizes["n-step part"].weighted,
        "n_step_rest": found.sizes["rest"].weighted,
    }


def _dynamics(report: AuditReport) -> Row:
    found = report.noise
    return {} if found is None else {"dynamics_loss": found.loss, "dynamics_noise": found.mean_noise}


def _linearity(report: AuditReport) -> Row:
    found = report.linearity
    if found is None:
        return {}
    return {
        "effective_rank": found.effective_rank,
        "r2_true": None if found.true is None else float(found.true.r2[found.at]),
        "r2_network": None if found.network is None else float(found.network.r2[found.at]),
        "r2_random": float(found.random[found.at]),
    }
