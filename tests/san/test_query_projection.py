"""From mask features to queries: prototypes, projection, and what an image adds."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cliptrase_d2.methods.attention import attention_named
from cliptrase_d2.pipeline.settings import Method
from cliptrase_d2.san.image_queries import ImageQueries
from cliptrase_d2.san.query_projection import fit_projection, prototypes, query_embeddings
from cliptrase_d2.san.side_network import INITIAL_SCALE
from cliptrase_d2.san.split_tower import FirstBlocks, LastBlocks
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import tiny_clip


def clouds(*sizes: int, width: int = 8) -> torch.Tensor:
    """Features close to as many directions as there are sizes."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(width)[: len(sizes)]
    parts = [
        F.normalize(centre + 0.01 * torch.randn(size, width, generator=generator), dim=-1)
        for centre, size in zip(centres, sizes, strict=True)
    ]
    return torch.cat(parts)


def test_prototypes_are_the_centres_of_clouds_the_largest_first() -> None:
    found = prototypes(clouds(5, 20, 10), 3)
    assert found.argmax(dim=1).tolist() == [1, 2, 0]
    assert torch.allclose(found[0], clouds(5, 20, 10)[5:25].mean(0), atol=1e-5)


def test_fewer_masks_than_queries_are_refused() -> None:
    with pytest.raises(InputError, match=r"3 masks for 4 queries.*QUERY_INIT_IMAGES"):
        prototypes(clouds(3), 4)


@pytest.mark.parametrize("width", [4, 8, 24])
def test_projected_features_have_the_scale_of_untrained_queries(width: int) -> None:
    features = torch.randn(100, 8)
    queries = fit_projection(features, width)(features)
    assert queries.shape == (100, width)
    assert torch.isclose(queries.square().mean().sqrt(), torch.tensor(INITIAL_SCALE), rtol=1e-4)
    assert torch.allclose(queries.mean(0), torch.zeros(width), atol=1e-6)


def test_wide_queries_keep_every_distance() -> None:
    features = torch.randn(30, 8)
    queries = fit_projection(features, 24)(features)
    ratio = torch.pdist(queries) / torch.pdist(features)
    assert torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-4)


def test_narrow_queries_keep_the_directions_of_most_variance() -> None:
    features = torch.randn(200, 8) * torch.tensor([9.0, 5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    queries = fit_projection(features, 2)(features)
    expected = torch.pdist(features[:, :2])
    ratio = torch.pdist(queries) / expected
    assert (ratio.std() / ratio.mean()) < 0.05


def test_the_seed_turns_the_queries_and_nothing_else() -> None:
    features = torch.randn(50, 8)
    first, again, other = (fit_projection(features, 24, seed)(features) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    assert torch.allclose(torch.pdist(first), torch.pdist(other), atol=1e-6)


@pytest.mark.parametrize("features", [torch.ones(1, 8), torch.ones(5, 8)])
def test_masks_that_are_all_alike_are_refused(features: torch.Tensor) -> None:
    with pytest.raises(InputError, match="all alike"):
        fit_projection(features, 4)


def test_queries_stand_for_the_clouds() -> None:
    queries = query_embeddings(clouds(5, 20, 10), 3, 16)
    assert queries.shape == (1, 3, 16)
    assert torch.isclose(queries.square().mean().sqrt(), torch.tensor(INITIAL_SCALE), rtol=1e-4)


def image_queries() -> tuple[ImageQueries, FirstBlocks, LastBlocks]:
    clip = tiny_clip()
    queries = ImageQueries(
        32,
        24,
        method=Method(eps=0.5, min_samples=2, median_filter=1),
        attention=attention_named("qq_kk_vv"),
        correlation_block=-2,
    )
    return queries, FirstBlocks(clip.visual, 1), LastBlocks(clip.visual, 1)


def two_tone(left: float, right: float) -> torch.Tensor:
    image = torch.full((1, 3, 64, 96), float(left))
    image[..., 32:] = right
    return image


def test_an_image_that_starts_from_nothing_adds_nothing() -> None:
    queries, first, last = image_queries()
    assert queries(first(two_tone(-2, 2)), last, 6).abs().max() == 0


def test_each_mask_has_its_offset_and_the_rest_have_none() -> None:
    queries, first, last = image_queries()
    queries.start_from(fit_projection(torch.randn(40, 32), 24))
    features = first(torch.cat([two_tone(-2, 2), two_tone(0.5, 0.5)]))
    masks = [image.features for image in queries.image_masks(features, last)]
    offsets = queries(features, last, 6)
    assert len(masks[0]) >= 2
    for found, offset in zip(masks, offsets, strict=True):
        used = min(len(found), 6)
        assert torch.allclose(offset[:used], queries.projection(found[:used]), atol=1e-6)
        assert offset[used:].abs().max() == 0 if used < 6 else True


def test_more_masks_than_queries_keep_the_largest() -> None:
    queries, first, last = image_queries()
    queries.start_from(fit_projection(torch.randn(40, 32), 24))
    features = first(two_tone(-2, 2))
    assert torch.allclose(queries(features, last, 1), queries(features, last, 6)[:, :1], atol=1e-7)


def test_the_result_of_an_image_does_not_depend_on_its_company() -> None:
    queries, first, last = image_queries()
    both = queries.image_masks(first(torch.cat([two_tone(-2, 2), two_tone(1, -1)])), last)
    alone = queries.image_masks(first(two_tone(1, -1)), last)
    assert torch.allclose(both[1].features, alone[0].features, atol=1e-5)
    assert torch.equal(both[1].patches, alone[0].patches)


def test_each_patch_is_of_one_mask_and_the_largest_mask_comes_first() -> None:
    queries, first, last = image_queries()
    patches = queries.image_masks(first(two_tone(-2, 2)), last)[0].patches
    assert patches.sum(0).tolist() == [1] * 24
    assert patches.sum(1).tolist() == sorted(patches.sum(1).tolist(), reverse=True)


def test_the_linear_layer_is_trained_and_the_clusters_are_not() -> None:
    queries, first, last = image_queries()
    queries.start_from(fit_projection(torch.randn(40, 32), 24))
    queries(first(two_tone(-2, 2)), last, 6).sum().backward()
    assert queries.projection.bias.grad is not None
    assert queries.projection.weight.grad is not None
    assert first.positional_embedding.grad is None
