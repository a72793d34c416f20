from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.data.geometry import center_crop_geometry, cropped_place, cropped_range, resize_and_crop, whole_size
from cliptrase_d2.utils.errors import InputError


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((375, 500), ((224, 298), (0, 37))),  # 298.67 rounded down; 74 / 2
        ((500, 375), ((298, 224), (37, 0))),
        ((224, 224), ((224, 224), (0, 0))),
        ((224, 225), ((224, 225), (0, 0))),  # half a pixel goes to the nearest even number, 0
        ((224, 227), ((224, 227), (0, 2))),  # 1.5 goes to 2
        ((10, 20), ((224, 448), (0, 112))),  # smaller images grow
        ((1, 1000), ((224, 224000), (0, 111888))),
    ],
)
def test_center_crop_by_hand(size: tuple[int, int], expected: tuple[tuple[int, int], tuple[int, int]]) -> None:
    assert center_crop_geometry(*size, 224) == expected


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
def test_whole_by_hand(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert whole_size(*size, short_side=640, max_size=1333, patch_size=16) == expected


def test_whole_never_exceeds_the_longest_side_by_rounding() -> None:
    assert whole_size(100, 100, short_side=30, max_size=30, patch_size=16) == (16, 16)


def test_a_pixel_is_found_again_in_the_crop_by_its_middle() -> None:
    # 128 pixels become 85, of which 10 to 73 are left. The middle of pixel 15 is at 15.5·85/128 = 10.29.
    assert [cropped_place(place, 128, 85, 10) for place in (14, 15, 110, 111)] == [-1, 0, 63, 64]
    assert cropped_range(128, 85, 10, 64) == range(15, 111)


@pytest.mark.parametrize("size", [(50, 70), (300, 70), (224, 225), (9, 3), (1, 1000)])
def test_the_range_of_an_axis_is_what_the_crop_keeps(size: tuple[int, int]) -> None:
    resized, start = center_crop_geometry(*size, 32)
    for length, after, first in zip(size, resized, start, strict=True):
        kept = [place for place in range(length) if 0 <= cropped_place(place, length, after, first) < 32]
        assert kept
        assert kept == list(cropped_range(length, after, first, 32))


def test_thinnest_image_gives_a_square() -> None:
    line = Image.fromarray(np.full((1, 1000, 3), 90, dtype=np.uint8))
    square = resize_and_crop(line, 32, Image.Resampling.BICUBIC, "line.png")
    assert np.array_equal(np.asarray(square), np.full((32, 32, 3), 90))


def test_line_that_would_fill_the_memory() -> None:
    line = Image.fromarray(np.zeros((1, 30000), dtype=np.uint8))
    with pytest.raises(InputError, match=r"line\.png: 30000x1 pixels"):
        resize_and_crop(line, 224, Image.Resampling.BICUBIC, "line.png")
