"""Pictures as people bring them are read as a viewer shows them, and what is not read is named."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogen.models import load_image_data, load_images
from cogen.models.data import image_files

RANGE = (-1.0, 1.0)
SHAPE = (1, 6, 4)
BLOCKS = np.kron(np.array([[10, 80, 150], [220, 60, 130]], np.uint8), np.ones((8, 8), np.uint8))  # exact in a JPEG
RAMP = np.tile(np.arange(16, dtype=np.uint8)[:, None] * 17, (1, 16))


def read(path: Path, channels: int = 1, error: float = 0) -> np.ndarray:
    """0 to 255 (channel, height, width), read the same way to be completed and to be trained on."""
    trained = image_files.read_pictures([path])[0]
    completed = load_images(path, (channels, *trained.shape[1:]), RANGE)[0]
    np.testing.assert_allclose((completed + 1) * 127.5, np.broadcast_to(trained, completed.shape), atol=max(error, 1e-4))
    return np.rint((completed + 1) * 127.5)


def refuses(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_files.read_pictures([path])
    with pytest.raises(ValueError, match=message):
        load_images(path, SHAPE, RANGE)


# --- upright -------------------------------------------------------------------------------------------------------

STORED = {  # by the meaning of the tag: which side the first row and the first column of what is stored lie on
    1: BLOCKS, 2: BLOCKS[:, ::-1], 3: BLOCKS[::-1, ::-1], 4: BLOCKS[::-1],
    5: BLOCKS.T, 6: np.rot90(BLOCKS), 7: BLOCKS[::-1, ::-1].T, 8: np.rot90(BLOCKS, -1),
}  # fmt: skip


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("number", STORED)
def test_all_eight_orientations_come_out_upright(tmp_path, number, suffix):
    path = tmp_path / f"phone.{suffix}"
    quality = {"lossless": True} if suffix == "webp" else {"quality": 100} if suffix == "jpg" else {}
    Image.fromarray(np.ascontiguousarray(STORED[number])).save(path, exif=orientation(number), **quality)
    np.testing.assert_allclose(read(path)[0], BLOCKS, atol=1)


def test_exif_that_cannot_be_written_again_still_turns_and_exif_that_cannot_be_read_does_not(tmp_path):
    exif = orientation(6)
    exif[0x010F] = "a maker"
    text, number = struct.pack(">HHI", 0x010F, 2, 8), struct.pack(">HHI", 0x010F, 5, 1)  # eight bytes, a text or a fraction
    odd = exif.tobytes().replace(text, number)
    assert odd != exif.tobytes()
    Image.fromarray(np.rot90(BLOCKS).copy()).save(tmp_path / "odd.png", exif=odd)
    np.testing.assert_array_equal(read(tmp_path / "odd.png")[0], BLOCKS)
    Image.fromarray(BLOCKS).save(tmp_path / "damaged.png", exif=b"Exif\0\0nonsense")
    np.testing.assert_array_equal(read(tmp_path / "damaged.png")[0], BLOCKS)


# --- on white ------------------------------------------------------------------------------------------------------

ALPHA = np.zeros((16, 16), np.uint8)  # of a black square on nothing; the hidden pixels beside it are black as well
ALPHA[4:12, 4:12] = 255
ALPHA[4] = 100


def in_palette() -> Image.Image:
    picture = Image.frombytes("P", (16, 16), ALPHA.tobytes())
    picture.putpalette([0, 0, 0] * 256)
    return picture


def save_transparent(path: Path, kind: str) -> np.ndarray:
    """Saves the square; returns its alpha."""
    opaque = np.where(ALPHA == 255, 255, 0).astype(np.uint8)
    ink = Image.fromarray(np.uint8(255 - opaque) // 255 * 9)  # 0 where drawn, 9 where not
    match kind:
        case "RGBA" | "LA":
            picture = Image.new("RGB" if kind == "RGBA" else "L", (16, 16))
            picture.putalpha(Image.fromarray(ALPHA))
            picture.save(path, **({"lossless": True} if path.suffix == ".webp" else {}))
            return ALPHA
        case "palette":
            in_palette().save(path, transparency=bytes(range(256)))
            return ALPHA
        case "one entry of a palette":
            in_palette().save(path, transparency=0)
            return np.where(ALPHA == 0, 0, 255)
        case "one gray":
            ink.save(path, transparency=9)
        case "one colour":
            ink.convert("RGB").save(path, transparency=(9, 9, 9))
        case "one gray of 16 bits":
            path.write_bytes(png(np.asarray(ink).astype(">u2") * 257, color=0, transparent=struct.pack(">H", 9 * 257)))
    return opaque


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("RGBA", "png"),
        ("RGBA", "webp"),
        ("RGBA", "tif"),
        ("LA", "png"),
        ("palette", "png"),
        ("one entry of a palette", "png"),
        ("one entry of a palette", "gif"),
        ("one gray", "png"),
        ("one colour", "png"),
        ("one gray of 16 bits", "png"),
    ],
)
def test_what_is_transparent_is_seen_on_white(tmp_path, kind, suffix):
    path = tmp_path / f"drawing.{suffix}"
    expected = 255 - save_transparent(path, kind)
    np.testing.assert_allclose(read(path)[0], expected, atol=1)
    np.testing.assert_allclose(read(path, channels=3), np.broadcast_to(expected, (3, 16, 16)), atol=1)


# --- values --------------------------------------------------------------------------------------------------------


def png(values: np.ndarray, color: int, transparent: bytes = b"") -> bytes:
    """A PNG of 16 bits, which Pillow writes in gray only: values big-endian, color 0 (gray) or 2 (RGB)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = values.shape[:2]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0))
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))
    return b"\x89PNG\r\n\x1a\n" + header + (chunk(b"tRNS", transparent) if transparent else b"") + chunk(b"IDAT", rows)


