"""Test-time augmentation: the mean over views, and whole evaluations with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.data.loader import list_records
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.evaluation.augmentation import AugmentedModel
from cliptrase_d2.evaluation.evaluate import SegmentationModel, evaluate_dataset
from cliptrase_d2.evaluation.provenance import config_hash
from cliptrase_d2.evaluation.runs import evaluate_runs, plan_runs
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.segmenter.build import build_segmenter, prepare_segmenter
from cliptrase_d2.utils.errors import InputError
from tests.drawn_scenes import CLASSES
from tests.pipeline.tiny_segmenter import scene, tiny_config, tiny_segmenter
from tests.san.tiny_san import TINY_SAN

AUGMENTED = ("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64, 48)")


class Shares(nn.Module):
    """Returns the three channels of an image, resized, as scores of three classes, and records its inputs."""

    patch_multiple, resampling = 16, "bicubic"

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[dict[str, Any]]] = []

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        self.calls.append(batched_inputs)
        sizes = [(one["height"], one["width"]) for one in batched_inputs]
        images = [one["image"][None].float() for one in batched_inputs]
        resized = [F.interpolate(image, size, mode="nearest") for image, size in zip(images, sizes, strict=True)]
        return [{"sem_seg": scores[0]} for scores in resized]

    def to_class_shares(self, sem_seg: Tensor) -> Tensor:
        return sem_seg


class Logits(Shares):
    """The same, with scores that are logits."""

    def to_class_shares(self, sem_seg: Tensor) -> Tensor:
        return sem_seg.softmax(0)


class LeftToRight(Shares):
    """Returns a share that depends on the column only: 0 on the left, 1 on the right."""

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        ramp = torch.linspace(0, 1, batched_inputs[0]["width"]).expand(1, batched_inputs[0]["height"], -1)
        return [{"sem_seg": torch.cat([ramp, 1 - ramp])} for _ in batched_inputs]


def make_input(views: Sequence[Tensor], height: int, width: int, **extra: Any) -> dict[str, Any]:
    return {"image": views[0], "views": list(views), "height": height, "width": width, **extra}


def colour(*values: float, side: int) -> Tensor:
    return torch.tensor(values)[:, None, None].expand(3, side, side)


def test_mean_of_two_views_by_hand() -> None:
    # By the shares, class 1 has (0.98 + 0.001) / 2 = 0.4905 and class 0 has 0.455. By the logits, class 0 would win:
    # ln 0.01 + ln 0.9 = -4.7 and ln 0.98 + ln 0.001 = -6.9.
    views = [colour(0.01, 0.98, 0.01, side=16).log(), colour(0.9, 0.001, 0.099, side=32).log()]
    (output,) = AugmentedModel(Logits(), flip=True)([make_input(views, 5, 7)])
    expected = torch.tensor([0.455, 0.4905, 0.0545])[:, None, None].expand(3, 5, 7)
    assert output["sem_seg"].dtype == torch.float32
    assert torch.allclose(output["sem_seg"], expected, atol=1e-6)
    assert torch.equal(output["label_map"], torch.ones(5, 7, dtype=torch.int64))


def test_mirrored_results_are_mirrored_back() -> None:
    image = torch.rand(3, 8, 11)
    (output,) = AugmentedModel(Shares(), flip=True)([make_input([image], 8, 11)])
    assert torch.equal(output["sem_seg"], image)
    (output,) = AugmentedModel(LeftToRight(), flip=True)([make_input([image], 8, 11)])
    assert torch.allclose(output["sem_seg"], torch.full((2, 8, 11), 0.5))


def test_result_of_a_mirrored_image_is_the_mirrored_result() -> None:
    model = AugmentedModel(tiny_segmenter(), flip=True)
    views = [scene(0, 64, 96), scene(0, 48, 64)]
    (output,) = model([make_input(views, 60, 80)])
    (mirrored,) = model([make_input([view.flip(-1) for view in views], 60, 80)])
    assert torch.allclose(mirrored["sem_seg"].flip(-1), output["sem_seg"], atol=1e-6)
    (plain,) = AugmentedModel(tiny_segmenter(), flip=False)([make_input(views, 60, 80)])
    assert not torch.equal(plain["sem_seg"], output["sem_seg"])


def test_views_of_different_sizes_share_no_batch_and_images_keep_their_order() -> None:
    sizes = [(16, 32), (32, 16), (16, 32)]
    images = [torch.full((3, *size), float(index)) for index, size in enumerate(sizes)]
    model = Shares()
    outputs = AugmentedModel(model, flip=False)([make_input([image], 4, 4) for image in images])
    assert [len(call) for call in model.calls] == [2, 1]
    assert [output["sem_seg"].unique().tolist() for output in outputs] == [[0.0], [1.0], [2.0]]


def test_an_oracle_reads_labels_that_are_mirrored_like_the_image() -> None:
    model, labels = Shares(), torch.arange(6).view(2, 3)
    AugmentedModel(model, flip=True)([make_input([torch.rand(3, 16, 16)], 2, 3, sem_seg=labels)])
    (plain,), (mirrored,) = model.calls
    assert torch.equal(plain["sem_seg"], labels)
    assert mirrored["sem_seg"].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert torch.equal(mirrored["image"], plain["image"].flip(-1))


@pytest.mark.parametrize("training", [False, True])
def test_model_keeps_its_mode(training: bool) -> None:
    model = Shares().train(training)
    assert AugmentedModel(model, flip=True).training == model.training == training


@pytest.mark.parametrize(
    "settings", [{}, {"classification": "mean"}, {"clustering": "none"}, {"refinement": "pamr", "refinement_steps": 2}]
)
def test_class_shares_of_cliptrase_sum_to_one_and_their_argmax_is_the_label_map(settings: dict[str, Any]) -> None:
    model = tiny_segmenter(settings=CLIPtraseSettings(**settings))
    (output,) = model([{"image": scene(), "output_sem_seg": True}])
    shares = model.to_class_shares(output["sem_seg"])
    assert torch.allclose(shares.sum(0), torch.ones(96, 128), atol=1e-5)
    assert torch.equal(shares.argmax(0), output["label_map"])


def test_class_shares_of_a_vote_are_the_shares_of_the_pixels() -> None:
    model = tiny_segmenter()
    (output,) = model([{"image": scene(), "output_sem_seg": True}])
    pixels = model([{"image": scene()}])[0]["pred_masks"].argmax(0)
    before = tiny_segmenter(settings=CLIPtraseSettings(clustering="none"))([{"image": scene()}])[0]["label_map"]
    chosen = before[pixels == pixels[0, 0]]
    expected = torch.bincount(chosen, minlength=6) / len(chosen)
    assert torch.allclose(model.to_class_shares(output["sem_seg"])[:, 0, 0], expected, atol=1e-6)


def predict(cfg: CfgNode, name: str, model: SegmentationModel | None = None) -> dict[str, np.ndarray]:
    """Evaluate, and return the label map of every image."""
    evaluate_dataset(cfg, model or build_segmenter(cfg), name)
    folder = Path(cfg.OUTPUT_DIR) / "inference" / name / "predictions"
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("options", [(), ("TEST.PROTOCOL", "slide"), TINY_SAN], ids=["whole", "slide", "SAN"])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_evaluation_averages_views_of_the_original_images(
    dataset: str, tmp_path: Path, options: tuple[str, ...], workers: str
) -> None:
    data = ("DATASETS.TEST", f"('{dataset}',)", "TEST.SAVE_PREDICTIONS", "True", "TEST.SAVE_OVERLAYS", "1")
    speed = ("TEST.BATCH_SIZE", "2", "DATALOADER.NUM_WORKERS", workers)
    cfg = tiny_config(tmp_path, *options, "MODEL.CLIPTRASE.VOCABULARY", "[]", *data, *speed, *AUGMENTED)
    model = build_segmenter(cfg)
    predictions = predict(cfg, dataset, model)
    report = json.loads((Path(cfg.OUTPUT_DIR) / "inference" / dataset / "metrics.json").read_text())
    assert report["protocol"]["views"] == {"short_sides": [64, 48], "max_size": 4000, "flip": True}
    for record in list_records(dataset, "stop"):
        scores = []
        for side in (64, 48):
            mapper = EvaluationMapper.for_dataset(
                dataset,
                protocol="whole",
                short_side=side,
                max_size=4000,
                patch_size=model.patch_multiple,
                resampling=model.resampling,
            )
            view = mapper(record)
            for flipped in (False, True):
                image = view["image"].flip(-1) if flipped else view["image"]
                (output,) = model([{**view, "image": image, "output_sem_seg": True}])
                shares = model.to_class_shares(output["sem_seg"])
                scores.append(shares.flip(-1) if flipped else shares)
        expected = torch.stack(scores).mean(0).argmax(0).numpy()
        # A batch rounds differently than a single image.
        assert (predictions[Path(record["file_name"]).stem] == expected).mean() > 0.999


def test_one_view_of_the_usual_size_changes_nothing(dataset: str, tmp_path: Path) -> None:
    options = ("TEST.SAVE_PREDICTIONS", "True", "DATASETS.TEST", f"('{dataset}',)")
    cfg = tiny_config(tmp_path, *options)
    same = ("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64,)", "TEST.AUG.FLIP", "False")
    augmented = tiny_config(tmp_path, *options, *same, "OUTPUT_DIR", str(tmp_path / "augmented"))
    for plain, averaged in zip(predict(cfg, dataset).values(), predict(augmented, dataset).values(), strict=True):
        assert np.array_equal(plain, averaged)


def test_methods_are_compared_with_augmentation(dataset: str, tmp_path: Path) -> None:
    methods = ("TEST.METHODS", "['clip', 'cliptrase']", "DATASETS.TEST", f"('{dataset}',)")
    cfg = tiny_config(tmp_path, *methods, *AUGMENTED)
    results = evaluate_runs(plan_runs(cfg), prepare_segmenter, resume=False)
    assert [run.method for run in results] == ["clip", "cliptrase"]
    assert all(0 < metrics["pAcc"] < 100 for metrics in results.values())


def test_an_oracle_is_augmented(dataset: str, tmp_path: Path) -> None:
    method = ("MODEL.CLIPTRASE.METHOD", "cosine_oracle", "DATASETS.TEST", f"('{dataset}',)")
    cfg = tiny_config(tmp_path, *method, *AUGMENTED)
    assert 0 < evaluate_dataset(cfg, build_segmenter(cfg), dataset)["sem_seg"]["pAcc"] <= 100


def test_results_of_other_views_have_another_hash(tmp_path: Path) -> None:
    options = [(), AUGMENTED, (*AUGMENTED, "TEST.AUG.FLIP", "False")]
    assert len({config_hash(tiny_config(tmp_path, *one)) for one in options}) == len(options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("TEST.PROTOCOL", "center_crop"), r"TEST\.PROTOCOL: 'center_crop' with TEST\.AUG.*'whole' or 'slide'"),
        (("TEST.PROTOCOL", "tiles"), r"TEST\.PROTOCOL: 'tiles' with TEST\.AUG"),
        (("TEST.PROTOCOL", "published"), r"TEST\.PROTOCOL: 'published' with TEST\.AUG"),
        (("TEST.UNSUPERVISED_GROUPS", "2"), r"TEST\.AUG\.ENABLED: .*UNSUPERVISED_GROUPS"),
        (("TEST.AUG.MIN_SIZES", "()"), r"TEST\.AUG\.MIN_SIZES: \(\)"),
        (("TEST.AUG.MIN_SIZES", "('64',)"), r"TEST\.AUG\.MIN_SIZES: \('64',\)"),
        (("TEST.AUG.MIN_SIZES", "(64, 8)"), r"TEST\.AUG\.MIN_SIZES: 8 with patches of 16"),
        (("TEST.AUG.MAX_SIZE", "60"), r"TEST\.AUG\.MAX_SIZE: 60"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    dataset: str, tmp_path: Path, options: tuple[str, ...], match: str
) -> None:
    cfg = tiny_config(tmp_path, "DATASETS.TEST", f"('{dataset}',)", *AUGMENTED, *options)
    with pytest.raises(InputError, match=match):
        evaluate_dataset(cfg, tiny_segmenter(), dataset)
    assert not list(tmp_path.rglob("metrics.json"))


def test_contradictions_are_found_before_a_model_is_built(dataset: str, tmp_path: Path) -> None:
    for options in (("TEST.PROTOCOL", "tiles"), ("TEST.UNSUPERVISED_GROUPS", str(len(CLASSES)))):
        cfg = tiny_config(tmp_path, "DATASETS.TEST", f"('{dataset}',)", *AUGMENTED, *options)
        with pytest.raises(InputError, match=r"TEST\.AUG\.ENABLED"):
            plan_runs(cfg)
