"""Energy-based models: an unnormalised density of y, as a model that every kernel can sample.

    p(y | c) = exp(f(y, c) - |y|^2 / 2 s^2) / Z(c),      Z(c) = integral of exp(f(y, c) - |y|^2 / 2 s^2) over y,

where f is a network and the Gaussian reference has standard deviation s. The latent of an `EnergyModel` is y, flattened, with
the reference as its prior; exp f is a further factor of the density, like a likelihood (`Tilt`). Annealed HMC then
moves from the reference to the energy, and its evidence is the mean of exp f under the reference,

    E[exp f] = Z(c) / (2 pi s^2)^(d / 2),      log Z(c) = log E[exp f] + (d / 2) log 2 pi s^2,

`cogen.diagnostics.log_partition` computes log Z(c). Views condition y as they condition the output of a generator.
`EnergyModel.clamp` fixes entries without noise: only the others are sampled, and Z is the integral over them.

`Tilt` is also a view of any generator: ``CoGenerator(generator, views={"energy": Tilt(f)}).condition(energy=np.zeros(n))`` has
the density p(z) exp f(G(z)) for each of n items.

References:
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (Eqs. 1, 2 and 19; section 4.2.4 for clamping).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from cogen.inference.signatures import ArrayLike, Attribute
from cogen.models.cogenerator import CoGenerator, Data
from cogen.models.contexts import Array, Context, taken_by
from cogen.models.given_contexts import GivenContexts
from cogen.models.masks import clamping
from cogen.models.views import View

if TYPE_CHECKING:
    import jax

ENERGY, CLAMPED = "energy", "clamped"
"""Names of the factor exp f and of the context that holds the clamped entries."""


@dataclass(frozen=True)
class _Factor:
    """Likelihood of a zero, with log density A(x)."""

    scale: ClassVar[None] = None

    def pyro(self, location: Tensor, scale: None) -> Any:
        import pyro.distributions as dist

        return dist.Delta(torch.zeros_like(location), log_density=location)

    def numpyro(self, location: Any, scale: None) -> Any:
        import jax.numpy as jnp
        import numpyro.distributions as dist

        return dist.Delta(jnp.zeros_like(location), log_density=location)

    def check(self, values: np.ndarray) -> str | None:
        return "a Tilt observes nothing: its data must be zeros, one for each item" if values.any() else None


class Tilt(View):
    """A factor exp f(x, c) of the density of x, conditioned on zeros, one for each item.

    :param network: f, (batch, *event) -> (batch,), each value from its own item only. It receives the contexts of the model
        that its ``forward`` names.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(likelihood=_Factor())
        self.network = network

    def takes(self, names: Iterable[str]) -> list[str]:
        """The contexts among ``names`` that the network takes."""
        return taken_by(self.network, names)

    def forward(self, x: Tensor, **context: Tensor) -> Tensor:
        return self.network(x, **context)

    def shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        found = super().shape(event_shape)
        if found:
            raise ValueError(
                f"an energy network returns one number per item, (batch,), not (batch, {', '.join(map(str, found))})"
            )
        return found


class _Reshape(nn.Module):
    """The latent, reshaped to y."""

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)

    def forward(self, z: Tensor, **_: Tensor) -> Tensor:
        return z.unflatten(1, self.event_shape)


