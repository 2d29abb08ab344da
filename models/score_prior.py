"""A prior over y that is known by its score at every level of noise, conditioned by views.

A noise-conditional score s(y, sigma) = grad log p_sigma(y) has no density, so that no kernel that weighs, accepts or rejects
can use it. `cogen.inference.AnnealedLangevin` asks for gradients alone, those of

    log p_sigma(y) + sum over the views of log p_sigma(seen | y),

and the second is an approximation: the likelihood of a noisy y is an integral over what y was without its noise. Of a linear
view with Gaussian noise, seen = A x + Normal(0, v^2) of an x with y = x + sigma e, it is taken to be

    Normal(A y, max(v^2 - a^2 sigma^2, a^2 sigma^2)),      a^2 the diagonal of A A'.

* While a sigma < v / sqrt 2 the noise of y counts as a part of the view's noise, v^2 = (v^2 - a^2 sigma^2) + a^2 sigma^2
  (Kawar et al. 2021). The path is then exact: y is a draw x of the posterior and noise, correlated with it; the weights of
  modes are those of the posterior at every such level. It asks for orthogonal rows of A, as masks, thumbnails, the luma and
  columns have them, also those of several views together; otherwise the error is of order sigma^2.
* Above, the noise of y is all that counts. Modes that fall apart at such a level get weights that are not exact.

With the variance v^2 + sigma^2 at every level (Jalal et al. 2021) modes that fall apart at a small level get other weights too,
which the tests of this module show; with v^2, the likelihood as it is, steps that grow with sigma are unstable. Any other view
has its likelihood as it is: where this is narrower than sigma, it needs smaller steps.

References:
    Song, Ermon. Generative modeling by estimating gradients of the data distribution. NeurIPS 2019.
    Jalal, Arvinte, Daras, Price, Dimakis, Tamir. Robust compressed sensing MRI with deep generative priors. NeurIPS 2021.
    Kawar, Vaksman, Elad. SNIPS: solving noisy inverse problems stochastically. NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cogen.models.cogenerator import Data
from cogen.models.contexts import Context, taken_by
from cogen.models.energy import ENERGY, EnergyModel
from cogen.models.families.score_matching import check_levels
from cogen.models.frozen import frozen
from cogen.models.item_by_item import POINTS, check_module
from cogen.models.likelihoods import Normal
from cogen.models.views import View

AT_ONCE = 64
"""Rows of a view's matrix that are computed together."""


