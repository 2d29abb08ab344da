"""`CoGenerator`: a generator and views of what it makes, as one probabilistic program in Pyro and in NumPyro.

    z ~ prior (standard normal),    x = G(z),    y_v ~ likelihood_v(A_v(x))  for every view v.

Its sites are ``z``, the deterministic ``x`` and one site per view, in a plate over items. Any subset of views may be
conditioned, chosen at inference time; a conditioned model emits only those, since a view that nobody saw would only add
noise dimensions to the posterior.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from cogen.inference.items import meet_items
from cogen.models.frozen import frozen
from cogen.models.item_by_item import POINTS, check_function, check_module
from cogen.models.likelihoods import Bernoulli, Normal, need_pyro, to_numpyro
from cogen.models.observations import observe
from cogen.models.views import View

Data = Mapping[str, Mapping[str, Any]]
"""What is observed, by view: {"value": (item, *shape), "mask": (item, *shape) where the view hides any}."""


class CoGenerator:
    """A generator with views, to be conditioned and inferred.

    :param generator: a torch module (batch, latent_dim) -> (batch, *event_shape), or a scripted or exported one; or, for
        NumPyro only, a JAX function of the same kind.
    :param views: the views by name; names become sample sites.
    :param latent_dim: size of z; read off ``generator.config`` where it has one.
    :param prior: a Pyro distribution with event shape (latent_dim,); default standard normal.

    Modules are copied as they are now, and the copies are frozen, in evaluation mode: those given stay as they are and may be
    trained on, which this model does not follow (make another one then). An exported program computes what was exported.

    Generator and views are probed (`cogen.models.item_by_item`): each must be a function of one item, without random numbers
    or batch statistics, and with the gradient of its value. Such faults are detected on a few points, not excluded.

    Raises ValueError for a generator or a view that is no such function, a missing latent size, a view that does not fit x, a
    mask of another shape or one that shows everything, a noise scale of another shape, a prior that is discrete or of another
    shape, and a name that is taken ("z", "x"); TypeError for a prior that is not Pyro's, and for what cannot be called.
    """

    def __init__(
        self,
        generator: nn.Module | Callable,
        *,
        views: Mapping[str, View],
        latent_dim: int | None = None,
        prior: torch.distributions.Distribution | None = None,
    ) -> None:
        if isinstance(generator, type) or not callable(generator):
            raise TypeError(f"the generator is {generator!r}: give a torch module, an instance, or a JAX function")
        config = getattr(generator, "config", None)
        latent_dim = latent_dim if latent_dim is not None else getattr(config, "latent_dim", None)
        if latent_dim is None:
            raise ValueError("this generator carries no config: give CoGenerator(latent_dim=...)")
        if latent_dim < 1:
            raise ValueError(f"latent_dim={latent_dim}: a latent has at least one dimension")
        if prior is not None:
            need_pyro("prior", prior)
            if tuple(prior.batch_shape + prior.event_shape) != (latent_dim,):
                raise ValueError(f"the prior has shape {tuple(prior.batch_shape + prior.event_shape)}, z has ({latent_dim},)")
            if prior.batch_shape:
                raise ValueError("the prior is a batch of distributions over numbers; z is one event: use prior.to_event(1)")
            if prior.support is not None and prior.support.is_discrete:
                raise ValueError(f"the prior is discrete ({prior}): samplers follow gradients, so z is continuous")
        if not views:
            raise ValueError("a CoGenerator has at least one view: there would be nothing to condition on")
        self.generator = frozen(generator) if isinstance(generator, nn.Module) else generator
        self.latent_dim = latent_dim
        self.prior = prior
        self.value_range = getattr(config, "value_range", None)
        self.name = getattr(config, "name", "") or type(generator).__name__
        self._jax: dict[str, Callable] = {}
        x = self._probe()
        self._event_shape = tuple(x.shape[1:])
        self.views = {name: frozen(view) for name, view in views.items()}
        self.shapes = {name: self._check_view(name, view, x) for name, view in self.views.items()}
        self._data: dict[str, Mapping[str, Any]] = {}

    # --- conditioning ------------------------------------------------------------------------------------------

    def condition(self, **data: Any) -> Self:
        """This model given the data of some views, each an array (item, *shape) with the item axis first.

        Entries that a mask hides may hold anything, NaN included. Returns a model that emits only its conditioned
        views. Warns where a mask hides everything of an item (its posterior is the prior), and where the data of a view that
        keeps the range of x look like another range than the generator's (all in its upper half, as [0, 1] is of [-1, 1]).

        Raises ValueError for an unknown view, a wrong shape, a different number of items, values that are not finite where
        they are seen, and values far outside of the generator's ``value_range``.
        """
        conditioned = copy.copy(self)
        conditioned._data = dict(self._data)
        for name, value in data.items():
            if name not in self.views:
                raise ValueError(f"there is no view {name!r}; this model has {', '.join(self.views)}")
            conditioned._data[name] = observe(name, value, self.views[name], self.shapes[name], self.value_range)
        counts = {name: len(entry["value"]) for name, entry in conditioned._data.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"the views differ in their number of items: {counts}")
        return conditioned

    def of_items(self, data: Data) -> Self:
        """This model of other items, given what `item_data` would hold of them."""
        other = copy.copy(self)
        other._data = dict(data)
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Without the compiled functions, which no pickle holds: they are made again when they are needed."""
        return {**vars(self), "_jax": {}}

    @property
    def item_data(self) -> Data:
        return self._data

    @property
    def num_items(self) -> int:
        """Items conditioned on; 0 for an unconditioned model."""
        return _count(self._data) if self._data else 0

    # --- the two models ----------------------------------------------------------------------------------------

    def __call__(self, data: Data | None = None, *, num_items: int = 1) -> Tensor:
        """The Pyro model. ``data`` defaults to what the model is conditioned on; without any, ``num_items`` are drawn."""
        import pyro
        import pyro.distributions as dist

        self._need_torch("as a Pyro model")
        data = self._data if data is None else data
        items = _count(data) if data else num_items
        meet_items(items)
        prior: Any = self.prior
        if prior is None:
            prior = dist.Normal(torch.zeros(self.latent_dim), 1.0).to_event(1)
        scale: Any
        with pyro.plate("item", items, dim=-1):
            z = pyro.sample("z", prior)
            x = pyro.deterministic("x", self.generator(z), event_dim=len(self.event_shape))
            for name in data or self.views:
                view, seen = self.views[name], data.get(name, {})
                scale = view.likelihood.scale
                if isinstance(scale, torch.distributions.Distribution):
                    scale = pyro.sample(f"{name}_scale", scale)  # type: ignore[arg-type]
                    scale = scale.reshape(-1, *(1,) * len(self.shapes[name]))
                noise = view.likelihood.pyro(view(x), scale)
                mask = seen.get("mask", view.mask)
                if mask is not None:
                    noise = noise.mask(torch.as_tensor(np.asarray(mask)))
                obs = torch.as_tensor(np.asarray(seen["value"])) if seen else None
                _check_items(name, pyro.sample(name, noise.to_event(len(self.shapes[name])), obs=obs), items)
        return x

    def numpyro(self, data: Data | None = None, *, num_items: int = 1) -> Any:
        """The NumPyro model: the same sites and densities."""
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist

        data = self._data if data is None else data
        items = _count(data) if data else num_items
        meet_items(items)
        prior = dist.Normal(jnp.zeros(self.latent_dim), 1.0).to_event(1) if self.prior is None else to_numpyro(self.prior)
        with numpyro.plate("item", items, dim=-1):
            z = numpyro.sample("z", prior)
            x = numpyro.deterministic("x", self._in_jax("")(z))
            for name in data or self.views:
                view, seen = self.views[name], data.get(name, {})
                scale = view.likelihood.scale
                if isinstance(scale, torch.distributions.Distribution):
                    scale = numpyro.sample(f"{name}_scale", to_numpyro(scale))
                    scale = scale.reshape(-1, *(1,) * len(self.shapes[name]))
                elif isinstance(scale, Tensor):
                    scale = jnp.asarray(scale.numpy())
                noise = view.likelihood.numpyro(self._in_jax(name)(x), scale)
                mask = seen.get("mask", None if view.mask is None else view.mask.numpy())
                if mask is not None:
                    noise = noise.mask(jnp.asarray(mask))
                obs = jnp.asarray(seen["value"]) if seen else None
                _check_items(name, numpyro.sample(name, noise.to_event(len(self.shapes[name])), obs=obs), items)
        return x

    # --- what the results need ---------------------------------------------------------------------------------

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self._event_shape

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        image = ("channel", "height", "width")

        def named(shape: tuple[int, ...], prefix: str) -> tuple[str, ...]:
            base = image if len(shape) == 3 else ("column",) if len(shape) == 1 else [f"axis_{k}" for k in range(len(shape))]
            return tuple(prefix + dim for dim in base)

        views = {n: named(s, "" if s == self.event_shape else f"{n}_") for n, s in self.shapes.items()}
        return {"z": ("latent",), "x": named(self.event_shape, ""), **views}

    @property
    def attributes(self) -> dict[str, Any]:
        described = {
            "generator": self.name,
            "views": ", ".join(f"{n}: {type(self.views[n]).__name__}" for n in self._data),
        }
        return {**described, "value_range": list(self.value_range)} if self.value_range is not None else described

    def result_groups(self) -> dict[str, dict[str, tuple[tuple[str, ...], np.ndarray]]]:
        """``observed_data`` (NaN where hidden) and ``constant_data`` (masks) of the conditioned views."""
        observed, constant = {}, {}
        for name, seen in self._data.items():
            dims = ("item", *self.dims[name])
            observed[name] = (dims, np.where(seen["mask"], seen["value"], np.nan) if "mask" in seen else seen["value"])
            if "mask" in seen:
                constant[f"{name}_mask"] = (dims, seen["mask"])
        return {"observed_data": observed, "constant_data": constant}

    def decode(self, z: np.ndarray) -> np.ndarray:
        """x = G(z): (batch, latent_dim) -> (batch, *event_shape)."""
        if isinstance(self.generator, nn.Module):
            with torch.no_grad():
                return self.generator(torch.from_numpy(np.array(z, dtype=np.float32))).numpy()
        return np.asarray(self.generator(np.asarray(z, dtype=np.float32)))

    def simulate(self, x: np.ndarray, sites: Mapping[str, np.ndarray], *, seed: int) -> dict[str, np.ndarray]:
        """One draw of every view of each x (batch, *event): {view: (batch, *shape)}, nothing masked."""
        x_torch = torch.from_numpy(np.array(x, dtype=np.float32))
        drawn = {}
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for name, view in self.views.items():
                scale = view.likelihood.scale
                if f"{name}_scale" in sites:
                    scale = torch.from_numpy(np.array(sites[f"{name}_scale"])).reshape(-1, *(1,) * len(self.shapes[name]))
                elif isinstance(scale, torch.distributions.Distribution):
                    scale = scale.sample((len(x), *(1,) * len(self.shapes[name])))
                drawn[name] = view.likelihood.pyro(view(x_torch), scale).sample().numpy()
        return drawn

    def misfit(self, x: np.ndarray, sites: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """How far what is seen lies from A(x) for every x (..., item, *event): the root mean square of the residual in units of
        the noise scale, {view: (..., item)}, for the views with such a scale."""
        lead = x.shape[: x.ndim - len(self.event_shape)]
        x_torch = torch.from_numpy(np.array(x, dtype=np.float32)).flatten(0, len(lead) - 1)
        found = {}
        for name, seen in self._data.items():
            view = self.views[name]
            if not isinstance(view.likelihood, Normal):
                continue
            scale: Any = sites.get(f"{name}_scale", view.likelihood.scale)
            if f"{name}_scale" in sites:
                scale = np.asarray(scale).reshape(*lead, *(1,) * len(self.shapes[name]))
            with torch.no_grad():
                made = view(x_torch).numpy().reshape(*lead, *self.shapes[name])
            where = np.broadcast_to(seen.get("mask", np.True_), made.shape)
            square = np.where(where, ((seen["value"] - made) / np.asarray(scale)) ** 2, 0.0)
            shown = where.reshape(*lead, -1).sum(-1)
            found[name] = np.sqrt(square.reshape(*lead, -1).sum(-1) / np.maximum(shown, 1))
        return found

    # --- checks ------------------------------------------------------------------------------------------------

    def _probe(self) -> Tensor:
        """x of a few z of the prior, (batch, *event_shape), if the generator makes them item by item."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            z = torch.randn(POINTS, self.latent_dim) if self.prior is None else self.prior.sample((POINTS,))
        if isinstance(self.generator, nn.Module):
            return check_module(self.generator, z, "the generator", "z")
        return torch.from_numpy(check_function(self.generator, z.numpy(), "the generator", "z")).float()

    def _need_torch(self, use: str) -> None:
        if not isinstance(self.generator, nn.Module):
            raise TypeError(f"this generator is a JAX function: it cannot run {use}; use a NumPyro kernel")

    def _in_jax(self, view: str) -> Callable:
        """The generator ("") or a view as a JAX function, translated once."""
        import jax

        from cogen.models.jax_bridge.torch_to_jax import as_jax

        if view not in self._jax:
            with jax.ensure_compile_time_eval():  # the model may be met inside a trace
                if view:
                    self._jax[view] = as_jax(self.views[view], self.event_shape)
                elif isinstance(self.generator, nn.Module):
                    self._jax[view] = as_jax(self.generator, (self.latent_dim,))
                else:
                    self._jax[view] = self.generator
        return self._jax[view]

    def _check_view(self, name: str, view: View, x: Tensor) -> tuple[int, ...]:
        if name in ("z", "x", "item"):
            raise ValueError(f"view {name!r}: this name is taken by the model's own site")
        try:
            shape = view.shape(self.event_shape)
        except ValueError as error:
            raise ValueError(f"view {name!r}: {error}") from None
        check_module(view, x, f"view {name!r}", "x")
        self._check_noise(name, view, shape)
        if view.mask is not None:
            if tuple(view.mask.shape) != shape and tuple(view.mask.shape[1:]) != shape:
                raise ValueError(f"view {name!r}: mask has shape {tuple(view.mask.shape)}, the generator makes {shape}")
            if not view.holes and bool(view.mask.reshape(-1, int(np.prod(shape))).all(dim=1).any()):
                raise ValueError(
                    f"view {name!r}: the mask shows everything, so nothing is left to complete; to reconstruct a whole x"
                    " use views.Identity"
                )
        return shape

    def _check_noise(self, name: str, view: View, shape: tuple[int, ...]) -> None:
        noise = view.likelihood
        if isinstance(noise, Normal) and isinstance(noise.scale, Tensor):
            given = tuple(noise.scale.shape)
            if len(given) > len(shape) or any(a not in (1, b) for a, b in zip(given[::-1], shape[::-1], strict=False)):
                raise ValueError(
                    f"view {name!r}: the noise scale has shape {given}, the view shows {shape} of an item: give a number, or a"
                    " tensor that broadcasts to this shape"
                )
        if isinstance(noise, Bernoulli) and view.keeps_range and self.value_range is not None:
            (low, high), (least, greatest) = noise.value_range, self.value_range
            if least < low or greatest > high:
                raise ValueError(
                    f"view {name!r}: Bernoulli maps A(x) from [{low:g}, {high:g}] to probabilities, and the generator makes"
                    f" values in [{least:g}, {greatest:g}]: give Bernoulli(value_range=({least:g}, {greatest:g}))"
                )


def _count(data: Data) -> int:
    return next(iter(data.values()))["value"].shape[0]


def _check_items(name: str, value: Any, items: int) -> None:
    if value.shape[0] != items:
        raise ValueError(
            f"view {name!r} is conditioned on {value.shape[0]} items while the model draws {items}: under a handler alone they"
            f" would be observations of the same latent. Use model.condition({name}=...), and give the conditioned model to"
            " cogen.inference.infer"
        )
