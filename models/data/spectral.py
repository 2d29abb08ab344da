"""Coefficients of functions on the sphere and of densities in the ball: spherical harmonics and 3D Zernike moments.

    f = sum_lm c_lm Y_lm                     on the sphere, degrees l = 0, ..., size - 1
    p = sum_nlm Omega_nlm R_nl(r) Y_lm       in the unit ball, l <= n <= order, n - l even

The functions are real and orthonormal over the sphere and over the ball: Y_lm is sqrt 2 times the real part of the complex
harmonic for m > 0, and sqrt 2 times the imaginary part of that of -m for m < 0. The coefficients of a function on the sphere
are a size x size table, with those of m >= 0 at [l, m] and those of -m at [m - 1, l], so that neighbours in l and m are
neighbours in the table.

The radial polynomials are r^l P_k^(0, l + 1/2)(2 r^2 - 1), k = (n - l) / 2, with the Jacobi polynomials P, normalised by
quadrature. There are 220 of these functions of order 9 (the sum of 2 l + 1 over all n and l).

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
    """Polar angles (2 size,) in [0, pi) and azimuths (2 size,) in [0, 2 pi) of the grid for ``size`` degrees.

    :raises ValueError: for a size below 1.
    """
    if size < 1:
        raise ValueError(f"size={size}: at least one degree is required")
    steps = np.arange(2 * size) / (2 * size)
    return np.pi * steps, 2 * np.pi * steps


def directions(size: int) -> np.ndarray:
    """Unit vectors of the grid, (2 size, 2 size, 3), with one polar angle per row."""
    polar, azimuth = (angle for angle in np.meshgrid(*grid(size), indexing="ij"))
    return np.stack([np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)], axis=-1)


def harmonics(values: np.ndarray) -> np.ndarray:
    """The coefficients (item, size, size) of functions on the grid, exact for functions of degrees below ``size``.

    :param values: of the functions, (item, 2 size, 2 size).
    :raises ValueError: for values on another grid.
    :raises ImportError: without ducc0.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 3 or values.shape[1] != values.shape[2] or values.shape[1] % 2 or not values.shape[1]:
        raise ValueError(f"values have shape {values.shape}, expected (item, 2 size, 2 size), on the grid of `directions`")
    size, sht = values.shape[1] // 2, _ducc()
    degrees: dict[str, Any] = {"spin": 0, "lmax": size - 1, "mmax": size - 1, "geometry": "DH", "nthreads": 1}
    found = np.stack([sht.analysis_2d(map=each[None], **degrees)[0] for each in values])
    degree, m = _degrees(size)
    table = np.zeros((len(values), size, size))
    table[:, degree, m] = np.where(m == 0, 1.0, np.sqrt(2.0)) * found.real
    table[:, m[m > 0] - 1, degree[m > 0]] = -np.sqrt(2.0) * found.imag[:, m > 0]
    return table


def from_harmonics(coefficients: np.ndarray) -> np.ndarray:
    """The functions on the grid, (item, 2 size, 2 size), with coefficients (item, size, size).

    :raises ValueError: for another shape.
    :raises ImportError: without ducc0.
    """
    coefficients = np.asarray(coefficients, dtype=np.float64)
    if coefficients.ndim != 3 or coefficients.shape[1] != coefficients.shape[2]:
        raise ValueError(f"coefficients have shape {coefficients.shape}, expected (item, size, size), as from `harmonics`")
    size, sht = coefficients.shape[1], _ducc()
    degree, m = _degrees(size)
    complex_ = coefficients[:, degree, m] / np.where(m == 0, 1.0, np.sqrt(2.0)) + 0j
    complex_[:, m > 0] -= 1j * coefficients[:, m[m > 0] - 1, degree[m > 0]] / np.sqrt(2.0)
    shape: dict[str, Any] = {"ntheta": 2 * size, "nphi": 2 * size, "geometry": "DH", "nthreads": 1}
    degrees = {"spin": 0, "lmax": size - 1, "mmax": size - 1}
    return np.stack([sht.synthesis_2d(alm=each[None], **degrees, **shape)[0] for each in complex_])


def power(coefficients: np.ndarray) -> np.ndarray:
    """The power of every degree, (item, size), of coefficients (item, size, size), which is invariant under rotations."""
    size = coefficients.shape[-1]
    degree, m = _degrees(size)
    one, two = coefficients[:, degree, m], coefficients[:, m[m > 0] - 1, degree[m > 0]]
    return _summed(one**2, degree, size) + _summed(two**2, degree[m > 0], size)


