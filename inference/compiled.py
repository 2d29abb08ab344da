"""Executables that are compiled once a process: the same program on other data, or with another seed, is not compiled again.

JAX remembers what it compiled of a function, and every run makes new ones. What XLA is given says it all: the program with its
constants (a generator's weights), and the shapes of its arguments. So this text is what an executable is found by.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import jax

KEPT = 8
"""Executables in memory, at most; the least recently used goes."""

_executables: OrderedDict[str, Any] = OrderedDict()


def compiled(lowered: Any, options: dict[str, Any] | None = None) -> Any:
    """The executable of a lowered function (`jax.stages.Lowered`), with these options of the compiler."""
    text = lowered.as_text()
    if "callback" in text or getattr(jax.config, "jax_use_simplified_jaxpr_constants", False):
        return lowered.compile(options)  # such a text does not say what a callback or a constant is
    identity = "\0".join((text, str(lowered.in_tree), str(lowered.out_tree), repr(options), str(jax.devices())))
    key = hashlib.sha256(identity.encode()).hexdigest()
    if key not in _executables:
        _executables[key] = lowered.compile(options)
        if len(_executables) > KEPT:
            _executables.popitem(last=False)
    _executables.move_to_end(key)
    return _executables[key]
