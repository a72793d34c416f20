"""Which scenes there are: training's, and three kinds to evaluate on; each a function of its number alone."""

from __future__ import annotations

import numpy as np

from cliptrase_d2.data.emoji_scenes.names import HELD_OUT, SEEN_THINGS, STUFF, THINGS, is_unseen_combination
from cliptrase_d2.data.emoji_scenes.scene import Layout, Thing
from cliptrase_d2.utils.errors import InputError

SPLITS = ("seen", "unseen_combination", "held_out")
# Training draws from other numbers than any split, so no scene to evaluate on was ever trained on.
_SERIES = {name: 1 + index for index, name in enumerate(("training", *SPLITS))}
# A canvas of training is this many times as wide as a scene, so that windows of a scene's size differ.
CANVAS = 1.5
_COARSEST = 1.5  # magnification from which on textures do not grow with the things
_SMALLEST, _LARGEST = 0.28, 0.6  # sides of things in shares of a scene's side
_ATTEMPTS = 40
_CLOSE = 0.42  # distance of two things' centres in shares of the sum of their sides


def scene_layout(index: int, split: str, seed: int = 0) -> Layout:
    """The layout of one scene: one to three regions, one to four things that hardly cover each other.

    Args:
        index: number of the scene; any number of them can be drawn, in any order.
        split: "seen" has things and stuff that training shows together, "unseen_combination" only things that
            training never shows with one of the scene's stuff, "held_out" at least one thing that it never shows.
        seed: of the series.
    Raises:
        InputError: there is no such split.
    """
    if split not in SPLITS:
        raise InputError("split", repr(split), "Use one of these names.", allowed=" or ".join(SPLITS))
    rng = np.random.default_rng((seed, _SERIES[split], index))
    stuff = _stuff(rng)
    names = [str(rng.choice(allowed_things(stuff, split))) for _ in range(rng.integers(1, 5))]
    if split == "held_out":
        names[-1] = str(rng.choice(HELD_OUT))
    return _layout(rng, stuff, names, frame=1.0, zoom=1.0)


def canvas_layout(index: int, seed: int = 0) -> Layout:
    """The layout of one canvas of training, which windows are cut from: as "seen" scenes are, at many zooms.

    Args:
        index: number of the canvas.
        seed: of the series.
    """
    rng = np.random.default_rng((seed, _SERIES["training"], index))
    zoom, stuff = float(np.exp(rng.uniform(np.log(0.75), np.log(3.0)))), _stuff(rng)
    allowed = allowed_things(stuff, "seen")
    names = [str(rng.choice(allowed)) for _ in range(rng.integers(2, 3 + int(6 / zoom**1.5)))]
    return _layout(rng, stuff, names, frame=CANVAS, zoom=zoom)


def allowed_things(stuff: tuple[str, ...], split: str) -> tuple[str, ...]:
    """The things that a scene of a split may show on given stuff."""
    if split == "held_out":
        return THINGS
    unseen = {name for name in SEEN_THINGS if any(is_unseen_combination(name, ground) for ground in stuff)}
    return tuple(name for name in SEEN_THINGS if (name in unseen) == (split == "unseen_combination"))


def _stuff(rng: np.random.Generator) -> tuple[str, ...]:
    count = rng.choice((1, 2, 3), p=(0.3, 0.45, 0.25))
    return tuple(str(name) for name in rng.choice(STUFF, count, replace=False))


def _layout(rng: np.random.Generator, stuff: tuple[str, ...], names: list[str], *, frame: float, zoom: float) -> Layout:
    things: list[Thing] = []
    for name in names:
        size = float(rng.uniform(_SMALLEST, _LARGEST)) * zoom / frame
        things.append(_place(rng, name, size, things))
    return Layout(stuff, tuple(things), min(zoom, _COARSEST) / frame, int(rng.integers(2**31)))


def _place(rng: np.random.Generator, name: str, size: float, others: list[Thing]) -> Thing:
    """A thing somewhere in the frame, off the others where there is room."""
    tries = rng.uniform(0.12, 0.88, (_ATTEMPTS, 2))
    room = [min((np.hypot(*(place - t.centre)) / (size + t.size) for t in others), default=1.0) for place in tries]
    free = next((index for index, value in enumerate(room) if value > _CLOSE), int(np.argmax(room)))
    centre = (float(tries[free, 0]), float(tries[free, 1]))
    return Thing(name, centre, size, float(rng.uniform(-30, 30)), bool(rng.integers(2)))
