"""Masks from the tokens of another ViT, with a tiny random one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cliptrase_d2.clip.tokens import PatchFeatures
from cliptrase_d2.d2 import build_model
from cliptrase_d2.mask_sources import BackboneSource, MaskInputs
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.pipeline.stages import select_patch_rows
from cliptrase_d2.vision_models import VitBackbone, load_vit
from tests.pipeline import reference
from tests.pipeline.tiny_segmenter import scene, tiny_config
from tests.vision_models.tiny_models import TINY_VIT, save_vit

SETTINGS = CLIPtraseSettings(eps=0.2, min_samples=3)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> VitBackbone:
    return VitBackbone(load_vit(TINY_VIT, str(save_vit(tmp_path_factory.mktemp("weights")))))


def make_inputs(pixels: Tensor, sizes: list[tuple[int, int]], **changes: object) -> MaskInputs:
    return MaskInputs((6, 8), sizes, replace(SETTINGS, **changes), torch.device("cpu"), pixels=pixels)


@torch.inference_mode()
def test_patch_rows_equal_a_slow_loop(backbone: VitBackbone) -> None:
    pixels = scene(0, 64, 96)[None].float()
    tokens = backbone.tokens(pixels, (4, 6))
    assert tokens.shape == (1, 25, 64)
    cosines = torch.tensor([[reference.cosine(a, b) for b in tokens[0]] for a in tokens[0]])
    rows = select_patch_rows(PatchFeatures(tokens, (4, 6)).affinity(), SETTINGS)[0]
    torch.testing.assert_close(rows, reference.suppress_global_patches(cosines), atol=1e-5, rtol=0)
    assert (rows > 0).any()
    assert torch.equal(backbone(pixels).features, tokens[:, 1:])  # its own grid is the same


@torch.inference_mode()
def test_a_batch_equals_its_images_one_by_one(backbone: VitBackbone) -> None:
    source, sizes = BackboneSource(backbone), [(96, 128), (50, 70), (31, 200)]
    images = torch.stack([scene(index).float() for index in range(3)])
    for index, (masks, size) in enumerate(zip(source(make_inputs(images, sizes)), sizes, strict=True)):
        (alone,) = source(make_inputs(images[index : index + 1], [size]))
        assert masks.assignment.shape == size
        assert len(alone) == len(masks) > 1
        assert (alone.assignment == masks.assignment).float().mean() > 0.99


@torch.inference_mode()
def test_the_settings_of_the_method_apply(backbone: VitBackbone) -> None:
    counts = {}
    for eps in (1e-6, 0.2, 100.0):
        (masks,) = BackboneSource(backbone)(make_inputs(scene()[None].float(), [(96, 128)], eps=eps))
        counts[eps] = len(masks)
    assert counts[1e-6] == 0
    assert counts[0.2] > counts[100.0] == 1
    raw = make_inputs(scene()[None].float(), [(96, 128)], suppress_global_patches=False)
    assert BackboneSource(backbone)(raw)[0].coarse.max() > 0.9  # unsuppressed cosines of a cluster with itself


def test_the_model_uses_weights_of_a_file(tmp_path: Path) -> None:
    options = {
        "MODEL.MASKS.SOURCE": "backbone",
        "MODEL.MASKS.BACKBONE": TINY_VIT,
        "MODEL.MASKS.BACKBONE_WEIGHTS": str(save_vit(tmp_path)),
        "MODEL.CLIPTRASE.VOCABULARY": "['sky', 'grass']",
        "MODEL.CLIPTRASE.EPS": "0.2",
    }
    model = build_model(tiny_config(tmp_path, *[text for pair in options.items() for text in pair])).eval()
    assert not any(parameter.requires_grad for parameter in model.mask_source.parameters())
    (expected,) = model.mask_source(make_inputs(scene()[None].float(), [(50, 70)]))
    for window in (None, 64):
        model.window, model.stride = window, window and window // 2
        (output,) = model([{"image": scene(), "height": 50, "width": 70}])
        assert len(output["pred_masks"]) == len(expected) > 1
        torch.testing.assert_close(output["pred_masks"], expected.soft_masks(), atol=1e-3, rtol=0)