def tiff_of_12_bits(values: np.ndarray) -> bytes:
    pairs = values.reshape(-1, 2).astype(np.uint32)
    packed = b"".join(int(a << 12 | b).to_bytes(3, "big") for a, b in pairs)
    height, width = values.shape
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed + struct.pack("<H", len(tags)) + entries + bytes(4)


def save_ramp(path: Path, kind: str) -> None:
    deep, colour = RAMP.astype(np.uint16) * 257, np.stack([RAMP, RAMP[::-1], RAMP.T], -1)
    match kind:
        case "16 bits":
            Image.fromarray(deep).save(path)
        case "16 bits, big-endian":
            Image.fromarray(deep.astype(">u2")).save(path)
        case "16 bits, white is zero":
            Image.fromarray(65535 - deep).save(path, tiffinfo={262: 0})
        case "12 bits":
            path.write_bytes(tiff_of_12_bits(RAMP.astype(int) * 4095 // 255))
        case "8 bits":
            Image.fromarray(RAMP).save(path, **({"lossless": True} if path.suffix == ".webp" else {}))
        case "palette":
            Image.fromarray(RAMP).convert("P").save(path)
        case "a PNG":
            Image.fromarray(RAMP).save(path, format="PNG")
        case "16 bits, RGB":
            path.write_bytes(png(colour.astype(">u2") * 257, color=2))
        case "CMYK":
            Image.fromarray(np.concatenate([255 - colour, 0 * colour[..., :1]], -1), "CMYK").save(path)
        case "RGB":
            Image.fromarray(colour).save(path)


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        *(("16 bits", suffix) for suffix in ("png", "tif", "pgm")),
        *((kind, "tiff") for kind in ("16 bits, big-endian", "16 bits, white is zero", "12 bits", "CMYK")),
        *(("8 bits", suffix) for suffix in ("png", "webp", "bmp", "tif", "tiff", "gif", "pgm", "PNG", "TIF")),
        *(("palette", suffix) for suffix in ("png", "bmp", "gif")),
        *(("RGB", suffix) for suffix in ("png", "bmp", "tif", "ppm")),
        ("16 bits, RGB", "png"),
        ("a PNG", "jpg"),
    ],
)
def test_values_are_right_whatever_the_kind_of_file(tmp_path, kind, suffix):
    path = tmp_path / f"ramp.{suffix}"
    save_ramp(path, kind)
    if kind in ("RGB", "CMYK", "16 bits, RGB"):
        np.testing.assert_allclose(read(path, channels=3), [RAMP, RAMP[::-1], RAMP.T], atol=1)
    else:
        np.testing.assert_allclose(read(path), RAMP[None], atol=1)


