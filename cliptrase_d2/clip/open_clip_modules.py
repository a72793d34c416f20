"""The only file that reaches inside open_clip's modules: one reading of its towers, checked before use.

Both towers run block by block through the same three functions (`project_qkv`, an attention of the caller's
choice, `finish_block`), so the last block's attention can be replaced and its q, k, v be read without
computing anything twice. `F.scaled_dot_product_attention` also never holds an N×N matrix, which open_clip's
own `nn.MultiheadAttention` does on the CPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, Transformer, VisionTransformer
from torch import Tensor, nn

from cliptrase_d2.utils.errors import InputError

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
# What a CLIP, or what is built around its text tower, holds that decides no text feature.
_NO_TEXT = ("visual.", "logit_", "bg_embed", "attn_mask")
# CustomTextCLIP keeps the parts of its text tower in a module, CLIP among its own.
TextTower: TypeAlias = "CLIP | TextTransformer"


# ------------------------------------------------------------------ what is supported


def check_supported(model: CLIP, name: str) -> None:
    """Refuse a model whose towers the functions below would misread.

    Args:
        model: as open_clip builds it; weights may still be missing (meta device).
        name: how the user calls it, for the message.
    Raises:
        InputError: anything but a class-token ViT with a causal text transformer.
    """
    check_visual(model.visual, name)
    found = _text_obstacle(model)
    if found:
        raise InputError(
            f"CLIP model {name!r}",
            f"a text tower with {found}",
            "Choose a model such as ViT-B-16, ViT-L-14 or ViT-H-14.",
            allowed="open_clip's own causal text transformer, read at its end token",
        )


def check_visual(visual: VisionTransformer, name: str) -> None:
    """Refuse an image tower that is not a plain class-token ViT.

    Raises:
        InputError: naming what the tower is instead.
    """
    found = _visual_obstacle(visual)
    if found:
        raise InputError(
            f"CLIP model {name!r}",
            f"an image tower with {found}",
            "Choose a model such as ViT-B-32, ViT-B-16, ViT-L-14, ViT-L-14-336 or ViT-H-14.",
            allowed="a plain ViT that is read at its class token",
        )


def _visual_obstacle(visual: VisionTransformer) -> str:
    if type(visual) is not VisionTransformer:
        return f"class {type(visual).__name__}"
    if visual.attn_pool is not None:
        return "attentional pooling"
    if visual.pool_type != "tok":
        return f"pool_type {visual.pool_type!r}"
    if visual.final_ln_after_pool:
        return "its last norm after pooling"
    if visual.proj is None:
        return "no projection to the joint space"
    if visual.patch_size[0] != visual.patch_size[1]:
        return f"patches of {visual.patch_size[0]}×{visual.patch_size[1]} pixels"
    return _transformer_obstacle(visual.transformer)


def _text_obstacle(model: CLIP) -> str:
    text = text_tower(model)
    if text is not model and type(text) is not TextTransformer:
        return f"class {type(text).__name__}"
    if getattr(text, "cls_emb", None) is not None:
        return "an appended class token"
    if text.attn_mask is None:
        return "attention in both directions"
    if pool_type(text) not in ("argmax", "eos"):
        return f"pool_type {pool_type(text)!r}"
    return _transformer_obstacle(text.transformer)


def _transformer_obstacle(transformer: Transformer) -> str:
    if not getattr(transformer, "batch_first", False):  # open_clip_torch 2.24 and older
        return "tokens before the batch (open_clip_torch >= 2.26 puts the batch first)"
    for block in transformer.resblocks:
        if type(block) is not ResidualAttentionBlock:
            return f"blocks of class {type(block).__name__}"
        if not isinstance(block.attn, nn.MultiheadAttention):
            return f"attention of class {type(block.attn).__name__}"
    return ""


# ------------------------------------------------------------------ blocks, the same in both towers


def blocks(tower: VisionTransformer | TextTower) -> nn.ModuleList:
    """The residual blocks of an image tower, or of a text tower, in order."""
    return tower.transformer.resblocks


def heads(block: ResidualAttentionBlock) -> int:
    """Number of attention heads, A."""
    return block.attn.num_heads


def first_norm(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """What a block projects its queries, keys and values from, [B,T,E] to [B,T,E]."""
    return block.ln_1(x)


def project_qkv(block: ResidualAttentionBlock, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a block.

    Args:
        x: [B,T,E], what enters the block.
    Returns:
        Three tensors [B,A,T,d] with A·d = E, views of one projection.
    """
    batch, length, width = x.shape
    qkv = F.linear(first_norm(block, x), block.attn.in_proj_weight, block.attn.in_proj_bias)  # [B,T,3E]
    qkv = qkv.view(batch, length, 3, heads(block), width // heads(block))  # [B,T,3,A,d]
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B,A,T,d]
    return q, k, v


def finish_block(
    block: ResidualAttentionBlock, x: Tensor, attended: Tensor, *, residual: bool = True, mlp: bool = True
) -> Tensor:
    """What follows attention in a block: output projection, residual, MLP.

    Args:
        x: [B,T,E], what entered the block.
        attended: [B,A,T,d], what its attention gave.
        residual: whether x is added; the block as trained does.
        mlp: whether the MLP follows; the block as trained does.
    Returns:
        [B,T,E]
    """
    projected = block.ls_1(block.attn.out_proj(attended.transpose(1, 2).flatten(2)))  # heads side by side: [B,T,E]
    x = x + projected if residual else projected
    return x + block.ls_2(block.mlp(block.ln_2(x))) if mlp else x


