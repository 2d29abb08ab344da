"""A prior over y defined by its score at every noise level, conditioned by views.

A noise-conditional score s(y, sigma) = grad log p_sigma(y) has no density, so kernels with weights or a Metropolis correction
cannot use it. `cogen.inference.AnnealedLangevin` requires only the gradient of

    log p_sigma(y) + sum over the views of log p_sigma(seen | y).

The second term is an approximation, because the likelihood of a noisy y is an integral over the noise-free y. For a linear
view with Gaussian noise, seen = A x + Normal(0, v^2) with y = x + sigma e, it is approximated by

    Normal(A y, max(v^2 - a^2 sigma^2, a^2 sigma^2)),      a^2 the diagonal of A A'.

* For a sigma < v / sqrt 2 the noise of y is a part of the view's noise, v^2 = (v^2 - a^2 sigma^2) + a^2 sigma^2 (Kawar et al.
  2021). The path is then exact: y is a draw x of the posterior plus correlated noise, and modes have their posterior weights
  at every such level. This requires that the rows of A are orthogonal, also across views, as those of masks, thumbnails, the
  luma and columns are; otherwise the error is of order sigma^2.
* Above, only the noise of y counts. Modes that separate at such a level get approximate weights.

With the variance v^2 + sigma^2 at every level (Jalal et al. 2021), modes that separate at a small level get wrong weights too,
as the tests of this module show; with the unchanged likelihood, v^2, steps that grow with sigma are unstable. All other views
keep their likelihood: if it is narrower than sigma, it requires smaller steps.

References:
    Song, Ermon. Generative modeling by estimating gradients of the data distribution. NeurIPS 2019.
    Jalal, Arvinte, Daras, Price, Dimakis, Tamir. Robust compressed sensing MRI with deep generative priors. NeurIPS 2021.
    Kawar, Vaksman, Elad. SNIPS: solving noisy inverse problems stochastically. NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cogen.inference.signatures import Attribute
from cogen.models.cogenerator import Data
from cogen.models.contexts import Context, taken_by
from cogen.models.energy import ENERGY, EnergyModel
from cogen.models.families.score_matching import check_levels
from cogen.models.frozen import frozen
from cogen.models.item_by_item import POINTS, check_module
from cogen.models.likelihoods import Normal
from cogen.models.views import View

if TYPE_CHECKING:
    import jax

AT_ONCE = 64
"""Number of rows of a view's matrix that are computed at once."""


