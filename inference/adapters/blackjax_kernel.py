"""An adapter for BlackJAX's samplers in `infer`.

An algorithm of BlackJAX is a pair of functions over one chain, made from a log density and its parameters,

    state = init(u),        state, info = step(key, state);

the adapter passes the target's log density in unconstrained coordinates, maps the functions over chains that start from exact
draws of q0 at beta = 1, and stores the statistics of state and info under ArviZ's names. Parameters are numbers, arrays or
functions, under BlackJAX's names; the step size and the inverse mass matrix can also be adapted in the warm-up, chain by chain,
by Stan's windows with BlackJAX's components (``build_schedule``, dual averaging, Welford's variance).

``blackjax.adaptive_tempered_smc`` is an ensemble: chains are particles, and warm-up transitions are its steps until the inverse
temperature is 1, after which an item waits for the draws; every draw is a further step at 1. With weights W of N particles,

    log evidence = sum of the steps' log-likelihood increments,        log w = log evidence + log(N W).

The next inverse temperature depends on the particles that it weights, so that this evidence is not quite unbiased. The
particles form one population, so that it has no standard error: run several seeds. The last step of the warm-up rises to 1.

    Cabezas et al. (2024), BlackJAX: composable Bayesian inference in JAX;
    Del Moral, Doucet and Jasra (2012), An adaptive sequential Monte Carlo method for approximate Bayesian computation.

The density is a plain sum, as usual with BlackJAX (`AnnealedHMC` uses compensated sums), and a generator's convolutions are
lowered as matrix products, since the loops are BlackJAX's. Inexact samplers (``blackjax.mclmc``) are not supported.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax.scipy.stats import multivariate_normal

from cogen.inference.adapters.blackjax_windows import Windows, strongly_typed
from cogen.inference.adapters.ensemble_kernel import EnsembleKernel
from cogen.inference.annealing.populations import distinct, effective_fraction
from cogen.inference.kernels.kernel import Kernel, Start, chain_keys
from cogen.inference.loops import compiled_loop
from cogen.inference.signatures import Model
from cogen.inference.targets.sums import real
from cogen.inference.targets.target import Target

Array = jax.Array

_STATISTICS = {
    "acceptance_rate": "acceptance_rate",
    "diverging": "is_divergent",
    "energy": "energy",
    "n_steps": "num_integration_steps",
}
_ADAPTED = ("step_size", "inverse_mass_matrix")
_ARRIVED = 1.0 - 1e-6
"""The smallest inverse temperature that counts as one, given the rounding of its rises."""


class BlackJAXState(NamedTuple):
    """The input of the next step of an item's chains."""

    iteration: Array
    """Steps requested."""
    inner: Any
    """BlackJAX's state, of every chain or of all particles."""
    adaptation: Any
    arrived: Array
    """Whether the particles have reached beta = 1; other chains start there."""
    beta: Array
    ancestor: Array
    """The initial particle from which each particle descends."""
    log_evidence: Array
    waiting: BlackJAXInfo | None
    """The last info, if particles wait at beta = 1."""

    @property
    def position(self) -> Array:
        return self.inner.particles if hasattr(self.inner, "particles") else self.inner.position


class BlackJAXInfo(NamedTuple):
    """Statistics of a step for every chain; None if an algorithm does not report them."""

    lp: Array
    """The unnormalised log density, in unconstrained coordinates."""
    n_steps: Array
    """Gradient evaluations: integration steps, one, or none without gradients."""
    acceptance_rate: Array | None = None
    step_size: Array | None = None
    diverging: Array | None = None
    energy: Array | None = None
    log_weight: Array | None = None
    ancestor: Array | None = None
    population: Array | None = None
    population_log_evidence: Array | None = None


