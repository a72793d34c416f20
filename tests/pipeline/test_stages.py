"""The stages in order, on random features of a few kinds of patches."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import QKV, DenseFeatures, TextFeatures
from cliptrase_d2.pipeline import clustering, stages
from cliptrase_d2.pipeline.correlation import HEADS, MEASURES, self_correlation
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.refinement import pamr
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from tests.pipeline import reference

GRID, SIZE = (6, 8), (48, 64)
PATCHES, WIDTH, ATTENTION_HEADS, HEAD_WIDTH, KINDS = 48, 16, 2, 8, 4
SETTINGS = CLIPtraseSettings(eps=0.8, min_samples=3)
Encoded = tuple[QKV, DenseFeatures]


def encode(batch: int = 1, blur: float = 0.5) -> Encoded:
    """Return noisy q, k, v and features of patches of a few kinds, in blocks of 2×2 patches of one kind."""
    kind = torch.randint(KINDS, (batch, GRID[0] // 2, GRID[1] // 2))
    kind = kind.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)  # [B,N]
    with_class_token = torch.cat([torch.full((batch, 1), KINDS), kind], dim=1)
    centres = torch.randn(3, KINDS + 1, ATTENTION_HEADS, HEAD_WIDTH)
    noise = torch.randn(3, batch, PATCHES + 1, ATTENTION_HEADS, HEAD_WIDTH)
    query, key, value = (centres[:, with_class_token] + blur * noise).transpose(2, 3)
    patches = torch.randn(KINDS, WIDTH)[kind] + blur * torch.randn(batch, PATCHES, WIDTH)
    class_token = F.normalize(torch.randn(batch, WIDTH), dim=-1)
    return (query, key, value), DenseFeatures(F.normalize(patches, dim=-1), GRID, class_token)


def make_text(class_index: list[int]) -> TextFeatures:
    features = F.normalize(torch.randn(len(class_index), WIDTH), dim=-1)
    return TextFeatures(features, torch.tensor(class_index), tuple(map(str, range(max(class_index) + 1))))


def propose(qkv: QKV, settings: CLIPtraseSettings, size: tuple[int, int] = SIZE) -> list[MaskProposals]:
    rows = stages.correlate(qkv, settings)
    return stages.propose(rows, stages.cluster(rows, settings), GRID, [size] * len(rows), settings)


def segment(
    settings: CLIPtraseSettings, encoded: Encoded, text: TextFeatures, size: tuple[int, int] = SIZE
) -> list[Tensor]:
    """Return the label map of each image."""
    qkv, features = encoded
    logits = stages.compute_word_logits(features, text, 100.0, settings)
    predictions = stages.classify_masks(propose(qkv, settings, size), logits, text, settings)
    return [prediction.label_map for prediction in predictions]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "class-token"])
@pytest.mark.parametrize("size", [(96, 128), (75, 51)])
@pytest.mark.parametrize("blur", [0.3, 0.5, 2.0])
def test_the_stages_equal_plain_loops(blur: float, size: tuple[int, int], weighted: bool) -> None:
    encoded, text = encode(blur=blur), make_text([0, 0, 1, 2, 3, 3, 3])
    labels = segment(replace(SETTINGS, cls_logit_weight=weighted), encoded, text, size)[0]
    expected = reference.segment(*encoded, text, 100.0, size, eps=0.8, min_samples=3, cls_logit_weight=weighted)
    assert (labels == expected).float().mean() >= 0.999


def test_a_batch_equals_its_images_one_by_one() -> None:
    (qkv, features), text = encode(batch=3), make_text([0, 1, 2])
    for index, labels in enumerate(segment(SETTINGS, (qkv, features), text)):
        query, key, value = (branch[index : index + 1] for branch in qkv)
        alone = DenseFeatures(features.patches[index : index + 1], GRID)
        assert torch.equal(labels, segment(SETTINGS, ((query, key, value), alone), text)[0])


@pytest.mark.parametrize("rule", ["vote", "mean"])
def test_all_noise_leaves_the_pixel_labels(rule: str) -> None:
    (qkv, features), text = encode(), make_text([0, 1, 2, 2])
    logits = (100 * features.patches[0] @ text.features.T).T.reshape(-1, *GRID)
    expected = text.class_index[reference.first_argmax(reference.upsample(logits, SIZE))]
    for changes in ({"clustering": "none"}, {"eps": 1e-6}):
        settings = replace(SETTINGS, classification=rule, **changes)
        assert torch.equal(segment(settings, (qkv, features), text)[0], expected)


@pytest.mark.parametrize("rule", ["vote", "mean"])
def test_one_cluster_has_one_class(rule: str) -> None:
    settings = replace(SETTINGS, eps=100.0, classification=rule)
    assert segment(settings, encode(), make_text([0, 1, 2]))[0].unique().numel() == 1


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("measure", MEASURES)
def test_settings_of_the_correlation(measure: str, heads: str) -> None:
    qkv, _ = encode()
    settings = replace(SETTINGS, correlation=measure, heads=heads)
    tokens = self_correlation(*qkv, measure=measure, heads=heads)
    assert torch.equal(stages.correlate_tokens(qkv, settings), tokens)
    assert torch.equal(stages.correlate(qkv, settings), (tokens[:, 1:, 1:] - tokens[:, :1, 1:]).clamp_min(0))
    raw = replace(settings, suppress_global_patches=False)
    assert torch.equal(stages.correlate(qkv, raw), tokens[:, 1:, 1:])


def test_settings_of_the_clustering() -> None:
    rows = stages.correlate(encode(batch=2, blur=0.7)[0], SETTINGS)
    labels = stages.cluster(rows, SETTINGS)
    assert torch.equal(labels, clustering.dbscan(rows, 0.8, 3))
    assert labels.max() >= 1  # so that the other tests have clusters and noise
    assert labels.min() == clustering.NOISE
    adaptive = stages.cluster(rows, replace(SETTINGS, adaptive_dbscan=True))
    assert torch.equal(adaptive, clustering.dbscan(rows, 0.05 * math.sqrt(PATCHES), 2))
    labels = stages.cluster(rows, replace(SETTINGS, clustering="hdbscan", min_cluster_size=4))
    assert torch.equal(labels, clustering.hdbscan_clusters(rows, 4))
    assert stages.cluster(rows, replace(SETTINGS, clustering="none")).eq(clustering.NOISE).all()


def test_settings_and_sizes_of_the_masks() -> None:
    settings = replace(SETTINGS, mask_upsample=2, median_filter=3)
    rows = stages.correlate(encode(batch=2)[0], settings)
    clusters = stages.cluster(rows, settings)
    sizes = [SIZE, (31, 70)]
    for masks, size in zip(stages.propose(rows, clusters, GRID, sizes, settings), sizes, strict=True):
        assert masks.coarse.shape == (len(masks), 12, 16)
        assert masks.assignment.shape == size


def test_the_image_is_resized_to_the_label_map_for_refinement() -> None:
    labels, image = torch.randint(4, (24, 30)), torch.randint(0, 256, (3, 12, 15), dtype=torch.uint8)
    assert stages.refine(labels, image, SETTINGS) is None
    refined = stages.refine(labels, image, replace(SETTINGS, refinement="pamr", refinement_steps=2))
    colours = F.interpolate(image[None].float(), (24, 30), mode="bilinear", align_corners=False)[0]
    assert refined is not None
    torch.testing.assert_close(refined.shares, pamr(labels, colours, 2).shares)


def test_a_mask_is_pooled_over_its_assigned_pixels() -> None:
    torch.manual_seed(5)
    qkv, features = encode(blur=0.3)
    (masks,) = propose(qkv, replace(SETTINGS, eps=1.0))
    assert len(masks) > 1
    dense = reference.upsample(features.patches[0].T.reshape(-1, *GRID), SIZE)
    for mask, feature in enumerate(stages.pool_masks(features, 0, masks)):
        torch.testing.assert_close(feature, dense[:, masks.assignment == mask].mean(1), atol=1e-5, rtol=1e-4)


def test_an_image_without_masks_is_pooled_as_a_whole() -> None:
    qkv, features = encode(blur=0.3)
    (masks,) = propose(qkv, replace(SETTINGS, clustering="none"))
    torch.testing.assert_close(stages.pool_masks(features, 0, masks), features.patches[0].mean(0, keepdim=True))
