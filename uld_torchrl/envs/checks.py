"""What environments of several lanes, and those that are drawn, must have.

What one environment's spaces may be is in ``spaces.py``, what it may return in ``faults.py``. Nothing here
touches torch: worker processes import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from uld_torchrl.envs.spaces import TaskSpaces, layout
from uld_torchrl.errors import InputError


def check_drawable(render_mode: Any, name: str) -> None:
    """Refuse to draw what was not made for it.

    Raises:
        InputError: ``render_mode`` is not ``rgb_array``.

    Example:
        >>> check_drawable("rgb_array", "custom/Maze")
    """
    if render_mode != "rgb_array":
        raise InputError(
            f"render=True needs an environment with the render_mode 'rgb_array'; {name} has {render_mode!r}. "
            "Make it with render_mode='rgb_array'."
        )


def check_same_spaces(tasks: Mapping[int, TaskSpaces], name: str) -> None:
    """Refuse lanes that differ in their actions, or in the numbers of their observations.

    Args:
        tasks: from the number of a lane to its spaces; lane 0 is among them.
        name: of the environment.

    Raises:
        InputError: there is such a lane.

    Example:
        >>> from gymnasium.spaces import Discrete
        >>> task = TaskSpaces(Discrete(2), Discrete(3))
        >>> check_same_spaces({0: task, 1: task}, "custom/Maze")
    """
    for lane, task in tasks.items():
        if not same_spaces(task, tasks[0]):
            raise InputError(
                f"{name}: all lanes need the same spaces, but lane 0 has {tasks[0].observation}, "
                f"{tasks[0].action} and lane {lane} has {task.observation}, {task.action}."
            )


def same_spaces(one: TaskSpaces, other: TaskSpaces) -> bool:
    """Return whether the actions are the same, and the numbers of the observations.

    Example:
        >>> from gymnasium.spaces import Discrete
        >>> same_spaces(TaskSpaces(Discrete(2), Discrete(3)), TaskSpaces(Discrete(2), Discrete(4)))
        False
    """
    return layout(one.observation) == layout(other.observation) and bool(one.action == other.action)


def check_remade(before: TaskSpaces, now: TaskSpaces) -> None:
    """Refuse an environment that has other spaces than the one whose place it takes.

    Raises:
        InputError: it has.

    Example:
        >>> from gymnasium.spaces import Discrete
        >>> task = TaskSpaces(Discrete(2), Discrete(3))
        >>> check_remade(task, task)
    """
    if not same_spaces(before, now):
        raise InputError(
            f"its spaces were {before.observation}, {before.action} and are {now.observation}, {now.action}."
        )


def check_distinct(envs: Sequence[gymnasium.Env], name: str) -> None:
    """Refuse environments of which two are one and the same.

    Raises:
        InputError: two are.

    Example:
        >>> check_distinct([gymnasium.make("CartPole-v1") for _ in range(2)], "gym/CartPole-v1")
    """
    if len({id(env.unwrapped) for env in envs}) < len(envs):
        raise InputError(f"{name}: the callable returned the same environment twice; it must make a new one.")