class _Completed(nn.Module):
    """y from its free entries, which are the latent, and the clamped ones."""

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
    """An energy with a Gaussian reference, as a model to sample, condition and clamp.

    The model has one item and ``model.items(n)`` has n independent ones; ``model.condition(view=values)``,
    ``model.given(label=labels)`` and ``model.clamp(mask, values)`` have one item per value.
    ``posterior["posterior"]["z"]`` holds y, flattened (for a clamped model its free entries, in their order in y); ``x`` is y.

    :param network: f, as for `Tilt`.
    :param reference_scale: s, positive.
    :param event_shape: shape of one y.
    :param contexts: c by name, `Classes` or `Array`; f receives those that its ``forward`` names.
    :param views: views of y, by name.
    :raises ValueError: for a reference scale that is not positive, a network that does not return one number per item or fails
        the probes of `CoGenerator`, and a view called "energy".
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
                f"reference_scale={reference_scale}: annealing starts from draws of a Gaussian reference; give its standard"
                " deviation, a positive number"
            )
        if ENERGY in (views or {}):
            raise ValueError(f"view {ENERGY!r}: this name is reserved for the factor exp f: rename the view")
        self.reference_scale = reference_scale
        self._make(_Reshape(event_shape), math.prod(event_shape), contexts or {}, {**(views or {}), ENERGY: Tilt(network)})
        self.name = type(network).__name__
        self._data = {ENERGY: _zeros(1)}

    def _make(self, decoder: nn.Module, size: int, contexts: Mapping[str, Context], views: Mapping[str, View]) -> None:
        import pyro.distributions as dist

        prior = dist.Normal(torch.zeros(size), float(self.reference_scale)).to_event(1)
        super().__init__(decoder, views=views, contexts=contexts, latent_dim=size, prior=prior)

    # --- items -------------------------------------------------------------------------------------------------

    def items(self, count: int) -> Self:
        """This model with ``count`` independent items and nothing observed.

        :raises ValueError: for a count below one.
        """
        if count < 1:
            raise ValueError(f"items({count}): the count must be at least 1")
        return self._weighed(count)

    def condition(self, **data: ArrayLike) -> Self:
        if ENERGY in data:
            raise ValueError(f"{ENERGY!r} is the factor exp f, always present: condition a view, or use model.items(n)")
        conditioned = super(EnergyModel, self._bare()).condition(**data)
        return conditioned._weighed(conditioned.num_items)

    def given(self, **contexts: ArrayLike) -> Self:
        known = super(EnergyModel, self._bare()).given(**contexts)
        return known._weighed(known.num_items)

    def clamp(self, mask: ArrayLike, values: ArrayLike) -> Self:
        """This model with the entries of y where ``mask`` is True fixed to ``values``; the others are its latent.

        :param mask: boolean, of the event's shape, True = fixed; neither all nor none of the entries.
        :param values: (item, *event); free entries are ignored.
        :raises TypeError: for a mask that is not boolean.
        :raises ValueError: for a mask of another shape or one that fixes all or no entries, and for non-finite fixed values.
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
        """The model without the factor, so that data and contexts determine the number of items."""
        bare = copy.copy(self)
        bare._data = {name: seen for name, seen in self._data.items() if name != ENERGY}
        return bare

    def _weighed(self, count: int) -> Self:
        """The model with the factor for ``count`` items."""
        weighed = copy.copy(self)
        weighed._data = {**self._data, ENERGY: _zeros(count)}
        weighed._check_counts()
        return weighed

    # --- the two models ----------------------------------------------------------------------------------------

    def __call__(self, data: Data | None = None, *, num_items: int = 1) -> Tensor:
        self._need_items(data)
        return super().__call__(data, num_items=num_items)

    def numpyro(self, data: Data | None = None, *, num_items: int = 1) -> jax.Array:
        self._need_items(data)
        return super().numpyro(data, num_items=num_items)

    def _need_items(self, data: Data | None) -> None:
        if ENERGY not in (self.item_data if data is None else data):
            raise ValueError("an energy cannot be sampled without a kernel: pass the model to cogen.inference.infer")

    # --- results -----------------------------------------------------------------------------------------------

    @property
    def attributes(self) -> dict[str, Attribute]:
        """The attributes of a `CoGenerator`, and the constant that turns log evidence into log Z."""
        volume = 0.5 * self.latent_dim * math.log(2 * math.pi * self.reference_scale**2)
        return {**super().attributes, "evidence_of": "Z / (2 pi s^2)^(d / 2)", "log_reference_volume": volume}

    def simulate(self, x: np.ndarray, sites: Mapping[str, np.ndarray], *, seed: int) -> dict[str, np.ndarray]:
        drawn = super().simulate(x, sites, seed=seed)
        return {name: values for name, values in drawn.items() if name != ENERGY}

    def result_groups(self) -> dict[str, dict[str, tuple[tuple[str, ...], np.ndarray]]]:
        groups = super().result_groups()
        groups["observed_data"].pop(ENERGY, None)
        return groups
