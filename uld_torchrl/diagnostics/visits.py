"""How often a replay buffer holds each action in each state of a tabular MDP.

The one function :func:`replay_counts`; it tells states by the observations that the agent gets in them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from theory import TabularMDP
from uld_torchrl.data import WindowReplayBuffer
from uld_torchrl.diagnostics.export import read_states
from uld_torchrl.errors import InputError
from uld_torchrl.trainers import Agent


def replay_counts(
    buffer: WindowReplayBuffer, agent: Agent, mdp: TabularMDP, observations: Any = None
) -> np.ndarray:
    """Count how often each action was taken in each state, over all records of a replay buffer.

    Args:
        buffer: of vector observations.
        agent: whose observations it holds.
        mdp: S states, A actions.
        observations: see :func:`export_embeddings`; a record belongs to the state with exactly its numbers.

    Returns:
        int64 (S, A).

    Raises:
        InputError: two live states look the same, a record belongs to no state, or the buffer holds images.

    Example:
        >>> import torch
        >>> from gymnasium.spaces import Discrete
        >>> from tensordict import TensorDict
        >>> from theory import river_swim
        >>> from uld_torchrl import make_replay_buffer
        >>> from uld_torchrl.envs import TaskSpaces
        >>> agent = Agent.build("custom/river", TaskSpaces(Discrete(6), Discrete(2)))
        >>> no = torch.zeros(1, 3, 1, dtype=torch.bool)
        >>> seen = torch.eye(6)[None, [2, 2, 3]]
        >>> after = {"observation": seen, "reward": torch.ones(1, 3, 1)}
        >>> after |= {"terminated": no, "truncated": no, "done": no}
        >>> steps = {"observation": seen, "action": torch.eye(2).long()[None, [0, 0, 1]], "next": after}
        >>> rb = make_replay_buffer(capacity=9, horizon=2)
        >>> _ = rb.extend(TensorDict(steps, batch_size=[1, 3]))
        >>> replay_counts(rb, agent, river_swim())[2:4].tolist()
        [[2, 0], [0, 1]]
    """
    keys, counts = buffer._sampler.keys, np.zeros(mdp.r.shape, dtype=np.int64)
    if agent.spaces.frames is not None:
        raise InputError("replay_counts tells states by vector observations; this agent sees images.")
    states = _bytes(read_states(agent, mdp, observations).get("observation"))
    number = _numbers(states, mdp)
    if not buffer._sampler.num_written:
        return counts
    observed, action = (buffer._written(key).flatten(0, 1) for key in (keys.observation, keys.action))
    seen = [number.get(vector, -1) for vector in _bytes(observed)]
    if -1 in seen:
        raise InputError(
            f"the replay buffer holds {observed[seen.index(-1)].tolist()}, which is none of the observations "
            f"of the MDP's {mdp.num_states} states."
        )
    np.add.at(counts, (np.array(seen), action.argmax(-1).cpu().numpy()), 1)
    return counts


def _bytes(vectors: Tensor) -> list[bytes]:
    """Return each row (N, n) as bytes; adding zero makes one of the two zeros."""
    rows = np.ascontiguousarray(vectors.cpu().numpy() + 0.0)
    return rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))[:, 0].tolist()


def _numbers(states: list[bytes], mdp: TabularMDP) -> dict[bytes, int]:
    """Return the number of the state that looks like this; a live one, where a terminal one does as well."""
    ended = {states[state]: int(state) for state in np.flatnonzero(mdp.terminal)}
    live: dict[bytes, int] = {}
    for state in mdp.live_states():
        other = live.setdefault(states[state], int(state))
        if other != state:
            raise InputError(
                f"observations must tell the states apart, got the same for states {other} and {state}."
            )
    return ended | live
