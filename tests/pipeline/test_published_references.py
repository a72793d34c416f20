"""The published protocol against outputs of the published code, on weights that anyone can rebuild."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.config import load_config
from cliptrase_d2.data.benchmarks import BENCHMARKS
from cliptrase_d2.data.protocol import Protocol
from cliptrase_d2.pipeline.decision import DecisionRule, decide
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.refinement import refine_maps
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.segmenter.build import build_segmenter
from cliptrase_d2.vocabulary import Vocabulary
from tests import forked
from tests.methods.reference import build_state

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "methods"
CLASSES = tuple(f"class {index}" for index in range(1, 21))
VOCABULARY = Vocabulary.parse(CLASSES, ["background"])  # the background is last, and first in the references
WIDE_ENOUGH = 0.999  # of the labels: near ties at single pixels may differ
PHOTOGRAPHS = ("2007_000559", "2007_001763")
# The file and the array with the labels of the first photograph, by the settings of VOC21. The others have none.
LABELS = {
    "sclip": ("protocol", "sclip_label"),
    "naclip": ("protocol", "naclip_voc21_label"),
    "sc_clip": ("scclip", "protocol_label"),
    "sfp": ("sfp", "protocol_label"),
    "resclip": ("resclip", "voc21_label"),
}


def load(folder: Path, name: str) -> dict[str, Tensor]:
    path = folder / "methods" / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"the reference outputs, {path}, are not on this machine")
    with np.load(path) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files if arrays[key].dtype.kind != "U"}


@pytest.fixture(scope="module")
def common(reference: Path) -> dict[str, Tensor]:
    return load(reference, "common")


@pytest.fixture(scope="module")
def protocol(reference: Path) -> dict[str, Tensor]:
    return load(reference, "protocol")


def arrange(word_class: Tensor, features: Tensor) -> TextFeatures:
    """Return the words in our order, with the background last."""
    published = word_class.long()
    class_index, order = torch.where(published == 0, 20, published - 1).sort(stable=True)
    return TextFeatures(features[order], class_index, VOCABULARY.classes)


@pytest.fixture(scope="module")
def weights(shared: Path, common: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the weights of the references, without the entries that tell OpenAI's activation."""
    path = tmp_path_factory.mktemp("published") / "weights.pt"
    torch.save(build_state(shared), path)
    return path


@pytest.fixture(scope="module")
def model(weights: Path) -> CLIPtrase:
    options = ("MODEL.CLIP.PRETRAINED", str(weights), "MODEL.CLIP.TEXT_CACHE", "", "MODEL.DEVICE", "cpu")
    return build_segmenter(load_config(CONFIGS / "sclip" / "voc21.yaml", options))


def segment(
    model: CLIPtrase, common: Mapping[str, Tensor], config: str, words: Tensor | None = None, **changes: object
) -> dict[str, Tensor]:
    """Segment the photograph with a method's configuration. The labels are in the published order.

    Args:
        words: features of the method's own words, [R,D]; None for those of SCLIP.
    """
    cfg = load_config(CONFIGS / config)
    model._texts[VOCABULARY] = arrange(common["word_class"], common["text_words"] if words is None else words)
    model.protocol = replace(PublishedProtocol.from_config(cfg), **changes)
    model.configure(CLIPtraseSettings.from_config(cfg))
    height, width = common["ori_shape"].tolist()
    image = common["image_336"].permute(2, 0, 1)
    output = model([{"image": image, "height": height, "width": width, "vocabulary": VOCABULARY}])[0]
    return {**output, "published": (output["label_map"] + 1) % 21}


def agreement(labels: Tensor, expected: Tensor) -> float:
    return float((labels == expected).float().mean())


def test_the_decision_rules(common: dict[str, Tensor], protocol: dict[str, Tensor]) -> None:
    values = protocol["sclip_logits"].float()
    for (scale, prob_thd, area_thd), expected in zip(protocol["rule_settings"], protocol["rule_labels"], strict=True):
        thresholds = float(prob_thd), max(0.0, float(area_thd))
        rule = DecisionRule(common["word_class"].long(), 21, float(scale), *thresholds)
        decision = decide(lambda start, stop: values[:, start:stop].movedim(0, 1), values.shape[1:], rule)
        assert torch.equal(decision.labels, expected.long()), rule


