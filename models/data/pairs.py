"""Pairs of images, a condition and a target: side by side in a file, as two arrays, or with a condition made from the target.

`load_pairs` reads pairs; `paired` computes the conditions from the images of a data set: `centre_hidden` for inpainting,
`edges` and `sketch` for colouring. Both images of a pair are bytes of the same size.

Every error names the file, the problem and the remedy.

References:
    Isola, Zhu, Zhou, Efros. Image-to-image translation with conditional adversarial networks. CVPR 2017 (files of pairs).
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (sections 4.2.2 to 4.2.4: labels, sketches, edges, and a hidden centre).
    Canny. A computational approach to edge detection. IEEE TPAMI 1986 (`edges`).
Departures: the paper's edges come from a trained detector, and its sketches were drawn by an artist. A hidden part is marked by
a further channel of the condition, not only by its colour.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cogen.models.data.datasets import ImageData, check_size, fitted_arrays, read_image_data, split, to_bytes
from cogen.models.data.image_arrays import check_data_range, read_arrays
from cogen.models.data.image_files import crop_and_resize

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

ARRAYS = ("images", "conditions")

GRAY = 127
"""The value of hidden pixels in a condition."""


@dataclass(frozen=True, eq=False)
class PairData:
    """A data set of pairs.

    :param name: for display and configurations.
    :param train: targets, uint8 (item, channel, height, width), at least two items.
    :param test: the same for the test items.
    :param train_conditions: uint8 (item, channel, height, width), one for each target; the channels may differ.
    :param test_conditions: the same for the test items.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    train_conditions: np.ndarray
    test_conditions: np.ndarray


def load_pairs(
    source: str | Path,
    *,
    condition_left: bool = False,
    size: int | None = None,
    test_share: float = 0.1,
    data_range: tuple[float, float] | None = None,
) -> PairData:
    """Load pairs from a path, with a fixed split into training and test items.

    A path is one of

    * a folder of pictures of two images side by side, read like the folders of `load_image_data`: subfolders `train` and
      `test` (or `val`) are splits. A ``.npy`` may contain such pictures too;
    * a ``.npz`` of `images` and `conditions`, or of `train_images`, `train_conditions`, `test_images` and `test_conditions`,
      in the layouts and with the values of `load_image_data`.

    :param condition_left: the condition is the left half of a picture and the target the right; default the reverse.
    :param size: crop each image of a pair to its centre square and resize it to size x size; default: all must have the same
        size.
    :param test_share: the fraction of items, drawn with a fixed seed, that become the test set if the source has none.
    :param data_range: the values of black and white in an array, if they differ from those of `load_image_data`.
    :raises FileNotFoundError: if there is nothing to read.
    :raises ValueError: for invalid files: a picture of odd width or not wider than high; images and conditions that differ in
        size or number.
    """
    check_size(size)
    path = Path(source)
    if path.suffix.lower() == ".npz":
        check_data_range(data_range)
        return _of_arrays(path, size, test_share, data_range)
    data = read_image_data(source, partial(_side_by_side, size=size), None, False, test_share, data_range)
    halves = [np.split(part, 2, axis=3) for part in (data.train, data.test)]
    (train_conditions, train), (test_conditions, test) = halves if condition_left else (pair[::-1] for pair in halves)
    return PairData(data.name, *map(np.ascontiguousarray, (train, test, train_conditions, test_conditions)))


def paired(data: ImageData | PairData, make: Callable[[np.ndarray], np.ndarray]) -> PairData:
    """Pairs of the images of a data set, or of the targets of pairs, with conditions computed from them.

    :param make: bytes (item, channel, height, width) -> conditions, bytes of the same height and width.
    """
    return PairData(data.name, data.train, data.test, make(data.train), make(data.test))


# --- conditions ----------------------------------------------------------------------------------------------------


