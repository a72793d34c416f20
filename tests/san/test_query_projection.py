"""Initial queries from mask features: prototypes and projection."""

import pytest
import torch
import torch.nn.functional as F

from cliptrase_d2.san.query_projection import find_prototypes, fit_projection, query_embeddings
from cliptrase_d2.san.side_network import INITIAL_SCALE
from cliptrase_d2.utils.errors import InputError


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
