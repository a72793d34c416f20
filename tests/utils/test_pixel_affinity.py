"""PAMR with other neighbours than its release has, and with many maps. `test_refinement` has the slow references."""

from __future__ import annotations

import pytest
import torch

from cliptrase_d2.utils.pixel_affinity import DILATIONS, pixel_affinity, propagate


@pytest.mark.parametrize("dilations", [(8, 16), DILATIONS])
@pytest.mark.parametrize("size", [(1, 6), (9, 4), (20, 30)], ids=str)
def test_many_maps_equal_single_maps(size: tuple[int, int], dilations: tuple[int, ...]) -> None:
    affinity, maps = pixel_affinity(torch.rand(3, *size), dilations), torch.rand(19, *size)
    many = propagate(maps, affinity, 3, dilations)
    single = torch.cat([propagate(one[None], affinity, 3, dilations) for one in maps])
    torch.testing.assert_close(many, single, atol=1e-6, rtol=0)


def test_neighbours_of_one_dilation_by_hand() -> None:
    image = torch.zeros(3, 1, 5)
    image[:, 0, 3:] = 1
    affinity = pixel_affinity(image, (2,))
    # Pixel 2 has the neighbours 0 (three times), 2 (twice, of the replicated rows above and below) and 4 (three times).
    # With the pixel, 6 of 9 values are 0 and 3 are 1, with a standard deviation of 1/2: logits 0 and -1/0.05.
    far = torch.tensor(-20.0).exp()
    expected = torch.tensor([1, 1, far, 1, far, 1, 1, far]) / (5 + 3 * far)
    torch.testing.assert_close(affinity[:, 0, 2], expected)
    (moved,) = propagate(torch.arange(5.0).view(1, 1, 5), affinity, 1, (2,))
    assert moved[0, 2] == pytest.approx(4 / 5, abs=1e-6)  # three times 0 and twice 2
