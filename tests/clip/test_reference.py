"""CLIP's towers against the published implementation, on weights that a script can rebuild."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from PIL import Image

from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.tokenizer import get_tokenizer
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.methods import get_method
from cliptrase_d2.vocabulary import Vocabulary

NAME = "ViT-B-16-quickgelu"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(shared: Path) -> CLIP:
    path = shared / "tools" / "reference_weights.py"
    spec = importlib.util.spec_from_file_location("reference_weights", path)
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    with torch.device("meta"):  # every number is replaced, so none is drawn
        model = CLIP(**open_clip.get_model_config(NAME))
    model.load_state_dict(weights.fill(model.state_dict(), gain=2.0), assign=True)
    return model.eval().requires_grad_(False)


def centre_crop(folder: Path, size: int) -> np.ndarray:
    """First photograph of the folder, short side to `size` (bicubic), centre crop."""
    image = Image.open(min(folder.iterdir())).convert("RGB")
    scale = size / min(image.size)
    width, height = (size if side == min(image.size) else int(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.array(image.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("size", [224, 336])
def test_visual_tokens(model: CLIP, shared: Path, reference: Path, size: int) -> None:
    expected = torch.from_numpy(np.load(reference / "cliptrase" / f"stages_{size}.npz")["visual"])
    tower = VisualTower(model.visual)
    image = torch.from_numpy(centre_crop(shared / "data" / "real" / "voc2012" / "images", size)).permute(2, 0, 1)[None]
    features = get_method("cliptrase")(tower(tower.normalise(image)))
    torch.testing.assert_close(features.class_token[0], expected[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(features.patches[0], expected[1:], atol=1e-4, rtol=0)


def test_text_features(model: CLIP, shared: Path, reference: Path) -> None:
    expected = torch.from_numpy(np.load(reference / "cliptrase" / "stages_224.npz")["text"])
    classes = json.loads((shared / "data" / "vocabularies.json").read_text())["voc20"]["classes"]
    count = 3  # the 80 templates of all twenty take half a minute
    encoder = TextEncoder(model, get_tokenizer(NAME), templates="imagenet")
    features = encoder(Vocabulary.parse(classes[:count])).features
    torch.testing.assert_close(features, expected[:count], atol=1e-4, rtol=0)
