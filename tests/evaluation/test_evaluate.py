import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

from cliptrase_d2.d2 import CfgNode, merge_config_options
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.evaluation.evaluate import evaluate_dataset
from cliptrase_d2.evaluation.run_page import write_run_page
from cliptrase_d2.evaluation.summary import Run
from cliptrase_d2.mask_sources import MaskSettings, build_mask_source
from cliptrase_d2.utils.errors import InputError
from tests import forked
from tests.drawn_scenes import CLASSES, write_scenes
from tests.pipeline.tiny_segmenter import tiny_config, tiny_segmenter


class Oracle(nn.Module):
    """Predicts the ground truth, and records its mode at every call."""

    patch_multiple, resampling = 16, "bicubic"

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        self.modes.append(self.training)
        return [{"label_map": image["sem_seg"]} for image in batched_inputs]


def run(cfg: CfgNode, model: nn.Module, dataset: str) -> dict[str, Any]:
    """Evaluate, and read metrics.json."""
    results = evaluate_dataset(cfg, model, dataset)
    report = json.loads((Path(cfg.OUTPUT_DIR) / "inference" / dataset / "metrics.json").read_text())
    assert results["sem_seg"]["mIoU"] == report["mIoU"]
    return report


@pytest.mark.parametrize("training", [False, True])
def test_oracle_scores_100_percent_in_evaluation_mode(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], training: bool
) -> None:
    model = Oracle().train(training)
    report = run(tiny_config(tmp_path, "TEST.BATCH_SIZE", "2"), model, dataset)
    assert report["images"] == 5
    assert report["pAcc"] == report["mIoU"] == 100
    assert model.modes == [False, False, False]
    timing = json.loads((tmp_path / "output" / "inference" / dataset / "timing.json").read_text())
    assert timing["images"] == 5
    assert timing["seconds"] > 0
    assert abs(datetime.now(timezone.utc) - datetime.fromisoformat(timing["finished"])) < timedelta(minutes=10)
    assert model.training == training
    captured = capsys.readouterr()
    assert dataset in captured.err  # the progress bar
    assert "5/5" in captured.err
    assert "5/5" not in captured.out


class Broken(Oracle):
    """Fails at every call."""

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        raise ArithmeticError


def test_an_error_does_not_change_the_mode_of_the_model(dataset: str, tmp_path: Path) -> None:
    model = Broken().train()
    with pytest.raises(ArithmeticError):
        evaluate_dataset(tiny_config(tmp_path), model, dataset)
    assert model.training


def test_unreadable_images_are_skipped_and_listed(dataset: str, tmp_path: Path) -> None:
    for name in ("scene_000.png", "scene_001.png"):  # a whole batch
        (tmp_path / "images" / name).write_bytes(b"no image")
    (tmp_path / "annotations" / "scene_004.png").unlink()
    report = run(tiny_config(tmp_path, "TEST.BATCH_SIZE", "2", "TEST.ON_ERROR", "skip"), Oracle(), dataset)
    assert (report["images"], report["mIoU"]) == (2, 100)
    skipped = [f"scene_{index}.png" for index in ("000", "001", "004")]
    assert [Path(entry["file"]).name for entry in report["skipped"]] == skipped


