"""The CLIP that is part of this package, so that a first run needs no download: its name, its tag, its two files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip

from cliptrase_d2.utils.errors import InputError

NAME = "emoji-clip"
TAG = "emoji_scenes"
CONFIG = Path(__file__).parent / f"{NAME}.json"
WEIGHTS = Path(__file__).parent / f"{NAME}.safetensors"
# Known of the training besides its numbers, as in open_clip's own tags.
FACTS: dict[str, Any] = {"quick_gelu": False}


def register() -> None:
    """Make the model known to open_clip by its name; again is no harm."""
    if NAME not in open_clip.list_models():
        open_clip.add_model_config(CONFIG)


def weights() -> Path:
    """The packaged weights.

    Raises:
        InputError: the installation lacks them.
    """
    if not WEIGHTS.is_file():
        raise InputError(
            WEIGHTS,
            f"no file, although the weights {TAG!r} of {NAME} are a part of this package",
            "Install the package again.",
            allowed="a complete installation",
        )
    return WEIGHTS
