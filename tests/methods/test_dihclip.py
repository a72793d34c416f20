"""DIH-CLIP against a direct implementation with loops, on a tiny tower."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.methods import get_method
from cliptrase_d2.methods.dihclip import measure_entropies, mix_heads, select_heads
from tests.clip.tiny import TINY_CONFIG, tiny_clip
from tests.methods.test_scclip import GRIDS, draw


def run_by_loops(model: torch.nn.Module, image: Tensor) -> Tensor:
    """The dense features of one image: explicit matrices, one head at a time."""
    heads = 4
    tokens = [model.visual._embeds(image[None])[0]]
    *blocks, last = model.visual.transformer.resblocks
    for block in blocks:
        tokens.append(block(tokens[-1][None])[0])

    def split(block: torch.nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        query, key, value = (block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, dim=1)
        return list(query.split(16, dim=1)), list(key.split(16, dim=1)), value

    def entropy(weights: Tensor) -> float:
        return -float(sum(p * math.log2(p + 1e-6) for p in weights.flatten().tolist()))

    def select(matrices: list[Tensor], count: int) -> list[int]:
        return sorted(range(heads), key=lambda head: entropy(matrices[head]))[:count]

    def project(block: torch.nn.Module, x: Tensor) -> Tensor:
        return x @ block.attn.out_proj.weight.T + block.attn.out_proj.bias

    query, key, value = split(blocks[8], tokens[8])
    trained = [torch.softmax(query[head] @ key[head].T / 4, dim=1) for head in range(heads)]
    chosen = select(trained, 2)
    mixed = sum(torch.softmax(key[head] @ key[head].T / 4, dim=1) @ value for head in chosen)
    similar = F.normalize((tokens[9] + project(blocks[8], mixed))[1:], dim=1)
    full, details = similar @ similar.T, F.normalize(tokens[4][1:], dim=1)
    kept, detail = (torch.where(m < 0.4, torch.zeros_like(m), m) for m in (full, details @ details.T))
    kept, detail = (m / (m.sum(1, keepdim=True) + 1e-6) for m in (kept, detail))
    logits = 3 * (full - full.mean())
    calibrated = torch.softmax(logits.masked_fill(logits < 0, -torch.inf), dim=1)

    def attend(patches: Tensor) -> Tensor:
        _, key, value = split(last, patches)
        weights = [(calibrated + torch.softmax(own @ own.T / 4, dim=1)) / 2 for own in key]
        return project(last, sum(weights[head] @ value for head in select(weights, 2)) / heads)

    main = detail @ (attend(kept @ tokens[-1][1:]) + 0.3 * tokens[-1][0])
    levels = sum(tokens[4:11])
    second = detail @ (attend(levels[1:]) + 0.3 * levels[0])
    return F.normalize(model.visual.ln_post(main + second) @ model.visual.proj, dim=1)


@GRIDS
def test_every_image_of_a_batch_equals_the_loops(grid: tuple[int, int]) -> None:
    model = tiny_clip(vision_cfg={**TINY_CONFIG["vision_cfg"], "layers": 12})
    tower, method = VisualTower(model.visual), get_method("dih_clip", {"heads": 2})
    images = draw(2, 3, 16 * grid[0], 16 * grid[1])
    # open_clip embeds the trained grid only, so the tower's own embedding replaces it.
    model.visual.positional_embedding.data, embedding = tower.position(grid), model.visual.positional_embedding.data
    expected = [run_by_loops(model, image) for image in images]
    model.visual.positional_embedding.data = embedding
    features = method(tower(images, method.needs))
    torch.testing.assert_close(features.patches, torch.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layers", [1, 2, 3, 5, 24])
def test_towers_of_other_depths_have_finite_features(layers: int) -> None:
    tower = VisualTower(tiny_clip(vision_cfg={**TINY_CONFIG["vision_cfg"], "layers": layers}).visual)
    method = get_method("dih_clip")
    features = method(tower(draw(2, 3, 48, 80), method.needs))
    torch.testing.assert_close(features.patches.norm(dim=2), torch.ones(2, 15))


def test_heads_of_low_entropy_are_selected() -> None:
    sharp, flat = torch.eye(4)[None], torch.full((1, 4, 4), 0.25)
    entropies = measure_entropies([flat, sharp, (sharp + flat) / 2].__getitem__, 3)
    torch.testing.assert_close(entropies[0, :2], torch.tensor([8.0, 0.0]), atol=1e-4, rtol=0)  # 4 rows of 2 bits, of 0
    assert select_heads(entropies, 1).tolist() == [[False, True, False]]
    assert select_heads(entropies, 2).tolist() == [[False, True, True]]
    assert select_heads(torch.tensor([[1.0, 2.0, 2.0]]), 2).all()  # two are equal
    assert select_heads(entropies, 9).all()


def test_the_attention_of_a_head_applies_to_all_channels() -> None:
    attention, value = draw(2, 1, 3, 3), draw(1, 2, 3, 4)
    channels = torch.cat([value[0, 0], value[0, 1]], dim=1)  # [3,8]
    mixed = mix_heads(attention.__getitem__, value, torch.tensor([[False, True]]))
    torch.testing.assert_close(torch.cat([mixed[0, 0], mixed[0, 1]], dim=1), attention[1, 0] @ channels)
