from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.data.protocol import PROTOCOLS, Protocol
from cliptrase_d2.utils.errors import InputError

BICUBIC = Image.Resampling.BICUBIC


def photograph(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_center_crop_describes_the_crop_and_shows_it_as_it_is() -> None:
    protocol = Protocol("center_crop", 32, 64, 16)
    part = protocol.crop(photograph(50, 70), BICUBIC, "a.jpg")
    given = protocol.model_input(part)
    assert part.size == (32, 32)
    assert torch.equal(given["image"], torch.from_numpy(np.array(part)).permute(2, 0, 1))
    assert (given["height"], given["width"]) == (32, 32)


@pytest.mark.parametrize("name", ["whole", "slide", "tiles"])
def test_others_describe_the_image_and_show_it_at_size(name: str) -> None:
    protocol, image = Protocol(name, 32, 64, 16), photograph(50, 70)
    assert protocol.crop(image, BICUBIC, "a.jpg") is image
    given = protocol.model_input(image)
    assert given["image"].shape == (3, 32, 48)  # 70·32/50 = 44.8 is nearest to 3 patches
    assert (given["height"], given["width"]) == (50, 70)


def test_tiles_may_take_an_image_as_large_as_it_is() -> None:
    image = photograph(50, 70)
    given = Protocol("tiles", 0, 64, 16).model_input(image)
    assert np.array_equal(given["image"].permute(1, 2, 0), np.array(image))
    assert (given["height"], given["width"]) == (50, 70)
    with pytest.raises(InputError, match=r"INPUT\.MIN_SIZE_TEST: 0 with patches of 16 pixels"):
        Protocol("whole", 0, 64, 16)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=", ".join(PROTOCOLS)):
        Protocol("crop", 32, 64, 16)


@pytest.mark.parametrize("name", ["whole", "slide", "tiles"])
def test_a_point_of_a_whole_image_is_where_it_was(name: str) -> None:
    protocol = Protocol(name, 32, 64, 16)
    assert [protocol.place(point, (50, 70)) for point in ((0, 0), (69, 49))] == [(0, 0), (69, 49)]


def test_a_point_is_found_again_in_the_crop() -> None:
    # 128x96 pixels become 85x64, of which columns 10 to 73 are left.
    protocol = Protocol("center_crop", 64, 64, 16)
    assert [protocol.place(point, (96, 128)) for point in ((15, 0), (110, 95))] == [(0, 0), (63, 63)]


def test_the_crop_has_at_a_point_what_the_image_has_there() -> None:
    image = np.zeros((60, 200, 3), np.uint8)
    image[36:44, 116:124] = 255
    protocol = Protocol("center_crop", 32, 64, 16)
    x, y = protocol.place((120, 40), (60, 200))
    assert np.array(protocol.crop(Image.fromarray(image), BICUBIC, "a.jpg"))[y, x].min() > 250


@pytest.mark.parametrize("point", [(70, 0), (0, 50), (-1, 0), (0, -1)])
def test_a_point_outside_of_the_image_is_refused(point: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"in an image of 70x50 pixels.*x of 0 to 69 and y of 0 to 49\. Choose"):
        Protocol("whole", 32, 64, 16).place(point, (50, 70))


@pytest.mark.parametrize("point", [(14, 0), (111, 0), (-1, 0), (15, 96)])
def test_a_point_that_is_cropped_away_is_refused(point: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"x of 15 to 110 and y of 0 to 95, the square in its middle.*protocol whole"):
        Protocol("center_crop", 64, 64, 16).place(point, (96, 128))
