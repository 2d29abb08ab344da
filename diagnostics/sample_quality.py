"""Quality of a generator's samples: inception score, Frechet and kernel distance, coverage of known modes.

With p(y | x) the class probabilities of a network, p(y) their mean over the samples, and (m, C) mean and covariance of
features:

    inception score  exp(mean_x KL(p(y | x) || p(y)))                       Salimans et al. 2016, section 4
    Frechet          |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))       Heusel et al. 2017, eq. 6
    kernel           unbiased MMD^2 with k(x, y) = (x . y / d + 1)^3         Binkowski et al. 2018, section 4

The values depend on the network that computes the features: they are comparable only for the same network and sample size,
not with published values of Inception v3. `network=` stores its name with the score. For reconstructions see `scores.mse`.

References:
    Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen. Improved techniques for training GANs. NeurIPS 2016.
    Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter. GANs trained by a two time-scale update rule converge to a local
        Nash equilibrium. NeurIPS 2017.
    Binkowski, Sutherland, Arbel, Gretton. Demystifying MMD GANs. ICLR 2018.
    Srivastava, Valkov, Russell, Gutmann, Sutton. VEEGAN: reducing mode collapse in GANs using implicit variational
        learning. NeurIPS 2017 (section 5).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import rel_entr

from cogen.inference.signatures import ArrayLike

if TYPE_CHECKING:
    from torch import Tensor


class Score(NamedTuple):
    """A score, its standard deviation over splits or subsets (None without any), and the name of the network.

    >>> print(Score(9.412, 0.0531, "mnist_classifier"))
    9.412 (sd 0.053, by mnist_classifier)
    """

    mean: float
    sd: float | None = None
    network: str = ""

    def __str__(self) -> str:
        notes = [f"sd {self.sd:.2g}"] if self.sd is not None else []
        notes += [f"by {self.network}"] if self.network else []
        return f"{self.mean:.4g}" + (f" ({', '.join(notes)})" if notes else "")


class ModeCoverage(NamedTuple):
    """The modes of a mixture that samples reach.

    :param captured: number of modes with at least `at_least` samples of high quality.
    :param high_quality: share of the samples that are of high quality.
    :param counts: number of samples of high quality by their nearest mode, (mode,).
    """

    captured: int
    high_quality: float
    counts: np.ndarray


def inception_score(probabilities: ArrayLike, splits: int = 10, *, network: str = "") -> Score:
    """exp of the mean KL(p(y | x) || p(y)): mean and standard deviation over `splits` consecutive parts of the samples.

    It lies between 1 (the class probabilities of all samples are equal) and the number of classes (every sample certain of its
    class, all classes equally frequent). Samples in the order of their classes must be shuffled first, since p(y) is the mean
    over the part. As in the authors' code, the standard deviation divides by the number of splits.

    :param probabilities: class probabilities (item, class); rows sum to one, to 1e-3.
    :param splits: between 1 and the number of samples.
    :param network: name of the network that computed them.
    :raises ValueError: for invalid probabilities and for splits out of range.
    """
    p = _items(probabilities, "probabilities", "class")
    if p.min() < 0 or np.abs(p.sum(axis=1) - 1).max() > 1e-3:
        worst = p[np.abs(p.sum(axis=1) - 1).argmax()]
        raise ValueError(
            f"the least probability is {p.min():.3g} and a row sums to {worst.sum():.4g}; probabilities must be at least 0 and"
            " sum to 1: take the softmax of logits"
        )
    if not 1 <= splits <= len(p):
        raise ValueError(f"splits={splits} of {len(p)} samples; it must be between 1 and the number of samples")
    parts = np.array_split(p, splits)
    scores = np.exp([rel_entr(part, part.mean(axis=0)).sum(axis=1).mean() for part in parts])
    return _mean_and_sd(scores, network)


def frechet_distance(features_a: ArrayLike, features_b: ArrayLike, *, network: str = "") -> Score:
    """Squared Frechet distance of the Gaussians fitted to two sets of features, (item, feature) each.

    Covariances divide by items - 1. With C = R^T R, R from the QR decomposition of the centred features, the trace of
    (C_a C_b)^(1/2), which is that of (C_a^(1/2) C_b C_a^(1/2))^(1/2), is the sum of the singular values of R_a R_b^T. This
    needs no matrix square root and no product of covariances, and also works for singular covariances.

    The estimate is biased upwards, more so for fewer items. Warns (UserWarning) if there are no more items than features.

    :param network: name of the network that computed the features.
    :raises ValueError: for features that do not match, are not finite, or have fewer than two items.
    """
    a, b = _two_sets(features_a, features_b)
    fewest, num_features = min(len(a), len(b)), a.shape[1]
    if fewest <= num_features:
        warnings.warn(
            f"{fewest} items of {num_features} features: the fitted covariance is singular and the Frechet distance is biased "
            "upwards. Use more items, or kernel_distance, which is unbiased",
            stacklevel=2,
        )
    root_a, root_b = _root_of_covariance(a), _root_of_covariance(b)
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    means = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    distance = means + np.square(root_a).sum() + np.square(root_b).sum() - 2 * shared
    return Score(max(0.0, float(distance)), None, network)


def _root_of_covariance(features: np.ndarray) -> np.ndarray:
    """R with R^T R the covariance: (min(item, feature), feature)."""
    return np.linalg.qr(features - features.mean(axis=0), mode="r") / np.sqrt(len(features) - 1)


def kernel_distance(
    features_a: ArrayLike,
    features_b: ArrayLike,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
    *,
    network: str = "",
) -> Score:
    """Unbiased MMD^2 with the cubic kernel between two sets of features, (item, feature): mean and sd over subsets.

    A subset is `subset_size` items of each set, drawn without replacement. The expectation is zero for equal distributions, so
    values can be negative. Subsets share items, so the sd divided by sqrt(subsets) is not a standard error of the mean.

    :param subsets: number of subsets, at least 1.
    :param subset_size: at least 2 and at most the number of items of the smaller set.
    :param network: name of the network that computed the features.
    :raises ValueError: for features that do not match or are not finite, and for a number or size of subsets out of range.
    """
    a, b = _two_sets(features_a, features_b)
    fewest = min(len(a), len(b))
    if not 2 <= subset_size <= fewest:
        raise ValueError(f"subset_size={subset_size}, the smaller set has {fewest} items; give between 2 and {fewest}")
    if subsets < 1:
        raise ValueError(f"subsets={subsets}; at least one is needed")
    random = np.random.default_rng(seed)
    values = [
        _squared_mmd(random.choice(a, subset_size, replace=False), random.choice(b, subset_size, replace=False))
        for _ in range(subsets)
    ]
    return _mean_and_sd(values, network)


def _squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """The U-statistic: pairs of an item with itself are left out."""
    size = len(a)

    def mean_of_pairs(x: np.ndarray) -> float:
        kernel = _cubic(x, x)
        return (kernel.sum() - np.trace(kernel)) / (size * (size - 1))

    return mean_of_pairs(a) + mean_of_pairs(b) - 2 * _cubic(a, b).mean()


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = x @ y.T / x.shape[1] + 1
    return base * base * base  # ** 3 is ten times slower


def recall(real: ArrayLike, samples: ArrayLike, neighbour: int = 3) -> float:
    """The share of real features (item, feature) that lie in a neighbourhood of some sample's features (item, feature).

    The neighbourhood of a sample is the ball that reaches its ``neighbour``-th nearest other sample. With the arguments
    exchanged this is the precision. It depends on the numbers of items: compare values for equal numbers only.

    :param neighbour: at least 1, and below the number of samples.
    :raises ValueError: for features that do not match or are not finite, and for a neighbour out of range.

    References:
        Kynkaanniemi et al. Improved precision and recall metric for assessing generative models. NeurIPS 2019 (equation 2).
    """
    a, b = _two_sets(real, samples)
    if not 1 <= neighbour < len(b):
        raise ValueError(f"neighbour={neighbour} of {len(b)} samples: it must be at least 1 and below the number of samples")
    from scipy.spatial.distance import cdist

    radius = np.partition(cdist(b, b), neighbour, axis=1)[:, neighbour]  # the nearest is the sample itself
    return float((cdist(a, b) <= radius).any(axis=1).mean())


def mode_coverage(samples: ArrayLike, centres: ArrayLike, sd: float, within: float = 3.0, at_least: int = 1) -> ModeCoverage:
    """The modes of a mixture with known centres that samples reach.

    A sample is of high quality if its Euclidean distance to the nearest centre is at most `within` sd; a mode is captured
    if at least `at_least` samples of high quality are nearest to it (Srivastava et al. 2017, section 5, with one sample
    and 3 sd in two dimensions). In d dimensions a perfect sample is of high quality with the probability that a
    chi-squared variable with d degrees of freedom is at most within^2: 0.989 for 3 sd if d = 2, almost zero beyond d = 30.

    :param samples: (item, dimension).
    :param centres: (mode, dimension).
    :param sd: standard deviation of every mode, along every axis.
    :raises ValueError: for shapes that do not match, non-finite values, and `sd`, `within` or `at_least` not positive.
    """
    x, modes = _items(samples, "samples", "dimension"), _items(centres, "centres", "dimension")
    if x.shape[1] != modes.shape[1]:
        raise ValueError(f"samples have shape {x.shape}, centres {modes.shape}; both need the same dimension")
    if not (sd > 0 and within > 0 and at_least > 0):
        raise ValueError(f"sd={sd}, within={within}, at_least={at_least}; all must be positive")
    distances = cdist(x, modes)  # (item, mode)
    nearest, good = distances.argmin(axis=1), distances.min(axis=1) <= within * sd
    counts = np.bincount(nearest[good], minlength=len(modes))
    return ModeCoverage(int((counts >= at_least).sum()), float(good.mean()), counts)


def _mean_and_sd(values: Sequence[float] | np.ndarray, network: str) -> Score:
    return Score(float(np.mean(values)), float(np.std(values)) if len(values) > 1 else None, network)


def outputs(network: Callable[[Tensor], Tensor], images: ArrayLike, batch_size: int = 1000) -> np.ndarray:
    """Outputs of a torch callable for images (item, ...), computed in batches without gradients: float64 (item, ...).

    The network is not put into evaluation mode: do so first. As in::

        features = outputs(classifier.features, images)
        probabilities = outputs(lambda x: classifier(x).softmax(-1), images)

    :param images: array or tensor with the dtype, range and device that the network expects.
    :raises ValueError: for a batch size below 1.
    """
    import torch

    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; at least one is needed")
    values = images if isinstance(images, torch.Tensor) else torch.as_tensor(np.require(images, requirements="W"))
    with torch.no_grad():
        batches = [network(batch) for batch in values.split(batch_size)]
        return torch.cat(batches).double().cpu().numpy()


def _items(values: ArrayLike, name: str, axis: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} have shape {array.shape}; they must be (item, {axis}), with one item at least")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contain {(~np.isfinite(array)).sum()} non-finite values: check the generator or network")
    return array


def _two_sets(features_a: ArrayLike, features_b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = _items(features_a, "features_a", "feature"), _items(features_b, "features_b", "feature")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features_a have shape {a.shape}, features_b {b.shape}; both must come from the same network")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"features_a have {len(a)} items, features_b {len(b)}; at least two of each are needed")
    return a, b
