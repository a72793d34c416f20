"""The stages against the published implementation's results for the first of its photographs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cliptrase_d2.clip.tokens import DenseFeatures, TextFeatures
from cliptrase_d2.pipeline import stages
from cliptrase_d2.pipeline.correlation import suppress_global_patches
from cliptrase_d2.pipeline.proposals import propose_masks
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from tests.pipeline import reference as plain

SETTINGS = {224: CLIPtraseSettings(eps=0.7, min_samples=3), 336: CLIPtraseSettings(eps=1.1, min_samples=7)}


class Published:
    """Published results of all stages for images of one size."""

    def __init__(self, folder: Path, side: int):
        with np.load(folder / f"stages_{side}.npz") as arrays:
            self.photograph = Path(str(arrays["image"])).stem
            visual, text, self.correlation, labels = (
                torch.from_numpy(arrays[name]) for name in ("visual", "text", "scr", "cluster_labels")
            )
        self.folder, self.side, self.grid, self.labels = folder, side, (side // 16, side // 16), labels[:1].long()
        self.rows = suppress_global_patches(self.correlation[None])
        self.features = DenseFeatures(visual[None, 1:], self.grid, visual[None, 0])
        self.text = TextFeatures(text, torch.arange(len(text)), tuple(map(str, range(len(text)))))

    def label_map(self, run: str) -> Tensor:
        file = self.folder / f"{run}_{self.side}" / f"{self.photograph}.png"
        return torch.from_numpy(np.array(Image.open(file))).long()


@pytest.fixture(scope="module", params=[224, 336])
def published(request: pytest.FixtureRequest, reference: Path) -> Published:
    return Published(reference / "cliptrase", request.param)


def test_denoised_correlation(published: Published) -> None:
    assert torch.equal(published.rows[0], plain.suppress_global_patches(published.correlation))


def test_all_cluster_labels_equal_the_published_ones(published: Published) -> None:
    assert torch.equal(stages.cluster(published.rows, SETTINGS[published.side]), published.labels)
    adaptive = stages.cluster(published.rows, CLIPtraseSettings(adaptive_dbscan=True))
    assert (adaptive == published.labels).float().mean() >= 0.9


def test_soft_masks(published: Published) -> None:
    size, grid, rows = (published.side, published.side), published.grid, published.rows
    (masks,) = propose_masks(rows, published.labels, grid, size)
    enlarged = plain.upsample(plain.cluster_maps(rows[0], published.labels[0], grid), (4 * grid[0], 4 * grid[1]))
    expected = plain.upsample(plain.median_filter(enlarged, 7), size)
    torch.testing.assert_close(masks.soft_masks(), expected, atol=1e-6, rtol=1e-5)
    assert (masks.assignment == plain.first_argmax(expected)).float().mean() >= 0.9999


@pytest.mark.parametrize("run", ["plain", "voc20"])
def test_label_map(published: Published, run: str) -> None:
    settings = replace(SETTINGS[published.side], cls_logit_weight=run == "voc20")
    rows, size = published.rows, (published.side, published.side)
    masks = stages.propose(rows, stages.cluster(rows, settings), published.grid, [size], settings)
    logits = stages.compute_word_logits(published.features, published.text, 100.0, settings)
    (prediction,) = stages.classify_masks(masks, logits, published.text, settings)
    assert (prediction.label_map == published.label_map(run)).float().mean() >= 0.999
