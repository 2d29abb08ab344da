"""Detection of Python numbers made from the input, and of random draws, in one call of a torch module."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

_TO_PYTHON = ("__bool__", "__float__", "__int__", "__index__", "item", "tolist", "is_nonzero", "equal", "allclose")
_TORCH = str(Path(torch.__file__).parent)


class WatchedCall(TorchFunctionMode):
    """Tracks the tensors that depend on ``sources`` through torch's functions. Calls inside a script are not tracked."""

    number: str
    """The first call that converts a dependent tensor to a Python number, and its location; empty if there is none."""
    random: str
    """The first call that draws from, or seeds, torch's global generator, and its location; empty if there is none."""
    half: bool
    """Whether a dependent tensor has half precision."""

    def __init__(self, *sources: Tensor) -> None:
        super().__init__()
        self.number, self.random, self.half = "", "", False
        self._dependent = {id(source): source for source in sources}  # keeps the tensors alive: ids are reused

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        state = torch.random.get_rng_state()
        result = function(*args, **(kwargs or {}))
        if not self.random and not torch.equal(state, torch.random.get_rng_state()):
            self.random = _location(function)
        if any(id(tensor) in self._dependent for tensor in _tensors((args, kwargs))):
            name = getattr(function, "__name__", "")
            if name in _TO_PYTHON and not self.number and not _is_validation():
                self.number = _location(function)
            in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
            for tensor in _tensors((result, args[0] if in_place else None)):
                self._dependent[id(tensor)] = tensor
                self.half |= tensor.dtype in (torch.float16, torch.bfloat16)
        return result


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = tuple(value.values()) if isinstance(value, dict) else value
    return [tensor for part in parts for tensor in _tensors(part)] if isinstance(parts, tuple | list) else []


def _is_validation() -> bool:
    """Whether the caller is torch.distributions, which only validates its arguments."""
    return "distributions" in Path(sys._getframe(2).f_code.co_filename).parts


def _location(function: Any) -> str:
    """``torch.Tensor.__bool__, decoder.py:12``"""
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(_TORCH):
        frame = frame.f_back
    name = resolve_name(function) or getattr(function, "__name__", "a call")
    return name if frame is None else f"{name}, {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
