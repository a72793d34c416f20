"""Attention within the true regions."""

from __future__ import annotations

import pytest
import torch

from cliptrase_d2.utils.errors import InputError
from tests.pipeline.tiny_segmenter import scene, tiny_segmenter


@pytest.mark.parametrize("window", [None, 64])
def test_an_oracle_looks_at_the_labels(window: int | None) -> None:
    # Labels of another size than the image, as the protocol "whole" has them.
    halves = torch.zeros(200, 300, dtype=torch.int64)
    halves[:, 150:] = 1
    stride = None if window is None else 32
    model = tiny_segmenter(attention="cosine_oracle", window=window, stride=stride)
    image = model.tower.normalise(scene())[None]
    regions = model._regions([{"sem_seg": halves}], image)
    assert regions is not None
    assert regions.view(6, 8).tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] * 6
    told, untold = model.see(image, regions), model.see(image, torch.zeros_like(regions))
    assert not torch.allclose(told.patches, untold.patches, atol=1e-4)
    assert torch.equal(told.correlation, untold.correlation)  # of an earlier block
    both = model([{"image": scene(), "sem_seg": halves}, {"image": scene(1), "sem_seg": 1 - halves}])
    (alone,) = model([{"image": scene(), "sem_seg": halves}])
    assert torch.equal(both[0]["label_map"], alone["label_map"])
    with pytest.raises(InputError, match="an oracle, for images without labels"):
        model([{"image": scene()}])
