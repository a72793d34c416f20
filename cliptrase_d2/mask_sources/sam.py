"""Masks of SAM, prompted by CLIPtrase's clusters or by a grid of points.

Source: the main paper combines CLIPtrase with SAM (supplement, B.3) without details; the details here are ours. The
grid follows SAM's automatic mask generator, https://github.com/facebookresearch/segment-anything.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes, nms

from cliptrase_d2.mask_sources.base import (
    MaskInputs,
    MaskSettings,
    MaskSource,
    make_empty_proposals,
    register_mask_source,
)
from cliptrase_d2.mask_sources.clusters import propose_clusters
from cliptrase_d2.mask_sources.hard_masks import (
    compute_boxes,
    compute_stability,
    fill_gaps,
    find_typical_points,
    make_point_grid,
    make_proposals,
    merge_masks,
)
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.utils.errors import check_choice, check_range
from cliptrase_d2.utils.shared_results import compute_once
from cliptrase_d2.vision_models.sam_model import PromptedSam, Prompts, load_sam

PROMPTS = ("points", "box")
_POINTS = 3  # per cluster
_ENLARGED_AT_ONCE = 16  # masks


@register_mask_source("sam")
class SamSource(MaskSource):
    """SAM's mask of every cluster. Pixels in no mask stay with their cluster, so there are as many masks as clusters.

    Args:
        sam: with its weights.
        prompt: the prompt that represents a cluster, one of `PROMPTS`.
    Raises:
        InputError: an unknown prompt.
    """

    title = "SAM's masks of CLIPtrase's clusters"

    def __init__(self, sam: PromptedSam, prompt: str = "points"):
        super().__init__()
        check_choice("sam_prompt", prompt, PROMPTS)
        self.sam, self.name = sam, sam.name
        self.prompt = prompt

    @classmethod
    def from_settings(cls, settings: MaskSettings) -> SamSource:
        """Load the model that the settings name.

        Raises:
            InputError: the model cannot be loaded, or the prompt is unknown.
        """
        return cls(load_sam(settings.sam), settings.sam_prompt)

    def propose(self, inputs: MaskInputs) -> list[MaskProposals]:
        """Redraw the clusters of each image by SAM's masks of them."""
        assert inputs.pixels is not None, "the source declares needs_pixels"
        assert inputs.correlation is not None, "the source declares needs_correlation"
        proposals = []
        for image, rows, clusters in zip(inputs.pixels, inputs.correlation, propose_clusters(inputs), strict=True):
            if len(clusters):
                clusters = self._redraw(image, clusters, *self._make_prompts(rows, clusters, inputs.grid))
            proposals.append(clusters)
        return proposals

    def _make_prompts(
        self, correlation: Tensor, clusters: MaskProposals, grid: tuple[int, int]
    ) -> tuple[Tensor, Prompts]:
        """Return the indices of the clusters to prompt for, [n] int64, and their prompts."""
        if self.prompt == "box":
            visible = clusters.assignment.unique()  # a cluster may have patches but no pixel
            return visible, Prompts(boxes=compute_boxes(clusters.assignment == visible[:, None, None]))
        assert clusters.clusters is not None, "clusters have the labels of their patches"
        points, is_point = find_typical_points(correlation, clusters.clusters, grid, _POINTS)
        return torch.arange(len(points), device=points.device), Prompts(points=points, is_point=is_point)

    def _redraw(self, image: Tensor, clusters: MaskProposals, indices: Tensor, prompts: Prompts) -> MaskProposals:
        """Draw SAM's best mask of each prompted cluster over the clusters, better masks over worse ones."""
        size, output = _get_size(image), _get_size(clusters.assignment)
        assignment = clusters.assignment
        logits, scores = _predict_best(self.sam, image, prompts)
        # From the worst mask to the best; of equally good ones the first is drawn last.
        for place in scores.argsort(descending=True, stable=True).flip(0):
            mask = self.sam.enlarge(logits[place][None], size, output)[0] > 0
            assignment = torch.where(mask, indices[place], assignment)
        return make_proposals(assignment, len(clusters), _get_size(clusters.coarse))


