"""The whole model against the output of the published implementation for eight photographs, on reproducible weights."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip import get_model_config
from open_clip.model import CLIP
from PIL import Image
from torch import Tensor

from cliptrase_d2.clip.tokens import Needs
from cliptrase_d2.config import load_config
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.pipeline.model import CLIPtrase, EncodedImages
from cliptrase_d2.pipeline.stages import cluster, correlate_tokens
from cliptrase_d2.segmenter.build import build_segmenter
from cliptrase_d2.vocabulary import Vocabulary

NAME = "ViT-B-16-quickgelu"
CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "cliptrase"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights, as a file for MODEL.CLIP.PRETRAINED."""
    path = shared / "tools" / "reference_weights.py"
    spec = importlib.util.spec_from_file_location("reference_weights", path)
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    with torch.device("meta"):  # every number is replaced, so none is drawn
        state = CLIP(**get_model_config(NAME)).state_dict()
    folder = tmp_path_factory.mktemp("faithfulness")
    filled = weights.fill({name: value for name, value in state.items() if name != "attn_mask"}, gain=2.0)
    torch.save(filled, folder / "weights.pt")
    return folder


@pytest.fixture(scope="module")
def vocabularies(shared: Path) -> dict[str, Vocabulary]:
    """That of each published run."""
    lists = json.loads((shared / "data" / "vocabularies.json").read_text())
    plain = Vocabulary.parse(lists["voc20"]["classes"])
    background = lists["voc21"]["background"]
    return {"plain": plain, "voc20": plain, "voc21": Vocabulary.parse(lists["voc21"]["classes"][:20], background)}


@pytest.fixture(scope="module", params=[224, 336])
def side(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def words_encoded() -> dict[str, Tensor]:
    """Text features of the words of all runs."""
    return {}


@pytest.fixture(scope="module")
def model(side: int, work: Path, words_encoded: dict[str, Tensor]) -> CLIPtrase:
    options = {
        "MODEL.CLIP.NAME": NAME,
        "MODEL.CLIP.PRETRAINED": str(work / "weights.pt"),
        "MODEL.CLIP.TEXT_CACHE": "",  # a finer one is below
        "MODEL.DEVICE": "cpu",
    }
    words = [word for pair in options.items() for word in pair]
    model = build_segmenter(load_config(CONFIGS / f"vit_b16_{side}.yaml", words))
    encode_image, encoded = model.encode_image, {}

    def encode_image_once(images: Tensor, *rest: object, **options: object) -> EncodedImages:
        """Encode the photographs once: the runs differ in their words only, and encoding takes half a minute."""
        key = images.numpy().tobytes()
        if key not in encoded:
            encoded[key] = encode_image(images)
        return encoded[key]

    model.encode_image = encode_image_once
    encode, rows = model.text_encoder._encode, words_encoded

    def encode_once(words: Sequence[str], *rest: object) -> Tensor:
        """Encode the words once, most of which the runs share."""
        new = [word for word in words if word not in rows]
        rows.update(zip(new, encode(new, *rest) if new else (), strict=True))
        return torch.stack([rows[word] for word in words])

    model.text_encoder._encode = encode_once
    return model


@pytest.fixture(scope="module")
def inputs(side: int, shared: Path, vocabularies: dict[str, Vocabulary]) -> list[dict[str, Any]]:
    """Return the eight photographs as the model takes them, in the order of their names."""
    mapper = EvaluationMapper(
        protocol="center_crop",
        short_side=side,
        max_size=side,
        patch_size=16,
        vocabulary=vocabularies["plain"],
        label_rule=LabelRule(20),
    )
    files = sorted((shared / "data" / "real" / "voc2012" / "images").iterdir())
    assert len(files) == 8
    return [mapper({"file_name": str(file)}) for file in files]


@pytest.fixture(scope="module")
def stages(side: int, reference: Path) -> dict[str, Tensor]:
    with np.load(reference / "cliptrase" / f"stages_{side}.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in ("visual", "scr", "text", "cluster_labels")}


def test_every_stage_is_met(model: CLIPtrase, inputs: list[dict[str, Any]], stages: dict[str, Tensor]) -> None:
    with torch.inference_mode():
        tokens = model.tower(model.tower.normalise(inputs[0]["image"])[None], Needs(qkv=(-2,)))
        features = model.method(tokens)
        visual = torch.cat([features.class_token[:, None], features.patches], dim=1)[0]
        correlation = correlate_tokens(tokens.qkv(-2), model.settings)[0]
        text = model.text_features(inputs[0]["vocabulary"]).features
    torch.testing.assert_close(visual, stages["visual"], atol=1e-4, rtol=0)
    torch.testing.assert_close(correlation, stages["scr"], atol=1e-4, rtol=0)
    torch.testing.assert_close(text, stages["text"], atol=1e-4, rtol=0)


def test_every_cluster_label_is_met(model: CLIPtrase, inputs: list[dict[str, Any]], stages: dict[str, Tensor]) -> None:
    images = model.tower.normalise(torch.stack([photograph["image"] for photograph in inputs]))
    with torch.inference_mode():
        clusters = cluster(model.encode_image(images).correlation, model.settings)
    assert torch.equal(clusters, stages["cluster_labels"].long())


@pytest.mark.parametrize("run", ["plain", "voc20", "voc21"])
def test_the_label_maps_are_met(
    model: CLIPtrase,
    inputs: list[dict[str, Any]],
    vocabularies: dict[str, Vocabulary],
    side: int,
    reference: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: str,
) -> None:
    monkeypatch.setattr(model, "settings", replace(model.settings, cls_logit_weight=run == "voc20"))
    outputs = model([{**photograph, "vocabulary": vocabularies[run]} for photograph in inputs])
    for photograph, output in zip(inputs, outputs, strict=True):
        file = reference / "cliptrase" / f"{run}_{side}" / f"{Path(photograph['file_name']).stem}.png"
        expected = torch.from_numpy(np.array(Image.open(file))).long()
        assert (output["label_map"] == expected).float().mean() >= 0.999, file.name
