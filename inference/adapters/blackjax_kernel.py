"""BlackJAX's samplers in `infer`: one adapter rather than copies of them.

An algorithm of BlackJAX is a pair of functions over one chain, made from a log density and its parameters,

    state = init(u),        state, info = step(key, state);

the adapter gives it the target's log density in unconstrained coordinates, maps it over chains that start from exact draws
of q0 at beta = 1, and puts what its state and info tell under ArviZ's names. A parameter is a number, an array or a function,
under BlackJAX's own name; or the step size and the inverse mass matrix are learnt in the warm-up, chain by chain, by Stan's
windows with BlackJAX's own pieces (``build_schedule``, dual averaging, Welford's variance).

``blackjax.adaptive_tempered_smc`` is an ensemble: chains are particles, warm-up transitions are its steps until the inverse
temperature is 1, after which an item waits for the draws; a draw is one step more, there. With weights W of N particles,

    log evidence = sum of the steps' log likelihood increments,        log w = log evidence + log(N W).

The next inverse temperature looks at the particles that it weighs, so that this evidence is not quite unbiased; they form one
population, so that it has no standard error: run several seeds. A last step of the warm-up takes all that is left.

    Cabezas et al. (2024), BlackJAX: composable Bayesian inference in JAX;
    Del Moral, Doucet and Jasra (2012), An adaptive sequential Monte Carlo method for approximate Bayesian computation.

The density is a plain sum, as BlackJAX's users have it (`AnnealedHMC` compensates), and a generator's convolutions are
lowered as matrix products, since the loops are BlackJAX's. A sampler that is not exact there (``blackjax.mclmc``) is not here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import multivariate_normal

from cogen.inference.adapters.blackjax_windows import Windows, strongly_typed
from cogen.inference.adapters.ensemble_kernel import EnsembleKernel, chain_keys
from cogen.inference.annealing.populations import distinct, effective_fraction
from cogen.inference.loops import compiled_loop
from cogen.inference.targets.numpyro_target import Target
from cogen.inference.targets.sums import real

Array = jax.Array

_STATISTICS = {
    "acceptance_rate": "acceptance_rate",
    "diverging": "is_divergent",
    "energy": "energy",
    "n_steps": "num_integration_steps",
}
_ADAPTED = ("step_size", "inverse_mass_matrix")
_ARRIVED = 1.0 - 1e-6
"""An inverse temperature that is one but for the rounding of its rises."""


class BlackJAXState(NamedTuple):
    """The state of all chains of one item. What an algorithm does not tell is zero, and no statistic of the run."""

    i: Array
    """Transitions asked for."""
    made: Array
    """Transitions made: fewer where the particles waited at beta = 1 for the end of the warm-up."""
    arrived: Array
    z: dict[str, Array]
    """Unconstrained values of the latent sites."""
    beta: Array
    acceptance_rate: Array
    step_size: Array
    diverging: Array
    energy: Array
    lp: Array
    """Log density, unnormalised, in unconstrained coordinates."""
    n_steps: Array
    """Gradient evaluations of the last transition: its integration steps, or one, or none where there is no gradient."""
    log_weight: Array
    ancestor: Array
    """The initial particle from which the particle descends."""
    population: Array
    population_log_evidence: Array
    inner: Any
    """BlackJAX's state: of every chain, or of all particles."""
    adaptation: Any
    rng_key: Array


