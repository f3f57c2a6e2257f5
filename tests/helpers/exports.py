"""Exports whose audit is known: an agent that is right about everything, and one that errs in a single part.

An export is the dict that ``theory.audit_embeddings`` takes. Here nothing is trained: embeddings are one-hot,
and values are solved for by a dense inverse of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from theory import Features, Policy, Problem, TabularMDP, Weights, garnet
from theory.checks import to_dense


def exact_export(mdp: TabularMDP, policy: Policy, **more: Any) -> dict[str, np.ndarray]:
    """One-hot embeddings, the true values of the policy, and a model that is right; ``more`` is added."""
    return planted_export(mdp, policy, **more)


def planted_export(
    mdp: TabularMDP,
    policy: Policy,
    *,
    reward: Any = 0.0,
    dynamics: Any = 0.0,
    planning: Any = 0.0,
    **more: Any,
) -> dict[str, np.ndarray]:
    """An agent whose predicted reward, predicted next value or value is off by so much, (S, A) or a number.

    The rest is consistent with the error: its value error is ``G (reward + gamma * dynamics + planning)``,
    and each term is the part of that name (see :func:`carried`).
    """
    S, A = mdp.r.shape
    live = ~mdp.terminal[:, None]
    off = [np.where(live, np.broadcast_to(part, (S, A)), 0.0) for part in (reward, dynamics, planning)]
    q = carried(mdp, policy, mdp.r + off[0] + mdp.gamma * off[1] + off[2])
    P = to_dense(mdp.rows).reshape(S, A, S)
    v_hat = np.where(mdp.terminal, 0.0, (policy.probs * q).sum(axis=1))
    return {
        "zs": np.eye(S),
        "zsa": np.eye(S * A).reshape(S, A, S * A),
        "q": q,
        "pi": policy.probs.copy(),
        "r_hat": mdp.r + off[0],
        "d_hat": P @ mdp.terminal.astype(float),
        "zs_next_pred": P,
        "v_at_pred": P @ v_hat + off[1],
        "gamma": np.asarray(mdp.gamma),
        **more,
    }


def carried(mdp: TabularMDP, policy: Policy, one_step: np.ndarray) -> np.ndarray:
    """``G`` times (S, A) one-step values, (S, A): a dense inverse over all pairs, terminal ones cut out."""
    S, A = mdp.r.shape
    P = to_dense(mdp.rows)
    alive = np.repeat(~mdp.terminal, A).astype(float)
    chain = np.einsum("ns,sa->nsa", P, policy.probs).reshape(S * A, S * A)
    chain = alive[:, None] * chain * alive[None, :]
    G = np.linalg.inv(np.eye(S * A) - mdp.gamma * chain)
    return (G @ (alive * one_step.reshape(-1))).reshape(S, A)


def random_export(
    seed: int, d: int, k: int = 3, *, terminal: int = 1
) -> tuple[TabularMDP, dict[str, np.ndarray]]:
    """An agent that is right, with random embeddings of d and k columns and random visits."""
    rng = np.random.default_rng(seed)
    mdp = garnet(7, 3, 3, 0.9, seed=seed, num_terminal=terminal)
    export = exact_export(mdp, Policy(rng.dirichlet(np.ones(3), 7)))
    export |= {
        "zsa": rng.normal(size=(7, 3, d)),
        "zs": rng.normal(size=(7, k)),
        "zs_next_pred": rng.normal(size=(7, 3, k)),
        "counts": rng.integers(1, 9, size=(7, 3)),
    }
    return mdp, export


def same_problem(
    mdp: TabularMDP, export: dict[str, np.ndarray], features: np.ndarray | None = None
) -> Problem:
    counts = np.where(mdp.terminal[:, None], 0, export["counts"])
    Z = Features(export["zsa"] if features is None else features)
    return Problem(mdp, Policy(export["pi"]), Z, Weights.empirical(counts))
