"""Initial queries from mask features: prototypes, projection, and offsets of each image."""

import pytest
import torch
import torch.nn.functional as F

from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.san.image_queries import ImageQueries
from cliptrase_d2.san.query_projection import find_prototypes, fit_projection, query_embeddings
from cliptrase_d2.san.side_network import INITIAL_SCALE
from cliptrase_d2.san.split_tower import BlockTokens, FirstBlocks, LastBlocks
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import tiny_clip

FIRST, LAST = FirstBlocks(tiny_clip().visual, 1), LastBlocks(tiny_clip().visual, 1)


def clouds(*sizes: int, width: int = 8) -> torch.Tensor:
    """Features near one direction per size."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(width)[: len(sizes)].repeat_interleave(torch.tensor(sizes), dim=0)
    return F.normalize(centres + 0.01 * torch.randn(centres.shape, generator=generator), dim=-1)


def root_mean_square(values: torch.Tensor) -> float:
    return values.square().mean().sqrt().item()


def test_prototypes_are_the_cloud_centres_with_the_largest_first() -> None:
    prototypes = find_prototypes(clouds(5, 20, 10), 3)
    assert prototypes.argmax(dim=1).tolist() == [1, 2, 0]
    assert torch.allclose(prototypes[0], clouds(5, 20, 10)[5:25].mean(0), atol=1e-5)


def test_fewer_masks_than_queries_are_rejected() -> None:
    with pytest.raises(InputError, match="3 masks for 4 queries"):
        find_prototypes(clouds(3), 4)


@pytest.mark.parametrize("width", [4, 8, 24])
def test_projection_has_the_scale_of_untrained_queries(width: int) -> None:
    features = torch.randn(100, 8)
    queries = fit_projection(features, width)(features)
    assert queries.shape == (100, width)
    assert root_mean_square(queries) == pytest.approx(INITIAL_SCALE, rel=1e-4)
    assert torch.allclose(queries.mean(0), torch.zeros(width), atol=1e-6)


def test_wide_projection_preserves_distances() -> None:
    features = torch.randn(30, 8)
    ratio = torch.pdist(fit_projection(features, 24)(features)) / torch.pdist(features)
    assert torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-4)


def test_narrow_projection_keeps_the_directions_of_most_variance() -> None:
    features = torch.randn(200, 8) * torch.tensor([9.0, 5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    ratio = torch.pdist(fit_projection(features, 2)(features)) / torch.pdist(features[:, :2])
    assert (ratio.std() / ratio.mean()) < 0.05


def test_seed_only_rotates_the_queries() -> None:
    features = torch.randn(50, 8)
    first, again, other = (fit_projection(features, 24, seed)(features) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    assert torch.allclose(torch.pdist(first), torch.pdist(other), atol=1e-6)


@pytest.mark.parametrize("count", [1, 5])
def test_identical_masks_are_rejected(count: int) -> None:
    with pytest.raises(InputError, match=rf"{count} masks"):
        fit_projection(torch.ones(count, 8), 4)


def test_query_embeddings_have_one_query_per_cloud() -> None:
    queries = query_embeddings(clouds(5, 20, 10), 3, 16)
    assert queries.shape == (1, 3, 16)
    assert root_mean_square(queries) == pytest.approx(INITIAL_SCALE, rel=1e-4)


@pytest.fixture
def queries() -> ImageQueries:
    queries = ImageQueries(32, 24, CLIPtraseSettings(eps=0.5, min_samples=2, median_filter=1))
    queries.start_from(fit_projection(torch.randn(40, 32), 24))
    return queries


def encode(*tones: tuple[float, float]) -> BlockTokens:
    """First blocks of the tower on images of two tones, left and right, with 4x6 patches."""
    images = torch.empty(len(tones), 3, 64, 96)
    for image, (left, right) in zip(images, tones, strict=True):
        image[..., :32], image[..., 32:] = left, right
    return FIRST(images)


def test_offsets_before_fitting_are_zero() -> None:
    assert ImageQueries(32, 24, CLIPtraseSettings())(encode((-2, 2)), LAST, 6).abs().max() == 0


def test_each_mask_has_an_offset_and_other_queries_none(queries: ImageQueries) -> None:
    features = encode((-2, 2), (0.5, 0.5))
    masks = [image.features[:6] for image in queries.image_masks(features, LAST)]
    assert len(masks[0]) >= 2
    for pooled, offset in zip(masks, queries(features, LAST, 6), strict=True):
        assert torch.allclose(offset[: len(pooled)], queries.projection(pooled), atol=1e-6)
        assert (offset[len(pooled) :] == 0).all()


def test_largest_masks_are_kept_if_queries_are_few(queries: ImageQueries) -> None:
    features = encode((-2, 2))
    assert torch.allclose(queries(features, LAST, 1), queries(features, LAST, 6)[:, :1], atol=1e-7)


def test_masks_do_not_depend_on_the_rest_of_the_batch(queries: ImageQueries) -> None:
    batch = queries.image_masks(encode((-2, 2), (1, -1)), LAST)
    alone = queries.image_masks(encode((1, -1)), LAST)
    assert torch.allclose(batch[1].features, alone[0].features, atol=1e-5)
    assert torch.equal(batch[1].patches, alone[0].patches)


def test_each_patch_is_in_one_mask_and_the_largest_mask_is_first(queries: ImageQueries) -> None:
    patches = queries.image_masks(encode((-2, 2)), LAST)[0].patches
    assert patches.sum(0).tolist() == [1] * 24
    assert patches.sum(1).tolist() == sorted(patches.sum(1).tolist(), reverse=True)


def test_only_the_linear_layer_is_trained(queries: ImageQueries) -> None:
    queries(encode((-2, 2)), LAST, 6).sum().backward()
    assert queries.projection.bias.grad is not None
    assert queries.projection.weight.grad is not None
    assert FIRST.positional_embedding.grad is None
