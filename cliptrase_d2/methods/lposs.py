"""LPOSS: label propagation over the patches of all windows, and over pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import DenseFeatures, ImageTokens, Needs
from cliptrase_d2.methods.base import ImageMethod, register_method
from cliptrase_d2.methods.label_propagation import patch_graph, propagate, propagate_pixels
from cliptrase_d2.methods.maskclip import MaskCLIP
from cliptrase_d2.methods.whole_image import WholeImage
from cliptrase_d2.methods.word_maps import ClassMaps, WindowAxis, WordMaps, WordValues
from cliptrase_d2.utils.errors import check_range

_MASK_CLIP = MaskCLIP()


@register_method("lposs")
@dataclass(eq=False)
class LPOSS(ImageMethod):
    """Smooth MaskCLIP's cosines over one graph of the patches of all windows, which a second vision model provides.

    Y holds the cosines of patches and words, with MaskCLIP's residual connection and MLP. f are the values of the last
    block of DINO, L2-normalised over all heads. Every patch i is joined to its ``k`` nearest patches j by f_i·f_j, with
    the weight

        w_ij = max(f_i·f_j, 0)^γ · exp(-σ·distance of i and j in pixels)

    W is the sum of w and its transpose, without the diagonal. With the sums of its rows S, ``steps`` steps of conjugate
    gradients from zero solve

        (I - α·S^(-1/2)·W·S^(-1/2))·X = Y

    X is upsampled and averaged over the windows. With ``plus``, the same equation is solved once more for the pixels of
    the resized image, with the weight exp(-‖ΔLab‖/τ) between neighbours. A class with several words takes the largest
    value of each pixel before the map is resized to the photograph. The values have no common scale, so the published
    settings have no threshold.

    A window whose sides are no multiples of the patch size is padded with black pixels on the right and below. This
    happens in images that are smaller than a window. As in the published code, the values of all its patches are
    resized to the window without its padding.

    Cost: memory of 16·N² bytes for N patches of all windows, 138 MB for the published windows of a photograph. With
    ``plus`` about 0.7 kB a pixel for the weights.

    Args:
        plus: whether to propagate over pixels as well, as LPOSS+.
        alpha: weight of the graph, at least 0 and below 1.
        gamma: γ, above 0.
        k: number of nearest patches, the patch itself included, ≥ 1.
        sigma: σ, at least 0, per pixel.
        steps: of the conjugate gradients, ≥ 1. Ten do not converge, so their number is part of the method.
        tau: τ, above 0, in units of Lab/(100, 128, 128).
        side: of the square of a pixel's neighbours, odd and ≥ 3.
    """

    title: ClassVar[str] = "LPOSS, label propagation over patches and pixels"
    source: ClassVar[str] = "https://arxiv.org/abs/2503.19777"
    needs = Needs(vision_features="values", position_resize="output_size")
    reads_windows: ClassVar[bool] = True
    pads_windows: ClassVar[bool] = True
    vision_model: ClassVar[str] = "vit_base_patch16_224.dino"

    plus: bool = False
    alpha: float = 0.95
    gamma: float = 3.0
    k: int = 400
    sigma: float = 0.01
    steps: int = 10
    tau: float = 0.01
    side: int = 13

    def __post_init__(self) -> None:
        check_range("alpha", self.alpha, 0 <= self.alpha < 1, "at least 0 and below 1")
        check_range("sigma", self.sigma, self.sigma >= 0, "0 or more")
        for name in ("gamma", "tau"):
            check_range(name, getattr(self, name), getattr(self, name) > 0, "a number above 0")
        for name in ("k", "steps"):
            check_range(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        check_range("side", self.side, self.side >= 3 and self.side % 2 == 1, "3 or another odd number above it")

    def __call__(self, x: WholeImage) -> WordValues:
        """Compute the propagated cosines."""
        assert x.windows is not None
        assert x.rgb is not None

        def read(tokens: ImageTokens) -> tuple[Tensor, Tensor]:
            assert tokens.vision_features is not None, "needs declares them"
            patches = resize_features(_MASK_CLIP(tokens), tokens.vision_features.grid)
            return (patches @ x.text.features.T).unflatten(1, tokens.vision_features.grid), unit_features(tokens)

        words, features = x.encode(pad_to_patches(x.cut_windows(), x.patch_size, x.black), read)  # [K,h,w,R], [K,N,F]
        values = self.propagate_patches(words, features, x.windows, x.patch_size)
        maps, size = WordMaps.of_windows(values.movedim(3, 1), *x.windows), (x.pixels.shape[1], x.pixels.shape[2])
        if self.plus:
            pixels = maps.at(size)
            options = self.alpha, self.steps, self.tau, self.side
            maps = WordMaps.of_grid(propagate_pixels(pixels, x.rgb / 255, *options))
        has_several_words = len(x.text.features) > len(x.text.classes)
        return ClassMaps(maps, x.text.class_index, size) if has_several_words else maps

    def propagate_patches(
        self, words: Tensor, features: Tensor, windows: tuple[WindowAxis, WindowAxis], patch_size: int
    ) -> Tensor:
        """Propagate the values of patches over all windows.

        Args:
            words: [K,h,w,R] of every window, row by row.
            features: [K,h·w,F] float32, L2-normalised.
            windows: rows and columns.
            patch_size: of CLIP, in pixels.
        Returns:
            [K,h,w,R] float32.
        """
        positions = locate_patches(windows, patch_size, (words.shape[1], words.shape[2])).to(features)
        graph = patch_graph(features.flatten(0, 1), positions, self.k, self.gamma, self.sigma)
        solved = propagate(graph.__matmul__, words.flatten(0, 2).double(), self.alpha, self.steps)
        return solved.float().view_as(words)


def pad_to_patches(views: Tensor, patch_size: int, black: Tensor) -> Tensor:
    """Pad views [K,3,H,W] on the right and below to whole patches, with pixels of the value [3,1,1]."""
    height, width = views.shape[2:]
    rows, columns = (-length % patch_size for length in (height, width))
    if not (rows or columns):
        return views
    padded = black.repeat(len(views), 1, height + rows, width + columns)
    padded[..., :height, :width] = views
    return padded


def unit_features(tokens: ImageTokens) -> Tensor:
    """Return the L2-normalised features of the second vision model, [n,N,F] float32."""
    assert tokens.vision_features is not None
    return F.normalize(tokens.vision_features.features.float(), dim=-1)


def resize_features(features: DenseFeatures, grid: tuple[int, int]) -> Tensor:
    """Resize patch features to another grid (h', w') bilinearly and normalise them, [n,h'·w',D]."""
    if features.grid == grid:
        return features.patches
    maps = features.patches.mT.unflatten(2, features.grid)
    return F.normalize(F.interpolate(maps, grid, mode="bilinear").flatten(2).mT, dim=-1)


def locate_patches(windows: tuple[WindowAxis, WindowAxis], patch_size: int, grid: tuple[int, int]) -> Tensor:
    """Return the centres of the patches of all windows, [K·h·w,2] float32, in pixels of the image.

    Args:
        windows: rows and columns.
        patch_size: of CLIP. The grid covers a window and its padding to whole patches.
        grid: (h, w) of a window, of CLIP or of another model.
    """
    axes = []
    for axis, points in zip(windows, grid, strict=True):
        covered = -(-axis.padded // patch_size) * patch_size
        centres = (torch.arange(points) + 0.5) * covered / points - axis.before
        axes.append(torch.tensor(axis.starts)[:, None] + centres)  # [I,h]
    rows, columns = axes
    size = (len(rows), len(columns), *grid)
    return torch.stack([rows[:, None, :, None].expand(size), columns[None, :, None, :].expand(size)], -1).flatten(0, 3)
