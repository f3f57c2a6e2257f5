r"""What a chain becomes when pairs with one label are taken for the same: model, values, error, bounds.

This is theorem 2 with one-hot features of the labels. The class model is
:math:`\hat r, \hat P` (weighted class means), its value :math:`\hat Q=(I-\gamma\hat P)^{-1}\hat r`, and with
:math:`\epsilon_r=\hat r\circ z-r`, :math:`\epsilon_p` the difference of the distributions over classes,

.. math:: \hat Q\circ z-Q^\pi = G(\epsilon_r+\gamma\,\epsilon_p\hat Q)

exactly. Theorem 3's conditions say that both residuals vanish; ``abstraction`` checks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from theory.checks import EPS, Array, Ints, any_array
from theory.errors import InputError
from theory.labels import class_codes, class_means
from theory.problem import Problem
from theory.resolvent import Resolvent
from theory.value_error import true_values


@dataclass(frozen=True, eq=False)
class AggregateModel:
    r"""A chain over J classes, what it says about the n rows, and how wrong that is.

    Attributes:
        labels: (n,), class of each row, 0 to J - 1.
        r_hat: (J,), mean reward of each class.
        P_hat: (J, J), mean distribution over classes; what is missing to one terminates.
        q_hat: (J,), value of the class chain.
        values: (n,), the value of each row's class.
        eps_r: (n,), :math:`\hat r\circ z-r`.
        eps_p: (n, J), :math:`\hat P\circ z` minus the row's own distribution over classes.
        error: (n,), values - :math:`Q^\pi`.
        identity_residual: largest absolute entry of error - G(eps_r + gamma eps_p q_hat).
        tolerance: what rounding can account for.
        B1: (n,), :math:`G|\epsilon_r+\gamma\epsilon_p\hat Q|`.
        S1: :math:`H\max|\epsilon_r+\gamma\epsilon_p\hat Q|`.
        hoelder: :math:`H(\max|\epsilon_r|+\gamma\max\|\epsilon_p\|_1\,\mathrm{span}(\hat Q)/2)`, the end
            counted as a class of value 0.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> model = aggregate_model(problem, ["x", "x"])
        >>> model.q_hat.tolist(), model.error.tolist()
        ([2.0], [0.0, 0.0])
    """

    labels: Ints
    r_hat: Array
    P_hat: Array
    q_hat: Array
    values: Array
    eps_r: Array
    eps_p: Array
    error: Array
    identity_residual: float
    tolerance: float
    B1: Array
    S1: float
    hoelder: float


def aggregate_model(problem: Problem, pair_labels: Any) -> AggregateModel:
    """Merge rows with one label and compare the values of the merged chain with the true ones.

    Args:
        problem: the chain and the weights of the class means; its features play no part.
        pair_labels: (n,), or (S, A) if the problem comes from an MDP; equal labels, same class.

    Raises:
        InputError: a wrong shape; gamma is 1 and the chain or the merged chain may never end.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 0]], [0, 1], [1, 1], [0.5, 0.5], 0.5)
        >>> model = aggregate_model(problem, [0, 0])
        >>> model.error.round(9).tolist(), round(model.hoelder, 9)
        ([0.166666667, -0.333333333], 1.0)
    """
    codes = _row_codes(problem, pair_labels)
    ahead = problem.chain @ np.eye(int(codes.max()) + 1)[codes]
    r_hat = class_means(problem.r[:, None], codes, problem.mu)[:, 0]
    P_hat = class_means(ahead, codes, problem.mu)
    leaves = class_means(problem.chain.leaves[:, None].astype(float), codes, problem.mu)[:, 0] > 0.0
    q_hat = Resolvent(P_hat, problem.gamma, leaves=leaves, name=_class_name).solve(r_hat)
    eps_r, eps_p = r_hat[codes] - problem.r, P_hat[codes] - ahead
    one_step = eps_r + problem.gamma * (eps_p @ q_hat.x)
    resolvent = problem.resolvent
    predicted, truth = resolvent.solve(one_step), true_values(problem)
    error = q_hat.x[codes] - truth.value
    size = abs(problem.r).max() + abs(r_hat).max() + 4 * abs(q_hat.x).max() + abs(truth.value).max()
    certified = predicted.error_bound + truth.error_bound + q_hat.error_bound
    return AggregateModel(
        labels=codes,
        r_hat=r_hat,
        P_hat=P_hat,
        q_hat=q_hat.x,
        values=q_hat.x[codes],
        eps_r=eps_r,
        eps_p=eps_p,
        error=error,
        identity_residual=float(abs(error - predicted.x).max()),
        tolerance=certified + 4 * (problem.n + 8) * EPS * resolvent.H * float(size),
        B1=resolvent.solve(abs(one_step)).x,
        S1=resolvent.H * float(abs(one_step).max()),
        hoelder=resolvent.H * _hoelder(problem, eps_r, eps_p, q_hat.x),
    )


def _class_name(label: int) -> str:
    return f"class {label} of the merged chain"


def _hoelder(problem: Problem, eps_r: Array, eps_p: Array, q_hat: Array) -> float:
    """Return the one-step bound that separates rewards and transitions."""
    ended = -eps_p.sum(axis=1)
    values = np.append(q_hat, 0.0) if problem.chain.leaves.any() else q_hat
    distance = abs(eps_p).sum(axis=1) + abs(ended)
    return float(abs(eps_r).max() + problem.gamma * distance.max() * np.ptp(values) / 2.0)


def _row_codes(problem: Problem, labels: Any) -> Ints:
    """Return the class of each row from (n,) or (S, A) labels."""
    array = any_array("pair_labels", labels)
    if array.ndim == 2 and problem.mdp is not None and problem.rows is not None:
        codes = class_codes("pair_labels", array, problem.mdp.r.shape, "(states, actions)")
        array = codes.reshape(-1)[problem.rows]
    elif array.ndim != 1:
        raise InputError(
            f"pair_labels must have shape ({problem.n},), one label a row"
            f"{'' if problem.mdp is None else ', or (states, actions)'}; got {array.shape}."
        )
    return class_codes("pair_labels", array, (problem.n,), "(rows,)")
