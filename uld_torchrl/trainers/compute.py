"""How an update is computed: in which precision, and compiled or not.

:func:`pick_compute` settles the settings ``optim.precision`` and ``optim.compile`` for a device, and
:class:`Losses` calls the three losses that way. CUDA graphs are in ``engines``; what stays float32 whatever
the precision is up to the networks and the losses.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from uld_torchrl.config import OptimConfig
from uld_torchrl.errors import InputError
from uld_torchrl.objectives import ULDLoss

LossName = Literal["encoder_loss", "value_loss", "actor_loss"]
LossFunction = Callable[[TensorDictBase], tuple[Tensor, TensorDict]]
_CACHE = "TORCHINDUCTOR_CACHE_DIR"


@dataclass(frozen=True)
class Compute:
    """Settings without ``auto``: ``precision`` is float32, tf32 or bfloat16; ``compile`` off, on or graph.

    Example:
        >>> str(Compute("bfloat16", "on"))
        'precision bfloat16, compile on'
    """

    precision: str
    compile: str

    def __str__(self) -> str:
        return f"precision {self.precision}, compile {self.compile}"

    @contextlib.contextmanager
    def matrix_products(self) -> Iterator[None]:
        """Let float32 matrix products be made in tf32, if that is the precision, and set it back after."""
        if self.precision != "tf32":
            yield
            return
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def pick_compute(config: OptimConfig, device: torch.device) -> Compute:
    """Return how updates are computed on a device: ``auto`` is float32 and off on a CPU, else tf32 and graph.

    Raises:
        InputError: the device cannot do that; the message says what it can.

    Example:
        >>> pick_compute(OptimConfig(), torch.device("cpu"))
        Compute(precision='float32', compile='off')
    """
    on_cpu = device.type == "cpu"
    precision = ("float32" if on_cpu else "tf32") if config.precision == "auto" else config.precision
    compiled = ("off" if on_cpu else "graph") if config.compile == "auto" else config.compile
    where = f"on {device} of this machine"
    if precision == "bfloat16" and not has_bfloat16(device):
        raise InputError(
            f"precision bfloat16 needs AVX512-BF16 or AMX on a CPU, or a GPU from Ampere on, which are not "
            f"there {where}: use precision float32{'' if on_cpu else ' or tf32'}, or auto."
        )
    if precision == "tf32" and on_cpu:
        fits = "float32, bfloat16" if has_bfloat16(device) else "float32"
        raise InputError(f"precision tf32 is for CUDA, got device {device}: use {fits} or auto.")
    if compiled == "graph" and on_cpu:
        raise InputError(f"compile graph means CUDA graphs, got device {device}: use off, on or auto.")
    if compiled == "on" and on_cpu and not has_compiler():
        raise InputError(f"compile on needs a C++ compiler {where}: install g++ or clang++, or use off.")
    return Compute(precision, compiled)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 matrices itself; emulation is slower than float32.

    Example:
        >>> has_bfloat16(torch.device("cpu")) in (True, False)
        True
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def has_compiler() -> bool:
    """Return whether torch.compile finds a C++ compiler."""
    builder = importlib.import_module("torch._inductor.cpp_builder")  # takes seconds
    try:
        return bool(builder.get_cpp_compiler())
    except RuntimeError:
        return False


def use_cache_folder() -> Path:
    """Return the folder that keeps compiled code between runs, and tell torch.

    ``TORCHINDUCTOR_CACHE_DIR`` if it is set, else one in the user's cache folder: torch's own is in the
    folder of temporary files.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if os.environ.get(_CACHE, default_cache_dir()) == default_cache_dir():  # torch may set it when imported
        os.environ[_CACHE] = str(home / "uld-torchrl" / "inductor")
    return Path(os.environ[_CACHE])


class Losses:
    """The losses of a module in a precision, compiled at their first call if wanted.

    Compiled losses draw the same random numbers as uncompiled ones.

    Args:
        loss_module: the losses.
        compute: how.
        tell: told a line before the first compilation.
        backend: of torch.compile.

    Example:
        >>> from torchrl.data import Bounded, Unbounded
        >>> from uld_torchrl import make_loss, make_networks
        >>> spec = Bounded(-1, 1, (2,))
        >>> losses = Losses(make_loss(make_networks(Unbounded(3), spec), spec), Compute("float32", "off"))
        >>> embedding = TensorDict(state_embedding=torch.zeros(4, 512), batch_size=[4])
        >>> losses("actor_loss", embedding)[0].shape
        torch.Size([])
    """

    def __init__(
        self,
        loss_module: ULDLoss,
        compute: Compute,
        tell: Callable[[str], None] = lambda line: None,
        backend: str = "inductor",
    ) -> None:
        self.loss_module, self.compute, self.backend, self._tell = loss_module, compute, backend, tell
        self._compiled: dict[LossName, LossFunction] = {}
        self._device = next(loss_module.parameters()).device.type

    def __call__(self, name: LossName, batch: TensorDictBase) -> tuple[Tensor, TensorDict]:
        """Return what the loss of that name returns for the batch; its values are float32."""
        if self.compute.compile != "on":
            return self._plain(name, batch)
        if name not in self._compiled:
            self._compiled[name] = self._compile(name, batch)
        with warnings.catch_warnings():  # of tensordict's own code while it is traced
            warnings.filterwarnings("ignore", "torch._dynamo.config.inline_inbuilt", FutureWarning)
            warnings.filterwarnings("ignore", "Using lock_.. inside a compiled graph", UserWarning)
            return self._compiled[name](batch)

    def _plain(self, name: LossName, batch: TensorDictBase) -> tuple[Tensor, TensorDict]:
        low = self.compute.precision == "bfloat16"
        with torch.autocast(self._device, torch.bfloat16) if low else contextlib.nullcontext():
            loss, metadata = getattr(self.loss_module, name)(batch)
        return loss, metadata

    def _compile(self, name: LossName, batch: TensorDictBase) -> LossFunction:
        """Return the loss of that name, to be compiled when it is called."""
        if not self._compiled:
            self._tell(f"compiling the losses, a minute or so the first time; kept in {use_cache_folder()}")
            self._meet(name, batch)
        options: dict[str, Any] | None = {"fallback_random": True} if self.backend == "inductor" else None
        return torch.compile(
            _with_own_code(lambda td: self._plain(name, td)),
            fullgraph=True,
            dynamic=False,
            backend=self.backend,
            options=options,
        )

    def _meet(self, name: LossName, batch: TensorDictBase) -> None:
        """Call all losses once: compiled code is guarded by the number of classes that tensordict has met."""
        with torch.no_grad(), torch.random.fork_rng():
            self._plain(name, batch)
            if batch.ndim == 2:
                _, value = self._plain("value_loss", batch)
                self._plain("actor_loss", value)


def _with_own_code(function: Any) -> LossFunction:
    """Return a copy of the function that shares no code: torch keeps at most 8 compilations of one code."""
    return FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, None, function.__closure__
    )
