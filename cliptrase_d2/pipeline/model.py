"""CLIPtrase: CLIP's own patch correlations become masks, CLIP's text features name them, and nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from open_clip import CLIP
from torch import Tensor

from cliptrase_d2.clip.siglip import SiglipTower
from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.tokens import QKV, DenseFeatures, ImageTokens, Needs, PatchFeatures, TextFeatures
from cliptrase_d2.clip.visual import VisualTower, build_tower
from cliptrase_d2.d2 import META_ARCH_REGISTRY, CfgNode, configurable
from cliptrase_d2.mask_sources import MASK_SOURCES, CorrelationClusters, MaskInputs, MaskSource
from cliptrase_d2.methods import DenseMethod, Method
from cliptrase_d2.pipeline import stages
from cliptrase_d2.pipeline.classify import RULES, Classification, class_probabilities, class_scores
from cliptrase_d2.pipeline.expert_templates import read_expert_templates
from cliptrase_d2.pipeline.experts import ExpertEncoder
from cliptrase_d2.pipeline.input_vocabulary import OWN_VOCABULARY_ONLY, InputVocabulary
from cliptrase_d2.pipeline.open_vocabulary import (
    MAX_SEM_SEG,
    ImageResult,
    OpenVocabularySegmenter,
    apply_threshold,
    build_text_encoder,
    load_clip_from_config,
    read_needs_photograph,
    read_patch_size,
)
from cliptrase_d2.pipeline.parts import Combination, PartModels, WindowSettings, check_siglip_masks
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.published_segmentation import segment_published
from cliptrase_d2.pipeline.refinement import REFINEMENTS
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.pipeline.tiles import ReadRows, Span, get_output_size, segment_in_tiles, segment_rows
from cliptrase_d2.pipeline.windows import Windows, cut, stitch_correlation, stitch_patches
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.profiling import stage
from cliptrase_d2.utils.tensors import autocast, check_finite, get_dtype, stack_to_device
from cliptrase_d2.vision_models import VisionModel, VisionSource
from cliptrase_d2.vision_models.sam_attention import check_last_attention
from cliptrase_d2.vision_models.sam_model import PromptedSam, load_sam

Size = tuple[int, int]
Read = TypeVar("Read")


class EncodedImages(NamedTuple):
    """Results of the image tower for a batch.

    Attributes:
        features: of the patches; None if they were not asked for.
        correlation: [B,N,N], one row per patch; None if nothing needs it.
    """

    features: DenseFeatures | None
    correlation: Tensor | None


@dataclass(frozen=True)
class Segmentation:
    """All stages of a batch of images of one size.

    Attributes:
        features: of the patches, on the method's grid.
        correlation: [B,N,N], one row per patch; None if no stage needs it.
        masks: of each image.
        logits: [B,R,h,w] of every word; None without text.
        predictions: the class of each image's masks and pixels; None without text.
    """

    features: DenseFeatures
    correlation: Tensor | None
    masks: list[MaskProposals]
    logits: Tensor | None = None
    predictions: list[Classification] | None = None


@META_ARCH_REGISTRY.register()
class CLIPtrase(OpenVocabularySegmenter):
    """Zero-shot segmenter with Detectron2's inputs and outputs.

    Args:
        clip: an open_clip model, a plain class-token ViT.
        tower: the image tower of `clip`; that of a SigLIP 2 only with methods that can read it.
        text_encoder: words to text features, with `clip`.
        settings: of the method.
        mask_source: proposes masks; None for clusters of CLIP's own correlation.
        vision_model: a second vision model, for methods that need one; None to load the one of `vision_source`.
        vision_source: where the second vision model comes from, for the methods that need one; None for nowhere.
        sam: for methods that read SAM's attention, and the published refinement; None to load that of `vision_source`.
        part_models: the mask sources and second vision models that were built; None for none.
        window, stride: side and step of windows in pixels, multiples of the patch size; None for whole images.
        in_tiles: whether windows are images of their own instead of parts of one correlation.
        protocol: the published protocol, which has windows of its own; None for one of this package's.
        vocabularies: finds the classes of an input.
        precision: arithmetic of the image tower, a key of `tensors.PRECISIONS`.
        max_sem_seg: largest ``sem_seg``, in gibibytes, of an input that does not ask for it.
        output_mask_features: whether to return the assignment of pixels to masks, and the feature of each mask.
    Attributes:
        method: how dense features are read out of CLIP, named by the settings.
        experts: encodes vocabularies for the experts of the published protocol; None without experts.
    Raises:
        InputError: a window that does not fit the patches, a stride that leaves gaps, or settings that do not fit.
    """

    resampling = "bicubic"  # of the input images, as CLIP was trained
    mask_source: MaskSource
    vision_model: VisionModel | None
    window: int | None
    stride: int | None
    in_tiles: bool
    protocol: PublishedProtocol | None

    @configurable
    def __init__(
        self,
        *,
        clip: CLIP,
        tower: VisualTower | SiglipTower,
        text_encoder: TextEncoder,
        settings: CLIPtraseSettings,
        mask_source: MaskSource | None = None,
        vision_model: VisionModel | None = None,
        vision_source: VisionSource | None = None,
        sam: PromptedSam | None = None,
        part_models: PartModels | None = None,
        window: int | None = None,
        stride: int | None = None,
        in_tiles: bool = False,
        protocol: PublishedProtocol | None = None,
        vocabularies: InputVocabulary = OWN_VOCABULARY_ONLY,
        precision: str = "fp32",
        max_sem_seg: float = MAX_SEM_SEG,
        output_mask_features: bool = False,
    ):
        super().__init__(text_encoder, vocabularies, max_sem_seg)
        self.clip, self.tower = clip, tower
        self.vision_model, self.vision_source, self.sam = vision_model, vision_source, sam
        self.experts: ExpertEncoder | None = None
        self.precision = get_dtype(precision)
        self.output_mask_features = output_mask_features
        self.part_models = part_models or PartModels()
        windows = WindowSettings(window, stride, in_tiles, protocol)
        self.configure(settings, mask_source=mask_source or CorrelationClusters(), windows=windows)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments of `__init__` for a configuration. Loads the CLIP weights."""
        settings, windows = CLIPtraseSettings.from_config(cfg), WindowSettings.from_config(cfg)
        clip, part_models = load_clip_from_config(cfg, allow_siglip=True), PartModels()
        return {
            "clip": clip,
            "tower": build_tower(clip.visual, cfg.MODEL.CLIP.POS_EMBED_RESIZE),
            "text_encoder": build_text_encoder(cfg, clip),
            "settings": settings,
            "mask_source": part_models.from_config(cfg),
            "vision_source": VisionSource(cfg.MODEL.VISION.NAME, cfg.MODEL.VISION.WEIGHTS, cfg.MODEL.MASKS.SAM),
            "part_models": part_models,
            "window": windows.window,
            "stride": windows.stride,
            "in_tiles": windows.in_tiles,
            "protocol": windows.published,
            "vocabularies": InputVocabulary.from_config(cfg),
            "precision": cfg.MODEL.CLIP.PRECISION,
            "max_sem_seg": cfg.MODEL.CLIPTRASE.MAX_SEM_SEG,
            "output_mask_features": cfg.TEST.UNSUPERVISED_GROUPS > 0,
        }

    @property
    def device(self) -> torch.device:
        """The device of the model. Inputs are moved there."""
        return self.tower.pixel_mean.device

    @property
    def extra_models(self) -> dict[str, dict[str, Any]]:
        """Name, number of parameters and weights, if random, of every model beside CLIP that is used, by its role."""
        is_used = {
            "vision_model": bool(self.method.needs.vision_features),
            "sam": self.protocol is not None and self.protocol.reads_sam(self.method),
            "mask_source": self.settings.clustering != "none",
        }
        return {
            role: {
                "name": getattr(module, "name", type(module).__name__),
                "parameters": count,
                **({"weights": "random"} if getattr(module, "is_random", False) else {}),
            }
            for role, module in self.named_children()
            if is_used.get(role) and (count := sum(parameter.numel() for parameter in module.parameters()))
        }

    @property
    def patch_multiple(self) -> int:
        """Side of a patch. Images whose sides are multiples of it are not resized."""
        return self.tower.patch_size

    @classmethod
    def get_patch_multiple(cls, cfg: CfgNode) -> int:
        """Return `patch_multiple` of the model of a configuration, without building it."""
        return read_patch_size(cfg)

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check that the method, masks, windows and other settings of a configuration can be combined.

        Raises:
            InputError: they cannot, with the reason.
        """
        Combination.from_config(cfg).check()

    @classmethod
    def list_parts(cls) -> tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]:
        """Return the title of every mask source by its name, the names of the rules, and those of the refinements."""
        return {name: source.title or name for name, source in MASK_SOURCES.items()}, RULES, REFINEMENTS

    @property
    def needs_photograph(self) -> bool:
        """As in `OpenVocabularySegmenter`, for the current method, and the end of the published protocol."""
        protocol = self.protocol
        return self.method.needs.photograph if protocol is None else protocol.needs_photograph(self.method)

    @classmethod
    def get_needs_photograph(cls, cfg: CfgNode) -> bool:
        """As in `OpenVocabularySegmenter`, for the configured method."""
        return read_needs_photograph(cfg)

    def to_class_shares(self, sem_seg: Tensor) -> Tensor:
        """Turn ``sem_seg`` [C,H,W] of an output into shares of the classes in [0,1], which can be averaged over views.

        It holds logarithms of vote shares or logits, except after a refinement, which gives shares.
        """
        return sem_seg.softmax(0) if self.settings.refinement == "none" else sem_seg

    def configure(
        self,
        settings: CLIPtraseSettings,
        *,
        mask_source: MaskSource | None = None,
        windows: WindowSettings | None = None,
    ) -> None:
        """Change the method and its settings. CLIP's weights and encoded vocabularies stay.

        A second vision model and SAM are loaded if the settings need others than the model has had.

        Args:
            settings: of the method.
            mask_source, windows: new ones; None to keep those of the model.
        Raises:
            InputError: an unknown method, parts that cannot be combined, or a second vision model or SAM that cannot be
                loaded. The model does not change.
        """
        source, depth = self.vision_source, self.tower.depth
        windows = windows or WindowSettings(self.window, self.stride, self.in_tiles, self.protocol)
        has_vision_model = source is not None or self.vision_model is not None
        parts = windows, self.tower.patch_size, self.tower.kind, has_vision_model, self.output_mask_features
        method = Combination(settings, *parts).check()
        if not -depth <= settings.correlation_layer < depth:
            got, allowed = (
                f"block {settings.correlation_layer} of a tower with {depth} blocks",
                f"{-depth} to {depth - 1}",
            )
            raise InputError("correlation_layer", got, "-1 is the last block, -2 the last but one.", allowed=allowed)
        if self.tower.kind == "siglip2":
            check_siglip_masks(self.mask_source if mask_source is None else mask_source, settings)
        sam = self.sam
        if windows.published is not None and windows.published.reads_sam(method):
            sam = self._get_sam(windows.published, method, settings)
        if method.needs.vision_features and source is not None:
            source.check(method.vision_model, method.needs.vision_features)
            name = source.name or method.vision_model
            if getattr(self.vision_model, "name", "") != name:
                self.vision_model = self.part_models.get((source, name), partial(source.load, name)).to(self.device)
        self.experts = self._get_experts(windows.published)
        self.method, self.settings, self.sam = method, settings, sam
        self.window, self.stride, self.in_tiles = windows.window, windows.stride, windows.in_tiles
        self.protocol = windows.published
        if mask_source is not None:
            self.mask_source = mask_source.to(self.device)

    def _get_sam(self, protocol: PublishedProtocol, method: Method, settings: CLIPtraseSettings) -> PromptedSam:
        source, sam = self.vision_source, self.sam
        if source is not None:
            sam = self.part_models.get(("sam", source.sam), partial(load_sam, source.sam)).to(self.device)
        if sam is None:
            where = "method" if method.needs.sam else "sam_refinement"
            got = f"{settings.method!r} needs SAM" if method.needs.sam else f"{protocol.sam_refinement} without SAM"
            raise InputError(where, got, "Build the model with a sam.")
        if protocol.sam_refinement and not sam.keeps_aspect:
            got = f"{sam.name!r}, a SAM 2, but the refinement reads a SAM"
            raise InputError("sam", got, "Choose a SAM such as facebook/sam-vit-base.")
        if method.needs.sam:
            check_last_attention(sam)
        return sam

    def _get_experts(self, protocol: PublishedProtocol | None) -> ExpertEncoder | None:
        path = "" if protocol is None else protocol.experts
        if self.experts is not None and self.experts.path == path:
            return self.experts
        return ExpertEncoder(self.text_encoder, read_expert_templates(path), path) if path else None

    def _on_load(self, incompatible_keys: object) -> None:
        super()._on_load(incompatible_keys)
        if self.experts is not None:
            self.experts.clear()

    @torch.inference_mode()
    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Segment images, each with its own vocabulary and independently of the rest of the batch.

        Args:
            batched_inputs: for every image a dict with ``image`` [3,H,W], RGB in 0 to 255; optionally ``height`` and
                ``width`` of the result (default: the image's) and ``vocabulary``, a ``Vocabulary`` or a list of names
                (default: see `InputVocabulary`); for an oracle ``sem_seg`` [H,W], the true labels; ``output_masks``
                False to leave out ``pred_masks``; if `needs_photograph`, ``photograph`` [3,height,width], the image
                before it was resized; ``output_sem_seg`` to return ``sem_seg`` or not (default: up to `max_sem_seg`);
                ``output_grids`` True for ``scores`` and ``coarse_masks``; ``threshold``, the least score of a pixel's
                class, 0 to 1.
        Returns:
            For every image ``label_map`` [H,W] int64, ``pred_masks`` [Q,H,W], ``pred_logits`` [Q,C] and ``sem_seg``
            [C,H,W], whose argmax is the label map. A refinement changes the label map and turns ``sem_seg`` into class
            shares in [0,1]; masks and their logits stay unrefined. With `output_mask_features` also ``assignment``
            [H,W] int64, the mask of every pixel, and ``mask_features`` [Q,D]; an image without masks counts as one
            mask. An image in tiles has no masks or logits, see `segment_in_tiles`. With ``output_grids`` also
            ``scores`` [C,h,w], see `class_probabilities`, and ``coarse_masks`` [Q,h',w'], which ``pred_masks``
            upsamples. With a ``threshold``, ``label_map`` is -1 where the score of the class is below it, and
            ``sem_seg`` does not change. With the published protocol there are no masks, and ``sem_seg`` holds
            probabilities, 0 for removed classes and, where the label fell back to the background, for all others.
        Raises:
            InputError: no vocabulary, an oracle without true labels, features that are NaN or infinite, or with the
                published protocol a threshold or an image smaller than a patch.
        """
        inputs = [self.complete(one) for one in batched_inputs]
        if self.in_tiles and self.window is not None and self.stride is not None:
            tiled = segment_in_tiles(self._segment_batch, inputs, self.window, self.stride)
            outputs: list[dict[str, Tensor]] = [ImageResult(one) for one in tiled]
        else:
            outputs = self._segment_batch(inputs)
        return [apply_threshold(one, output) for one, output in zip(inputs, outputs, strict=True)]

    @torch.inference_mode()
    def segment_rows(self, read: ReadRows, inputs: Mapping[str, Any], size: Size) -> Iterator[tuple[Span, Tensor]]:
        """Segment a large image in tiles from top to bottom, with the labels that `forward` returns.

        Args:
            read, size: as in `pipeline.tiles.segment_rows`.
            inputs: as in `forward`, without ``image`` and ``threshold``.
        Yields:
            As `pipeline.tiles.segment_rows`.
        """
        assert self.window is not None, "built for whole images"
        assert self.stride is not None
        inputs = self.complete({**inputs, "output_sem_seg": False})
        yield from segment_rows(self._segment_batch, read, inputs, size, self.window, self.stride)

    def segment(
        self, images: Tensor, text: TextFeatures | None, sizes: Sequence[Size], labels: Tensor | None = None
    ) -> Segmentation:
        """Run all stages of the paper's Figure 2 on images of one size.

        Args:
            images: [B,3,H,W] normalised, sides in multiples of the patch size.
            text: features of the words; None to stop after the masks.
            sizes: (H', W') of each image's result, all equal if there is text.
            labels: [B,H,W] int64 true labels; None except for an oracle.
        """
        regions_first = self.method.needs.regions
        features, correlation = self.encode_image(images, text, labels, want_features=not regions_first)
        masks = self.predict_masks(images, correlation, sizes)
        if regions_first:
            regions = _resize_labels([proposals.regions() for proposals in masks], images)
            features, _ = self.encode_image(images, text, regions, want_correlation=False)
        assert features is not None
        if text is None:
            return Segmentation(features, correlation, masks)
        logits = stages.compute_word_logits(features, text, self.clip.logit_scale.exp(), self.settings)
        assert isinstance(self.method, DenseMethod), "configure refuses others without the published protocol"
        logits = self.method.refine_logits(logits, features, sizes[0])
        predictions = stages.classify_masks(masks, logits, text, self.settings)
        return Segmentation(features, correlation, masks, logits, predictions)

    def encode_image(
        self,
        images: Tensor,
        text: TextFeatures | None = None,
        regions: Tensor | None = None,
        *,
        want_features: bool = True,
        want_correlation: bool = True,
    ) -> EncodedImages:
        """Encode images as a whole, or in windows whose results are stitched.

        Args:
            images: [B,3,H,W] normalised, sides in multiples of the patch size.
            text: features of the words, for methods that need them.
            regions: [B,H,W] int64 label map of regions, for methods that need one.
            want_features: whether to compute dense features.
            want_correlation: whether to compute the correlation, if the mask source needs it.
        """
        needs_correlation = self.mask_source.needs_correlation and self.settings.clustering != "none"
        wanted = want_features, want_correlation and needs_correlation
        if not any(wanted):
            return EncodedImages(None, None)
        if self.in_tiles or self.window is None or self.stride is None:
            return self._encode(images, text, regions, *wanted)
        side = self.tower.patch_size
        windows = Windows.cover(self.tower.grid(images), self.window // side, self.stride // side)
        views = cut(images, windows, side)  # [B·K,3,H',W']
        region_views = (
            [None] * len(windows.corners) if regions is None else cut(regions, windows, side).split(len(images))
        )
        # As many windows at a time as images, so memory is that of the batch size that the user chose.
        parts = [
            self._encode(view, text, region, *wanted)
            for view, region in zip(views.split(len(images)), region_views, strict=True)
        ]
        features = _stitch_features([part.features for part in parts if part.features], windows, len(images))
        rows = [part.correlation for part in parts if part.correlation is not None]
        return EncodedImages(features, stitch_correlation(_group(rows, len(images)), windows) if rows else None)

    def predict_masks(
        self,
        images: Tensor,
        correlation: Tensor | None,
        sizes: Sequence[Size],
        photographs: Tensor | None = None,
    ) -> list[MaskProposals]:
        """Return the masks of each image, none where the setting `clustering` is "none".

        Args:
            images: [B,3,H,W] normalised.
            correlation: [B,N,N]; None if the mask source does not need it.
            sizes: (H', W') of each image's masks.
            photographs: [B,3,H',W'] RGB in 0 to 255, which the mask source reads instead; None for the images.
        """
        pixels = None
        if self.mask_source.needs_pixels and self.settings.clustering != "none":
            pixels = self.tower.denormalise(images) if photographs is None else photographs.float()
        grid = self.tower.grid(images)
        return self.mask_source(MaskInputs(grid, sizes, self.settings, images.device, correlation, pixels))

    def preprocess(self, inputs: Sequence[dict[str, Any]]) -> Tensor:
        """Stack, normalise and fit images of one size to whole patches, [B,3,H,W]."""
        images = self.tower.normalise(stack_to_device([one["image"] for one in inputs], self.device))
        side = self.tower.patch_size
        fitting = [max(1, round(length / side)) * side for length in images.shape[2:]]
        if fitting == list(images.shape[2:]):
            return images
        return F.interpolate(images, fitting, mode="bicubic", align_corners=False, antialias=True)

    def _segment_batch(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        outputs: dict[int, dict[str, Tensor]] = {}
        for members in _group_by_shape(batched_inputs):
            inputs = [batched_inputs[member] for member in members]
            if self.protocol is not None:
                outputs |= zip(members, segment_published(self, inputs, self.protocol), strict=True)
                continue
            text, images = self.text_features(inputs[0]["vocabulary"]), self.preprocess(inputs)
            result = self.segment(images, text, list(map(get_output_size, inputs)), self._get_labels(inputs, images))
            check_finite(result.features.patches, inputs)  # after all stages, since it makes a GPU wait
            for index, member in enumerate(members):
                outputs[member] = self._make_output(inputs[index], result, index, text)
        return [outputs[member] for member in range(len(batched_inputs))]

    def _encode(
        self, images: Tensor, text: TextFeatures | None, regions: Tensor | None, want_features: bool, correlate: bool
    ) -> EncodedImages:
        """Encode images, or windows, as a whole.

        Raises:
            InputError: the method reads the words, and there are none.
        """
        method, layer = self.method, self.settings.correlation_layer
        needs = method.needs if want_features else Needs(position_resize=method.needs.position_resize)
        if needs.text and text is None:
            got = f"{self.settings.method!r} reads the words, of which none are known here"
            raise InputError("method", got, "Choose another method.")

        def read(tokens: ImageTokens) -> tuple[DenseFeatures | None, QKV | None]:
            tokens = replace(tokens, regions=regions, text=text if needs.text else None)
            if want_features:
                assert isinstance(method, DenseMethod), "the published protocol runs methods of whole images"
                return method(tokens), tokens.qkv(layer) if correlate else None
            return None, tokens.qkv(layer)

        features, qkv = self.read_tokens(images, replace(needs, qkv=(*needs.qkv, layer)) if correlate else needs, read)
        with stage("correlation"):
            return EncodedImages(features, None if qkv is None else stages.correlate(qkv, self.settings))

    def encode_views(self, views: Tensor, text: TextFeatures, regions: Tensor | None = None) -> DenseFeatures:
        """Return the features of views [n,3,H,W] normalised, each an image of its own.

        Args:
            views: of the images.
            text: features of the words, for methods that need them.
            regions: [n,H',W'] int64 label maps of their whole patches, for methods that need them.
        """
        features = self._encode(views, text, regions, True, False).features
        assert features is not None
        return features

    def read_tokens(self, images: Tensor, needs: Needs, read: Callable[[ImageTokens], Read]) -> Read:
        """Run the image tower, and the second vision model if it is needed, and read their outputs.

        Both run in the precision of the model, and so does `read`. Sides that are no multiple of the patch size keep
        their remainder for methods that read pixels.

        Args:
            images: [B,3,H,W] normalised.
            needs: what to keep.
            read: the tokens to the result.
        """
        height, width = (length // self.tower.patch_size * self.tower.patch_size for length in images.shape[2:])
        patches = images[..., :height, :width]  # CLIP's convolution drops the remainder
        with stage("image tower"), autocast(self.device, self.precision):
            vision = self._compute_vision_features(patches, needs)
            return read(replace(self.tower(patches, needs), images=images, vision_features=vision))

    def _compute_vision_features(self, images: Tensor, needs: Needs) -> PatchFeatures | None:
        if not needs.vision_features:
            return None
        assert self.vision_model is not None, "Combination refuses this"
        return self.vision_model(self.tower.denormalise(images), needs.vision_features)

    def _get_labels(self, inputs: Sequence[dict[str, Any]], images: Tensor) -> Tensor | None:
        """Return the true labels [B,H,W] at the size of the images, for an oracle.

        Raises:
            InputError: an image has no labels.
        """
        if not self.method.needs.true_labels:
            return None
        if any("sem_seg" not in one for one in inputs):
            fix = "Evaluate it on a data set with labels, or choose another method."
            raise InputError("method", f"the oracle {self.settings.method!r}, for images without labels", fix)
        return _resize_labels([one["sem_seg"].to(self.device) for one in inputs], images)

    def _make_output(
        self, inputs: dict[str, Any], result: Segmentation, index: int, text: TextFeatures
    ) -> dict[str, Tensor]:
        assert result.predictions is not None
        assert result.logits is not None
        masks, prediction, classes = result.masks[index], result.predictions[index], len(text.classes)
        shares = stages.refine(prediction.label_map, inputs["image"], self.settings)
        label_map = shares.label_map if shares else prediction.label_map
        output = ImageResult({"label_map": label_map, "pred_logits": prediction.mask_logits})
        if inputs["output_grids"]:
            output["scores"] = class_probabilities(result.logits[index], text.class_index, classes)
            output["coarse_masks"] = masks.coarse
        if inputs.get("output_masks", True):
            output["pred_masks"] = masks.soft_masks()
        if inputs["output_sem_seg"] and shares:
            output["sem_seg"] = shares.to_scores(classes)
        elif inputs["output_sem_seg"]:
            logits = result.logits[index]
            output["sem_seg"] = class_scores(prediction, masks.assignment, logits, text.class_index, classes)
        if self.output_mask_features:
            output["assignment"] = masks.assignment
            output["mask_features"] = stages.pool_masks(result.features, index, masks)
        return output


def _group_by_shape(batched_inputs: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Group inputs of one size, output size and vocabulary. Padding instead would change the results."""
    groups: dict[Hashable, list[int]] = {}
    for member, inputs in enumerate(batched_inputs):
        key = inputs["image"].shape, get_output_size(inputs), inputs["vocabulary"]
        groups.setdefault(key, []).append(member)
    return list(groups.values())


def _group(parts: Sequence[Tensor], images: int) -> Tensor:
    """Join windows [n,…] into [B,K,…]."""
    return torch.cat(list(parts)).unflatten(0, (images, -1))


def _stitch_features(parts: Sequence[DenseFeatures], windows: Windows, images: int) -> DenseFeatures | None:
    """Stitch the features of windows on the method's grid.

    Raises:
        InputError: the method's grid is not a whole multiple of CLIP's.
    """
    if not parts:
        return None
    grid, factor = parts[0].grid, parts[0].grid[0] // windows.window[0]
    if grid != (factor * windows.window[0], factor * windows.window[1]):
        got = f"features on a grid of {grid} in windows of {windows.window} patches, which cannot be stitched"
        raise InputError("method", got, "Use whole images, or a method whose grid is a whole multiple of CLIP's.")
    windows = windows.refine(factor)
    patches = stitch_patches(_group([part.patches for part in parts], images), windows)
    class_tokens = [part.class_token for part in parts if part.class_token is not None]
    key_parts = [part.keys for part in parts if part.keys is not None]
    keys = stitch_patches(_group(key_parts, images), windows) if key_parts else None
    return DenseFeatures(patches, windows.grid, _group(class_tokens, images).mean(1) if class_tokens else None, keys)


def _resize_labels(labels: Sequence[Tensor], images: Tensor) -> Tensor:
    """Resize label maps [H',W'] to the size of images [B,3,H,W] by the nearest pixel, [B,H,W] int64."""
    size = (images.shape[2], images.shape[3])
    return torch.stack(
        [F.interpolate(one[None, None].double(), size, mode="nearest-exact")[0, 0] for one in labels]
    ).long()