def test_one_bit_is_black_and_white(tmp_path):
    Image.fromarray(RAMP > 99).save(tmp_path / "one.png")
    np.testing.assert_array_equal(read(tmp_path / "one.png")[0], np.where(RAMP > 99, 255, 0))


def test_pixels_whose_range_is_not_known_are_refused(tmp_path):
    Image.fromarray(np.zeros((6, 4), np.float32)).save(tmp_path / "float.tif")
    refuses(tmp_path / "float.tif", "float.tif has pixels of Pillow's mode F, whose range is unknown")
    Image.fromarray(np.zeros((6, 4), np.int32)).save(tmp_path / "long.tif")
    refuses(tmp_path / "long.tif", "mode I, whose range is unknown: save it as gray or RGB with 8 or 16 bits")


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_a_file_of_several_frames_is_refused(tmp_path, suffix):
    frames = [Image.fromarray(RAMP), Image.fromarray(RAMP.T.copy()), Image.fromarray(RAMP[::-1].copy())]
    frames[0].save(tmp_path / f"film.{suffix}", save_all=True, append_images=frames[1:])
    refuses(tmp_path / f"film.{suffix}", rf"film.{suffix} contains 3 frames or pages: save the one to use")


def test_the_preview_in_a_phone_s_jpeg_is_not_a_frame(tmp_path):
    preview = Image.fromarray(np.zeros((8, 8), np.uint8))
    Image.fromarray(BLOCKS).save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[preview], quality=100)
    np.testing.assert_allclose(read(tmp_path / "phone.jpg")[0], BLOCKS, atol=1)


def test_pictures_are_converted_to_gray_or_colour_as_the_generator_asks(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "a.png")
    luma = colour @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(load_images(tmp_path / "a.png", SHAPE, RANGE)[0, 0], luma / 127.5 - 1, atol=1 / 127.5)
    gray = np.arange(24, dtype=np.uint8).reshape(6, 4) * 10
    Image.fromarray(gray).save(tmp_path / "b.png")
    found = load_images(tmp_path / "b.png", (3, 6, 4), (0.0, 1.0))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.broadcast_to(gray / 255, (1, 3, 6, 4)), atol=1e-6)


# --- folders -------------------------------------------------------------------------------------------------------


def save_gray(folder: Path, names: dict[str, int]) -> None:
    """Pictures of one gray each."""
    for name, value in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 4), value, np.uint8)).save(folder / name, lossless=True)


def grays(images: np.ndarray) -> list[int]:
    return np.rint((images[:, 0, 0, 0] + 1) * 127.5).astype(int).tolist()


def test_a_folder_is_read_with_its_subfolders_in_natural_order(tmp_path):
    names = ["b.tiff", "10.bmp", "2.webp", "a10.PNG", "a/10/1.gif", "1.png", "010.tif", "a/2/1.png"]
    order = ["1.png", "2.webp", "10.bmp", "010.tif", "a/2/1.png", "a/10/1.gif", "a10.PNG", "b.tiff"]
    save_gray(tmp_path, {name: 20 * (number + 1) for number, name in enumerate(names)})
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "1.png").write_bytes(b"nothing to read")
    (tmp_path / ".b.png").write_bytes(b"a resource fork")
    assert grays(load_images(tmp_path, SHAPE, RANGE)) == [20 * (names.index(name) + 1) for name in order]


