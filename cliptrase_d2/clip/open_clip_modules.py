"""Building blocks of CLIP's two towers, made from open_clip's inner modules.

No other file of this folder uses these modules. Both towers run block by block: `project_qkv`, an attention function,
`finish_block`. The last block's attention can therefore be replaced, and its q, k and v can be read without a second
computation. `F.scaled_dot_product_attention` never stores an N×N matrix; open_clip's `nn.MultiheadAttention` does so on
the CPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, TextTransformer, Transformer, VisionTransformer
from torch import Tensor, nn

from cliptrase_d2.clip.foreign_models import suggest_supported
from cliptrase_d2.utils.errors import InputError

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
# CustomTextCLIP stores the parts of its text tower in a module, CLIP among its own.
TextTower: TypeAlias = "CLIP | TextTransformer"

# Entries of a CLIP, or of a module around its text tower, that do not affect text features.
_NOT_TEXT = ("visual.", "logit_", "bg_embed", "attn_mask")


# ------------------------------------------------------------------ supported models


def check_supported(model: CLIP, name: str) -> None:
    """Check that the functions below compute the same as the model.

    Args:
        model: a model of open_clip; its weights may be missing (meta device).
        name: the model's name in error messages.
    Raises:
        InputError: anything but a class-token ViT with a causal text transformer.
    """
    check_visual(model.visual, name)
    if problem := _find_text_problem(model):
        raise InputError("name", f"CLIP model {name!r} has a text tower with {problem}", suggest_supported(name))


def check_visual(visual: VisionTransformer, name: str) -> None:
    """Check that an image tower is a plain class-token ViT.

    Args:
        visual: the image tower; its weights may be missing.
        name: the model's name in error messages.
    Raises:
        InputError: another kind of tower.
    """
    if problem := _find_visual_problem(visual):
        raise InputError("name", f"CLIP model {name!r} has an image tower with {problem}", suggest_supported(name))


def _find_visual_problem(visual: VisionTransformer) -> str:
    if hasattr(visual, "trunk"):
        return "attentional pooling and no class token, a SigLIP"
    if type(visual) is not VisionTransformer:
        return f"class {type(visual).__name__}"
    height, width = visual.patch_size
    problems = {
        "attentional pooling": visual.attn_pool is not None,
        f"pool_type {visual.pool_type!r}": visual.pool_type != "tok",
        "its last norm after pooling": visual.final_ln_after_pool,
        "no projection to the joint space": visual.proj is None,
        f"patches of {height}×{width} pixels": height != width,
    }
    return _first_true(problems) or _find_block_problem(visual.transformer)


def _find_text_problem(model: CLIP) -> str:
    text = text_tower(model)
    if text is not model and type(text) is not TextTransformer:
        return f"class {type(text).__name__}"
    problems = {
        "an appended class token": getattr(text, "cls_emb", None) is not None,
        "bidirectional attention": text.attn_mask is None,
        f"pool_type {pool_type(text)!r}": pool_type(text) not in ("argmax", "eos"),
    }
    return _first_true(problems) or _find_block_problem(text.transformer)


def _find_block_problem(transformer: Transformer) -> str:
    if not transformer.batch_first:
        return "sequence-first tokens"
    for block in transformer.resblocks:
        if type(block) is not ResidualAttentionBlock:
            return f"blocks of class {type(block).__name__}"
        if not isinstance(block.attn, nn.MultiheadAttention):
            return f"attention of class {type(block.attn).__name__}"
    return ""


def _first_true(problems: Mapping[str, bool]) -> str:
    return next((problem for problem, is_true in problems.items() if is_true), "")


# ------------------------------------------------------------------ blocks of both towers


def blocks(tower: VisionTransformer | TextTower) -> nn.ModuleList:
    """Return the residual blocks of an image tower or a text tower, in order."""
    return tower.transformer.resblocks


def heads(block: ResidualAttentionBlock) -> int:
    """Return the number of attention heads, A."""
    return block.attn.num_heads


def first_norm(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """Apply the norm before a block's q, k, v projection, [B,T,E] to [B,T,E]."""
    return block.ln_1(x)


