"""Generators on disk: safe weights beside a readable configuration, and the ones that ship with the package.

A generator is two files, NAME.safetensors (weights, nothing else) and NAME.json (`GeneratorConfig`: which architecture
to build and what it makes), and neither can run code (`cogen.models.storage.stored`). Pickles (.pt, .pth) and exported programs
(.pt2, torch.export) can: `torch.load` and `torch.export.load` execute what a crafted file tells them to, so they are
refused unless `allow_pickle=True`.

Generators that somebody else trained come without such a configuration: as code (``my_net.py:make``,
`cogen.models.storage.entry_points`), as a checkpoint (`cogen.models.storage.checkpoints`) or as a folder of the Hugging Face
hub (`cogen.models.storage.hub_folders`). What the JSON file would say is then read off the network
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


@dataclass(frozen=True)
class Source:
    """What was read of a generator before it is put together.

    :param name: as it was given.
    :param path: of the weights; of an entry point, `files_beside` it.
    :param network: with its weights, or still without them; None where nothing says which it is.
    :param tensors: the weights by their names in the file; None where they are in the network.
    :param config: what its JSON file says, if it has one.
    :param settings: the content of a config.json of the hub.
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
    """A frozen generator in evaluation mode, with its configuration as `.config`, and as `.notes` what was found out or decided
    on the way, in words: (str, ...).

    :param name_or_path: one of

        * a shipped name as a string (see `shipped_generators`; it wins over a file of that name);
        * the path of a .safetensors file (with or without the suffix), of which a JSON file beside it says what it is;
        * a folder with ``config.json`` and ``model.safetensors`` or ``diffusion_pytorch_model.safetensors``, whole or in
          shards, or ``hf://user/repository``, which the package huggingface_hub fetches;
        * an entry point as a string, ``"my_package.nets:make"`` or ``"my_net.py:make"``: a function or class without
          arguments that returns a torch module with its weights. Its code is run.
    :param module: a module of your own, or the entry point of one, for the weights to go into. It keeps its mode and stays
        trainable: what comes back is a frozen copy. The JSON file may then be absent. The weights may lie under a prefix
        ("module.", "generator.", "g_ema."); averaged weights are preferred.
    :param allow_pickle: also read .pt, .pth, .ckpt and .bin (a pickled checkpoint or module, a scripted module) and .pt2 (an
        exported program, which stays in the mode it was exported in, and takes other batch sizes only if exported with a
        dynamic one). These run code from the file: allow it for files you trust as you trust a program.
    :param label: the class, of a conditional generator: what comes back is the generator of this class, without a context.
        Without it, the generator takes the context ``label``, as its configuration says, and `CoGenerator` reads that.
    :param latent_dim: size of z, of a generator without a JSON file, where it cannot be read off the module.

    Without a JSON file the configuration is the module's own `.config`, if that is a `GeneratorConfig`, or is read off the
    module (`cogen.models.storage.inferred_config`); one that takes z as (batch, d, 1, 1) or returns one tensor among
    other things is wrapped, and weights that are not float32 are converted.

    Raises FileNotFoundError when there is no such generator, and ValueError, naming the file, for whatever is wrong
    with it, or for a ``latent_dim`` that contradicts its configuration.
    """
    return assembled(read_source(name_or_path, module, allow_pickle), label, latent_dim)


def assembled(source: Source, label: int | None = None, latent_dim: int | None = None) -> nn.Module:
    """The generator of what was read, frozen, with its configuration. Arguments and errors of `load_generator`."""
    path, generator, config, notes = source.path, source.network, source.config, list[str]()
    if generator is None:
        raise FileNotFoundError(
            f"{path.with_suffix('.json')} is missing: it says which architecture the weights belong to; or give --module"
            " my_net.py:make (module= in Python), a function that makes the network"
        )
    if source.tensors is not None:
        weights, where = checkpoints.weights_of(generator, source.tensors, path)
        notes += [where] if where else []
        stored.fill(generator, weights, path)
    elif not any(True for _ in generator.parameters()):
        notes.append(f"{type(generator).__name__} has no parameters, so nothing in it was trained")
    elif is_entry_point(source.name):
        notes.append(f"the weights are as {source.name} returns them")
    generator = frozen(generator)  # of the caller's own module a copy
    if config is None and isinstance(getattr(generator, "config", None), GeneratorConfig):
        config = cast(GeneratorConfig, generator.config)
    if config is None:
        generator, fields, found = inferred(generator, latent_dim, source.settings)
        config = GeneratorConfig(**fields, name=source.name)
        notes += found
    if latent_dim not in (None, config.latent_dim):
        raise ValueError(
            f"--latent-dim {latent_dim} (latent_dim= in Python): the configuration of {source.name} says {config.latent_dim};"
            " leave it out"
        )
    if label is not None and not isinstance(generator, Conditioned):
        raise ValueError(f"{path}: label {label} was given, and this generator is not conditional on a class")
    if isinstance(generator, Conditioned) and label is not None:
        generator, config = generator.given(label), replace(config, contexts={})
    else:
        config = replace(config, contexts=_contexts(generator, config))
    generator.config = config  # type: ignore[assignment]
    generator.notes = tuple(notes)  # type: ignore[assignment]
    return generator


