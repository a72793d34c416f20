"""The exported module against the model: outputs, precision and weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cliptrase_d2.export.tower import ExportableTower
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.pipeline.stages import compute_word_logits
from cliptrase_d2.utils.errors import InputError
from tests.pipeline.tiny_segmenter import scene, telling_words, tiny_segmenter
from tests.san.tiny_san import tiny_san

IMAGES = torch.stack([scene(0), scene(1)])  # [2,3,96,128], of 6×8 patches where 4×4 were trained


@pytest.fixture(scope="module")
def model() -> CLIPtrase:
    return tiny_segmenter(settings=CLIPtraseSettings(method="sclip", suppress_global_patches=False))


@pytest.mark.parametrize("grid", [(6, 8), None], ids=["one grid", "any grid"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_outputs_equal_those_of_the_model(model: CLIPtrase, grid: tuple[int, int] | None, dtype: torch.dtype) -> None:
    text = telling_words(model, IMAGES[0])
    output = ExportableTower(model, grid)(IMAGES.to(dtype), text.features)
    features, correlation = model.encode_image(model.tower.normalise(IMAGES))
    assert features is not None
    for name in ("patches", "class_token"):
        torch.testing.assert_close(output[name], getattr(features, name), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output["correlation"], correlation, atol=1e-5, rtol=1e-4)
    expected = compute_word_logits(features, text, model.clip.logit_scale.exp(), model.settings)  # [B,R,h,w]
    torch.testing.assert_close(output["logits"].mT.unflatten(2, (6, 8)), expected, atol=1e-3, rtol=1e-4)


def test_any_grid_includes_the_trained_one(model: CLIPtrase) -> None:
    images, words = ExportableTower(model, None).random_inputs(1, 2, (64, 64), torch.uint8)
    anywhere, here = (ExportableTower(model, grid)(images, words) for grid in (None, (4, 4)))
    for name in anywhere:
        assert torch.equal(anywhere[name], here[name])


def test_the_models_own_precision_and_weights_stay(model: CLIPtrase) -> None:
    half = tiny_segmenter(precision="bf16")
    tower = ExportableTower(half, (4, 4))
    images, words = tower.random_inputs(1, 2, (64, 64), torch.uint8)
    tower.tower.visual.proj.data.zero_()
    assert half.tower.visual.proj.any()
    assert tower(images, words)["patches"].dtype == torch.float32
    assert half.precision == torch.bfloat16


def test_san_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"MODEL\.META_ARCHITECTURE.*SAN"):
        ExportableTower(tiny_san(tmp_path), None)
