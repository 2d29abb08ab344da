"""The published image sets MNIST, Fashion-MNIST and CIFAR-10: byte formats, download addresses and checksums.

The idx format is a big-endian header (two zero bytes, a type code, the number of dimensions, one 32-bit size for each)
followed by the raw values (LeCun, Cortes, Burges: the MNIST database, http://yann.lecun.com/exdb/mnist/). The binary version
of CIFAR-10 is a series of records, one byte of label and 3 x 32 x 32 bytes of pixels
(https://www.cs.toronto.edu/~kriz/cifar.html), with the same images as the pickled version, which is not supported.

Every error names the file, the problem, and what was expected. Nothing is unpickled.
"""

import gzip
import hashlib
import http.client
import io
import math
import struct
import tarfile
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cogen.inference.whole_files import write_whole

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

# A public mirror of each data set, and the SHA-256 of the decompressed content of each file (mirrors compress differently),
# in the order of IDX_FILES.
MIRRORS = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist",
    "fashion_mnist": "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
}
SHA256 = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion_mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}

CIFAR_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
CIFAR_FOLDER = "cifar-10-batches-bin"  # the folder in the archive
CIFAR_ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"  # of the archive
CIFAR_RECORD = 1 + 3 * 32 * 32  # bytes


def load_idx_folder(folder: str | Path, download: str | None = None) -> tuple[np.ndarray, ...]:
    """The four arrays of an MNIST-like folder: training images, training labels, test images, test labels.

    Images are uint8 (item, height, width), labels uint8 (item,). The files have their usual names, with or without `.gz`.

    :param download: "mnist" or "fashion_mnist": download missing files into the folder first, and verify them.
    :raises FileNotFoundError: for a missing file.
    :raises ValueError: for an invalid file.
    :raises ConnectionError: if the download fails.
    """
    folder = Path(folder)
    if download is not None:
        _download_idx(folder, download)
    arrays: list[np.ndarray] = []
    for name in IDX_FILES:
        candidates = [folder / name, folder / f"{name}.gz"]
        path = next((p for p in candidates if p.is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"{folder} contains neither {name} nor {name}.gz: give the folder of the four idx files, or download them"
            )
        arrays.append(load_idx(path, dimensions=3 if "images" in name else 1))
    for part, images, labels in (("training", *arrays[:2]), ("test", *arrays[2:])):
        if len(images) != len(labels):
            raise ValueError(f"{folder}: {len(images)} {part} images, but {len(labels)} labels; the files do not match")
    if arrays[0].shape[1:] != arrays[2].shape[1:]:
        raise ValueError(
            f"{folder}: training images have shape {arrays[0].shape[1:]}, test images {arrays[2].shape[1:]}; "
            "the files do not match"
        )
    return tuple(arrays)


def load_idx(path: str | Path, dimensions: int) -> np.ndarray:
    """Read an idx file of unsigned bytes with this number of dimensions, gzipped or plain.

    :raises ValueError: for an invalid file.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a complete gzip file ({error}): download it again") from None
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, 8, dimensions]):
        raise ValueError(
            f"{path} is not an idx file of bytes with {dimensions} dimensions: "
            f"it starts with {content[:4].hex(' ') or 'nothing'}, expected 00 00 08 {dimensions:02x}"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path} declares {shape} = {math.prod(shape)} values but contains {len(content) - header}; "
            "it is truncated or damaged: download it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def load_cifar_folder(folder: str | Path, download: bool = False) -> tuple[np.ndarray, ...]:
    """The four arrays of CIFAR-10's binary version: training images, training labels, test images, test labels.

    Images are uint8 (item, 3, 32, 32), labels uint8 (item,), 0 to 9. The files `data_batch_*.bin` and `test_batch.bin` are in
    the folder or in its subfolder `cifar-10-batches-bin`.

    :param download: download missing files first, and verify them.
    :raises FileNotFoundError: for a missing file.
    :raises ValueError: for an invalid file.
    :raises ConnectionError: if the download fails.
    """
    folder = cifar_folder(Path(folder))
    if download and not all((folder / name).is_file() for name in CIFAR_FILES):
        _download_cifar(folder)
    parts = sorted(folder.glob("data_batch_*.bin")), [p for p in [folder / "test_batch.bin"] if p.is_file()]
    arrays: list[np.ndarray] = []
    for name, files in zip(("data_batch_*.bin", "test_batch.bin"), parts, strict=True):
        if not files:
            raise FileNotFoundError(f"{folder} has no {name}: give the folder of CIFAR-10's binary version, or download it")
        records = np.concatenate([_load_cifar_file(path) for path in files])
        arrays += [records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]]
    return tuple(arrays)


def cifar_folder(folder: Path) -> Path:
    """The folder of the CIFAR-10 files: the subfolder of the archive if it exists, otherwise the folder itself."""
    return folder / CIFAR_FOLDER if (folder / CIFAR_FOLDER).is_dir() else folder


def _load_cifar_file(path: Path) -> np.ndarray:
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if len(content) == 0 or len(content) % CIFAR_RECORD:
        raise ValueError(
            f"{path} has {len(content)} bytes, not a multiple of {CIFAR_RECORD}; it is truncated or damaged: download it again"
        )
    records = content.reshape(-1, CIFAR_RECORD)
    if records[:, 0].max() > 9:
        raise ValueError(f"{path} has the label {records[:, 0].max()}, but CIFAR-10 has 0 to 9: download the file again")
    return records


def _download_idx(folder: Path, dataset: str) -> None:
    """Download missing files; each is written only after its content is verified."""
    if dataset not in MIRRORS:
        raise ValueError(f"no mirror is known for data set {dataset!r}, only for {', '.join(MIRRORS)}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, checksum in zip(IDX_FILES, SHA256[dataset], strict=True):
        target = folder / f"{name}.gz"
        if target.is_file() or (folder / name).is_file():
            continue
        address = f"{MIRRORS[dataset]}/{target.name}"
        write_whole(target, _fetch(address, checksum, f"put the four idx files into {folder}", gzip.decompress))


def _download_cifar(folder: Path) -> None:
    remedy = f"put the files of {CIFAR_FOLDER} into {folder}"
    content = _fetch(CIFAR_ADDRESS, CIFAR_SHA256, remedy)
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        found = {member.name: member for member in archive if member.isfile()}
        for name in CIFAR_FILES:  # no other file of the archive is written
            if f"{CIFAR_FOLDER}/{name}" not in found:
                raise ConnectionError(f"{CIFAR_ADDRESS} contains no {CIFAR_FOLDER}/{name}: {remedy}")
            content_of = archive.extractfile(found[f"{CIFAR_FOLDER}/{name}"])
            if content_of is not None and not (folder / name).is_file():
                write_whole(folder / name, content_of.read())


def _fetch(address: str, checksum: str, remedy: str, decompress: Callable[[bytes], bytes] = bytes) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            content = answer.read()
        found = hashlib.sha256(decompress(content)).hexdigest()
    except (OSError, EOFError, zlib.error, http.client.HTTPException) as error:  # URLError and BadGzipFile are OSErrors
        raise ConnectionError(f"{address} could not be downloaded ({getattr(error, 'reason', error)}): {remedy}") from None
    if found != checksum:
        raise ConnectionError(f"{address} has unexpected content (SHA-256 {found[:12]}..., not {checksum[:12]}...): {remedy}")
    return content
