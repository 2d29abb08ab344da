"""SSIM against scikit-image, MS-SSIM against its definition written with explicit windows."""

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from cogen.diagnostics import hidden_ssim, ms_ssim, ssim
from cogen.diagnostics.image_quality import ssim_map


def pair(shape, noise=0.2, seed=15):
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(rng.standard_normal(shape), axis=-1)
    smooth = np.tanh(smooth - smooth.mean(axis=-1, keepdims=True))
    return smooth, np.clip(smooth + noise * rng.standard_normal(shape), -1, 1)


@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (2, 3, 20, 33), (1, 1, 11, 11)])
def test_ssim_is_scikit_images(shape):
    first, second = pair(shape)
    options = {"data_range": 2.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for item, value in enumerate(ssim(first, second, (-1, 1))):
        expected = [structural_similarity(a, b, **options) for a, b in zip(first[item], second[item], strict=True)]
        assert value == pytest.approx(np.mean(expected), abs=1e-9)
    _, reference = structural_similarity(first[0, 0], second[0, 0], full=True, **options)
    np.testing.assert_allclose(ssim_map(first, second, (-1, 1))[0, 0], reference, atol=1e-9)


def test_hidden_ssim_is_the_mean_of_the_map_where_hidden():
    first, second = pair((2, 1, 28, 28))
    second[:, :, :14] = first[:, :, :14]
    hidden = np.zeros((1, 28, 28), bool)
    hidden[:, 14:] = True
    found = hidden_ssim(first, second, hidden, (-1, 1))
    np.testing.assert_allclose(found, ssim_map(first, second, (-1, 1))[:, :, 14:].mean(axis=(1, 2, 3)))
    assert (found < ssim(first, second, (-1, 1))).all()


def explicit_ms_ssim(first, second, exponents):
    """Wang et al. (2003) for one channel of range 2, a window at a time."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    product = 1.0
    for scale, exponent in enumerate(exponents):
        luminance, structure = [], []
        for row in range(first.shape[0] - 10):
            for column in range(first.shape[1] - 10):
                a, b = first[row : row + 11, column : column + 11], second[row : row + 11, column : column + 11]
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
                covariance = (window * (a - mean_a) * (b - mean_b)).sum()
                luminance.append((2 * mean_a * mean_b + 0.02**2) / (mean_a**2 + mean_b**2 + 0.02**2))
                structure.append((2 * covariance + 0.06**2) / (var_a + var_b + 0.06**2))
        last = scale == len(exponents) - 1
        product *= np.mean(np.multiply(luminance, structure) if last else structure) ** exponent
        height, width = first.shape[0] // 2, first.shape[1] // 2
        first, second = (
            sum(x[i : 2 * height : 2, j : 2 * width : 2] for i in (0, 1) for j in (0, 1)) / 4 for x in (first, second)
        )
    return product


@pytest.mark.parametrize(("side", "exponents"), [(29, (0.0448, 0.2856)), (45, (0.0448, 0.2856, 0.3001))])
def test_ms_ssim_is_its_definition(side, exponents):
    first, second = pair((2, 1, side, side), noise=0.4)
    exponents = np.array(exponents) / sum(exponents)
    expected = [explicit_ms_ssim(a[0], b[0], exponents) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(ms_ssim(first, second, (-1, 1)), expected, rtol=1e-9)


def test_equal_images_have_one_and_worse_images_less():
    first, near = pair((2, 1, 32, 32), noise=0.1)
    _, far = pair((2, 1, 32, 32), noise=0.6)
    for score in (ssim, ms_ssim):
        np.testing.assert_allclose(score(first, first, (-1, 1)), 1)
        assert (score(first, near, (-1, 1)) > score(first, far, (-1, 1))).all()
        # the unit of the pixels does not matter, as long as the range says it
        np.testing.assert_allclose(score(first, near, (-1, 1)), score(9 * first, 9 * near, (-9, 9)))


def test_small_or_odd_images_are_refused():
    with pytest.raises(ValueError, match="at least 11"):
        ssim(np.zeros((1, 1, 10, 28)), np.zeros((1, 1, 10, 28)), (0, 1))
    with pytest.raises(ValueError, match="at least 22"):
        ms_ssim(np.zeros((1, 1, 21, 28)), np.zeros((1, 1, 21, 28)), (0, 1))
    with pytest.raises(ValueError, match=r"images have shape \(28, 28\); SSIM needs \(item, channel, height, width\)"):
        ssim(np.zeros((28, 28)), np.zeros((28, 28)), (0, 1))
