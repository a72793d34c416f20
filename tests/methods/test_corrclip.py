"""CorrCLIP against a slow implementation of its description, and odd regions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import ImageTokens, PatchFeatures
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.methods.class_tokens import run_class_tokens
from cliptrase_d2.methods.corrclip import CorrCLIP, get_spatial_states, region_attention
from cliptrase_d2.methods.region_maps import (
    NO_REGION,
    mark_regions,
    mark_smallest,
    merge_regions,
    number_regions,
    resize_regions,
)
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import TINY_CONFIG, tiny_clip
from tests.methods.example_methods import Pixels, assert_unit_length
from tests.pipeline.tiny_segmenter import scene, tiny_segmenter

GRID = (3, 4)  # of CLIP; that of the second model is twice as fine
SIZE = (48, 64)
FINE = (6, 8)


def make_tower(layers: int = 3) -> VisualTower:
    return VisualTower(tiny_clip(vision_cfg={**TINY_CONFIG["vision_cfg"], "layers": layers}).visual)


TOWER = make_tower()


def make_tokens(regions: Tensor, tower: VisualTower = TOWER) -> ImageTokens:
    """Tokens of images with regions [B,48,64]; alike features where an image has stripes."""
    images = torch.randn(len(regions), 3, *SIZE, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(len(regions), 48, 5, generator=torch.Generator().manual_seed(2))
    stripes = torch.eye(5)[torch.arange(48) % 8 // 2]  # four vertical stripes
    vision = PatchFeatures(stripes + 0.6 * noise, FINE)
    return replace(tower(images, CorrCLIP.needs), vision_features=vision, regions=regions)


def blocks(*rows: list[int]) -> Tensor:
    """A label map [1,48,64] of equal rectangles."""
    values = torch.tensor(rows)
    height, width = SIZE[0] // values.shape[0], SIZE[1] // values.shape[1]
    return values.repeat_interleave(height, 0).repeat_interleave(width, 1)[None]


# One region has a single patch of the finer grid, whose row and column CLIP's grid leaves out.
VANISHING = blocks([0, 1], [0, 1])
VANISHING[0, 8:16, 8:16] = 7
REGIONS = {
    "gaps": blocks([0, 1, -1, 2], [0, 3, 3, -1], [4, 4, 5, 5]),
    "every pixel in a region": blocks([3, 1, 2, 2], [3, 9, 9, 0]),
    "one region": blocks([4]),
    "one region and gaps": blocks([-1, 4]),
    "no region": blocks([-1]),
    "a region that vanishes on CLIP's grid": VANISHING,
    "rectangles that fit no grid": blocks(*([[0, 1, -1, 2] * 4] * 3), *([[3, 4, 1, 1] * 4] * 13)),
}
BY_REGIONS = pytest.mark.parametrize("regions", REGIONS.values(), ids=REGIONS.keys())


# ------------------------------------------------------------------ the description, one image at a time


def slow_nearest(regions: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = regions.shape
    return torch.tensor(
        [[int(regions[i * rows // size[0], j * columns // size[1]]) for j in range(size[1])] for i in range(size[0])]
    )


def slow_merge(regions: Tensor, features: Tensor, eps: float) -> Tensor:
    """Join any two regions that look alike until nothing changes; the smaller number stays."""
    numbers = sorted(set(regions.tolist()) - {NO_REGION})
    means = {number: F.normalize(features[regions == number].mean(0), dim=0) for number in numbers}
    greatest = max((float(means[a] @ means[b]) for a in numbers for b in numbers), default=0.0)
    merged = {number: number for number in numbers}
    for _ in numbers:
        for a in numbers:
            for b in numbers:
                if a != b and greatest - float(means[a] @ means[b]) <= eps:
                    merged[a] = merged[b] = min(merged[a], merged[b])
    return torch.tensor([merged.get(number, NO_REGION) for number in regions.tolist()])


def slow_attention(similarity: Tensor, regions: Tensor, sharpness: float) -> Tensor:
    mean, patches = similarity.mean(), range(len(regions))
    weights = torch.zeros_like(similarity)
    for i in patches:
        for j in patches:
            outside = NO_REGION in (int(regions[i]), int(regions[j]))
            if similarity[i, j] > mean if outside else regions[i] == regions[j]:
                weights[i, j] = math.exp(sharpness * float(similarity[i, j]))
    return weights / weights.sum(1, keepdim=True)


def slow_class_tokens(tower: VisualTower, image: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
    """Run the copies before the ordinary tokens in one masked sequence. Return both after the last block."""
    states = tower(image[None], CorrCLIP.needs)
    ordinary = states.hidden_state(0)[0]  # [T,E]
    values = sorted(set(coarse.flatten().tolist()))
    count, total = len(values), len(values) + len(ordinary)
    sees = torch.zeros(total, total, dtype=torch.bool)
    sees[count:, count:] = True
    for index, value in enumerate(values):
        sees[index, count] = True
        sees[index, count + 1 :] = coarse.flatten() == value
    x = torch.cat([ordinary[:1].expand(count, -1), ordinary])[None]
    for block in tower.visual.transformer.resblocks:
        query, key, value = states.project_qkv(x, list(tower.visual.transformer.resblocks).index(block))
        scores = (query @ key.transpose(2, 3) / math.sqrt(key.shape[3])).masked_fill(~sees, -torch.inf)
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = x + block.attn.out_proj(attended)
        x = x + block.mlp(block.ln_2(x))
    return x[0, :count], x[0, count:]


def slow_features(tower: VisualTower, x: ImageTokens, index: int, method: CorrCLIP) -> Tensor:
    """Return the features of one image, [M,D]."""
    visual, last = tower.visual, tower.visual.transformer.resblocks[-1]
    f = F.normalize(x.vision_features.features[index], dim=-1)
    regions = slow_nearest(x.regions[index], FINE).flatten()
    merged = slow_merge(regions, f, method.merge_eps)
    weights = slow_attention(f @ f.T, merged, method.sharpness)

    def attend(tokens: Tensor) -> Tensor:
        width = tokens.shape[1]
        value = F.linear(last.ln_1(tokens), last.attn.in_proj_weight, last.attn.in_proj_bias)[1:, 2 * width :]
        value = F.interpolate(value.T.unflatten(1, x.grid)[None], FINE, mode="bilinear")[0].flatten(1).T
        return last.attn.out_proj(weights @ value)

    coarse = slow_nearest(merged.unflatten(0, FINE), x.grid)
    copies, _ = slow_class_tokens(tower, x.images[index], coarse)
    values = sorted(set(coarse.flatten().tolist()))
    semantic = copies[[values.index(value) for value in slow_nearest(coarse, FINE).flatten().tolist()]]
    middle = torch.stack([x.hidden_state(state)[index] for state in get_spatial_states(x.depth)]).mean(0)
    branches = attend(x.hidden_state()[index]), attend(middle), semantic
    weighted = zip((1.0, method.spatial_weight, method.semantic_weight), branches, strict=True)
    return F.normalize(sum(weight * visual.ln_post(branch) for weight, branch in weighted) @ visual.proj, dim=-1)


# ------------------------------------------------------------------ tests


@BY_REGIONS
@pytest.mark.parametrize("eps", [0.2, 0.7], ids=str)
@torch.inference_mode()
def test_equals_the_description(regions: Tensor, eps: float) -> None:
    x, method = make_tokens(regions), CorrCLIP(merge_eps=eps)
    features = method(x)
    assert features.grid == FINE
    assert_unit_length(features.patches)
    torch.testing.assert_close(features.patches[0], slow_features(TOWER, x, 0, method), atol=2e-5, rtol=0)


@torch.inference_mode()
def test_images_of_a_batch_have_their_own_regions() -> None:
    x, method = make_tokens(torch.cat(list(REGIONS.values()))), CorrCLIP(spatial_weight=0.3, semantic_weight=-0.8)
    features = method(x).patches
    for index in range(len(REGIONS)):
        torch.testing.assert_close(features[index], slow_features(TOWER, x, index, method), atol=2e-5, rtol=0)


@BY_REGIONS
@torch.inference_mode()
def test_copies_equal_those_of_one_masked_sequence(regions: Tensor) -> None:
    x = make_tokens(regions)
    coarse = resize_regions(regions, GRID)
    copies = run_class_tokens(x, mark_regions(number_regions(coarse).flatten(1)))
    expected, ordinary = slow_class_tokens(TOWER, x.images[0], coarse[0])
    torch.testing.assert_close(copies[0], expected, atol=1e-5, rtol=0)
    whole = x.finish_block(F.scaled_dot_product_attention(*x.qkv()))
    torch.testing.assert_close(ordinary, whole[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("branch", ["spatial_weight", "semantic_weight"])
@torch.inference_mode()
def test_a_branch_of_weight_zero_is_left_out(branch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, method = make_tokens(REGIONS["gaps"]), CorrCLIP(**{branch: 0.0})
    expected = slow_features(TOWER, x, 0, method)
    skipped = {"spatial_weight": "get_spatial_states", "semantic_weight": "run_class_tokens"}[branch]
    monkeypatch.setattr(f"cliptrase_d2.methods.corrclip.{skipped}", lambda *_: pytest.fail("it is left out"))
    torch.testing.assert_close(method(x).patches[0], expected, atol=2e-5, rtol=0)


@torch.inference_mode()
def test_the_smallest_region_may_stand_for_none_as_in_the_published_code() -> None:
    full, gaps = REGIONS["every pixel in a region"], REGIONS["gaps"]
    published = CorrCLIP(smallest_is_none=True)
    expected = CorrCLIP()(make_tokens(full.masked_fill(full == 0, NO_REGION))).patches
    assert torch.equal(published(make_tokens(full)).patches, expected)
    assert not torch.allclose(CorrCLIP()(make_tokens(full)).patches, expected, atol=1e-3)
    assert torch.equal(published(make_tokens(gaps)).patches, CorrCLIP()(make_tokens(gaps)).patches)


@torch.inference_mode()
def test_a_uniform_image_outside_of_all_regions_attends_everywhere() -> None:
    similarity = torch.ones(1, 4, 4)
    weights = region_attention(similarity, torch.full((1, 4), NO_REGION), 4.0)
    assert torch.equal(weights, torch.full((1, 4, 4), 0.25))


def test_regions_of_similar_means_are_merged_through_a_third() -> None:
    angles = torch.tensor([0.0, 0.5, 1.0, 2.5])  # neighbours have the cosine 0.88, the ends of the chain 0.54
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    regions = torch.tensor([5, 2, 9, 4])
    assert merge_regions(regions, features, 0.2).tolist() == [2, 2, 2, 4]
    assert merge_regions(regions, features, 0.0).tolist() == [5, 2, 9, 4]
    assert merge_regions(regions, features, 2.0).tolist() == [2, 2, 2, 2]
    regions[1] = NO_REGION  # the link of the chain
    assert merge_regions(regions, features, 0.2).tolist() == [5, -1, 9, 4]


def test_regions_without_a_direction_stay_apart() -> None:
    features = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [3.0, 3.0]])
    assert merge_regions(torch.tensor([0, 0, 1, 1, 2]), features, 0.2).tolist() == [0, 0, 1, 1, 2]


def test_maps_by_hand() -> None:
    regions = torch.tensor([[[5, -1, 5], [2, 2, 9]], [[3, 3, 3], [3, 3, 3]]])
    assert number_regions(regions).tolist() == [[[2, 0, 2], [1, 1, 3]], [[0, 0, 0], [0, 0, 0]]]
    assert resize_regions(regions, (1, 2))[0].tolist() == [[5, -1]]
    assert resize_regions(regions, (4, 3))[0].tolist() == [[5, -1, 5], [5, -1, 5], [2, 2, 9], [2, 2, 9]]
    assert mark_smallest(regions.flatten(1))[:, :4].tolist() == [[5, -1, 5, 2], [-1, -1, -1, -1]]


@pytest.mark.parametrize(
    ("depth", "states"),
    [(12, range(6, 11)), (24, range(11, 23)), (32, range(3, 31)), (16, range(3, 15)), (3, range(1, 2)), (1, range(1))],
)
def test_blocks_of_the_spatial_branch(depth: int, states: range) -> None:
    assert get_spatial_states(depth) == states
    assert get_spatial_states(depth, 100) == range(max(1, depth - 1))


@pytest.mark.parametrize("layers", [1, 2, 6])
@torch.inference_mode()
def test_towers_of_any_depth(layers: int) -> None:
    tower = make_tower(layers)
    x, method = make_tokens(REGIONS["gaps"], tower), CorrCLIP()
    torch.testing.assert_close(method(x).patches[0], slow_features(tower, x, 0, method), atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("merge_eps", -0.1),
        ("sharpness", 0.0),
        ("spatial_weight", math.inf),
        ("semantic_weight", math.nan),
        ("spatial_blocks", 0),
    ],
)
def test_an_option_out_of_range_is_refused(option: str, value: Any) -> None:
    with pytest.raises(InputError, match=option):
        CorrCLIP(**{option: value})


# ------------------------------------------------------------------ in the model


@pytest.mark.parametrize("arguments", [{}, {"window": 64, "stride": 32}], ids=["whole", "slide"])
def test_clusters_are_regions_without_a_second_region_model(arguments: dict[str, int]) -> None:
    settings = CLIPtraseSettings(method="corrclip", eps=0.5)
    model = tiny_segmenter(settings=settings, vision_model=Pixels(), **arguments)
    (output,) = model([{"image": scene(0)}])
    for inside in output["pred_masks"].argmax(0) == torch.arange(len(output["pred_masks"]))[:, None, None]:
        assert len(output["label_map"][inside].unique()) <= 1 or not inside.any()


def test_masks_and_a_second_model_are_needed() -> None:
    with pytest.raises(InputError, match=r"clustering: 'none'.*corrclip"):
        tiny_segmenter(settings=CLIPtraseSettings(method="corrclip", clustering="none"), vision_model=Pixels())
    with pytest.raises(InputError, match=r"'corrclip' needs a second vision model"):
        tiny_segmenter(settings=CLIPtraseSettings(method="corrclip"), protocol=PublishedProtocol())
