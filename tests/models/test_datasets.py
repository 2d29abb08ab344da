"""Files of images: what is good is read as it is, what is broken is named in one line."""

import gzip
import struct
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogen.models import datasets

RANGE = (-1.0, 1.0)
SHAPE = (1, 6, 4)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_folder(folder: Path, compress: bool = True, train: int = 5, test: int = 3) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    arrays = []
    for name, count in zip(datasets.IDX_FILES, (train, train, test, test), strict=True):
        shape = (count, 6, 4) if "images" in name else (count,)
        arrays.append(generator.integers(0, 10, shape, dtype=np.uint8))
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(arrays[-1])))
        else:
            (folder / name).write_bytes(idx(arrays[-1]))
    return arrays


@pytest.mark.parametrize("compress", [True, False])
def test_a_folder_of_idx_files_comes_back_as_written(tmp_path, compress):
    written = write_folder(tmp_path, compress)
    for found, expected in zip(datasets.load_idx_folder(tmp_path), written, strict=True):
        np.testing.assert_array_equal(found, expected)


def damage_truncated(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-3]))


def damage_half_gzip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def damage_magic(path: Path) -> None:
    path.write_bytes(gzip.compress(b"\x01" + gzip.decompress(path.read_bytes())[1:]))


def damage_empty(path: Path) -> None:
    path.write_bytes(gzip.compress(b""))


def damage_huge_header(path: Path) -> None:
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + b"\xff" * 12))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncated, "announces .5, 6, 4. = 120 values and holds 117"),
        (damage_half_gzip, "not a complete gzip file"),
        (damage_magic, "starts with 01 00 08 03, expected 00 00 08 03"),
        (damage_empty, "starts with nothing"),
        (damage_huge_header, "truncated or damaged"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, damage, message):
    write_folder(tmp_path)
    damage(tmp_path / "train-images-idx3-ubyte.gz")
    with pytest.raises(ValueError, match=f"train-images-idx3-ubyte.gz.*{message}"):
        datasets.load_idx_folder(tmp_path)


def test_missing_and_mismatched_idx_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither train-images-idx3-ubyte nor"):
        datasets.load_idx_folder(tmp_path)
    write_folder(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(2, np.uint8))))
    with pytest.raises(ValueError, match="3 test images, 2 labels"):
        datasets.load_idx_folder(tmp_path)


def test_a_download_is_checked_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    def offline(address, timeout):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(datasets.urllib.request, "urlopen", offline)
    with pytest.raises(ConnectionError, match=r"train-images-idx3-ubyte.gz could not be fetched \(no network\)"):
        datasets.load_idx_folder(tmp_path / "new", download="mnist")

    other = tmp_path / "other.gz"
    other.write_bytes(gzip.compress(b"something else"))
    monkeypatch.setattr(datasets.urllib.request, "urlopen", lambda address, timeout: other.open("rb"))
    with pytest.raises(ConnectionError, match="other content than expected"):
        datasets.load_idx_folder(tmp_path / "new", download="mnist")
    assert list((tmp_path / "new").iterdir()) == []

    with pytest.raises(ValueError, match="no mirror is known for data set 'cats'; there are mnist, fashion_mnist"):
        datasets.load_idx_folder(tmp_path, download="cats")


def test_a_complete_folder_is_not_downloaded_again(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.setattr(datasets.urllib.request, "urlopen", lambda *a, **k: pytest.fail("the network was asked"))
    assert len(datasets.load_idx_folder(tmp_path, download="mnist")[0]) == 5


def test_pictures_are_read_in_order_of_name_and_converted(tmp_path):
    gray = np.arange(24, dtype=np.uint8).reshape(6, 4) * 10
    Image.fromarray(gray).save(tmp_path / "b.png")
    Image.fromarray(np.stack([gray.T.reshape(6, 4)] * 3, -1)).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    images = datasets.load_images(tmp_path, SHAPE, RANGE)
    assert images.shape == (2, *SHAPE)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images[1, 0], gray / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(images[0, 0], gray.T.reshape(6, 4) / 127.5 - 1, atol=1e-6)

    colour = datasets.load_images(tmp_path / "b.png", (3, 6, 4), (0.0, 1.0))
    np.testing.assert_allclose(colour, np.broadcast_to(gray / 255, (1, 3, 6, 4)), atol=1e-6)


def test_arrays_are_read_with_or_without_the_channel_axis(tmp_path):
    pixels = np.random.default_rng(0).uniform(-1, 1, (3, *SHAPE)).astype(np.float32)
    pixels[0, 0, 0, 0] = np.nan
    for name, array in {"full": pixels, "flat": pixels[:, 0], "one": pixels[0], "one_flat": pixels[0, 0]}.items():
        np.save(tmp_path / f"{name}.npy", array)
        found = datasets.load_images(tmp_path / f"{name}.npy", SHAPE, RANGE)
        np.testing.assert_array_equal(found, pixels if array.ndim + name.count("flat") == 4 else pixels[:1])
    np.savez(tmp_path / "several.npz", images=np.full((2, 6, 4), 255, np.uint8), labels=np.zeros(2))
    np.testing.assert_array_equal(datasets.load_images(tmp_path / "several.npz", SHAPE, RANGE), np.ones((2, *SHAPE)))


def test_what_does_not_fit_is_named(tmp_path):
    def fails(name: str, message: str, shape=SHAPE, error=ValueError) -> None:
        with pytest.raises(error, match=message):
            datasets.load_images(tmp_path / name, shape, RANGE)

    fails("nowhere.png", "no image file or folder at", error=FileNotFoundError)
    (tmp_path / "empty").mkdir()
    fails("empty", "empty holds no picture", error=FileNotFoundError)
    Image.fromarray(np.zeros((28, 27), np.uint8)).save(tmp_path / "narrow.png")
    fails("narrow.png", "narrow.png is 27 x 28 pixels; the generator makes 4 x 6")
    fails("narrow.png", "2 channels; a picture has 1", shape=(2, 28, 27))
    fails("narrow.png", r"events of shape \(2,\), which are not images", shape=(2,))
    (tmp_path / "corrupt.png").write_bytes((tmp_path / "narrow.png").read_bytes()[:30])
    fails("corrupt.png", "corrupt.png is not a picture that can be read")
    (tmp_path / "nothing.jpg").touch()
    fails("nothing.jpg", "nothing.jpg is empty")
    (tmp_path / "text.txt").touch()
    fails("text.txt", "cannot tell the kind of file")
    np.save(tmp_path / "wrong.npy", np.zeros((2, 7, 4), np.float32))
    fails("wrong.npy", r"shape \(2, 7, 4\); the generator makes \(item, 1, 6, 4\)")
    np.save(tmp_path / "outside.npy", np.full((2, 6, 4), 3.0))
    fails("outside.npy", "from 3 to 3; the generator's range is -1 to 1")
    np.save(tmp_path / "infinite.npy", np.full((2, 6, 4), np.inf))
    fails("infinite.npy", "from inf to inf")
    np.save(tmp_path / "whole.npy", np.zeros((2, 6, 4), int))
    fails("whole.npy", "values of type int64")
    np.save(tmp_path / "pickled.npy", np.array([{}], object))
    fails("pickled.npy", "pickled objects are not read")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 no more")
    fails("torn.npz", "torn.npz cannot be read")
    np.savez(tmp_path / "unnamed.npz", a=np.zeros(2), b=np.zeros(2))
    fails("unnamed.npz", "holds the arrays a, b; one of them must be called images")
