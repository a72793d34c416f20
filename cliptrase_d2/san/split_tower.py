"""CLIP's image tower in two parts, as SAN uses it: its first blocks see the image, its last ones recognise masks.

The names of the modules are those of the published SAN's checkpoints (`clip_visual_extractor.*`, `clip_rec_head.*`,
`ov_classifier.*`), so that weights go both ways without renaming.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from cliptrase_d2.clip import open_clip_modules as clip
from cliptrase_d2.clip.pos_embed import ResizedPositions
from cliptrase_d2.clip.tokens import VisualTokens
from cliptrase_d2.methods.attention import AttentionInput, DenseAttention
from cliptrase_d2.utils.errors import InputError


@dataclass(frozen=True)
class BlockTokens:
    """What enters CLIP's blocks.

    Attributes:
        tokens: [B,N+1,E] before block 0, and after every block that ran; the class token first.
        grid: (h, w) with h·w = N.
    """

    tokens: tuple[Tensor, ...]
    grid: tuple[int, int]

    def feature_map(self, index: int) -> Tensor:
        """The patches after ``index`` blocks, [B,E,h,w]."""
        return self.tokens[index][:, 1:].transpose(1, 2).unflatten(2, self.grid)


class FirstBlocks(nn.Module):
    """The tower up to a block, frozen but for its position embedding (SAN, section 4.1).

    Args:
        visual: an open_clip image tower, a plain class-token ViT; its modules are shared, not copied.
        count: number of blocks.
    Raises:
        InputError: not as many blocks, or none left for `LastBlocks`.
    """

    def __init__(self, visual: VisionTransformer, count: int):
        super().__init__()
        self.conv1, self.ln_pre = visual.conv1, visual.ln_pre
        self.class_embedding, self.positional_embedding = visual.class_embedding, visual.positional_embedding
        depth = len(clip.blocks(visual))
        if not 0 < count < depth:
            allowed = f"1 to {depth - 1}, for the tower has {depth} blocks"
            raise InputError("MODEL.SAN.FEATURE_LAST_LAYER_IDX", count, "Change it.", allowed=allowed)
        self.resblocks = clip.blocks(visual)[:count]
        self.grid_size, self.patch_size = visual.grid_size, visual.patch_size
        self._positions = ResizedPositions(visual.grid_size, "output_size")
        self.requires_grad_(False)
        self.positional_embedding.requires_grad_(True)

    @property
    def depth(self) -> int:
        """Number of these blocks."""
        return len(self.resblocks)

    @property
    def width(self) -> int:
        """E, of a token."""
        return self.class_embedding.shape[0]

    def forward(self, images: Tensor) -> BlockTokens:
        """Images [B,3,H,W], normalised, to tokens; what is left beside whole patches is not seen."""
        side = clip.patch_size(self)
        grid = (images.shape[2] // side, images.shape[3] // side)
        tokens = [clip.embed(self, images, self._positions(self.positional_embedding, grid))]
        for block in self.resblocks:
            tokens.append(clip.run_block(block, tokens[-1]))
        return BlockTokens(tuple(tokens), grid)


class LastBlocks(nn.Module):
    """The other blocks, frozen: they recognise masks by copies of the class token under attention biases.

    Args:
        visual: as of `FirstBlocks`.
        first: index of the first of these blocks.
    """

    def __init__(self, visual: VisionTransformer, first: int):
        super().__init__()
        self.resblocks = clip.blocks(visual)[first:]
        self.ln_post, self.proj = visual.ln_post, visual.proj
        self.requires_grad_(False)

    @property
    def heads(self) -> int:
        """Attention heads of a block, A."""
        return clip.heads(self.resblocks[0])

    def forward(self, features: BlockTokens, biases: Tensor) -> Tensor:
        """Embed masks.

        A mask's token sees the patches under its bias and itself; image tokens see each other and no mask.

        Args:
            features: of the first blocks.
            biases: [B,A,Q,h',w'], added to the attention logits of mask q on any grid; brought to that of the
                features by the maximum.
        Returns:
            [B,Q,D], L2-normalised.
        """
        image = features.tokens[-1]  # [B,N+1,E]
        count = biases.shape[2]
        fitted = F.adaptive_max_pool2d(biases.flatten(1, 2), features.grid)  # [B,A·Q,h,w]
        bias = fitted.flatten(2).unflatten(1, (-1, count))  # [B,A,Q,N]
        masks = image[:, :1].expand(-1, count, -1)  # [B,Q,E]
        for index, block in enumerate(self.resblocks):
            q, k, v = clip.project_qkv(block, torch.cat([masks, image], dim=1))  # each [B,A,Q+N+1,d]
            masks = clip.finish_block(block, masks, _attend_under_bias(q, k, v, bias))
            if index < len(self.resblocks) - 1:
                seen = F.scaled_dot_product_attention(q[:, :, count:], k[:, :, count:], v[:, :, count:])
                image = clip.finish_block(block, image, seen)
        return F.normalize(clip.to_joint_space(self, masks), dim=-1)

    @torch.no_grad()
    def dense_tokens(
        self, features: BlockTokens, attention: DenseAttention, correlation_block: int = -2
    ) -> VisualTokens:
        """What CLIPtrase reads out of the same tower: patches in the joint space, and q, k, v of one block.

        Args:
            features: of the first blocks.
            attention: of the last block.
            correlation_block: whose q, k, v are handed over, from the end; one of the last blocks.
        """
        x = features.tokens[-1]
        wanted = correlation_block % len(self.resblocks)
        for index, block in enumerate(self.resblocks):
            q, k, v = clip.project_qkv(block, x)  # each [B,A,N+1,d]
            if index == wanted:
                correlated = q, k, v
            if index < len(self.resblocks) - 1:
                x = clip.finish_block(block, x, F.scaled_dot_product_attention(q, k, v))
        given = AttentionInput(q, k, v, clip.first_norm(block, x), features.grid, None)
        read = clip.finish_block(block, x, attention.attend(given), residual=attention.residual, mlp=attention.mlp)
        joint = F.normalize(clip.to_joint_space(self, read).float(), dim=-1)  # [B,N+1,D]
        return VisualTokens(joint[:, 0], joint[:, 1:], *correlated, features.grid)


class WordClassifier(nn.Module):
    """CLIP's text tower, frozen, with a learned embedding of "no object"; `clip.text.TextEncoder` reads words by it.

    Args:
        model: whose text tower this shares.
    """

    def __init__(self, model: CLIP):
        super().__init__()
        text = clip.text_tower(model)
        for name, child in text.named_children():
            if name != "visual":
                self.add_module(name, child)
        for name, parameter in text.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in text.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.logit_scale = model.logit_scale
        self.context_length = clip.context_length(model)
        self.text_pool_type = clip.pool_type(text)
        self.requires_grad_(False)
        width = clip.joint_width(model)
        self.bg_embed = nn.Parameter(nn.init.normal_(torch.empty(1, width), std=width**-0.5))

    def forward(self, words: Tensor) -> Tensor:
        """Word features [R,D], L2-normalised, to the classifier's weights [R+1,D]; the last row is "no object"."""
        weights = F.normalize(torch.cat([words, self.bg_embed.to(words.dtype)]), dim=-1)
        return self.logit_scale.exp() * weights


def _attend_under_bias(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """[B,A,Q,d] what masks see: the patches under their bias, and themselves.

    Args:
        query, key, value: [B,A,Q+1+N,d] of masks, class token, patches.
        bias: [B,A,Q,N].
    """
    count, scale = bias.shape[2], query.shape[-1] ** -0.5
    own = (query[:, :, :count] * key[:, :, :count]).sum(-1, keepdim=True)  # [B,A,Q,1]
    others = query[:, :, :count] @ key[:, :, count + 1 :].transpose(2, 3)  # [B,A,Q,N]
    weights = torch.cat([own * scale, others * scale + bias], dim=-1).float().softmax(dim=-1).to(value.dtype)
    return weights[..., :1] * value[:, :, :count] + weights[..., 1:] @ value[:, :, count + 1 :]
