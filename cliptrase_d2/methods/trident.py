"""Trident: ProxyCLIP's tokens of all windows in one map, averaged by the last attention of SAM."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import ImageTokens, Needs, cosine_matrix
from cliptrase_d2.methods.base import ImageMethod, register_method
from cliptrase_d2.methods.proxyclip import proxy_attention, resize_heads
from cliptrase_d2.methods.whole_image import HeadAttention, WholeImage
from cliptrase_d2.methods.word_maps import WordMaps, WordValues
from cliptrase_d2.utils.errors import InputError, check_range

_HIGHEST = 0.9  # similarity that is kept in any case
_INSTEAD_OF_NEGATIVE = 0.6


@register_method("trident")
@dataclass(eq=False)
class Trident(ImageMethod):
    """Average ProxyCLIP's tokens of all windows by the correlation of SAM's patches.

    1. The image is resized to whole patches and cut into windows of its own. The tokens of a window are those of
       ProxyCLIP after the output projection: with the unit features f of DINO and S = f·fᵀ, the values v of CLIP's last
       block become W_o·softmax(γ·(S - β·mean(S)))·v, without the negative entries. The mean is over all windows.
    2. The tokens of all windows, averaged where windows overlap, are one map of the image.
    3. SAM sees the whole photograph. Of its last block, a are the attentions and C = v̂·v̂ᵀ the cosines of the values
       of every head, for the M patches of the photograph. The threshold t_i of a row is ``cos_fac`` times the mean of C
       over all heads and columns, at most 0.9. R is the mean over the heads of a where C > t_i, each row divided by its
       sum.
    4. The map is resized to SAM's grid and multiplied by R. CLIP's last norm and projection follow.

    The published numbers include a refinement of the labels by SAM's decoder: TEST.PUBLISHED.SAM_REFINEMENT, a step
    that works with every method.

    Cost: one pass of SAM for every photograph. Memory holds the attention of one head in the last block, 4·M·N bytes
    with N = 4096 patches of SAM's square, and of all heads in three earlier blocks, 0.8 GB with ViT-B.

    Args:
        window: side of the windows in pixels, a multiple of the patch size. TEST.WINDOW has no meaning.
        stride: of the windows in pixels, likewise, at most ``window``.
        beta: β, at least 0.
        gamma: γ, above 0.
        cos_fac: factor of the mean cosine, at least 0.
        keep_negative: whether a threshold may be negative. Otherwise it becomes 0.6.
        halves: whether SAM sees the left and the right half of the photograph separately, as for Cityscapes.
    """

    title: ClassVar[str] = "Trident, windows joined by DINO's and SAM's correlation"
    source: ClassVar[str] = "https://arxiv.org/abs/2411.09219"
    needs = Needs(vision_features="tokens", photograph=True, sam=True)
    vision_model: ClassVar[str] = "vit_base_patch16_224.dino"

    window: int = 336
    stride: int = 224
    beta: float = 1.2
    gamma: float = 3.0
    cos_fac: float = 1.2
    keep_negative: bool = True
    halves: bool = False

    def __post_init__(self) -> None:
        check_range("window", self.window, self.window >= 1, "1 or more")
        check_range("stride", self.stride, 1 <= self.stride <= self.window, f"1 to {self.window}, the window")
        for name in ("beta", "cos_fac"):
            value = getattr(self, name)
            check_range(name, value, isfinite(value) and value >= 0, "a number of at least 0")
        check_range("gamma", self.gamma, isfinite(self.gamma) and self.gamma > 0, "a number above 0")

    def __call__(self, x: WholeImage) -> WordValues:
        """Compute the cosines on SAM's grid."""
        assert x.photograph is not None
        assert x.read_sam is not None
        tokens = self.join_windows(x)
        photograph = fit_photograph(x.photograph, x.patch_size)
        halves = self.halves and tokens.shape[2] > 1
        parts = zip(*(split(maps) if halves else [maps] for maps in (photograph, tokens)), strict=True)
        averaged = torch.cat([self.average(x.read_sam(image), part) for image, part in parts], 2)
        grid = (averaged.shape[1], averaged.shape[2])
        features = x.tower.to_features(averaged.flatten(1).T[None], has_class_token=False, grid=grid)
        return WordMaps.of_grid(x.score(features.patches[0]).T.unflatten(1, grid))

    def join_windows(self, x: WholeImage) -> Tensor:
        """Return the map of the tokens of all windows, [E,h,w] float32."""
        image = fit_to_patches(x.pixels, x.patch_size, self.window)
        rows, columns = (place(length, self.window, self.stride, x.patch_size) for length in image.shape[1:])
        height, width = (min(self.window, length) for length in image.shape[1:])
        views = [image[:, top : top + height, left : left + width] for top in rows for left in columns]
        grid = (0, 0)

        def read(tokens: ImageTokens) -> tuple[Tensor, Tensor]:
            nonlocal grid
            assert tokens.vision_features is not None, "needs declares them"
            grid = tokens.vision_features.grid
            return resize_heads(tokens.qkv()[2][:, :, 1:], tokens.grid, grid), tokens.vision_features.features

        values, features = x.encode(torch.stack(views), read)  # [K,A,M,d], [K,M,F]
        weights = proxy_attention(cosine_matrix(features), self.beta, self.gamma, one_mean=True)
        tokens = x.tower.finish_block(weights[:, None] @ values.float(), residual=False, mlp=False)  # [K,M,E]
        return splice(tokens.mT.unflatten(2, grid), rows, columns, (height, width), x.patch_size)

    def average(self, attention: HeadAttention, tokens: Tensor) -> Tensor:
        """Average tokens by SAM's correlation, [E,h,w] to [E,h',w'] on SAM's grid."""
        resized = F.interpolate(tokens[None], attention.grid, mode="bilinear")[0]
        weights = correlate(attention, self.cos_fac, self.keep_negative)
        return (resized.flatten(1) @ weights.T).view_as(resized)


