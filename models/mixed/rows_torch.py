"""Rows of mixed columns as one Pyro distribution, elementwise over columns; `rows_jax` is the NumPyro version."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical, Normal, constraints

from cogen.models.data.column_parameters import NEVER, parameter_places
from cogen.models.data.tables import Schema


class MixedRows(TorchDistribution):
    """Normal, Bernoulli and Categorical columns side by side, batch shape (..., column); levels are drawn as floats 0, 1, ...

    :param parameters: (..., parameter), in the order of `parameter_places`.
    :param scale: standard deviation of the continuous columns, a float or (..., continuous).
    """

    arg_constraints = {"parameters": constraints.real_vector}  # noqa: RUF012 (torch reads it so)
    support = constraints.real  # must contain 0, the value of missing entries, for every kind of column
    has_rsample = False

    def __init__(self, parameters: Tensor, scale: Any, schema: Schema, validate_args: bool | None = None) -> None:
        self.parameters, self.scale, self.schema = parameters, scale, schema
        super().__init__(torch.Size([*parameters.shape[:-1], len(schema.columns)]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MixedRows:
        parameters = self.parameters.expand(*batch_shape[:-1], -1)
        return MixedRows(parameters, self.scale, self.schema, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self._joined([part.log_prob(value[..., columns]) for columns, part in self._parts()])

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own signature)
        with torch.no_grad():
            return self._joined([part.sample(sample_shape).to(self.parameters.dtype) for _, part in self._parts()])

    def _joined(self, parts: list[Tensor]) -> Tensor:
        """Values of both kinds of columns, in the order of the columns."""
        return torch.cat(parts, dim=-1)[..., parameter_places(self.schema).order]

    def _parts(self) -> list[tuple[np.ndarray, Normal | Categorical]]:
        """Indices and distribution of the continuous columns (..., continuous) and the others (..., discrete)."""
        where, check = parameter_places(self.schema), self._validate_args
        parts: list[tuple[np.ndarray, Normal | Categorical]] = []
        if where.continuous.size:
            parts.append((where.continuous, Normal(self.parameters[..., where.means], self.scale, validate_args=check)))
        if where.discrete.size:
            fixed = self.parameters.new_tensor([0.0, NEVER]).expand(*self.parameters.shape[:-1], 2)
            logits = torch.cat([self.parameters, fixed], dim=-1)[..., where.logits]
            parts.append((where.discrete, Categorical(logits=logits, validate_args=check)))
        return parts
