"""Generators on disk: safe weights beside a readable configuration, and the ones that ship with the package.

A generator is two files, NAME.safetensors (weights, nothing else) and NAME.json (`GeneratorConfig`: which architecture
to build and what it makes), and neither can run code (`cogen.models.storage.stored`). Pickles (.pt, .pth) and exported programs
(.pt2, torch.export) can: `torch.load` and `torch.export.load` execute what a crafted file tells them to, so they are
refused unless `allow_pickle=True`.
"""

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cogen.models.contexts import Classes, Context, contexts_of
from cogen.models.data.datasets import from_bytes
from cogen.models.families.glf import LatentFlowGenerator
from cogen.models.families.glo import WhitenedGenerator
from cogen.models.families.realnvp import RealNVPGenerator
from cogen.models.frozen import frozen
from cogen.models.networks.architectures import PLAIN, ConditionalGenerator, Conditioned
from cogen.models.networks.latent_descent import spherical_generator
from cogen.models.networks.translation import TRANSLATORS
from cogen.models.storage import stored

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    **PLAIN,
    **TRANSLATORS,
    "RealNVPGenerator": RealNVPGenerator,
    "ConditionalGenerator": ConditionalGenerator,
    "LatentFlowGenerator": LatentFlowGenerator,
    "SphericalGenerator": spherical_generator,
    "WhitenedGenerator": WhitenedGenerator,
}

SHIPPED = Path(__file__).parents[1] / "shipped"
EXECUTABLE = (".pt", ".pth", ".pt2")


