"""Image data sets for training: bytes, with or without labels, with a fixed split into training and test items.

Every source (a published data set by its name, arrays, a folder of pictures) becomes one `ImageData`. The files are read by
`cogen.models.data.image_files` and `cogen.models.data.published_images`.

Every error names the file, the problem and the remedy. Nothing is unpickled.
"""

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cogen.models.data.image_arrays import (
    ARRAY_SUFFIXES,
    as_bytes,
    channels_first,
    check_data_range,
    from_bytes,
    no_data_range,
    read_arrays,
)
from cogen.models.data.image_files import (
    PICTURE_SUFFIXES,
    crop_and_resize,
    load_images,
    pictures_below,
    read_pictures,
    some_of,
    warn_of_unread,
)
from cogen.models.data.published_images import (
    IDX_FILES,
    cifar_folder,
    load_cifar_folder,
    load_idx,
    load_idx_folder,
)

if TYPE_CHECKING:
    from cogen.models.data.image_files import Fit

__all__ = [
    "IDX_FILES",
    "ImageData",
    "from_bytes",
    "load_idx",
    "load_idx_folder",
    "load_image_data",
    "load_images",
]

KNOWN = ("mnist", "fashion-mnist", "cifar10", "celeba")
TEN_CLASSES = ("mnist", "fashion-mnist", "cifar10")
SPLITS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set of images.

    :param name: for display and configurations.
    :param train: uint8 (item, channel, height, width), at least two items.
    :param test: the same; empty only with `test_share=0`.
    :param train_labels: int64 (item,), classes counted from 0; None without labels.
    :param test_labels: the same for the test items.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray | None
    test_labels: np.ndarray | None

    @property
    def num_classes(self) -> int:
        """One more than the greatest label; 0 without labels."""
        if self.train_labels is None or self.test_labels is None:
            return 0
        return int(np.concatenate([self.train_labels, self.test_labels]).max()) + 1


def load_image_data(
    source: str | Path,
    *,
    folder: Path | None = None,
    download: bool = False,
    size: int | None = None,
    test_share: float = 0.1,
    data_range: tuple[float, float] | None = None,
) -> ImageData:
    """Load a data set by its name, or from a path.

    A path is one of

    * a folder with the four idx files, or with the binary files of CIFAR-10;
    * a `.npz` with `train_images` and `test_images` (`train_labels`, `test_labels`) or only `images` (`labels`), a `.npy`, or
      a folder that contains one of these. Images are (item, height, width), with a channel axis after the items or at the end
      or none; integers from 0 to 255 are bytes and floats lie in [0, 1], unless `data_range` is given;
    * a folder of pictures or of subfolders with pictures: `train` and `test` (or `val`) are splits, other names are classes,
      numbered in sorted order (a single one is not a class), with all pictures below them. If there are pictures beside the
      subfolders, all are read and there are no classes. There is one channel if all pictures are gray, otherwise three.

    Transparent parts are put on white, also in arrays with four channels. A warning lists files that are not read.

    :param source: `mnist`, `fashion-mnist`, `cifar10`, `celeba`, or a path.
    :param folder: the folder of the files of a known name; default `data/NAME` in the working directory.
    :param download: download missing files of a known name first, and verify them.
    :param size: crop images to their centre square and resize it to size x size; default: all must have the same size.
    :param test_share: the fraction of items, drawn with a fixed seed, that become the test set if the source has none.
    :param data_range: the values of black and white in an array, if they differ from the above.
    :raises FileNotFoundError: if there is nothing to read.
    :raises ValueError: for files that are invalid or do not fit.
    :raises ConnectionError: if a download fails.
    """
    check_size(size)
    fit = None if size is None else partial(crop_and_resize, size=size)
    return read_image_data(source, fit, folder, download, test_share, data_range)


def check_size(size: int | None) -> None:
    """Check a size in pixels.

    :raises ValueError: for a size that is not positive.
    """
    if size is not None and size < 1:
        raise ValueError(f"size is {size!r}; it must be a positive number of pixels")


def read_image_data(
    source: str | Path,
    fit: "Fit | None",
    folder: Path | None,
    download: bool,
    test_share: float,
    data_range: tuple[float, float] | None,
) -> ImageData:
    """`load_image_data`, where ``fit`` converts every picture (every channel of an array) to the requested size."""
    if not 0 <= test_share < 1:
        raise ValueError(f"test_share is {test_share!r}; it must be at least 0 and less than 1")
    check_data_range(data_range)
    name = source.replace("_", "-") if isinstance(source, str) else ""
    if name in KNOWN:
        path = _find_known(name, folder, download)
    elif folder is not None or download:
        raise ValueError(f"{str(source)!r} is not a known name: folder= and download= are for {', '.join(KNOWN)} only")
    else:
        path = Path(source)
        name = path.resolve().name if path.is_dir() else path.stem
        if not path.exists():
            error = ValueError if str(source) == name else FileNotFoundError  # a bare word is meant as a name
            raise error(f"{str(source)!r} is neither a file or folder nor a known data set; known are {', '.join(KNOWN)}")
    arrays = _read(path, fit, test_share, data_range)
    if "images" in arrays:
        train, test = split(len(arrays["images"]), test_share)
        arrays = {f"{part}_{key}": arrays[key][at] for part, at in (("train", train), ("test", test)) for key in arrays}
    data = _checked(path, name, arrays)
    if len(data.test) == 0 and test_share > 0:
        raise ValueError(f"{path} contains a test split without images: remove it, or give test_share=0 for no test set")
    return data


