"""RealNVP: an invertible generator whose exact density is maximised in training.

x = f(z) with z ~ Normal(0, 1) of the size of x. The density follows by the change of variables:

    log p(x) = log Normal(f^-1(x); 0, 1) + log |det d f^-1(x) / dx|,        loss = -mean log p(x), in nats per event.

f is a chain of affine couplings. Each keeps one half of the dimensions and scales and shifts the other half by functions of the
first, which are the outputs of a network. A coupling is inverted in closed form and has a triangular Jacobian:

    y_a = x_a,    y_b = x_b exp(s(x_a)) + t(x_a),        log |det| = sum s(x_a).

The halves are the two colours of a checkerboard over the event (in a vector: even and odd entries) and swap roles at every
coupling. The latent is split once and the event reordered once, at the end: no permutations are needed between couplings.

Data in a range, such as images, are mapped by the logit of alpha + (1 - 2 alpha) u, with u in [0, 1] the position in the range;
the density includes its Jacobian. Discrete values (bytes) have no density until noise of the width of one level is added. This
dequantisation is part of the preparation of the data, `train(prepare=...)`.

`RealNVPGenerator` is conditioned through its latent, as any other generator; `RealNVP.distribution` is its density in Pyro.

References:
    Dinh, Sohl-Dickstein, Bengio. Density estimation using Real NVP. ICLR 2017 (equations 2 and 3: the change of variables;
        4 to 6: the coupling and its Jacobian; 8: its inverse; 9 and figure 3: the checkerboard; section 4.1: the logit with
        alpha = 0.05, and tanh times a learned factor for s).
Departures: f maps z to x, theirs x to z (so a coupling and its inverse are exchanged). The networks are multilayer perceptrons
with SiLU over the whole event, not residual convolutions; there is no multi-scale architecture with channel-wise masks. In
place of batch norm (section 3.7), with which one item's density depends on the others, the last layer has one learned scale and
shift for every dimension of the event, which `RealNVPGenerator.standardise` can set from data. The logit is finite at both ends
of the range (theirs, logit(alpha + (1 - alpha) u), is infinite at the upper one).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from torch.optim import Optimizer

from cogen.models.families.family import Batch, Family, Update, adam, x_alone
from cogen.models.families.recipe import Recipe
from cogen.models.families.sizes import Architecture, Sizes
from cogen.models.training.preparation import dequantised

if TYPE_CHECKING:
    from pyro.distributions import TransformedDistribution


class AffineCoupling(nn.Module):
    """Scale and shift one half by functions of the other (equations 4 and 5; the inverse: 8).

    A new coupling is the identity: the last layer of its network is zero.

    :param given: size of the half that is kept.
    :param changed: size of the other half.
    :param hidden: widths of the network's hidden layers.
    """

    def __init__(self, given: int, changed: int, hidden: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([given, *hidden]):
            layers += [nn.Linear(inputs, outputs), nn.SiLU()]
        last = nn.Linear(hidden[-1] if hidden else given, 2 * changed)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(*layers, last)
        self.factor = nn.Parameter(torch.ones(changed))

    def forward(self, given: Tensor, changed: Tensor) -> Tensor:
        """(batch, given), (batch, changed) -> (batch, changed)."""
        log_scale, shift = self._log_scale_and_shift(given)
        return changed * log_scale.exp() + shift

    def inverse(self, given: Tensor, changed: Tensor) -> tuple[Tensor, Tensor]:
        """The argument ``changed`` of `forward`, and log |det| of this inverse, (batch,)."""
        log_scale, shift = self._log_scale_and_shift(given)
        return (changed - shift) * (-log_scale).exp(), -log_scale.sum(1)

    def _log_scale_and_shift(self, given: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = self.network(given).chunk(2, dim=1)
        return self.factor * raw.tanh(), shift  # |s| <= |factor|


class RealNVPGenerator(nn.Module):
    """The generator x = f(z), its inverse and its density. Initially x = z, in the event's shape (and range).

    :param event_shape: shape of one output, images as (channel, height, width); its size is ``latent_dim``, the size of z.
    :param couplings: number of couplings, at least 2. Two change every dimension; with three every dimension depends on every
        other.
    :param hidden: widths of the hidden layers of every coupling's network.
    :param bounded: the data lie in ``value_range``; otherwise they are unbounded. Generated values can exceed the range by
        alpha / (1 - 2 alpha) of its width on either side (0.056 of it), where the density is small but not zero.
    :param value_range: minimum and maximum of bounded data.
    :param alpha: the argument of the logit lies in [alpha, 1 - alpha].
    :raises ValueError: for an event of a single dimension, which has no halves, or arguments out of range.
    """

    latent_order: Tensor
    event_order: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        couplings: int = 6,
        hidden: Sequence[int] = (64, 64),
        bounded: bool = False,
        value_range: tuple[float, float] = (-1.0, 1.0),
        alpha: float = 0.05,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.latent_dim = math.prod(self.event_shape)
        if not all(size >= 1 for size in self.event_shape) or self.latent_dim < 2:
            raise ValueError(
                f"event_shape {self.event_shape}: a coupling scales one half of an event by the other, so an event needs at"
                " least two dimensions; use a DenseGenerator, or add a column"
            )
        if couplings < 2:
            raise ValueError(f"couplings={couplings}: a coupling changes only one half; give at least 2, preferably 4 or more")
        if not all(width >= 1 for width in hidden):
            raise ValueError(f"hidden={tuple(hidden)}: the widths of hidden layers must be at least 1")
        if not -math.inf < value_range[0] < value_range[1] < math.inf:
            raise ValueError(f"value_range={tuple(value_range)}: give a finite minimum and maximum")
        if not 0 < alpha < 0.5:
            raise ValueError(f"alpha={alpha}: it must be in (0, 0.5), such as 0.05")
        self.bounded, self.value_range, self.alpha = bounded, (float(value_range[0]), float(value_range[1])), alpha

        colour = torch.stack(torch.meshgrid(*map(torch.arange, self.event_shape), indexing="ij")).sum(0).flatten() % 2
        black = int(colour.sum())
        self.halves = [self.latent_dim - black, black]
        # Derived from the shape, so they are not stored with the weights.
        self.register_buffer("latent_order", colour.argsort(stable=True), persistent=False)
        self.register_buffer("event_order", self.latent_order.argsort(), persistent=False)
        self.couplings = nn.ModuleList(
            AffineCoupling(self.halves[1 - k % 2], self.halves[k % 2], hidden) for k in range(couplings)
        )
        self.log_scale = nn.Parameter(torch.zeros(self.latent_dim))
        self.shift = nn.Parameter(torch.zeros(self.latent_dim))

    def forward(self, z: Tensor) -> Tensor:
        """z (batch, latent_dim) -> (batch, *event_shape)."""
        if z.shape[1:] != (self.latent_dim,):
            raise ValueError(
                f"z has shape {tuple(z.shape)}: give (batch, {self.latent_dim}), the size of an event of shape"
                f" {self.event_shape}"
            )
        halves = list(z.split(self.halves, dim=1))
        for k, coupling in enumerate(self.couplings):
            halves[k % 2] = coupling(halves[1 - k % 2], halves[k % 2])
        y = torch.cat(halves, dim=1)[:, self.event_order] * self.log_scale.exp() + self.shift
        if self.bounded:
            low, high = self.value_range
            y = low + (high - low) / (1 - 2 * self.alpha) * (y.sigmoid() - self.alpha)
        return y.reshape(-1, *self.event_shape)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (batch, *event_shape) -> z (batch, latent_dim), log |det dz/dx| (batch,).

        :raises ValueError: for another shape, or bounded data outside their range.
        """
        y, log_det = self._unbounded(x)
        y, log_det = (y - self.shift) * (-self.log_scale).exp(), log_det - self.log_scale.sum()
        halves = list(y[:, self.latent_order].split(self.halves, dim=1))
        for k, coupling in reversed(list(enumerate(self.couplings))):
            halves[k % 2], change = coupling.inverse(halves[1 - k % 2], halves[k % 2])  # type: ignore[operator]
            log_det = log_det + change
        return torch.cat(halves, dim=1), log_det

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) of (batch, *event_shape) in nats, (batch,) (equations 2 and 3).

        :raises ValueError: as `inverse`.
        """
        z, log_det = self.inverse(x)
        return log_det - 0.5 * (z.square().sum(1) + self.latent_dim * math.log(2 * math.pi))

    @torch.no_grad()
    def standardise(self, x: Tensor) -> Self:
        """Set the last scale and shift to standard deviation and mean of x (item, *event_shape), or of its logit if bounded.

        A new generator, before training, then makes independent Gaussians with the moments of the data.

        :raises ValueError: for fewer than two items, non-finite values, or a dimension that is constant over the items.
        """
        y, _ = self._unbounded(x)
        if len(y) < 2:
            raise ValueError(f"x has shape {tuple(x.shape)}: a standard deviation needs at least two items")
        if not y.isfinite().all():
            raise ValueError(f"x holds {int((~y.isfinite()).sum())} non-finite values: remove these items")
        constant = (y == y[0]).all(dim=0)
        if constant.any():
            index = int(constant.nonzero()[0])
            raise ValueError(
                f"dimension {index} of the flattened event is {x.flatten(1)[0, index]:g} in all items, so its density is"
                " infinite: remove it, or add noise to it"
            )
        sd, mean = torch.std_mean(y, dim=0)
        self.log_scale.copy_(sd.log())
        self.shift.copy_(mean)
        return self

    def _unbounded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Unbounded y (batch, latent_dim), and log |det dy/dx| (batch,)."""
        if x.shape[1:] != self.event_shape:
            raise ValueError(
                f"x has shape {tuple(x.shape)}: give (batch, {', '.join(map(str, self.event_shape))}) (x[None] for one item)"
            )
        x = x.flatten(1)
        if not self.bounded:
            return x, x.new_zeros(len(x))
        low, high = self.value_range
        slope = (1 - 2 * self.alpha) / (high - low)
        p = self.alpha + slope * (x - low)
        rounding = torch.finfo(p.dtype).eps
        outside = ~((p > -4 * rounding) & (p < 1 + 4 * rounding))  # NaN is outside too
        if outside.any():
            raise ValueError(
                f"x holds {x[outside][0]} ({int(outside.sum())} such values) outside the range {self.value_range}, where the"
                " density is zero: scale the data to the range, or set value_range"
            )
        p = p.clamp(rounding, 1 - rounding)  # values generated far in a tail are rounded to the end
        log_p, log_q = p.log(), (-p).log1p()
        return log_p - log_q, math.log(slope) * self.latent_dim - (log_p + log_q).sum(1)


