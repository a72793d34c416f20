"""Segmentation and explanation of uploaded photos, as pictures and HTML. Independent of Gradio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from cliptrase_d2.segmenter.explanation import Explanation, explain
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.overlay import overlay
from cliptrase_d2.visualization.panels import mark_patch
from cliptrase_d2.visualization.picture import class_colours
from cliptrase_d2.web.figures import render_clustering, render_correlation
from cliptrase_d2.web.html import alert, legend
from cliptrase_d2.web.labelling import label
from cliptrase_d2.web.models import Models
from cliptrase_d2.web.uploads import read_photo, read_vocabulary

_EXPLAINED_METHOD = "cliptrase"  # explanations do not depend on the chosen method
_PHOTO_CACHE, _RESULT_CACHE = 4, 8  # entries


class SegmentRequest(NamedTuple):
    """A visitor's input: the server's copy of the photo, the class names and the background prompts."""

    photo: str | None
    classes: str
    background: str


class Choice(NamedTuple):
    """A model and a method."""

    model: str
    method: str


class SideResult(NamedTuple):
    """One side of the page: the overlay, [H,W,3] uint8 RGB or None, and the legend or an error as HTML."""

    picture: np.ndarray | None
    html: str


class Point(NamedTuple):
    """A position in a photo, in percent of its width and height."""

    across: float
    down: float


class ExplanationView(NamedTuple):
    """The photo with a marked patch, [H,W,3] uint8 RGB or None, and both figures, or an error, as HTML."""

    picture: np.ndarray | None
    correlation: str
    clustering: str


class SegmentationService:
    """Serves the requests of the page. Recent photos and results are cached.

    Args:
        models: available models.
        max_pixels: largest number of pixels of a photo.
    """

    def __init__(self, models: Models, max_pixels: int):
        self.models = models
        # Paths are valid cache keys: the server names its copies by their hashes.
        self._read_photo = lru_cache(_PHOTO_CACHE)(partial(read_photo, max_pixels=max_pixels))
        self._segment = lru_cache(_RESULT_CACHE)(self._compute_segmentation)
        self._explain = lru_cache(_RESULT_CACHE)(self._compute_explanation)

    def segment(self, request: SegmentRequest, choices: Sequence[Choice]) -> Iterator[tuple[str, list[SideResult]]]:
        """Segment a photo with one choice after the other.

        Yields:
            After each choice, an empty message and the results so far. For an invalid request, an error message and
            empty results.
        """
        try:
            self._read_photo(request.photo)
            read_vocabulary(request.classes, request.background)
        except InputError as error:
            yield alert(error), [SideResult(None, "") for _ in choices]
            return
        results: list[SideResult] = []
        for choice in choices:
            try:
                results.append(self._segment(request, choice))
            except InputError as error:
                results.append(SideResult(None, alert(error)))
            yield "", results

    def locate(self, path: str | None, pixel: Sequence[int]) -> Point:
        """Convert a pixel (x, y) of a picture on the page to a point of the photo.

        Raises:
            InputError: the photo is missing or expired.
        """
        height, width = self._read_photo(path).pixels.shape[:2]
        return Point(*(round(100 * (index + 0.5) / side) for index, side in zip(pixel, (width, height), strict=True)))

    def explain(self, path: str | None, point: Point, models: Sequence[str]) -> ExplanationView:
        """Explain the segmentation of a photo by CLIPtrase at one point.

        Args:
            path: the server's copy of the photo.
            point: selects the patch.
            models: names. Their figures are stacked; duplicates are dropped.
        """
        try:
            results = {name: self._explain(path, point, name) for name in dict.fromkeys(models)}
        except InputError as error:
            return ExplanationView(None, alert(error), "")
        first, _ = results[models[0]]
        return ExplanationView(
            mark_patch(first.image, first.clusters.shape, first.patch),
            "".join(render_correlation(result, name, notes) for name, (result, notes) in results.items()),
            "".join(render_clustering(result, name, notes) for name, (result, notes) in results.items()),
        )

    def _compute_segmentation(self, request: SegmentRequest, choice: Choice) -> SideResult:
        photo = self._read_photo(request.photo)
        with self.models.lend(*choice) as model:
            labelling = label(model, photo.pixels, read_vocabulary(request.classes, request.background))
        colours = class_colours(labelling.classes, labelling.label_map)
        picture = overlay(photo.pixels, labelling.label_map, colours)
        return SideResult(picture, legend(labelling, photo, choice.method))

    def _compute_explanation(self, path: str | None, point: Point, name: str) -> tuple[Explanation, tuple[str, ...]]:
        pixels = self._read_photo(path).pixels
        height, width = pixels.shape[:2]
        x, y = (min(side - 1, int(share / 100 * side)) for share, side in zip(point, (width, height), strict=True))
        with self.models.lend(name, _EXPLAINED_METHOD) as model:
            return explain(model.segmenter, pixels, (x, y)), model.notes
