"""Closed-form start of a side network: the mask of a query is its inner product with CLIP's fused features.

Half of the channels of the side network carry CLIP's features from the last fusion to the decoder, and the queries to
it; no other layer writes to them at the start. The decoder starts as the identity of these channels. Masks and
attention biases are then inner products of queries and features, before any training. All weights are trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cliptrase_d2.pipeline.proposals import mask_average_pooling
from cliptrase_d2.san.query_projection import find_prototypes
from cliptrase_d2.san.side_network import MLP, SideAdapterNetwork
from cliptrase_d2.utils.errors import InputError

_PATCHES = 100  # of an image, kept for the fit


class FusedMasks(NamedTuple):
    """The fused features of an image, and its masks.

    Attributes:
        pooled: [Q,E], the mean feature of each mask.
        features: [P,E] of some of the patches.
        inside: [Q,P] bool, whether these patches are in each mask.
    """

    pooled: Tensor
    features: Tensor
    inside: Tensor

    @classmethod
    def pool(cls, features: Tensor, patches: Tensor, generator: torch.Generator) -> FusedMasks:
        """Pool the features over the masks, and keep at most 100 random patches.

        Args:
            features: [N,E] of all patches.
            patches: [Q,N] bool, the patches of each mask. Empty masks are left out.
            generator: of the choice.
        """
        patches = patches[patches.any(1)]
        chosen = torch.randperm(len(features), generator=generator)[:_PATCHES]
        return cls(mask_average_pooling(patches.float(), features), features[chosen], patches[:, chosen])


class ClosedForm(NamedTuple):
    """Everything from which a side network starts.

    Attributes:
        weight: [K,E], K orthogonal directions of the fused features; projections have a root mean square of 1.
        bias: [K].
        queries: [Q,K], the projected prototypes.
        scale: factor of the inner products, > 0.
        offset: added to them, so that a logit above 0 means more likely inside the mask than outside.
    """

    weight: Tensor
    bias: Tensor
    queries: Tensor
    scale: float
    offset: float


def fit_closed_form(images: Sequence[FusedMasks], queries: int, channels: int, seed: int = 0) -> ClosedForm:
    """Fit the projection by a PCA of the patches, the queries by k-means of the masks, and the logits by a regression.

    Args:
        images: of a data set.
        queries: Q.
        channels: K, at most; fewer if the features have fewer dimensions.
        seed: of the k-means, and of a rotation that gives all channels similar magnitudes.
    Raises:
        InputError: fewer masks than queries, or features that do not separate the masks.
    """
    features = torch.cat([image.features for image in images]).double()  # [P,E]
    mean = features.mean(0)
    components = torch.linalg.svd(features - mean, full_matrices=False).Vh[:channels]  # [K,E]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(components), len(components), generator=generator, dtype=torch.float64)
    weight = torch.linalg.qr(noise).Q @ components
    weight = weight / ((features - mean) @ weight.T).square().mean().sqrt().clamp_min(1e-12)
    pooled = (torch.cat([image.pooled for image in images]).double() - mean) @ weight.T  # [M,K]
    prototypes = find_prototypes(pooled, queries, seed).double()  # [Q,K]
    nearest = torch.cdist(pooled, prototypes).argmin(1).split([len(image.pooled) for image in images])
    products, inside = [], []
    for image, own in zip(images, nearest, strict=True):
        present = own.unique()  # a query without a mask in the image has no label there
        products.append(prototypes[present] @ ((image.features.double() - mean) @ weight.T).T)  # [Q',P]
        inside.append(torch.stack([image.inside[own == query].any(0) for query in present.tolist()]))
    scale, offset = _fit_logits(
        torch.cat([one.flatten() for one in products]), torch.cat([one.flatten() for one in inside])
    )
    return ClosedForm(weight.float(), (-weight @ mean).float(), prototypes.float(), scale, offset)


def _fit_logits(products: Tensor, inside: Tensor) -> tuple[float, float]:
    """Return the scale and the offset of a logistic regression of ``inside`` [P] bool on ``products`` [P].

    Raises:
        InputError: no patch or all patches are inside, or those inside have lower products.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import, and only a warm start needs it

    fix = "Use more images, or a clustering that finds other masks."
    if inside.all() or not inside.any():
        raise InputError("warm start", "masks that cover all patches or none", fix)
    spread = float(products.std().clamp_min(1e-12))
    fitted = LogisticRegression(C=1e6).fit((products / spread).numpy()[:, None], inside.numpy())
    scale = float(fitted.coef_[0, 0]) / spread
    if scale <= 0:
        raise InputError("warm start", "masks that the fused features do not separate", fix)
    return scale, float(fitted.intercept_[0])


