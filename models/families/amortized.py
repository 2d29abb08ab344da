"""The posterior of z given any part of x, learned from pairs that a frozen generator makes (neural posterior estimation):

    max  E_{view, z ~ p(z), y ~ p(y | G(z))}  log q(z | what the view shows of y).

The views are those that a model is conditioned on later, with their noise. One network serves them all, since it is told what
is seen: a view's `shown` is a picture in the shape of x, and the weight of its pixels.

References:
    Papamakarios, Murray. Fast epsilon-free inference of simulation models with Bayesian conditional density estimation. NeurIPS
        2016 (section 2.2: proposition 1).
    Ivanov, Figurnov, Vetrov. Variational autoencoder with arbitrary conditioning. ICLR 2019 (section 4: masks drawn at random).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from cogen.models.families.family import Batch, Family, Update, adam
from cogen.models.frozen import frozen
from cogen.models.networks.encoders import MaskedEncoder
from cogen.models.networks.masked_flow import MaskedFlow
from cogen.models.training.learning_rates import Falling
from cogen.models.training.trainer import Training, train
from cogen.models.views import View

LARGEST_GRADIENT = 20.0
"""Norm to which the gradient is cut: where a network is very sure, a pair that it gets wrong has one of any size."""


class Amortized(Family):
    """Trains a `MaskedEncoder` or a `MaskedFlow` on pairs of a frozen copy of a generator.

    :param views: what is seen and with which noise; every step takes as many pairs of each. A `Mask` with one mask per item
        is a stock, from which every pair gets one at random.
    :param learning_rate: of Adam.
    :param betas: Adam's.

    The x that the trainer hands in are not looked at: they say how many pairs a step makes. With labels in the batch generator
    and encoder take them too. Raises ValueError for no views, for an empty stock, and for a noise that is inferred.
    """

    encoder: MaskedEncoder | MaskedFlow

    def __init__(
        self,
        generator: nn.Module,
        encoder: MaskedEncoder | MaskedFlow,
        latent_dim: int,
        *,
        views: Sequence[View],
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        if not views:
            raise ValueError("views: an encoder learns from what is seen, and there is no view")
        for view in views:
            if view.mask is not None and len(view.mask) == 0:
                raise ValueError("views: there is no mask in a stock of masks")
            if isinstance(view.likelihood.scale, Distribution):
                raise ValueError(f"views: the noise of {type(view).__name__} is inferred; give it a number to learn from")
        self.generator, self.encoder, self.latent_dim = frozen(generator), encoder, latent_dim
        self.views = nn.ModuleList(views)
        for k, view in enumerate(views):  # where the networks are
            self.register_buffer(f"mask_{k}", view.mask, persistent=False)
        self.learning_rate, self.betas = learning_rate, betas

    def fit(self, num_steps: int, batch_size: int, **options: Any) -> Training:
        """`train` without data, since it makes its own pairs, ``batch_size`` a step; the learning rate falls to zero over the
        second half. ``options`` are those of `train`."""
        counts: dict[str, Any] = {"num_steps": num_steps, "batch_size": batch_size}
        return train(self, torch.zeros(100 * batch_size, 1), schedule=Falling(num_steps), **counts, **options)

    def train(self, mode: bool = True) -> Amortized:
        super().train(mode)
        self.generator.eval()
        return self

    def optimizers(self) -> dict[str, Any]:
        optimizer = adam(self.encoder, learning_rate=self.learning_rate, betas=self.betas)
        learning = list(self.encoder.parameters())
        optimizer.register_step_pre_hook(lambda *_: _cut(learning))
        return {"encoder": optimizer}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        with torch.no_grad():
            z = self.latent(len(batch[0]))
            x = self.generator(z, *batch[1:])
            pairs = [self._seen(k, made) for k, made in enumerate(x.tensor_split(len(self.views)))]
            shown, weight = map(torch.cat, zip(*pairs, strict=True))
        update("encoder", lambda: self.encoder.negative_log_posterior(z, shown, weight, *batch[1:]).mean())

    def _seen(self, k: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """What a view shows of each x, with noise, and the weight of that, (batch, *event_shape) each."""
        view: Any = self.views[k]
        mask = getattr(self, f"mask_{k}")
        y = view.likelihood.pyro(view(x), view.likelihood.scale).sample()
        if mask is not None:
            mask = mask[torch.randint(len(mask), (len(x),), device=x.device)] if mask.ndim == y.ndim else mask.expand(y.shape)
        return view.shown(y, mask)


def _cut(parameters: list[nn.Parameter]) -> None:
    nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
