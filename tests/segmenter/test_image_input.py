"""What may be called an image, and what may not."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from cliptrase_d2.segmenter.image_input import ImageLike, rgb_pixels, several_images
from cliptrase_d2.utils.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
CHANNELS_FIRST = torch.from_numpy(PIXELS).permute(2, 0, 1)
ORIENTATION, TURN_RIGHT = 0x0112, 6


@pytest.mark.parametrize("grey", [PIXELS[..., 0], CHANNELS_FIRST[:1]], ids=["array", "tensor"])
def test_grey_is_rgb_of_equal_channels(grey: ImageLike) -> None:
    np.testing.assert_array_equal(rgb_pixels(grey, "image"), np.stack([PIXELS[..., 0]] * 3, axis=2))


def test_alpha_is_dropped() -> None:
    transparent = np.concatenate([PIXELS, np.zeros((50, 70, 1), np.uint8)], axis=2)
    tensor = torch.from_numpy(transparent).permute(2, 0, 1)
    for image in (transparent, Image.fromarray(transparent), tensor):
        np.testing.assert_array_equal(rgb_pixels(image, "image"), PIXELS)


def test_a_file_and_a_pil_image_are_measured_before_they_are_decoded(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", Image.open(tmp_path / "a.png")):
        with pytest.raises(InputError, match=r"70 x 50 = 3,500 pixels. Allowed: at most 3,499 pixels"):
            rgb_pixels(image, "image", max_pixels=3499)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(rgb_pixels(image, "image", max_pixels=3500), PIXELS)
    assert rgb_pixels(PIXELS, "image", max_pixels=1) is not None  # an array is decoded already


NUMBERS = st.sampled_from([np.uint8, np.int8, np.uint16, np.int64, np.float32, np.bool_, np.complex64])


@given(arrays(NUMBERS, st.lists(st.integers(0, 4), max_size=4).map(tuple)), st.booleans())
def test_any_array_or_tensor_is_an_image_or_refused(array: np.ndarray, as_tensor: bool) -> None:
    if as_tensor and array.dtype == np.uint16:
        array = array.astype(np.int32)
    with suppress(InputError):
        pixels = rgb_pixels(torch.from_numpy(array) if as_tensor else array, "image")
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (3,)
        assert pixels.size
        assert array.dtype == np.uint8


@pytest.mark.parametrize("size", [(2, 3), (1, 1), (0, 3), (2, 0)])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "I;16"])
def test_a_pil_image_of_any_mode_is_an_image_or_refused(mode: str, size: tuple[int, int]) -> None:
    image = Image.new(mode, size)
    if mode == "F" or 0 in size:
        with pytest.raises(
            InputError, match="floating point" if mode == "F" and 0 not in size else "at least one pixel"
        ):
            rgb_pixels(image, "image")
    else:
        pixels = rgb_pixels(image, "image")
        assert (pixels.dtype, pixels.shape) == (np.uint8, (size[1], size[0], 3))


def test_a_tensor_has_its_channels_first() -> None:
    np.testing.assert_array_equal(rgb_pixels(CHANNELS_FIRST, "image"), PIXELS)


def test_a_tensor_of_three_rows_is_not_taken_for_one_of_three_channels() -> None:
    tensor = torch.arange(9 * 5, dtype=torch.uint8).view(3, 3, 5)
    assert rgb_pixels(tensor, "image")[2, 4].tolist() == [14, 29, 44]  # the last of each channel of 15


def test_an_open_image_is_turned_by_its_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = TURN_RIGHT
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(rgb_pixels(image, "image"), np.rot90(PIXELS, -1))


def test_an_array_that_lies_in_memory_another_way_is_read_right() -> None:
    np.testing.assert_array_equal(rgb_pixels(PIXELS[::-1, ::2], "image"), PIXELS[::-1, ::2])


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (PIXELS / 255.0, "an array of float64 from 0 to 1"),
        (PIXELS.astype(np.int64), "an array of int64 from 0 to 255"),
        (PIXELS > 127, "an array of bool"),
        (PIXELS.transpose(2, 0, 1), "shape [3, 50, 70]"),
        (PIXELS[None], "shape [1, 50, 70, 3]"),
        (PIXELS[..., :2], "shape [50, 70, 2]"),
        (PIXELS[:0], "shape [0, 70, 3]"),
        (CHANNELS_FIRST / 255, "a tensor of float32 from 0 to 1"),
        (CHANNELS_FIRST.bfloat16(), "a tensor of bfloat16 from 0 to 255"),
        (torch.from_numpy(PIXELS), "a tensor of shape [50, 70, 3]"),
        (CHANNELS_FIRST[None], "a tensor of shape [1, 3, 50, 70]"),
        (CHANNELS_FIRST[0], "a tensor of shape [50, 70]"),
        (None, "a NoneType"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(image: ImageLike, got: str) -> None:
    with pytest.raises(InputError) as caught:
        rgb_pixels(image, "images[3]")
    assert str(caught.value).startswith(f"images[3]: {got}" if got.startswith("a") else "images[3]: a")
    assert got in str(caught.value)
    assert "uint8 array [H,W]" in str(caught.value)


def test_a_float_image_is_told_how_to_become_one() -> None:
    with pytest.raises(InputError, match=r"\(array \* 255\)"):
        rgb_pixels(PIXELS / np.float32(255), "image")
    with pytest.raises(InputError, match=r"\(tensor \* 255\)"):
        rgb_pixels(CHANNELS_FIRST / 255, "image")


def test_a_truncated_open_image_is_refused(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "whole.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with Image.open(tmp_path / "a.png") as image, pytest.raises(InputError, match="truncated"):
        rgb_pixels(image, "image")


@pytest.mark.parametrize("one", ["a.png", Path("a.png"), Image.new("RGB", (2, 2)), PIXELS, CHANNELS_FIRST])
def test_one_image_is_not_taken_for_several(one: ImageLike) -> None:
    with pytest.raises(InputError, match=r"^images: a single .* Put it in a list"):
        several_images(one)  # type: ignore[arg-type]  # which is what happens


@pytest.mark.parametrize("several", [[], ["a.png"], (name for name in ("a", "b")), PIXELS[None], CHANNELS_FIRST[None]])
def test_several_images_are(several: list[ImageLike]) -> None:
    assert several_images(several) is several
