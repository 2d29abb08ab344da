"""The noise scale of a view, fitted to how far the data lie off the generator."""

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
"""The noise scale to condition with, over the residual (RMS) of held-out reconstructions. Residuals of neighbouring pixels go
together, so that independent noise of their size would count the same misfit many times over. The factor was chosen on
validation digits, by CRPS and by the coverage of intervals over pixels that are not saturated (docs/inference.md)."""


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
    """What is left, (image, *event_shape), of the best of ``starts`` descents on the log joint of the seen pixels.

    ``seen`` is boolean and broadcasts over an event. The joint has noise scale 0.1, so that z stays where the prior has mass;
    Adam, step 0.1 falling to zero. After a fifth of the steps the best quarter of an image's descents goes on. In torch,
    without a compilation. `fit_scale` is the same for a conditioned model.

    :param generator: (z, *contexts) -> x.
    :param contexts: of the images, (image, ...) each.
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
    """The standard deviation of what is left of the seen part after the best of ``best_of`` descents, over all items.

    Only what is seen is used, never the hidden part. A descent spends one degree of freedom per latent, so with n seen
    values in all and a latent of size d per item, scale^2 = residual sum of squares / (n - items x d), with at most half of
    n spent. Meant for held-out data: a generator lies closer to its training set.

    Raises ValueError for a model that is not conditioned on exactly one view with Gaussian noise.
    """
    from cogen.inference import GradientDescent, infer

    if len(seen.observed) != 1 or type(next(seen.views[n].likelihood for n in seen.observed)) is not Normal:
        raise ValueError(f"a noise scale is fitted to one view with Gaussian noise; conditioned are {list(seen.observed)}")
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