def test_first_unreadable_image_stops_the_evaluation(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "images" / "scene_002.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"scene_002\.png"):
        run(tiny_config(tmp_path), Oracle(), dataset)
    assert not list(tmp_path.rglob("metrics.json"))


@pytest.mark.parametrize("protocol", ["center_crop", "whole", "slide", "tiles", "published"])
def test_results_follow_the_protocol(dataset: str, tmp_path: Path, protocol: str) -> None:
    options = ("TEST.PROTOCOL", protocol, "TEST.SAVE_PREDICTIONS", "True", "TEST.SAVE_OVERLAYS", "2")
    cfg = tiny_config(tmp_path, *options)
    report = run(cfg, tiny_segmenter(), dataset)
    expected = {"name": protocol, "short_side": 64}
    expected |= {} if protocol == "center_crop" else {"max_size": 128}
    expected |= {"window": 64, "stride": 32} if protocol in ("slide", "tiles", "published") else {}
    settings = json.loads(json.dumps(cfg.TEST.PUBLISHED)) if protocol == "published" else {}
    expected |= {key.lower(): value for key, value in settings.items()}
    assert report["protocol"] == expected
    assert len(report["config_hash"]) == 12
    assert "torch" in report["versions"]
    folder = tmp_path / "output" / "inference" / dataset
    with Image.open(folder / "predictions" / "scene_000.png") as image:
        assert image.size == ((64, 64) if protocol == "center_crop" else (320, 240))
        assert np.asarray(image).max() < len(CLASSES)
    assert sorted(path.name for path in (folder / "overlays").iterdir()) == ["scene_001.jpg", "scene_003.jpg"]
    # Pictures show the model's input, 64x64, 80x64 or 85x64, enlarged by the largest whole factor up to 480 pixels.
    size = json.loads((folder / "gallery" / "scene_001.json").read_text())["size"]
    sizes = {"center_crop": [7 * 64, 7 * 64], "published": [5 * 85, 5 * 64]}
    assert size == sizes.get(protocol, [6 * 80, 6 * 64])


def test_the_report_names_the_models_beside_clip(dataset: str, tmp_path: Path) -> None:
    assert "extra_models" not in run(tiny_config(tmp_path), tiny_segmenter(), dataset)
    cfg = tiny_config(tmp_path, "MODEL.MASKS.BACKBONE_WEIGHTS", "", "MODEL.MASKS.BACKBONE", "test_vit")
    source = build_mask_source("backbone", MaskSettings.from_config(cfg))
    report = run(cfg, tiny_segmenter(mask_source=source), dataset)
    assert report["extra_models"] == {"mask_source": {"name": "test_vit", "parameters": 306240, "weights": "random"}}


@pytest.mark.parametrize(
    ("options", "is_random"),
    [
        (("MODEL.MASKS.SOURCE", "backbone", "MODEL.MASKS.BACKBONE_WEIGHTS", ""), True),
        (("MODEL.MASKS.SOURCE", "backbone"), False),
        (("MODEL.MASKS.BACKBONE_WEIGHTS", ""), False),
        (("MODEL.CLIPTRASE.METHOD", "proxyclip", "MODEL.VISION.WEIGHTS", ""), True),
        (("MODEL.CLIPTRASE.METHOD", "proxyclip", "MODEL.VISION.WEIGHTS", "pretrained"), False),
        (("MODEL.VISION.WEIGHTS", ""), False),
    ],
)
def test_the_page_says_that_a_model_beside_clip_is_random(
    dataset: str, tmp_path: Path, options: tuple[str, ...], is_random: bool
) -> None:
    cfg = tiny_config(tmp_path, "DATASETS.TEST", f"('{dataset}',)")
    run(cfg, tiny_segmenter(), dataset)
    merge_config_options(cfg, ["MODEL.CLIP.PRETRAINED", "openai", *options])
    page = write_run_page(cfg, {Run("", dataset): cfg}).read_text(encoding="utf-8")
    assert ("random weights</span>" in page) == is_random


def test_bad_settings_are_rejected(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"TEST\.SAVE_OVERLAYS: -1"):
        evaluate_dataset(tiny_config(tmp_path, "TEST.SAVE_OVERLAYS", "-1"), tiny_segmenter(), dataset)
    with pytest.raises(InputError, match="no_such_set"):
        evaluate_dataset(tiny_config(tmp_path), tiny_segmenter(), "no_such_set")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory in use can be read on Linux only")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    result = forked.run(["-m", "tests.evaluation.long_evaluation", str(tmp_path), "24000"], tmp_path)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 4, "megabytes between a tenth and the end of 24,000 images"


def test_the_threshold_reaches_the_model_and_the_report(dataset: str, tmp_path: Path) -> None:
    class Doubtful(Oracle):
        def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
            assert [image["threshold"] for image in batched_inputs] == [0.25]
            return [{"label_map": image["sem_seg"].masked_fill(image["sem_seg"] == 0, -1)} for image in batched_inputs]

    report = run(tiny_config(tmp_path, "TEST.THRESHOLD", "0.25"), Doubtful(), dataset)
    assert report["protocol"]["threshold"] == 0.25
    assert report["per_class"][CLASSES[0]]["IoU"] == 0
    assert report["pAcc"] < 100


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["TEST.THRESHOLD", "1.2"], r"TEST\.THRESHOLD: 1\.2"),
        (["TEST.THRESHOLD", "0.5", "TEST.UNSUPERVISED_GROUPS", "2"], r"TEST\.THRESHOLD: 0\.5 with TEST\.UNSUPERVISED"),
        (["TEST.THRESHOLD", "0.5", "TEST.AUG.ENABLED", "True"], r"TEST\.THRESHOLD: 0\.5 with TEST\.AUG"),
        (
            ["TEST.THRESHOLD", "0.5", "TEST.PROTOCOL", "published"],
            r"TEST\.THRESHOLD: 0\.5 with TEST\.PROTOCOL 'published'",
        ),
    ],
)
def test_thresholds_that_cannot_be_used_are_named(dataset: str, tmp_path: Path, options: list[str], match: str) -> None:
    with pytest.raises(InputError, match=match):
        run(tiny_config(tmp_path, *options), Oracle(), dataset)


