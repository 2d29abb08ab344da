"""`CoGenerator`: a generator and views of its output, as one probabilistic program in Pyro and in NumPyro.

    z ~ prior (standard normal),    x = G(z, c),    y_v ~ likelihood_v(A_v(x))  for every view v.

Its sites are ``z``, the deterministic ``x`` and one site per view, in a plate over items. Any subset of the views can be
conditioned at inference time. A conditioned model has only these views, because an unobserved view would only add noise
dimensions to the posterior. The contexts c (`cogen.models.contexts`) are inputs of the generator, given for each item; a
relaxed class adds the latent site ``<name>_logits`` and the deterministic site ``<name>``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from cogen.inference.items import CONTEXT, count_items, meet_items, take_items
from cogen.inference.seeds import check_ids
from cogen.inference.signatures import ArrayLike, Attribute
from cogen.inference.unknown_contexts import Expansion
from cogen.models.contexts import Classes, Context, check_stored, contexts_of, taken_by
from cogen.models.frozen import frozen
from cogen.models.given_contexts import LOGITS, GivenContexts
from cogen.models.item_by_item import POINTS, check_function, check_module
from cogen.models.likelihoods import need_pyro, to_numpyro
from cogen.models.observations import observe
from cogen.models.pixels.censored import Censored
from cogen.models.view_checks import check_views, shape_of_view
from cogen.models.views import View

if TYPE_CHECKING:
    import jax

ItemData: TypeAlias = Mapping[str, Mapping[str, np.ndarray]]
"""The data of all items: `Data` of NumPy arrays."""

Data: TypeAlias = "Mapping[str, Mapping[str, np.ndarray | jax.Array]]"
"""Data by view: {"value": (item, *shape), "mask": (item, *shape) if the view hides entries}; and under "context" the given
contexts by name, (item, *shape)."""

_TAKEN = ("z", "x", "item", CONTEXT)


class CoGenerator:
    """A generator with views, as a model for posterior inference.

    Modules are copied, and the copies are frozen, in evaluation mode: later training of the originals does not change this
    model. An exported program computes what was exported.

    Generator and views are probed (`cogen.models.item_by_item`): each must be a deterministic function of one item, without
    batch statistics, whose gradient is the gradient of its value. The probes test a few points, and prove nothing.

    :param generator: a torch module (batch, latent_dim) -> (batch, *event_shape), possibly scripted or exported; or, for
        NumPyro only, a JAX function of the same kind.
    :param views: the views by name; names become sample sites.
    :param contexts: further inputs of the generator by name, `Classes` or `Array`. The generator is called as ``generator(z,
        label=weights, ...)``, and a view receives the contexts that its ``forward`` names. Default those of
        ``generator.config``.
    :param latent_dim: size of z; default that of ``generator.config``.
    :param prior: a Pyro distribution with event shape (latent_dim,); default standard normal.
    :raises TypeError: for a prior that is not a Pyro distribution, a generator that is not callable, and views that are not a
        mapping of names to `View` instances.
    :raises ValueError: for a generator or view that fails the probes, a missing latent size, a context of another shape than
        in ``generator.config``, a view that does not fit x, a mask
        of another shape or one that shows everything, a noise scale of another shape, a prior that is discrete or of another
        shape, and a reserved name ("z", "x", "item", "context", and "<view>_scale" if the scale of that view is sampled).
    """

    def __init__(
        self,
        generator: nn.Module | Callable[..., jax.Array],
        *,
        views: Mapping[str, View],
        contexts: Mapping[str, Context] | None = None,
        latent_dim: int | None = None,
        prior: torch.distributions.Distribution | None = None,
    ) -> None:
        if isinstance(generator, type) or not callable(generator):
            raise TypeError(f"the generator is {generator!r}: give an instance of a torch module, or a JAX function")
        config = getattr(generator, "config", None)
        latent_dim = latent_dim if latent_dim is not None else getattr(config, "latent_dim", None)
        if latent_dim is None:
            raise ValueError("the generator has no config: give CoGenerator(latent_dim=...)")
        if latent_dim < 1:
            hint = "; a generator without z has nothing to infer: train one with --latent-dim 8, for example"
            raise ValueError(f"latent_dim={latent_dim}: the latent needs at least one dimension{'' if latent_dim else hint}")
        if prior is not None:
            need_pyro("prior", prior)
            if tuple(prior.batch_shape + prior.event_shape) != (latent_dim,):
                raise ValueError(f"the prior has shape {tuple(prior.batch_shape + prior.event_shape)}, z has ({latent_dim},)")
            if prior.batch_shape:
                raise ValueError("the prior has a batch shape, but z is one event: use prior.to_event(1)")
            if prior.support is not None and prior.support.is_discrete:
                raise ValueError(f"the prior is discrete ({prior}): samplers use gradients, so z must be continuous")
        if not views:
            raise ValueError("a CoGenerator needs at least one view to condition on")
        check_views(views, _TAKEN)
        stored = contexts_of(getattr(config, "contexts", {}))
        self._contexts = GivenContexts(stored if contexts is None else contexts_of(contexts))
        check_stored(self.contexts, stored)
        self._contexts.check_names((*_TAKEN, *views, *(f"{view}_{part}" for view in views for part in ("scale", "mask"))))
        self.generator = frozen(generator) if isinstance(generator, nn.Module) else generator
        self.latent_dim = latent_dim
        self.prior = prior
        self.value_range = getattr(config, "value_range", None)
        self.name = getattr(config, "name", "") or type(generator).__name__
        self._jax: dict[str, Callable[..., jax.Array]] = {}
        x = self._probe()
        self._event_shape = tuple(x.shape[1:])
        self.views = {name: frozen(view) for name, view in views.items()}
        self._takes = {name: taken_by(view, self.contexts) for name, view in self.views.items()}
        self.shapes = {}
        for name, view in self.views.items():
            context = {each: self.contexts[each].points(POINTS) for each in self._takes[name]}
            self.shapes[name] = shape_of_view(name, view, x, context, self.value_range)
        self._data: dict[str, Mapping[str, np.ndarray]] = {}
        self._ids: np.ndarray | None = None

    # --- conditioning ------------------------------------------------------------------------------------------

    def condition(self, **data: ArrayLike) -> Self:
        """This model conditioned on the data of some views; the result has only its conditioned views.

        Warns if a mask hides all of an item (its posterior is the prior), and if the data of a view that keeps the range of x
        appear to be in another range than the generator's (all in its upper half, like [0, 1] in [-1, 1]).

        :param data: by view, (item, *shape); entries that a mask hides may have any value, including NaN.
        :raises ValueError: for an unknown view, a context (use `given`), a wrong shape, a different number of items, non-finite
            values where they are seen, and values far outside the generator's ``value_range``.
        """
        conditioned = copy.copy(self)
        conditioned._data = dict(self._data)
        for name, value in data.items():
            if name in self.contexts:
                raise ValueError(f"{name!r} is a context, and only views can be conditioned: use model.given({name}=...)")
            if name not in self.views:
                raise ValueError(f"there is no view {name!r}; this model has {', '.join(self.views)}")
            conditioned._data[name] = observe(name, value, self.views[name], self.shapes[name], self.value_range)
        conditioned._check_counts()
        return conditioned

    def with_ids(self, ids: ArrayLike) -> Self:
        """This model with these item ids, which determine the random numbers of an item together with the seed and the chain.

        A subset of the items, run with their ids, has the same draws as in the whole set.

        :param ids: (item,), different integers in [0, 2^63); without them the ids are 0 to n - 1.
        :raises ValueError: for ids that are out of range or repeated, and for another number of items.
        """
        copied = copy.copy(self)
        copied._ids = check_ids(ids)
        copied._check_counts()
        return copied

    def of_items(self, data: ItemData) -> Self:
        """This model for other items, given their `item_data`."""
        other = copy.copy(self)
        other._data = {name: seen for name, seen in data.items() if name != CONTEXT}
        other._contexts = GivenContexts(self.contexts, dict(data.get(CONTEXT, {})))
        other._ids = None
        return other

    def __getstate__(self) -> dict[str, Any]:
        """The state without the compiled functions, which cannot be pickled and are rebuilt when needed."""
        return {**vars(self), "_jax": {}}

    @property
    def ids(self) -> np.ndarray:
        """The ids of the items, (item,)."""
        return np.arange(self.num_items) if self._ids is None else self._ids

    def given(self, **contexts: ArrayLike) -> Self:
        """A copy of this model with values for some of its contexts; contexts given before are kept.

        A context with a method for unknown classes is not inferred if it is given.

        :param contexts: by name; for `Classes` the class of each item, (item,), integers from 0 or names; for an `Array` the
            values (item, *shape).
        :raises ValueError: for an unknown context, a view (use `condition`), a wrong shape or dtype, a class out of range,
            values that are non-finite or out of range, and a number of items that differs from that of the views.
        """
        if views := [name for name in contexts if name in self.views]:
            raise ValueError(f"{views[0]!r} is a view, and only contexts are given: use model.condition({views[0]}=...)")
        copied = copy.copy(self)
        copied._contexts = self._contexts.give(contexts)
        copied._check_counts()
        return copied

    def expand_unknown(self) -> Expansion | None:
        """This model with each item repeated for every combination of the unknown classes declared "exact"; None if there are
        no such classes, or nothing is observed.

        :raises ValueError: for ids so large that the ids of the combinations would exceed 2^63.
        """
        unknown = self._contexts.unknown("exact")
        if not unknown or not self._data:
            return None
        classes = self._contexts.combinations()
        combinations = len(next(iter(classes.values())))
        if (largest := int(self.ids.max())) >= (limit := 2**63 // combinations):
            raise ValueError(
                f"id {largest}: each of the {combinations} combinations of unknown classes of an item gets its own id, so ids"
                f" must be below {limit}: give smaller ones, as in model.with_ids(range(n))"
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
        """The declared contexts of the generator, by name."""
        return self._contexts.declared

    @property
    def item_data(self) -> ItemData:
        """The data of the conditioned views, and under "context" the given contexts."""
        return {**self._data, CONTEXT: self._contexts.given} if self._contexts.given else self._data

    @property
    def observed(self) -> ItemData:
        """The data of the conditioned views alone."""
        return self._data

    @property
    def num_items(self) -> int:
        """The number of items of the data and contexts; 0 for a model without either."""
        return count_items(self.item_data) if self.item_data else 0

    # --- the two models ----------------------------------------------------------------------------------------

    def __call__(self, data: Data | None = None, *, num_items: int = 1) -> Tensor:
        """The Pyro model; ``data`` defaults to `item_data`, and without data ``num_items`` items are drawn."""
        import pyro
        import pyro.distributions as dist

        generator = self._need_torch("as a Pyro model")
        data = self.item_data if data is None else data
        known = data.get(CONTEXT, {})
        relaxed = self._contexts.split(known)
        items = count_items(data) if data else num_items
        meet_items(items if set(data) - {CONTEXT} else 1)  # without observations any number may be drawn
        prior: Any = self.prior
        if prior is None:
            prior = dist.Normal(torch.zeros(self.latent_dim), 1.0).to_event(1)
        scale: Any
        with pyro.plate("item", items, dim=-1):
            z = pyro.sample("z", prior)
            context = {name: torch.as_tensor(np.asarray(values)) for name, values in known.items()}
            for name, values in context.items():
                if pyro.deterministic(name, values, event_dim=values.ndim - 1) is not values:
                    raise ValueError(f"{name!r} is a context, and pyro.condition is for views: use model.given({name}=...)")
            for name, count in relaxed.items():
                logits = pyro.sample(name + LOGITS, dist.Normal(torch.zeros(count), 1.0).to_event(1))
                context[name] = pyro.deterministic(name, logits.softmax(-1), event_dim=1)
            x = pyro.deterministic("x", generator(z, **context), event_dim=len(self.event_shape))
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

    def numpyro(self, data: Data | None = None, *, num_items: int = 1) -> jax.Array:
        """The NumPyro model: the same sites and densities."""
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist

        data = self.item_data if data is None else data
        known = data.get(CONTEXT, {})
        relaxed = self._contexts.split(known)
        items = count_items(data) if data else num_items
        meet_items(items if set(data) - {CONTEXT} else 1)  # without observations any number may be drawn
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

    # --- results -----------------------------------------------------------------------------------------------

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
    def attributes(self) -> dict[str, Attribute]:
        """Attributes of the results: generator, conditioned views, contexts and value range."""
        described: dict[str, Attribute] = {
            "generator": self.name,
            "views": ", ".join(f"{n}: {type(self.views[n]).__name__}" for n in self._data),
        }
        exponents = {n: e for n in self._data if (e := getattr(self.views[n].likelihood, "exponent", 1.0)) != 1.0}
        if exponents:  # the evidence is then that of a power likelihood
            described["likelihood_exponents"] = ", ".join(f"{n}: {e:g}" for n, e in exponents.items())
        if learned := [n for n in self._data if isinstance(self.views[n].likelihood, Censored)]:
            described["learned_noise"] = ", ".join(learned)
        described |= self._contexts.attributes()
        return {**described, "value_range": list(self.value_range)} if self.value_range is not None else described

    def result_groups(self) -> dict[str, dict[str, tuple[tuple[str, ...], np.ndarray]]]:
        """The groups ``observed_data`` (NaN where hidden) and ``constant_data`` (masks and given contexts) of the items."""
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
        """x = G(z, c), (batch, *event_shape).

        :param z: latents, (batch, latent_dim).
        :param context: inputs of the generator by name, (batch, *shape); default the given ones of the items, cyclically.
        :raises ValueError: for a context that is neither passed nor given, and a batch that is not a multiple of the number of
            items.
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
        """The weights (..., class) of the inferred contexts, given the values of the sites: from the logits of a relaxed class,
        and from the class itself if it is inferred exactly."""
        return self._contexts.of_sites(sites)

    def simulate(self, x: np.ndarray, sites: Mapping[str, np.ndarray], *, seed: int) -> dict[str, np.ndarray]:
        """One draw of every view for each x, without masks: {view: (batch, *shape)}.

        :param x: (batch, *event).
        :param sites: latents and contexts of the rows; contexts default to the given ones as in `decode`.
        """
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
        """The RMS residual between the seen data and A(x), divided by the one that the noise predicts, for every x
        (..., item, *event) and every conditioned view with Gaussian noise or pixel noise: {view: (..., item)}."""
        lead = x.shape[: x.ndim - len(self.event_shape)]
        x_torch = torch.from_numpy(np.array(x, dtype=np.float32)).flatten(0, len(lead) - 1)
        found = {}
        for name, seen in self._data.items():
            view = self.views[name]
            squares = getattr(view.likelihood, "squares", None)
            if squares is None:
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
            both = squares(seen["value"], made, scale)
            total, predicted = (np.where(where, each, 0.0).reshape(*lead, -1).sum(-1) for each in both)
            found[name] = np.sqrt(total / np.maximum(predicted, 1e-12))
        return found

    def log_likelihood(self, x: np.ndarray, sites: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The pointwise log likelihood log p(y_i | x) of the seen entries of a model with one item: {view: (row, entry)}.

        :param x: (row, *event).
        :param sites: latents and contexts of the rows; contexts default to the given ones as in `decode`.
        :raises ValueError: for a model with another number of items.
        """
        if self.num_items != 1:
            raise ValueError(f"this model has {self.num_items} items; select one with of_items")
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
            raise ValueError(f"{what} have different numbers of items: {counts}")

    def _probe(self) -> Tensor:
        """Probe the generator on a few draws of z from the prior, and return their x, (batch, *event_shape)."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            z = torch.randn(POINTS, self.latent_dim) if self.prior is None else self.prior.sample((POINTS,))
            function, points, called, context = self._contexts.probe(self.generator, z)
        if isinstance(self.generator, nn.Module):
            return check_module(function, points, "the generator", called, context)
        given = {name: values.numpy() for name, values in context.items()}
        return torch.from_numpy(check_function(function, points.numpy(), "the generator", called, given)).float()

    def _need_torch(self, use: str) -> nn.Module:
        if not isinstance(self.generator, nn.Module):
            raise TypeError(f"this generator is a JAX function: it cannot run {use}; use a NumPyro kernel")
        return self.generator

    def _in_jax(self, view: str) -> Callable[..., jax.Array]:
        """The generator ("") or a view as a JAX function, converted once."""
        import jax

        from cogen.models.jax_bridge.torch_to_jax import as_jax

        if view not in self._jax:
            with jax.ensure_compile_time_eval():  # the model may be called inside a trace
                shapes = {name: context.shape for name, context in self.contexts.items()}
                if view:
                    of_view = {name: shapes[name] for name in self._takes[view]}
                    self._jax[view] = as_jax(self.views[view], self.event_shape, of_view)
                elif isinstance(self.generator, nn.Module):
                    self._jax[view] = as_jax(self.generator, (self.latent_dim,), shapes)
                else:
                    self._jax[view] = self.generator
        return self._jax[view]


def event_dims(shape: tuple[int, ...], prefix: str = "") -> tuple[str, ...]:
    """Names of the dimensions of an event in results."""
    image = ("channel", "height", "width")
    named = image if len(shape) == 3 else ("column",) if len(shape) == 1 else [f"axis_{k}" for k in range(len(shape))]
    return tuple(prefix + dim for dim in named)


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def _check_items(name: str, value: Any, items: int) -> None:
    if value.shape[0] != items:
        raise ValueError(
            f"view {name!r} is conditioned on {value.shape[0]} items, but the model has {items}. Use"
            f" model.condition({name}=...) instead of a handler, and pass the conditioned model to cogen.inference.infer"
        )
