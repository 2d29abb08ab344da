"""SSIM and MS-SSIM: similarity of two images in local luminance, contrast and structure.

With local means mu, variances s^2 and covariance s_xy under a Gaussian window (11 x 11, sigma 1.5):

    luminance l = (2 mu_x mu_y + c1) / (mu_x^2 + mu_y^2 + c1),    structure cs = (2 s_xy + c2) / (s_x^2 + s_y^2 + c2)
    SSIM = mean of l cs,      MS-SSIM = prod_{j<M} mean(cs_j)^b_j  mean(l_M cs_M)^b_M

c1 = (0.01 range)^2, c2 = (0.03 range)^2; scale j + 1 halves scale j by averaging 2 x 2 pixels. Wang, Bovik, Sheikh and
Simoncelli (2004), "Image quality assessment: from error visibility to structural similarity", eq. 13; Wang, Simoncelli
and Bovik (2003), "Multiscale structural similarity", eq. 7, b = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333).

Windows lie inside the image, except in `hidden_ssim`, which needs a value at every hidden pixel and reflects the image at
its border. Images are (item, channel, height, width); channels are averaged.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate1d

from cogen.diagnostics.scores import counted_pixels, masked_mean, peak_to_peak, same_shape
from cogen.inference.signatures import ArrayLike

WINDOW = 11
SIGMA = 1.5
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def _local_mean(image: np.ndarray) -> np.ndarray:
    offsets = np.arange(WINDOW) - WINDOW // 2
    profile = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    profile /= profile.sum()
    return correlate1d(correlate1d(image, profile, axis=-1, mode="reflect"), profile, axis=-2, mode="reflect")


def _luminance_and_structure(first: np.ndarray, second: np.ndarray, peak: float) -> tuple[np.ndarray, np.ndarray]:
    """Maps (item, channel, height, width) of l and cs."""
    if first.ndim != 4 or min(first.shape[-2:]) < WINDOW:
        raise ValueError(
            f"images have shape {first.shape}; SSIM needs (item, channel, height, width) with sides of at least {WINDOW} pixels"
        )
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_first, mean_second = _local_mean(first), _local_mean(second)
    variances = _local_mean(first**2) - mean_first**2 + _local_mean(second**2) - mean_second**2
    covariance = _local_mean(first * second) - mean_first * mean_second
    luminance = (2 * mean_first * mean_second + c1) / (mean_first**2 + mean_second**2 + c1)
    return luminance, (2 * covariance + c2) / (variances + c2)


def _inside(image_map: np.ndarray) -> np.ndarray:
    border = WINDOW // 2
    return image_map[..., border:-border, border:-border]


def ssim_map(estimate: ArrayLike, truth: ArrayLike, value_range: tuple[float, float]) -> np.ndarray:
    """SSIM around every pixel, (item, channel, height, width), with the image reflected at its border."""
    first, second = same_shape(estimate, truth)
    luminance, structure = _luminance_and_structure(first, second, peak_to_peak(value_range))
    return luminance * structure


def ssim(estimate: ArrayLike, truth: ArrayLike, value_range: tuple[float, float]) -> np.ndarray:
    """SSIM of whole images, (item,).

    :raises ValueError: for images with sides below 11 pixels.
    """
    return masked_mean(_inside(ssim_map(estimate, truth, value_range)))


def hidden_ssim(estimate: ArrayLike, truth: ArrayLike, hidden: ArrayLike, value_range: tuple[float, float]) -> np.ndarray:
    """Mean of the SSIM map over the hidden pixels, (item,).

    Windows at the border of the hidden part include seen pixels. To judge the completion alone, set the seen pixels of
    `estimate` to the truth.

    :param hidden: boolean, True = hidden, (item, channel, height, width) or without item.
    """
    image_map = ssim_map(estimate, truth, value_range)
    return masked_mean(image_map, counted_pixels(hidden, image_map.shape))


def ms_ssim(estimate: ArrayLike, truth: ArrayLike, value_range: tuple[float, float]) -> np.ndarray:
    """MS-SSIM of whole images, (item,), over as many of the five scales as the image allows.

    Scale j needs sides of 11 * 2^(j - 1) pixels: all five from 176 pixels; three for 64 pixels; two (28 and 14 pixels) for
    MNIST. The weights of the scales that are used are divided by their sum, so values of different image sizes are not
    comparable. A negative mean is set to zero.

    :raises ValueError: for images with sides below 22 pixels, which have a single scale: use `ssim`.
    """
    first, second = same_shape(estimate, truth)
    peak = peak_to_peak(value_range)
    side = min(first.shape[-2:]) if first.ndim == 4 else 0
    num_scales = sum(side // 2**scale >= WINDOW for scale in range(len(SCALE_WEIGHTS)))
    if num_scales < 2:
        raise ValueError(
            f"images have shape {first.shape}; MS-SSIM needs (item, channel, height, width) with sides of at least "
            f"{2 * WINDOW} pixels (two scales). Use ssim"
        )
    exponents = np.array(SCALE_WEIGHTS[:num_scales])
    exponents /= exponents.sum()
    result = np.ones(first.shape[:2])  # (item, channel)
    for scale, exponent in enumerate(exponents):
        luminance, structure = _luminance_and_structure(first, second, peak)
        last = scale == num_scales - 1
        mean = _inside(luminance * structure if last else structure).mean(axis=(-2, -1))
        result *= np.maximum(mean, 0.0) ** exponent
        first, second = _halve(first), _halve(second)
    return result.mean(axis=1)


def _halve(image: np.ndarray) -> np.ndarray:
    """Average of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = image.shape[-2] // 2 * 2, image.shape[-1] // 2 * 2
    cut = image[..., :height, :width]
    return cut.reshape(*cut.shape[:-2], height // 2, 2, width // 2, 2).mean(axis=(-3, -1))
