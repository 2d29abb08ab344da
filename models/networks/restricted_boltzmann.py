"""Restricted Boltzmann machines: visible and hidden units, without connections within a layer.

    p(v, h) = exp(-E(v, h)) / Z,
    E(v, h) = -b v - c h - h W v                                    v in {0, 1} (`BernoulliRBM`),
    E(v, h) = |v - b|^2 / 2 s^2 - c h - h W v / s                   v real (`GaussianRBM`),        h in {0, 1}.

Given one layer, the units of the other are independent: h_j is one with probability sigmoid(c_j + (W v)_j / s), v_i with
probability sigmoid(b_i + (h W)_i), or normal with the mean b_i + s (h W)_i and standard deviation s. With the hidden layer
summed out there is the free energy,

    F(v) = -log sum_h exp(-E(v, h)) = -b v - sum_j softplus(c_j + (W v)_j / s)          (of real v: |v - b|^2 / 2 s^2 - ...),

with log p(v) = -F(v) - log Z. The smaller layer can be enumerated for log Z while it has some twenty units.

References:
    Smolensky. Information processing in dynamical systems: foundations of harmony theory. 1986.
    Hinton. A practical guide to training restricted Boltzmann machines. 2010 (initial values; real visible units).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

MOST_ENUMERATED = 24
"""Units of a layer whose states are enumerated."""

_AT_ONCE = 2**14
"""States."""


class RBM(nn.Module):
    """What Bernoulli and real visible units share.

    :param event_shape: of one v, images as (channel, height, width).
    :param hidden: how many hidden units.

    ``base`` holds the visible biases of the same machine without connections, whose units are those of data alone: annealing
    starts there. `initialise` sets it. Raises ValueError for a layer without units.
    """

    base: Tensor
    scale: float = 1.0
    """s."""

    def __init__(self, event_shape: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.num_visible, self.num_hidden = math.prod(self.event_shape), hidden
        if min(self.num_visible, hidden) < 1:
            raise ValueError(f"event_shape {self.event_shape} and hidden={hidden}: each layer has at least one unit")
        self.weight = nn.Parameter(0.01 * torch.randn(hidden, self.num_visible))
        self.visible_bias = nn.Parameter(torch.zeros(self.num_visible))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.register_buffer("base", torch.zeros(self.num_visible))

    # --- what differs with the visible units. Arrays of torch and of JAX alike -------------------------------------

    @staticmethod
    def visible_terms(v: Any, bias: Any, scale: float) -> Any:
        """What each visible unit alone adds to -E."""
        raise NotImplementedError

    @staticmethod
    def shift_terms(v: Any, bias: Any, base: Any, scale: float) -> Any:
        """What it adds with this bias, less what with another."""
        raise NotImplementedError

    def visible_mean(self, field: Tensor) -> Tensor:
        """The mean of v given the field h W, (..., visible)."""
        raise NotImplementedError

    def draw_visible(self, field: Tensor) -> Tensor:
        """v given the field h W, (..., visible)."""
        raise NotImplementedError

    def visible_log_sums(self, bias: Tensor, field: Tensor) -> Tensor:
        """log of the sum or integral, over each v_i, of exp(visible terms + field v / s)."""
        raise NotImplementedError

    def bias_of(self, x: Tensor) -> Tensor:
        """The visible biases of the machine without connections that fits data (item, visible)."""
        raise NotImplementedError

    def check(self, v: Tensor) -> None:
        """Raises ValueError for values that the visible units cannot have."""

    # --------------------------------------------------------------------------------------------------------------

    def initialise(self, x: Tensor) -> None:
        """Set the visible biases, and ``base``, so that each unit alone fits data (item, *event_shape).

        Raises ValueError for data of another shape, and of values that the units cannot have.
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
        """F(v), (batch,), of v (batch, *event_shape). Raises ValueError for v of another shape."""
        flat = self._flat(v)
        alone = self.visible_terms(flat, self.visible_bias, self.scale).sum(-1)
        return -alone - softplus(self._hidden_field(flat)).sum(-1)

    def forward(self, v: Tensor) -> Tensor:
        """-F(v): the unnormalised log density."""
        return -self.free_energy(v)

    def hidden_probability(self, v: Tensor) -> Tensor:
        """That each hidden unit is one given v (batch, *event_shape), (batch, hidden)."""
        return self._hidden_field(self._flat(v)).sigmoid()

    def reconstruct(self, h: Tensor) -> Tensor:
        """The mean of v given h (batch, hidden), (batch, *event_shape)."""
        return self.visible_mean(h @ self.weight).unflatten(-1, self.event_shape)

    def independent(self, count: int) -> Tensor:
        """Draws of v of the machine with the biases ``base`` and no connections, (count, *event_shape)."""
        with torch.no_grad():
            drawn = self.draw_visible((self.base - self.visible_bias).expand(count, -1) / self.scale)
        return drawn.unflatten(-1, self.event_shape)

    def expected(self, v: Tensor) -> Tensor:
        """The mean of v given a draw of h given v, (batch, *event_shape): a sample without the noise of its last step."""
        with torch.no_grad():
            h = torch.bernoulli(self._hidden_field(self._flat(v)).sigmoid())
            return self.visible_mean(h @ self.weight).unflatten(-1, self.event_shape)

    def gibbs(self, v: Tensor, steps: int) -> Tensor:
        """v after so many sweeps, each of h given v and v given h, from v (batch, *event_shape)."""
        flat = self._flat(v)
        with torch.no_grad():
            for _ in range(steps):
                h = torch.bernoulli(self._hidden_field(flat).sigmoid())
                flat = self.draw_visible(h @ self.weight)
        return flat.unflatten(-1, self.event_shape)

    def log_partition(self) -> float:
        """log Z, exactly, by enumeration of the smaller layer (of real visible units the hidden one), in float64.

        Raises ValueError for a layer of more than `MOST_ENUMERATED` units.
        """
        hidden = self.num_hidden <= self.num_visible or not self._enumerable
        units = self.num_hidden if hidden else self.num_visible
        if units > MOST_ENUMERATED:
            raise ValueError(
                f"the layer to enumerate has {units} units, and 2^{MOST_ENUMERATED} states are the most: estimate log Z, as in"
                " log_partition(infer(RBMModel(rbm).items(1), BlockGibbs(), ...))"
            )
        weight, b, c = (p.detach().double() for p in (self.weight, self.visible_bias, self.hidden_bias))
        place = torch.arange(units, device=weight.device)
        sums = []
        with torch.no_grad():
            for first in range(0, 2**units, _AT_ONCE):
                states = torch.arange(first, min(first + _AT_ONCE, 2**units), device=weight.device)
                bits = ((states[:, None] >> place) & 1).double()
                if hidden:
                    rest = bits @ c + self.visible_log_sums(b, bits @ weight).sum(-1)
                else:
                    rest = bits @ b + softplus(c + bits @ weight.T).sum(-1)
                sums.append(rest.logsumexp(0))
        return float(torch.stack(sums).logsumexp(0))

    def log_reference_partition(self, free: Tensor) -> float:
        """log Z of the machine with the biases ``base`` and no connections, over the free visible units (a boolean array)."""
        alone = self.visible_log_sums(self.base.double(), torch.zeros_like(self.base, dtype=torch.float64))
        return float(alone[free].sum()) + self.num_hidden * math.log(2)

    _enumerable = True
    """Whether the visible units have finitely many states."""

    def _hidden_field(self, v: Tensor) -> Tensor:
        return torch.nn.functional.linear(v / self.scale if self.scale != 1 else v, self.weight, self.hidden_bias)

    def _flat(self, v: Tensor) -> Tensor:
        if tuple(v.shape[1:]) != self.event_shape:
            raise ValueError(
                f"v has shape {tuple(v.shape)}: this machine takes (item, {', '.join(map(str, self.event_shape))})"
            )
        return v.flatten(1)


