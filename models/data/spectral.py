"""Functions on the sphere and densities in the ball by their coefficients: spherical harmonics and 3D Zernike moments.

    f = sum_lm c_lm Y_lm                     on the sphere, degrees l = 0, ..., size - 1
    p = sum_nlm Omega_nlm R_nl(r) Y_lm       in the unit ball, l <= n <= order, n - l even

with real functions, orthonormal over the sphere and over the ball: Y_lm of m > 0 is sqrt 2 times the real part of the complex
one, that of m < 0 the imaginary part of -m. A table of size x size numbers holds the coefficients of a function on the sphere,
[l, m] those of m >= 0 and [m - 1, l] those of -m, so that neighbours in l and in m are neighbours there.

The radial polynomials are r^l P_k^(0, l + 1/2)(2 r^2 - 1), k = (n - l) / 2, with Jacobi's P; they have unit norm by quadrature.
Of order 9 there are 220 of these functions (the sum of 2 l + 1 over all n and l).

References:
    Driscoll, Healy. Computing Fourier transforms and convolutions on the 2-sphere. Advances in Applied Mathematics 1994 (the
        grid, 2 size x 2 size points; transforms by the package ducc0).
    Canterakis. 3D Zernike moments and Zernike affine invariants for 3D image analysis and recognition. SCIA 1999.
    Conditional generative modeling via learning the latent space (cGML). Anonymous, under review 2020 (appendix 4; its
        Eq. 32 ends at (n - 1) / 2, where (n - l) / 2 is meant, and the norm of its Eq. 34 is 4 pi / 3).
"""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Polar angles (2 size,) in [0, pi) and azimuths (2 size,) in [0, 2 pi) of the grid for so many degrees.

    Raises ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"size={size}: a function on the sphere has one degree at least")
    steps = np.arange(2 * size) / (2 * size)
    return np.pi * steps, 2 * np.pi * steps


def directions(size: int) -> np.ndarray:
    """Unit vectors of the grid, (2 size, 2 size, 3), rows of one polar angle."""
    polar, azimuth = (angle for angle in np.meshgrid(*grid(size), indexing="ij"))
    return np.stack([np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)], axis=-1)


