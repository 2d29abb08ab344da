"""Tempering as an effect handler: any Pyro or NumPyro model at an inverse temperature.

    log pi_beta(z) = log p(z) + beta log p(y | z)

`temper` scales the log densities of the observed sites of a model, or of named observed sites, by beta. It works on models of
both libraries, like their own effect handlers, so a tempered model can be used with any of their kernels.

The scale is set while a message is processed, since in postprocessing an outer trace copies the message before an inner handler
can change it. A condition outside of the handler marks a site as observed only later in the processing; the handler therefore
checks the outer conditions in advance.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpyro
from numpyro import handlers
from numpyro.primitives import Messenger

from cogen.inference.signatures import Model

if TYPE_CHECKING:
    import jax
    import torch


def temper(model: Model, beta: float | jax.Array | torch.Tensor, *, sites: Sequence[str] | None = None) -> Model:
    """The model with its observed sites tempered.

    If a discrete latent k is enumerated, each term of its sum is tempered: sum_k p(k) p(y | k, z)^beta. (`AnnealedHMC`
    tempers the sum.)

    :param model: a Pyro or NumPyro model, conditioned before or after.
    :param beta: inverse temperature, a non-negative number or scalar array (of the model's library).
    :param sites: names of the observed sites to temper; default all. A ``factor`` site is an observed site. A Pyro model that
        is conditioned afterwards requires the names of its data: Pyro's own kernels condition latent sites in the same way.
    :raises ValueError: for a negative ``beta``, for ``sites`` given as one string, and, when the model runs, for a name that
        is not one of its sites and for a Pyro model that requires names.

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
        raise ValueError(f"beta={beta}: an inverse temperature must not be negative")
    if isinstance(sites, str):
        raise ValueError(f"sites={sites!r}: give a list of names")
    chosen = None if sites is None else frozenset(sites)

    def tempered(*args: object, **kwargs: object) -> object:
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
                " name those that are data, as in temper(model, beta, sites=[...]), or condition the model inside"
            )
        return result

    return tempered


class _NumPyroTemper(Messenger):
    def __init__(self, beta: float | jax.Array | torch.Tensor, chosen: frozenset[str] | None, met: set[str]) -> None:
        super().__init__(None)
        self.beta, self.chosen, self.met = beta, chosen, met

    def process_message(self, message: dict[str, Any]) -> None:
        if message["type"] != "sample":
            return
        self.met.add(message["name"])
        if (self.chosen is None or message["name"] in self.chosen) and self._observed(message):
            message["scale"] = self.beta if message.get("scale") is None else self.beta * message["scale"]

    def _observed(self, message: dict[str, Any]) -> bool:
        """Whether the site is observed, or will be by an outer condition that no block hides."""
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


def _pyro_messenger(beta: float | jax.Array | torch.Tensor, chosen: frozenset[str] | None, met: set[str]) -> Any:
    from pyro.poutine.block_messenger import BlockMessenger
    from pyro.poutine.condition_messenger import ConditionMessenger
    from pyro.poutine.messenger import Messenger as PyroMessenger
    from pyro.poutine.runtime import _PYRO_STACK
    from pyro.poutine.util import site_is_subsample

    class PyroTemper(PyroMessenger):
        def __init__(self) -> None:
            super().__init__()
            self.outside: list[str] = []
            """Unnamed sites observed only by an outer condition, which are not tempered."""
            self.observed = chosen is not None
            """Whether the data are known."""

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
