"""Trident against outputs of the published code, on weights that are rebuilt from the names of the parameters."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from cliptrase_d2.clip.tokens import cosine_matrix
from cliptrase_d2.methods import trident
from cliptrase_d2.methods.trident import Trident, fit_to_patches, place
from cliptrase_d2.methods.whole_image import HeadAttention, WholeImage
from cliptrase_d2.methods.word_maps import WordValues
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from tests.methods.vision_reference import (
    build_model,
    build_sam,
    build_vit,
    deviation,
    load_arrays,
    prepare_photograph,
    set_words,
    to_published,
)

IMAGES = pytest.mark.parametrize("index", [0, 1])
SHORT_SIDES = 448, 336
# The settings of VOC21 and VOC20, names of the text features, and number of words of the background.
OPTIONS: tuple[dict[str, Any], ...] = {}, {"stride": 112, "cos_fac": 0.0}
WORDS = ("text_query", 26), ("text21", 1)
# CLIP's statistics, rounded as in the published pipeline, which goes back to pixels with the exact ones.
MEAN, STD = (122.771, 116.746, 104.094), (68.501, 66.632, 70.323)
WIDE_ENOUGH = 0.9995  # of the labels: near ties and pixels at the threshold may differ
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arrays(reference: Path) -> dict[str, Tensor]:
    return load_arrays(reference, "trident")


@pytest.fixture(scope="module")
def model(shared: Path, arrays: dict[str, Tensor]) -> CLIPtrase:
    vit = build_vit(shared, "vit_base_patch16_224.dino")
    model = build_model(shared, "ViT-B-16-quickgelu", "trident", vit, build_sam(shared))
    model.protocol = PublishedProtocol(window=0)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    model.tower.normalise = lambda images: (images - mean) / std
    return model


class Recorder(Trident):
    """Keeps the maps, and what SAM returns."""

    def __call__(self, x: WholeImage) -> WordValues:
        self.pixels, self.maps = x.pixels, super().__call__(x)
        return self.maps

    def average(self, attention: HeadAttention, tokens: Tensor) -> Tensor:
        self.attention, self.averaged = attention, super().average(attention, tokens)
        return self.averaged


class Run(NamedTuple):
    """A photograph that was segmented.

    Attributes:
        expected: its arrays.
        method: with what it recorded.
        vision: DINO's tokens of the windows, [K,M,F].
        windows: their tokens, [K,E,h,w].
        weights: of SAM's patches, [M,M].
        labels: [H,W] without a threshold, in the published order.
        probabilities: [C,H,W] in the published order.
    """

    expected: Mapping[str, Tensor]
    method: Recorder
    vision: Tensor
    windows: Tensor
    weights: Tensor
    labels: Tensor
    probabilities: Tensor


@pytest.fixture(scope="module")
def run(model: CLIPtrase, shared: Path, arrays: Mapping[str, Tensor]) -> Callable[[int], Run]:
    cache: dict[int, Run] = {}

    def call(index: int) -> Run:
        if index in cache:
            return cache[index]
        expected = {key[7:]: value for key, value in arrays.items() if key.startswith(f"image{index}_")}
        inputs = prepare_photograph(shared, index, SHORT_SIDES[index])
        image = inputs["image"].permute(1, 2, 0).contiguous()
        assert list(image.shape) == expected["resized_shape"].tolist()
        assert zlib.crc32(image.numpy().tobytes()) == expected["resized_crc32"]
        name, background = WORDS[index]
        inputs |= {"vocabulary": set_words(model, arrays[name], background), "output_sem_seg": True}
        model.configure(CLIPtraseSettings(method="trident", clustering="none", method_options=OPTIONS[index]))
        model.method, seen = Recorder(**OPTIONS[index]), {}

        def keep(name: str) -> Callable[..., Tensor]:
            function = getattr(trident, name)

            def wrapped(*arguments: Any) -> Tensor:
                seen[name] = arguments[0].clone() if isinstance(arguments[0], Tensor) else arguments[0]
                seen[f"{name}_result"] = function(*arguments)
                return seen[f"{name}_result"]

            return wrapped

        with pytest.MonkeyPatch.context() as patch:
            for name in ("cosine_matrix", "splice", "correlate"):
                patch.setattr(trident, name, keep(name))
            (output,) = model([inputs])
        probabilities = output["sem_seg"].roll(1, 0)  # our background is last
        cache[index] = Run(
            expected,
            model.method,
            seen["cosine_matrix"],
            seen["splice"],
            seen["correlate_result"],
            to_published(output["label_map"], background, 21),
            probabilities,
        )
        return cache[index]

    return call


@IMAGES
def test_windows(run: Callable[[int], Run], index: int) -> None:
    result = run(index)
    image = fit_to_patches(result.method.pixels, 16, 336)
    rows, columns = (place(length, 336, result.method.stride, 16) for length in image.shape[1:])
    assert [len(rows), len(columns)] == result.expected["window_grid"].tolist()
    corners = [[top, left, top + 336, left + 336] for top in rows for left in columns]
    assert torch.equal(torch.tensor(corners) // 16, result.expected["windows"].long())
    assert deviation(result.vision[:, ::110], result.expected["dino"]) < 1e-3
    cosines = cosine_matrix(result.vision)
    masked = 3 * (cosines[:, 100] - 1.2 * cosines.mean())
    kept = result.expected["masked"].isfinite()
    assert ((masked >= 0) != kept).sum() <= 1
    assert deviation(masked[kept], result.expected["masked"][kept]) < 1e-3
    tokens = result.windows.flatten(2)[..., ::110].permute(2, 0, 1)
    assert deviation(tokens, result.expected["window_tokens"]) < 1e-3


@IMAGES
def test_sam(run: Callable[[int], Run], index: int) -> None:
    result = run(index)
    attention, rows = result.method.attention, result.expected["sam_rows"].long()
    assert list(attention.grid) == result.expected["sam_grid"].tolist()
    assert deviation(attention.values.flatten(1, 2)[:, rows], result.expected["sam_value"]) < 1e-3
    mean = torch.stack([attention.attend(head)[rows] for head in range(12)]).mean(0)
    assert deviation(mean, result.expected["sam_attention_mean"]) < 2e-3
    kept = (result.weights > 0).sum(1)
    assert (kept - result.expected["sam_kept_per_row"]).abs().max() <= 8
    # An entry at the threshold carries up to a hundredth of a row.
    assert deviation(result.weights[rows], result.expected["sam_weights"]) < 2e-2


@IMAGES
def test_labels(run: Callable[[int], Run], index: int) -> None:
    result, size = run(index), run(index).labels.shape
    averaged = result.method.averaged.flatten(1).T[result.expected["sam_rows"].long()]
    assert deviation(averaged, result.expected["pooled"]) < 1e-2
    logits = result.method.maps.at((size[0], size[1]))[:, ::12, ::12]
    assert (logits - result.expected["logits"]).abs().max() < 1e-3
    probability = result.probabilities[:, ::12, ::12] - result.expected["class_probability"]
    assert probability.abs().max() < 2e-3
    is_below = result.probabilities.amax(0) < result.expected["threshold"]
    for labels, name in ((result.labels, "labels_thd0"), (result.labels.masked_fill(is_below, 0), "labels")):
        share = float((labels == result.expected[name]).float().mean())
        assert share >= WIDE_ENOUGH
