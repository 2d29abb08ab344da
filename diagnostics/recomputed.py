"""Quantities computed from a stored posterior and its model: x of every draw, and the log-likelihood of every observation.

>>> from cogen.diagnostics import decoded, with_log_likelihood
>>> x = decoded(posterior, seen)  # doctest: +SKIP
>>> arviz.loo(with_log_likelihood(posterior, seen, item=0))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import xarray as xr

from cogen.diagnostics.groups import all_groups, assemble, group
from cogen.inference.items import ItemModel
from cogen.inference.signatures import ArvizObject


class Decoder(ItemModel, Protocol):
    """A model of items with latents z, such as a `CoGenerator`."""

    @property
    def num_items(self) -> int: ...

    @property
    def latent_dim(self) -> int: ...


class Recomputed(Decoder, Protocol):
    """A `Decoder` whose observations have a likelihood given z."""

    def of_items(self, data: Mapping[str, Any]) -> Recomputed: ...

    def log_likelihood(self, x: np.ndarray, sites: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]: ...


def decoded(posterior: ArvizObject, model: Decoder) -> xr.DataArray:
    """x = G(z, c) of every draw, with the dims (chain, draw, item, *event).

    :param posterior: what `infer` returned, also if it was read from a file.
    :param model: the conditioned `CoGenerator` (or another model of items) of the run.
    :raises ValueError: for a posterior of another model.
    """
    from cogen.inference.items import context_rows

    sites = _sites(posterior, model)
    chains, draws, items = sites["z"].shape[:3]
    rows = {name: values.reshape(-1, *values.shape[3:]) for name, values in sites.items()}
    x = model.decode(rows["z"], **context_rows(model, rows, np.tile(np.arange(items), chains * draws)))
    coordinates = group(posterior, "posterior")["z"].coords
    kept = {name: coordinates[name] for name in ("chain", "draw", "item")}
    dims = ("chain", "draw", "item", *model.dims["x"])
    return xr.DataArray(x.reshape(chains, draws, items, *x.shape[1:]), dims=dims, coords=kept, name="x")


def with_log_likelihood(posterior: ArvizObject, model: Recomputed, item: int) -> ArvizObject:
    """The run of one item with a group ``log_likelihood`` for ``arviz.loo`` and ``arviz.compare``.

    The group has log p(y_i | z) of every seen entry by view, with the dims (chain, draw, <view>_seen). Chains of a weighted run
    are resampled by their weights first, since ArviZ does not use weights.

    :param posterior: what `infer` returned, also if it was read from a file.
    :param model: the conditioned `CoGenerator` of the run.
    :param item: position of the item.
    :raises ValueError: for a posterior of another model, and for an item that does not exist.
    """
    from cogen.diagnostics.arviz_plots import one_item
    from cogen.inference.items import context_rows, take_items

    _sites(posterior, model)
    chosen = one_item(posterior, item, None)
    alone = model.of_items(take_items(model.item_data, np.array([item])))
    draws = {str(name): values.values for name, values in group(chosen, "posterior").data_vars.items()}
    chains, count = draws["z"].shape[:2]
    rows = {n: v.reshape(chains * count, *v.shape[2:]) for n, v in draws.items() if n in model.dims and n != "x"}
    x = model.decode(rows["z"], **context_rows(alone, rows, np.zeros(len(rows["z"]), int)))
    found = {
        name: (("chain", "draw", f"{name}_seen"), values.reshape(chains, count, -1))
        for name, values in alone.log_likelihood(x, rows).items()
    }
    sizes = {dim: size for dims, values in found.values() for dim, size in zip(dims, values.shape, strict=True)}
    likelihood = xr.Dataset(found, coords={dim: np.arange(size) for dim, size in sizes.items()})
    return assemble(chosen, {**all_groups(chosen), "log_likelihood": likelihood})


def _sites(posterior: ArvizObject, model: Decoder) -> dict[str, np.ndarray]:
    """The draws of the model's latents, (chain, draw, item, ...) each."""
    draws = group(posterior, "posterior")
    if "z" not in draws or "item" not in draws["z"].dims:
        raise ValueError("the posterior has no latents 'z' of items: it is not a run of a CoGenerator")
    if draws.sizes["item"] != model.num_items:
        raise ValueError(
            f"the posterior has {draws.sizes['item']} items and the model {model.num_items}: give the conditioned model of this"
            " run"
        )
    z = draws["z"].transpose("chain", "draw", "item", ...)
    if z.shape[-1] != model.latent_dim:
        raise ValueError(
            f"the posterior has {z.shape[-1]} latents and the model {model.latent_dim}: give the model of this run"
        )
    names = [str(name) for name in draws.data_vars if name in model.dims and name != "x"]
    return {name: draws[name].transpose("chain", "draw", "item", ...).values for name in names}
