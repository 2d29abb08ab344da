"""Energies: an unnormalised density of y itself, as a model that every kernel samples.

    p(y | c) = exp(f(y, c) - |y|^2 / 2 s^2) / Z(c),      Z(c) = integral of exp(f(y, c) - |y|^2 / 2 s^2) over y,

with f a network and a Gaussian reference of standard deviation s. The latent of an `EnergyModel` is y, flat, with the reference
as its prior; f is one more factor of the density, as if something were observed whose likelihood is exp f (`Tilt`). So annealed
HMC walks from the reference to the energy, and its evidence is the mean of exp f over the reference,

    E[exp f] = Z(c) / (2 pi s^2)^(d / 2),      log Z(c) = log E[exp f] + (d / 2) log 2 pi s^2,

of which `cogen.diagnostics.log_partition` gives the second. Views condition y as they condition what a generator makes, and
`EnergyModel.clamp` keeps seen entries where they are, without noise: the others alone move, and Z is the integral over them.

`Tilt` is a view of any generator too: ``CoGenerator(generator, views={"energy": Tilt(f)}).condition(energy=np.zeros(n))`` has
the density p(z) exp f(G(z)), n times.

References:
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (Eqs. 1, 2 and 19; section 4.2.4 for what is clamped).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from cogen.models.cogenerator import CoGenerator, Data
from cogen.models.contexts import Array, Context, taken_by
from cogen.models.given_contexts import GivenContexts
from cogen.models.masks import clamping
from cogen.models.views import View

ENERGY, CLAMPED = "energy", "clamped"
"""What the factor of the density is called, and the context that holds the clamped entries."""


@dataclass(frozen=True)
class _Factor:
    """The likelihood of a zero, whose log is A(x)."""

    scale: ClassVar[None] = None

    def pyro(self, location: Tensor, scale: None) -> Any:
        import pyro.distributions as dist

        return dist.Delta(torch.zeros_like(location), log_density=location)

    def numpyro(self, location: Any, scale: None) -> Any:
        import jax.numpy as jnp
        import numpyro.distributions as dist

        return dist.Delta(jnp.zeros_like(location), log_density=location)

    def check(self, values: np.ndarray) -> str | None:
        return "of a tilt nothing is observed: its data are zeros, one for each item" if values.any() else None


class Tilt(View):
    """A factor exp f(x, c) of the density of x. It is conditioned on zeros, one for each item.

    :param network: f, from (batch, *event) to (batch,), each item's value from itself alone. Where its ``forward`` names
        contexts of the model, it is given them.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(likelihood=_Factor())
        self.network = network

    def takes(self, names: Iterable[str]) -> list[str]:
        """Which of these contexts the network is given."""
        return taken_by(self.network, names)

    def forward(self, x: Tensor, **context: Tensor) -> Tensor:
        return self.network(x, **context)

    def shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        found = super().shape(event_shape)
        if found:
            raise ValueError(
                f"an energy is one number an item, (batch,), and this network makes (batch, {', '.join(map(str, found))})"
            )
        return found


class _Whole(nn.Module):
    """y of the latent, which is y, flat."""

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)

    def forward(self, z: Tensor, **_: Tensor) -> Tensor:
        return z.unflatten(1, self.event_shape)


class _Completed(nn.Module):
    """y of its free entries, the latent, and of the clamped ones."""

    index: Tensor

    def __init__(self, seen: Tensor) -> None:
        super().__init__()
        self.event_shape = tuple(seen.shape)
        free = ~seen.flatten()
        count = int(free.sum())
        self.register_buffer("index", torch.where(free, free.cumsum(0) - 1, count + torch.arange(len(free))))

    def forward(self, z: Tensor, clamped: Tensor, **_: Tensor) -> Tensor:
        return torch.cat([z, clamped.flatten(1)], 1)[:, self.index].unflatten(1, self.event_shape)


def _zeros(count: int) -> dict[str, np.ndarray]:
    """The data of a `Tilt`."""
    return {"value": np.zeros(count, np.float32)}