def project_qkv(block: ResidualAttentionBlock, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the queries, keys and values of a block.

    Args:
        x: [B,T,E], the block's input.
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
    """Apply the part of a block after its attention: output projection, residual connection and MLP.

    Args:
        x: [B,T,E], the block's input.
        attended: [B,A,T,d], the output of its attention.
        residual: whether to add x, as in the trained block.
        mlp: whether to apply the MLP, as in the trained block.
    Returns:
        [B,T,E]
    """
    projected = block.ls_1(block.attn.out_proj(attended.transpose(1, 2).flatten(2)))  # heads side by side: [B,T,E]
    x = x + projected if residual else projected
    return x + block.ls_2(block.mlp(block.ln_2(x))) if mlp else x


def uses_quick_gelu(visual: VisionTransformer) -> bool:
    """Return whether the activation of an image tower is QuickGELU, not GELU. They share their weights' names."""
    return any(isinstance(module, QuickGELU) for module in visual.modules())


def run_block(
    block: ResidualAttentionBlock, x: Tensor, attention: Attention = F.scaled_dot_product_attention
) -> Tensor:
    """Run a complete block, [B,T,E] to [B,T,E]."""
    return finish_block(block, x, attention(*project_qkv(block, x)))


# ------------------------------------------------------------------ image tower


def embed(visual: VisionTransformer, images: Tensor, position: Tensor) -> Tensor:
    """Convert images to the tokens that enter the first block.

    Args:
        images: [B,3,H,W], normalised; H and W are multiples of the patch size.
        position: [N+1,E], the position embedding of this grid.
    Returns:
        [B,N+1,E], the class token first.
    """
    patches = visual.conv1(images).flatten(2).transpose(1, 2)  # [B,N,E]
    # shape[0], not len(): the latter would fix the batch size of an exported tower.
    class_token = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)  # [B,1,E]
    return visual.ln_pre(torch.cat([class_token, patches], dim=1) + position.to(patches.dtype))


def to_joint_space(visual: VisionTransformer, x: Tensor) -> Tensor:
    """Project all tokens, not only the class token, to the space of the text features: [B,T,E] to [B,T,D]."""
    return visual.ln_post(x) @ visual.proj


def position_embedding(visual: VisionTransformer) -> Tensor:
    """Return the trained position embedding, [N0+1,E]; row 0 is the class token's."""
    return visual.positional_embedding


def trained_grid(visual: VisionTransformer) -> tuple[int, int]:
    """Return (h0, w0), the grid of the trained position embedding."""
    return visual.grid_size


def patch_size(visual: VisionTransformer) -> int:
    """Return the side of a patch in pixels."""
    return visual.patch_size[0]


def set_pixel_statistics(visual: VisionTransformer, mean: Sequence[float], std: Sequence[float]) -> None:
    """Set the result of `pixel_statistics`, in the attributes that open_clip uses."""
    visual.image_mean, visual.image_std = tuple(mean), tuple(std)


def pixel_statistics(visual: VisionTransformer) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of the training, for RGB in 0 to 1; OpenAI's if unknown."""
    mean = getattr(visual, "image_mean", None) or OPENAI_DATASET_MEAN
    std = getattr(visual, "image_std", None) or OPENAI_DATASET_STD
    return tuple(mean), tuple(std)


# ------------------------------------------------------------------ text tower


def text_tower(model: CLIP) -> TextTower:
    """Return the module with the parts of the text tower: CLIP itself, or CustomTextCLIP's `text`."""
    return getattr(model, "text", model)


def context_length(model: CLIP) -> int:
    """Return the maximum number of tokens in a prompt."""
    return model.context_length


def joint_width(model: CLIP) -> int:
    """Return D, the width of the joint space of images and texts."""
    return model.visual.output_dim


def is_bidirectional(model: CLIP) -> bool:
    """Return whether all tokens of a prompt read one another, its padding included, as in SigLIP 2."""
    return text_tower(model).attn_mask is None


def pool_type(text: TextTower) -> str:
    """Return how a text tower finds its output token, "argmax" or "eos"."""
    return text.text_pool_type if hasattr(text, "text_pool_type") else text.pool_type


def end_token(text: TextTower) -> int:
    """Return the id of the end token of a text tower whose `pool_type` is "eos"."""
    return text.text_eos_id if hasattr(text, "text_eos_id") else text.eos_id


def end_positions(model: CLIP, tokens: Tensor) -> Tensor:
    """Return the index of each prompt's end token, the tower's output token: [P,L] to [P]."""
    text = text_tower(model)
    if pool_type(text) == "last":
        return torch.full_like(tokens[:, 0], tokens.shape[1] - 1)
    if pool_type(text) == "eos":
        return (tokens == end_token(text)).int().argmax(dim=-1)
    return tokens.argmax(dim=-1)  # the end token has the largest id


