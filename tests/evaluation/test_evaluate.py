"""The evaluation loop, with a model that answers what the labels say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

from cliptrase_d2.data.loader import build_evaluation_loader, list_records
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.evaluation import evaluator
from cliptrase_d2.evaluation.evaluate import evaluate, evaluate_dataset, require_datasets
from cliptrase_d2.evaluation.evaluator import SegmentationEvaluator
from cliptrase_d2.utils.errors import InputError
from tests import forked
from tests.drawn_scenes import CLASSES, write_scenes
from tests.pipeline.tiny_segmenter import tiny_config, tiny_segmenter


class Oracle(nn.Module):
    """Answers the labels themselves, and remembers the mode that it was asked in."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        self.modes.append(self.training)
        return [{"label_map": inputs["sem_seg"]} for inputs in batched_inputs]


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    write_scenes(tmp_path, 5)
    return register_dataset(f"loop_{tmp_path.name}", tmp_path / "images", CLASSES, tmp_path / "annotations")


def run(model: nn.Module, dataset: str, folder: Path, on_error: str = "stop") -> dict[str, Any]:
    """Evaluate in batches of two, and read metrics.json."""
    mapper = EvaluationMapper.for_dataset(dataset, protocol="whole", short_side=32, max_size=64, patch_size=16)
    records = list_records(dataset, on_error)
    loader = build_evaluation_loader(records, mapper, batch_size=2, num_workers=0, on_error=on_error)
    results = evaluate(model, loader, SegmentationEvaluator(dataset, folder), "scenes")
    report = json.loads((folder / "inference" / dataset / "metrics.json").read_text())
    assert results["sem_seg"]["mIoU"] == report["mIoU"]
    return report


def test_an_oracle_scores_full_marks_on_every_image(dataset: str, tmp_path: Path) -> None:
    report = run(Oracle(), dataset, tmp_path)
    assert report["images"] == 5
    assert report["pAcc"] == report["mIoU"] == 100


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_asked_in_evaluation_mode_and_gets_its_own_back(
    dataset: str, tmp_path: Path, training: bool
) -> None:
    model = Oracle().train(training)
    run(model, dataset, tmp_path)
    assert model.modes == [False, False, False]
    assert model.training == training


def test_the_progress_bar_is_on_the_standard_error(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(Oracle(), dataset, tmp_path)
    captured = capsys.readouterr()
    assert "scenes" in captured.err
    assert "5/5" in captured.err
    assert "image/s" in captured.err or "s/image" in captured.err
    assert "5/5" not in captured.out


def test_skipped_images_are_listed_and_the_rest_counts(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "images" / "scene_000.png").write_bytes(b"no image")
    (tmp_path / "images" / "scene_001.png").write_bytes(b"nor this: a whole batch is skipped")
    (tmp_path / "annotations" / "scene_004.png").unlink()
    report = run(Oracle(), dataset, tmp_path, on_error="skip")
    assert report["images"] == 2
    assert report["mIoU"] == 100
    assert [Path(entry["file"]).name for entry in report["skipped"]] == [
        "scene_000.png", "scene_001.png", "scene_004.png",
    ]  # fmt: skip
    for entry in report["skipped"]:
        assert "Allowed:" in entry["reason"]


def test_the_first_bad_image_stops_the_run(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "images" / "scene_002.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"scene_002\.png"):
        run(Oracle(), dataset, tmp_path)
    assert not (tmp_path / "inference").exists()


@pytest.mark.parametrize("protocol", ["center_crop", "whole", "slide", "tiles"])
def test_the_report_says_how_it_was_made(dataset: str, tmp_path: Path, protocol: str) -> None:
    cfg = tiny_config(tmp_path, "TEST.PROTOCOL", protocol, "TEST.SAVE_PREDICTIONS", "True")
    evaluate_dataset(cfg, tiny_segmenter(), dataset)
    folder = Path(cfg.OUTPUT_DIR) / "inference" / dataset
    report = json.loads((folder / "metrics.json").read_text())
    expected = {"name": protocol, "short_side": 64}
    expected |= {} if protocol == "center_crop" else {"max_size": 128}
    expected |= {"window": 64, "stride": 32} if protocol in ("slide", "tiles") else {}
    assert report["protocol"] == expected
    assert len(report["config_hash"]) == 12
    assert "torch" in report["versions"]
    with Image.open(folder / "predictions" / "scene_000.png") as image:
        assert image.size == ((64, 64) if protocol == "center_crop" else (320, 240))
        assert np.asarray(image).max() < len(CLASSES)


@pytest.mark.parametrize("protocol", ["center_crop", "whole"])
def test_overlays_show_what_the_model_saw(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    shown: list[tuple[int, ...]] = []

    def draw(image: np.ndarray, prediction: np.ndarray, truth: np.ndarray, *_: object) -> np.ndarray:
        shown.append(image.shape)
        assert prediction.shape == truth.shape == ((64, 64) if protocol == "center_crop" else (240, 320))
        return image

    monkeypatch.setattr(evaluator, "evaluation_picture", draw)
    cfg = tiny_config(tmp_path, "TEST.PROTOCOL", protocol, "TEST.SAVE_OVERLAYS", "2")
    evaluate_dataset(cfg, tiny_segmenter(), dataset)
    folder = Path(cfg.OUTPUT_DIR) / "inference" / dataset / "overlays"
    assert sorted(path.name for path in folder.iterdir()) == ["scene_001.jpg", "scene_003.jpg"]
    assert shown == [(64, 64, 3) if protocol == "center_crop" else (64, 80, 3)] * 2


def test_less_than_no_overlay_is_refused(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"TEST\.SAVE_OVERLAYS: -1"):
        evaluate_dataset(tiny_config(tmp_path, "TEST.SAVE_OVERLAYS", "-1"), tiny_segmenter(), dataset)


def test_an_unregistered_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no_such_set"):
        evaluate_dataset(tiny_config(tmp_path), tiny_segmenter(), "no_such_set")


def test_evaluating_on_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"DATASETS\.TEST.*--dataset D\.yaml"):
        require_datasets(())
    require_datasets(("a",))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory in use is read where Linux has it")
def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.evaluation.long_evaluation import growth\n"
        f"print(growth(Path({str(tmp_path)!r}), int(sys.argv[1])))"
    )
    (tmp_path / "script.py").write_text(code)
    result = forked.run([str(tmp_path / "script.py"), "24000"], tmp_path)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 4, "megabytes between a tenth and the end of 24,000 images"