def run_block(
    block: ResidualAttentionBlock, x: Tensor, attention: Attention = F.scaled_dot_product_attention
) -> Tensor:
    """A whole block, [B,T,E] to [B,T,E]."""
    return finish_block(block, x, attention(*project_qkv(block, x)))


# ------------------------------------------------------------------ image tower


def embed(visual: VisionTransformer, images: Tensor, position: Tensor) -> Tensor:
    """Image to tokens: patches, class token first, positions, first norm.

    Args:
        images: [B,3,H,W], normalised; H and W are multiples of the patch size.
        position: [N+1,E], the position embedding of this grid.
    Returns:
        [B,N+1,E]
    """
    patches = visual.conv1(images).flatten(2).transpose(1, 2)  # [B,N,E]
    # Not len(), which would tie an exported tower to the batch that it was traced with.
    class_token = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)  # [B,1,E]
    return visual.ln_pre(torch.cat([class_token, patches], dim=1) + position.to(patches.dtype))


def to_joint_space(visual: VisionTransformer, x: Tensor) -> Tensor:
    """Every token, not only the class token, into the space of the text features: [B,T,E] to [B,T,D]."""
    return visual.ln_post(x) @ visual.proj


def position_embedding(visual: VisionTransformer) -> Tensor:
    """[N0+1,E], as trained; row 0 is the class token's."""
    return visual.positional_embedding


def trained_grid(visual: VisionTransformer) -> tuple[int, int]:
    """(h0, w0), the grid that the position embedding was trained for."""
    return visual.grid_size


def patch_size(visual: VisionTransformer) -> int:
    """Side of a patch in pixels."""
    return visual.patch_size[0]


def set_pixel_statistics(visual: VisionTransformer, mean: Sequence[float], std: Sequence[float]) -> None:
    """Note what `pixel_statistics` shall say, where open_clip itself notes it."""
    visual.image_mean, visual.image_std = tuple(mean), tuple(std)


def pixel_statistics(visual: VisionTransformer) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of RGB in 0 to 1 that the weights were trained with; OpenAI's if unknown."""
    mean = getattr(visual, "image_mean", None) or OPENAI_DATASET_MEAN
    std = getattr(visual, "image_std", None) or OPENAI_DATASET_STD
    return tuple(mean), tuple(std)


# ------------------------------------------------------------------ text tower


def text_tower(model: CLIP) -> TextTower:
    """The module that holds the text tower's parts: CLIP itself, or CustomTextCLIP's `text`."""
    return getattr(model, "text", model)


def context_length(model: CLIP) -> int:
    """The most tokens a prompt can have."""
    return model.context_length


def joint_width(model: CLIP) -> int:
    """D, the width of the space that images and texts share."""
    return model.visual.output_dim


def end_positions(model: CLIP, tokens: Tensor) -> Tensor:
    """[P] index of each prompt's end token in `tokens` [P,L], where the tower is read."""
    text = text_tower(model)
    if pool_type(text) == "eos":
        end = text.text_eos_id if text is model else text.eos_id
        return (tokens == end).int().argmax(dim=-1)
    return tokens.argmax(dim=-1)  # the end token has the largest number


def encode_text_tokens(model: CLIP, tokens: Tensor) -> Tensor:
    """Encode prompts that are padded to any length, not only to the full context.

    Attention is causal: nothing after the end token reaches it, so what is cut there changes nothing.

    Args:
        tokens: [P,L] int64, L at most the context length and long enough for every end token.
    Returns:
        [P,D], not normalised.
    """
    text = text_tower(model)
    x = text.token_embedding(tokens) + text.positional_embedding[: tokens.shape[1]]  # [P,L,E]
    for block in blocks(text):
        x = run_block(block, x, partial(F.scaled_dot_product_attention, is_causal=True))
    x = x[torch.arange(len(x), device=x.device), end_positions(model, tokens)]  # [P,E]
    x = text.ln_final(x)
    projection = text.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def untrained_tokens(model: CLIP, tokens: Iterable[int]) -> set[int]:
    """Those of the token numbers that have an embedding of zeros, for the model's training never met them."""
    weight = text_tower(model).token_embedding.weight
    numbers = torch.tensor(list(tokens), dtype=torch.int64, device=weight.device)
    return set(numbers[~weight[numbers].any(dim=-1)].tolist())


def text_fingerprint(model: CLIP) -> str:
    """A digest of all that decides the text features of given tokens: architecture, activation and weights."""
    text = text_tower(model)
    tensors = {name: value for name, value in text.state_dict().items() if not name.startswith(_NO_TEXT)}
    digest = hashlib.sha256()
    # repr tells GELU from QuickGELU, which share their weights' names; it does not tell the number of heads.
    digest.update(repr((text.transformer, heads(blocks(text)[0]), pool_type(text), list(tensors))).encode())
    with ThreadPoolExecutor() as pool:  # hashlib lets other threads run while it works
        for part in pool.map(_tensor_digest, tensors.values()):
            digest.update(part)
    return digest.hexdigest()


def _tensor_digest(value: Tensor) -> bytes:
    array = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(array.data).digest() + repr((value.dtype, tuple(value.shape))).encode()


def pool_type(text: TextTower) -> str:
    """Which token a text tower is read at, "argmax" or "eos"."""
    return text.text_pool_type if hasattr(text, "text_pool_type") else text.pool_type
