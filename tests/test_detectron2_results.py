"""Detectron2's own checks, prints and drawings of our results and data sets."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest

from cliptrase_d2.d2 import BACKEND, CfgNode, MetadataCatalog
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.evaluation.evaluate import evaluate_dataset, find_results
from cliptrase_d2.evaluation.expected import name_results
from cliptrase_d2.evaluation.runs import evaluate_runs, plan_runs
from cliptrase_d2.segmenter.build import build_segmenter, prepare_segmenter
from cliptrase_d2.visualization.colours import ClassColours
from tests.drawn_scenes import CLASSES, write_scenes
from tests.pipeline.tiny_segmenter import tiny_config

if BACKEND != "detectron2":
    pytest.skip("needs Detectron2; the fallback is in use", allow_module_level=True)

from detectron2.data import build_detection_test_loader
from detectron2.evaluation import print_csv_format, verify_results
from detectron2.utils.visualizer import Visualizer


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    """Return the configuration of an evaluation of two scenes, whose last class is absent."""
    write_scenes(tmp_path, 2)
    classes = [*CLASSES, "absent"]
    name = register_dataset(f"results_{tmp_path.name}", tmp_path / "images", classes, tmp_path / "annotations")
    return tiny_config(tmp_path, "DATASETS.TEST", f"('{name}',)")


def test_detectron2_verifies_and_prints_the_results_of_a_data_set(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = evaluate_dataset(cfg, build_segmenter(cfg), cfg.DATASETS.TEST[0])
    metrics = results["sem_seg"]
    assert find_results(cfg, cfg.DATASETS.TEST[0]) == results
    assert math.isnan(metrics["IoU-absent"])
    names = ("mACC", "pACC", "mIoU", "IoU-sky", "ACC-sky")
    cfg.TEST.EXPECTED_RESULTS = [["sem_seg", name, metrics[name], 1e-6] for name in names]
    assert verify_results(cfg, results)
    for wrong in (["sem_seg", "pACC", metrics["pACC"] + 1, 0.5], ["sem_seg", "IoU-absent", 50.0, 50.0]):
        cfg.TEST.EXPECTED_RESULTS = [wrong]
        with pytest.raises(SystemExit):
            verify_results(cfg, results)
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)
    with caplog.at_level(logging.INFO):
        print_csv_format(results)
    printed = [message for message in caplog.messages if message.startswith("copypaste")]
    assert "mACC" in printed[1]
    assert not [line for line in printed if "sky" in line]


def test_detectron2_verifies_the_results_of_several_methods(cfg: CfgNode) -> None:
    cfg.TEST.METHODS = ("clip", "sclip")
    results = evaluate_runs(plan_runs(cfg), prepare_segmenter, resume=False)
    named = name_results(results)
    dataset = cfg.DATASETS.TEST[0]
    (_, last) = results.values()
    cfg.TEST.EXPECTED_RESULTS = [
        [task, "mIoU", last["mIoU"], 0.0] for task in ("sclip/sem_seg", f"{dataset}/sclip/sem_seg")
    ]
    assert verify_results(cfg, named)
    print_csv_format(named)


def test_detectron2_draws_classes_in_our_colours(cfg: CfgNode) -> None:
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    visualizer = Visualizer(np.zeros((200, 400, 3), np.uint8), metadata)
    labels = np.zeros((200, 400), np.int64)
    labels[:, 200:] = 3
    picture = visualizer.draw_sem_seg(labels, alpha=1.0).get_image()
    colours = ClassColours(metadata.stuff_classes).assign([])
    # Away from the borders of the masks and from their names, which are in the middle.
    assert np.abs(picture[20, [20, 380]].astype(int) - colours[[0, 3]]).max() <= 1


def test_detectron2s_loader_passes_the_name_of_the_data_set(cfg: CfgNode) -> None:
    (name,) = cfg.DATASETS.TEST
    cfg.DATALOADER.NUM_WORKERS = 0
    assert [image["meta"] for (image,) in build_detection_test_loader(cfg, name)] == [{"dataset_name": name}] * 2
