"""Silence while an environment is being made, for warnings that its user cannot act on.

MuJoCo's own warnings are about Gymnasium's and dm_control's model files; all others still arrive.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import mujoco

_LOG = logging.getLogger(__name__)


@contextmanager
def without_harmless_warnings() -> Iterator[None]:
    """Silence what a user cannot act on, for as long as an environment is being made.

    Example:
        >>> with without_harmless_warnings():
        ...     warnings.warn("The environment Ant-v4 is out of date.", DeprecationWarning)
    """
    previous = mujoco.get_mju_user_warning()

    def forward(message: str) -> None:
        if "settotalmass" not in message:  # an attribute in Gymnasium's and dm_control's own model files
            (previous or _LOG.warning)(message)

    with warnings.catch_warnings():
        # The published tables use HalfCheetah-v4 and other -v4 tasks.
        warnings.filterwarnings("ignore", message=".*is out of date")
        warnings.filterwarnings("ignore", message=".*is not in the possible render_modes")
        mujoco.set_mju_user_warning(forward)
        try:
            yield
        finally:
            mujoco.set_mju_user_warning(previous)