def test_frames_of_one_name_keep_their_folders(tmp_path: Path) -> None:
    write_scenes(tmp_path, 2)
    for kind in ("images", "annotations"):
        for index in (0, 1):
            (tmp_path / kind / f"clip{index}").mkdir()
            (tmp_path / kind / f"scene_00{index}.png").rename(tmp_path / kind / f"clip{index}" / "frame.png")
    label_map = {index + 20: index for index in range(len(CLASSES))}
    for path in (tmp_path / "annotations").glob("*/*"):
        Image.fromarray(np.array(Image.open(path)) + np.uint8(20)).save(path)
    name = register_dataset(
        f"clips_{tmp_path.name}", tmp_path / "images/*/*", CLASSES, tmp_path / "annotations/*/*", label_map=label_map
    )
    options = ("TEST.SAVE_PREDICTIONS", "True", "TEST.PREDICTION_VALUES", "files", "TEST.SAVE_OVERLAYS", "2")
    cfg = tiny_config(tmp_path, *options)
    report = run(cfg, Oracle(), name)
    assert report["pAcc"] == 100
    assert report["gallery"] == ["clip0/frame", "clip1/frame"]
    folder = tmp_path / "output" / "inference" / name
    for index in (0, 1):
        with Image.open(folder / "predictions" / f"clip{index}" / "frame.png") as prediction:
            assert np.array_equal(prediction, Image.open(tmp_path / "annotations" / f"clip{index}" / "frame.png"))
    page = write_run_page(cfg, {Run("", name): cfg}).read_text(encoding="utf-8")
    for part in ("overlays/clip0/frame.jpg", "predictions/clip1/frame.png"):
        assert part in page


def test_palettes_that_contradict_each_other_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_scenes(tmp_path, 2)
    for index, path in enumerate(sorted((tmp_path / "annotations").iterdir())):
        labels = Image.open(path)
        labels.putpalette([(channel * 50 + index) % 256 for channel in range(30)])
        labels.save(path)
    name = register_dataset(f"palettes_{tmp_path.name}", tmp_path / "images", CLASSES, tmp_path / "annotations")
    run(tiny_config(tmp_path), Oracle(), name)
    assert "label_colors" in caplog.text
