"""The posterior of a `MaskedFlow` as a Pyro distribution; `flow_posterior_jax` is the NumPyro version."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from cogen.models.networks.masked_flow import MaskedFlow


class FlowPosterior(TorchDistribution):
    """q(z | context) over vectors z.

    :param flow: a frozen flow.
    :param context: (item, context_dim), as returned by `MaskedFlow.context`; the batch shape is (item,).
    """

    arg_constraints = {"context": constraints.real_vector}  # noqa: RUF012 (torch reads it so)
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, flow: MaskedFlow, context: Tensor, validate_args: bool | None = None) -> None:
        self.flow, self.context = flow, context
        super().__init__(context.shape[:-1], torch.Size([flow.latent_dim]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowPosterior:
        context = self.context.expand(*batch_shape, self.context.shape[-1])
        return FlowPosterior(self.flow, context, self._validate_args)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own signature)
        shape = torch.Size(sample_shape) + self.batch_shape
        e = torch.randn(*shape, self.flow.latent_dim, dtype=self.context.dtype, device=self.context.device)
        return self.flow(e.flatten(0, -2), self._contexts(shape)).reshape(e.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        z = value.expand(*shape, value.shape[-1]).reshape(-1, value.shape[-1])
        return self.flow.log_density(z, self._contexts(shape)).reshape(shape)

    def _contexts(self, shape: torch.Size) -> Tensor:
        return self.context.expand(*shape, self.context.shape[-1]).reshape(-1, self.context.shape[-1])
