"""CLIPtrase: CLIP's own patch correlations become masks, its words name them, nothing is trained."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip import CLIP
from torch import Tensor, nn

from cliptrase_d2.clip.load import get_tokenizer, load_clip
from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.d2 import META_ARCH_REGISTRY, CfgNode, configurable
from cliptrase_d2.mask_sources import CorrelationSource, MaskSource
from cliptrase_d2.methods.attention import attention_named
from cliptrase_d2.pipeline.classify import Classification, class_scores
from cliptrase_d2.pipeline.from_config import build_mask_source_from_config, default_vocabulary, method_of
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.regions import patch_regions
from cliptrase_d2.pipeline.settings import Method, PatchScene
from cliptrase_d2.pipeline.tiles import output_size, segment_in_tiles
from cliptrase_d2.pipeline.windows import Windows, cut, stitch_correlation, stitch_patches
from cliptrase_d2.utils.device_copies import stack_to_device
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.precision import autocast, check_finite, get_dtype
from cliptrase_d2.vocabulary import Vocabulary


@META_ARCH_REGISTRY.register()
class CLIPtrase(nn.Module):
    """Zero-shot segmenter with Detectron2's inputs and outputs.

    Args:
        clip: an open_clip model, a plain class-token ViT.
        tower: the image tower of `clip` with the method's attention.
        text_encoder: words to text features, with `clip`.
        method: settings of the method.
        mask_source: where masks come from; None for the clusters of CLIP's own correlation.
        window, stride: side and step of windows in pixels, multiples of the patch size; None to see every image as
            a whole.
        in_tiles: whether windows are images of their own, instead of parts of one correlation.
        vocabulary: classes of inputs that bring none; None if every input must.
        precision: arithmetic of the image tower, a key of `precision.PRECISIONS`.
        output_sem_seg: whether to return per-class scores at output size.
        output_mask_features: whether to return the masks as they divide the image, and the feature of each.
    Raises:
        InputError: a window that does not fit the patches, a stride that leaves gaps, or an unknown precision.
    """

    resampling = "bicubic"  # of the images that it is shown, as CLIP was trained

    @configurable
    def __init__(
        self,
        *,
        clip: CLIP,
        tower: VisualTower,
        text_encoder: TextEncoder,
        method: Method,
        mask_source: MaskSource | None = None,
        window: int | None = None,
        stride: int | None = None,
        in_tiles: bool = False,
        vocabulary: Vocabulary | None = None,
        precision: str = "fp32",
        output_sem_seg: bool = False,
        output_mask_features: bool = False,
    ):
        super().__init__()
        for key, pixels in (("TEST.WINDOW", window), ("TEST.STRIDE", stride)):
            if pixels is not None and (pixels <= 0 or pixels % tower.patch_size):
                fix = f"Use {max(1, round(pixels / tower.patch_size)) * tower.patch_size}."
                raise InputError(
                    key, f"{pixels} pixels", fix, allowed=f"a multiple of the patch size, {tower.patch_size}"
                )
        if window is not None and stride is not None and stride > window:
            fix = "Lower it, for no window sees what lies between."
            raise InputError("TEST.STRIDE", f"{stride} pixels", fix, allowed=f"at most TEST.WINDOW, {window}")
        if in_tiles and (window is None or stride is None):
            raise InputError(
                "in_tiles", f"window {window} and stride {stride}", "Give both.", allowed="both, in pixels"
            )
        self.clip = clip
        self.tower = tower
        self.text_encoder = text_encoder
        self.mask_source = mask_source or CorrelationSource(method)
        self.method = method
        self.window, self.stride, self.in_tiles = window, stride, in_tiles
        self.vocabulary = vocabulary
        self.precision = get_dtype(precision)
        self.output_sem_seg = output_sem_seg
        self.output_mask_features = output_mask_features
        self._texts: dict[Vocabulary, TextFeatures] = {}

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of `__init__` from a configuration; loads the CLIP weights."""
        if cfg.INPUT.FORMAT != "RGB":
            raise InputError(
                "INPUT.FORMAT", repr(cfg.INPUT.FORMAT), "Leave it out.", allowed="RGB, which CLIP was trained on"
            )
        clip, _ = load_clip(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED, seed=cfg.MODEL.CLIP.SEED)
        method = cfg.MODEL.CLIPTRASE
        cache = cfg.MODEL.CLIP.TEXT_CACHE
        in_windows = cfg.TEST.PROTOCOL in ("slide", "tiles")
        return {
            "clip": clip,
            "tower": VisualTower(
                visual=clip.visual,
                attention=method.ATTENTION,
                correlation_layer=method.CORRELATION_LAYER,
                position_resize=cfg.MODEL.CLIP.POS_EMBED_RESIZE,
            ),
            "text_encoder": TextEncoder(
                clip,
                get_tokenizer(cfg.MODEL.CLIP.NAME),
                templates=cfg.MODEL.CLIP.TEMPLATES,
                cache_dir=Path(cache).expanduser() if cache else None,
            ),
            "method": method_of(cfg),
            "mask_source": build_mask_source_from_config(cfg),
            "window": cfg.TEST.WINDOW if in_windows else None,
            "stride": cfg.TEST.STRIDE if in_windows else None,
            "in_tiles": cfg.TEST.PROTOCOL == "tiles",
            "vocabulary": default_vocabulary(cfg),
            "precision": cfg.MODEL.CLIP.PRECISION,
            "output_sem_seg": method.OUTPUT_SEM_SEG,
            "output_mask_features": cfg.TEST.UNSUPERVISED_GROUPS > 0,
        }

    @property
    def device(self) -> torch.device:
        """Where the model is; inputs are brought there."""
        return self.tower.pixel_mean.device

    @property
    def patch_multiple(self) -> int:
        """Images of sides in multiples of this many pixels are seen as they are."""
        return self.tower.patch_size

    @property
    def method(self) -> Method:
        """The settings of the method, which the source of masks has too: changed here, they change there."""
        return self.mask_source.method

    @method.setter
    def method(self, method: Method) -> None:
        self.mask_source.method = method

    def change_method(self, attention: str, method: Method) -> None:
        """Take another last attention and other settings; weights and the text features known so far stay.

        Raises:
            InputError: there is no attention of this name.
        """
        self.tower.attention = attention_named(attention)
        self.method = method

    @torch.inference_mode()
    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Segment images, each on its own vocabulary and as if it were alone.

        Args:
            batched_inputs: for every image a dict with ``image`` [3,H,W], RGB in 0 to 255; optionally ``height``
                and ``width`` of the result (else the image's) and ``vocabulary`` (else the model's); for an oracle
                ``sem_seg`` [H,W], the true labels; ``output_masks`` False where nobody wants ``pred_masks``.
        Returns:
            For every image ``label_map`` [H,W] int64, ``pred_masks`` [Q,H,W], ``pred_logits`` [Q,C]; and
            ``sem_seg`` [C,H,W] if the model was told so, whose argmax is the label map. A refinement changes the
            label map and makes ``sem_seg`` its shares in [0,1]; masks and their logits stay those before it. If told
            so also ``assignment`` [H,W] int64, the mask of every pixel, and ``mask_features`` [Q,D], for which an
            image without masks is one mask. Of an image in tiles no masks and their logits, see `segment_in_tiles`.
        Raises:
            InputError: no vocabulary from anywhere, an oracle without true labels, or features that are no numbers.
        """
        if self.in_tiles and self.window is not None and self.stride is not None:
            return segment_in_tiles(self._segment, batched_inputs, self.window, self.stride)
        return self._segment(batched_inputs)

    def _segment(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        outputs: dict[int, dict[str, Tensor]] = {}
        for members in self._alike(batched_inputs):
            inputs = [batched_inputs[member] for member in members]
            text = self.text_features(inputs[0])
            images = self._prepare(inputs)
            scene = self.see(images, self._regions(inputs, images))
            masks = self.mask_source(self.tower.pixels(images), scene, [output_size(given) for given in inputs])
            logits = self.method.word_logits(scene, text, self.clip.logit_scale.exp())
            named = self.method.classify(masks, logits, text)
            check_finite(scene.patches, inputs)  # here, for it makes a GPU's processor wait
            for index, member in enumerate(members):
                outputs[member] = self._output(inputs[index], masks[index], named[index], logits[index], text)
                if self.output_mask_features:
                    features = self.method.pool(scene, index, masks[index])
                    outputs[member] |= {"assignment": masks[index].assignment, "mask_features": features}
        return [outputs[member] for member in range(len(batched_inputs))]

    def see(self, images: Tensor, regions: Tensor | None = None) -> PatchScene:
        """Patch features and correlations of images as a whole, or stitched from windows.

        Args:
            images: [B,3,H,W] normalised, sides in multiples of the patch size.
            regions: [B,N] the true region of every patch; None but for an oracle.
        """
        grid = self._grid(images)
        if self.in_tiles or self.window is None or self.stride is None:
            return self._encode(images, grid, regions)
        window, stride = self.window // self.tower.patch_size, self.stride // self.tower.patch_size
        windows = Windows.cover(grid, window, stride)
        views = cut(images, windows, self.tower.patch_size)  # [B·K,3,H',W']
        seen = None if regions is None else regions[:, windows.patch_index(regions.device)].flatten(0, 1)  # [B·K,N']
        # As many windows at a time as there are images: memory is that of the batch the user asked for.
        scenes = [
            self._encode(part, windows.window, None if seen is None else seen[first : first + len(part)])
            for first, part in zip(range(0, len(views), len(images)), views.split(len(images)), strict=True)
        ]
        patches, class_token, correlation = (
            torch.cat([getattr(scene, name) for scene in scenes]).unflatten(0, (len(images), -1))  # [B,K,…]
            for name in ("patches", "class_token", "correlation")
        )
        return PatchScene(
            stitch_patches(patches, windows),
            class_token.mean(1),
            stitch_correlation(correlation, windows),
            grid,
        )

    def text_features(self, inputs: dict[str, Any]) -> TextFeatures:
        """Features of the vocabulary that an input brings, or else of the model's; encoded once.

        Raises:
            InputError: neither has one.
        """
        vocabulary = inputs.get("vocabulary", self.vocabulary)
        if vocabulary is None:
            raise InputError(
                "vocabulary",
                "none in the input, the configuration or the data set",
                "Set MODEL.CLIPTRASE.VOCABULARY, or give the input a 'vocabulary'.",
                allowed="class names",
            )
        if vocabulary not in self._texts:
            self._texts[vocabulary] = self.text_encoder(vocabulary)
        return self._texts[vocabulary]

    def _grid(self, images: Tensor) -> tuple[int, int]:
        return images.shape[2] // self.tower.patch_size, images.shape[3] // self.tower.patch_size

    def _regions(self, inputs: Sequence[dict[str, Any]], images: Tensor) -> Tensor | None:
        """[B,N] true regions of the patches, where an oracle asks for them and there are labels."""
        if not self.tower.attention.is_oracle or any("sem_seg" not in given for given in inputs):
            return None
        grid, side = self._grid(images), self.tower.patch_size
        return torch.stack([patch_regions(given["sem_seg"].to(self.device), grid, side) for given in inputs])

    def _encode(self, images: Tensor, grid: tuple[int, int], regions: Tensor | None) -> PatchScene:
        with autocast(self.device, self.precision):
            tokens = self.tower(images, regions)
        return PatchScene(tokens.patches, tokens.class_token, self.method.correlate(tokens), grid)

    def _alike(self, batched_inputs: Sequence[dict[str, Any]]) -> list[list[int]]:
        """Inputs that can go together, of one size, output size and vocabulary: padding would show in the results."""
        alike: dict[Hashable, list[int]] = {}
        for member, given in enumerate(batched_inputs):
            key = given["image"].shape, output_size(given), given.get("vocabulary")
            alike.setdefault(key, []).append(member)
        return list(alike.values())

    def _prepare(self, inputs: Sequence[dict[str, Any]]) -> Tensor:
        """Images of one size as [B,3,H,W], normalised, resized to the nearest whole patches if they do not fit."""
        images = self.tower.normalise(stack_to_device([given["image"] for given in inputs], self.device))
        side = self.tower.patch_size
        fitting = [max(1, round(length / side)) * side for length in images.shape[2:]]
        if fitting == list(images.shape[2:]):
            return images
        return F.interpolate(images, fitting, mode="bicubic", align_corners=False, antialias=True)

    def _output(
        self, given: dict[str, Any], masks: MaskProposals, named: Classification, logits: Tensor, text: TextFeatures
    ) -> dict[str, Tensor]:
        refined = self.method.refine(named.label_map, given["image"])
        output = {"label_map": refined.label_map if refined else named.label_map, "pred_logits": named.mask_logits}
        if given.get("output_masks", True):
            output["pred_masks"] = masks.soft_masks()
        if self.output_sem_seg:
            classes = len(text.classes)
            output["sem_seg"] = (
                refined.of_all(classes)
                if refined
                else class_scores(named, masks.assignment, logits, text.class_index, classes)
            )
        return output
