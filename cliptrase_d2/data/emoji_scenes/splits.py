"""Random layouts of the scenes of each split. A layout depends only on its split, its index and the seed."""

from __future__ import annotations

import numpy as np

from cliptrase_d2.data.emoji_scenes.names import HELD_OUT, SEEN_THINGS, STUFF, THINGS, is_unseen_combination
from cliptrase_d2.data.emoji_scenes.scene import Layout, Thing
from cliptrase_d2.utils.errors import check_choice

SPLITS = ("seen", "unseen_combination", "held_out")
# Training and the splits use different random numbers, so no evaluation scene is a training scene.
_SERIES = {name: 1 + index for index, name in enumerate(("training", *SPLITS))}
# Width of a training canvas in scene widths. Windows of a scene's size are cut from it.
CANVAS = 1.5
_MAX_TEXTURE_ZOOM = 1.5  # largest magnification of textures
_MIN_SIZE, _MAX_SIZE = 0.28, 0.6  # side of a thing / side of a scene
_ATTEMPTS = 40
_MIN_DISTANCE = 0.42  # between the centres of two things / sum of their sides


def sample_layout(index: int, split: str, seed: int = 0) -> Layout:
    """Sample the layout of a scene: one to three regions, one to four things with little overlap.

    Args:
        index: number of the scene, 0 or more.
        split: "seen": training shows the things and the stuff together; "unseen_combination": training never shows
            the things with at least one stuff of the scene; "held_out": training never shows at least one thing.
        seed: of the series.
    Raises:
        InputError: the split is unknown.
    """
    check_choice("split", split, SPLITS)
    rng = np.random.default_rng((seed, _SERIES[split], index))
    stuff = _sample_stuff(rng)
    names = [str(rng.choice(get_allowed_things(stuff, split))) for _ in range(rng.integers(1, 5))]
    if split == "held_out":
        names[-1] = str(rng.choice(HELD_OUT))
    return _arrange(rng, stuff, names, frame=1.0, zoom=1.0)


def sample_canvas_layout(index: int, seed: int = 0) -> Layout:
    """Sample the layout of a training canvas: like a "seen" scene, at a random zoom. Windows are cut from the canvas.

    Args:
        index: number of the canvas.
        seed: of the series.
    """
    rng = np.random.default_rng((seed, _SERIES["training"], index))
    zoom, stuff = float(np.exp(rng.uniform(np.log(0.75), np.log(3.0)))), _sample_stuff(rng)
    allowed = get_allowed_things(stuff, "seen")
    names = [str(rng.choice(allowed)) for _ in range(rng.integers(2, 3 + int(6 / zoom**1.5)))]
    return _arrange(rng, stuff, names, frame=CANVAS, zoom=zoom)


def get_allowed_things(stuff: tuple[str, ...], split: str) -> tuple[str, ...]:
    """Return the things that a scene of a split may show together with its stuff."""
    if split == "held_out":
        return THINGS
    unseen = {name for name in SEEN_THINGS if any(is_unseen_combination(name, ground) for ground in stuff)}
    return tuple(name for name in SEEN_THINGS if (name in unseen) == (split == "unseen_combination"))


def _sample_stuff(rng: np.random.Generator) -> tuple[str, ...]:
    count = rng.choice((1, 2, 3), p=(0.3, 0.45, 0.25))
    return tuple(str(name) for name in rng.choice(STUFF, count, replace=False))


def _arrange(rng: np.random.Generator, stuff: tuple[str, ...], names: list[str], frame: float, zoom: float) -> Layout:
    things: list[Thing] = []
    for name in names:
        size = float(rng.uniform(_MIN_SIZE, _MAX_SIZE)) * zoom / frame
        things.append(_place_thing(rng, name, size, things))
    return Layout(stuff, tuple(things), min(zoom, _MAX_TEXTURE_ZOOM) / frame, int(rng.integers(2**31)))


def _place_thing(rng: np.random.Generator, name: str, size: float, others: list[Thing]) -> Thing:
    """Place a thing at the first random centre with enough distance from the others, or else at the farthest."""
    centres = rng.uniform(0.12, 0.88, (_ATTEMPTS, 2))
    distances = [min((np.hypot(*(c - t.centre)) / (size + t.size) for t in others), default=1.0) for c in centres]
    best = next((i for i, distance in enumerate(distances) if distance > _MIN_DISTANCE), int(np.argmax(distances)))
    centre = (float(centres[best, 0]), float(centres[best, 1]))
    return Thing(name, centre, size, float(rng.uniform(-30, 30)), bool(rng.integers(2)))
