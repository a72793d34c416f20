"""The measure of whether queries segment the masks that they were started from."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cliptrase_d2.d2 import build_model
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.san import warm_start
from cliptrase_d2.san.model import SAN
from experiments import query_masks
from tests import forked
from tests.drawn_scenes import draw_scene
from tests.san.tiny_san import tiny_san, training_config


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SAN:
    """Build a SAN whose image has two masks, the left and the right half of 2x4 patches."""
    left = torch.tensor([[1, 1, 0, 0]] * 2, dtype=torch.bool).flatten()
    monkeypatch.setattr(query_masks, "find_masks", lambda *_: [torch.stack([left, ~left])])
    monkeypatch.setattr(query_masks.Prototypes, "nearest", lambda *_: [0, 1])
    return tiny_san(tmp_path)


def measure(model: SAN, monkeypatch: pytest.MonkeyPatch, *columns: list[float]) -> list[tuple[float, float]]:
    """Return the areas if each query has these values in the columns of patches."""
    logits = torch.tensor(columns)[None, :, None].expand(1, len(columns), 2, 4)
    monkeypatch.setattr(model, "predict_masks", lambda _: [(logits, None)])
    prototypes = query_masks.Prototypes.read(model, CLIPtraseSettings())
    return query_masks.areas(model, np.zeros((64, 128, 3), dtype=np.uint8), prototypes)


def test_queries_that_show_their_masks(model: SAN, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure(model, monkeypatch, [2.0, 1, 0, 0], [0.0, 0, 1, 3]) == [(1, 1), (1, 1)]


def test_queries_that_show_each_others_masks(model: SAN, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure(model, monkeypatch, [0.0, 0, 1, 3], [2.0, 1, 0, 0]) == [(0, 1), (0, 1)]


def test_a_query_that_shows_the_same_everywhere_is_at_chance(model: SAN, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure(model, monkeypatch, [1.0] * 4, [1.0] * 4) == [(0.5, 0.5), (0.5, 0.5)]


def test_prototypes_own_the_masks_with_the_nearest_features() -> None:
    masks = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=torch.bool)
    features = torch.tensor([[1.0], [3], [8], [10]])  # means 2 and 9, projected to 4 and 18
    queries = torch.tensor([[20.0], [5], [-9]])
    prototypes = query_masks.Prototypes(CLIPtraseSettings(), torch.tensor([[2.0]]), torch.zeros(1), queries)
    assert prototypes.nearest(features, masks) == [1, 0]


def test_closed_form_is_above_chance_before_any_training(tmp_path: Path) -> None:
    cfg = training_config(tmp_path, "MODEL.SAN.QUERY_INIT", "closed_form")
    san = build_model(cfg).eval()
    warm_start.start_queries(cfg, san)
    prototypes = query_masks.Prototypes.read(san, CLIPtraseSettings.from_config(cfg))
    pixels = draw_scene(0)[0][:128, :128]
    found = np.array(query_masks.areas(san, pixels, prototypes))
    assert found[:, 0].mean() > 0.6
    assert (found[:, 1] >= found[:, 0]).all()


def test_another_warm_start_is_refused(tmp_path: Path) -> None:
    done = forked.run(["experiments/query_masks.py", "--config-file", "configs/san/emoji_scenes_cold.yaml"], tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: MODEL.SAN.QUERY_INIT")
