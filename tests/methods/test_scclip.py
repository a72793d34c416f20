"""SC-CLIP and SFP against a direct implementation with loops, on a tiny tower, and their odd cases."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.methods import get_method
from cliptrase_d2.methods.anomalies import (
    class_and_self_attention,
    find_attention_outliers,
    find_local_outliers,
    find_long_patches,
    local_outlier_scores,
    repair,
)
from cliptrase_d2.methods.scclip import calibrated_attention
from tests.clip.tiny import TINY_CONFIG, tiny_clip

GRIDS = pytest.mark.parametrize("grid", [(7, 7), (3, 13)], ids=["square", "wide"])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build_tower(layers: int = 12) -> VisualTower:
    return VisualTower(tiny_clip(vision_cfg={**TINY_CONFIG["vision_cfg"], "layers": layers}).visual)


def score_by_loops(patches: Tensor, k: int = 30) -> list[float]:
    """The scores of one image [N,E], patch by patch."""
    count = len(patches)
    squared = [[float((a - b).square().sum()) for b in patches] for a in patches]
    neighbours = [sorted((j for j in range(count) if j != i), key=squared[i].__getitem__)[:k] for i in range(count)]
    density = [len(own) / squared[i][own[-1]] for i, own in enumerate(neighbours)]
    return [sum(density[j] for j in own) / len(own) / density[i] for i, own in enumerate(neighbours)]


def repair_by_loops(patches: Tensor, outliers: set[int], grid: tuple[int, int], keep: bool) -> Tensor:
    rows, columns = grid
    result = patches.clone()
    for index in outliers:
        row, column = divmod(index, columns)
        near = [
            y * columns + x
            for y in range(max(0, row - 1), min(rows, row + 2))
            for x in range(max(0, column - 1), min(columns, column + 2))
            if y * columns + x not in outliers
        ]
        if near:
            result[index] = patches[near].mean(0)
        elif not keep:
            result[index] = 0
    return result


def run_by_loops(model: torch.nn.Module, image: Tensor, name: str, grid: tuple[int, int]) -> Tensor:
    """The dense features of one image as the pages describe them: explicit matrices, one image, one head at a time."""
    is_sfp, heads = name == "sfp", 4
    tokens = [model.visual._embeds(image[None])[0]]
    *blocks, last = model.visual.transformer.resblocks
    for block in blocks:
        tokens.append(block(tokens[-1][None])[0])

    def split(block: torch.nn.Module, x: Tensor) -> list[list[Tensor]]:
        qkv = block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
        return [[part[:, 16 * head : 16 * head + 16] for head in range(heads)] for part in qkv.chunk(3, dim=1)]

    end = tokens[-1]
    if is_sfp:
        query, key, _ = split(blocks[-1], tokens[-2])
        attention = sum(torch.softmax(query[head] @ key[head].T / 4, dim=1) for head in range(heads)) / heads
        candidates = [j for j in range(1, len(end)) if 1.5 * attention[0, j] > attention[j, j]]
        outliers = {j - 1 for j in sorted(candidates, key=lambda j: -float(attention[0, j]))[:10]}
    else:
        scores = score_by_loops(end[1:].double())
        bound = float(torch.tensor(scores).quantile(0.95))
        outliers = {index for index, score in enumerate(scores) if score > bound}
    assert outliers

    def similarity(patches: Tensor) -> tuple[Tensor, Tensor]:
        unit = patches / patches.norm(dim=1, keepdim=True).clamp_min(1e-12)
        full = unit @ unit.T
        return full, torch.where(full < 0.4, torch.zeros_like(full), full)

    def aggregate(patches: Tensor, weights: Tensor) -> Tensor:
        return weights / (weights.sum(1, keepdim=True) + 1e-6) @ patches

    full, kept = similarity(repair_by_loops(tokens[9][1:], outliers, grid, not is_sfp))
    detail = similarity(tokens[4][1:])[1]
    source = kept if is_sfp else full
    logits = 3 * (source - source.mean())
    calibrated = torch.softmax(logits.masked_fill(logits < 0, -torch.inf), dim=1)

    def attend(patches: Tensor, branches: str) -> Tensor:
        query, key, value = split(last, patches)
        outputs = []
        for head in range(heads):
            weights = [calibrated]
            weights += [torch.softmax(key[head] @ key[head].T / 4, dim=1)] if "k" in branches else []
            weights += [torch.softmax(query[head] @ query[head].T / 4, dim=1)] if "q" in branches else []
            outputs.append(sum(weights) / len(weights) @ value[head])
        return torch.cat(outputs, dim=1) @ last.attn.out_proj.weight.T + last.attn.out_proj.bias

    main = aggregate(repair_by_loops(end[1:], outliers, grid, not is_sfp), kept)
    main = aggregate(attend(main, "qk" if is_sfp else "k") + 0.3 * end[0], detail)
    levels = sum(tokens[4:11])
    second = aggregate(attend(levels[1:], "" if is_sfp else "k") + 0.3 * levels[0], detail)
    return F.normalize(model.visual.ln_post(main + second) @ model.visual.proj, dim=1)


@pytest.mark.parametrize("name", ["sc_clip", "sfp"])
@GRIDS
def test_every_image_of_a_batch_equals_the_loops(name: str, grid: tuple[int, int]) -> None:
    model = tiny_clip(vision_cfg={**TINY_CONFIG["vision_cfg"], "layers": 12})
    tower, method = VisualTower(model.visual), get_method(name)
    images = draw(2, 3, 16 * grid[0], 16 * grid[1])
    # open_clip embeds the trained grid only, so the tower's own embedding replaces it.
    model.visual.positional_embedding.data, embedding = tower.position(grid), model.visual.positional_embedding.data
    expected = [run_by_loops(model, image, name, grid) for image in images]
    model.visual.positional_embedding.data = embedding
    features = method(tower(images, method.needs))
    torch.testing.assert_close(features.patches, torch.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layers", [1, 2, 3, 5, 24])
@pytest.mark.parametrize("name", ["sc_clip", "sfp"])
def test_towers_of_other_depths_have_finite_features(name: str, layers: int) -> None:
    method = get_method(name)
    features = method(build_tower(layers)(draw(2, 3, 48, 80), method.needs))
    torch.testing.assert_close(features.patches.norm(dim=2), torch.ones(2, 15))


@pytest.mark.parametrize("name", ["sc_clip", "sfp"])
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(name: str, precision: torch.dtype) -> None:
    tower, method, image = build_tower(), get_method(name), draw(1, 3, 96, 96)
    exact = method(tower(image, method.needs)).patches
    with torch.autocast("cpu", precision):
        half = method(tower(image, method.needs)).patches
    assert half.dtype == torch.float32
    assert (exact * half).sum(-1).median() > 0.99


@pytest.mark.parametrize("name", ["sc_clip", "sfp"])
def test_one_patch_is_an_image(name: str) -> None:
    method = get_method(name)
    assert method(build_tower()(draw(2, 3, 16, 16), method.needs)).patches.isfinite().all()


def test_the_scores_of_every_image_equal_the_loops() -> None:
    patches = draw(2, 40, 6)
    expected = torch.tensor([score_by_loops(one.double()) for one in patches], dtype=torch.float64)
    torch.testing.assert_close(local_outlier_scores(patches), expected)


def test_fewer_than_31_patches_have_all_others_as_neighbours() -> None:
    patches = draw(1, 5, 3)
    torch.testing.assert_close(local_outlier_scores(patches)[0].tolist(), score_by_loops(patches[0].double(), 4))


def test_a_remote_patch_is_an_outlier() -> None:
    patches = draw(2, 100, 8)
    patches[0, 17] *= 50
    assert find_local_outliers(patches)[0, 17]
    assert find_local_outliers(patches).sum(1).tolist() == [5, 5]  # those above 0.95·99 = 94.05 of 0 to 99
    assert find_long_patches(patches, 1)[0].nonzero().tolist() == [[17]]


@pytest.mark.parametrize("patches", [draw(1, 1, 6).expand(1, 50, 6), torch.zeros(1, 50, 6), draw(1, 1, 6)])
def test_equal_scores_have_no_outlier(patches: Tensor) -> None:
    assert local_outlier_scores(patches).isfinite().all() or patches.shape[1] == 1
    assert not find_local_outliers(patches).any()


def test_the_attention_of_the_class_token_and_of_patches_by_loops() -> None:
    query, key = draw(2, 3, 6, 4), draw(2, 3, 6, 4, seed=1)
    attention = torch.softmax(query @ key.transpose(2, 3) / math.sqrt(4), dim=-1).mean(1)  # [B,T,T]
    by_class, by_itself = class_and_self_attention(query, key)
    torch.testing.assert_close(by_class, attention[:, 0, 1:])
    torch.testing.assert_close(by_itself, attention.diagonal(dim1=1, dim2=2)[:, 1:])
    for count in (1, 2, 9):
        marks = find_attention_outliers(query, key, 1.5, count)
        for image, matrix in enumerate(attention):
            candidates = [j for j in range(1, 6) if 1.5 * matrix[0, j] > matrix[j, j]]
            expected = sorted(sorted(candidates, key=lambda j: -float(matrix[0, j]))[:count])
            assert (marks[image].nonzero().flatten() + 1).tolist() == expected


def test_no_patch_attracts_the_class_token_more_than_itself() -> None:
    key = 9 * torch.eye(5)[None, None]  # every token attends to itself
    assert not find_attention_outliers(key, key, 1.5, 10).any()


@GRIDS
@pytest.mark.parametrize("keep", [True, False])
def test_the_repair_equals_the_loops(grid: tuple[int, int], keep: bool) -> None:
    patches = draw(2, grid[0] * grid[1], 4)
    outliers = draw(2, grid[0] * grid[1], seed=1) > 0.3
    outliers[0, [0, 1, grid[1], grid[1] + 1]] = True  # the corner is isolated
    expected = [
        repair_by_loops(one, set(marks.nonzero().flatten().tolist()), grid, keep)
        for one, marks in zip(patches, outliers, strict=True)
    ]
    torch.testing.assert_close(repair(patches, outliers, grid, keep_isolated=keep), torch.stack(expected))


def test_the_calibrated_attention_takes_the_mean_of_each_image() -> None:
    both = torch.stack([torch.eye(3), 0.5 * torch.ones(3, 3)])
    weights = calibrated_attention(both)
    torch.testing.assert_close(weights[0], torch.eye(3))  # all but the diagonal are below the mean of 1/3
    torch.testing.assert_close(weights[1], torch.full((3, 3), 1 / 3))


def test_a_zero_vector_attends_uniformly() -> None:
    similarity = torch.eye(3)
    similarity[2, 2] = 0
    torch.testing.assert_close(calibrated_attention(similarity[None])[0, 2], torch.full((3,), 1 / 3))


def test_without_outliers_nothing_is_repaired() -> None:
    tower, method = build_tower(), get_method("sc_clip", {"outliers": "none"})
    x = tower(draw(1, 3, 64, 64), method.needs)
    assert not method.find_outliers(x).any()  # type: ignore[attr-defined]
    assert method(x).patches.isfinite().all()
