"""Report page of a run: one HTML file without scripts that loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from cliptrase_d2.evaluation.metrics import HEADLINE
from cliptrase_d2.evaluation.published import published_benchmarks, published_source
from cliptrase_d2.evaluation.report.artefacts import GalleryEntry
from cliptrase_d2.evaluation.report.evaluations import Evaluation, EvaluationSource, read_evaluation
from cliptrase_d2.utils.atomic_files import atomic_write_text
from cliptrase_d2.visualization.colours import palette

PICTURE_BYTES = 4 * 2**20  # limit of all pictures of a page, shared by its data sets
_SHOWN_CARDS = 4  # images of a data set that are visible without a click
_CHIPS = 14  # classes in the legend of an image
_NOT_SCORED = "(not scored)"
_TITLES = {"image": "Image", "truth": "Ground truth", "prediction": "Prediction", "masks": "Masks"}


@dataclass(frozen=True)
class Figure:
    """A picture of the gallery: caption, alternative text, (width, height) in pixels, and its bytes as a data URI."""

    caption: str
    alt: str
    size: tuple[int, int]
    uri: str


@dataclass(frozen=True)
class GalleryCard:
    """One image of the gallery.

    Attributes:
        stem: of the image's file.
        figures: its pictures.
        chips: name and CSS colour of the classes in the legend.
        more: number of classes that the legend leaves out.
    """

    stem: str
    figures: list[Figure]
    chips: list[tuple[str, str]]
    more: int


@dataclass(frozen=True)
class DatasetSection:
    """All methods on one data set.

    Attributes:
        name: as registered.
        evaluations: one per method.
        cards: images of the gallery that fit the page.
        left_out: number of chosen images with pictures that do not fit.
        missing: number of chosen images without pictures.
    """

    name: str
    evaluations: list[Evaluation]
    cards: list[GalleryCard]
    left_out: int
    missing: int

    @property
    def title(self) -> str:
        """Title of the benchmark; the name of any other data set."""
        benchmark = self.evaluations[0].benchmark
        return benchmark.title if benchmark else self.name

    @property
    def groups(self) -> list[str]:
        """Metrics of the groups of classes."""
        return [key for key in self.evaluations[0].report if key.startswith(("mIoU-", "pAcc-"))]


def write_page(
    path: Path, sources: Sequence[EvaluationSource], configuration: str, facts: Mapping[str, str], random_weights: bool
) -> None:
    """Write the report page of a run.

    Args:
        path: of the file.
        sources: the evaluations of the run.
        configuration: YAML.
        facts: name -> text, for the head of the page.
        random_weights: no trained weights were loaded; the page marks every number.
    Raises:
        InputError: a file of an evaluation is damaged.
    """
    evaluations = [read_evaluation(source) for source in sources]
    names = list(dict.fromkeys(evaluation.report["dataset"] for evaluation in evaluations))
    environment = Environment(
        loader=PackageLoader("cliptrase_d2.evaluation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "signed": _signed, "thousands": _thousands}
    text = environment.get_template("page.html").render(
        sections=[_build_section(name, evaluations, PICTURE_BYTES // len(names)) for name in names],
        configuration=configuration,
        facts=facts,
        random_weights=random_weights,
        headline=HEADLINE,
        published_benchmarks=published_benchmarks(),
        published_source=published_source(),
        shown_cards=_SHOWN_CARDS,
    )
    atomic_write_text(path, text)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


def _thousands(value: int) -> str:
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _build_section(name: str, evaluations: Sequence[Evaluation], budget: int) -> DatasetSection:
    own = [evaluation for evaluation in evaluations if evaluation.report["dataset"] == name]
    chosen = {stem for evaluation in own for stem in evaluation.report.get("gallery", [])}
    drawn = dict.fromkeys(entry.stem for evaluation in own for entry in evaluation.gallery)
    cards = list(_build_cards(own, list(drawn), budget))
    return DatasetSection(name, own, cards, left_out=len(drawn) - len(cards), missing=len(chosen) - len(drawn))


def _build_cards(evaluations: Sequence[Evaluation], stems: Sequence[str], budget: int) -> Iterator[GalleryCard]:
    """Yield cards until the budget, in bytes of pictures, is used up."""
    classes = [*evaluations[0].classes, _NOT_SCORED]
    colours = [f"#{bytes(colour).hex()}" for colour in palette(len(classes) - 1)] + ["#000000"]
    for stem in stems:
        entries = [(each, entry) for each in evaluations for entry in each.gallery if entry.stem == stem]
        files = [
            (evaluation.source.method, entry, part, path)
            for position, (evaluation, entry) in enumerate(entries)
            for part, path in entry.pictures.items()
            if position == 0 or part not in ("image", "truth")  # these are the same for all methods
        ]
        budget -= sum(path.stat().st_size for *_, path in files)
        if budget < 0:
            return
        figures = [_build_figure(*file, classes) for file in files]
        shares = [share for _, entry in entries for label_map in entry.classes.values() for share in label_map]
        largest = {index: max(share for other, share in shares if other == index) for index, _ in shares}
        shown = sorted(largest, key=lambda index: -largest[index])
        chips = [(classes[index], colours[index]) for index in shown[:_CHIPS]]
        yield GalleryCard(stem, figures, chips, more=len(shown[_CHIPS:]))


def _build_figure(method: str, entry: GalleryEntry, part: str, path: Path, classes: Sequence[str]) -> Figure:
    title = caption = _TITLES[part]
    if part not in ("image", "truth"):
        title = f"{title} of {method}"
        caption = f"{method}, masks" if part == "masks" else method
    shares = ", ".join(f"{classes[index]} {100 * share:.0f} %" for index, share in entry.classes.get(part, [])[:6])
    alt = f"{title} for {entry.stem}" + (f": {shares}" if shares else "")
    return Figure(caption, alt, entry.size, f"data:image/webp;base64,{base64.b64encode(path.read_bytes()).decode()}")
