"""What a `MaskedFlow` says of the latents of a conditioned model: a guide of its items, and the start of an annealing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cogen.models.frozen import evaluation, frozen
from cogen.models.networks.encoders import seen_view

if TYPE_CHECKING:
    from cogen.models.networks.masked_flow import MaskedFlow

COORDINATE_DRAWS = 1_024
"""Of a flow, from which an item's coordinates are made."""

LEAST_SHARE = 1e-4
"""Of the mean variance, in every direction: a guide can be surer than is right."""


class FlowGuide:
    """A guide of the items of a conditioned `CoGenerator`.

    :param flow: trained on pairs of the model's generator and views like its one, as `Amortized` does.
    :param seen: the conditioned model; it has one view that is conditioned, `Identity`, `Mask` or `Thumbnail`, and no contexts.

    Called with the model's arguments it is the Pyro guide; `numpyro` is the NumPyro one. Raises ValueError for a flow that does
    not fit the model, and for a view that has no picture in the shape of x.
    """

    def __init__(self, flow: MaskedFlow, seen: Any) -> None:
        if seen.contexts:
            raise ValueError(f"a flow guides z alone, and the model has the contexts {list(seen.contexts)}")
        name, entry = seen_view(seen)
        value = torch.as_tensor(entry["value"], dtype=torch.float32)
        mask = torch.as_tensor(entry["mask"]) if "mask" in entry else None
        try:
            shown, weight = seen.views[name].shown(value, mask)
        except ValueError as error:
            raise ValueError(f"view {name!r}: {error}, so that no flow looks at it") from None
        if tuple(shown.shape[1:]) != tuple(seen.event_shape):
            raise ValueError(f"view {name!r} shows {tuple(shown.shape[1:])} of an x of shape {seen.event_shape}")
        if flow.latent_dim != seen.latent_dim:
            raise ValueError(f"the flow gives {flow.latent_dim} latents, the model has {seen.latent_dim}")
        self.flow = frozen(flow)
        with torch.no_grad(), evaluation(self.flow):
            self.context = self.flow.context(shown, weight)
        """(item, context_dim): all that the flow knows of an item."""

    def posterior(self) -> Any:
        """q(z | what is seen) as a Pyro distribution, batch shape (item,)."""
        from cogen.models.networks.flow_posterior_torch import FlowPosterior

        return FlowPosterior(self.flow, self.context)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        import pyro

        with pyro.plate("item", len(self.context), dim=-1):
            pyro.sample("z", self.posterior())

    def numpyro(self, *args: Any, **kwargs: Any) -> None:
        import numpyro

        with numpyro.plate("item", len(self.context), dim=-1):
            numpyro.sample("z", self._posterior()(self.context.numpy()))

    def start(self, prior_share: float = 0.1, *, affine: bool = True) -> Any:
        """For ``AnnealedHMC(initial=...)``: q0 = (1 - prior_share) q(z | seen) + prior_share prior, item by item.

        With ``affine`` the chains of an item walk in the coordinates in which q(z | seen) has mean zero and unit covariance.
        """
        from cogen.inference import GuideStart

        return GuideStart(
            self._posterior(),
            {"context": self.context.numpy()},
            prior_share=prior_share,
            per_item=True,
            affine=self._coordinates() if affine else None,
        )

    def pyro_start(self, prior_share: float = 0.1) -> Any:
        """The same for ``PyroAnnealedHMC(initial=...)``."""
        from cogen.inference.torch.guide_start import PyroGuideStart

        return PyroGuideStart(self.posterior(), prior_share=prior_share)

    def _coordinates(self) -> Any:
        """Mean and Cholesky factor of the covariance of each item's draws."""
        from cogen.inference.annealing.guide_start import Affine

        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            z = self.posterior().sample(torch.Size([COORDINATE_DRAWS]))
        center = z.mean(0)
        apart = (z - center).double()
        covariance = torch.einsum("kia,kib->iab", apart, apart) / len(z)
        least = LEAST_SHARE * covariance.diagonal(dim1=1, dim2=2).mean(1)
        covariance += least[:, None, None] * torch.eye(covariance.shape[-1])
        return Affine(center.numpy(), torch.linalg.cholesky(covariance).float().numpy())

    def _posterior(self) -> Any:
        from cogen.models.networks.flow_posterior_jax import flow_posterior

        return flow_posterior(self.flow)
