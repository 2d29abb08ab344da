"""Generators on disk: safe weights beside a readable configuration, and the ones that ship with the package.

A generator is two files, NAME.safetensors (weights, nothing else) and NAME.json (`GeneratorConfig`: which architecture
to build and what it makes). Neither can run code. Pickles (.pt, .pth) and exported programs (.pt2, torch.export) can:
`torch.load` and `torch.export.load` execute what a crafted file tells them to, so they are refused unless
`allow_pickle=True`.
"""

import json
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cogen.models.datasets import from_bytes, write_whole
from cogen.models.networks import ConditionalGenerator, Conditioned, DcganGenerator, DenseGenerator
from cogen.models.realnvp import RealNVPGenerator

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "DenseGenerator": DenseGenerator,
    "DcganGenerator": DcganGenerator,
    "RealNVPGenerator": RealNVPGenerator,
    "ConditionalGenerator": ConditionalGenerator,
}

SHIPPED = Path(__file__).parent / "shipped"
EXECUTABLE = (".pt", ".pth", ".pt2")


@dataclass(frozen=True)
class GeneratorConfig:
    """What a generator is and makes; the content of its JSON file.

    Attributes:
        architecture: a key of `ARCHITECTURES`, or the class name of a module the user brings.
        arguments: keyword arguments of the architecture.
        latent_dim: size of z.
        event_shape: shape of one output, images as (channel, height, width).
        value_range: least and greatest value an output takes; loaders, metrics and pictures use it.
        noise_scale: standard deviation of the noise to condition with, unless one knows better; it stands for what the
            generator cannot make, and is chosen on held-out data.
        name, training_data, licence, description: for people.
        figures: what was measured when it was trained.
        schema: of the generator of a table: its columns (`Schema.to_json`), and by name the ``noise_scale`` of those that are
            continuous, in standardised units.
        bytes: size of the weights on disk; filled in on loading, not stored.
    """

    architecture: str
    arguments: Mapping[str, Any]
    latent_dim: int
    event_shape: tuple[int, ...]
    value_range: tuple[float, float]
    noise_scale: float
    name: str = ""
    training_data: str = ""
    licence: str = ""
    description: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    bytes: int = 0

    def __post_init__(self) -> None:
        def check(good: bool, name: str, wanted: str) -> None:
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {wanted}")

        check(isinstance(self.architecture, str), "architecture", "a name")
        check(isinstance(self.arguments, Mapping), "arguments", "a mapping of keyword arguments")
        check(_is_count(self.latent_dim), "latent_dim", "a positive integer")
        shape = self.event_shape
        check(_is_list(shape) and len(shape) > 0 and all(map(_is_count, shape)), "event_shape", "positive integers")
        limits = self.value_range
        check(
            _is_list(limits) and len(limits) == 2 and all(map(_is_finite, limits)) and limits[0] < limits[1],
            "value_range",
            "two finite numbers, the lower first",
        )
        check(_is_finite(self.noise_scale) and self.noise_scale > 0, "noise_scale", "a positive number")
        check(isinstance(self.figures, Mapping), "figures", "a mapping")
        check(self.schema is None or isinstance(self.schema, Mapping), "schema", "a mapping that Schema.to_json wrote")
        # JSON has lists only; frozen dataclasses are filled through object.__setattr__.
        object.__setattr__(self, "event_shape", tuple(shape))
        object.__setattr__(self, "value_range", (float(limits[0]), float(limits[1])))


