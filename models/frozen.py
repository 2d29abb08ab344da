"""Networks as inference uses them, without a change to the caller's: a frozen copy, or evaluation mode for a while."""

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
    """A copy of a module as it is now, in evaluation mode and without gradients to its weights; the module stays as it is.

    Hooks, and attributes as ``config``, are copied too. An exported program (`torch.export`) has no modes: its copy computes
    what was exported. Raises ValueError for a module that cannot be copied.
    """
    # What a forward left behind (activations kept as attributes, the weight of torch.nn.utils.weight_norm) is part of a graph.
    attributes = [value for part in module.modules() for value in vars(part).values()]
    memo: dict[int, object] = {id(v): v.detach().clone() for v in attributes if isinstance(v, Tensor) and not v.is_leaf}
    try:
        with warnings.catch_warnings(), torch.no_grad():  # with gradients, a script's weights were computed from the caller's
            warnings.simplefilter("ignore", FutureWarning)  # torch's exported programs hold what torch has deprecated
            copied = copy.deepcopy(module, memo)
    except Exception as error:  # whatever an attribute raises: a lock, an open file, a tensor inside a list
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{type(module).__name__} cannot be copied ({reason}): a frozen copy is taken, so that the network itself is left"
            " alone; give a copy of your own, or remove the attribute that cannot be copied"
        ) from None
    if hasattr(module, "config") and not hasattr(copied, "config"):  # exported and scripted modules lose it
        copied.config = module.config
    try:
        copied.eval()
    except NotImplementedError:  # an exported program, or a module that holds one
        for part in copied.modules():
            part.training = False
    for parameter in copied.parameters():  # nn.Module.requires_grad_ refuses scripted modules
        parameter.requires_grad_(False)
    return copied


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode for a while; each of its parts gets back the mode that it had."""
    flags = {part: part.training for part in module.modules()}
    with suppress(NotImplementedError):  # an exported program has no modes
        module.eval()
    try:
        yield
    finally:
        for part, flag in flags.items():
            part.training = flag
