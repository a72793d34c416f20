"""Segmentation of a photograph for the page, with CLIP's confidence in each class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cliptrase_d2.pipeline.classify import class_confidence, class_probabilities, mark_unknown
from cliptrase_d2.pipeline.stages import refine
from cliptrase_d2.vocabulary import Vocabulary
from cliptrase_d2.web.models import Model


class Labelling(NamedTuple):
    """A segmented photograph.

    Attributes:
        label_map: [H,W] int64, index into ``classes``, or -1 for unknown.
        classes: C names.
        confidence: [C] float32 in [0,1], see ``class_confidence``.
        notes: warnings.
        scores: [C,h,w] float32, see ``class_probabilities``.
    """

    label_map: np.ndarray
    classes: tuple[str, ...]
    confidence: np.ndarray
    notes: tuple[str, ...]
    scores: Tensor

    def with_threshold(self, threshold: float) -> Labelling:
        """Return the labelling with each pixel as unknown whose score of its class is below a threshold, 0 to 1."""
        labels = mark_unknown(torch.from_numpy(self.label_map), self.scores, threshold)
        return self._replace(label_map=labels.numpy(), confidence=class_confidence(labels, self.scores).numpy())


@torch.inference_mode()
def label(model: Model, photo: np.ndarray, vocabulary: Vocabulary) -> Labelling:
    """Segment a photograph as ``Segmenter`` does, and rate the classes by CLIP's logits.

    Args:
        model: set to a method. Its protocol does not crop.
        photo: [H,W,3] uint8 RGB.
        vocabulary: the classes.
    """
    core, words = model.core, model.read(vocabulary)
    inputs = model.segmenter.protocol.prepare_input(Image.fromarray(photo))
    result = core.segment(core.preprocess([inputs]), words.features, [(photo.shape[0], photo.shape[1])])
    assert result.predictions is not None
    assert result.logits is not None
    label_map = result.predictions[0].label_map
    shares = refine(label_map, inputs["image"], core.settings)
    labels = (shares.label_map if shares else label_map).cpu()
    scores = class_probabilities(result.logits[0], words.features.class_index, len(vocabulary.classes)).cpu()
    confidence, notes = class_confidence(labels, scores).numpy(), (*model.notes, *words.notes)
    return Labelling(labels.numpy(), vocabulary.classes, confidence, notes, scores)