class BlackJAX(EnsembleKernel):
    """A sampler of BlackJAX, as in ``infer(seen, BlackJAX(blackjax.nuts, adapt=True), num_warmup=500, ...)``.

    :param algorithm: a Markov chain of BlackJAX (``blackjax.nuts``, ``hmc``, ``mala``, ``barker``, ``rmh``,
        ``elliptical_slice``, ...) or ``blackjax.adaptive_tempered_smc``.
    :param model: a conditioned NumPyro model, or None for a recipe that `infer` binds.
    :param adapt: learn ``step_size`` and, where the algorithm has one and none is given, the diagonal
        ``inverse_mass_matrix`` during the warm-up. ``step_size`` then is where it starts (1 if it is not given).
    :param target_acceptance: what the step size is led to, in (0, 1); 0.574 is the better for ``mala``.
    :param parameters: the algorithm's parameters under BlackJAX's names, all but its densities. ``elliptical_slice`` takes
        the ``mean`` and ``cov`` of any Gaussian; the posterior is divided by it.

    Raises TypeError for what is no sampling algorithm of BlackJAX, ValueError for parameters that are missing (it says
    which), unknown or of another size than the model, for an algorithm that has no step size to adapt, and where BlackJAX is
    not installed.
    """

    def __init__(
        self,
        algorithm: Any,
        model: Callable | None = None,
        *,
        adapt: bool = False,
        target_acceptance: float = 0.8,
        **parameters: Any,
    ) -> None:
        super().__init__(model)
        if not 0.0 < target_acceptance < 1.0:
            raise ValueError(f"target_acceptance={target_acceptance}: it lies between 0 and 1")
        self._name, signature = _recognise(algorithm)
        self._tempers = self._name == "adaptive_tempered_smc"
        self._elliptical = self._name == "elliptical_slice"
        self.algorithm, self.parameters = algorithm, dict(parameters)
        self.target_acceptance = target_acceptance
        self._learnt = tuple(name for name in _ADAPTED if adapt and name in signature.parameters)
        if adapt and "step_size" not in self._learnt:
            raise ValueError(f"blackjax.{self._name} has no step_size: it runs without adapt=True")
        if "inverse_mass_matrix" in parameters:
            self._learnt = self._learnt[:1]
        self._check_parameters(signature)
        self.evidence_kind = "annealed" if self._tempers else ""
        self._told: tuple[str, ...] | None = None

    @property
    def adapts(self) -> bool:
        return self._tempers

    def prepare(self, num_warmup: int, num_chains: int) -> None:
        super().prepare(num_warmup, num_chains)
        if (self._learnt or self._tempers) and num_warmup < 1:
            raise ValueError(f"num_warmup={num_warmup}: blackjax.{self._name} adapts in the warm-up, so it has one")
        if self._tempers and num_chains < 2:
            raise ValueError(f"num_chains={num_chains}: one particle alone cannot be resampled")
        self._populations = int(self._tempers)

    def target(self, args: tuple, kwargs: dict | None) -> Target:
        target = super().target(args, kwargs)
        if self._told is None:
            self._find_statistics(target.dim)
        return target

    def warmed_up(self, state: BlackJAXState) -> Array:
        return state.arrived

    def path(self, state: BlackJAXState) -> dict[str, Array]:
        seen: dict[str, Array] = {
            name: getattr(state, name).mean() for name in ("acceptance_rate", "step_size", "lp") if name in self.chain_fields
        }
        if "diverging" in self.chain_fields:
            seen["diverging"] = state.diverging.sum()
        if self._tempers:
            seen["beta"] = state.beta
            seen["weight_ess"] = effective_fraction(state.log_weight)
            seen["ancestors"] = distinct(state.ancestor)
            seen["log_evidence"] = state.population_log_evidence[0]
        return seen

    # --- what the algorithm is and tells -----------------------------------------------------------------------

    def _check_parameters(self, signature: inspect.Signature) -> None:
        own = list(signature.parameters.values())[2 if self._tempers else 1 :]
        named = [p for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD]
        unknown = self.parameters.keys() - {p.name for p in named}
        if unknown and len(named) == len(own):
            takes = _listed(p.name for p in named)
            raise ValueError(f"blackjax.{self._name} has no {_listed(unknown)}: it takes {takes}")
        missing = [p.name for p in named if p.default is p.empty and p.name not in {*self.parameters, *self._learnt}]
        if missing:
            given = ", ".join(f"{name}=..." for name in missing)
            remedy = " or adapt=True" if set(missing) & set(_ADAPTED) else ""
            raise ValueError(
                f"blackjax.{self._name} needs {_listed(missing)}: BlackJAX(blackjax.{self._name}, {given}){remedy}"
            )

    def _find_statistics(self, dim: int) -> None:
        """What the algorithm tells of a step, from its shapes on a density of this size."""
        mass = self.parameters.get("inverse_mass_matrix")
        if mass is not None and not callable(mass) and jnp.shape(mass) not in ((dim,), (dim, dim)):
            raise ValueError(f"inverse_mass_matrix has shape {jnp.shape(mass)}, the model has {dim} unconstrained coordinates")
        plain = Target(dim, lambda _: jnp.zeros(dim), lambda u: -0.5 * u**2, lambda u: 0.0 * u, lambda u: {})
        start = jnp.zeros((2, dim)) if self._tempers else jnp.zeros(dim)

        def once(key: Array) -> Any:
            algorithm = self._algorithm(plain, {name: jnp.ones(() if name == "step_size" else dim) for name in self._learnt})
            return algorithm.step(key, algorithm.init(start, key))

        state, info = jax.eval_shape(once, jax.random.key(0))
        if not self._tempers and not {"position", "logdensity"} <= set(getattr(state, "_fields", ())):
            raise ValueError(f"blackjax.{self._name} keeps no single position with its density, so its draws cannot be read")
        told = info.update_info if self._tempers else info
        fields = set(getattr(told, "_fields", ()))
        self._told = tuple(name for name, theirs in _STATISTICS.items() if theirs in fields)
        if self._learnt and "acceptance_rate" not in self._told:
            raise ValueError(f"blackjax.{self._name} tells no acceptance rate from which a step size could be learnt")
        self._gradient = "n_steps" in self._told or hasattr(state, "logdensity_grad")
        self.gradients_to_start = int(self._gradient and not self._tempers)
        names = {"z", "lp", "n_steps", *self._told}
        if self._step_size({}) is not None:
            names.add("step_size")
        if self._tempers:
            names |= {"log_weight", "ancestor", "population", "population_log_evidence"}
        self.chain_fields = tuple(name for name in BlackJAXState._fields if name in names)

    def _step_size(self, learnt: dict[str, Array]) -> Any:
        where = self.parameters.get("mcmc_parameters", {}) if self._tempers else self.parameters
        if "step_size" in self._learnt:
            return learnt.get("step_size", 1.0)
        step = where.get("step_size")
        return step if step is None or jnp.ndim(step) <= int(self._tempers) else None

    def _algorithm(self, target: Target, learnt: dict[str, Array], last: Array | bool = False) -> Any:
        """BlackJAX's pair of functions for this target; ``last``: all that is left of the inverse temperature is taken."""
        parameters = {**self.parameters, **learnt}
        if self._tempers:
            solver = parameters.pop("root_solver", None) or _dichotomy()
            return self.algorithm(
                lambda u: target.reference(u).sum(),
                lambda u: target.tilt(u).sum(),
                root_solver=lambda function, low, high: jnp.where(last, high, solver(function, low, high)),
                **parameters,
            )
        return self.algorithm(lambda u: target.reference(u).sum() + target.tilt(u).sum() - self._divisor(u), **parameters)

    def _divisor(self, u: Array) -> Any:
        if not self._elliptical:
            return real(0.0)
        mean, cov = (jnp.asarray(self.parameters[name]) for name in ("mean", "cov"))
        return multivariate_normal.logpdf(u, mean, jnp.diag(cov) if cov.ndim == 1 else cov)

    def _loop(self) -> Any:
        return compiled_loop()  # the loops inside a step are BlackJAX's, whoever dispatches the transitions

    # --- transitions -------------------------------------------------------------------------------------------

    def _init(self, target: Target, key: Array, num_chains: int) -> BlackJAXState:
        init_key, rng_key = jax.random.split(key)
        keys = chain_keys(init_key, num_chains)
        u = jax.vmap(target.draw)(keys)
        zeros, chain = jnp.zeros(num_chains), jnp.arange(num_chains)
        adaptation: Any = ()
        if self._tempers:
            inner = self._algorithm(target, {}).init(u)
        else:
            if self._learnt:
                start = jnp.full(num_chains, real(self.parameters.get("step_size", 1.0)))
                adaptation = jax.vmap(lambda step: self._windows().init(step, target.dim))(start)
            learnt = jax.vmap(lambda a: self._windows().parameters(a, jnp.bool_(True)))(adaptation) if self._learnt else {}
            inner = jax.vmap(lambda k, v, own: self._algorithm(target, own).init(v, k))(keys, u, learnt)
        return BlackJAXState(
            i=jnp.int32(0),
            made=jnp.int32(0),
            arrived=jnp.bool_(False),
            z=jax.vmap(target.sites)(u),
            beta=real(0.0 if self._tempers else 1.0),
            acceptance_rate=zeros,
            step_size=self._steps({}, num_chains),
            diverging=zeros > 0,
            energy=zeros,
            lp=jax.vmap(lambda v: target.reference(v).sum() + target.tilt(v).sum())(u),
            n_steps=jnp.full(num_chains, self.gradients_to_start, jnp.int32),
            log_weight=zeros,
            ancestor=chain,
            population=jnp.zeros_like(chain),
            population_log_evidence=zeros,
            inner=jax.tree.map(lambda a: strongly_typed(a, jnp.asarray(a).dtype), inner),
            adaptation=adaptation,
            rng_key=rng_key,
        )

    def _sample(self, target: Target, state: BlackJAXState) -> BlackJAXState:
        key = jax.random.fold_in(state.rng_key, state.made)
        new = (self._tempered if self._tempers else self._moved)(target, state, key)._replace(made=state.made + 1)
        inner = jax.tree.map(lambda now, then: strongly_typed(now, then.dtype), new.inner, state.inner)
        new = new._replace(inner=inner)
        if self._tempers:
            waiting = state.arrived & (state.i < self._num_warmup)
            still = state._replace(n_steps=jnp.zeros_like(state.n_steps))
            new = jax.tree.map(lambda moved, old: jnp.where(waiting, old, moved), new, still)
        return new._replace(i=state.i + 1)

    def _moved(self, target: Target, state: BlackJAXState, key: Array) -> BlackJAXState:
        """Every chain by one step of its own."""
        warming = state.i < self._num_warmup

        def one(chain_key: Array, inner: Any, adaptation: Any) -> tuple:
            learnt = self._windows().parameters(adaptation, warming) if self._learnt else {}
            inner, info = self._algorithm(target, learnt).step(chain_key, inner)
            if self._learnt:
                adaptation = self._windows().update(adaptation, state.i, inner.position, info.acceptance_rate)
            told = {name: getattr(info, _STATISTICS[name]) for name in self._told or ()}
            return inner, told, adaptation, learnt, inner.logdensity + self._divisor(inner.position)

        num_chains = state.lp.shape[0]
        inner, told, adaptation, learnt, lp = jax.vmap(one)(chain_keys(key, num_chains), state.inner, state.adaptation)
        told.setdefault("n_steps", jnp.full(num_chains, int(self._gradient)))
        return state._replace(
            z=jax.vmap(target.sites)(inner.position),
            step_size=self._steps(learnt, num_chains),
            lp=lp,
            inner=inner,
            adaptation=adaptation,
            **{name: strongly_typed(value, getattr(state, name).dtype) for name, value in told.items()},
        )

    def _tempered(self, target: Target, state: BlackJAXState, key: Array) -> BlackJAXState:
        """One step of all particles: resampled, moved, and weighed for the next rise of the inverse temperature."""
        num_chains = state.lp.shape[0]
        inner, info = self._algorithm(target, {}, last=state.i >= self._num_warmup - 1).step(key, state.inner)
        evidence = state.population_log_evidence + info.log_likelihood_increment
        told = {name: getattr(info.update_info, _STATISTICS[name]) for name in self._told or ()}  # (chain, move)
        told = {n: v.sum(1) + 1 if n == "n_steps" else v.any(1) if n == "diverging" else v.mean(1) for n, v in told.items()}
        told.setdefault("n_steps", jnp.zeros(num_chains))
        return state._replace(
            arrived=inner.tempering_param >= _ARRIVED,
            z=jax.vmap(target.sites)(inner.particles),
            beta=strongly_typed(inner.tempering_param, jnp.result_type(float)),
            lp=jax.vmap(lambda v: target.reference(v).sum() + target.tilt(v).sum())(inner.particles),
            log_weight=evidence + jnp.log(num_chains * inner.weights),
            ancestor=state.ancestor[info.ancestors],
            population_log_evidence=evidence,
            inner=inner,
            **{name: strongly_typed(value, getattr(state, name).dtype) for name, value in told.items()},
        )

    def _steps(self, learnt: dict[str, Array], num_chains: int) -> Array:
        step = self._step_size(learnt)
        return jnp.broadcast_to(real(0.0 if step is None else step), (num_chains,))

    def _windows(self) -> Windows:
        return Windows(self.target_acceptance, "inverse_mass_matrix" in self._learnt, self._num_warmup)


