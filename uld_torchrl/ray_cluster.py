"""The connection to a Ray cluster, for whoever uses one: studies (``experiments``) and ``ray_collector``.

Ray is optional and slow to import, so that it is imported here when it is asked for. What runs on the cluster
is not here.
"""

from __future__ import annotations

import signal
import socket
import threading
from typing import Any

from uld_torchrl.errors import InputError


def connect(address: str | None, what: str) -> Any:
    """Return the module ``ray``, connected; a SIGTERM handler of this process stays as it was.

    Args:
        address: of the cluster; None: the one that Ray finds, or a new one on this machine.
        what: what needs Ray, for messages.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.

    Example:
        >>> connect(None, "launcher ray").cluster_resources()  # doctest: +SKIP
        {'CPU': 2.0, ...}
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(f'{what} needs Ray: pip install "uld-torchrl[ray]".') from error
    if not ray.is_initialized():
        check_reachable(address)
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"there is no Ray cluster at {address!r}: {str(error)[:300]}.") from error
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own ends the process at once
    return ray


def check_reachable(address: str | None) -> None:
    """Refuse host:port that nobody listens at; Ray itself would try for minutes, and then end the process.

    Raises:
        InputError: nobody does.

    Example:
        >>> check_reachable(None)
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"there is no Ray cluster at {address!r}: {error}.") from error
