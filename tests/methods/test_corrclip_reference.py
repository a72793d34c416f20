"""CorrCLIP against the outputs of its published code, on rebuilt weights."""

from __future__ import annotations

import importlib.util
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cliptrase_d2.clip.tokens import DenseFeatures, ImageTokens, TextFeatures
from cliptrase_d2.config import load_config
from cliptrase_d2.data.protocol import Protocol
from cliptrase_d2.mask_sources import MaskInputs, MaskSource
from cliptrase_d2.methods.class_tokens import run_class_tokens
from cliptrase_d2.methods.corrclip import CorrCLIP, region_attention
from cliptrase_d2.methods.region_maps import mark_regions, mark_smallest, number_regions, resize_regions
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.segmenter.build import build_segmenter
from cliptrase_d2.vocabulary import Vocabulary
from tests.methods.reference import build_state

CONFIG = Path(__file__).parents[2] / "configs" / "methods" / "corrclip" / "voc21.yaml"
DINO = CorrCLIP.vision_model
VOCABULARY = Vocabulary.parse([f"class {index}" for index in range(1, 21)], ["background"])  # first in the references
PHOTOGRAPHS = ("2007_000559", "2007_005331")
WINDOWS = pytest.mark.parametrize("window", [0, 1])
pytestmark = pytest.mark.slow


class GivenRegions(MaskSource):
    """A region map that was made elsewhere, 0 for no region."""

    needs_correlation = needs_pixels = False

    def __init__(self, regions: Tensor):
        super().__init__()
        self.given = regions

    def propose(self, inputs: MaskInputs) -> list[MaskProposals]:
        coarse = torch.zeros(int(self.given.max()), *inputs.grid)
        return [MaskProposals(coarse, (self.given - 1).clamp_min(0), is_gap=self.given == 0)]


@pytest.fixture(scope="module")
def expected(reference: Path) -> dict[str, Tensor]:
    path = reference / "methods" / "corrclip.npz"
    if not path.is_file():
        pytest.skip(f"the reference outputs, {path}, are not on this machine")
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files if arrays[name].dtype.kind != "U"}


