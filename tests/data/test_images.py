from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.data.images import read_image, read_label, read_size
from cliptrase_d2.utils.errors import InputError

ORIENTATION = 0x0112  # EXIF tag
TURN_RIGHT = 6  # shown after a quarter turn clockwise


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def grey_png(path: Path, values: list[list[int]], bits: int) -> Path:
    """Write grey values of fewer than 8 bits, which Pillow itself does not write."""
    rows = b""
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row).ljust(8, "0")
        rows += b"\0" + int(text, 2).to_bytes(1, "big")

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", len(values[0]), len(values), bits, 0, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    path.write_bytes(signature + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    read = read_image(save(tmp_path / "a.png", Image.fromarray(pixels)))
    assert read.dtype == np.uint8
    assert np.array_equal(read, pixels)
    assert read.flags.writeable


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    read = read_image(save(tmp_path / "a.png", Image.fromarray(np.array([[0, 77]], dtype=np.uint8))))
    assert read.tolist() == [[[0, 0, 0], [77, 77, 77]]]


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    pixels = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    for name in ("a.png", "a.tif"):
        read = read_image(save(tmp_path / name, Image.fromarray(pixels)))
        assert read[0, :, 0].tolist() == [0, 1, 128, 255]
        assert read.shape == (1, 4, 3)


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="L").convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    path = save(tmp_path / "a.png", image, transparency=b"\x00\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_alpha_is_dropped(tmp_path: Path) -> None:
    pixels = np.array([[[9, 8, 7, 0], [6, 5, 4, 255]]], dtype=np.uint8)
    assert read_image(save(tmp_path / "a.png", Image.fromarray(pixels))).tolist() == [[[9, 8, 7], [6, 5, 4]]]


def test_grey_with_alpha(tmp_path: Path) -> None:
    image = Image.merge("LA", [Image.new("L", (1, 1), 33), Image.new("L", (1, 1), 0)])
    assert read_image(save(tmp_path / "a.png", image)).tolist() == [[[33, 33, 33]]]


def test_cmyk(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 0)), quality=95)
    assert (read_image(path) > 250).all()


def test_black_and_white(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(np.array([[False, True]])))
    assert read_image(path)[0, :, 0].tolist() == [0, 255]


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 3), dtype=np.uint8)
    pixels[0, 0] = 200  # top left as stored, top right as shown
    exif = Image.Exif()
    exif[ORIENTATION] = TURN_RIGHT
    read = read_image(save(tmp_path / "a.png", Image.fromarray(pixels), exif=exif))
    assert read.shape == (3, 2, 3)
    assert read[0, 1].tolist() == [200, 200, 200]


def test_exif_rotation_of_sixteen_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = TURN_RIGHT
    image = Image.fromarray(np.array([[65535, 0, 0], [0, 0, 0]], dtype=np.uint16))
    read = read_image(save(tmp_path / "a.png", image, exif=exif))
    assert read[..., 0].tolist() == [[0, 255], [0, 0], [0, 0]]


def test_floating_point_image(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.fromarray(np.array([[0.5]], dtype=np.float32)))
    with pytest.raises(InputError, match="floating point"):
        read_image(path)


def test_image_of_32_bits(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.fromarray(np.array([[70000]], dtype=np.int32)))
    with pytest.raises(InputError, match="32 bits"):
        read_image(path)


@pytest.mark.parametrize("read", [read_image, read_label, read_size])
def test_missing_file(tmp_path: Path, read: object) -> None:
    with pytest.raises(InputError, match=r"none\.png: no such file"):
        read(tmp_path / "none.png")  # type: ignore[operator]


@pytest.mark.parametrize("read", [read_image, read_label, read_size])
@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n"])
def test_broken_file(tmp_path: Path, read: object, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.png: unreadable"):
        read(path)  # type: ignore[operator]


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_truncated_file(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=f"a.{suffix}: unreadable"):
        read_image(path)


def test_truncated_label(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 20, (64, 64)).astype(np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(InputError, match="unreadable"):
        read_label(path)


def test_bytes_changed_at_random_give_an_image_or_an_input_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 255, (16, 16, 3)).astype(np.uint8))
    outcomes = set()
    for suffix in ("png", "jpg", "webp"):  # a broken TIFF header may ask for gigabytes
        path = save(tmp_path / f"a.{suffix}", image)
        good = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        for _ in range(50):
            bad = good.copy()
            bad[random.integers(0, len(bad), 8)] = random.integers(0, 255, 8)
            path.write_bytes(bad.tobytes())
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    outcomes.add(read_image(path).shape[2:])
            except InputError:
                outcomes.add("refused")
    assert outcomes == {(3,), "refused"}


def test_size_is_read_without_the_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.new("L", (3000, 100)))
    path.write_bytes(path.read_bytes()[:60])  # the header and a little more
    assert read_size(path) == (3000, 100)


def test_size_is_read_of_the_formats_that_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.new("L", (3, 2)))
    assert read_size(path, ("TIFF",)) == (3, 2)
    with pytest.raises(InputError, match="another kind of file"):
        read_size(path, ("PNG",))


def test_folder_in_place_of_an_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unreadable"):
        read_image(tmp_path)


def test_palette_label_is_read_as_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [20, 255]], dtype=np.uint8), mode="L").convert("P")
    image.putdata([0, 1, 20, 255])
    image.putpalette([200 - i % 200 for i in range(768)])
    read = read_label(save(tmp_path / "a.png", image))
    assert read.dtype == np.int32
    assert read.tolist() == [[0, 1], [20, 255]]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_label_depths(tmp_path: Path, kind: type) -> None:
    values = np.array([[0, 5], [np.iinfo(kind).max, 7]], dtype=kind)
    read = read_label(save(tmp_path / "a.tif", Image.fromarray(values)))
    assert read.tolist() == values.tolist()


def test_sixteen_bit_png_label(tmp_path: Path) -> None:
    values = np.array([[846, 65535]], dtype=np.uint16)
    assert read_label(save(tmp_path / "a.png", Image.fromarray(values))).tolist() == [[846, 65535]]


def test_big_endian_label(tmp_path: Path) -> None:
    image = Image.frombytes("I;16B", (2, 1), b"\x03\x4e\x00\x01")
    assert read_label(save(tmp_path / "a.tif", image)).tolist() == [[846, 1]]


def test_two_valued_label(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(np.array([[False, True]])))
    assert read_label(path).tolist() == [[0, 1]]


@pytest.mark.parametrize(("bits", "values"), [(1, [[0, 1]]), (2, [[0, 3], [2, 1]]), (4, [[15, 0], [7, 11]])])
def test_grey_label_of_few_bits_is_not_stretched(tmp_path: Path, bits: int, values: list[list[int]]) -> None:
    assert read_label(grey_png(tmp_path / "a.png", values, bits)).tolist() == values


def test_colour_label(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.new("RGB", (2, 2), (3, 3, 3)))
    with pytest.raises(InputError, match="mode RGB"):
        read_label(path)


def test_floating_point_label(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.fromarray(np.array([[1.0]], dtype=np.float32)))
    with pytest.raises(InputError, match="mode F"):
        read_label(path)
