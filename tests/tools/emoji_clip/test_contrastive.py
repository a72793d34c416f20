import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip import open_clip_modules as clip
from tests.clip.tiny import tiny_clip
from tools.emoji_clip.contrastive import contrastive_loss, image_features


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_default_equals_encode_image(images: Tensor) -> None:
    model = tiny_clip()
    torch.testing.assert_close(image_features(model.visual, images), model.encode_image(images), atol=1e-5, rtol=1e-5)


def test_order_of_the_patches_does_not_matter(images: Tensor) -> None:
    visual = tiny_clip().visual
    patches = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    expected = image_features(visual, images)
    torch.testing.assert_close(image_features(visual, images, patches=patches), expected, atol=1e-5, rtol=1e-5)


def test_dropped_patches_have_no_effect(images: Tensor) -> None:
    visual = tiny_clip().visual
    patches = torch.arange(8).expand(3, -1)  # the upper half
    changed = images.clone()
    changed[:, :, 32:] = 0.5
    before, after = (image_features(visual, x, patches=patches) for x in (images, changed))
    assert torch.equal(before, after)
    assert not torch.allclose(image_features(visual, images), image_features(visual, changed))


def test_window_has_the_positions_of_its_offset(images: Tensor) -> None:
    """The result equals that of the full image without all other patches."""
    visual = tiny_clip().visual
    window = images[:, :, 16:48, 32:64]  # rows 1 and 2, columns 2 and 3 of the 4×4 grid
    patches = torch.tensor([6, 7, 10, 11]).expand(3, -1)
    expected = image_features(visual, images, patches=patches)
    torch.testing.assert_close(image_features(visual, window, offset=(1, 2)), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(image_features(visual, window, offset=(0, 0)), expected, atol=1e-3)


def test_start_at_a_patch_equals_a_slow_reference(images: Tensor) -> None:
    visual = tiny_clip().visual
    start = torch.tensor([0, 15, 7])
    x = clip.embed(visual, images, clip.position_embedding(visual))
    for block in clip.blocks(visual)[:-1]:
        x = block(x)
    last = clip.blocks(visual)[-1]
    q, k, v = clip.project_qkv(last, x)
    expected = []
    for image in range(3):
        logits = q[image, :, :1] @ k[image, :, 1:].transpose(1, 2) / math.sqrt(q.shape[-1])  # [A,1,N]
        attended = (logits.softmax(dim=-1) @ v[image, :, 1:])[None]  # [1,A,1,d]
        residual = x[image, 1 + start[image]].view(1, 1, -1)
        expected.append(clip.to_joint_space(visual, clip.finish_block(last, residual, attended))[0, 0])
    features = image_features(visual, images, start=start)
    torch.testing.assert_close(features, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_start_is_an_index_of_the_patches(images: Tensor) -> None:
    visual = tiny_clip().visual
    patches = torch.tensor([9, 3, 5]).expand(3, -1)
    first = image_features(visual, images, patches=patches, start=torch.zeros(3, dtype=torch.int64))
    rolled = image_features(visual, images, patches=patches.roll(1, dims=1), start=torch.ones(3, dtype=torch.int64))
    torch.testing.assert_close(first, rolled, atol=1e-5, rtol=1e-5)


def test_loss_without_shared_captions_equals_clips() -> None:
    images, texts = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    logits = 7 * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    own = torch.arange(5)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    loss = contrastive_loss(images, texts, own, torch.tensor(7.0))
    torch.testing.assert_close(loss, expected)


def test_loss_with_a_shared_caption() -> None:
    """Cosines are 1 for matching pairs, else 0. Two images have caption 0 and one has caption 1."""
    images, texts = torch.tensor([[2.0, 0], [1, 0], [0, 3]]), torch.tensor([[1.0, 0], [0, 5]])
    loss = contrastive_loss(images, texts, torch.tensor([0, 0, 1]), torch.tensor(1.0))
    e = math.e
    per_image = -math.log(e / (e + 1))
    first, second = -math.log(e / (2 * e + 1)), -math.log(e / (e + 2))
    assert loss.item() == pytest.approx((per_image + (first + second) / 2) / 2)


def test_loss_of_a_single_caption_is_constant() -> None:
    loss = contrastive_loss(torch.eye(2), torch.ones(1, 2), torch.zeros(2, dtype=torch.int64), torch.tensor(3.0))
    assert loss.item() == pytest.approx(math.log(2) / 2)