@dataclass(frozen=True, eq=False)
class BlackJAXSettings:
    """An algorithm of BlackJAX with its parameters, and the names of those adapted in the warm-up."""

    algorithm: Any
    name: str
    parameters: dict[str, Any]
    learnt: tuple[str, ...]
    target_acceptance: float

    @property
    def tempers(self) -> bool:
        return self.name == "adaptive_tempered_smc"

    def make(self, target: Target, learnt: dict[str, Array], last: Array | bool = False) -> Any:
        """BlackJAX's pair of functions for this target; with ``last`` the inverse temperature rises to 1."""
        parameters = {**self.parameters, **learnt}
        if self.tempers:
            solver = parameters.pop("root_solver", None) or _dichotomy()
            return self.algorithm(
                lambda u: target.reference(u).sum(),
                lambda u: target.increment(u).sum(),
                root_solver=lambda function, low, high: jnp.where(last, high, solver(function, low, high)),
                **parameters,
            )
        return self.algorithm(lambda u: log_density(target, u) - self.divisor(u), **parameters)

    def divisor(self, u: Array) -> Any:
        """The log density of the Gaussian by which elliptical slice sampling divides the posterior."""
        if self.name != "elliptical_slice":
            return real(0.0)
        mean, cov = (jnp.asarray(self.parameters[name]) for name in ("mean", "cov"))
        return multivariate_normal.logpdf(u, mean, jnp.diag(cov) if cov.ndim == 1 else cov)

    def step_size(self, learnt: dict[str, Array]) -> Any:
        """The step size, if the algorithm has a scalar one."""
        if "step_size" in self.learnt:
            return learnt.get("step_size", 1.0)
        step = (self.parameters.get("mcmc_parameters", {}) if self.tempers else self.parameters).get("step_size")
        return step if step is None or jnp.ndim(step) <= int(self.tempers) else None


