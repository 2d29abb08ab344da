"""Restricted Boltzmann machines: visible and hidden units without connections within a layer.

    p(v, h) = exp(-E(v, h)) / Z,
    E(v, h) = -b v - c h - h W v                                    v in {0, 1} (`BernoulliRBM`),
    E(v, h) = |v - b|^2 / 2 s^2 - c h - h W v / s                   v real (`GaussianRBM`),        h in {0, 1}.

Given one layer, the units of the other are independent: h_j is 1 with probability sigmoid(c_j + (W v)_j / s); v_i is 1 with
probability sigmoid(b_i + (h W)_i), or normal with mean b_i + s (h W)_i and standard deviation s. Summing over the hidden layer
gives the free energy,

    F(v) = -log sum_h exp(-E(v, h)) = -b v - sum_j softplus(c_j + (W v)_j / s)          (of real v: |v - b|^2 / 2 s^2 - ...),

with log p(v) = -F(v) - log Z. log Z is computed by enumeration of the smaller layer if it has up to about twenty units.

References:
    Smolensky. Information processing in dynamical systems: foundations of harmony theory. 1986.
    Hinton. A practical guide to training restricted Boltzmann machines. 2010 (initial values; real visible units).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

if TYPE_CHECKING:
    import jax

MOST_ENUMERATED = 24
"""The largest number of units of a layer whose states are enumerated."""

Units = TypeVar("Units", Tensor, "jax.Array")
"""Arrays of one library."""

_STATES_PER_BLOCK = 2**14
"""Number of states that are enumerated at once."""


class RBM(nn.Module):
    """Base class for Bernoulli and real visible units.

    ``base`` holds the visible biases of a machine without connections that is fitted to the data, where annealing starts.
    `initialise` sets it.

    :param event_shape: shape of one v, images as (channel, height, width).
    :param hidden: number of hidden units.
    :raises ValueError: for a layer without units.
    """

    base: Tensor
    scale: float = 1.0
    """s, the standard deviation of real visible units."""

    def __init__(self, event_shape: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.num_visible, self.num_hidden = math.prod(self.event_shape), hidden
        if min(self.num_visible, hidden) < 1:
            raise ValueError(f"event_shape {self.event_shape} and hidden={hidden}: each layer needs at least one unit")
        self.weight = nn.Parameter(0.01 * torch.randn(hidden, self.num_visible))
        self.visible_bias = nn.Parameter(torch.zeros(self.num_visible))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.register_buffer("base", torch.zeros(self.num_visible))

    # --- visible units; the static methods take torch and JAX arrays -----------------------------------------------

    @staticmethod
    def visible_terms(v: Units, bias: Units, scale: float) -> Units:
        """The term of each visible unit in -E, without connections."""
        raise NotImplementedError

    @staticmethod
    def shift_terms(v: Units, bias: Units, base: Units, scale: float) -> Units:
        """`visible_terms` with ``bias`` minus those with ``base``."""
        raise NotImplementedError

    def visible_mean(self, field: Tensor) -> Tensor:
        """The mean of v given the field h W, (..., visible)."""
        raise NotImplementedError

    def draw_visible(self, field: Tensor) -> Tensor:
        """A draw of v given the field h W, (..., visible)."""
        raise NotImplementedError

    def visible_log_sums(self, bias: Tensor, field: Tensor) -> Tensor:
        """The log of the sum or integral over each v_i of exp(visible terms + field v / s)."""
        raise NotImplementedError

    def bias_of(self, x: Tensor) -> Tensor:
        """The visible biases of the machine without connections that fits data (item, visible)."""
        raise NotImplementedError

    def check(self, v: Tensor) -> None:
        """Check values of visible units.

        :raises ValueError: for values outside the support of the visible units.
        """

    # --------------------------------------------------------------------------------------------------------------

    def initialise(self, x: Tensor) -> None:
        """Set the visible biases and ``base`` to fit data (item, *event_shape) without connections.

        :raises ValueError: for data of another shape, or outside the support of the units.
        """
        v = self._flat(x)
        self.check(v)
        with torch.no_grad():
            self.base.copy_(self.bias_of(v))
            self.visible_bias.copy_(self.base)

    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        """E(v, h), (batch,), of v (batch, *event_shape) and h (batch, hidden)."""
        flat = self._flat(v)
        alone = self.visible_terms(flat, self.visible_bias, self.scale).sum(-1)
        return -alone - (h * self._hidden_field(flat)).sum(-1)

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v), (batch,), of v (batch, *event_shape).

        :raises ValueError: for v of another shape.
        """
        flat = self._flat(v)
        alone = self.visible_terms(flat, self.visible_bias, self.scale).sum(-1)
        return -alone - softplus(self._hidden_field(flat)).sum(-1)

    def forward(self, v: Tensor) -> Tensor:
        """-F(v), the unnormalised log density."""
        return -self.free_energy(v)

    def hidden_probability(self, v: Tensor) -> Tensor:
        """The probability that each hidden unit is 1 given v (batch, *event_shape), (batch, hidden)."""
        return self._hidden_field(self._flat(v)).sigmoid()

    def reconstruct(self, h: Tensor) -> Tensor:
        """The mean of v given h (batch, hidden), (batch, *event_shape)."""
        return self.visible_mean(h @ self.weight).unflatten(-1, self.event_shape)

    def independent(self, count: int) -> Tensor:
        """Draws of v from the machine with biases ``base`` and no connections, (count, *event_shape)."""
        with torch.no_grad():
            drawn = self.draw_visible((self.base - self.visible_bias).expand(count, -1) / self.scale)
        return drawn.unflatten(-1, self.event_shape)

    def expected(self, v: Tensor) -> Tensor:
        """The mean of v given a draw of h given v, (batch, *event_shape): a sample without the noise of its last step."""
        with torch.no_grad():
            h = torch.bernoulli(self._hidden_field(self._flat(v)).sigmoid())
            return self.visible_mean(h @ self.weight).unflatten(-1, self.event_shape)

    def gibbs(self, v: Tensor, steps: int) -> Tensor:
        """v after ``steps`` sweeps, each drawing h given v and v given h, from v (batch, *event_shape)."""
        flat = self._flat(v)
        with torch.no_grad():
            for _ in range(steps):
                h = torch.bernoulli(self._hidden_field(flat).sigmoid())
                flat = self.draw_visible(h @ self.weight)
        return flat.unflatten(-1, self.event_shape)

    def log_partition(self) -> float:
        """Exact log Z by enumeration of the smaller layer (the hidden layer, for real visible units), in float64.

        :raises ValueError: for a layer of more than `MOST_ENUMERATED` units.
        """
        hidden = self.num_hidden <= self.num_visible or not self._enumerable
        units = self.num_hidden if hidden else self.num_visible
        if units > MOST_ENUMERATED:
            raise ValueError(
                f"the layer to enumerate has {units} units, but at most {MOST_ENUMERATED} are enumerated: estimate log Z by"
                " log_partition(infer(RBMModel(rbm).items(1), BlockGibbs(), ...))"
            )
        weight, b, c = (p.detach().double() for p in (self.weight, self.visible_bias, self.hidden_bias))
        unit = torch.arange(units, device=weight.device)
        sums = []
        with torch.no_grad():
            for first in range(0, 2**units, _STATES_PER_BLOCK):
                states = torch.arange(first, min(first + _STATES_PER_BLOCK, 2**units), device=weight.device)
                bits = ((states[:, None] >> unit) & 1).double()
                if hidden:
                    rest = bits @ c + self.visible_log_sums(b, bits @ weight).sum(-1)
                else:
                    rest = bits @ b + softplus(c + bits @ weight.T).sum(-1)
                sums.append(rest.logsumexp(0))
        return float(torch.stack(sums).logsumexp(0))

    def log_reference_partition(self, free: Tensor) -> float:
        """log Z of the machine with biases ``base`` and no connections, over the free visible units (a boolean array)."""
        alone = self.visible_log_sums(self.base.double(), torch.zeros_like(self.base, dtype=torch.float64))
        return float(alone[free].sum()) + self.num_hidden * math.log(2)

    _enumerable = True
    """Whether the visible units have finitely many states."""

    def _hidden_field(self, v: Tensor) -> Tensor:
        return torch.nn.functional.linear(v / self.scale if self.scale != 1 else v, self.weight, self.hidden_bias)

    def _flat(self, v: Tensor) -> Tensor:
        if tuple(v.shape[1:]) != self.event_shape:
            raise ValueError(f"v has shape {tuple(v.shape)}: give (item, {', '.join(map(str, self.event_shape))})")
        return v.flatten(1)


