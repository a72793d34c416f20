"""The base of both architectures: a segmenter whose classes are given by words, and parts they build alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_clip import CLIP
from torch import Tensor, nn

from cliptrase_d2.clip.load import load_clip
from cliptrase_d2.clip.open_clip_modules import context_length
from cliptrase_d2.clip.siglip import SiglipTower, is_siglip2, read_patch_side
from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.tokenizer import get_tokenizer
from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.clip.weights_source import get_model_config
from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.methods import get_method
from cliptrase_d2.pipeline.classify import mark_unknown
from cliptrase_d2.pipeline.input_vocabulary import InputVocabulary
from cliptrase_d2.pipeline.tiles import get_output_size
from cliptrase_d2.unknown import check_threshold
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary

MAX_SEM_SEG = 2.0  # gibibytes, default of MODEL.CLIPTRASE.MAX_SEM_SEG
_BYTES = 4  # of a float32


class ImageResult(dict[str, Any]):
    """The outputs of a model for one image. Reading ``sem_seg`` where it was left out raises an error that says why."""

    def __missing__(self, key: str) -> Tensor:
        if key != "sem_seg":
            raise KeyError(key)
        got = "left out, because it would take more than MODEL.CLIPTRASE.MAX_SEM_SEG gibibytes"
        fix = "Use label_map, raise the limit, or set 'output_sem_seg' of the input to True."
        raise InputError("sem_seg", got, fix)


class OpenVocabularySegmenter(nn.Module):
    """A segmenter that encodes each vocabulary once.

    Args:
        text_encoder: words to text features.
        vocabularies: finds the vocabulary of an input.
        max_sem_seg: largest ``sem_seg``, in gibibytes, of an input that does not ask for it.
    """

    def __init__(self, text_encoder: TextEncoder, vocabularies: InputVocabulary, max_sem_seg: float):
        super().__init__()
        self.text_encoder = text_encoder
        self.vocabularies, self.max_sem_seg = vocabularies, max_sem_seg
        self._texts: dict[Vocabulary, TextFeatures] = {}
        self.register_load_state_dict_post_hook(_notify)

    @property
    def needs_photograph(self) -> bool:
        """Whether inputs need a ``photograph`` [3,height,width], the image before it was resized."""
        return False

    @classmethod
    def get_needs_photograph(cls, cfg: CfgNode) -> bool:
        """Return `needs_photograph` of the model of a configuration, without building it."""
        return False

    def complete(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return an input with its ``vocabulary``, ``threshold``, ``output_sem_seg`` and ``output_grids``.

        Raises:
            InputError: it has no vocabulary, or an invalid one, or an invalid threshold.
        """
        vocabulary = self.vocabularies.find(inputs, in_training=self.training)
        wanted = inputs.get("output_sem_seg")
        if wanted is None:
            height, width = get_output_size(inputs)
            wanted = len(vocabulary.classes) * height * width * _BYTES <= self.max_sem_seg * 2**30
        threshold = check_threshold(inputs.get("threshold", 0.0))
        return {
            **inputs,
            "vocabulary": vocabulary,
            "output_sem_seg": bool(wanted),
            "threshold": threshold,
            "output_grids": bool(threshold or inputs.get("output_grids", False)),
        }

    def text_features(self, vocabulary: Vocabulary) -> TextFeatures:
        """Return the features of a vocabulary. Each vocabulary is encoded once."""
        if vocabulary not in self._texts:
            self._texts[vocabulary] = self.text_encoder(vocabulary)
        return self._texts[vocabulary]

    def _on_load(self, incompatible_keys: object) -> None:
        """Forget the text features of the former weights."""
        self._texts.clear()


def _notify(model: OpenVocabularySegmenter, incompatible_keys: object) -> None:
    """Pass loaded weights on to the model's own method, which a class can override."""
    model._on_load(incompatible_keys)


def apply_threshold(inputs: Mapping[str, Any], output: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mark pixels of an output as unknown whose score is below the threshold of its completed input."""
    if inputs["threshold"]:
        output["label_map"] = mark_unknown(output["label_map"], output["scores"], inputs["threshold"])
    return output


def require_rgb(cfg: CfgNode) -> None:
    """Check that Detectron2's loaders and predictor pass RGB images.

    Raises:
        InputError: they do not.
    """
    if cfg.INPUT.FORMAT != "RGB":
        raise InputError("INPUT.FORMAT", repr(cfg.INPUT.FORMAT), "Remove the key: CLIP was trained on RGB.")


def load_clip_from_config(cfg: CfgNode, *, quick_gelu: bool = False, allow_siglip: bool = False) -> CLIP:
    """Load the CLIP model of a configuration.

    Args:
        quick_gelu: the activation of random weights.
        allow_siglip: whether the caller can use a SigLIP 2 as well.
    Raises:
        InputError: the model or its weights cannot be used, or the images are not RGB.
    """
    require_rgb(cfg)
    clip = cfg.MODEL.CLIP
    options = {"seed": clip.SEED, "quick_gelu": quick_gelu, "allow_siglip": allow_siglip}
    return load_clip(clip.NAME, clip.PRETRAINED, **options)[0]


def read_patch_size(cfg: CfgNode) -> int:
    """Return the side of a patch of the configured CLIP model in pixels, without building it.

    Raises:
        InputError: the model is unknown.
    """
    return read_patch_side(get_model_config(cfg.MODEL.CLIP.NAME))


def read_tower_kind(cfg: CfgNode) -> str:
    """Return the kind of the configured image tower, "clip" or "siglip2", without building it.

    Raises:
        InputError: the model is unknown.
    """
    return (
        SiglipTower.kind if is_siglip2(cfg.MODEL.CLIP.NAME, get_model_config(cfg.MODEL.CLIP.NAME)) else VisualTower.kind
    )


def read_needs_photograph(cfg: CfgNode) -> bool:
    """Return whether the configured method, the vote of regions or SAM's refinement reads photographs at full size.

    Raises:
        InputError: the method or an option is unknown.
    """
    method = get_method(cfg.MODEL.CLIPTRASE.METHOD, dict(cfg.MODEL.CLIPTRASE.METHOD_OPTIONS))
    published = cfg.TEST.PUBLISHED
    is_read = cfg.TEST.PROTOCOL == "published" and (published.REGION_VOTE or published.SAM_REFINEMENT > 0)
    return method.needs.photograph or is_read


def build_text_encoder(cfg: CfgNode, model: nn.Module) -> TextEncoder:
    """Build the text encoder of a configuration around a model with CLIP's text tower.

    Raises:
        InputError: the model or the template set cannot be used.
    """
    cache, clip = cfg.MODEL.CLIP.TEXT_CACHE, cfg.MODEL.CLIP
    tokenizer = get_tokenizer(clip.NAME, clip.PRETRAINED, context_length(model))  # type: ignore[arg-type]
    folder = Path(cache).expanduser() if cache else None
    return TextEncoder(model, tokenizer, templates=cfg.MODEL.CLIP.TEMPLATES, cache_dir=folder)  # type: ignore[arg-type]
