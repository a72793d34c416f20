"""The truth on the grid of patches."""

import torch

from cliptrase_d2.pipeline.regions import patch_regions


def test_the_most_frequent_label_of_a_patch() -> None:
    labels = torch.tensor([[1, 1, 2, 255], [1, 3, 255, 255]])
    assert patch_regions(labels, (1, 2), 2).tolist() == [1, 255]


def test_among_equals_the_smallest() -> None:
    assert patch_regions(torch.tensor([[7, 3], [3, 7]]), (1, 1), 2).tolist() == [3]


def test_labels_of_any_size_and_a_grid_that_is_no_square() -> None:
    labels = torch.arange(6).view(2, 3).repeat_interleave(50, 0).repeat_interleave(70, 1)  # 100×210 pixels
    assert patch_regions(labels, (2, 3), 8).tolist() == [0, 1, 2, 3, 4, 5]


def test_labels_of_16_bits_stay_what_they_are() -> None:
    assert patch_regions(torch.full((4, 4), 65535), (2, 2), 2).tolist() == [65535] * 4
