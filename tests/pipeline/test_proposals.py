from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cliptrase_d2.pipeline.proposals import cluster_maps, propose_masks
from tests.pipeline import reference


def correlation_and_labels(grid: tuple[int, int], clusters: int) -> tuple[Tensor, Tensor]:
    patches = grid[0] * grid[1]
    labels = torch.randint(-1, clusters, (patches,))
    labels[:clusters] = torch.arange(clusters)  # none of them is empty
    return torch.rand(patches, patches), labels


def test_cluster_maps_are_mean_rows() -> None:
    correlation, labels = correlation_and_labels((3, 5), 4)
    found = cluster_maps(correlation[None], labels[None], (3, 5))
    assert found.maps.shape == (4, 3, 5)
    assert found.counts == [4]
    torch.testing.assert_close(found.maps, reference.cluster_maps(correlation, labels, (3, 5)))


def test_cluster_maps_by_hand_leave_noise_out() -> None:
    correlation = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    labels = torch.tensor([[0, -1], [-1, -1], [1, 0], [0, 0]])
    found = cluster_maps(correlation.expand(4, 2, 2), labels, (1, 2))
    assert found.maps.tolist() == [[[1.0, 0.5]], [[0.5, 1.0]], [[1.0, 0.5]], [[0.75, 0.75]]]
    assert found.counts == [1, 0, 2, 1]
    assert (found.image.tolist(), found.cluster.tolist()) == ([0, 2, 2, 3], [0, 0, 1, 0])


@pytest.mark.parametrize(("upsample", "filter_size"), [(4, 7), (1, 1), (2, 3), (1, 5)])
@pytest.mark.parametrize(("grid", "size"), [((6, 6), (96, 96)), ((4, 7), (61, 100)), ((5, 3), (7, 4))])
def test_masks_are_those_of_dense_upsampling(
    grid: tuple[int, int], size: tuple[int, int], upsample: int, filter_size: int
) -> None:
    correlation, labels = correlation_and_labels(grid, 5)
    (found,) = propose_masks(correlation[None], labels[None], grid, size, upsample=upsample, filter_size=filter_size)
    maps = reference.cluster_maps(correlation, labels, grid)
    enlarged = reference.upsample(maps, (upsample * grid[0], upsample * grid[1]))
    smooth = reference.median_filter(enlarged, filter_size)
    torch.testing.assert_close(found.coarse, smooth)
    soft = reference.upsample(found.coarse, size)
    torch.testing.assert_close(found.soft_masks(), soft)
    assert torch.equal(found.assignment, reference.first_argmax(soft))
    assert len(found) == 5


def test_every_pixel_belongs_to_one_mask_noise_patches_too() -> None:
    # Patches 0-1 and 4-5 are clusters, 2 and 3 noise, each with a leaning to one side.
    labels = torch.tensor([0, 0, -1, -1, 1, 1])
    left, right = torch.tensor([1.0, 1.0, 0.5, 0.25, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.25, 0.5, 1.0, 1.0])
    correlation = torch.stack([left, left, left, right, right, right])
    (found,) = propose_masks(correlation[None], labels[None], (1, 6), (1, 6), upsample=1, filter_size=1)
    assert found.assignment.tolist() == [[0, 0, 0, 1, 1, 1]]


def test_all_noise_gives_no_masks() -> None:
    (found,) = propose_masks(torch.rand(1, 6, 6), torch.full((1, 6), -1), (2, 3), (20, 30))
    assert len(found) == 0
    assert found.soft_masks().shape == (0, 20, 30)
    assert found.assignment.shape == (20, 30)
    assert found.assignment.eq(0).all()


def test_one_cluster_takes_the_whole_image() -> None:
    labels = torch.tensor([[-1, 0, 0, -1, 0, -1]])
    (found,) = propose_masks(torch.rand(1, 6, 6), labels, (2, 3), (20, 30))
    assert len(found) == 1
    assert found.soft_masks().shape == (1, 20, 30)
    assert found.assignment.eq(0).all()


def test_a_mask_may_win_no_pixel() -> None:
    # The row of cluster 1 is below that of cluster 0 everywhere.
    correlation = torch.tensor([[0.9, 0.8], [0.1, 0.2]])
    (found,) = propose_masks(correlation[None], torch.tensor([[0, 1]]), (1, 2), (4, 8))
    assert len(found) == 2
    assert found.assignment.eq(0).all()


def test_a_grid_of_one_patch() -> None:
    (found,) = propose_masks(torch.ones(1, 1, 1), torch.tensor([[0]]), (1, 1), (16, 16), upsample=1, filter_size=7)
    assert found.soft_masks().eq(1).all()


def test_images_of_a_batch_have_the_masks_that_they_have_alone() -> None:
    # Four clusters, all noise, one cluster, two: those with fewer must not see the others' number.
    scenes = [correlation_and_labels((5, 6), clusters) for clusters in (4, 1, 1, 2)]
    correlation = torch.stack([rows for rows, _ in scenes])
    labels = torch.stack([of for _, of in scenes])
    labels[1] = -1
    together = propose_masks(correlation, labels, (5, 6), (40, 50))
    assert [len(masks) for masks in together] == [4, 0, 1, 2]
    for index, masks in enumerate(together):
        (alone,) = propose_masks(correlation[[index]], labels[[index]], (5, 6), (40, 50))
        torch.testing.assert_close(masks.coarse, alone.coarse)
        assert torch.equal(masks.assignment, alone.assignment)


def test_a_mask_below_zero_everywhere_still_takes_its_pixels() -> None:
    # Inner products can be negative; the image beside it has two masks, so this one is filled up.
    correlation = torch.stack([torch.full((2, 2), -1.0), torch.eye(2)])
    negative, other = propose_masks(correlation, torch.tensor([[0, 0], [0, 1]]), (1, 2), (4, 8))
    assert negative.assignment.eq(0).all()
    assert other.assignment[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