class RealNVP(Family):
    """Maximum likelihood for a `RealNVPGenerator`; batches are x alone.

    `step` raises ValueError for batches with labels.

    :param learning_rate: learning rate of Adam.
    :param betas: betas of Adam.
    """

    generator: RealNVPGenerator

    def __init__(
        self, generator: RealNVPGenerator, *, learning_rate: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        super().__init__()
        self.generator, self.latent_dim = generator, generator.latent_dim
        self.learning_rate, self.betas = learning_rate, betas

    def optimizers(self) -> dict[str, Optimizer]:
        return {"negative_log_likelihood": adam(self.generator, learning_rate=self.learning_rate, betas=self.betas)}

    def initialise(self, x: Tensor) -> None:
        self.generator.standardise(x)

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        x = x_alone(batch)
        update("negative_log_likelihood", lambda: -self.generator.log_density(x).mean())

    def distribution(self) -> TransformedDistribution:
        """The Pyro distribution of x, with the event shape of x."""
        import pyro.distributions as dist

        zero = torch.zeros_like(self.generator.shift)
        return dist.TransformedDistribution(dist.Normal(zero, 1.0).to_event(1), [_Flow(self.generator)])

    def model(self, x: Tensor) -> None:
        """The Pyro model of x (item, *event): the site ``x`` in the plate ``item``.

        There are no latent sites, so the guide of Pyro's SVI is empty; its loss is that of `step` times the number of items.
        """
        import pyro

        pyro.module("generator", self.generator)
        with pyro.plate("item", len(x), dim=-1):
            pyro.sample("x", self.distribution(), obs=x)


class _Flow(Transform):
    """The generator as a torch transform, from z (*batch, latent_dim) to x (*batch, *event_shape)."""

    bijective = True

    def __init__(self, generator: RealNVPGenerator) -> None:
        super().__init__()
        self.generator = generator
        self._last: tuple[Tensor, Tensor] | None = None

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def domain(self) -> Any:
        return constraints.real_vector

    @constraints.dependent_property(is_discrete=False)
    def codomain(self) -> Any:
        ends: Any = constraints.real
        if self.generator.bounded:
            low, high = self.generator.value_range
            beyond = (high - low) * self.generator.alpha / (1 - 2 * self.generator.alpha)
            ends = constraints.interval(low - beyond, high + beyond)
        return constraints.independent(ends, len(self.generator.event_shape))

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], *self.generator.event_shape))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[: len(shape) - len(self.generator.event_shape)], self.generator.latent_dim))

    def _call(self, z: Tensor) -> Tensor:
        return self.generator(z.reshape(-1, self.generator.latent_dim)).reshape(self.forward_shape(z.shape))

    def _inverse(self, x: Tensor) -> Tensor:
        z, log_det = self._inverted(x)
        self._last = x, log_det
        return z

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:  # torch's names: our z and x
        # A log density calls the inverse and then this method: one pass serves both.
        last, self._last = self._last, None
        return -(last[1] if last is not None and last[0] is y else self._inverted(y)[1])

    def _inverted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = self.inverse_shape(x.shape)
        z, log_det = self.generator.inverse(x.reshape(-1, *self.generator.event_shape))
        return z.reshape(shape), log_det.reshape(shape[:-1])


# --- recipe --------------------------------------------------------------------------------------------------------


def _architecture(sizes: Sizes) -> Architecture:
    """The stored generator; bounded data lie in [-1, 1]."""
    ends: dict[str, Any] = {"bounded": True, "value_range": (-1.0, 1.0)} if sizes.bounded else {}
    hidden = {} if sizes.widths is None else {"hidden": sizes.widths}
    return Architecture("RealNVPGenerator", {"event_shape": sizes.event_shape, **ends, **hidden})


def _build(sizes: Sizes, rates: Mapping[str, Any]) -> RealNVP:
    return RealNVP(RealNVPGenerator(**_architecture(sizes).arguments), **rates)


RECIPE = Recipe(_build, prepare=dequantised, reads=frozenset({"widths"}), generator=_architecture)
"""The size of z is that of x, and the encoder is the generator's inverse."""
