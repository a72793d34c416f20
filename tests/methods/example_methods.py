"""Small methods that use each part of the contract: hidden states, q, k, v, affinity, regions and text."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliptrase_d2.clip.tokens import DenseFeatures, ImageTokens, Needs, PatchFeatures
from cliptrase_d2.methods import DenseMethod
from cliptrase_d2.vision_models import FEATURES


class MidLevel(DenseMethod):
    """Values of the last block, of the sum of two hidden states, plus the class token of the first block."""

    title = source = "example"
    needs = Needs(hidden_states=(1, -1))

    def __call__(self, x: ImageTokens) -> DenseFeatures:
        value = x.project_qkv(x.hidden_state(1) + x.hidden_state(-1))[2]
        tokens = x.finish_block(value, residual=False, mlp=False)
        return x.to_features(tokens + 0.3 * x.class_token(1)[:, None])


class EarlyAttention(DenseMethod):
    """The attention of the first block on the values of the last, without a class token."""

    title = source = "example"
    needs = Needs(qkv=(0,))
    has_class_token = False

    def __call__(self, x: ImageTokens) -> DenseFeatures:
        query, key, _ = (part[:, :, 1:] for part in x.qkv(0))
        attended = F.scaled_dot_product_attention(query, key, x.qkv()[2][:, :, 1:])
        tokens = x.finish_block(attended, residual=False, mlp=False)
        return x.to_features(tokens, has_class_token=False)


class Proxy(DenseMethod):
    """Values averaged by the affinity of a second vision model, on the grid of that model."""

    title = source = "example"
    needs = Needs(vision_features="tokens")
    has_class_token = False

    def __call__(self, x: ImageTokens) -> DenseFeatures:
        assert x.vision_features is not None
        grid = x.vision_features.grid
        value = x.qkv()[2][:, :, 1:].transpose(2, 3).flatten(1, 2).unflatten(2, x.grid)  # [B,E,h,w]
        value = F.interpolate(value.float(), grid, mode="bilinear").flatten(2).transpose(1, 2)  # [B,M,E]
        mixed = (3 * x.vision_features.affinity()).softmax(-1) @ value
        heads = mixed.unflatten(2, (x.qkv()[2].shape[1], -1)).transpose(1, 2)  # [B,A,M,d]
        tokens = x.finish_block(heads, residual=False, mlp=False)
        return x.to_features(tokens, has_class_token=False, grid=grid)


class RegionMean(DenseMethod):
    """Values averaged over the model's own masks."""

    title = source = "example"
    needs = Needs(regions=True)
    has_class_token = False

    def __call__(self, x: ImageTokens) -> DenseFeatures:
        regions = x.patch_regions()  # [B,N]
        same = (regions[:, :, None] == regions[:, None, :]).float()
        value = x.qkv()[2][:, :, 1:]
        mixed = (same / same.sum(-1, keepdim=True))[:, None] @ value.float()
        return x.to_features(x.finish_block(mixed, residual=False, mlp=False), has_class_token=False)


class TextGuided(DenseMethod):
    """Patches moved towards the word that they resemble most."""

    title = source = "example"
    needs = Needs(text=True)

    def __call__(self, x: ImageTokens) -> DenseFeatures:
        assert x.text is not None
        features = x.to_features(x.finish_block(x.qkv()[2]))
        best = (features.patches @ x.text.features.T).argmax(-1)
        patches = F.normalize(features.patches + x.text.features[best], dim=-1)
        return DenseFeatures(patches, features.grid, features.class_token)


EXAMPLES = {
    "mid_level": MidLevel,
    "early_attention": EarlyAttention,
    "proxy": Proxy,
    "region_mean": RegionMean,
    "text_guided": TextGuided,
}


class Pixels(nn.Module):
    """A second vision model: mean colours on a grid twice as fine as CLIP's, with patches of 16 pixels."""

    def __init__(self, factor: int = 2, more: int = 0):
        super().__init__()
        self.factor, self.more = factor, more

    def forward(self, images: Tensor, features: str) -> PatchFeatures:
        assert features in FEATURES
        rows, columns = (length // 16 * self.factor + self.more for length in images.shape[2:])
        fine = (rows, columns)
        colours = F.adaptive_avg_pool2d(images, fine).flatten(2).transpose(1, 2)  # [B,M,3]
        return PatchFeatures(colours - 128, fine)


def assert_unit_length(features: Tensor) -> None:
    """Check that vectors have length 1."""
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(features.shape[:-1]))
