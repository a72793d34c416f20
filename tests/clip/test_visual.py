"""The image tower against open_clip, on any grid and in half precision."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip import open_clip_modules as modules
from cliptrase_d2.clip.pos_embed import resize_position_embedding
from cliptrase_d2.clip.tokens import DenseFeatures, Needs
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.methods import get_method
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import tiny_clip


def images(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height * width))


def encode(tower: VisualTower, pixels: Tensor, method: str = "clip") -> DenseFeatures:
    return get_method(method)(tower(pixels))


@pytest.mark.parametrize(
    "config",
    [
        {"quick_gelu": False},
        {"quick_gelu": True},
        {"vision_cfg": {"layers": 2, "width": 64, "head_width": 16, "image_size": 64, "ls_init_value": 0.1}},
    ],
    ids=["GELU", "QuickGELU", "layer scale"],
)
def test_the_class_token_equals_encode_image(config: dict[str, object]) -> None:
    model = tiny_clip(**config)
    features = encode(VisualTower(model.visual), images(64, 64))
    expected = F.normalize(model.encode_image(images(64, 64)), dim=-1)
    torch.testing.assert_close(features.class_token, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("grid", [(6, 6), (3, 7)])
def test_other_sizes_equal_a_model_built_for_them(grid: tuple[int, int]) -> None:
    model = tiny_clip()
    size = (grid[0] * 16, grid[1] * 16)
    features = encode(VisualTower(model.visual), images(*size))
    state = model.state_dict()
    position = resize_position_embedding(state["visual.positional_embedding"], (4, 4), grid, "scale_factor")
    vision = {"layers": 3, "width": 64, "head_width": 16, "patch_size": 16, "image_size": size}
    fitted = tiny_clip(vision_cfg=vision)
    fitted.load_state_dict({**state, "visual.positional_embedding": position})
    assert features.grid == grid
    assert features.patches.shape == (2, grid[0] * grid[1], 32)
    expected = F.normalize(fitted.encode_image(images(*size)), dim=-1)
    torch.testing.assert_close(features.class_token, expected, atol=1e-5, rtol=0)


def test_bfloat16_autocast_stays_near_float32() -> None:
    tower = VisualTower(tiny_clip().visual)
    exact = encode(tower, images(96, 64), "cliptrase")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = encode(tower, images(96, 64), "cliptrase")
    assert fast.patches.dtype == torch.float32
    assert (exact.patches * fast.patches).sum(dim=-1).min() > 0.999


def test_normalise_takes_bytes_and_uses_clips_statistics() -> None:
    tower = VisualTower(tiny_clip().visual)
    white = tower.normalise(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    # (1 - mean) / std of CLIP's red, green and blue
    torch.testing.assert_close(white[0, :, 0, 0], torch.tensor([1.9303361, 2.0748837, 2.1458970]))
    torch.testing.assert_close(tower.denormalise(white), torch.full((1, 3, 2, 2), 255.0), atol=1e-3, rtol=0)


def test_normalise_uses_the_models_own_statistics() -> None:
    visual = tiny_clip().visual
    modules.set_pixel_statistics(visual, [0.5, 0.5, 0.5], [0.5, 0.25, 0.125])
    white = VisualTower(visual).normalise(torch.full((3, 1, 1), 255.0))
    assert white.flatten().tolist() == [1.0, 2.0, 4.0]


def test_statistics_are_in_no_checkpoint() -> None:
    assert not [name for name in VisualTower(tiny_clip().visual).state_dict() if "pixel" in name]


def test_a_size_off_the_patch_grid_is_refused() -> None:
    with pytest.raises(InputError, match=r"images: 64×70.*16"):
        VisualTower(tiny_clip().visual)(images(64, 70))


def test_an_unknown_resize_mode_is_refused() -> None:
    with pytest.raises(InputError, match=r"position_resize.*nearest.*'scale_factor' or 'output_size'"):
        VisualTower(tiny_clip().visual, "nearest")


def test_the_q_k_v_of_all_blocks_are_those_that_the_tower_keeps() -> None:
    tower = VisualTower(tiny_clip().visual)
    tokens = tower(images(48, 80), Needs(qkv=(0, 1)))
    blocks = list(tower.block_qkv(images(48, 80)))
    assert len(blocks) == 3
    for index, qkv in enumerate(blocks):
        for part, expected in zip(qkv, tokens.qkv(index), strict=True):
            assert torch.equal(part, expected)
