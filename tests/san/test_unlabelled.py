"""Iterations without labels: label maps by CLIPtrase, their data set, the two phases, and resuming in both."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.san import unlabelled
from cliptrase_d2.san.trainer import SANTrainer
from cliptrase_d2.san.training import build_dataset, train
from cliptrase_d2.segmenter.build import build_segmenter
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import Interrupted
from tests.drawn_scenes import CLASSES
from tests.pipeline.tiny_segmenter import tiny_config
from tests.san.tiny_san import training_config, weights


def write_teacher(folder: Path, *options: str) -> Path:
    """Write the configuration of the tiny CLIPtrase."""
    path = folder / "teacher.yaml"
    path.write_text(tiny_config(folder, "MODEL.CLIPTRASE.EPS", "1.5", *options).dump())
    return path


def config(folder: Path, *options: str, teacher: Sequence[str] = ()) -> CfgNode:
    """Configure four steps after two without labels."""
    phase = ("SOLVER.UNLABELLED_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "1", "DATALOADER.NUM_WORKERS", "0")
    return training_config(folder, *phase, "MODEL.SAN.TEACHER", str(write_teacher(folder, *teacher)), *options)


def run(cfg: CfgNode, *, resume: bool = False) -> dict[str, torch.Tensor]:
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    train(cfg, resume=resume)
    return weights(Path(cfg.OUTPUT_DIR) / "model_final.pth")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def build(cfg: CfgNode, *, resume: bool = False, steps: int = 2) -> unlabelled.TrainingDataset:
    first = unlabelled.build_unlabelled_config(cfg)
    assert steps == first.SOLVER.MAX_ITER
    Path(first.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    return unlabelled.build_unlabelled_dataset(first, build_dataset(cfg), seed=0, resume=resume)


def test_labels_are_the_predictions_of_the_teacher(tmp_path: Path) -> None:
    cfg = config(
        tmp_path, teacher=("INPUT.MIN_SIZE_TEST", "240", "INPUT.MAX_SIZE_TEST", "320")
    )  # the size of the images
    dataset = build(cfg)
    teacher = build_segmenter(unlabelled._load_teacher_config(cfg))
    written = [record for record in dataset.records if Path(record["sem_seg_file_name"]).is_file()]
    assert len(written) == 5
    for record in written:
        pixels = torch.from_numpy(np.array(Image.open(record["file_name"]))).permute(2, 0, 1)
        expected = teacher([{"image": pixels, "vocabulary": dataset.vocabulary}])[0]["label_map"]
        assert np.array_equal(np.asarray(Image.open(record["sem_seg_file_name"])), expected)
    view = dataset.read_view(written[0], np.random.default_rng(0))
    assert view["vocabulary"].classes == CLASSES


def test_only_images_of_the_iterations_are_labelled(tmp_path: Path) -> None:
    dataset = build(config(tmp_path, "SOLVER.UNLABELLED_ITER", "1"), steps=1)
    files = {Path(record["sem_seg_file_name"]) for record in dataset.records}
    assert len(files) == 5
    assert sum(file.is_file() for file in files) == 4  # the images of one step


def test_existing_labels_are_kept_only_by_resume(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    path = Path(build(cfg).records[0]["sem_seg_file_name"])
    content, other = path.read_bytes(), b"other"
    path.write_bytes(other)
    build(cfg, resume=True)
    assert path.read_bytes() == other
    build(cfg)
    assert path.read_bytes() == content


def test_pixels_below_the_threshold_of_the_teacher_are_ignored(tmp_path: Path) -> None:
    dataset = build(config(tmp_path, teacher=("TEST.THRESHOLD", "1.0")))
    assert set(np.unique(dataset.read_view(dataset.records[0], np.random.default_rng(0))["sem_seg"])) == {255}


def test_images_of_another_data_set_need_no_labels(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    name = register_dataset(f"extra_{tmp_path.name}", tmp_path / "scenes" / "images", ["other"])
    cfg.DATASETS.UNLABELLED = (name,)
    dataset = build(cfg)
    assert dataset.vocabulary.classes == CLASSES
    assert len(dataset.records) == 5


def test_labels_of_the_training_are_not_read_before_its_first_step(tmp_path: Path) -> None:
    plain = run(config(tmp_path, "SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "0.01", "OUTPUT_DIR", str(tmp_path / "a")))
    first = weights(tmp_path / "a" / "unlabelled" / "model_final.pth")
    for path in (tmp_path / "scenes" / "annotations").iterdir():
        Image.fromarray(np.zeros_like(np.asarray(Image.open(path)))).save(path)
    changed = run(config(tmp_path, "SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "0.01", "OUTPUT_DIR", str(tmp_path / "b")))
    assert equal(first, weights(tmp_path / "b" / "unlabelled" / "model_final.pth"))
    assert not equal(plain, changed)


@pytest.mark.parametrize(("phase", "stop"), [("unlabelled", 1), ("labelled", 0), ("labelled", 3)])
def test_resume_is_bit_exact_in_both_phases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, stop: int
) -> None:
    warm = ("MODEL.SAN.QUERY_INIT", "closed_form")
    expected = run(config(tmp_path, *warm, "OUTPUT_DIR", str(tmp_path / "full")))
    cfg = config(tmp_path, *warm, "OUTPUT_DIR", str(tmp_path / "resumed"))
    step = SANTrainer.run_step

    def interrupt(self: SANTrainer) -> None:
        is_unlabelled = self.checkpointer.save_dir.endswith("unlabelled")
        if self.iter == stop and is_unlabelled == (phase == "unlabelled"):
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(SANTrainer, "run_step", interrupt)
        with pytest.raises(Interrupted, match=f"{stop} of "):
            run(cfg)
    torch.manual_seed(99)  # a new process has another random state
    train(cfg, resume=True)
    assert equal(expected, weights(tmp_path / "resumed" / "model_final.pth"))


def test_no_iterations_without_labels_train_as_before(tmp_path: Path) -> None:
    plain = run(training_config(tmp_path, "OUTPUT_DIR", str(tmp_path / "plain")))
    cfg = config(tmp_path, "SOLVER.UNLABELLED_ITER", "0", "OUTPUT_DIR", str(tmp_path / "zero"))
    assert equal(plain, run(cfg))
    assert not (tmp_path / "zero" / "unlabelled").exists()


@pytest.mark.parametrize(
    ("kind", "unlabelled", "evaluated"), [("prototypes", 0, False), ("closed_form", 0, True), ("none", 1, True)]
)
def test_log_has_the_cost_and_the_result_of_the_start(
    tmp_path: Path, kind: str, unlabelled: int, evaluated: bool
) -> None:
    options = ("MODEL.SAN.QUERY_INIT", kind, "SOLVER.UNLABELLED_ITER", str(unlabelled), "TEST.EVAL_PERIOD", "9")
    cfg = config(tmp_path, *options)
    run(cfg)
    start = json.loads((Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()[0])
    assert start["iteration"] == -1
    assert start["start_seconds"] > 0
    assert (f"{cfg.DATASETS.TEST[0]}/mIoU" in start) == evaluated


@pytest.mark.parametrize(
    ("options", "teacher", "match"),
    [
        (("SOLVER.UNLABELLED_ITER", "-1"), (), r"^SOLVER\.UNLABELLED_ITER: -1"),
        (("MODEL.SAN.TEACHER", ""), (), r"^MODEL\.SAN\.TEACHER: empty with SOLVER\.UNLABELLED_ITER 2"),
        ((), ("TEST.PROTOCOL", "center_crop"), r"^MODEL\.SAN\.TEACHER: .*a crop"),
        ((), ("MODEL.META_ARCHITECTURE", "SAN"), r"^MODEL\.SAN\.TEACHER: .*SAN"),
        (("DATASETS.UNLABELLED", "('unknown_set',)"), (), r"^DATASETS\.UNLABELLED: unknown data set 'unknown_set'"),
    ],
)
def test_unusable_settings_are_rejected_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], teacher: tuple[str, ...], match: str
) -> None:
    monkeypatch.setattr(SANTrainer, "train", lambda *_: pytest.fail("it was too late"))
    with pytest.raises(InputError, match=match):
        run(config(tmp_path, *options, teacher=teacher))
