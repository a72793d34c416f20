"""From a configuration to a model with its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cliptrase_d2.d2 import DetectionCheckpointer
from cliptrase_d2.segmenter.build import build_segmenter
from cliptrase_d2.utils.errors import InputError
from tests.pipeline.tiny_segmenter import VOCABULARY, scene, tiny_config


def test_another_meta_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"MODEL\.META_ARCHITECTURE: 'MaskFormer'.*CLIPtrase"):
        build_segmenter(tiny_config(tmp_path, "MODEL.META_ARCHITECTURE", "MaskFormer"))


def test_a_checkpoint_of_the_whole_model_comes_back(tmp_path: Path) -> None:
    saved = build_segmenter(tiny_config(tmp_path, "MODEL.CLIP.SEED", "1"))
    DetectionCheckpointer(saved, str(tmp_path)).save("whole")
    loaded = build_segmenter(tiny_config(tmp_path, "MODEL.WEIGHTS", str(tmp_path / "whole.pth")))
    assert loaded.state_dict().keys() == saved.state_dict().keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, saved.state_dict()[name])
    inputs = [{"image": scene(), "vocabulary": VOCABULARY}]
    assert torch.equal(loaded(inputs)[0]["label_map"], saved(inputs)[0]["label_map"])
