"""CLIPtrase plus, a method of this project: a class token of its own for every cluster of CLIPtrase."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import DenseFeatures, ImageTokens, Needs
from cliptrase_d2.methods.base import DenseMethod, register_method
from cliptrase_d2.methods.class_tokens import run_class_tokens
from cliptrase_d2.methods.proxyclip import self_correlated_features
from cliptrase_d2.methods.region_maps import mark_regions, number_regions
from cliptrase_d2.utils.errors import check_range
from cliptrase_d2.utils.tensors import autocast

_ALL = range(-1000, 0)  # hidden states and blocks of towers of any depth


@register_method("cliptrase_plus")
class CLIPtrasePlus(DenseMethod):
    """Give every cluster a class token that sees only the patches which correlate with the cluster.

    This method is one of this project and not in a paper. CLIP is trained to name an image by its class token, whereas
    the last tokens of patches are not trained. So a copy of the class token passes all blocks for each region, as in
    CorrCLIP's semantic branch, and the patches of a region have its feature in place of their own. The regions are the
    masks of the model, by default CLIPtrase's clusters. With CLIPtrase's correlation C of patches, the mean cosine of
    q, k and v over all heads of the last block but one, the copy of a region r attends in every block to the class
    token and to

        the patches of r, and the patches j with mean of C_ij over i in r > β·mean(C)

    mean(C) is over all pairs of patches of an image or window. Clusters are often parts of things. The correlated
    patches add the rest, so that a copy sees the whole thing.

    A patch in no region is a region of its own. No token attends to a copy, so the class token of the features is that
    of CLIP. The option was chosen on emoji scenes and never tried on photographs.

    Cost: CLIP reads an image twice, first for the regions. One query per region passes all blocks. The keys and values
    of all blocks are kept, and N² numbers for C.

    Args:
        beta: β, at least 0. With a large number, a copy sees its region only.
    Raises:
        InputError: an option is out of range.
    """

    title = "CLIPtrase plus, a class token for every cluster (not in a paper)"
    source = "https://github.com/cliptrase-d2/cliptrase_d2"
    needs = Needs(hidden_states=(0,), qkv=_ALL, regions=True)

    def __init__(self, beta: float = 1.5):
        check_range("beta", beta, isfinite(beta) and beta >= 0, "a number of at least 0")
        self.beta = beta

    def __call__(self, x: ImageTokens) -> DenseFeatures:
        """Compute the dense features of a batch. All patches of a region have the same."""
        regions = number_patches(x.patch_regions())  # [B,N]
        with autocast(regions.device, torch.float32):
            is_visible = find_related_patches(self_correlated_features(x).affinity(), regions, self.beta)
        # The first copy sees all patches, so it is CLIP's class token.
        tokens = run_class_tokens(x, F.pad(is_visible, (0, 0, 1, 0), value=True))  # [B,1+K,E]
        features = x.to_features(tokens)
        index = regions[..., None].expand(-1, -1, features.patches.shape[2])
        return replace(features, patches=features.patches.gather(1, index))


def number_patches(regions: Tensor) -> Tensor:
    """Number the regions of patches [B,N] int64 as 0, 1, …, with every patch in no region as one of its own."""
    own = regions.amax(1, keepdim=True) + 1 + torch.arange(regions.shape[1], device=regions.device)
    return number_regions(torch.where(regions < 0, own, regions))


def find_related_patches(correlation: Tensor, regions: Tensor, beta: float) -> Tensor:
    """Return which patches are in a region or correlate with it, [B,K,N] bool.

    Args:
        correlation: C, [B,N,N].
        regions: [B,N] int64, 0 to K-1.
        beta: times the mean of C, above which a patch correlates with a region on average.
    """
    inside = mark_regions(regions)  # [B,K,N]
    weights = inside.to(correlation)
    rows = torch.bmm(weights, correlation) / weights.sum(2, keepdim=True).clamp_min(1)  # [B,K,N]
    return inside | (rows > beta * correlation.mean((1, 2), keepdim=True))
