"""The refinement in the meta-architecture: what it changes, and what it leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.refinement import pamr
from cliptrase_d2.pipeline.settings import Method
from tests.pipeline.tiny_segmenter import scene, telling_words, tiny_segmenter

CLUSTERINGS = pytest.mark.parametrize("clustering", ["dbscan", "none"])


def model_with(refinement: str, clustering: str = "dbscan", **arguments: Any) -> CLIPtrase:
    """A model whose words tell the parts of the scenes apart."""
    method = Method(eps=0.5, clustering=clustering, refinement=refinement, refinement_steps=3)
    model = tiny_segmenter(method=method, **arguments)
    text = telling_words(model, scene())
    model.text_encoder = lambda _: text
    return model


@CLUSTERINGS
def test_only_the_label_map_changes(clustering: str) -> None:
    plain, refined = (model_with(refinement, clustering)([{"image": scene()}])[0] for refinement in ("none", "pamr"))
    assert not torch.equal(plain["label_map"], refined["label_map"])
    assert torch.equal(refined["label_map"], pamr(plain["label_map"], scene(), 3).label_map)
    for key in ("pred_masks", "pred_logits"):
        assert torch.equal(plain[key], refined[key])


@CLUSTERINGS
@pytest.mark.parametrize("size", [(96, 128), (75, 51), (130, 200)])
def test_the_best_share_is_the_label_map(clustering: str, size: tuple[int, int]) -> None:
    model = model_with("pamr", clustering, output_sem_seg=True)
    (output,) = model([{"image": scene(), "height": size[0], "width": size[1]}])
    assert output["label_map"].shape == size
    assert output["sem_seg"].shape == (4, *size)
    assert torch.equal(output["sem_seg"].argmax(0), output["label_map"])
    torch.testing.assert_close(output["sem_seg"].sum(0), torch.ones(size))


def test_images_of_a_batch_do_not_mix() -> None:
    model = model_with("pamr")
    batch: list[dict[str, Any]] = [
        {"image": scene(0)},
        {"image": scene(1), "height": 40, "width": 71},
        {"image": scene(2)},
    ]
    for found, inputs in zip(model(batch), batch, strict=True):
        assert torch.equal(found["label_map"], model([inputs])[0]["label_map"])
