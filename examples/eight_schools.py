"""Eight schools with its evidence: annealed HMC and NUTS, centred and non-centred, compared with quadrature.

    python examples/eight_schools.py --output eight_schools

The effects of coaching in eight schools (Rubin 1981; Gelman et al., Bayesian Data Analysis, section 5.5):

    mu ~ N(0, 5),   tau ~ HalfCauchy(5),   theta_j ~ N(mu, tau),   y_j ~ N(theta_j, sigma_j).

theta and mu can be integrated analytically, which leaves one integral over tau:

    p(y) = integral HalfCauchy(tau; 5) N(y; 0, diag(sigma^2 + tau^2) + 25 1 1^T) dtau.

The centred model is a funnel in (log tau, theta), where a Markov chain at beta = 1 does not enter the neck. Annealed HMC starts
from exact draws of the prior, some of which are in the neck, and also estimates the evidence. A pilot run chooses the step
sizes, so that adaptation does not bias it. OUTPUT.json has the table and the command, OUTPUT.png the posterior of tau.
"""

import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import tyro
from numpyro.infer import NUTS
from scipy import stats
from scipy.special import logsumexp

from cogen.diagnostics import log_evidence
from cogen.inference import AnnealedHMC, infer

EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], np.float32)
ERROR = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], np.float32)


@dataclass
class Options:
    """Eight schools, centred and non-centred: annealed HMC, NUTS and quadrature."""

    parametrisations: tuple[Literal["non-centred", "centred"], ...] = ("non-centred", "centred")
    """Parametrisations of theta."""
    chains: int = 4_096
    """Chains of annealed HMC, a multiple of 16."""
    temperatures: int = 200
    """Annealing transitions."""
    leapfrog: int = 8
    """Gradient evaluations per transition."""
    draws: int = 10
    """Draws of each chain after the annealing."""
    pilot: int = 256
    """Chains of the pilot run that chooses the step sizes; 0 to adapt them during the run, which biases the evidence."""
    nuts_chains: int = 4
    """Chains of NUTS."""
    nuts_draws: int = 1_000
    """Draws of each NUTS chain, after a warm-up of the same length."""
    seed: int = 0
    """Seed of the inference."""
    output: Path = Path("eight_schools")
    """Output path: writes OUTPUT.json and OUTPUT.png."""


def centred() -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(EFFECT)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, ERROR), obs=jnp.asarray(EFFECT))


def non_centred() -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(EFFECT)):
        standard = numpyro.sample("standard", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * standard)
        numpyro.sample("y", dist.Normal(theta, ERROR), obs=jnp.asarray(EFFECT))


def quadrature(points: int = 4_000) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """The exact values, and the posterior density of tau on a grid (tau, density), by the midpoint rule for log tau from -12 to
    8."""
    log_tau, step = np.linspace(-12.0, 8.0, points, retstep=True)
    tau = np.exp(log_tau)
    variance = ERROR.astype(float) ** 2 + tau[:, None] ** 2  # (tau, school)
    # N(y; 0, D + 25 1 1^T) by the formulas of Woodbury and of the determinant of a rank-one update
    precision = (1 / variance).sum(axis=1)
    weighted = (EFFECT / variance).sum(axis=1)
    inner = 1 / 25 + precision
    log_likelihood = -0.5 * (
        len(EFFECT) * np.log(2 * np.pi)
        + np.log(variance).sum(axis=1)
        + np.log(25 * inner)
        + (EFFECT**2 / variance).sum(axis=1)
        - weighted**2 / inner
    )
    log_joint = log_likelihood + stats.halfcauchy(scale=5.0).logpdf(tau) + log_tau  # the last: dtau = tau dlog(tau)
    log_z = logsumexp(log_joint) + np.log(step)
    weight = np.exp(log_joint - logsumexp(log_joint))
    mu = weighted / inner  # E[mu | tau, y]
    first = (EFFECT[0] * tau**2 + mu * ERROR[0] ** 2) / (ERROR[0] ** 2 + tau**2)  # E[theta_1 | tau, y]
    answers = {
        "log_evidence": log_z,
        "tau_mean": (weight * tau).sum(),
        "tau_below_1": weight[tau < 1].sum(),
        "mu_mean": (weight * mu).sum(),
        "theta_1_mean": (weight * first).sum(),
    }
    return {name: float(value) for name, value in answers.items()}, tau, weight / step / tau


