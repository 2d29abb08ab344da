"""`CoGenerator`: a generator and views of what it makes, as one probabilistic program in Pyro and in NumPyro.

    z ~ prior (standard normal),    x = G(z, c),    y_v ~ likelihood_v(A_v(x))  for every view v.

Its sites are ``z``, the deterministic ``x`` and one site per view, in a plate over items. Any subset of views may be
conditioned, chosen at inference time; a conditioned model emits only those, since a view that nobody saw would only add
noise dimensions to the posterior. The contexts c (`cogen.models.contexts`) are inputs of the generator, given item by item;
a relaxed class adds the latent site ``<name>_logits`` and the deterministic ``<name>``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from cogen.inference.items import CONTEXT, count_items, meet_items, take_items
from cogen.inference.seeds import check_ids
from cogen.inference.unknown_contexts import Expansion
from cogen.models.contexts import Classes, Context, contexts_of, taken_by
from cogen.models.frozen import frozen
from cogen.models.given_contexts import LOGITS, GivenContexts
from cogen.models.item_by_item import POINTS, check_function, check_module
from cogen.models.likelihoods import Bernoulli, Categorical, Normal, need_pyro, to_numpyro
from cogen.models.observations import observe
from cogen.models.views import View

Data = Mapping[str, Mapping[str, Any]]
"""What is observed, by view: {"value": (item, *shape), "mask": (item, *shape) where the view hides any}; and under "context"
the given contexts by name, (item, *shape)."""

_TAKEN = ("z", "x", "item", CONTEXT)


class CoGenerator:
    """A generator with views, to be conditioned and inferred.

    :param generator: a torch module (batch, latent_dim) -> (batch, *event_shape), or a scripted or exported one; or, for
        NumPyro only, a JAX function of the same kind.
    :param views: the views by name; names become sample sites.
    :param contexts: further inputs of the generator by name, `Classes` or `Array`: it is then called as ``generator(z,
        label=weights, ...)``, and a view whose ``forward`` names a context gets it too. Read off ``generator.config`` where it
        has them.
    :param latent_dim: size of z; read off ``generator.config`` where it has one.
    :param prior: a Pyro distribution with event shape (latent_dim,); default standard normal.

    Modules are copied as they are now, and the copies are frozen, in evaluation mode: those given stay as they are and may be
    trained on, which this model does not follow (make another one then). An exported program computes what was exported.

    Generator and views are probed (`cogen.models.item_by_item`): each must be a function of one item, without random numbers
    or batch statistics, and with the gradient of its value. Such faults are detected on a few points, not excluded.

    Raises ValueError for a generator or a view that is no such function, a missing latent size, a view that does not fit x, a
    mask of another shape or one that shows everything, a noise scale of another shape, a prior that is discrete or of another
    shape, and a name that is taken ("z", "x", "context", and "<view>_scale" where the scale of that view is sampled); TypeError
    for a prior that is not Pyro's, for a generator that cannot be called, and for views that are not `View` by name.
    """

    def __init__(
        self,
        generator: nn.Module | Callable,
        *,
        views: Mapping[str, View],
        contexts: Mapping[str, Context] | None = None,
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
            hint = "; a generator of its contexts alone has none to infer: train one with a z, as by --latent-dim 8"
            raise ValueError(f"latent_dim={latent_dim}: a latent has at least one dimension{'' if latent_dim else hint}")
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
        _check_views(views)
        self._contexts = GivenContexts(contexts_of(getattr(config, "contexts", {}) if contexts is None else contexts))
        self._contexts.check_names((*_TAKEN, *views, *(f"{view}_{part}" for view in views for part in ("scale", "mask"))))
        self.generator = frozen(generator) if isinstance(generator, nn.Module) else generator
        self.latent_dim = latent_dim
        self.prior = prior
        self.value_range = getattr(config, "value_range", None)
        self.name = getattr(config, "name", "") or type(generator).__name__
        self._jax: dict[str, Callable] = {}
        x = self._probe()
        self._event_shape = tuple(x.shape[1:])
        self.views = {name: frozen(view) for name, view in views.items()}
        self._takes = {name: taken_by(view, self.contexts) for name, view in self.views.items()}
        self.shapes = {name: self._check_view(name, view, x) for name, view in self.views.items()}
        self._data: dict[str, Mapping[str, Any]] = {}
        self._ids: np.ndarray | None = None

    # --- conditioning ------------------------------------------------------------------------------------------

    def condition(self, **data: Any) -> Self:
        """This model given the data of some views, each an array (item, *shape) with the item axis first.

        Entries that a mask hides may hold anything, NaN included. Returns a model that emits only its conditioned
        views. Warns where a mask hides everything of an item (its posterior is the prior), and where the data of a view that
        keeps the range of x look like another range than the generator's (all in its upper half, as [0, 1] is of [-1, 1]).

        Raises ValueError for an unknown view, a context (`given` takes those), a wrong shape, a different number of items,
        values that are not finite where they are seen, and values far outside of the generator's ``value_range``.
        """
        conditioned = copy.copy(self)
        conditioned._data = dict(self._data)
        for name, value in data.items():
            if name in self.contexts:
                raise ValueError(
                    f"{name!r} is a context, and only views are conditioned: give it, as in model.given({name}=...)"
                )
            if name not in self.views:
                raise ValueError(f"there is no view {name!r}; this model has {', '.join(self.views)}")
            conditioned._data[name] = observe(name, value, self.views[name], self.shapes[name], self.value_range)
        conditioned._check_counts()
        return conditioned

    def with_ids(self, ids: Any) -> Self:
        """This model whose items have these ids, (item,) different integers in [0, 2^63), on which random numbers depend (with
        the seed and the chain): some items of a larger set, run with their ids, give the draws that they give there.
        Default: 0 to n - 1.

        Raises ValueError for ids out of range, repeated, or of another number of items.
        """
        copied = copy.copy(self)
        copied._ids = check_ids(ids)
        copied._check_counts()
        return copied

    def of_items(self, data: Data) -> Self:
        """This model of other items, given what `item_data` would hold of them."""
        other = copy.copy(self)
        other._data = {name: seen for name, seen in data.items() if name != CONTEXT}
        other._contexts = GivenContexts(self.contexts, dict(data.get(CONTEXT, {})))
        other._ids = None
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Without the compiled functions, which no pickle holds: they are made again when they are needed."""
        return {**vars(self), "_jax": {}}

    @property
    def ids(self) -> np.ndarray:
        """(item,)"""
        return np.arange(self.num_items) if self._ids is None else self._ids

    def given(self, **contexts: Any) -> Self:
        """This model given some of its contexts, item by item: the classes (item,) of a `Classes`, integers from 0 on or names;
        the values (item, *shape) of an `Array`. Returns a copy; what was given before and is not named here stays.

        A context that may be unknown and is given is known.

        Raises ValueError for an unknown context, a view (`condition` takes those), a wrong shape or dtype, a class out of
        range, values that are not finite or outside of their range, and a number of items that is not that of the views.
        """
        if views := [name for name in contexts if name in self.views]:
            raise ValueError(f"{views[0]!r} is a view, and only contexts are given: fix it as model.condition({views[0]}=...)")
        copied = copy.copy(self)
        copied._contexts = self._contexts.give(contexts)
        copied._check_counts()
        return copied

    def expand_unknown(self) -> Expansion | None:
        """This model once for every combination of the classes that are unknown and declared "exact"; None where there are
        none, or nothing is observed.

        Raises ValueError for ids of which a combination would have an id beyond 2^63.
        """
        unknown = self._contexts.unknown("exact")
        if not unknown or not self._data:
            return None
        classes = self._contexts.combinations()
        combinations = len(next(iter(classes.values())))
        if (largest := int(self.ids.max())) >= (limit := 2**63 // combinations):
            raise ValueError(
                f"id {largest}: every combination of unknown classes has an id of its own in [0, 2^63), and there are"
                f" {combinations} of an item, so ids lie below {limit}: give smaller ones, as in model.with_ids(range(n))"
            )
        rows = np.repeat(np.arange(self.num_items), combinations)
        expanded = copy.copy(self)
        expanded._ids = (self.ids.astype(np.int64)[:, None] * combinations + np.arange(combinations)).ravel()
        expanded._data = take_items(self._data, rows)
        expanded._contexts = GivenContexts(self.contexts, take_items(self._contexts.given, rows))
        expanded = expanded.given(**{name: np.tile(chosen, self.num_items) for name, chosen in classes.items()})
        log_priors = {name: context.log_prior for name, context in unknown.items()}
        return Expansion(expanded, classes, log_priors, self.ids)

    @property
    def contexts(self) -> Mapping[str, Context]:
        """The contexts that the generator takes, as they were declared."""
        return self._contexts.declared

    @property
    def item_data(self) -> Data:
        """The data of the conditioned views, and under "context" the given contexts."""
        return {**self._data, CONTEXT: self._contexts.given} if self._contexts.given else self._data

    @property
    def observed(self) -> Data:
        """The data of the conditioned views alone."""
        return self._data

    @property
    def num_items(self) -> int:
        """Items conditioned on or given contexts; 0 for a model without either."""
        return count_items(self.item_data) if self.item_data else 0

    # --- the two models ----------------------------------------------------------------------------------------

    def __call__(self, data: Data | None = None, *, num_items: int = 1) -> Tensor:
        """The Pyro model. ``data`` defaults to what the model is conditioned on; without any, ``num_items`` are drawn."""
        import pyro
        import pyro.distributions as dist

        self._need_torch("as a Pyro model")
        data = self.item_data if data is None else data
        known = data.get(CONTEXT, {})
        relaxed = self._contexts.split(known)
        items = count_items(data) if data else num_items
        meet_items(items if set(data) - {CONTEXT} else 1)  # of what is not observed, many may be drawn
        prior: Any = self.prior
        if prior is None:
            prior = dist.Normal(torch.zeros(self.latent_dim), 1.0).to_event(1)
        scale: Any
        with pyro.plate("item", items, dim=-1):
            z = pyro.sample("z", prior)
            context = {name: torch.as_tensor(np.asarray(values)) for name, values in known.items()}
            for name, values in context.items():
                if pyro.deterministic(name, values, event_dim=values.ndim - 1) is not values:
                    raise ValueError(f"{name!r} is a context, and pyro.condition fixes views: use model.given({name}=...)")
            for name, count in relaxed.items():
                logits = pyro.sample(name + LOGITS, dist.Normal(torch.zeros(count), 1.0).to_event(1))
                context[name] = pyro.deterministic(name, logits.softmax(-1), event_dim=1)
            x = pyro.deterministic("x", self.generator(z, **context), event_dim=len(self.event_shape))
            for name in [n for n in data if n != CONTEXT] or self.views:
                view, seen = self.views[name], data.get(name, {})
                scale = view.likelihood.scale
                if isinstance(scale, torch.distributions.Distribution):
                    scale = pyro.sample(f"{name}_scale", scale)  # type: ignore[arg-type]
                    scale = scale.reshape(-1, *(1,) * len(self.shapes[name]))
                noise = view.likelihood.pyro(view(x, **{n: context[n] for n in self._takes[name]}), scale)
                mask = seen.get("mask", view.mask)
                if mask is not None:
                    noise = noise.mask(torch.as_tensor(np.asarray(mask)))
                obs = torch.as_tensor(np.asarray(seen["value"])) if seen else None
                _check_items(name, pyro.sample(name, noise.to_event(len(self.shapes[name])), obs=obs), items)
        return x

    def numpyro(self, data: Data | None = None, *, num_items: int = 1) -> Any:
        """The NumPyro model: the same sites and densities."""
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist

        data = self.item_data if data is None else data
        known = data.get(CONTEXT, {})
        relaxed = self._contexts.split(known)
        items = count_items(data) if data else num_items
        meet_items(items if set(data) - {CONTEXT} else 1)  # of what is not observed, many may be drawn
        prior = dist.Normal(jnp.zeros(self.latent_dim), 1.0).to_event(1) if self.prior is None else to_numpyro(self.prior)
        with numpyro.plate("item", items, dim=-1):
            z = numpyro.sample("z", prior)
            context = {name: numpyro.deterministic(name, jnp.asarray(values)) for name, values in known.items()}
            for name, count in relaxed.items():
                logits = numpyro.sample(name + LOGITS, dist.Normal(jnp.zeros(count), 1.0).to_event(1))
                context[name] = numpyro.deterministic(name, jax.nn.softmax(logits))
            x = numpyro.deterministic("x", self._in_jax("")(z, **context))
            for name in [n for n in data if n != CONTEXT] or self.views:
                view, seen = self.views[name], data.get(name, {})
                scale = view.likelihood.scale
                if isinstance(scale, torch.distributions.Distribution):
                    scale = numpyro.sample(f"{name}_scale", to_numpyro(scale))
                    scale = scale.reshape(-1, *(1,) * len(self.shapes[name]))
                elif isinstance(scale, Tensor):
                    scale = jnp.asarray(scale.numpy())
                shown = self._in_jax(name)(x, **{n: context[n] for n in self._takes[name]})
                noise = view.likelihood.numpyro(shown, scale)
                mask = seen.get("mask", None if view.mask is None else view.mask.numpy())
                if mask is not None:
                    noise = noise.mask(jnp.asarray(mask))
                obs = jnp.asarray(seen["value"]) if seen else None
                _check_items(name, numpyro.sample(name, noise.to_event(len(self.shapes[name])), obs=obs), items)
        return x

    # --- what the results need ---------------------------------------------------------------------------------

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one x."""
        return self._event_shape

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the dimensions of one item, by site, view and context."""
        arrays = {n: c.shape for n, c in self.contexts.items() if not isinstance(c, Classes)}
        shown = {n: event_dims(s, "" if s == self.event_shape else f"{n}_") for n, s in {**self.shapes, **arrays}.items()}
        return {"z": ("latent",), "x": event_dims(self.event_shape), **shown, **self._contexts.dims()}

    @property
    def attributes(self) -> dict[str, Any]:
        """What results remember of the model: generator, conditioned views, contexts and value range."""
        described: dict[str, Any] = {
            "generator": self.name,
            "views": ", ".join(f"{n}: {type(self.views[n]).__name__}" for n in self._data),
        }
        exponents = {n: e for n in self._data if (e := getattr(self.views[n].likelihood, "exponent", 1.0)) != 1.0}
        if exponents:  # the evidence is then that of a power likelihood
            described["likelihood_exponents"] = ", ".join(f"{n}: {e:g}" for n, e in exponents.items())
        described |= self._contexts.attributes()
        return {**described, "value_range": list(self.value_range)} if self.value_range is not None else described

    def result_groups(self) -> dict[str, dict[str, tuple[tuple[str, ...], np.ndarray]]]:
        """``observed_data`` (NaN where hidden) and ``constant_data`` (masks, and what contexts were given) of the items."""
        observed, constant = {}, {}
        for name, seen in self._data.items():
            dims = ("item", *self.dims[name])
            observed[name] = (dims, np.where(seen["mask"], seen["value"], np.nan) if "mask" in seen else seen["value"])
            if "mask" in seen:
                constant[f"{name}_mask"] = (dims, seen["mask"])
        for name, values in self._contexts.given.items():
            constant[name] = (("item", *self.dims[name]), self.contexts[name].recorded(values))
        return {"observed_data": observed, "constant_data": constant}

    def decode(self, z: np.ndarray, **context: np.ndarray) -> np.ndarray:
        """x = G(z, c), (batch, *event_shape), of latents (batch, latent_dim) and contexts (batch, *shape) by name, as the
        generator takes them. A context that is left out is the given one, the model's items in turn, again and again.

        Raises ValueError for a context that is neither, and for rows that are no whole number of such rounds.
        """
        if unknown := [name for name in context if name not in self.contexts]:
            raise ValueError(f"there is no context {unknown[0]!r}; this model has {', '.join(self.contexts) or 'none'}")
        rows = self._contexts.rows(len(z), context, self.contexts)
        z = np.array(z, dtype=np.float32)
        if isinstance(self.generator, nn.Module):
            with torch.no_grad():
                return self.generator(torch.from_numpy(z), **_tensors(rows)).numpy()
        return np.asarray(self.generator(z, **rows))

    def latent_contexts(self, sites: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The contexts that are inferred, of the values of the sites: weights (..., class), of a relaxed class from its logits,
        of another from the class that ``sites`` hold."""
        return self._contexts.of_sites(sites)

    def simulate(self, x: np.ndarray, sites: Mapping[str, np.ndarray], *, seed: int) -> dict[str, np.ndarray]:
        """One draw of every view of each x (batch, *event): {view: (batch, *shape)}, nothing masked. ``sites`` are the rows'
        latents, and their contexts; without those, the given ones as in `decode`."""
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
                context = _tensors(self._contexts.rows(len(x), sites, self._takes[name]))
                drawn[name] = view.likelihood.pyro(view(x_torch, **context), scale).sample().numpy()
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
            takes = self._takes[name]
            passed = {n: np.reshape(sites[n], (-1, *self.contexts[n].shape)) for n in takes if n in sites}
            context = _tensors(self._contexts.rows(len(x_torch), passed, takes))
            with torch.no_grad():
                made = view(x_torch, **context).numpy().reshape(*lead, *self.shapes[name])
            where = np.broadcast_to(seen.get("mask", np.True_), made.shape)
            square = np.where(where, ((seen["value"] - made) / np.asarray(scale)) ** 2, 0.0)
            shown = where.reshape(*lead, -1).sum(-1)
            found[name] = np.sqrt(square.reshape(*lead, -1).sum(-1) / np.maximum(shown, 1))
        return found

    def log_likelihood(self, x: np.ndarray, sites: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """log p(y_i | x) of every entry that is seen, of a model of one item, for every x (row, *event): {view: (row, entry)}.
        ``sites`` are the rows' latents, and their contexts; without those, the given ones as in `decode`."""
        if self.num_items != 1:
            raise ValueError(f"this model has {self.num_items} items; take one, as by of_items")
        x_torch = torch.from_numpy(np.array(x, dtype=np.float32))
        found = {}
        for name, seen in self._data.items():
            view = self.views[name]
            scale: Any = view.likelihood.scale
            if f"{name}_scale" in sites:
                scale = torch.from_numpy(np.array(sites[f"{name}_scale"])).reshape(-1, *(1,) * len(self.shapes[name]))
            context = _tensors(self._contexts.rows(len(x), sites, self._takes[name]))
            value = torch.from_numpy(np.nan_to_num(seen["value"]))
            with torch.no_grad():
                each = view.likelihood.pyro(view(x_torch, **context), scale).log_prob(value).numpy()
            where = np.broadcast_to(seen.get("mask", np.True_), seen["value"].shape)[0]
            found[name] = each[:, where]
        return found

    # --- checks ------------------------------------------------------------------------------------------------

    def _check_counts(self) -> None:
        of_views = {name: len(entry["value"]) for name, entry in self._data.items()}
        counts = {**of_views, **{name: len(values) for name, values in self._contexts.given.items()}}
        if self._ids is not None:
            counts["ids"] = len(self._ids)
        if len(set(counts.values())) > 1:
            what = "the views and contexts" if self._contexts.given else "the views"
            raise ValueError(f"{what} differ in their number of items: {counts}")

    def _probe(self) -> Tensor:
        """x of a few z of the prior, (batch, *event_shape), if the generator makes them item by item."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            z = torch.randn(POINTS, self.latent_dim) if self.prior is None else self.prior.sample((POINTS,))
            function, points, called, context = self._contexts.probe(self.generator, z)
        if isinstance(self.generator, nn.Module):
            return check_module(function, points, "the generator", called, context)
        given = {name: values.numpy() for name, values in context.items()}
        return torch.from_numpy(check_function(function, points.numpy(), "the generator", called, given)).float()

    def _need_torch(self, use: str) -> None:
        if not isinstance(self.generator, nn.Module):
            raise TypeError(f"this generator is a JAX function: it cannot run {use}; use a NumPyro kernel")

    def _in_jax(self, view: str) -> Callable:
        """The generator ("") or a view as a JAX function, translated once."""
        import jax

        from cogen.models.jax_bridge.torch_to_jax import as_jax

        if view not in self._jax:
            with jax.ensure_compile_time_eval():  # the model may be met inside a trace
                shapes = {name: context.shape for name, context in self.contexts.items()}
                if view:
                    of_view = {name: shapes[name] for name in self._takes[view]}
                    self._jax[view] = as_jax(self.views[view], self.event_shape, of_view)
                elif isinstance(self.generator, nn.Module):
                    self._jax[view] = as_jax(self.generator, (self.latent_dim,), shapes)
                else:
                    self._jax[view] = self.generator
        return self._jax[view]

    def _check_view(self, name: str, view: View, x: Tensor) -> tuple[int, ...]:
        context = {n: self.contexts[n].points(POINTS) for n in self._takes[name]}
        try:
            shape = None if context else view.shape(self.event_shape)
        except ValueError as error:
            raise ValueError(f"view {name!r}: {error}") from None
        shown = check_module(view, x, f"view {name!r}", "x", context)
        shape = tuple(shown.shape[1:]) if shape is None else shape
        try:
            shape = view.likelihood.data_shape(shape) if isinstance(view.likelihood, Categorical) else shape
        except ValueError as error:
            raise ValueError(f"view {name!r}: {error}") from None
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


def event_dims(shape: tuple[int, ...], prefix: str = "") -> tuple[str, ...]:
    """Names of the dimensions of an event in results."""
    image = ("channel", "height", "width")
    named = image if len(shape) == 3 else ("column",) if len(shape) == 1 else [f"axis_{k}" for k in range(len(shape))]
    return tuple(prefix + dim for dim in named)


def _check_views(views: Any) -> None:
    if not isinstance(views, Mapping):
        kind = type(views).__name__
        raise TypeError(f"views is of type {kind}: give them by name, as in views={{'seen': views.Identity(scale=0.1)}}")
    for name, view in views.items():
        if not isinstance(view, View):
            raise TypeError(
                f"view {name!r} is of {type(view)}: give an instance of cogen.models.views.View, such as"
                " views.Identity(scale=0.1)"
            )
    scales = {n: view.likelihood.scale for n, view in views.items()}
    sampled = [f"{n}_scale" for n, scale in scales.items() if isinstance(scale, torch.distributions.Distribution)]
    for name in views:
        if name in (*_TAKEN, *sampled):
            raise ValueError(f"view {name!r}: this name is taken by the model's own site: rename the view")


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def _check_items(name: str, value: Any, items: int) -> None:
    if value.shape[0] != items:
        raise ValueError(
            f"view {name!r} is conditioned on {value.shape[0]} items while the model draws {items}: under a handler alone they"
            f" would be observations of the same latent. Use model.condition({name}=...), and give the conditioned model to"
            " cogen.inference.infer"
        )