@dataclass(frozen=True)
class TextPrefixes:
    """Encoded first tokens of prompts. Attention is causal, so prompts that begin alike share them.

    Attributes:
        keys, values: of each block, [T,A,p,d], of T prefixes that are padded on the right.
        index: [P], the prefix of each prompt.
        lengths: [P], the tokens that a prompt shares with its prefix, 0 to p.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    index: Tensor
    lengths: Tensor

    def select(self, prompts: Tensor) -> TextPrefixes:
        """Return the prefixes of some of the prompts."""
        return replace(self, index=self.index[prompts], lengths=self.lengths[prompts])


def encode_text_prefixes(model: CLIP, tokens: Tensor, index: Tensor, lengths: Tensor) -> TextPrefixes:
    """Encode the first tokens of prompts, [T,p] int64, padded on the right, for `encode_text_tokens`.

    Args:
        index, lengths: the attributes of the result.
    """
    text = text_tower(model)
    keys, values = [], []
    x = text.token_embedding(tokens) + text.positional_embedding[: tokens.shape[1]]  # [T,p,E]
    for block in blocks(text):
        q, k, v = project_qkv(block, x)
        keys.append(k)
        values.append(v)
        x = finish_block(block, x, F.scaled_dot_product_attention(q, k, v, is_causal=True))
    return TextPrefixes(keys, values, index, lengths)


def encode_text_tokens(model: CLIP, tokens: Tensor, prefixes: TextPrefixes | None = None) -> Tensor:
    """Encode prompts that are padded to any length; those of a bidirectional tower to the full context.

    Attention is causal. Tokens after the end token do not affect the result, so the padding may be shorter than the
    full context. The last block computes the end token only.

    Args:
        tokens: [P,L] int64, after the prefixes. L includes every end token and is at most the context length.
        prefixes: the first tokens of the prompts; None if `tokens` contains them.
    Returns:
        [P,D], not normalised.
    """
    if is_bidirectional(model):
        assert prefixes is None
        return model.encode_text(tokens)
    text = text_tower(model)
    rows, ends = torch.arange(len(tokens), device=tokens.device), end_positions(model, tokens)
    positions, visible = _place(tokens, prefixes, len(text.positional_embedding))
    x = text.token_embedding(tokens) + text.positional_embedding[positions]  # [P,L,E]
    for depth, block in enumerate(blocks(text), 1):
        q, k, v = project_qkv(block, x)  # each [P,A,L,d]
        if prefixes:
            k = torch.cat([prefixes.keys[depth - 1][prefixes.index], k], dim=2)  # [P,A,p+L,d]
            v = torch.cat([prefixes.values[depth - 1][prefixes.index], v], dim=2)
        if depth == len(blocks(text)):
            q, x = q[rows, :, ends].unsqueeze(2), x[rows, ends].unsqueeze(1)  # [P,A,1,d], [P,1,E]
            visible = visible.expand(len(tokens), -1, -1, -1)[rows, :, ends].unsqueeze(2)  # [P,1,1,p+L]
        x = finish_block(block, x, F.scaled_dot_product_attention(q, k, v, attn_mask=visible))
    x = text.ln_final(x.squeeze(1))  # [P,E]
    projection = text.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def _place(tokens: Tensor, prefixes: TextPrefixes | None, context: int) -> tuple[Tensor, Tensor]:
    """Return the positions of tokens in their prompts, [L] or [P,L], and the visible keys, [1 or P,1,L,p+L]."""
    length, device = tokens.shape[1], tokens.device
    positions = torch.arange(length, device=device)
    causal = positions <= positions.unsqueeze(1)  # [L,L]
    if prefixes is None:
        return positions, causal[None, None]
    width = prefixes.keys[0].shape[2]
    shared = torch.arange(width, device=device) < prefixes.lengths.unsqueeze(1)  # [P,p]
    parts = shared[:, None].expand(-1, length, -1), causal.expand(len(tokens), -1, -1)
    positions = (prefixes.lengths.unsqueeze(1) + positions).clamp(max=context - 1)  # of padding, beyond the context
    return positions, torch.cat(parts, dim=-1).unsqueeze(1)


def untrained_tokens(model: CLIP, tokens: Iterable[int]) -> set[int]:
    """Return the token ids whose embedding is zero. Training never met these tokens."""
    weight = text_tower(model).token_embedding.weight
    ids = torch.tensor(list(tokens), dtype=torch.int64, device=weight.device)
    return set(ids[~weight[ids].any(dim=-1)].tolist())


def text_fingerprint(model: CLIP) -> str:
    """Return a digest of everything that determines text features: architecture, activation and weights."""
    text = text_tower(model)
    tensors = {name: value for name, value in text.state_dict().items() if not name.startswith(_NOT_TEXT)}
    digest = hashlib.sha256()
    # repr distinguishes GELU from QuickGELU, which share their weights' names. It lacks the number of heads.
    digest.update(repr((text.transformer, heads(blocks(text)[0]), pool_type(text), list(tensors))).encode())
    with ThreadPoolExecutor() as pool:  # hashlib releases the GIL
        for part in pool.map(_digest, tensors.values()):
            digest.update(part)
    return digest.hexdigest()


def _digest(value: Tensor) -> bytes:
    array = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(array.data).digest() + repr((value.dtype, tuple(value.shape))).encode()
