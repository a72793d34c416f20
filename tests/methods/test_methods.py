"""The attention of every method against its paper's formula."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import ImageTokens
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.methods import DENSE_METHODS, LastBlockAttention, gem, get_method
from cliptrase_d2.methods.gem import GEM, self_self_attention
from cliptrase_d2.methods.naclip import gaussian_neighbourhood
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import tiny_clip

GRID = (2, 3)  # 6 patches, 7 tokens


def make_tokens(regions: Tensor | None = None) -> ImageTokens:
    """B=2 images, A=2 heads, T=7 tokens, d=4, as q, k, v of the only block of a tower."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 7, 4, generator=generator)
    blocks = {0: tiny_clip().visual.transformer.resblocks[0]}
    return ImageTokens(torch.nn.Module(), blocks, {}, {0: (q, k, v)}, GRID, regions=regions)


def replace_qkv(x: ImageTokens, *qkv: Tensor) -> ImageTokens:
    return ImageTokens(x.tower, x.blocks, {}, {0: qkv}, GRID, regions=x.regions)  # type: ignore[dict-item]


def attend(name: str, x: ImageTokens) -> Tensor:
    method = get_method(name)
    if isinstance(method, GEM):
        return self_self_attention(x.qkv(), TOKENS)
    assert isinstance(method, LastBlockAttention)
    return method.attend(x)


TOKENS = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(1))  # what q, k, v are projected from


def softmax_rows(scores: Tensor) -> Tensor:
    """Softmax number by number; -inf gets no weight."""
    rows = []
    for row in scores.tolist():
        exponentials = [math.exp(value) for value in row]
        rows.append([value / sum(exponentials) for value in exponentials])
    return torch.tensor(rows)


def attend_one_head(name: str, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor, regions: Tensor | None) -> Tensor:
    """One image and head, [T,d], as in the paper."""
    root = math.sqrt(q.shape[1])

    def unit(vectors: Tensor) -> Tensor:
        return vectors / vectors.norm(dim=1, keepdim=True)

    if name == "maskclip":
        return v
    if name == "own_patch":  # the softmax over one patch is 1 in each of three branches
        return 3 * v
    if name == "gem":
        temperature = float(tokens.norm(dim=1).mean()) / root
        total = torch.zeros_like(v)
        for branch in (q, k, v):
            clustered = unit(softmax_rows(unit(branch) @ unit(branch).T * temperature) @ unit(branch))
            total += softmax_rows(clustered @ clustered.T * temperature) @ v / 3
        return total
    scores = {
        "clip": [q @ k.T / root],
        "sclip": [q @ q.T / root, k @ k.T / root],
        "cliptrase": [q @ q.T / root, k @ k.T / root, v @ v.T / root],
        "clearclip": [q @ q.T / root],
        "naclip": [k @ k.T / root + nearness_by_loops(5.0)],
        "cosine": [unit(branch) @ unit(branch).T * root for branch in (q, k, v)],
    }
    scores["cosine_oracle"] = scores["cosine"]
    blocked = torch.zeros(len(q), len(q))
    if regions is not None:
        for i in range(1, len(q)):
            for j in range(len(q)):
                if j == 0 or regions[i - 1] != regions[j - 1]:
                    blocked[i, j] = -torch.inf
    return sum(softmax_rows(matrix + blocked) for matrix in scores[name]) @ v


def nearness_by_loops(deviation: float) -> Tensor:
    matrix = torch.zeros(7, 7)
    for i in range(6):
        for j in range(6):
            (y, x), (other_y, other_x) = divmod(i, 3), divmod(j, 3)
            matrix[i + 1, j + 1] = math.exp(-((y - other_y) ** 2 + (x - other_x) ** 2) / (2 * deviation**2))
    return matrix


@pytest.mark.parametrize(
    "name", sorted(name for name, kind in DENSE_METHODS.items() if issubclass(kind, LastBlockAttention | GEM))
)  # the others have their own tests
def test_attention_equals_the_papers_formula(name: str) -> None:
    regions = torch.tensor([[[0, 0, 1], [1, 1, 255]], [[4, 4, 4], [4, 4, 4]]]) if name == "cosine_oracle" else None
    x = make_tokens(regions)  # regions of 2x3 pixels: a patch is one pixel
    result = attend(name, x)
    for image in range(2):
        labels = None if regions is None else regions[image].flatten()
        for head in range(2):
            qkv = (part[image, head] for part in x.qkv())
            expected = attend_one_head(name, *qkv, TOKENS[image], labels)
            torch.testing.assert_close(result[image, head], expected, atol=1e-6, rtol=1e-5)


def test_an_oracle_with_one_region_differs_from_cosine_by_the_class_token_alone() -> None:
    x = make_tokens(torch.zeros(2, 2, 3, dtype=torch.int64))
    patches = get_method("cosine").attend(replace_qkv(x, *(part[:, :, 1:] for part in x.qkv())))  # type: ignore[attr-defined]
    torch.testing.assert_close(attend("cosine_oracle", x)[:, :, 1:], patches)


def test_cosine_ignores_the_length_of_vectors() -> None:
    x = make_tokens()
    query, key, value = x.qkv()
    torch.testing.assert_close(attend("cosine", replace_qkv(x, 7 * query, 0.1 * key, value)), attend("cosine", x))