class ScorePrior(EnergyModel):
    """A prior that is known by its score, to be sampled, conditioned and clamped; for `cogen.inference.AnnealedLangevin`.

    :param network: s, from y (batch, *event) and ``sigma`` (batch,) to (batch, *event), each item's from itself alone. Where
        its ``forward`` names contexts of the model, it is given them.
    :param noise_levels: the least and the greatest sigma. Chains start from Normal(0, greatest^2), and end with noise of the
        least.
    :param event_shape: of one y.
    :param contexts: c by name, `Classes` or `Array`, all of them given.
    :param views: what may be observed of y, by name, with noise of known scale.

    The model is conditioned, given and clamped as an `EnergyModel` is: ``model.items(n)``, ``model.condition(view=values)``.
    What is clamped has no noise at any level, while the free entries have.

    Raises ValueError for levels that are not positive, the lesser first, for a network that does not make a y of each y, or
    fails `CoGenerator`'s probes, and for a noise scale or a context that would be latent.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        noise_levels: tuple[float, float],
        event_shape: Sequence[int],
        contexts: Mapping[str, Context] | None = None,
        views: Mapping[str, View] | None = None,
    ) -> None:
        check_levels(noise_levels)
        self.noise_levels = noise_levels
        self.score = frozen(network)
        super().__init__(
            _Unknown(self.score), reference_scale=noise_levels[1], event_shape=event_shape, contexts=contexts, views=views
        )
        self.name = type(network).__name__
        self._check_score()

    def _make(self, whole: nn.Module, size: int, contexts: Mapping[str, Context], views: Mapping[str, View]) -> None:
        super()._make(whole, size, contexts, views)
        latent = [f"the noise scale of view {name!r}" for name, view in self.views.items() if _is_sampled(view)]
        latent += [f"context {name!r}" for name in self._contexts.unknown("relaxed")]
        if latent:
            raise ValueError(f"{latent[0]} would be latent, and annealed Langevin moves y alone: give a known one")
        for name, view in self.views.items():
            noise = view._likelihood
            if type(noise) is not Normal or self._takes[name]:
                continue
            if (rows := _square_rows(view, self.event_shape)) is not None:
                view._likelihood = _Noisy(noise.scale, rows, self.noise_levels)

    def _check_score(self) -> None:
        greatest = self.noise_levels[1]
        points = greatest * torch.randn(POINTS, *self.event_shape, generator=torch.Generator().manual_seed(0))
        known = {name: self.contexts[name].points(POINTS) for name in taken_by(self.score, self.contexts)}
        made = check_module(self.score, points, "the score", "y", {"sigma": torch.full((POINTS,), greatest), **known})
        if made.shape != points.shape:
            raise ValueError(f"the score makes {tuple(made.shape[1:])} of a y of shape {self.event_shape}: it is a gradient")

    # --- the model ---------------------------------------------------------------------------------------------

    def __call__(self, data: Data | None = None, *, num_items: int = 1) -> Tensor:
        raise TypeError("a score is no density, and no Pyro kernel runs without one: use cogen.inference.AnnealedLangevin")

    def _in_jax(self, view: str) -> Callable:
        if view != ENERGY or view in self._jax:
            return super()._in_jax(view)
        import jax
        import jax.numpy as jnp

        from cogen.models.jax_bridge.torch_to_jax import as_jax

        shapes = {name: self.contexts[name].shape for name in self._takes[ENERGY]}
        with jax.ensure_compile_time_eval():
            score = as_jax(_OfLogLevel(self.score), self.event_shape, {"log_sigma": (), **shapes})
        variance = self.reference_scale**2

        def factor(x: Any, **context: Any) -> Any:
            """NaN, whose gradient is the score but for that of the reference."""
            level = jnp.log(_level(self.noise_levels))
            gradient = score(x, log_sigma=jnp.broadcast_to(level, x.shape[:1]), **context) + x / variance
            axes = tuple(range(1, x.ndim))
            return (jax.lax.stop_gradient(gradient) * x).sum(axes) + jnp.nan

        self._jax[view] = factor
        return factor

    # --- what the results need ---------------------------------------------------------------------------------

    @property
    def attributes(self) -> dict[str, Any]:
        """As of a `CoGenerator`; and the levels."""
        return {**super(EnergyModel, self).attributes, "noise_levels": list(self.noise_levels)}


class _Unknown(nn.Module):
    """In the place of an energy, which is not known: it takes the contexts that the score takes."""

    def __init__(self, score: nn.Module) -> None:
        super().__init__()
        self.score = score

    def takes(self, names: Iterable[str]) -> list[str]:
        return taken_by(self.score, names)

    def forward(self, x: Tensor, **context: Tensor) -> Tensor:
        return torch.zeros(len(x))


class _OfLogLevel(nn.Module):
    """A score of log sigma, any number: the translation to JAX is compared at normal ones."""

    def __init__(self, score: nn.Module) -> None:
        super().__init__()
        self.score = score

    def forward(self, x: Tensor, log_sigma: Tensor, **context: Tensor) -> Tensor:
        return self.score(x, sigma=log_sigma.exp(), **context)


@dataclass(frozen=True, eq=False)
class _Noisy(Normal):
    """The noise of a linear view of a y that has noise itself, as the module describes it."""

    rows: Tensor
    """a^2, of the view's shape."""
    noise_levels: tuple[float, float]

    def numpyro(self, location: Any, scale: Any) -> Any:
        import jax.numpy as jnp

        noise = _level(self.noise_levels) ** 2 * self.rows.numpy()
        return super().numpyro(location, jnp.sqrt(jnp.maximum(scale**2 - noise, noise)))


def _level(noise_levels: tuple[float, float]) -> Any:
    """The model's parameter, which a kernel sets; otherwise the least."""
    import numpyro
    from numpyro.distributions import constraints

    from cogen.inference.kernels.annealed_langevin import NOISE_LEVEL

    return numpyro.param(NOISE_LEVEL, noise_levels[0], constraint=constraints.interval(*noise_levels))


def _is_sampled(view: View) -> bool:
    return isinstance(view.likelihood.scale, torch.distributions.Distribution)


def _square_rows(view: View, event_shape: tuple[int, ...]) -> Tensor | None:
    """The diagonal of A A' of a linear view (up to a constant), of the view's shape; None for one that is not linear."""
    points = torch.randn(3, *event_shape, generator=torch.Generator().manual_seed(0))
    zero, a, b, c = view(torch.stack([torch.zeros(event_shape), *points[:2], points[0] + points[1]]))
    if not torch.allclose(a + b, c + zero, atol=1e-4 * float(c.abs().max() + 1)):
        return None
    shown, pull = torch.func.vjp(lambda x: view(x[None])[0], torch.zeros(event_shape))[:2]
    rows = torch.eye(shown.numel()).reshape(-1, *shown.shape)
    squares = [torch.func.vmap(pull)(part)[0].square().flatten(1).sum(1) for part in rows.split(AT_ONCE)]
    return torch.cat(squares).reshape(shown.shape)