class BernoulliRBM(RBM):
    """With visible units of 0 and 1."""

    @staticmethod
    def visible_terms(v: Any, bias: Any, scale: float) -> Any:
        return bias * v

    @staticmethod
    def shift_terms(v: Any, bias: Any, base: Any, scale: float) -> Any:
        return (bias - base) * v

    def visible_mean(self, field: Tensor) -> Tensor:
        return (self.visible_bias + field).sigmoid()

    def draw_visible(self, field: Tensor) -> Tensor:
        return torch.bernoulli(self.visible_mean(field))

    def visible_log_sums(self, bias: Tensor, field: Tensor) -> Tensor:
        return softplus(bias + field)

    def bias_of(self, x: Tensor) -> Tensor:
        share = (x.sum(0) + 0.5) / (len(x) + 1)  # finite where a unit is always 0 or always 1
        return share.logit()

    def check(self, v: Tensor) -> None:
        if not ((v == 0) | (v == 1)).all():
            raise ValueError(
                f"visible units are 0 or 1, and these values lie from {v.min():g} to {v.max():g}: prepare them, as with"
                " cogen.models.training.preparation.binarised, or use a GaussianRBM"
            )


class GaussianRBM(RBM):
    """With real visible units.

    :param scale: s, positive: the noise of v given h. It is not learned.

    Raises ValueError for a scale that is not positive.
    """

    _enumerable = False

    def __init__(self, event_shape: Sequence[int], hidden: int, scale: float = 1.0) -> None:
        super().__init__(event_shape, hidden)
        if not 0 < scale < math.inf:
            raise ValueError(f"scale={scale}: the standard deviation of v given h is a positive number")
        self.scale = float(scale)

    @staticmethod
    def visible_terms(v: Any, bias: Any, scale: float) -> Any:
        return -0.5 * ((v - bias) / scale) ** 2

    @staticmethod
    def shift_terms(v: Any, bias: Any, base: Any, scale: float) -> Any:
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
            raise ValueError("visible units are real numbers, and some of these values are not finite: leave such items out")
