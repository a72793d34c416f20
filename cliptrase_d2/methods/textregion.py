"""TextRegion: one token for each mask, pooled from the values of the last block at two resolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.siglip import SiglipTokens
from cliptrase_d2.clip.tokens import ImageTokens, Needs, TextFeatures
from cliptrase_d2.methods.base import ImageMethod, register_method
from cliptrase_d2.methods.regions import PaintedRegions, average_inside, compare_inside_and_outside, weigh_patches
from cliptrase_d2.methods.self_attention import sum_self_attention
from cliptrase_d2.methods.whole_image import WholeImage
from cliptrase_d2.methods.word_maps import Size, WordMaps
from cliptrase_d2.utils.errors import check_range


@register_method("textregion")
class TextRegion(ImageMethod):
    """Pool CLIP's values with masks into one token per region, and paint the masks with the cosines of the tokens.

    The tower reads the whole image and its crops, each resized to a square. V is the sum of the values of the last
    block at both resolutions, on the grid of all crops. With the masks a on this grid, the cosines z of the words are::

        t[k] = Σ a[k,p]·V[p] over the patches p
        z[k] = cosine(projection(norm(out_proj(t[k]))), word)
        pixel = Σ z[k]·clamp(mask[k], 0, 1) over the masks k

    Before, a patch is removed from all masks if it resembles other regions as much as its own::

        mean cosine to the patches of its own masks - mean cosine to those of the other masks < patch_threshold

    Where no mask is left, pixels have the cosines of SCLIP's patch features, summed over both resolutions. The masks
    are those of MODEL.MASKS at the size of the photograph. TextRegion has crops of its own and ignores TEST.WINDOW.

    SigLIP 2 has no values that a projection brings to the words. V is its last tokens, those of the whole image halved
    where there are crops, and the attentional pooling reads the mean of its own values over the patches of a mask::

        z[k] = cosine(norm(out_proj(mean of pool_value(V[p]) over a[k,p] > 0)), word)·scale + bias

    Pixels outside all masks have the value 0 for every word.

    Args:
        patch_threshold: of that difference of cosines; -2 to remove no patch.
        crop_size: side of the square to which image and crops are resized, in pixels, and least side of a crop. It is
            rounded to whole patches. SigLIP 2 has the size of its training instead.
        crops: whether to read crops besides the whole image.
        halves: whether to read the left and the right half of the image in place of the whole image, as for Cityscapes.
        antialias: whether to resize with antialiasing. The published code does since torchvision 0.17.
        normalised_values: whether to pool L2-normalised values, as the published code does with float32 weights, by
            accident.
    Raises:
        InputError: an option is out of range.
    """

    title = "TextRegion, one token per mask"
    source = "https://arxiv.org/abs/2505.23769"
    needs = Needs(regions=True, photograph=True)
    towers = ("clip", "siglip2")

    def __init__(
        self,
        patch_threshold: float = 0.07,
        crop_size: int = 336,
        crops: bool = True,
        halves: bool = False,
        antialias: bool = True,
        normalised_values: bool = False,
    ):
        check_range("patch_threshold", patch_threshold, -2 <= patch_threshold <= 2, "a number from -2 to 2")
        check_range("crop_size", crop_size, crop_size >= 1, "1 or more")
        self.patch_threshold, self.crop_size, self.crops, self.halves = patch_threshold, crop_size, crops, halves
        self.antialias, self.normalised_values = antialias, normalised_values

    def __call__(self, x: WholeImage) -> PaintedRegions:
        """Compute the values of all words, at most 1 per mask and pixel, or 2 where there is no mask."""
        assert x.masks is not None, "the method declares regions"
        values, background = self.encode(x)
        weights = weigh_patches(x.masks, (values.shape[1], values.shape[2])).flatten(1)  # [K,P]
        kept, weights = self.remove_patches(weights, values.flatten(1).T)
        regions = self.describe_regions(x, weights, values.flatten(1).T)
        masks = x.masks if kept.all() else x.masks[kept]
        return PaintedRegions(masks, x.score(regions), WordMaps.of_grid(background))

    def encode(self, x: WholeImage) -> tuple[Tensor, Tensor]:
        """Return the values V, [E,h,w], and those of the words where there is no mask, [R,h',w']; float32."""
        is_siglip = isinstance(x.tower, SiglipTokens)
        side = x.fixed_side or max(1, round(self.crop_size / x.patch_size)) * x.patch_size
        whole = x.pixels[None]
        tiles = count_crops((whole.shape[2], whole.shape[3]), side) if self.crops else (1, 1)
        large = whole.tensor_split(2, dim=3) if self.halves and whole.shape[3] > 1 else (whole,)
        views = [*large, *(cut_crops(whole, tiles) if self.crops else ())]
        squares = torch.cat([self._resize(view, side) for view in views])
        if is_siglip:
            (maps,) = x.encode(squares, _read_siglip)
            values = join_views(maps, len(large), tiles, 0.5 if self.crops else 1.0)
            return values, values.new_zeros(len(x.text.features), 1, 1)
        encoded = x.encode(squares, lambda tokens: _read(tokens, x.text))
        values, cosines = (join_views(maps, len(large), tiles) for maps in encoded)
        return values, cosines

    def remove_patches(self, weights: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Remove patches that belong to no region, then masks without a patch.

        Args:
            weights: [K,P] in [0,1].
            values: [P,E].
        Returns:
            [K] bool, the masks that are left, and their weights.
        """
        kept = weights.sum(1) > 0
        if kept.any():
            is_global = compare_inside_and_outside(weights[kept], values) < self.patch_threshold  # [P]
            weights = weights.masked_fill(is_global, 0)
            kept = weights.sum(1) > 0
        return kept, weights[kept]

    def describe_regions(self, x: WholeImage, weights: Tensor, values: Tensor) -> Tensor:
        """Return the feature of every region, [K,P] and [P,E] to [K,D] L2-normalised."""
        if isinstance(x.tower, SiglipTokens):
            return x.tower.finish_pool(x.tower.pool_values(average_inside(weights, values)))
        pooled = weights @ (F.normalize(values, dim=-1) if self.normalised_values else values)  # [K,E]
        tokens = x.tower.finish_block(pooled[None, None], residual=False, mlp=False)  # [1,K,E]
        return x.tower.to_features(tokens, has_class_token=False, grid=(1, len(pooled))).patches[0]

    def _resize(self, view: Tensor, side: int) -> Tensor:
        return F.interpolate(view, (side, side), mode="bicubic", align_corners=False, antialias=self.antialias)