def moments(run: Any) -> dict[str, float]:
    """Posterior moments. Draws have equal weights: the annealing ends with resampling, and NUTS has no weights."""
    posterior = run["posterior"]
    tau, theta = posterior["tau"].values, posterior["theta"].values
    found = {
        "tau_mean": tau.mean(),
        "tau_below_1": (tau < 1).mean(),
        "mu_mean": posterior["mu"].values.mean(),
        "theta_1_mean": theta[..., 0].mean(),
    }
    return {name: float(value) for name, value in found.items()}


def anneal(model: Callable, options: Options) -> tuple[dict[str, float], np.ndarray]:
    """A row of the table and the draws of tau, by annealed HMC."""
    run = infer(
        model,
        AnnealedHMC(num_leapfrog=options.leapfrog, num_populations=16),
        num_warmup=options.temperatures,
        num_samples=options.draws,
        num_chains=options.chains,
        pilot=options.pilot,
        seed=options.seed,
        progress=False,
    )
    evidence = log_evidence(run)
    row = moments(run) | {
        "log_evidence": float(evidence["estimate"]),
        "log_evidence_standard_error": float(evidence["standard_error"]),
        "gradient_evaluations": int(np.sum(run["posterior"].attrs["gradient_evaluations"])),
        "seconds": run["posterior"].attrs["seconds"],
    }
    return row, run["posterior"]["tau"].values.ravel()


def nuts(model: Callable, options: Options) -> tuple[dict[str, float], np.ndarray]:
    run = infer(
        model,
        NUTS,
        num_warmup=options.nuts_draws,
        num_samples=options.nuts_draws,
        num_chains=options.nuts_chains,
        seed=options.seed,
        progress=False,
    )
    row = moments(run) | {
        "divergences": int(run["sample_stats"]["diverging"].values.sum()),
        "gradient_evaluations": int(np.sum(run["posterior"].attrs["gradient_evaluations"])),
        "seconds": run["posterior"].attrs["seconds"],
    }
    return row, run["posterior"]["tau"].values.ravel()


def draw_picture(path: Path, truth: tuple[np.ndarray, np.ndarray], taus: dict[str, np.ndarray]) -> None:
    """Draw the density of log tau, which shows the neck."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(2.8 * len(taus), 3.2), layout="constrained")
    panels = np.ravel(picture.subplots(1, len(taus), sharey=True))
    for axes, (name, tau) in zip(panels, taus.items(), strict=True):
        axes.hist(np.log(tau), bins=np.linspace(-4, 4, 41), density=True, color="#1f5fa8", alpha=0.6)
        axes.plot(np.log(truth[0]), truth[1] * truth[0], color="black", linewidth=1)
        axes.set(title=name, xlabel="log tau", xlim=(-4, 4))
    panels[0].set_ylabel("density (line: quadrature)")
    picture.savefig(path, dpi=72)


def table(rows: dict[str, dict[str, float]], truth: dict[str, float]) -> str:
    lines = ["method                       log evidence (se)  E tau   P(tau < 1)  E mu   E theta_1"]
    for name, row in ({"quadrature": truth} | rows).items():
        evidence = f"{row['log_evidence']:.4f}" if "log_evidence" in row else ""
        error = f" ({row['log_evidence_standard_error']:.4f})" if "log_evidence_standard_error" in row else ""
        lines.append(
            f"{name:28} {evidence + error:18} {row['tau_mean']:6.3f}  {row['tau_below_1']:9.3f}  {row['mu_mean']:5.2f}"
            f"  {row['theta_1_mean']:6.2f}" + (f"   {row['divergences']} divergences" if "divergences" in row else "")
        )
    return "\n".join(lines)


def main(options: Options) -> dict[str, Any]:
    started = time.perf_counter()
    truth, *density = quadrature()
    rows, taus = {}, {}
    for kind in options.parametrisations:
        model = centred if kind == "centred" else non_centred
        for name, method in (("annealed HMC", anneal), ("NUTS", nuts)):
            rows[f"{name}, {kind}"], taus[f"{name}, {kind}"] = method(model, options)
    print(table(rows, truth))
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "options": asdict(options) | {"output": options.output.name},
        "quadrature": truth,
        "rows": rows,
        "seconds": time.perf_counter() - started,
    }
    options.output.with_name(f"{options.output.name}.json").write_text(json.dumps(record, indent=1) + "\n")
    draw_picture(options.output.with_name(f"{options.output.name}.png"), (density[0], density[1]), taus)
    return record


if __name__ == "__main__":
    main(tyro.cli(Options))
