"""Naming: patch logits against the words, the winner at every pixel, one class per mask.

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
    """What the masks and pixels of one image are called.

    Attributes:
        label_map: [H,W] int64, class 0 to C-1 of every pixel.
        mask_logits: [Q,C]; log vote shares for "vote", mean logits for "mean".
    """

    label_map: Tensor
    mask_logits: Tensor


def patch_logits(patches: Tensor, words: Tensor, scale: float | Tensor, class_token: Tensor | None = None) -> Tensor:
    """Scaled similarity of every patch with every word.

    Args:
        patches: [B,N,D] features in the joint space.
        words: [R,D], L2-normalised.
        scale: the exponential of CLIP's logit scale, > 0.
        class_token: [B,D]; where given, its own logits multiply those of every patch, word by word.
    Returns:
        [B,N,R] float32.
    """
    words = words.float()
    logits = scale * (patches.float() @ words.T)  # [B,N,R]
    if class_token is not None:
        logits = logits * (scale * (class_token.float() @ words.T))[:, None]
    return logits


def pixel_labels(logits: Tensor, class_index: Tensor, size: tuple[int, int]) -> Tensor:
    """Class of the best word at every pixel, the logits being upsampled bilinearly.

    The words of one class compete on their own and only the winner is looked up, as background prompts do.

    Args:
        logits: [B,R,h,w].
        class_index: [R] int64, the class of each word.
        size: (H, W).
    Returns:
        [B,H,W] int64, 0 to C-1.
    """
    return class_index[upsampled_argmax(logits, size)]


def class_scores(
    named: Classification, assignment: Tensor, logits: Tensor, class_index: Tensor, classes: int
) -> Tensor:
    """Scores whose argmax is the label map: each mask's logits, or the pixels' where there is no mask.

    Args:
        named: of one image.
        assignment: [H,W] int64, the mask 0 to Q-1 of every pixel.
        logits: [R,h,w].
        class_index: [R] int64, the class of each word.
        classes: number C of classes.
    Returns:
        [C,H,W].
    """
    if len(named.mask_logits):
        return named.mask_logits.T[:, assignment]  # [C,H,W]
    size = (assignment.shape[0], assignment.shape[1])
    words = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]  # [R,H,W]
    scores = words.new_full((classes, *size), -torch.inf)
    return scores.scatter_reduce(0, class_index[:, None, None].expand_as(words), words, "amax")


def vote(labels: Tensor, assignments: Sequence[Tensor], masks: Sequence[int], classes: int) -> list[Classification]:
    """Every mask takes its most frequent pixel label; among equals the smallest.

    Args:
        labels: [B,H,W] int64 classes before voting.
        assignments: for every image [H,W] int64, the mask 0 to Q-1 of every pixel.
        masks: Q of every image; with no mask at all its pixel labels stand.
        classes: C.
    """
    polls = [max(1, count) for count in masks]  # an image without masks has one that nobody asks
    first = torch.tensor([sum(polls[:index]) for index in range(len(polls))], device=labels.device)  # [B]
    mask = torch.stack(list(assignments)) + first[:, None, None]  # [B,H,W], 0 to ΣQ-1
    ballots = torch.bincount((mask * classes + labels).flatten(), minlength=sum(polls) * classes)
    ballots = ballots.view(-1, classes)  # [ΣQ,C]
    share = ballots / ballots.sum(1, keepdim=True).clamp_min(1)
    # The floor keeps an unvoted class finite; a mask without pixels prefers no class.
    logits = share.clamp_min(torch.finfo(share.dtype).tiny).log().split(polls)
    label_maps = ballots.argmax(1)[mask]  # [B,H,W]
    return [
        Classification(label_map if count else before, of[:count])
        for count, label_map, before, of in zip(masks, label_maps, labels, logits, strict=True)
    ]


def mean(
    labels: Tensor, assignment: Tensor, masks: int, logits: Tensor, class_index: Tensor, classes: int
) -> Classification:
    """Every mask takes the class whose logits, averaged over its pixels, are highest.

    Args:
        labels: [H,W] int64 per-pixel classes, which stand where there is no mask at all.
        assignment: [H,W] int64, the mask 0 to Q-1 of every pixel.
        masks: Q.
        logits: [R,h,w] on the grid.
        class_index: [R] int64, the class of each word; a class is as good as its best word.
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
    """How sure CLIP itself is of each class where it was chosen: the mean of its probability over the class's pixels.

    The probabilities are the softmax of a patch's logits over the classes, upsampled bilinearly. Masks take no part in
    them, so they compare across methods with masks and without.

    Args:
        labels: [H,W] int64, the class 0 to C-1 that each pixel was given.
        logits: [R,h,w] on the grid.
        class_index: [R] int64, the class of each word; a class is as good as its best word.
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
