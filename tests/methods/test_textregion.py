"""TextRegion against a slow implementation of its description, and its odd cases."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.methods.regions import PaintedRegions, compare_inside_and_outside, weigh_patches
from cliptrase_d2.methods.textregion import TextRegion, count_crops, cut_crops
from cliptrase_d2.methods.whole_image import WholeImage
from cliptrase_d2.methods.word_maps import WordMaps
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol, put_background_first
from cliptrase_d2.pipeline.published_segmentation import make_whole_image
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from tests.methods.given_masks import GivenMasks
from tests.pipeline.tiny_segmenter import VOCABULARY, scene, tiny_segmenter

SIZE = (60, 90)


def draw_masks(size: tuple[int, int] = SIZE) -> Tensor:
    """Two overlapping rectangles with soft edges, and a square of 2 pixels that contains no centre of a patch."""
    rows, columns = (torch.arange(length).float() + 0.5 for length in size)

    def rectangle(top: float, bottom: float, left: float, right: float) -> Tensor:
        down, across = torch.minimum(rows - top, bottom - rows), torch.minimum(columns - left, right - columns)
        return torch.minimum(down[:, None], across) / 3

    return torch.stack([rectangle(0, 40, 0, 50), rectangle(20, 60, 30, 80), rectangle(1, 3, 1, 3) - 0.1])


def build(masks: Tensor, prob_thd: float = 0.0, **options: Any) -> CLIPtrase:
    return tiny_segmenter(
        settings=CLIPtraseSettings(method="textregion", method_options={"crop_size": 48, **options}),
        mask_source=GivenMasks(masks),
        protocol=PublishedProtocol(logit_scale=50.0, prob_thd=prob_thd),
    )


def make_input(height: int = 104, width: int = 150, index: int = 0) -> dict[str, Any]:
    sizes = {"height": SIZE[0], "width": SIZE[1]}
    photograph = scene(index, *SIZE)
    return {"image": scene(index, height, width), "photograph": photograph, **sizes, "output_sem_seg": True}


@torch.inference_mode()
def prepare(model: CLIPtrase, inputs: dict[str, Any]) -> WholeImage:
    assert model.protocol is not None
    image, text = model.tower.normalise(inputs["image"]), put_background_first(model.text_features(VOCABULARY))
    return make_whole_image(model, model.complete(inputs), image, text, model.protocol)


@torch.inference_mode()
def slow_values(model: CLIPtrase, x: WholeImage, method: TextRegion) -> Tensor:
    """Return the values of all words at the size of the photograph as the description reads, [R,H,W]."""
    tower, side = model.tower, 48

    def encode(view: Tensor) -> tuple[Tensor, Tensor]:
        square = F.interpolate(view[None], (side, side), mode="bicubic", antialias=method.antialias)
        tokens = tower(square)
        query, key, value = tokens.qkv()
        attention = (query @ query.mT / query.shape[-1] ** 0.5).softmax(-1)
        attention = attention + (key @ key.mT / key.shape[-1] ** 0.5).softmax(-1)
        dense = tokens.to_features(tokens.finish_block(attention @ value)).patches[0] @ x.text.features.T
        heads = torch.cat(list(value[0, :, 1:]), dim=1)  # [N,E]
        return heads.T.unflatten(1, tokens.grid), dense.T.unflatten(1, tokens.grid)

    _, height, width = x.pixels.shape
    rows, columns = max(height // side, 1), max(width // side, 1)
    high, wide = -(-height // rows), -(-width // columns)
    grid = (rows * side // 16, columns * side // 16)
    maps = [F.interpolate(part[None], grid, mode="bilinear")[0] for part in encode(x.pixels)]
    for row in range(rows):
        for column in range(columns):
            bottom, right = min(row * high + high, height), min(column * wide + wide, width)
            crop = x.pixels[:, bottom - high : bottom, right - wide : right]
            for total, part in zip(maps, encode(crop), strict=True):
                total[:, row * 3 : row * 3 + 3, column * 3 : column * 3 + 3] += part
    value, dense = maps[0].flatten(1).T, maps[1]
    masks = [mask for mask in x.masks.float() if F.interpolate(mask[None, None], grid, mode="bilinear").max() > 0]
    weights = [F.interpolate(mask[None, None], grid, mode="bilinear").clamp(0, 1).flatten() for mask in masks]
    unit = F.normalize(value, dim=-1)
    cosine = unit @ unit.T
    for patch in [p for p in range(len(unit)) if slow_difference(p, weights, cosine) < method.patch_threshold]:
        for weight in weights:
            weight[patch] = 0
    painted, covered = torch.zeros(len(x.text.features), *x.size), torch.zeros(x.size)
    for mask, weight in zip(masks, weights, strict=True):
        if not weight.sum():
            continue
        token = sum(w * v for w, v in zip(weight, unit if method.normalised_values else value, strict=True))
        block = tower.visual.transformer.resblocks[-1]
        joint = tower.visual.ln_post(block.attn.out_proj(token)) @ tower.visual.proj
        painted += (x.text.features @ F.normalize(joint, dim=-1))[:, None, None] * mask.clamp(0, 1)
        covered += mask.clamp(0, 1)
    return torch.where(covered > 0, painted, F.interpolate(dense[None], x.size, mode="bilinear")[0])


def slow_difference(patch: int, weights: list[Tensor], cosine: Tensor) -> Tensor:
    own, other = [], []
    for weight in weights:
        (own if weight[patch] > 0 else other).append(cosine[patch][weight > 0].mean())
    return sum(own) / (len(own) + 1e-9) - sum(other) / (len(other) + 1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"patch_threshold": 0.0},
        {"patch_threshold": -2.0},
        {"patch_threshold": 0.003},
        {"antialias": False},
        {"normalised_values": True, "patch_threshold": -0.01},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(104, 150), (48, 48), (40, 260)], ids=str)
def test_equals_the_description(options: dict[str, Any], size: tuple[int, int]) -> None:
    model = build(draw_masks(), **options)
    x = prepare(model, make_input(*size))
    assert isinstance(model.method, TextRegion)
    with torch.inference_mode():
        values = model.method(x).at(x.size)
    torch.testing.assert_close(values, slow_values(model, x, model.method), atol=2e-5, rtol=0)


def test_a_mask_smaller_than_a_patch_is_dropped() -> None:
    model = build(draw_masks(), patch_threshold=-2.0)
    x = prepare(model, make_input())
    with torch.inference_mode():
        assert len(model.method(x).masks) == 2
        (output,), (without,) = model([make_input()]), build(draw_masks()[:2], patch_threshold=-2.0)([make_input()])
    assert torch.equal(output["sem_seg"], without["sem_seg"])


@pytest.mark.parametrize("masks", [torch.zeros(0, *SIZE), -torch.ones(2, *SIZE)], ids=["none given", "all empty"])
def test_without_a_mask_every_pixel_has_the_values_of_its_patch(masks: Tensor) -> None:
    model = build(masks)
    x = prepare(model, make_input())
    with torch.inference_mode():
        expected = F.interpolate(model.method.encode(x)[1][None], SIZE, mode="bilinear")[0]
        torch.testing.assert_close(model.method(x).at(SIZE), expected, atol=1e-5, rtol=0)


def test_no_mask_survives_the_removal_of_patches() -> None:
    model = build(draw_masks(), patch_threshold=2.0)
    x = prepare(model, make_input())
    with torch.inference_mode():
        assert len(model.method(x).masks) == 0
        (output,), (expected,) = model([make_input()]), build(torch.zeros(0, *SIZE))([make_input()])
    torch.testing.assert_close(output["sem_seg"], expected["sem_seg"], atol=1e-5, rtol=0)


def test_crops_of_a_wide_image_end_at_its_border() -> None:
    image = torch.arange(101).float().expand(1, 3, 40, 101)
    assert count_crops((40, 101), 24) == (1, 4)
    crops = cut_crops(image, (1, 4))
    assert [(crop[0, 0, 0, 0].item(), crop[0, 0, 0, -1].item()) for crop in crops] == [
        (0, 25),
        (26, 51),
        (52, 77),
        (75, 100),
    ]
    assert {tuple(crop.shape) for crop in crops} == {(1, 3, 40, 26)}
    assert count_crops((10, 10), 24) == (1, 1)


def test_halves_of_an_image_fill_the_halves_of_the_grid() -> None:
    model = build(draw_masks(), halves=True, crops=False)
    x = prepare(model, make_input(48, 96))
    left, right = (prepare(build(draw_masks(), crops=False), one) for one in (make_input(48, 96), make_input(48, 96)))
    with torch.inference_mode():
        values, _ = model.method.encode(x)
        assert values.shape[1:] == (3, 3)
        for half, pixels in ((left, x.pixels[..., :48]), (right, x.pixels[..., 48:])):
            object.__setattr__(half, "pixels", pixels)
        whole = TextRegion(crop_size=48, crops=False)
        first, second = whole.encode(left)[0], whole.encode(right)[0]
    parts = [F.interpolate(part[None], (3, width), mode="bilinear")[0] for part, width in ((first, 1), (second, 2))]
    torch.testing.assert_close(values, torch.cat(parts, dim=2), atol=1e-5, rtol=0)


def test_an_image_one_pixel_wide() -> None:
    for options in ({}, {"halves": True}):
        (output,) = build(draw_masks(), **options)([make_input(100, 1)])
        assert output["label_map"].shape == SIZE


def test_masks_of_clusters_divide_the_photograph() -> None:
    model = tiny_segmenter(
        settings=CLIPtraseSettings(method="textregion", method_options={"crop_size": 48}, eps=0.5),
        protocol=PublishedProtocol(logit_scale=50.0),
    )
    (output,) = model([make_input(96, 144)])
    masks = prepare(model, make_input(96, 144)).masks
    assert masks.shape[0] > 1
    assert torch.equal((masks > 0).sum(0), torch.ones(SIZE, dtype=torch.int64))
    assert torch.equal(output["sem_seg"].argmax(0), output["label_map"])


def test_similarity_inside_and_outside_by_hand() -> None:
    # Patches along the axes: 0 and 1 are alike, 2 and 3 are alike. Mask 0 has 0 and 1, mask 1 has 1 and 2.
    features = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    weights = torch.tensor([[1.0, 0.2, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
    # Patch 0: in mask 0 with mean cosine 1, not in mask 1 with 0.5. Patch 1: in both, (1 + 0.5)/2. Patch 2: in mask 1
    # with 0.5, not in mask 0 with 0. Patch 3: in none, and 0 and 0.5 outside.
    expected = torch.tensor([0.5, 0.75, 0.5, -0.25])
    torch.testing.assert_close(compare_inside_and_outside(weights, features), expected)


def test_overlapping_masks_add_up_and_gaps_take_the_background() -> None:
    masks = torch.tensor([[[2.0, 0.5, -1.0]], [[-1.0, 0.25, -3.0]]])  # 2 masks, 1 row, 3 columns
    regions = PaintedRegions(
        masks, torch.tensor([[1.0, 0.0], [0.4, 0.8]]), WordMaps.of_grid(torch.full((2, 1, 3), 9.0))
    )
    torch.testing.assert_close(regions.at((1, 3)), torch.tensor([[[1.0, 0.6, 9.0]], [[0.0, 0.2, 9.0]]]))
    assert regions.at((2, 6)).shape == (2, 2, 6)


def test_weights_of_patches_clamp_logits_after_resizing() -> None:
    masks = torch.tensor([[[-4.0, 3.0, 4.0, 0.5]]], dtype=torch.float16)
    # Between -4 and 3 the mean is -0.5; between 4 and 0.5 it is 2.25.
    assert weigh_patches(masks, (1, 2)).tolist() == [[[0.0, 1.0]]]


@pytest.mark.parametrize(
    ("options", "match"), [({"patch_threshold": 3.0}, r"patch_threshold"), ({"crop_size": 0}, r"crop_size")]
)
def test_options_out_of_range(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        build(draw_masks(), **options)
