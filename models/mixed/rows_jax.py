"""Rows of mixed columns as one NumPyro distribution, elementwise over columns; `rows_torch` is the Pyro version."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Categorical, Distribution, Normal, constraints

from cogen.models.data.column_parameters import NEVER, parameter_places
from cogen.models.data.tables import Schema


class MixedRows(Distribution):
    """Normal, Bernoulli and Categorical columns side by side, batch shape (..., column); levels are drawn as floats 0, 1, ...

    :param parameters: (..., parameter), in the order of `parameter_places`.
    :param scale: standard deviation of the continuous columns, a float or (..., continuous).
    """

    arg_constraints = {"parameters": constraints.real_vector, "scale": constraints.positive}  # noqa: RUF012 (NumPyro reads it so)
    support = constraints.real  # must contain 0, the value of missing entries, for every kind of column
    pytree_aux_fields = ("schema",)

    def __init__(self, parameters: Any, scale: Any, schema: Schema, *, validate_args: bool | None = None) -> None:
        self.parameters, self.scale, self.schema = parameters, scale, schema
        super().__init__((*jnp.shape(parameters)[:-1], len(schema.columns)), validate_args=validate_args)

    def log_prob(self, value: Any, intermediates: Any = None) -> jax.Array:
        value = jnp.asarray(value)
        return self._joined([part.log_prob(value[..., columns].astype(kind)) for columns, kind, part in self._parts()])

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        parts = self._parts()
        keys = jax.random.split(key, len(parts))
        drawn = [part.sample(k, sample_shape) for k, (_, _, part) in zip(keys, parts, strict=True)]
        return self._joined([values.astype(self.parameters.dtype) for values in drawn])

    def _joined(self, parts: list[Any]) -> jax.Array:
        """Values of both kinds of columns, in the order of the columns."""
        return jnp.concatenate(parts, axis=-1)[..., parameter_places(self.schema).order]

    def _parts(self) -> list[tuple[np.ndarray, Any, Any]]:
        """Indices, value type and distribution of the continuous columns (..., continuous) and the others (..., discrete)."""
        where, parts = parameter_places(self.schema), []
        if where.continuous.size:
            parts.append((where.continuous, self.parameters.dtype, Normal(self.parameters[..., where.means], self.scale)))
        if where.discrete.size:
            fixed = jnp.broadcast_to(jnp.array([0.0, NEVER], self.parameters.dtype), (*self.parameters.shape[:-1], 2))
            logits = jnp.concatenate([self.parameters, fixed], axis=-1)[..., where.logits]
            parts.append((where.discrete, jnp.int32, Categorical(logits=logits)))
        return parts
