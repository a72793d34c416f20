"""Test-time augmentation: the class shares of a model, averaged over resized and mirrored views of each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.data.protocol import check_views
from cliptrase_d2.utils.errors import InputError

if TYPE_CHECKING:
    from cliptrase_d2.evaluation.evaluate import SegmentationModel


def check_augmentation(cfg: CfgNode) -> None:
    """Check that no setting of the evaluation contradicts TEST.AUG.

    Raises:
        InputError: one does.
    """
    if not cfg.TEST.AUG.ENABLED:
        return
    check_views(cfg.TEST.PROTOCOL)
    if cfg.TEST.UNSUPERVISED_GROUPS:
        got = "True with TEST.UNSUPERVISED_GROUPS, whose groups have no classes to average"
        raise InputError("TEST.AUG.ENABLED", got, "Set it to False, or TEST.UNSUPERVISED_GROUPS to 0.")


class AugmentedModel(nn.Module):
    """A model that segments several views of an image and returns the class of the highest mean share at each pixel.

    The views come from ``EvaluationMapper``, at their sizes; mirrored ones are made here. One view is segmented at a
    time, so memory holds the mean [C,H,W] of every image in a batch, and the scores of one view.

    Args:
        model: segments a view.
        flip: whether each view is also segmented mirrored, from left to right.
    """

    def __init__(self, model: SegmentationModel, *, flip: bool):
        super().__init__()
        self.model, self.flip = model, flip
        self.train(model.training)

    @property
    def patch_multiple(self) -> int:
        """That of the model."""
        return self.model.patch_multiple

    @property
    def resampling(self) -> str:
        """That of the model."""
        return self.model.resampling

    def to_class_shares(self, sem_seg: Tensor) -> Tensor:
        """Return the output ``sem_seg`` of this model, which has shares already."""
        return sem_seg

    @torch.inference_mode()
    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Segment images.

        Args:
            batched_inputs: inputs of the model with ``views``, a list of the image [3,h,w] at each size, as many for
                every image.
        Returns:
            For every image ``sem_seg`` [C,H,W] float32, the mean shares of the classes, and ``label_map`` [H,W], its
            argmax. There are no masks.
        """
        totals: dict[int, Tensor] = {}
        flips = (False, True) if self.flip else (False,)
        views = list(product(range(len(batched_inputs[0]["views"])), flips))
        for number, mirrored in views:
            inputs = [_make_view(image, number, mirrored) for image in batched_inputs]
            for member, shares in self._compute_shares(inputs):
                shares = (shares.flip(-1) if mirrored else shares).float()
                totals[member] = totals[member].add_(shares) if member in totals else shares
        means = [totals[member].div_(len(views)) for member in range(len(batched_inputs))]
        return [{"label_map": mean.argmax(0), "sem_seg": mean} for mean in means]

    def _compute_shares(self, inputs: Sequence[dict[str, Any]]) -> Iterator[tuple[int, Tensor]]:
        """Yield the index of each input and its class shares [C,H,W]. Only views of one size share a batch.

        SAN would pad others, which would change the results.
        """
        by_size: dict[tuple[int, ...], list[int]] = {}
        for member, view in enumerate(inputs):
            by_size.setdefault(view["image"].shape, []).append(member)
        for members in by_size.values():
            outputs = self.model([inputs[member] for member in members])
            for member, output in zip(members, outputs, strict=True):
                yield member, self.model.to_class_shares(output["sem_seg"])


def _make_view(inputs: dict[str, Any], number: int, mirrored: bool) -> dict[str, Any]:
    """Return the model's input for a view. True labels, which an oracle reads, are mirrored like the image."""
    view = {**inputs, "image": inputs["views"][number], "output_sem_seg": True, "output_masks": False}
    if mirrored:
        view |= {key: view[key].flip(-1) for key in ("image", "sem_seg") if key in view}
    return view