def harmonics(values: np.ndarray) -> np.ndarray:
    """The coefficients (item, size, size) of functions on the grid, (item, 2 size, 2 size): exact where these have no degree of
    ``size`` or more.

    Raises ValueError for values on another grid, and ImportError without ducc0.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 3 or values.shape[1] != values.shape[2] or values.shape[1] % 2 or not values.shape[1]:
        raise ValueError(f"values have shape {values.shape}: (item, 2 size, 2 size), on the grid of `directions`")
    size, sht = values.shape[1] // 2, _ducc()
    degrees: dict[str, Any] = {"spin": 0, "lmax": size - 1, "mmax": size - 1, "geometry": "DH", "nthreads": 1}
    found = np.stack([sht.analysis_2d(map=each[None], **degrees)[0] for each in values])
    degree, m = _places(size)
    table = np.zeros((len(values), size, size))
    table[:, degree, m] = np.where(m == 0, 1.0, np.sqrt(2.0)) * found.real
    table[:, m[m > 0] - 1, degree[m > 0]] = -np.sqrt(2.0) * found.imag[:, m > 0]
    return table


def from_harmonics(coefficients: np.ndarray) -> np.ndarray:
    """The function on the grid, (item, 2 size, 2 size), of coefficients (item, size, size).

    Raises ValueError for another shape, and ImportError without ducc0.
    """
    coefficients = np.asarray(coefficients, dtype=np.float64)
    if coefficients.ndim != 3 or coefficients.shape[1] != coefficients.shape[2]:
        raise ValueError(f"coefficients have shape {coefficients.shape}: (item, size, size), as `harmonics` makes them")
    size, sht = coefficients.shape[1], _ducc()
    degree, m = _places(size)
    complex_ = coefficients[:, degree, m] / np.where(m == 0, 1.0, np.sqrt(2.0)) + 0j
    complex_[:, m > 0] -= 1j * coefficients[:, m[m > 0] - 1, degree[m > 0]] / np.sqrt(2.0)
    shape: dict[str, Any] = {"ntheta": 2 * size, "nphi": 2 * size, "geometry": "DH", "nthreads": 1}
    degrees = {"spin": 0, "lmax": size - 1, "mmax": size - 1}
    return np.stack([sht.synthesis_2d(alm=each[None], **degrees, **shape)[0] for each in complex_])


def power(coefficients: np.ndarray) -> np.ndarray:
    """The power of every degree, (item, size), of coefficients (item, size, size): it does not change under rotations."""
    size = coefficients.shape[-1]
    degree, m = _places(size)
    one, two = coefficients[:, degree, m], coefficients[:, m[m > 0] - 1, degree[m > 0]]
    return _summed(one**2, degree, size) + _summed(two**2, degree[m > 0], size)


class Zernike:
    """The real Zernike functions up to an order, on the unit ball.

    :param order: the greatest n.

    Raises ValueError for an order below 0.
    """

    def __init__(self, order: int = 9) -> None:
        if order < 0:
            raise ValueError(f"order={order}: the order of Zernike functions is not negative")
        self.order = order
        self.indices = np.array([(n, k, m) for n in range(order + 1) for k in range(n % 2, n + 1, 2) for m in range(-k, k + 1)])
        """n, l and m of every function, (function, 3)."""

    def at(self, points: np.ndarray) -> np.ndarray:
        """The functions at points (point, 3) of the ball, (function, point). Raises ValueError for points outside."""
        from scipy.special import sph_harm_y

        points = np.asarray(points, dtype=np.float64)
        radius = np.linalg.norm(points, axis=1)
        if points.ndim != 2 or points.shape[1] != 3 or (radius > 1 + 1e-6).any():
            raise ValueError(f"points have shape {points.shape}, radii up to {radius.max():g}: (point, 3) in the unit ball")
        polar = np.arccos(np.clip(points[:, 2] / np.maximum(radius, 1e-300), -1, 1))
        azimuth = np.arctan2(points[:, 1], points[:, 0])
        radial, angular = {}, {}
        values = np.empty((len(self.indices), len(points)))
        for place, (n, degree, m) in enumerate(self.indices.tolist()):
            if (n, degree) not in radial:
                radial[n, degree] = _polynomial(n, degree, radius) / self._norms[n, degree]
            if (degree, m) not in angular:
                whole = sph_harm_y(degree, abs(m), polar, azimuth)
                angular[degree, m] = whole.real if m == 0 else np.sqrt(2.0) * (whole.real if m > 0 else whole.imag)
            values[place] = radial[n, degree] * angular[degree, m]
        return values

    def moments(self, points: np.ndarray) -> np.ndarray:
        """Of the density whose mass lies at points (point, 3) alike: the means of the functions over them, (function,)."""
        return self.at(points).mean(axis=1)

    def density(self, moments: np.ndarray, points: np.ndarray) -> np.ndarray:
        """The density of moments (function,) at points (point, 3), as far as the order goes; it may be negative."""
        return np.asarray(moments) @ self.at(points)

    def power(self, moments: np.ndarray) -> np.ndarray:
        """The power of every (n, l), (item, pair), of moments (item, function): it does not change under rotations."""
        pairs, where = np.unique(self.indices[:, :2], axis=0, return_inverse=True)
        return _summed(np.asarray(moments) ** 2, where.ravel(), len(pairs))

    @cached_property
    def _norms(self) -> dict[tuple[int, int], float]:
        """Of the radial polynomials over r^2 dr, by a quadrature that is exact for them."""
        nodes, weights = np.polynomial.legendre.leggauss(self.order + 2)
        r, weights = (nodes + 1) / 2, weights / 2
        pairs = {(int(n), int(degree)) for n, degree, _ in self.indices}
        return {pair: float(np.sqrt((weights * r**2 * _polynomial(*pair, r) ** 2).sum())) for pair in pairs}


def _polynomial(n: int, degree: int, r: np.ndarray) -> np.ndarray:
    """A radial polynomial at r, of some norm."""
    from scipy.special import eval_jacobi

    return r**degree * eval_jacobi((n - degree) // 2, 0, degree + 0.5, 2 * r**2 - 1)


def _summed(values: np.ndarray, place: np.ndarray, count: int) -> np.ndarray:
    """Sums of the columns of values (item, column) that have the same place, (item, count)."""
    return np.stack([np.bincount(place, weights=row, minlength=count) for row in values])


def _places(size: int) -> tuple[np.ndarray, np.ndarray]:
    """l and m >= 0 of the coefficients in the order of ducc0: all l of m = 0, then those of m = 1, ..."""
    m, degree = np.nonzero(np.triu(np.ones((size, size), bool)))
    return degree, m


def _ducc() -> Any:
    try:
        return import_module("ducc0").sht
    except ImportError:
        raise ImportError(
            "spherical harmonics are computed by ducc0, which is not installed: pip install 'cogen-ppl[shapes]'"
        ) from None
