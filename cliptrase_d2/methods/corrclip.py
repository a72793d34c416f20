"""CorrCLIP: the attention of a second vision model within regions, and two branches beside the last block."""

from __future__ import annotations

from math import isfinite

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.open_clip_modules import to_joint_space
from cliptrase_d2.clip.tokens import DenseFeatures, ImageTokens, Needs
from cliptrase_d2.methods.base import DenseMethod, register_method
from cliptrase_d2.methods.class_tokens import run_class_tokens
from cliptrase_d2.methods.region_maps import (
    NO_REGION,
    mark_regions,
    mark_smallest,
    merge_regions,
    number_regions,
    resize_regions,
)
from cliptrase_d2.utils.errors import check_range
from cliptrase_d2.utils.tensors import autocast

_ALL = range(-1000, 0)  # hidden states and blocks of towers of any depth
# Blocks of the spatial branch by the depth of the tower. Others read all but the first two and the last two.
_SPATIAL_BLOCKS = {12: 5, 24: 12, 32: 28}


@register_method("corrclip")
class CorrCLIP(DenseMethod):
    """Attend within regions by the similarities of a second vision model, and give class tokens to regions.

    f are the queries plus the keys of the last block of the second model (DINO ViT-B/8), L2-normalised, on its grid of
    M patches; S = f·fᵀ. The regions are the masks of MODEL.MASKS, a label map that may leave pixels out.

    1. Regions that look alike are merged, i.e. regions that are connected by pairs with max(G) - G ≤ ``merge_eps``. G
       are the cosines of the mean f of regions.
    2. W = softmax(``sharpness``·S), the same for all heads. Patches of one region attend to one another. Two patches of
       which one or both are in no region attend to each other where S is above its mean.
    3. Main branch: out_proj(W·v) of the last block, whose values v are resized bilinearly to the grid of M. Spatial
       branch: the same for the mean of the tokens of middle blocks, in place of the last block's input. Neither has a
       residual connection or an MLP.
    4. Semantic branch: a copy of the class token for each merged region passes all blocks. It attends to the class
       token and the patches of its region. A patch takes the copy of its region.
    5. The weighted sum of the branches, each after CLIP's last norm, passes the projection.

    In the end, the published code gives each region its most frequent label: TEST.PUBLISHED.REGION_VOTE, or the vote of
    MODEL.CLIPTRASE.CLASSIFICATION in other protocols.

    The spatial branch averages the outputs of blocks 6 to 10 of 12, 11 to 22 of 24, or 3 to 30 of 32. In a tower of
    another depth L, these are blocks 3 to L-2, and at least block L-2. No token attends to a copy, so copies run beside
    the tower, as K queries and N+1 keys in each block.

    Cost: the second model, with DINO ViT-B/8 several times that of CLIP's ViT-B/16; one product of M×M with M×2E. The
    keys and values of all blocks are kept: with ViT-B/16 at 336 pixels 49 MB for each window.

    Args:
        merge_eps: largest difference of two regions that are merged, ≥ 0.
        sharpness: factor of S before the softmax, > 0.
        spatial_weight: weight of the spatial branch; 0 to leave it out.
        semantic_weight: weight of the semantic branch; 0 to leave it out.
        spatial_blocks: number of blocks up to L-2 whose outputs the spatial branch averages, ≥ 1; None for those above.
        smallest_is_none: whether the region with the smallest number stands for the pixels in no region, in every
            window anew, as in the published code. Where every pixel is in a region, this loses one.
    Raises:
        InputError: an option is out of range.
    """

    title = "CorrCLIP, attention of a second vision model within regions"
    source = "https://arxiv.org/abs/2411.10086"
    needs = Needs(_ALL, qkv=_ALL, vision_features="queries+keys", regions=True, photograph=True)
    has_class_token = False
    vision_model = "vit_base_patch8_224.dino"

    def __init__(
        self,
        merge_eps: float = 0.2,
        sharpness: float = 4.0,
        spatial_weight: float = 1.0,
        semantic_weight: float = 0.5,
        spatial_blocks: int | None = None,
        smallest_is_none: bool = False,
    ):
        check_range("merge_eps", merge_eps, merge_eps >= 0, "0 or more")
        check_range("sharpness", sharpness, sharpness > 0, "a number above 0")
        for name, value in (("spatial_weight", spatial_weight), ("semantic_weight", semantic_weight)):
            check_range(name, value, isfinite(value), "a finite number")
        if spatial_blocks is not None:
            check_range("spatial_blocks", spatial_blocks, spatial_blocks >= 1, "1 or more")
        self.merge_eps, self.sharpness = merge_eps, sharpness
        self.spatial_weight, self.semantic_weight = spatial_weight, semantic_weight
        self.spatial_blocks, self.smallest_is_none = spatial_blocks, smallest_is_none

    def __call__(self, x: ImageTokens) -> DenseFeatures:
        """Compute the dense features of a batch, on the grid of the second vision model."""
        assert x.vision_features is not None, "the model provides what a method needs"
        grid = x.vision_features.grid
        patches = F.normalize(x.vision_features.features.float(), dim=-1)  # [B,M,F]
        regions = self.find_regions(x, patches)  # [B,M]
        weights = region_attention(patches @ patches.transpose(1, 2), regions, self.sharpness)
        main, *spatial = self.attend(x, weights)
        joint = to_joint_space(x.tower, main)  # [B,M,D]
        for tokens in spatial:
            joint = joint + self.spatial_weight * to_joint_space(x.tower, tokens)
        if self.semantic_weight:
            index = number_regions(resize_regions(regions.unflatten(1, grid), x.grid))  # [B,h,w]
            copies = to_joint_space(x.tower, run_class_tokens(x, mark_regions(index.flatten(1))))  # [B,K,D]
            index = resize_regions(index, grid).flatten(1)[..., None].expand(-1, -1, copies.shape[2])
            joint = joint + self.semantic_weight * copies.gather(1, index)
        return DenseFeatures(F.normalize(joint.float(), dim=-1), grid)

    def find_regions(self, x: ImageTokens, patches: Tensor) -> Tensor:
        """Return the merged region of each patch of the second model, [B,M] int64, NO_REGION for none."""
        assert x.regions is not None, "the model provides what a method needs"
        assert x.vision_features is not None
        regions = resize_regions(x.regions, x.vision_features.grid).flatten(1)  # [B,M]
        if self.smallest_is_none:
            regions = mark_smallest(regions)
        with autocast(patches.device, torch.float32):
            merged = [merge_regions(*one, self.merge_eps) for one in zip(regions, patches, strict=True)]
        return torch.stack(merged)

    def attend(self, x: ImageTokens, weights: Tensor) -> list[Tensor]:
        """Return the main branch and, unless it is left out, the spatial branch, each [B,M,E]."""
        assert x.vision_features is not None
        values = [x.qkv()[2]]
        if self.spatial_weight:
            states = [x.hidden_state(state) for state in get_spatial_states(x.depth, self.spatial_blocks)]
            values.append(x.project_qkv(sum(states[1:], states[0]) / len(states))[2])
        heads, width = values[0].shape[1], weights.shape[2]
        # All heads and both branches side by side, since they share the weights.
        flat = torch.cat([value[:, :, 1:].transpose(2, 3).flatten(1, 2) for value in values], dim=1)  # [B,2E,N]
        resized = F.interpolate(
            flat.unflatten(2, x.grid), x.vision_features.grid, mode="bilinear", align_corners=False
        )  # [B,2E,h',w']
        mixed = torch.bmm(weights.to(resized), resized.reshape(len(resized), -1, width).transpose(1, 2))  # [B,M,2E]
        branches = [part.unflatten(2, (heads, -1)).transpose(1, 2) for part in mixed.chunk(len(values), dim=2)]
        return [x.finish_block(branch, residual=False, mlp=False) for branch in branches]


def get_spatial_states(depth: int, blocks: int | None = None) -> range:
    """Return the hidden states of the spatial branch of a tower.

    Args:
        depth: number of blocks of the tower.
        blocks: number of states; None for the published one.
    """
    count = blocks or _SPATIAL_BLOCKS.get(depth, max(1, depth - 4))
    last = max(0, depth - 2)
    return range(max(0, last + 1 - count), last + 1)


def region_attention(similarity: Tensor, regions: Tensor, sharpness: float) -> Tensor:
    """Return the attention of patches within regions, [B,M,M], the rows of which sum to 1.

    Args:
        similarity: S, [B,M,M].
        regions: [B,M] int64, NO_REGION for none.
        sharpness: factor of S.
    """
    mean = similarity.mean((1, 2), keepdim=True)
    is_outside = regions == NO_REGION
    is_visible = torch.where(
        is_outside[:, :, None] | is_outside[:, None],
        similarity > mean,
        regions[:, :, None] == regions[:, None],
    )
    # Not -inf, which would turn a row without entries into NaN: a uniform image outside of all regions.
    lowest = torch.finfo(similarity.dtype).min
    return (sharpness * similarity).masked_fill(~is_visible, lowest).softmax(-1)
