"""Masks of another ViT's tokens, with a tiny random one."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from cliptrase_d2.d2 import build_model
from cliptrase_d2.mask_sources.backbone import BackboneSource, token_cosines
from cliptrase_d2.mask_sources.timm_vit import load_vit
from cliptrase_d2.pipeline.settings import Method, PatchScene
from tests.mask_sources.tiny_models import TINY_VIT, save_vit
from tests.pipeline.tiny_segmenter import scene, tiny_config

METHOD = Method(eps=0.2, min_samples=3)


def _source(folder: Path, method: Method = METHOD) -> BackboneSource:
    return BackboneSource(method, load_vit(TINY_VIT, str(save_vit(folder))))


def _scene(grid: tuple[int, int], images: int = 1) -> PatchScene:
    patches = grid[0] * grid[1]
    blank = torch.full((images, patches, patches), torch.nan)  # CLIP's correlation must have no part in it
    return PatchScene(torch.zeros(images, patches, 4), torch.zeros(images, 4), blank, grid)


def _slow_rows(tokens: Tensor) -> Tensor:
    """max(0, cos(i, j) - cos(class token, j)) by loops over the tokens [N+1,E] -> [N,N]."""

    def cosine(a: Tensor, b: Tensor) -> float:
        return float((a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt()))

    first, *others = tokens.double()
    return torch.tensor([[max(0.0, cosine(a, b) - cosine(first, b)) for b in others] for a in others])


def test_rows_are_those_of_a_slow_loop(tmp_path: Path) -> None:
    source = _source(tmp_path)
    with torch.inference_mode():
        tokens = source.tokens(scene(0, 64, 96)[None].float(), (4, 6))
        rows = source.method.patch_rows(token_cosines(tokens))[0]
    assert tokens.shape == (1, 25, 64)
    torch.testing.assert_close(rows, _slow_rows(tokens[0]).float(), atol=1e-5, rtol=0)
    assert (rows > 0).any()


def test_tokens_are_the_models_own_after_its_last_norm_and_statistics(tmp_path: Path) -> None:
    source = _source(tmp_path)
    image = scene(0, 160, 160)[None].float()  # the model's own size: nothing is resized, neither image nor positions
    facts = timm.data.resolve_model_data_config(source.vit)
    mean, std = (torch.tensor(facts[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        expected = source.vit.forward_features((image / 255 - mean) / std)
        torch.testing.assert_close(source.tokens(image, (10, 10)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "registers"), [("vit_small_patch14_reg4_dinov2", 4), ("vit_small_patch16_dinov3", 4), (TINY_VIT, 0)]
)
def test_the_grid_is_clips_and_registers_are_dropped(name: str, registers: int) -> None:
    source = BackboneSource(METHOD, _shallow(name))
    seen = []
    source.vit.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2:]))
    with torch.inference_mode():
        images = scene(0, 48, 64)[None].float()  # 3×4 patches of 16
        tokens = source.tokens(images, (3, 4))
        side = source.vit.patch_embed.patch_size[0]
        size = (3 * side, 4 * side)
        assert seen == [size]
        resized = images
        if size != (48, 64):
            resized = torch.nn.functional.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 255)
        every = source.vit.forward_features((resized - source.pixel_mean) / source.pixel_std)
    assert every.shape[1] == 1 + registers + 12
    assert torch.equal(tokens, torch.cat([every[:, :1], every[:, 1 + registers :]], dim=1))


def _shallow(name: str) -> torch.nn.Module:
    return timm.create_model(name, depth=1, num_classes=0, dynamic_img_size=True).eval()


def test_a_batch_equals_its_images_one_by_one(tmp_path: Path) -> None:
    source = _source(tmp_path)
    images = torch.stack([scene(index, 96, 128).float() for index in range(3)])
    sizes = [(96, 128), (50, 70), (31, 200)]
    with torch.inference_mode():
        together = source(images, _scene((6, 8), 3), sizes)
        for index, size in enumerate(sizes):
            (alone,) = source(images[index : index + 1], _scene((6, 8)), [size])
            assert together[index].assignment.shape == size
            assert len(alone) == len(together[index]) > 1
            assert (alone.assignment == together[index].assignment).float().mean() > 0.99


def test_the_methods_settings_hold(tmp_path: Path) -> None:
    image, seen = scene(0, 96, 128)[None].float(), _scene((6, 8))
    with torch.inference_mode():
        clusters = len(_source(tmp_path)(image, seen, [(96, 128)])[0])
        everything_is_noise = _source(tmp_path, Method(eps=1e-6))(image, seen, [(96, 128)])[0]
        one = _source(tmp_path, Method(eps=100.0))(image, seen, [(96, 128)])[0]
        raw = _source(tmp_path, Method(eps=0.2, suppress_global_patches=False))(image, seen, [(96, 128)])[0]
    assert clusters > 1
    assert len(everything_is_noise) == 0
    assert len(one) == 1
    assert raw.coarse.max() > 0.9  # cosines as they are: a cluster is alike to itself


def test_the_whole_model_takes_its_masks_from_a_file_of_weights(tmp_path: Path) -> None:
    options = {
        "MODEL.MASKS.SOURCE": "backbone",
        "MODEL.MASKS.BACKBONE": TINY_VIT,
        "MODEL.MASKS.BACKBONE_WEIGHTS": str(save_vit(tmp_path)),
        "MODEL.CLIPTRASE.VOCABULARY": "['sky', 'grass']",
        "MODEL.CLIPTRASE.EPS": "0.2",
    }
    model = build_model(tiny_config(tmp_path, *[word for pair in options.items() for word in pair])).eval()
    assert not any(parameter.requires_grad for parameter in model.mask_source.parameters())
    for protocol in (None, 64):  # as a whole, and in windows
        model.window, model.stride = protocol, protocol and protocol // 2
        (output,) = model([{"image": scene(), "height": 50, "width": 70}])
        expected = model.mask_source(scene()[None].float(), _scene((6, 8)), [(50, 70)])[0]
        assert len(output["pred_masks"]) == len(expected) > 1
        torch.testing.assert_close(output["pred_masks"], expected.soft_masks(), atol=1e-3, rtol=0)
