"""Storage of networks: NAME.safetensors, only weights, beside NAME.json, the configuration.

Neither file can run code. Generators, encoders, energies and classifiers are stored this way; each has its own configuration, a
frozen dataclass whose fields are the keys of the JSON object.
"""

import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cogen.inference.whole_files import write_whole

Config = TypeVar("Config")


def check(config: Any, good: bool, name: str, wanted: str) -> None:
    """Validate a field of a configuration.

    :param good: whether its value is valid.
    :param wanted: description of valid values, for the message.
    :raises ValueError: unless the value is valid.
    """
    if not good:
        raise ValueError(f"{name} is {getattr(config, name)!r}; it must be {wanted}")


def check_config(config: Any) -> None:
    """Validate the common fields of all configurations: architecture, arguments, event_shape, value_range.

    The last two, which are lists in JSON, become tuples.

    :raises ValueError: for an invalid field.
    """
    check(config, isinstance(config.architecture, str), "architecture", "a name")
    check(config, isinstance(config.arguments, Mapping), "arguments", "a mapping of keyword arguments")
    shape, limits = config.event_shape, config.value_range
    check(config, _is_list(shape) and len(shape) > 0 and all(map(is_count, shape)), "event_shape", "positive integers")
    check(
        config,
        _is_list(limits) and len(limits) == 2 and all(map(is_finite, limits)) and limits[0] < limits[1],
        "value_range",
        "two finite numbers, the lower first",
    )
    # A frozen dataclass is set through object.__setattr__.
    object.__setattr__(config, "event_shape", tuple(shape))
    object.__setattr__(config, "value_range", (float(limits[0]), float(limits[1])))


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


# --- writing -------------------------------------------------------------------------------------------------------


def packed(module: nn.Module) -> bytes:
    """The weights of a module as the content of a safetensors file; tied weights are stored under each of their names."""
    from safetensors.torch import save

    return save({key: value.clone(memory_format=torch.contiguous_format) for key, value in module.state_dict().items()})


def write_pair(path: str | Path, stored: Mapping[str, Any], weights: bytes) -> Path:
    """Write PATH.safetensors and PATH.json, each atomically. Returns the path of the weights."""
    weights_path = with_suffix(Path(path), ".safetensors")
    weights_path.parent.mkdir(parents=True, exist_ok=True)
    # The configuration first: weights without it cannot be loaded.
    write_whole(weights_path.with_suffix(".json"), (json.dumps(stored, indent=1) + "\n").encode())
    write_whole(weights_path, weights)
    return weights_path


def with_suffix(path: Path, suffix: str) -> Path:
    # Path.with_suffix would turn "mnist-0.5" into "mnist-0.safetensors".
    return path if path.suffix == suffix else path.with_name(path.name + suffix)


# --- reading -------------------------------------------------------------------------------------------------------


def read_object(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    :raises FileNotFoundError: if the file is missing or cannot be read.
    :raises ValueError: for another content.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: it names the architecture of the weights") from None
    except OSError as error:
        raise FileNotFoundError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"{path} is not JSON ({error})") from None
    if not isinstance(stored, dict):
        raise ValueError(f"{path} contains a {type(stored).__name__}, but a configuration is a JSON object")
    return stored


