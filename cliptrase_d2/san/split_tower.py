"""CLIP in parts, as SAN uses it: first blocks that encode the image, last blocks that recognise masks, text tower.

Modules have the names of the published SAN's checkpoints (`clip_visual_extractor.*`, `clip_rec_head.*`,
`ov_classifier.*`), so weights can be exchanged without renaming.
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
from cliptrase_d2.clip.tokens import ImageTokens, Needs
from cliptrase_d2.clip.visual import run_trunk
from cliptrase_d2.utils.errors import InputError


@dataclass(frozen=True)
class BlockTokens:
    """Hidden states of CLIP's first blocks.

    Attributes:
        tokens: [B,N+1,E] before block 0 and after each of the blocks, the class token first.
        grid: (h, w) with h·w = N.
    """

    tokens: tuple[Tensor, ...]
    grid: tuple[int, int]

    def feature_map(self, index: int) -> Tensor:
        """Return the patches after ``index`` blocks, [B,E,h,w]."""
        return self.tokens[index][:, 1:].transpose(1, 2).unflatten(2, self.grid)


class FirstBlocks(nn.Module):
    """The first blocks of the tower. All is frozen except the position embedding (SAN, section 4.1).

    Args:
        visual: an open_clip image tower, a plain class-token ViT. Its modules are shared, not copied.
        count: number of blocks.
    Raises:
        InputError: the tower has too few blocks to leave one for `LastBlocks`.
    """

    def __init__(self, visual: VisionTransformer, count: int):
        super().__init__()
        self.conv1, self.ln_pre = visual.conv1, visual.ln_pre
        self.class_embedding, self.positional_embedding = visual.class_embedding, visual.positional_embedding
        depth = len(clip.blocks(visual))
        if not 0 < count < depth:
            got = f"{count} of the tower's {depth} blocks"
            raise InputError("MODEL.SAN.FEATURE_LAST_LAYER_IDX", got, "Change it.", allowed=f"1 to {depth - 1}")
        self.resblocks = clip.blocks(visual)[:count]
        self.grid_size, self.patch_size = visual.grid_size, visual.patch_size
        self._positions = ResizedPositions(visual.grid_size, "output_size")
        self.requires_grad_(False)
        self.positional_embedding.requires_grad_(True)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.resblocks)

    @property
    def width(self) -> int:
        """Width of a token, E."""
        return self.class_embedding.shape[0]

    def forward(self, images: Tensor) -> BlockTokens:
        """Encode images [B,3,H,W], normalised. Pixels beyond the last whole patch are ignored."""
        side = clip.patch_size(self)
        grid = (images.shape[2] // side, images.shape[3] // side)
        tokens = [clip.embed(self, images, self._positions(self.positional_embedding, grid))]
        for block in self.resblocks:
            tokens.append(clip.run_block(block, tokens[-1]))
        return BlockTokens(tuple(tokens), grid)


class LastBlocks(nn.Module):
    """The remaining blocks, frozen. They recognise masks by copies of the class token under attention biases.

    Args:
        visual: as for `FirstBlocks`.
        first: index of the first of these blocks.
    """

    def __init__(self, visual: VisionTransformer, first: int):
        super().__init__()
        self.resblocks = clip.blocks(visual)[first:]
        self.ln_post, self.proj = visual.ln_post, visual.proj
        self.requires_grad_(False)

    @property
    def heads(self) -> int:
        """Number of attention heads of a block, A."""
        return clip.heads(self.resblocks[0])

    def forward(self, features: BlockTokens, biases: Tensor) -> Tensor:
        """Embed masks.

        A mask's token attends to itself and, under its bias, to the patches. Image tokens attend to each other only.

        Args:
            features: of the first blocks.
            biases: [B,A,Q,h',w'], added to the attention logits of mask q. Another grid than that of the features is
                pooled by the maximum.
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
    def image_tokens(self, features: BlockTokens, needs: Needs) -> ImageTokens:
        """Run the blocks but the last as trained, for a method that reads the same tower.

        Args:
            features: of the first blocks.
            needs: of the method.
        Raises:
            InputError: the method needs q, k and v of one of the first blocks, which are not kept.
        """
        first = len(features.tokens) - 1
        depth = first + len(self.resblocks)
        if any(block < first for block in needs.resolve(depth)[1]):
            fix = "Lower MODEL.SAN.FEATURE_LAST_LAYER_IDX, or choose another method."
            raise InputError("method", f"it reads q, k and v of blocks before block {first}", fix)
        states, projections = run_trunk(self.resblocks, features.tokens[-1], needs, first)
        blocks = dict(enumerate(self.resblocks, first))
        return ImageTokens(self, blocks, dict(enumerate(features.tokens)) | states, projections, features.grid)


class WordClassifier(nn.Module):
    """CLIP's frozen text tower with a learned embedding of "no object". `TextEncoder` encodes words with it.

    Args:
        model: the text tower is shared with it.
    """

    def __init__(self, model: CLIP):
        super().__init__()
        text = clip.text_tower(model)
        for name, part in (*text.named_children(), *text.named_parameters(recurse=False)):
            if name != "visual":
                setattr(self, name, part)
        for name, buffer in text.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.logit_scale = model.logit_scale
        self.context_length = clip.context_length(model)
        self.text_pool_type = clip.pool_type(text)
        if self.text_pool_type == "eos":
            self.text_eos_id = clip.end_token(text)
        self.requires_grad_(False)
        width = clip.joint_width(model)
        self.bg_embed = nn.Parameter(nn.init.normal_(torch.empty(1, width), std=width**-0.5))

    def forward(self, words: Tensor) -> Tensor:
        """Turn word features [R,D], L2-normalised, into classifier weights [R+1,D], the last row for "no object"."""
        weights = F.normalize(torch.cat([words, self.bg_embed.to(words.dtype)]), dim=-1)
        return self.logit_scale.exp() * weights


def _attend_under_bias(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Return the attention output of mask tokens to the patches, under a bias, and to themselves, [B,A,Q,d].

    Args:
        query, key, value: [B,A,Q+1+N,d] of masks, class token, patches.
        bias: [B,A,Q,N].
    """
    count, scale = bias.shape[2], query.shape[-1] ** -0.5
    own = (query[:, :, :count] * key[:, :, :count]).sum(-1, keepdim=True)  # [B,A,Q,1]
    others = query[:, :, :count] @ key[:, :, count + 1 :].transpose(2, 3)  # [B,A,Q,N]
    weights = torch.cat([own * scale, others * scale + bias], dim=-1).float().softmax(dim=-1).to(value.dtype)
    return weights[..., :1] * value[:, :, :count] + weights[..., 1:] @ value[:, :, count + 1 :]
