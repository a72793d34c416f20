"""The Gradio page: its texts, layout and events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from PIL import Image

from cliptrase_d2.clip.download import Listener
from cliptrase_d2.ready_vocabularies import MARK, list_ready_vocabularies
from cliptrase_d2.web.examples import Example
from cliptrase_d2.web.html import TEMPLATES, encode_picture_uri
from cliptrase_d2.web.methods import group_methods
from cliptrase_d2.web.models import DRAWINGS
from cliptrase_d2.web.service import Choice, ExplanationView, Point, SegmentationService, SegmentRequest

_FOLDER = Path(__file__).parent
STYLE = _FOLDER / "page.css"
# Texts have a contrast of at least 4.5 to 1.
THEME = gr.themes.Base(
    primary_hue="teal", neutral_hue="zinc", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
).set(
    body_text_color_subdued="*neutral_500",
    block_info_text_color="*neutral_500",
    block_info_text_color_dark="*neutral_400",
    block_label_text_color_dark="*neutral_300",
    input_placeholder_color="*neutral_600",
    input_placeholder_color_dark="*neutral_400",
    color_accent="*primary_700",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_800",
)
_COLUMN = 300  # minimum width in pixels; narrower columns wrap
_THUMBNAIL = 144  # side of an example in pixels
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
_START, _WORDS, _OTHER_TAB = (_HELP.render(part=part) for part in ("start", "words", "other_tab"))
_PROGRESS = gr.Progress()
_Html = partial(gr.HTML, apply_default_css=False)
_Result = partial(_Html, js_on_load=(_FOLDER / "result.js").read_text(encoding="utf-8"))
# On a phone, results are below the fold.
_SHOW_RESULTS = """() => {
  const results = document.querySelector("#answers"), calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (results.getBoundingClientRect().top > innerHeight / 3)
    results.scrollIntoView({ behavior: calm ? "instant" : "smooth" });
}"""
_CHOOSE = """const select = element.querySelector("select");
select.value = props.value;
select.addEventListener("change", () => { props.value = select.value; trigger("input"); });"""
_PICK = """element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) trigger("select", { index: Number(button.dataset.index) });
});"""


def show_download(message: str) -> Listener:
    """Announce a download to the visitor whose request is running and on the server, and return its listener."""
    print(message, flush=True)
    context = copy_context()  # names the request. The listener is called in other threads.

    def report(done: int, total: int) -> None:
        text = f"{message} {done / 1e6:.0f} MB" + (f" of {total / 1e6:.0f} MB" if total else "")
        context.copy().run(_PROGRESS, done / total if total else 0.0, text)

    report(0, 0)
    return report


def build_page(service: SegmentationService, examples: Sequence[Example]) -> gr.Blocks:
    """Build the page without serving it.

    Args:
        service: computes the results.
        examples: photos to try.
    """
    with gr.Blocks(title="CLIPtrase", analytics_enabled=False, delete_cache=(_SWEEP_INTERVAL, _MAX_AGE)) as blocks:
        _Page(service, examples).connect()
    return blocks.queue(max_size=_MAX_WAITING, api_open=False)


class _Side(NamedTuple):
    """One of the two result columns."""

    column: gr.Column
    model: gr.Dropdown
    method: gr.HTML
    result: gr.HTML


class _Page:
    """The components of the page and the handlers of their events."""

    def __init__(self, service: SegmentationService, examples: Sequence[Example]):
        self.service, self.examples = service, examples
        _Html(_HELP.render(part="title"), elem_id="title")
        with gr.Row(elem_id="question", equal_height=False):
            with gr.Column(scale=2, min_width=_COLUMN):
                self._add_photo()
            with gr.Column(scale=3, min_width=_COLUMN):
                self._add_words()
                self._add_gallery()
        with gr.Tabs(elem_id="answers") as self.tabs:
            with gr.Tab("Classes", id="classes"):
                with gr.Row(equal_height=False):
                    self.sides = self._add_side("left", "cliptrase"), self._add_side("right", "clip")
                _Html(_HELP.render(part="classes"), elem_classes="words")
            with gr.Tab("Point", id="point"):
                self._add_point_tab()
            with gr.Tab("Clusters", id="clusters"):
                _Html(_HELP.render(part="clusters"), elem_classes="words")
                self.clustering = _Html(_OTHER_TAB, elem_id="clustering")

    def _add_photo(self) -> None:
        self.photo = gr.Image(
            label="Photo", sources=["upload", "clipboard"], height=300, elem_id="photo", alt_text="Your photo",
            placeholder="Drop a photo here, or click to choose one",
        )  # fmt: skip

    def _add_gallery(self) -> None:
        pictures = [np.array(Image.open(example.file).resize((_THUMBNAIL, _THUMBNAIL))) for example in self.examples]
        shown = [
            (encode_picture_uri(pixels), item.classes) for pixels, item in zip(pictures, self.examples, strict=True)
        ]
        gallery = TEMPLATES.get_template("gallery.html").render(examples=shown)
        self.gallery = _Html(gallery, js_on_load=_PICK, elem_id="examples")

    def _add_words(self) -> None:
        with gr.Column(visible=False, elem_id="offer") as self.offer:
            self.warning = _Html()
            self.accept = gr.Button(elem_id="accept")
        self.classes = gr.Textbox(
            "", label="Classes", max_lines=4, elem_id="classes", placeholder="dog, grass, sky",
            info="Separate classes with commas, synonyms with semicolons: sky, tree, person;man;woman",
        )  # fmt: skip
        with gr.Row():
            self.button = gr.Button("Segment", variant="primary", min_width=120, elem_id="segment")
            self.compare = gr.Checkbox(False, label="Compare", min_width=120, elem_id="compare")
        self.status = _Html(elem_id="status")
        with gr.Accordion("Background and unknown pixels", open=False, elem_id="more"):
            lists = [(text, f"{MARK}{name}") for name, text in list_ready_vocabularies().items()]
            self.ready = gr.Dropdown(
                [("none", ""), *lists], value="", label="Ready background", elem_id="ready",
                info="One extra class for everything that you do not name",
            )  # fmt: skip
            self.background = gr.Textbox(
                "", label="Background words", max_lines=4, elem_id="background",
                info="More prompts of this class: wall, floor",
            )  # fmt: skip
            self.threshold = gr.Slider(
                0, 100, 0, step=1, label="Unknown below (%)", buttons=[], elem_id="threshold",
                info="Pixels stay without a class if CLIP’s probability of it is lower",
            )  # fmt: skip

    def _add_side(self, place: str, method: str) -> _Side:
        models, is_left = self.service.models, place == "left"
        choices, nth = [(models.get_title(name), name) for name in models.names], "" if is_left else "Second "
        with gr.Column(min_width=_COLUMN, elem_id=place, visible=is_left) as column:
            with gr.Row():
                model = gr.Dropdown(choices, value=models.names[0], label=f"{nth}model".capitalize(), min_width=200)
                template = TEMPLATES.get_template("methods.html")
                select = template.render(label=f"{nth}method".capitalize(), groups=group_methods())
                chosen = _Html(
                    method,
                    html_template=select,
                    js_on_load=_CHOOSE,
                    elem_classes="method",
                    container=True,
                    padding=True,
                )
            return _Side(column, model, chosen, _Result(_START if is_left else "", elem_classes="result"))

    def _add_point_tab(self) -> None:
        _Html(_HELP.render(part="point"), elem_classes="words")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=_COLUMN):
                self.marked = _Result(_OTHER_TAB, elem_id="point-picture")
                with gr.Row():
                    self.across, self.down = (
                        gr.Slider(
                            0, 100, 50, step=1, label=f"{name} (%)", min_width=120, buttons=[], elem_id=name.lower()
                        )
                        for name in ("Across", "Down")
                    )
                self.look = gr.Button("Explain this point", elem_id="look")
            with gr.Column(scale=3, min_width=_COLUMN):
                self.correlation = _Html(elem_id="correlation")

    def connect(self) -> None:
        """Attach the handlers to the events."""
        left, right = self.sides
        models, words = [left.model, right.model], [self.classes, self.ready, self.background]
        point, explanation = [self.across, self.down], [self.marked, self.correlation, self.clustering]
        results: list[gr.components.Component] = [self.status, left.result, right.result]

        def explain_on(event: Any) -> None:
            request = [self.photo, *point, self.compare, *models]
            event(self.explain, request, explanation, **_COMPUTING, show_progress="minimal")

        offer = [self.offer, self.warning, self.accept, *models]
        started = self.gallery.select(self.load_example, None, [self.photo, *words, *point, self.offer], **_PRIVATE)
        submissions: list[Any] = [self.button.click, self.classes.submit, self.background.submit]
        changes: list[Any] = [
            self.ready.input,
            self.threshold.change,
            self.compare.input,
            left.method.input,
            right.method.input,
        ]
        changes += [model.input for model in models]
        for event in [*submissions, started.then, *changes]:
            request = [self.photo, *words, self.threshold, self.compare, *models, left.method, right.method]
            segmented = event(self.segment, request, [right.column, *results], **_COMPUTING)
            explain_on(segmented.then)
            if event not in changes:
                segmented.then(None, js=_SHOW_RESULTS)
        for picture in (left.result, right.result, self.marked):
            explain_on(picture.select(self.select_point, None, [*point, self.tabs], **_PRIVATE).then)
        for event in (self.across.release, self.down.release, self.look.click):
            explain_on(event)
        outputs = [*words, *offer, *results, *explanation]
        self.photo.upload(self.start_photo, models, outputs, **_PRIVATE)
        self.photo.clear(lambda: self.clear(_START), None, outputs, **_PRIVATE)
        self.accept.click(self.use_photo_model, None, [self.offer, *models], **_PRIVATE)
        left.model.input(self.close_offer, left.model, self.offer, **_PRIVATE)
        for box in (self.classes, self.background):  # an error disappears with its cause
            box.input(lambda: "", None, self.status, **_PRIVATE, show_progress="hidden")

    def segment(
        self, photo: Any, classes: str, ready: str, background: str, threshold: float, compare: bool, left_model: str,
        right_model: str, left_method: str, right_method: str, progress: gr.Progress = _PROGRESS,
    ) -> Iterator[Any]:  # fmt: skip
        """Fill the left side and then, in comparisons, the right side.

        Args:
            photo: Gradio's description of the file.
            classes: class names.
            ready: a ready list of background prompts, or "".
            background: further background prompts.
            threshold: least probability of a class, in percent.
            compare: whether the right side is used.
            left_model, right_model, left_method, right_method: choices of both sides.
            progress: enables the progress of downloads.
        """
        prompts = ", ".join(filter(None, [ready, background.strip()]))
        request = SegmentRequest(_get_path(photo), classes, prompts, threshold / 100)
        pairs = [Choice(left_model, left_method), Choice(right_model, right_method)][: 1 + compare]
        for message, results in self.service.segment(request, pairs):
            yield {
                self.status: message, self.sides[1].column: gr.update(visible=compare),
                **{side.result: result for side, result in zip(self.sides, results, strict=False)},
            }  # fmt: skip

    def explain(self, photo: Any, across: float, down: float, compare: bool, *models: str) -> ExplanationView:
        """Fill the tabs Point and Clusters, in comparisons for both models."""
        if not photo:
            return ExplanationView(_OTHER_TAB, "", _OTHER_TAB)
        return self.service.explain(_get_path(photo), Point(across, down), models[: 1 + compare])

    def load_example(self, event: gr.EventData) -> tuple[Any, ...]:
        """Return the photo, words and point of an example, without an offer."""
        example = self.examples[event.index]
        return str(example.file), example.classes, "", "", *example.point, gr.update(visible=False)

    def start_photo(self, *models: str) -> dict[Any, Any]:
        """Clear the words and results of the previous photo, and offer a model that has seen photographs."""
        if self.service.models.has_seen_photographs(models[0]):
            return self.clear(_WORDS)
        model = self._find_photo_model()
        size = self.service.models.get_download_size(model) if model else 0
        if model and not size:
            return self.clear(_WORDS) | self.use_photo_model()
        text = TEMPLATES.get_template("offer.html").render(drawings=DRAWINGS, model=model, size=f"{size:.0f}")
        button = gr.update(value=f"Use {model} ({size:.0f} MB download)", visible=model is not None)
        return self.clear(_WORDS) | {self.offer: gr.update(visible=True), self.warning: text, self.accept: button}

    def clear(self, invitation: str) -> dict[Any, Any]:
        """Clear words, results and errors, close the offer, and show an invitation in place of the results."""
        empty = (self.classes, self.ready, self.background, self.status, self.sides[1].result, self.correlation)
        return {
            **dict.fromkeys(empty, ""), self.sides[0].result: invitation, self.marked: _OTHER_TAB,
            self.clustering: _OTHER_TAB, self.offer: gr.update(visible=False),
        }  # fmt: skip

    def use_photo_model(self) -> dict[Any, Any]:
        """Choose the model that has seen photographs on both sides."""
        model = self._find_photo_model()
        return {self.offer: gr.update(visible=False), **{side.model: model for side in self.sides}}

    def close_offer(self, model: str) -> Any:
        """Close the offer if a model of photographs was chosen."""
        return gr.update(visible=False) if self.service.models.has_seen_photographs(model) else gr.skip()

    def select_point(self, event: gr.EventData) -> dict[Any, Any]:
        """Move to the point that was clicked and open its tab."""
        return {self.across: event.across, self.down: event.down, self.tabs: gr.Tabs(selected="point")}

    def _find_photo_model(self) -> str | None:
        models = self.service.models
        return next(filter(models.has_seen_photographs, models.names), None)


def _get_path(photo: dict[str, Any] | None) -> str | None:
    """Return the server's copy of a photo, which Gradio has verified to be an upload or an example."""
    return photo["path"] if photo else None
