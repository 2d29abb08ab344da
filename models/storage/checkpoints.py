"""Weights as other programs leave them: the ones of a network among everything that a checkpoint holds.

A checkpoint is a state dict, or a mapping of several, of modules and of other things ("g_ema", "state_dict", "optimizer"). All
tensors get one dotted name, "g_ema.layers.0.weight"; wrappers as `torch.nn.DataParallel` and Lightning add prefixes of the same
form ("module.", "generator."), and `torch.compile` adds "_orig_mod.". The weights of a network are then those under the one
prefix where names and shapes are its own; of several such prefixes the one of averaged weights (exponential moving average).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

EXECUTABLE = (".pt", ".pth", ".pt2", ".ckpt", ".bin")
"""Files that can run code when they are read."""

_AVERAGED = re.compile(r"(^|[._])(ema|averaged?|avg)([._]|$)", re.IGNORECASE)


def read_executable(path: Path) -> nn.Module | dict[str, Tensor]:
    """The module in a pickle, a script or an exported program, or all the tensors of a checkpoint by their dotted names.

    A checkpoint of whole modules gives its averaged or its only one. Raises ValueError, naming the file, for what holds
    neither, and for what cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch would rather have scripted modules loaded by a function of their own
            if path.suffix == ".pt2":
                return torch.export.load(path).module()
            content = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle raises what it likes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        lacks_source = isinstance(error, ImportError | AttributeError)
        remedy = "; a pickled module needs its source: put the folder of it on PYTHONPATH" if lacks_source else ""
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {reason}){remedy}") from None
    if isinstance(content, nn.Module):
        return content
    if isinstance(content, Mapping):
        modules = {str(name): value for name, value in content.items() if isinstance(value, nn.Module)}
        if modules:
            chosen = [name for name in modules if _AVERAGED.search(name)] or list(modules)
            if len(chosen) > 1:
                raise ValueError(f"{path} holds several modules, {', '.join(chosen)}: save the generator alone")
            return modules[chosen[0]]
        if tensors := _flat(content):
            return tensors
    raise ValueError(f"{path} holds a {type(content).__name__}; expected a module or a state dict (names to tensors)")


def weights_of(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors that are the weights of a network, by its own names, and where they lay, in words, if under a prefix.

    Where none fit, those that come nearest, for `cogen.models.storage.stored.fill` to say what is wrong. Raises ValueError
    where several prefixes fit, and none of them, or more than one, is of averaged weights.
    """
    tensors = {key.replace("_orig_mod.", ""): value for key, value in tensors.items()}
    expected = {key.replace("_orig_mod.", ""): key for key in network.state_dict()}
    shapes = {key: value.shape for key, value in network.state_dict().items()}

    def under(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    def fits(part: dict[str, Tensor]) -> bool:
        return part.keys() == expected.keys() and all(part[key].shape == shapes[own] for key, own in expected.items())

    prefixes = prefixes_of(tensors)
    fitting = [prefix for prefix in prefixes if fits(under(prefix))]
    chosen = [prefix for prefix in fitting if _AVERAGED.search(prefix)] or fitting
    if len(chosen) > 1:
        listed = ", ".join(prefix.rstrip(".") for prefix in chosen)
        raise ValueError(
            f"{path} holds several weights that fit {type(network).__name__}, under {listed}: save those you mean alone"
        )
    best = chosen[0] if chosen else max(prefixes, key=lambda prefix: len(under(prefix).keys() & expected.keys()))
    where = ""
    if best:
        averaged = ", which are averaged" if _AVERAGED.search(best) else ""
        others = [prefix.rstrip(".") or "the top" for prefix in fitting if prefix != best]
        where = f"weights under {best.rstrip('.')}{averaged}" + (f" (others under {', '.join(others)})" if others else "")
    return {expected.get(key, key): value for key, value in under(best).items()}, where


def prefixes_of(names: Mapping[str, Any]) -> list[str]:
    """Every prefix of dotted names that ends with a dot, and the empty one, the shortest first."""
    ends = {name[: at + 1] for name in names for at, letter in enumerate(name) if letter == "."}
    return ["", *sorted(ends, key=lambda prefix: (prefix.count("."), prefix))]


def _flat(content: Mapping, prefix: str = "") -> dict[str, Tensor]:
    found = {}
    for key, value in content.items():
        if isinstance(value, Tensor):
            found[f"{prefix}{key}"] = value
        elif isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
    return found
