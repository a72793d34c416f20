"""Puts what the evaluations of a run left into one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from cliptrase_d2.evaluation.metrics import HEADLINE
from cliptrase_d2.evaluation.published import published_source
from cliptrase_d2.evaluation.report.artefacts import GalleryEntry
from cliptrase_d2.evaluation.report.evaluations import Evaluation, Source, read_evaluation
from cliptrase_d2.utils.atomic_files import atomic_write_text
from cliptrase_d2.visualization.overlay import palette

PICTURE_BYTES = 4 * 2**20  # of all pictures of a page, shared among its data sets
_SHOWN_CARDS = 4  # images of a data set that are seen without a click
_CHIPS = 14  # classes that are named below an image
_NOT_SCORED = "(not scored)"
_TITLES = {"image": "Image", "truth": "Ground truth", "prediction": "Prediction", "masks": "Masks"}


@dataclass(frozen=True)
class RunFacts:
    """What holds for a whole run.

    Attributes:
        configuration: YAML.
        random_weights: nothing was trained; the page says so beside every number.
        facts: name -> text, for the head of the page.
    """

    configuration: str
    random_weights: bool
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Figure:
    """A picture of the gallery: its caption, what it shows in words, its size in pixels, and its bytes as a URI."""

    caption: str
    alt: str
    size: tuple[int, int]
    uri: str


@dataclass(frozen=True)
class Chip:
    """A class in the legend of an image; ``colour`` as CSS has it."""

    name: str
    colour: str


@dataclass(frozen=True)
class GalleryCard:
    """One image with all its figures, and the classes that they show; ``more`` counts those that are not named."""

    stem: str
    figures: list[Figure]
    chips: list[Chip]
    more: int


@dataclass(frozen=True)
class DatasetSection:
    """All systems on one data set.

    Attributes:
        name: as registered.
        evaluations: one per system.
        cards: of the images that found a place.
        left_out: chosen images that have a picture, but no place.
        missing: chosen images without any picture.
    """

    name: str
    evaluations: list[Evaluation]
    cards: list[GalleryCard]
    left_out: int
    missing: int

    @property
    def title(self) -> str:
        """The benchmark's, or the name."""
        benchmark = self.evaluations[0].benchmark
        return benchmark.title if benchmark else self.name

    @property
    def groups(self) -> list[str]:
        """Columns of the groups of classes."""
        return [key for key in self.evaluations[0].report if key.startswith(("mIoU-", "pAcc-"))]


def write_page(path: Path, sources: Sequence[Source], run: RunFacts) -> None:
    """Write the page of a run.

    Args:
        path: of the file, which is replaced when the new one is whole.
        sources: its evaluations.
        run: what holds for all of them.
    Raises:
        InputError: an evaluation left a broken file.
    """
    evaluations = [read_evaluation(source) for source in sources]
    atomic_write_text(path, render(evaluations, run))


def render(evaluations: Sequence[Evaluation], run: RunFacts) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("cliptrase_d2.evaluation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "signed": signed, "thousands": thousands}
    names = list(dict.fromkeys(evaluation.report["dataset"] for evaluation in evaluations))
    sections = [_section(name, evaluations, PICTURE_BYTES // len(names)) for name in names]
    return environment.get_template("page.html").render(
        sections=sections, run=run, headline=HEADLINE, published_source=published_source(), shown_cards=_SHOWN_CARDS
    )


def percent(value: float | None) -> str:
    """A number of percent; a dash where there was nothing to measure."""
    return "–" if value is None else f"{value:.2f}"


def signed(value: float | None) -> str:
    """A difference in points, with its sign."""
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


def thousands(value: int) -> str:
    """A count that can be read: 12 345 678."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _section(name: str, evaluations: Sequence[Evaluation], budget: int) -> DatasetSection:
    chosen = [evaluation for evaluation in evaluations if evaluation.report["dataset"] == name]
    stems = dict.fromkeys(stem for evaluation in chosen for stem in evaluation.report.get("gallery", []))
    drawn = dict.fromkeys(entry.stem for evaluation in chosen for entry in evaluation.gallery)
    cards = list(_cards(chosen, list(drawn), budget))
    return DatasetSection(name, chosen, cards, left_out=len(drawn) - len(cards), missing=len(stems) - len(drawn))


def _cards(evaluations: Sequence[Evaluation], stems: Sequence[str], budget: int) -> Iterator[GalleryCard]:
    """Image after image, until the bytes of all pictures are used."""
    for stem in stems:
        entries = [
            (evaluation, entry) for evaluation in evaluations for entry in evaluation.gallery if entry.stem == stem
        ]
        files = list(_files(entries))
        budget -= sum(path.stat().st_size for _, _, _, path in files)
        if budget < 0:
            return
        figures = [_figure(evaluation, entry, part, path) for evaluation, entry, part, path in files]
        classes = evaluations[0].classes
        shown = _classes_of([entry for _, entry in entries])
        yield GalleryCard(stem, figures, _chips(shown[:_CHIPS], classes), len(shown[_CHIPS:]))


def _files(entries: Sequence[tuple[Evaluation, GalleryEntry]]) -> Iterator[tuple[Evaluation, GalleryEntry, str, Path]]:
    """The image and its truth once, then the prediction and the masks of every system."""
    for position, (evaluation, entry) in enumerate(entries):
        for part, path in entry.pictures.items():
            if position == 0 or part not in ("image", "truth"):
                yield evaluation, entry, part, path


def _figure(evaluation: Evaluation, entry: GalleryEntry, part: str, path: Path) -> Figure:
    of_system = f" of {evaluation.source.system}" if part not in ("image", "truth") else ""
    names = [*evaluation.classes, _NOT_SCORED]
    shown = ", ".join(f"{names[index]} {100 * share:.0f} %" for index, share in entry.classes.get(part, [])[:6])
    alt = f"{_TITLES[part]}{of_system} for {entry.stem}" + (f": {shown}" if shown else "")
    caption = f"{evaluation.source.system}{', masks' if part == 'masks' else ''}" if of_system else _TITLES[part]
    data = base64.b64encode(path.read_bytes()).decode()
    return Figure(caption, alt, entry.size, f"data:image/webp;base64,{data}")


def _classes_of(entries: Sequence[GalleryEntry]) -> list[int]:
    """Classes of a truth or a prediction of one image, the one with the largest share anywhere first."""
    largest: dict[int, float] = {}
    for entry in entries:
        for shares in entry.classes.values():
            for index, share in shares:
                largest[index] = max(share, largest.get(index, 0))
    return sorted(largest, key=lambda index: -largest[index])


def _chips(indices: Sequence[int], classes: Sequence[str]) -> list[Chip]:
    colours = [f"#{bytes(colour).hex()}" for colour in palette(len(classes))] + ["#000000"]
    names = [*classes, _NOT_SCORED]
    return [Chip(names[index], colours[index]) for index in indices]
