from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import TextFeatures, VisualTokens
from cliptrase_d2.pipeline import clustering
from cliptrase_d2.pipeline.correlation import self_correlation
from cliptrase_d2.pipeline.refinement import pamr
from cliptrase_d2.pipeline.settings import Method, PatchScene
from cliptrase_d2.utils.errors import InputError
from tests.pipeline import reference

GRID = (6, 8)
PATCHES, WIDTH, HEADS, HEAD_WIDTH, REGIONS = 48, 16, 2, 8, 4
SCALE = torch.tensor(100.0)
METHOD = Method(eps=0.8, min_samples=3)


def tokens(batch: int = 1, blur: float = 0.5) -> VisualTokens:
    """Patches of a few kinds, four patches of a kind side by side, each blurred by noise."""
    kind = torch.randint(REGIONS, (batch, GRID[0] // 2, GRID[1] // 2))
    kind = kind.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)  # [B,N]
    with_class_token = torch.cat([torch.full((batch, 1), REGIONS), kind], dim=1)
    centres = torch.randn(3, REGIONS + 1, HEADS, HEAD_WIDTH)
    query, key, value = (
        (centre[with_class_token] + blur * torch.randn(batch, PATCHES + 1, HEADS, HEAD_WIDTH)).transpose(1, 2)
        for centre in centres
    )
    patches = torch.randn(REGIONS, WIDTH)[kind] + blur * torch.randn(batch, PATCHES, WIDTH)
    return VisualTokens(
        F.normalize(torch.randn(batch, WIDTH), dim=-1), F.normalize(patches, dim=-1), query, key, value, GRID
    )


def text(class_index: list[int]) -> TextFeatures:
    features = F.normalize(torch.randn(len(class_index), WIDTH), dim=-1)
    names = tuple(f"class {index}" for index in range(max(class_index) + 1))
    return TextFeatures(features, torch.tensor(class_index), names)


def segment(method: Method, seen: VisualTokens, words: TextFeatures, size: tuple[int, int]) -> list[Tensor]:
    """The stages in order, as the meta-architecture calls them; label maps only."""
    scene = PatchScene(seen.patches, seen.class_token, method.correlate(seen), seen.grid)
    masks = method.propose(scene, method.cluster(scene.correlation), size)
    return [named.label_map for named in method.classify(masks, method.word_logits(scene, words, SCALE), words)]


def test_a_mask_is_pooled_over_the_pixels_that_it_claims() -> None:
    torch.manual_seed(5)
    seen = tokens(1, 0.3)
    method = Method(eps=1.0)
    scene = PatchScene(seen.patches, seen.class_token, method.correlate(seen), seen.grid)
    size = (GRID[0] * 8, GRID[1] * 8)
    masks = method.propose(scene, method.cluster(scene.correlation), size)[0]
    assert len(masks) > 1
    dense = F.interpolate(scene.patches[0].T.reshape(1, -1, *GRID), size, mode="bilinear", align_corners=False)[0]
    for mask, feature in enumerate(method.pool(scene, 0, masks)):
        torch.testing.assert_close(feature, dense[:, masks.assignment == mask].mean(1), atol=1e-5, rtol=1e-4)


def test_an_image_without_masks_is_pooled_as_a_whole() -> None:
    seen = tokens(1, 0.3)
    method = Method(clustering="none")
    scene = PatchScene(seen.patches, seen.class_token, method.correlate(seen), seen.grid)
    masks = method.propose(scene, method.cluster(scene.correlation), (GRID[0] * 8, GRID[1] * 8))[0]
    torch.testing.assert_close(method.pool(scene, 0, masks), scene.patches[0].mean(0, keepdim=True))


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "class-token"])
@pytest.mark.parametrize("size", [(96, 128), (75, 51)])
@pytest.mark.parametrize("blur", [0.3, 0.5, 2.0])
def test_the_stages_give_what_the_plain_loops_give(blur: float, size: tuple[int, int], weighted: bool) -> None:
    seen, words = tokens(blur=blur), text([0, 0, 1, 2, 3, 3, 3])
    found = segment(replace(METHOD, cls_logit_weight=weighted), seen, words, size)[0]
    expected = reference.segment(seen, words, 100.0, size, eps=0.8, min_samples=3, cls_logit_weight=weighted)
    assert (found == expected).float().mean() >= 0.999


def test_the_tokens_of_these_tests_have_clusters_and_noise() -> None:
    labels = METHOD.cluster(METHOD.correlate(tokens(blur=0.5)))
    assert labels.max() >= 1
    assert labels.min() == clustering.NOISE


def test_a_batch_equals_its_images_one_by_one() -> None:
    seen, words = tokens(batch=3), text([0, 1, 2])
    alone = [
        VisualTokens(
            *(getattr(seen, name)[i : i + 1] for name in ("class_token", "patches", "query", "key", "value")), GRID
        )
        for i in range(3)
    ]
    together = segment(METHOD, seen, words, (48, 64))
    for image, one in zip(together, alone, strict=True):
        assert torch.equal(image, segment(METHOD, one, words, (48, 64))[0])


