"""The posterior of a `MaskedFlow` for a conditioned model, as a guide of its items and a start of annealing."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from cogen.models.frozen import evaluation, frozen
from cogen.models.networks.encoders import seen_view

if TYPE_CHECKING:
    from cogen.inference import GuideStart, PyroGuideStart
    from cogen.inference.annealing.guide_start import Affine
    from cogen.models.cogenerator import CoGenerator
    from cogen.models.networks.flow_posterior_torch import FlowPosterior
    from cogen.models.networks.masked_flow import MaskedFlow

COORDINATE_DRAWS = 1_024
"""Number of draws from the flow that estimate an item's mean and covariance."""

LEAST_SHARE = 1e-4
"""Fraction of the mean variance that is added in every direction, since a guide can be overconfident."""


class FlowGuide:
    """A guide of the items of a conditioned `CoGenerator`.

    Called with the model's arguments it is the Pyro guide; `numpyro` is the NumPyro guide.

    :param flow: a flow trained by `Amortized` on the model's generator and views of the same kind.
    :param seen: the conditioned model, with one conditioned view, `Identity`, `Mask` or `Thumbnail`, and no contexts.
    :raises ValueError: for a flow that does not fit the model, or a view without an image in the shape of x.
    """

    def __init__(self, flow: MaskedFlow, seen: CoGenerator) -> None:
        if seen.contexts:
            raise ValueError(f"a flow is a guide of z alone, but the model has the contexts {list(seen.contexts)}")
        name, entry = seen_view(seen)
        value = torch.as_tensor(entry["value"], dtype=torch.float32)
        mask = torch.as_tensor(entry["mask"]) if "mask" in entry else None
        try:
            shown, weight = seen.views[name].shown(value, mask)
        except ValueError as error:
            raise ValueError(f"view {name!r} cannot be the input of a flow: {error}") from None
        if tuple(shown.shape[1:]) != tuple(seen.event_shape):
            raise ValueError(f"view {name!r} has shape {tuple(shown.shape[1:])}, but x has shape {seen.event_shape}")
        if flow.latent_dim != seen.latent_dim:
            raise ValueError(f"the flow has {flow.latent_dim} latents, but the model has {seen.latent_dim}")
        self.flow = frozen(flow)
        with torch.no_grad(), evaluation(self.flow):
            self.context = self.flow.context(shown, weight)
        """The flow's context of each item, (item, context_dim)."""

    def posterior(self) -> FlowPosterior:
        """q(z | seen) as a Pyro distribution of batch shape (item,)."""
        from cogen.models.networks.flow_posterior_torch import FlowPosterior

        return FlowPosterior(self.flow, self.context)

    def __call__(self, *args: object, **kwargs: object) -> None:
        import pyro

        with pyro.plate("item", len(self.context), dim=-1):
            pyro.sample("z", self.posterior())

    def numpyro(self, *args: object, **kwargs: object) -> None:
        import numpyro

        with numpyro.plate("item", len(self.context), dim=-1):
            numpyro.sample("z", self._in_jax()(context=self.context.numpy()))

    def start(self, prior_share: float = 0.1, *, affine: bool = True) -> GuideStart:
        """The start q0 = (1 - prior_share) q(z | seen) + prior_share prior of each item, for ``AnnealedHMC(initial=...)``.

        With ``affine`` the chains of an item run in coordinates in which q(z | seen) has mean zero and unit covariance.
        """
        from cogen.inference import GuideStart

        return GuideStart(
            self._in_jax(),
            {"context": self.context.numpy()},
            prior_share=prior_share,
            per_item=True,
            affine=self._coordinates() if affine else None,
        )

    def pyro_start(self, prior_share: float = 0.1) -> PyroGuideStart:
        """`start` for ``PyroAnnealedHMC(initial=...)``."""
        from cogen.inference.torch.guide_start import PyroGuideStart

        return PyroGuideStart(self.posterior(), prior_share=prior_share)

    def _coordinates(self) -> Affine:
        """Mean and Cholesky factor of the covariance of each item, from draws."""
        from cogen.inference.annealing.guide_start import Affine

        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            z = self.posterior().sample(torch.Size([COORDINATE_DRAWS]))
        center = z.mean(0)
        deviation = (z - center).double()
        covariance = torch.einsum("kia,kib->iab", deviation, deviation) / len(z)
        least = LEAST_SHARE * covariance.diagonal(dim1=1, dim2=2).mean(1)
        covariance += least[:, None, None] * torch.eye(covariance.shape[-1])
        return Affine(center.numpy(), torch.linalg.cholesky(covariance).float().numpy())

    def _in_jax(self) -> functools.partial[Any]:
        """q(z | context) as a function of the context to a NumPyro distribution."""
        from cogen.models.networks.flow_posterior_jax import FlowInJax, FlowPosterior

        return functools.partial(FlowPosterior, FlowInJax(self.flow))