def place(length: int, window: int, stride: int, patch_size: int) -> list[int]:
    """Return the first pixels of the windows along an axis. The last window ends at the border.

    Raises:
        InputError: windows start or end within patches.
    """
    for name, value in (("window", window), ("stride", stride)):
        if value % patch_size:
            fix = f"Use {max(1, round(value / patch_size)) * patch_size}, a multiple of the patch size."
            raise InputError("method_options", f"{name} {value} with patches of {patch_size} pixels", fix)
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(0, min(index * stride, length - window)) for index in range(count)]


def splice(maps: Tensor, rows: list[int], columns: list[int], window: tuple[int, int], patch_size: int) -> Tensor:
    """Average the maps of windows where they overlap.

    Args:
        maps: [K,E,h,w] of every window, row by row. A grid that is finer than CLIP's makes the result finer by the
            nearest whole factor.
        rows, columns: first pixels of the windows.
        window: (height, width) in pixels.
        patch_size: of CLIP.
    Returns:
        [E,H,W] on the grid of the image.
    """
    height, width = (length // patch_size for length in window)
    if maps.shape[3] % width:
        factor = max(1, round(maps.shape[2] / height))
        maps = F.interpolate(maps, (height * factor, width * factor), mode="bilinear")
    factor = maps.shape[3] // width
    side = (rows[-1] // patch_size * factor + maps.shape[2], columns[-1] // patch_size * factor + maps.shape[3])
    total, count = maps.new_zeros(maps.shape[1], *side), maps.new_zeros(side)
    corners = [(top // patch_size * factor, left // patch_size * factor) for top in rows for left in columns]
    for part, (top, left) in zip(maps, corners, strict=True):
        place = slice(top, top + part.shape[1]), slice(left, left + part.shape[2])
        total[:, place[0], place[1]] += part
        count[place] += 1
    return total / count


def correlate(attention: HeadAttention, cos_fac: float, keep_negative: bool) -> Tensor:
    """Return the weights by which SAM's patches average one another, head by head.

    Args:
        attention: of SAM.
        cos_fac: factor of the mean cosine of a row.
        keep_negative: whether a threshold may be negative.
    Returns:
        [M,M] float32; every row sums to 1.
    """
    unit = F.normalize(attention.values.float().flatten(1, 2), dim=-1)  # [A,M,d]
    # The mean cosine of a vector with all vectors is its product with their mean.
    threshold = cos_fac * (unit @ unit.mean(1)[..., None]).mean(0)  # [M,1]
    if not keep_negative:
        threshold = threshold.masked_fill(threshold < 0, _INSTEAD_OF_NEGATIVE)
    threshold = threshold.clamp_max(_HIGHEST)
    total = unit.new_zeros(unit.shape[1], unit.shape[1])
    for head, vectors in enumerate(unit):
        total += attention.attend(head).masked_fill_(vectors @ vectors.T <= threshold, 0)
    return total / total.sum(1, keepdim=True)


def fit_to_patches(image: Tensor, patch_size: int, least: int) -> Tensor:
    """Resize a normalised image [3,H,W] to whole patches, unless it consists of them.

    The long side is rounded up, the short side after scaling, to at least `least` pixels.
    """
    if all(length % patch_size == 0 for length in image.shape[1:]):
        return image
    longest = max(image.shape[1:])
    rounded = -(-longest // patch_size) * patch_size
    size = [max(least, -(-int(length * rounded / longest) // patch_size) * patch_size) for length in image.shape[1:]]
    return F.interpolate(image[None], size, mode="bilinear")[0]


def split(maps: Tensor) -> list[Tensor]:
    """Return the left half of [C,H,W], rounded down, and the rest."""
    middle = maps.shape[2] // 2
    return [maps[..., :middle], maps[..., middle:]]


def fit_photograph(photograph: Tensor, patch_size: int) -> Tensor:
    """Resize a photograph [3,H,W] uint8 to whole patches, rounded up, by OpenCV, [3,H',W'] uint8 on the CPU."""
    image = photograph.permute(1, 2, 0).cpu().numpy()
    height, width = (-(-length // patch_size) * patch_size for length in image.shape[:2])
    return torch.from_numpy(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)).permute(2, 0, 1)
