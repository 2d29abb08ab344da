"""The complete state of a training in one safetensors file, which is replaced atomically.

Tensors (weights, averaged weights, the optimisers' moments, the history of losses) are the file's tensors; counters and the
identity of the run are JSON in its header. A file is therefore complete or absent, cannot run code, and can be read by any
safetensors reader.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cogen.inference.whole_files import write_whole

FILE = "training.safetensors"


OPTIONS = {
    "batch_size": "--batch",
    "seed": "--seed",
    "average": "--average",
    "precision": "--precision",
    "devices": "--devices",
    "data": "--data",
}
"""Options of `cogen train` by the settings of a run."""


class TrainingCheckpoint:
    """The state of one run in a folder.

    :raises ValueError: if ``folder`` is a file.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        family: nn.Module,
        averaged: nn.Module | None,
        optimizers: Mapping[str, Any],
    ) -> None:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"checkpoint {folder} is a file; give a folder")
        self.path = folder / FILE
        self._identity = json.loads(json.dumps(dict(identity)))
        self._modules = {"family": family} | ({"average": averaged} if averaged is not None else {})
        self._optimizers = optimizers
        self._saved: int | None = None

    def last(self) -> str:
        """A sentence about the last good checkpoint, for error messages."""
        if not self._saved:
            return "no checkpoint was written yet"
        return f"the last good checkpoint (step {self._saved}) is {self.path}; use another folder with other settings"

    def restore(self) -> tuple[int, float, dict[str, np.ndarray]]:
        """Load the state.

        :returns: the number of steps, their seconds and their losses; (0, 0.0, {}) without a checkpoint.
        :raises ValueError: for a damaged file, or a file of another run, naming the difference.
        """
        if not self.path.exists():
            return 0, 0.0, {}
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                header = json.loads(file.metadata()["training"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"checkpoint {self.path} is damaged ({error}); remove it to begin again") from None
        for name, value in self._identity.items():
            if (stored := header["identity"].get(name)) != value:
                shown = f"{name} ({OPTIONS[name]})" if name in OPTIONS else name
                raise ValueError(
                    f"checkpoint {self.path} is of another run: {shown} was {stored!r} there and is {value!r} here; give"
                    " another folder, or remove this file"
                )
        for name, module in self._modules.items():
            module.load_state_dict(_part(tensors, name))
        for name, optimizer in self._optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in _part(tensors, f"optimizer {name}").items():
                index, _, what = key.partition(".")
                state.setdefault(int(index), {})[what] = value
            optimizer.load_state_dict({"state": state, "param_groups": header["param_groups"][name]})
            _lay_out(optimizer)
        self._saved = int(header["step"])
        return self._saved, float(header["seconds"]), {name: value.numpy() for name, value in _part(tensors, "loss").items()}

    def save(self, step: int, seconds: float, losses: Mapping[str, np.ndarray]) -> None:
        """Write the state. After an error the previous file is unchanged.

        :raises OSError: if the file cannot be written.
        :raises FloatingPointError: for non-finite weights.
        """
        from safetensors.torch import save

        for name, value in self._modules["family"].named_parameters():
            if not torch.isfinite(value).all():
                raise FloatingPointError(f"{name} is non-finite after step {step}: the training has diverged; {self.last()}")
        tensors: dict[str, Tensor] = {}
        for name, module in self._modules.items():
            tensors |= {f"{name}:{key}": value for key, value in module.state_dict().items()}
        groups = {}
        for name, optimizer in self._optimizers.items():
            stored = optimizer.state_dict()
            groups[name] = stored["param_groups"]
            for index, values in stored["state"].items():
                tensors |= {f"optimizer {name}:{index}.{what}": torch.as_tensor(value) for what, value in values.items()}
        tensors |= {f"loss:{name}": torch.from_numpy(values) for name, values in losses.items()}
        header = {"identity": self._identity, "step": step, "seconds": seconds, "param_groups": groups}
        content = save(
            {key: value.detach().cpu().contiguous() for key, value in tensors.items()}, {"training": json.dumps(header)}
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_whole(self.path, content)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}; {self.last()}", str(self.path)) from None
        self._saved = step


def describe(family: nn.Module) -> dict[str, str]:
    """The identity of a family: its settings by name, and hashes of its networks and of its fixed parameters and buffers.

    :raises ValueError: for a setting whose ``repr`` does not identify it.
    """
    settings = {name: repr(value) for name, value in vars(family).items() if not name.startswith("_") and name != "training"}
    for name, value in settings.items():
        if " at 0x" in value:
            raise ValueError(f"a checkpoint cannot identify {name}={value}: make it a dataclass, or define its __repr__")
    stored = family.state_dict()
    shapes = {key: list(value.shape) for key, value in stored.items()}
    fixed = [p for p in family.parameters() if not p.requires_grad] + [b for n, b in family.named_buffers() if n not in stored]
    networks = hashlib.sha256(json.dumps([type(family).__name__, repr(family), shapes], sort_keys=True).encode())
    return {**settings, "networks": networks.hexdigest()[:16], "what is not trained": digest(*fixed)}


def digest(*tensors: Tensor) -> str:
    """A hash of the shapes, types and values of tensors."""
    content = hashlib.sha256()
    for tensor in tensors:
        content.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        if tensor.numel():
            content.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()[:16]


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Convert moments to the memory format of their weights, which files do not store and fused Adam requires."""
    for parameter, state in optimizer.state.items():
        for what, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim > 1:
                state[what] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}:"): value for key, value in tensors.items() if key.startswith(f"{name}:")}