def read_json(path: Path, kind: type[Config]) -> Config:
    """Read and check the configuration in a JSON file.

    :raises FileNotFoundError: as `read_object`.
    :raises ValueError: for an invalid configuration.
    """
    stored = read_object(path)
    try:
        return kind(**stored)
    except TypeError as error:  # "missing 2 required positional arguments: ...", "unexpected keyword argument ..."
        raise ValueError(f"{path}: {str(error).removeprefix(f'{kind.__name__}.__init__() ')}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def build(
    config: Any,
    architectures: Mapping[str, Callable[..., nn.Module]],
    probe: Callable[[nn.Module], tuple[int, ...]],
    path: Path,
    hint: str = "",
) -> tuple[nn.Module, tuple[int, ...]]:
    """Build the network of a configuration, in evaluation mode.

    :param probe: computes the shape of the network's output.
    :param path: of the configuration, for messages.
    :param hint: appended to the message for an unknown architecture.
    :returns: the network, and the shape from ``probe``.
    :raises ValueError: if the network cannot be built or does not run.
    """
    if config.architecture not in architectures:
        raise ValueError(f"{path}: unknown architecture {config.architecture!r}; known are {', '.join(architectures)}{hint}")
    try:
        network = architectures[config.architecture](**config.arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: {config.architecture} cannot be built from its arguments ({reason})") from None
    try:
        with torch.no_grad():
            return network, probe(network.eval())
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        latent = f", latent_dim {config.latent_dim}" if hasattr(config, "latent_dim") else ""
        raise ValueError(
            f"{path}: {config.architecture} with its arguments does not fit event_shape {config.event_shape}{latent} ({reason})"
        ) from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    :raises ValueError: for a pickle and an incomplete file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with path.open("rb") as file:
        first = file.read(9)
    # A safetensors file begins with eight bytes for the length of its header, of which the first may be a pickle's, and "{".
    if zipfile.is_zipfile(path) or (first[:1] == b"\x80" and first[8:] != b"{"):
        raise ValueError(f"{path} is a pickle, which can run code, in spite of its suffix: convert it to safetensors")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error}): download it again") from None


def load(
    path: Path,
    config: Any,
    architectures: Mapping[str, Callable[..., nn.Module]],
    probe: Callable[[nn.Module], tuple[int, ...]],
    size: str,
) -> nn.Module:
    """Load the network of a configuration with the weights in ``path``, frozen, in evaluation mode, and with its ``config``.

    :param probe: computes the shape of its output for two items.
    :param size: the field of the configuration with the output's size.
    :raises ValueError: for an invalid file of weights or configuration.
    """
    beside = path.with_suffix(".json")
    network, shape = build(config, architectures, probe, beside)
    if shape != (2, getattr(config, size)):
        made = " x ".join(map(str, shape[1:]))
        raise ValueError(f"{beside}: {size} is {getattr(config, size)}, but the architecture returns {made} numbers per x")
    return frozen(network, config, path)


def both_files(path: str | Path, what: str) -> tuple[Path, Path]:
    """The paths of the weights and of the configuration.

    :param what: the kind of network, for the message.
    :raises FileNotFoundError: if one of them is missing.
    """
    weights = with_suffix(Path(path), ".safetensors")
    files = weights, weights.with_suffix(".json")
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}: {what} needs weights (.safetensors) and a .json beside them")
    return files


def frozen(network: nn.Module, config: Any, path: Path) -> nn.Module:
    """Load the weights in ``path`` into a network, freeze it and set its ``config``.

    :raises ValueError: as `fill`.
    """
    fill(network, read_weights(path), path)
    network.requires_grad_(False)
    network.config = config
    return network


def fill(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load weights into a module.

    :param path: the file of the weights, for messages.
    :raises ValueError: for weights that do not fit or are non-finite.
    """
    expected = module.state_dict()
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unknown:
        lacks = f"it lacks {', '.join(missing[:3])}" if missing else ""
        extra = f"it has unknown weights {', '.join(unknown[:3])}" if unknown else ""
        raise ValueError(f"{path} does not fit {type(module).__name__}: {' and '.join(filter(None, (lacks, extra)))}")
    for key, value in expected.items():
        if weights[key].shape != value.shape:
            raise ValueError(
                f"{path} does not fit {type(module).__name__}: {key} has shape {tuple(weights[key].shape)}, "
                f"expected {tuple(value.shape)}"
            )
        if not torch.isfinite(weights[key]).all():
            raise ValueError(f"{path}: {key} contains NaN or infinite values: its training diverged")
    module.load_state_dict(weights)
    for key, value in module.state_dict().items():
        if not torch.equal(value, weights[key].to(value)):
            raise ValueError(
                f"{path} does not fit {type(module).__name__}: the module ties {key} to another of its weights, but the file"
                " has different values for them"
            )
