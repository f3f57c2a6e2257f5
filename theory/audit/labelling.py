r"""Theorem 3 on the agent's embeddings: are states and pairs that look alike to it alike?

Embeddings closer than a tolerance, or joined by a chain of such, are taken for one. The clusters are labels,
of which theorem 3 asks equal rewards and equal next labels; where these are only nearly equal, the merged
chain's values are off by :math:`G(\epsilon_r+\gamma\,\epsilon_p\hat V)` exactly, and by at most a bound.
Several tolerances are tried: at the finest a trained network parts everything that its input parts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import csgraph, csr_array
from scipy.spatial.distance import pdist, squareform

from theory.abstraction import check_abstraction
from theory.audit.setting import Setting
from theory.checks import Array, Ints
from theory.errors import InputError
from theory.report import Condition, Report

TOLERANCES = (1e-6, 1e-3, 1e-2, 1e-1)
MOST_PAIRS = 4000  # of whose distances a matrix is formed
PREMISES = (
    "equal rewards",
    "equal transitions",
    "pair label is a function of state label and action",
    "policy is a function of the state label",
)
"""What theorem 3 asks before it says anything about the values of the policy."""
IDENTITY = "merged values differ by G(eps_r + gamma eps_p V)"


@dataclass(frozen=True, eq=False)
class Clustering:
    """The labels at one tolerance, and what theorem 3 says of them.

    Attributes:
        tolerance: relative to the root mean square distance of the embeddings from their mean.
        state_labels: (S,).
        pair_labels: (S, A).
        state_classes: of live states that the start leads to.
        pair_classes: of their pairs.
        report: conditions and conclusions of theorem 3; ``data`` has the errors of the merged model.
    """

    tolerance: float
    state_labels: Ints
    pair_labels: Ints
    state_classes: int
    pair_classes: int
    report: Report


@dataclass(frozen=True, eq=False)
class LabellingAudit:
    """Theorem 3 at several tolerances.

    Attributes:
        clusterings: one for each tolerance, ascending.
        states: live states that the start leads to.
        pairs: their pairs.
    """

    clusterings: tuple[Clustering, ...]
    states: int
    pairs: int

    @property
    def merging(self) -> Clustering | None:
        """The finest clustering that merges anything."""
        merged = (c for c in self.clusterings if c.pair_classes < self.pairs or c.state_classes < self.states)
        return next(merged, None)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The equality everywhere, theorem 3's conditions at the finest tolerance that merges anything."""
        return (self._equality, *(self._condition(name) for name in PREMISES))

    def _condition(self, name: str) -> Condition:
        """Return a condition of theorem 3 at the finest tolerance that merges anything."""
        found = self.merging
        if found is None:
            why = f"no two embeddings are within {self.clusterings[-1].tolerance:g}: nothing is merged"
            return Condition(f"theorem 3: {name}", None, why=why)
        condition = found.report.condition(name)
        why = f"of what is merged at tolerance {found.tolerance:g}: {condition.why}"
        return replace(condition, name=f"theorem 3: {name}", why=why)

    @property
    def _equality(self) -> Condition:
        """The equality of the merged model's error, at the tolerance where it is nearest to failing."""
        data = [c.report.data for c in self.clusterings]
        worst = max(data, key=lambda d: d["merged_identity_residual"] - d["merged_identity_tolerance"])
        residual, tolerance = worst["merged_identity_residual"], worst["merged_identity_tolerance"]
        why = "an equality; else transitions, rewards, policy or terminal states do not fit together"
        return Condition.at_most(IDENTITY, residual, tolerance, why)

    @property
    def numbers(self) -> dict[str, Any]:
        """Classes, conditions and bound at each tolerance."""
        return {f"theorem 3 at tolerance {c.tolerance:g}": _in_words(c) for c in self.clusterings}

    @property
    def arrays(self) -> dict[str, Any]:
        """The labels."""
        labels = {f"{c.tolerance:g}": c.state_labels for c in self.clusterings}
        return {f"theorem 3: labels of states at tolerance {at}": found for at, found in labels.items()}


def _in_words(found: Clustering) -> str:
    data, report = found.report.data, found.report
    return (
        f"{found.state_classes} classes of states, {found.pair_classes} of pairs; rewards differ by at most "
        f"{report.condition('equal rewards').value:.4g} from their class mean, transitions by "
        f"{report.condition('equal transitions').value:.4g}; merging costs a value error of "
        f"{data['merged_error']:.4g}, at most {data['merged_bound']:.4g} by the sup bound and "
        f"{data['merged_hoelder_bound']:.4g} by the bound that parts the two"
    )


def audit_labelling(setting: Setting, tolerances: tuple[float, ...] = TOLERANCES) -> LabellingAudit:
    """Cluster the embeddings at each tolerance and check theorem 3 on the labels.

    Raises:
        InputError: more than 4000 pairs, or values are infinite.
    """
    states, actions = setting.states, setting.mdp.num_actions
    if len(states) * actions > MOST_PAIRS:
        raise InputError(f"Clustering takes at most {MOST_PAIRS} pairs, got {len(states) * actions}.")
    zs, zsa = setting.export.zs[states], setting.rows(setting.export.zsa)
    of_states, of_pairs = _distances(zs), _distances(zsa)
    found: list[Clustering] = []
    for tolerance in tolerances:
        labels = _clusters(of_states, tolerance), _clusters(of_pairs, tolerance)
        found.append(_checked(setting, tolerance, *labels, found[-1] if found else None))
    return LabellingAudit(tuple(found), len(states), len(zsa))


def _distances(values: Array) -> tuple[Array, float]:
    """Return the distances of all rows from each other, (m, m), and the scale that tolerances refer to."""
    centred = values - values.mean(axis=0)
    scale = float(np.sqrt((centred**2).sum(axis=1).mean()))
    apart = squareform(pdist(centred)) if len(values) > 1 else np.zeros((1, 1))
    return np.asarray(apart, dtype=np.float64), scale


def _clusters(distances: tuple[Array, float], tolerance: float) -> Ints:
    """Return a label for each row; rows joined by a chain of close ones share it."""
    apart, scale = distances
    return np.asarray(csgraph.connected_components(csr_array(apart <= tolerance * scale))[1], dtype=np.int64)


def _checked(
    setting: Setting, tolerance: float, of_states: Ints, of_pairs: Ints, finer: Clustering | None
) -> Clustering:
    """Return what theorem 3 says of labels of the rows; other states are merged with nothing."""
    (S, A), rows = setting.mdp.r.shape, setting.problem.rows
    states = of_states.max() + 1 + np.arange(S)
    states[setting.states] = of_states
    pairs = of_pairs.max() + 1 + np.arange(S * A)
    pairs[rows] = of_pairs
    if finer is not None and _same(finer, states, pairs):
        return replace(finer, tolerance=tolerance)
    return Clustering(
        tolerance=tolerance,
        state_labels=states,
        pair_labels=pairs.reshape(S, A),
        state_classes=int(of_states.max()) + 1,
        pair_classes=int(of_pairs.max()) + 1,
        report=check_abstraction(setting.mdp, states, pairs.reshape(S, A), setting.policy),
    )


def _same(found: Clustering, states: Ints, pairs: Ints) -> bool:
    return np.array_equal(states, found.state_labels) and np.array_equal(pairs, found.pair_labels.reshape(-1))