class Zernike:
    """The real Zernike functions up to an order, on the unit ball.

    :param order: the greatest n.
    :raises ValueError: for a negative order.
    """

    def __init__(self, order: int = 9) -> None:
        if order < 0:
            raise ValueError(f"order={order}: the order of Zernike functions must not be negative")
        self.order = order
        self.indices = np.array([(n, k, m) for n in range(order + 1) for k in range(n % 2, n + 1, 2) for m in range(-k, k + 1)])
        """n, l and m of every function, (function, 3)."""

    def at(self, points: np.ndarray) -> np.ndarray:
        """The functions at points (point, 3) of the unit ball, (function, point).

        :raises ValueError: for points outside.
        """
        from scipy.special import sph_harm_y

        points = np.asarray(points, dtype=np.float64)
        radius = np.linalg.norm(points, axis=1)
        if points.ndim != 2 or points.shape[1] != 3 or (radius > 1 + 1e-6).any():
            raise ValueError(
                f"points have shape {points.shape} and radii up to {radius.max():g}, expected (point, 3) in the unit ball"
            )
        polar = np.arccos(np.clip(points[:, 2] / np.maximum(radius, 1e-300), -1, 1))
        azimuth = np.arctan2(points[:, 1], points[:, 0])
        radial, angular = {}, {}
        values = np.empty((len(self.indices), len(points)))
        for k, (n, degree, m) in enumerate(self.indices.tolist()):
            if (n, degree) not in radial:
                radial[n, degree] = _polynomial(n, degree, radius) / self._norms[n, degree]
            if (degree, m) not in angular:
                whole = sph_harm_y(degree, abs(m), polar, azimuth)
                angular[degree, m] = whole.real if m == 0 else np.sqrt(2.0) * (whole.real if m > 0 else whole.imag)
            values[k] = radial[n, degree] * angular[degree, m]
        return values

    def moments(self, points: np.ndarray) -> np.ndarray:
        """The moments (function,) of the uniform distribution over points (point, 3): the means of the functions over them."""
        return self.at(points).mean(axis=1)

    def density(self, moments: np.ndarray, points: np.ndarray) -> np.ndarray:
        """The density with moments (function,) at points (point, 3), truncated at the order; it may be negative."""
        return np.asarray(moments) @ self.at(points)

    def power(self, moments: np.ndarray) -> np.ndarray:
        """The power of every (n, l), (item, pair), of moments (item, function), which is invariant under rotations."""
        pairs, where = np.unique(self.indices[:, :2], axis=0, return_inverse=True)
        return _summed(np.asarray(moments) ** 2, where.ravel(), len(pairs))

    @cached_property
    def _norms(self) -> dict[tuple[int, int], float]:
        """The norms of the radial polynomials over r^2 dr, by exact quadrature."""
        nodes, weights = np.polynomial.legendre.leggauss(self.order + 2)
        r, weights = (nodes + 1) / 2, weights / 2
        pairs = {(int(n), int(degree)) for n, degree, _ in self.indices}
        return {pair: float(np.sqrt((weights * r**2 * _polynomial(*pair, r) ** 2).sum())) for pair in pairs}


def _polynomial(n: int, degree: int, r: np.ndarray) -> np.ndarray:
    """A radial polynomial at r, not normalised."""
    from scipy.special import eval_jacobi

    return r**degree * eval_jacobi((n - degree) // 2, 0, degree + 0.5, 2 * r**2 - 1)


def _summed(values: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """Sums of the columns of values (item, column) with the same index, (item, count)."""
    return np.stack([np.bincount(index, weights=row, minlength=count) for row in values])


def _degrees(size: int) -> tuple[np.ndarray, np.ndarray]:
    """l and m >= 0 of the coefficients in the order of ducc0: all l for m = 0, then those for m = 1, ..."""
    m, degree = np.nonzero(np.triu(np.ones((size, size), bool)))
    return degree, m


def _ducc() -> Any:
    try:
        return import_module("ducc0").sht
    except ImportError:
        raise ImportError(
            "spherical harmonics require ducc0, which is not installed: pip install 'cogen-ppl[shapes]'"
        ) from None
