"""The second vision model of a method, by its name and weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from cliptrase_d2.clip.tokens import PatchFeatures
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vision_models.sam_model import SamEncoder, load_sam
from cliptrase_d2.vision_models.timm_vit import load_vit
from cliptrase_d2.vision_models.vit import VitBackbone

# RGB images [B,3,H,W] in 0 to 255, and which features to read (`FEATURES`), to patch features on the model's own grid.
VisionModel = Callable[[Tensor, str], PatchFeatures]


@dataclass(frozen=True)
class VisionSource:
    """Where a second vision model comes from. `config.py` explains the settings under MODEL.VISION.

    Attributes:
        name: of a ViT of timm; or of a SAM on the Hugging Face hub or its folder, with a slash; "" for the default of
            the method.
        weights: "pretrained", a file, or "" for random ones.
        sam: name of a SAM on the Hugging Face hub, or a folder, for the methods that read it beside the model.
    """

    name: str = ""
    weights: str = "pretrained"
    sam: str = ""

    def check(self, default: str, features: str) -> None:
        """Check that the model can have the features that a method reads.

        Raises:
            InputError: it is a SAM, and the features are projections.
        """
        name = self.name or default
        if _is_sam(name) and features != "tokens":
            got = f"{name!r}, a SAM by its slash, for a method that reads the {features} of the last block"
            fix = "Choose a ViT such as vit_base_patch16_224.dino, and give a file as its weights."
            raise InputError("vision_model", got, fix)

    def load(self, default: str) -> nn.Module:
        """Load the model, on the CPU, in evaluation mode.

        Args:
            default: name of the model where the source has none.
        Raises:
            InputError: the model or its weights cannot be used.
        """
        name = self.name or default
        if not _is_sam(name):
            vit = load_vit(name, self.weights, where="vision_model")
            return VitBackbone(vit, name, is_random=not self.weights).eval()
        if self.weights != "pretrained":
            got = f"{self.weights!r} for {name!r}, a model of transformers that brings its own weights"
            raise InputError("vision_model_weights", got, "Set it to 'pretrained', and name a folder as the model.")
        return SamEncoder(load_sam(name, where="vision_model")).eval()


def _is_sam(name: str) -> bool:
    return "/" in name and not name.startswith("hf-hub:")  # no name of timm has a slash