def _recognise(algorithm: Any) -> tuple[str, inspect.Signature]:
    """The name of an algorithm of BlackJAX, and its parameters."""
    try:
        import blackjax
    except ImportError:
        raise ValueError("BlackJAX is not installed: pip install blackjax") from None
    build = getattr(algorithm, "differentiable", None)
    if not isinstance(algorithm, blackjax.GenerateSamplingAPI) or build is None:
        raise TypeError(
            f"{algorithm!r} is no sampling algorithm of BlackJAX: pass one such as blackjax.nuts, not what it makes"
        )
    name = next((n for n in vars(blackjax) if getattr(blackjax, n) is algorithm), repr(algorithm))
    signature = inspect.signature(build)
    density = next(iter(signature.parameters))
    known = density == "logdensity_fn" or name in ("elliptical_slice", "adaptive_tempered_smc")
    # Of these two one does not take the posterior's density, the other leaves another one invariant.
    if not known or name in ("mgrad_gaussian", "mclmc"):
        raise ValueError(
            f"blackjax.{name} is no Markov chain that keeps a posterior from its density: take one such as blackjax.nuts, hmc,"
            " mala, barker, rmh, elliptical_slice, or blackjax.adaptive_tempered_smc"
        )
    return name, signature


def _dichotomy() -> Callable:
    from blackjax.smc.solver import dichotomy

    return dichotomy


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
