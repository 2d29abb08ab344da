"""RealNVP: an invertible generator, so that the density of what it makes is known exactly, and is what training maximises.

x = f(z) with z ~ Normal(0, 1) of the size of x. The density follows by the change of variables, and one optimiser ascends it:

    log p(x) = log Normal(f^-1(x); 0, 1) + log |det d f^-1(x) / dx|,        loss = -mean log p(x), in nats per event.

f is a chain of affine couplings. Each leaves one half of the numbers as it is and scales and shifts the other half by what a
network makes of the first, which is inverted in closed form and has a triangular Jacobian:

    y_a = x_a,    y_b = x_b exp(s(x_a)) + t(x_a),        log |det| = sum s(x_a).

The halves are the two colours of a checkerboard over the event (in a vector: every other number) and swap roles at every
coupling. They are cut once, at the latent, and put in their places once, at the end: between couplings nothing has to move.

Data in a range, such as images, go through the logit of alpha + (1 - 2 alpha) u, u in [0, 1] the place in the range; its
Jacobian is in the density. Values that are counts (bytes) have no density before noise of the width of one count is added:
this dequantisation belongs to the preparation of the data, `train(prepare=...)`.

`RealNVPGenerator` is conditioned as every other generator, by its latent; `RealNVP.distribution` is its density in Pyro.

References:
    Dinh, Sohl-Dickstein, Bengio. Density estimation using Real NVP. ICLR 2017 (equations 2 and 3: the change of variables;
        4 to 6: the coupling and its Jacobian; 8: its inverse; 9 and figure 3: the checkerboard; section 4.1: the logit with
        alpha = 0.05, and tanh times a learned factor for s).
Departures: f maps z to x, theirs x to z (so a coupling and its inverse change names). The networks are multilayer perceptrons
with SiLU over the whole event, not residual convolutions; there is no multi-scale architecture with channel-wise masks. In
place of batch norm (section 3.7), under which one item's density depends on the others, there is one learned scale and shift
for every number of the event at the data's end, which `RealNVPGenerator.standardise` can set from data. The logit stays
finite at both ends of the range (theirs, logit(alpha + (1 - alpha) u), is infinite at the upper one).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from cogen.models.families.family import Batch, Family, Update, adam, x_alone
from cogen.models.families.recipe import Recipe
from cogen.models.families.sizes import Architecture, Sizes
from cogen.models.training.preparation import dequantised


class AffineCoupling(nn.Module):
    """One half scaled and shifted by a function of the other (equations 4 and 5; the inverse: 8).

    A fresh one is the identity: the last layer of its network begins at zero.

    :param given: size of the half that is left as it is.
    :param changed: size of the other.
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
        """What `forward` was given as ``changed``, and log |det| of this inverse, (batch,)."""
        log_scale, shift = self._log_scale_and_shift(given)
        return (changed - shift) * (-log_scale).exp(), -log_scale.sum(1)

    def _log_scale_and_shift(self, given: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = self.network(given).chunk(2, dim=1)
        return self.factor * raw.tanh(), shift  # |s| <= |factor|


class RealNVPGenerator(nn.Module):
    """The generator x = f(z), its inverse and its density. A fresh one is x = z, put in the event's shape (and range).

    :param event_shape: shape of one output, images as (channel, height, width); z has as many numbers (``latent_dim``).
    :param couplings: their number. Two change every number, three let every number depend on every other.
    :param hidden: widths of the hidden layers of every coupling's network.
    :param bounded: the data lie in ``value_range``; otherwise they are any numbers. What is generated may leave the range by
        alpha / (1 - 2 alpha) of its width on either side (0.056 of it), where the density is small but not zero.
    :param value_range: least and greatest value of bounded data.
    :param alpha: the logit sees [alpha, 1 - alpha].

    Raises ValueError for an event of a single number, which has no halves, and for arguments out of range.
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
                f"event_shape {self.event_shape}: a coupling scales one half of an event by the other, so an event has at least"
                " two numbers; for a single one use a DenseGenerator, or add a column"
            )
        if couplings < 2:
            raise ValueError(f"couplings={couplings}: a coupling changes one half only; give at least 2, better 4 or more")
        if not all(width >= 1 for width in hidden):
            raise ValueError(f"hidden={tuple(hidden)}: the widths of hidden layers are at least 1")
        if not -math.inf < value_range[0] < value_range[1] < math.inf:
            raise ValueError(f"value_range={tuple(value_range)}: give two finite numbers, the least value first")
        if not 0 < alpha < 0.5:
            raise ValueError(f"alpha={alpha}: it keeps the logit finite and lies in (0, 0.5); the paper has 0.05")
        self.bounded, self.value_range, self.alpha = bounded, (float(value_range[0]), float(value_range[1])), alpha

        colour = torch.stack(torch.meshgrid(*map(torch.arange, self.event_shape), indexing="ij")).sum(0).flatten() % 2
        black = int(colour.sum())
        self.halves = [self.latent_dim - black, black]
        # Derived from the shape, so they are not kept with the weights.
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
                f"z has the shape {tuple(z.shape)}: it is (batch, {self.latent_dim}), as long as an event of shape"
                f" {self.event_shape} has numbers"
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

        Raises ValueError for another shape, and for bounded data outside their range.
        """
        y, log_det = self._unbounded(x)
        y, log_det = (y - self.shift) * (-self.log_scale).exp(), log_det - self.log_scale.sum()
        halves = list(y[:, self.latent_order].split(self.halves, dim=1))
        for k, coupling in reversed(list(enumerate(self.couplings))):
            halves[k % 2], change = coupling.inverse(halves[1 - k % 2], halves[k % 2])  # type: ignore[operator]
            log_det = log_det + change
        return torch.cat(halves, dim=1), log_det

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) of (batch, *event_shape) in nats, (batch,) (equations 2 and 3). Raises what `inverse` raises."""
        z, log_det = self.inverse(x)
        return log_det - 0.5 * (z.square().sum(1) + self.latent_dim * math.log(2 * math.pi))

    @torch.no_grad()
    def standardise(self, x: Tensor) -> Self:
        """Set the last scale and shift to standard deviation and mean of x (item, *event_shape), or of its logit if bounded.

        For a fresh generator, before training: it then makes independent Gaussians with the moments of the data.

        Raises ValueError for fewer than two items, and for a number that is not finite or the same in all of them.
        """
        y, _ = self._unbounded(x)
        if len(y) < 2:
            raise ValueError(f"x has the shape {tuple(x.shape)}: a standard deviation takes at least two items")
        if not y.isfinite().all():
            raise ValueError(f"x holds {int((~y.isfinite()).sum())} values that are not finite: leave these items out")
        constant = (y == y[0]).all(dim=0)
        if constant.any():
            place = int(constant.nonzero()[0])
            raise ValueError(
                f"number {place} of the flattened event is {x.flatten(1)[0, place]:g} in all items, so its density is infinite:"
                " leave it out, or add noise to it"
            )
        sd, mean = torch.std_mean(y, dim=0)
        self.log_scale.copy_(sd.log())
        self.shift.copy_(mean)
        return self

    def _unbounded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y (batch, latent_dim), any numbers, and log |det dy/dx| (batch,)."""
        if x.shape[1:] != self.event_shape:
            raise ValueError(
                f"x has the shape {tuple(x.shape)}: it is (batch, {', '.join(map(str, self.event_shape))}), the items first"
                " (x[None] for one)"
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
                f"x holds {x[outside][0]} ({int(outside.sum())} such values), where the density is zero: the range is"
                f" {self.value_range}; scale the data into it, or give value_range="
            )
        p = p.clamp(rounding, 1 - rounding)  # what was generated far out in a tail is rounded to the end
        log_p, log_q = p.log(), (-p).log1p()
        return log_p - log_q, math.log(slope) * self.latent_dim - (log_p + log_q).sum(1)


