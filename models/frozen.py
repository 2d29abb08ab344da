"""Use of a network without changing the caller's: a frozen copy, or temporary evaluation mode."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def frozen(module: Module) -> Module:
    """A copy of a module in evaluation mode, without gradients of its weights; the module itself is not changed.

    Hooks and attributes such as ``config`` are copied too. An exported program (`torch.export`) has no modes: its copy computes
    what was exported.

    :raises ValueError: for a module that cannot be copied.
    """
    # Tensors kept as attributes by a forward (activations, the weight of torch.nn.utils.weight_norm) are part of a graph.
    attributes = [value for part in module.modules() for value in vars(part).values()]
    memo: dict[int, object] = {id(v): v.detach().clone() for v in attributes if isinstance(v, Tensor) and not v.is_leaf}
    try:
        with warnings.catch_warnings(), torch.no_grad():  # with gradients, a script's copy would be computed from its weights
            warnings.simplefilter("ignore", FutureWarning)  # torch's exported programs use deprecated parts of torch
            copied = copy.deepcopy(module, memo)
    except Exception as error:  # any error of an attribute: a lock, an open file, a tensor inside a list
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{type(module).__name__} cannot be copied ({reason}): inference uses a frozen copy of the network; remove the"
            " attribute that cannot be copied"
        ) from None
    if hasattr(module, "config") and not hasattr(copied, "config"):  # exported and scripted modules lose it
        copied.config = module.config
    try:
        copied.eval()
    except NotImplementedError:  # an exported program, or a module that holds one
        for part in copied.modules():
            part.training = False
    for parameter in copied.parameters():  # nn.Module.requires_grad_ rejects scripted modules
        parameter.requires_grad_(False)
    return copied


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode within a ``with`` block; the mode of each submodule is restored."""
    flags = {part: part.training for part in module.modules()}
    with suppress(NotImplementedError):  # an exported program has no modes
        module.eval()
    try:
        yield
    finally:
        for part, flag in flags.items():
            part.training = flag