class BernoulliRBM(RBM):
    """A restricted Boltzmann machine with visible units 0 and 1."""

    @staticmethod
    def visible_terms(v: Units, bias: Units, scale: float) -> Units:
        return bias * v

    @staticmethod
    def shift_terms(v: Units, bias: Units, base: Units, scale: float) -> Units:
        return (bias - base) * v

    def visible_mean(self, field: Tensor) -> Tensor:
        return (self.visible_bias + field).sigmoid()

    def draw_visible(self, field: Tensor) -> Tensor:
        return torch.bernoulli(self.visible_mean(field))

    def visible_log_sums(self, bias: Tensor, field: Tensor) -> Tensor:
        return softplus(bias + field)

    def bias_of(self, x: Tensor) -> Tensor:
        share = (x.sum(0) + 0.5) / (len(x) + 1)  # keeps the logit finite for constant units
        return share.logit()

    def check(self, v: Tensor) -> None:
        if not ((v == 0) | (v == 1)).all():
            raise ValueError(
                f"visible units are 0 or 1, but these values range from {v.min():g} to {v.max():g}: use"
                " cogen.models.training.preparation.binarised, or a GaussianRBM"
            )


class GaussianRBM(RBM):
    """A restricted Boltzmann machine with real visible units.

    :param scale: s, the standard deviation of v given h, positive. It is not learned.
    :raises ValueError: for a scale that is not positive.
    """

    _enumerable = False

    def __init__(self, event_shape: Sequence[int], hidden: int, scale: float = 1.0) -> None:
        super().__init__(event_shape, hidden)
        if not 0 < scale < math.inf:
            raise ValueError(f"scale={scale}: the standard deviation of v given h must be positive and finite")
        self.scale = float(scale)

    @staticmethod
    def visible_terms(v: Units, bias: Units, scale: float) -> Units:
        return -0.5 * ((v - bias) / scale) ** 2

    @staticmethod
    def shift_terms(v: Units, bias: Units, base: Units, scale: float) -> Units:
        return (bias - base) * (v - 0.5 * (bias + base)) / scale**2

    def visible_mean(self, field: Tensor) -> Tensor:
        return self.visible_bias + self.scale * field

    def draw_visible(self, field: Tensor) -> Tensor:
        mean = self.visible_mean(field)
        return mean + self.scale * torch.randn_like(mean)

    def visible_log_sums(self, bias: Tensor, field: Tensor) -> Tensor:
        return 0.5 * math.log(2 * math.pi * self.scale**2) + field * (bias / self.scale + 0.5 * field)

    def bias_of(self, x: Tensor) -> Tensor:
        return x.mean(0)

    def check(self, v: Tensor) -> None:
        if not torch.isfinite(v).all():
            raise ValueError("visible units are real, but some of these values are non-finite: remove such items")
