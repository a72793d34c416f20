"""Trident: its parts against slow loops, whole images, and odd cases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import cosine_matrix
from cliptrase_d2.d2 import build_model
from cliptrase_d2.methods.proxyclip import proxy_attention
from cliptrase_d2.methods.trident import (
    correlate,
    fit_photograph,
    fit_to_patches,
    place,
    splice,
)
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol, put_background_first
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vision_models.sam_attention import SamReader
from cliptrase_d2.vision_models.sam_model import PromptedSam, load_sam
from cliptrase_d2.vocabulary import Vocabulary
from tests.methods.example_methods import Pixels
from tests.pipeline.tiny_segmenter import scene, tiny_config, tiny_segmenter
from tests.vision_models.tiny_models import TINY_VIT, save_sam, save_sam2

WORDS = Vocabulary.parse(["sky", "grass", "star"], ["wall", "floor"])
PROTOCOL = PublishedProtocol(window=0, logit_scale=40.0)


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_sam(tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="module")
def sam(sam_folder: str) -> PromptedSam:
    return load_sam(sam_folder)


def build(sam: PromptedSam | None, factor: int = 1, **options: Any) -> CLIPtrase:
    chosen = {"window": 64, "stride": 32, **options}
    settings = CLIPtraseSettings(method="trident", clustering="none", method_options=chosen)
    return tiny_segmenter(settings=settings, protocol=PROTOCOL, vision_model=Pixels(factor), sam=sam)


def make_input(index: int = 0, height: int = 96, width: int = 128) -> dict[str, Any]:
    photograph = scene(index, 70, 100)
    size = {"height": 70, "width": 100, "vocabulary": WORDS, "output_sem_seg": True}
    return {"image": scene(index, height, width), "photograph": photograph, **size}


# ------------------------------------------------------------------ parts


def test_windows_are_averaged_where_they_overlap() -> None:
    maps = torch.randn(4, 2, 2, 2)  # windows of two patches at rows 0 and 1, columns 0 and 2
    result = splice(maps, [0, 16], [0, 32], (32, 32), 16)
    assert result.shape == (2, 3, 4)
    torch.testing.assert_close(result[:, 0, :2], maps[0, :, 0])
    torch.testing.assert_close(result[:, 1, :2], (maps[0, :, 1] + maps[2, :, 0]) / 2)
    torch.testing.assert_close(result[:, 2, 2:], maps[3, :, 1])


@pytest.mark.parametrize(("points", "factor"), [(6, 2), (7, 2), (2, 1)], ids=["twice", "no multiple", "coarser"])
def test_maps_of_another_grid(points: int, factor: int) -> None:
    maps = torch.randn(2, 3, points, points)
    result = splice(maps, [0], [0, 16], (48, 48), 16)
    assert result.shape == (3, 3 * factor, 4 * factor)
    own = maps if points == 6 else F.interpolate(maps, (3 * factor, 3 * factor), mode="bilinear")
    torch.testing.assert_close(result[..., :factor], own[0, ..., :factor])
    torch.testing.assert_close(result[..., -factor:], own[1, ..., -factor:])


@dataclass
class Attention:
    """Random heads."""

    values: Tensor
    matrices: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        return self.values.shape[1], self.values.shape[2]

    def attend(self, head: int) -> Tensor:
        return self.matrices[head].clone()


@pytest.mark.parametrize("cos_fac", [0.0, 1.2, 30.0], ids=["none", "published", "at most 0.9"])
@pytest.mark.parametrize("keep_negative", [True, False])
def test_the_correlation_of_sam(cos_fac: float, keep_negative: bool) -> None:
    values, matrices = torch.randn(3, 2, 4, 5), torch.rand(3, 8, 8)
    result = correlate(Attention(values, matrices), cos_fac, keep_negative)
    unit = F.normalize(values, dim=-1).flatten(1, 2).double()
    for i in range(8):
        cosines = [[float(head[i] @ head[j]) for j in range(8)] for head in unit]
        limit = cos_fac * sum(map(sum, cosines)) / 24
        limit = 0.6 if limit < 0 and not keep_negative else limit
        limit = min(limit, 0.9)
        row = torch.zeros(8)
        for head in range(3):
            for j in range(8):
                row[j] += matrices[head, i, j] if cosines[head][j] > limit else 0
        torch.testing.assert_close(result[i], row / row.sum(), atol=1e-5, rtol=1e-4)


def test_images_are_resized_to_whole_patches() -> None:
    image = torch.randn(3, 448, 605)
    assert fit_to_patches(image, 16, 336).shape == (3, 464, 608)  # int(448·608/605) = 450
    assert fit_to_patches(image.mT, 16, 336).shape == (3, 608, 464)
    assert fit_to_patches(image[:, :, :16], 16, 336).shape == (3, 448, 16)  # whole patches stay, however few
    assert fit_to_patches(image[:, :100, :605], 16, 336).shape == (3, 336, 608)
    photograph = scene(0, 70, 100)
    assert fit_photograph(photograph, 16).shape == (3, 80, 112)
    assert torch.equal(fit_photograph(photograph[:, :64, :96], 16), photograph[:, :64, :96])


def test_places_of_windows() -> None:
    assert place(464, 336, 224, 16) == [0, 128]
    assert place(608, 336, 224, 16) == [0, 224, 272]
    assert place(336, 336, 224, 16) == place(320, 336, 224, 16) == [0]


# ------------------------------------------------------------------ whole images


@torch.inference_mode()
@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("halves", [False, True])
def test_whole_images(sam: PromptedSam, factor: int, halves: bool) -> None:
    """Rebuild the labels from windows that are encoded one by one."""
    model, inputs = build(sam, factor, halves=halves), make_input()
    text = put_background_first(model.text_features(WORDS)).features
    image, tokens, values, unit = model.tower.normalise(inputs["image"]), None, [], []
    for top in (0, 32):
        for left in (0, 32, 64):
            part = image[None, :, top : top + 64, left : left + 64]
            tokens = model.read_tokens(part, model.method.needs, lambda tokens: tokens)
            grid = tokens.vision_features.grid
            value = tokens.qkv()[2][0, :, 1:].transpose(0, 1).flatten(1)  # [N,E]
            values.append(F.interpolate(value.T.view(1, -1, 4, 4), grid, mode="bilinear")[0])
            unit.append(tokens.vision_features.features[0])
    attention = proxy_attention(cosine_matrix(torch.stack(unit)), 1.2, 3.0, one_mean=True)
    projection = model.tower.visual.transformer.resblocks[-1].attn.out_proj
    maps = [projection(weights @ value.flatten(1).T).T for weights, value in zip(attention, values, strict=True)]
    whole = splice(torch.stack(maps).unflatten(2, grid), [0, 32], [0, 32, 64], (64, 64), 16)
    photograph, middle = fit_photograph(inputs["photograph"], 16), 4 * factor
    parts = [(photograph, whole)]
    if halves:
        parts = [(photograph[..., :56], whole[..., :middle]), (photograph[..., 56:], whole[..., middle:])]
    averaged = []
    for rgb, part in parts:
        own = SamReader(sam).read_last_attention(rgb)
        resized = F.interpolate(part[None], own.grid, mode="bilinear")[0]
        averaged.append((correlate(own, 1.2, True) @ resized.flatten(1).T).T.view_as(resized))
    joined = torch.cat(averaged, dim=2)
    visual = model.tower.visual
    features = F.normalize(visual.ln_post(joined.flatten(1).T) @ visual.proj, dim=-1)
    cosines = (text.features @ features.T).view(1, -1, *joined.shape[1:])
    words = (40 * F.interpolate(cosines, (70, 100), mode="bilinear")[0]).softmax(0)
    classes = torch.stack([words[text.class_index == index].amax(0) for index in range(4)])
    (output,) = model([inputs])
    torch.testing.assert_close(output["sem_seg"].roll(1, 0), classes, atol=1e-4, rtol=0)


def test_two_images_of_a_batch_equal_each_alone(sam: PromptedSam) -> None:
    model, inputs = build(sam), [make_input(0), make_input(1)]
    for output, one in zip(model(inputs), inputs, strict=True):
        torch.testing.assert_close(output["sem_seg"], model([one])[0]["sem_seg"], atol=1e-5, rtol=0)


def test_half_precision_changes_little(sam: PromptedSam) -> None:
    model, inputs = build(sam), make_input()
    (expected,) = model([inputs])
    model.precision = torch.bfloat16
    torch.testing.assert_close(model([inputs])[0]["sem_seg"], expected["sem_seg"], atol=0.1, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (48, 40), (50, 130)], ids=["a patch", "small", "remainder"])
def test_other_sizes(sam: PromptedSam, height: int, width: int) -> None:
    (output,) = build(sam)([make_input(height=height, width=width)])
    assert output["label_map"].shape == (70, 100)
    assert output["sem_seg"].isfinite().all()


def test_views_of_one_step_do_not_matter(sam: PromptedSam, monkeypatch: pytest.MonkeyPatch) -> None:
    (expected,) = build(sam)([make_input()])
    monkeypatch.setattr("cliptrase_d2.pipeline.published._PIXELS_TOGETHER", 2 * 64 * 64)
    (output,) = build(sam)([make_input()])
    torch.testing.assert_close(output["sem_seg"], expected["sem_seg"], atol=1e-5, rtol=0)


# ------------------------------------------------------------------ errors and configuration


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"window": 0}, "window 0"),
        ({"stride": 65}, "stride 65"),
        ({"beta": -1.0}, r"beta -1\.0"),
        ({"gamma": 0.0}, r"gamma 0\.0"),
        ({"cos_fac": math.inf}, "cos_fac inf"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        build(None, **options)


@pytest.mark.parametrize("options", [{"window": 70}, {"stride": 30}])
def test_windows_that_do_not_fit_the_patches(sam: PromptedSam, options: dict[str, int]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(InputError, match=rf"method_options: {name} {value}"):
        build(sam, **options)([make_input()])


def test_without_sam() -> None:
    with pytest.raises(InputError, match="'trident' needs SAM"):
        build(None)


def test_sam_2_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^sam: .*whose encoder"):
        build(load_sam(save_sam2(tmp_path)))([make_input()])


def test_sam_is_loaded_where_a_method_needs_it(tmp_path: Path, sam_folder: str) -> None:
    options = ("MODEL.MASKS.SAM", sam_folder, "MODEL.VISION.NAME", TINY_VIT, "MODEL.VISION.WEIGHTS", "")
    options += ("TEST.PROTOCOL", "published", "MODEL.CLIPTRASE.CLUSTERING", "none")
    model = build_model(tiny_config(tmp_path, *options, "MODEL.CLIPTRASE.METHOD", "trident"))
    assert model.extra_models["sam"]["name"] == sam_folder
    assert model.needs_photograph
    plain = build_model(tiny_config(tmp_path, *options, "MODEL.CLIPTRASE.METHOD", "maskclip"))
    assert plain.sam is None
    assert "sam" not in plain.extra_models
    plain.configure(model.settings)
    assert plain.sam is not None
