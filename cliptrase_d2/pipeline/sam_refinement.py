"""Refinement of labels by SAM's decoder, whose prompts are the regions of the labels.

Source: Trident, https://arxiv.org/abs/2411.09219, and its code, https://github.com/YuHengsss/Trident.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.utils.profiling import stage
from cliptrase_d2.vision_models.sam_model import PromptedSam, Prompts

Size = tuple[int, int]
_LEAST_PIXELS = 225  # of a region, at half the resolution
_LEAST_IOU = 0.8  # that SAM predicts for a mask
_MASK_FACTOR = 0.005  # of the probabilities in a mask prompt


@stage("refinement")
def refine_labels(
    sam: PromptedSam, embedding: Tensor, seen: Size, labels: Tensor, probabilities: Tensor, threshold: float
) -> Tensor:
    """Return labels after SAM has redrawn their regions, [H,W] int64.

    The regions are found at half the resolution, see `find_prompts`. SAM draws one mask of each region, and masks whose
    predicted IoU is 0.8 or less are left out. The rest is `merge_masks`.

    Args:
        sam: a SAM, no SAM 2.
        embedding: of the photograph.
        seen: (H', W') of the photograph as SAM has encoded it.
        labels: [H,W] int64, 0 to C-1.
        probabilities: [C,H,W] of the classes.
        threshold: least probability of a pixel's best class for the pixel to be part of a region, above 0.
    """
    size = labels.shape[0], labels.shape[1]
    half = size[0] // 2, size[1] // 2
    if half[0] * half[1] < _LEAST_PIXELS:
        return labels
    small_labels = F.interpolate(labels[None, None].float(), half, mode="nearest")[0, 0].long()
    small = F.interpolate(probabilities[None], half, mode="bilinear")[0]

    def draw() -> Iterator[tuple[int, Tensor]]:
        for label, prompts in find_prompts(small_labels, small, threshold):
            mask = make_mask_prompt(sam, small[label], size, threshold)
            prompted = sam.add_mask_prompt(embedding, mask)
            for logits, scores in sam.predict(prompted, prompts, half, multimask=False):
                for one in logits[scores > _LEAST_IOU]:
                    # In two steps, as in the published code.
                    enlarged = sam.enlarge(one[None], seen, seen)[None]
                    yield label, F.interpolate(enlarged, size, mode="bilinear")[0, 0]

    return merge_masks(labels, probabilities, draw())


def find_prompts(labels: Tensor, probabilities: Tensor, threshold: float) -> Iterator[tuple[int, Prompts]]:
    """Yield the classes that have regions, in ascending order, and a point and a box of every region.

    Regions are the components of the pixels of a class whose best probability reaches the threshold. They have at least
    225 pixels, and pixels that touch at a corner are connected. The point is the first pixel of the largest probability
    of the class. A class is left out if its own probability reaches the threshold nowhere.

    Args:
        labels: [h,w] int64, 0 to C-1.
        probabilities: [C,h,w] of the classes.
        threshold: of the probabilities.
    """
    is_certain = probabilities.amax(0) >= threshold
    scale = torch.tensor([labels.shape[1], labels.shape[0]], device=labels.device)
    for label in labels[is_certain].unique().tolist():
        if probabilities[label].max() < threshold:
            continue
        inside = ((labels == label) & is_certain).byte().cpu().numpy()
        corners = _find_regions(inside, probabilities[label].cpu().numpy())
        if len(corners):
            positions = torch.from_numpy(corners).to(scale) / scale.repeat(3)
            points, boxes = positions[:, None, 4:], positions[:, :4]
            yield label, Prompts(points, torch.ones_like(points[..., 0], dtype=torch.bool), boxes)


def _find_regions(inside: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return the box of every region, with its last pixels, and the point of the largest probability, [n,6] int64."""
    _, numbers, statistics, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    found = []
    for number, (left, top, width, height, pixels) in enumerate(statistics.tolist()):
        if number == 0 or pixels < _LEAST_PIXELS:  # 0 is the rest of the image
            continue
        box = slice(top, top + height), slice(left, left + width)
        own = np.where(numbers[box] == number, probability[box], -1)
        y, x = divmod(int(own.argmax()), width)
        found.append([left, top, left + width - 1, top + height - 1, left + x, top + y])
    return np.array(found, dtype=np.int64).reshape(-1, 6)


def make_mask_prompt(sam: PromptedSam, probability: Tensor, size: Size, threshold: float) -> Tensor:
    """Return the mask prompt of a class on the square of SAM's masks, [m,m].

    Args:
        sam: with its sizes.
        probability: [h,w] of the class.
        size: (H, W) of the image, which determines the part of the square that the mask fills.
        threshold: the mask is 0 where the probability is not above it, and 0.005 times the probability elsewhere.
    """
    side = sam.mask_side
    height, width = sam.frame(size, side)
    mask = F.interpolate(probability[None, None], (height, width), mode="bilinear")[0, 0]
    return F.pad(torch.where(mask > threshold, _MASK_FACTOR * mask, 0), (0, side - width, 0, side - height))


def merge_masks(labels: Tensor, probabilities: Tensor, masks: Iterable[tuple[int, Tensor]]) -> Tensor:
    """Draw masks of classes over labels, [H,W] int64.

    Inside a mask, the score of its class is σ(l)·p, with the largest logit l of the masks of the class and its
    probability p. A pixel takes the class of the highest score, the first one of equal scores. Where no mask is, it
    keeps its label.

    Args:
        labels: [H,W] int64.
        probabilities: [C,H,W] of the classes.
        masks: classes in ascending order, and logits [H,W], above 0 inside.
    """
    best, result = torch.zeros_like(probabilities[0]), labels
    for label, logits in masks:
        score = torch.where(logits > 0, logits.sigmoid() * probabilities[label], 0)
        result = torch.where(score > best, label, result)
        best = torch.maximum(best, score)
    return result
