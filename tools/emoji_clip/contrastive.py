"""Image features and loss of a contrastive training that keeps patch features meaningful.

The training data are images with captions. Three options change how the feature of an image is computed:

- The image may be a window with fewer patches than the trained grid, at any position in the grid.
- Some patches may be dropped (https://arxiv.org/abs/2212.00794).
- The residual stream of the last block may start from a patch instead of the class token. The class token's query then
  attends to the patches only. Information that the class token gathered in earlier blocks is lost, so the values of the
  last block must carry the meaning, and its MLP must work with the residual of any patch.
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
    patches: Tensor | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Compute a feature for each image.

    Args:
        visual: the image tower.
        images: [B,3,H,W], normalised; H and W are multiples of the patch size, at most the trained size.
        offset: (row, column) of the first patch in the trained grid.
        patches: [B,K] int64, indices of the patches to encode; None for all.
        start: [B] int64, index in `patches` of the patch that replaces the class token in the last block; None for the
            class token, as in `encode_image`.
    Returns:
        [B,D], not normalised.
    """
    size = clip.patch_size(visual)
    grid = (images.shape[-2] // size, images.shape[-1] // size)
    x = clip.embed(visual, images, _position_window(visual, grid, offset))  # [B,N+1,E]
    if patches is not None:
        index = patches.unsqueeze(-1).expand(-1, -1, x.shape[-1])  # [B,K,E]
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


def contrastive_loss(images: Tensor, texts: Tensor, caption_index: Tensor, scale: Tensor) -> Tensor:
    """Compute CLIP's symmetric loss (https://arxiv.org/abs/2103.00020, Sec. 2.3) for images with shared captions.

    Images with equal captions form one class. With a small vocabulary they are frequent, and the original loss would
    push them apart.

    Args:
        images: [B,D] image features.
        texts: [U,D] features of the different captions. Each belongs to at least one image.
        caption_index: [B] int64, the row of ``texts`` of each image.
        scale: the inverse temperature, a scalar.
    Returns:
        The mean of the two directions, a scalar.
    """
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T  # [B,U]
    per_image = F.cross_entropy(logits, caption_index)
    positive = F.one_hot(caption_index, len(texts)).to(logits.dtype)  # [B,U]
    log_shares = (logits.log_softmax(dim=0) * positive).sum(dim=0) / positive.sum(dim=0)  # [U]
    return (per_image - log_shares.mean()) / 2


def _position_window(visual: VisionTransformer, grid: tuple[int, int], offset: tuple[int, int]) -> Tensor:
    """Return the position embedding of the class token and of a window of the trained grid, [h·w+1,E]."""
    embedding, (height, width) = clip.position_embedding(visual), clip.trained_grid(visual)
    (row, column), (rows, columns) = offset, grid
    patches = embedding[1:].view(height, width, -1)[row : row + rows, column : column + columns]  # [h,w,E]
    return torch.cat([embedding[:1], patches.flatten(0, 1)])
