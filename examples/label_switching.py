"""Label switching in a mixture: annealed HMC visits all K! modes with equal shares, a NUTS chain stays in one of them.

    python examples/label_switching.py --output label_switching

Three exchangeable components of equal weight:

    mu_k ~ N(0, 5),   c_n ~ Categorical(1/3, 1/3, 1/3),   y_n ~ N(mu_{c_n}, 1).

All permutations of the labels are equally probable, so that the posterior of mu has 3! = 6 well-separated modes of equal mass
(Jasra, Holmes and Stephens 2005, MCMC methods and the label switching problem). The allocations c_n are summed out, by
NumPyro's enumeration (with funsor) or in the model. The evidence is known by quadrature on a grid of the three means:

    p(y) = integral prod_k N(mu_k; 0, 5) prod_n 1/3 sum_k N(y_n; mu_k, 1) dmu.

Annealed HMC is run by `infer`, with step sizes from a pilot run so that adaptation does not bias the evidence, and by NumPyro's
MCMC. OUTPUT.json has the table and the command, OUTPUT.png the draws.
"""

import itertools
import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import tyro
from numpyro.infer import MCMC, NUTS
from scipy import stats
from scipy.special import logsumexp

from cogen.diagnostics import log_evidence
from cogen.inference import AnnealedHMC, infer

COMPONENTS, PRIOR_SD = 3, 5.0
ORDERS = list(itertools.permutations(range(COMPONENTS)))


@dataclass
class Options:
    """A Gaussian mixture with three exchangeable components: annealed HMC, NUTS and quadrature."""

    points: int = 30
    """Observations, a third from each of the clusters at -4, 0 and 4."""
    enumerate: bool = True
    """Let NumPyro enumerate the allocations (requires funsor); otherwise the model sums them out."""
    chains: int = 4_096
    """Chains of annealed HMC, a multiple of 16."""
    temperatures: int = 200
    """Annealing transitions."""
    leapfrog: int = 5
    """Gradient evaluations per transition."""
    pilot: int = 256
    """Chains of the pilot run that chooses the step sizes; 0 to adapt them during the run, which biases the evidence."""
    nuts_chains: int = 12
    """Chains of NUTS."""
    nuts_draws: int = 500
    """Draws of each NUTS chain, after a warm-up of the same length."""
    grid: int = 160
    """Grid points of the quadrature for each mean, from -12 to 12."""
    data_seed: int = 0
    """Seed of the observations."""
    seed: int = 0
    """Seed of the inference."""
    output: Path = Path("label_switching")
    """Output path: writes OUTPUT.json and OUTPUT.png."""


def mixture(y: np.ndarray, options: Options) -> Callable:
    weights = jnp.full(COMPONENTS, 1 / COMPONENTS)

    def enumerated() -> None:
        with numpyro.plate("component", COMPONENTS):
            mu = numpyro.sample("mu", dist.Normal(0.0, PRIOR_SD))
        with numpyro.plate("n", len(y)):
            allocation = numpyro.sample("allocation", dist.Categorical(weights), infer={"enumerate": "parallel"})
            numpyro.sample("y", dist.Normal(mu[allocation], 1.0), obs=jnp.asarray(y))

    def summed() -> None:
        with numpyro.plate("component", COMPONENTS):
            mu = numpyro.sample("mu", dist.Normal(0.0, PRIOR_SD))
        with numpyro.plate("n", len(y)):
            numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(mu, 1.0)), obs=jnp.asarray(y))

    return enumerated if options.enumerate else summed


def quadrature(y: np.ndarray, points: int) -> float:
    """log p(y) by the midpoint rule over the three means, one slice of the first at a time."""
    grid, step = np.linspace(-12.0, 12.0, points, retstep=True)
    density = stats.norm(grid, 1.0).pdf(y[:, None]) / COMPONENTS  # (n, grid)
    log_prior = stats.norm(0.0, PRIOR_SD).logpdf(grid) + np.log(step)
    total = []
    for k in range(points):
        pairs = density[:, k, None, None] + density[:, :, None] + density[:, None, :]
        log_likelihood = np.log(np.maximum(pairs, np.finfo(float).tiny)).sum(axis=0)
        total.append(logsumexp(log_likelihood + log_prior[k] + log_prior[:, None] + log_prior[None, :]))
    return float(logsumexp(total))


def shares(mu: np.ndarray) -> np.ndarray:
    """The share of each of the 6 orders of the means among draws (..., component)."""
    order = np.argsort(mu.reshape(-1, COMPONENTS), axis=1)
    return np.array([(order == np.array(o)).all(axis=1).mean() for o in ORDERS])


def share_errors(mu: np.ndarray, ancestor: np.ndarray) -> np.ndarray:
    """Standard errors of the shares, clustered by ``ancestor``: initial chains are independent, their descendants are not."""
    order = np.argsort(mu.reshape(-1, COMPONENTS), axis=1)
    errors = []
    for o in ORDERS:
        inside = (order == np.array(o)).all(axis=1)
        families = np.bincount(ancestor.ravel(), weights=inside - inside.mean())
        errors.append(np.sqrt((families**2).sum()) / len(inside))
    return np.array(errors)


