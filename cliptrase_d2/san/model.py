"""SAN, a trained open-vocabulary segmenter: a side network beside a frozen CLIP (https://arxiv.org/abs/2302.12242)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.open_clip_modules import pixel_statistics, uses_quick_gelu
from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.d2 import CfgNode, ImageList, MetadataCatalog, comm, configurable
from cliptrase_d2.d2.published_keys import require_own_keys
from cliptrase_d2.pipeline.input_vocabulary import OWN_VOCABULARY_ONLY, InputVocabulary
from cliptrase_d2.pipeline.open_vocabulary import (
    MAX_SEM_SEG,
    ImageResult,
    OpenVocabularySegmenter,
    apply_threshold,
    build_text_encoder,
)
from cliptrase_d2.san.clip_parts import ClipParts, get_clip
from cliptrase_d2.san.criterion import Criterion, LossNormalizers, LossWeights, Prediction, Targets
from cliptrase_d2.san.side_network import SideAdapterNetwork
from cliptrase_d2.san.split_tower import BlockTokens, FirstBlocks, LastBlocks, WordClassifier
from cliptrase_d2.utils.errors import InputError, check_choice
from cliptrase_d2.utils.tensors import autocast, get_dtype
from cliptrase_d2.vocabulary import Vocabulary

QUERY_INITS = ("none", "prototypes", "closed_form")
_MAX_SCORES = 2**24  # class scores in memory while the label map is computed


class SAN(OpenVocabularySegmenter):
    """A trained segmenter with Detectron2's inputs and outputs; its state dict has the published SAN's layout.

    Args:
        clip_visual_extractor, clip_rec_head, ov_classifier: the parts of one CLIP.
        text_encoder: encodes words with ``ov_classifier``.
        side_adapter_network: predicts masks and attention biases.
        criterion: the losses; None for a model that is not trained.
        pixel_mean, pixel_std: of RGB in 0 to 255, as in CLIP's training.
        clip_resolution: size of CLIP's input relative to the image.
        size_divisibility: images of a batch are padded to multiples of this many pixels.
        vocabularies: finds the classes of an input.
        precision: arithmetic in evaluation, a key of ``tensors.PRECISIONS``; the trainer sets its own.
        max_sem_seg: largest ``sem_seg``, in gibibytes, of an input that does not ask for it.
        quick_gelu: whether the activation of CLIP is QuickGELU, for its checkpoints.
        needs_clip: whether weights of CLIP must be loaded before the first use.
        needs_training: whether a trained side network must be loaded before the first prediction.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    patch_multiple = 1  # images of any size are accepted; incomplete patches are padded
    resampling = "bilinear"  # for resizing input images, as in the published SAN's training

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
        vocabularies: InputVocabulary = OWN_VOCABULARY_ONLY,
        precision: str = "fp32",
        max_sem_seg: float = MAX_SEM_SEG,
        quick_gelu: bool = True,
        needs_clip: bool = False,
        needs_training: bool = False,
    ):
        super().__init__(text_encoder, vocabularies, max_sem_seg)
        self.criterion = criterion
        self.side_adapter_network = side_adapter_network
        self.clip_visual_extractor, self.clip_rec_head = clip_visual_extractor, clip_rec_head
        self.ov_classifier = ov_classifier
        self.clip_resolution, self.size_divisibility = clip_resolution, size_divisibility
        self.precision, self.quick_gelu = get_dtype(precision), quick_gelu
        self.needs_clip, self.needs_training = needs_clip, needs_training
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments of `__init__`; loads the CLIP weights.

        Raises:
            InputError: an unusable setting or CLIP, or keys of the published package in place of this one's.
        """
        require_own_keys(cfg)
        check_choice("MODEL.SAN.QUERY_INIT", cfg.MODEL.SAN.QUERY_INIT, QUERY_INITS)
        clip, needs_clip = get_clip(cfg)
        parts = ClipParts.split(clip, cfg.MODEL.SAN.FEATURE_LAST_LAYER_IDX)
        mean, std = pixel_statistics(clip.visual)
        return {
            **parts._asdict(),
            "text_encoder": build_text_encoder(cfg, parts.ov_classifier),
            "side_adapter_network": build_side_network(cfg, parts.clip_visual_extractor, parts.clip_rec_head),
            "criterion": build_criterion(cfg),
            "pixel_mean": [255 * value for value in mean],
            "pixel_std": [255 * value for value in std],
            "clip_resolution": cfg.MODEL.SAN.CLIP_RESOLUTION,
            "size_divisibility": cfg.MODEL.SAN.SIZE_DIVISIBILITY,
            "vocabularies": InputVocabulary.from_config(cfg),
            "precision": cfg.MODEL.CLIP.PRECISION,
            "max_sem_seg": cfg.MODEL.CLIPTRASE.MAX_SEM_SEG,
            "quick_gelu": uses_quick_gelu(clip.visual),
            "needs_clip": needs_clip,
            "needs_training": not cfg.MODEL.SAN.ALLOW_UNTRAINED,
        }

    @property
    def device(self) -> torch.device:
        """Device of the model, to which inputs are moved."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: Sequence[dict[str, Any]], normalizers: LossNormalizers | None = None) -> Any:
        """Return losses in training, segmented images otherwise.

        Args:
            batched_inputs: a dict per image with ``image`` [3,H,W], RGB in 0 to 255, and optionally ``vocabulary``, a
                ``Vocabulary`` or a list of names (default: see `InputVocabulary`). In training also ``sem_seg`` [H,W],
                class indices, with one other value for unlabelled pixels; all images have the same vocabulary.
                Otherwise optionally ``height`` and ``width`` of the result, ``output_sem_seg`` to return ``sem_seg``
                or not (default: up to `max_sem_seg`), ``output_grids`` True for ``scores``, and ``threshold``, the
                least score of a pixel's class, 0 to 1.
            normalizers: divisors of the losses if the batch is part of a larger one.
        Returns:
            In training the weighted losses by name. Otherwise a dict per image with ``label_map`` [H,W] int64,
            ``pred_masks`` [Q,H,W] in [0,1], ``pred_logits`` [Q,C], the logarithms of the class probabilities (the rest
            is "no object"), and ``sem_seg`` [C,H,W]. ``scores`` [C,h,w] is ``sem_seg`` on the grid of patches, divided
            by its sum over the classes. With a ``threshold``, ``label_map`` is -1 where the score is below it.
        Raises:
            InputError: an input without a vocabulary, a training batch with several, or a model without weights.
        """
        self.check_weights()
        batched_inputs = [self.complete(inputs) for inputs in batched_inputs]
        images = [self.normalise(inputs["image"]) for inputs in batched_inputs]
        padded = ImageList.from_tensors(images, self.size_divisibility)
        if self.training:
            return self._compute_losses(batched_inputs, padded.tensor, normalizers)
        with torch.no_grad(), autocast(self.device, self.precision):
            masks, embeddings = self.predict_masks(padded.tensor)[-1]
            return [
                self._segment(inputs, *prediction)
                for inputs, *prediction in zip(batched_inputs, masks, embeddings, padded.image_sizes, strict=True)
            ]

    def compute_normalizers(self, mask_counts: Sequence[int]) -> LossNormalizers:
        """Return the divisors of the losses of a step; the number of masks is averaged over all processes.

        Args:
            mask_counts: number of true masks of each image of this process.
        """
        assert self.criterion is not None, "a model in training has a criterion"
        own = self.criterion.compute_normalizers(mask_counts, self.side_adapter_network.query_embed.shape[1])
        masks = sum(comm.all_gather(sum(mask_counts))) / comm.get_world_size()
        return LossNormalizers(max(1.0, masks), own.label_weight)

    @classmethod
    def get_patch_multiple(cls, cfg: CfgNode) -> int:
        """Return `patch_multiple`, which does not depend on the configuration."""
        return cls.patch_multiple

    def to_class_shares(self, sem_seg: Tensor) -> Tensor:
        """Return ``sem_seg`` [C,H,W] of an output, which already is a sum of class probabilities times masks."""
        return sem_seg

    def check_weights(self) -> None:
        """Check that the model has the weights that it needs, in training or for predictions.

        Raises:
            InputError: CLIP was left empty for a checkpoint that is not loaded, or the side network is untrained.
        """
        if self.needs_clip:
            got = "not loaded, although it contains the weights of CLIP"
            raise InputError("MODEL.WEIGHTS", got, "Load it: DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS).")
        if self.needs_training and not self.training:
            fix = "Load a checkpoint, train first, or set MODEL.SAN.ALLOW_UNTRAINED True."
            raise InputError("MODEL.WEIGHTS", "no checkpoint is loaded, so this SAN is untrained", fix)

    def predict_masks(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Predict masks and their CLIP embeddings: of each supervised block in training, of the last one otherwise.

        Args:
            images: [B,3,H,W] normalised, sides in multiples of the size divisibility.
        Returns:
            Mask logits [B,Q,h,w] and embeddings [B,Q,D] in the joint space, per block.
        """
        features = self.encode_image(images)
        decoded = self.side_adapter_network(images, features)
        return [(masks, self.clip_rec_head(features, biases)) for masks, biases in decoded]

    def encode_image(self, images: Tensor) -> BlockTokens:
        """Encode normalised images [B,3,H,W] with CLIP's first blocks."""
        # The published SAN also resizes by a factor and without antialiasing.
        small = F.interpolate(images, scale_factor=self.clip_resolution, mode="bilinear", align_corners=False)
        return self.clip_visual_extractor(small)

    def normalise(self, image: Tensor) -> Tensor:
        """Normalise RGB in 0 to 255, [...,3,H,W], and move it to the model's device."""
        return (image.to(self.device) - self.pixel_mean) / self.pixel_std

    def classify(self, embeddings: Tensor, text: TextFeatures) -> Tensor:
        """Return the class logits [...,Q,C+1] of embeddings [...,Q,D].

        A class has the logit of its best word. The last class is "no object".
        """
        words = embeddings @ self.ov_classifier(text.features).to(embeddings.dtype).T  # [...,Q,R+1]
        index = torch.cat([text.class_index, text.class_index.new_tensor([len(text.classes)])])
        logits = words.new_full((*words.shape[:-1], len(text.classes) + 1), -torch.inf)
        return logits.scatter_reduce(-1, index.expand_as(words), words, "amax")

    def _compute_losses(
        self, batched_inputs: Sequence[dict[str, Any]], images: Tensor, normalizers: LossNormalizers | None
    ) -> dict[str, Tensor]:
        assert self.criterion is not None, "a model in training has a criterion"
        text = self._get_training_text([inputs["vocabulary"] for inputs in batched_inputs])
        self.needs_training = False
        size = (images.shape[2], images.shape[3])
        labels = [inputs["sem_seg"].to(self.device) for inputs in batched_inputs]
        targets = [_build_targets(label, len(text.classes), size) for label in labels]
        predictions = [
            Prediction(self.classify(embeddings, text), masks) for masks, embeddings in self.predict_masks(images)
        ]
        normalizers = normalizers or self.compute_normalizers([len(target.labels) for target in targets])
        return self.criterion(predictions, targets, normalizers)

    def _get_training_text(self, vocabularies: Sequence[Vocabulary]) -> TextFeatures:
        """Return the text features of a training batch.

        Raises:
            InputError: the images have different classes, or not those of DATASETS.TRAIN.
        """
        assert self.criterion is not None
        first, classes = vocabularies[0], len(self.criterion.empty_weight) - 1
        if any(other != first for other in vocabularies):
            raise InputError("vocabulary", "images of one batch with different classes", "Train on one set of classes.")
        if len(first.classes) != classes:
            got = f"{len(first.classes)} classes, but DATASETS.TRAIN has {classes}"
            raise InputError("vocabulary", got, "Train with the classes of the data set.")
        return self.text_features(first)

    def _on_load(self, incompatible_keys: Any) -> None:
        super()._on_load(incompatible_keys)
        parts = {part for name in incompatible_keys.missing_keys for part in name.split(".")}  # also inside a wrapper
        self.needs_clip &= not parts.isdisjoint(ClipParts._fields)
        self.needs_training &= "side_adapter_network" in parts

    def _segment(
        self, inputs: dict[str, Any], masks: Tensor, embeddings: Tensor, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return the result of one image.

        Args:
            inputs: of the image.
            masks: [Q,h,w] logits of the padded image.
            embeddings: [Q,D].
            size: height and width of the image before padding.
        """
        logits = self.classify(embeddings, self.text_features(inputs["vocabulary"]))
        probabilities = logits.float().softmax(-1)[:, :-1]  # [Q,C]
        stride = self.side_adapter_network.patch_size
        padded = (masks.shape[1] * stride, masks.shape[2] * stride)
        # Resize in two steps, as the published SAN does: to the padded image, then without the padding to the output.
        full = F.interpolate(masks[None].float(), padded, mode="bilinear", align_corners=False)
        output_size = (inputs.get("height", size[0]), inputs.get("width", size[1]))
        part = full[:, :, : size[0], : size[1]]
        soft = F.interpolate(part, output_size, mode="bilinear", align_corners=False)[0].sigmoid()  # [Q,H,W]
        output = ImageResult(
            {
                "label_map": _find_best_class(probabilities, soft),
                "pred_masks": soft,
                "pred_logits": probabilities.log(),
            }
        )
        if inputs["output_sem_seg"]:
            output["sem_seg"] = torch.einsum("qc,qhw->chw", probabilities, soft)
        if inputs["output_grids"]:
            grid = [-(-side // stride) for side in size]
            small = F.interpolate(part, grid, mode="bilinear", align_corners=False)[0].sigmoid()  # [Q,h,w]
            output["scores"] = F.normalize(torch.einsum("qc,qhw->chw", probabilities, small), p=1, dim=0)
        return apply_threshold(inputs, output)


def _find_best_class(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Return the class [H,W] with the highest sum of probabilities [Q,C] times masks [Q,H,W]."""
    rows = max(1, _MAX_SCORES // (probabilities.shape[1] * masks.shape[2]))
    parts = [torch.einsum("qc,qhw->chw", probabilities, part).argmax(0) for part in masks.split(rows, dim=1)]
    return torch.cat(parts)


def _build_targets(labels: Tensor, classes: int, size: tuple[int, int]) -> Targets:
    """Return a mask [H,W] of the padded size for each class in the labels [H',W'].

    Raises:
        InputError: several values are no class.
    """
    values = labels.unique()
    is_class = (values >= 0) & (values < classes)
    present, others = values[is_class], values[~is_class].tolist()
    if len(others) > 1:
        got = f"the values {', '.join(map(str, others[:5]))} with {classes} classes, and only one may mean unlabelled"
        fix = "Check the label files: Detectron2's mapper reads a palette as grey values. Use cliptrase_d2.Trainer."
        raise InputError("sem_seg", got, fix)
    bottom, right = size[0] - labels.shape[0], size[1] - labels.shape[1]
    return Targets(present, F.pad(labels == present[:, None, None], (0, right, 0, bottom)))


def build_side_network(cfg: CfgNode, first: FirstBlocks, last: LastBlocks) -> SideAdapterNetwork:
    """Build the untrained side network for the two parts of its CLIP.

    Raises:
        InputError: blocks or sizes that do not match.
    """
    side = cfg.MODEL.SIDE_ADAPTER
    supervised = list(side.DEEP_SUPERVISION_IDXS)
    if not supervised or supervised != sorted(supervised) or supervised[0] < 1 or supervised[-1] != side.DEPTH:
        fix = f"List blocks from 1 to {side.DEPTH} in ascending order, with {side.DEPTH} as the last one."
        raise InputError("MODEL.SIDE_ADAPTER.DEEP_SUPERVISION_IDXS", supervised, fix)
    if side.WIDTH % side.HEADS:
        fix = f"Choose a multiple of MODEL.SIDE_ADAPTER.HEADS, {side.HEADS}."
        raise InputError("MODEL.SIDE_ADAPTER.WIDTH", side.WIDTH, fix)
    return SideAdapterNetwork(
        clip_width=first.width,
        clip_heads=last.heads,
        image_size=side.IMAGE_SIZE,
        width=side.WIDTH,
        depth=side.DEPTH,
        heads=side.HEADS,
        patch_size=side.PATCH_SIZE,
        num_queries=side.NUM_QUERIES,
        fusion=_parse_fusion_map(side.FUSION_MAP, first.depth, side.DEPTH),
        supervised_blocks=supervised,
        decoder_channels=side.DECODER_CHANNELS,
        decoder_layers=side.DECODER_LAYERS,
    )


def _parse_fusion_map(pairs: Sequence[str], clip_depth: int, depth: int) -> dict[int, int]:
    """Parse ["C->S", ...] into {S: C}."""
    fusion = {}
    for pair in pairs:
        parts = re.fullmatch(r"(\d+)->(\d+)", pair)
        if parts is None or int(parts[1]) > clip_depth or int(parts[2]) > depth:
            fix = "Write 'C->S': the number of CLIP blocks, then the number of side network blocks."
            allowed = f"C from 0 to {clip_depth} (MODEL.SAN.FEATURE_LAST_LAYER_IDX), S from 0 to {depth}"
            raise InputError("MODEL.SIDE_ADAPTER.FUSION_MAP", repr(pair), fix, allowed)
        fusion[int(parts[2])] = int(parts[1])
    if not fusion:
        raise InputError("MODEL.SIDE_ADAPTER.FUSION_MAP", "an empty list", "Add at least one pair, such as '0->0'.")
    return fusion


def build_criterion(cfg: CfgNode) -> Criterion | None:
    """Build the losses for training on DATASETS.TRAIN; None if that is empty or names an unregistered data set."""
    classes = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("stuff_classes") if cfg.DATASETS.TRAIN else None
    if classes is None:
        return None
    san = cfg.MODEL.SAN
    return Criterion(
        len(classes),
        weights=LossWeights(san.CLASS_WEIGHT, san.MASK_WEIGHT, san.DICE_WEIGHT),
        no_object_weight=san.NO_OBJECT_WEIGHT,
        points=san.TRAIN_NUM_POINTS,
        oversample=san.OVERSAMPLE_RATIO,
        importance=san.IMPORTANCE_SAMPLE_RATIO,
    )
