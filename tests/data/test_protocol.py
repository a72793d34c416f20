import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, Resize

from cliptrase_d2.data.protocol import (
    Protocol,
    compute_center_crop,
    compute_published_size,
    compute_whole_size,
    find_cropped_range,
    map_to_crop,
    resize_and_crop,
)
from cliptrase_d2.utils.errors import InputError

BICUBIC = Image.Resampling.BICUBIC


def photograph(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_center_crop_is_input_and_result() -> None:
    protocol = Protocol("center_crop", 32, 64, 16)
    part = protocol.crop(photograph(50, 70), BICUBIC, "a.jpg")
    inputs = protocol.prepare_input(part)
    assert torch.equal(inputs["image"], torch.from_numpy(np.array(part)).permute(2, 0, 1))
    assert (inputs["height"], inputs["width"]) == part.size == (32, 32)


@pytest.mark.parametrize("name", ["whole", "slide", "tiles"])
def test_other_protocols_resize_the_input_only(name: str) -> None:
    protocol, image = Protocol(name, 32, 64, 16), photograph(50, 70)
    assert protocol.crop(image, BICUBIC, "a.jpg") is image
    inputs = protocol.prepare_input(image)
    assert inputs["image"].shape == (3, 32, 48)  # 70·32/50 = 44.8 is nearest to 3 patches
    assert (inputs["height"], inputs["width"]) == (50, 70)


def test_the_published_protocol_resizes_in_8_bits_to_any_sides() -> None:
    protocol, image = Protocol("published", 32, 64, 16), photograph(50, 70)
    assert protocol.crop(image, BICUBIC, "a.jpg") is image
    inputs = protocol.prepare_input(image)
    assert inputs["image"].shape == (3, 32, 45)  # 70·32/50 = 44.8
    assert (inputs["height"], inputs["width"]) == (50, 70)
    expected = cv2.resize(np.array(image), (45, 32), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(inputs["image"].permute(1, 2, 0), expected)


def test_a_photograph_keeps_its_size() -> None:
    protocol, image = Protocol("published", 32, 64, 16), photograph(50, 70)
    assert "photograph" not in protocol.prepare_input(image)
    inputs = protocol.prepare_input(image, with_photograph=True)
    assert torch.equal(inputs["photograph"], torch.from_numpy(np.array(image)).permute(2, 0, 1))
    assert inputs["image"].shape == (3, 32, 45)


def test_the_published_protocol_makes_squares_as_torchvision() -> None:
    protocol, image = Protocol("published", 33, 64, 16, square=True), photograph(50, 70)
    inputs = protocol.prepare_input(image)
    expected = np.array(Resize((33, 33), InterpolationMode.BICUBIC)(image))
    assert np.array_equal(inputs["image"].permute(1, 2, 0), expected)
    assert (inputs["height"], inputs["width"]) == (50, 70)
    other = Protocol("whole", 32, 64, 16, square=True).prepare_input(image)
    assert other["image"].shape == (3, 32, 48)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((370, 500), (336, 454)),  # 454.05
        ((500, 370), (454, 336)),
        ((336, 459), (336, 459)),
        ((100, 125), (336, 420)),
        ((8, 9), (336, 378)),
        ((64, 67), (336, 352)),  # 351.75
        ((100, 1000), (205, 2048)),  # the long side is the limit: 204.8
        ((1, 1), (336, 336)),
        ((1, 9000), (1, 2048)),  # 0.23 rows
    ],
)
def test_published_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert compute_published_size(*size, 336, 2048) == expected


def test_tiles_can_keep_the_size_of_the_image() -> None:
    image = photograph(50, 70)
    inputs = Protocol("tiles", 0, 64, 16).prepare_input(image)
    assert np.array_equal(inputs["image"].permute(1, 2, 0), np.array(image))
    assert (inputs["height"], inputs["width"]) == (50, 70)


@pytest.mark.parametrize(
    ("name", "short_side", "max_size", "match"),
    [
        ("crop", 32, 64, "protocol: 'crop'.*'center_crop' or 'whole' or 'slide' or 'tiles' or 'published'"),
        ("center_crop", 225, 640, "short_side: 225 .*Use 224"),
        ("center_crop", 0, 640, "short_side: 0 .*Use 16"),
        ("whole", 15, 640, "short_side: 15 .*Use 16"),
        ("whole", 0, 64, "short_side: 0"),  # only tiles can keep the size
        ("slide", 64, 32, "max_size: 32.*64"),
    ],
)
def test_invalid_settings_are_rejected(name: str, short_side: int, max_size: int, match: str) -> None:
    with pytest.raises(InputError, match=match):
        Protocol(name, short_side, max_size, 16)


