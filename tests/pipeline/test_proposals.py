import pytest
import torch
from torch import Tensor

from cliptrase_d2.pipeline.proposals import MaskProposals, cluster_maps, mask_average_pooling, propose_masks
from tests.pipeline import reference


def correlation_and_labels(grid: tuple[int, int], clusters: int) -> tuple[Tensor, Tensor]:
    patches = grid[0] * grid[1]
    labels = torch.randint(-1, clusters, (patches,))
    labels[:clusters] = torch.arange(clusters)  # none of them is empty
    return torch.rand(patches, patches), labels


def test_cluster_maps_by_hand_leave_noise_out() -> None:
    correlation = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    labels = torch.tensor([[0, -1], [-1, -1], [1, 0], [0, 0]])
    clusters = cluster_maps(correlation.expand(4, 2, 2), labels, (1, 2))
    assert clusters.maps.tolist() == [[[1.0, 0.5]], [[0.5, 1.0]], [[1.0, 0.5]], [[0.75, 0.75]]]
    assert clusters.counts == [1, 0, 2, 1]
    assert (clusters.image.tolist(), clusters.cluster.tolist()) == ([0, 2, 2, 3], [0, 0, 1, 0])


@pytest.mark.parametrize(("upsample", "filter_size"), [(4, 7), (1, 1), (2, 3), (1, 5)])
@pytest.mark.parametrize(("grid", "size"), [((6, 6), (96, 96)), ((4, 7), (61, 100)), ((5, 3), (7, 4))])
def test_masks_equal_those_of_dense_upsampling(
    grid: tuple[int, int], size: tuple[int, int], upsample: int, filter_size: int
) -> None:
    correlation, labels = correlation_and_labels(grid, 5)
    (masks,) = propose_masks(correlation[None], labels[None], grid, size, upsample=upsample, filter_size=filter_size)
    maps = reference.cluster_maps(correlation, labels, grid)
    enlarged = reference.upsample(maps, (upsample * grid[0], upsample * grid[1]))
    torch.testing.assert_close(masks.coarse, reference.median_filter(enlarged, filter_size))
    soft = reference.upsample(masks.coarse, size)
    torch.testing.assert_close(masks.soft_masks(), soft)
    assert torch.equal(masks.assignment, reference.first_argmax(soft))
    assert len(masks) == 5


def test_every_pixel_belongs_to_one_mask_noise_patches_too() -> None:
    # Patches 0-1 and 4-5 are clusters. 2 and 3 are noise, each more similar to one side.
    labels = torch.tensor([0, 0, -1, -1, 1, 1])
    left, right = torch.tensor([1.0, 1.0, 0.5, 0.25, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.25, 0.5, 1.0, 1.0])
    correlation = torch.stack([left, left, left, right, right, right])
    (masks,) = propose_masks(correlation[None], labels[None], (1, 6), (1, 6), upsample=1, filter_size=1)
    assert masks.assignment.tolist() == [[0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize(("labels", "count"), [([-1] * 6, 0), ([-1, 0, 0, -1, 0, -1], 1)])
def test_all_noise_and_one_cluster(labels: list[int], count: int) -> None:
    (masks,) = propose_masks(torch.rand(1, 6, 6), torch.tensor([labels]), (2, 3), (20, 30))
    assert len(masks) == count
    assert masks.soft_masks().shape == (count, 20, 30)
    assert torch.equal(masks.assignment, torch.zeros(20, 30, dtype=torch.int64))


def test_a_mask_may_have_no_pixel() -> None:
    # The row of cluster 1 is below that of cluster 0 everywhere.
    correlation = torch.tensor([[0.9, 0.8], [0.1, 0.2]])
    (masks,) = propose_masks(correlation[None], torch.tensor([[0, 1]]), (1, 2), (4, 8))
    assert len(masks) == 2
    assert masks.assignment.eq(0).all()


def test_a_grid_of_one_patch() -> None:
    (masks,) = propose_masks(torch.ones(1, 1, 1), torch.tensor([[0]]), (1, 1), (16, 16), upsample=1, filter_size=7)
    assert masks.soft_masks().eq(1).all()


def test_a_batch_equals_its_images_one_by_one() -> None:
    # Four clusters, all noise, one cluster, and two.
    scenes = [correlation_and_labels((5, 6), clusters) for clusters in (4, 1, 1, 2)]
    correlation, labels = (torch.stack(tensors) for tensors in zip(*scenes, strict=True))
    labels[1] = -1
    batch = propose_masks(correlation, labels, (5, 6), (40, 50))
    assert [len(masks) for masks in batch] == [4, 0, 1, 2]
    for index, masks in enumerate(batch):
        (alone,) = propose_masks(correlation[[index]], labels[[index]], (5, 6), (40, 50))
        torch.testing.assert_close(masks.coarse, alone.coarse)
        assert torch.equal(masks.assignment, alone.assignment)


def test_a_negative_mask_wins_against_the_padding_of_a_batch() -> None:
    # Inner products can be negative. The other image has two masks, so this one is padded.
    correlation = torch.stack([torch.full((2, 2), -1.0), torch.eye(2)])
    negative, other = propose_masks(correlation, torch.tensor([[0, 0], [0, 1]]), (1, 2), (4, 8))
    assert negative.assignment.eq(0).all()
    assert other.assignment[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_pooling_weighs_the_features_by_the_soft_masks() -> None:
    masks, features = torch.rand(4, 3, 5), torch.randn(3, 5, 6)
    expected = reference.mask_average_pooling(masks.flatten(1), features.flatten(0, 1))
    for scale in (1, 1e-6):  # small weights give the same mean
        pooled = mask_average_pooling(scale * masks, features)
        torch.testing.assert_close(pooled.double(), expected, atol=1e-6, rtol=1e-5)


def test_pooling_by_hand() -> None:
    # (1·2 + 3·6) / 4 = 5, and the zero vector for an empty mask.
    masks, features = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[2.0], [6.0]])
    assert mask_average_pooling(masks, features).tolist() == [[5.0], [0.0]]
    assert mask_average_pooling(masks[:1] > 2, features).tolist() == [[6.0]]
    assert mask_average_pooling(masks[:0], features).shape == (0, 1)


def test_pooling_rejects_masks_of_other_positions() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 2\).*\(2, 3, 4\)"):
        mask_average_pooling(torch.ones(1, 3, 2), torch.ones(2, 3, 4))


def test_pixels_in_no_mask_are_in_no_region() -> None:
    assignment = torch.tensor([[0, 1], [1, 1]])
    two, none = torch.zeros(2, 1, 1), torch.zeros(0, 1, 1)
    is_gap = torch.tensor([[False, False], [True, False]])
    assert MaskProposals(two, assignment).regions().tolist() == [[0, 1], [1, 1]]
    assert MaskProposals(two, assignment, is_gap=is_gap).regions().tolist() == [[0, 1], [-1, 1]]
    assert MaskProposals(none, torch.zeros_like(assignment)).regions().tolist() == [[-1, -1], [-1, -1]]
