"""CLIP's tower in two parts: together they are the whole, and a mask's token sees what its bias lets it see."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer

from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.methods.attention import attention_named
from cliptrase_d2.san.split_tower import FirstBlocks, LastBlocks, WordClassifier
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.clip.tiny import tiny_clip

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))  # a 4x6 grid


def open_sight(heads: int = 4) -> torch.Tensor:
    return torch.zeros(2, heads, 3, 4, 6)


def test_the_parts_are_the_whole_tower() -> None:
    clip = tiny_clip()
    tower = VisualTower(visual=clip.visual, attention="qq_kk_vv", position_resize="output_size")
    expected = tower(IMAGES)
    first, last = FirstBlocks(clip.visual, 1), LastBlocks(clip.visual, 1)
    found = last.dense_tokens(first(IMAGES), attention_named("qq_kk_vv"))
    for name in ("class_token", "patches", "query", "key", "value"):
        assert torch.allclose(getattr(found, name), getattr(expected, name), atol=1e-5), name
    assert found.grid == expected.grid == (4, 6)


def test_feature_maps_are_the_patches_row_by_row() -> None:
    seen = FirstBlocks(tiny_clip().visual, 2)(IMAGES)
    assert len(seen.tokens) == 3
    assert torch.equal(seen.feature_map(1)[0, :, 2, 5], seen.tokens[1][0, 1 + 2 * 6 + 5])


def attend_in_full(clip: torch.nn.Module, features: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
    """The published form: all tokens in one attention, under a mask of -100 where nothing is to be seen."""
    blocks = clip.visual.transformer.resblocks[1:]  # type: ignore[union-attr, operator]
    count, patches = biases.shape[2], features.shape[1] - 1
    x = torch.cat([features[:, :1].expand(-1, count, -1), features], dim=1)
    mask = torch.zeros(2, 4, count + 1 + patches, count + 1 + patches)
    mask[..., :count] = -100
    mask[..., torch.arange(count), torch.arange(count)] = 0
    mask[..., :count, count] = -100
    mask[..., :count, count + 1 :] = biases.flatten(3)
    for block in blocks:
        x = block(x, attn_mask=mask.flatten(0, 1))
    visual = clip.visual
    return F.normalize(visual.ln_post(x[:, :count]) @ visual.proj, dim=-1)  # type: ignore[union-attr, operator]


def test_masks_are_recognised_as_in_the_published_attention_of_all_tokens() -> None:
    clip = tiny_clip()
    features = FirstBlocks(clip.visual, 1)(IMAGES)
    biases = 3 * torch.randn(2, 4, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    expected = attend_in_full(clip, features.tokens[-1], biases)
    assert torch.allclose(LastBlocks(clip.visual, 1)(features, biases), expected, atol=1e-5)


def test_a_mask_does_not_see_what_its_bias_hides() -> None:
    clip = tiny_clip()
    first, last = FirstBlocks(clip.visual, 2), LastBlocks(clip.visual, 2)  # one block recognises
    biases = open_sight()
    biases[:, :, 0, :, 3:] = -1e4  # mask 0 sees the left half alone
    features = first(IMAGES)
    changed = [token.clone() for token in features.tokens]
    changed[-1][:, 1:].unflatten(1, (4, 6))[:, :, 3:] += torch.randn(2, 4, 3, 64)
    other = type(features)(tuple(changed), features.grid)
    before, after = last(features, biases), last(other, biases)
    assert torch.allclose(before[:, 0], after[:, 0], atol=1e-6)
    assert not torch.allclose(before[:, 1], after[:, 1], atol=1e-3)


def test_biases_of_a_finer_grid_are_taken_at_their_largest() -> None:
    clip = tiny_clip()
    features = FirstBlocks(clip.visual, 1)(IMAGES)
    last = LastBlocks(clip.visual, 1)
    fine = torch.randn(2, 4, 3, 8, 12)
    coarse = F.max_pool2d(fine.flatten(1, 2), 2).unflatten(1, (4, 3))
    assert torch.allclose(last(features, fine), last(features, coarse), atol=1e-6)


def test_only_the_positions_are_trained() -> None:
    clip = tiny_clip()
    parts = (FirstBlocks(clip.visual, 1), LastBlocks(clip.visual, 1), WordClassifier(clip))
    trained = {name for part in parts for name, parameter in part.named_parameters() if parameter.requires_grad}
    assert trained == {"positional_embedding", "bg_embed"}


@pytest.mark.parametrize("count", [0, 3])
def test_a_split_that_leaves_a_part_empty_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=r"FEATURE_LAST_LAYER_IDX.*1 to 2"):
        FirstBlocks(tiny_clip().visual, count)


def test_words_have_the_features_of_the_whole_model() -> None:
    clip = tiny_clip()
    words = Vocabulary.parse(["sky;blue", "grass"])
    expected = TextEncoder(clip, SimpleTokenizer(), templates="vild")(words)
    found = TextEncoder(WordClassifier(clip), SimpleTokenizer(), templates="vild")(words)  # type: ignore[arg-type]
    assert torch.allclose(found.features, expected.features, atol=1e-6)


def test_no_object_is_the_last_class_and_has_a_direction_of_its_own() -> None:
    classifier = WordClassifier(tiny_clip())
    words = F.normalize(torch.randn(4, 32), dim=-1)
    weights = classifier(words) / classifier.logit_scale.exp()
    assert torch.allclose(weights[:4], words, atol=1e-6)
    assert torch.allclose(weights[4:], F.normalize(classifier.bg_embed, dim=-1), atol=1e-6)
