"""The ids ``tabular/...`` in Gymnasium's registry, put there whichever package is imported first.

``gymnasium.register_envs(uld_torchrl)`` does nothing itself, and importing Gymnasium here would make
``import uld_torchrl`` ten times slower: if it is not imported yet, an import hook waits for it. Only the
standard library is imported, so what the names mean is elsewhere: ``envs/tabular_names.py``.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from typing import Any

ENTRY_POINT = "uld_torchrl.envs.tabular:TabularEnv"
ANYWHERE = "-anywhere"
"""At the end of a name: episodes begin in any state that is not terminal, all equally likely."""
TIME_LIMIT = 100
"""Steps of an episode, where nothing else is said; continuing MDPs would never end."""

WORLDS = {
    "frozenlake4x4": 100,
    "frozenlake4x4-deterministic": 100,
    "frozenlake8x8": 200,
    "cliffwalking": 200,
    "riverswim": TIME_LIMIT,
    "randomwalk": 1000,  # its runs end by themselves, after 100 steps on average
    "chain": TIME_LIMIT,
}
"""Names of single MDPs, each with its time limit."""

CATALOGUE = (
    "tsitsiklis_van_roy",
    "tsitsiklis_van_roy_singular",
    "tsitsiklis_van_roy_singular_zero_reward",
    "tsitsiklis_van_roy_convergent",
    "baird_star",
    "baird_star_reward_one",
    "sign_flip",
    "tsitsiklis_van_roy_reward_one",
    "sign_flip_boundary",
    "unexcited_mode",
    "unexcited_mode_mixed_basis",
    "three_cycle",
    "basis_dependence_a",
    "basis_dependence_b",
    "garnet_discounted_visitation",
    "boyan_chain",
    "random_walk_5",
    "random_walk_5_groups",
    "random_walk_19_groups",
    "deterministic_chain",
    "riverswim_6",
    "kolter_p50",
    "kolter_p60",
    "kolter_p70",
    "kolter_p71",
    "kolter_p711",
    "kolter_p72",
    "kolter_p90",
    "frozen_lake_4x4",
    "frozen_lake_4x4_undiscounted",
    "frozen_lake_8x8",
    "cliff_walking",
    "off_support",
    "continuing_undiscounted",
    "nearly_dependent",
)
"""Names of ``theory.catalogue``, which is not imported here; a test compares."""

NAMES = (*WORLDS, "garnet-20-3-3-0", *(f"catalogue-{name}" for name in CATALOGUE))
"""What is registered; of the Garnets one, any other is made by its name all the same."""


def registration(name: str) -> dict[str, Any]:
    """Return the arguments of ``gymnasium.register`` for a named MDP.

    Example:
        >>> registration("riverswim")["id"], registration("riverswim")["max_episode_steps"]
        ('tabular/riverswim', 100)
    """
    return {
        "id": f"tabular/{name}",
        "entry_point": ENTRY_POINT,
        "kwargs": {"mdp": name},
        "max_episode_steps": WORLDS.get(name.removesuffix(ANYWHERE), TIME_LIMIT),
    }


def register() -> None:
    """Register ``tabular/<name>`` for all of ``NAMES``, and ``tabular/mdp``, which is told its ``mdp``.

    Example:
        >>> import gymnasium
        >>> register()
        >>> gymnasium.spec("tabular/mdp").max_episode_steps
        100
    """
    gymnasium = sys.modules["gymnasium"]
    for arguments in [*map(registration, NAMES), {**registration("mdp"), "kwargs": {}}]:
        if arguments["id"] not in gymnasium.registry:  # a second time would warn
            gymnasium.register(**arguments)


def register_in_time() -> None:
    """Register now if Gymnasium has been imported, else as soon as it is.

    Example:
        >>> register_in_time()
    """
    if "gymnasium" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _AfterGymnasium())


class _AfterGymnasium:
    """Watches imports until Gymnasium's, and registers after that."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "gymnasium":
            return None
        sys.meta_path.remove(self)  # or the search would end here again
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)  # to look for a module, as TorchRL does, is not yet to import it
        if spec is not None and spec.loader is not None:
            self._register_after(spec.loader)
        return spec

    def _register_after(self, loader: Any) -> None:
        execute = loader.exec_module

        def execute_and_register(module: Any) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            register()

        loader.exec_module = execute_and_register
