"""The choice of MuJoCo's renderer on machines without a display, and clear errors where none works.

dm_control reads the environment variable ``MUJOCO_GL`` once, while it is being imported, and Gymnasium
when it draws first; :func:`choose_renderer` runs before both. Nothing here imports them or draws.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from uld_torchrl.errors import InputError

NO_RENDERER = (
    "MuJoCo cannot render here (MUJOCO_GL={backend}: {reason}). Install a software renderer with "
    "'apt-get install libegl1' (or 'apt-get install libosmesa6') and leave MUJOCO_GL unset, or set it to "
    "one of egl, osmesa, glfw that works on this machine."
)


def choose_renderer() -> str | None:
    """Choose MuJoCo's renderer if nobody has, and return what ``MUJOCO_GL`` then holds.

    On Linux without a display: EGL if it finds a device, else OSMesa, else ``off``; MuJoCo's own
    first choice, GLFW, needs a display. With a display, on another system, or where the variable is
    set already, nothing changes. It does not reach dm_control if that was imported before.

    Example:
        >>> import os
        >>> choose_renderer() == os.environ.get("MUJOCO_GL")
        True
    """
    has_display = "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if sys.platform == "linux" and not has_display and "MUJOCO_GL" not in os.environ:
        os.environ["MUJOCO_GL"] = "egl" if _egl_has_device() else "osmesa" if _has_osmesa() else "off"
    return os.environ.get("MUJOCO_GL")


def _egl_has_device() -> bool:
    # The library alone is not enough: without a driver, dm_control fails while it is being imported.
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    if not address:
        return False
    signature = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))
    count = ctypes.c_int(0)
    return bool(signature(address)(0, None, ctypes.byref(count))) and count.value > 0


def _has_osmesa() -> bool:
    for name in ("libOSMesa.so.8", "libOSMesa.so.6"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def require_renderer() -> None:
    """Refuse to draw where rendering is switched off; Gymnasium fails there twice, once in ``__del__``.

    Raises:
        InputError: ``MUJOCO_GL`` is ``off`` or means the same.

    Example:
        >>> require_renderer()
    """
    backend = os.environ.get("MUJOCO_GL")
    if backend in ("off", "disable", "disabled", "false", "0"):
        raise InputError(NO_RENDERER.format(backend=backend, reason="no renderer found, or switched off"))


@contextmanager
def renderer_needed() -> Iterator[None]:
    """Turn the errors of a missing or broken OpenGL renderer into one that says how to get one.

    Raises:
        InputError: the block failed for want of a renderer.

    Example:
        >>> with renderer_needed():
        ...     raise RuntimeError("No OpenGL rendering backend is available.")
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.InputError: MuJoCo cannot render here ...
    """
    try:
        yield
    except Exception as error:
        if not _is_about_opengl(error):
            raise
        backend = os.environ.get("MUJOCO_GL", "not set")
        raise InputError(NO_RENDERER.format(backend=backend, reason=error)) from error


def _is_about_opengl(error: Exception) -> bool:
    # RuntimeError, AttributeError, ImportError, mujoco.FatalError: the text is all they share.
    text = f"{type(error).__module__} {error}"
    return any(word in text for word in ("OpenGL", "EGL", "glGetError", "MUJOCO_GL", "OSMesa", "GLFW"))
