"""What the page answers to a visitor: pictures and HTML, or a message in their place. It knows nothing of Gradio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from cliptrase_d2.segmenter.explanation import Explanation, explain
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.overlay import overlay, palette
from cliptrase_d2.visualization.stages import mark_patch
from cliptrase_d2.web.figures import clustering_figure, correlation_figure
from cliptrase_d2.web.html import alert, legend
from cliptrase_d2.web.labelling import label
from cliptrase_d2.web.models import Models
from cliptrase_d2.web.uploads import read_photo, read_words

_EXPLAINED = "cliptrase"  # the method whose steps are shown, whatever else names the pixels
_KEPT_PHOTOS, _KEPT_ANSWERS = 4, 8


class Question(NamedTuple):
    """What a visitor has handed in: the server's copy of the photograph, classes, words of a background."""

    photo: str | None
    classes: str
    background: str


class Choice(NamedTuple):
    """Which model is to work by which method."""

    model: str
    method: str


class Answer(NamedTuple):
    """For one side of the page: the overlay, [H,W,3] uint8 RGB, None where there is only a message, and HTML."""

    picture: np.ndarray | None
    html: str


class Point(NamedTuple):
    """A place in a photograph, in percent of its width and height."""

    across: float
    down: float


class Explained(NamedTuple):
    """The photograph with a patch marked, [H,W,3] uint8 RGB or None, and HTML of the two figures."""

    picture: np.ndarray | None
    correlation: str
    clustering: str


class Answers:
    """Answers what is asked, with some models.

    Args:
        models: that a visitor may choose from.
        max_pixels: most of a photograph.
    """

    def __init__(self, models: Models, max_pixels: int):
        self.models = models
        # A path stands for one content always: the server names its copies by their hashes.
        self._photo = lru_cache(_KEPT_PHOTOS)(partial(read_photo, max_pixels=max_pixels))
        self._label = lru_cache(_KEPT_ANSWERS)(self._labelled)
        self._explain = lru_cache(_KEPT_ANSWERS)(self._explained)

    def labels(self, question: Question, choices: Sequence[Choice]) -> Iterator[tuple[str, list[Answer]]]:
        """Segment a photograph by one choice after the other.

        Returns:
            Once per choice the answers so far, with ""; or a message, and answers that are empty.
        """
        try:
            self._photo(question.photo)
            read_words(question.classes, question.background)
        except InputError as error:
            yield alert(error), [Answer(None, "") for _ in choices]
            return
        answers: list[Answer] = []
        for choice in choices:
            try:
                answers.append(self._label(question, choice))
            except InputError as error:
                answers.append(Answer(None, alert(error)))
            yield "", answers

    def point_at(self, path: str | None, pixel: Sequence[int]) -> Point:
        """The point of a photograph that a pixel (x, y) of its pictures on the page is.

        Raises:
            InputError: no photograph, or one that is gone.
        """
        height, width = self._photo(path).pixels.shape[:2]
        return Point(*(round(100 * (place + 0.5) / side) for place, side in zip(pixel, (width, height), strict=True)))

    def explanation(self, path: str | None, point: Point, models: Sequence[str]) -> Explained:
        """Why CLIPtrase segments a photograph as it does, seen from one of its points.

        Args:
            path: of the server's copy.
            point: whose patch is looked at.
            models: each has its own figures, below one another.
        """
        try:
            found = {name: self._explain(path, point, name) for name in dict.fromkeys(models)}
        except InputError as error:
            return Explained(None, alert(error), "")
        first, _ = found[models[0]]
        grid = (first.clusters.shape[0], first.clusters.shape[1])
        return Explained(
            mark_patch(first.image, grid, first.patch),
            "".join(correlation_figure(each, name, notes) for name, (each, notes) in found.items()),
            "".join(clustering_figure(each, name, notes) for name, (each, notes) in found.items()),
        )

    def _labelled(self, question: Question, choice: Choice) -> Answer:
        photo = self._photo(question.photo)
        with self.models.lent(*choice) as model:
            found = label(model, photo.pixels, read_words(question.classes, question.background))
        picture = overlay(photo.pixels, found.label_map, palette(len(found.classes)))
        return Answer(picture, legend(found, photo, choice.method))

    def _explained(self, path: str | None, point: Point, name: str) -> tuple[Explanation, tuple[str, ...]]:
        pixels = self._photo(path).pixels
        height, width = pixels.shape[:2]
        x, y = (min(side - 1, int(share / 100 * side)) for share, side in zip(point, (width, height), strict=True))
        with self.models.lent(name, _EXPLAINED) as model:
            return explain(model.segmenter, pixels, (x, y)), model.notes
