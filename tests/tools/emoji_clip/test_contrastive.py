import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.open_clip_modules import (
    blocks,
    embed,
    finish_block,
    position_embedding,
    project_qkv,
    to_joint_space,
)
from tests.clip.tiny import tiny_clip
from tools.emoji_clip.contrastive import contrastive_loss, image_features


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_whole_pictures_read_at_the_class_token_are_encode_image(images: Tensor) -> None:
    model = tiny_clip()
    torch.testing.assert_close(image_features(model.visual, images), model.encode_image(images), atol=1e-5, rtol=1e-5)


def test_all_patches_in_another_order_change_nothing(images: Tensor) -> None:
    visual = tiny_clip().visual
    kept = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    whole = image_features(visual, images)
    torch.testing.assert_close(image_features(visual, images, kept=kept), whole, atol=1e-5, rtol=1e-5)


def test_patches_that_are_left_out_are_not_seen(images: Tensor) -> None:
    visual = tiny_clip().visual
    kept = torch.arange(8).expand(3, -1)  # the upper half
    changed = images.clone()
    changed[:, :, 32:] = 0.5
    before, after = (image_features(visual, x, kept=kept) for x in (images, changed))
    assert torch.equal(before, after)
    assert not torch.allclose(image_features(visual, images), image_features(visual, changed))


def test_a_window_takes_the_positions_it_stands_on(images: Tensor) -> None:
    """Equal to the whole picture with all other patches left out."""
    visual = tiny_clip().visual
    window = images[:, :, 16:48, 32:64]  # rows 1 and 2, columns 2 and 3 of the 4×4 grid
    kept = torch.tensor([6, 7, 10, 11]).expand(3, -1)
    expected = image_features(visual, images, kept=kept)
    torch.testing.assert_close(image_features(visual, window, offset=(1, 2)), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(image_features(visual, window, offset=(0, 0)), expected, atol=1e-3)


def test_start_at_a_patch_by_a_slow_reference(images: Tensor) -> None:
    visual = tiny_clip().visual
    start = torch.tensor([0, 15, 7])
    x = embed(visual, images, position_embedding(visual))
    for block in blocks(visual)[:-1]:
        x = block(x)
    last = blocks(visual)[-1]
    q, k, v = project_qkv(last, x)
    expected = []
    for image in range(3):
        weights = (q[image, :, :1] @ k[image, :, 1:].transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(
            dim=-1
        )  # [A,1,N]
        attended = (weights @ v[image, :, 1:])[None]  # [1,A,1,d]
        residual = x[image, 1 + start[image]].view(1, 1, -1)
        expected.append(to_joint_space(visual, finish_block(last, residual, attended))[0, 0])
    features = image_features(visual, images, start=start)
    torch.testing.assert_close(features, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_start_counts_the_kept_patches(images: Tensor) -> None:
    visual = tiny_clip().visual
    kept = torch.tensor([9, 3, 5]).expand(3, -1)
    first = image_features(visual, images, kept=kept, start=torch.zeros(3, dtype=torch.int64))
    rolled = image_features(visual, images, kept=kept.roll(1, dims=1), start=torch.ones(3, dtype=torch.int64))
    torch.testing.assert_close(first, rolled, atol=1e-5, rtol=1e-5)


def test_loss_without_shared_captions_is_the_loss_of_clip() -> None:
    images, texts = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    logits = 7 * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    own = torch.arange(5)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    loss = contrastive_loss(images, texts, own, torch.tensor(7.0))
    torch.testing.assert_close(loss, expected)


def test_loss_with_a_shared_caption_by_hand() -> None:
    """Cosines 1 where picture and caption agree, 0 elsewhere; two pictures have caption 0, one has caption 1."""
    images, texts = torch.tensor([[2.0, 0], [1, 0], [0, 3]]), torch.tensor([[1.0, 0], [0, 5]])
    loss = contrastive_loss(images, texts, torch.tensor([0, 0, 1]), torch.tensor(1.0))
    e = math.e
    per_image = -math.log(e / (e + 1))
    first, second = -math.log(e / (2 * e + 1)), -math.log(e / (e + 2))
    assert loss.item() == pytest.approx((per_image + (first + second) / 2) / 2)


def test_loss_of_one_caption_has_nothing_to_teach_the_pictures() -> None:
    loss = contrastive_loss(torch.eye(2), torch.ones(1, 2), torch.zeros(2, dtype=torch.int64), torch.tensor(3.0))
    assert loss.item() == pytest.approx(math.log(2) / 2)
