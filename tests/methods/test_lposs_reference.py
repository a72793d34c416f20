"""LPOSS and LPOSS+ against outputs of the published code, on weights that are rebuilt from the names of the parameters.

The published code ran on SciPy's sparse matrices and an exact search for neighbours, in place of CuPy and FAISS.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cliptrase_d2.methods.label_propagation import PixelGraph, patch_graph, propagate, propagate_pixels, rgb_to_lab
from cliptrase_d2.methods.lposs import LPOSS, locate_patches, unit_features
from cliptrase_d2.methods.maskclip import MaskCLIP
from cliptrase_d2.methods.whole_image import WholeImage
from cliptrase_d2.methods.word_maps import WordValues
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol, place_windows
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from tests.methods.vision_reference import (
    build_model,
    build_vit,
    deviation,
    load_arrays,
    prepare_photograph,
    set_words,
    to_published,
)
from tests.vision_models.reference import read_photograph

WINDOWS = pytest.mark.parametrize("index", [0, 1])
PROTOCOL = PublishedProtocol(window=224, stride=112, logit_scale=1.0)
WIDE_ENOUGH = 0.999  # of the labels: near ties at single pixels may differ
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arrays(reference: Path) -> dict[str, Tensor]:
    return load_arrays(reference, "lposs")


@pytest.fixture(scope="module")
def model(shared: Path, arrays: dict[str, Tensor]) -> CLIPtrase:
    model = build_model(shared, "ViT-B-16", "lposs", build_vit(shared, "vit_base_patch16_224.dino"))
    model.protocol = PROTOCOL
    return model


class Window(NamedTuple):
    """What LPOSS reads of a window of 224 pixels.

    Attributes:
        rgb: [3,H,W] in [0,1].
        tokens: after block 11, [N,E].
        dino: [N,F].
        clip: [N,D].
    """

    rgb: Tensor
    tokens: Tensor
    dino: Tensor
    clip: Tensor


@pytest.fixture(scope="module")
def window(model: CLIPtrase, shared: Path) -> Any:
    cache: dict[int, Window] = {}

    @torch.inference_mode()
    def call(index: int) -> Window:
        if index not in cache:
            resized = read_photograph(shared, index).resize((224, 224), Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
            images = model.tower.normalise(pixels)[None]
            x = model.read_tokens(images, model.method.needs, lambda tokens: tokens)
            own = x.hidden_state()[0, 1:], unit_features(x)[0], MaskCLIP()(x).patches[0]
            cache[index] = Window(pixels / 255, *own)
        return cache[index]

    return call


@WINDOWS
def test_features_of_patches(window: Any, arrays: Mapping[str, Tensor], index: int) -> None:
    x = window(index)
    assert deviation(x.dino[::16], arrays[f"window{index}_dino"]) < 5e-4
    assert deviation(x.tokens[::16], arrays[f"window{index}_block11"]) < 5e-4
    assert deviation(x.clip[::16], arrays[f"window{index}_features"]) < 5e-4
    assert (
        deviation((x.clip @ arrays["text21"].T).T.unflatten(1, (14, 14)), arrays[f"window{index}_patch_logits"]) < 5e-4
    )


@WINDOWS
def test_propagation_in_one_window(window: Any, arrays: Mapping[str, Tensor], index: int) -> None:
    x, text = window(index), arrays["text21"]
    positions = locate_patches(place_windows((224, 224), 16, PROTOCOL), 16, (14, 14))
    graph = patch_graph(x.dino, positions, 50, 3.0, 0.01)
    assert deviation((torch.eye(196) - 0.95 * graph)[::16], arrays[f"window{index}_graph"]) < 5e-4
    logits = (x.clip @ text.T).double()
    result = propagate(graph.__matmul__, logits, 0.95, 10)
    assert deviation(result.T.unflatten(1, (14, 14)), arrays[f"window{index}_propagated"]) < 5e-4
    # Ten steps do not converge.
    residual = (logits - result + 0.95 * graph @ result).norm(dim=0) / logits.norm(dim=0)
    assert deviation(residual, arrays[f"window{index}_residual"]) < 1e-2


@WINDOWS
def test_propagation_over_pixels(window: Any, arrays: Mapping[str, Tensor], index: int) -> None:
    x = window(index)
    lab = rgb_to_lab(x.rgb)
    assert deviation(lab[:, ::16, ::16], arrays[f"window{index}_plus_lab"]) < 1e-5
    graph = PixelGraph(lab, 0.01, 13)
    place = torch.zeros(224, 224, 1)
    place[100, 57] = 1
    row = place - 0.95 * graph(place.flatten(0, 1)).view(224, 224, 1)
    assert deviation(row[94:107, 51:64, 0], arrays[f"window{index}_plus_graph_row"]) < 1e-5
    patches = arrays[f"window{index}_propagated"][None]
    maps = torch.nn.functional.interpolate(patches, (224, 224), mode="bilinear")[0].float()
    result = propagate_pixels(maps, x.rgb, 0.95, 10, 0.01, 13)
    assert deviation(result[:, ::12, ::12], arrays[f"window{index}_plus_propagated"]) < 5e-4
    assert torch.equal(result.argmax(0), arrays[f"window{index}_plus_labels"].long())


class Recorder(LPOSS):
    """Keeps what it propagates, and the values of its words."""

    def propagate_patches(self, words: Tensor, features: Tensor, windows: Any, patch_size: int) -> Tensor:
        self.before, self.features = words, features
        self.after = super().propagate_patches(words, features, windows, patch_size)
        return self.after

    def __call__(self, x: WholeImage) -> WordValues:
        self.windows, self.maps = x.windows, super().__call__(x)
        return self.maps


def test_the_protocol_of_voc21(model: CLIPtrase, shared: Path, arrays: Mapping[str, Tensor]) -> None:
    inputs = prepare_photograph(shared, 0, 448)
    image = inputs["image"].permute(1, 2, 0).contiguous()
    assert list(image.shape) == arrays["protocol_resized_shape"].tolist()
    assert zlib.crc32(image.numpy().tobytes()) == arrays["protocol_resized_crc32"]
    vocabulary = set_words(model, arrays["text_query"], background=26)
    model.configure(CLIPtraseSettings(method="lposs", clustering="none"))
    model.method = method = Recorder()
    (output,) = model([{**inputs, "vocabulary": vocabulary}])
    rows, columns = (axis.starts for axis in method.windows)
    corners = [[top, top + 224, left, left + 224] for top in rows for left in columns]
    assert corners == arrays["protocol_locations"].tolist()
    assert deviation(method.before.flatten(0, 2)[::49], arrays["protocol_before"]) < 5e-4
    assert deviation(method.after.flatten(0, 2)[::49], arrays["protocol_after"]) < 1e-3
    assert torch.equal(method.after.flatten(0, 2).argmax(1), arrays["protocol_patch_queries"].long())
    positions = locate_patches(method.windows, 16, (14, 14))
    graph = patch_graph(method.features.flatten(0, 1), positions, 400, 3.0, 0.01)
    assert deviation(1 - 0.95 * graph.sum(1), arrays["protocol_graph_row_sums"]) < 5e-3
    values = method.maps.at((370, 500))
    classes = torch.cat([values[:26].amax(0, keepdim=True), values[26:]])
    assert deviation(classes[:, ::12, ::12], arrays["protocol_logits"]) < 1e-3
    labels = to_published(output["label_map"], 26, 21)
    assert (labels == arrays["protocol_labels"]).float().mean() >= WIDE_ENOUGH
