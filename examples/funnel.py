"""Neal's funnel with data: annealed HMC and NUTS in the funnel's own coordinates, compared with quadrature.

    python examples/funnel.py --output funnel

Neal (2003), Slice sampling, section 8, has ten variables; here nine of them are observed with noise:

    v ~ N(0, 3),   x_i ~ N(0, exp(v / 2)),   y_i ~ N(x_i, 1),        i = 1, ..., 9.

The data exclude large x but not small x, so the posterior includes the whole neck, in which the scale of x falls by orders of
magnitude. No single step size is right for the whole posterior, and a Markov chain with the step size of the mouth never enters
the neck. Annealed HMC starts from exact draws of the prior, some of which are in the neck. x can be integrated analytically,
which leaves one integral over v:

    p(y) = integral N(v; 0, 3) prod_i N(y_i; 0, sqrt(exp(v) + 1)) dv.

A pilot run chooses the step sizes, so that adaptation does not bias the evidence. OUTPUT.json has the table and the command,
OUTPUT.png the posterior of v and x_1.
"""

import json
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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

SEEN = np.array([0.4, -1.1, 0.2, 1.5, -0.6, -0.1, 0.9, -1.3, 0.5], np.float32)
NECK = -4.0
"""Upper limit of v in the neck, where the prior sd of x is below a seventh of the noise of y."""


@dataclass
class Options:
    """Neal's funnel, nine of its ten variables seen with noise: annealed HMC, NUTS and quadrature."""

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
    output: Path = Path("funnel")
    """Output path: writes OUTPUT.json and OUTPUT.png."""


def funnel() -> None:
    v = numpyro.sample("v", dist.Normal(0.0, 3.0))
    with numpyro.plate("i", len(SEEN)):
        x = numpyro.sample("x", dist.Normal(0.0, jnp.exp(v / 2)))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=jnp.asarray(SEEN))


def quadrature(points: int = 4_000) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """The exact values, and the posterior density of v on a grid (v, density)."""
    v, step = np.linspace(-24.0, 16.0, points, retstep=True)
    seen = SEEN.astype(float)
    log_joint = stats.norm(0, 3).logpdf(v) + stats.norm(0, np.sqrt(np.exp(v) + 1)[:, None]).logpdf(seen).sum(axis=1)
    weight = np.exp(log_joint - logsumexp(log_joint))
    mean = (weight * v).sum()
    shrunk = 1 / (1 + np.exp(-v))  # x_i given v and y_i: normal, mean y_i times this, variance this
    answers = {
        "log_evidence": logsumexp(log_joint) + np.log(step),
        "v_mean": mean,
        "v_sd": np.sqrt((weight * (v - mean) ** 2).sum()),
        "neck": weight[v < NECK].sum(),
        "x_square": (weight * (shrunk + (seen**2).mean() * shrunk**2)).sum(),
    }
    return {name: float(value) for name, value in answers.items()}, v, weight / step


def moments(run: Any) -> dict[str, float]:
    """Posterior moments. Draws have equal weights: the annealing ends with resampling, and NUTS has no weights."""
    v, x = (run["posterior"][name].values.astype(float) for name in ("v", "x"))
    found = {"v_mean": v.mean(), "v_sd": v.std(), "neck": (v < NECK).mean(), "x_square": (x**2).mean()}
    return {name: float(value) for name, value in found.items()}


def cost(run: Any) -> dict[str, float]:
    attributes = run["posterior"].attrs
    return {"gradient_evaluations": int(np.sum(attributes["gradient_evaluations"])), "seconds": attributes["seconds"]}


def draw_picture(path: Path, v: np.ndarray, density: np.ndarray, runs: dict[str, Any]) -> None:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8.0, 5.6), layout="constrained")
    panels = picture.subplots(2, len(runs), sharex=True, sharey="row")
    for (above, below), (name, run) in zip(panels.T, runs.items(), strict=True):
        drawn, x = run["posterior"]["v"].values.ravel(), run["posterior"]["x"].values[..., 0].ravel()
        above.hist(drawn, bins=np.linspace(-12, 6, 61), density=True, color="#1f5fa8", alpha=0.6)
        above.plot(v, density, color="black", linewidth=1)
        above.set(title=name, xlim=(-12, 6))
        chosen = np.random.default_rng(0).permutation(len(drawn))[:2_000]
        below.plot(drawn[chosen], x[chosen], ".", color="#1f5fa8", markersize=2, alpha=0.5)
        below.set(xlabel="v", ylim=(-4, 4))
    panels[0, 0].set_ylabel("density (line: quadrature)")
    panels[1, 0].set_ylabel("x_1")
    picture.savefig(path, dpi=72)


def table(rows: dict[str, dict[str, float]]) -> str:
    lines = [f"method        log evidence (se)     E v   sd v  P(v < {NECK:g})  E x^2"]
    for name, row in rows.items():
        evidence = f"{row['log_evidence']:.4f}" if "log_evidence" in row else ""
        error = f" ({row['log_evidence_standard_error']:.4f})" if "log_evidence_standard_error" in row else ""
        tail = f"   {row['divergences']} divergences" if "divergences" in row else ""
        lines.append(
            f"{name:13} {evidence + error:18}  {row['v_mean']:6.3f}  {row['v_sd']:5.3f}  {row['neck']:9.3f}"
            f"  {row['x_square']:5.3f}{tail}"
        )
    return "\n".join(lines)


def main(options: Options) -> dict[str, Any]:
    started = time.perf_counter()
    truth, v, density = quadrature()
    annealed = infer(
        funnel,
        AnnealedHMC(num_leapfrog=options.leapfrog, num_populations=16),
        num_warmup=options.temperatures,
        num_samples=options.draws,
        num_chains=options.chains,
        pilot=options.pilot,
        seed=options.seed,
        progress=False,
    )
    nuts = infer(
        funnel,
        NUTS,
        num_warmup=options.nuts_draws,
        num_samples=options.nuts_draws,
        num_chains=options.nuts_chains,
        seed=options.seed,
        progress=False,
    )
    evidence = log_evidence(annealed)
    weights = {
        "log_evidence": float(evidence["estimate"]),
        "log_evidence_standard_error": float(evidence["standard_error"]),
    }
    divergences = {"divergences": int(nuts["sample_stats"]["diverging"].values.sum())}
    rows = {
        "quadrature": truth,
        "annealed HMC": moments(annealed) | weights | cost(annealed),
        "NUTS": moments(nuts) | divergences | cost(nuts),
    }
    print(table(rows))
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "options": asdict(options) | {"output": options.output.name},
        "rows": rows,
        "seconds": time.perf_counter() - started,
    }
    options.output.with_name(f"{options.output.name}.json").write_text(json.dumps(record, indent=1) + "\n")
    runs = {"annealed HMC": annealed, "NUTS": nuts}
    draw_picture(options.output.with_name(f"{options.output.name}.png"), v, density, runs)
    return record


if __name__ == "__main__":
    main(tyro.cli(Options))
