"""Clusters of CLIP's own correlation."""

import torch

from cliptrase_d2.mask_sources import CorrelationClusters, MaskInputs
from cliptrase_d2.pipeline import stages
from cliptrase_d2.pipeline.settings import CLIPtraseSettings


def test_masks_are_those_of_the_stages() -> None:
    settings, sizes = CLIPtraseSettings(eps=0.6, min_samples=2), [(33, 50), (48, 64)]
    rows = torch.eye(4).repeat_interleave(3, 0).repeat_interleave(3, 1).expand(2, 12, 12)  # four kinds of patches
    rows = rows + torch.cat([torch.zeros(1, 12, 12), torch.rand(1, 12, 12)])  # noise in the second image
    clusters = stages.cluster(rows, settings)
    expected = stages.propose(rows, clusters, (3, 4), sizes, settings)
    inputs = MaskInputs((3, 4), sizes, settings, torch.device("cpu"), rows)
    for masks, expected_masks in zip(CorrelationClusters()(inputs), expected, strict=True):
        assert torch.equal(masks.assignment, expected_masks.assignment)
        assert torch.equal(masks.coarse, expected_masks.coarse)
    assert len(expected[0]) == 4
