"""Storage of the classifiers used for sample quality scores (`cogen.diagnostics.sample_quality`).

A score is defined only for an exact network. A classifier is therefore stored as NAME.safetensors and NAME.json
(`ClassifierConfig`) with the SHA-256 of the weights, and other weights are rejected. Neither file can run code. The shipped
ones are in shipped/classifiers, made by `examples/train_classifier.py`.
"""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from cogen.models.networks.architectures import ConvolutionalCritic
from cogen.models.networks.residual_classifier import ResidualClassifier
from cogen.models.storage import stored
from cogen.models.storage.generators import SHIPPED

Classifier = ConvolutionalCritic | ResidualClassifier

CLASSIFIERS: dict[str, type[Classifier]] = {
    "ConvolutionalCritic": ConvolutionalCritic,
    "ResidualClassifier": ResidualClassifier,
}
"""The architectures that a configuration may name."""


@dataclass(frozen=True)
class ClassifierConfig:
    """The configuration of a classifier, the content of its JSON file.

    :param architecture: a key of `CLASSIFIERS`.
    :param arguments: keyword arguments of the architecture.
    :param event_shape: shape of one image, (channel, height, width).
    :param value_range: least and greatest value of a pixel in training.
    :param classes: number of classes, in the order of the training labels.
    :param name: for display, with every score.
    :param training_data: the training set.
    :param licence: licence of the weights.
    :param description: one line.
    :param figures: measurements from training.
    :param sha256: SHA-256 of the file of weights, hexadecimal; set by `save_classifier`.
    """

    architecture: str
    arguments: Mapping[str, Any]
    event_shape: tuple[int, ...]
    value_range: tuple[float, float]
    classes: int
    name: str
    training_data: str = ""
    licence: str = ""
    description: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def __post_init__(self) -> None:
        stored.check_config(self)
        stored.check(self, stored.is_count(self.classes), "classes", "a positive integer")


def load_classifier(name_or_path: str | Path) -> Classifier:
    """Load a frozen classifier in evaluation mode, with its configuration as `.config` and its name as `.name`.

    `network(x)`, with x (item, *event_shape) within `config.value_range`, returns logits (item, class), and
    `network.features(x)` the features (item, width) before the last layer.

    :param name_or_path: a shipped name as a string (it takes precedence over a file of that name), or the path of a
        .safetensors file, with or without the suffix, with its JSON file beside it.
    :raises FileNotFoundError: if there is no such classifier.
    :raises ValueError: for invalid files, and weights whose SHA-256 differs from the configuration.
    """
    shipped = {path.stem: path for path in sorted((SHIPPED / "classifiers").glob("*.safetensors"))}
    path = stored.with_suffix(Path(name_or_path), ".safetensors")
    if isinstance(name_or_path, str) and name_or_path in shipped:
        path = shipped[name_or_path]
    if not path.is_file():
        known = ", ".join(shipped)
        raise FileNotFoundError(f"no classifier called {str(name_or_path)!r} and no such file; shipped are: {known}")
    config_path = path.with_suffix(".json")
    config = stored.read_json(config_path, ClassifierConfig)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != config.sha256:
        raise ValueError(
            f"{path} has the SHA-256 {found[:12]}..., but {config_path.name} has {config.sha256[:12] or 'none'}...: these "
            "are not the original weights; download both files again"
        )

    def made(network: nn.Module) -> tuple[int, ...]:
        return tuple(network(torch.zeros(2, *config.event_shape)).shape)

    network = stored.load(path, config, CLASSIFIERS, made, "classes")
    network.name = config.name  # type: ignore[assignment]
    return cast(Classifier, network)


def save_classifier(path: str | Path, network: Classifier, config: ClassifierConfig, *, half: bool = False) -> Path:
    """Write PATH.safetensors and PATH.json, with its `sha256` set; each is written atomically. Returns the path of the weights.

    :param half: store the weights in half precision; they are loaded in single precision.
    """
    weights = stored.packed(copy.deepcopy(network).half() if half else network)
    return stored.write_pair(path, asdict(replace(config, sha256=hashlib.sha256(weights).hexdigest())), weights)
