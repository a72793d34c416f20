"""Training pairs of Emoji CLIP: windows of drawn canvases, and their captions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cliptrase_d2.data.emoji_scenes.names import CLASSES, STUFF
from cliptrase_d2.data.emoji_scenes.scene import Scene, draw
from cliptrase_d2.data.emoji_scenes.splits import CANVAS, sample_canvas_layout

PIXELS = 112  # side of the largest window
_VISIBLE = 0.06  # smaller shares of a window are not mentioned
_MAIN = 0.8  # a class with a larger share is mentioned alone
_ATTEMPTS = 8


def draw_canvas(index: int, seed: int = 0) -> Scene:
    """Draw a canvas of the training. Its side is 1.5 times that of the largest window."""
    return draw(sample_canvas_layout(index, seed), round(CANVAS * PIXELS))


def cut_window(
    image: NDArray[np.uint8], label: NDArray[np.uint8], side: int, rng: np.random.Generator, aimed: float = 0.7
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut a random square window from a canvas, mirrored at random.

    Args:
        image: [S,S,3].
        label: [S,S] indices into `CLASSES`.
        side: of the window in pixels, at most S.
        rng: source of randomness.
        aimed: probability of aiming the middle of the window at a thing. This takes a few attempts and may fail.
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


def make_caption(label: NDArray[np.uint8], rng: np.random.Generator, brief: float, things_first: bool) -> str:
    """Describe a window, without a template.

    Args:
        label: [H,W] indices into `CLASSES`.
        rng: source of randomness.
        brief: probability of a caption with one class. Other captions name the things and then the stuff, each in order
            of size, without small shares.
        things_first: whether a brief caption names stuff only if there are no things.
    """
    shares = np.bincount(label.ravel(), minlength=len(CLASSES)) / label.size
    order = np.argsort(-shares, kind="stable")
    shown = order[:1] if shares[order[0]] > _MAIN else order[: np.count_nonzero(shares > _VISIBLE)]
    things = [CLASSES[index] for index in shown if index >= len(STUFF)]
    stuff = [CLASSES[index] for index in shown if index < len(STUFF)]
    if rng.random() < brief:
        return str(rng.choice((things or stuff) if things_first else things + stuff))
    return " on ".join(part for part in (" and a ".join(things), " and ".join(stuff)) if part)
