"""Detectron2's own loader, evaluator and predictor with our model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.d2 import BACKEND
from cliptrase_d2.data.label_files import read_label
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.data.register import get_dataset_labels, register_dataset
from cliptrase_d2.evaluation.augmentation import AugmentedModel
from cliptrase_d2.evaluation.evaluate import evaluate_dataset
from cliptrase_d2.segmenter.build import build_segmenter
from tests.drawn_scenes import CLASSES, draw_scene, write_scenes
from tests.pipeline.tiny_segmenter import tiny_config

if BACKEND != "detectron2":
    pytest.skip("needs Detectron2; the fallback is in use", allow_module_level=True)

from detectron2.data import DatasetCatalog, DatasetMapper, build_detection_test_loader
from detectron2.engine import DefaultPredictor
from detectron2.evaluation import SemSegEvaluator, inference_on_dataset


def assert_same_numbers(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    # Detectron2's evaluator has metrics of borders in addition.
    names = [name for name in theirs["sem_seg"] if "Boundary" not in name and "min(" not in name]
    assert {"mIoU", "fwIoU", "mACC", "pACC"} < set(names)
    assert {name: theirs["sem_seg"][name] for name in names} == pytest.approx(
        {name: ours["sem_seg"][name] for name in names}, rel=1e-6, nan_ok=True
    )
    assert 0 < theirs["sem_seg"]["pACC"] < 100


@pytest.mark.parametrize("protocol", ["whole", "slide", "tiles"])
def test_detectron2s_evaluator_agrees_with_ours(tmp_path: Path, protocol: str) -> None:
    write_scenes(tmp_path, 4)
    name = register_dataset(f"d2_{tmp_path.name}", tmp_path / "images", CLASSES, tmp_path / "annotations")
    cfg = tiny_config(tmp_path, "DATASETS.TEST", f"('{name}',)", "TEST.PROTOCOL", protocol)
    model = build_segmenter(cfg)
    loader = build_detection_test_loader(cfg, name, mapper=EvaluationMapper(cfg, name))
    theirs = inference_on_dataset(model, loader, SemSegEvaluator(name, output_dir=str(tmp_path / "theirs")))
    assert_same_numbers(theirs, evaluate_dataset(cfg, model, name))


def test_detectron2s_loader_and_evaluator_augment_like_ours(tmp_path: Path) -> None:
    write_scenes(tmp_path, 3)
    name = register_dataset(f"d2_{tmp_path.name}", tmp_path / "images", CLASSES, tmp_path / "annotations")
    views = ("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48, 64)")
    cfg = tiny_config(tmp_path, "DATASETS.TEST", f"('{name}',)", *views)
    model = build_segmenter(cfg)
    loader = build_detection_test_loader(cfg, name, mapper=EvaluationMapper(cfg, name))
    augmented = AugmentedModel(model, flip=cfg.TEST.AUG.FLIP)
    theirs = inference_on_dataset(augmented, loader, SemSegEvaluator(name, output_dir=str(tmp_path / "theirs")))
    assert_same_numbers(theirs, evaluate_dataset(cfg, model, name))


@pytest.mark.parametrize(("short_side", "size"), [(48, (48, 64)), (64, (64, 85))])
def test_detectron2s_mapper_resizes_bilinearly_and_not_to_whole_patches(
    tmp_path: Path, short_side: int, size: tuple[int, int]
) -> None:
    write_scenes(tmp_path, 1)  # 240x320
    name = register_dataset(f"d2_{tmp_path.name}", tmp_path / "images", CLASSES, tmp_path / "annotations")
    cfg = tiny_config(tmp_path, "DATASETS.TEST", f"('{name}',)", "INPUT.MIN_SIZE_TEST", str(short_side))
    (record,) = DatasetCatalog.get(name)
    theirs, ours = DatasetMapper(cfg, is_train=False)(record), EvaluationMapper(cfg, name)(record)
    bilinear = EvaluationMapper(cfg, name, patch_size=1, resampling="bilinear")(record)
    assert torch.equal(theirs["image"], bilinear["image"])
    assert theirs["image"].shape[1:] == size
    # The model fits Detectron2's image to the size of ours, by a second resize where that is needed.
    model = build_segmenter(cfg)
    assert model.preprocess([theirs]).shape[2:] == ours["image"].shape[1:]
    assert not torch.equal(model.preprocess([theirs]), model.preprocess([ours]))
    # Labels are resized, too, which only an oracle reads: evaluators read the files.
    assert theirs["sem_seg"].shape == size
    assert ours["sem_seg"].shape == (240, 320)


def test_detectron2s_evaluator_reads_mapped_labels_with_our_rule(tmp_path: Path) -> None:
    write_scenes(tmp_path, 4)
    merged = {index: min(index, 2) if index != 1 else 255 for index in range(len(CLASSES))}
    name = register_dataset(
        f"d2_{tmp_path.name}", tmp_path / "images", ["sky", "ground", "shape"], tmp_path / "annotations",
        label_map=merged,
    )  # fmt: skip
    cfg = tiny_config(tmp_path, "DATASETS.TEST", f"('{name}',)")
    model = build_segmenter(cfg)
    _, rule = get_dataset_labels(name)
    evaluator = SemSegEvaluator(name, sem_seg_loading_fn=lambda file, dtype: rule.apply(read_label(file), file))
    loader = build_detection_test_loader(cfg, name, mapper=EvaluationMapper(cfg, name))
    assert_same_numbers(inference_on_dataset(model, loader, evaluator), evaluate_dataset(cfg, model, name))


def test_detectron2s_predictor_segments_a_bgr_image(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, "MODEL.CLIPTRASE.VOCABULARY", str(list(CLASSES)))
    rgb = draw_scene(0)[0]
    output = DefaultPredictor(cfg)(np.ascontiguousarray(rgb[:, :, ::-1]))
    # The predictor resizes the short side to 64, bilinearly: 240x320 becomes 64x85, not whole patches.
    resized = torch.from_numpy(np.array(Image.fromarray(rgb).resize((85, 64), Image.Resampling.BILINEAR)))
    (expected,) = build_segmenter(cfg)([{"image": resized.permute(2, 0, 1), "height": 240, "width": 320}])
    assert output["label_map"].shape == (240, 320)
    assert torch.equal(output["label_map"], expected["label_map"])
    assert torch.equal(output["sem_seg"].argmax(0), output["label_map"])
