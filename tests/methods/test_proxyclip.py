"""ProxyCLIP against a slow loop, its odd cases, and CLIPtrase's correlation as its affinity."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cliptrase_d2.clip import open_clip_modules as clip_modules
from cliptrase_d2.clip.tokens import ImageTokens, Needs, PatchFeatures
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.methods import get_method
from cliptrase_d2.methods.proxyclip import proxy_attention
from cliptrase_d2.pipeline.correlation import self_correlation
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vision_models import VitBackbone, load_vit
from tests.clip.tiny import tiny_clip
from tests.methods.example_methods import assert_unit_length
from tests.pipeline.tiny_segmenter import VOCABULARY, scene, tiny_segmenter
from tests.vision_models.tiny_models import TINY_VIT

Grid = tuple[int, int]


@pytest.fixture(scope="module")
def tower() -> VisualTower:
    return VisualTower(tiny_clip().visual)


@pytest.fixture(scope="module")
def vit() -> VitBackbone:
    return VitBackbone(load_vit(TINY_VIT, ""))


def make_tokens(
    tower: VisualTower, grid: Grid, other: Grid, images: int = 2, needs: Needs | None = None
) -> ImageTokens:
    """Return the tokens of two random images, with random features of a second model on another grid."""
    pixels = torch.randn(2, 3, 16 * grid[0], 16 * grid[1])
    features = torch.randn(2, other[0] * other[1], 5) + 0.5
    return replace(tower(pixels, needs), vision_features=PatchFeatures(features, other))


def bilinear(points: int, length: int) -> list[list[tuple[int, float]]]:
    """Return the source points of every output point, with their weights: pixel centres, clamped at the borders."""
    result = []
    for index in range(length):
        position = max(0.0, (index + 0.5) * points / length - 0.5)
        low = min(int(position), points - 1)
        result.append([(low, 1 - (position - low)), (min(low + 1, points - 1), position - low)])
    return result


def slow_proxyclip(tower: VisualTower, x: ImageTokens, image: int, beta: float, gamma: float) -> Tensor:
    """Return the features of one image, [M,D], pair by pair."""
    assert x.vision_features is not None
    features, (rows, columns) = x.vision_features.features[image], x.vision_features.grid
    count = rows * columns
    unit = [one / one.norm() for one in features]
    similarity = [[float(a @ b) for b in unit] for a in unit]
    mean = sum(map(sum, similarity)) / count**2
    block, width = x.blocks[x.depth - 1], x.hidden_state().shape[2]
    normed = clip_modules.first_norm(block, x.hidden_state()[image])
    weight, bias = block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :]
    value = (normed @ weight.T + bias)[1:].view(*x.grid, width)
    resized = [
        sum(down * right * value[i, j] for i, down in vertical for j, right in horizontal)
        for vertical in bilinear(x.grid[0], rows)
        for horizontal in bilinear(x.grid[1], columns)
    ]
    tokens = []
    for row in similarity:
        logits = [gamma * (one - beta * mean) for one in row]
        powers = [math.exp(logit) if logit >= 0 else 0.0 for logit in logits]
        mixed = sum(power / sum(powers) * one for power, one in zip(powers, resized, strict=True))
        tokens.append(block.attn.out_proj(mixed))
    joint = clip_modules.to_joint_space(tower.visual, torch.stack(tokens)[None])[0]
    return joint / joint.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize(("grid", "other"), [((3, 4), (6, 8)), ((2, 5), (3, 7)), ((3, 3), (3, 3)), ((4, 2), (2, 1))])
@torch.inference_mode()
def test_features_equal_a_slow_loop(tower: VisualTower, grid: Grid, other: Grid) -> None:
    x = make_tokens(tower, grid, other)
    for beta, gamma in ((1.2, 3.0), (0.5, 8.0)):
        features = get_method("proxyclip", {"beta": beta, "gamma": gamma})(x)
        assert features.grid == other
        assert features.class_token is None
        for image in range(2):
            expected = slow_proxyclip(tower, x, image, beta, gamma)
            torch.testing.assert_close(features.patches[image], expected, atol=1e-5, rtol=0)


def test_the_mean_is_that_of_each_image() -> None:
    affinity = torch.tensor([[[1.0, 0.5], [0.5, 1.0]], [[1.0, -1.0], [-1.0, 1.0]]])  # means 0.75 and 0
    attention = proxy_attention(affinity.clone(), beta=0.5, gamma=2.0)
    share = 1 / (1 + math.exp(2 * (0.5 - 1)))
    torch.testing.assert_close(attention[0], torch.tensor([[share, 1 - share], [1 - share, share]]))
    assert torch.equal(attention[1], torch.eye(2))  # -1 is below the mean
    for image in range(2):
        assert torch.equal(proxy_attention(affinity[image : image + 1].clone(), 0.5, 2.0)[0], attention[image])


def test_one_mean_is_that_of_the_batch() -> None:
    affinity = torch.tensor([[[1.0, 0.5], [0.5, 1.0]], [[1.0, -1.0], [-1.0, 1.0]]])  # its mean is 0.375
    attention = proxy_attention(affinity, beta=1.0, gamma=2.0, one_mean=True)
    share = 1 / (1 + math.exp(2 * (0.5 - 1)))
    torch.testing.assert_close(attention[0], torch.tensor([[share, 1 - share], [1 - share, share]]))
    assert torch.equal(attention[1], torch.eye(2))


def test_a_pair_exactly_at_the_threshold_stays() -> None:
    affinity = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    share = 1 / (1 + math.e)
    expected = torch.tensor([[[1 - share, share], [share, 1 - share]]])
    torch.testing.assert_close(proxy_attention(affinity, beta=0.0, gamma=1.0), expected)


@torch.inference_mode()
def test_a_window_of_one_patch_and_an_image_of_equal_patches_have_finite_features(tower: VisualTower) -> None:
    one = make_tokens(tower, (1, 1), (1, 1))
    assert_unit_length(get_method("proxyclip")(one).patches)  # its own cosine is below 1.2 times the mean
    value = one.qkv()[2][:, :, 1:]
    expected = one.to_features(one.finish_block(value, residual=False, mlp=False), has_class_token=False)
    torch.testing.assert_close(get_method("proxyclip")(one).patches, expected.patches)
    x = make_tokens(tower, (2, 3), (4, 6))
    equal = replace(x, vision_features=PatchFeatures(torch.ones(2, 24, 5), (4, 6)))
    assert_unit_length(get_method("proxyclip")(equal).patches)


@torch.inference_mode()
def test_scr_is_cliptrases_correlation_without_a_second_model(tower: VisualTower) -> None:
    method = get_method("proxyclip", {"affinity": "scr"})
    x = make_tokens(tower, (3, 5), (1, 1), needs=method.needs)
    x = replace(x, vision_features=None)
    attention = proxy_attention(self_correlation(*x.qkv(-2))[:, 1:, 1:], 1.2, 3.0)
    attended = attention[:, None] @ x.qkv()[2][:, :, 1:]
    expected = x.to_features(x.finish_block(attended, residual=False, mlp=False), has_class_token=False)
    features = method(x)
    assert features.grid == (3, 5)
    torch.testing.assert_close(features.patches, expected.patches, atol=1e-5, rtol=0)
    model = tiny_segmenter(settings=CLIPtraseSettings(method="proxyclip", method_options={"affinity": "scr"}))
    assert model([{"image": scene()}])[0]["label_map"].shape == (96, 128)
    assert model.vision_model is None


@torch.inference_mode()
@pytest.mark.parametrize("features", ["tokens", "queries", "keys", "values", "queries+keys"])
def test_the_features_of_the_second_model_are_those_of_the_option(vit: VitBackbone, features: str) -> None:
    settings = CLIPtraseSettings(method="proxyclip", method_options={"features": features}, clustering="none")
    model = tiny_segmenter(settings=settings, vision_model=vit)
    images = model.preprocess([{"image": scene(0)}, {"image": scene(1)}])
    found = model.segment(images, model.text_features(VOCABULARY), [(96, 128)] * 2).features
    x = replace(model.tower(images), vision_features=vit(model.tower.denormalise(images), features))
    torch.testing.assert_close(found.patches, get_method("proxyclip")(x).patches, atol=1e-5, rtol=0)
    for image in range(2):
        alone = model.segment(images[image : image + 1], None, [(96, 128)]).features
        torch.testing.assert_close(found.patches[image], alone.patches[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -0.1}, "beta -0.1"),
        ({"gamma": 0.0}, "gamma 0.0"),
        ({"features": "logits"}, "features 'logits'.*'queries'"),
        ({"affinity": "clip"}, "affinity 'clip'.*'scr'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=rf"method_options: .*{message}"):
        get_method("proxyclip", options)
