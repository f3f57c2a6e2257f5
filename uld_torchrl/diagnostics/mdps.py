"""Which tabular MDP an environment is, by its name.

Named MDPs are made in ``uld_torchrl.envs``, Gymnasium's tables are read in ``theory``.
"""

from __future__ import annotations

import gymnasium

import theory
from uld_torchrl.envs.registry import make_registered
from uld_torchrl.envs.tabular import named_mdp
from uld_torchrl.errors import InputError


def mdp_of_env(env_id: str, gamma: float) -> theory.TabularMDP:
    """Return the MDP of ``tabular/<name>``, or of a Gymnasium environment with a table, such as FrozenLake.

    Args:
        env_id: canonical name of the environment.
        gamma: discount that the MDP gets.

    Raises:
        InputError: the environment is not tabular.

    Example:
        >>> mdp_of_env("tabular/riverswim", 0.9).num_states, mdp_of_env("gym/FrozenLake-v1", 0.9).num_states
        (6, 16)
        >>> mdp_of_env("gym/CartPole-v1", 0.9)
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.InputError: gym/CartPole-v1 has no tabular MDP that is known by its name: ...
    """
    family, _, name = env_id.partition("/")
    if family == "tabular":
        return named_mdp(name, gamma)
    env = make_registered(env_id) if family == "gym" else None
    if env is None or not hasattr(env.unwrapped, "P"):
        raise InputError(
            f"{env_id} has no tabular MDP that is known by its name: audits are for environments such as "
            "tabular/frozenlake4x4 and gym/FrozenLake-v1. If it is one of these MDPs all the same, name it "
            "(uld audit --mdp frozenlake4x4; AuditEvery(k, mdp=...)). Of any other, measure --probe-every."
        )
    return _of_table(env_id, env, gamma)


def _of_table(env_id: str, env: gymnasium.Env, gamma: float) -> theory.TabularMDP:
    try:
        return theory.TabularMDP.from_gym(env, gamma)
    except theory.InputError as error:
        raise InputError(f"{env_id} has a table that is no MDP: {error}") from error
    finally:
        env.close()
