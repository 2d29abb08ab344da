"""A restricted Boltzmann machine as a Pyro and a NumPyro model, to be sampled and clamped.

The free visible units are the latent site ``z``, the hidden units the latent site ``h``, and the remainder of -E is a factor.
Under the reference distribution q0 all units are independent: visible units have the base rates of the data (`RBM.base`),
hidden units are 0 or 1 with equal probability. `BlockGibbs` starts from q0. With the partition function of q0, log Z_0 =
sum_i log sum_v exp(b0_i v) + H log 2, the evidence is Z / Z_0, and `cogen.diagnostics.log_partition` computes log Z. For a
clamped machine, Z is the sum over the free units.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from cogen.inference.items import CONTEXT, meet_items
from cogen.inference.seeds import check_ids
from cogen.inference.signatures import ArrayLike, Attribute
from cogen.models.cogenerator import Data, ItemData, event_dims
from cogen.models.frozen import frozen
from cogen.models.masks import clamping
from cogen.models.networks.restricted_boltzmann import RBM, GaussianRBM

if TYPE_CHECKING:
    import jax

CLAMPED = "clamped"
"""Name of the clamped values in the data of an item."""


class RBMModel:
    """A restricted Boltzmann machine as a model.

    ``RBMModel(rbm).items(n)`` has n independent items, ``clamp(mask, values)`` one per value, with the masked entries fixed.
    ``posterior["posterior"]["z"]`` holds the free visible units, in their order in v, ``h`` the hidden units; x is all of v.

    :param rbm: the machine; it is copied.
    :raises TypeError: for another network.
    """

    def __init__(self, rbm: RBM) -> None:
        if not isinstance(rbm, RBM):
            raise TypeError(
                f"RBMModel takes a BernoulliRBM or a GaussianRBM, not {type(rbm).__name__}: for other energies use EnergyModel"
            )
        self.rbm = frozen(rbm).cpu()
        self._seen = np.zeros(rbm.num_visible, bool)
        self._values = np.zeros((1, *rbm.event_shape), np.float32)
        self._ids: np.ndarray | None = None

    # --- items -------------------------------------------------------------------------------------------------

    def items(self, count: int) -> Self:
        """This model with ``count`` independent items and nothing clamped.

        :raises ValueError: for a count below one.
        """
        if count < 1:
            raise ValueError(f"items({count}): the count must be at least 1")
        return self._with(np.zeros_like(self._seen), np.zeros((count, *self.event_shape), np.float32))

    def clamp(self, mask: ArrayLike, values: ArrayLike) -> Self:
        """This model with the entries of v where ``mask`` is True fixed to ``values``; the others are its latent.

        :param mask: boolean, of the event's shape, True = fixed; neither all nor none of the entries.
        :param values: (item, *event); free entries are ignored.
        :raises TypeError: for a mask that is not boolean.
        :raises ValueError: for a mask of another shape or one that fixes all or no entries, and for values that the visible
            units cannot have.
        """
        seen = clamping(mask, self.event_shape)
        given = np.asarray(values, np.float32)
        if given.shape[1:] != self.event_shape or not len(given):
            expected = ", ".join(map(str, self.event_shape))
            raise ValueError(f"clamp: the values have shape {given.shape}, expected (item, {expected})")
        given = np.where(seen, given, np.float32(0))
        self.rbm.check(torch.from_numpy(given))
        return self._with(seen.ravel(), given)

    def with_ids(self, ids: ArrayLike) -> Self:
        """This model with these item ids, which determine the random numbers (see `CoGenerator.with_ids`)."""
        other = copy.copy(self)
        other._ids = check_ids(ids)
        if len(other._ids) != len(self._values):
            raise ValueError(f"{len(other._ids)} ids for {len(self._values)} items")
        return other

    def of_items(self, data: ItemData) -> Self:
        """This model for other items, given their `item_data`."""
        return self._with(self._seen, np.asarray(data[CONTEXT][CLAMPED]))

    def condition(self, **data: ArrayLike) -> Self:
        """Not supported: visible units are clamped.

        :raises ValueError: always.
        """
        raise ValueError(f"{', '.join(data)}: an RBM has no views; clamp its visible units with model.clamp(mask, values)")

    @property
    def item_data(self) -> ItemData:
        return {CONTEXT: {CLAMPED: self._values}}

    @property
    def ids(self) -> np.ndarray:
        return np.arange(len(self._values)) if self._ids is None else self._ids

    def _with(self, seen: np.ndarray, values: np.ndarray) -> Self:
        other = copy.copy(self)
        other._seen, other._values, other._ids = seen, values, None
        return other

    # --- the two models ----------------------------------------------------------------------------------------

    def __call__(self, data: Data | None = None) -> Tensor:
        """The Pyro model."""
        import pyro
        import pyro.distributions as dist

        rbm, free = self.rbm, torch.from_numpy(~self._seen)
        known = torch.as_tensor(np.asarray((self.item_data if data is None else data)[CONTEXT][CLAMPED])).flatten(1)
        meet_items(len(known))
        base = rbm.base[free]
        reference = dist.Normal(base, rbm.scale) if isinstance(rbm, GaussianRBM) else dist.Bernoulli(logits=base)
        with pyro.plate("item", len(known), dim=-1):
            z = pyro.sample("z", reference.to_event(1))
            h = pyro.sample("h", dist.Bernoulli(logits=torch.zeros(rbm.num_hidden)).to_event(1))
            factor = self._factor(z, h, known, rbm.weight, rbm.visible_bias, rbm.hidden_bias, rbm.base, free)
            pyro.factor("energy", factor)
        return z

    def numpyro(self, data: Data | None = None) -> jax.Array:
        """The NumPyro model: the same sites and densities."""
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist

        rbm, free = self.rbm, ~self._seen
        known = jnp.asarray((self.item_data if data is None else data)[CONTEXT][CLAMPED])
        known = known.reshape(len(known), -1)
        meet_items(len(known))
        own = (each.detach().numpy() for each in (rbm.weight, rbm.visible_bias, rbm.hidden_bias, rbm.base))
        weight, visible_bias, hidden_bias, base = own
        biases, rates = jnp.asarray(visible_bias), jnp.asarray(base)
        reference = dist.Normal(base[free], rbm.scale) if isinstance(rbm, GaussianRBM) else dist.Bernoulli(logits=base[free])
        with numpyro.plate("item", len(known), dim=-1):
            z = numpyro.sample("z", reference.to_event(1))
            h = numpyro.sample("h", dist.Bernoulli(logits=jnp.zeros(rbm.num_hidden)).to_event(1))
            numpyro.factor("energy", self._factor(z, h, known, weight, biases, hidden_bias, rates, free))
        return z

    def _factor(self, z: Any, h: Any, known: Any, weight: Any, b: Any, c: Any, base: Any, free: Any) -> Any:
        """-E(v, h) minus the log density of the free units under q0, (item,), for arrays of either library. Free and clamped
        units are kept separate, because joining them costs more than their products."""
        rbm, seen = self.rbm, known[:, ~free]
        field = (z / rbm.scale) @ weight[:, free].T + (seen / rbm.scale) @ weight[:, ~free].T + c
        alone = rbm.shift_terms(z, b[free], base[free], rbm.scale).sum(-1)
        return alone + rbm.visible_terms(seen, b[~free], rbm.scale).sum(-1) + (h * field).sum(-1)

    # --- results -----------------------------------------------------------------------------------------------

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.rbm.event_shape

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        event = event_dims(self.event_shape)
        return {"z": ("latent",), "h": ("unit",), "x": event, CLAMPED: event}

    @property
    def attributes(self) -> dict[str, Attribute]:
        """The class of the machine, and the constant that turns log evidence into log Z."""
        volume = self.rbm.log_reference_partition(torch.from_numpy(~self._seen))
        return {"generator": type(self.rbm).__name__, "evidence_of": "Z / Z of the base rates", "log_reference_volume": volume}

    def decode(self, z: np.ndarray, **context: np.ndarray) -> np.ndarray:
        """All of v, (batch, *event_shape).

        :param z: the free units, (batch, free).
        :param context: ``clamped``, the clamped values of each row; default those of the items, cyclically.
        """
        known = context.get(CLAMPED, self._values[np.arange(len(z)) % len(self._values)])
        v = np.array(known, np.float32).reshape(len(z), -1)
        v[:, ~self._seen] = z
        return v.reshape(len(z), *self.event_shape)

    def simulate(self, x: np.ndarray, sites: Mapping[str, np.ndarray], *, seed: int) -> dict[str, np.ndarray]:
        """An empty mapping: there are no views."""
        return {}

    def result_groups(self) -> dict[str, dict[str, tuple[tuple[str, ...], np.ndarray]]]:
        """``observed_data`` with the clamped values, NaN elsewhere; empty if nothing is clamped."""
        if not self._seen.any():
            return {}
        shown = np.where(self._seen.reshape(self.event_shape), self._values, np.float32(np.nan))
        return {"observed_data": {CLAMPED: (("item", *self.dims[CLAMPED]), shown)}}
