"""Spherical harmonics and Zernike functions: orthonormal, there and back, invariant under rotations, and against scipy."""

import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y

from cogen.models.data.spectral import Zernike, directions, from_harmonics, grid, harmonics, power


def real_harmonic(degree, m, polar, azimuth):
    whole = sph_harm_y(degree, abs(m), polar, azimuth)
    return whole.real if m == 0 else np.sqrt(2) * (whole.real if m > 0 else whole.imag)


def test_there_and_back_at_the_paper_s_size():
    """128 degrees, 16,384 coefficients, on 256 x 256 points."""
    coefficients = np.random.default_rng(0).normal(size=(2, 128, 128))
    values = from_harmonics(coefficients)
    assert values.shape == (2, 256, 256)
    assert np.abs(harmonics(values) - coefficients).max() < 1e-10
    assert np.abs(from_harmonics(harmonics(values)) - values).max() < 1e-9


def test_a_coefficient_is_that_of_its_function():
    size = 6
    polar, azimuth = np.meshgrid(*grid(size), indexing="ij")
    for degree, m, place in ((0, 0, (0, 0)), (3, 0, (3, 0)), (4, 2, (4, 2)), (5, -5, (4, 5)), (2, -1, (0, 2))):
        found = harmonics(real_harmonic(degree, m, polar, azimuth)[None])[0]
        expected = np.zeros((size, size))
        expected[place] = 1.0
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_harmonics_are_orthonormal():
    """By a quadrature that is exact for the products: Gauss in the cosine, even in the azimuth."""
    size = 8
    nodes, weights = np.polynomial.legendre.leggauss(size)
    azimuth = 2 * np.pi * np.arange(2 * size) / (2 * size)
    polar, around = np.meshgrid(np.arccos(nodes), azimuth, indexing="ij")
    area = np.repeat(weights, 2 * size) * 2 * np.pi / (2 * size)
    basis = np.stack([real_harmonic(k, m, polar, around).ravel() for k in range(size) for m in range(-k, k + 1)])
    assert np.abs((basis * area) @ basis.T - np.eye(size**2)).max() < 1e-12


def test_the_power_of_a_degree_does_not_change_under_rotations():
    """Of a function of degree 7, made of lobes in some directions, and the same with these turned."""
    rng = np.random.default_rng(0)
    lobes = rng.normal(size=(5, 3))
    lobes /= np.linalg.norm(lobes, axis=1, keepdims=True)
    turned = lobes @ Rotation.random(random_state=1).as_matrix().T

    def function(axes):
        cosine = directions(8) @ axes.T
        return (np.array([1.0, -2.0, 0.5, 1.5, 1.0]) * cosine**7).sum(-1) + (cosine**2).sum(-1)

    one, two = (power(harmonics(function(axes)[None])) for axes in (lobes, turned))
    assert np.abs(one - two).max() / one.max() < 1e-10
    assert np.abs(one[0, 1:] - np.roll(two[0, 1:], 1)).max() / one.max() > 0.05  # one degree off


def test_zernike_functions_are_orthonormal_over_the_ball():
    """All 220 of order 9, by a product of exact quadratures."""
    zernike = Zernike(9)
    assert len(zernike.indices) == 220
    order = 12
    nodes, weights = np.polynomial.legendre.leggauss(order)
    r, of_r = (nodes + 1) / 2, weights / 2 * ((nodes + 1) / 2) ** 2
    azimuth = 2 * np.pi * np.arange(2 * order) / (2 * order)
    radius, cosine, around = (a.ravel() for a in np.meshgrid(r, nodes, azimuth, indexing="ij"))
    sine = np.sqrt(1 - cosine**2)
    points = radius[:, None] * np.stack([sine * np.cos(around), sine * np.sin(around), cosine], axis=1)
    volume = (of_r[:, None, None] * weights[:, None] * np.full(2 * order, 2 * np.pi / (2 * order))).ravel()
    basis = zernike.at(points)
    assert np.abs((basis * volume) @ basis.T - np.eye(220)).max() < 1e-6
    moments = np.random.default_rng(0).normal(size=220)
    found = (basis * volume) @ zernike.density(moments, points)
    assert np.abs(found - moments).max() < 1e-5
    broken = Zernike(9)
    broken._norms = {pair: 1.01 * norm for pair, norm in zernike._norms.items()}
    wrong = broken.at(points)
    assert np.abs((wrong * volume) @ wrong.T - np.eye(220)).max() > 1e-3


def test_zernike_power_does_not_change_under_rotations():
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(200, 3))
    cloud /= 1.01 * np.linalg.norm(cloud, axis=1).max()
    zernike = Zernike(9)
    turned = cloud @ Rotation.random(random_state=0).as_matrix().T
    one, two = (zernike.power(zernike.moments(each)[None]) for each in (cloud, turned))
    assert one.shape == (1, 30)
    assert np.abs(one - two).max() / one.max() < 1e-5
    assert np.abs(zernike.moments(cloud) - zernike.moments(turned)).max() > 0.01


def test_what_cannot_be_transformed(monkeypatch):
    with pytest.raises(ValueError, match=r"values have shape \(3, 4, 6\), expected \(item, 2 size, 2 size\)"):
        harmonics(np.zeros((3, 4, 6)))
    with pytest.raises(ValueError, match=r"coefficients have shape \(4, 6\)"):
        from_harmonics(np.zeros((4, 6)))
    with pytest.raises(ValueError, match="size=0"):
        grid(0)
    with pytest.raises(ValueError, match="order=-1"):
        Zernike(-1)
    with pytest.raises(ValueError, match=r"radii up to 2, expected \(point, 3\) in the unit ball"):
        Zernike(2).at(np.array([[0, 0, 2.0]]))
    monkeypatch.setitem(sys.modules, "ducc0", None)
    with pytest.raises(ImportError, match=r"require ducc0, which is not installed: pip install 'cogen-ppl\[shapes\]'"):
        harmonics(np.zeros((1, 4, 4)))