def split(count: int, test_share: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the test items, from a fixed permutation whose last part is the test set.

    >>> train, test = split(10, 0.2)
    >>> len(train), len(test)
    (8, 2)
    """
    order = np.random.default_rng(0).permutation(count)
    held_out = min(max(round(count * test_share), 1), count - 1) if test_share > 0 else 0
    return order[: count - held_out], order[count - held_out :]


def held_out_split(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the items to train on, and of the training items that `cogen train` holds out for model selection (a tenth, at
    most 5,000). They come from a fixed permutation, because files are often sorted by class."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).numpy()
    held_out = min(5_000, max(1, round(0.1 * count)))
    return order[held_out:], order[:held_out]


def _find_known(name: str, folder: Path | None, download: bool) -> Path:
    if folder is None:
        spellings = [Path("data") / name, Path("data") / name.replace("-", "_")]
        folder = next((p for p in spellings if p.is_dir()), spellings[0])
    folder = Path(folder)
    if name == "celeba":
        if not folder.exists():
            raise FileNotFoundError(
                f"{folder} is missing, and CelebA cannot be downloaded automatically: get img_align_celeba.zip from "
                f"https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html and unpack its pictures into {folder}, or give folder="
            )
    elif download and not (folder.is_file() or _array_files(folder)):
        if name == "cifar10":
            load_cifar_folder(folder, download=True)
        else:
            load_idx_folder(folder, download=name.replace("-", "_"))
    if not folder.exists():
        raise FileNotFoundError(f"{folder}, the folder of {name}, is missing: give folder=, or download=True to download it")
    return folder


def _read(path: Path, fit: "Fit | None", test_share: float, data_range: tuple[float, float] | None) -> dict[str, np.ndarray]:
    """Images and labels in the form of `ImageData`, under the names of SPLITS, or before the split as "images" and "labels"."""
    if path.is_dir():
        if any((path / f"{name}{suffix}").is_file() for name in IDX_FILES for suffix in ("", ".gz")):
            arrays = dict(zip(SPLITS, load_idx_folder(path), strict=True))
        elif any(cifar_folder(path).glob("*_batch*.bin")):
            arrays = dict(zip(SPLITS, load_cifar_folder(path), strict=True))
        elif files := _array_files(path):
            if len(files) > 1:
                raise ValueError(
                    f"{path} contains {len(files)} arrays ({files[0].name}, {files[1].name}, ...): give the path of one"
                )
            warn_of_unread(path, pictures_below(path)[0], f"the data set is {files[0].name}")
            return _read(files[0], fit, test_share, data_range)
        else:
            no_data_range(path, data_range)
            return _read_picture_folder(path, fit, test_share)
    elif path.suffix.lower() in ARRAY_SUFFIXES:
        arrays = _read_array_file(path)
    elif path.suffix.lower() in PICTURE_SUFFIXES:
        raise ValueError(f"{path} is a single picture, but a data set has two or more: give their folder")
    else:
        raise ValueError(f"{path}: unknown kind of file; supported are {', '.join(ARRAY_SUFFIXES)} and folders")
    for key, array in arrays.items():
        if key.endswith("images"):
            images = to_bytes(path, key, array, data_range)
            arrays[key] = images if fit is None else fitted_arrays(path, key, images, fit)
        else:
            arrays[key] = _to_labels(path, key, array, len(arrays[key.replace("labels", "images")]))
    return arrays


def _array_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in ARRAY_SUFFIXES and not p.name.startswith("."))


def _read_array_file(path: Path) -> dict[str, np.ndarray]:
    arrays = read_arrays(path, [*SPLITS, "images", "labels"])
    wanted: tuple[str, ...] = ("images", "labels")
    if "train_images" in arrays and "test_images" in arrays:
        wanted = SPLITS
    elif "train_images" in arrays:
        arrays = {key.removeprefix("train_"): array for key, array in arrays.items() if key.startswith("train_")}
    elif "images" not in arrays:
        raise ValueError(f"{path} contains the arrays {', '.join(arrays)}: one of them must be called images or train_images")
    return {key: arrays[key] for key in wanted if key in arrays}


def to_bytes(path: Path, key: str, array: np.ndarray, data_range: tuple[float, float] | None) -> np.ndarray:
    """Convert images to uint8 (item, channel, height, width), RGB with alpha on white."""
    name = f"{path}: {key}"
    return np.require(as_bytes(channels_first(array, name), name, data_range), requirements=["C", "W"])


def fitted_arrays(path: Path, key: str, images: np.ndarray, fit: "Fit") -> np.ndarray:
    """Apply ``fit`` to each channel of bytes (item, channel, height, width)."""
    from PIL import Image

    if not len(images):
        return images
    try:
        fitted = [np.asarray(fit(Image.fromarray(channel))) for channel in images.reshape(-1, *images.shape[2:])]
    except ValueError as error:
        raise ValueError(f"{path}: each of {key} {error}") from None
    return np.stack(fitted).reshape(*images.shape[:2], *fitted[0].shape)


def _to_labels(path: Path, key: str, array: np.ndarray, count: int) -> np.ndarray:
    """Labels as int64 (item,)."""
    if array.shape not in ((count,), (count, 1)):
        raise ValueError(f"{path}: {key} has shape {array.shape}, but there are {count} images: give one label for each")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{path}: {key} has values of type {array.dtype}: number the classes 0, 1, ...")
    if count and (array.min() < 0 or array.max() >= max(1000, count)):
        raise ValueError(f"{path}: {key} ranges from {array.min()} to {array.max()}: number the classes 0, 1, ...")
    return array.reshape(-1).astype(np.int64)


def _read_picture_folder(folder: Path, fit: "Fit | None", test_share: float) -> dict[str, np.ndarray]:
    found, others = pictures_below(folder)
    if not found:
        only = f"; only {some_of(others, folder)}" if others else ""
        raise FileNotFoundError(
            f"{folder} contains nothing to read: no pictures ({', '.join(PICTURE_SUFFIXES)}) or subfolders with pictures, no "
            f"array ({', '.join(ARRAY_SUFFIXES)}), no idx or CIFAR-10 files{only}"
        )
    warn_of_unread(folder, others)
    train_folder, test_folder = _split_folders(folder, found)
    files = [path for path in found if path.is_relative_to(train_folder)]
    classes = _classes(train_folder, files)
    if test_folder is None:
        train, test = split(len(files), test_share)
    else:
        test_files = [path for path in found if path.is_relative_to(test_folder)]
        test_classes = _classes(test_folder, test_files)
        train, test = np.split(np.arange(len(files) + len(test_files)), [len(files)])
        if bool(classes) != bool(test_classes) or not set(test_classes) <= set(classes):
            raise ValueError(
                f"{test_folder} has the classes {_listed(test_classes)}, {train_folder} has {_listed(classes)}: "
                "give both the same subfolders, or none"
            )
        rest = [path for path in found if not path.is_relative_to(train_folder) and not path.is_relative_to(test_folder)]
        warn_of_unread(folder, rest, f"the test set is {test_folder.name}")
        files, classes = files + test_files, classes + test_classes
    order = np.concatenate([train, test])
    images = read_pictures(files, fit, positions=np.argsort(order).tolist())
    arrays = {"train_images": images[: len(train)], "test_images": images[len(train) :]}
    if len(set(classes)) > 1:
        labels = np.unique(classes, return_inverse=True)[1].astype(np.int64)
        arrays |= {"train_labels": labels[train], "test_labels": labels[test]}
    return arrays


def _split_folders(folder: Path, files: list[Path]) -> tuple[Path, Path | None]:
    """The folder of the training pictures, and the folder of the test pictures if there is one."""
    names = {path.relative_to(folder).parts[0] for path in files}  # subfolders, and pictures beside them
    if "train" not in names:
        return folder, None
    if others := sorted(names - {"train", "test", "val"}):
        if names & {"test", "val"}:
            raise ValueError(
                f"{folder} contains splits (train) and also {others[0]}: move it away, or rename the splits if they are classes"
            )
        return folder, None
    held_out = next((name for name in ("test", "val") if name in names), None)
    return folder / "train", folder / held_out if held_out else None


def _classes(folder: Path, files: list[Path]) -> list[str]:
    """The class of each picture: its top-level subfolder. An empty list if there are pictures beside the subfolders."""
    parts = [path.relative_to(folder).parts for path in files]
    if beside := [path for path, its in zip(files, parts, strict=True) if len(its) == 1]:
        if len(beside) < len(files):
            warnings.warn(
                f"{folder}: {len(beside)} of {len(files)} pictures are beside the subfolders ({some_of(beside, folder)}); "
                "all are read, and the subfolders are not used as classes",
                stacklevel=2,
            )
        return []
    return [its[0] for its in parts]


def _listed(classes: list[str]) -> str:
    names = sorted(set(classes))
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "none"


def _checked(path: Path, name: str, arrays: dict[str, np.ndarray]) -> ImageData:
    train, test = arrays["train_images"], arrays["test_images"]
    labels = arrays.get("train_labels"), arrays.get("test_labels")
    if len(train) < 2:
        raise ValueError(
            f"{path} leaves {len(train)} of {len(train) + len(test)} images for training; at least two are required"
        )
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"{path}: training images have shape {train.shape[1:]}, test images {test.shape[1:]}; they must be equal"
        )
    if (labels[0] is None) != (labels[1] is None):
        raise ValueError(
            f"{path} has labels for the {'test' if labels[0] is None else 'training'} images only: give both, or none"
        )
    data = ImageData(name, train, test, *labels)
    if name in TEN_CLASSES and data.num_classes > 10:
        raise ValueError(f"{path} has the label {data.num_classes - 1}, but {name} has 0 to 9: download the files again")
    return data
