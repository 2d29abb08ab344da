"""Folders in the format of the Hugging Face hub: ``config.json`` beside ``model.safetensors``, complete or in shards.

The weights are called ``model.safetensors`` or ``diffusion_pytorch_model.safetensors``. Large ones are split into shards, and
``model.safetensors.index.json`` maps tensors to files ("weight_map"). Pickled weights in such a folder are ignored.
``hf://user/repository`` is downloaded once by the package huggingface_hub, into its own cache.
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
    """Download the JSON and safetensors files of ``hf://user/repository``, and return their folder.

    :raises ValueError: if it cannot be downloaded.
    """
    repository = address.removeprefix(SCHEME).strip("/")
    if repository.count("/") != 1:
        raise ValueError(f"{address}: an address must have the form {SCHEME}user/repository")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError(
            f"{address} requires the package huggingface_hub: pip install 'cogen-ppl[hub]', or give a downloaded folder"
        ) from None
    try:
        return Path(snapshot_download(repository, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # errors of the network, the hub and the disk have different classes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{address} cannot be downloaded ({type(error).__name__}: {reason}): check the network connection and that the"
            " repository is public, or give a downloaded folder"
        ) from None


def weights_in(folder: Path) -> Path:
    """The file of weights in a folder, or the index of its shards.

    :raises FileNotFoundError: if there is neither.
    """
    for name in _NAMES:
        for file in (folder / f"{name}.safetensors", folder / f"{name}{INDEX}"):
            if file.is_file():
                return file
    names = sorted(file.name for file in folder.iterdir())
    there = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"
    wanted = " or ".join(f"{name}.safetensors" for name in _NAMES)
    raise FileNotFoundError(f"the folder {folder} has no {wanted}, but {there}: give the path of the file of weights")


def read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all files of an index.

    :raises ValueError: for an invalid index, and missing or invalid shards.
    """
    try:
        locations = stored.read_object(index)["weight_map"]
        files = sorted(set(locations.values()))
        if any(Path(name).name != name for name in files):
            raise ValueError("a shard must be in the folder of its index")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not an index of shards ({type(error).__name__}: {error})") from None
    if absent := [name for name in files if not (index.parent / name).is_file()]:
        raise ValueError(f"{index} lists {', '.join(absent)}, missing in the folder: download the complete folder")
    tensors: dict[str, Tensor] = {}
    for name in files:
        tensors |= stored.read_weights(index.parent / name)
    if lost := sorted(locations.keys() - tensors.keys()):
        raise ValueError(f"{index} lists {lost[0]}, which no shard contains: download the complete folder again")
    return tensors


def build(settings: Mapping[str, Any], architectures: Mapping[str, Callable[..., nn.Module]], path: Path) -> nn.Module:
    """The network of a config.json in the format of diffusers ("_class_name") or transformers ("architectures"), with the keys
    that are arguments of the architecture.

    :raises ValueError: for an architecture that is not in ``architectures``, or cannot be built.
    """
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
            f"{path}: cogen's {name} cannot be built from it ({str(error).splitlines()[0]}): if it is a different {name}, give"
            " --module my_net.py:make (module= in Python)"
        ) from None
