"""CLIP's own correlation as a source: what the stages give one after the other, to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.settings import Method
from tests.pipeline.tiny_segmenter import scene, telling_words, tiny_segmenter


@torch.inference_mode()
def one_by_one(model: CLIPtrase, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """The stages without a source, for one image; label map, soft masks, mask logits."""
    seen = model.see(model.tower.normalise(inputs["image"])[None])
    text, size = model.text_features(inputs), (inputs["height"], inputs["width"])
    logits = model.method.word_logits(seen, text, model.clip.logit_scale.exp())
    masks = model.method.propose(seen, model.method.cluster(seen.correlation), size)
    (named,) = model.method.classify(masks, logits, text)
    return named.label_map, masks[0].soft_masks(), named.mask_logits


@pytest.mark.parametrize("method", [{}, {"eps": 0.5}, {"clustering": "hdbscan"}, {"clustering": "none"}], ids=str)
@pytest.mark.parametrize("window", [None, 64], ids=["whole", "windows"])
def test_the_model_gives_what_the_stages_give(method: dict[str, Any], window: int | None) -> None:
    model = tiny_segmenter(method=Method(**method), window=window, stride=window and window // 2)
    text = telling_words(model, scene())
    model.text_encoder = lambda _: text
    # Two sizes of images and three of results, in one batch.
    sizes = [(96, 128, 75, 51), (64, 64, 64, 64), (96, 128, 40, 90)]
    batch = [
        {"image": scene(index, height, width), "height": out_height, "width": out_width}
        for index, (height, width, out_height, out_width) in enumerate(sizes)
    ]
    for inputs, output in zip(batch, model(batch), strict=True):
        alone = model([inputs])[0]
        names = ("label_map", "pred_masks", "pred_logits")
        for name, expected in zip(names, one_by_one(model, inputs), strict=True):
            assert torch.equal(alone[name], expected)
            assert output[name].shape == expected.shape
        assert (output["label_map"] == alone["label_map"]).float().mean() > 0.99  # a batch rounds otherwise