def load_generator(
    name_or_path: str | Path, *, module: nn.Module | None = None, allow_pickle: bool = False, label: int | None = None
) -> nn.Module:
    """A frozen generator in evaluation mode, with its configuration as `.config`.

    Args:
        name_or_path: a shipped name as a string (see `shipped_generators`; it wins over a file of that name), or the
            path of a .safetensors file (with or without the suffix) that has its JSON file beside it.
        module: a module of your own for the weights to go into; the JSON file may then be absent, and with it `.config`
            (give `CoGenerator` the `latent_dim`).
        allow_pickle: also read .pt and .pth (a pickled state dict or module) and .pt2 (an exported program). These run
            code from the file: allow it for files you trust as you trust a program.
        label: the class, of a conditional generator: what comes back is the generator of this class.

    Raises FileNotFoundError when there is no such generator, and ValueError, naming the file, for whatever is wrong
        with it.
    """
    path = _find(name_or_path)
    if path.suffix in EXECUTABLE:
        if not allow_pickle:
            raise ValueError(
                f"{path} can run code when it is read, so it is refused; convert it to safetensors, or pass "
                "allow_pickle=True if you trust it"
            )
        generator, weights = _load_executable(path, module)
    else:
        generator, weights = module, _read_safetensors(path)

    config_path = path.with_suffix(".json")
    config = read_config(config_path) if config_path.is_file() else None
    if generator is None:
        if config is None:
            raise FileNotFoundError(
                f"{config_path} is missing: it says which architecture the weights belong to; or give module="
            )
        generator = _build(config, config_path)
    if weights is not None:
        _fill(generator, weights, path)
    if path.suffix != ".pt2":  # an exported program has no modes: it is what it was when exported
        generator.eval()
    generator.requires_grad_(False)
    if label is not None and not isinstance(generator, Conditioned):
        raise ValueError(f"{path}: label {label} was given, and this generator is not conditional on a class")
    if isinstance(generator, Conditioned):
        if label is None:
            raise ValueError(f"{path} is conditional on {generator.num_classes} classes: give label=, from 0 on")
        generator = generator.given(label)
    if config is not None:
        generator.config = config  # type: ignore[assignment]
    return generator


def save_generator(path: str | Path, generator: nn.Module, config: GeneratorConfig) -> Path:
    """Write PATH.safetensors and PATH.json; each appears whole or not at all. Returns the path of the weights."""
    stored = asdict(config)
    del stored["bytes"]
    return _write_pair(path, stored, _packed(generator))


def shipped_generators() -> dict[str, GeneratorConfig]:
    """The configurations of the generators that come with the package, by name; `config.bytes` is the size on disk."""
    return {path.stem: read_config(path.with_suffix(".json")) for path in sorted(SHIPPED.glob("*.safetensors"))}


def shipped_images(name: str = "mnist") -> tuple[np.ndarray, np.ndarray]:
    """Held-out test images that come with the package, and their labels.

    The images are float32 (item, channel, height, width) in [-1, 1]. shipped/README.md says how they were chosen.
    """
    path = SHIPPED / f"{name}_test.npz"
    if not path.is_file():
        names = ", ".join(p.stem.removesuffix("_test") for p in sorted(SHIPPED.glob("*_test.npz")))
        raise FileNotFoundError(f"no test images called {name!r} are shipped; there are: {names}")
    with np.load(path, allow_pickle=False) as content:
        return from_bytes(content["images"], (-1.0, 1.0))[:, None], content["labels"]


def read_config(path: Path) -> GeneratorConfig:
    """The configuration in a JSON file, checked; `bytes` is the size of the weights beside it."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileNotFoundError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"{path} is not JSON ({error})") from None
    if not isinstance(stored, dict):
        raise ValueError(f"{path} holds a {type(stored).__name__}; a generator's configuration is a JSON object")
    weights = path.with_suffix(".safetensors")
    stored["bytes"] = weights.stat().st_size if weights.is_file() else 0
    try:
        return GeneratorConfig(**stored)
    except TypeError as error:  # "missing 2 required positional arguments: ...", "unexpected keyword argument ..."
        raise ValueError(f"{path}: {str(error).removeprefix('GeneratorConfig.__init__() ')}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _packed(module: nn.Module) -> bytes:
    """A module's weights as the content of a safetensors file."""
    from safetensors.torch import save

    return save({key: value.contiguous() for key, value in module.state_dict().items()})


