"""TextRegion against the outputs of its published code, on rebuilt weights."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip import get_model_config
from open_clip.model import CLIP
from PIL import Image
from torch import Tensor

from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.data.protocol import Protocol
from cliptrase_d2.methods.regions import compare_inside_and_outside, weigh_patches
from cliptrase_d2.methods.textregion import TextRegion
from cliptrase_d2.methods.whole_image import WholeImage
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol, put_background_first
from cliptrase_d2.pipeline.published_segmentation import make_whole_image
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from tests.methods.given_masks import GivenMasks
from tests.methods.reference import NAME, build_state
from tests.pipeline.tiny_segmenter import VOCABULARY, tiny_segmenter

PHOTOGRAPHS = ("2007_000559", "2007_005331")


@pytest.fixture(scope="module")
def expected(shared: Path) -> dict[str, np.ndarray]:
    path = shared / "data" / "reference" / "methods" / "textregion.npz"
    if not path.is_file():
        pytest.skip(f"the reference outputs, {path}, are not on this machine")
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def tower(shared: Path, expected: dict[str, np.ndarray]) -> VisualTower:
    with torch.device("meta"):
        clip = CLIP(**get_model_config(NAME))
    clip.load_state_dict(build_state(shared, 1.0), assign=True, strict=False)
    return VisualTower(clip.visual.eval().requires_grad_(False))


def read_photograph(shared: Path, index: int) -> Image.Image:
    path = shared / "data" / "real" / "voc2012" / "images" / f"{PHOTOGRAPHS[index]}.jpg"
    return Image.open(path).convert("RGB")


def make_masks(shared: Path, index: int, expected: dict[str, np.ndarray]) -> Tensor:
    """Return the mask logits of a photograph, [M,H,W]: a mean over 15x15 pixels, of those inside the image."""
    shape = expected[f"window{index}_masks_shape"]
    packed = expected[f"window{index}_masks_packed"]
    masks = torch.from_numpy(np.unpackbits(packed)[: int(np.prod(shape))].reshape(shape)).double()[:, None]
    mean = F.avg_pool2d(masks, 15, stride=1, padding=7, count_include_pad=False)
    return (12 * mean[:, 0] - 4).float()


def build(tower: VisualTower, text: TextFeatures, masks: Tensor, **options: Any) -> CLIPtrase:
    protocol = {key: options.pop(key) for key in ("prob_thd", "logit_scale") if key in options}
    model = tiny_segmenter(  # whose text tower is not used
        tower=tower,
        settings=CLIPtraseSettings(method="textregion", method_options=options),
        mask_source=GivenMasks(masks),
        protocol=PublishedProtocol(**{"logit_scale": 50.0, **protocol}),
    )
    model._texts[VOCABULARY] = text
    return model


def make_inputs(image: Tensor, photograph: Image.Image) -> dict[str, Any]:
    original = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)
    sizes = {"height": photograph.height, "width": photograph.width}
    return {"image": image, "photograph": original, **sizes, "vocabulary": VOCABULARY, "output_sem_seg": True}


@pytest.fixture(scope="module")
def window(
    shared: Path, tower: VisualTower, expected: dict[str, np.ndarray]
) -> Callable[[int], tuple[CLIPtrase, dict[str, Any], WholeImage]]:
    def make(index: int) -> tuple[CLIPtrase, dict[str, Any], WholeImage]:
        names = [f"class {number}" for number in range(21)]
        text = TextFeatures(torch.from_numpy(expected["text21"]), torch.arange(21), tuple(names))
        photograph = read_photograph(shared, index)
        model = build(tower, text, make_masks(shared, index, expected), crops=False)
        pixels = np.array(photograph.resize((336, 336), Image.Resampling.BICUBIC))
        inputs = make_inputs(torch.from_numpy(pixels).permute(2, 0, 1), photograph)
        image = tower.normalise(inputs["image"])
        completed = model.complete(inputs)
        assert model.protocol is not None
        return model, inputs, make_whole_image(model, completed, image, put_background_first(text), model.protocol)

    return make


@pytest.mark.parametrize("index", [0, 1])
@torch.inference_mode()
def test_the_stages_of_an_image_in_one_window(
    window: Callable[[int], Any], expected: dict[str, np.ndarray], index: int
) -> None:
    published = {
        key.removeprefix(f"window{index}_"): torch.from_numpy(value)
        for key, value in expected.items()
        if key.startswith(f"window{index}_")
    }
    model, inputs, x = window(index)
    method = model.method
    assert isinstance(method, TextRegion)
    values, cosines = method.encode(x)
    check(values.flatten(1).T[::40], published["value"])
    check(cosines, published["dense_logits"], 1e-3)
    weights = weigh_patches(x.masks, (21, 21)).flatten(1)
    kept = weights.sum(1) > 0
    assert torch.equal(kept, published["kept_before"])
    check(weights[kept], published["feature_masks"])
    check(compare_inside_and_outside(weights[kept], values.flatten(1).T), published["difference_score"])
    kept, weights = method.remove_patches(weights, values.flatten(1).T)
    assert torch.equal(kept[published["kept_before"]], published["kept_masks"])
    tokens = x.tower.finish_block((weights @ values.flatten(1).T)[None, None], residual=False, mlp=False)
    check(tokens[0], published["region_token"])
    regions = method.describe_regions(x, weights, values.flatten(1).T)
    check(regions @ x.text.features.T, published["region_logits"], 1e-3)
    (output,) = model([inputs])
    check(output["sem_seg"][:, ::12, ::12], published["probability"], 1e-3)
    assert find_agreement(output, published["labels"]) >= 0.9995


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "options"),
    [
        ("labels_thd0", {}),
        ("labels", {"prob_thd": True}),
        ("labels_thd0_no_antialias", {"antialias": False}),
        ("labels_thd0_same_memory", {"normalised_values": True}),
    ],
)
@torch.inference_mode()
def test_the_protocol(
    shared: Path, tower: VisualTower, expected: dict[str, np.ndarray], labels: str, options: dict[str, Any]
) -> None:
    if "prob_thd" in options:
        options = {"prob_thd": float(expected["protocol_threshold"])}
    class_index = torch.from_numpy(expected["query_class"]).long()
    text = TextFeatures(torch.from_numpy(expected["text_query"]), class_index, tuple(map(str, range(21))))
    photograph = read_photograph(shared, 0)
    prepared = Protocol("published", 672, 1008, 16).prepare_input(photograph)["image"]
    assert zlib.crc32(prepared.permute(1, 2, 0).contiguous().numpy().tobytes()) == expected["protocol_resized_crc32"]
    model = build(tower, text, make_masks(shared, 0, expected), **options)
    (output,) = model([make_inputs(prepared, photograph)])
    assert find_agreement(output, torch.from_numpy(expected[f"protocol_{labels}"])) >= 0.9995


def check(values: Tensor, published: Tensor, share: float = 2e-3) -> None:
    """Compare values with published ones, relative to the largest of these."""
    published = published.reshape(values.shape).float()
    torch.testing.assert_close(values, published, atol=share * float(published.abs().max()), rtol=0)


def find_agreement(output: dict[str, Tensor], published: Tensor) -> float:
    """Return the share of pixels with the published label.

    A label whose probability is within 1e-4 of the largest counts too: two words of one region of photograph 1 differ
    by 1e-6, so its 1377 pixels depend on rounding.
    """
    shares, published = output["sem_seg"], published.long()
    is_tie = shares.gather(0, published[None])[0] >= shares.amax(0) - 1e-4
    return float(((output["label_map"] == published) | is_tie).float().mean())
