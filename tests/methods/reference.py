"""The published methods' outputs for photographs, on weights that are rebuilt from the names of the parameters."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from open_clip import get_model_config
from open_clip.model import CLIP
from torch import Tensor

from cliptrase_d2.clip.tokens import ImageTokens
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.methods import DenseMethod

NAME = "ViT-B-16-quickgelu"
WINDOWS = ("0", "1", "wide")


class Reference:
    """Weights, windows and published outputs.

    Args:
        shared: the folder of reference material.
    """

    def __init__(self, shared: Path):
        self.folder = shared / "data" / "reference" / "methods"
        self.common = self.read("common")
        state = build_state(shared)
        for name, values in zip(self.common["weight_names"], self.common["weight_first4"], strict=True):
            torch.testing.assert_close(state[str(name)].flatten()[:4], torch.from_numpy(values))
        with torch.device("meta"):
            model = CLIP(**get_model_config(NAME))
        model.load_state_dict(state, assign=True, strict=False)
        self.tower = VisualTower(model.visual.eval().requires_grad_(False))
        self.text = torch.from_numpy(self.common["text_names"])  # [21,D]

    def read(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays of a file."""
        with np.load(self.folder / f"{name}.npz") as arrays:
            return dict(arrays)

    def images(self, *windows: str) -> Tensor:
        """Return windows of one size, normalised, [B,3,H,W]."""
        pixels = np.stack([self.common[f"window_{window}"] for window in windows])
        return self.tower.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2))

    def tokens(self, method: DenseMethod, *windows: str) -> ImageTokens:
        """Return what a method reads of windows of one size."""
        return self.tower(self.images(*windows), method.needs)

    def cosines(self, method: DenseMethod, *windows: str) -> Tensor:
        """Return the cosines of patches and names, [B,21,h,w]."""
        features = method(self.tokens(method, *windows))
        return (features.patches @ self.text.T).transpose(1, 2).unflatten(2, features.grid)


def build_state(shared: Path, last_projection: float = 10.0) -> dict[str, Tensor]:
    """Return the weights of the references.

    Args:
        shared: the folder of reference material.
        last_projection: factor of the output projection of the last attention; 1 in the references with a second vision
            model.
    """
    spec = importlib.util.spec_from_file_location("reference_weights", shared / "tools" / "reference_weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    with torch.device("meta"):  # every number is replaced, so none is drawn
        state = CLIP(**get_model_config(NAME)).state_dict()
    filled = weights.fill({name: value for name, value in state.items() if name != "attn_mask"}, gain=3.0)
    filled["visual.transformer.resblocks.11.attn.out_proj.weight"] *= last_projection
    return filled
