"""Folders as the Hugging Face hub has them: ``config.json`` beside ``model.safetensors``, whole or in shards.

The weights are called ``model.safetensors`` or ``diffusion_pytorch_model.safetensors``; large ones are split, and
``model.safetensors.index.json`` says which file holds which tensor ("weight_map"). Pickled weights in such a folder are left
alone. ``hf://user/repository`` is fetched once by the package huggingface_hub, into its own cache.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cogen.models.storage import stored

SCHEME = "hf://"
INDEX = ".safetensors.index.json"
_NAMES = ("model", "diffusion_pytorch_model")


@functools.cache
def fetched(address: str) -> Path:
    """The folder of ``hf://user/repository``, its JSON and safetensors files. Raises ValueError where it cannot be had."""
    repository = address.removeprefix(SCHEME).strip("/")
    if repository.count("/") != 1:
        raise ValueError(f"{address}: an address is {SCHEME}user/repository")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError(
            f"{address} is fetched by the package huggingface_hub: pip install 'cogen-ppl[hub]', or give a folder that you"
            " have fetched"
        ) from None
    try:
        return Path(snapshot_download(repository, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # of the network, of the hub, of the disk, each of a class of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{address} cannot be fetched ({type(error).__name__}: {reason}): is there a network, and the repository public?"
            " Or give a folder that you have fetched"
        ) from None


def weights_in(folder: Path) -> Path:
    """The file of weights in a folder, or the index of its shards. Raises FileNotFoundError, with what is there instead."""
    for name in _NAMES:
        for file in (folder / f"{name}.safetensors", folder / f"{name}{INDEX}"):
            if file.is_file():
                return file
    names = sorted(file.name for file in folder.iterdir())
    there = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"
    wanted = " or ".join(f"{name}.safetensors" for name in _NAMES)
    raise FileNotFoundError(f"the folder {folder} has no {wanted}, but {there}: name the file of weights itself")


def read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index names. Raises ValueError, naming the file, for whatever is wrong with them."""
    try:
        places = stored.read_object(index)["weight_map"]
        files = sorted(set(places.values()))
        if any(Path(name).name != name for name in files):
            raise ValueError("a shard lies in the folder of its index")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of shards ({type(error).__name__}: {error})") from None
    if absent := [name for name in files if not (index.parent / name).is_file()]:
        raise ValueError(f"{index} names {', '.join(absent)}, which the folder lacks: fetch the whole of it")
    tensors: dict[str, Tensor] = {}
    for name in files:
        tensors |= stored.read_weights(index.parent / name)
    if lost := sorted(places.keys() - tensors.keys()):
        raise ValueError(f"{index} names {lost[0]}, which no shard holds: fetch the whole folder again")
    return tensors


def build(settings: Mapping[str, Any], architectures: Mapping[str, Callable[..., nn.Module]], path: Path) -> nn.Module:
    """The network that a config.json names as diffusers ("_class_name") or transformers ("architectures") do, of those keys
    that it takes as arguments. Raises ValueError, naming the file, where cogen has no such architecture."""
    listed = settings.get("architectures")
    name = str(settings.get("_class_name") or (listed[0] if isinstance(listed, list) and listed else ""))
    if name not in architectures:
        named = f"names {name}, which cogen does not have" if name else "names no architecture"
        raise ValueError(
            f"{path} {named}: give --module my_net.py:make (module= in Python), a function that makes the network; known are"
            f" {', '.join(architectures)}"
        )
    taken = inspect.signature(architectures[name]).parameters
    try:
        return architectures[name](**{key: value for key, value in settings.items() if key in taken})
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path}: cogen's {name} cannot be built from it ({str(error).splitlines()[0]}): if it is another {name}, give"
            " --module my_net.py:make (module= in Python)"
        ) from None