class RealNVP(Family):
    """Maximum likelihood for a `RealNVPGenerator`; batches are x alone.

    :param learning_rate: of Adam.
    :param betas: Adam's.

    `step` raises ValueError for batches with labels.
    """

    generator: RealNVPGenerator

    def __init__(
        self, generator: RealNVPGenerator, *, learning_rate: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        super().__init__()
        self.generator, self.latent_dim = generator, generator.latent_dim
        self.learning_rate, self.betas = learning_rate, betas

    def optimizers(self) -> dict[str, Any]:
        return {"negative_log_likelihood": adam(self.generator, learning_rate=self.learning_rate, betas=self.betas)}

    def initialise(self, x: Tensor) -> None:
        self.generator.standardise(x)

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        x = x_alone(batch)
        update("negative_log_likelihood", lambda: -self.generator.log_density(x).mean())

    def distribution(self) -> Any:
        """Pyro's distribution of x, with event shape that of x: it is drawn from, scored and differentiated as any other."""
        import pyro.distributions as dist

        zero = torch.zeros_like(self.generator.shift)
        return dist.TransformedDistribution(dist.Normal(zero, 1.0).to_event(1), [_Flow(self.generator)])

    def model(self, x: Tensor) -> None:
        """The Pyro model of x (item, *event): the site ``x`` in the plate ``item``.

        Nothing is latent, so the guide of Pyro's SVI is empty, and its loss is that of `step` times the number of items.
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
        # A log density asks for the inverse and then for this: both come from one pass.
        last, self._last = self._last, None
        return -(last[1] if last is not None and last[0] is y else self._inverted(y)[1])

    def _inverted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = self.inverse_shape(x.shape)
        z, log_det = self.generator.inverse(x.reshape(-1, *self.generator.event_shape))
        return z.reshape(shape), log_det.reshape(shape[:-1])


# --- recipe --------------------------------------------------------------------------------------------------------


def _architecture(sizes: Sizes) -> Architecture:
    """Bounded data lie in [-1, 1]."""
    ends: dict[str, Any] = {"bounded": True, "value_range": (-1.0, 1.0)} if sizes.bounded else {}
    hidden = {} if sizes.widths is None else {"hidden": sizes.widths}
    return Architecture("RealNVPGenerator", {"event_shape": sizes.event_shape, **ends, **hidden})


def _build(sizes: Sizes, rates: Mapping[str, Any]) -> RealNVP:
    return RealNVP(RealNVPGenerator(**_architecture(sizes).arguments), **rates)


RECIPE = Recipe(_build, prepare=dequantised, reads=frozenset({"widths"}), generator=_architecture)
"""Its z is as long as x, and its encoder the generator's inverse."""
