"""Detectron2's own loader, evaluator and predictor with our model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.d2 import BACKEND, CfgNode
from cliptrase_d2.data.images import read_label
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.data.register import get_dataset_labels, register_dataset
from cliptrase_d2.evaluation.evaluate import evaluate_dataset
from cliptrase_d2.segmenter.build import build_segmenter
from tests.drawn_scenes import CLASSES, draw_scene, write_scenes
from tests.pipeline.tiny_segmenter import tiny_config

if BACKEND != "detectron2":
    pytest.skip("needs Detectron2; the fallback is in use", allow_module_level=True)

from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultPredictor
from detectron2.evaluation import SemSegEvaluator, inference_on_dataset

SEM_SEG = ("MODEL.CLIPTRASE.OUTPUT_SEM_SEG", "True")


def build_mapper(cfg: CfgNode, name: str) -> EvaluationMapper:
    return EvaluationMapper.for_dataset(
        name,
        protocol=cfg.TEST.PROTOCOL,
        short_side=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        patch_size=16,
    )


def assert_same_numbers(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    pairs = {"mIoU": "mIoU", "fwIoU": "fwIoU", "mACC": "mAcc", "pACC": "pAcc"}
    assert {name: theirs["sem_seg"][name] for name in pairs} == pytest.approx(
        {name: ours["sem_seg"][own] for name, own in pairs.items()}, rel=1e-6
    )
    assert 0 < theirs["sem_seg"]["pACC"] < 100


@pytest.mark.parametrize("protocol", ["whole", "slide", "tiles"])
def test_detectron2s_evaluator_agrees_with_ours(tmp_path: Path, protocol: str) -> None:
    write_scenes(tmp_path, 4)
    name = register_dataset(f"d2_{tmp_path.name}", tmp_path / "images", CLASSES, tmp_path / "annotations")
    cfg = tiny_config(tmp_path, *SEM_SEG, "DATASETS.TEST", f"('{name}',)", "TEST.PROTOCOL", protocol)
    model = build_segmenter(cfg)
    loader = build_detection_test_loader(cfg, name, mapper=build_mapper(cfg, name))
    theirs = inference_on_dataset(model, loader, SemSegEvaluator(name, output_dir=str(tmp_path / "theirs")))
    assert_same_numbers(theirs, evaluate_dataset(cfg, model, name))


def test_detectron2s_evaluator_reads_mapped_labels_with_our_rule(tmp_path: Path) -> None:
    write_scenes(tmp_path, 4)
    merged = {index: min(index, 2) if index != 1 else 255 for index in range(len(CLASSES))}
    name = register_dataset(
        f"d2_{tmp_path.name}", tmp_path / "images", ["sky", "ground", "shape"], tmp_path / "annotations",
        label_map=merged,
    )  # fmt: skip
    cfg = tiny_config(tmp_path, *SEM_SEG, "DATASETS.TEST", f"('{name}',)")
    model = build_segmenter(cfg)
    _, rule = get_dataset_labels(name)
    evaluator = SemSegEvaluator(name, sem_seg_loading_fn=lambda file, dtype: rule.apply(read_label(file), file))
    loader = build_detection_test_loader(cfg, name, mapper=build_mapper(cfg, name))
    assert_same_numbers(inference_on_dataset(model, loader, evaluator), evaluate_dataset(cfg, model, name))


def test_detectron2s_predictor_segments_a_bgr_image(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, "MODEL.CLIPTRASE.VOCABULARY", str(list(CLASSES)), *SEM_SEG)
    rgb = draw_scene(0)[0]
    output = DefaultPredictor(cfg)(np.ascontiguousarray(rgb[:, :, ::-1]))
    # The predictor resizes the short side to 64, bilinearly: 240x320 becomes 64x85, not whole patches.
    resized = torch.from_numpy(np.array(Image.fromarray(rgb).resize((85, 64), Image.Resampling.BILINEAR)))
    (expected,) = build_segmenter(cfg)([{"image": resized.permute(2, 0, 1), "height": 240, "width": 320}])
    assert output["label_map"].shape == (240, 320)
    assert torch.equal(output["label_map"], expected["label_map"])
    assert torch.equal(output["sem_seg"].argmax(0), output["label_map"])
