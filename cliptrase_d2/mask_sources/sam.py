"""Masks of SAM: those of the clusters that CLIP's own correlation has, or of a grid of points.

Source: the main paper combines CLIPtrase with SAM (supplement, B.3); its details are not given there, these are ours.
The grid follows SAM's own automatic mask generator, https://github.com/facebookresearch/segment-anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes, nms

from cliptrase_d2.mask_sources.base import MaskSettings, MaskSource, no_masks, register_mask_source
from cliptrase_d2.mask_sources.clusters import clustered_masks
from cliptrase_d2.mask_sources.hard_masks import (
    compute_boxes,
    fill_gaps,
    make_proposals,
    point_grid,
    stability,
    typical_points,
)
from cliptrase_d2.mask_sources.sam_model import PromptedSam, Prompts, load_sam
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.settings import Method, PatchScene
from cliptrase_d2.utils.errors import InputError

PROMPTS = ("points", "box")
_POINTS = 3  # of a cluster
_SAME_MASK = 0.7  # the IoU of two boxes from where on the worse mask is left out, as in SAM's own generator


@register_mask_source("sam")
class SamSource(MaskSource):
    """SAM's mask of every cluster; what no mask takes stays with its cluster, so there are as many masks as clusters.

    Args:
        method: settings of the method.
        sam: with its weights.
        prompt: what stands for a cluster, one of `PROMPTS`.
    Raises:
        InputError: another prompt.
    """

    def __init__(self, method: Method, sam: PromptedSam, prompt: str = "points"):
        super().__init__(method)
        _require("SAM_PROMPT", prompt, prompt in PROMPTS, " or ".join(map(repr, PROMPTS)))
        self.sam = sam
        self.prompt = prompt

    @classmethod
    def from_settings(cls, method: Method, settings: MaskSettings) -> SamSource:
        """The model that the settings name.

        Raises:
            InputError: it cannot be loaded, or another prompt.
        """
        return cls(method, load_sam(settings.sam), settings.sam_prompt)

    def propose(self, images: Tensor, scene: PatchScene, sizes: Sequence[tuple[int, int]]) -> list[MaskProposals]:
        """See the base class."""
        labels = self.method.cluster(scene.correlation)  # [B,N]
        proposals = []
        for index, size in enumerate(sizes):
            clusters = self.method.propose(scene.of([index]), labels[[index]], size)[0]
            if len(clusters):  # else there is nothing to ask
                asked, prompts = self._prompts(scene, index, labels[index], clusters)
                clusters = self._redrawn(images[index], clusters, asked, prompts)
            proposals.append(clusters)
        return proposals

    def _prompts(
        self, scene: PatchScene, index: int, labels: Tensor, clusters: MaskProposals
    ) -> tuple[Tensor, Prompts]:
        """The clusters that SAM is asked about, [n] int64, and by what."""
        if self.prompt == "box":
            asked = clusters.assignment.unique()  # a cluster may have patches and yet win no pixel
            return asked, Prompts(boxes=compute_boxes(clusters.assignment, len(clusters))[asked])
        points, is_point = typical_points(scene.correlation[index], labels, scene.grid, _POINTS)
        return torch.arange(len(points), device=points.device), Prompts(points=points, is_point=is_point)

    def _redrawn(self, image: Tensor, clusters: MaskProposals, asked: Tensor, prompts: Prompts) -> MaskProposals:
        """The clusters, and over them SAM's best mask of each that was asked about, the better one on top."""
        size, output = _size(image), _size(clusters.assignment)
        assignment = clusters.assignment
        logits, scores = _best(self.sam, image, prompts)
        # From the worst on, and the first of equals last, so that it stays on top.
        for place in scores.argsort(descending=True, stable=True).flip(0):
            mask = self.sam.enlarge(logits[place][None], size, output)[0] > 0
            assignment = torch.where(mask, asked[place], assignment)
        return make_proposals(assignment, len(clusters), _size(clusters.coarse))


