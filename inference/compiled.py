"""A cache of compiled executables: the same program on other data, or with another seed, is compiled once per process.

JAX caches executables by function object, and every run creates new functions. The lowered text contains everything that
determines an executable: the program with its constants (a generator's weights) and the shapes of its arguments. It is the
cache key here.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import jax

KEPT = 8
"""The maximum number of cached executables; the least recently used one is evicted."""

_executables: OrderedDict[str, Any] = OrderedDict()


def compiled(lowered: Any, options: dict[str, Any] | None = None) -> Any:
    """The executable of a lowered function (`jax.stages.Lowered`), with these compiler options."""
    text = lowered.as_text()
    if "callback" in text or getattr(jax.config, "jax_use_simplified_jaxpr_constants", False):
        return lowered.compile(options)  # the text does not contain the callback or the constants
    identity = "\0".join((text, str(lowered.in_tree), str(lowered.out_tree), repr(options), str(jax.devices())))
    key = hashlib.sha256(identity.encode()).hexdigest()
    if key not in _executables:
        _executables[key] = lowered.compile(options)
        if len(_executables) > KEPT:
            _executables.popitem(last=False)
    _executables.move_to_end(key)
    return _executables[key]
