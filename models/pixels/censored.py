"""The likelihood of pixels with the noise that a generator learned, for views; optionally a power likelihood.

With an exponent below 1 this is a power likelihood: log p(y | x) times the exponent. The likelihood treats pixels as
independent given the latent, but the misfit of a generator is correlated over pixels; the exponent discounts that. The reported
evidence is then that of the power likelihood, not log p(y). On the shipped digits no exponent below 1 was found to help
(docs/images.md).

References:
    Bissiri, Holmes, Walker. A general framework for updating belief distributions. JRSS B 2016 (power likelihoods).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from cogen.models.pixels.noise import HIGH, LOW, NEAR, PixelNoise, cut, log_scale, unsaturated

_QUANTILES = 16


@dataclass(frozen=True, eq=False)
class Censored:
    """A view's likelihood with the pixel noise of a generator: log p(y | x) times ``exponent``.

    :param noise: the pixel noise of the generator that makes x.
    :param exponent: in (0, 1]; below 1 this is a power likelihood.
    :raises ValueError: for an exponent out of range.
    """

    noise: PixelNoise
    exponent: float = 1.0
    scale: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not 0 < self.exponent <= 1:
            raise ValueError(f"exponent={self.exponent}: the exponent of a power likelihood must be in (0, 1]")

    def pyro(self, location: Tensor, scale: None) -> Any:
        from cogen.models.pixels.censored_torch import CensoredLogistic

        return CensoredLogistic(location, self.noise, self.exponent)

    def numpyro(self, location: Any, scale: None) -> Any:
        from cogen.models.pixels.censored_jax import CensoredLogistic

        return CensoredLogistic(location, self.noise.curve.detach().numpy(), self.exponent)

    def noisy(self, x: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Draws of pixels y given x, (...) each, with exponent 1 (for `cogen.diagnostics.score_completions`)."""
        a = unsaturated(np.asarray(x, dtype=np.float64), np)
        scale = np.exp(log_scale(self.noise.curve.detach().numpy(), a, np))
        return cut(a + scale * random.logistic(size=a.shape), np)

    def squares(self, values: np.ndarray, location: np.ndarray, scale: None) -> tuple[np.ndarray, np.ndarray]:
        """The squared residuals of pixels (...) given x, and their expectation with exponent 1, over quantiles of the noise.

        Some pixels have almost no noise, so that sums should be compared, not single pixels.
        """
        a = unsaturated(np.asarray(location, dtype=np.float64), np)
        spread = np.exp(log_scale(self.noise.curve.detach().numpy(), a, np))
        levels = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        expected = sum((cut(a + spread * np.log(u / (1 - u)), np) - location) ** 2 for u in levels) / _QUANTILES
        return (values - location) ** 2, expected

    def recorded(self, y: np.ndarray) -> np.ndarray:
        """Pixels y (...) censored as in the noise model: values within `NEAR` of an end become that end."""
        return cut(y, np)

    def check(self, values: np.ndarray) -> str | None:
        outside = values[(values < LOW - NEAR) | (values > HIGH + NEAR)]
        return f"pixels must be in [{LOW:g}, {HIGH:g}], and there is a {outside[0]:g}" if outside.size else None


def pixel_noise_of(generator: object, exponent: float = 1.0) -> Censored | None:
    """The likelihood with the pixel noise that a generator learned, or None if it has no such noise.

    :raises ValueError: as `Censored`.
    """
    noise = getattr(generator, "noise", None)
    return Censored(noise, exponent) if isinstance(noise, PixelNoise) else None
