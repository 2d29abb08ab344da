"""Files of images: what is good is read as it is, what is broken is named in one line."""

import gzip
import hashlib
import io
import shutil
import struct
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogen.models.data import datasets, published_images
from cogen.models.data.datasets import load_image_data


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
        (damage_truncated, "declares .5, 6, 4. = 120 values but contains 117"),
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
    with pytest.raises(ValueError, match="3 test images, but 2 labels"):
        datasets.load_idx_folder(tmp_path)


def test_a_download_is_checked_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    def offline(address, timeout):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(ConnectionError, match=r"train-images-idx3-ubyte.gz could not be downloaded \(no network\)"):
        datasets.load_idx_folder(tmp_path / "new", download="mnist")

    other = tmp_path / "other.gz"
    other.write_bytes(gzip.compress(b"something else"))
    monkeypatch.setattr(urllib.request, "urlopen", lambda address, timeout: other.open("rb"))
    with pytest.raises(ConnectionError, match="has unexpected content"):
        datasets.load_idx_folder(tmp_path / "new", download="mnist")
    assert list((tmp_path / "new").iterdir()) == []

    with pytest.raises(ValueError, match="no mirror is known for data set 'cats', only for mnist, fashion_mnist"):
        datasets.load_idx_folder(tmp_path, download="cats")


def test_a_complete_folder_is_not_downloaded_again(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: pytest.fail("the network was asked"))
    assert len(datasets.load_idx_folder(tmp_path, download="mnist")[0]) == 5


