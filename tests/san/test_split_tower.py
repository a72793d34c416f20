"""CLIP's tower in two parts, and mask tokens under attention biases."""

import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer

from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.tokens import Needs
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.methods import get_method
from cliptrase_d2.san.split_tower import FirstBlocks, LastBlocks, WordClassifier
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.clip.tiny import tiny_clip

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))  # a 4x6 grid


def make_zero_biases(heads: int = 4) -> torch.Tensor:
    return torch.zeros(2, heads, 3, 4, 6)


def test_the_two_parts_equal_the_tower() -> None:
    clip = tiny_clip()
    needs = Needs(hidden_states=(0, 1, 2), qkv=(-2,))
    expected = VisualTower(clip.visual, "output_size")(IMAGES, needs)
    first, last = FirstBlocks(clip.visual, 1), LastBlocks(clip.visual, 1)
    tokens = last.image_tokens(first(IMAGES), needs)
    for index in range(3):
        assert torch.allclose(tokens.hidden_state(index), expected.hidden_state(index), atol=1e-5)
    for part, expected_part in zip(tokens.qkv(-2), expected.qkv(-2), strict=True):
        assert torch.allclose(part, expected_part, atol=1e-5)
    method = get_method("cliptrase")
    assert torch.allclose(method(tokens).patches, method(expected).patches, atol=1e-5)
    assert tokens.grid == expected.grid == (4, 6)


def test_a_method_that_reads_the_first_blocks_is_refused() -> None:
    clip = tiny_clip()
    first, last = FirstBlocks(clip.visual, 2), LastBlocks(clip.visual, 2)
    with pytest.raises(InputError, match=r"method.*block 2"):
        last.image_tokens(first(IMAGES), Needs(qkv=(-2,)))


def test_feature_maps_are_the_patches_row_by_row() -> None:
    seen = FirstBlocks(tiny_clip().visual, 2)(IMAGES)
    assert len(seen.tokens) == 3
    assert torch.equal(seen.feature_map(1)[0, :, 2, 5], seen.tokens[1][0, 1 + 2 * 6 + 5])


def attend_in_full(clip: torch.nn.Module, features: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
    """Run the published form: all tokens in one attention, with -100 where a token is masked."""
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


def test_a_bias_hides_patches_from_its_mask() -> None:
    clip = tiny_clip()
    first, last = FirstBlocks(clip.visual, 2), LastBlocks(clip.visual, 2)  # one block recognises
    biases = make_zero_biases()
    biases[:, :, 0, :, 3:] = -1e4  # mask 0 attends to the left half alone
    features = first(IMAGES)
    changed = [token.clone() for token in features.tokens]
    changed[-1][:, 1:].unflatten(1, (4, 6))[:, :, 3:] += torch.randn(2, 4, 3, 64)
    other = type(features)(tuple(changed), features.grid)
    before, after = last(features, biases), last(other, biases)
    assert torch.allclose(before[:, 0], after[:, 0], atol=1e-6)
    assert not torch.allclose(before[:, 1], after[:, 1], atol=1e-3)


def test_biases_of_a_finer_grid_are_max_pooled() -> None:
    clip = tiny_clip()
    features = FirstBlocks(clip.visual, 1)(IMAGES)
    last = LastBlocks(clip.visual, 1)
    fine = torch.randn(2, 4, 3, 8, 12)
    coarse = F.max_pool2d(fine.flatten(1, 2), 2).unflatten(1, (4, 3))
    assert torch.allclose(last(features, fine), last(features, coarse), atol=1e-6)


def test_only_position_and_no_object_embeddings_are_trained() -> None:
    clip = tiny_clip()
    parts = (FirstBlocks(clip.visual, 1), LastBlocks(clip.visual, 1), WordClassifier(clip))
    trained = {name for part in parts for name, parameter in part.named_parameters() if parameter.requires_grad}
    assert trained == {"positional_embedding", "bg_embed"}


@pytest.mark.parametrize("count", [0, 3])
def test_a_split_that_leaves_a_part_empty_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=r"FEATURE_LAST_LAYER_IDX.*1 to 2"):
        FirstBlocks(tiny_clip().visual, count)


def test_the_text_tower_encodes_words_as_the_model_does() -> None:
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