def test_the_length_of_tokens_is_the_temperature_of_gem() -> None:
    x = make_tokens()
    uniform = x.qkv()[2].mean(2, keepdim=True).expand_as(x.qkv()[2])  # no temperature: equal weights
    torch.testing.assert_close(self_self_attention(x.qkv(), 1e-6 * TOKENS), uniform, atol=1e-4, rtol=0)


@pytest.mark.parametrize("values", [0, 49, 3 * 49, 10**6], ids=["fused", "one head", "three heads", "all heads"])
def test_gem_is_the_same_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    x = make_tokens()
    length = TOKENS.norm(dim=-1).mean(-1)[:, None, None, None] / math.sqrt(x.qkv()[2].shape[-1])
    expected = torch.zeros_like(x.qkv()[2])
    for branch in x.qkv():
        unit = F.normalize(branch, dim=-1)
        unit = F.normalize((length * unit @ unit.mT).softmax(-1) @ unit, dim=-1)
        expected += (length * unit @ unit.mT).softmax(-1) @ x.qkv()[2] / 3
    monkeypatch.setattr(gem, "_CACHED_VALUES", values)
    torch.testing.assert_close(self_self_attention(x.qkv(), TOKENS), expected, atol=1e-6, rtol=0)


def test_the_neighbourhood_by_hand() -> None:
    matrix = gaussian_neighbourhood((1, 3), 1.0)
    assert not matrix[0].any()
    assert not matrix[:, 0].any()
    torch.testing.assert_close(matrix[1, 1:], torch.tensor([1.0, math.exp(-0.5), math.exp(-2.0)]))


def test_the_neighbourhood_of_an_exported_tower_follows_its_grid() -> None:
    class Neighbourhood(torch.nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return gaussian_neighbourhood((image.shape[0], image.shape[1]), 5.0)

    sides = {0: torch.export.Dim("h", max=1000), 1: torch.export.Dim("w", max=1000)}
    exported = torch.export.export(Neighbourhood(), (torch.zeros(4, 4),), dynamic_shapes={"image": sides}).module()
    torch.testing.assert_close(exported(torch.zeros(2, 3)), gaussian_neighbourhood((2, 3), 5.0))


def test_every_method_has_a_title_and_a_source() -> None:
    for method in DENSE_METHODS.values():
        assert method.title
        assert method.source.startswith("https://")


@pytest.mark.parametrize(("name", "suggestion"), [("maskclp", "maskclip"), ("kk", "clip")])
def test_an_unknown_method_is_refused_with_the_nearest_name(name: str, suggestion: str) -> None:
    with pytest.raises(InputError, match=rf"method.*{name}.*{suggestion}"):
        get_method(name)


def images(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height * width))


def test_cliptrase_equals_plain_loops_through_the_last_block() -> None:
    model = tiny_clip()
    tower, method = VisualTower(model.visual), get_method("cliptrase")
    features = method(tower(images(64, 64)))
    x = model.visual._embeds(images(64, 64))
    *others, block = model.visual.transformer.resblocks
    for other in others:
        x = other(x)
    expected = []
    for tokens in x:
        q, k, v = (block.ln_1(tokens) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, dim=-1)
        heads = []
        for head in range(4):
            part = slice(16 * head, 16 * head + 16)
            matrix = torch.zeros(len(tokens), len(tokens))
            for branch in (q, k, v):
                for i in range(len(tokens)):
                    matrix[i] += torch.softmax(branch[:, part] @ branch[i, part] / 4.0, dim=0)  # √16 = 4
            heads.append(matrix @ v[:, part])
        tokens = tokens + torch.cat(heads, dim=-1) @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
        expected.append(tokens + block.mlp(block.ln_2(tokens)))
    joint = F.normalize(model.visual.ln_post(torch.stack(expected)) @ model.visual.proj, dim=-1)
    torch.testing.assert_close(features.class_token, joint[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(features.patches, joint[:, 1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["clearclip", "naclip"])
def test_neither_residual_nor_mlp_is_kept(name: str) -> None:
    model, method = tiny_clip(), get_method(name)
    tokens = VisualTower(model.visual)(images(64, 64))
    assert isinstance(method, LastBlockAttention)
    attended, block = method.attend(tokens), model.visual.transformer.resblocks[-1]
    read = attended.transpose(1, 2).flatten(2) @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    expected = F.normalize(model.visual.ln_post(read) @ model.visual.proj, dim=-1)
    torch.testing.assert_close(method(tokens).patches, expected[:, 1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("depth", [1, 2, 3, 7])
def test_gem_adds_up_beside_the_trained_path(depth: int) -> None:
    model, method = tiny_clip(), GEM(depth)  # a tower of three blocks
    features = method(VisualTower(model.visual)(images(64, 64), method.needs))
    x = model.visual._embeds(images(64, 64))
    first = max(0, 3 - depth)
    for index, block in enumerate(model.visual.transformer.resblocks):
        if index == first:
            dense = x
        if index >= first:
            qkv = (block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, dim=-1)
            q, k, v = (part.unflatten(2, (4, 16)).transpose(1, 2) for part in qkv)
            read = self_self_attention((q, k, v), block.ln_1(x))
            dense = dense + block.attn.out_proj(read.transpose(1, 2).flatten(2))
        x = block(x)  # as trained, without the attention read above
    expected = F.normalize(model.visual.ln_post(dense) @ model.visual.proj, dim=-1)
    torch.testing.assert_close(features.patches, expected[:, 1:], atol=1e-5, rtol=0)
