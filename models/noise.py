"""Estimation of the noise scale of a view from the residuals between data and generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from cogen.inference.items import context_rows
from cogen.models.cogenerator import CoGenerator
from cogen.models.contexts import taken_by
from cogen.models.likelihoods import Normal

NOISE_PER_RESIDUAL = 5.0
"""Ratio of the noise scale used for conditioning to the RMS residual of held-out reconstructions. Residuals of neighbouring
pixels are correlated, so independent noise of their size would count the same misfit many times. The factor was chosen on
validation digits, by CRPS and by the coverage of intervals over pixels that are not saturated (docs/inference.md)."""


LEAST_NOISE, MOST_NOISE = 0.02, 0.5
"""Bounds of the noise scale, as shares of the value range. Without the lower bound the posterior of a generator that reproduces
its data could not be sampled; the upper bound is for generators that reproduce nothing."""


def noise_of_residual(residual: float, value_range: tuple[float, float]) -> float:
    """The noise scale to condition with, from the RMS residual of reconstructions: `NOISE_PER_RESIDUAL` times the residual,
    within `LEAST_NOISE` and `MOST_NOISE` of the value range."""
    width = value_range[1] - value_range[0]
    return min(MOST_NOISE * width, max(LEAST_NOISE * width, NOISE_PER_RESIDUAL * residual))


def residuals(
    generator: Callable[..., Tensor],
    images: Tensor,
    seen: Tensor,
    latent_dim: int,
    *,
    contexts: Sequence[Tensor] = (),
    starts: int = 8,
    num_steps: int = 500,
    progress: bool = False,
) -> Tensor:
    """Residuals (image, *event_shape) of the best of ``starts`` optimizations of the log joint density of the seen pixels.

    The joint density has noise scale 0.1, which keeps z where the prior has mass. The optimizer is Adam with a step size that
    falls from 0.1 to zero. After a fifth of the steps the best quarter of the runs of each image is continued. It runs in
    torch, without compilation. `fit_scale` is the same for a conditioned model.

    :param generator: (z, *contexts) -> x.
    :param seen: boolean, broadcasts over an event.
    :param contexts: contexts of the images, (image, ...) each.
    :param progress: show a progress bar.
    """
    z, done = torch.randn(len(images), starts, latent_dim), 0
    with tqdm(total=num_steps, disable=not progress, desc="noise scale", unit="step") as bar:
        for until in (num_steps // 5, num_steps):
            count = z.shape[1]
            target, *given = (each.repeat_interleave(count, 0) for each in (images, *contexts))
            flat = z.flatten(0, 1).clone().requires_grad_()
            optimizer = torch.optim.Adam([flat], lr=0.1, betas=(0.9, 0.99))
            for step in range(done, until):
                optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * step / num_steps))
                misfit = ((generator(flat, *given) - target) * seen).square().flatten(1).sum(1) / (2 * 0.1**2)
                potential = misfit + flat.square().sum(1) / 2
                (flat.grad,) = torch.autograd.grad(potential.sum(), [flat])
                optimizer.step()
                bar.update()
            done = until
            with torch.no_grad():
                residual = (generator(flat, *given) - target).unflatten(0, (-1, count))
            errors = (residual * seen).square().flatten(2).sum(-1)
            best = errors.topk(max(1, count // 4) if until < num_steps else 1, dim=1, largest=False).indices
            z = flat.detach().unflatten(0, (-1, count)).gather(1, best[..., None].expand(-1, -1, latent_dim))
    return residual[torch.arange(len(images)), best[:, 0]]


def fit_scale(seen: CoGenerator, *, num_steps: int = 500, best_of: int = 8, seed: int = 0) -> float:
    """Estimate the noise scale from the residuals of the seen part after the best of ``best_of`` optimizations, over all items.

    The hidden part is never used. The fit of z takes one degree of freedom per latent dimension: with n seen values in total
    and a latent of size d per item, scale^2 = residual sum of squares / (n - items x d), where at most n / 2 is subtracted. Use
    held-out data: a generator fits its training set more closely.

    :param num_steps: steps of each optimization.
    :raises ValueError: for a model that is not conditioned on exactly one view with Gaussian noise.
    """
    from cogen.inference import GradientDescent, infer

    if len(seen.observed) != 1 or type(next(seen.views[n].likelihood for n in seen.observed)) is not Normal:
        raise ValueError(
            f"fit_scale requires a model conditioned on one view with Gaussian noise, not on {list(seen.observed)}"
        )
    ((name, entry),) = seen.observed.items()
    view = seen.views[name]
    descent = infer(
        seen,
        GradientDescent(best_of=best_of),
        num_warmup=num_steps,
        num_samples=1,
        num_chains=1,
        seed=seed,
        progress=False,
    )
    sites = {str(site): values.values[0, 0] for site, values in descent["posterior"].data_vars.items()}
    context = context_rows(seen, sites, np.arange(seen.num_items))
    x = torch.from_numpy(seen.decode(sites["z"], **context))
    taken = {site: torch.from_numpy(context[site]) for site in taken_by(view, context)}
    residual = view(x, **taken).numpy() - entry["value"]
    where = np.broadcast_to(entry.get("mask", np.ones(residual.shape, dtype=bool)), residual.shape)
    count, spent = int(where.sum()), len(x) * seen.latent_dim
    return float(np.sqrt(np.square(residual[where]).sum() / (count - min(spent, count // 2))))
