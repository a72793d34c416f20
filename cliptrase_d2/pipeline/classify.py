"""Classification: logits of patches, the best word of each pixel, and one class per mask.

Source: CLIPtrase supplement, A.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.pipeline.upsample import region_weights, upsampled_argmax, upsampled_at, upsampled_sums
from cliptrase_d2.unknown import UNKNOWN

RULES = ("vote", "mean")
_VOTES_AT_ONCE = 2**22  # pixels; more would need temporary maps of the size of a large photograph


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
    return upsampled_argmax(logits, size, class_index)


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
    # A single image, which may be large, is not copied.
    mask = assignments[0][None] if len(slots) == 1 else torch.stack(list(assignments)) + first[:, None, None]  # [B,H,W]
    ballots = torch.zeros(sum(slots) * classes, dtype=torch.int64, device=labels.device)
    rows = max(1, _VOTES_AT_ONCE // (len(labels) * labels.shape[2]))
    for own, voters in zip(mask.split(rows, dim=1), labels.split(rows, dim=1), strict=True):
        ballots += torch.bincount(torch.add(voters, own, alpha=classes).flatten(), minlength=len(ballots))
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


def class_probabilities(logits: Tensor, class_index: Tensor, classes: int) -> Tensor:
    """Return the probability of each class at each grid point: the softmax over the classes of CLIP's logits.

    They are the scores of pixels before masks, votes and refinement.

    Args:
        logits: [R,h,w] of the words.
        class_index: [R] int64, the class of each word. A class scores as its best word.
        classes: C.
    Returns:
        [C,h,w] float32 in [0,1], with sum 1 at every point.
    """
    best = logits.new_full((classes, *logits.shape[1:]), -torch.inf)
    best = best.scatter_reduce(0, class_index[:, None, None].expand_as(logits), logits, "amax")  # [C,h,w]
    return best.double().softmax(0).float()


def class_confidence(labels: Tensor, scores: Tensor) -> Tensor:
    """Return CLIP's confidence in each predicted class: the mean probability of the class over its pixels.

    It does not depend on masks, so methods with and without masks can be compared.

    Args:
        labels: [H,W] int64, the class 0 to C-1 of each pixel, or -1 for unknown.
        scores: [C,h,w], see ``class_probabilities``; upsampled bilinearly.
    Returns:
        [C] float32 in [0,1]; 0 for a class without pixels.
    """
    sums, pixels = upsampled_sums(scores, labels)
    return (sums / pixels.clamp_min(1)).float()


def mark_unknown(labels: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Return the labels with -1 at each pixel whose class has a probability below the threshold.

    Args:
        labels: [H,W] int64, the class 0 to C-1 of each pixel, or -1 for unknown.
        scores: [C,h,w], see ``class_probabilities``; upsampled bilinearly.
        threshold: 0 to 1.
    """
    return labels.masked_fill(upsampled_at(scores, labels) < threshold, UNKNOWN)