@torch.no_grad()
def apply_closed_form(side: SideAdapterNetwork, start: ClosedForm) -> None:
    """Write a start into the weights of an untrained side network, in place.

    Args:
        side: its width and its decoder's channels are at least 2K.
        start: with as many queries.
    """
    count = len(start.bias)
    _keep_free(side, count)
    projection: Any = side.last_fusion.input_proj[1]
    projection.weight[:count] = start.weight[:, :, None, None]
    projection.bias[:count] = start.bias
    side.query_embed[0, :, :count] = start.queries
    decoder, root = side.mask_decoder, start.scale**0.5
    # The remaining outputs of the queries stay random, and those of the patches are 0, so both have gradients.
    _start_perceptron(decoder.query_mlp, 1, root, start.offset, count, zero_rest=False)
    _start_perceptron(decoder.pix_mlp, 1, root, 1.0, count)
    _start_perceptron(decoder.attn_mlp, decoder.heads, root, 1.0, count)
    decoder.bias_scaling.weight.fill_(1.0)
    decoder.bias_scaling.bias.zero_()


def count_channels(side: SideAdapterNetwork) -> int:
    """Return the largest K for a side network: half of its width or of its decoder's channels."""
    last: Any = side.mask_decoder.query_mlp.layers[-1]
    return int(min(side.query_embed.shape[2], last.out_features)) // 2


def _keep_free(side: SideAdapterNetwork, count: int) -> None:
    """Set to 0 all weights that write to the first channels."""
    vit: Any = side.vit_model
    fusions: Any = side.fusion_layers.values()
    writers = [vit.patch_embed.proj, *(fusion.input_proj[1] for fusion in fusions)]
    writers += [layer for block in vit.blocks for layer in (block.attn.proj, block.mlp.fc2)]
    for layer in writers:
        layer.weight[:count] = 0
        layer.bias[:count] = 0
    for positions in (vit.pos_embed, side.query_pos_embed):
        positions[..., :count] = 0


def _start_perceptron(mlp: MLP, parts: int, factor: float, constant: float, count: int, zero_rest: bool = True) -> None:
    """Let each part of the outputs start as the first K inputs times a factor, followed by a constant.

    Args:
        mlp: its hidden layers have at least 2K channels: ReLU(x) and ReLU(-x) of each input, whose difference is x.
        parts: number of equal parts of the outputs.
        factor: of the inputs.
        constant: of the output after them.
        count: K.
        zero_rest: whether the remaining outputs start as 0; otherwise they do not change.
    """
    layers: list[Any] = list(mlp.layers)
    *hidden, last = layers
    identity = torch.eye(count)
    signed = torch.cat([identity, -identity]) if hidden else identity  # [2K,K]
    for index, layer in enumerate(hidden):
        _set_rows(layer, slice(0, 2 * count), signed if index == 0 else torch.eye(2 * count))
    size = len(last.bias)
    for first in range(0, size, size // parts):
        _set_rows(last, slice(first, first + count), factor * signed.T)
        constants = slice(first + count, first + (size // parts if zero_rest else count + 1))
        _set_rows(last, constants, last.weight.new_zeros(constants.stop - constants.start, 1))
        last.bias[first + count] = constant


def _set_rows(layer: nn.Linear | nn.Conv2d, rows: slice, values: Tensor) -> None:
    """Set rows of a linear layer or 1x1 convolution to values [R,C] in the first C columns, and to 0 elsewhere."""
    weight = layer.weight[rows].flatten(1)  # a view, [R,columns]
    weight.zero_()
    weight[:, : values.shape[1]] = values
    assert layer.bias is not None
    layer.bias[rows] = 0
