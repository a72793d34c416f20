"""The Gradio page: its texts, layout and events."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.web.examples import Example
from cliptrase_d2.web.html import TEMPLATES, alert
from cliptrase_d2.web.models import METHODS
from cliptrase_d2.web.service import Choice, ExplanationView, Point, SegmentationService, SegmentRequest

STYLE = Path(__file__).parent / "page.css"
THEME = gr.themes.Base(
    primary_hue="teal", neutral_hue="zinc", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
).set(
    body_text_color_subdued="*neutral_500",
    block_info_text_color="*neutral_500",
    block_info_text_color_dark="*neutral_400",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
)
_COLUMN = 300  # minimum width in pixels; narrower columns wrap
_MAX_AGE, _SWEEP_INTERVAL = 3600, 300  # of uploaded files, in seconds
_MAX_WAITING = 20  # requests; Gradio rejects further ones
# Events are not an API for programs. Gradio's own preprocessing would decode photos of any size.
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "preprocess": False}
_COMPUTING: dict[str, Any] = {
    **_PRIVATE,
    "concurrency_limit": 1,
    "concurrency_id": "model",
    "trigger_mode": "always_last",  # Gradio would drop a request made while another one is running
}
_HELP = TEMPLATES.get_template("help.html")
_Html = partial(gr.HTML, apply_default_css=False)
_Picture = partial(gr.Image, show_label=False, interactive=False, format="webp", elem_classes="picture")


def notify(message: str) -> None:
    """Show a message to the visitor whose request is running, and print it on the server."""
    print(message, flush=True)
    gr.Info(html.escape(message))


def build_page(service: SegmentationService, examples: Sequence[Example]) -> gr.Blocks:
    """Build the page without serving it.

    Args:
        service: computes the results.
        examples: the first one is segmented when the page opens.
    """
    with gr.Blocks(title="CLIPtrase", analytics_enabled=False, delete_cache=(_SWEEP_INTERVAL, _MAX_AGE)) as blocks:
        _Page(service, examples).connect(blocks)
    return blocks.queue(max_size=_MAX_WAITING, api_open=False)


class _Side(NamedTuple):
    """One of the two result columns."""

    column: gr.Column
    model: gr.Dropdown
    method: gr.Dropdown
    picture: gr.Image
    legend: gr.HTML


class _Page:
    """The components of the page and the handlers of their events."""

    def __init__(self, service: SegmentationService, examples: Sequence[Example]):
        self.service, self.examples = service, examples
        _Html(_HELP.render(part="title"), elem_id="title")
        self._add_inputs()
        with gr.Tabs(elem_id="answers") as self.tabs:
            with gr.Tab("Classes", id="classes"):
                with gr.Row(equal_height=False):
                    self.sides = self._add_side("Left", "cliptrase"), self._add_side("Right", "clip")
                _Html(_HELP.render(part="classes"), elem_classes="words")
            with gr.Tab("Point", id="point"):
                self._add_point_tab()
            with gr.Tab("Clusters", id="clusters"):
                _Html(_HELP.render(part="clusters"), elem_classes="words")
                self.clustering = _Html(elem_id="clustering")

    def _add_inputs(self) -> None:
        first = self.examples[0]
        with gr.Row(elem_id="question", equal_height=False):
            with gr.Column(scale=2, min_width=_COLUMN):
                self.photo = gr.Image(
                    str(first.file), label="Photo", sources=["upload", "clipboard"], height=330, elem_id="photo",
                    placeholder="Drop a photo here, or click to choose one", alt_text="Your photo",
                )  # fmt: skip
            with gr.Column(scale=3, min_width=_COLUMN):
                self.classes = gr.Textbox(
                    first.classes, label="Classes", max_lines=4, elem_id="classes",
                    info="Separate classes with commas, synonyms with semicolons: sky, tree, person;man;woman",
                )  # fmt: skip
                self.background = gr.Textbox(
                    label="Background (optional)", max_lines=4, elem_id="background",
                    info="Prompts of an extra class for everything else: wall, floor",
                )  # fmt: skip
                with gr.Row():
                    self.button = gr.Button("Segment", variant="primary", min_width=120, elem_id="segment")
                    self.compare = gr.Checkbox(True, label="Compare", min_width=120, elem_id="compare")
                self.status = _Html(elem_id="status")
                self.gallery = gr.Dataset(
                    components=[gr.Image(render=False)], samples=[[str(example.file)] for example in self.examples],
                    type="index", label="Examples", elem_id="examples",
                )  # fmt: skip

    def _add_side(self, name: str, method: str) -> _Side:
        models = list(self.service.models.names)
        with gr.Column(min_width=_COLUMN, elem_id=name.lower()) as column:
            with gr.Row():
                model = gr.Dropdown(models, value=models[0], label=f"{name} model", min_width=120)
                chosen = gr.Dropdown(list(METHODS), value=method, label=f"{name} method", min_width=120)
            alt = "The photo under the colours of its classes"
            return _Side(column, model, chosen, _Picture(label=name, buttons=["fullscreen"], alt_text=alt), _Html())

    def _add_point_tab(self) -> None:
        _Html(_HELP.render(part="point"), elem_classes="words")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=_COLUMN):
                alt = "The photo with one patch marked"
                self.marked = _Picture(label="Point", buttons=[], alt_text=alt, elem_id="point-picture")
                with gr.Row():
                    self.across, self.down = (
                        gr.Slider(
                            0, 100, value, step=1, label=f"{name} (%)", min_width=120, buttons=[], elem_id=name.lower()
                        )
                        for name, value in zip(("Across", "Down"), self.examples[0].point, strict=True)
                    )
                self.look = gr.Button("Explain this point", elem_id="look")
            with gr.Column(scale=3, min_width=_COLUMN):
                self.correlation = _Html(elem_id="correlation")

    def connect(self, blocks: gr.Blocks) -> None:
        """Attach the handlers to the events."""
        left, right = self.sides
        models, inputs = [left.model, right.model], [self.photo, self.classes, self.background]
        point, explanation = [self.across, self.down], [self.marked, self.correlation, self.clustering]
        results: list[gr.components.Component] = [left.picture, left.legend, right.picture, right.legend]

        def explain_on(event: Any) -> None:
            request = [self.photo, *point, self.compare, *models]
            event(self.explain, request, explanation, **_COMPUTING, show_progress="minimal")

        started = self.gallery.click(self.load_example, self.gallery, [*inputs, *point], **_PRIVATE)
        events: list[Any] = [blocks.load, self.button.click, self.classes.submit, self.background.submit, started.then]
        events += [self.compare.input, *(model.input for model in models), left.method.input, right.method.input]
        for event in events:
            request = [*inputs, self.compare, left.model, left.method, right.model, right.method]
            explain_on(event(self.segment, request, [self.status, right.column, *results], **_COMPUTING).then)
        for picture in (left.picture, right.picture, self.marked):
            explain_on(picture.select(self.select_point, self.photo, [*point, self.tabs, self.status], **_PRIVATE).then)
        for event in (self.across.release, self.down.release, self.look.click):
            explain_on(event)
        for event in (self.photo.upload, self.photo.clear):  # clear the results of the previous photo
            event(lambda: [None, "", None, "", None, "", ""], None, [*results, *explanation], **_PRIVATE)

    def segment(self, photo: Any, classes: str, background: str, compare: bool, *choices: str) -> Iterator[Any]:
        """Fill the left side and then, in comparisons, the right side.

        Args:
            photo: Gradio's description of the file.
            classes: class names.
            background: background prompts.
            compare: whether the right side is used.
            choices: model and method of the left side, then of the right side.
        """
        pairs = [Choice(*choices[:2]), Choice(*choices[2:])][: 1 + compare]
        for message, results in self.service.segment(SegmentRequest(_get_path(photo), classes, background), pairs):
            update: dict[Any, Any] = {self.status: message, self.sides[1].column: gr.update(visible=compare)}
            for side, result in zip(self.sides, results, strict=False):
                update |= {side.picture: result.picture, side.legend: result.html}
            yield update

    def explain(self, photo: Any, across: float, down: float, compare: bool, *models: str) -> ExplanationView:
        """Fill the tabs Point and Clusters, in comparisons for both models."""
        return self.service.explain(_get_path(photo), Point(across, down), models[: 1 + compare])

    def load_example(self, index: int) -> tuple[str, str, str, float, float]:
        """Return the photo, classes, background and point of an example."""
        example = self.examples[index]
        return str(example.file), example.classes, "", *example.point

    def select_point(self, photo: Any, event: gr.SelectData) -> dict[Any, Any]:
        """Move to the point that was clicked and open its tab."""
        try:
            point = self.service.locate(_get_path(photo), event.index)
        except InputError as error:
            return {self.status: alert(error)}
        return {self.across: point.across, self.down: point.down, self.tabs: gr.Tabs(selected="point")}


def _get_path(photo: dict[str, Any] | None) -> str | None:
    """Return the server's copy of a photo, which Gradio has verified to be an upload or an example."""
    return photo["path"] if photo else None
