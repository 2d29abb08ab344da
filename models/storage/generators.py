"""Storage of generators as weights and a configuration, and the generators shipped with the package.

A generator is two files, NAME.safetensors (only weights) and NAME.json (`GeneratorConfig`: the architecture and its output).
Neither can run code (`cogen.models.storage.stored`). Pickled or scripted modules (.pt, .pth) and exported programs (.pt2) can:
`torch.load` and `torch.export.load` execute code in a malicious file, so they are rejected unless `allow_pickle=True`.
Checkpoints of plain tensors are read without it.

External generators have no such configuration. They are given as code (``my_net.py:make``,
`cogen.models.storage.entry_points`), as a checkpoint (`cogen.models.storage.checkpoints`) or as a folder of the Hugging Face
hub (`cogen.models.storage.hub_folders`), and the configuration is inferred from the network
(`cogen.models.storage.inferred_config`).
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from cogen.inference.signatures import JSON
from cogen.models.contexts import Classes, Context, contexts_of
from cogen.models.data.datasets import from_bytes
from cogen.models.families.glf import LatentFlowGenerator
from cogen.models.families.glo import WhitenedGenerator
from cogen.models.families.realnvp import RealNVPGenerator
from cogen.models.frozen import frozen
from cogen.models.networks.architectures import PLAIN, ConditionalGenerator, Conditioned
from cogen.models.networks.latent_descent import spherical_generator
from cogen.models.networks.translation import TRANSLATORS
from cogen.models.storage import checkpoints, hub_folders, stored
from cogen.models.storage.checkpoints import EXECUTABLE
from cogen.models.storage.entry_points import files_beside, is_entry_point, made_by
from cogen.models.storage.inferred_config import inferred

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


@dataclass(frozen=True)
class GeneratorConfig:
    """The configuration of a generator, the content of its JSON file.

    :param architecture: a key of `ARCHITECTURES`, or the class name of the user's module.
    :param arguments: keyword arguments of the architecture.
    :param latent_dim: size of z; 0 for a generator that takes only contexts.
    :param event_shape: shape of one output, (channel, height, width) for images.
    :param value_range: least and greatest value of the output, used for loading, metrics and pictures.
    :param noise_scale: default standard deviation of the noise of views, chosen on held-out data to cover the misfit of the
        generator.
    :param name: for display, as are the next three.
    :param training_data: the training set.
    :param licence: licence of the weights.
    :param description: one line.
    :param figures: measurements from training.
    :param contexts: inputs besides z, by name, `Classes` or `Array`.
    :param schema: for a generator of a table, its columns (`Schema.to_json`) and the ``noise_scale`` of the continuous ones by
        name, in standardised units.
    :param bytes: size of the weights on disk; set on loading, not stored.
    """

    architecture: str
    arguments: Mapping[str, JSON]
    latent_dim: int
    event_shape: tuple[int, ...]
    value_range: tuple[float, float]
    noise_scale: float
    name: str = ""
    training_data: str = ""
    licence: str = ""
    description: str = ""
    figures: Mapping[str, JSON] = field(default_factory=dict)
    contexts: Mapping[str, Context] = field(default_factory=dict)
    schema: Mapping[str, JSON] | None = None
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


@dataclass(frozen=True)
class Source:
    """The parts of a generator as read from files, before `assembled` combines them.

    :param name: the name or path as given.
    :param path: the file of weights; for an entry point, `files_beside` it.
    :param network: the network, with or without its weights; None if it is unknown.
    :param tensors: the weights by their names in the file; None if the network has them already.
    :param config: the configuration of its JSON file, if any.
    :param settings: the content of a config.json of the hub, if any.
    """

    name: str
    path: Path
    network: nn.Module | None
    tensors: Mapping[str, Tensor] | None = None
    config: GeneratorConfig | None = None
    settings: Mapping[str, Any] | None = None


def load_generator(
    name_or_path: str | Path,
    *,
    module: nn.Module | str | None = None,
    allow_pickle: bool = False,
    label: int | None = None,
    latent_dim: int | None = None,
) -> nn.Module:
    """Load a frozen generator in evaluation mode, with its configuration as `.config` and notes on loading as `.notes`, (str,
    ...).

    Without a JSON file the configuration is the module's own `.config`, if that is a `GeneratorConfig`, or is inferred from the
    module (`cogen.models.storage.inferred_config`). A module that takes z as (batch, d, 1, 1) or returns one tensor among other
    values is then wrapped, and weights that are not float32 are converted.

    :param name_or_path: one of

        * a shipped name as a string (see `shipped_generators`; it takes precedence over a file of that name);
        * the path of a .safetensors file (with or without the suffix), with its JSON file beside it;
        * a folder with ``config.json`` and ``model.safetensors`` or ``diffusion_pytorch_model.safetensors``, complete or in
          shards, or ``hf://user/repository``, which is downloaded by the package huggingface_hub;
        * an entry point as a string, ``"my_package.nets:make"`` or ``"my_net.py:make"``: a function or class without
          arguments that returns a torch module with its weights. Its code is run.
    :param module: your module for the weights, or its entry point. It is not changed: the result is a frozen copy. The JSON
        file may then be absent. The weights may have a prefix ("module.", "generator.", "g_ema."); averaged weights are
        preferred.
    :param allow_pickle: also read pickled or scripted modules (.pt, .pth, .ckpt, .bin) and exported programs (.pt2, which keep
        the mode of their export, and take other batch sizes only if exported with a dynamic one). These run code from the file:
        allow it only for files that you trust. Checkpoints of plain tensors are read without it.
    :param label: the class for a conditional generator; the result then generates this class, without a context. By default
        the generator takes the context ``label`` of its configuration, which `CoGenerator` reads.
    :param latent_dim: size of z for a generator without a JSON file, if it cannot be inferred from the module.
    :raises FileNotFoundError: if there is no such generator.
    :raises ValueError: for invalid files, and a ``latent_dim`` that contradicts the configuration.
    """
    return assembled(read_source(name_or_path, module, allow_pickle), label, latent_dim)


def assembled(source: Source, label: int | None = None, latent_dim: int | None = None) -> nn.Module:
    """Combine the parts of a generator to a frozen module with its configuration; see `load_generator`."""
    path, generator, config, notes = source.path, source.network, source.config, list[str]()
    if generator is None:
        raise FileNotFoundError(
            f"{path.with_suffix('.json')} is missing: it names the architecture of the weights; add it, or give --module"
            " my_net.py:make (module= in Python), a function that makes the network"
        )
    if source.tensors is not None:
        weights, where = checkpoints.weights_of(generator, source.tensors, path)
        notes += [where] if where else []
        stored.fill(generator, weights, path)
    elif not any(True for _ in generator.parameters()):
        notes.append(f"{type(generator).__name__} has no trained parameters")
    elif is_entry_point(source.name):
        notes.append(f"the weights are those returned by {source.name}")
    generator = frozen(generator)  # a copy of the caller's module
    if config is None and isinstance(getattr(generator, "config", None), GeneratorConfig):
        config = cast(GeneratorConfig, generator.config)
    if config is None:
        generator, fields, found = inferred(generator, latent_dim, source.settings)
        config = GeneratorConfig(**fields, name=source.name)
        notes += found
    if latent_dim not in (None, config.latent_dim):
        raise ValueError(
            f"--latent-dim {latent_dim} (latent_dim= in Python): the configuration of {source.name} has {config.latent_dim};"
            " omit the option"
        )
    if label is not None and not isinstance(generator, Conditioned):
        raise ValueError(f"{path}: label {label} was given, but this generator is not conditional on a class")
    if isinstance(generator, Conditioned) and label is not None:
        generator, config = generator.given(label), replace(config, contexts={})
    else:
        config = replace(config, contexts=_contexts(generator, config))
    generator.config = config  # type: ignore[assignment]
    generator.notes = tuple(notes)  # type: ignore[assignment]
    return generator


def read_source(name_or_path: str | Path, module: nn.Module | str | None = None, allow_pickle: bool = False) -> Source:
    """Read the parts of a generator by name or path, without loading weights into a network; see `load_generator`."""
    if isinstance(name_or_path, str) and is_entry_point(name_or_path):
        if module is not None:
            raise ValueError(
                f"--module (module= in Python) is for weights in a file, but {name_or_path} returns a network with its weights"
            )
        return Source(name_or_path, files_beside(name_or_path), made_by(name_or_path))
    path = find_generator(name_or_path)
    network = made_by(module) if isinstance(module, str) else module
    sharded = path.name.endswith(hub_folders.INDEX)
    beside = path.with_name(path.name.removesuffix(hub_folders.INDEX) + ".json") if sharded else path.with_suffix(".json")
    of_hub = path.with_name("config.json")
    config = read_config(beside) if beside.is_file() else None
    settings = None
    if config is None and of_hub.is_file():
        settings = stored.read_object(of_hub)
        if {"architecture", "event_shape"} <= settings.keys():
            config, beside, settings = read_config(of_hub), of_hub, None
    if path.suffix in EXECUTABLE:
        content = checkpoints.read_executable(path, allow_pickle)
        if isinstance(content, nn.Module) and network is None:
            return Source(str(name_or_path), path, content, None, config, settings)
        tensors = content.state_dict() if isinstance(content, nn.Module) else content
    else:
        tensors = hub_folders.read_shards(path) if sharded else stored.read_weights(path)
    if network is None and config is not None:
        network = _build(config, beside)
    elif network is None and settings is not None:
        network = hub_folders.build(settings, ARCHITECTURES, of_hub)
    return Source(str(name_or_path), path, network, tensors, config, settings)


def save_generator(path: str | Path, generator: nn.Module, config: GeneratorConfig, *, half: bool = False) -> Path:
    """Write PATH.safetensors and PATH.json, each atomically. Returns the path of the weights.

    :param half: store the weights in half precision; they are loaded in single precision.
    """
    content = asdict(config)
    del content["bytes"]
    generator = copy.deepcopy(generator).half() if half else generator
    return stored.write_pair(path, content, stored.packed(generator))


def shipped_generators() -> dict[str, GeneratorConfig]:
    """The configurations of the shipped generators, by name; `config.bytes` is the size on disk."""
    return {path.stem: read_config(path.with_suffix(".json")) for path in _shipped()}


def shipped_images(name: str = "mnist") -> tuple[np.ndarray, np.ndarray]:
    """The shipped held-out test images, float32 (item, channel, height, width) in [-1, 1], and their labels.

    shipped/README.md describes how they were chosen.

    :raises FileNotFoundError: for an unknown name.
    """
    path = SHIPPED / f"{name}_test.npz"
    if not path.is_file():
        names = ", ".join(p.stem.removesuffix("_test") for p in sorted(SHIPPED.glob("*_test.npz")))
        raise FileNotFoundError(f"no test images called {name!r} are shipped; shipped are: {names}")
    with np.load(path, allow_pickle=False) as content:
        images = from_bytes(content["images"], (-1.0, 1.0))
        return images if images.ndim == 4 else images[:, None], content["labels"]


def read_config(path: Path) -> GeneratorConfig:
    """Read and check the configuration in a JSON file; `bytes` is the size of the weights beside it."""
    config, weights = stored.read_json(path, GeneratorConfig), path.with_suffix(".safetensors")
    return replace(config, bytes=weights.stat().st_size if weights.is_file() else 0)


def _shipped() -> list[Path]:
    return [path for path in sorted(SHIPPED.glob("*.safetensors")) if not path.stem.endswith("-guide")]


def find_generator(name_or_path: str | Path) -> Path:
    """The file of weights of a shipped name, a path or a folder; for an entry point, `files_beside` it.

    :raises FileNotFoundError: if there is no such generator.
    :raises ValueError: for a path that is not a generator.
    """
    shipped = {p.stem: p for p in _shipped()}
    if name_or_path in shipped:  # before any file of that name: the result must not depend on the current folder
        return shipped[str(name_or_path)]
    if isinstance(name_or_path, str) and is_entry_point(name_or_path):
        return files_beside(name_or_path)
    fetch = isinstance(name_or_path, str) and name_or_path.startswith(hub_folders.SCHEME)
    path = hub_folders.fetched(str(name_or_path)) if fetch else Path(name_or_path)
    if path.suffix in EXECUTABLE or path.name.endswith((".safetensors", hub_folders.INDEX)):
        if path.is_file():
            return path
        raise FileNotFoundError(f"there is no file of weights at {path}")
    if (beside := stored.with_suffix(path, ".safetensors")).is_file():
        return beside
    if path.is_dir():
        return hub_folders.weights_in(path)
    if path.suffix == ".py":
        raise ValueError(f"{path} is code: name the function in it that makes the generator, as in {path}:make")
    if path.is_file():
        raise ValueError(
            f"{path} has an unknown suffix; weights are .safetensors, or, with --allow-pickle"
            f" (allow_pickle=True in Python), {', '.join(EXECUTABLE)}"
        )
    raise FileNotFoundError(
        f"no generator called {str(name_or_path)!r} and no such file: give a shipped name ({', '.join(shipped)}), a file"
        " (my-gan.safetensors), a folder or a function (my_net.py:make)"
    )


def _contexts(generator: nn.Module, config: GeneratorConfig) -> Mapping[str, Context]:
    """The contexts of the configuration, or the label of a conditional generator whose configuration predates contexts."""
    if isinstance(generator, Conditioned) and not config.contexts:
        return {"label": Classes(generator.num_classes)}
    return config.contexts


def _build(config: GeneratorConfig, path: Path) -> nn.Module:
    def made(generator: nn.Module) -> tuple[int, ...]:
        context = {name: each.points(1) for name, each in _contexts(generator, config).items()}
        return tuple(generator(torch.zeros(1, config.latent_dim), **context).shape[1:])

    hint = "; for others give --module my_net.py:make (module= in Python)"
    generator, shape = stored.build(config, ARCHITECTURES, made, path, hint)
    if shape != config.event_shape:
        raise ValueError(f"{path}: event_shape is {config.event_shape}, but the architecture makes {shape}")
    return generator
