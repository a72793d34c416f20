"""The page: what is laid out, and what happens when it is used."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.web.examples import Example
from cliptrase_d2.web.html import alert
from cliptrase_d2.web.layout import Parts, lay_out
from cliptrase_d2.web.service import Answers, Choice, Explained, Point, Question

_KEPT, _SWEEP = 3600, 300  # seconds: how old a visitor's files get, and how often they are looked through
_WAITING = 20  # questions; a further one is told that the queue is full
# There is a page here, no interface for programs. Gradio's own preprocessing would open a photograph of any size.
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "preprocess": False}
_AT_WORK: dict[str, Any] = {
    **_PRIVATE,
    "concurrency_limit": 1,
    "concurrency_id": "model",
    "trigger_mode": "always_last",  # what is asked while an answer is under way comes after it; Gradio would drop it
}
_EXPLAINING: dict[str, Any] = {**_AT_WORK, "show_progress": "minimal"}


def tell(message: str) -> None:
    """Say something to the visitor who is being answered, and on the server's terminal."""
    print(message, flush=True)
    gr.Info(html.escape(message))


def build_page(answers: Answers, examples: Sequence[Example]) -> gr.Blocks:
    """The page, not yet served.

    Args:
        answers: to what visitors ask.
        examples: to start with; the first is answered when the page opens.
    """
    with gr.Blocks(title="CLIPtrase", analytics_enabled=False, delete_cache=(_SWEEP, _KEPT)) as page:
        parts = lay_out(answers.models.names, examples)
        _Wiring(parts, answers, examples).connect(page)
    return page.queue(max_size=_WAITING, api_open=False)


class _Wiring:
    """What is asked when a part of the page is used, and where the answer goes."""

    def __init__(self, parts: Parts, answers: Answers, examples: Sequence[Example]):
        self.parts, self.answers, self.examples = parts, answers, examples

    def connect(self, page: gr.Blocks) -> None:
        """Listen to every part that can be used."""
        parts, why, (left, right) = self.parts, self.parts.why, self.parts.sides
        models, question = [left.model, right.model], [parts.photo, parts.classes, parts.background]
        point, explained = [why.across, why.down], [why.picture, why.correlation, why.clustering]
        labelled: list[gr.components.Component] = [left.picture, left.legend, right.picture, right.legend]

        def explain_when(happens: Any) -> None:
            happens(self.explain, [parts.photo, *point, parts.compare, *models], explained, **_EXPLAINING)

        started = parts.examples.click(self.start, parts.examples, [*question, *point], **_PRIVATE)
        asking: list[Any] = [page.load, parts.button.click, parts.classes.submit, parts.background.submit, started.then]
        asking += [parts.compare.input, *(model.input for model in models), left.method.input, right.method.input]
        for happens in asking:
            given = [*question, parts.compare, left.model, left.method, right.model, right.method]
            filled = [parts.status, right.column, *labelled]
            explain_when(happens(self.label, given, filled, **_AT_WORK).then)
        for picture in (left.picture, right.picture, why.picture):
            pointed = [*point, parts.tabs, parts.status]
            explain_when(picture.select(self.point_at, parts.photo, pointed, **_PRIVATE).then)
        for happens in (why.across.release, why.down.release, why.button.click):
            explain_when(happens)
        for happens in (parts.photo.upload, parts.photo.clear):  # what is shown is of another photograph
            happens(lambda: [None, "", None, "", None, "", ""], None, [*labelled, *explained], **_PRIVATE)

    def label(self, photo: Any, classes: str, background: str, is_compared: bool, *chosen: str) -> Iterator[Any]:
        """Fill the left side, then, if two are compared, the right one; chosen are model and method of each."""
        parts = self.parts
        choices = [Choice(*chosen[:2]), Choice(*chosen[2:])][: 1 + is_compared]
        for message, found in self.answers.labels(Question(_path(photo), classes, background), choices):
            filled: dict[Any, Any] = {parts.status: message, parts.sides[1].column: gr.update(visible=is_compared)}
            for side, answer in zip(parts.sides, found, strict=False):
                filled |= {side.picture: answer.picture, side.legend: answer.html}
            yield filled

    def explain(self, photo: Any, across: float, down: float, is_compared: bool, *models: str) -> Explained:
        """Fill the tabs that explain, for both models if two are compared."""
        return self.answers.explanation(_path(photo), Point(across, down), models[: 1 + is_compared])

    def start(self, index: int) -> tuple[str, str, str, float, float]:
        """Hand in an example: its photograph, classes, no background, and a point."""
        example = self.examples[index]
        return str(example.file), example.classes, "", *example.point

    def point_at(self, photo: Any, event: gr.SelectData) -> dict[Any, Any]:
        """Choose the point that was clicked, and show the tab that explains it."""
        parts, why = self.parts, self.parts.why
        try:
            point = self.answers.point_at(_path(photo), event.index)
        except InputError as error:
            return {parts.status: alert(error)}
        return {why.across: point.across, why.down: point.down, parts.tabs: gr.Tabs(selected="point")}


def _path(photo: dict[str, Any] | None) -> str | None:
    """The server's copy of what the browser has handed in, which Gradio has found to be an upload or an example."""
    return photo["path"] if photo else None
