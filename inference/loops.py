"""Detection of compiled loops and convolutions during tracing.

On the CPU XLA does not use its fast convolutions inside ``scan``, ``fori_loop`` and ``while_loop`` (measured: at least thirty
times slower). There are two remedies. In a loop of cogen, a density with convolutions is not looped over in compiled code:
the host dispatches one unrolled transition at a time (`has_convolutions` decides). In a library's loop (a NUTS tree), the
code that lowers the convolutions calls `in_compiled_loop` during tracing and writes them as matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

_in_loop: ContextVar[bool] = ContextVar("cogen_in_compiled_loop", default=False)


def in_compiled_loop() -> bool:
    """Whether the function being traced will run inside a compiled loop of a library."""
    return _in_loop.get()


@contextmanager
def compiled_loop() -> Iterator[None]:
    """Mark everything traced inside this context as running in a compiled loop."""
    token = _in_loop.set(True)
    try:
        yield
    finally:
        _in_loop.reset(token)


def has_convolutions(function: Callable[..., Any], *args: object) -> bool:
    """Whether the trace of ``function(*args)`` (arrays or shapes) contains a convolution, at any depth."""
    return _contains(jax.make_jaxpr(function)(*args).jaxpr, "conv_general_dilated")


def _contains(jaxpr: Jaxpr, primitive: str) -> bool:
    for equation in jaxpr.eqns:
        if equation.primitive.name == primitive:
            return True
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, tuple | list) else (parameter,):
                if isinstance(inner, ClosedJaxpr):
                    inner = inner.jaxpr
                if isinstance(inner, Jaxpr) and _contains(inner, primitive):
                    return True
    return False