def count_crops(size: Size, side: int) -> Size:
    """Return the rows and columns of the crops of an image (H, W), no smaller than `side` if the image is not."""
    return max(size[0] // side, 1), max(size[1] // side, 1)


def cut_crops(image: Tensor, tiles: Size) -> list[Tensor]:
    """Cut an image [1,3,H,W] into crops of one size, row by row. The last of a row or column ends at the border."""
    height, width = (-(-length // count) for length, count in zip(image.shape[2:], tiles, strict=True))
    rows, columns = (
        [min(index * side, length - side) for index in range(count)]
        for length, side, count in zip(image.shape[2:], (height, width), tiles, strict=True)
    )
    return [image[:, :, top : top + height, left : left + width] for top in rows for left in columns]


def join_views(maps: Tensor, large: int, tiles: Size, weight: float = 1.0) -> Tensor:
    """Add maps of the whole image, resized to the grid of all crops, and those of the crops.

    Args:
        maps: [n,C,g,g], of the whole image or its two halves, then of its crops, if there are any.
        large: 1 for the whole image, 2 for halves.
        tiles: rows and columns of crops.
        weight: of the whole image.
    Returns:
        [C,h,w].
    """
    height, width = maps.shape[2] * tiles[0], maps.shape[3] * tiles[1]
    widths = (width // 2, width - width // 2) if large == 2 else (width,)
    resized = [
        F.interpolate(part, (height, columns), mode="bilinear", align_corners=False)[0]
        for part, columns in zip(maps[:large].split(1), widths, strict=True)
    ]
    joined = torch.cat(resized, dim=2) * weight
    if len(maps) == large:
        return joined
    crops = maps[large:].unflatten(0, tiles)  # [I,J,C,g,g]
    return joined + crops.permute(2, 0, 3, 1, 4).reshape(joined.shape)


def _read_siglip(tokens: ImageTokens) -> tuple[Tensor]:
    """Return the last tokens of SigLIP 2, [n,E,g,g]."""
    assert isinstance(tokens, SiglipTokens)
    return (tokens.patches.float().transpose(1, 2).unflatten(2, tokens.grid),)


def _read(tokens: ImageTokens, text: TextFeatures) -> tuple[Tensor, Tensor]:
    """Return the values of the last block, [n,E,g,g], and the cosines of SCLIP's patch features, [n,R,g,g]."""
    query, key, value = tokens.qkv()
    features = tokens.to_features(tokens.finish_block(sum_self_attention((query, key), value)))
    cosines = (features.patches @ text.features.T).transpose(1, 2)
    values = value[:, :, 1:].transpose(2, 3).flatten(1, 2).float()  # [n,E,N], heads side by side
    return values.unflatten(2, tokens.grid), cosines.float().unflatten(2, tokens.grid)
