"""The posterior of z given any part of x, as a conditional flow: q(z | seen part, mask).

The input of a network is the seen part of x and the weights of its pixels. Its outputs are a context c, a location m and a
scale s. The flow f is a chain of affine couplings whose networks take c, applied to standard normal e:

    z = m(c) + s(c) f(e; c),    log q(z | c) = log Normal(e; 0, 1) - log |det dz/de|.

Draws and density are exact, so that the flow is a start of annealing (`FlowGuide`), which importance weights correct.
Training by `Amortized` on pairs of a generator is neural posterior estimation, with the mask as an input.

References:
    Papamakarios, Murray. Fast epsilon-free inference of simulation models with Bayesian conditional density estimation. NeurIPS
        2016 (section 2: the posterior learned from simulated pairs).
    Dinh, Sohl-Dickstein, Bengio. Density estimation using Real NVP. ICLR 2017 (equations 4 to 8: couplings).
    Ivanov, Figurnov, Vetrov. Variational autoencoder with arbitrary conditioning. ICLR 2019 (section 4: one network for any
        mask).
Departures: between couplings the dimensions are split into two halves by a perfect shuffle, so that after log2(latent_dim)
couplings every two dimensions have been in different halves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cogen.models.families.realnvp import AffineCoupling
from cogen.models.networks.encoders import LARGEST_LOG_SD, SMALLEST_LOG_SD


class MaskedFlow(nn.Module):
    """The conditional flow of the module's docstring; initially f(e; c) = e.

    :param features: the network from the seen part and its weights, (batch, 2 channel, height, width) or (batch, 2 column), to
        (batch, width).
    :param width: number of features.
    :param latent_dim: size of z, at least 2.
    :param context: size of c.
    :param couplings: number of couplings; below 2 log2(latent_dim) + 2 some dimensions do not depend on some others.
    :param hidden: widths of the hidden layers of every coupling's network.
    :raises ValueError: for ``latent_dim`` below 2, since a coupling needs two halves.
    """

    dealt: Tensor
    back: Tensor

    def __init__(
        self,
        features: nn.Module,
        width: int,
        latent_dim: int,
        context: int = 64,
        couplings: int = 8,
        hidden: Sequence[int] = (128, 128),
    ) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(
                f"latent_dim={latent_dim}: it must be at least 2, since a coupling scales one half of z by the other"
            )
        self.features, self.latent_dim = features, latent_dim
        self.sizes = [context, latent_dim, latent_dim]
        self.head = nn.Linear(width, sum(self.sizes))
        half = latent_dim // 2
        self.couplings = nn.ModuleList(AffineCoupling(half + context, latent_dim - half, hidden) for _ in range(couplings))
        evens, odds = torch.arange(0, latent_dim, 2), torch.arange(1, latent_dim, 2)
        dealt = torch.stack([torch.cat([evens, odds] if k % 2 == 0 else [odds, evens]) for k in range(couplings)])
        # Derived from the sizes, so they are not stored with the weights.
        self.register_buffer("dealt", dealt, persistent=False)
        self.register_buffer("back", dealt.argsort(1), persistent=False)

    @property
    def context_dim(self) -> int:
        """The size of a context: c, m and log s."""
        return sum(self.sizes)

    def context(self, x: Tensor, weight: Tensor) -> Tensor:
        """The seen part of x and its weights (batch, *event_shape), from `cogen.models.views.View.shown`, -> (batch,
        context_dim)."""
        return self.head(self.features(torch.cat([x, weight], dim=1)))

    def forward(self, e: Tensor, context: Tensor) -> Tensor:
        """e (batch, latent_dim), context (batch, context_dim) -> z (batch, latent_dim)."""
        c, location, log_scale = self._parts(context)
        for k, coupling in enumerate(self.couplings):
            given, changed = e[:, self.dealt[k]].tensor_split([self.latent_dim // 2], dim=1)
            e = torch.cat([given, coupling(torch.cat([given, c], dim=1), changed)], dim=1)
        return location + log_scale.exp() * e

    def log_density(self, z: Tensor, context: Tensor) -> Tensor:
        """log q(z | context), (batch,)."""
        c, location, log_scale = self._parts(context)
        e = (z - location) * (-log_scale).exp()
        log_det = -log_scale.sum(1)
        for k, coupling in reversed(list(enumerate(self.couplings))):
            given, changed = e.tensor_split([self.latent_dim // 2], dim=1)
            changed, change = coupling.inverse(torch.cat([given, c], dim=1), changed)  # type: ignore[operator]
            e = torch.cat([given, changed], dim=1)[:, self.back[k]]
            log_det = log_det + change
        return log_det - 0.5 * (e.square().sum(1) + self.latent_dim * math.log(2 * math.pi))

    def negative_log_posterior(self, z: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """-log q(z | seen part), (batch,)."""
        return -self.log_density(z, self.context(x, weight))

    def _parts(self, context: Tensor) -> tuple[Tensor, ...]:
        c, location, log_scale = context.split(self.sizes, dim=1)
        return c, location, log_scale.clamp(SMALLEST_LOG_SD, LARGEST_LOG_SD)
