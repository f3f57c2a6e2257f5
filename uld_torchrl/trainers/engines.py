"""Engines: run a part of an update as it is, or record its kernels once and replay them.

A part is a function whose tensors stay where they are and that never makes the host wait: a CUDA graph of
it then does the same again, without Python. What the parts are is in ``stepper``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from tensordict import TensorDictBase

from uld_torchrl.errors import InputError

T = TypeVar("T")
Tell = Callable[[str], None]


class Engine(Protocol):
    """What runs the parts of an update."""

    reuses: bool
    """Whether a part's outputs are overwritten by its next run, and the host should not wait between."""

    def run(self, part: Callable[..., T], *inputs: TensorDictBase) -> T:
        """Return ``part(*inputs)``."""
        ...


class Eager:
    """Runs every part as it is.

    Example:
        >>> Eager().run(lambda: 3)
        3
    """

    reuses = False

    def run(self, part: Callable[..., T], *inputs: TensorDictBase) -> T:
        """Return ``part(*inputs)``."""
        return part(*inputs)


class Recorder(Protocol):
    """Records kernels, such as :class:`CudaGraphs`."""

    def warm_up(self, call: Callable[[], T]) -> T:
        """Run the call as it is, the way a recording will."""
        ...

    def record(self, call: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Return the outputs, which hold nothing yet, and what fills them whenever it is called."""
        ...


class CudaGraphs:
    """Records kernels as CUDA graphs.

    Args:
        device: the GPU.
        generators: random generators that the calls use, but for torch's own.
    """

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator] = ()) -> None:
        self._device, self._generators = device, list(generators)
        self._stream = torch.cuda.Stream(device)

    def warm_up(self, call: Callable[[], T]) -> T:
        """Run the call on another stream than torch's first, as PyTorch asks before a capture."""
        present = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(present)
        with torch.cuda.stream(self._stream):
            result = call()
        present.wait_stream(self._stream)
        return result

    def record(self, call: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Capture the call as a graph."""
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        with torch.cuda.device(self._device), torch.cuda.graph(graph):
            outputs = call()
        return outputs, graph.replay


class Replayed:
    """Runs a part a few times as it is, then records it and replays the recording from then on.

    Inputs are copied to where the recording reads them, unless a recorded part returned them. A part is known
    by its name; for inputs of another shape it is run as it is and recorded anew.

    Args:
        recorder: what records.
        warm_ups: runs before the recording, at least 1; what a part keeps between runs is made in them.
        tell: if a recording fails, told why, and all parts then run as they are; None: that is an error.

    Raises:
        InputError: a part cannot be recorded, and ``tell`` is None.
    """

    reuses = True

    def __init__(self, recorder: Recorder, *, warm_ups: int = 3, tell: Tell | None = None) -> None:
        self._recorder, self._warm_ups, self._tell = recorder, warm_ups, tell
        self._runs: dict[Hashable, int] = {}
        self._recorded: dict[Hashable, tuple[tuple[TensorDictBase, ...], Any, Callable[[], None]]] = {}
        self._works = True

    def run(self, part: Callable[..., T], *inputs: TensorDictBase) -> T:
        """Return ``part(*inputs)``; valid until the part's next run."""
        key = (part.__name__, *((given.shape, self._is_static(given)) for given in inputs))
        if key in self._recorded:
            return self._replay(key, inputs)
        kind = (part.__name__, *(given.shape for given in inputs))
        runs = self._runs[kind] = self._runs.get(kind, 0) + 1
        if not self._works or runs <= self._warm_ups:
            return self._recorder.warm_up(lambda: part(*inputs))
        if not self._record(key, part, inputs):
            return part(*inputs)
        return self._replay(key, inputs)

    def _record(self, key: Hashable, part: Callable[..., T], inputs: tuple[TensorDictBase, ...]) -> bool:
        static = tuple(given if self._is_static(given) else given.clone() for given in inputs)
        try:
            outputs, replay = self._recorder.record(lambda: part(*static))
        except RuntimeError as error:
            reason = str(error).split("\n")[0]
            if self._tell is None:
                raise InputError(
                    f"compile graph: {part.__name__} cannot be recorded ({reason}): use on or off."
                ) from error
            self._tell(f"CUDA graphs do not work here ({reason}); going on without, as with compile off")
            self._works = False
            return False
        self._recorded[key] = static, outputs, replay
        return True

    def _replay(self, key: Hashable, inputs: tuple[TensorDictBase, ...]) -> Any:
        static, outputs, replay = self._recorded[key]
        for mine, given in zip(static, inputs, strict=True):
            if mine is not given:
                mine.update_(given.select(*mine.keys(True, True)))
        replay()
        return outputs

    def _is_static(self, given: TensorDictBase) -> bool:
        return any(given is outputs for _, outputs, _ in self._recorded.values())
