"""Pictures with captions, what Emoji CLIP learns from: windows of several sizes, cut from drawn canvases."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cliptrase_d2.data.emoji_scenes.names import CLASSES, STUFF
from cliptrase_d2.data.emoji_scenes.scene import Scene, draw
from cliptrase_d2.data.emoji_scenes.splits import CANVAS, canvas_layout

PIXELS = 112  # side of the largest window
_VISIBLE = 0.06  # share of the window from which on a photographer mentions something
_MAIN = 0.8  # share of the window from which on nothing else is mentioned
_ATTEMPTS = 8


def draw_canvas(index: int, seed: int = 0) -> Scene:
    """A canvas of training, half as wide again as the largest window."""
    return draw(canvas_layout(index, seed), round(CANVAS * PIXELS))


def cut_window(
    image: NDArray[np.uint8], label: NDArray[np.uint8], side: int, rng: np.random.Generator, aimed: float = 0.7
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A square window of a canvas, mirrored or not.

    Args:
        image: [S,S,3].
        label: [S,S] indices into `CLASSES`.
        side: of the window in pixels, at most S.
        rng: decides where.
        aimed: how often the middle shall be on a thing, as photographers do, where a few attempts find one.
    Returns:
        Image [side,side,3] and label [side,side], views.
    """
    on_thing = rng.random() < aimed
    for top, left in rng.integers(0, len(image) - side + 1, (_ATTEMPTS, 2)):
        if not on_thing or label[top + side // 2, left + side // 2] >= len(STUFF):
            break
    step = int(rng.choice((1, -1)))
    window = np.s_[top : top + side, left : left + side]
    return image[window][:, ::step], label[window][:, ::step]


def caption(label: NDArray[np.uint8], rng: np.random.Generator, brief: float, things_first: bool) -> str:
    """What a picture shows, in words without a template.

    Args:
        label: [H,W] indices into `CLASSES`.
        rng: decides how much is said.
        brief: how often the caption names one thing or stuff alone. Else it names the things and then the stuff they
            are on, the larger first, and passes over small shares.
        things_first: a brief caption names stuff only where there is no thing.
    """
    shares = np.bincount(label.ravel(), minlength=len(CLASSES)) / label.size
    order = np.argsort(-shares, kind="stable")
    shown = order[:1] if shares[order[0]] > _MAIN else order[: np.count_nonzero(shares > _VISIBLE)]
    things = [CLASSES[index] for index in shown if index >= len(STUFF)]
    stuff = [CLASSES[index] for index in shown if index < len(STUFF)]
    if rng.random() < brief:
        return str(rng.choice((things or stuff) if things_first else things + stuff))
    return " on ".join(part for part in (" and a ".join(things), " and ".join(stuff)) if part)
