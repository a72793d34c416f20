"""The base of both architectures: a segmenter whose classes are given by words, and parts they build alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_clip import CLIP
from torch import nn

from cliptrase_d2.clip.load import get_tokenizer, load_clip
from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.d2 import CfgNode, MetadataCatalog
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary


class OpenVocabularySegmenter(nn.Module):
    """A segmenter that encodes each vocabulary once.

    Args:
        text_encoder: words to text features.
        vocabulary: classes of inputs without a vocabulary; None if every input must have one.
    """

    def __init__(self, text_encoder: TextEncoder, vocabulary: Vocabulary | None):
        super().__init__()
        self.text_encoder = text_encoder
        self.vocabulary = vocabulary
        self._texts: dict[Vocabulary, TextFeatures] = {}

    def text_features(self, inputs: Mapping[str, Any]) -> TextFeatures:
        """Return the features of an input's vocabulary, or else of the model's. Each vocabulary is encoded once.

        Raises:
            InputError: neither has a vocabulary.
        """
        vocabulary = inputs.get("vocabulary", self.vocabulary)
        if vocabulary is None:
            fix = "Set MODEL.CLIPTRASE.VOCABULARY, or add a 'vocabulary' to the input."
            raise InputError("vocabulary", "neither the input nor the model has class names", fix)
        if vocabulary not in self._texts:
            self._texts[vocabulary] = self.text_encoder(vocabulary)
        return self._texts[vocabulary]


def load_clip_from_config(cfg: CfgNode) -> CLIP:
    """Load the CLIP model of a configuration.

    Raises:
        InputError: the model or its weights cannot be used, or the images are not RGB.
    """
    if cfg.INPUT.FORMAT != "RGB":
        raise InputError("INPUT.FORMAT", repr(cfg.INPUT.FORMAT), "Remove the key: CLIP was trained on RGB.")
    return load_clip(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED, seed=cfg.MODEL.CLIP.SEED)[0]


def build_text_encoder(cfg: CfgNode, model: nn.Module) -> TextEncoder:
    """Build the text encoder of a configuration around a model with CLIP's text tower.

    Raises:
        InputError: the model or the template set cannot be used.
    """
    cache, tokenizer = cfg.MODEL.CLIP.TEXT_CACHE, get_tokenizer(cfg.MODEL.CLIP.NAME)
    folder = Path(cache).expanduser() if cache else None
    return TextEncoder(model, tokenizer, templates=cfg.MODEL.CLIP.TEMPLATES, cache_dir=folder)  # type: ignore[arg-type]


def get_default_vocabulary(cfg: CfgNode) -> Vocabulary | None:
    """Return MODEL.CLIPTRASE.VOCABULARY, else the classes of the first data set in DATASETS.TEST, else None.

    Raises:
        InputError: the names do not form a vocabulary.
    """
    keys = cfg.MODEL.CLIPTRASE
    if keys.VOCABULARY:
        return Vocabulary.parse(keys.VOCABULARY, keys.BACKGROUND, where="MODEL.CLIPTRASE.VOCABULARY")
    if not cfg.DATASETS.TEST:
        return None
    name = cfg.DATASETS.TEST[0]
    metadata = MetadataCatalog.get(name)
    names = metadata.get("stuff_classes")
    return metadata.get("vocabulary") or (Vocabulary.parse(names, where=name) if names else None)
