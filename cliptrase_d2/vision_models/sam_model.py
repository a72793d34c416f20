"""SAM and SAM 2 of the package transformers: prompts in, masks out; and the features of SAM's encoder.

Source: Kirillov et al., ICCV 2023, https://arxiv.org/abs/2304.02643; Ravi et al., https://arxiv.org/abs/2408.00714.
Images and masks are resized to the model and back as the processors of transformers do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliptrase_d2.clip.tokens import PatchFeatures
from cliptrase_d2.utils.errors import InputError, first_line
from cliptrase_d2.utils.shared_results import compute_once

# The model type in config.json, and its class. SAM 2's checkpoints also hold its video part.
_CLASSES = {"sam": "SamModel", "sam2": "Sam2Model", "sam2_video": "Sam2Model"}
# Weights of the models on the hub. SAM 2.1 has the sizes of SAM 2.
_MEGABYTES = {
    "sam-vit-base": 375,
    "sam-vit-large": 1249,
    "sam-vit-huge": 2564,
    "sam2-hiera-tiny": 156,
    "sam2-hiera-small": 184,
    "sam2-hiera-base-plus": 323,
    "sam2-hiera-large": 898,
}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PROMPTS_AT_ONCE = 64
_IGNORED = -10  # label of a padding point


@dataclass(frozen=True)
class Prompts:
    """A batch of n prompts. Positions are (x, y) in [0,1].

    Attributes:
        points: [n,P,2] of every object; None for boxes alone.
        is_point: [n,P] bool, True for points, False for padding.
        boxes: [n,4], left, top, right, bottom; None for points alone.
    """

    points: Tensor | None = None
    is_point: Tensor | None = None
    boxes: Tensor | None = None


class PromptedSam(nn.Module):
    """SAM or SAM 2 with relative positions.

    Args:
        model: SamModel or Sam2Model.
    Attributes:
        name: of the model on the hub, or its folder.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, model: Any):
        super().__init__()
        self.model, self.name = model, str(model.config.name_or_path)
        # Of SAM 2: a single mask is that of the model's token for single masks, also if it is unstable.
        model.mask_decoder.dynamic_multimask_via_stability = False
        self.side = int(model.config.prompt_encoder_config.image_size)
        self.keeps_aspect = model.config.model_type == "sam"  # SAM 2 resizes every image to a square
        for name, values in (("mean", _MEAN), ("std", _STD)):  # in 0 to 255, the range of the images
            self.register_buffer(f"pixel_{name}", 255 * torch.tensor(values).view(3, 1, 1), persistent=False)

    @property
    def mask_side(self) -> int:
        """Side m of the square of a mask prompt."""
        return 4 * int(self.model.prompt_encoder.image_embedding_size[0])

    def frame(self, size: tuple[int, int], side: int | None = None) -> tuple[int, int]:
        """Return the part (H', W') of a square that an image of (H, W) fills, from its top left corner.

        Args:
            size: of the image.
            side: of the square; None for the model's.
        """
        side = side or self.side
        if not self.keeps_aspect:
            return side, side
        scale = side / max(size)
        height, width = (max(1, int(length * scale + 0.5)) for length in size)
        return height, width

    def prepare(self, image: Tensor) -> Tensor:
        """Resize, normalise and pad an image [3,H,W], RGB in 0 to 255, to [1,3,S,S], S being the model's side."""
        height, width = self.frame((image.shape[1], image.shape[2]))
        image = F.interpolate(image[None], (height, width), mode="bilinear", align_corners=False, antialias=True)
        image = (image - self.pixel_mean) / self.pixel_std
        return F.pad(image, (0, self.side - width, 0, self.side - height))

    def embed(self, image: Tensor) -> Any:
        """Encode an image [3,H,W], RGB in 0 to 255. This is the costly part; all prompts share it."""
        return compute_once(self, "embedding", image, lambda: self.model.get_image_embeddings(self.prepare(image)))

    def add_mask_prompt(self, embedding: Tensor, mask: Tensor) -> Tensor:
        """Add a mask to an embedding, as a prompt that all other prompts of `predict` share. SAM 2 is not supported.

        As in the published code of Trident, which passes a mask without a batch, the prompt encoder normalises the
        columns of each channel, and not the channels of each pixel.

        Args:
            embedding: [1,D,h,w] of the image.
            mask: [m,m] logits on the square of `mask_side`.
        """
        encoder = self.model.prompt_encoder
        layers = encoder.mask_embed
        x = mask[None]  # [1,m,m]
        for convolution, norm in ((layers.conv1, layers.layer_norm1), (layers.conv2, layers.layer_norm2)):
            x = convolution(x)
            x = F.layer_norm(x.mT, x.shape[1:2], eps=norm.eps).mT
            x = layers.activation(norm.weight[:, None, None] * x + norm.bias[:, None, None])
        # The model adds the embedding of an absent mask to that of the image.
        return embedding + layers.conv3(x) - encoder.no_mask_embed.weight[..., None, None]

    def predict(
        self, embedding: Any, prompts: Prompts, size: tuple[int, int], *, multimask: bool = True
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Predict masks, some prompts at a time.

        Args:
            embedding: of the image.
            prompts: n of them.
            size: (H, W) of the image.
            multimask: whether to predict M = 3 masks of a prompt, or one.
        Yields:
            [n',M,m,m] logits of M masks in the model's square, with threshold 0, and their predicted IoU [n',M].
        """
        height, width = self.frame(size)
        positions = prompts.points if prompts.boxes is None else prompts.boxes
        assert positions is not None, "prompts are points or boxes"
        scale = torch.tensor([width, height], device=positions.device, dtype=positions.dtype)
        for first in range(0, len(positions), _PROMPTS_AT_ONCE):
            part = slice(first, first + _PROMPTS_AT_ONCE)
            inputs: dict[str, Tensor] = {}
            if prompts.boxes is not None:
                inputs["input_boxes"] = (prompts.boxes[part] * scale.repeat(2))[None]  # [1,n',4]
            if prompts.points is not None and prompts.is_point is not None:
                inputs["input_points"] = (prompts.points[part] * scale)[None]  # [1,n',P,2]
                inputs["input_labels"] = torch.where(prompts.is_point[part], 1, _IGNORED).int()[None]
            output = self.model(image_embeddings=embedding, multimask_output=multimask, **inputs)
            yield output.pred_masks[0].float(), output.iou_scores[0].float()

    def crop(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Crop logits […,m,m] to the part that an image of (H, W) fills."""
        height, width = (
            math.ceil(length * side / self.side)
            for length, side in zip(self.frame(size), logits.shape[-2:], strict=True)
        )
        return logits[..., :height, :width]

    def enlarge(self, logits: Tensor, size: tuple[int, int], output: tuple[int, int]) -> Tensor:
        """Resize logits [n,m,m] of an image of (H, W) to another size of it, [n,H',W']."""
        height, width = self.frame(size)
        if self.keeps_aspect:
            logits = _resize(logits, (self.side, self.side))[:, :height, :width]
        return _resize(logits, output)


class SamEncoder(nn.Module):
    """The image encoder of SAM as a second vision model. Its features are those that the mask decoder reads.

    Args:
        sam: SAM, whose prompt encoder and decoder are not kept. SAM 2 has several grids.
    Raises:
        InputError: it is SAM 2.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, sam: PromptedSam):
        super().__init__()
        if sam.model.config.model_type != "sam":
            got = f"{sam.name!r}, a SAM 2, whose encoder has features on several grids"
            raise InputError("vision_model", got, "Choose a SAM such as facebook/sam-vit-base.")
        self.encoder, self.name, self.side = sam.model.vision_encoder, sam.name, sam.side
        for name in ("pixel_mean", "pixel_std"):
            self.register_buffer(name, getattr(sam, name), persistent=False)

    def forward(self, images: Tensor, features: str = "tokens") -> PatchFeatures:
        """Return the features of the encoder's neck, 64×64 of 256 numbers for any image.

        Images are resized to SAM's square without padding and without antialiasing, as in ProxyCLIP.

        Args:
            images: [B,3,H,W] RGB in 0 to 255.
            features: "tokens".
        Raises:
            InputError: other features.
        """
        if features != "tokens":
            got = f"{features!r} of {self.name!r}, whose projections do not cover the image at once"
            raise InputError("features", got, "Choose a ViT, or these features.", allowed="'tokens'")
        maps = compute_once(self, "maps", images, lambda: self._encode(images))  # [B,256,h,w]
        return PatchFeatures(maps.flatten(2).transpose(1, 2), (maps.shape[2], maps.shape[3]))

    def _encode(self, images: Tensor) -> Tensor:
        images = F.interpolate(images, (self.side, self.side), mode="bilinear", align_corners=False)
        maps: Tensor = self.encoder((images - self.pixel_mean) / self.pixel_std)[0]
        return maps


def load_sam(name: str, where: str = "sam") -> PromptedSam:
    """Load a frozen SAM or SAM 2, on the CPU, in evaluation mode.

    Args:
        name: a model on the Hugging Face hub, or a folder.
        where: argument that the name comes from, for errors.
    Raises:
        InputError: transformers is missing or too old, or the model does not exist or is of another kind.
    """
    try:
        import transformers  # an extra, and slow to import
    except ImportError as error:
        place, got = {"sam": "mask_source"}.get(where, where), f"it needs the package transformers ({error})"
        raise InputError(place, got, "Run: pip install 'cliptrase_d2[sam]'") from error
    try:
        kind = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False).model_type
        model_class = getattr(transformers, _CLASSES.get(kind, ""), None)
        if model_class is not None:
            # transformers would read a pickle (pytorch_model.bin) as data only, but safetensors suffice.
            model, loading = model_class.from_pretrained(name, output_loading_info=True, use_safetensors=True)
    except Exception as error:  # transformers, huggingface_hub and safetensors raise errors of their own kinds
        raise _explain_failure(name, where, first_line(error)) from error
    if model_class is None:
        fix = "Choose a model such as facebook/sam-vit-base or facebook/sam2.1-hiera-small."
        if kind in _CLASSES:
            version = f"transformers {transformers.__version__} has no {_CLASSES[kind]}"
            fix = f"{version}. Run: pip install --upgrade 'cliptrase_d2[sam]'"
        allowed = " or ".join(map(repr, _CLASSES))
        raise InputError(where, f"{name!r} is a model of type {kind!r}", fix, allowed)
    if loading["missing_keys"] or loading["mismatched_keys"]:
        names = sorted(map(str, [*loading["missing_keys"], *loading["mismatched_keys"]]))
        raise InputError(where, f"{name!r} lacks {len(names)} weights, among them {names[0]}", "Download it again.")
    return PromptedSam(model.eval().requires_grad_(False))


def _explain_failure(name: str, where: str, reason: str) -> InputError:
    if Path(name).expanduser().is_dir():
        return InputError(where, f"{name!r} cannot be loaded ({reason})", "Name the folder of a SAM or SAM 2.")
    if name.count("/") != 1 or name.startswith(("/", ".", "~")):
        fix = "Name an existing folder, or a model on the hub such as facebook/sam-vit-base."
        return InputError(where, f"{name!r}, no such folder", fix)
    megabytes = _MEGABYTES.get(name.partition("/")[2].replace("sam2.1", "sam2"))
    size = f", {megabytes} MB," if megabytes else ""
    fix = f"Check the name, or download https://huggingface.co/{name} elsewhere and name its folder."
    return InputError(where, f"the weights of {name!r}{size} cannot be downloaded ({reason})", fix)


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
