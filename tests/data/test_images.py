import os
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cliptrase_d2.data.images import MAX_PIXELS, check_bound, check_pixels, read_image
from cliptrase_d2.data.label_files import read_label
from cliptrase_d2.data.rasters import has_rasterio
from cliptrase_d2.utils.errors import InputError

READERS = [read_image, read_label]
ORIENTATION, ROTATED_RIGHT = 0x0112, 6  # EXIF tag; value of an image that is displayed after a quarter turn clockwise


def save(path: Path, image: Image.Image | np.ndarray, **options: Any) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, *, bits: int = 8, interlaced: int = 0, level: int = 6) -> bytes:
    """Return a grey PNG file. Each row starts with a byte for its filter."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows, level)) + chunk(b"IEND", b"")


def write_tiff(
    path: Path, values: np.ndarray, photometric: int, *, separate: bool, order: str, extra: Sequence[int] = ()
) -> Path:
    """Write [H,W,C] as an uncompressed TIFF with one strip, or one for each channel.

    Args:
        extra: meaning of each channel beyond those of the photometric interpretation: 0 unknown, 2 alpha.
    """
    height, width, channels = values.shape
    bits = 8 * values.itemsize
    planes = values.transpose(2, 0, 1) if separate else values[None]
    strips = [plane.astype(values.dtype.newbyteorder(order)).tobytes() for plane in planes]
    pixels = b"".join(strips)
    position, starts = 8 + len(pixels), [8 + index * len(strips[0]) for index in range(len(strips))]
    tags = {
        **{256: [width], 257: [height], 258: [bits] * channels, 259: [1], 262: [photometric], 273: starts},
        **{277: [channels], 278: [height], 279: [len(strip) for strip in strips], 284: [2 if separate else 1]},
    }
    tags |= {338: list(extra)} if extra else {}
    tags |= {339: [{"u": 1, "i": 2, "f": 3}[values.dtype.kind]] * channels} if values.dtype.kind != "u" else {}
    entries, rest = b"", b""
    place = position + 2 + 12 * len(tags) + 4
    for tag, numbers in tags.items():
        data = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(data) > 4:
            data, rest = struct.pack(f"{order}I", place + len(rest)), rest + data
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + data
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + rest
    mark = b"II" if order == "<" else b"MM"
    path.write_bytes(mark + struct.pack(f"{order}HI", 42, position) + pixels + directory)
    return path


def make_palette_image(indices: list[list[int]], colours: list[int]) -> Image.Image:
    image = Image.fromarray(np.array(indices, dtype=np.uint8), mode="L").convert("P")
    image.putdata([index for row in indices for index in row])
    image.putpalette(colours)
    return image


def change_bytes(path: Path, data: st.DataObject, count: int) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(count):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)


def rotate_right() -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = ROTATED_RIGHT
    return exif


def test_rgb_is_read_unchanged_and_writable(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    image = read_image(save(tmp_path / "a.png", pixels))
    assert image.dtype == np.uint8
    assert np.array_equal(image, pixels)
    assert image.flags.writeable


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(np.array([[0, 77]], dtype=np.uint8)), [[0, 0, 0], [77, 77, 77]]),
        (Image.fromarray(np.array([[[9, 8, 7, 0], [6, 5, 4, 255]]], dtype=np.uint8)), [[9, 8, 7], [6, 5, 4]]),
        (Image.merge("LA", [Image.new("L", (1, 1), 33), Image.new("L", (1, 1), 0)]), [[33, 33, 33]]),
        (Image.fromarray(np.array([[False, True]])), [[0, 0, 0], [255, 255, 255]]),
    ],
    ids=["grey", "alpha", "grey with alpha", "black and white"],
)
def test_every_colour_mode_becomes_rgb(tmp_path: Path, image: Image.Image, expected: list[list[int]]) -> None:
    assert read_image(save(tmp_path / "a.png", image))[0].tolist() == expected


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, name: str) -> None:
    image = read_image(save(tmp_path / name, np.array([[0, 257, 32896, 65535]], dtype=np.uint16)))
    assert image[0, :, 0].tolist() == [0, 1, 128, 255]
    assert image.shape == (1, 4, 3)


def test_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", make_palette_image([[0, 1]], [10, 20, 30, 40, 50, 60]), transparency=b"\x00\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_cmyk(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 0)), quality=95)
    assert (read_image(path) > 250).all()


@pytest.mark.parametrize(("kind", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_exif_rotation_is_applied(tmp_path: Path, kind: type, white: int) -> None:
    pixels = np.array([[white, 0, 0], [0, 0, 0]], dtype=kind)  # the first pixel is displayed at the top right
    image = read_image(save(tmp_path / "a.png", pixels, exif=rotate_right()))
    assert image[..., 0].tolist() == [[0, 255], [0, 0], [0, 0]]


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp"])
def test_first_of_several_images_is_the_photograph(tmp_path: Path, suffix: str) -> None:
    pages = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    path = save(tmp_path / f"a.{suffix}", pages[0], save_all=True, append_images=pages[1:], lossless=True)
    assert read_image(path)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_labels_that_count_from_white_are_rejected(tmp_path: Path, order: str) -> None:
    values = np.full((4, 4, 1), 65535 - 3, np.uint16)
    with pytest.raises(InputError, match=r"a\.tif"):
        read_label(write_tiff(tmp_path / "a.tif", values, 0, separate=False, order=order))
    with pytest.raises(InputError, match=r"a\.tif"):
        read_label(write_tiff(tmp_path / "a.tif", values.repeat(3, 2), 2, separate=True, order=order))


@pytest.mark.parametrize("value", [np.float32(0.5), np.int32(70000)])
def test_values_without_a_range_are_rejected(tmp_path: Path, value: np.generic) -> None:
    match = rf"{value:g} to {value:g}.*stretch" if has_rasterio() else r"a\.tif: .*32-bit"
    with pytest.raises(InputError, match=match):
        read_image(save(tmp_path / "a.tif", np.full((1, 1), value)))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("content", "match"),
    [(None, "no such file"), *((content, "unreadable") for content in (b"", b"no image", b"\x89PNG\r\n\x1a\n"))],
)
def test_missing_and_broken_files(
    tmp_path: Path, read: Callable[[Path], object], content: bytes | None, match: str
) -> None:
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.png: {match}"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"qoif"])
def test_formats_that_run_programs_or_are_rare_are_not_opened(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content + bytes(100))
    with pytest.raises(InputError, match=r"a\.png: unreadable.*Allowed: JPEG, PNG"):
        read_image(tmp_path / "a.png")


def test_folder_and_pipe_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path, tmp_path / "pipe.png"):
        with pytest.raises(InputError, match="unreadable"):
            read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_truncated_file(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=rf"a\.{suffix}: unreadable"):
        read_image(path)


@pytest.mark.parametrize(
    ("read", "suffix"),
    [*((read_image, suffix) for suffix in ("png", "jpg", "tif", "webp")), (read_label, "png"), (read_label, "tif")],
)
def test_image_above_the_limit_is_not_decoded(tmp_path: Path, read: Callable[..., np.ndarray], suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", Image.new("RGB" if read is read_image else "L", (300, 10)))
    assert read(path, 3000).shape[:2] == (10, 300)
    if suffix != "webp":  # the header of a truncated WebP cannot be read
        path.write_bytes(path.read_bytes()[:-20])  # decoding would fail
    with pytest.raises(InputError, match=r"300 x 10 = 3,000 pixels.*2,999.*INPUT\.MAX_PIXELS"):
        read(path, 2999)


@pytest.mark.parametrize("max_pixels", [0, 1000])
def test_limit_of_pillow_has_no_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_pixels: int) -> None:
    path = save(tmp_path / "a.png", Image.new("L", (100, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow warns about its own limit
        assert read_image(path, max_pixels).shape == (10, 100, 3)


def test_default_limit_accepts_100_megapixels_and_no_bomb() -> None:
    check_pixels((11648, 8736), MAX_PIXELS, "camera")
    with pytest.raises(InputError, match="bomb: 50,000 x 50,000 = 2,500,000,000 pixels"):
        check_pixels((50_000, 50_000), MAX_PIXELS, "bomb")
    with pytest.raises(InputError, match="empty: 0 x 5 pixels"):
        check_pixels((0, 5), MAX_PIXELS, "empty")
    with pytest.raises(InputError, match="max_pixels: -1"):
        check_bound(-1)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_bomb_of_text_or_of_a_colour_profile(tmp_path: Path, kind: bytes) -> None:
    path = save(tmp_path / "a.png", Image.new("L", (8, 8)))
    content = path.read_bytes()
    bomb = chunk(kind, b"profile\0\0" + zlib.compress(bytes(100 * 2**20)))  # 100 MB, compressed to 100 kB
    path.write_bytes(content[:33] + bomb + content[33:])  # after the header
    with pytest.raises(InputError, match=r"unreadable .*Decompressed data too large"):
        read_image(path)


@pytest.mark.parametrize("read", READERS)
def test_flipped_bit_in_a_png_is_noticed(tmp_path: Path, read: Callable[[Path], object]) -> None:
    content = bytearray(png(4, 1, b"\0\1\2\3\4", level=0))  # not compressed
    content[content.index(b"\1\2\3\4")] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png: unreadable"):
        read(tmp_path / "a.png")


def test_missing_rows_of_a_png_are_not_class_0(tmp_path: Path) -> None:
    row = b"\0" + bytes([5] * 4)
    (tmp_path / "a.png").write_bytes(png(4, 3, 3 * row))
    assert read_label(tmp_path / "a.png").tolist() == [[5] * 4] * 3
    (tmp_path / "a.png").write_bytes(png(4, 3, 2 * row))
    with pytest.raises(InputError, match="rows"):
        read_label(tmp_path / "a.png")


def test_rows_of_an_interlaced_png_are_counted_in_each_pass(tmp_path: Path) -> None:
    # (rows, columns) of the seven passes of a 5x5 image, by the PNG standard.
    passes = [(1, 1), (1, 1), (1, 2), (2, 1), (1, 3), (3, 2), (2, 5)]
    content = b"".join(rows * (b"\0" + bytes([7] * columns)) for rows, columns in passes)
    (tmp_path / "a.png").write_bytes(png(5, 5, content, interlaced=1))
    assert read_label(tmp_path / "a.png").tolist() == [[7] * 5] * 5
    (tmp_path / "a.png").write_bytes(png(5, 5, content[:-1], interlaced=1))
    with pytest.raises(InputError, match="rows"):
        read_label(tmp_path / "a.png")


def test_missing_strips_of_a_tiff_are_not_class_0(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", np.full((4, 4), 5, np.uint8))
    content = path.read_bytes()
    rows_per_strip, fewer = struct.pack("<HHII", 278, 4, 1, 4), struct.pack("<HHII", 278, 4, 1, 2)
    assert rows_per_strip in content
    path.write_bytes(content.replace(rows_per_strip, fewer))  # the only strip now has two rows
    with pytest.raises(InputError, match="rows"):
        read_label(path)


def test_label_file_with_several_images_is_rejected_and_a_preview_is_not(tmp_path: Path) -> None:
    page = Image.new("L", (4, 4), 1)
    with pytest.raises(InputError, match=r"a\.tif: several images"):
        read_label(save(tmp_path / "a.tif", page, save_all=True, append_images=[page]))
    path = save(tmp_path / "b.tif", page, save_all=True, append_images=[page.resize((2, 2))])
    assert read_label(path).tolist() == [[1] * 4] * 4


def test_lossy_label_file_is_rejected(tmp_path: Path) -> None:
    image = Image.new("L", (8, 8), 3)
    with pytest.raises(InputError, match="Allowed: PNG, TIFF"):
        read_label(save(tmp_path / "a.png", image, format="JPEG"))
    with pytest.raises(InputError, match="lossy compression"):
        read_label(save(tmp_path / "a.tif", image, compression="jpeg"))


def test_label_file_that_counts_from_white_to_black_is_rejected(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.new("L", (2, 2), 3))
    black_is_zero, white_is_zero = (struct.pack("<HHIHH", 262, 3, 1, value, 0) for value in (1, 0))
    path.write_bytes(path.read_bytes().replace(black_is_zero, white_is_zero))
    with pytest.raises(InputError, match="white to black"):
        read_label(path)


def test_label_file_with_other_colours_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mode CMYK"):
        read_label(save(tmp_path / "a.tif", Image.new("CMYK", (2, 2))))


def test_labels_in_a_palette_are_its_indices(tmp_path: Path) -> None:
    image = make_palette_image([[0, 1], [20, 255]], [200 - i % 200 for i in range(768)])
    labels = read_label(save(tmp_path / "a.png", image))
    assert labels.dtype == np.int32
    assert labels.tolist() == [[0, 1], [20, 255]]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_label_depths(tmp_path: Path, name: str, kind: type) -> None:
    values = np.array([[0, 5], [np.iinfo(kind).max, 7]], dtype=kind)
    if kind is not np.int32 or name == "a.tif":  # PNG has at most 16 bits
        assert read_label(save(tmp_path / name, values)).tolist() == values.tolist()


def test_big_endian_and_two_valued_labels(tmp_path: Path) -> None:
    image = Image.frombytes("I;16B", (2, 1), b"\x03\x4e\x00\x01")
    assert read_label(save(tmp_path / "a.tif", image)).tolist() == [[846, 1]]
    assert read_label(save(tmp_path / "a.png", np.array([[False, True]]))).tolist() == [[0, 1]]


@pytest.mark.parametrize(("bits", "values"), [(1, [[0, 1]]), (2, [[0, 3], [2, 1]]), (4, [[15, 0], [7, 11]])])
def test_grey_labels_of_few_bits_are_not_stretched(tmp_path: Path, bits: int, values: list[list[int]]) -> None:
    rows = [int("".join(f"{value:0{bits}b}" for value in row).ljust(8, "0"), 2) for row in values]
    content = b"".join(bytes([0, row]) for row in rows)
    (tmp_path / "a.png").write_bytes(png(len(values[0]), len(values), content, bits=bits))
    assert read_label(tmp_path / "a.png").tolist() == values


@given(st.data(), st.sampled_from(["png", "jpg", "webp"]))  # a broken TIFF header may request gigabytes
def test_photographs_with_changed_bytes_are_read_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, suffix: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    path = save(tmp_path_factory.mktemp("images") / f"a.{suffix}", pixels)
    change_bytes(path, data, count=8)
    with suppress(InputError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_image(path).shape[2] == 3


@given(st.data())
def test_png_labels_with_a_changed_byte_are_the_same_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    labels = np.arange(24, dtype=np.uint8).reshape(4, 6) % 7
    path = save(tmp_path_factory.mktemp("labels") / "a.png", labels)
    change_bytes(path, data, count=1)
    with suppress(InputError):
        assert np.array_equal(read_label(path), labels)
