"""The posterior of a `MaskedFlow` as a NumPyro distribution; `flow_posterior_torch` is the Pyro version."""

from __future__ import annotations

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


def flow_posterior(flow: MaskedFlow) -> type[dist.Distribution]:
    """The class of distributions q(z | context) over vectors z, with the parameter context (..., context_dim)."""
    contexts = {"context": (flow.context_dim,)}
    draw, log_density = (as_jax(part, (flow.latent_dim,), contexts) for part in (flow, _LogDensity(flow)))

    def rows(function: Any, values: jax.Array, context: jax.Array) -> jax.Array:
        shape = jnp.broadcast_shapes(values.shape[:-1], context.shape[:-1])
        flat = (jnp.broadcast_to(a, (*shape, a.shape[-1])).reshape(-1, a.shape[-1]) for a in (values, context))
        outputs = function(next(flat), context=next(flat))
        return outputs.reshape(*shape, *outputs.shape[1:])

    class FlowPosterior(dist.Distribution):
        arg_constraints = {"context": constraints.real_vector}  # noqa: RUF012 (NumPyro reads it so)
        support = constraints.real_vector
        pytree_data_fields = ("context",)

        def __init__(self, context: jax.Array, *, validate_args: bool | None = None) -> None:
            self.context = jnp.asarray(context)
            super().__init__(self.context.shape[:-1], (flow.latent_dim,), validate_args=validate_args)

        def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
            e = jax.random.normal(key, (*sample_shape, *self.batch_shape, flow.latent_dim), self.context.dtype)
            return rows(draw, e, self.context)

        def log_prob(self, value: jax.Array) -> jax.Array:
            return rows(log_density, value, self.context)

    return FlowPosterior
