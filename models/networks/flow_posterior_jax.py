"""The posterior of a `MaskedFlow` as a NumPyro distribution; `flow_posterior_torch` is the Pyro version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints
from torch import Tensor, nn

from cogen.models.jax_bridge.torch_to_jax import as_jax
from cogen.models.networks.masked_flow import MaskedFlow


class _LogDensity(nn.Module):
    def __init__(self, flow: MaskedFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        return self.flow.log_density(z, context)


class FlowInJax:
    """A flow and its log density as JAX functions, which are converted again after unpickling."""

    def __init__(self, flow: MaskedFlow) -> None:
        self.flow = flow
        self._functions: tuple[Callable[..., jax.Array], ...] | None = None

    def draw(self, e: jax.Array, context: jax.Array) -> jax.Array:
        """Draws of the flow from standard normal numbers e (..., latent_dim) and contexts (..., context_dim)."""
        return _of_rows(self._converted()[0], e, context)

    def log_density(self, z: jax.Array, context: jax.Array) -> jax.Array:
        """log q(z | context) of z (..., latent_dim) and contexts (..., context_dim)."""
        return _of_rows(self._converted()[1], z, context)

    def _converted(self) -> tuple[Callable[..., jax.Array], ...]:
        if self._functions is None:
            contexts = {"context": (self.flow.context_dim,)}
            parts = (self.flow, _LogDensity(self.flow))
            self._functions = tuple(as_jax(part, (self.flow.latent_dim,), contexts) for part in parts)
        return self._functions

    def __getstate__(self) -> dict[str, Any]:
        """The state without the compiled functions, which cannot be pickled."""
        return {**vars(self), "_functions": None}


def _of_rows(function: Callable[..., jax.Array], values: jax.Array, context: jax.Array) -> jax.Array:
    shape = jnp.broadcast_shapes(values.shape[:-1], context.shape[:-1])
    flat = (jnp.broadcast_to(a, (*shape, a.shape[-1])).reshape(-1, a.shape[-1]) for a in (values, context))
    outputs = function(next(flat), context=next(flat))
    return outputs.reshape(*shape, *outputs.shape[1:])


class FlowPosterior(dist.Distribution):
    """q(z | context) over vectors z, with the parameter context (..., context_dim)."""

    arg_constraints = {"context": constraints.real_vector}  # noqa: RUF012 (NumPyro reads it so)
    support = constraints.real_vector
    pytree_data_fields = ("context",)
    pytree_aux_fields = ("flow",)

    def __init__(self, flow: FlowInJax, context: jax.Array, *, validate_args: bool | None = None) -> None:
        self.flow, self.context = flow, jnp.asarray(context)
        super().__init__(self.context.shape[:-1], (flow.flow.latent_dim,), validate_args=validate_args)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        e = jax.random.normal(key, (*sample_shape, *self.batch_shape, *self.event_shape), self.context.dtype)
        return self.flow.draw(e, self.context)

    def log_prob(self, value: jax.Array) -> jax.Array:
        return self.flow.log_density(value, self.context)
