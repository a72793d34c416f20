from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor

from cliptrase_d2.clip import open_clip_modules as modules
from cliptrase_d2.clip.pos_embed import resize_position_embedding
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.methods.attention import ATTENTIONS, AttentionInput
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import tiny_clip


def images(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height * width))


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_class_token_is_that_of_encode_image(quick_gelu: bool) -> None:
    model = tiny_clip(quick_gelu=quick_gelu)
    tokens = VisualTower(visual=model.visual, attention="qk")(images(64, 64))
    expected = F.normalize(model.encode_image(images(64, 64)), dim=-1)
    torch.testing.assert_close(tokens.class_token, expected, atol=1e-5, rtol=0)


def test_layer_scale_is_applied() -> None:
    model = tiny_clip(vision_cfg={"layers": 2, "width": 64, "head_width": 16, "image_size": 64, "ls_init_value": 0.1})
    tokens = VisualTower(visual=model.visual, attention="qk")(images(64, 64))
    expected = F.normalize(model.encode_image(images(64, 64)), dim=-1)
    torch.testing.assert_close(tokens.class_token, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("grid", [(6, 6), (3, 7)])
def test_other_sizes_equal_a_model_built_for_them(grid: tuple[int, int]) -> None:
    model = tiny_clip()
    size = (grid[0] * 16, grid[1] * 16)
    tokens = VisualTower(visual=model.visual, attention="qk")(images(*size))
    state = model.state_dict()
    position = resize_position_embedding(state["visual.positional_embedding"], (4, 4), grid, "scale_factor")
    vision = {"layers": 3, "width": 64, "head_width": 16, "patch_size": 16, "image_size": size}
    fitted = tiny_clip(vision_cfg=vision)
    fitted.load_state_dict({**state, "visual.positional_embedding": position})
    assert tokens.grid == grid
    assert tokens.patches.shape == (2, grid[0] * grid[1], 32)
    torch.testing.assert_close(
        tokens.class_token, F.normalize(fitted.encode_image(images(*size)), dim=-1), atol=1e-5, rtol=0
    )


def last_block_by_loops(model: CLIP, x: Tensor) -> Tensor:
    """One image [T,E] through the last block with the three summed self-correlations, head by head."""
    block = model.visual.transformer.resblocks[-1]
    q, k, v = (block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, dim=-1)
    heads = []
    for head in range(4):
        part = slice(16 * head, 16 * head + 16)
        matrix = torch.zeros(len(x), len(x))
        for branch in (q, k, v):
            for i in range(len(x)):
                matrix[i] += torch.softmax(branch[:, part] @ branch[i, part] / 4.0, dim=0)  # √16 = 4
        heads.append(matrix @ v[:, part])
    x = x + torch.cat(heads, dim=-1) @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    return x + block.mlp(block.ln_2(x))


def test_last_block_equals_plain_loops() -> None:
    model = tiny_clip()
    tokens = VisualTower(visual=model.visual, attention="qq_kk_vv")(images(64, 64))
    x = model.visual._embeds(images(64, 64))
    for block in model.visual.transformer.resblocks[:-1]:
        x = block(x)
    expected = model.visual.ln_post(torch.stack([last_block_by_loops(model, one) for one in x])) @ model.visual.proj
    expected = F.normalize(expected, dim=-1)
    torch.testing.assert_close(tokens.class_token, expected[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.patches, expected[:, 1:], atol=1e-5, rtol=0)


def test_clearclip_keeps_neither_residual_nor_mlp() -> None:
    model = tiny_clip()
    tokens = VisualTower(visual=model.visual, attention="clearclip")(images(64, 64))
    x = model.visual._embeds(images(64, 64))
    *others, block = model.visual.transformer.resblocks
    for other in others:
        x = other(x)
    q, _, v = (block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, dim=-1)
    heads = [slice(16 * head, 16 * head + 16) for head in range(4)]
    attended = [torch.softmax(q[..., part] @ q[..., part].mT / 4.0, dim=-1) @ v[..., part] for part in heads]
    read = torch.cat(attended, dim=-1) @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    expected = F.normalize(model.visual.ln_post(read) @ model.visual.proj, dim=-1)
    torch.testing.assert_close(tokens.patches, expected[:, 1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_gem_adds_up_beside_the_trained_path(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTENTIONS, "beside", replace(ATTENTIONS["gem"], blocks=3 - first))
    model = tiny_clip()
    tokens = VisualTower(visual=model.visual, attention="beside")(images(64, 64))
    x = model.visual._embeds(images(64, 64))
    for index, block in enumerate(model.visual.transformer.resblocks):
        if index == first:
            dense = x
        if index >= first:
            q, k, v = modules.project_qkv(block, x)
            read = ATTENTIONS["gem"].attend(AttentionInput(q, k, v, block.ln_1(x), (4, 4)))
            dense = dense + block.attn.out_proj(read.transpose(1, 2).flatten(2))
        x = block(x)  # as trained: it does not see what is read
    expected = F.normalize(model.visual.ln_post(dense) @ model.visual.proj, dim=-1)
    torch.testing.assert_close(tokens.patches, expected[:, 1:], atol=1e-5, rtol=0)


def test_more_blocks_than_there_are_means_all() -> None:
    assert VisualTower(visual=tiny_clip().visual, attention="gem")(images(32, 32)).patches.isfinite().all()


def test_an_oracle_wants_regions() -> None:
    tower = VisualTower(visual=tiny_clip().visual, attention="cosine_oracle")
    with pytest.raises(InputError, match="an oracle, for images without labels"):
        tower(images(32, 32))
    regions = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]])
    told, other = tower(images(32, 32), regions), tower(images(32, 32), regions.flip(0))
    assert not torch.equal(told.patches, other.patches)


@pytest.mark.parametrize(("layer", "index"), [(-1, 2), (-2, 1), (-3, 0), (1, 1)])
def test_qkv_are_those_of_the_correlation_layer(layer: int, index: int) -> None:
    model = tiny_clip()
    tokens = VisualTower(visual=model.visual, attention="qq_kk", correlation_layer=layer)(images(64, 64))
    x = model.visual._embeds(images(64, 64))
    for block in model.visual.transformer.resblocks[:index]:
        x = block(x)
    block = model.visual.transformer.resblocks[index]
    qkv = block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias  # [B,T,3E]
    for offset, ours in enumerate((tokens.query, tokens.key, tokens.value)):
        assert ours.shape == (2, 4, 17, 16)
        for head in range(4):
            start = 64 * offset + 16 * head
            torch.testing.assert_close(ours[:, head], qkv[..., start : start + 16], atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", sorted(set(ATTENTIONS) - {"cosine_oracle"}))
def test_batch_of_two_equals_two_batches_of_one(attention: str) -> None:
    tower = VisualTower(visual=tiny_clip().visual, attention=attention)
    both = tower(images(32, 80))
    for index, image in enumerate(images(32, 80)):
        alone = tower(image[None])
        for field in ("class_token", "patches", "query", "key", "value"):
            torch.testing.assert_close(getattr(both, field)[index], getattr(alone, field)[0], atol=1e-6, rtol=0)


def test_tokens_are_unit_length() -> None:
    tokens = VisualTower(visual=tiny_clip().visual, attention="v")(images(48, 64))
    torch.testing.assert_close(tokens.class_token.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(tokens.patches.norm(dim=-1), torch.ones(2, 12))


def test_bfloat16_autocast_stays_near_float32() -> None:
    tower = VisualTower(visual=tiny_clip().visual, attention="qq_kk_vv")
    exact = tower(images(96, 64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = tower(images(96, 64))
    assert fast.patches.dtype == torch.float32
    assert (exact.patches * fast.patches).sum(dim=-1).min() > 0.999


def test_position_resize_modes_differ() -> None:
    visual = tiny_clip().visual
    tokens = [
        VisualTower(visual=visual, attention="qk", position_resize=mode)(images(96, 96)).patches
        for mode in ("scale_factor", "output_size")
    ]
    assert not torch.allclose(*tokens, atol=1e-4)


def test_weights_changed_later_are_used() -> None:
    model = tiny_clip()
    tower = VisualTower(visual=model.visual, attention="qk")
    before = tower(images(96, 96)).patches
    model.visual.positional_embedding.mul_(2)
    assert not torch.allclose(tower(images(96, 96)).patches, before, atol=1e-4)


def test_normalise_takes_bytes_and_uses_clips_statistics() -> None:
    tower = VisualTower(visual=tiny_clip().visual, attention="qk")
    grey = tower.normalise(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    # (1 - mean) / std of CLIP's red, green and blue
    torch.testing.assert_close(grey[0, :, 0, 0], torch.tensor([1.9303361, 2.0748837, 2.1458970]))


def test_normalise_uses_the_models_own_statistics() -> None:
    visual = tiny_clip().visual
    modules.set_pixel_statistics(visual, [0.5, 0.5, 0.5], [0.5, 0.25, 0.125])
    grey = VisualTower(visual=visual, attention="qk").normalise(torch.full((3, 1, 1), 255.0))
    assert grey.flatten().tolist() == [1.0, 2.0, 4.0]


def test_statistics_are_in_no_checkpoint() -> None:
    tower = VisualTower(visual=tiny_clip().visual, attention="qk")
    assert not [name for name in tower.state_dict() if "pixel" in name]


def test_size_off_the_patch_grid_is_refused() -> None:
    tower = VisualTower(visual=tiny_clip().visual, attention="qk")
    with pytest.raises(InputError, match=r"64×70 pixels.*multiples of 16"):
        tower(images(64, 70))


@pytest.mark.parametrize("layer", [3, -4])
def test_correlation_layer_outside_the_tower_is_refused(layer: int) -> None:
    with pytest.raises(InputError, match=f"block {layer} of a tower with 3 blocks"):
        VisualTower(visual=tiny_clip().visual, attention="qk", correlation_layer=layer)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="qq_kk_vv"):
        VisualTower(visual=tiny_clip().visual, attention="none")
    with pytest.raises(InputError, match="scale_factor, output_size"):
        VisualTower(visual=tiny_clip().visual, attention="qk", position_resize="nearest")


@pytest.mark.parametrize("attention", ["qk", "qq_kk_vv"])
def test_the_layers_are_those_that_the_tower_hands_over(attention: str) -> None:
    model = tiny_clip()
    found = list(VisualTower(visual=model.visual, attention=attention).layers(images(48, 80)))
    assert len(found) == 3
    for layer, qkv in enumerate(found):
        tokens = VisualTower(visual=model.visual, attention=attention, correlation_layer=layer)(images(48, 80))
        for one, expected in zip(qkv, (tokens.query, tokens.key, tokens.value), strict=True):
            assert torch.equal(one, expected)