def test_points_are_mapped_to_the_crop() -> None:
    whole, crop = Protocol("whole", 64, 64, 16), Protocol("center_crop", 64, 64, 16)
    assert [whole.map_point(point, (96, 128)) for point in ((0, 0), (127, 95))] == [(0, 0), (127, 95)]
    # 128x96 pixels become 85x64, cropped to columns 10 to 73. The centre of pixel 15 is at 15.5·85/128 = 10.29.
    assert [crop.map_point(point, (96, 128)) for point in ((15, 0), (110, 95))] == [(0, 0), (63, 63)]


def test_crop_shows_the_same_at_a_mapped_point() -> None:
    image = np.zeros((60, 200, 3), np.uint8)
    image[36:44, 116:124] = 255
    protocol = Protocol("center_crop", 32, 64, 16)
    x, y = protocol.map_point((120, 40), (60, 200))
    assert np.array(protocol.crop(Image.fromarray(image), BICUBIC, "a.jpg"))[y, x].min() > 250


@pytest.mark.parametrize("point", [(70, 0), (0, 50), (-1, 0), (0, -1)])
def test_points_outside_the_image_are_rejected(point: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"point: .*x of 0 to 69 and y of 0 to 49"):
        Protocol("whole", 32, 64, 16).map_point(point, (50, 70))


@pytest.mark.parametrize("point", [(14, 0), (111, 0), (-1, 0), (15, 96)])
def test_points_outside_the_crop_are_rejected(point: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"point: .*x of 15 to 110 and y of 0 to 95.*whole"):
        Protocol("center_crop", 64, 64, 16).map_point(point, (96, 128))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((375, 500), ((224, 298), (0, 37))),  # 298.67 rounded down; 74 / 2
        ((500, 375), ((298, 224), (37, 0))),
        ((224, 224), ((224, 224), (0, 0))),
        ((224, 225), ((224, 225), (0, 0))),  # 0.5 is rounded to the nearest even number, 0
        ((224, 227), ((224, 227), (0, 2))),  # 1.5 is rounded to 2
        ((10, 20), ((224, 448), (0, 112))),  # smaller images grow
        ((1, 1000), ((224, 224000), (0, 111888))),
    ],
)
def test_center_crop_by_hand(size: tuple[int, int], expected: tuple[tuple[int, int], tuple[int, int]]) -> None:
    assert compute_center_crop(*size, 224) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((375, 500), (640, 848)),  # 853.33 = 53.33 patches
        ((500, 375), (848, 640)),
        ((100, 100), (640, 640)),  # smaller images grow
        ((1024, 2048), (640, 1280)),
        ((1000, 4000), (336, 1328)),  # the long side would be 2560: scaled to 1333 = 83.3 patches, 333.25 = 20.8
        ((1, 1000), (16, 1328)),  # at least one patch
        ((1000, 1), (1328, 16)),
    ],
)
def test_whole_size_by_hand(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert compute_whole_size(*size, short_side=640, max_size=1333, patch_size=16) == expected
    # Rounding does not exceed the longest side: 30 = 1.9 patches.
    assert compute_whole_size(100, 100, short_side=30, max_size=30, patch_size=16) == (16, 16)


@pytest.mark.parametrize("size", [(50, 70), (300, 70), (224, 225), (9, 3), (1, 1000)])
def test_cropped_range_has_the_pixels_that_are_mapped_into_the_crop(size: tuple[int, int]) -> None:
    resized, start = compute_center_crop(*size, 32)
    for length, after, first in zip(size, resized, start, strict=True):
        pixels = [pixel for pixel in range(length) if 0 <= map_to_crop(pixel, length, after, first) < 32]
        assert pixels
        assert pixels == list(find_cropped_range(length, after, first, 32))


def test_crop_of_an_image_one_pixel_high() -> None:
    line = Image.fromarray(np.full((1, 1000, 3), 90, dtype=np.uint8))
    assert np.array_equal(np.asarray(resize_and_crop(line, 32, BICUBIC, "line.png")), np.full((32, 32, 3), 90))
    longer = Image.fromarray(np.zeros((1, 30000), dtype=np.uint8))  # resizing it would fill the memory
    with pytest.raises(InputError, match=r"line\.png: 30000x1 pixels"):
        resize_and_crop(longer, 224, BICUBIC, "line.png")
