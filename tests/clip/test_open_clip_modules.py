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
    text_tower,
    untrained_tokens,
)
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import TINY_CONFIG, tiny_clip

VISION, TEXT = TINY_CONFIG["vision_cfg"], TINY_CONFIG["text_cfg"]


def prompts(lengths: list[int], padded_to: int) -> torch.Tensor:
    """Return token rows of the given lengths, the end token 49407 included."""
    tokens = torch.zeros(len(lengths), padded_to, dtype=torch.long)
    for row, length in zip(tokens, lengths, strict=True):
        row[: length - 1] = torch.arange(100, 100 + length - 1)
        row[length - 1] = 49407
    return tokens


def custom_text_clip(**text: object) -> CustomTextCLIP:
    torch.manual_seed(0)
    model = CustomTextCLIP(**{**TINY_CONFIG, "text_cfg": {**TEXT, **text}})
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(("lengths", "padded_to"), [([3, 9, 5], 9), ([3, 9, 5], 20), ([77, 2], 77)])
@pytest.mark.parametrize("build", [tiny_clip, custom_text_clip])
def test_encoding_does_not_depend_on_padding(build: type, lengths: list[int], padded_to: int) -> None:
    model = build()
    tokens = prompts(lengths, padded_to)
    expected = model.encode_text(prompts(lengths, 77))
    torch.testing.assert_close(encode_text_tokens(model, tokens), expected, atol=1e-5, rtol=0)
    assert end_positions(model, tokens).tolist() == [length - 1 for length in lengths]


@pytest.mark.parametrize("text", [{"proj_bias": True}, {"pool_type": "eos", "eos_id": 49407}, {"proj_type": "none"}])
def test_other_text_heads_equal_encode_text(text: dict[str, object]) -> None:
    if not text.keys() <= {field.name for field in fields(CLIPTextCfg)}:
        pytest.skip("this open_clip has no such text head")
    model = custom_text_clip(**text)
    features = encode_text_tokens(model, prompts([4, 6], 6))
    torch.testing.assert_close(features, model.encode_text(prompts([4, 6], 77)), atol=1e-5, rtol=0)


def test_block_equals_open_clips_own() -> None:
    block = tiny_clip().visual.transformer.resblocks[0]
    x = torch.randn(2, 17, 64)
    torch.testing.assert_close(run_block(block, x), block(x), atol=1e-5, rtol=0)


def test_plain_clip_is_supported_with_and_without_weights() -> None:
    model = tiny_clip()
    with torch.device("meta"):
        without_weights = copy.deepcopy(model)
    for supported in (model, custom_text_clip(), without_weights):
        assert check_supported(supported, "tiny") is None  # it raises otherwise


@pytest.mark.parametrize(
    ("vision", "got"),
    [
        ({"pool_type": "avg"}, "pool_type 'avg'"),
        ({"final_ln_after_pool": True}, "norm after pooling"),
        ({"attentional_pool": True}, "attentional pooling"),
        ({"block_type": "custom"}, "CustomResidualAttentionBlock"),
        ({"qk_norm": True}, "CustomResidualAttentionBlock"),
        ({"layers": [1, 1, 1, 1]}, "ModifiedResNet"),
    ],
)
def test_other_image_towers_are_rejected(vision: dict[str, object], got: str) -> None:
    with pytest.raises(InputError, match=rf"name: .*'odd'.*{got}"):
        check_supported(tiny_clip(vision_cfg={**VISION, **vision}), "odd")


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ({"no_causal_mask": True}, "bidirectional"),
        ({"pool_type": "last"}, "pool_type 'last'"),
        ({"embed_cls": True}, "class token"),
        ({"block_type": "custom"}, "CustomResidualAttentionBlock"),
    ],
)
def test_other_text_towers_are_rejected(text: dict[str, object], got: str) -> None:
    with pytest.raises(InputError, match=rf"name: .*'odd'.*{got}"):
        check_supported(custom_text_clip(**text), "odd")


def test_changed_transformers_are_rejected() -> None:
    visual = tiny_clip().visual
    visual.transformer.resblocks[1].attn = nn.Identity()
    with pytest.raises(InputError, match=r"'odd'.*Identity"):
        check_visual(visual, "odd")
    visual.transformer.batch_first = False
    with pytest.raises(InputError, match=r"'odd'.*sequence-first"):
        check_visual(visual, "odd")


@pytest.mark.parametrize("build", [tiny_clip, custom_text_clip])
def test_tokens_with_a_row_of_zeros_are_untrained(build: type) -> None:
    model = build()
    weight = text_tower(model).token_embedding.weight
    assert untrained_tokens(model, range(49408)) == set()
    weight[[5, 7]] = 0
    weight[9, 1:] = 0
    assert untrained_tokens(model, [9, 7, 6]) == {7}
    assert untrained_tokens(model, range(49408)) == {5, 7}
    assert untrained_tokens(model, []) == set()


def test_fingerprint_covers_everything_that_determines_text_features() -> None:
    base = text_fingerprint(tiny_clip())
    assert text_fingerprint(tiny_clip(seed=1)) != base
    assert text_fingerprint(tiny_clip(quick_gelu=True)) != base, "same weights, other activation"
    assert text_fingerprint(tiny_clip(text_cfg={**TEXT, "heads": 4})) != base, "same weights, other heads"
    model = tiny_clip()
    model.visual.proj.mul_(2)
    model.logit_scale.add_(1)
    assert text_fingerprint(model) == base, "neither affects text features"
    model.ln_final.bias[3] += 1e-6
    assert text_fingerprint(model) != base