@register_mask_source("sam_automatic")
class SamAutomaticSource(MaskSource):
    """SAM's masks of a grid of points, small ones over large ones; pixels of none fall to CLIPtrase's clusters.

    Args:
        method: settings of the method.
        sam: with its weights.
        points_per_side: side of the grid, >= 1.
        min_iou: that SAM must expect of a mask, in [0,1].
        min_stability: how little a mask must change with its threshold, in [0,1].
    Raises:
        InputError: a setting outside its range.
    """

    points: Tensor

    def __init__(
        self,
        method: Method,
        sam: PromptedSam,
        points_per_side: int = 32,
        min_iou: float = 0.88,
        min_stability: float = 0.95,
    ):
        super().__init__(method)
        _require("SAM_POINTS_PER_SIDE", points_per_side, points_per_side >= 1, "1 or more")
        _require("SAM_MIN_IOU", min_iou, 0 <= min_iou <= 1, "a number from 0 to 1")
        _require("SAM_MIN_STABILITY", min_stability, 0 <= min_stability <= 1, "a number from 0 to 1")
        self.sam = sam
        self.min_iou, self.min_stability = min_iou, min_stability
        self.register_buffer("points", point_grid(points_per_side)[:, None], persistent=False)  # [n,1,2]

    @classmethod
    def from_settings(cls, method: Method, settings: MaskSettings) -> SamAutomaticSource:
        """The model that the settings name.

        Raises:
            InputError: it cannot be loaded, or a setting outside its range.
        """
        keys = (settings.sam_points_per_side, settings.sam_min_iou, settings.sam_min_stability)
        return cls(method, load_sam(settings.sam), *keys)

    def propose(self, images: Tensor, scene: PatchScene, sizes: Sequence[tuple[int, int]]) -> list[MaskProposals]:
        """See the base class."""
        proposals = []
        for image, clusters, size in zip(images, clustered_masks(self.method, scene, sizes), sizes, strict=True):
            assignment = self._painted(image, size)
            if len(clusters) or (assignment >= 0).any():
                coarse = (scene.grid[0] * self.method.mask_upsample, scene.grid[1] * self.method.mask_upsample)
                proposals.append(make_proposals(*fill_gaps(assignment, clusters), coarse))
            else:
                proposals.append(no_masks(scene, size))
        return proposals

    def _painted(self, image: Tensor, output: tuple[int, int]) -> Tensor:
        """[H',W'] int64, the mask of every pixel, -1 where there is none."""
        logits = self._masks(image)
        assignment = torch.full(output, -1, dtype=torch.int64, device=image.device)
        for index in range(len(logits)):
            mask = self.sam.enlarge(logits[index : index + 1], _size(image), output)[0] > 0
            assignment.masked_fill_(mask, index)
        return assignment

    def _masks(self, image: Tensor) -> Tensor:
        """Logits [Q,m,m] of the masks that are good, and of each but once; the largest first.

        They are judged in SAM's own resolution, so that the effort does not grow with the image.
        """
        size = _size(image)
        is_point = torch.ones_like(self.points[..., 0], dtype=torch.bool)
        kept = []
        for logits, scores in self.sam.ask(self.sam.embed(image), Prompts(self.points, is_point), size):
            good = (scores > self.min_iou) & (stability(self.sam.within(logits, size)) > self.min_stability)
            kept.append((logits[good], scores[good]))
        logits, scores = (torch.cat(parts) for parts in zip(*kept, strict=True))
        masks = self.sam.within(logits, size) > 0
        # From the worst on, so that of two of one size the better is painted later.
        chosen = nms(masks_to_boxes(masks), scores, _SAME_MASK).flip(0)
        chosen = chosen[masks[chosen].sum((1, 2)).argsort(descending=True, stable=True)]
        return logits[chosen]


def _best(sam: PromptedSam, image: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """SAM's best mask of every prompt by its own score: [n,m,m] logits and [n] scores."""
    logits, scores = [], []
    for masks, expected in sam.ask(sam.embed(image), prompts, _size(image)):
        score, best = expected.max(1)
        logits.append(masks[torch.arange(len(best), device=best.device), best])
        scores.append(score)
    return torch.cat(logits), torch.cat(scores)


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]


def _require(key: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise InputError(f"MODEL.MASKS.{key}", repr(value), "Change it in the configuration.", allowed=allowed)
