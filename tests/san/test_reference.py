"""SAN against the published implementation: equal weights, filled in by name, give equal masks and classes."""

import json
import runpy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from cliptrase_d2.clip.open_clip_modules import pixel_statistics
from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.san.criterion import Criterion
from cliptrase_d2.san.model import SAN
from cliptrase_d2.san.side_network import SideAdapterNetwork
from cliptrase_d2.san.split_tower import FirstBlocks, LastBlocks, WordClassifier


@pytest.fixture(scope="module")
def published(reference: Path) -> Mapping[str, np.ndarray]:
    with np.load(reference / "san" / "outputs.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def model(shared: Path) -> SAN:
    rule = runpy.run_path(str(shared / "tools" / "reference_weights.py"))
    clip = open_clip.create_model("ViT-B-16-quickgelu")
    classifier = WordClassifier(clip)
    mean, std = pixel_statistics(clip.visual)
    san = SAN(
        clip_visual_extractor=FirstBlocks(clip.visual, 9),
        clip_rec_head=LastBlocks(clip.visual, 9),
        ov_classifier=classifier,
        text_encoder=TextEncoder(classifier, open_clip.get_tokenizer("ViT-B-16"), templates="vild"),
        side_adapter_network=SideAdapterNetwork(clip_width=768, clip_heads=12, fusion={0: 0, 1: 3, 2: 6, 3: 9}),
        criterion=Criterion(171),
        pixel_mean=[255 * value for value in mean],
        pixel_std=[255 * value for value in std],
    )
    san.load_state_dict(rule["fill"](san.state_dict(), gain=2.0))
    return san.eval()


def test_parameters_have_the_published_names_and_shapes(model: SAN, reference: Path) -> None:
    names = json.loads((reference / "san" / "parameters.json").read_text())
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == names


def test_masks_embeddings_and_biases_equal_the_published_ones(model: SAN, published: Mapping[str, np.ndarray]) -> None:
    images = model.normalise(torch.from_numpy(published["image"]).permute(2, 0, 1))[None]
    with torch.no_grad():
        features = model.encode_image(images)
        masks, biases = model.side_adapter_network(images, features)[-1]
        embeddings = model.clip_rec_head(features, biases)
    results = {"mask_preds": masks, "mask_embeddings": embeddings, "attn_bias_mean": biases.flatten(3).mean(-1)}
    for name, value in results.items():
        assert torch.allclose(value, torch.from_numpy(published[name]), atol=1e-3), name


def test_label_map_of_published_words_equals_the_published_one(
    model: SAN, published: Mapping[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = torch.from_numpy(published["class_weights"])  # [11,512]; the last row is "no object"
    assert torch.allclose(F.normalize(model.ov_classifier.bg_embed, dim=-1), weights[-1:], atol=1e-3)
    words = TextFeatures(weights[:-1], torch.arange(10), tuple("abcdefghij"))
    monkeypatch.setattr(model, "text_features", lambda vocabulary: words)
    image = torch.from_numpy(published["image"]).permute(2, 0, 1)
    with torch.no_grad():
        embeddings = model.predict_masks(model.normalise(image)[None])[-1][1]
        logits = model.classify(embeddings, words)
    assert torch.allclose(logits, torch.from_numpy(published["class_logits"]), atol=1e-3)
    label_map = model([{"image": image, "vocabulary": list("abcdefghij")}])[0]["label_map"].numpy()
    assert (label_map == published["label_map"]).mean() >= 0.999
