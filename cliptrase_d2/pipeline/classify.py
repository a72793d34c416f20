"""Classification: logits of patches, the best word of each pixel, and one class per mask.

Source: CLIPtrase supplement, A.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.pipeline.upsample import region_weights, upsampled_argmax

RULES = ("vote", "mean")


@dataclass(frozen=True)
class Classification:
    """Classes of the masks and pixels of one image.

    Attributes:
        label_map: [H,W] int64, class 0 to C-1 of every pixel.
        mask_logits: [Q,C]; log vote shares for "vote", mean logits for "mean".
    """

    label_map: Tensor
    mask_logits: Tensor


def patch_logits(patches: Tensor, words: Tensor, scale: float | Tensor, class_token: Tensor | None = None) -> Tensor:
    """Return the scaled similarity of every patch with every word.

    Args:
        patches: [B,N,D] features in the joint space.
        words: [R,D], L2-normalised.
        scale: the exponential of CLIP's logit scale, > 0.
        class_token: [B,D], whose own logits multiply those of every patch, word by word; None for no weighting.
    Returns:
        [B,N,R] float32.
    """
    words = words.float()
    logits = scale * (patches.float() @ words.T)  # [B,N,R]
    if class_token is not None:
        logits = logits * (scale * (class_token.float() @ words.T))[:, None]
    return logits


def pixel_labels(logits: Tensor, class_index: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the class of the best word at every pixel, with bilinearly upsampled logits.

    Words compete separately, also those of one class: their logits are not added.

    Args:
        logits: [B,R,h,w].
        class_index: [R] int64, the class of each word.
        size: (H, W).
    Returns:
        [B,H,W] int64, 0 to C-1.
    """
    return class_index[upsampled_argmax(logits, size)]


def class_scores(
    prediction: Classification, assignment: Tensor, logits: Tensor, class_index: Tensor, classes: int
) -> Tensor:
    """Return scores whose argmax is the label map: the logits of each pixel's mask, or of the pixel if no mask exists.

    Args:
        prediction: of one image.
        assignment: [H,W] int64, the mask 0 to Q-1 of every pixel.
        logits: [R,h,w].
        class_index: [R] int64, the class of each word.
        classes: number C of classes.
    Returns:
        [C,H,W].
    """
    if len(prediction.mask_logits):
        return prediction.mask_logits.T[:, assignment]  # [C,H,W]
    size = (assignment.shape[0], assignment.shape[1])
    words = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]  # [R,H,W]
    scores = words.new_full((classes, *size), -torch.inf)
    return scores.scatter_reduce(0, class_index[:, None, None].expand_as(words), words, "amax")


def vote(labels: Tensor, assignments: Sequence[Tensor], masks: Sequence[int], classes: int) -> list[Classification]:
    """Give every mask its most frequent pixel label, the smallest of equally frequent ones.

    Args:
        labels: [B,H,W] int64 classes before voting.
        assignments: for every image [H,W] int64, the mask 0 to Q-1 of every pixel.
        masks: Q of every image. An image without masks keeps its pixel labels.
        classes: C.
    """
    slots = [max(1, count) for count in masks]  # an image without masks takes one slot, whose result is dropped
    first = torch.tensor([sum(slots[:index]) for index in range(len(slots))], device=labels.device)  # [B]
    mask = torch.stack(list(assignments)) + first[:, None, None]  # [B,H,W], 0 to ΣQ-1
    ballots = torch.bincount((mask * classes + labels).flatten(), minlength=sum(slots) * classes)
    ballots = ballots.view(-1, classes)  # [ΣQ,C]
    share = ballots / ballots.sum(1, keepdim=True).clamp_min(1)
    # The floor keeps classes without votes finite. A mask without pixels prefers no class.
    logits = share.clamp_min(torch.finfo(share.dtype).tiny).log().split(slots)
    label_maps = ballots.argmax(1)[mask]  # [B,H,W]
    return [
        Classification(label_map if count else pixels, mask_logits[:count])
        for count, label_map, pixels, mask_logits in zip(masks, label_maps, labels, logits, strict=True)
    ]


def mean(
    labels: Tensor, assignment: Tensor, masks: int, logits: Tensor, class_index: Tensor, classes: int
) -> Classification:
    """Give every mask the class whose mean logit over its pixels is highest.

    Args:
        labels: [H,W] int64 classes of pixels, which an image without masks keeps.
        assignment: [H,W] int64, the mask 0 to Q-1 of every pixel.
        masks: Q.
        logits: [R,h,w] on the grid.
        class_index: [R] int64, the class of each word. A class scores as its best word.
        classes: C.
    """
    if not masks:
        return Classification(labels, logits.new_zeros((0, classes)))
    words, *grid = logits.shape
    weights = region_weights(assignment, masks, (grid[0], grid[1]))  # [Q,N]
    pixels = weights.sum(1, keepdim=True)
    word_means = (weights @ logits.reshape(words, -1).T.double() / pixels.clamp_min(1)).float()  # [Q,R]
    mask_logits = word_means.new_full((masks, classes), -torch.inf)
    mask_logits = mask_logits.scatter_reduce(1, class_index.expand(masks, -1), word_means, "amax")  # [Q,C]
    return Classification(mask_logits.argmax(1)[assignment], mask_logits)


def class_confidence(labels: Tensor, logits: Tensor, class_index: Tensor, classes: int) -> Tensor:
    """Return CLIP's confidence in each predicted class: the mean probability of the class over its pixels.

    The probabilities are the softmax of a patch's logits over the classes, upsampled bilinearly. They do not depend on
    masks, so methods with and without masks can be compared.

    Args:
        labels: [H,W] int64, the class 0 to C-1 of each pixel.
        logits: [R,h,w] on the grid.
        class_index: [R] int64, the class of each word. A class scores as its best word.
        classes: C.
    Returns:
        [C] float32 in [0,1]; 0 for a class without pixels.
    """
    words, *grid = logits.shape
    index = class_index[:, None].expand(-1, grid[0] * grid[1])
    best = logits.new_full((classes, grid[0] * grid[1]), -torch.inf)
    best = best.scatter_reduce(0, index, logits.reshape(words, -1), "amax")  # [C,N]
    weights = region_weights(labels, classes, (grid[0], grid[1]))  # [C,N]
    pixels = weights.sum(1).clamp_min(1)
    return ((weights * best.double().softmax(0)).sum(1) / pixels).float()
