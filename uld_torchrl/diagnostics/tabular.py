r"""The agent's own loss on a problem of ``theory``: features looked up, values and model linear.

:func:`tabular_loss` is an :class:`~uld_torchrl.ULDLoss` whose f and g look the features of a problem up, and
:func:`transition_batch` every transition of the problem with its probability as a weight. So the loss of that
batch is an expectation, and its gradients are those that the theorems speak of. What follows from the
matrices is in ``theory``; exports of agents that were trained are in ``export``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.data import OneHot

from theory import Policy, Problem
from uld_torchrl.errors import InputError, one_of
from uld_torchrl.objectives import ULDLoss

NextAction = Literal["given", "sampled"]
_MOST_WINDOWS = 1_000_000
_TINY = torch.finfo(torch.float64).tiny


def tabular_loss(
    problem: Problem, *, next_action: NextAction = "given", num_values: int = 1, **settings: Any
) -> ULDLoss:
    r"""Return the agent's loss on the features of a problem, in float64, set as the theorems have it.

    f leaves the one-hot vector of the state as it is and g looks up :math:`z_{sa}` in a table, zero in
    terminal states; a value is :math:`z_{sa}^\top w`, and m predicts :math:`z_{sa}^\top w_r` and
    :math:`z_{sa}^\top W_d`, all without biases. Values and model start at zero. Settings begin as: one step,
    no unroll; squared errors of value and reward, m predicts :math:`z_{s'a'}`; encoders frozen and without
    targets, no reward scale, no noise on the target action, the problem's discount; ``priority_weight`` is
    applied if a batch has it. With them :math:`\mathrm E[\nabla_w] = 2(Aw-b)` if the target network is kept
    equal to the online one. Floats of a batch must be float64 too; replay's are float32.

    Args:
        problem: S states, of which those without features keep zeros. A bare chain counts its rows as states
            of one action, and one terminal state more if it can end.
        next_action: the action :math:`a'` of targets. "given": observations are [one-hot of s, one-hot of the
            action to take there], as in :func:`transition_batch`. "sampled": they are the one-hot of s, which
            ``TabularEnv`` shows, and each call draws :math:`a'\sim\pi(\cdot|s')` anew, by the argmax of
            log-probabilities and Gumbel noise.
        num_values: value heads.
        settings: of :class:`~uld_torchrl.ULDLoss`, in place of those above.

    Raises:
        InputError: another ``next_action``, or a setting that the loss refuses.

    Example:
        >>> from uld_torchrl import PeriodicHardUpdate
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)  # 2 (w - 1.5)
        >>> loss = tabular_loss(problem)
        >>> _ = PeriodicHardUpdate(loss, period=1).step()
        >>> value, _ = loss.value_loss(transition_batch(problem))
        >>> torch.autograd.grad(value, list(loss.qvalue_network_params.parameters()))[0].item()
        -3.0
    """
    one_of("next_action", next_action, get_args(NextAction))
    world = _World.of(problem)
    S, A = world.probs.shape
    sampled = next_action == "sampled"
    width = S if sampled else S + A
    logits = _tensor(world.probs.T).clamp_min(_TINY).log() if sampled else torch.eye(width)[S:]
    f, m, actor = _linear(torch.eye(width)), _Model(problem.d), _Policy(logits, sampled=sampled)
    head = _linear(torch.zeros(1, problem.d))
    z_s, z_sa = "state_embedding", "state_action_embedding"
    loss = ULDLoss(
        TensorDictModule(f, ["observation"], [z_s]),
        TensorDictModule(_Lookup(world.table(problem.Z)), [z_s, "action"], [z_sa]),
        TensorDictModule(m, [z_sa], ["terminated_pred", ("next", z_sa), "reward_logits"]),
        TensorDictModule(actor, [z_s], ["action", "pre_activation"]),
        TensorDictModule(head, [z_sa], ["state_action_value"]),
        action_spec=OneHot(A),
        num_qvalue_nets=num_values,
        **(_of_the_theorems(problem.gamma) | settings),
    )
    for target in (False, True):  # the heads are drawn anew, each by itself
        value_weights(loss, target=target).zero_()
    return loss.double()


def transition_batch(problem: Problem, *, n_steps: int = 1, behaviour: Policy | None = None) -> TensorDict:
    r"""Return every window of n steps that has a positive probability, and this as its weight.

    A window is :math:`(s_0,a_0)\sim\mu`, :math:`s_{t+1}\sim P(\cdot|s_t,a_t)`, actions on the way of the
    behaviour, the action :math:`a_n` of the bootstrap the policy's; after a terminal state nothing changes.

    Args:
        problem: gives weights, transitions, rewards and the policy.
        n_steps: n. The number of windows grows exponentially with it.
        behaviour: actions :math:`a_1,\dots,a_{n-1}`; the policy's own by default.

    Returns:
        Batch size [N, n], float64: ``observation`` [one-hot of s, one-hot of the action taken there], one-hot
        ``action``, and under ``next`` the expected ``reward`` r(s, a), ``terminated`` and the next
        ``observation``; ``priority_weight``, the same along a window, sums to one over the windows.

    Raises:
        InputError: more than a million windows; n below 1; a behaviour of another shape.

    Example:
        >>> batch = transition_batch(Problem.from_chain([[0.5]], [1.0], [[3.0]], [1.0], 0.9))
        >>> batch["priority_weight"].tolist(), batch["next", "terminated"].flatten().tolist()
        ([[0.5], [0.5]], [True, False])
    """
    if not isinstance(n_steps, int) or n_steps < 1:
        raise InputError(f"n_steps must be a whole number from 1, got {n_steps!r}.")
    world = _World.of(problem)
    probs = [world.probs if behaviour is None else world.probs_of(behaviour)] * (n_steps - 1) + [world.probs]
    kept = np.flatnonzero(problem.mu > 0.0)
    paths, weight = world.rows[kept][:, None], problem.mu[kept]
    for chances in probs:
        paths, weight = _extended(paths, weight, _pairs_after(world, chances))
    states, actions = np.divmod(paths, world.probs.shape[1])
    seen = torch.cat([_one_hot(states, world.P.shape[1]), _one_hot(actions, world.probs.shape[1])], -1)
    rewards = world.table(problem.r).reshape(-1)[paths[:, :-1]]
    return TensorDict(
        {
            "observation": seen[:, :-1],
            "action": _one_hot(actions[:, :-1], world.probs.shape[1]),
            "priority_weight": _tensor(np.repeat(weight[:, None], n_steps, 1)),
            "next": {
                "observation": seen[:, 1:],
                "reward": _tensor(rewards[..., None]),
                "terminated": torch.from_numpy(world.terminal[states[:, 1:, None]]),
            },
        },
        batch_size=[len(paths), n_steps],
    )


def value_weights(loss: ULDLoss, *, target: bool = False) -> Tensor:
    """Return the weights w of each linear value head, [heads, d]; writing into them sets them.

    Args:
        loss: from :func:`tabular_loss`.
        target: those of the target network.

    Example:
        >>> problem = Problem.from_chain([[0.5]], [1.0], [[3.0]], [1.0], 0.9)
        >>> value_weights(tabular_loss(problem, num_values=2))
        tensor([[0.],
                [0.]], dtype=torch.float64)
    """
    # From `_modules`: attribute access would warn about targets without an updater.
    params = loss._modules["target_qvalue_network_params" if target else "qvalue_network_params"]
    return params["module", "weight"].data.squeeze(1)


def model_weights(loss: ULDLoss) -> tuple[Tensor, Tensor]:
    r"""Return what the latent model has learned, :math:`w_r` [d] and :math:`W_d` [d, d], to read or to set.

    Args:
        loss: from :func:`tabular_loss`.

    Example:
        >>> problem = Problem.from_chain([[0.5]], [1.0], [[3.0]], [1.0], 0.9)
        >>> w_r, W_d = model_weights(tabular_loss(problem))
        >>> w_r.shape, W_d.shape
        (torch.Size([1]), torch.Size([1, 1]))
    """
    weight = loss.predictor_params["module", "linear", "weight"].data
    return weight[-1], weight[1:-1].T


def _of_the_theorems(gamma: float) -> dict[str, Any]:
    return {
        "horizon": 1,
        "n_steps": 1,
        "gamma": gamma,
        "value_loss": "mse",
        "reward_loss": "mse",
        "dynamics_target": "state_action",
        "unroll": False,
        "target_encoder": False,
        "freeze_encoder": True,
        "reward_scaling": False,
        "policy_noise": 0.0,
        "use_prioritized_weights": "auto",
    }


@dataclass(frozen=True)
class _World:
    """A problem with its terminal states, in rows ``s * A + a``."""

    P: sparse.csr_array
    """(S A, S), transitions; terminal states stay where they are."""
    probs: np.ndarray
    """(S, A), the policy; in terminal states all weight is on action 0."""
    terminal: np.ndarray
    """(S,) flags."""
    rows: np.ndarray
    """(n,), the row here of each row of the problem."""

    @classmethod
    def of(cls, problem: Problem) -> _World:
        if problem.mdp is not None and problem.policy is not None and problem.rows is not None:
            mdp = problem.mdp
            return cls(_csr(mdp.rows), _absorbed(problem.policy, mdp.terminal), mdp.terminal, problem.rows)
        n, ends = problem.n, problem.chain.leaves
        P = sparse.csr_array(problem.P_pi)
        if not ends.any():
            return cls(_csr(P), np.ones((n, 1)), ends, np.arange(n))
        ending = np.where(ends, 1.0 - P.sum(axis=1), 0.0)[:, None]
        P = sparse.block_array([[P, ending], [None, np.ones((1, 1))]])
        return cls(_csr(P), np.ones((n + 1, 1)), np.arange(n + 1) == n, np.arange(n))

    def table(self, values: np.ndarray) -> np.ndarray:
        """Return (S, A, ...) with the problem's (n, ...) in its rows and zeros elsewhere."""
        table = np.zeros((self.probs.size, *values.shape[1:]))
        table[self.rows] = values
        return table.reshape(*self.probs.shape, *values.shape[1:])

    def probs_of(self, behaviour: Policy) -> np.ndarray:
        if not isinstance(behaviour, Policy) or behaviour.probs.shape != self.probs.shape:
            given = getattr(getattr(behaviour, "probs", None), "shape", type(behaviour).__name__)
            raise InputError(f"behaviour must be a Policy of shape {self.probs.shape}, got {given}.")
        return _absorbed(behaviour, self.terminal)


