import copy
from dataclasses import fields

import pytest
import torch
from open_clip.model import CLIPTextCfg, CustomTextCLIP
from torch import nn

from cliptrase_d2.clip.open_clip_modules import (
    check_supported,
    check_visual,
    encode_text_tokens,
    end_positions,
    run_block,
    text_fingerprint,
    untrained_tokens,
)
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import TINY_CONFIG, tiny_clip

VISION, TEXT = TINY_CONFIG["vision_cfg"], TINY_CONFIG["text_cfg"]


def prompts(lengths: list[int], padded_to: int) -> torch.Tensor:
    """Token rows that end with the end token, number 49407, at the given lengths."""
    tokens = torch.zeros(len(lengths), padded_to, dtype=torch.long)
    for row, length in zip(tokens, lengths, strict=True):
        row[: length - 1] = torch.arange(100, 100 + length - 1)
        row[length - 1] = 49407
    return tokens


def custom_text_clip(**text: object) -> CustomTextCLIP:
    torch.manual_seed(0)
    model = CustomTextCLIP(**{**TINY_CONFIG, "text_cfg": {**TEXT, **text}})
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("padded_to", [9, 20, 77])
@pytest.mark.parametrize("build", [tiny_clip, custom_text_clip])
def test_short_prompts_equal_the_full_context(build: type, padded_to: int) -> None:
    model = build()
    ours = encode_text_tokens(model, prompts([3, 9, 5], padded_to))
    torch.testing.assert_close(ours, model.encode_text(prompts([3, 9, 5], 77)), atol=1e-5, rtol=0)


def test_full_prompt_equals_encode_text() -> None:
    model = tiny_clip()
    tokens = prompts([77, 2], 77)
    torch.testing.assert_close(encode_text_tokens(model, tokens), model.encode_text(tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("text", [{"proj_bias": True}, {"pool_type": "eos", "eos_id": 49407}, {"proj_type": "none"}])
def test_other_text_heads_equal_encode_text(text: dict[str, object]) -> None:
    if not text.keys() <= {field.name for field in fields(CLIPTextCfg)}:
        pytest.skip("this open_clip has no such text head")
    model = custom_text_clip(**text)
    ours = encode_text_tokens(model, prompts([4, 6], 6))
    torch.testing.assert_close(ours, model.encode_text(prompts([4, 6], 77)), atol=1e-5, rtol=0)


def test_end_positions_are_those_of_the_end_token() -> None:
    assert end_positions(tiny_clip(), prompts([3, 9, 5], 9)).tolist() == [2, 8, 4]


def test_block_equals_open_clips_own() -> None:
    block = tiny_clip().visual.transformer.resblocks[0]
    x = torch.randn(2, 17, 64)
    torch.testing.assert_close(run_block(block, x), block(x), atol=1e-5, rtol=0)


def test_plain_clip_is_supported() -> None:
    model = tiny_clip()
    with torch.device("meta"):
        without_weights = copy.deepcopy(model)
    for supported in (model, custom_text_clip(), without_weights):
        assert check_supported(supported, "tiny") is None  # nothing is raised


@pytest.mark.parametrize(
    ("vision", "found"),
    [
        ({"pool_type": "avg"}, "pool_type 'avg'"),
        ({"final_ln_after_pool": True}, "its last norm after pooling"),
        ({"attentional_pool": True}, "attentional pooling"),
        ({"block_type": "custom"}, "blocks of class CustomResidualAttentionBlock"),
        ({"qk_norm": True}, "blocks of class CustomResidualAttentionBlock"),
        ({"layers": [1, 1, 1, 1]}, "class ModifiedResNet"),
    ],
)
def test_other_image_towers_are_refused(vision: dict[str, object], found: str) -> None:
    model = tiny_clip(vision_cfg={**VISION, **vision})
    with pytest.raises(InputError, match=f"'odd'.*{found}.*plain ViT"):
        check_supported(model, "odd")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ({"no_causal_mask": True}, "attention in both directions"),
        ({"pool_type": "last"}, "pool_type 'last'"),
        ({"embed_cls": True}, "an appended class token"),
        ({"block_type": "custom"}, "blocks of class CustomResidualAttentionBlock"),
    ],
)
def test_other_text_towers_are_refused(text: dict[str, object], found: str) -> None:
    with pytest.raises(InputError, match=f"'odd'.*{found}.*causal"):
        check_supported(custom_text_clip(**text), "odd")


def test_sequence_first_transformers_are_refused() -> None:
    visual = tiny_clip().visual
    visual.transformer.batch_first = False
    with pytest.raises(InputError, match=r"open_clip_torch >= 2\.26"):
        check_visual(visual, "old")


def test_foreign_attention_is_refused() -> None:
    visual = tiny_clip().visual
    visual.transformer.resblocks[1].attn = nn.Identity()
    with pytest.raises(InputError, match="attention of class Identity"):
        check_visual(visual, "odd")


@pytest.mark.parametrize("build", [tiny_clip, custom_text_clip])
def test_tokens_with_a_row_of_zeros_are_untrained(build: type) -> None:
    model = build()
    weight = getattr(model, "text", model).token_embedding.weight
    assert untrained_tokens(model, range(49408)) == set()
    weight[[5, 7]] = 0
    weight[9, 1:] = 0
    assert untrained_tokens(model, [9, 7, 6]) == {7}
    assert untrained_tokens(model, range(49408)) == {5, 7}
    assert untrained_tokens(model, []) == set()


def test_fingerprint_follows_what_decides_text_features() -> None:
    base = text_fingerprint(tiny_clip())
    assert text_fingerprint(tiny_clip()) == base
    assert text_fingerprint(tiny_clip(seed=1)) != base
    assert text_fingerprint(tiny_clip(quick_gelu=True)) != base, "same weights, other activation"
    assert text_fingerprint(tiny_clip(text_cfg={**TEXT, "heads": 4})) != base, "same weights, other heads"
    changed = tiny_clip()
    changed.ln_final.bias[3] += 1e-6
    assert text_fingerprint(changed) != base


def test_fingerprint_leaves_out_the_image_tower() -> None:
    changed = tiny_clip()
    changed.visual.proj.mul_(2)
    changed.logit_scale.add_(1)
    assert text_fingerprint(changed) == text_fingerprint(tiny_clip())
