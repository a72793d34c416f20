"""The comparison of clusterings: scores equal those of the model, and tuning uses other scenes."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.data.loader import list_records
from cliptrase_d2.data.register import register_spec
from cliptrase_d2.evaluation.confusion import confusion_matrix
from cliptrase_d2.evaluation.metrics import segmentation_metrics
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.segmenter.build import build_segmenter
from experiments import compare_clustering
from tests.drawn_scenes import write_scenes
from tests.pipeline.tiny_segmenter import tiny_config, tiny_options

SIDE = 64


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    """Three drawn scenes and the tiny model."""
    spec = replace(read_dataset_file(write_scenes(tmp_path / "scenes", 3)), name=f"scenes_{tmp_path.name}")
    return tiny_config(tmp_path, "DATASETS.TEST", f"('{register_spec(spec)}',)", "MODEL.CLIPTRASE.EPS", "0.4")


@pytest.fixture
def model(cfg: CfgNode) -> CLIPtrase:
    return build_segmenter(cfg)


@pytest.mark.parametrize("clustering", ["dbscan", "hdbscan", "none"])
def test_a_score_equals_that_of_the_model(cfg: CfgNode, model: CLIPtrase, clustering: str) -> None:
    dataset = cfg.DATASETS.TEST[0]
    images = compare_clustering.encode(cfg, model, dataset, SIDE)
    model.configure(replace(model.settings, clustering=clustering))
    mapper = compare_clustering.build_mapper(cfg, model, dataset, SIDE)
    inputs = [mapper(record) for record in list_records(dataset, "stop")]
    outputs = [model([one])[0] for one in inputs]
    classes = mapper.vocabulary.classes
    pairs = zip(inputs, outputs, strict=True)
    confusion = sum(confusion_matrix(i["sem_seg"], o["label_map"], len(classes), 255) for i, o in pairs)
    numbers = segmentation_metrics(torch.as_tensor(confusion), classes)

    score = compare_clustering.score(model.settings, images, 255)
    clusters = sum(len(output["pred_masks"]) for output in outputs) / len(outputs)
    assert score == pytest.approx((numbers["pAcc"], numbers["mIoU"], clusters))
    assert (clusters == 0) == (clustering == "none")


def test_tuning_returns_the_first_radius_with_the_best_iou(cfg: CfgNode, model: CLIPtrase) -> None:
    images = compare_clustering.encode(cfg, model, cfg.DATASETS.TEST[0], SIDE)
    radii = (0.2, 0.3, 0.4, 0.5, 0.6)
    scores = [compare_clustering.score(replace(model.settings, eps=radius), images, 255).mean_iou for radius in radii]
    assert len(set(scores)) > 1
    assert compare_clustering.tune(model.settings, images, radii, 255) == radii[scores.index(max(scores))]
    assert compare_clustering.tune(model.settings, images, (1e-9, 1e-8), 255) == 1e-9  # only noise in both


def test_main_prints_and_writes_one_table(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.yaml").write_text("{}")
    output = tmp_path / "table.md"
    words = ["--config-file", str(tmp_path / "empty.yaml"), "--sizes", "48", "64", "--radii", "0.3", "0.5"]
    words += ["--tuning-scenes", "4", "--output", str(output)]
    options = [*tiny_options(tmp_path), "DATASETS.TEST", str(cfg.DATASETS.TEST)]
    monkeypatch.setattr(sys, "argv", ["compare_clustering.py", *words, "--", *options])
    compare_clustering.main()
    text = output.read_text(encoding="utf-8")
    assert text == capsys.readouterr().out
    lines = text.splitlines()
    rows = [line.split("|")[1:3] for line in lines[2:] if line.startswith("|")]
    assert [int(side) for side, _ in rows] == [48] * 5 + [64] * 5
    assert sum("tuned: ε 0." in title for _, title in rows) == 2
    assert "on 4 emoji scenes of seed 1" in lines[-1]


@pytest.mark.parametrize(("flag", "value"), [("--tuning-seed", "0"), ("--tuning-scenes", "2")])
def test_unusable_tuning_scenes_are_refused(flag: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["compare_clustering.py", flag, value])
    with pytest.raises(SystemExit):
        compare_clustering.parse_arguments()
