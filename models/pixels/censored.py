"""The likelihood of pixels whose noise a generator learned, as a view takes it; and its power, for a generator that is wrong.

With an exponent below 1 this is a power likelihood: log p(y | x) times the exponent. Pixels are taken for independent given the
latent, but the misfit of a generator shows in many of them at once; the exponent discounts that. What is reported as
evidence is then that of the power likelihood, no log p(y). On the shipped digits no exponent below 1 was found to help
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


@dataclass(frozen=True, eq=False)
class Censored:
    """A view's likelihood: the pixel noise of a generator, log p(y | x) times ``exponent``.

    :param noise: of the generator that makes x.
    :param exponent: in (0, 1]; below 1 this is a power likelihood.

    Raises ValueError for an exponent out of range.
    """

    noise: PixelNoise
    exponent: float = 1.0
    scale: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not 0 < self.exponent <= 1:
            raise ValueError(f"exponent={self.exponent}: the exponent of a power likelihood lies in (0, 1]")

    def pyro(self, location: Tensor, scale: None) -> Any:
        from cogen.models.pixels.censored_torch import CensoredLogistic

        return CensoredLogistic(location, self.noise, self.exponent)

    def numpyro(self, location: Any, scale: None) -> Any:
        from cogen.models.pixels.censored_jax import CensoredLogistic

        return CensoredLogistic(location, self.noise.curve.detach().numpy(), self.exponent)

    def noisy(self, x: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Draws of pixels y of x, (...) each, as of exponent 1 (for `cogen.diagnostics.score_completions`)."""
        a = unsaturated(np.asarray(x, dtype=np.float64), np)
        scale = np.exp(log_scale(self.noise.curve.detach().numpy(), a, np))
        return cut(a + scale * random.logistic(size=a.shape), np)

    def recorded(self, y: np.ndarray) -> np.ndarray:
        """Pixels y (...) as the noise has them: within `NEAR` of an end, the end."""
        return cut(y, np)

    def check(self, values: np.ndarray) -> str | None:
        outside = values[(values < LOW - NEAR) | (values > HIGH + NEAR)]
        return f"pixels lie in [{LOW:g}, {HIGH:g}], and there is a {outside[0]:g}" if outside.size else None


def pixel_noise_of(generator: Any, exponent: float = 1.0) -> Censored | None:
    """The likelihood of pixels that a generator learned, None for one that learned none. Raises what `Censored` raises."""
    noise = getattr(generator, "noise", None)
    return Censored(noise, exponent) if isinstance(noise, PixelNoise) else None
