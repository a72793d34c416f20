"""Supported images, their conversion to RGB, and rejected inputs."""

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

from cliptrase_d2.data.rendering import Rendering
from cliptrase_d2.segmenter.image_input import ImageLike, check_several, read_input, rgb_pixels
from cliptrase_d2.utils.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
TRANSPARENT = np.concatenate([PIXELS, np.zeros((50, 70, 1), np.uint8)], axis=2)
CHANNELS_FIRST = torch.from_numpy(PIXELS).permute(2, 0, 1)
ORIENTATION, ROTATED = 0x0112, 6
DTYPES = st.sampled_from([np.uint8, np.int8, np.uint16, np.int64, np.float32, np.bool_, np.complex64])


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (CHANNELS_FIRST, PIXELS),
        (TRANSPARENT, PIXELS),
        (Image.fromarray(TRANSPARENT), PIXELS),
        (torch.from_numpy(TRANSPARENT).permute(2, 0, 1), PIXELS),
        (PIXELS[..., 0], np.stack([PIXELS[..., 0]] * 3, axis=2)),
        (CHANNELS_FIRST[:1], np.stack([PIXELS[..., 0]] * 3, axis=2)),
        (PIXELS[..., :1], np.stack([PIXELS[..., 0]] * 3, axis=2)),
        (PIXELS[::-1, ::2], PIXELS[::-1, ::2]),
        (PIXELS / 255.0, PIXELS),
        (CHANNELS_FIRST / 255, PIXELS),
        (torch.zeros(3, 2, 2, dtype=torch.bfloat16), np.zeros((2, 2, 3))),
        (PIXELS[None], PIXELS),
        (CHANNELS_FIRST[None], PIXELS),
    ],
    ids=[
        *("tensor", "RGBA array", "RGBA PIL", "RGBA tensor", "grey array", "grey tensor", "grey array with an axis"),
        *("non-contiguous", "float array", "float tensor", "bfloat16 tensor", "batched array", "batched tensor"),
    ],
)
def test_every_form_becomes_rgb(image: ImageLike, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(rgb_pixels(image, "image"), expected)


def test_a_tensor_of_three_rows_has_its_channels_first() -> None:
    tensor = torch.arange(9 * 5, dtype=torch.uint8).view(3, 3, 5)
    assert rgb_pixels(tensor, "image")[2, 4].tolist() == [14, 29, 44]  # the last of 15 values per channel


def test_the_pixel_limit_applies_before_decoding(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", Image.open(tmp_path / "a.png")):
        with pytest.raises(InputError, match=r"70 x 50 = 3,500 pixels.*3,499"):
            rgb_pixels(image, "image", max_pixels=3499)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(rgb_pixels(image, "image", max_pixels=3500), PIXELS)
    assert rgb_pixels(PIXELS, "image", max_pixels=1) is not None  # arrays are decoded already


def test_exif_orientation_of_open_images_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = ROTATED
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(rgb_pixels(image, "image"), np.rot90(PIXELS, -1))


@given(arrays(DTYPES, st.lists(st.integers(0, 4), max_size=4).map(tuple)), st.booleans())
def test_arrays_and_tensors_are_converted_or_rejected(array: np.ndarray, as_tensor: bool) -> None:
    if as_tensor and array.dtype == np.uint16:
        array = array.astype(np.int32)
    with suppress(InputError):
        pixels = rgb_pixels(torch.from_numpy(array) if as_tensor else array, "image")
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (3,)
        assert pixels.size
        assert array.dtype == np.uint8 or 0 <= array.min() <= array.max() <= 1


@pytest.mark.parametrize("size", [(2, 3), (1, 1), (0, 3), (2, 0)])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "I;16"])
def test_pil_images_are_converted_or_rejected(mode: str, size: tuple[int, int]) -> None:
    image = Image.new(mode, size)
    if mode == "F" or 0 in size:
        with pytest.raises(InputError, match=rf"image: .*{'' if 0 not in size else f'{size[0]} x {size[1]}'}"):
            rgb_pixels(image, "image")
    else:
        pixels = rgb_pixels(image, "image")
        assert (pixels.dtype, pixels.shape) == (np.uint8, (size[1], size[0], 3))


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (PIXELS / 127.0, "array of float64 from 0 to 2.007"),
        (np.full((2, 2), np.nan), "array of float64 from nan to nan"),
        (PIXELS.astype(np.int64), "array of int64 from 0 to 255"),
        (PIXELS > 127, "array of bool"),
        (PIXELS.transpose(2, 0, 1), "shape [3, 50, 70]"),
        (PIXELS[None].repeat(2, 0), "shape [2, 50, 70, 3]"),
        (PIXELS[..., :2], "shape [50, 70, 2]"),
        (PIXELS[:0], "shape [0, 70, 3]"),
        (CHANNELS_FIRST.float() - 255, "tensor of float32 from -255 to 0"),
        (CHANNELS_FIRST.bfloat16(), "tensor of float32 from 0 to 255"),
        (CHANNELS_FIRST.int(), "tensor of int32 from 0 to 255"),
        (torch.from_numpy(PIXELS), "tensor of shape [50, 70, 3]"),
        (CHANNELS_FIRST[None].repeat(2, 1, 1, 1), "tensor of shape [2, 3, 50, 70]"),
        (CHANNELS_FIRST[0], "tensor of shape [50, 70]"),
        (None, "NoneType"),
    ],
)
def test_unsupported_inputs_are_described(image: ImageLike, got: str) -> None:
    with pytest.raises(InputError) as caught:
        rgb_pixels(image, "images[3]")
    assert str(caught.value).startswith("images[3]: ")
    assert got in str(caught.value)