@pytest.mark.parametrize("rule", ["vote", "mean"])
def test_all_noise_leaves_the_pixels_as_they_are(rule: str) -> None:
    seen, words = tokens(), text([0, 1, 2, 2])
    method = replace(METHOD, clustering="none", classification=rule)
    pixels = segment(method, seen, words, (48, 64))[0]
    logits = (100 * seen.patches[0] @ words.features.T).T.reshape(-1, *GRID)
    best = reference.first_argmax(reference.upsample(logits, (48, 64)))
    assert torch.equal(pixels, words.class_index[best])
    assert torch.equal(segment(replace(method, clustering="dbscan", eps=1e-6), seen, words, (48, 64))[0], pixels)


@pytest.mark.parametrize("rule", ["vote", "mean"])
def test_one_cluster_has_one_class(rule: str) -> None:
    method = replace(METHOD, eps=100.0, classification=rule)
    assert segment(method, tokens(), text([0, 1, 2]), (48, 64))[0].unique().numel() == 1


def test_a_vocabulary_of_one_word() -> None:
    assert segment(METHOD, tokens(), text([0]), (48, 64))[0].eq(0).all()


def test_847_classes() -> None:
    seen, words = tokens(), text(list(range(847)))
    expected = reference.segment(seen, words, 100.0, (96, 128), eps=0.8, min_samples=3)
    assert (segment(METHOD, seen, words, (96, 128))[0] == expected).float().mean() >= 0.999


def test_the_correlation_follows_its_settings() -> None:
    seen = tokens()
    for measure in ("cosine", "inner_product"):
        for heads in ("separate", "concatenated"):
            method = Method(correlation=measure, heads=heads)
            whole = self_correlation(seen.query, seen.key, seen.value, measure=measure, heads=heads)
            suppressed = (whole[:, 1:, 1:] - whole[:, :1, 1:]).clamp_min(0)
            assert torch.equal(method.correlate(seen), suppressed)
            assert torch.equal(replace(method, suppress_global_patches=False).correlate(seen), whole[:, 1:, 1:])


def test_the_clustering_follows_its_settings() -> None:
    correlation = METHOD.correlate(tokens(batch=2))
    assert torch.equal(METHOD.cluster(correlation), clustering.dbscan(correlation, 0.8, 3))
    eps, min_samples = 0.05 * math.sqrt(PATCHES), 2  # 48/65 rounds to 1, and 2 is the least
    found = replace(METHOD, adaptive_dbscan=True).cluster(correlation)
    assert torch.equal(found, clustering.dbscan(correlation, eps, min_samples))
    found = replace(METHOD, clustering="hdbscan", min_cluster_size=4).cluster(correlation)
    assert torch.equal(found, clustering.hdbscan_clusters(correlation, 4))
    assert replace(METHOD, clustering="none").cluster(correlation).eq(clustering.NOISE).all()


def test_the_masks_follow_their_settings() -> None:
    seen = tokens()
    scene = PatchScene(seen.patches, seen.class_token, METHOD.correlate(seen), GRID)
    method = replace(METHOD, mask_upsample=2, median_filter=3)
    masks = method.propose(scene, METHOD.cluster(scene.correlation), (48, 64))[0]
    assert masks.coarse.shape == (len(masks), 12, 16)
    assert masks.assignment.shape == (48, 64)


def test_the_colours_are_brought_to_the_size_of_the_labels() -> None:
    labels, image = torch.randint(4, (24, 30)), torch.randint(0, 256, (3, 12, 15), dtype=torch.uint8)
    assert METHOD.refine(labels, image) is None
    found = replace(METHOD, refinement="pamr", refinement_steps=2).refine(labels, image)
    colours = F.interpolate(image[None].float(), (24, 30), mode="bilinear", align_corners=False)[0]
    assert found is not None
    torch.testing.assert_close(found.shares, pamr(labels, colours, 2).shares)


def test_the_published_settings_are_the_default() -> None:
    assert Method() == Method(
        correlation="cosine", heads="separate", suppress_global_patches=True, clustering="dbscan", eps=0.7,
        min_samples=3, adaptive_dbscan=False, mask_upsample=4, median_filter=7, classification="vote",
        cls_logit_weight=False, refinement="none",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("correlation", "euclidean", "'cosine' or 'inner_product'"),
        ("heads", "both", "'separate' or 'concatenated'"),
        ("clustering", "kmeans", "'dbscan' or 'hdbscan' or 'none'"),
        ("classification", "max", "'vote' or 'mean'"),
        ("refinement", "crf", "'none' or 'pamr'"),
        ("refinement_steps", 0, "1 or more"),
        ("eps", 0.0, "above 0"),
        ("eps", math.nan, "above 0"),
        ("min_samples", 0, "1 or more"),
        ("min_cluster_size", 1, "2 or more"),
        ("mask_upsample", 0, "1 or more"),
        ("median_filter", 4, "an odd number"),
        ("median_filter", -1, "an odd number"),
    ],
)
def test_a_setting_outside_its_range_is_refused_by_the_name_of_its_key(
    setting: str, value: object, allowed: str
) -> None:
    with pytest.raises(InputError) as caught:
        Method(**{setting: value})
    assert caught.value.where == f"MODEL.CLIPTRASE.{setting.upper()}"
    assert caught.value.got == repr(value)
    assert allowed in caught.value.allowed