def _absorbed(policy: Policy, terminal: np.ndarray) -> np.ndarray:
    return np.where(terminal[:, None], np.eye(policy.probs.shape[1])[0], policy.probs)


def _csr(matrix: Any) -> sparse.csr_array:
    rows = sparse.csr_array(matrix, copy=True)
    rows.eliminate_zeros()
    return rows


def _pairs_after(world: _World, probs: np.ndarray) -> sparse.csr_array:
    """Return the chain from rows to rows, (S A, S A), whose actions have these probabilities."""
    S, A = probs.shape
    spread = sparse.csr_array((probs.reshape(-1), np.arange(S * A), np.arange(S + 1) * A), shape=(S, S * A))
    return _csr(world.P @ spread)


def _extended(
    paths: np.ndarray, weight: np.ndarray, chain: sparse.csr_array
) -> tuple[np.ndarray, np.ndarray]:
    """Return each path (N, t) followed by each next row of its last, and the probabilities."""
    first, count = chain.indptr[paths[:, -1]], np.diff(chain.indptr)[paths[:, -1]]
    total = int(count.sum())
    if total > _MOST_WINDOWS:
        raise InputError(
            f"there are {total} windows, more than {_MOST_WINDOWS}: take fewer steps, or a smaller problem."
        )
    parent = np.repeat(np.arange(len(paths)), count)
    entry = np.arange(total) - np.repeat(np.cumsum(count) - count, count) + first[parent]
    return np.column_stack([paths[parent], chain.indices[entry]]), weight[parent] * chain.data[entry]


