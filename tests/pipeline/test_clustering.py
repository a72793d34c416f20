from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cliptrase_d2.pipeline import clustering
from cliptrase_d2.pipeline.clustering import NOISE, adaptive_dbscan, dbscan, hdbscan_clusters
from tests.pipeline import reference


def on_a_line(*positions: float) -> Tensor:
    return torch.tensor(positions)[:, None]


def labels_of(rows: Tensor, eps: float, min_samples: int) -> list[int]:
    found = dbscan(rows[None], eps, min_samples)[0]
    assert torch.equal(found, reference.dbscan(rows, eps, min_samples))
    return found.tolist()


@given(
    points=st.integers(1, 60),
    width=st.integers(1, 40),
    eps=st.floats(0.05, 3),
    min_samples=st.integers(1, 8),
    seed=st.integers(0, 10_000),
)
def test_random_rows_get_scikit_learns_labels(points: int, width: int, eps: float, min_samples: int, seed: int) -> None:
    rows = torch.randn(points, width, generator=torch.Generator().manual_seed(seed)) / math.sqrt(width)
    labels_of(rows, eps, min_samples)


@given(
    coordinates=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=50),
    eps=st.sampled_from([1.0, math.sqrt(2), 2.0, math.sqrt(5), 3.0]),
    min_samples=st.integers(1, 9),
)
def test_neighbours_exactly_at_the_rim_and_duplicates_get_scikit_learns_labels(
    coordinates: list[tuple[int, int]], eps: float, min_samples: int
) -> None:
    labels_of(torch.tensor(coordinates, dtype=torch.float32), eps, min_samples)


@pytest.mark.parametrize(("patches", "eps", "min_samples"), [(196, 0.7, 3), (441, 1.1, 7)])
def test_rows_like_those_of_the_method_get_scikit_learns_labels(patches: int, eps: float, min_samples: int) -> None:
    for noise in (0.1, 0.2, 0.3, 0.4):
        group = torch.randint(9, (patches,))
        features = torch.randn(9, 32)[group] + noise * 3 * torch.randn(patches, 32)
        features = features / features.norm(dim=1, keepdim=True)
        rows = (features @ features.T - 0.5).clamp_min(0)
        labels_of(rows, eps, min_samples)


def test_two_clusters_by_hand() -> None:
    # 0 1 2 and 10 11 12 are chains of steps of 1; 5 is alone.
    assert labels_of(on_a_line(10, 0, 5, 11, 1, 2, 12), 1.0, 2) == [0, 1, NOISE, 0, 1, 1, 0]


def test_a_border_point_between_two_clusters_joins_the_smallest_numbered() -> None:
    # With 4 to be dense, 2 and 4 are core points and 3, in reach of both, is not.
    left, right = (1.0, 1.5, 2.0), (4.0, 4.5, 5.0)
    assert labels_of(on_a_line(*left, 3, *right), 1.0, 4) == [0, 0, 0, 0, 1, 1, 1]
    assert labels_of(on_a_line(*right, 3, *left), 1.0, 4) == [0, 0, 0, 0, 1, 1, 1]
    assert labels_of(on_a_line(3, *right, *left), 1.0, 4) == [0, 0, 0, 0, 1, 1, 1]


def test_a_cluster_is_numbered_by_its_smallest_core_point_not_by_its_border() -> None:
    # Point 0 is a border point of the second cluster: that one's core points come after those of the first.
    assert labels_of(on_a_line(12.25, 0, 0.5, 1, 10.5, 11, 11.5), 1.0, 3) == [1, 0, 0, 0, 1, 1, 1]


def test_all_noise() -> None:
    assert labels_of(on_a_line(0, 2, 4, 6), 1.0, 2) == [NOISE] * 4


def test_one_cluster() -> None:
    assert labels_of(torch.zeros(5, 3), 0.5, 5) == [0] * 5


def test_a_single_point_is_dense_only_by_itself() -> None:
    assert labels_of(torch.ones(1, 4), 0.5, 1) == [0]
    assert labels_of(torch.ones(1, 4), 0.5, 2) == [NOISE]


