"""Report page of a run: one HTML file that loads nothing. Its one script, which sorts tables, is not needed."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from cliptrase_d2.evaluation.metrics import HEADLINE
from cliptrase_d2.evaluation.object_sizes import SIZES
from cliptrase_d2.evaluation.output_names import get_output_name
from cliptrase_d2.evaluation.published import published_source
from cliptrase_d2.evaluation.report.artefacts import LABELS, PARTS, GalleryEntry, encode_picture
from cliptrase_d2.evaluation.report.evaluations import Evaluation, EvaluationSource, read_evaluation
from cliptrase_d2.unknown import UNKNOWN_NAME
from cliptrase_d2.utils.atomic_files import atomic_write_text
from cliptrase_d2.visualization.colours import ClassColours
from cliptrase_d2.visualization.picture import NOT_SCORED, draw_labels

PICTURE_BYTES = 4 * 2**20  # limit of all pictures of a page, shared by its data sets
_SHOWN_CARDS = 4  # images of a data set that are visible without a click
_BLACK = (0, 0, 0)  # pixels that are not scored; no class has this colour
_RUN_FILES = ("config.yaml", "log.txt")
_EVALUATION_FILES = ("metrics.json", "confusion.npz", "predictions", "overlays")  # the last two on request
_OPACITY = 0.6  # high, so that colours match the legend; the plain image is shown too
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
        chips: name and CSS colour of every class in the pictures, the largest first.
        scores: method, percent of correct pixels.
        links: method, relative path of the picture in overlays/.
    """

    stem: str
    figures: list[Figure]
    chips: list[tuple[str, str]]
    scores: list[tuple[str, float]]
    links: list[tuple[str, str]]


class WorstImage(NamedTuple):
    """An image with few correct pixels: file, percent of correct pixels, title and relative path of its pictures."""

    file: Path
    accuracy: float
    links: list[tuple[str, str]]