def test_what_is_not_read_in_a_folder_is_counted_and_named_in_one_line(tmp_path):
    save_gray(tmp_path, {"1.png": 10, "sub/1.png": 20})
    (tmp_path / "sub" / "notes.txt").touch()
    with pytest.warns(UserWarning, match=r"1 file is not read \(sub/notes.txt\); pictures are .png, .*, .webp") as said:
        assert grays(load_images(tmp_path, SHAPE, RANGE)) == [10, 20]
    assert len(said) == 1
    (tmp_path / "1.png").rename(tmp_path / "sub" / "2.png")
    for number in (1, 2, 3, 11):
        (tmp_path / f"{number}.heic").touch()
    with pytest.warns(UserWarning, match=r"5 files are not read \(1.heic, 2.heic, 3.heic, ...\)") as said:
        assert len(load_image_data(tmp_path, test_share=0).train) == 2
    assert len(said) == 1


def test_a_link_back_to_its_folder_ends(tmp_path):
    save_gray(tmp_path, {"in/1.png": 10})
    save_gray(tmp_path / "elsewhere", {"2.png": 20})
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    assert grays(load_images(tmp_path / "in", SHAPE, RANGE)) == [10, 20]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    save_gray(tmp_path, {"1.png": 10, "closed/2.png": 20})
    (tmp_path / "closed").chmod(0)
    with pytest.raises(PermissionError, match="closed"):
        load_images(tmp_path, SHAPE, RANGE)
    (tmp_path / "closed").chmod(0o700)


def test_what_does_not_fit_is_named(tmp_path):
    def fails(name: str, message: str, shape=SHAPE, error=ValueError) -> None:
        with pytest.raises(error, match=message):
            load_images(tmp_path / name, shape, RANGE)

    fails("nowhere.png", "no image file or folder at", error=FileNotFoundError)
    (tmp_path / "empty").mkdir()
    fails("empty", r"empty contains no picture \(.*\.webp, .*\)$", error=FileNotFoundError)
    (tmp_path / "empty" / "1.heic").touch()
    fails("empty", "empty contains no picture .*, only 1.heic", error=FileNotFoundError)
    with pytest.raises(FileNotFoundError, match=r"empty contains nothing to read: .*; only 1.heic"):
        load_image_data(tmp_path / "empty")
    Image.fromarray(np.zeros((28, 27), np.uint8)).save(tmp_path / "narrow.png")
    fails("narrow.png", "narrow.png is 27 x 28 pixels, but the generator makes 4 x 6")
    fails("narrow.png", "2 channels, but a picture has 1", shape=(2, 28, 27))
    fails("narrow.png", r"events have shape \(2,\), which is not an image", shape=(2,))
    (tmp_path / "corrupt.png").write_bytes((tmp_path / "narrow.png").read_bytes()[:30])
    fails("corrupt.png", "corrupt.png is not a picture that can be read")
    (tmp_path / "text.webp").write_text("this is no picture")
    fails("text.webp", "text.webp is not a picture that can be read")
    (tmp_path / "nothing.jpg").touch()
    fails("nothing.jpg", "nothing.jpg is empty")
    (tmp_path / "text.txt").touch()
    fails("text.txt", "unknown kind of file")
    np.save(tmp_path / "wrong.npy", np.zeros((2, 7, 4), np.float32))
    fails("wrong.npy", r"shape \(2, 7, 4\), expected \(item, 1, 6, 4\)")
    np.save(tmp_path / "pickled.npy", np.array([{}], object))
    fails("pickled.npy", "pickled objects are not read")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 no more")
    fails("torn.npz", "torn.npz cannot be read")
    np.savez(tmp_path / "unnamed.npz", a=np.zeros(2), b=np.zeros(2))
    fails("unnamed.npz", "contains the arrays a, b: one of them must be called images")


def test_a_corrupt_picture_among_thousands_is_named(tmp_path):
    good = io.BytesIO()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(good, "png")
    for number in range(2100):
        (tmp_path / f"{number:04}.png").write_bytes(good.getvalue())
    assert len(image_files.read_pictures(sorted(tmp_path.iterdir()))) == 2100
    (tmp_path / "1500.png").write_bytes(good.getvalue()[:40])
    with pytest.raises(ValueError, match=r"1500.png is not a picture that can be read"):
        load_image_data(tmp_path)
    (tmp_path / "1400.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1400.png is empty"):
        load_image_data(tmp_path)


def test_no_pictures_are_refused():
    with pytest.raises(ValueError, match="no pictures to read"):
        image_files.read_pictures([])
