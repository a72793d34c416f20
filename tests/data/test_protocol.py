from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.data.protocol import PROTOCOLS, Protocol
from cliptrase_d2.errors import InputError

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


@pytest.mark.parametrize("name", ["whole", "slide"])
def test_others_describe_the_image_and_show_it_at_size(name: str) -> None:
    protocol, image = Protocol(name, 32, 64, 16), photograph(50, 70)
    assert protocol.crop(image, BICUBIC, "a.jpg") is image
    given = protocol.model_input(image)
    assert given["image"].shape == (3, 32, 48)  # 70·32/50 = 44.8 is nearest to 3 patches
    assert (given["height"], given["width"]) == (50, 70)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=", ".join(PROTOCOLS)):
        Protocol("tiles", 32, 64, 16)