@register_mask_source("sam_automatic")
class SamAutomaticSource(MaskSource):
    """SAM's masks of a grid of points. Pixels in no mask fall to CLIPtrase's clusters.

    Args:
        sam: with its weights.
        points_per_side: side of the grid, >= 1.
        min_iou: least IoU that SAM must predict for a mask, in [0,1].
        min_stability: least IoU of a mask with itself when its threshold changes, in [0,1].
        duplicate_iou: IoU of two boxes above which the worse mask is dropped, in [0,1].
        merge: containment above which `predict_logits` merges a mask into one before it, see `merge_masks`; 0 for none.
        masks_per_point: 3, or 1.
        large_on_top: whether large masks are drawn over small ones, as in CorrCLIP, instead of under them.
    Raises:
        InputError: a setting is out of range.
    """

    title = "SAM's masks of a grid of points"
    points: Tensor

    def __init__(
        self,
        sam: PromptedSam,
        points_per_side: int = 32,
        min_iou: float = 0.88,
        min_stability: float = 0.95,
        duplicate_iou: float = 0.7,
        merge: float = 0.0,
        masks_per_point: int = 3,
        large_on_top: bool = False,
    ):
        super().__init__()
        check_range("sam_points_per_side", points_per_side, points_per_side >= 1, "1 or more")
        check_range("sam_min_iou", min_iou, 0 <= min_iou <= 1, "a number from 0 to 1")
        check_range("sam_min_stability", min_stability, 0 <= min_stability <= 1, "a number from 0 to 1")
        check_range("sam_duplicate_iou", duplicate_iou, 0 <= duplicate_iou <= 1, "a number from 0 to 1")
        check_range("sam_merge", merge, 0 <= merge <= 1, "a number from 0 to 1; 0 to merge no masks")
        check_range("sam_masks_per_point", masks_per_point, masks_per_point in (1, 3), "1 or 3")
        self.sam, self.name = sam, sam.name
        self.min_iou, self.min_stability = min_iou, min_stability
        self.duplicate_iou, self.merge = duplicate_iou, merge
        self.masks_per_point, self.large_on_top = masks_per_point, large_on_top
        self.register_buffer("points", make_point_grid(points_per_side)[:, None], persistent=False)  # [n,1,2]

    @classmethod
    def from_settings(cls, settings: MaskSettings) -> SamAutomaticSource:
        """Load the model that the settings name.

        Raises:
            InputError: the model cannot be loaded, or a setting is out of range.
        """
        return cls(
            load_sam(settings.sam),
            settings.sam_points_per_side,
            settings.sam_min_iou,
            settings.sam_min_stability,
            settings.sam_duplicate_iou,
            settings.sam_merge,
            settings.sam_masks_per_point,
            settings.sam_large_on_top,
        )

    def propose(self, inputs: MaskInputs) -> list[MaskProposals]:
        """Draw SAM's masks of each image over its clusters."""
        assert inputs.pixels is not None, "the source declares needs_pixels"
        upsample = inputs.settings.mask_upsample
        coarse = (inputs.grid[0] * upsample, inputs.grid[1] * upsample)
        proposals = []
        for image, clusters, size in zip(inputs.pixels, propose_clusters(inputs), inputs.sizes, strict=True):
            assignment = self._draw_masks(image, size)
            if len(clusters) or (assignment >= 0).any():
                filled = make_proposals(*fill_gaps(assignment, clusters), coarse)
                proposals.append(replace(filled, is_gap=assignment < 0))
            else:
                proposals.append(make_empty_proposals(inputs.grid, size, inputs.device))
        return proposals

    def _draw_masks(self, image: Tensor, output: tuple[int, int]) -> Tensor:
        """Return the mask of every pixel, [H',W'] int64, -1 for none."""
        logits, _ = self._predict_masks(image)
        # Larger masks first, or last. Of masks of one size, the better one is drawn later.
        areas = (self.sam.crop(logits, _get_size(image)) > 0).sum((1, 2)).flip(0)
        logits = logits.flip(0)[areas.argsort(descending=not self.large_on_top, stable=True)]
        assignment = torch.full(output, -1, dtype=torch.int64, device=image.device)
        for index in range(len(logits)):
            mask = self.sam.enlarge(logits[index : index + 1], _get_size(image), output)[0] > 0
            assignment.masked_fill_(mask, index)
        return assignment

    def predict_logits(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the logits of good masks without duplicates, merged if `merge` is set, [K,H,W] float16."""
        logits, levels = self._predict_masks(image)
        if not len(logits):
            return logits.new_zeros((0, *size), dtype=torch.float16)
        if self.merge:
            order = levels.argsort(descending=True, stable=True)  # whole objects, parts, parts of parts
            logits = merge_masks(self.sam.crop(logits[order], _get_size(image)), logits[order], self.merge)
        parts = logits.split(_ENLARGED_AT_ONCE)
        return torch.cat([self.sam.enlarge(part, _get_size(image), size).half() for part in parts])

    def _predict_masks(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits [Q,m,m] of good masks without duplicates, the best first, and which output of SAM each is.

        They are selected at SAM's own resolution, so the cost does not grow with the image.
        """
        return compute_once(self, "masks", image, lambda: self._select_masks(image))

    def _select_masks(self, image: Tensor) -> tuple[Tensor, Tensor]:
        size = _get_size(image)
        is_point = torch.ones_like(self.points[..., 0], dtype=torch.bool)
        parts = []
        prompts, multimask = Prompts(self.points, is_point), self.masks_per_point > 1
        for logits, scores in self.sam.predict(self.sam.embed(image), prompts, size, multimask=multimask):
            stability = compute_stability(self.sam.crop(logits, size))
            good = (scores > self.min_iou) & (stability > self.min_stability)
            parts.append((logits[good], scores[good], good.nonzero()[:, 1]))
        logits, scores, levels = (torch.cat(part) for part in zip(*parts, strict=True))
        chosen = nms(masks_to_boxes(self.sam.crop(logits, size) > 0), scores, self.duplicate_iou)
        return logits[chosen], levels[chosen]


def _predict_best(sam: PromptedSam, image: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Return the mask of every prompt that SAM scores best: [n,m,m] logits and [n] scores."""
    logits, scores = [], []
    for masks, predicted in sam.predict(sam.embed(image), prompts, _get_size(image)):
        score, best = predicted.max(1)
        logits.append(masks[torch.arange(len(best), device=best.device), best])
        scores.append(score)
    return torch.cat(logits), torch.cat(scores)


def _get_size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]
