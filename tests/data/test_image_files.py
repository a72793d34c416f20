"""What is looked at before an image is decoded: its format, its size, and whether all of it is there."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from cliptrase_d2.data.image_files import MAX_PIXELS, check_bound, check_pixels
from cliptrase_d2.data.images import read_image, read_label, read_size
from cliptrase_d2.utils.errors import InputError


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, *, interlaced: int = 0, level: int = 6) -> bytes:
    """A PNG file of 8 bit grey; every row has the number of its filter in front."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows, level)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_more_pixels_than_allowed_are_not_decoded(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", Image.new("RGB", (300, 10)))
    assert read_image(path, 3000).shape == (10, 300, 3)
    if suffix != "webp":  # whose reader wants the whole file for the header
        path.write_bytes(path.read_bytes()[:-20])  # to decode it would fail otherwise
    with pytest.raises(InputError, match=r"300 x 10 = 3,000 pixels. Allowed: at most 2,999 pixels.*INPUT.MAX_PIXELS"):
        read_image(path, 2999)


def test_more_label_pixels_than_allowed_are_not_decoded(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.new("L", (30, 10)))
    assert read_label(path, 300).shape == (10, 30)
    with pytest.raises(InputError, match="at most 299 pixels"):
        read_label(path, 299)


@pytest.mark.parametrize(("max_pixels", "is_read"), [(0, True), (1000, True), (999, False)])
def test_the_bound_is_the_callers_and_not_that_of_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_pixels: int, is_read: bool
) -> None:
    path = save(tmp_path / "a.png", Image.new("L", (100, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own bound warns
        assert read_size(path) == (100, 10)
        if is_read:
            assert read_image(path, max_pixels).shape == (10, 100, 3)
        else:
            with pytest.raises(InputError, match="at most 999 pixels"):
                read_image(path, max_pixels)


def test_the_default_takes_cameras_of_100_megapixels_and_no_bomb() -> None:
    check_pixels((11648, 8736), MAX_PIXELS, "camera")
    with pytest.raises(InputError, match="bomb: 50,000 x 50,000 = 2,500,000,000 pixels"):
        check_pixels((50_000, 50_000), MAX_PIXELS, "bomb")


def test_a_bound_below_zero_is_refused() -> None:
    with pytest.raises(InputError, match=r"INPUT.MAX_PIXELS: -1. Allowed: .* 0 for no bound"):
        check_bound(-1)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_a_bomb_of_text_or_of_a_colour_profile(tmp_path: Path, kind: bytes) -> None:
    path = save(tmp_path / "a.png", Image.new("L", (8, 8)))
    whole = path.read_bytes()
    bomb = chunk(kind, b"profile\0\0" + zlib.compress(bytes(100 * 2**20)))  # 100 MB, of which the file has 100 kB
    path.write_bytes(whole[:33] + bomb + whole[33:])  # behind the header
    with pytest.raises(InputError, match=r"unreadable .*Decompressed data too large"):
        read_image(path)


@pytest.mark.parametrize("read", [read_image, read_label])
def test_a_bit_that_fell_over_in_a_png_is_noticed(tmp_path: Path, read: object) -> None:
    whole = bytearray(png(4, 1, b"\0\1\2\3\4", level=0))  # stored as it is
    whole[whole.index(b"\1\2\3\4")] ^= 1
    (tmp_path / "a.png").write_bytes(whole)
    with pytest.raises(InputError, match="another checksum"):
        read(tmp_path / "a.png")  # type: ignore[operator]


def test_rows_that_a_png_lacks_are_not_class_0(tmp_path: Path) -> None:
    row = b"\0" + bytes([5] * 4)  # after the number of its filter
    (tmp_path / "a.png").write_bytes(png(4, 3, 3 * row))
    assert read_label(tmp_path / "a.png").tolist() == [[5] * 4] * 3
    (tmp_path / "a.png").write_bytes(png(4, 3, 2 * row))
    with pytest.raises(InputError, match="not all of its rows"):
        read_label(tmp_path / "a.png")


@pytest.mark.parametrize(("missing", "is_whole"), [(0, True), (1, False)])
def test_an_interlaced_png_is_counted_pass_by_pass(tmp_path: Path, missing: int, is_whole: bool) -> None:
    # 5x5, by the standard: 1x1, 1x1, 2x1, 1x2, 3x1 -> but pass 6 has 2x3 and pass 7 5x2, each row behind its filter.
    rows = [(1, 1), (1, 1), (2, 1), (1, 2), (3, 1), (2, 3), (5, 2)]
    raw = b"".join(count * (b"\0" + bytes([7] * width)) for width, count in rows)
    (tmp_path / "a.png").write_bytes(png(5, 5, raw[: len(raw) - missing], interlaced=1))
    if is_whole:
        assert read_label(tmp_path / "a.png").tolist() == [[7] * 5] * 5
    else:
        with pytest.raises(InputError, match="not all of its rows"):
            read_label(tmp_path / "a.png")


def test_strips_that_a_tiff_lacks_are_not_class_0(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.fromarray(np.full((4, 4), 5, np.uint8)))
    whole = bytearray(path.read_bytes())
    rows_per_strip = struct.pack("<HHII", 278, 4, 1, 4)
    place = whole.index(rows_per_strip)
    whole[place : place + 12] = struct.pack("<HHII", 278, 4, 1, 2)  # one strip, which now is of two rows
    path.write_bytes(whole)
    with pytest.raises(InputError, match="not all of its rows"):
        read_label(path)


def test_a_label_file_of_several_pictures(tmp_path: Path) -> None:
    page = Image.new("L", (4, 4), 1)
    several = save(tmp_path / "a.tif", page, save_all=True, append_images=[page])
    with pytest.raises(InputError, match="a label file of several pictures"):
        read_label(several)
    previewed = save(tmp_path / "b.tif", page, save_all=True, append_images=[page.resize((2, 2))])
    assert read_label(previewed).tolist() == [[1] * 4] * 4


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp"])
def test_of_several_pictures_the_first_is_the_photograph(tmp_path: Path, suffix: str) -> None:
    pages = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    path = save(tmp_path / f"a.{suffix}", pages[0], save_all=True, append_images=pages[1:], lossless=True)
    assert read_image(path)[0, 0].tolist() == [255, 0, 0]


def test_a_label_file_that_is_a_jpeg_inside(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 3).save(tmp_path / "a.png", "JPEG")
    with pytest.raises(InputError, match=r"another kind of file.*Allowed: a whole image file: PNG, TIFF"):
        read_label(tmp_path / "a.png")
    with pytest.raises(InputError, match="a compression that changes values"):
        read_label(save(tmp_path / "a.tif", Image.new("L", (8, 8), 3), compression="jpeg"))


def test_a_label_file_that_counts_from_white_to_black(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.new("L", (2, 2), 3))
    whole = path.read_bytes()
    black_is_zero, white_is_zero = (struct.pack("<HHIHH", 262, 3, 1, value, 0) for value in (1, 0))
    path.write_bytes(whole.replace(black_is_zero, white_is_zero))
    with pytest.raises(InputError, match="count from white to black"):
        read_label(path)


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"qoif"])
def test_formats_that_run_programs_or_are_rare_are_not_opened(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content + bytes(100))
    with pytest.raises(InputError, match="another kind of file"):
        read_image(tmp_path / "a.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match="a pipe or a device"):
        read_image(tmp_path / "a.png")


@given(arrays(st.sampled_from([np.uint8, np.uint16]), st.tuples(st.integers(1, 9), st.integers(1, 9))), st.booleans())
def test_labels_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray, tiff: bool
) -> None:
    path = tmp_path_factory.mktemp("labels") / ("a.tif" if tiff else "a.png")
    assert np.array_equal(read_label(save(path, Image.fromarray(labels))), labels)


@given(st.data())
def test_a_png_of_labels_with_any_byte_changed_is_the_same_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("labels") / "a.png"
    labels = np.arange(24, dtype=np.uint8).reshape(4, 6) % 7
    whole = bytearray(save(path, Image.fromarray(labels)).read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    with suppress(InputError):
        assert np.array_equal(read_label(path), labels)