def _write_pair(path: str | Path, stored: Mapping[str, Any], weights: bytes) -> Path:
    """Write PATH.safetensors and PATH.json; each appears whole or not at all. Returns the path of the weights."""
    weights_path = _with_suffix(Path(path), ".safetensors")
    weights_path.parent.mkdir(parents=True, exist_ok=True)
    # The configuration first: weights without it could not be loaded.
    write_whole(weights_path.with_suffix(".json"), (json.dumps(stored, indent=1) + "\n").encode())
    write_whole(weights_path, weights)
    return weights_path


def _find(name_or_path: str | Path) -> Path:
    shipped = {p.stem: p for p in sorted(SHIPPED.glob("*.safetensors"))}
    if name_or_path in shipped:  # before any file of that name: what runs must not depend on the folder one is in
        return shipped[str(name_or_path)]
    path = Path(name_or_path)
    if path.suffix in EXECUTABLE or path.suffix == ".safetensors":
        if path.is_file():
            return path
        raise FileNotFoundError(f"no file of weights at {path}")
    if (beside := _with_suffix(path, ".safetensors")).is_file():
        return beside
    if path.is_file():
        raise ValueError(f"{path} has no suffix that says what it is; weights are .safetensors")
    raise FileNotFoundError(f"no generator called {str(name_or_path)!r} and no such file; shipped are: {', '.join(shipped)}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with path.open("rb") as file:
        first = file.read(9)
    # A safetensors file begins with the length of its header, eight bytes of which the first may be a pickle's, and then "{".
    if zipfile.is_zipfile(path) or (first[:1] == b"\x80" and first[8:] != b"{"):
        raise ValueError(f"{path} is a pickle, not safetensors, whatever its name says; convert it, pickles run code")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error}); fetch it again") from None


def _load_executable(path: Path, module: nn.Module | None) -> tuple[nn.Module | None, dict[str, Tensor] | None]:
    try:
        if path.suffix == ".pt2":
            return torch.export.load(path).module(), None
        content = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle raises what it likes
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})") from None
    if isinstance(content, nn.Module):
        return content, None
    if isinstance(content, Mapping) and content and all(isinstance(v, Tensor) for v in content.values()):
        return module, dict(content)
    raise ValueError(f"{path} holds a {type(content).__name__}; expected a module or a state dict (names to tensors)")


def _build(config: GeneratorConfig, path: Path) -> nn.Module:
    if config.architecture not in ARCHITECTURES:
        raise ValueError(
            f"{path}: unknown architecture {config.architecture!r}; known are {', '.join(ARCHITECTURES)}, others need module="
        )
    try:
        generator = ARCHITECTURES[config.architecture](**config.arguments)
        probe = generator.eval().given(0) if isinstance(generator, Conditioned) else generator.eval()
        made = probe(torch.zeros(1, config.latent_dim)).shape[1:]
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: {config.architecture} cannot be built from its arguments ({reason})") from None
    if tuple(made) != config.event_shape:
        raise ValueError(f"{path}: event_shape says {config.event_shape}, the architecture makes {tuple(made)}")
    return generator


def _fill(generator: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    expected = generator.state_dict()
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unknown:
        lacks = f"it lacks {', '.join(missing[:3])}" if missing else ""
        holds = f"it holds {', '.join(unknown[:3])} too" if unknown else ""
        raise ValueError(f"{path} does not fit {type(generator).__name__}: {' and '.join(filter(None, (lacks, holds)))}")
    for key, value in expected.items():
        if weights[key].shape != value.shape:
            raise ValueError(
                f"{path} does not fit {type(generator).__name__}: {key} has shape {tuple(weights[key].shape)}, "
                f"the module's is {tuple(value.shape)}"
            )
        if not torch.isfinite(weights[key]).all():
            raise ValueError(f"{path}: {key} holds NaN or infinite values; the training that made it diverged")
    generator.load_state_dict(weights)


def _with_suffix(path: Path, suffix: str) -> Path:
    # Path.with_suffix would turn "mnist-0.5" into "mnist-0.safetensors".
    return path if path.suffix == suffix else path.with_name(path.name + suffix)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)