def _one_hot(index: np.ndarray, size: int) -> Tensor:
    return F.one_hot(torch.from_numpy(index).long(), size).double()


def _tensor(array: np.ndarray) -> Tensor:
    return torch.tensor(array, dtype=torch.float64)


def _linear(weight: Tensor) -> nn.Linear:
    """Return a layer of these weights, without a bias, in float64."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
    layer.weight.data.copy_(weight)
    return layer


class _Lookup(nn.Module):
    """g: the features of the state at the front of z_s, and of the action; bilinear, exact for one-hot."""

    def __init__(self, features: np.ndarray) -> None:
        super().__init__()
        self.features = nn.Parameter(_tensor(features))

    def forward(self, z_s: Tensor, action: Tensor) -> Tensor:
        pairs = z_s[..., : len(self.features), None] * action.to(z_s.dtype)[..., None, :]
        return pairs.flatten(-2) @ self.features.flatten(0, 1)


class _Model(nn.Module):
    """m: termination, next embedding and reward, each linear in z_sa."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.linear = _linear(torch.zeros(d + 2, d))

    def forward(self, z_sa: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ends, z_next, reward = self.linear(z_sa).split((1, self.linear.in_features, 1), -1)
        return ends, z_next, reward


class _Policy(nn.Module):
    """The policy: the action that stands at the end of z_s, or one drawn softly from a table.

    Soft draws are those of the agent's own policy; the argmax, which the loss takes, has the probabilities of
    the table. The smallest of them are 2e-308: an infinite logit would make the policy's penalty infinite.
    """

    def __init__(self, logits: Tensor, *, sampled: bool) -> None:
        super().__init__()
        self.linear, self.sampled = _linear(logits), sampled

    def forward(self, z_s: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.linear(z_s)
        return F.gumbel_softmax(logits, tau=10.0, dim=-1) if self.sampled else logits, logits
