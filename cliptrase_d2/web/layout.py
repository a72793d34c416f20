"""What stands where on the page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import gradio as gr

from cliptrase_d2.web.examples import Example
from cliptrase_d2.web.models import METHODS

STYLE = Path(__file__).parent / "page.css"
THEME = gr.themes.Base(
    primary_hue="teal",
    neutral_hue="zinc",
    font=[gr.themes.Font("system-ui"), gr.themes.Font("sans-serif")],
    font_mono=[gr.themes.Font("ui-monospace"), gr.themes.Font("monospace")],
).set(
    body_text_color_subdued="*neutral_500",
    block_info_text_color="*neutral_500",
    block_info_text_color_dark="*neutral_400",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
)
_Html = partial(gr.HTML, apply_default_css=False)
_COLUMN = 300  # pixels; columns that would be narrower stand below each other
_TITLE = """
<h1>CLIPtrase</h1>
<p>Any words, any photograph, no training: CLIP’s own patches become masks, and your words name them.</p>
"""
_MEANING = """
<p><b>Pixels</b>: the class’s share of the photograph. <b>Confidence</b>: CLIP’s own probability of the class among
yours, its mean over the class’s pixels; masks take no part in it. Click into a picture to see what CLIP sees there.</p>
"""
_POINT = """
<p>A patch of the photograph, and what it sees in each block of CLIP’s image tower. <b>Attention</b> is CLIP as trained:
patches look at the same few <i class="global">global</i> ones, wherever they are. <b>Recovered</b> is how alike the
patch is to every other in queries, keys and values, less what is global. Blue is least, red most.</p>
"""
_CLUSTERS = """
<p>Patches that are alike to the same patches form a cluster; the dark ones are in none. Each cluster becomes a mask,
and every pixel goes to the one that it is most alike to. Denoising takes out of every patch what all of them are alike
to, so that the <i class="global">global</i> patches lose their weight.</p>
"""


class Side(NamedTuple):
    """One of the two columns of answers."""

    column: gr.Column
    model: gr.Dropdown
    method: gr.Dropdown
    picture: gr.Image
    legend: gr.HTML


class Explanations(NamedTuple):
    """Why an image is segmented as it is: the two other tabs."""

    picture: gr.Image
    across: gr.Slider
    down: gr.Slider
    button: gr.Button
    correlation: gr.HTML
    clustering: gr.HTML


class Parts(NamedTuple):
    """All of the page that is used or filled."""

    photo: gr.Image
    classes: gr.Textbox
    background: gr.Textbox
    button: gr.Button
    compare: gr.Checkbox
    status: gr.HTML
    examples: gr.Dataset
    tabs: gr.Tabs
    sides: tuple[Side, Side]
    why: Explanations


def lay_out(models: Sequence[str], examples: Sequence[Example]) -> Parts:
    """Put everything in its place, within ``gr.Blocks``.

    Args:
        models: to choose from; both sides start with the first.
        examples: to start with; the first is there when the page opens.
    """
    first = examples[0]
    _Html(_TITLE, elem_id="title")
    with gr.Row(elem_id="question", equal_height=False):
        with gr.Column(scale=2, min_width=_COLUMN):
            photo = gr.Image(
                str(first.file), label="Photograph", sources=["upload", "clipboard"], height=330, elem_id="photo",
                placeholder="Drop a photograph here, or click to choose one", alt_text="Your photograph",
            )  # fmt: skip
        with gr.Column(scale=3, min_width=_COLUMN):
            classes = gr.Textbox(
                first.classes, label="Classes", max_lines=4, elem_id="classes",
                info="Commas between them, semicolons between synonyms of one: sky, tree, person;man;woman",
            )  # fmt: skip
            background = gr.Textbox(
                label="Background (optional)", max_lines=4, elem_id="background",
                info="Words of one more class, for what is none of the others: wall, floor",
            )  # fmt: skip
            with gr.Row():
                button = gr.Button("Segment", variant="primary", min_width=120, elem_id="segment")
                compare = gr.Checkbox(True, label="Compare", min_width=120, elem_id="compare")
            status = _Html(elem_id="status")
            pictures = gr.Dataset(
                components=[gr.Image(render=False)], samples=[[str(example.file)] for example in examples],
                type="index", label="Examples", elem_id="examples",
            )  # fmt: skip
    with gr.Tabs(elem_id="answers") as tabs:
        with gr.Tab("Classes", id="classes"):
            with gr.Row(equal_height=False):
                sides = _side("Left", models, "cliptrase"), _side("Right", models, "clip")
            _Html(_MEANING, elem_classes="words")
        why = _explanations(first)
    return Parts(photo, classes, background, button, compare, status, pictures, tabs, sides, why)


def _side(name: str, models: Sequence[str], method: str) -> Side:
    with gr.Column(min_width=_COLUMN, elem_id=name.lower()) as column:
        with gr.Row():
            model = gr.Dropdown(list(models), value=models[0], label=f"{name} model", min_width=120)
            chosen = gr.Dropdown(list(METHODS), value=method, label=f"{name} method", min_width=120)
        picture = gr.Image(
            label=name, show_label=False, interactive=False, buttons=["fullscreen"], format="webp",
            alt_text="The photograph under the colours of its classes", elem_classes="picture",
        )  # fmt: skip
        legend = _Html()
    return Side(column, model, chosen, picture, legend)


def _explanations(first: Example) -> Explanations:
    with gr.Tab("Point", id="point"):
        _Html(_POINT, elem_classes="words")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=_COLUMN):
                picture = gr.Image(
                    label="Point", show_label=False, interactive=False, buttons=[], format="webp",
                    alt_text="The photograph with one patch marked", elem_classes="picture", elem_id="point-picture",
                )  # fmt: skip
                with gr.Row():
                    across, down = (
                        gr.Slider(
                            0, 100, place, step=1, label=f"{way} (%)", min_width=120, buttons=[], elem_id=way.lower()
                        )
                        for way, place in zip(("Across", "Down"), first.point, strict=True)
                    )
                button = gr.Button("Look at this point", elem_id="look")
            with gr.Column(scale=3, min_width=_COLUMN):
                correlation = _Html(elem_id="correlation")
    with gr.Tab("Clusters", id="clusters"):
        _Html(_CLUSTERS, elem_classes="words")
        clustering = _Html(elem_id="clustering")
    return Explanations(picture, across, down, button, correlation, clustering)
