"""One photograph, one vocabulary, one model: the class of every pixel, and how sure CLIP is of each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cliptrase_d2.pipeline.classify import class_confidence
from cliptrase_d2.vocabulary import Vocabulary
from cliptrase_d2.web.models import Model


@dataclass(frozen=True, eq=False)
class Labelling:
    """What a model makes of a photograph.

    Attributes:
        label_map: [H,W] int64, index into ``classes``.
        classes: C names.
        confidence: [C] float32 in [0,1], see ``class_confidence``.
        notes: what there is to warn of.
    """

    label_map: np.ndarray
    classes: tuple[str, ...]
    confidence: np.ndarray
    notes: tuple[str, ...]


@torch.inference_mode()
def label(model: Model, photo: np.ndarray, vocabulary: Vocabulary) -> Labelling:
    """Segment as ``Segmenter`` does, and keep CLIP's own logits for the confidence.

    Args:
        model: with the method that it is to work by; its protocol crops nothing.
        photo: [H,W,3] uint8 RGB.
        vocabulary: the classes.
    """
    core, protocol = model.core, model.segmenter.protocol
    pixels: Tensor = protocol.model_input(Image.fromarray(photo))["image"].to(core.device)  # [3,H',W']
    images = core.tower.normalise(pixels)[None]
    scene = core.see(images)
    masks = core.mask_source(core.tower.pixels(images), scene, [(photo.shape[0], photo.shape[1])])
    words = model.read(vocabulary)
    logits = core.method.word_logits(scene, words.features, core.clip.logit_scale.exp())  # [1,R,h,w]
    named = core.method.classify(masks, logits, words.features)[0]
    refined = core.method.refine(named.label_map, pixels)
    labels = refined.label_map if refined else named.label_map
    confidence = class_confidence(labels, logits[0], words.features.class_index, len(vocabulary.classes))
    return Labelling(
        label_map=labels.cpu().numpy(),
        classes=vocabulary.classes,
        confidence=confidence.cpu().numpy(),
        notes=(*model.notes, *words.notes),
    )
