"""Emoji CLIP, the model that this package contains. It runs without a download."""

from __future__ import annotations

from pathlib import Path

import open_clip

from cliptrase_d2.utils.errors import InputError

NAME = "emoji-clip"
TAG = "emoji_scenes"
CONFIG = Path(__file__).parent / f"{NAME}.json"
WEIGHTS = Path(__file__).parent / f"{NAME}.safetensors"
FACTS = {"quick_gelu": False}  # of the training, as in open_clip's own tags


def register() -> None:
    """Register the model with open_clip, unless it already is."""
    if NAME not in open_clip.list_models():
        open_clip.add_model_config(CONFIG)


def get_weights_file() -> Path:
    """Return the packaged weights.

    Raises:
        InputError: the installation is incomplete.
    """
    if not WEIGHTS.is_file():
        got = f"missing file; the weights {TAG!r} of {NAME} are part of this package"
        raise InputError(WEIGHTS, got, "Reinstall the package.")
    return WEIGHTS