def centre_hidden(images: np.ndarray) -> np.ndarray:
    """Images whose centre, of half the width and height, is gray, with a further channel: 255 where seen, 0 where hidden."""
    height, width = images.shape[2:]
    seen = np.ones((height, width), bool)
    seen[height // 4 : height - height // 4, width // 4 : width - width // 4] = False
    return hidden_where(images, seen, GRAY, (0, 255))


def hidden_where(images: np.ndarray, seen: np.ndarray, gray: float, value_range: tuple[float, float]) -> np.ndarray:
    """Images that are gray where hidden, with a further channel: the greatest value where seen, the least where hidden.

    :param images: (item, channel, height, width).
    :param seen: boolean, (height, width) or (item, height, width).
    """
    low, high = (np.asarray(value, images.dtype) for value in value_range)
    seen = seen[..., None, :, :]
    mask = np.broadcast_to(np.where(seen, high, low), (len(images), 1, *seen.shape[-2:]))
    return np.concatenate([np.where(seen, images, np.asarray(gray, images.dtype)), mask], axis=1)


def edges(images: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """Black edges on white, (item, 1, height, width), by Canny's detector on the gray image.

    :param sigma: standard deviation of the initial Gaussian smoothing, in pixels.
    :raises ImportError: without scikit-image.
    """
    canny = _scikit_image("feature").canny
    return np.stack([np.where(canny(gray, sigma=sigma), 0, 255).astype(np.uint8)[None] for gray in _gray(images)])


def sketch(images: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    """A pencil drawing, (item, 1, height, width): the gray image divided by its blur, clipped at white.

    :param sigma: standard deviation of the blur, in pixels, the width of the strokes.
    :raises ImportError: without scikit-image.
    """
    blur = _scikit_image("filters").gaussian
    drawn = (gray / np.maximum(blur(gray, sigma=sigma), 1e-3) for gray in _gray(images))
    return np.stack([np.rint(255 * np.minimum(each, 1.0)).astype(np.uint8)[None] for each in drawn])


def _gray(images: np.ndarray) -> np.ndarray:
    """The luma of images with Pillow's weights, (item, height, width) in [0, 1]."""
    weights = np.array([0.299, 0.587, 0.114]) if images.shape[1] == 3 else np.full(images.shape[1], 1 / images.shape[1])
    return np.einsum("ichw,c->ihw", images / 255.0, weights)


def _scikit_image(part: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"skimage.{part}")
    except ImportError:
        raise ImportError("edges and sketches require scikit-image, which is not installed: pip install scikit-image") from None


# --- files ---------------------------------------------------------------------------------------------------------


def _side_by_side(picture: "Picture", size: int | None) -> "Picture":
    """A picture of two images side by side, each cropped and resized if a size is given.

    :raises ValueError: for a picture of odd width or not wider than high.
    """
    from PIL import Image

    width, height = picture.size
    if width % 2 or width <= height:
        raise ValueError(
            f"is {width} x {height} pixels, but two images side by side have an even width, greater than the height:"
            " crop it, or make the condition from the image itself (centre, edges, sketch)"
        )
    if size is None:
        return picture
    pair = Image.new(picture.mode, (2 * size, size))
    for side in (0, 1):
        half = picture.crop((side * width // 2, 0, (side + 1) * width // 2, height))
        pair.paste(crop_and_resize(half, size), (side * size, 0))
    return pair


def _of_arrays(path: Path, size: int | None, test_share: float, data_range: tuple[float, float] | None) -> PairData:
    if not path.exists():
        raise FileNotFoundError(f"no file at {path}")
    names = [*ARRAYS, *(f"{part}_{name}" for part in ("train", "test") for name in ARRAYS)]
    arrays = read_arrays(path, names)
    wanted = names[:2] if "images" in arrays else names[2:]
    if missing := [name for name in wanted if name not in arrays]:
        raise ValueError(
            f"{path} contains {', '.join(arrays)}, but not {missing[0]}: pairs are images and conditions, or both with the"
            " prefixes train_ and test_"
        )
    found = {name: to_bytes(path, name, arrays[name], data_range) for name in wanted}
    for images, conditions in zip(wanted[::2], wanted[1::2], strict=True):
        one, two = found[images].shape, found[conditions].shape
        if one[0] != two[0] or one[2:] != two[2:]:
            raise ValueError(
                f"{path}: {one[0]} {images} of {one[3]} x {one[2]} pixels, but {two[0]} {conditions} of {two[3]} x {two[2]}:"
                " give one condition of the same size for each image"
            )
    if size is not None:
        fit = partial(crop_and_resize, size=size)
        found = {name: fitted_arrays(path, name, array, fit) for name, array in found.items()}
    if len(wanted) == 2:
        train, test = split(len(found["images"]), test_share)
        found = {f"{part}_{name}": found[name][at] for part, at in (("train", train), ("test", test)) for name in ARRAYS}
    if len(found["train_images"]) < 2:
        raise ValueError(f"{path} leaves {len(found['train_images'])} pairs for training; at least two are required")
    if any(found[f"train_{name}"].shape[1:] != found[f"test_{name}"].shape[1:] for name in ARRAYS):
        raise ValueError(f"{path}: training and test pairs differ in size or channels; they must be equal, or give size=")
    return PairData(path.stem, *(found[f"{part}_{name}"] for name in ARRAYS for part in ("train", "test")))
