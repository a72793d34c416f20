"""Labels of pixels by the published rule: a softmax over all words, the best word of each class, and two thresholds.

Source: the segmentors of SCLIP (https://github.com/wangf3014/SCLIP) and NACLIP (https://github.com/sinahmr/NACLIP).
Class 0 is the background. The scores of a few rows are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cliptrase_d2.methods.word_maps import ReadRows

# Bound on the values of a band of rows: a CPU's cache, or 64 MiB of float32 on other devices.
_BAND_VALUES_CPU, _BAND_VALUES = 2**19, 2**24


@dataclass(frozen=True)
class DecisionRule:
    """How the values of the words become labels.

    Attributes:
        class_index: [R] int64, the class 0 to C-1 of each word, ascending.
        classes: C.
        scale: factor of the values before the softmax over all words; None for values that are probabilities already.
        prob_thd: least probability of a pixel's class. A pixel below it gets class 0.
        area_thd: least share of a class in the pixels of all classes but 0. The other classes are removed, so that a
            pixel takes its second class; class 0 is never removed. 0 for no removal.
    """

    class_index: Tensor
    classes: int
    scale: float | None
    prob_thd: float = 0.0
    area_thd: float = 0.0


@dataclass(frozen=True)
class Decision:
    """Labels of an image.

    Attributes:
        labels: [H,W] int64, 0 to C-1. The smallest index of equal ones wins.
        kept: [C] bool, the classes that `area_thd` did not remove.
        is_set: [H,W] bool, the pixels whose label is not their most probable class: those whose probability is below
            `prob_thd`, and those that a vote or a refinement has changed.
    """

    labels: Tensor
    kept: Tensor
    is_set: Tensor


def decide(read: ReadRows, size: tuple[int, int], rule: DecisionRule) -> Decision:
    """Return the label of every pixel.

    Only the best word of a pixel and the sum of its exponentials are kept. Without thresholds no exponential is
    computed: the best word of the values is that of their softmax.

    Args:
        read: the values of the words.
        size: (H, W).
        rule: of the decision.
    """
    device = rule.class_index.device
    labels = torch.empty(size, dtype=torch.int64, device=device)
    kept, is_below = (
        torch.ones(rule.classes, dtype=torch.bool, device=device),
        torch.zeros_like(labels, dtype=torch.bool),
    )
    for start, stop in bands(size, rule):
        values = _scaled(read(start, stop), rule)
        best, word = values.max(1)  # [n,W], the first word of equal ones
        labels[start:stop] = rule.class_index[word]
        if rule.prob_thd:
            # The largest probability of a softmax is that of exp(0).
            peak = best if rule.scale is None else (values - best[:, None]).exp_().sum(1).reciprocal_()
            is_below[start:stop] = peak < rule.prob_thd
    if rule.area_thd:
        kept = _find_large_classes(labels, rule)
        _replace_removed(labels, is_below, kept, read, rule)
    return Decision(labels.masked_fill_(is_below, 0), kept, is_below)


def vote_in_regions(decision: Decision, regions: Tensor, classes: int) -> Decision:
    """Give every region its most frequent label, the smallest index of equally frequent ones.

    Args:
        decision: before the vote.
        regions: [H,W] int64, below 0 for pixels in no region, which keep their labels.
        classes: C.
    """
    labels, number = decision.labels, (regions + 1).clamp_min(0)  # 0 for no region
    ballots = torch.bincount((number * classes + labels).flatten(), minlength=(int(number.max()) + 1) * classes)
    voted = torch.where(number > 0, ballots.view(-1, classes).argmax(1)[number], labels)
    return Decision(voted, decision.kept, decision.is_set | (voted != labels))


def class_probabilities(read: ReadRows, size: tuple[int, int], rule: DecisionRule, decision: Decision) -> Tensor:
    """Return the probability of each class, [C,H,W] float32 in [0,1], 0 for removed classes.

    A class has the probability of its best word, so the sum at a pixel is less than 1 if classes have several words.
    """
    result = torch.empty(rule.classes, *size, device=rule.class_index.device)
    for start, stop in bands(size, rule):
        words = _scaled(read(start, stop), rule)
        words = words if rule.scale is None else words.softmax(1)
        result[:, start:stop] = (join_words(words, rule) * decision.kept[:, None]).movedim(1, 0)
    return result


def _find_large_classes(labels: Tensor, rule: DecisionRule) -> Tensor:
    pixels = torch.bincount(labels.flatten(), minlength=rule.classes)
    kept = pixels.double() > rule.area_thd * pixels[1:].sum().double()
    kept[0] = True
    return kept


def _replace_removed(labels: Tensor, is_below: Tensor, kept: Tensor, read: ReadRows, rule: DecisionRule) -> None:
    """Give the pixels of removed classes their best other class, in place. No other pixel changes."""
    is_removed = ~kept[labels]  # [H,W]
    for start, stop in bands((labels.shape[0], labels.shape[1]), rule):
        inside = is_removed[start:stop]
        if not inside.any():
            continue
        words = _scaled(read(start, stop), rule).movedim(1, 2)[inside]  # [P,R]
        words = words if rule.scale is None else words.softmax(1)
        # Removed classes have the probability 0, as in the published code, and are not left out.
        peak, label = (join_words(words, rule) * kept).max(1)  # [P]
        labels[start:stop][inside] = label
        is_below[start:stop][inside] = peak < rule.prob_thd


def join_words(words: Tensor, rule: DecisionRule) -> Tensor:
    """Return the largest value of the words of each class, [n,R,…] to [n,C,…]; values are at least 0."""
    if words.shape[1] == rule.classes:
        return words
    classes = words.new_zeros(words.shape[0], rule.classes, *words.shape[2:])
    index = rule.class_index.view(1, -1, *[1] * (words.dim() - 2)).expand_as(words)
    return classes.scatter_reduce_(1, index, words, "amax")


def _scaled(values: Tensor, rule: DecisionRule) -> Tensor:
    return values if rule.scale is None else values * rule.scale


def bands(size: tuple[int, int], rule: DecisionRule) -> Iterator[tuple[int, int]]:
    """Yield the first row and the end of every band of rows, whose values fit in memory together.

    Args:
        size: (H, W).
        rule: of the decision.
    """
    height, width = size
    values = _BAND_VALUES_CPU if rule.class_index.device.type == "cpu" else _BAND_VALUES
    rows = max(1, values // (len(rule.class_index) * width))
    for start in range(0, height, rows):
        yield start, min(start + rows, height)
