"""The protocol of the published numbers of SCLIP, NACLIP and their successors: windows of pixel logits.

Each window's cosines are upsampled to its pixels, the windows are averaged at each pixel, and the result is resized to
the original size. All of this is linear and separable. It therefore becomes one matrix for each axis, from the patches
of all windows to the rows or columns of the result, and no map of the whole image is stored.

Source: the segmentors of SCLIP (https://github.com/wangf3014/SCLIP) and NACLIP (https://github.com/sinahmr/NACLIP).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.methods import DenseMethod
from cliptrase_d2.pipeline import classify
from cliptrase_d2.pipeline.decision import Decision, DecisionRule, ReadRows, class_probabilities, decide
from cliptrase_d2.pipeline.refinement import refine_maps
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.pipeline.windows import starts
from cliptrase_d2.utils.errors import InputError, check_choice, check_range
from cliptrase_d2.utils.profiling import stage
from cliptrase_d2.vocabulary import BACKGROUND_NAME

Size = tuple[int, int]
AVERAGES = ("logits", "probabilities")
_VALUES_AT_ONCE = 2**24  # of maps whose extremes are computed
_PIXELS_TOGETHER = 2**20  # of windows in one step of the tower


@dataclass(frozen=True, kw_only=True)
class PublishedProtocol:
    """Settings of the protocol. `config.py` explains them under TEST.WINDOW, TEST.STRIDE and TEST.PUBLISHED.

    Raises:
        InputError: a setting is out of range, or windows would leave gaps.
    """

    window: int = 224
    stride: int = 112
    pad_to: int = 0
    average: str = "logits"
    resize_twice: bool = False
    min_max: bool = False
    pamr_steps: int = 0
    pamr_dilations: tuple[int, ...] = (8, 16)
    logit_scale: float = 40.0
    prob_thd: float = 0.0
    area_thd: float = 0.0

    def __post_init__(self) -> None:
        check_choice("average", self.average, AVERAGES)
        for name in ("window", "pad_to", "pamr_steps"):
            check_range(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        if self.window:
            check_range("stride", self.stride, 0 < self.stride <= self.window, f"1 to {self.window}, the window")
        is_list = isinstance(self.pamr_dilations, tuple | list) and len(self.pamr_dilations) > 0
        is_valid = is_list and all(isinstance(one, int) and one > 0 for one in self.pamr_dilations)
        check_range("pamr_dilations", self.pamr_dilations, is_valid, "whole numbers above 0, at least one")
        check_range("logit_scale", self.logit_scale, self.logit_scale > 0, "a number above 0")
        for name in ("prob_thd", "area_thd"):
            check_range(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "0 to 1; 0 for no threshold")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> PublishedProtocol:
        """Read TEST.WINDOW, TEST.STRIDE and the keys of TEST.PUBLISHED.

        Raises:
            InputError: a setting is out of range.
        """
        keys = {"WINDOW": cfg.TEST.WINDOW, "STRIDE": cfg.TEST.STRIDE, **cfg.TEST.PUBLISHED}
        return cls(**{field.name: keys[field.name.upper()] for field in fields(cls)})

    @property
    def is_direct(self) -> bool:
        """Whether patches are resized to the original size in one step, without pixels of the resized image."""
        return not (self.window or self.pad_to or self.resize_twice or self.min_max or self.average != "logits")

    def check_combination(self, method: DenseMethod, settings: CLIPtraseSettings) -> None:
        """Refuse settings of the method that windows of pixel logits cannot be combined with.

        Raises:
            InputError: with the reason.
        """
        protocol = "with TEST.PROTOCOL 'published'"
        if settings.clustering != "none":
            got = f"{settings.clustering!r} {protocol}, whose windows have no common grid of patches to cluster"
            raise InputError("clustering", got, "Set it to 'none', or choose the protocol slide.")
        if settings.cls_logit_weight:
            got = f"True {protocol}, where every window has a class token of its own"
            raise InputError("cls_logit_weight", got, "Set it to False, or choose the protocol slide.")
        if method.refines_logits:
            got = f"refinements of the logits of {settings.method!r} {protocol}, whose windows are upsampled separately"
            raise InputError("method_options", got, "Remove them. For GEM's min_max, set TEST.PUBLISHED.MIN_MAX True.")
        if method.needs.true_labels:
            got = f"the oracle {settings.method!r} {protocol}, whose windows have no true labels"
            raise InputError("method", got, "Choose another method, or the protocol slide.")


@dataclass(frozen=True)
class WindowAxis:
    """One axis of the windows of an image.

    Attributes:
        length: pixels of the image.
        starts: the first pixel of each window. The last window ends at the border.
        side: pixels of a window.
        padded: pixels of a window with its padding, half of which, rounded down, comes first.
        patch: pixels of a patch. Patches cover a window from its start. The remainder has no patch.
        is_direct: whether the points of the only window are stretched over the result in one step.
        points: grid points of a window; by default its patches.
    """

    length: int
    starts: tuple[int, ...]
    side: int
    padded: int
    patch: int
    is_direct: bool
    points: int = 0

    @classmethod
    def place(cls, length: int, patch: int, protocol: PublishedProtocol) -> WindowAxis:
        """Place the windows of a protocol on an axis."""
        side = min(protocol.window, length) if protocol.window else length
        padded = -(-side // protocol.pad_to) * protocol.pad_to if protocol.pad_to else side
        first = tuple(starts(length, side, protocol.stride)) if protocol.window else (0,)
        return cls(length, first, side, padded, patch, protocol.is_direct, padded // patch)

    @property
    def before(self) -> int:
        """Pixels of the padding before a window."""
        return (self.padded - self.side) // 2

    def crop(self, images: Tensor, start: int, axis: int) -> Tensor:
        """Return the pixels of a window along an axis of images, with zeros for the padding."""
        part = images.narrow(axis, start, self.side)
        after = self.padded - self.side - self.before
        if self.padded > self.side:
            part = F.pad(part, [0, 0] * (part.dim() - 1 - axis) + [self.before, after])
        return part


@dataclass(frozen=True)
class WordMaps:
    """The values of all words on grids whose rows and columns are stretched independently.

    Attributes:
        values: [m,R,k] float32, the points of all windows along both axes.
        rows, columns: the axes.
    """

    values: Tensor
    rows: WindowAxis
    columns: WindowAxis

    def reader(self, size: Size) -> ReadRows:
        """Return a function that computes rows of the maps at a size (H, W)."""
        down = stretch(self.rows, size[0])  # [H,m] on the CPU
        wide = self.values @ stretch(self.columns, size[1]).T.to(self.values)  # [m,R,W]

        def read(start: int, stop: int) -> Tensor:
            used = down[start:stop].any(0).nonzero()[:, 0]
            first, end = int(used[0]), int(used[-1]) + 1
            weights = down[start:stop, first:end].to(wide)
            return (weights @ wide[first:end].flatten(1)).unflatten(1, wide.shape[1:])  # [n,R,W]

        return read

    def at(self, size: Size) -> Tensor:
        """Return the maps at a size (H, W), [R,H,W]."""
        wide = self.values.transpose(0, 1) @ stretch(self.columns, size[1]).T.to(self.values)  # [R,m,W]
        return stretch(self.rows, size[0]).to(wide) @ wide

    def min_max(self) -> WordMaps:
        """Return the maps with each word scaled to 0 to 1 over the pixels of the resized image."""
        size = (self.rows.length, self.columns.length)
        read, words = self.reader(size), self.values.shape[1]
        count = max(1, _VALUES_AT_ONCE // (words * size[1]))
        bands = (read(start, min(start + count, size[0])) for start in range(0, size[0], count))
        extremes = torch.stack([torch.stack([band.amin((0, 2)), band.amax((0, 2))]) for band in bands])  # [bands,2,R]
        least, greatest = extremes[:, 0].amin(0)[:, None], extremes[:, 1].amax(0)[:, None]  # [R,1]
        # Scaling the points scales the pixels equally: each is a mean of points.
        span = (greatest - least).clamp_min(torch.finfo(least.dtype).tiny)
        return replace(self, values=(self.values - least) / span)


@dataclass(frozen=True)
class PublishedLabels:
    """The result of one image.

    Attributes:
        maps: of the words, before any refinement.
        read: rows of their values at the original size.
        rule: of the decision, in the published order of classes.
        decision: its result, in that order.
        order: [C] int64, the class of the vocabulary of each published class.
        grid: (h, w) of the image's patches.
    """

    maps: WordMaps
    read: ReadRows
    rule: DecisionRule
    decision: Decision
    order: Tensor
    grid: Size

    @property
    def classes(self) -> int:
        """Number of classes, C."""
        return len(self.order)

    @property
    def labels(self) -> Tensor:
        """The class of the vocabulary of each pixel, [H,W] int64."""
        return self.order[self.decision.labels]

    def probabilities(self) -> Tensor:
        """Return probabilities whose argmax is the label, [C,H,W] float32, in the order of the vocabulary.

        A removed class has 0, and so has every class but the background at a pixel below the threshold.
        """
        decision = self.decision
        height, width = decision.labels.shape
        result = class_probabilities(self.read, (height, width), self.rule, decision)
        result[1:] *= ~decision.is_below
        return result[self.order.argsort()]

    def coarse_scores(self) -> Tensor:
        """Return the probability of each class on the grid, [C,h,w] float32 with sum 1, without refinement."""
        values = self.maps.at(self.grid)
        tiny = torch.finfo(values.dtype).tiny
        logits = values.clamp_min(tiny).log() if self.rule.scale is None else self.rule.scale * values
        return classify.class_probabilities(logits, self.rule.class_index, self.classes)[self.order.argsort()]


def encode_windows(
    images: Tensor, windows: tuple[WindowAxis, WindowAxis], encode: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the cosines of all windows, [B,K,R,h,w].

    Windows are encoded together, up to about a megapixel or the number of images.

    Args:
        images: [B,3,H,W] normalised.
        windows: rows and columns.
        encode: [n,3,H',W'] in whole patches to the cosines of all words, [n,R,h,w].
    """
    views = cut_windows(images, *windows)
    together = max(len(images), _PIXELS_TOGETHER // (views.shape[2] * views.shape[3]))
    return torch.cat([encode(part) for part in views.split(together)]).unflatten(0, (len(images), -1))


@stage("classification")
def label_pixels(
    cosines: Tensor,
    image: Tensor,
    text: TextFeatures,
    windows: tuple[WindowAxis, WindowAxis],
    size: Size,
    protocol: PublishedProtocol,
) -> PublishedLabels:
    """Label the pixels of an image.

    Args:
        cosines: [K,R,h,w] of every window, row by row.
        image: [3,H',W'] normalised.
        text: of the words.
        windows: rows and columns.
        size: (H, W) of the result.
        protocol: of the evaluation.
    """
    words, class_index, order = put_background_first(text)
    maps, scale = join_windows(cosines[:, words], *windows, protocol)
    read = refine_by_colour(maps, image, size, protocol)
    rule = DecisionRule(class_index, len(order), scale, protocol.prob_thd, protocol.area_thd)
    grid = windows[0].length // windows[0].patch, windows[1].length // windows[1].patch
    return PublishedLabels(maps, read, rule, decide(read, size, rule), order, (max(1, grid[0]), max(1, grid[1])))


def place_windows(
    size: Size, patch: int, protocol: PublishedProtocol, name: str = "image"
) -> tuple[WindowAxis, WindowAxis]:
    """Return the axes of the windows of an image, rows and columns.

    Args:
        size: (H, W) of the resized image.
        patch: pixels.
        protocol: of the evaluation.
        name: of the image, for error messages.
    Raises:
        InputError: the image is smaller than a patch.
    """
    rows, columns = (WindowAxis.place(length, patch, protocol) for length in size)
    if not (rows.points and columns.points):
        got = f"windows of {columns.side}x{rows.side} pixels, less than one patch of {patch}"
        raise InputError(name, got, "Use the protocol whole, or raise TEST.WINDOW or INPUT.MAX_SIZE_TEST.")
    return rows, columns


def cut_windows(images: Tensor, rows: WindowAxis, columns: WindowAxis) -> Tensor:
    """Cut windows out of images, [B,3,H,W] to [B·K,3,H',W'], all windows of the first image first.

    The remainder behind the last whole patch is left out, as CLIP's convolution does.
    """
    parts = [
        columns.crop(rows.crop(images, top, 2), left, 3) for top in rows.starts for left in columns.starts
    ]  # each [B,3,H',W']
    return torch.stack(parts, dim=1).flatten(0, 1)


def join_windows(
    cosines: Tensor, rows: WindowAxis, columns: WindowAxis, protocol: PublishedProtocol
) -> tuple[WordMaps, float | None]:
    """Average the windows of an image.

    Args:
        cosines: [K,R,h,w] of every window, row by row.
        rows, columns: of the windows.
        protocol: of the evaluation.
    Returns:
        The maps of the words, and the factor before the softmax; None for maps of probabilities.
    """
    height, width = cosines.shape[2:]
    rows, columns = replace(rows, points=height), replace(columns, points=width)
    windows = cosines.unflatten(0, (len(rows.starts), len(columns.starts)))  # [I,J,R,h,w]
    if protocol.average == "probabilities":
        joined, scale = _average_probabilities(windows, rows, columns, protocol.logit_scale), None
    else:
        values = windows.permute(0, 3, 2, 1, 4).flatten(3).flatten(0, 1)  # [I·h,R,J·w]
        joined, scale = WordMaps(values, rows, columns), protocol.logit_scale
    return joined.min_max() if protocol.min_max else joined, scale


def refine_by_colour(maps: WordMaps, image: Tensor, size: Size, protocol: PublishedProtocol) -> ReadRows:
    """Return the rows of the maps at a size (H, W), refined by PAMR if the protocol asks for it.

    Refined maps of all words are kept, [R,H,W].

    Args:
        maps: of the words.
        image: [3,H',W'] normalised.
        size: of the result.
        protocol: of the evaluation.
    """
    if not protocol.pamr_steps:
        return maps.reader(size)
    colours = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
    refined = refine_maps(maps.at(size), colours, protocol.pamr_steps, protocol.pamr_dilations)
    return lambda start, stop: refined[:, start:stop].movedim(0, 1)


def put_background_first(text: TextFeatures) -> tuple[Tensor, Tensor, Tensor]:
    """Return the published order of words and classes, in which the background is class 0.

    The order decides ties and the class of pixels below a threshold. Without a class "background" it is that of `text`.

    Returns:
        The row of `text` of each word, [R] int64; its published class, [R] int64, ascending; and the class of `text` of
        each published class, [C] int64.
    """
    first = text.classes.index(BACKGROUND_NAME) if BACKGROUND_NAME in text.classes else 0
    others = [index for index in range(len(text.classes)) if index != first]
    order = torch.tensor([first, *others], device=text.class_index.device)
    class_index, words = order.argsort()[text.class_index].sort(stable=True)
    return words, class_index, order


@lru_cache(maxsize=64)  # the images of a data set have few sizes
@torch.inference_mode(False)  # training cannot use inference tensors that an evaluation has cached
def stretch(axis: WindowAxis, size: int) -> Tensor:
    """Return the matrix from the points of all windows to the pixels of a result, [size,K·points] float32 on the CPU.

    Points are upsampled to the window, its padding is cut off, windows are averaged at every pixel, and the image is
    resized. Each row sums to 1.
    """
    if axis.is_direct:
        return _interpolation(axis.points, size).float()
    inside = _interpolation(axis.points, axis.padded)[axis.before : axis.before + axis.side]  # [side,points]
    mean = inside.new_zeros(axis.length, len(axis.starts), axis.points)
    for window, start in enumerate(axis.starts):
        mean[start : start + axis.side, window] = inside
    mean = mean.flatten(1) / mean.sum((1, 2))[:, None]  # by the number of windows
    return (_interpolation(axis.length, size) @ mean).float()


def _interpolation(points: int, size: int) -> Tensor:
    """Return the matrix of PyTorch's linear interpolation with align_corners off, [size,points] float64."""
    return F.interpolate(torch.eye(points)[None], size, mode="linear", align_corners=False)[0].T.double()


def _average_probabilities(windows: Tensor, rows: WindowAxis, columns: WindowAxis, scale: float) -> WordMaps:
    """Average the softmax over all words of [I,J,R,h,w] at each pixel of the windows."""
    down, right = (
        _interpolation(axis.points, axis.padded)[axis.before : axis.before + axis.side].to(windows)
        for axis in (rows, columns)
    )
    total = windows.new_zeros(rows.length, windows.shape[2], columns.length)  # [H,R,W]
    count = windows.new_zeros(rows.length, 1, columns.length)
    for line, top in zip(windows, rows.starts, strict=True):
        for cosines, left in zip(line, columns.starts, strict=True):
            place = slice(top, top + rows.side), slice(None), slice(left, left + columns.side)
            total[place] += (scale * (down @ cosines @ right.T)).softmax(0).movedim(0, 1)
            count[place] += 1
    pixels = (replace(axis, starts=(0,), is_direct=True, points=axis.length) for axis in (rows, columns))
    return WordMaps(total.div_(count), *pixels)
