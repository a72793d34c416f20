"""The published protocol against outputs of the published code, on weights that anyone can rebuild."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip import get_model_config
from open_clip.model import CLIP
from PIL import Image
from torch import Tensor

from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.config import load_config
from cliptrase_d2.data.protocol import Protocol
from cliptrase_d2.pipeline.decision import DecisionRule, decide
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.refinement import refine_maps
from cliptrase_d2.segmenter.build import build_segmenter
from cliptrase_d2.vocabulary import Vocabulary

NAME = "ViT-B-16-quickgelu"
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "methods"
CLASSES = tuple(f"class {index}" for index in range(1, 21))
VOCABULARY = Vocabulary.parse(CLASSES, ["background"])  # the background is last, and first in the references
WIDE_ENOUGH = 0.999  # of the labels: near ties at single pixels may differ


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


@pytest.fixture(scope="module")
def words(common: dict[str, Tensor]) -> TextFeatures:
    """The words in our order, with the background last."""
    published = common["word_class"].long()
    class_index, order = torch.where(published == 0, 20, published - 1).sort(stable=True)
    return TextFeatures(common["text_words"][order], class_index, VOCABULARY.classes)


@pytest.fixture(scope="module")
def model(
    shared: Path, common: dict[str, Tensor], words: TextFeatures, tmp_path_factory: pytest.TempPathFactory
) -> CLIPtrase:
    path = shared / "tools" / "reference_weights.py"
    spec = importlib.util.spec_from_file_location("reference_weights", path)
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    with torch.device("meta"):  # every number is replaced, so none is drawn
        state = CLIP(**get_model_config(NAME)).state_dict()
    filled = weights.fill({name: value for name, value in state.items() if name != "attn_mask"}, gain=3.0)
    filled["visual.transformer.resblocks.11.attn.out_proj.weight"] *= 10
    folder = tmp_path_factory.mktemp("published")
    torch.save(filled, folder / "weights.pt")
    options = {
        "MODEL.CLIP.NAME": NAME,
        "MODEL.CLIP.PRETRAINED": str(folder / "weights.pt"),
        "MODEL.CLIP.TEXT_CACHE": "",
        "MODEL.DEVICE": "cpu",
    }
    model = build_segmenter(
        load_config(CONFIGS / "sclip" / "voc21.yaml", [one for pair in options.items() for one in pair])
    )
    model._texts[VOCABULARY] = words
    return model


def segment(model: CLIPtrase, common: Mapping[str, Tensor], config: str, **changes: object) -> dict[str, Tensor]:
    """Segment the photograph with a method's configuration. The labels are in the published order."""
    cfg = load_config(CONFIGS / config)
    model.protocol = replace(PublishedProtocol.from_config(cfg), **changes)
    model.configure(replace(model.settings, method=cfg.MODEL.CLIPTRASE.METHOD))
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
def test_sclip_in_windows(model: CLIPtrase, common: dict[str, Tensor], protocol: dict[str, Tensor]) -> None:
    output = segment(model, common, "sclip/voc21.yaml")
    assert agreement(output["published"], protocol["sclip_label"]) >= WIDE_ENOUGH
    assert torch.equal(output["sem_seg"].argmax(0), output["label_map"])


@pytest.mark.slow
def test_naclip_on_the_whole_image_with_pamr(
    model: CLIPtrase, common: dict[str, Tensor], protocol: dict[str, Tensor]
) -> None:
    output = segment(model, common, "naclip/voc21.yaml")
    assert agreement(output["published"], protocol["naclip_voc21_label"]) >= WIDE_ENOUGH


@pytest.mark.slow
def test_naclip_in_windows_with_pamr(model: CLIPtrase, common: dict[str, Tensor], protocol: dict[str, Tensor]) -> None:
    output = segment(model, common, "naclip/voc21.yaml", window=224, stride=112)
    assert agreement(output["published"], protocol["naclip_slide_label"]) >= WIDE_ENOUGH


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "changes"),
    [("protocol_label", {}), ("protocol_label_no_thresholds", {"prob_thd": 0.0, "area_thd": 0.0})],
)
def test_scclip_in_windows(
    model: CLIPtrase, common: dict[str, Tensor], reference: Path, key: str, changes: dict[str, float]
) -> None:
    model.configure(replace(model.settings, method="sc_clip"))
    model.protocol = replace(PublishedProtocol(logit_scale=50.0, prob_thd=0.15, area_thd=0.1), **changes)
    height, width = common["ori_shape"].tolist()
    image = common["image_336"].permute(2, 0, 1)
    output = model([{"image": image, "height": height, "width": width, "vocabulary": VOCABULARY}])[0]
    assert agreement((output["label_map"] + 1) % 21, load(reference, "scclip")[key]) >= WIDE_ENOUGH
