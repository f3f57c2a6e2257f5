"""What an agent's networks say of every state and action of a tabular MDP, as plain arrays.

:func:`export_embeddings` evaluates f, g, m, the policy and the value heads; :func:`save_export` writes an npz
file without pickle, which ``theory.audit_embeddings`` reads. Visits are counted in ``visits``; what follows
from the arrays is worked out in ``theory``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from theory import TabularMDP
from theory.audit import mdp_number
from uld_torchrl.errors import InputError, one_of
from uld_torchrl.functional import one_hot_argmax
from uld_torchrl.objectives import ULDLoss
from uld_torchrl.peers import refuse_peer
from uld_torchrl.trainers import Agent
from uld_torchrl.trainers.callbacks import same_random_state
from uld_torchrl.trainers.files import replaced

PolicyName = Literal["greedy", "softmax"]
_ROWS = 16_384
"""Embeddings of pairs worked out at a time, at most; some megabytes for each layer."""


def export_embeddings(
    agent: Agent,
    mdp: TabularMDP,
    policy: PolicyName = "greedy",
    *,
    observations: Any = None,
    counts: Any = None,
) -> dict[str, np.ndarray]:
    """Evaluate an agent's networks on every state s and action a of an MDP, without touching the agent.

    Rewards and values are in the environment's units: ``q`` is the heads' output times the reward scale.
    No gradients are made, and the random state stays as it was.

    Args:
        agent: of discrete actions, as many as the MDP has.
        mdp: S states, terminal ones too, and A actions; only their numbers are used.
        policy: "greedy", the one-hot of the most probable action, which is how the agent acts when it does
            not explore; or "softmax", the softmax of the pre-activations. That is exactly the distribution
            of the argmax of the Gumbel policy: dividing by the temperature does not move an argmax, and
            the argmax of logits plus independent Gumbel noise is distributed as their softmax.
        observations: what the agent sees in each state, of its own observation space with S in front. By
            default the states of a ``Discrete(S)`` space and one-hot rows for a ``Box(0, 1, (S,))``, which is
            what ``tabular/<name>`` shows.
        counts: (S, A) visits, see :func:`~uld_torchrl.diagnostics.replay_counts`.

    Returns:
        Arrays, states and actions in the MDP's order. Embeddings, in the networks' precision:
        ``zs`` (S, ds) = f(s), ``zsa`` (S, A, d) = g(f(s), a), ``zs_next_pred`` (S, A, ds), predicted by m.
        In float64: ``q`` (S, A), the mean of ``q_heads`` (heads, S, A); ``pi`` (S, A); ``r_hat`` (S, A),
        predicted reward; ``d_hat`` (S, A), predicted termination as m gives it; ``v_at_pred`` (S, A),
        ``(1 - clip(d_hat, 0, 1)) sum_a' pi(a'|z') Q(g(z', a'))`` at the predicted z', not discounted;
        ``counts`` if given; the numbers ``gamma``, ``n_step`` and ``reward_scale`` of the agent; ``greedy``,
        whether ``pi`` is the greedy policy; and ``mdp``, by which an audit knows the MDP again.

    Raises:
        InputError: the agent belongs to another environment, acts continuously, or predicts embeddings of
            pairs (``dynamics_target`` "state_action"); observations or counts of another shape; NaN.

    Example:
        >>> from theory import random_walk
        >>> from uld_torchrl import preset
        >>> from uld_torchrl.envs import TaskSpaces
        >>> mdp = random_walk(5)
        >>> spaces = TaskSpaces(Discrete(mdp.num_states), Discrete(mdp.num_actions))
        >>> arrays = export_embeddings(Agent.build("custom/walk", spaces, preset("debug")), mdp)
        >>> arrays["zsa"].shape, arrays["q_heads"].shape
        ((7, 1, 16), (2, 7, 1))
    """
    one_of("policy", policy, get_args(PolicyName))
    check_agent(agent, mdp)
    states = read_states(agent, mdp, observations)
    loss, size = agent.loss, max(_ROWS // mdp.num_actions**2, 1)
    with torch.no_grad(), same_random_state():
        parts = [_evaluate(loss, part, policy) for part in states.split(size)]
    arrays = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    arrays["q_heads"] = np.ascontiguousarray(np.moveaxis(arrays["q_heads"], -1, 0))
    _check_finite(arrays)
    if counts is not None:
        arrays["counts"] = _checked_counts(counts, mdp)
    numbers = {
        "gamma": loss.gamma,
        "n_step": loss.n_steps,
        "reward_scale": loss.reward_scale.item(),
        "greedy": policy == "greedy",
        "mdp": mdp_number(mdp),
    }
    return arrays | {name: np.asarray(value) for name, value in numbers.items()}


def check_agent(agent: Agent, mdp: TabularMDP) -> None:
    """Refuse an agent whose networks cannot be evaluated on all states and actions of the MDP.

    Raises:
        InputError: see :func:`export_embeddings`.

    Example:
        >>> from theory import river_swim
        >>> from uld_torchrl.envs import TaskSpaces
        >>> car = Agent.build("custom/car", TaskSpaces(Discrete(6), Box(-1, 1, (1,))))
        >>> check_agent(car, river_swim())
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.InputError: the agent of custom/car has the action space Box(-1.0, 1.0, (1,), ...
    """
    if not isinstance(agent, Agent):
        raise InputError(
            f"agent must be an Agent, such as uld_torchrl.load(run), got {type(agent).__name__}."
        )
    refuse_peer(agent.peer, "an audit")
    check_mdp(mdp)
    space = agent.action_space
    if not isinstance(space, Discrete) or space.n != mdp.num_actions:
        raise InputError(
            f"the agent of {agent.env_id} has the action space {space}, the MDP has {mdp.num_actions} "
            "actions: give the MDP of the environment that it was trained on, which must be Discrete."
        )
    if agent.loss.dynamics_target != "state":
        raise InputError(
            "dynamics_target 'state_action': the agent predicts the embedding of the next pair, so there is "
            "no next state embedding to export. Train with loss.dynamics_target=state."
        )


def check_mdp(mdp: TabularMDP) -> None:
    """Refuse what is no MDP, such as its name.

    Raises:
        InputError: it is none.

    Example:
        >>> check_mdp("riverswim")
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.InputError: mdp must be a theory.TabularMDP, got str: uld_torchrl.envs.named_mdp...
    """
    if not isinstance(mdp, TabularMDP):
        raise InputError(
            f"mdp must be a theory.TabularMDP, got {type(mdp).__name__}: uld_torchrl.envs.named_mdp "
            "makes one from its name."
        )


def read_states(agent: Agent, mdp: TabularMDP, observations: Any = None) -> TensorDict:
    """Return what the agent reads in each state, a tensordict [S] on its device.

    Args:
        agent: whose reading of observations is used.
        mdp: S states.
        observations: see :func:`export_embeddings`.

    Raises:
        InputError: they do not fit the agent's observation space, or are not S.

    Example:
        >>> from theory import river_swim
        >>> from uld_torchrl.envs import TaskSpaces
        >>> agent = Agent.build("custom/river", TaskSpaces(Discrete(6, start=1), Discrete(2)))
        >>> read_states(agent, river_swim())["observation"][5]
        tensor([0., 0., 0., 0., 0., 1.])
    """
    given = _default_observations(agent, mdp.num_states) if observations is None else observations
    states = agent._read(given)
    if states.batch_size != (mdp.num_states,):
        raise InputError(
            f"observations must be one for each of the {mdp.num_states} states of the MDP, of the space "
            f"{agent.observation_space}; got a batch of {tuple(states.batch_size)}."
        )
    return states.to(agent.loss.reward_scale.device)


def _default_observations(agent: Agent, num_states: int) -> np.ndarray:
    space = agent.observation_space
    if isinstance(space, Discrete) and space.n == num_states:
        return space.start + np.arange(num_states)
    # The bounds tell one-hot states from as many numbers that mean something else.
    if (
        isinstance(space, Box)
        and space.shape == (num_states,)
        and (space.low == 0).all()
        and (space.high == 1).all()
    ):
        return np.eye(num_states)
    raise InputError(
        f"the agent of {agent.env_id} has the observation space {space}, in which the {num_states} states of "
        "the MDP are not known: give observations, one for each state, or the MDP that it was trained on."
    )


def _evaluate(loss: ULDLoss, states: TensorDictBase, policy: PolicyName) -> dict[str, Tensor]:
    """Return the arrays for some states, as tensors on the CPU with the states in front."""
    zs = loss._encode(states, loss.state_encoder_params)
    zsa = _all_pairs(loss, zs)
    d_hat, zs_next, r_hat = _predicted(loss, zsa)
    q_heads = _values(loss, zsa)
    q_next = _values(loss, _all_pairs(loss, zs_next)).mean(-1).view(-1, loss.action_size)
    v_next = (_probabilities(loss, zs_next, policy) * q_next).sum(-1)
    pairs = {
        "zsa": _embedding(zsa),
        "zs_next_pred": _embedding(zs_next),
        "q": q_heads.mean(-1),
        "q_heads": q_heads,
        "r_hat": r_hat,
        "d_hat": d_hat,
        "v_at_pred": (1.0 - d_hat.clamp(0.0, 1.0)) * v_next,
    }
    shaped = {name: value.unflatten(0, (-1, loss.action_size)) for name, value in pairs.items()}
    return {"zs": _embedding(zs), "pi": _probabilities(loss, zs, policy), **shaped}


def _all_pairs(loss: ULDLoss, zs: Tensor) -> Tensor:
    """Return g(z, a) for each z (N, ds) and each action, (N A, d), the actions of one z together."""
    actions = torch.eye(loss.action_size, dtype=zs.dtype, device=zs.device)
    repeated = zs.repeat_interleave(loss.action_size, 0)
    return loss._join(repeated, actions.repeat(len(zs), 1), loss.state_action_encoder_params)


def _predicted(loss: ULDLoss, zsa: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return m(z_sa): termination (N), next state embedding (N, ds), reward (N); numbers in float64."""
    keys = loss.tensor_keys
    td = TensorDict({keys.state_action_embedding: zsa}, batch_size=zsa.shape[:1], device=zsa.device)
    td = loss._run("predictor", loss.predictor_params, td)
    # The outer bins are large: in float32 what they cancel would be rounded.
    reward = loss.predicted_reward(td.get(keys.reward_logits).double())
    return _number(td.get(keys.terminated_pred).squeeze(-1)), td.get(loss.predicted_key), _number(reward)


def _values(loss: ULDLoss, zsa: Tensor) -> Tensor:
    """Return the value of each head at z_sa (N, d), in reward units, (N, heads)."""
    heads = loss._values(zsa, loss.qvalue_network_params)
    return _number(heads).T * _number(loss.reward_scale)


def _probabilities(loss: ULDLoss, zs: Tensor, policy: PolicyName) -> Tensor:
    """Return pi(a | z) at z (N, ds), float64 (N, A)."""
    _, pre_activation = loss._act(zs, loss.actor_network_params)
    logits = _number(pre_activation)
    return one_hot_argmax(logits) if policy == "greedy" else logits.softmax(-1)


def _number(value: Tensor) -> Tensor:
    return value.cpu().double()


def _embedding(value: Tensor) -> Tensor:
    """Return it on the CPU, in a precision that NumPy knows."""
    value = value.cpu()
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def _check_finite(arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            state = int(np.argwhere(~np.isfinite(array))[0, 1 if name == "q_heads" else 0])
            raise InputError(f"{name} of the agent must be finite, got NaN or infinity at state {state}.")


def _checked_counts(counts: Any, mdp: TabularMDP) -> np.ndarray:
    try:
        array = np.asarray(counts, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"counts must be numbers, (states, actions): {error}.") from error
    if array.shape != mdp.r.shape:
        raise InputError(f"counts must have the shape (states, actions) = {mdp.r.shape}, got {array.shape}.")
    if not (np.isfinite(array) & (array >= 0)).all():
        state, action = np.argwhere(~(np.isfinite(array) & (array >= 0)))[0]
        raise InputError(
            f"counts must be finite and not negative, got {array[state, action]} at state {state}, "
            f"action {action}."
        )
    return array


def save_export(path: Path | str, arrays: Mapping[str, Any]) -> None:
    """Write arrays of numbers to an npz file that loads without pickle; whole, or not at all.

    Raises:
        InputError: an entry is no array of numbers.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "export.npz"
        >>> save_export(path, {"step": 3})
        >>> int(np.load(path)["step"])
        3
    """
    path, plain = Path(path), {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.kind not in "biuf":
            raise InputError(f"{name} must be an array of numbers, got {array.dtype}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as aside, aside.open("wb") as file:
        np.savez(file, **plain)  # type: ignore[arg-type]  # its keyword allow_pickle has a type of its own