@dataclass(frozen=True)
class DatasetSection:
    """All methods on one data set.

    Attributes:
        number: of the data set, from 1.
        name: as registered.
        evaluations: one per method.
        links: title and relative path of the files of each evaluation.
        worst: method and its images with the fewest correct pixels; not of methods without rated images.
        cards: images of the gallery that fit the page, the worst first.
        left_out: number of chosen images with pictures that do not fit.
        missing: number of chosen images without pictures.
    """

    number: int
    name: str
    evaluations: list[Evaluation]
    links: list[list[tuple[str, str]]]
    worst: list[tuple[str, list[WorstImage]]]
    cards: list[GalleryCard]
    left_out: int
    missing: int

    @property
    def title(self) -> str:
        """Title of the benchmark; the name of any other data set."""
        benchmark = self.evaluations[0].benchmark
        return benchmark.title if benchmark else self.name

    @property
    def protocols(self) -> list[str]:
        """Every protocol of the methods, with its sizes."""
        texts = []
        for evaluation in self.evaluations:
            sizes = dict(evaluation.report["protocol"])
            name = sizes.pop("name")
            texts.append(", ".join([name, *(f"{key.replace('_', ' ')} {value}" for key, value in sizes.items())]))
        return list(dict.fromkeys(texts))

    @property
    def scored(self) -> bool:
        """Whether a pixel has a true class."""
        return self.evaluations[0].report["mIoU"] is not None

    @property
    def rows(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Name of each class in the ground truth and its metrics by every method, the highest mean IoU first."""
        reports = [evaluation.report["per_class"] for evaluation in self.evaluations]
        rows = [(name, [report[name] for report in reports]) for name in reports[0]]
        # Methods may have skipped different images.
        present = [row for row in rows if any(metrics["IoU"] is not None for metrics in row[1])]
        return sorted(present, key=lambda row: -sum(metrics["IoU"] or 0 for metrics in row[1]))

    @property
    def absent(self) -> list[str]:
        """Names of the classes that are not in the ground truth."""
        present = {name for name, _ in self.rows}
        return [name for name in self.evaluations[0].classes if name not in present]

    @property
    def groups(self) -> list[str]:
        """Metrics of the groups of classes that occur."""
        reports = [evaluation.report for evaluation in self.evaluations]
        keys = (key for key in reports[0] if key.startswith(("mIoU-", "pAcc-")))
        return [key for key in keys if any(report[key] is not None for report in reports)]

    @property
    def objects(self) -> list[tuple[str, str, list[int]]]:
        """Title, suffix of the metrics, and number of objects of each size, of all classes and of every group.

        Groups without objects are left out; empty if no evaluation has metrics by size.
        """
        counted = [one.report for one in self.evaluations if one.report.get("objects_small") is not None]
        groups = [name.removeprefix("mIoU-") for name in self.groups if name.startswith("mIoU-")]
        suffixes = {"All classes": "", **{name.replace("_", " "): f"-{name}" for name in groups}}
        # Methods may have skipped different images.
        numbers = {
            title: [max((report[f"objects_{size}{suffix}"] for report in counted), default=0) for size in SIZES]
            for title, suffix in suffixes.items()
        }
        return [(title, suffix, numbers[title]) for title, suffix in suffixes.items() if any(numbers[title])]


def write_page(
    path: Path,
    sources: Sequence[EvaluationSource],
    configuration: str,
    facts: Mapping[str, str],
    random_weights: bool,
    impossible: Mapping[str, str] | None = None,
) -> None:
    """Write the report page of a run.

    Args:
        path: of the file.
        sources: the evaluations of the run.
        configuration: YAML.
        facts: name -> text, for the head of the page.
        random_weights: no trained weights were loaded; the page marks every number.
        impossible: compositions that were left out -> reason.
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
    environment.filters |= {
        "percent": _percent,
        "signed": _signed,
        "thousands": _thousands,
        "sha256": _sha256,
        "speed": _speed,
    }
    text = environment.get_template("page.html").render(
        sections=[
            _build_section(number, name, evaluations, PICTURE_BYTES // len(names), path.parent)
            for number, name in enumerate(names, start=1)
        ],
        configuration=configuration,
        files=_find_links(path.parent, _RUN_FILES, path.parent),
        facts=_describe_time(evaluations) | dict(facts),
        random_weights=random_weights,
        impossible=impossible or {},
        headline=HEADLINE,
        sizes=SIZES,
        published_source=published_source(),
        shown_cards=_SHOWN_CARDS,
        timed=any(evaluation.speed for evaluation in evaluations),
    )
    atomic_write_text(path, text)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


def _thousands(value: int) -> str:
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _sha256(text: str) -> str:
    """Return the hash by which a Content-Security-Policy permits a script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _describe_time(evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """Return date, duration and speed of all evaluations of a page; empty if none was measured."""
    timings = [evaluation.timing for evaluation in evaluations if evaluation.timing]
    if not timings:
        return {}
    finished = datetime.fromisoformat(max(timing["finished"] for timing in timings))
    seconds, images = (sum(timing[key] for timing in timings) for key in ("seconds", "images"))
    reports = [evaluation.report for evaluation in evaluations]
    total = sum(report["images"] + len(report["skipped"]) for report in reports)
    note = f", for {images} of {total} images; earlier runs evaluated the others" if images < total else ""
    facts = {"Finished": f"{finished:%Y-%m-%d %H:%M} UTC", "Duration": _duration(seconds) + note}
    return facts | ({"Speed": f"{_speed(images / seconds)} images/s"} if images and seconds else {})


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {rest} s"
    return f"{seconds:.2g} s" if seconds < 10 else f"{rest} s"


def _find_links(folder: Path, names: Sequence[str], base: Path) -> list[tuple[str, str]]:
    """Return the name and the path, relative to the page, of the files in a folder that exist."""
    files = [folder / name for name in names]
    return [(file.name, _link(file, base)) for file in files if file.exists()]


def _link(file: Path, base: Path) -> str:
    return quote(Path(os.path.relpath(file, base)).as_posix() + ("/" if file.is_dir() else ""))


def _build_section(
    number: int, name: str, evaluations: Sequence[Evaluation], budget: int, base: Path
) -> DatasetSection:
    own = [evaluation for evaluation in evaluations if evaluation.report["dataset"] == name]
    chosen = {stem for evaluation in own for stem in evaluation.report.get("gallery", [])}
    drawn: dict[str, list[tuple[Evaluation, GalleryEntry]]] = {}
    for evaluation in own:
        for entry in evaluation.gallery:
            drawn.setdefault(entry.stem, []).append((evaluation, entry))
    cards = list(_build_cards(sorted(drawn.values(), key=_mean_accuracy), budget, base))
    links = [_find_links(evaluation.source.folder, _EVALUATION_FILES, base) for evaluation in own]
    worst = [(evaluation.source.method, _list_worst(evaluation, base)) for evaluation in own]
    left_out, missing = len(drawn) - len(cards), len(chosen) - len(drawn)
    return DatasetSection(number, name, own, links, [pair for pair in worst if pair[1]], cards, left_out, missing)


def _list_worst(evaluation: Evaluation, base: Path) -> list[WorstImage]:
    images = []
    for image in evaluation.report.get("worst_images", []):
        file = Path(image["file"])
        name = get_output_name(image["file"], evaluation.report.get("output_base"))
        folder = evaluation.source.folder
        pictures = {
            "image": file,
            "overlay": folder / "overlays" / f"{name}.jpg",
            "label map": folder / "predictions" / f"{name}.png",
        }
        links = [(title, _link(picture, base)) for title, picture in pictures.items() if picture.is_file()]
        images.append(WorstImage(file, image["pAcc"], links))
    return images


def _mean_accuracy(entries: Sequence[tuple[Evaluation, GalleryEntry]]) -> float:
    """Return the mean accuracy of the methods on an image, in percent; more than 100 if it is not scored."""
    accuracies = [entry.accuracy for _, entry in entries if entry.accuracy is not None]
    return sum(accuracies) / len(accuracies) if accuracies else 101.0


def _build_cards(
    images: Sequence[Sequence[tuple[Evaluation, GalleryEntry]]], budget: int, base: Path
) -> Iterator[GalleryCard]:
    """Yield a card for each image until the budget, in bytes of pictures, is used up. All share their colours."""
    if not images:
        return
    classes = images[0][0][0].classes
    names = [*classes, NOT_SCORED, UNKNOWN_NAME]  # the last is that of the index -1
    shares = _sum_shares(entry for entries in images for _, entry in entries)
    order = [index for index in shares if 0 <= index < len(classes)]
    colours = np.vstack([ClassColours(classes).assign(order), _BLACK]).astype(np.uint8)
    css = [*(f"#{bytes(colour).hex()}" for colour in colours), "transparent"]
    for entries in images:
        figures = []
        for position, (evaluation, entry) in enumerate(entries):
            parts = [part for part in PARTS if part in entry.files]
            # The image and the truth are the same for all methods.
            for part in parts if position == 0 else [part for part in parts if part not in ("image", "truth")]:
                content = _draw_part(entry, part, names, colours)
                budget -= len(content)
                figures.append(_build_figure(evaluation.source.method, entry, part, content, names))
        if budget < 0:
            return
        overlays = [
            (each.source.method, each.source.folder / "overlays" / f"{entry.stem}.jpg") for each, entry in entries
        ]
        yield GalleryCard(
            entries[0][1].stem,
            figures,
            [(names[index], css[index]) for index in _sum_shares(entry for _, entry in entries)],
            [(each.source.method, entry.accuracy) for each, entry in entries if entry.accuracy is not None],
            [(method, _link(file, base)) for method, file in overlays if file.is_file()],
        )


def _sum_shares(entries: Iterable[GalleryEntry]) -> dict[int, float]:
    """Return the sum of the shares of each class in all labels, the largest first."""
    total: dict[int, float] = {}
    for entry in entries:
        for index, share in (pair for label_map in entry.classes.values() for pair in label_map):
            total[index] = total.get(index, 0.0) + share
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def _draw_part(entry: GalleryEntry, part: str, names: Sequence[str], colours: np.ndarray) -> bytes:
    if part not in LABELS:
        return entry.files[part].read_bytes()
    return encode_picture(
        draw_labels(
            entry.read_picture("image"), entry.read_labels(part), names, colours, legend=False, opacity=_OPACITY
        )
    )


def _build_figure(method: str, entry: GalleryEntry, part: str, content: bytes, names: Sequence[str]) -> Figure:
    title = caption = _TITLES[part]
    if part not in ("image", "truth"):
        title = f"{title} of {method}"
        caption = f"{method}, masks" if part == "masks" else method
    shares = ", ".join(f"{names[index]} {100 * share:.0f} %" for index, share in entry.classes.get(part, [])[:6])
    alt = f"{title} for {entry.stem}" + (f": {shares}" if shares else "")
    return Figure(caption, alt, entry.size, f"data:image/webp;base64,{base64.b64encode(content).decode()}")
