"""Segmentation and explanation of uploaded photos, as HTML. Independent of Gradio."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from cliptrase_d2.segmenter.explanation import Explanation, explain
from cliptrase_d2.unknown import check_threshold
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.panels import mark_patch
from cliptrase_d2.web.figures import render_clustering, render_correlation
from cliptrase_d2.web.html import alert, render_picture, render_result
from cliptrase_d2.web.labelling import Labelling, label
from cliptrase_d2.web.models import DRAWINGS, Models
from cliptrase_d2.web.uploads import read_photo, read_vocabulary

_EXPLAINED_METHOD = "cliptrase"  # explanations do not depend on the chosen method
_PHOTO_CACHE, _RESULT_CACHE = 4, 8  # entries


class SegmentRequest(NamedTuple):
    """A visitor's input.

    Attributes:
        photo: the server's copy.
        classes: class names.
        background: background prompts.
        threshold: pixels whose class has a lower probability, 0 to 1, are unknown.
    """

    photo: str | None
    classes: str
    background: str
    threshold: float = 0


class Choice(NamedTuple):
    """A model and a method."""

    model: str
    method: str


class Point(NamedTuple):
    """A position in a photo, in percent of its width and height."""

    across: float
    down: float


class ExplanationView(NamedTuple):
    """The photo with a marked patch, and both figures, or an error, as HTML."""

    picture: str
    correlation: str
    clustering: str


class SegmentationService:
    """Serves the requests of the page. Recent photos and results are cached.

    Args:
        models: available models.
        max_pixels: largest number of pixels of a photo.
        drawings: names of files without the warning that Emoji CLIP has seen no photograph.
    """

    def __init__(self, models: Models, max_pixels: int, drawings: Collection[str] = ()):
        self.models, self._drawings = models, drawings
        # Paths are valid cache keys: the server names its copies by their hashes.
        self._read_photo = lru_cache(_PHOTO_CACHE)(partial(read_photo, max_pixels=max_pixels))
        self._label = lru_cache(_RESULT_CACHE)(self._compute_labelling)
        self._render = lru_cache(_RESULT_CACHE)(self._render_result)
        self._explain = lru_cache(_RESULT_CACHE)(self._compute_explanation)

    def segment(self, request: SegmentRequest, choices: Sequence[Choice]) -> Iterator[tuple[str, list[str]]]:
        """Segment a photo with one choice after the other.

        Yields:
            After each choice, an empty message and the results so far, as HTML. For an invalid request, an error
            message and empty results. The same error on both sides is shown once.
        """
        try:
            self._read_photo(request.photo)
            read_vocabulary(request.classes, request.background)
            check_threshold(request.threshold, "Unknown below")
        except InputError as error:
            yield alert(error), [""] * len(choices)
            return
        results: list[str] = []
        for choice in choices:
            try:
                results.append(self._render(request, choice))
            except InputError as error:
                results.append("" if alert(error) in results else alert(error))
            yield "", results

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
            return ExplanationView("", alert(error), "")
        (first, _), title = results[models[0]], self.models.get_title
        marked = mark_patch(first.image, first.clusters.shape, first.patch)
        return ExplanationView(
            render_picture(marked, "The photo with one patch marked"),
            "".join(render_correlation(result, title(name), notes) for name, (result, notes) in results.items()),
            "".join(render_clustering(result, title(name), notes) for name, (result, notes) in results.items()),
        )

    def _render_result(self, request: SegmentRequest, choice: Choice) -> str:
        labelling = self._label(request._replace(threshold=0), choice)
        if request.threshold:
            labelling = labelling.with_threshold(request.threshold)
        return render_result(labelling, self._read_photo(request.photo), choice.method)

    def _compute_labelling(self, request: SegmentRequest, choice: Choice) -> Labelling:
        photo = self._read_photo(request.photo)
        with self.models.lend(*choice) as model:
            labelling = label(model, photo.pixels, read_vocabulary(request.classes, request.background))
        is_drawing = Path(str(request.photo)).name in self._drawings
        is_fit = is_drawing or self.models.has_seen_photographs(choice.model)
        return labelling if is_fit else labelling._replace(notes=(DRAWINGS, *labelling.notes))

    def _compute_explanation(self, path: str | None, point: Point, name: str) -> tuple[Explanation, tuple[str, ...]]:
        pixels = self._read_photo(path).pixels
        height, width = pixels.shape[:2]
        x, y = (min(side - 1, int(share / 100 * side)) for share, side in zip(point, (width, height), strict=True))
        with self.models.lend(name, _EXPLAINED_METHOD) as model:
            return explain(model.segmenter, pixels, (x, y)), model.notes