def loyalty(mu: np.ndarray) -> np.ndarray:
    """The share of a chain's draws in its most frequent order: (chain, draw, component) -> (chain,)."""
    return np.array([shares(chain).max() for chain in mu])


def draw_picture(path: Path, draws: dict[str, np.ndarray]) -> None:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(7.0, 3.6), layout="constrained")
    panels = picture.subplots(1, len(draws), sharex=True, sharey=True)
    for axes, (name, mu) in zip(panels, draws.items(), strict=True):
        for chain in mu:
            axes.plot(*chain[:, :2].T, ".", markersize=2, alpha=0.4)
        axes.set(title=name, xlabel="mu_1", aspect="equal")
    panels[0].set_ylabel("mu_2")
    picture.savefig(path, dpi=72)


def table(record: dict[str, Any]) -> str:
    lines = [f"method                   log evidence (se)    share of each of the {len(ORDERS)} labellings (known: 0.167)"]
    lines.append(f"{'quadrature':24} {record['log_evidence_quadrature']:.4f}")
    for name, row in record["rows"].items():
        evidence = f"{row['log_evidence']:.4f}" if "log_evidence" in row else ""
        error = f" ({row['log_evidence_standard_error']:.4f})" if "log_evidence_standard_error" in row else ""
        lines.append(f"{name:24} {evidence + error:20} {'  '.join(f'{s:.3f}' for s in row['shares'])}")
        if "share_standard_errors" in row:
            lines.append(f"{'  standard errors':45} {'  '.join(f'{s:.3f}' for s in row['share_standard_errors'])}")
    stay = record["rows"]["NUTS"]["loyalty"]
    lines.append(
        f"every NUTS chain has {min(stay):.0%} or more of its draws in one labelling, so NUTS does not estimate the shares"
    )
    return "\n".join(lines)


def main(options: Options) -> dict[str, Any]:
    started = time.perf_counter()
    rng = np.random.default_rng(options.data_seed)
    y = np.resize([-4.0, 0.0, 4.0], options.points) + rng.normal(size=options.points)
    y = y.astype(np.float32)
    model = mixture(y, options)
    settings: dict[str, Any] = {"num_leapfrog": options.leapfrog, "num_populations": 16}

    annealed = infer(
        model,
        AnnealedHMC(**settings),
        num_warmup=options.temperatures,
        num_samples=1,
        num_chains=options.chains,
        pilot=options.pilot,
        seed=options.seed,
        progress=False,
    )
    evidence = log_evidence(annealed)
    ours = annealed["posterior"]["mu"].values

    mcmc = MCMC(
        AnnealedHMC(model, **settings),
        num_warmup=options.temperatures,
        num_samples=1,
        num_chains=options.chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(options.seed), extra_fields=("log_weight", "ancestor"))
    extra = mcmc.get_extra_fields()
    plain = np.asarray(mcmc.get_samples(group_by_chain=True)["mu"])

    nuts = infer(
        model,
        NUTS,
        num_warmup=options.nuts_draws,
        num_samples=options.nuts_draws,
        num_chains=options.nuts_chains,
        seed=options.seed,
        progress=False,
    )
    chains = nuts["posterior"]["mu"].values

    record: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "options": asdict(options) | {"output": options.output.name},
        "log_evidence_quadrature": quadrature(y.astype(float), options.grid),
        "rows": {
            "annealed HMC, infer": {
                "shares": shares(ours).tolist(),
                "share_standard_errors": share_errors(ours, annealed["sample_stats"]["ancestor"].values).tolist(),
                "log_evidence": float(evidence["estimate"]),
                "log_evidence_standard_error": float(evidence["standard_error"]),
                "gradient_evaluations": int(np.sum(annealed["posterior"].attrs["gradient_evaluations"])),
                "seconds": annealed["posterior"].attrs["seconds"],
            },
            "annealed HMC, NumPyro": {
                "shares": shares(plain).tolist(),
                "share_standard_errors": share_errors(plain, np.asarray(extra["ancestor"])).tolist(),
                "log_evidence": float(extra["log_weight"][0]),  # all are equal after the last resampling
            },
            "NUTS": {
                "shares": shares(chains).tolist(),
                "loyalty": loyalty(chains).tolist(),
                "gradient_evaluations": int(np.sum(nuts["posterior"].attrs["gradient_evaluations"])),
                "seconds": nuts["posterior"].attrs["seconds"],
            },
        },
        "seconds": time.perf_counter() - started,
    }
    print(table(record))
    options.output.with_name(f"{options.output.name}.json").write_text(json.dumps(record, indent=1) + "\n")
    draws = {"annealed HMC": ours[:2_000], f"NUTS, {options.nuts_chains} chains": chains[:, ::5]}
    draw_picture(options.output.with_name(f"{options.output.name}.png"), draws)
    return record


if __name__ == "__main__":
    main(tyro.cli(Options))
