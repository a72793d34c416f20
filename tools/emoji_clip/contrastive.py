"""Training a CLIP from scratch: image features that are read in ways which keep patches meaningful, and the loss.

Only pictures and captions come in. What is unusual is how a step may read a picture's feature:

- the picture may be a window of fewer patches than the trained grid, and stands somewhere on it;
- a share of the patches may be left out (https://arxiv.org/abs/2212.00794);
- the last block may start from a patch of the picture in place of the class token, with the class token's own
  query over the patches alone. What the class token gathered in earlier blocks is then lost, so the values of
  the last block have to carry the meaning, and its MLP has to bear the company of any patch's residual.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor

from cliptrase_d2.clip import open_clip_modules as clip


def image_features(
    visual: VisionTransformer,
    images: Tensor,
    *,
    offset: tuple[int, int] = (0, 0),
    kept: Tensor | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """One feature per picture.

    Args:
        visual: the image tower.
        images: [B,3,H,W], normalised; H and W are multiples of the patch size, at most the trained size.
        offset: (row, column) of the trained grid that the picture's first patch stands on.
        kept: [B,K] int64, patches of each picture that are not left out; None for all.
        start: [B] int64, the kept patch that the last block starts from; None for the class token, as in
            `encode_image`.
    Returns:
        [B,D], not normalised.
    """
    size = clip.patch_size(visual)
    grid = (images.shape[-2] // size, images.shape[-1] // size)
    x = clip.embed(visual, images, _position_window(visual, grid, offset))  # [B,N+1,E]
    if kept is not None:
        index = kept.unsqueeze(-1).expand(-1, -1, x.shape[-1])  # [B,K,E]
        x = torch.cat([x[:, :1], x[:, 1:].gather(1, index)], dim=1)  # [B,K+1,E]
    *blocks, last = clip.blocks(visual)
    for block in blocks:
        x = clip.run_block(block, x)
    q, k, v = clip.project_qkv(last, x)  # each [B,A,K+1,d]
    if start is None:
        residual = x[:, :1]  # [B,1,E]
    else:
        residual = x[torch.arange(len(x), device=x.device), 1 + start].unsqueeze(1)  # [B,1,E]
        k, v = k[:, :, 1:], v[:, :, 1:]
    attended = F.scaled_dot_product_attention(q[:, :, :1], k, v)  # [B,A,1,d]
    return clip.to_joint_space(visual, clip.finish_block(last, residual, attended)).squeeze(1)


def contrastive_loss(images: Tensor, texts: Tensor, caption_of: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric loss (https://arxiv.org/abs/2103.00020, Sec. 2.3), for pictures that may share a caption.

    A caption that several pictures of the batch have is one class, not several: with a small vocabulary these
    are many, and would otherwise be taught to differ from themselves.

    Args:
        images: [B,D] image features.
        texts: [U,D] features of the batch's different captions, every one of which some picture has.
        caption_of: [B] int64, the row of ``texts`` that belongs to each picture.
        scale: the inverse temperature, a scalar.
    Returns:
        The mean of the two directions, a scalar.
    """
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T  # [B,U]
    per_image = F.cross_entropy(logits, caption_of)
    positive = F.one_hot(caption_of, len(texts)).to(logits.dtype)  # [B,U]
    log_shares = (logits.log_softmax(dim=0) * positive).sum(dim=0) / positive.sum(dim=0)  # [U]
    return (per_image - log_shares.mean()) / 2


def _position_window(visual: VisionTransformer, grid: tuple[int, int], offset: tuple[int, int]) -> Tensor:
    """[h·w+1,E], the class token's position and those of a window of the trained grid."""
    embedding, (height, width) = clip.position_embedding(visual), clip.trained_grid(visual)
    (row, column), (rows, columns) = offset, grid
    patches = embedding[1:].view(height, width, -1)[row : row + rows, column : column + columns]  # [h,w,E]
    return torch.cat([embedding[:1], patches.flatten(0, 1)])
