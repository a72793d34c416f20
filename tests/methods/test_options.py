"""Options of methods: their check, and the effect of those of the older methods."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.pos_embed import resize_position_embedding
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.methods import DENSE_METHODS, LastBlockAttention, get_method
from cliptrase_d2.methods.gem import min_max_normalize
from cliptrase_d2.methods.maskclip import denoise_prompts, smooth_by_keys
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import tiny_clip
from tests.methods.test_methods import nearness_by_loops
from tests.pipeline.tiny_segmenter import VOCABULARY, scene, tiny_segmenter


def images(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("naclip", {"deviaton": 3}, ("deviaton", "deviation")),
        ("naclip", {"deviation": "wide"}, ("deviation", "'wide'", "number")),
        ("naclip", {"deviation": True}, ("deviation", "True", "number")),
        ("naclip", {"deviation": -1.0}, ("deviation", "-1.0", "above 0")),
        ("naclip", {"deviation": math.nan}, ("deviation", "nan")),
        ("naclip", {"attention": "qq"}, ("attention", "'qq'", "'kk'")),
        ("clearclip", {"residual": 1}, ("residual", "1", "True or False")),
        ("clip", {"blocks": 0}, ("blocks", "0", "1 or more")),
        ("clip", {"blocks": 2.0}, ("blocks", "2.0", "whole number")),
        ("gem", {"depth": 0}, ("depth", "0")),
        ("maskclip", {"pd_thresh": 1.5}, ("pd_thresh", "1.5")),
        ("sfp", {"last_level": 2}, ("last_level", "2")),
        ("sfp", {"threshold": 2}, ("threshold", "2")),
        ("sfp", {"threshold": -0.1}, ("threshold", "-0.1")),
        ("sc_clip", {"class_token": math.inf}, ("class_token", "inf")),
        ("sc_clip", {"outliers": "lof"}, ("outliers", "'lof'", "'local_density'")),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(name: str, options: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as refusal:
        get_method(name, options)
    assert refusal.value.where == "method_options"
    assert "\n" not in str(refusal.value)
    assert all(word in str(refusal.value) for word in (name, *words))


def test_none_leaves_an_option_at_its_default() -> None:
    assert get_method("naclip", {"deviation": None, "unknown": None}).deviation == 5.0  # type: ignore[attr-defined]


def test_a_method_without_options_refuses_any(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed:
        pass

    monkeypatch.setitem(DENSE_METHODS, "fixed", Fixed)
    with pytest.raises(InputError, match=r"fixed.*'depth'"):
        get_method("fixed", {"depth": 3})


@pytest.mark.parametrize("attention", ["kk", "nonly", "csa", "vanilla"])
def test_the_attentions_of_naclip_equal_loops(attention: str) -> None:
    method, tower = get_method("naclip", {"attention": attention}), VisualTower(tiny_clip().visual)
    assert isinstance(method, LastBlockAttention)
    x = tower(images(32, 48))
    attended, (query, key, value) = method.attend(x), x.qkv()
    for image in range(2):
        q, k = query[image], key[image]
        products = [q[head, i].norm() * k[head, j].norm() / 4 for head in range(4) for i in range(7) for j in range(7)]
        mean = sum(products) / len(products)
        for head in range(4):
            logits = {
                "kk": [k[head] @ k[head].T / 4],
                "nonly": [mean * nearness_by_loops(5.0)],
                "csa": [q[head] @ q[head].T / 4, k[head] @ k[head].T / 4],
                "vanilla": [q[head] @ k[head].T / 4],
            }[attention]
            expected = sum(matrix.softmax(1) for matrix in logits) @ value[image, head]
            torch.testing.assert_close(attended[image, head], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("blocks", [1, 2, 3, 9])
@pytest.mark.parametrize(("residual", "mlp"), [(False, False), (True, False), (False, True), (True, True)])
def test_the_last_blocks_run_with_the_attention(blocks: int, residual: bool, mlp: bool) -> None:
    model = tiny_clip()
    method = get_method("clearclip", {"blocks": blocks, "residual": residual, "mlp": mlp})
    features = method(VisualTower(model.visual)(images(), method.needs))
    x = model.visual._embeds(images())
    for index, block in enumerate(model.visual.transformer.resblocks):
        if index < 3 - blocks:
            x = block(x)
            continue
        qkv = (block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, dim=-1)
        q, _, v = (part.unflatten(2, (4, 16)).transpose(1, 2) for part in qkv)
        read = (q @ q.transpose(2, 3) / 4).softmax(-1) @ v
        read = block.attn.out_proj(read.transpose(1, 2).flatten(2))
        x = x + read if residual or index < 2 else read
        x = x + block.mlp(block.ln_2(x)) if mlp or index < 2 else x
    expected = F.normalize(model.visual.ln_post(x) @ model.visual.proj, dim=-1)
    torch.testing.assert_close(features.patches, expected[:, 1:], atol=1e-5, rtol=0)


def test_an_option_of_one_instance_does_not_change_the_class() -> None:
    get_method("clearclip", {"residual": True})
    assert not get_method("clearclip").residual  # type: ignore[attr-defined]


def test_gem_resizes_positions_with_antialiasing_whatever_the_tower_does() -> None:
    tower = VisualTower(tiny_clip().visual)
    embedding = tower.visual.positional_embedding
    for options, mode in (({}, "antialias"), ({"position_resize": "tower"}, "scale_factor")):
        method = get_method("gem", options)
        x = tower(images(96, 80), method.needs)
        given = tower(images(96, 80), method.needs, resize_position_embedding(embedding, (4, 4), (6, 5), mode))
        torch.testing.assert_close(x.hidden_state(), given.hidden_state())


def test_min_max_scales_the_map_of_every_word_over_the_pixels() -> None:
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    logits[1, 2] = 7.0
    scaled = min_max_normalize(logits, (16, 20))
    pixels = F.interpolate(logits, (16, 20), mode="bilinear")
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    expected = ((pixels - low) / (high - low)).nan_to_num(0)
    torch.testing.assert_close(F.interpolate(scaled, (16, 20), mode="bilinear"), expected)


def test_min_max_is_off_by_default() -> None:
    logits, features = torch.randn(1, 2, 2, 2), None
    assert get_method("gem").refine_logits(logits, features, (4, 4)) is logits  # type: ignore[arg-type]
    on = get_method("gem", {"min_max": True}).refine_logits(logits, features, (4, 4))  # type: ignore[arg-type]
    torch.testing.assert_close(on, min_max_normalize(logits, (4, 4)))


def test_prompt_denoising_removes_words_that_are_nowhere_probable() -> None:
    share = torch.tensor([[[[0.7, 0.1]], [[0.2, 0.6]], [[0.1, 0.3]]]])  # three words, two patches
    logits = denoise_prompts(share.log(), 0.5)
    torch.testing.assert_close(logits[:, :2], share.log()[:, :2])
    assert (logits[:, 2] == -1e4).all()


def test_key_smoothing_averages_uncertain_patches_by_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, keys = torch.randn(2, 3, 2, 3, generator=generator), torch.randn(2, 6, 4, generator=generator)
    smoothed = smooth_by_keys(logits, keys, 0.55)
    for image in range(2):
        words = logits[image].softmax(0).flatten(1)  # [R,N]
        unit = keys[image] / keys[image].norm(dim=0)  # every channel over the patches
        for patch in range(6):
            expected = words[:, patch]
            if expected.max() < 0.55:
                expected = sum(float(unit[patch] @ unit[other]) * words[:, other] for other in range(6))
            torch.testing.assert_close(smoothed[image].flatten(1)[:, patch], expected)
    best = logits.softmax(1).amax(1)
    assert (best < 0.55).any()
    assert (best > 0.55).any()


@pytest.mark.parametrize("window", [None, 64])
def test_refined_logits_decide_in_the_pipeline(window: int | None) -> None:
    def segment(**options: float) -> Tensor:
        settings = CLIPtraseSettings(method="maskclip", method_options=options, clustering="none")
        model = tiny_segmenter(settings=settings, window=window, stride=window and window // 2)
        x = model.preprocess([{"image": scene()}, {"image": scene(1)}])
        logits = model.segment(x, model.text_features(VOCABULARY), [(96, 128)] * 2).logits
        assert logits is not None
        return logits

    plain = segment()
    torch.testing.assert_close(segment(pd_thresh=1.0), torch.full_like(plain, -1e4))
    assert (segment(ks_thresh=1.0) - plain).abs().max() > 0.1


def test_the_class_tokens_logits_are_added_word_by_word() -> None:
    def segment(bias: float) -> Any:
        model = tiny_segmenter(settings=CLIPtraseSettings(cls_logit_bias=bias, clustering="none"))
        text = model.text_features(VOCABULARY)
        return model.segment(model.preprocess([{"image": scene()}]), text, [(96, 128)]), text, model

    (plain, text, model), (changed, *_) = segment(0.0), segment(-0.3)
    common = model.clip.logit_scale.exp() * plain.features.class_token @ text.features.T  # [1,R]
    torch.testing.assert_close(changed.logits, plain.logits - 0.3 * common[:, :, None, None], atol=1e-4, rtol=1e-5)


def test_a_method_without_class_token_refuses_to_add_its_logits() -> None:
    with pytest.raises(InputError, match=r"cls_logit_bias.*sc_clip"):
        tiny_segmenter(settings=CLIPtraseSettings(method="sc_clip", cls_logit_bias=-0.3))
