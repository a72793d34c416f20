"""Region labels of patches."""

import pytest
import torch
from torch import nn

from cliptrase_d2.clip.tokens import ImageTokens


@pytest.mark.parametrize(
    ("labels", "grid", "expected"),
    [
        pytest.param([[1, 1, 2, 255], [1, 3, 255, 255]], (1, 2), [1, 255], id="most frequent"),
        pytest.param([[7, 3], [3, 7]], (1, 1), [3], id="smallest of equally frequent"),
        pytest.param([[65535] * 4] * 4, (2, 2), [65535] * 4, id="16 bits"),
        pytest.param([[0, 1, 2], [3, 4, 5]], (2, 3), [0, 1, 2, 3, 4, 5], id="non-square grid"),
    ],
)
def test_patch_regions(labels: list[list[int]], grid: tuple[int, int], expected: list[int]) -> None:
    regions = torch.tensor([labels, [[9] * len(labels[0])] * len(labels)])
    tokens = ImageTokens(nn.Identity(), {}, {}, {}, grid, regions=regions)
    assert tokens.patch_regions().tolist() == [expected, [9] * len(expected)]
