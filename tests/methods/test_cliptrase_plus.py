"""CLIPtrase plus against one masked sequence of tokens, its regions by hand, and odd regions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import ImageTokens
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.methods import get_method
from cliptrase_d2.methods.cliptrase_plus import CLIPtrasePlus, find_related_patches, number_patches
from cliptrase_d2.pipeline.correlation import self_correlation
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import TINY_CONFIG, tiny_clip

GRID = (3, 4)
TOWER = VisualTower(tiny_clip(vision_cfg={**TINY_CONFIG["vision_cfg"], "layers": 3}).visual)
REGIONS = {
    "four regions": [[3, 3, 1, 1], [3, 7, 7, 1], [0, 0, 7, 7]],
    "patches in no region": [[3, -1, 1, 1], [3, 7, -1, 1], [0, 0, -1, -1]],
    "one region": [[4] * 4] * 3,
    "no region": [[-1] * 4] * 3,
}
BY_REGIONS = pytest.mark.parametrize("regions", REGIONS.values(), ids=REGIONS.keys())
OWN_PATCHES_ONLY = 1e6  # a β that no correlation reaches


def make_tokens(*regions: list[list[int]]) -> ImageTokens:
    """Tokens of one image for each label map of regions, which are given patch by patch."""
    images = torch.randn(len(regions), 3, 48, 64, generator=torch.Generator().manual_seed(1))
    pixels = torch.tensor(regions).repeat_interleave(16, 1).repeat_interleave(16, 2)
    return replace(TOWER(images, CLIPtrasePlus.needs), regions=pixels)


def slow_features(x: ImageTokens, image: int, beta: float) -> Tensor:
    """Return the features [N,D] of one image, from one sequence of copies and ordinary tokens."""
    correlation = self_correlation(*x.qkv(-2), measure="cosine", heads="separate")[image, 1:, 1:]
    regions = x.regions[image, ::16, ::16].flatten().tolist()
    members = [
        [j for j, other in enumerate(regions) if other == own] if own >= 0 else [i] for i, own in enumerate(regions)
    ]
    patches = len(regions)
    sees = torch.zeros(2 * patches + 1, 2 * patches + 1, dtype=torch.bool)  # a copy for every patch, then all tokens
    sees[patches:, patches:] = True
    sees[:patches, patches] = True
    for patch, own in enumerate(members):
        for j in range(patches):
            related = float(correlation[own, j].mean()) > beta * float(correlation.mean())
            sees[patch, patches + 1 + j] = j in own or related
    ordinary = x.hidden_state(0)[image]
    tokens = torch.cat([ordinary[:1].expand(patches, -1), ordinary])[None]
    for index, block in enumerate(TOWER.visual.transformer.resblocks):
        query, key, value = x.project_qkv(tokens, index)
        scores = (query @ key.transpose(2, 3) / math.sqrt(key.shape[3])).masked_fill(~sees, -torch.inf)
        tokens = tokens + block.attn.out_proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp(block.ln_2(tokens))
    return F.normalize(TOWER.visual.ln_post(tokens[0, :patches]) @ TOWER.visual.proj, dim=-1)


@pytest.mark.parametrize("beta", [0.9, 1.0, 1.1, OWN_PATCHES_ONLY])
@torch.inference_mode()
def test_features_equal_those_of_one_masked_sequence(beta: float) -> None:
    x = make_tokens(*REGIONS.values())
    features = CLIPtrasePlus(beta)(x).patches
    for image in range(len(REGIONS)):
        torch.testing.assert_close(features[image], slow_features(x, image, beta), atol=1e-5, rtol=0)


@BY_REGIONS
@torch.inference_mode()
def test_the_class_token_is_that_of_clip(regions: list[list[int]]) -> None:
    x = make_tokens(regions)
    expected = get_method("clip")(x).class_token
    torch.testing.assert_close(CLIPtrasePlus()(x).class_token, expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_region_of_all_patches_has_the_class_token_of_the_image() -> None:
    features = CLIPtrasePlus(OWN_PATCHES_ONLY)(make_tokens(REGIONS["one region"]))
    expected = features.class_token[:, None].expand_as(features.patches)
    torch.testing.assert_close(features.patches, expected, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_patches_of_a_region_share_a_feature_and_others_do_not() -> None:
    features = CLIPtrasePlus(OWN_PATCHES_ONLY)(make_tokens(REGIONS["patches in no region"])).patches[0]
    numbers = torch.tensor(REGIONS["patches in no region"]).flatten()
    equal = (features[:, None] == features).all(-1)
    same_region = (numbers[:, None] == numbers) & (numbers >= 0)
    assert torch.equal(equal, same_region | torch.eye(12, dtype=torch.bool))


@torch.inference_mode()
def test_the_numbers_of_regions_do_not_matter() -> None:
    renumbered = (torch.tensor(REGIONS["four regions"]) * 5 % 11).tolist()  # 4, 5, 2, 0 in place of 3, 1, 7, 0
    first, second = (CLIPtrasePlus()(make_tokens(regions)).patches for regions in (REGIONS["four regions"], renumbered))
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        # The mean of the matrix is 4.6 / 9 = 0.511. The mean rows are (0.75, 0.75, 0.15) and (0, 0.3, 1).
        (0.0, [[1, 1, 1], [0, 1, 1]]),  # 0 is not above 0
        (0.5, [[1, 1, 0], [0, 1, 1]]),  # above 0.256
        (1.0, [[1, 1, 0], [0, 0, 1]]),  # above 0.511
        (9.0, [[1, 1, 0], [0, 0, 1]]),  # the patches of the regions
    ],
)
def test_related_patches(beta: float, expected: list[list[int]]) -> None:
    correlation = torch.tensor([[[1.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 1.0]]])
    assert find_related_patches(correlation, torch.tensor([[0, 0, 1]]), beta).tolist() == [
        [[bool(value) for value in row] for row in expected]
    ]


def test_an_image_with_fewer_regions_than_another_has_unused_copies() -> None:
    correlation = torch.eye(2).expand(2, 2, 2)
    related = find_related_patches(correlation, torch.tensor([[0, 0], [0, 1]]), 1.5)
    assert related.tolist() == [[[True, True], [False, False]], [[True, False], [False, True]]]


def test_a_patch_in_no_region_is_a_region_of_its_own() -> None:
    regions = torch.tensor([[5, -1, 5, 2, -1], [-1, -1, -1, -1, -1]])
    assert number_patches(regions).tolist() == [[1, 2, 1, 0, 3], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("beta", [-0.1, math.nan, math.inf])
def test_a_wrong_beta_is_refused(beta: float) -> None:
    with pytest.raises(InputError, match=f"beta.*{beta}"):
        CLIPtrasePlus(beta)