def test_pamr(protocol: dict[str, Tensor]) -> None:
    refined = refine_maps(protocol["pamr_in"].clone(), protocol["pamr_image"], 10, (8, 16))
    torch.testing.assert_close(refined, protocol["pamr_out"], atol=2e-7, rtol=0)


def test_the_resized_photograph(shared: Path, common: dict[str, Tensor]) -> None:
    image = Image.open(shared / "data" / "real" / "voc2012" / "images" / "2007_000559.jpg").convert("RGB")
    inputs = Protocol("published", 336, 2048, 16).prepare_input(image)
    assert [inputs["height"], inputs["width"]] == common["ori_shape"].tolist()
    assert torch.equal(inputs["image"].permute(1, 2, 0), common["image_336"])


@pytest.mark.slow
@pytest.mark.parametrize("method", LABELS)
def test_the_settings_of_voc21(model: CLIPtrase, common: dict[str, Tensor], reference: Path, method: str) -> None:
    name, key = LABELS[method]
    published = load(reference, name)
    output = segment(model, common, f"{method}/voc21.yaml", published.get("text_words"))
    assert agreement(output["published"], published[key]) >= WIDE_ENOUGH
    assert torch.equal(output["sem_seg"].argmax(0), output["label_map"])


@pytest.mark.slow
def test_naclip_in_windows_with_pamr(model: CLIPtrase, common: dict[str, Tensor], protocol: dict[str, Tensor]) -> None:
    output = segment(model, common, "naclip/voc21.yaml", window=224, stride=112)
    assert agreement(output["published"], protocol["naclip_slide_label"]) >= WIDE_ENOUGH


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sc_clip", "sfp"])
def test_windows_without_thresholds(model: CLIPtrase, common: dict[str, Tensor], reference: Path, method: str) -> None:
    published = load(reference, LABELS[method][0])
    words = published.get("text_words")
    output = segment(model, common, f"{method}/voc21.yaml", words, prob_thd=0.0, area_thd=0.0)
    assert agreement(output["published"], published["protocol_label_no_thresholds"]) >= WIDE_ENOUGH


@pytest.fixture(scope="module")
def voc2012(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets with two photographs of VOC2012."""
    real, root = shared / "data" / "real" / "voc2012", tmp_path_factory.mktemp("data")
    for stem in PHOTOGRAPHS:
        image, labels = (root / place for place in (BENCHMARKS["voc21"].images, BENCHMARKS["voc21"].labels))
        for folder in (image, labels):
            folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(real / "images" / f"{stem}.jpg", image)
        raw = np.asarray(Image.open(real / "annotations" / f"{stem}.png")).astype(int)  # the background is first
        Image.fromarray(np.where(raw == 255, 255, (raw + 20) % 21).astype(np.uint8)).save(labels / f"{stem}.png")
    return root


@pytest.mark.slow
def test_the_command_meets_the_labels_of_sfp(weights: Path, voc2012: Path, reference: Path, tmp_path: Path) -> None:
    options = {
        "MODEL.CLIP.PRETRAINED": weights,
        "MODEL.CLIP.TEMPLATES": "simple",  # as in the references. With all 80, 56 % of SCLIP's labels agree.
        "MODEL.CLIP.TEXT_CACHE": weights.parent,
        "MODEL.DEVICE": "cpu",
        "TEST.EXPECTED_RESULTS": "[]",
        "TEST.SAVE_PREDICTIONS": "True",
        "DATALOADER.NUM_WORKERS": "0",
        "OUTPUT_DIR": tmp_path,
    }
    config = ("--eval-only", "--config-file", str(CONFIGS / "sfp" / "voc21.yaml"))
    words = [str(word) for pair in options.items() for word in pair]
    done = forked.run(["train_net.py", *config, *words], tmp_path / "streams", DETECTRON2_DATASETS=str(voc2012))
    assert done.returncode == 0, done.stderr
    predictions = {
        path.stem: torch.from_numpy(np.array(Image.open(path))) for path in tmp_path.glob("inference/*/predictions/*")
    }
    assert {stem: labels.shape for stem, labels in predictions.items()} == {
        PHOTOGRAPHS[0]: (370, 500),
        PHOTOGRAPHS[1]: (375, 500),
    }
    name, key = LABELS["sfp"]
    assert agreement((predictions[PHOTOGRAPHS[0]].long() + 1) % 21, load(reference, name)[key]) >= WIDE_ENOUGH
