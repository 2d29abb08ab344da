"""Checks of a Pyro model by one run of it; the counterpart of `targets.model_checks` and `targets.masked_sites`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from cogen.inference.items import site_dims
from cogen.inference.results import check_names
from cogen.inference.signatures import Model
from cogen.inference.targets.model_checks import check_observed, check_scale, runs_in_numpyro


def check_pyro_model(model: Model, args: tuple[object, ...] = (), kwargs: Mapping[str, object] | None = None) -> None:
    """Check a Pyro model by running it once. Warns of a scale that multiplies a whole density.

    :raises ValueError: for non-finite observed values, for sites that results cannot store, and for items inside a wrapper.
    :raises TypeError: for a NumPyro model.
    """
    error: Exception | None = None
    sites: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        try:
            nodes = poutine.trace(model).get_trace(*args, **(kwargs or {})).nodes
            sites = {n: s for n, s in nodes.items() if s["type"] == "sample" and not site_is_subsample(s)}
        except Exception as raised:
            error = raised
    if not sites and runs_in_numpyro(model, args, kwargs or {}):
        raise TypeError(
            "this is a NumPyro model, and the kernel is for Pyro models: pass a NumPyro kernel, such as AnnealedHMC() or"
            " numpyro.infer.NUTS, or write the model with pyro.sample"
        ) from error
    if error is not None:
        raise error
    latent = {}
    for name, site in sites.items():
        if not site["is_observed"]:
            latent[name] = site_dims(None, name, site["value"].ndim)
        elif not site["infer"].get("_deterministic", False):
            remedy = (
                "leave such values out, or hide them with obs_mask= or poutine.mask, and fill the hidden values by"
                " torch.nan_to_num, since they would make torch's gradients NaN"
            )
            check_observed(name, site["value"].numpy(force=True), None, remedy)
        if isinstance(site["scale"], torch.Tensor) and not site["infer"].get("_deterministic", False):
            with torch.no_grad():
                density = site["fn"].log_prob(site["value"])
            check_scale(name, tuple(site["scale"].shape), tuple(density.shape))
    check_names(latent, ("chain", "draw"))


class ProperUnobserved(Messenger):
    """Keeps the prior of values hidden by ``obs_mask``: see `cogen.inference.targets.masked_sites`."""

    def __enter__(self) -> Any:
        self._observed: set[str] = set()
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if msg["is_observed"]:
            self._observed.add(name)
        elif name.endswith("_unobserved") and f"{name.removesuffix('_unobserved')}_observed" in self._observed:
            if msg["mask"] is not None:
                scale = torch.as_tensor(msg["scale"])
                msg["scale"] = torch.where(torch.as_tensor(msg["mask"]), scale, torch.ones_like(scale))
            msg["mask"] = None
