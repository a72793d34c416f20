"""The stages against what the published implementation gave on the first of its photographs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.pipeline.correlation import suppress_global_patches
from cliptrase_d2.pipeline.proposals import propose_masks
from cliptrase_d2.pipeline.settings import Method, PatchScene
from tests.pipeline import reference as plain

SCALE = torch.tensor(100.0)  # exp(ln 100), as the rebuilt weights have it
METHODS = {224: Method(eps=0.7, min_samples=3), 336: Method(eps=1.1, min_samples=7)}


class Stages:
    """One file of stages, read."""

    def __init__(self, folder: Path, side: int):
        with np.load(folder / f"stages_{side}.npz") as arrays:
            self.photograph = Path(str(arrays["image"])).stem
            visual, text, self.correlation, labels = (
                torch.from_numpy(arrays[name]) for name in ("visual", "text", "scr", "cluster_labels")
            )
        self.folder, self.side, self.labels = folder, side, labels[0].long()
        rows = suppress_global_patches(self.correlation[None])
        self.scene = PatchScene(visual[None, 1:], visual[None, 0], rows, (side // 16, side // 16))
        self.text = TextFeatures(text, torch.arange(len(text)), tuple(map(str, range(len(text)))))

    def label_map(self, run: str) -> Tensor:
        file = self.folder / f"{run}_{self.side}" / f"{self.photograph}.png"
        return torch.from_numpy(np.array(Image.open(file))).long()


@pytest.fixture(scope="module", params=[224, 336])
def stages(request: pytest.FixtureRequest, reference: Path) -> Stages:
    return Stages(reference / "cliptrase", request.param)


def test_the_denoised_correlation_is_that_of_the_formula(stages: Stages) -> None:
    assert torch.equal(stages.scene.correlation[0], plain.suppress_global_patches(stages.correlation))


def test_every_cluster_label_is_met(stages: Stages) -> None:
    assert torch.equal(METHODS[stages.side].cluster(stages.scene.correlation)[0], stages.labels)


def test_the_resolution_free_rule_nearly_meets_them(stages: Stages) -> None:
    found = Method(adaptive_dbscan=True).cluster(stages.scene.correlation)[0]
    assert (found == stages.labels).float().mean() >= 0.9


def test_the_soft_masks_are_those_of_the_formula(stages: Stages) -> None:
    size = (stages.side, stages.side)
    grid, rows = stages.scene.grid, stages.scene.correlation[0]
    (found,) = propose_masks(rows[None], stages.labels[None], grid, size)
    enlarged = plain.upsample(plain.cluster_maps(rows, stages.labels, grid), (4 * grid[0], 4 * grid[1]))
    expected = plain.upsample(plain.median_filter(enlarged, 7), size)
    torch.testing.assert_close(found.soft_masks(), expected, atol=1e-6, rtol=1e-5)
    assert (found.assignment == plain.first_argmax(expected)).float().mean() >= 0.9999


@pytest.mark.parametrize("run", ["plain", "voc20"])
def test_the_label_map_is_met(stages: Stages, run: str) -> None:
    method = replace(METHODS[stages.side], cls_logit_weight=run == "voc20")
    masks = method.propose(stages.scene, method.cluster(stages.scene.correlation), (stages.side, stages.side))
    logits = method.word_logits(stages.scene, stages.text, SCALE)
    found = method.classify(masks, logits, stages.text)[0].label_map
    assert (found == stages.label_map(run)).float().mean() >= 0.999