def random_bytes(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_pictures(folder: Path, images: np.ndarray, suffix: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03}.{suffix}")


def items(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def refuses(message: str, source, error=ValueError, **options) -> None:
    with pytest.raises(error, match=message):
        load_image_data(source, **options)


def test_a_known_name_is_found_in_a_folder_or_below_the_working_directory(tmp_path, monkeypatch):
    written = write_folder(tmp_path)
    data = load_image_data("mnist", folder=tmp_path)
    assert (data.name, data.train.dtype, data.train_labels.dtype) == ("mnist", np.uint8, np.int64)
    for found, expected in zip((data.train[:, 0], data.train_labels, data.test[:, 0], data.test_labels), written, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert data.num_classes == 1 + max(written[1].max(), written[3].max())
    assert data.train.flags.writeable  # torch.from_numpy warns of arrays that are not

    monkeypatch.chdir(tmp_path)
    for name in ("fashion_mnist", "fashion-mnist"):
        refuses("data/fashion-mnist, .* is missing.*download=True", name, FileNotFoundError)
    (tmp_path / "data" / "fashion_mnist").mkdir(parents=True)
    write_folder(tmp_path / "data" / "fashion_mnist")
    assert load_image_data("fashion-mnist").name == "fashion-mnist"
    refuses("data/celeba is missing.*get img_align_celeba.zip", "celeba", FileNotFoundError, download=True)


def test_a_source_that_is_neither_name_nor_path_is_named(tmp_path):
    refuses("'minst' is neither.*known are mnist, fashion-mnist, cifar10, celeba", "minst")
    refuses("nowhere.npz' is neither", tmp_path / "nowhere.npz", FileNotFoundError)
    refuses("is not a known name: folder= and download= are for", tmp_path, download=True)
    refuses("size is 0", "mnist", size=0)
    refuses("test_share is 1", "mnist", test_share=1)


def cifar_records(count: int, seed: int) -> np.ndarray:
    records = random_bytes(count, 3073, seed=seed)
    records[:, 0] %= 10
    return records


def write_cifar(folder: Path) -> list[np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    parts = [cifar_records(3, seed) for seed in range(6)]
    for name, records in zip(published_images.CIFAR_FILES, parts, strict=True):
        (folder / name).write_bytes(records.tobytes())
    return parts


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-bin"])
def test_cifar_is_read_from_its_binary_version(tmp_path, subfolder):
    parts = write_cifar(tmp_path / subfolder)
    data = load_image_data("cifar10", folder=tmp_path)
    train = np.concatenate(parts[:5])
    assert (data.train.shape, data.test.shape) == ((15, 3, 32, 32), (3, 3, 32, 32))
    np.testing.assert_array_equal(data.train, train[:, 1:].reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(data.train_labels, train[:, 0])
    np.testing.assert_array_equal(data.test_labels, parts[5][:, 0])


def test_damaged_cifar_files_are_named(tmp_path):
    parts = write_cifar(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    path.write_bytes(parts[2].tobytes()[:-1])
    refuses("data_batch_3.bin has 9218 bytes, not a multiple of 3073", tmp_path)
    path.write_bytes(b"")
    refuses("data_batch_3.bin has 0 bytes", tmp_path)
    path.write_bytes(b"\x0a" * 3073)
    refuses("data_batch_3.bin has the label 10, but CIFAR-10 has 0 to 9", tmp_path)
    (tmp_path / "test_batch.bin").unlink()
    path.unlink()
    refuses("has no test_batch.bin", tmp_path, FileNotFoundError)


def test_cifar_is_downloaded_once_checked_and_only_its_own_files_are_unpacked(tmp_path, monkeypatch):
    parts = write_cifar(tmp_path / "made" / published_images.CIFAR_FOLDER)
    (tmp_path / "made" / "evil").write_text("not asked for")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(tmp_path / "made" / published_images.CIFAR_FOLDER, published_images.CIFAR_FOLDER)
        archive.add(tmp_path / "made" / "evil", "../evil")
    monkeypatch.setattr(urllib.request, "urlopen", lambda address, timeout: io.BytesIO(packed.getvalue()))
    folder = tmp_path / "new"
    refuses("cifar-10-binary.tar.gz has unexpected content", "cifar10", ConnectionError, folder=folder, download=True)
    assert not folder.exists()

    monkeypatch.setattr(published_images, "CIFAR_SHA256", hashlib.sha256(packed.getvalue()).hexdigest())
    data = load_image_data("cifar10", folder=folder, download=True)
    np.testing.assert_array_equal(data.test_labels, parts[5][:, 0])
    assert sorted(p.name for p in folder.iterdir()) == sorted(published_images.CIFAR_FILES)
    assert not (tmp_path / "evil").exists()

    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: pytest.fail("the network was asked"))
    load_image_data("cifar10", folder=folder, download=True)


def test_an_incomplete_download_of_cifar_is_named(tmp_path, monkeypatch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz"):
        pass
    monkeypatch.setattr(urllib.request, "urlopen", lambda address, timeout: io.BytesIO(packed.getvalue()))
    monkeypatch.setattr(published_images, "CIFAR_SHA256", hashlib.sha256(packed.getvalue()).hexdigest())
    refuses("no cifar-10-batches-bin/data_batch_1.bin", "cifar10", ConnectionError, folder=tmp_path, download=True)


def test_a_folder_with_an_array_is_not_downloaded_into(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: pytest.fail("the network was asked"))
    np.savez(tmp_path / "subset.npz", images=random_bytes(4, 8, 8, 3))
    for name in ("cifar10", "mnist"):
        assert load_image_data(name, folder=tmp_path, download=True).name == name


def test_arrays_with_splits_are_read_in_every_layout(tmp_path):
    images = random_bytes(6, 3, 8, 8)
    labels = np.array([0, 1, 2, 0, 1, 2])
    np.savez(
        tmp_path / "subset.npz",
        train_images=images[:4].transpose(0, 2, 3, 1),
        train_labels=labels[:4, None],
        test_images=images[4:],
        test_labels=labels[4:].astype(np.uint8),
        more=np.zeros(3),
    )
    for source in (tmp_path, tmp_path / "subset.npz", str(tmp_path / "subset.npz")):
        data = load_image_data(source)
        assert data.name == (tmp_path.name if source == tmp_path else "subset")
        np.testing.assert_array_equal(data.train, images[:4])
        np.testing.assert_array_equal(data.test, images[4:])
        np.testing.assert_array_equal(np.concatenate([data.train_labels, data.test_labels]), labels)
        assert data.num_classes == 3


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (random_bytes(20, 7, 5), random_bytes(20, 7, 5)[:, None]),
        (random_bytes(20, 7, 5)[..., None], random_bytes(20, 7, 5)[:, None]),
        (random_bytes(20, 4, 4, 1), random_bytes(20, 4, 4)[:, None]),  # either axis could be the channels
        (random_bytes(20, 1, 4, 4), random_bytes(20, 4, 4)[:, None]),
        (random_bytes(20, 7, 5) / np.float32(255), random_bytes(20, 7, 5)[:, None]),
    ],
)
def test_arrays_without_a_split_are_split_the_same_way_every_time(tmp_path, array, expected):
    np.save(tmp_path / "images.npy", array)
    np.savez(tmp_path / "images.npz", images=array, labels=np.arange(20))
    data = load_image_data(tmp_path / "images.npz", test_share=0.2)
    assert (len(data.train), len(data.test)) == (16, 4)
    np.testing.assert_array_equal(data.train, expected[data.train_labels])
    np.testing.assert_array_equal(data.test, expected[data.test_labels])
    bare = load_image_data(tmp_path / "images.npy", test_share=0.2)
    np.testing.assert_array_equal(bare.test, data.test)
    assert bare.train_labels is None
    assert bare.num_classes == 0
    whole = load_image_data(tmp_path / "images.npz", test_share=0)
    assert (len(whole.train), whole.test.shape, whole.test_labels.shape) == (20, (0, *data.test.shape[1:]), (0,))
    assert whole.num_classes == 20


def test_arrays_that_are_no_data_set_are_named(tmp_path):
    def fails(message: str, **arrays: np.ndarray) -> None:
        np.savez(tmp_path / "a.npz", **arrays)
        refuses(f"a.npz.*{message}", tmp_path / "a.npz")

    good = random_bytes(4, 6, 6)
    fails("contains the arrays one, two: one of them must be called", one=good, two=good)
    fails("contains the arrays labels, test_images: one of them must be", labels=np.zeros(4, int), test_images=good)
    fails(r"images has shape \(4, 6\)", images=good[:, 0])
    fails(r"images has shape \(4, 6, 6, 2\).*1, 3 or 4 channels", images=random_bytes(4, 6, 6, 2))
    fails(r"images has shape \(4, 3, 3, 3\)", images=random_bytes(4, 3, 3, 3))
    fails(r"images has shape \(4, 0, 6\)", images=random_bytes(4, 0, 6))
    fails("images has values from -1 to 1, but .* floats .* --range -1 1", images=np.linspace(-1, 1, 144).reshape(4, 6, 6))
    fails("images contains NaN", images=np.where(np.arange(6) > 3, np.nan, np.zeros((4, 6, 6))))
    fails("values of type <U1", images=np.full((4, 6, 6), "a"))
    fails("leaves 1 of 1 images for training", images=good[:1])
    fails("leaves 0 of 0 images", images=good[:0])
    fails(r"labels has shape \(3,\), but there are 4 images", images=good, labels=np.zeros(3, int))
    fails("labels has values of type float64", images=good, labels=np.zeros(4))
    fails("labels ranges from -1 to 2", images=good, labels=np.arange(-1, 3))
    fails("labels ranges from 1997 to 2000", images=good, labels=np.arange(1997, 2001))
    fails("labels for the training images only", train_images=good, test_images=good, train_labels=np.arange(4))
    fails(r"training images have shape \(1, 6, 6\), test images \(1, 6, 5\)", train_images=good, test_images=good[:, :, :5])
    fails("test split without images", train_images=good, test_images=good[:0])
    np.savez(tmp_path / "a.npz", train_images=good, test_images=good, train_labels=np.arange(8, 12), test_labels=np.arange(4))
    refuses("has the label 11, but mnist has 0 to 9", "mnist", folder=tmp_path)
    np.save(tmp_path / "b.npy", good)
    refuses("contains 2 arrays .a.npz, b.npy", tmp_path)
    np.save(tmp_path / "b.npy", np.array([{}], object))
    refuses("b.npy cannot be read .pickled objects", tmp_path / "b.npy")


def test_a_training_split_alone_is_split_again(tmp_path):
    np.savez(tmp_path / "a.npz", train_images=random_bytes(10, 6, 6), train_labels=np.arange(10))
    data = load_image_data(tmp_path / "a.npz")
    assert (len(data.train), len(data.test), len(data.test_labels)) == (9, 1, 1)


@pytest.mark.parametrize("suffix", ["png", "JPG"])
def test_a_folder_of_pictures_is_gray_only_if_all_are(tmp_path, suffix):
    gray = random_bytes(12, 6, 4)
    save_pictures(tmp_path, gray, suffix)
    (tmp_path / ".hidden.png").write_bytes(b"a resource fork")
    data = load_image_data(tmp_path, test_share=0.25)
    assert (data.train.shape, data.test.shape) == ((9, 1, 6, 4), (3, 1, 6, 4))
    if suffix == "png":
        assert items(data.train[:, 0]) | items(data.test[:, 0]) == items(gray)
        np.save(tmp_path.parent / f"{tmp_path.name}.npy", gray)
        array = load_image_data(tmp_path.parent / f"{tmp_path.name}.npy", test_share=0.25)
        np.testing.assert_array_equal(data.test, array.test)  # split as an array of the same images

    Image.fromarray(np.repeat(gray[0, ..., None], 3, -1)).save(tmp_path / f"gray_in_colour.{suffix}")
    assert load_image_data(tmp_path).train.shape[1] == 1
    colour = random_bytes(6, 4, 3)
    Image.fromarray(colour).save(tmp_path / f"zz.{suffix}")
    data = load_image_data(tmp_path)
    assert data.train.shape[1] == 3
    if suffix == "png":
        assert items(gray[:, None].repeat(3, 1)) | items(colour.transpose(2, 0, 1)[None]) == items(data.train) | items(
            data.test
        )


def test_subfolders_are_classes(tmp_path):
    images = random_bytes(9, 6, 4)
    for number, name in enumerate(["cat", "ant", "train"]):  # `train` alone beside others is a class, as in CIFAR-100
        save_pictures(tmp_path / name, images[3 * number : 3 * number + 3])
    (tmp_path / "nothing").mkdir()
    data = load_image_data(tmp_path, test_share=0.3)
    assert data.num_classes == 3
    expected = {image.tobytes(): label for image, label in zip(images, [1, 1, 1, 0, 0, 0, 2, 2, 2], strict=True)}
    for part, labels in ((data.train, data.train_labels), (data.test, data.test_labels)):
        assert [expected[image.tobytes()] for image in part] == labels.tolist()


def test_a_single_subfolder_is_no_class(tmp_path):
    save_pictures(tmp_path / "img_align_celeba", random_bytes(5, 6, 4, 3))
    data = load_image_data("celeba", folder=tmp_path)
    assert (data.train.shape, data.train_labels) == ((4, 3, 6, 4), None)


def test_subfolders_called_train_and_test_are_splits(tmp_path):
    images = random_bytes(8, 6, 4)
    save_pictures(tmp_path / "train", images[:4])
    assert len(load_image_data(tmp_path).test) == 1
    save_pictures(tmp_path / "val", images[4:6])
    assert items(load_image_data(tmp_path).test) == items(images[4:6])
    save_pictures(tmp_path / "test", images[6:])
    with pytest.warns(UserWarning, match=r"2 files are not read \(val/000.png, val/001.png\); the test set is test"):
        data = load_image_data(tmp_path)
    np.testing.assert_array_equal(data.train[:, 0], images[:4])
    np.testing.assert_array_equal(data.test[:, 0], images[6:])
    assert data.train_labels is None
    save_pictures(tmp_path / "raw", images)
    refuses(r"contains splits .train. and also raw", tmp_path)
    (tmp_path / "raw").rename(tmp_path.parent / f"{tmp_path.name}-raw")
    save_pictures(tmp_path, images[:1])  # read with them, the test pictures would be trained on
    refuses(r"contains splits .train. and also 000.png", tmp_path)


def test_splits_may_be_sorted_into_classes(tmp_path):
    images = random_bytes(6, 6, 4)
    save_pictures(tmp_path / "train" / "a", images[:2])
    save_pictures(tmp_path / "train" / "b", images[2:4])
    save_pictures(tmp_path / "test" / "b", images[4:])
    data = load_image_data(tmp_path)
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([0, 0, 1, 1], [1, 1])
    (tmp_path / "test" / "b").rename(tmp_path / "test" / "c")
    refuses("test has the classes c, .*train has a, b", tmp_path)
    shutil.rmtree(tmp_path / "test")
    save_pictures(tmp_path / "test", images[4:])
    refuses("test has the classes none", tmp_path)


def test_size_crops_the_centre_and_resizes_pictures_and_arrays_alike(tmp_path):
    images = np.zeros((3, 8, 12), np.uint8)
    images[:, :, :2] = images[:, :, 10:] = 255  # outside the centre square
    images[:, :, 4:8] = np.tile([0, 200], 2)  # a grid that subsampling would turn into stripes
    save_pictures(tmp_path / "pictures", images)
    np.save(tmp_path / "array.npy", images)
    data = load_image_data(tmp_path / "pictures", size=4, test_share=0)
    np.testing.assert_array_equal(data.train, load_image_data(tmp_path / "array.npy", size=4, test_share=0).train)
    assert data.train.shape == (3, 1, 4, 4)
    assert data.train[..., 0].max() < 30  # nothing of the white border
    assert np.ptp(data.train[..., 1:3].astype(int)) < 60
    np.testing.assert_array_equal(load_image_data(tmp_path / "array.npy", size=8).train, images[:2, None, :, 2:10])
    save_pictures(tmp_path / "pictures", random_bytes(1, 20, 16), "jpg")
    assert load_image_data(tmp_path / "pictures", size=8).train.shape[2:] == (8, 8)


def test_pictures_that_are_no_data_set_are_named(tmp_path):
    refuses("contains nothing to read: no pictures", tmp_path, FileNotFoundError)
    save_pictures(tmp_path, random_bytes(1, 6, 4))
    refuses("leaves 1 of 1 images", tmp_path)
    refuses("000.png is a single picture", tmp_path / "000.png")
    (tmp_path / "notes.txt").touch()
    refuses("notes.txt: unknown kind of file", tmp_path / "notes.txt")
    (tmp_path / "notes.txt").unlink()
    save_pictures(tmp_path, random_bytes(8, 6, 4))
    Image.fromarray(random_bytes(6, 5)).save(tmp_path / "003.png")
    Image.fromarray(random_bytes(6, 7)).save(tmp_path / "005.png")
    refuses("003.png is 5 x 6 pixels, 000.png is 4 x 6; all must have the same size: give size=", tmp_path)
    refuses("003.png is 5 x 6", tmp_path, test_share=0.5)  # the first by name, however they are split


def test_a_class_has_all_pictures_below_its_subfolder(tmp_path):
    images = random_bytes(6, 6, 5)
    for number, name in enumerate(["10/2020", "10/2021", "9", "9/more", "9/more/and", "9"]):
        save_pictures(tmp_path / name / str(number), images[number : number + 1])
    data = load_image_data(tmp_path, test_share=0)
    expected = {image.tobytes(): label for image, label in zip(images, [0, 0, 1, 1, 1, 1], strict=True)}  # "10" before "9"
    assert [expected[image.tobytes()] for image in data.train] == data.train_labels.tolist()


def test_pictures_beside_subfolders_are_read_with_them_and_a_line_says_that_these_are_not_classes(tmp_path):
    images = random_bytes(5, 6, 5)
    save_pictures(tmp_path, images[:1])
    save_pictures(tmp_path / "a", images[1:3])
    save_pictures(tmp_path / "train", images[3:])
    with pytest.warns(UserWarning, match=r"1 of 5 pictures are beside the subfolders \(000.png\); all are read, and") as said:
        data = load_image_data(tmp_path, test_share=0)
    assert len(said) == 1
    assert data.train_labels is None
    assert items(data.train[:, 0]) == items(images)


def test_pictures_beside_an_array_are_named(tmp_path):
    np.save(tmp_path / "x.npy", random_bytes(4, 6, 5))
    save_pictures(tmp_path / "previews", random_bytes(2, 6, 5))
    with pytest.warns(UserWarning, match=r"2 files are not read \(previews/000.png, .*\); the data set is x.npy"):
        assert len(load_image_data(tmp_path, test_share=0).train) == 4
