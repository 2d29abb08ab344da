"""Weights of a network in the checkpoints of other programs.

A checkpoint is a state dict, or a mapping of state dicts, modules and other values ("g_ema", "state_dict", "optimizer"). Each
tensor gets a dotted name, "g_ema.layers.0.weight"; wrappers such as `torch.nn.DataParallel` and Lightning add prefixes of the
same form ("module.", "generator."), and `torch.compile` adds "_orig_mod.". The weights of a network are those under the prefix
where all names and shapes match; among several such prefixes, the one of averaged weights (exponential moving average).
"""

from __future__ import annotations

import pickle
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


def read_executable(path: Path, allow_pickle: bool) -> nn.Module | dict[str, Tensor]:
    """The module in a pickle, a script or an exported program, or all tensors of a checkpoint by their dotted names.

    From a checkpoint of modules, the averaged or the only one is returned.

    :param allow_pickle: also read files that can run code. Plain tensors are read without it, by torch's restricted unpickler.
    :raises ValueError: with the file's name, for a file that is not allowed, cannot be read, or contains no weights.
    """
    content = _loaded(path, weights_only=True) if path.suffix != ".pt2" else None
    if content is None:
        if not allow_pickle:
            raise ValueError(
                f"{path} can run code when it is read: convert it to safetensors, or give --allow-pickle"
                " (allow_pickle=True in Python) if you trust it"
            )
        content = _loaded(path, weights_only=False)
    if isinstance(content, nn.Module):
        return content
    if isinstance(content, Mapping):
        modules = {str(name): value for name, value in content.items() if isinstance(value, nn.Module)}
        if modules:
            chosen = [name for name in modules if _AVERAGED.search(name)] or list(modules)
            if len(chosen) > 1:
                raise ValueError(f"{path} contains several modules, {', '.join(chosen)}: save the generator alone")
            return modules[chosen[0]]
        if tensors := _flat(content):
            return tensors
    raise ValueError(f"{path} contains a {type(content).__name__}, expected a module or a state dict")


def _loaded(path: Path, weights_only: bool) -> Any:
    """The content of a file. With ``weights_only`` None for a file that needs more than tensors and plain containers.

    :raises ValueError: for a file that cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch recommends torch.jit.load for scripted modules
            if path.suffix == ".pt2":
                return torch.export.load(path).module()
            return torch.load(path, map_location="cpu", weights_only=weights_only)
    except Exception as error:  # a pickle can raise any exception
        if weights_only and (isinstance(error, pickle.UnpicklingError) or "TorchScript" in str(error)):
            return None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        lacks_source = isinstance(error, ImportError | AttributeError)
        remedy = "; a pickled module needs its source code: add its folder to PYTHONPATH" if lacks_source else ""
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {reason}){remedy}") from None


def weights_of(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors that are the weights of a network, by its own names, and a note on their prefix, empty without one.

    If no prefix fits, the closest match is returned, and `cogen.models.storage.stored.fill` reports the mismatch.

    :raises ValueError: if several prefixes fit, unless exactly one of them is of averaged weights.
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
            f"{path} contains several weights that fit {type(network).__name__}, under {listed}: save only those to use"
        )
    best = chosen[0] if chosen else max(prefixes, key=lambda prefix: len(under(prefix).keys() & expected.keys()))
    where = ""
    if best:
        averaged = ", which are averaged" if _AVERAGED.search(best) else ""
        others = [prefix.rstrip(".") or "the top" for prefix in fitting if prefix != best]
        where = f"weights under {best.rstrip('.')}{averaged}" + (f" (others under {', '.join(others)})" if others else "")
    return {expected.get(key, key): value for key, value in under(best).items()}, where


def prefixes_of(names: Mapping[str, Any]) -> list[str]:
    """All prefixes of dotted names that end with a dot, and the empty one, with the fewest parts first."""
    ends = {name[: at + 1] for name in names for at, letter in enumerate(name) if letter == "."}
    return ["", *sorted(ends, key=lambda prefix: (prefix.count("."), prefix))]


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    found = {}
    for key, value in content.items():
        if isinstance(value, Tensor):
            found[f"{prefix}{key}"] = value
        elif isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
    return found