@pytest.mark.parametrize("address", ["https://example.org/a.jpg", "s3://bucket/a.jpg"])
def test_addresses_are_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"an address.*Download"):
        rgb_pixels(address, "image")


def test_a_truncated_open_image_is_rejected(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "full.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "full.png").read_bytes()[:2000])
    with Image.open(tmp_path / "a.png") as image, pytest.raises(InputError, match=r"image: .*truncated"):
        rgb_pixels(image, "image")


@pytest.mark.parametrize("single", ["a.png", Path("a.png"), Image.new("RGB", (2, 2)), PIXELS, CHANNELS_FIRST])
def test_a_single_image_is_not_a_sequence(single: ImageLike) -> None:
    with pytest.raises(InputError, match=rf"^images: .*{type(single).__name__}"):
        check_several(single)  # type: ignore[arg-type]  # the usual mistake


@pytest.mark.parametrize("several", [[], ["a.png"], (name for name in ("a", "b")), PIXELS[None], CHANNELS_FIRST[None]])
def test_sequences_are_accepted(several: list[ImageLike]) -> None:
    assert check_several(several) is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float64])
def test_a_rendering_takes_any_bands_and_types(kind: type) -> None:
    values = np.random.default_rng(0).integers(0, 100, (4, 6, 7)).astype(kind)
    rendering = Rendering((4, 2, 1), (0, 255))
    for image in (
        values.transpose(1, 2, 0),
        torch.from_numpy(values.astype(np.int32)),
        values.transpose(1, 2, 0)[None],
    ):
        np.testing.assert_array_equal(
            read_input(image, "image", rendering=rendering).pixels, values[[3, 1, 0]].transpose(1, 2, 0)
        )
    grey = read_input(values[0], "image", rendering=Rendering(stretch=(0, 255)))
    np.testing.assert_array_equal(grey.pixels[..., 2], values[0])


def test_a_rendering_of_open_images() -> None:
    wide = Image.fromarray(np.array([[0, 30]], np.uint16))
    assert read_input(wide, "image", rendering=Rendering(stretch=(0, 60))).pixels[0, :, 0].tolist() == [0, 128]
    swapped = read_input(Image.fromarray(PIXELS), "image", rendering=Rendering((3, 2, 1)))
    np.testing.assert_array_equal(swapped.pixels, PIXELS[..., ::-1])
    for image in (PIXELS > 9, np.zeros((0, 3, 3)), np.zeros(5), "a.png"):
        with pytest.raises(InputError):
            read_input(image, "image", rendering=Rendering(stretch=(0, 60)))