def test_every_point_is_near_itself_however_large_the_numbers() -> None:
    # |x|² is 1e14 here: its rounding is far above eps², so a point's distance to itself must not be computed.
    rows = 1e6 * torch.randn(30, 100)
    assert dbscan(rows[None], 1e-3, 1)[0].tolist() == list(range(30))


@pytest.mark.parametrize("length", [2, 3, 100, 600])
def test_a_long_shuffled_chain_is_one_cluster(length: int) -> None:
    assert labels_of(torch.randperm(length).float()[:, None], 1.0, 2) == [0] * length


def test_many_shuffled_chains_keep_apart() -> None:
    chains = torch.cat([torch.arange(40.0) + 100 * chain for chain in range(7)])
    found = labels_of(chains[torch.randperm(len(chains))][:, None], 1.0, 3)
    assert set(found) == set(range(7))


def test_a_batch_equals_its_images_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = torch.randint(5, (5, 30, 2)).float()
    one_by_one = torch.cat([dbscan(image[None], 1.0, 3) for image in batch])
    assert torch.equal(dbscan(batch, 1.0, 3), one_by_one)
    monkeypatch.setattr(clustering, "_DISTANCE_BYTES", 2 * 8 * 30 * 30)  # two images at a time
    assert torch.equal(dbscan(batch, 1.0, 3), one_by_one)


def test_a_batch_of_no_images_has_no_labels() -> None:
    assert dbscan(torch.zeros(0, 6, 6), 1.0, 3).shape == (0, 6)


def test_autocast_does_not_move_the_rim() -> None:
    rows = torch.randn(1, 50, 20)
    with torch.autocast("cpu", torch.bfloat16):
        found = dbscan(rows, 5.0, 3)
    assert torch.equal(found, dbscan(rows, 5.0, 3))


@pytest.mark.parametrize(("points", "eps", "min_samples"), [(196, 0.7, 3), (441, 1.1, 7)])
def test_the_resolution_free_rule_meets_the_papers_two_settings(points: int, eps: float, min_samples: int) -> None:
    found = adaptive_dbscan(points)
    assert round(found[0], 1) == eps
    assert found[1] == min_samples


def test_the_resolution_free_rule_asks_for_two_points_at_least() -> None:
    assert adaptive_dbscan(1) == (0.05, 2)


def test_hdbscan_finds_two_blobs_numbered_by_their_smallest_member() -> None:
    blobs = torch.randn(30, 3) * 0.1
    second = torch.arange(30) % 3 > 0  # the first point is in the first blob
    blobs[second] += 10
    found = hdbscan_clusters(torch.stack([blobs, -blobs]), 5)
    assert found.dtype == torch.int64
    assert torch.equal(found, second.long().expand(2, -1))


def test_hdbscan_numbers_around_noise() -> None:
    first, second = torch.randn(2, 15, 2) * 0.1
    rows = torch.cat([torch.tensor([[500.0, -500.0]]), second + 10, first])
    assert hdbscan_clusters(rows[None], 5)[0].tolist() == [NOISE] + [0] * 15 + [1] * 15


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_no_numbers_are_noise_and_change_no_other(value: float) -> None:
    blobs = torch.randn(30, 3) * 0.1
    blobs[1::2] += 10
    spoilt = torch.cat([blobs[:4], torch.tensor([[0.0, value, 0.0]]), blobs[4:]])
    for labels in (hdbscan_clusters(torch.stack([spoilt] * 2), 5), dbscan(torch.stack([spoilt] * 2), 2.0, 3)):
        assert labels.tolist() == [[0, 1, 0, 1, NOISE] + [0, 1] * 13] * 2


@pytest.mark.parametrize("points", [1, 3, 5])
def test_hdbscan_of_no_more_points_than_a_cluster_is_all_noise(points: int) -> None:
    assert hdbscan_clusters(torch.randn(2, points, 4), 5).tolist() == [[NOISE] * points] * 2


def test_hdbscan_of_one_point_more_than_a_cluster_runs() -> None:
    assert hdbscan_clusters(torch.randn(1, 6, 4), 5).shape == (1, 6)
