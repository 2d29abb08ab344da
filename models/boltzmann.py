"""A restricted Boltzmann machine as a Pyro and a NumPyro model, to be sampled and clamped.

The visible units that are free are the latent site ``z``, the hidden ones the latent site ``h``, and what is left of -E is a
factor. Under q0 every unit is independent: a visible one as it is in the data (`RBM.base`), a hidden one 0 or 1 alike.
`BlockGibbs` walks from there. With Z_0 the partition function of q0, log Z_0 = sum_i log sum_v exp(b0_i v) + H log 2, its
evidence is Z / Z_0, of which `cogen.diagnostics.log_partition` gives log Z. Of a clamped machine, Z is the sum over what is
free.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from cogen.inference.items import CONTEXT, meet_items
from cogen.inference.seeds import check_ids
from cogen.models.cogenerator import event_dims
from cogen.models.frozen import frozen
from cogen.models.masks import clamping
from cogen.models.networks.restricted_boltzmann import RBM, GaussianRBM

CLAMPED = "clamped"
"""What the clamped values are called among the data of an item."""

Data = Mapping[str, Mapping[str, Any]]


class RBMModel:
    """The machine as a model: ``RBMModel(rbm).items(n)`` are n independent ones, ``clamp(mask, values)`` as many as there are
    values, whose seen entries stay.

    :param rbm: is copied as it is now.

    ``posterior["posterior"]["z"]`` holds the free visible units in the order in which they lie in v, ``h`` the hidden ones;
    x is v whole. Raises TypeError for another network.
    """

    def __init__(self, rbm: RBM) -> None:
        if not isinstance(rbm, RBM):
            raise TypeError(f"RBMModel takes a BernoulliRBM or a GaussianRBM, not {type(rbm).__name__}: of f use EnergyModel")
        self.rbm = frozen(rbm).cpu()
        self._seen = np.zeros(rbm.num_visible, bool)
        self._values = np.zeros((1, *rbm.event_shape), np.float32)
        self._ids: np.ndarray | None = None

    # --- items -------------------------------------------------------------------------------------------------

    def items(self, count: int) -> Self:
        """So many independent draws of v, nothing clamped. Raises ValueError for a count below one."""
        if count < 1:
            raise ValueError(f"items({count}): at least one")
        return self._with(np.zeros_like(self._seen), np.zeros((count, *self.event_shape), np.float32))

    def clamp(self, mask: Any, values: Any) -> Self:
        """The model of v whose entries where ``mask`` is True are ``values``, exactly; the others are its latent.

        :param mask: boolean, of the event's shape, True = stays; some entries and not all.
        :param values: (item, *event); what they hold elsewhere is ignored.

        Raises TypeError for a mask that is not boolean, ValueError for another shape, for one that leaves nothing free or
        clamps nothing, and for values that the visible units cannot have.
        """
        seen = clamping(mask, self.event_shape)
        given = np.asarray(values, np.float32)
        if given.shape[1:] != self.event_shape or not len(given):
            raise ValueError(f"clamp: the values have shape {given.shape}: (item, {', '.join(map(str, self.event_shape))})")
        given = np.where(seen, given, np.float32(0))
        self.rbm.check(torch.from_numpy(given))
        return self._with(seen.ravel(), given)

    def with_ids(self, ids: Any) -> Self:
        """This model whose items have these ids, on which random numbers depend (see `CoGenerator.with_ids`)."""
        other = copy.copy(self)
        other._ids = check_ids(ids)
        if len(other._ids) != len(self._values):
            raise ValueError(f"{len(other._ids)} ids for {len(self._values)} items")
        return other

    def of_items(self, data: Data) -> Self:
        """This model of other items, given what `item_data` would hold of them."""
        return self._with(self._seen, np.asarray(data[CONTEXT][CLAMPED]))

    def condition(self, **data: Any) -> Self:
        """Raises ValueError: visible units are clamped."""
        raise ValueError(f"{', '.join(data)}: a machine has no views; clamp visible units, as in model.clamp(mask, values)")

    @property
    def item_data(self) -> Data:
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

    def numpyro(self, data: Data | None = None) -> Any:
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
        reference = dist.Normal(base[free], rbm.scale) if isinstance(rbm, GaussianRBM) else dist.Bernoulli(logits=base[free])
        with numpyro.plate("item", len(known), dim=-1):
            z = numpyro.sample("z", reference.to_event(1))
            h = numpyro.sample("h", dist.Bernoulli(logits=jnp.zeros(rbm.num_hidden)).to_event(1))
            numpyro.factor("energy", self._factor(z, h, known, weight, visible_bias, hidden_bias, base, free))
        return z

    def _factor(self, z: Any, h: Any, known: Any, weight: Any, b: Any, c: Any, base: Any, free: Any) -> Any:
        """-E(v, h) less what q0 says of the free units, (item,): arrays of either library. Free and clamped units are never put
        together, which would cost more than their products."""
        rbm, seen = self.rbm, known[:, ~free]
        field = (z / rbm.scale) @ weight[:, free].T + (seen / rbm.scale) @ weight[:, ~free].T + c
        alone = rbm.shift_terms(z, b[free], base[free], rbm.scale).sum(-1)
        return alone + rbm.visible_terms(seen, b[~free], rbm.scale).sum(-1) + (h * field).sum(-1)

    # --- what the results need ---------------------------------------------------------------------------------

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.rbm.event_shape

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        event = event_dims(self.event_shape)
        return {"z": ("latent",), "h": ("unit",), "x": event, CLAMPED: event}

    @property
    def attributes(self) -> dict[str, Any]:
        """What the machine is; and log Z over the evidence."""
        volume = self.rbm.log_reference_partition(torch.from_numpy(~self._seen))
        return {"generator": type(self.rbm).__name__, "evidence_of": "Z / Z of the base rates", "log_reference_volume": volume}

    def decode(self, z: np.ndarray, **context: np.ndarray) -> np.ndarray:
        """v whole, (batch, *event_shape), of its free units (batch, free) and the ``clamped`` values of each row, by default
        those of the items in turn."""
        known = context.get(CLAMPED, self._values[np.arange(len(z)) % len(self._values)])
        v = np.array(known, np.float32).reshape(len(z), -1)
        v[:, ~self._seen] = z
        return v.reshape(len(z), *self.event_shape)

    def simulate(self, x: np.ndarray, sites: Mapping[str, np.ndarray], *, seed: int) -> dict[str, np.ndarray]:
        """Nothing: there are no views."""
        return {}

    def result_groups(self) -> dict[str, dict[str, tuple[tuple[str, ...], np.ndarray]]]:
        """``observed_data``: the clamped values, NaN elsewhere, where there are any."""
        if not self._seen.any():
            return {}
        shown = np.where(self._seen.reshape(self.event_shape), self._values, np.float32(np.nan))
        return {"observed_data": {CLAMPED: (("item", *self.dims[CLAMPED]), shown)}}