class EnergyModel(CoGenerator):
    """An energy with a Gaussian reference, to be sampled, conditioned and clamped.

    :param network: f, as of a `Tilt`.
    :param reference_scale: s, positive.
    :param event_shape: of one y.
    :param contexts: c by name, `Classes` or `Array`, of which f takes those that its ``forward`` names.
    :param views: what may be observed of y, by name.

    The model is one item, ``model.items(n)`` n independent ones; ``model.condition(view=values)`` and
    ``model.given(label=labels)`` as many as there are values, ``model.clamp(mask, values)`` those whose seen entries stay.
    ``posterior["posterior"]["z"]`` holds y, flat (of a clamped model the free entries, in the order in which they lie in y);
    ``x`` is y.

    Raises ValueError for a reference scale that is not positive, a network that does not make one number of an item or fails
    `CoGenerator`'s probes, and for a view called "energy".
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        reference_scale: float,
        event_shape: Sequence[int],
        contexts: Mapping[str, Context] | None = None,
        views: Mapping[str, View] | None = None,
    ) -> None:
        if reference_scale is None or not (np.isfinite(reference_scale) and reference_scale > 0):
            raise ValueError(
                f"reference_scale={reference_scale}: an energy is a density beside a Gaussian reference, whose draws are where"
                " annealing starts: give its standard deviation, a positive number"
            )
        if ENERGY in (views or {}):
            raise ValueError(f"view {ENERGY!r}: this name is that of the factor exp f: rename the view")
        self.reference_scale = reference_scale
        self._make(_Whole(event_shape), math.prod(event_shape), contexts or {}, {**(views or {}), ENERGY: Tilt(network)})
        self.name = type(network).__name__
        self._data = {ENERGY: _zeros(1)}

    def _make(self, whole: nn.Module, size: int, contexts: Mapping[str, Context], views: Mapping[str, View]) -> None:
        import pyro.distributions as dist

        prior = dist.Normal(torch.zeros(size), float(self.reference_scale)).to_event(1)
        super().__init__(whole, views=views, contexts=contexts, latent_dim=size, prior=prior)

    # --- items -------------------------------------------------------------------------------------------------

    def items(self, count: int) -> Self:
        """So many independent draws of y, nothing observed. Raises ValueError for a count below one."""
        if count < 1:
            raise ValueError(f"items({count}): at least one")
        return self._weighed(count)

    def condition(self, **data: Any) -> Self:
        if ENERGY in data:
            raise ValueError(f"{ENERGY!r} is the factor exp f, and always there: condition views, or use model.items(n)")
        conditioned = super(EnergyModel, self._bare()).condition(**data)
        return conditioned._weighed(conditioned.num_items)

    def given(self, **contexts: Any) -> Self:
        known = super(EnergyModel, self._bare()).given(**contexts)
        return known._weighed(known.num_items)

    def clamp(self, mask: Any, values: Any) -> Self:
        """The model of y whose entries where ``mask`` is True are ``values``, exactly; the others are its latent.

        :param mask: boolean, of the event's shape, True = stays; some entries and not all.
        :param values: (item, *event); what they hold elsewhere is ignored.

        Raises TypeError for a mask that is not boolean, ValueError for another shape, for one that leaves nothing free or
        clamps nothing, and for values that are not finite where they stay.
        """
        seen = clamping(mask, self.event_shape)
        values = np.where(seen, np.asarray(values, np.float32), np.float32(0))
        clamped = copy.copy(self)
        contexts = {**self.contexts, CLAMPED: Array(self.event_shape)}
        clamped._make(_Completed(torch.from_numpy(seen)), int((~seen).sum()), contexts, self.views)
        known = {name: each for name, each in self._contexts.given.items() if name != CLAMPED}
        clamped.name, clamped._data, clamped._ids = self.name, self._data, self._ids
        clamped._contexts = GivenContexts(clamped.contexts, known)
        return clamped.given(**{CLAMPED: values})

    def _bare(self) -> Self:
        """Without the factor, whose number of items is that of what is known."""
        bare = copy.copy(self)
        bare._data = {name: seen for name, seen in self._data.items() if name != ENERGY}
        return bare

    def _weighed(self, count: int) -> Self:
        """With the factor, of so many items."""
        weighed = copy.copy(self)
        weighed._data = {**self._data, ENERGY: _zeros(count)}
        weighed._check_counts()
        return weighed

    # --- the two models ----------------------------------------------------------------------------------------

    def __call__(self, data: Data | None = None, *, num_items: int = 1) -> Tensor:
        self._need_items(data)
        return super().__call__(data, num_items=num_items)

    def numpyro(self, data: Data | None = None, *, num_items: int = 1) -> Any:
        self._need_items(data)
        return super().numpyro(data, num_items=num_items)

    def _need_items(self, data: Data | None) -> None:
        if ENERGY not in (self.item_data if data is None else data):
            raise ValueError("an energy has no exact draws, only those of a kernel: give the model to infer")

    # --- what the results need ---------------------------------------------------------------------------------

    @property
    def attributes(self) -> dict[str, Any]:
        """As of a `CoGenerator`; and log Z over the evidence."""
        volume = 0.5 * self.latent_dim * math.log(2 * math.pi * self.reference_scale**2)
        return {**super().attributes, "evidence_of": "Z / (2 pi s^2)^(d / 2)", "log_reference_volume": volume}

    def simulate(self, x: np.ndarray, sites: Mapping[str, np.ndarray], *, seed: int) -> dict[str, np.ndarray]:
        drawn = super().simulate(x, sites, seed=seed)
        return {name: values for name, values in drawn.items() if name != ENERGY}

    def result_groups(self) -> dict[str, dict[str, tuple[tuple[str, ...], np.ndarray]]]:
        groups = super().result_groups()
        groups["observed_data"].pop(ENERGY, None)
        return groups
