"""SAN: a trained open-vocabulary segmenter, a side network beside a frozen CLIP (https://arxiv.org/abs/2302.12242)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliptrase_d2.clip.load import get_tokenizer, load_clip
from cliptrase_d2.clip.open_clip_modules import pixel_statistics
from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.d2 import META_ARCH_REGISTRY, CfgNode, ImageList, configurable
from cliptrase_d2.pipeline.from_config import (
    build_criterion,
    build_image_queries,
    build_side_network,
    default_vocabulary,
)
from cliptrase_d2.san.criterion import Criterion, Prediction, Totals
from cliptrase_d2.san.image_queries import ImageQueries
from cliptrase_d2.san.matcher import Targets
from cliptrase_d2.san.side_network import SideAdapterNetwork
from cliptrase_d2.san.split_tower import BlockTokens, FirstBlocks, LastBlocks, WordClassifier
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.precision import autocast, get_dtype
from cliptrase_d2.vocabulary import Vocabulary

_PIXELS_AT_ONCE = 2**24  # class scores that are held while the label map is read off them


@META_ARCH_REGISTRY.register()
class SAN(nn.Module):
    """A trained segmenter with Detectron2's inputs and outputs; its state dict has the published SAN's layout.

    Args:
        clip_visual_extractor, clip_rec_head, ov_classifier: the parts of one CLIP.
        text_encoder: words to text features, with ``ov_classifier``.
        side_adapter_network: masks and attention biases.
        criterion: the losses; None for a model that is not trained.
        pixel_mean, pixel_std: of RGB in 0 to 255, as CLIP was trained.
        clip_resolution: size of CLIP's input in parts of the image's.
        size_divisibility: images of a batch are padded to multiples of this many pixels.
        query_init: what each image adds to its queries; None for plain SAN.
        vocabulary: classes of inputs that bring none; None if every input must.
        precision: arithmetic of an evaluation, a key of ``precision.PRECISIONS``; a trainer sets its own.
        output_sem_seg: whether to return per-class scores at output size.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    patch_multiple = 1  # images of any size: what is missing to whole patches is padded
    resampling = "bilinear"  # of the images that it is shown, as the published SAN was trained

    @configurable
    def __init__(
        self,
        *,
        clip_visual_extractor: FirstBlocks,
        clip_rec_head: LastBlocks,
        ov_classifier: WordClassifier,
        text_encoder: TextEncoder,
        side_adapter_network: SideAdapterNetwork,
        criterion: Criterion | None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        clip_resolution: float = 0.5,
        size_divisibility: int = 32,
        query_init: ImageQueries | None = None,
        vocabulary: Vocabulary | None = None,
        precision: str = "fp32",
        output_sem_seg: bool = False,
    ):
        super().__init__()
        self.criterion = criterion
        self.side_adapter_network = side_adapter_network
        self.clip_visual_extractor, self.clip_rec_head = clip_visual_extractor, clip_rec_head
        self.ov_classifier, self.text_encoder = ov_classifier, text_encoder
        self.query_init = query_init
        self.clip_resolution, self.size_divisibility = clip_resolution, size_divisibility
        self.vocabulary, self.output_sem_seg = vocabulary, output_sem_seg
        self.precision = get_dtype(precision)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)
        self._texts: dict[Vocabulary, TextFeatures] = {}

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of `__init__` from a configuration; loads the CLIP weights."""
        if cfg.INPUT.FORMAT != "RGB":
            raise InputError(
                "INPUT.FORMAT", repr(cfg.INPUT.FORMAT), "Leave it out.", allowed="RGB, which CLIP was trained on"
            )
        clip, _ = load_clip(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED, seed=cfg.MODEL.CLIP.SEED)
        split = cfg.MODEL.SAN.FEATURE_LAST_LAYER_IDX
        first, last = FirstBlocks(clip.visual, split), LastBlocks(clip.visual, split)
        classifier = WordClassifier(clip)
        cache = cfg.MODEL.CLIP.TEXT_CACHE
        mean, std = pixel_statistics(clip.visual)
        return {
            "clip_visual_extractor": first,
            "clip_rec_head": last,
            "ov_classifier": classifier,
            "text_encoder": TextEncoder(
                classifier,
                get_tokenizer(cfg.MODEL.CLIP.NAME),
                templates=cfg.MODEL.CLIP.TEMPLATES,
                cache_dir=Path(cache).expanduser() if cache else None,
            ),
            "side_adapter_network": build_side_network(cfg, first, last),
            "criterion": build_criterion(cfg),
            "pixel_mean": [255 * value for value in mean],
            "pixel_std": [255 * value for value in std],
            "clip_resolution": cfg.MODEL.SAN.CLIP_RESOLUTION,
            "size_divisibility": cfg.MODEL.SAN.SIZE_DIVISIBILITY,
            "query_init": build_image_queries(
                cfg, classifier
            ),  # the last, so that it changes no other's random numbers
            "vocabulary": default_vocabulary(cfg),
            "precision": cfg.MODEL.CLIP.PRECISION,
            "output_sem_seg": cfg.MODEL.CLIPTRASE.OUTPUT_SEM_SEG,
        }

    @property
    def device(self) -> torch.device:
        """Where the model is; inputs are brought there."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: Sequence[dict[str, Any]], totals: Totals | None = None) -> Any:
        """Losses in training, else segmented images.

        Args:
            batched_inputs: for every image a dict with ``image`` [3,H,W], RGB in 0 to 255; in training ``sem_seg``
                [H,W], class indices and anything else for pixels that are not labelled; else optionally ``height`` and
                ``width`` of the result; ``vocabulary`` (else the model's), in training the same for all.
            totals: what losses are divided by, where the batch is a part of a larger one.
        Returns:
            In training the weighted losses by name. Else for every image ``label_map`` [H,W] int64, ``pred_masks``
            [Q,H,W] in [0,1], ``pred_logits`` [Q,C], the logarithms of the classes' shares, of which "no object" has the
            rest; and ``sem_seg`` [C,H,W] if the model was told so.
        Raises:
            InputError: no vocabulary from anywhere.
        """
        images = [self.normalise(given["image"]) for given in batched_inputs]
        padded = ImageList.from_tensors(images, self.size_divisibility)
        if self.training:
            return self._losses(batched_inputs, padded, totals)
        with torch.no_grad(), autocast(self.device, self.precision):
            masks, embeddings = self.see(padded.tensor)[-1]
            return [
                self._output(given, *parts)
                for given, *parts in zip(batched_inputs, masks, embeddings, padded.image_sizes, strict=True)
            ]

    def see(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Masks and what CLIP sees under them, of every supervised block in training, else of the last.

        Args:
            images: [B,3,H,W] normalised, sides in multiples of the size divisibility.
        Returns:
            Mask logits [B,Q,h,w] and embeddings [B,Q,D] in the joint space.
        """
        features = self.clip_features(images)
        offset = None
        if self.query_init is not None:
            count = self.side_adapter_network.query_embed.shape[1]
            offset = self.query_init(features, self.clip_rec_head, count)
        decoded = self.side_adapter_network(images, features, offset)
        return [(masks, self.clip_rec_head(features, biases)) for masks, biases in decoded]

    def text_features(self, inputs: dict[str, Any]) -> TextFeatures:
        """Features of the vocabulary that an input brings, or else of the model's; encoded once.

        Raises:
            InputError: neither has one.
        """
        vocabulary = inputs.get("vocabulary", self.vocabulary)
        if vocabulary is None:
            fix = "Set MODEL.CLIPTRASE.VOCABULARY, or give the input a 'vocabulary'."
            raise InputError("vocabulary", "none in the input or the configuration", fix, allowed="class names")
        if vocabulary not in self._texts:
            self._texts[vocabulary] = self.text_encoder(vocabulary)
        return self._texts[vocabulary]

    def class_logits(self, embeddings: Tensor, text: TextFeatures) -> Tensor:
        """[...,Q,D] to [...,Q,C+1], the last for "no object"; a class has the logit of its best word."""
        words = embeddings @ self.ov_classifier(text.features).to(embeddings.dtype).T  # [...,Q,R+1]
        index = torch.cat([text.class_index, text.class_index.new_tensor([len(text.classes)])])
        logits = words.new_full((*words.shape[:-1], len(text.classes) + 1), -torch.inf)
        return logits.scatter_reduce(-1, index.expand_as(words), words, "amax")

    def normalise(self, image: Tensor) -> Tensor:
        """RGB in 0 to 255, [...,3,H,W], to what `see` takes."""
        return (image.to(self.device) - self.pixel_mean) / self.pixel_std

    def clip_features(self, images: Tensor) -> BlockTokens:
        """What CLIP sees of images [B,3,H,W], normalised."""
        # The published SAN resizes like this: by a factor, without antialiasing.
        small = F.interpolate(images, scale_factor=self.clip_resolution, mode="bilinear", align_corners=False)
        return self.clip_visual_extractor(small)

    def _losses(
        self, batched_inputs: Sequence[dict[str, Any]], images: ImageList, totals: Totals | None
    ) -> dict[str, Tensor]:
        assert self.criterion is not None, "a model that is trained has a criterion"
        text = self.text_features(batched_inputs[0])
        size = (images.tensor.shape[2], images.tensor.shape[3])
        targets = [_targets(given["sem_seg"].to(self.device), len(text.classes), size) for given in batched_inputs]
        predictions = [
            Prediction(self.class_logits(embeddings, text), masks) for masks, embeddings in self.see(images.tensor)
        ]
        queries = predictions[-1].mask_logits.shape[1]
        totals = totals or self.criterion.totals([len(truth.labels) for truth in targets], queries)
        return self.criterion(predictions, targets, totals)

    def _output(
        self, given: dict[str, Any], masks: Tensor, embeddings: Tensor, seen: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The result of one image, from mask logits [Q,h,w] of the padded image and embeddings [Q,D]."""
        text = self.text_features(given)
        shares = self.class_logits(embeddings, text).float().softmax(-1)[:, :-1]  # [Q,C]
        height, width = given.get("height", seen[0]), given.get("width", seen[1])
        stride = self.side_adapter_network.patch_size
        padded = (masks.shape[1] * stride, masks.shape[2] * stride)
        # In two steps, as the published SAN does: to the padded image, whose part in use is then resized.
        full = F.interpolate(masks[None].float(), padded, mode="bilinear", align_corners=False)
        part = full[:, :, : seen[0], : seen[1]]
        soft = F.interpolate(part, (height, width), mode="bilinear", align_corners=False)[0].sigmoid()  # [Q,H,W]
        output = {"label_map": _best_class(shares, soft), "pred_masks": soft, "pred_logits": shares.log()}
        if self.output_sem_seg:
            output["sem_seg"] = torch.einsum("qc,qhw->chw", shares, soft)
        return output


def _best_class(shares: Tensor, masks: Tensor) -> Tensor:
    """The class [H,W] with the highest sum of shares [Q,C] times masks [Q,H,W]; a few rows of scores at a time."""
    rows = max(1, _PIXELS_AT_ONCE // (shares.shape[1] * masks.shape[2]))
    parts = [torch.einsum("qc,qhw->chw", shares, part).argmax(0) for part in masks.split(rows, dim=1)]
    return torch.cat(parts)


def _targets(labels: Tensor, classes: int, size: tuple[int, int]) -> Targets:
    """A mask [H,W] of the padded size for every class that occurs in labels [H',W']."""
    present = labels.unique()
    present = present[(present >= 0) & (present < classes)]
    bottom, right = size[0] - labels.shape[0], size[1] - labels.shape[1]
    return Targets(present, F.pad(labels == present[:, None, None], (0, right, 0, bottom)))
