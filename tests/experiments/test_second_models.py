"""The comparison of methods with a second vision model: its training, its measure, and one run of the tiny model."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.vision_models import load_vit
from experiments import second_models
from experiments.second_models import GRID, PATCH, PIXELS, SHIFT
from tests.drawn_scenes import CLASSES, write_scenes


def test_views_overlap_by_their_shift() -> None:
    side = PIXELS + SHIFT + 4
    canvas = np.arange(side * side, dtype=np.int64).reshape(1, side, side, 1).repeat(3, 3)
    first, second, shift = second_models.cut_views(canvas, np.random.default_rng(0))
    for one, other, (down, right) in zip(first, second, (shift * PATCH).int().tolist(), strict=True):
        assert abs(down) <= SHIFT
        rows, columns = (slice(max(0, by), PIXELS + min(0, by)) for by in (down, right))
        moved = (slice(max(0, -by), PIXELS - max(0, by)) for by in (down, right))
        assert torch.equal(one[:, rows, columns], other[(slice(None), *moved)])


def test_colours_stay_in_range_and_images_differ_in_their_changes() -> None:
    images = torch.full((2, 3, 4, 4), 200, dtype=torch.uint8)
    images[:, :, 0] = 0
    changed = second_models.change_colours(images, torch.Generator().manual_seed(0))
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 255
    assert not torch.equal(changed[0], changed[1])


def test_the_loss_is_low_where_the_features_of_the_same_place_are_alike() -> None:
    images, shift = 2, torch.tensor([[0.0, 0.0], [2.0, -1.0]])
    generator = torch.Generator().manual_seed(0)
    world = torch.randn(images, 3, 3, 64, generator=generator)  # coarse, so that near places are alike

    def look(index: int, down: float, right: float) -> torch.Tensor:
        maps = F.interpolate(world[index].movedim(2, 0)[None], (GRID + 8, GRID + 8), mode="bilinear")[0]
        return maps[:, 4 + int(down) :, 4 + int(right) :][:, :GRID, :GRID].flatten(1).T

    views = [look(index, 0, 0) for index in range(images)] + [
        look(index, *shift[index].tolist()) for index in range(images)
    ]
    features = F.normalize(torch.stack(views), dim=-1)

    def loss(one: torch.Tensor, by: torch.Tensor) -> float:
        return float(second_models.contrast(one, by, torch.Generator().manual_seed(1)))

    right = loss(features, shift)
    assert right < loss(features, shift.flip(0))
    assert right < loss(features[[0, 1, 3, 2]], shift)


def test_the_area_under_the_curve_is_that_of_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, 50).astype(np.float32)
    is_positive = rng.random(50) < 0.4
    assert second_models.roc_area(scores, is_positive) == pytest.approx(roc_auc_score(is_positive, scores))


def test_a_short_run_trains_evaluates_and_writes_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scenes(tmp_path, 2)
    name = f"scenes_{tmp_path.name}"
    dataset = register_dataset(name, tmp_path / "images", CLASSES, tmp_path / "annotations")
    for name, value in {"MEASURED": 2, "BATCH": 2, "ANCHORS": 8}.items():
        monkeypatch.setattr(second_models, name, value)
    names = ("maskclip", "proxyclip", "lposs")
    monkeypatch.setattr(second_models, "CASES", {name: second_models.CASES[name] for name in names})
    options = ["DATASETS.TEST", f"('{dataset}',)", "DATALOADER.NUM_WORKERS", "0"]
    words = ["--output", str(tmp_path), "--steps", "2", "--canvases", "2", "--", *options]
    monkeypatch.setattr(sys, "argv", ["second_models.py", *words])
    second_models.main()
    text = (tmp_path / "second_models.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    assert [row[0] for row in rows[1:5]] == [
        "mean colours of patches",
        "Emoji CLIP, q, k and v",
        "ViT, random",
        "ViT, trained",
    ]
    assert [row[:2] for row in rows[6:]] == [
        ["maskclip", "none"],
        *([name, model] for name in names[1:] for model in ("random", "trained")),
    ]
    file = tmp_path / f"{second_models.NAME}.safetensors"
    random, trained = (load_vit(second_models.NAME, weights) for weights in ("", str(file)))
    pairs = zip(random.parameters(), trained.parameters(), strict=True)
    assert not any(torch.equal(*pair) for pair in pairs)