@dataclass(frozen=True, eq=False)
class BlackJAXKernel(Kernel):
    """Steps of independent chains, or of all particles."""

    settings: BlackJAXSettings
    num_warmup: int
    num_chains: int
    reported: tuple[str, ...]
    """The statistics that the algorithm reports."""
    gradient: bool
    """Whether it uses gradients."""

    @property
    def needs_gradient(self) -> bool:
        return self.gradient

    @property
    def evidence_kind(self) -> str:
        return "annealed" if self.settings.tempers else ""

    @property
    def adapts(self) -> bool:
        return self.settings.tempers

    @property
    def populations(self) -> int:
        return int(self.settings.tempers)

    @property
    def gradients_to_start(self) -> int:
        return int(self.gradient and not self.settings.tempers)

    def log_density(self, state: BlackJAXState) -> Array | None:
        if self.settings.tempers:
            return None
        return jax.vmap(lambda inner: inner.logdensity + self.settings.divisor(inner.position))(state.inner)

    def warmed_up(self, state: BlackJAXState) -> Array:
        return state.arrived & self.settings.tempers

    def path(self, state: BlackJAXState, info: BlackJAXInfo) -> dict[str, Array]:
        path = {"lp": info.lp.mean()}
        for name, reduce in (("acceptance_rate", jnp.mean), ("step_size", jnp.mean), ("diverging", jnp.sum)):
            if (value := getattr(info, name)) is not None:
                path[name] = reduce(value)
        if info.log_weight is not None and info.ancestor is not None:
            path |= {"beta": state.beta, "log_evidence": state.log_evidence, "ancestors": distinct(info.ancestor)}
            path["weight_ess"] = effective_fraction(info.log_weight)
        return path

    def init(self, target: Target, key: Array, start: Start) -> BlackJAXState:
        u = start.positions(target, key)
        keys, chain = chain_keys(key, self.num_chains), jnp.arange(self.num_chains)
        adaptation: Any = ()
        if self.settings.tempers:
            inner = self.settings.make(target, {}).init(u)
        else:
            if self.settings.learnt:
                begin = jnp.full(self.num_chains, real(self.settings.parameters.get("step_size", 1.0)))
                adaptation = jax.vmap(lambda step: self._windows().init(step, target.dim))(begin)
            learnt = jax.vmap(lambda a: self._learnt(a, jnp.bool_(True)))(adaptation) if self.settings.learnt else {}
            inner = jax.vmap(lambda k, v, own: self.settings.make(target, own).init(v, k))(keys, u, learnt)
        zeros = jnp.zeros(self.num_chains)
        waiting = None
        if self.settings.tempers:
            lp = jax.vmap(lambda v: log_density(target, v))(u)
            waiting = self._info(lp, dict.fromkeys(("n_steps", *self.reported), zeros), {}, zeros, chain, real(0.0))
        return BlackJAXState(
            iteration=jnp.int32(0),
            inner=jax.tree.map(lambda a: strongly_typed(a, jnp.asarray(a).dtype), inner),
            adaptation=adaptation,
            arrived=jnp.bool_(False),
            beta=real(0.0 if self.settings.tempers else 1.0),
            ancestor=chain,
            log_evidence=real(0.0),
            waiting=waiting,
        )

    def step(self, target: Target, key: Array, state: BlackJAXState) -> tuple[BlackJAXState, BlackJAXInfo]:
        with compiled_loop():  # a step contains BlackJAX's loops, even if the host dispatches the steps
            new, info = (self._tempered if self.settings.tempers else self._moved)(target, key, state)
        new = new._replace(inner=jax.tree.map(lambda now, then: strongly_typed(now, then.dtype), new.inner, state.inner))
        if state.waiting is not None:
            waits = state.arrived & (state.iteration < self.num_warmup)
            still = state.waiting._replace(n_steps=jnp.zeros_like(info.n_steps))
            info = jax.tree.map(lambda new, old: jnp.where(waits, old, new), info, still)
            new = jax.tree.map(lambda moved, old: jnp.where(waits, old, moved), new, state)._replace(waiting=info)
        return new._replace(iteration=state.iteration + 1), info

    def _moved(self, target: Target, key: Array, state: BlackJAXState) -> tuple[BlackJAXState, BlackJAXInfo]:
        """Make one step of every chain."""
        warming = state.iteration < self.num_warmup

        def one(chain_key: Array, inner: Any, adaptation: Any) -> tuple[Any, ...]:
            learnt = self._learnt(adaptation, warming) if self.settings.learnt else {}
            inner, info = self.settings.make(target, learnt).step(chain_key, inner)
            if self.settings.learnt:
                adaptation = self._windows().update(adaptation, state.iteration, inner.position, info.acceptance_rate)
            found = {name: getattr(info, _STATISTICS[name]) for name in self.reported}
            return inner, found, adaptation, learnt

        inner, found, adaptation, learnt = jax.vmap(one)(chain_keys(key, self.num_chains), state.inner, state.adaptation)
        found.setdefault("n_steps", jnp.full(self.num_chains, int(self.gradient)))
        new = state._replace(inner=inner, adaptation=adaptation)
        density = self.log_density(new)
        assert density is not None
        return new, self._info(density, found, learnt)

    def _tempered(self, target: Target, key: Array, state: BlackJAXState) -> tuple[BlackJAXState, BlackJAXInfo]:
        """Make one step of all particles: resample, move, and weight for the next rise of the inverse temperature."""
        last = state.iteration >= self.num_warmup - 1
        inner, info = self.settings.make(target, {}, last=last).step(key, state.inner)
        evidence = state.log_evidence + info.log_likelihood_increment
        found = {name: getattr(info.update_info, _STATISTICS[name]) for name in self.reported}  # (chain, move)
        found = {n: v.sum(1) + 1 if n == "n_steps" else v.any(1) if n == "diverging" else v.mean(1) for n, v in found.items()}
        found.setdefault("n_steps", jnp.zeros(self.num_chains))
        ancestor = state.ancestor[info.ancestors]
        new = state._replace(
            inner=inner,
            arrived=inner.tempering_param >= _ARRIVED,
            beta=strongly_typed(inner.tempering_param, jnp.result_type(float)),
            ancestor=ancestor,
            log_evidence=evidence,
        )
        lp = jax.vmap(lambda v: log_density(target, v))(inner.particles)
        log_weight = evidence + jnp.log(self.num_chains * inner.weights)
        return new, self._info(lp, found, {}, log_weight, ancestor, evidence)

    def _info(
        self,
        lp: Array,
        found: dict[str, Array],
        learnt: dict[str, Array],
        log_weight: Array | None = None,
        ancestor: Array | None = None,
        evidence: Array | None = None,
    ) -> BlackJAXInfo:
        types = {"n_steps": jnp.int32, "diverging": jnp.bool_}
        kept = {name: strongly_typed(value, types.get(name, jnp.result_type(float))) for name, value in found.items()}
        if (step := self.settings.step_size(learnt)) is not None:
            kept["step_size"] = jnp.broadcast_to(real(step), (self.num_chains,))
        if evidence is not None:
            kept["population"] = jnp.zeros(self.num_chains, jnp.int32)
            kept["population_log_evidence"] = jnp.full(self.num_chains, evidence)
        return BlackJAXInfo(lp=lp, log_weight=log_weight, ancestor=ancestor, **kept)

    def _learnt(self, adaptation: Any, warming: Array) -> dict[str, Array]:
        return self._windows().parameters(adaptation, warming)

    def _windows(self) -> Windows:
        return Windows(self.settings.target_acceptance, "inverse_mass_matrix" in self.settings.learnt, self.num_warmup)


