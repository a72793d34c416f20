import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cliptrase_d2.pipeline import clustering
from cliptrase_d2.pipeline.clustering import NOISE, adaptive_parameters, dbscan, hdbscan_clusters
from tests.pipeline import reference


def on_a_line(*positions: float) -> Tensor:
    return torch.tensor(positions)[:, None]


def check_labels(rows: Tensor, eps: float, min_samples: int) -> list[int]:
    """Compare the labels with scikit-learn's and return them."""
    labels = dbscan(rows[None], eps, min_samples)[0]
    assert torch.equal(labels, reference.dbscan(rows, eps, min_samples))
    return labels.tolist()


@given(
    points=st.integers(1, 60),
    width=st.integers(1, 40),
    eps=st.floats(0.05, 3),
    min_samples=st.integers(1, 8),
    seed=st.integers(0, 10_000),
)
def test_labels_of_random_rows_equal_scikit_learns(
    points: int, width: int, eps: float, min_samples: int, seed: int
) -> None:
    rows = torch.randn(points, width, generator=torch.Generator().manual_seed(seed)) / math.sqrt(width)
    check_labels(rows, eps, min_samples)


@given(
    coordinates=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=50),
    eps=st.sampled_from([1.0, math.sqrt(2), 2.0, math.sqrt(5), 3.0]),
    min_samples=st.integers(1, 9),
)
def test_neighbours_at_exactly_eps_and_duplicates(
    coordinates: list[tuple[int, int]], eps: float, min_samples: int
) -> None:
    check_labels(torch.tensor(coordinates, dtype=torch.float32), eps, min_samples)


@pytest.mark.parametrize(("patches", "eps", "min_samples"), [(196, 0.7, 3), (441, 1.1, 7)])
def test_labels_of_correlation_like_rows_equal_scikit_learns(patches: int, eps: float, min_samples: int) -> None:
    for noise in (0.1, 0.2, 0.3, 0.4):
        group = torch.randint(9, (patches,))
        features = torch.randn(9, 32)[group] + noise * 3 * torch.randn(patches, 32)
        features = features / features.norm(dim=1, keepdim=True)
        check_labels((features @ features.T - 0.5).clamp_min(0), eps, min_samples)


LEFT, RIGHT = (1.0, 1.5, 2.0), (4.0, 4.5, 5.0)


@pytest.mark.parametrize(
    ("positions", "min_samples", "expected"),
    [
        # 0 1 2 and 10 11 12 are chains of steps of 1; 5 is alone.
        pytest.param((10, 0, 5, 11, 1, 2, 12), 2, [0, 1, NOISE, 0, 1, 1, 0], id="two clusters"),
        # 2 and 4 are core points with 4 neighbours. 3 is within eps of both and no core point.
        pytest.param((*LEFT, 3, *RIGHT), 4, [0, 0, 0, 0, 1, 1, 1], id="border point, left first"),
        pytest.param((*RIGHT, 3, *LEFT), 4, [0, 0, 0, 0, 1, 1, 1], id="border point, right first"),
        pytest.param((3, *RIGHT, *LEFT), 4, [0, 0, 0, 0, 1, 1, 1], id="border point first"),
        # Point 0 is a border point of the second cluster, whose core points follow those of the first.
        pytest.param((12.25, 0, 0.5, 1, 10.5, 11, 11.5), 3, [1, 0, 0, 0, 1, 1, 1], id="numbered by core points"),
        pytest.param((0, 2, 4, 6), 2, [NOISE] * 4, id="all noise"),
        pytest.param((3, 3, 3, 3, 3), 5, [0] * 5, id="one cluster"),
        pytest.param((1,), 1, [0], id="one dense point"),
        pytest.param((1,), 2, [NOISE], id="one point"),
    ],
)
def test_labels_by_hand(positions: tuple[float, ...], min_samples: int, expected: list[int]) -> None:
    assert check_labels(on_a_line(*positions), 1.0, min_samples) == expected


def test_every_point_is_its_own_neighbour_despite_rounding() -> None:
    # |x|² is 1e14 here, and its rounding is far above eps².
    rows = 1e6 * torch.randn(30, 100)
    assert dbscan(rows[None], 1e-3, 1)[0].tolist() == list(range(30))


@pytest.mark.parametrize("length", [2, 3, 100, 600])
def test_a_long_shuffled_chain_is_one_cluster(length: int) -> None:
    assert check_labels(torch.randperm(length).float()[:, None], 1.0, 2) == [0] * length


def test_many_shuffled_chains_stay_separate() -> None:
    chains = torch.cat([torch.arange(40.0) + 100 * chain for chain in range(7)])
    assert set(check_labels(chains[torch.randperm(len(chains))][:, None], 1.0, 3)) == set(range(7))


def test_a_batch_equals_its_images_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = torch.randint(5, (5, 30, 2)).float()
    one_by_one = torch.cat([dbscan(image[None], 1.0, 3) for image in batch])
    assert torch.equal(dbscan(batch, 1.0, 3), one_by_one)
    monkeypatch.setattr(clustering, "_DISTANCE_BYTES", 2 * 8 * 30 * 30)  # two images at a time
    assert torch.equal(dbscan(batch, 1.0, 3), one_by_one)
    assert dbscan(batch[:0], 1.0, 3).shape == (0, 30)


def test_autocast_does_not_change_the_labels() -> None:
    rows = torch.randn(1, 50, 20)
    with torch.autocast("cpu", torch.bfloat16):
        labels = dbscan(rows, 5.0, 3)
    assert torch.equal(labels, dbscan(rows, 5.0, 3))


# The paper has 0.7 and 3 at 196 patches, 1.1 and 7 at 441.
@pytest.mark.parametrize(("points", "eps", "min_samples"), [(196, 0.7, 3), (441, 1.05, 7), (1, 0.05, 2)])
def test_adaptive_parameters(points: int, eps: float, min_samples: int) -> None:
    assert adaptive_parameters(points) == (pytest.approx(eps), min_samples)


def test_hdbscan_numbers_clusters_by_their_smallest_member() -> None:
    blobs = torch.randn(30, 3) * 0.1
    second = torch.arange(30) % 3 > 0  # the first point is in the first blob
    blobs[second] += 10
    labels = hdbscan_clusters(torch.stack([blobs, -blobs]), 5)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, second.long().expand(2, -1))


def test_hdbscan_does_not_number_noise() -> None:
    first, second = torch.randn(2, 15, 2) * 0.1
    rows = torch.cat([torch.tensor([[500.0, -500.0]]), second + 10, first])
    assert hdbscan_clusters(rows[None], 5)[0].tolist() == [NOISE] + [0] * 15 + [1] * 15


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite_are_noise_and_do_not_change_others(value: float) -> None:
    blobs = torch.randn(30, 3) * 0.1
    blobs[1::2] += 10
    rows = torch.cat([blobs[:4], torch.tensor([[0.0, value, 0.0]]), blobs[4:]])
    for labels in (hdbscan_clusters(torch.stack([rows] * 2), 5), dbscan(torch.stack([rows] * 2), 2.0, 3)):
        assert labels.tolist() == [[0, 1, 0, 1, NOISE] + [0, 1] * 13] * 2


@pytest.mark.parametrize("points", [1, 3, 5])
def test_hdbscan_of_no_more_points_than_a_cluster_is_noise(points: int) -> None:
    assert hdbscan_clusters(torch.randn(2, points, 4), 5).tolist() == [[NOISE] * points] * 2
    assert hdbscan_clusters(torch.randn(1, 6, 4), 5).shape == (1, 6)
