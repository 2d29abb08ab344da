"""Accuracy of the evidence, and the savings by a guide.

    python benchmarks/evidence.py --output docs/evidence.json

* A linear generator with 64 latents and 784 pixels, half of them seen, whose evidence is known in closed form. The targets: a
  root mean square error over items below 0.1 nat, and bounds that contain the evidence.
* Digits simulated from the shipped generator, with the top half observed with its noise: the gap between the bounds. The
  target: an absolute value below one nat.
* The same annealing (conditional ESS, leapfrog steps, chains) from the prior and from (1 - eps) guide + eps prior, with a
  normal guide fitted by SVI: gradients until beta = 1, including those of the fit and the pilot run, the error of the evidence,
  and, for a posterior with modes of weights 0.9 and 0.1, the weight of the small mode. With two latents some draws of the prior
  are near the mode that the guide misses; with eight latents hardly any is, so that no share of the prior helps.

Temperatures and step sizes are those of pilot runs and fixed, so that the evidence is unbiased.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import tyro
from numpyro.infer.autoguide import AutoNormal

from cogen.diagnostics import evidence_bounds, log_evidence, simulate
from cogen.inference import SVI, Adaptive, AnnealedHMC, GuideStart, Run, infer
from cogen.models import CoGenerator, load_generator, views


@dataclass
class Options:
    items: int = 8
    chains: int = 64
    limit: int = 600
    """Largest number of temperatures."""
    ess: float = 0.98
    """Conditional ESS of each temperature."""
    linear_chains: int = 768
    linear_limit: int = 2_000
    linear_ess: float = 0.998
    """The same for the linear generator, whose target is 0.1 nat."""
    leapfrog: int = 10
    pilot: int = 16
    image: str = "mnist"
    linear_noise: float = 0.5
    guide_chains: int = 256
    guide_ess: float = 0.9
    prior_share: float = 0.1
    fit_steps: int = 1_000
    modes_dims: tuple[int, ...] = (2, 8)
    modes_prior_share: float = 0.3
    seeds: int = 8
    """Runs on the posterior with two modes."""
    parts: tuple[str, ...] = ("linear", "digits", "two modes", "image")
    output: Path | None = None


def linear(options: Options) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(784, 64)) / 8.0
    seen = np.arange(784) < 392
    model = CoGenerator(
        lambda z: z @ jnp.asarray(weight.T, jnp.float32),
        latent_dim=64,
        views={"seen": views.Mask(seen, scale=options.linear_noise)},
    )
    conditioned, truth = simulate(model, options.items, seed=1)
    y = np.asarray(conditioned.item_data["seen"]["value"], float)[:, seen]
    covariance = weight[seen] @ weight[seen].T + options.linear_noise**2 * np.eye(seen.sum())
    _, log_determinant = np.linalg.slogdet(2 * np.pi * covariance)
    exact = -0.5 * (log_determinant + np.einsum("ij,ij->i", y, np.linalg.solve(covariance, y.T).T))
    own = {"chains": options.linear_chains, "limit": options.linear_limit, "ess": options.linear_ess}
    found = bounds(conditioned, truth, replace(options, **own))
    error = found["lower"].values - exact
    inside = (found["lower"] - 3 * found["lower_se"] <= exact) & (exact <= found["upper"] + 3 * found["upper_se"])
    return {
        **summarised("64 latents, 784 pixels", found),
        "rms_error": float(np.sqrt(np.mean(error**2))),
        "worst_error": float(np.abs(error).max()),
        "inside": int(inside.sum()),
        "inside_exactly": int(((found["lower"] <= exact) & (exact <= found["upper"])).sum()),
    }


def digits(options: Options) -> dict[str, Any]:
    generator = load_generator(options.image)
    mask = views.Mask(views.half(tuple(generator.config.event_shape), "top"), scale=generator.config.noise_scale)
    conditioned, truth = simulate(CoGenerator(generator, views={"seen": mask}), options.items, seed=2)
    return summarised("simulated digits", bounds(conditioned, truth, options))


def bounds(conditioned: Any, truth: Any, options: Options) -> Any:
    kernel = AnnealedHMC(schedule=Adaptive(options.ess), num_leapfrog=options.leapfrog)
    counts = {"num_warmup": options.limit, "num_chains": options.chains, "pilot": options.pilot}
    return evidence_bounds(conditioned, kernel, truth, seed=3, progress=False, **counts)


def summarised(name: str, found: Any) -> dict[str, Any]:
    gap = abs(found["gap"])
    row = {"case": name, "mean_absolute_gap": float(gap.mean()), "largest_absolute_gap": float(gap.max())}
    row |= {key: found[key].values.round(4).tolist() for key in ("lower", "lower_se", "upper", "upper_se", "ancestors")}
    return row


# --- guides --------------------------------------------------------------------------------------------------------


def two_modes(dim: int) -> Callable:
    """Weights 0.9 and 0.1, eight standard deviations apart along every axis, evidence one."""

    def model() -> None:
        z = numpyro.sample("z", dist.Normal(jnp.zeros(dim), 5.0).to_event(1))
        parts = [np.log(w) + dist.Normal(m, 1.0).log_prob(z).sum() for w, m in ((0.9, -4.0), (0.1, 4.0))]
        numpyro.factor("y", jnp.logaddexp(*parts) - dist.Normal(0.0, 5.0).log_prob(z).sum())

    return model


def from_both(
    name: str, model: Any, seeds: range, share: float, options: Options, truth: np.ndarray | float | None
) -> list[dict[str, Any]]:
    """Rows for starts from the prior and from the guide; without a ``truth`` errors are relative to the mean of all runs."""
    kernel = functools.partial(AnnealedHMC, schedule=Adaptive(options.guide_ess), num_leapfrog=options.leapfrog)
    rows: list[dict[str, Any]] = []
    estimates = []
    for start in ("the prior", "a guide"):
        gradients, evidence, small = [], [], []
        for seed in seeds:
            initial, fit_gradients = None, 0.0
            if start == "a guide":
                fit = Run(model, SVI(AutoNormal), num_warmup=options.fit_steps, num_chains=4, seed=seed, progress=False)
                fit.draw(1)
                fit_gradients = float(np.mean(fit.gradient_evaluations))
                initial = GuideStart.of(fit, prior_share=share)
            counts = {"num_warmup": options.limit, "num_samples": 1, "num_chains": options.guide_chains, "pilot": options.pilot}
            posterior = infer(model, kernel(initial=initial), seed=seed, progress=False, **counts)
            gradients.append(posterior["sample_stats"]["gradient_evaluations"].mean() + fit_gradients)
            evidence.append(np.atleast_1d(log_evidence(posterior)["estimate"].values))
            small.append(float((posterior["posterior"]["z"].values[..., 0] > 0).mean()))
        estimates.append(np.array(evidence, float))
        rows.append({"case": name, "start": start, "gradients": float(np.mean(gradients)), "small_mode": small})
    truth = np.mean(np.concatenate(estimates), axis=0) if truth is None else truth
    for row, estimate in zip(rows, estimates, strict=True):
        row["evidence_rmse"] = float(np.sqrt(np.mean((estimate - truth) ** 2)))
        row["mean_log_evidence"] = float(estimate.mean())
    rows[1]["share_of_the_prior_s_gradients"] = rows[1]["gradients"] / rows[0]["gradients"]
    return rows


def guides(options: Options, part: str) -> list[dict[str, Any]]:
    if part == "two modes":
        rows, seeds, share = [], range(100, 100 + options.seeds), options.modes_prior_share
        for dim in options.modes_dims:
            rows += from_both(f"two modes, {dim} latents", two_modes(dim), seeds, share, options, 0.0)
    else:
        generator = load_generator(options.image)
        mask = views.Mask(views.half(tuple(generator.config.event_shape), "top"), scale=generator.config.noise_scale)
        conditioned, _ = simulate(CoGenerator(generator, views={"seen": mask}), options.items, seed=4)
        rows = from_both("simulated digits", conditioned, range(100, 103), options.prior_share, options, None)
    for row in rows:
        small = row.pop("small_mode")
        if part == "two modes":
            row |= {"small_mode": float(np.mean(small)), "small_mode_s_e": float(np.std(small, ddof=1) / np.sqrt(len(small)))}
    return rows


def main(options: Options) -> None:
    record: dict[str, Any] = {"options": {name: str(value) for name, value in vars(options).items()}, "rows": []}
    for part in options.parts:
        rows = [{"linear": linear, "digits": digits}[part](options)] if part in ("linear", "digits") else guides(options, part)
        for row in rows:
            scalars = {name: value for name, value in row.items() if not isinstance(value, list)}
            print(", ".join(f"{n} {v:.4g}" if isinstance(v, float) else f"{n} {v}" for n, v in scalars.items()), flush=True)
        record["rows"] += rows
        if options.output:
            options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
