"""Segmentation of a photograph for the page, with CLIP's confidence in each class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from cliptrase_d2.pipeline.classify import class_confidence, class_probabilities
from cliptrase_d2.pipeline.stages import refine
from cliptrase_d2.vocabulary import Vocabulary
from cliptrase_d2.web.models import Model


class Labelling(NamedTuple):
    """A segmented photograph.

    Attributes:
        label_map: [H,W] int64, index into ``classes``.
        classes: C names.
        confidence: [C] float32 in [0,1], see ``class_confidence``.
        notes: warnings.
    """

    label_map: np.ndarray
    classes: tuple[str, ...]
    confidence: np.ndarray
    notes: tuple[str, ...]


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
    labels = shares.label_map if shares else label_map
    scores = class_probabilities(result.logits[0], words.features.class_index, len(vocabulary.classes))
    confidence = class_confidence(labels, scores)
    return Labelling(labels.cpu().numpy(), vocabulary.classes, confidence.cpu().numpy(), (*model.notes, *words.notes))
