"""The posterior of z given any part of x, learned from pairs that a frozen generator makes (neural posterior estimation):

    max  E_{view, z ~ p(z), y ~ p(y | G(z))}  log q(z | what the view shows of y).

The views are those that a model is conditioned on later, with their noise. One network serves all views, since the seen part is
an input: a view's `shown` is an image in the shape of x and the weights of its pixels.

References:
    Papamakarios, Murray. Fast epsilon-free inference of simulation models with Bayesian conditional density estimation. NeurIPS
        2016 (section 2.2: proposition 1).
    Ivanov, Figurnov, Vetrov. Variational autoencoder with arbitrary conditioning. ICLR 2019 (section 4: masks drawn at random).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Required, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.optim import Optimizer

from cogen.models.families.family import Batch, Family, Update, adam
from cogen.models.frozen import frozen
from cogen.models.networks.encoders import MaskedEncoder
from cogen.models.networks.masked_flow import MaskedFlow
from cogen.models.training.learning_rates import Falling
from cogen.models.training.trainer import Training, train
from cogen.models.views import View

LARGEST_GRADIENT = 20.0
"""Norm to which gradients are clipped: pairs that a confident network predicts badly have gradients of any size."""


class TrainingOptions(TypedDict, total=False):
    """The options of `train` that a caller of `Amortized.fit` may give; there are neither data nor a schedule to choose."""

    seed: Required[int]
    average: float
    checkpoint: str | Path | None
    save_every: int
    watch: Callable[[int, Family, Callable[[], nn.Module | None]], None] | None
    watch_every: int
    precision: Literal["32-true", "bf16-mixed"]
    accelerator: str
    devices: int
    graph: bool
    seconds: float
    prolong: bool
    progress: bool


class Amortized(Family):
    """Train a `MaskedEncoder` or a `MaskedFlow` on pairs that a frozen copy of a generator makes.

    The values of x in a batch are not used: only their number, the number of pairs of a step. Labels in the batch are inputs of
    both generator and encoder.

    :param views: views with their noise; every step makes equally many pairs of each. From a `Mask` with one mask per item,
        every pair gets one mask at random.
    :param learning_rate: learning rate of Adam.
    :param betas: betas of Adam.
    :raises ValueError: for no views, a view with zero masks, or an inferred noise scale.
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
            raise ValueError("views is empty: give at least one view to learn from")
        for view in views:
            if view.mask is not None and len(view.mask) == 0:
                raise ValueError("views: a view holds zero masks; give at least one")
            if isinstance(view.likelihood.scale, Distribution):
                raise ValueError(f"views: the noise scale of {type(view).__name__} is inferred; give a fixed scale")
        self.generator, self.encoder, self.latent_dim = frozen(generator), encoder, latent_dim
        self.views = nn.ModuleList(views)
        for k, view in enumerate(views):  # buffers move with the networks
            self.register_buffer(f"mask_{k}", view.mask, persistent=False)
        self.learning_rate, self.betas = learning_rate, betas

    def fit(self, num_steps: int, batch_size: int, **options: Unpack[TrainingOptions]) -> Training:
        """`train` on generated pairs, ``batch_size`` per step, without data.

        The learning rate falls to zero over the second half. ``options`` are those of `train`.
        """
        data, schedule = torch.zeros(100 * batch_size, 1), Falling(num_steps)
        return train(self, data, num_steps=num_steps, batch_size=batch_size, schedule=schedule, **options)

    def train(self, mode: bool = True) -> Amortized:
        super().train(mode)
        self.generator.eval()
        return self

    def optimizers(self) -> dict[str, Optimizer]:
        optimizer = adam(self.encoder, learning_rate=self.learning_rate, betas=self.betas)
        learning = list(self.encoder.parameters())
        optimizer.register_step_pre_hook(lambda *_: _clip(learning))
        return {"encoder": optimizer}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        with torch.no_grad():
            z = self.latent(len(batch[0]))
            x = self.generator(z, *batch[1:])
            pairs = [self._shown(k, made) for k, made in enumerate(x.tensor_split(len(self.views)))]
            shown, weight = map(torch.cat, zip(*pairs, strict=True))
        update("encoder", lambda: self.encoder.negative_log_posterior(z, shown, weight, *batch[1:]).mean())

    def _shown(self, k: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy observation of each x through view k, and its weights, (batch, *event_shape) each."""
        view: Any = self.views[k]
        mask = getattr(self, f"mask_{k}")
        y = view.likelihood.pyro(view(x), view.likelihood.scale).sample()
        if mask is not None:
            mask = mask[torch.randint(len(mask), (len(x),), device=x.device)] if mask.ndim == y.ndim else mask.expand(y.shape)
        return view.shown(y, mask)


def _clip(parameters: list[nn.Parameter]) -> None:
    nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
