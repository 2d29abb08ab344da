"""Where a function is traced: inside a compiled loop or not.

On the CPU XLA loses its fast convolutions inside ``scan``, ``fori_loop`` and ``while_loop`` (measured: thirty times
slower and more). Two answers follow. Where the loop is ours, a density with convolutions is not looped over in compiled
code at all: the host dispatches one unrolled transition at a time (`has_convolutions` decides). Where the loop belongs to
a library (a NUTS tree), whoever lowers the convolutions asks `in_compiled_loop` while it is traced and writes them as
matrix products instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

_in_loop: ContextVar[bool] = ContextVar("cogen_in_compiled_loop", default=False)


def in_compiled_loop() -> bool:
    """Whether the function being traced will run inside a compiled loop that is not ours."""
    return _in_loop.get()


@contextmanager
def compiled_loop() -> Iterator[None]:
    """Everything traced inside this block runs in a compiled loop."""
    token = _in_loop.set(True)
    try:
        yield
    finally:
        _in_loop.reset(token)


def has_convolutions(function: Callable, *args: object) -> bool:
    """Whether tracing ``function(*args)`` (arrays or shapes) meets a convolution, at any depth."""
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
