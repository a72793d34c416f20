"""ViTs of timm as second vision models: grids, positions and features, with tiny random ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliptrase_d2.clip.tokens import Needs
from cliptrase_d2.d2 import build_model
from cliptrase_d2.methods import DENSE_METHODS
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vision_models import FEATURES, VitBackbone, load_vit
from cliptrase_d2.vision_models.vit import get_position_resize
from tests.methods.example_methods import Proxy
from tests.pipeline.tiny_segmenter import scene, tiny_config
from tests.vision_models.tiny_models import TINY_VIT, save_vit

KINDS = [
    ("vit_small_patch14_reg4_dinov2", 4),
    ("vit_small_patch16_dinov3", 4),  # rotary positions, no biases
    ("eva02_tiny_patch14_224", 0),  # biases apart from the weights, and q, k, v of matrices of their own
    ("vit_small_patch16_224.dino", 0),
    (TINY_VIT, 0),
]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> VitBackbone:
    return VitBackbone(load_vit(TINY_VIT, str(save_vit(tmp_path_factory.mktemp("weights")))))


def make_vit(name: str) -> Any:
    vit = timm.create_model(name, depth=2, num_classes=0, dynamic_img_size=True).eval()
    with torch.no_grad():
        for key, value in vit.named_parameters():
            if key.endswith("bias") or "pos_embed" in key:
                value.normal_()
    return vit


@torch.inference_mode()
def test_tokens_are_normalised_with_the_models_own_statistics(backbone: VitBackbone) -> None:
    image = scene(0, 160, 160)[None].float()  # the model's own size, so neither image nor positions are resized
    statistics = timm.data.resolve_model_data_config(backbone.vit)
    mean, std = (torch.tensor(statistics[name]).view(3, 1, 1) for name in ("mean", "std"))
    expected = backbone.vit.forward_features((image / 255 - mean) / std)
    torch.testing.assert_close(backbone.tokens(image, (10, 10)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "registers"), KINDS, ids=lambda value: str(value))
@torch.inference_mode()
def test_images_are_resized_to_a_grid_and_registers_are_dropped(name: str, registers: int) -> None:
    vit = make_vit(name)
    backbone, images = VitBackbone(vit, position_resize="antialias"), scene(0, 48, 64)[None].float()  # 3×4 of 16
    side = vit.patch_embed.patch_size[0]
    resized = images
    if side != 16:
        resized = F.interpolate(images, (3 * side, 4 * side), mode="bicubic", antialias=True).clamp(0, 255)
    tokens = vit.forward_features((resized - backbone.pixel_mean) / backbone.pixel_std)
    assert tokens.shape[1] == 1 + registers + 12
    assert torch.equal(backbone.tokens(images, (3, 4)), torch.cat([tokens[:, :1], tokens[:, 1 + registers :]], dim=1))


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        ("vit_small_patch8_224.dino", (48, 64), (6, 8)),
        ("vit_small_patch14_dinov2", (48, 64), (3, 5)),  # 3.4 and 4.6 patches
        (TINY_VIT, (7, 100), (1, 6)),
    ],
)
@torch.inference_mode()
def test_the_grid_is_the_models_own_at_the_size_of_the_images(
    name: str, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    backbone = VitBackbone(make_vit(name))
    features = backbone(scene(0, *size)[None].float())
    assert features.grid == grid
    assert features.features.shape == (1, grid[0] * grid[1], backbone.vit.embed_dim)


def resize_as_dino(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize positions [1,1+n²,E] as DINO's code does: a scale factor, and no antialiasing."""
    side = round((position.shape[1] - 1) ** 0.5)
    patches = position[:, 1:].view(1, side, side, -1).permute(0, 3, 1, 2)
    factor = [(points + 0.1) / side for points in grid]
    patches = F.interpolate(patches, scale_factor=factor, mode="bicubic")
    return torch.cat([position[:, :1], patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


@pytest.mark.parametrize("name", ["vit_small_patch16_224.dino", "vit_small_patch14_dinov2.lvd142m"])
@torch.inference_mode()
def test_positions_of_dino_are_resized_as_its_own_code_does(name: str) -> None:
    vit, grid = make_vit(name), (21, 13)
    backbone, side = VitBackbone(vit), vit.patch_embed.patch_size[0]
    images = torch.rand(2, 3, grid[0] * side, grid[1] * side) * 255
    x = vit.patch_embed((images - backbone.pixel_mean) / backbone.pixel_std).flatten(1, 2)
    x = torch.cat([vit.cls_token.expand(2, -1, -1), x], dim=1) + resize_as_dino(vit.pos_embed, grid)
    torch.testing.assert_close(backbone.tokens(images, grid), vit.norm(vit.blocks(x)), atol=1e-4, rtol=0)
    timms = VitBackbone(vit, position_resize="antialias").tokens(images, grid)
    assert (backbone.tokens(images, grid) - timms).norm() > 1e-3 * timms.norm()


def test_the_rule_of_positions_is_that_of_the_models_family() -> None:
    rules = {
        "vit_base_patch8_224.dino": "scale_factor",
        "vit_base_patch14_dinov2.lvd142m": "scale_factor",
        "vit_base_patch14_reg4_dinov2.lvd142m": "antialias",  # as its own code does
        "vit_base_patch16_dinov3.lvd1689m": "antialias",  # it has none
        "vit_base_patch16_224.mae": "output_size",
        "vit_base_patch16_224": "antialias",
    }
    assert {name: get_position_resize(name) for name in rules} == rules
    with pytest.raises(InputError, match=r"position_resize.*bilinear"):
        VitBackbone(make_vit(TINY_VIT), position_resize="bilinear")
    with pytest.raises(InputError, match=r"position_resize.*scale_factor.*reg4"):
        VitBackbone(make_vit("vit_small_patch14_reg4_dinov2"), position_resize="scale_factor")


@pytest.mark.parametrize(("name", "registers"), KINDS, ids=lambda value: str(value))
@torch.inference_mode()
def test_projections_are_those_of_the_last_block(name: str, registers: int) -> None:
    vit = make_vit(name)
    backbone, images = VitBackbone(vit), scene(0, 64, 96)[None].float()
    inputs: dict[str, Tensor] = {}
    last = vit.blocks[-1]
    last.norm1.register_forward_hook(lambda module, given, result: inputs.update(normed=result))
    expected_tokens = backbone(images)
    thirds = slow_projections(last.attn, inputs["normed"][0, 1 + registers :])
    found = {feature: backbone(images, feature) for feature in FEATURES}
    assert torch.equal(found["tokens"].features, expected_tokens.features)
    for feature, third in zip(("queries", "keys", "values"), thirds, strict=True):
        assert found[feature].grid == expected_tokens.grid
        torch.testing.assert_close(found[feature].features[0], third, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["queries+keys"].features[0], thirds[0] + thirds[1], atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match=r"features.*'logits'"):
        backbone(images, "logits")


def slow_projections(attention: nn.Module, x: Tensor) -> list[Tensor]:
    """Return q, k and v of tokens [N,E], row by row of the weights, with every bias that the layer has."""
    state, width = attention.state_dict(), x.shape[1]
    if "q_proj.weight" in state:
        weight = torch.cat([state[f"{one}_proj.weight"] for one in "qkv"])
        zero = torch.zeros(width)
        bias = torch.cat([state.get(f"{one}_proj.bias", zero) for one in "qkv"])
    else:
        weight, bias = state["qkv.weight"], state.get("qkv.bias", torch.zeros(3 * width))
        if "q_bias" in state:
            bias = torch.cat([state["q_bias"], attention.k_bias, state["v_bias"]])
    return [x @ weight[third * width :][:width].T + bias[third * width :][:width] for third in range(3)]


@torch.inference_mode()
def test_a_batch_equals_its_images(backbone: VitBackbone) -> None:
    images = torch.stack([scene(index).float() for index in range(3)])
    for features in FEATURES:
        batch = backbone(images, features).features
        for index in range(3):
            alone = backbone(images[index : index + 1], features).features
            torch.testing.assert_close(batch[index : index + 1], alone, atol=1e-5, rtol=0)


class _TwoDefaults(Proxy):
    vision_model = TINY_VIT


class _Values(Proxy):
    vision_model = "vit_small_patch16_224.dino"
    needs = Needs(vision_features="values")


@pytest.fixture
def _methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DENSE_METHODS, "first", _TwoDefaults)
    monkeypatch.setitem(DENSE_METHODS, "second", _Values)


@pytest.mark.usefixtures("_methods")
def test_a_method_names_its_own_model_and_a_key_names_another(tmp_path: Path) -> None:
    options = ["MODEL.CLIPTRASE.METHOD", "first", "MODEL.CLIPTRASE.VOCABULARY", "['sky', 'grass']"]
    options += ["MODEL.VISION.NAME", "", "MODEL.CLIPTRASE.CLUSTERING", "none"]
    model = build_model(tiny_config(tmp_path, *options))
    assert model.extra_models["vision_model"]["name"] == TINY_VIT
    first = model.vision_model
    model.configure(CLIPtraseSettings(method="first", clustering="none", cls_logit_bias=0.0))
    assert model.vision_model is first
    model.configure(CLIPtraseSettings(method="clip", clustering="none"))
    assert not model.extra_models
    model.configure(CLIPtraseSettings(method="second", clustering="none"))
    expected = {"name": "vit_small_patch16_224.dino", "parameters": 21665664, "weights": "random"}
    assert model.extra_models == {"vision_model": expected}
    model = build_model(tiny_config(tmp_path, *options, "MODEL.VISION.NAME", "vit_tiny_patch16_224"))
    assert model.extra_models["vision_model"]["name"] == "vit_tiny_patch16_224"
    model.configure(CLIPtraseSettings(method="second", clustering="none"))
    assert model.extra_models["vision_model"]["name"] == "vit_tiny_patch16_224"
    assert not any(parameter.requires_grad for parameter in model.vision_model.parameters())


@pytest.mark.usefixtures("_methods")
def test_the_second_model_reads_the_pixels_that_clip_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["MODEL.CLIPTRASE.METHOD", "second", "MODEL.CLIPTRASE.VOCABULARY", "['sky', 'grass']"]
    options += ["MODEL.CLIPTRASE.CLUSTERING", "none"]
    model, seen = build_model(tiny_config(tmp_path, *options)).eval(), []
    forward = model.vision_model.forward
    monkeypatch.setattr(model.vision_model, "forward", lambda *given: seen.append(given) or forward(*given))
    model([{"image": scene()}])
    ((images, features),) = seen
    assert features == "values"
    torch.testing.assert_close(images[0], scene().float(), atol=1e-3, rtol=0)


def test_an_unknown_model_is_refused_with_the_key(tmp_path: Path) -> None:
    from cliptrase_d2.segmenter.build import build_segmenter

    options = ["MODEL.CLIPTRASE.METHOD", "proxy_test", "MODEL.CLIPTRASE.CLUSTERING", "none"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DENSE_METHODS, "proxy_test", _TwoDefaults)
        with pytest.raises(InputError, match=r"MODEL\.VISION\.NAME: .*resnet18"):
            build_segmenter(tiny_config(tmp_path, *options, "MODEL.VISION.NAME", "resnet18"))
        with pytest.raises(InputError, match=r"MODEL\.VISION\.WEIGHTS: .*missing\.pth"):
            build_segmenter(tiny_config(tmp_path, *options, "MODEL.VISION.WEIGHTS", "missing.pth"))
