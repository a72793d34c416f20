"""The protocol of the published numbers of SCLIP, NACLIP and their successors: windows of pixel logits.

Each window's cosines are upsampled to its pixels, the windows are averaged at each pixel, and the result is resized to
the original size. All of this is linear and separable. It therefore becomes one matrix for each axis, from the patches
of all windows to the rows or columns of the result, and no map of the whole image is stored.

Source: the segmentors of SCLIP (https://github.com/wangf3014/SCLIP) and NACLIP (https://github.com/sinahmr/NACLIP).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.methods import DenseMethod, ImageMethod, Method
from cliptrase_d2.methods.word_maps import (
    ReadRows,
    Size,
    WindowAxis,
    WordMaps,
    WordValues,
    cut_windows,
    interpolation,
)
from cliptrase_d2.pipeline import classify
from cliptrase_d2.pipeline.decision import Decision, DecisionRule, class_probabilities, decide, vote_in_regions
from cliptrase_d2.pipeline.refinement import refine_maps
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.pipeline.windows import starts
from cliptrase_d2.utils.errors import InputError, check_choice, check_range
from cliptrase_d2.utils.profiling import stage
from cliptrase_d2.vocabulary import BACKGROUND_NAME

AVERAGES = ("logits", "probabilities")
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
    experts: str = ""
    region_vote: bool = False
    sam_refinement: float = 0.0

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
        for name, off in {"prob_thd": "threshold", "area_thd": "threshold", "sam_refinement": "refinement"}.items():
            check_range(name, getattr(self, name), 0 <= getattr(self, name) <= 1, f"0 to 1; 0 for no {off}")

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
        return not (self.window or self.pad_to or self.resize_twice or self.min_max or self.averages_probabilities)

    @property
    def averages_probabilities(self) -> bool:
        """Whether windows of probabilities are averaged. Experts have only these."""
        return self.average == "probabilities" or bool(self.experts)

    def reads_masks(self, method: Method) -> bool:
        """Return whether a method or the vote of regions reads masks."""
        return self.region_vote or method.needs.regions

    def reads_sam(self, method: Method) -> bool:
        """Return whether a method or the refinement reads SAM."""
        return self.sam_refinement > 0 or method.needs.sam

    def needs_photograph(self, method: Method) -> bool:
        """Return whether a method, the vote of regions or the refinement reads the photograph at its full size."""
        return method.needs.photograph or self.region_vote or self.sam_refinement > 0

    def check_combination(self, method: DenseMethod | ImageMethod, settings: CLIPtraseSettings) -> None:
        """Refuse settings that pixel logits, or the method's own way to them, cannot be combined with.

        Raises:
            InputError: with the reason.
        """
        if self.region_vote and settings.clustering == "none":
            raise InputError("region_vote", "True without masks", "Set MODEL.CLIPTRASE.CLUSTERING, or set it to False.")
        if isinstance(method, ImageMethod):
            self._check_image_method(method, settings)
        else:
            self._check_dense_method(method, settings)

    def _check_image_method(self, method: ImageMethod, settings: CLIPtraseSettings) -> None:
        name = settings.method
        if settings.clustering != "none" and not self.reads_masks(method):
            got = f"{settings.clustering!r}, but {name!r} reads no masks"
            raise InputError("clustering", got, "Set it to 'none'.")
        inapplicable = {"average": "logits", "min_max": False, "experts": ""}
        if not method.reads_windows:
            inapplicable |= {"pad_to": 0, "resize_twice": False}
        for setting, default in inapplicable.items():
            if (value := getattr(self, setting)) != default:
                got = f"{value!r}, but {name!r} computes the values of all words from the whole image"
                raise InputError(setting, got, f"Set it to {default!r}.")

    def _check_dense_method(self, method: DenseMethod, settings: CLIPtraseSettings) -> None:
        protocol = "with TEST.PROTOCOL 'published'"
        if settings.clustering != "none" and not self.reads_masks(method):
            got = f"{settings.clustering!r} {protocol}, whose windows have no common grid of patches to cluster"
            raise InputError("clustering", got, "Set it to 'none', TEST.PUBLISHED.REGION_VOTE True, or choose slide.")
        if settings.cls_logit_weight:
            got = f"True {protocol}, where every window has a class token of its own"
            raise InputError("cls_logit_weight", got, "Set it to False, or choose the protocol slide.")
        if method.refines_logits:
            got = f"refinements of the logits of {settings.method!r} {protocol}, whose windows are upsampled separately"
            raise InputError("method_options", got, "Remove them. For GEM's min_max, set TEST.PUBLISHED.MIN_MAX True.")
        if self.experts and method.needs.regions:
            got = f"a file of templates, but {settings.method!r} reads the masks of every window"
            raise InputError("experts", got, "Set it to '', or choose another method.")
        if method.needs.true_labels:
            got = f"the oracle {settings.method!r} {protocol}, whose windows have no true labels"
            raise InputError("method", got, "Choose another method, or the protocol slide.")


class PublishedText(NamedTuple):
    """A vocabulary in the published order.

    Attributes:
        features: of the words, those of the background first.
        words: [R] int64, the row of the original features of each word.
        order: [C] int64, the class of the original vocabulary of each class.
    """

    features: TextFeatures
    words: Tensor
    order: Tensor


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

    maps: WordValues
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

    def vote(self, regions: Tensor) -> PublishedLabels:
        """Return the result after the vote of regions, [H,W] int64, see `vote_in_regions`."""
        return replace(self, decision=vote_in_regions(self.decision, regions, self.classes))

    def redraw(self, refine: Callable[[Tensor, Tensor], Tensor]) -> PublishedLabels:
        """Return the result after a refinement of its labels.

        Args:
            refine: labels [H,W] int64 and probabilities of the classes [C,H,W], both in the published order, to labels.
        """
        decision = self.decision
        height, width = decision.labels.shape
        labels = refine(decision.labels, class_probabilities(self.read, (height, width), self.rule, decision))
        is_set = decision.is_set | (labels != decision.labels)
        return replace(self, decision=Decision(labels, decision.kept, is_set))

    def probabilities(self) -> Tensor:
        """Return probabilities whose argmax is the label, [C,H,W] float32, in the order of the vocabulary.

        A removed class has 0, and so has every class but the label at a pixel below the threshold, or one whose label
        a vote or a refinement has changed.
        """
        decision = self.decision
        height, width = decision.labels.shape
        result = class_probabilities(self.read, (height, width), self.rule, decision)
        own = result.gather(0, decision.labels[None])
        result *= ~decision.is_set
        result.scatter_(0, decision.labels[None], own)
        return result[self.order.argsort()]

    def coarse_scores(self) -> Tensor:
        """Return the probability of each class on the grid, [C,h,w] float32 with sum 1, without refinement."""
        values = self.maps.at(self.grid)
        tiny = torch.finfo(values.dtype).tiny
        logits = values.clamp_min(tiny).log() if self.rule.scale is None else self.rule.scale * values
        return classify.class_probabilities(logits, self.rule.class_index, self.classes)[self.order.argsort()]


def encode_windows(
    images: Tensor,
    windows: tuple[WindowAxis, WindowAxis],
    encode: Callable[..., Tensor],
    regions: Tensor | None = None,
) -> Tensor:
    """Return the cosines of all windows, [B,K,R,h,w].

    Windows are encoded together, up to about a megapixel or the number of images.

    Args:
        images: [B,3,H,W] normalised.
        windows: rows and columns.
        encode: [n,3,H',W'] in whole patches, and the part of `regions` if there are any, to the cosines of all words,
            [n,R,h,w].
        regions: [B·K,…] of all windows, all of the first image first; None from a method that needs none.
    """
    views = [cut_windows(images, *windows), *([] if regions is None else [regions])]
    (cosines,) = encode_together(views, len(images), lambda *part: (encode(*part),))
    return cosines.unflatten(0, (len(images), -1))


def encode_together(
    views: Sequence[Tensor], least: int, encode: Callable[..., tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Encode views, about a megapixel or `least` of them at a time.

    Args:
        views: [n,3,H,W], and more that belongs to the views, [n,…].
        least: number of views, 1 or more.
        encode: some views, and their parts of the rest, to tensors, each [n',…].
    Returns:
        The tensors of all views, each [n,…].
    """
    together = max(least, _PIXELS_TOGETHER // (views[0].shape[2] * views[0].shape[3]))
    parts = [encode(*part) for part in zip(*(one.split(together) for one in views), strict=True)]
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def label_windows(
    cosines: Tensor,
    image: Tensor,
    text: PublishedText,
    windows: tuple[WindowAxis, WindowAxis],
    size: Size,
    protocol: PublishedProtocol,
) -> PublishedLabels:
    """Label the pixels of an image by its windows.

    Args:
        cosines: [K,R,h,w] of every window, row by row, in the original order of words.
        image: [3,H',W'] normalised.
        text: of the words.
        windows: rows and columns.
        size: (H, W) of the result.
        protocol: of the evaluation.
    """
    maps, scale = join_windows(cosines[:, text.words], *windows, protocol)
    return label_pixels(maps, scale, image, text, (windows[0].patch, windows[1].patch), size, protocol)


@stage("classification")
def label_pixels(
    maps: WordValues,
    scale: float | None,
    image: Tensor,
    text: PublishedText,
    patch: Size,
    size: Size,
    protocol: PublishedProtocol,
) -> PublishedLabels:
    """Label the pixels of an image by the values of the words.

    Args:
        maps: of the words, in their published order.
        scale: as in `DecisionRule`.
        image: [3,H',W'] normalised.
        text: of the words.
        patch: (height, width) of a patch in pixels.
        size: (H, W) of the result.
        protocol: of the evaluation.
    """
    read = refine_by_colour(maps, image, size, protocol)
    rule = DecisionRule(text.features.class_index, len(text.order), scale, protocol.prob_thd, protocol.area_thd)
    height, width = (max(1, length // side) for length, side in zip(image.shape[1:], patch, strict=True))
    return PublishedLabels(maps, read, rule, decide(read, size, rule), text.order, (height, width))


def place_axis(length: int, patch: int, protocol: PublishedProtocol) -> WindowAxis:
    """Place the windows of a protocol on an axis of an image, in pixels."""
    side = min(protocol.window, length) if protocol.window else length
    padded = -(-side // protocol.pad_to) * protocol.pad_to if protocol.pad_to else side
    first = tuple(starts(length, side, protocol.stride)) if protocol.window else (0,)
    return WindowAxis(length, first, side, padded, patch, protocol.is_direct, padded // patch)


def place_windows(
    size: Size, patch: int, protocol: PublishedProtocol, name: str = "image", *, may_be_small: bool = False
) -> tuple[WindowAxis, WindowAxis]:
    """Return the axes of the windows of an image, rows and columns.

    Args:
        size: (H, W) of the resized image.
        patch: pixels.
        protocol: of the evaluation.
        name: of the image, for error messages.
        may_be_small: whether windows may be smaller than a patch, for methods that pad them.
    Raises:
        InputError: the image is smaller than a patch.
    """
    rows, columns = (place_axis(length, patch, protocol) for length in size)
    if not may_be_small and not (rows.points and columns.points):
        got = f"windows of {columns.side}x{rows.side} pixels, less than one patch of {patch}"
        raise InputError(name, got, "Use the protocol whole, or raise TEST.WINDOW or INPUT.MAX_SIZE_TEST.")
    return rows, columns


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
    if protocol.averages_probabilities:
        maps = _window_probabilities(cosines, rows, columns, protocol.logit_scale)
        joined, scale = average_windows(maps, rows, columns), None
    else:
        joined, scale = WordMaps.of_windows(cosines, rows, columns), protocol.logit_scale
    return joined.min_max() if protocol.min_max else joined, scale


def refine_by_colour(maps: WordValues, image: Tensor, size: Size, protocol: PublishedProtocol) -> ReadRows:
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


def put_background_first(text: TextFeatures) -> PublishedText:
    """Return the published order of words and classes, in which the background is class 0.

    The order decides ties and the class of pixels below a threshold. Without a class "background" it is that of `text`.
    """
    first = text.classes.index(BACKGROUND_NAME) if BACKGROUND_NAME in text.classes else 0
    others = [index for index in range(len(text.classes)) if index != first]
    order = torch.tensor([first, *others], device=text.class_index.device)
    class_index, words = order.argsort()[text.class_index].sort(stable=True)
    classes = tuple(text.classes[index] for index in (first, *others))
    return PublishedText(TextFeatures(text.features[words], class_index, classes), words, order)


def average_windows(maps: Iterable[Tensor], rows: WindowAxis, columns: WindowAxis) -> WordMaps:
    """Average maps of windows at each pixel of the image.

    Args:
        maps: [R,H',W'] of every window, row by row.
        rows, columns: of the windows.
    """
    total, count = None, torch.zeros(rows.length, 1, columns.length)
    corners = [(top, left) for top in rows.starts for left in columns.starts]
    for (top, left), part in zip(corners, maps, strict=True):
        if total is None:
            total = part.new_zeros(rows.length, len(part), columns.length)  # [H,R,W]
        place = slice(top, top + rows.side), slice(None), slice(left, left + columns.side)
        total[place] += part.movedim(0, 1)
        count[place] += 1
    assert total is not None, "there is at least one window"
    return WordMaps.of_grid(total.div_(count.to(total)).movedim(1, 0))


def interpolate_window(points: Size, rows: WindowAxis, columns: WindowAxis, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrices from the points (h, w) of a window to its pixels, [H',h] and [W',w], as `like` is stored."""
    down, right = (
        interpolation(count, axis.padded)[axis.before : axis.before + axis.side].to(like)
        for count, axis in zip(points, (rows, columns), strict=True)
    )
    return down, right


def _window_probabilities(cosines: Tensor, rows: WindowAxis, columns: WindowAxis, scale: float) -> Iterator[Tensor]:
    """Yield the softmax over all words at the pixels of each window, [K,R,h,w] to [R,H',W']."""
    down, right = interpolate_window((cosines.shape[2], cosines.shape[3]), rows, columns, cosines)
    for part in cosines:
        yield (scale * (down @ part @ right.T)).softmax(0)