def fill_dino(shared: Path) -> dict[str, Tensor]:
    """Return DINO's weights of the references."""
    spec = importlib.util.spec_from_file_location("reference_weights", shared / "tools" / "reference_weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    state = weights.fill(timm.create_model(DINO, num_classes=0).state_dict())
    factors = {".attn.qkv.weight": 3.0, ".attn.proj.weight": 0.2, ".mlp.fc2.weight": 0.2}
    return {
        name: value * next((factor for end, factor in factors.items() if name.endswith(end)), 1.0)
        for name, value in state.items()
    }


@pytest.fixture(scope="module")
def model(shared: Path, expected: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> CLIPtrase:
    """The published configuration with the weights and words of the references, and no SAM."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(build_state(shared, last_projection=1.0), folder / "clip.pt")
    torch.save(fill_dino(shared), folder / "dino.pt")
    options = {
        **{"MODEL.CLIP.PRETRAINED": folder / "clip.pt", "MODEL.VISION.WEIGHTS": folder / "dino.pt"},
        **{"MODEL.MASKS.SOURCE": "scr", "MODEL.CLIP.TEXT_CACHE": "", "MODEL.DEVICE": "cpu"},
    }
    model = build_segmenter(load_config(CONFIG, [str(word) for pair in options.items() for word in pair]))
    class_index, order = ((expected["query_class"].long() - 1) % 21).sort(stable=True)  # our background is last
    model._texts[VOCABULARY] = TextFeatures(expected["text_query"][order], class_index, VOCABULARY.classes)
    encode, features = model.encode_views, dict[float, DenseFeatures]()

    def encode_once(views: Tensor, *others: Any) -> DenseFeatures:
        """The settings of the tests differ after the features only."""
        key = float(views.double().sum())
        if key not in features:
            features[key] = encode(views, *others)
        return features[key]

    model.encode_views = encode_once
    return model


def read_photograph(shared: Path, index: int) -> Image.Image:
    path = shared / "data" / "real" / "voc2012" / "images" / f"{PHOTOGRAPHS[index]}.jpg"
    return Image.open(path).convert("RGB")


def read_window(model: CLIPtrase, shared: Path, expected: dict[str, Tensor], window: int) -> ImageTokens:
    pixels = np.array(read_photograph(shared, window).resize((336, 336), Image.Resampling.BICUBIC))
    image = model.tower.normalise(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    regions = expected[f"window{window}_regions"][None].long() - 1
    vision = model.vision_model(model.tower.denormalise(image), CorrCLIP.needs.vision_features)
    return replace(model.tower(image, CorrCLIP.needs), vision_features=vision, regions=regions)


def assert_near(actual: Tensor, expected: Tensor, share: float = 2e-4) -> None:
    torch.testing.assert_close(actual, expected.float(), atol=share * float(expected.abs().max()), rtol=0)


@WINDOWS
@torch.inference_mode()
def test_stages_of_a_window(model: CLIPtrase, shared: Path, expected: dict[str, Tensor], window: int) -> None:
    published = {
        name.partition("_")[2]: value for name, value in expected.items() if name.startswith(f"window{window}_")
    }
    x, patches = read_window(model, shared, expected, window), expected["patches"].long()
    method = CorrCLIP(smallest_is_none=True)  # in window 1 every pixel is in a region
    f = F.normalize(x.vision_features.features, dim=-1)
    assert_near(f[0, patches], published["dino"])
    merged = method.find_regions(x, f)
    before = mark_smallest(resize_regions(x.regions, (42, 42)).flatten(1))[0]
    first = [int(merged[0][before == number][0]) for number in before.unique() if number >= 0]
    assert torch.equal(torch.tensor(first).unique(return_inverse=True)[1], published["region_clusters"].long())
    weights = region_attention(f @ f.transpose(1, 2), merged, method.sharpness)
    assert_near(weights[0, patches[::3]], published["attention"])
    assert ((weights[0] > 0).sum(1) - published["kept_per_row"]).abs().max() <= 2
    main, spatial = method.attend(x, weights)
    index = number_regions(resize_regions(merged.unflatten(1, (42, 42)), x.grid))
    copies = run_class_tokens(x, mark_regions(index.flatten(1)))[0]
    semantic = copies[resize_regions(index, (42, 42)).flatten()]
    branches = torch.stack([main[0], spatial[0], semantic])[:, patches]
    assert_near(branches, published["branches"])
    assert_near(model.tower.visual.ln_post(branches), published["branches_normed"])
    assert_near(x.hidden_state()[0, 1::28], published["block11"])
    features = method(x).patches[0]
    assert_near(features[patches], F.normalize(published["features"].float(), dim=-1))
    cosines = (features @ expected["text21"].T).T.unflatten(1, (42, 42))
    assert_near(cosines, published["patch_logits"], 2e-3)  # an entry at the mean of S may be on the other side
    assert torch.equal(cosines.argmax(0), published["patch_logits"].argmax(0))
    upsampled = F.interpolate(cosines[None], (336, 336), mode="bilinear", align_corners=False)[0, :, ::12, ::12]
    assert_near(upsampled, published["logits"], 2e-3)


@pytest.mark.parametrize(
    ("name", "has_threshold", "votes"),
    [("labels_thd0", False, True), ("labels", True, True), ("labels_uncorrected", True, False)],
)
def test_labels_of_the_protocol(
    model: CLIPtrase, shared: Path, expected: dict[str, Tensor], name: str, has_threshold: bool, votes: bool
) -> None:
    inputs = Protocol("published", 336, 2048, 16).prepare_input(read_photograph(shared, 0), with_photograph=True)
    pixels = inputs["image"].permute(1, 2, 0).contiguous().numpy()
    if zlib.crc32(pixels.tobytes()) != int(expected["protocol_resized_crc32"]):
        pytest.skip("Pillow or OpenCV of another version decodes or resizes the photograph differently")
    model.mask_source = GivenRegions(expected["protocol_regions"].long())
    threshold = float(expected["protocol_threshold"]) if has_threshold else 0.0
    model.protocol = replace(model.protocol, prob_thd=threshold, region_vote=votes)
    (output,) = model([{**inputs, "vocabulary": VOCABULARY, "output_sem_seg": True}])
    agreement = ((output["label_map"] + 1) % 21 == expected[f"protocol_{name}"]).float().mean()
    assert agreement >= 0.9995
    assert torch.equal(output["sem_seg"].argmax(0), output["label_map"])
    probability = expected["protocol_class_probability"]
    if not has_threshold:
        is_plain = (output["sem_seg"] > 0).all(0)[::12, ::12]  # not changed by the vote
        assert_near(output["sem_seg"].roll(1, 0)[:, ::12, ::12][:, is_plain], probability[:, is_plain], 1e-3)