@dataclass(frozen=True)
class GeneratorConfig:
    """What a generator is and makes; the content of its JSON file.

    :param architecture: a key of `ARCHITECTURES`, or the class name of a module the user brings.
    :param arguments: keyword arguments of the architecture.
    :param latent_dim: size of z; 0 for a generator of its contexts alone.
    :param event_shape: shape of one output, images as (channel, height, width).
    :param value_range: least and greatest value an output takes; loaders, metrics and pictures use it.
    :param noise_scale: standard deviation of the noise that views take by default: it covers what the generator cannot make,
        and is chosen on held-out data.
    :param name: for people, as are the next three.
    :param training_data: what it was trained on.
    :param licence: of the weights.
    :param description: in a line.
    :param figures: what was measured when it was trained.
    :param contexts: what the generator takes besides z, by name: `Classes` or `Array`; none for most.
    :param schema: of the generator of a table: its columns (`Schema.to_json`), and by name the ``noise_scale`` of those that
        are continuous, in standardised units.
    :param bytes: size of the weights on disk; filled in on loading, not stored.
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
    contexts: Mapping[str, Context] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    bytes: int = 0

    def __post_init__(self) -> None:
        stored.check_config(self)
        without_z = self.contexts and self.latent_dim == 0
        stored.check(self, without_z or stored.is_count(self.latent_dim), "latent_dim", "a positive integer")
        noise = self.noise_scale
        stored.check(self, stored.is_finite(noise) and noise > 0, "noise_scale", "a positive number")
        stored.check(self, isinstance(self.figures, Mapping), "figures", "a mapping")
        good = self.schema is None or isinstance(self.schema, Mapping)
        stored.check(self, good, "schema", "a mapping that Schema.to_json wrote")
        object.__setattr__(self, "contexts", contexts_of(self.contexts))


def load_generator(
    name_or_path: str | Path, *, module: nn.Module | None = None, allow_pickle: bool = False, label: int | None = None
) -> nn.Module:
    """A frozen generator in evaluation mode, with its configuration as `.config`.

    :param name_or_path: a shipped name as a string (see `shipped_generators`; it wins over a file of that name), or the
        path of a .safetensors file (with or without the suffix) that has its JSON file beside it.
    :param module: a module of your own for the weights to go into, which keeps its mode and stays trainable: what comes back
        is a frozen copy of it. The JSON file may then be absent, and with it `.config` (give `CoGenerator` the `latent_dim`).
    :param allow_pickle: also read .pt and .pth (a pickled state dict or module, a scripted module) and .pt2 (an exported
        program, which stays in the mode it was exported in, and takes other batch sizes only if exported with a dynamic one).
        These run code from the file: allow it for files you trust as you trust a program.
    :param label: the class, of a conditional generator: what comes back is the generator of this class, without a context.
        Without it, the generator takes the context ``label``, as its configuration says, and `CoGenerator` reads that.

    Raises FileNotFoundError when there is no such generator, and ValueError, naming the file, for whatever is wrong
    with it.
    """
    path = find_generator(name_or_path)
    if path.suffix in EXECUTABLE:
        if not allow_pickle:
            raise ValueError(
                f"{path} can run code when it is read, so it is refused; convert it to safetensors, or pass "
                "allow_pickle=True if you trust it"
            )
        generator, weights = _load_executable(path, module)
    else:
        generator, weights = module, stored.read_weights(path)

    config_path = path.with_suffix(".json")
    config = read_config(config_path) if config_path.is_file() else None
    if generator is None:
        if config is None:
            raise FileNotFoundError(
                f"{config_path} is missing: it says which architecture the weights belong to; or give module="
            )
        generator = _build(config, config_path)
    if weights is not None:
        stored.fill(generator, weights, path)
    generator = frozen(generator)  # of the caller's own module a copy
    if label is not None and not isinstance(generator, Conditioned):
        raise ValueError(f"{path}: label {label} was given, and this generator is not conditional on a class")
    if isinstance(generator, Conditioned) and label is not None:
        generator = generator.given(label)
        config = None if config is None else replace(config, contexts={})
    elif config is not None:
        config = replace(config, contexts=_contexts(generator, config))
    if config is not None:
        generator.config = config  # type: ignore[assignment]
    return generator


def save_generator(path: str | Path, generator: nn.Module, config: GeneratorConfig, *, half: bool = False) -> Path:
    """Write PATH.safetensors and PATH.json; each appears whole or not at all. Returns the path of the weights.

    ``half`` writes half the bytes a weight, which are single precision again when they are loaded.
    """
    content = asdict(config)
    del content["bytes"]
    generator = copy.deepcopy(generator).half() if half else generator
    return stored.write_pair(path, content, stored.packed(generator))


def shipped_generators() -> dict[str, GeneratorConfig]:
    """The configurations of the generators that come with the package, by name; `config.bytes` is the size on disk."""
    return {path.stem: read_config(path.with_suffix(".json")) for path in _shipped()}


def shipped_images(name: str = "mnist") -> tuple[np.ndarray, np.ndarray]:
    """Held-out test images that come with the package, and their labels.

    The images are float32 (item, channel, height, width) in [-1, 1]. shipped/README.md says how they were chosen.
    """
    path = SHIPPED / f"{name}_test.npz"
    if not path.is_file():
        names = ", ".join(p.stem.removesuffix("_test") for p in sorted(SHIPPED.glob("*_test.npz")))
        raise FileNotFoundError(f"no test images called {name!r} are shipped; there are: {names}")
    with np.load(path, allow_pickle=False) as content:
        images = from_bytes(content["images"], (-1.0, 1.0))
        return images if images.ndim == 4 else images[:, None], content["labels"]


def read_config(path: Path) -> GeneratorConfig:
    """The configuration in a JSON file, checked; `bytes` is the size of the weights beside it."""
    config, weights = stored.read_json(path, GeneratorConfig), path.with_suffix(".safetensors")
    return replace(config, bytes=weights.stat().st_size if weights.is_file() else 0)


def _shipped() -> list[Path]:
    return [path for path in sorted(SHIPPED.glob("*.safetensors")) if not path.stem.endswith("-guide")]


def find_generator(name_or_path: str | Path) -> Path:
    """The file of weights of a shipped name, or of a path. Raises what `load_generator` does."""
    shipped = {p.stem: p for p in _shipped()}
    if name_or_path in shipped:  # before any file of that name: what runs must not depend on the folder one is in
        return shipped[str(name_or_path)]
    path = Path(name_or_path)
    if path.suffix in EXECUTABLE or path.suffix == ".safetensors":
        if path.is_file():
            return path
        raise FileNotFoundError(f"no file of weights at {path}")
    if (beside := stored.with_suffix(path, ".safetensors")).is_file():
        return beside
    if path.is_file():
        raise ValueError(f"{path} has no suffix that says what it is; weights are .safetensors")
    raise FileNotFoundError(f"no generator called {str(name_or_path)!r} and no such file; shipped are: {', '.join(shipped)}")


def _contexts(generator: nn.Module, config: GeneratorConfig) -> Mapping[str, Context]:
    """What the configuration says, or of a conditional generator that was stored before it could: its label."""
    if isinstance(generator, Conditioned) and not config.contexts:
        return {"label": Classes(generator.num_classes)}
    return config.contexts


def _load_executable(path: Path, module: nn.Module | None) -> tuple[nn.Module | None, dict[str, Tensor] | None]:
    try:
        if path.suffix == ".pt2":
            return torch.export.load(path).module(), None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch would rather have scripted modules loaded by a function of their own
            content = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle raises what it likes
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})") from None
    if isinstance(content, nn.Module):
        return content, None
    if isinstance(content, Mapping) and content and all(isinstance(v, Tensor) for v in content.values()):
        return module, dict(content)
    raise ValueError(f"{path} holds a {type(content).__name__}; expected a module or a state dict (names to tensors)")


def _build(config: GeneratorConfig, path: Path) -> nn.Module:
    def made(generator: nn.Module) -> tuple[int, ...]:
        context = {name: each.points(1) for name, each in _contexts(generator, config).items()}
        return tuple(generator(torch.zeros(1, config.latent_dim), **context).shape[1:])

    generator, shape = stored.build(config, ARCHITECTURES, made, path, ", others need module=")
    if shape != config.event_shape:
        raise ValueError(f"{path}: event_shape says {config.event_shape}, the architecture makes {shape}")
    return generator