class ScorePrior(EnergyModel):
    """A prior defined by its score, to sample, condition and clamp with `cogen.inference.AnnealedLangevin`.

    It has the methods of an `EnergyModel`: ``model.items(n)``, ``model.condition(view=values)``. Clamped entries have no noise
    at any level; the free entries do.

    :param network: s, from y (batch, *event) and ``sigma`` (batch,) to (batch, *event), each item from itself only. It receives
        the contexts of the model that its ``forward`` names.
    :param noise_levels: the least and the greatest sigma. Chains start from Normal(0, greatest^2) and end with the least noise.
    :param event_shape: shape of one y.
    :param contexts: c by name, `Classes` or `Array`; all must be given.
    :param views: views of y, by name, with a known noise scale.
    :raises ValueError: for levels that are not positive and in ascending order, a network whose output does not have the shape
        of y or that fails the probes of `CoGenerator`, and a noise scale or a context that would be latent.
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

    def _make(self, decoder: nn.Module, size: int, contexts: Mapping[str, Context], views: Mapping[str, View]) -> None:
        super()._make(decoder, size, contexts, views)
        latent = [f"the noise scale of view {name!r}" for name, view in self.views.items() if _is_sampled(view)]
        latent += [f"context {name!r}" for name in self._contexts.unknown("relaxed")]
        if latent:
            raise ValueError(f"{latent[0]} would be latent, but annealed Langevin samples only y: give a known value")
        for name, view in self.views.items():
            known = type(view.likelihood) is Normal and not self._takes[name]
            if known and (rows := _square_rows(view, self.event_shape)) is not None:
                view._likelihood = _Noisy(view.likelihood.scale, rows, self.noise_levels)

    def _check_score(self) -> None:
        greatest = self.noise_levels[1]
        points = greatest * torch.randn(POINTS, *self.event_shape, generator=torch.Generator().manual_seed(0))
        known = {name: self.contexts[name].points(POINTS) for name in taken_by(self.score, self.contexts)}
        made = check_module(self.score, points, "the score", "y", {"sigma": torch.full((POINTS,), greatest), **known})
        if made.shape != points.shape:
            raise ValueError(
                f"the score returns shape {tuple(made.shape[1:])} for a y of shape {self.event_shape}: both must be equal"
            )

    # --- the model ---------------------------------------------------------------------------------------------

    def __call__(self, data: Data | None = None, *, num_items: int = 1) -> Tensor:
        raise TypeError("a score has no density, which Pyro kernels require: use cogen.inference.AnnealedLangevin")

    def _in_jax(self, view: str) -> Callable[..., jax.Array]:
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
            """NaN, with the gradient of the score minus that of the reference."""
            level = jnp.log(_level(self.noise_levels))
            gradient = score(x, log_sigma=jnp.broadcast_to(level, x.shape[:1]), **context) + x / variance
            axes = tuple(range(1, x.ndim))
            return (jax.lax.stop_gradient(gradient) * x).sum(axes) + jnp.nan

        self._jax[view] = factor
        return factor

    # --- results -----------------------------------------------------------------------------------------------

    @property
    def attributes(self) -> dict[str, Attribute]:
        """The attributes of a `CoGenerator`, and the noise levels."""
        return {**super(EnergyModel, self).attributes, "noise_levels": list(self.noise_levels)}


class _Unknown(nn.Module):
    """Placeholder for the unknown energy, which takes the same contexts as the score."""

    def __init__(self, score: nn.Module) -> None:
        super().__init__()
        self.score = score

    def takes(self, names: Iterable[str]) -> list[str]:
        return taken_by(self.score, names)

    def forward(self, x: Tensor, **context: Tensor) -> Tensor:
        return torch.zeros(len(x))


class _OfLogLevel(nn.Module):
    """A score as a function of log sigma, which is unbounded: the conversion to JAX is tested at normal inputs."""

    def __init__(self, score: nn.Module) -> None:
        super().__init__()
        self.score = score

    def forward(self, x: Tensor, log_sigma: Tensor, **context: Tensor) -> Tensor:
        return self.score(x, sigma=log_sigma.exp(), **context)


@dataclass(frozen=True, eq=False)
class _Noisy(Normal):
    """The noise of a linear view of a noisy y (see the module)."""

    rows: Tensor
    """a^2, in the shape of the view."""
    noise_levels: tuple[float, float]

    def numpyro(self, location: Any, scale: Any) -> Any:
        import jax.numpy as jnp

        noise = _level(self.noise_levels) ** 2 * self.rows.numpy()
        return super().numpyro(location, jnp.sqrt(jnp.maximum(scale**2 - noise, noise)))


def _level(noise_levels: tuple[float, float]) -> Any:
    """The noise level as a parameter that the kernel sets; default the least."""
    import numpyro
    from numpyro.distributions import constraints

    from cogen.inference.kernels.annealed_langevin import NOISE_LEVEL

    return numpyro.param(NOISE_LEVEL, noise_levels[0], constraint=constraints.interval(*noise_levels))


def _is_sampled(view: View) -> bool:
    return isinstance(view.likelihood.scale, torch.distributions.Distribution)


def _square_rows(view: View, event_shape: tuple[int, ...]) -> Tensor | None:
    """The diagonal of A A' for a linear view (up to a constant), in the shape of the view; None if the view is not linear."""
    points = torch.randn(2, *event_shape, generator=torch.Generator().manual_seed(0))
    zero, a, b, c = view(torch.stack([torch.zeros(event_shape), *points, points[0] + points[1]]))
    if not torch.allclose(a + b, c + zero, atol=1e-4 * float(c.abs().max() + 1)):
        return None
    shown, pull, *_ = torch.func.vjp(lambda x: view(x[None])[0], torch.zeros(event_shape))
    rows = torch.eye(shown.numel()).reshape(-1, *shown.shape)
    squares = [torch.func.vmap(pull)(part)[0].square().flatten(1).sum(1) for part in rows.split(AT_ONCE)]
    return torch.cat(squares).reshape(shown.shape)
