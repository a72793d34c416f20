"""Report of a conversion in text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tabulate import tabulate

from cliptrase_d2.data.convert.run import DATASET_FILE, Conversion
from cliptrase_d2.data.convert.source import Source
from cliptrase_d2.vocabulary import Vocabulary

_MAX_LISTED = 5


def describe(source: Source, conversion: Conversion, output: Path) -> Iterator[str]:
    """Yield the lines of the report.

    Args:
        source: the labels.
        conversion: its result.
        output: folder of the results.
    """
    findings, spec = conversion.findings, conversion.spec
    names, total = Vocabulary.parse(spec.classes, allow_commas=True).classes, max(1, findings.total)
    rows = [(name, pixels, 100 * pixels / total) for name, pixels in zip(names, findings.pixels.tolist(), strict=True)]
    bits = 8 if spec.ignore_label < 256 else 16
    yield f"{source.format}: {conversion.pictures:,} pictures, {len(names):,} classes, labels of {bits} bits"
    yield tabulate([row for row in rows if row[1]], ("class", "pixels", "%"), intfmt=",", floatfmt=".2f")
    if absent := [name for name, pixels, _ in rows if not pixels]:
        listed = ", ".join(absent[:_MAX_LISTED]) + (", ..." if len(absent) > _MAX_LISTED else "")
        yield f"{len(absent)} of {len(names)} classes do not occur: {listed}"
    if conversion.background is None:
        share = f"{100 * findings.unlabelled / total:.2f} % of the pixels"
        yield f"unlabelled: {share}, ignored ({spec.ignore_label}); --background NAME makes them a class"
    else:
        yield f"unlabelled: pixels became {names[conversion.background]!r}"
    if findings.ignored:
        yield f"marked to be ignored: {100 * findings.ignored / total:.2f} % of the pixels ({spec.ignore_label})"
    yield _describe_overlaps(source, conversion, names, total)
    for kind, count in findings.notes.counts.items():
        yield f"{kind} ({count:,}, first: {findings.notes.places[kind]})"
    if conversion.empty:
        yield f"pictures without annotations: {conversion.empty:,} left out; --background NAME keeps them"
    if conversion.unlisted:
        yield f"other pictures in the folder: {conversion.unlisted:,} left out, since the source does not list them"
    yield f"{output / DATASET_FILE}: check it with cliptrase doctor --dataset {output / DATASET_FILE}"


def _describe_overlaps(source: Source, conversion: Conversion, names: tuple[str, ...], total: int) -> str:
    """Return the line on pixels of several classes."""
    findings = conversion.findings
    if not findings.overlapped:
        return f"overlaps: none (drawn {source.order})"
    (below, above), count = findings.pairs.most_common(1)[0]
    return (
        f"overlaps: {100 * findings.overlapped / total:.2f} % of the pixels are covered by more than one class, "
        f"most by {names[above]!r} over {names[below]!r} ({count:,} pixels). Drawn {source.order}."
    )