class BlackJAX(EnsembleKernel, settings=BlackJAXSettings, kernel=BlackJAXKernel):
    """A sampler of BlackJAX, as in ``infer(seen, BlackJAX(blackjax.nuts, adapt=True), num_warmup=500, ...)``.

    :param algorithm: a Markov chain of BlackJAX (``blackjax.nuts``, ``hmc``, ``mala``, ``barker``, ``rmh``,
        ``elliptical_slice``, ...) or ``blackjax.adaptive_tempered_smc``.
    :param adapt: adapt ``step_size`` and, if the algorithm has one and none is given, the diagonal ``inverse_mass_matrix``
        during the warm-up. ``step_size`` is then the initial value (default 1).
    :param target_acceptance: target of the step-size adaptation, in (0, 1); 0.574 is better for ``mala``.
    :param parameters: the algorithm's parameters under BlackJAX's names, except its densities. ``elliptical_slice`` takes
        the ``mean`` and ``cov`` of any Gaussian; the posterior is divided by it.
    :raises TypeError: for an object that is not a sampling algorithm of BlackJAX.
    :raises ValueError: for parameters that are missing, unknown or of another size than the model, for ``adapt`` with an
        algorithm without a step size, and if BlackJAX is not installed.
    """

    settings: BlackJAXSettings

    def __init__(
        self,
        algorithm: Callable[..., object],
        model: Model | None = None,
        *,
        adapt: bool = False,
        target_acceptance: float = 0.8,
        **parameters: object,
    ) -> None:
        if not 0.0 < target_acceptance < 1.0:
            raise ValueError(f"target_acceptance={target_acceptance}: it must be between 0 and 1")
        name, signature = _recognise(algorithm)
        learnt = tuple(each for each in _ADAPTED if adapt and each in signature.parameters)
        if adapt and "step_size" not in learnt:
            raise ValueError(f"blackjax.{name} has no step_size to adapt: use adapt=False")
        if "inverse_mass_matrix" in parameters:
            learnt = learnt[:1]
        super().__init__(
            model,
            algorithm=algorithm,
            name=name,
            parameters=parameters,
            learnt=learnt,
            target_acceptance=target_acceptance,
        )
        self._check_parameters(signature)
        self._reported: tuple[str, ...] = ()
        self._gradient = True

    def for_model(self, model: Model, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Self:
        """Check the parameters against the model.

        :raises ValueError: for parameters of another size than the model.
        """
        shapes = jax.eval_shape(lambda: jnp.zeros(self.target(args, kwargs, model=model).dim))
        seen = self.replace()
        seen._reported, seen._gradient = self._look(len(shapes))
        return seen

    def kernel(self, num_warmup: int, num_chains: int) -> BlackJAXKernel:
        settings = self.settings
        if (settings.learnt or settings.tempers) and num_warmup < 1:
            raise ValueError(f"num_warmup={num_warmup}: blackjax.{settings.name} adapts in the warm-up, give at least 1")
        if settings.tempers and num_chains < 2:
            raise ValueError(f"num_chains={num_chains}: resampling requires at least 2 particles")
        return BlackJAXKernel(settings, num_warmup, num_chains, self._reported, self._gradient)

    def _check_parameters(self, signature: inspect.Signature) -> None:
        settings = self.settings
        own = list(signature.parameters.values())[2 if settings.tempers else 1 :]
        named = [p for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD]
        unknown = settings.parameters.keys() - {p.name for p in named}
        if unknown and len(named) == len(own):
            takes = _listed(p.name for p in named)
            raise ValueError(f"blackjax.{settings.name} has no {_listed(unknown)}: it takes {takes}")
        given = {*settings.parameters, *settings.learnt}
        missing = [p.name for p in named if p.default is p.empty and p.name not in given]
        if missing:
            example = ", ".join(f"{name}=..." for name in missing)
            remedy = " or adapt=True" if set(missing) & set(_ADAPTED) else ""
            raise ValueError(
                f"blackjax.{settings.name} requires {_listed(missing)}: BlackJAX(blackjax.{settings.name}, {example}){remedy}"
            )

    def _look(self, dim: int) -> tuple[tuple[str, ...], bool]:
        """The statistics that the algorithm reports, and whether it uses gradients, from its output for a plain target."""
        settings = self.settings
        mass = settings.parameters.get("inverse_mass_matrix")
        if mass is not None and not callable(mass) and jnp.shape(mass) not in ((dim,), (dim, dim)):
            raise ValueError(f"inverse_mass_matrix has shape {jnp.shape(mass)}, the model has {dim} unconstrained coordinates")
        plain = Target(dim, lambda _: jnp.zeros(dim), lambda u: (-0.5 * u**2, 0.0 * u), lambda u: {})
        start = jnp.zeros((2, dim)) if settings.tempers else jnp.zeros(dim)

        def once(key: Array) -> Any:
            learnt = {name: jnp.ones(() if name == "step_size" else dim) for name in settings.learnt}
            algorithm = settings.make(plain, learnt)
            return algorithm.step(key, algorithm.init(start, key))

        state, info = jax.eval_shape(once, jax.random.key(0))
        if not settings.tempers and not {"position", "logdensity"} <= set(getattr(state, "_fields", ())):
            raise ValueError(f"blackjax.{settings.name} is not supported: its state has no position with a log density")
        of_step = info.update_info if settings.tempers else info
        fields = set(getattr(of_step, "_fields", ()))
        reported = tuple(name for name, theirs in _STATISTICS.items() if theirs in fields)
        if settings.learnt and "acceptance_rate" not in reported:
            raise ValueError(f"blackjax.{settings.name} reports no acceptance rate, which adapting the step size requires")
        return reported, "n_steps" in reported or hasattr(state, "logdensity_grad")


def log_density(target: Target, u: Array) -> Array:
    """The log density at beta = 1, a plain sum."""
    return target.reference(u).sum() + target.increment(u).sum()


def _recognise(algorithm: Any) -> tuple[str, inspect.Signature]:
    """The name and the signature of an algorithm of BlackJAX."""
    try:
        import blackjax
    except ImportError:
        raise ValueError("BlackJAX is not installed: pip install blackjax") from None
    build = getattr(algorithm, "differentiable", None)
    if not isinstance(algorithm, blackjax.GenerateSamplingAPI) or build is None:
        raise TypeError(
            f"{algorithm!r} is not a sampling algorithm of BlackJAX: pass one such as blackjax.nuts, not its result"
        )
    name = next((n for n in vars(blackjax) if getattr(blackjax, n) is algorithm), repr(algorithm))
    signature = inspect.signature(build)
    density = next(iter(signature.parameters))
    known = density == "logdensity_fn" or name in ("elliptical_slice", "adaptive_tempered_smc")
    # mgrad_gaussian does not take the posterior's density; mclmc leaves another density invariant.
    if not known or name in ("mgrad_gaussian", "mclmc"):
        raise ValueError(
            f"blackjax.{name} does not sample exactly from a given log density: use one such as blackjax.nuts, hmc, mala,"
            " barker, rmh, elliptical_slice, or blackjax.adaptive_tempered_smc"
        )
    return name, signature


def _dichotomy() -> Callable[..., Any]:
    from blackjax.smc.solver import dichotomy

    return dichotomy


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
