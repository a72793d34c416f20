"""TextRegion on SigLIP 2, against the outputs of its published code, and with a tiny SigLIP."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from PIL import Image
from torch import Tensor, nn

from cliptrase_d2.clip.siglip import SiglipTower
from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.data.protocol import Protocol
from cliptrase_d2.methods import METHOD_CLASSES
from cliptrase_d2.methods.regions import average_inside, compare_inside_and_outside, weigh_patches
from cliptrase_d2.methods.textregion import TextRegion
from cliptrase_d2.methods.whole_image import WholeImage
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.parts import Combination, WindowSettings
from cliptrase_d2.pipeline.published import PublishedProtocol, put_background_first
from cliptrase_d2.pipeline.published_segmentation import make_whole_image
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny_siglip import tiny_visual
from tests.methods.given_masks import GivenMasks
from tests.methods.test_textregion import SIZE, draw_masks, make_input
from tests.methods.test_textregion_reference import check, find_agreement, make_inputs, make_masks, read_photograph
from tests.pipeline.tiny_segmenter import VOCABULARY, tiny_segmenter

ONE_MODEL = "ViT-B-16-SigLIP2"


class Scales(nn.Module):
    """The part of a SigLIP 2 that turns cosines into logits."""

    def __init__(self, scale: Tensor, bias: Tensor):
        super().__init__()
        self.logit_scale, self.logit_bias = nn.Parameter(scale), nn.Parameter(bias)


def build(tower: SiglipTower, text: TextFeatures, masks: Tensor, scales: Scales, **options: Any) -> CLIPtrase:
    model = tiny_segmenter(  # whose text tower is not used
        tower=tower,
        settings=CLIPtraseSettings(method="textregion", method_options=options),
        mask_source=GivenMasks(masks),
        protocol=PublishedProtocol(logit_scale=50.0),
    )
    model.clip = scales  # type: ignore[assignment]
    model._texts[VOCABULARY] = text
    return model.requires_grad_(False)


def make_text(width: int, count: int) -> TextFeatures:
    features = F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(0)), dim=-1)
    return TextFeatures(features, torch.arange(count), tuple(f"class {index}" for index in range(count)))


# ------------------------------------------------------------------ a tiny SigLIP


@pytest.fixture(scope="module")
def tiny() -> SiglipTower:
    return SiglipTower(tiny_visual())


def test_the_tower_reads_the_last_tokens(tiny: SiglipTower) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        tokens = tiny(images)
        assert tokens.grid == (4, 4)
        assert torch.equal(tokens.patches, tiny.visual.trunk.forward_features(images))
        # One patch alone is all that the pooling can read, whatever its query is.
        pool, patch = tiny.visual.trunk.attn_pool, tokens.patches[:1, 5:6]
        plain = pool.mlp
        pool.mlp = None
        expected = F.normalize(pool(patch), dim=-1)
        pool.mlp = plain
        torch.testing.assert_close(tokens.finish_pool(tokens.pool_values(patch))[0], expected)
    assert torch.equal(tiny.denormalise(tiny.normalise(torch.full((3, 2, 2), 77.0))), torch.full((3, 2, 2), 77.0))


@torch.inference_mode()
def test_a_region_is_the_mean_of_its_patches(tiny: SiglipTower) -> None:
    text, scales = make_text(48, 7), Scales(torch.tensor(1.2), torch.tensor(-3.0))
    model = build(tiny, text, draw_masks(), scales, patch_threshold=-2.0, crops=False)
    image = model.tower.normalise(make_input(40, 90)["image"])
    x = whole_image(model, make_input(40, 90), image, text)
    result = model.method(x)
    square = F.interpolate(image[None], (32, 32), mode="bicubic", antialias=True)
    tokens = tiny(square).patches[0]
    weights = F.interpolate(draw_masks()[None], (4, 4), mode="bilinear")[0].flatten(1)
    for mask, values in zip(weights[:2], result.values, strict=True):
        pool = tiny.visual.trunk.attn_pool
        value = pool.kv(tokens[mask > 0])[:, 48:].mean(0)
        expected = text.features @ F.normalize(pool.proj(value), dim=-1) * np.exp(1.2) - 3
        torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)
    painted, covered = result.at(SIZE), draw_masks()[:2].clamp(0, 1).sum(0) > 0
    assert painted[:, covered].abs().min() > 0
    assert not painted[:, ~covered].any()


def test_crops_add_to_half_of_the_whole_image(tiny: SiglipTower) -> None:
    text, scales = make_text(48, 7), Scales(torch.tensor(1.2), torch.tensor(-3.0))
    model = build(tiny, text, draw_masks(), scales)
    inputs = make_input(40, 70)
    with torch.inference_mode():
        image = model.tower.normalise(inputs["image"])
        values, background = model.method.encode(whole_image(model, inputs, image, text))
        views = [image, image[:, :, :35], image[:, :, 35:]]
        whole, left, right = (tiny(F.interpolate(v[None], (32, 32), mode="bicubic", antialias=True)) for v in views)
        crops = [part.patches[0].T.unflatten(1, (4, 4)) for part in (left, right)]
        resized = F.interpolate(whole.patches.mT.unflatten(2, (4, 4)), (4, 8), mode="bilinear")[0]
    torch.testing.assert_close(values, resized / 2 + torch.cat(crops, 2), atol=1e-5, rtol=0)
    assert not background.any()


def test_an_image_is_labelled(tiny: SiglipTower) -> None:
    text, scales = make_text(48, 7), Scales(torch.tensor(1.2), torch.tensor(-3.0))
    (output,) = build(tiny, text, draw_masks(), scales)([make_input()])
    assert output["label_map"].shape == SIZE
    assert torch.equal(output["sem_seg"].argmax(0), output["label_map"])


@pytest.mark.parametrize("name", [name for name in METHOD_CLASSES if name != "textregion"])
def test_other_methods_refuse_siglip(name: str) -> None:
    with pytest.raises(InputError, match=rf"^method: '{name}' with SigLIP 2.*Choose the method 'textregion'"):
        Combination(CLIPtraseSettings(method=name), WindowSettings(), 16, "siglip2", True, False).check()


def test_clusters_of_clip_refuse_siglip(tiny: SiglipTower) -> None:
    settings = CLIPtraseSettings(method="textregion")
    with pytest.raises(InputError, match=r"mask_source: CorrelationClusters.*'backbone' or 'sam_automatic'"):
        tiny_segmenter(tower=tiny, settings=settings, protocol=PublishedProtocol())


def whole_image(model: CLIPtrase, inputs: dict[str, Any], image: Tensor, text: TextFeatures) -> WholeImage:
    assert model.protocol is not None
    return make_whole_image(model, model.complete(inputs), image, put_background_first(text), model.protocol)


# ------------------------------------------------------------------ the published code


@pytest.fixture(scope="module")
def expected(shared: Path) -> dict[str, np.ndarray]:
    folder = shared / "data" / "reference" / "methods"
    paths = [folder / "textregion_siglip2.npz", folder / "textregion.npz"]
    if not all(path.is_file() for path in paths):
        pytest.skip(f"the reference outputs, {paths[0]}, are not on this machine")
    with np.load(paths[0]) as arrays, np.load(paths[1]) as masks:
        return {**{key: masks[key] for key in masks.files if "masks_" in key}, **dict(arrays)}


@pytest.fixture(scope="module")
def published(shared: Path, expected: dict[str, np.ndarray]) -> SimpleNamespace:
    spec = importlib.util.spec_from_file_location("reference_weights", shared / "tools" / "reference_weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    with torch.device("meta"):
        visual = TimmModel("vit_base_patch16_siglip_224", 768, pool="map", proj="none")
    state = weights.fill({f"visual.{name}": value for name, value in visual.state_dict().items()}, gain=3.0)
    for name in state:
        if name.startswith("visual.trunk.blocks."):
            state[name] *= 3.0 if name.endswith("attn.qkv.weight") else 1
            state[name] /= 5.0 if name.endswith(("attn.proj.weight", "mlp.fc2.weight")) else 1
    visual.load_state_dict({name.removeprefix("visual."): value for name, value in state.items()}, assign=True)
    text = TextFeatures(torch.from_numpy(expected["text"]), torch.arange(21), tuple(map(str, range(21))))
    scales = Scales(*(torch.from_numpy(expected[name]) for name in ("logit_scale", "logit_bias")))
    return SimpleNamespace(tower=SiglipTower(visual.eval().requires_grad_(False)), text=text, scales=scales)


@pytest.mark.parametrize("index", [0, 1])
@torch.inference_mode()
def test_the_stages_of_an_image_in_one_window(
    shared: Path, published: SimpleNamespace, expected: dict[str, np.ndarray], index: int
) -> None:
    stage = {
        key.removeprefix(f"window{index}_"): torch.from_numpy(value)
        for key, value in expected.items()
        if key.startswith(f"window{index}_")
    }
    masks, photograph = make_masks(shared, index, expected), read_photograph(shared, index)
    model = build(published.tower, published.text, masks, published.scales, crops=False)
    pixels = torch.from_numpy(np.array(photograph.resize((224, 224), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    x = whole_image(model, make_inputs(pixels, photograph), model.tower.normalise(pixels), published.text)
    method = model.method
    assert isinstance(method, TextRegion)
    values = method.encode(x)[0].flatten(1).T
    check(values[::16], stage["tokens"])
    weights = weigh_patches(masks, (14, 14)).flatten(1)
    kept = weights.sum(1) > 0
    assert torch.equal(kept, stage["kept_before"])
    check(compare_inside_and_outside(weights[kept], values), stage["difference_score"])
    kept, weights = method.remove_patches(weights, values)
    assert torch.equal(kept[stage["kept_before"]], stage["kept_masks"])
    check(x.tower.pool_values(average_inside(weights, values)), stage["pooled"])
    regions = method.describe_regions(x, weights, values)
    check(regions, stage["region_token"])
    check(x.score(regions), stage["region_logits"], 1e-3)


@pytest.mark.slow
@torch.inference_mode()
def test_the_protocol(shared: Path, published: SimpleNamespace, expected: dict[str, np.ndarray]) -> None:
    photograph = read_photograph(shared, 0)
    prepared = Protocol("published", 672, 1008, 16).prepare_input(photograph)["image"]
    masks = make_masks(shared, 0, expected)
    model = build(published.tower, published.text, masks, published.scales)
    (output,) = model([make_inputs(prepared, photograph)])
    assert find_agreement(output, torch.from_numpy(expected["protocol_labels"])) >= 0.9995
