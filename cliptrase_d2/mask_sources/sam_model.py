"""SAM or SAM 2 of the package transformers, as places in and masks out.

Source: Kirillov et al., ICCV 2023, https://arxiv.org/abs/2304.02643; Ravi et al., https://arxiv.org/abs/2408.00714.
Images and masks are brought to a model's size and back as the processors of transformers do it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliptrase_d2.utils.errors import InputError

_KEY = "MODEL.MASKS.SAM"
# What the model's config.json calls itself, and the class that it is. SAM 2's checkpoints also hold its video part.
_CLASSES = {"sam": "SamModel", "sam2": "Sam2Model", "sam2_video": "Sam2Model"}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PROMPTS_AT_ONCE = 64
_IGNORED = -10  # the label of a point that only fills up


@dataclass(frozen=True)
class Prompts:
    """What SAM is asked, n times; places are (x, y) in [0,1].

    Attributes:
        points: [n,P,2] of every object; None where boxes ask.
        is_point: [n,P] bool, which of them count.
        boxes: [n,4], left, top, right, bottom; None where points ask.
    """

    points: Tensor | None = None
    is_point: Tensor | None = None
    boxes: Tensor | None = None


class PromptedSam(nn.Module):
    """A SAM or SAM 2 that is asked in relative places.

    Args:
        model: SamModel or Sam2Model.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        self.side = int(model.config.prompt_encoder_config.image_size)
        self.keeps_aspect = model.config.model_type == "sam"  # SAM 2 sees a square whatever the image
        for name, values in (("mean", _MEAN), ("std", _STD)):  # in 0 to 255, the range of the images
            self.register_buffer(f"pixel_{name}", 255 * torch.tensor(values).view(3, 1, 1), persistent=False)

    def frame(self, size: tuple[int, int]) -> tuple[int, int]:
        """The part (H', W') of the model's square that an image of (H, W) fills, from its top left corner."""
        if not self.keeps_aspect:
            return self.side, self.side
        scale = self.side / max(size)
        height, width = (int(length * scale + 0.5) for length in size)
        return height, width

    def prepare(self, image: Tensor) -> Tensor:
        """[3,H,W] RGB in 0 to 255 -> [1,3,S,S] normalised, S the model's side."""
        height, width = self.frame((image.shape[1], image.shape[2]))
        image = F.interpolate(image[None], (height, width), mode="bilinear", align_corners=False, antialias=True)
        image = (image - self.pixel_mean) / self.pixel_std
        return F.pad(image, (0, self.side - width, 0, self.side - height))

    def embed(self, image: Tensor) -> Any:
        """What the masks of an image [3,H,W], RGB in 0 to 255, are read from; the costly part, done once."""
        return self.model.get_image_embeddings(self.prepare(image))

    def ask(self, embedding: Any, prompts: Prompts, size: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Masks of some of the prompts after the other.

        Args:
            embedding: of the image.
            prompts: n of them.
            size: (H, W) of the image.
        Yields:
            [n',M,m,m] logits of M masks in the model's square, 0 the threshold; and [n',M] the IoU it expects.
        """
        height, width = self.frame(size)
        asked = prompts.points if prompts.boxes is None else prompts.boxes
        assert asked is not None  # the one or the other asks
        scale = torch.tensor([width, height], device=asked.device, dtype=asked.dtype)
        for first in range(0, len(asked), _PROMPTS_AT_ONCE):
            part = slice(first, first + _PROMPTS_AT_ONCE)
            given: dict[str, Tensor] = {}
            if prompts.boxes is not None:
                given["input_boxes"] = (prompts.boxes[part] * scale.repeat(2))[None]  # [1,n',4]
            if prompts.points is not None and prompts.is_point is not None:
                given["input_points"] = (prompts.points[part] * scale)[None]  # [1,n',P,2]
                given["input_labels"] = torch.where(prompts.is_point[part], 1, _IGNORED).int()[None]
            found = self.model(image_embeddings=embedding, multimask_output=True, **given)
            yield found.pred_masks[0].float(), found.iou_scores[0].float()

    def within(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Those of […,m,m] logits that lie in an image of (H, W), not in what fills up the square."""
        height, width = (
            math.ceil(length * side / self.side)
            for length, side in zip(self.frame(size), logits.shape[-2:], strict=True)
        )
        return logits[..., :height, :width]

    def enlarge(self, logits: Tensor, size: tuple[int, int], output: tuple[int, int]) -> Tensor:
        """Logits [n,m,m] of an image of (H, W), at another size of it: [n,H',W']."""
        height, width = self.frame(size)
        if self.keeps_aspect:
            logits = _resize(logits, (self.side, self.side))[:, :height, :width]
        return _resize(logits, output)


def load_sam(name: str) -> PromptedSam:
    """A frozen SAM or SAM 2, on the CPU, in evaluation mode.

    Args:
        name: of a model on the Hugging Face hub, or a folder of one.
    Raises:
        InputError: transformers is missing or too old, there is no such model, or it is another one.
    """
    transformers = _transformers()
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        kind = config.model_type
        model_class = getattr(transformers, _CLASSES[kind], None) if kind in _CLASSES else None
        if model_class is None:
            raise _other_model(name, kind, transformers.__version__)
        # Weights as a pickle (pytorch_model.bin) would still be read as data, but there is no need of any.
        model, found = model_class.from_pretrained(name, output_loading_info=True, use_safetensors=True)
    except InputError:
        raise
    except Exception as error:  # transformers, huggingface_hub and safetensors each have their own kinds
        raise InputError(
            _KEY,
            f"{name!r}, which cannot be loaded ({(str(error) or type(error).__name__).splitlines()[0][:160]})",
            "Check the name; without network, download the model elsewhere and name its folder.",
            allowed="a SAM or SAM 2 of the Hugging Face hub, or a folder of one",
        ) from error
    if found["missing_keys"] or found["mismatched_keys"]:
        names = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))
        got = f"{name!r}, which lacks {len(names)} weights, {names[0]} one of them"
        raise InputError(_KEY, got, "Download it again.", allowed="all weights of a SAM or SAM 2")
    return PromptedSam(model.eval().requires_grad_(False))


def _transformers() -> ModuleType:
    try:
        import transformers  # an extra, and slow to import: only who asks for SAM needs it
    except ImportError as error:
        raise InputError(
            "MODEL.MASKS.SOURCE",
            f"a source that needs the package transformers ({error})",
            "Run: pip install 'cliptrase_d2[sam]'",
            allowed="'scr' or 'backbone' without it",
        ) from error
    return transformers


def _other_model(name: str, kind: str, version: str) -> InputError:
    if kind in _CLASSES:
        fix = f"transformers {version} has no {_CLASSES[kind]}. Run: pip install --upgrade 'cliptrase_d2[sam]'"
    else:
        fix = "Choose a model such as facebook/sam-vit-base or facebook/sam2.1-hiera-small."
    return InputError(_KEY, f"{name!r}, a model of the type {kind!r}", fix, allowed=" or ".join(map(repr, _CLASSES)))


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