def read_source(name_or_path: str | Path, module: nn.Module | str | None = None, allow_pickle: bool = False) -> Source:
    """What lies under a name or a path, before any weights go into a network. Arguments and errors of `load_generator`."""
    if isinstance(name_or_path, str) and is_entry_point(name_or_path):
        if module is not None:
            raise ValueError(
                f"--module (module= in Python) is a network for weights in a file, and {name_or_path} makes one with its own"
            )
        return Source(name_or_path, files_beside(name_or_path), made_by(name_or_path))
    path = find_generator(name_or_path)
    if path.suffix in EXECUTABLE and not allow_pickle:
        raise ValueError(
            f"{path} can run code when it is read, so it is refused; convert it to safetensors, or give --allow-pickle"
            " (allow_pickle=True in Python) if you trust it"
        )
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
        content = checkpoints.read_executable(path)
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
    """The file of weights of a shipped name, of a path or of a folder; of an entry point the path beside which its guide would
    lie. Raises what `load_generator` does."""
    shipped = {p.stem: p for p in _shipped()}
    if name_or_path in shipped:  # before any file of that name: what runs must not depend on the folder one is in
        return shipped[str(name_or_path)]
    if isinstance(name_or_path, str) and is_entry_point(name_or_path):
        return files_beside(name_or_path)
    fetch = isinstance(name_or_path, str) and name_or_path.startswith(hub_folders.SCHEME)
    path = hub_folders.fetched(str(name_or_path)) if fetch else Path(name_or_path)
    if path.suffix in EXECUTABLE or path.name.endswith((".safetensors", hub_folders.INDEX)):
        if path.is_file():
            return path
        raise FileNotFoundError(f"no file of weights at {path}")
    if (beside := stored.with_suffix(path, ".safetensors")).is_file():
        return beside
    if path.is_dir():
        return hub_folders.weights_in(path)
    if path.suffix == ".py":
        raise ValueError(f"{path} is code: name the function in it that makes the generator, as in {path}:make")
    if path.is_file():
        raise ValueError(
            f"{path} has no suffix that says what it is; weights are .safetensors, or, with --allow-pickle"
            f" (allow_pickle=True in Python), {', '.join(EXECUTABLE)}"
        )
    raise FileNotFoundError(
        f"no generator called {str(name_or_path)!r} and no such file; shipped are: {', '.join(shipped)}; and there are files"
        " (my-gan.safetensors), folders and functions (my_net.py:make)"
    )


def _contexts(generator: nn.Module, config: GeneratorConfig) -> Mapping[str, Context]:
    """What the configuration says, or of a conditional generator that was stored before it could: its label."""
    if isinstance(generator, Conditioned) and not config.contexts:
        return {"label": Classes(generator.num_classes)}
    return config.contexts


def _build(config: GeneratorConfig, path: Path) -> nn.Module:
    def made(generator: nn.Module) -> tuple[int, ...]:
        context = {name: each.points(1) for name, each in _contexts(generator, config).items()}
        return tuple(generator(torch.zeros(1, config.latent_dim), **context).shape[1:])

    hint = "; others need --module my_net.py:make (module= in Python)"
    generator, shape = stored.build(config, ARCHITECTURES, made, path, hint)
    if shape != config.event_shape:
        raise ValueError(f"{path}: event_shape says {config.event_shape}, the architecture makes {shape}")
    return generator
