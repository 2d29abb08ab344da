"""Every kernel under contract, once: what runs through `infer`, with which counts, and what starts from given positions.

* ``DRIVEN``: kernels through `infer`, for the contract of moments and evidence (`test_moments`).
* ``PLACED``: kernels whose chains are put where they start, for the contract of invariance (`test_invariance`).
* ``APPROXIMATE``: what is no exact Markov kernel, and where its answer is tested all the same.
* ``ELSEWHERE``: kernels for other targets, and where their contract is.

`test_registry` holds that nothing public is missing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import blackjax
import chains
import jax
import jax.numpy as jnp
import numpyro.infer
import pyro.infer
from numpyro.infer.autoguide import AutoNormal

from cogen.inference import (
    Adaptive,
    AnnealedHMC,
    BlackJAX,
    ImportanceResampling,
    Langevin,
    ParallelTempering,
    ParticleCovariance,
    PyroAnnealedHMC,
    PyroLangevin,
    fit_guide,
)

BELOW_ONE = 0.3


@dataclass(frozen=True)
class Driven:
    """A kernel through `infer`."""

    make: Callable[[Any], Any]
    """From a case (its ``step`` and its ``model``)."""
    counts: dict[str, int] = field(default_factory=dict)
    """What differs from 50 transitions, 2 draws and 64 chains."""
    evidence: str = "weights"
    """Where it comes from: "weights" (unbiased), "bridges" (of replicas, consistent), "" (none)."""
    crosses_modes: bool = True
    chain_by_chain: bool = False
    """Of Pyro: so slow that one small case is enough."""


def annealed(kind: type, **settings: Any) -> Driven:
    return Driven(lambda case: kind(num_leapfrog=5, step_size=case.step, **settings))


def local(kernel: Any, **counts: int) -> Driven:
    return Driven(lambda case: kernel, counts, evidence="", crosses_modes=False)


def guided(case: Any) -> AnnealedHMC:
    items = len(case.log_evidence)
    options = {"num_steps": 300, "seed": 0, "prior_share": 0.5, "progress": False, "items_at_once": items}
    return AnnealedHMC(num_leapfrog=5, step_size=case.step, initial=fit_guide(case.model, AutoNormal, **options))


DRIVEN = {
    "ais": annealed(AnnealedHMC, resample_threshold=0.0),
    "resampling": annealed(AnnealedHMC),
    "bridge": annealed(AnnealedHMC, bridge=True),
    "chains of more draws": annealed(AnnealedHMC, start_draws=8),
    "metric of the others": annealed(AnnealedHMC, inverse_mass=ParticleCovariance()),
    "adaptive, frozen": Driven(lambda case: AnnealedHMC(num_leapfrog=5, schedule=Adaptive(0.9)), {"pilot": 32}),
    "from a guide": Driven(guided),
    "torch, ais": annealed(PyroAnnealedHMC, resample_threshold=0.0),
    "torch, resampling": annealed(PyroAnnealedHMC),
    "torch, bridge": annealed(PyroAnnealedHMC, bridge=True),
    "torch, adaptive, frozen": Driven(lambda case: PyroAnnealedHMC(num_leapfrog=5, schedule=Adaptive(0.9)), {"pilot": 32}),
    "importance": Driven(lambda case: ImportanceResampling(num_proposals=40), {"num_warmup": 19}),
    "parallel tempering": Driven(
        lambda case: ParallelTempering(num_replicas=6, num_leapfrog=5),
        {"num_warmup": 150, "num_samples": 60, "num_chains": 8},
        evidence="bridges",
    ),
    "mala": local(Langevin(), num_warmup=300, num_samples=150, num_chains=16),
    "torch, mala": local(PyroLangevin(), num_warmup=300, num_samples=150, num_chains=16),
    "numpyro, nuts": local(
        functools.partial(numpyro.infer.NUTS, max_tree_depth=5), num_warmup=80, num_samples=30, num_chains=4
    ),
    "numpyro, hmc": local(
        functools.partial(numpyro.infer.HMC, num_steps=8, trajectory_length=None), num_warmup=100, num_samples=40, num_chains=8
    ),
    "blackjax, nuts": local(
        BlackJAX(blackjax.nuts, adapt=True, max_num_doublings=5), num_warmup=100, num_samples=30, num_chains=8
    ),
    "blackjax, hmc": local(
        BlackJAX(blackjax.hmc, adapt=True, num_integration_steps=8), num_warmup=100, num_samples=40, num_chains=8
    ),
    "blackjax, mala": local(
        BlackJAX(blackjax.mala, adapt=True, target_acceptance=0.574), num_warmup=300, num_samples=150, num_chains=16
    ),
    "pyro, nuts": Driven(
        lambda case: functools.partial(pyro.infer.NUTS, step_size=0.3, max_tree_depth=4),
        {"num_warmup": 30, "num_samples": 60, "num_chains": 1},
        evidence="",
        chain_by_chain=True,
    ),
    "pyro, hmc": Driven(
        lambda case: functools.partial(pyro.infer.HMC, step_size=0.25, num_steps=4),
        {"num_warmup": 30, "num_samples": 60, "num_chains": 1},
        evidence="",
        chain_by_chain=True,
    ),
}


def step(name: str, beta: float = 1.0) -> float:
    """Of a trajectory of three leapfrogs."""
    return 1.3 if name == "shapes" else 0.25 / beta**0.5  # a normal posterior is wider at a lower beta


def mala_step(name: str) -> float:
    return 0.9 if name == "shapes" else 0.25


@dataclass(frozen=True)
class Placed:
    """A kernel from given positions."""

    through: Callable[[str, int, float], chains.Run]
    """From the name of a case, its number of latents and beta."""
    betas: tuple[float, ...] = (1.0,)
    cases: tuple[str, ...] = ("shapes", "linear", "weighted")


def of_blackjax(make: Callable[[int, float], BlackJAX]) -> Placed:
    return Placed(lambda name, dim, beta: chains.blackjax(make(dim, 0.8 * step(name))))


def random_walk(key: Any, u: Any) -> Any:
    return u + 0.2 * jax.random.normal(key, u.shape)


def numpyro_nuts(name: str, dim: int, beta: float) -> chains.Run:
    settings = {"adapt_step_size": False, "adapt_mass_matrix": False, "max_tree_depth": 3}
    return chains.numpyro_kernel(functools.partial(numpyro.infer.NUTS, step_size=0.3 * step(name), **settings))


PLACED = {
    "annealed": Placed(lambda name, dim, beta: chains.annealed_hmc(step(name, beta)), (BELOW_ONE, 1.0)),
    "torch, annealed": Placed(lambda name, dim, beta: chains.annealed_hmc_in_torch(step(name, beta)), (BELOW_ONE, 1.0)),
    "mala": Placed(lambda name, dim, beta: chains.at_a_beta(Langevin(step_size=mala_step(name))), (BELOW_ONE, 1.0)),
    "torch, mala": Placed(
        lambda name, dim, beta: chains.langevin_in_torch(PyroLangevin(step_size=mala_step(name))), (BELOW_ONE, 1.0)
    ),
    "blackjax, hmc": of_blackjax(
        lambda dim, h: BlackJAX(blackjax.hmc, step_size=h, inverse_mass_matrix=jnp.ones(dim), num_integration_steps=3)
    ),
    "blackjax, nuts": of_blackjax(
        lambda dim, h: BlackJAX(blackjax.nuts, step_size=h, inverse_mass_matrix=jnp.ones(dim), max_num_doublings=3)
    ),
    "blackjax, mala": of_blackjax(lambda dim, h: BlackJAX(blackjax.mala, step_size=0.5 * h**2)),
    "blackjax, barker": of_blackjax(lambda dim, h: BlackJAX(blackjax.barker, step_size=h)),
    "blackjax, rmh": of_blackjax(lambda dim, h: BlackJAX(blackjax.rmh, proposal_generator=random_walk)),
    "blackjax, elliptical_slice": of_blackjax(
        lambda dim, h: BlackJAX(blackjax.elliptical_slice, mean=jnp.full(dim, 0.3), cov=2.0 * jnp.eye(dim))
    ),
    "numpyro, nuts": Placed(numpyro_nuts, cases=("shapes", "weighted")),
}
"""Parallel tempering has a contract of its own there: its replicas stand at several inverse temperatures at once."""

APPROXIMATE = {
    "AnnealedLangevin": "kernels/test_annealed_langevin.py: the law of its recursion; models/test_score_prior.py: a posterior",
    "SVI": "test_approximations.py: families that hold the posterior",
    "PyroSVI": "test_approximations.py: families that hold the posterior",
    "GradientDescent": "test_approximations.py: arrives at the optimum",
    "LearnedDescent": "models/networks/test_latent_descent.py: its end points and their lengths",
    "PyroLearnedDescent": "models/networks/test_latent_descent.py: its end points and their lengths",
}

ELSEWHERE = {"BlockGibbs": "test_block_gibbs.py: its targets are discrete"}
