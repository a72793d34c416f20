"""CLIPtrase's masks of images, found with SAN's own CLIP."""

import torch
from torch import Tensor

from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.san.mask_finder import find_masks
from cliptrase_d2.san.split_tower import FirstBlocks, LastBlocks
from tests.clip.tiny import tiny_clip

FIRST, LAST = FirstBlocks(tiny_clip().visual, 1), LastBlocks(tiny_clip().visual, 1)
SETTINGS = CLIPtraseSettings(eps=0.5, min_samples=2, median_filter=1)


def find(*tones: tuple[float, float]) -> list[Tensor]:
    """Return the masks of images of two tones, left and right, with 4x6 patches."""
    images = torch.empty(len(tones), 3, 64, 96)
    for image, (left, right) in zip(images, tones, strict=True):
        image[..., :32], image[..., 32:] = left, right
    return find_masks(FIRST(images), LAST, SETTINGS)


def test_each_patch_is_in_one_mask_and_the_largest_mask_is_first() -> None:
    (patches,) = find((-2, 2))
    assert len(patches) >= 2
    assert patches.sum(0).tolist() == [1] * 24
    assert patches.sum(1).tolist() == sorted(patches.sum(1).tolist(), reverse=True)


def test_masks_do_not_depend_on_the_rest_of_the_batch() -> None:
    batch, alone = find((-2, 2), (1, -1)), find((1, -1))
    assert torch.equal(batch[1], alone[0])


def test_masks_need_no_gradient() -> None:
    FIRST.zero_grad()
    assert not any(masks.requires_grad for masks in find((-2, 2)))
