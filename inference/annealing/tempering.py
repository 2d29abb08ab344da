"""Tempering as a handler: any Pyro or NumPyro model at an inverse temperature.

    log pi_beta(z) = log p(z) + beta log p(y | z)

`temper` scales the log densities of the observed sites of a model by beta, or of those that are named. It works on
models of either library, as their own effect handlers do, so a tempered model goes into any of their kernels.

The scale is set on a message's way in. On its way out the handlers speak from the outermost to the innermost, so a trace
outside has copied the message before a handler within can change it. A condition outside of the handler, though, makes a
site an observed one only later on the way in; so the conditions outside are asked what they are going to do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpyro
from numpyro import handlers
from numpyro.primitives import Messenger


def temper(model: Callable, beta: Any, *, sites: Sequence[str] | None = None) -> Callable:
    """The model with its observed sites tempered.

    :param model: a Pyro or NumPyro model, conditioned before or after.
    :param beta: inverse temperature, a non-negative number or scalar array (of the model's library).
    :param sites: names of the observed sites to temper; default all. A ``factor`` site is an observed site. A Pyro model that
        is conditioned afterwards needs the names of its data: Pyro's own kernels condition latent sites in the same way.

    Where a discrete latent k is enumerated, each term of its sum is tempered: sum_k p(k) p(y | k, z)^beta. (`AnnealedHMC`
    tempers the sum.)

    Raises ValueError for a negative number, for names that are given as one string, and, when the model runs, for a name
    that is none of its sites and for a Pyro model that needs names.

    >>> import jax, numpyro, numpyro.distributions as dist
    >>> from numpyro.infer.util import log_density
    >>> def model():
    ...     z = numpyro.sample("z", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(z, 1), obs=2.0)
    >>> density = [float(log_density(temper(model, beta), (), {}, {"z": 0.0})[0]) for beta in (0.0, 0.5, 1.0)]
    >>> [round(d - density[0], 3) for d in density]
    [0.0, -1.459, -2.919]
    """
    if isinstance(beta, int | float) and not beta >= 0:
        raise ValueError(f"beta={beta}: an inverse temperature is not negative")
    if isinstance(sites, str):
        raise ValueError(f"sites={sites!r}: give a list of names")
    chosen = None if sites is None else frozenset(sites)

    def tempered(*args: Any, **kwargs: Any) -> Any:
        met: set[str] = set()
        with ExitStack() as stack:
            stack.enter_context(_NumPyroTemper(beta, chosen, met))
            watch = stack.enter_context(_pyro_messenger(beta, chosen, met)) if "pyro" in sys.modules else None
            result = model(*args, **kwargs)
        if chosen is not None and not chosen <= met:
            raise ValueError(f"sites={sorted(chosen)}: the model has the sites {sorted(met)}")
        if watch is not None and watch.outside and not watch.observed:
            raise ValueError(
                f"the sites {watch.outside} are conditioned outside of temper, as Pyro's own kernels condition latent sites:"
                " say which of them are data, as in temper(model, beta, sites=[...]), or condition the model within"
            )
        return result

    return tempered


class _NumPyroTemper(Messenger):
    def __init__(self, beta: Any, chosen: frozenset[str] | None, met: set[str]) -> None:
        super().__init__(None)
        self.beta, self.chosen, self.met = beta, chosen, met

    def process_message(self, message: dict) -> None:
        if message["type"] != "sample":
            return
        self.met.add(message["name"])
        if (self.chosen is None or message["name"] in self.chosen) and self._observed(message):
            message["scale"] = self.beta if message.get("scale") is None else self.beta * message["scale"]

    def _observed(self, message: dict) -> bool:
        """Whether the site is observed, or is going to be by a condition between here and whoever blocks it."""
        if message["is_observed"]:
            return True
        stack = numpyro.primitives._PYRO_STACK
        for outer in reversed(stack[: stack.index(self)]):
            if isinstance(outer, handlers.block) and outer.hide_fn(message):
                return False
            if isinstance(outer, handlers.condition):
                found = outer.condition_fn(message) if outer.data is None else outer.data.get(message["name"])
                if found is not None:
                    return True
        return False


def _pyro_messenger(beta: Any, chosen: frozenset[str] | None, met: set[str]) -> Any:
    from pyro.poutine.block_messenger import BlockMessenger
    from pyro.poutine.condition_messenger import ConditionMessenger
    from pyro.poutine.messenger import Messenger as PyroMessenger
    from pyro.poutine.runtime import _PYRO_STACK
    from pyro.poutine.util import site_is_subsample

    class PyroTemper(PyroMessenger):
        def __init__(self) -> None:
            super().__init__()
            self.outside: list[str] = []
            """Sites that only a condition outside observes, and that were not named: left as they are."""
            self.observed = chosen is not None
            """Whether it is known what the data are."""

        def _pyro_sample(self, msg: Any) -> None:
            if site_is_subsample(msg):
                return
            name, within = msg["name"], msg["is_observed"]
            met.add(name)
            self.observed |= within and not msg["infer"].get("_deterministic", False)
            if chosen is not None and name not in chosen:
                return
            if not within and not self._conditioned(msg):
                return
            if within or chosen is not None:
                msg["scale"] = beta * msg["scale"]
            else:
                self.outside.append(name)

        def _conditioned(self, msg: Any) -> bool:
            for outer in reversed(_PYRO_STACK[: _PYRO_STACK.index(self)]):
                if isinstance(outer, BlockMessenger) and outer.hide_fn(msg):
                    return False
                if isinstance(outer, ConditionMessenger) and msg["name"] in outer.data:
                    return True
            return False

    return PyroTemper()
