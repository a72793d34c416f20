"""Labels of another tool, read but not drawn yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

UNLABELLED, IGNORED = -1, -2  # pixels of no class: those that no shape covers, and those that are never scored


class Layer(NamedTuple):
    """A shape on the pixels of a picture.

    Attributes:
        class_index: UNLABELLED or IGNORED for no class.
        mask: [h,w] bool.
        top: row of the picture in which the mask begins.
        left: column of the picture in which the mask begins.
    """

    class_index: int
    mask: np.ndarray
    top: int = 0
    left: int = 0


@dataclass
class Notes:
    """Counts of everything that was skipped or changed, and the first place of each.

    Attributes:
        counts: by kind, such as "polygons with fewer than 3 points: skipped".
        places: of the first of each kind.
    """

    counts: dict[str, int] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, place: object, count: int = 1) -> None:
        """Count something at a place."""
        self.counts[kind] = self.counts.get(kind, 0) + count
        self.places.setdefault(kind, str(place))

    def update(self, other: Notes) -> None:
        """Add the counts of other notes."""
        for kind, count in other.counts.items():
            self.add(kind, other.places[kind], count)


@dataclass(frozen=True)
class Picture:
    """A picture and its shapes.

    Attributes:
        name: path relative to the folder of pictures, with "/".
        where: its place in the source, for error messages.
        size: height and width that the source states; None if it states none.
        shapes: in the form of the format; empty for a picture without annotations.
    """

    name: str
    where: str
    size: tuple[int, int] | None
    shapes: Any


# Turns the shapes of a picture of (height, width) into layers, the lowest first.
Draw = Callable[[Picture, tuple[int, int], Notes], Iterable[Layer]]


@dataclass(frozen=True)
class Source:
    """The labels of a whole data set.

    Attributes:
        format: name for --from.
        images: folder of the pictures.
        classes: names in the order of their indices.
        pictures: all that the source lists.
        draw: defined at the top level of a module, or a ``partial`` of such a function.
        order: sentence on the order in which shapes are drawn.
        notes: on shapes that were left out before drawing.
    """

    format: str
    images: Path
    classes: tuple[str, ...]
    pictures: list[Picture]
    draw: Draw
    order: str
    notes: Notes = field(default_factory=Notes)


@dataclass(frozen=True)
class Options:
    """The user's choices.

    Attributes:
        source: file or folder, or "hf-datasets:owner/name:split".
        output: folder of the results.
        images: folder of the pictures; None to look beside the source.
        classes: class names in order, "a;b" for synonyms; None for those of the source.
        keep_crowds: give crowd regions their class in place of the ignore label.
        contours: whether the points of COCO's polygons are pixels, as those of ``cv2.findContours``; None to find out.
        tasks: file that names the picture of each task of Label Studio.
        columns: names of the image column and the label column of a table; "" to find them.
        workers: number of processes.
    """

    source: str
    output: Path
    images: Path | None = None
    classes: tuple[str, ...] | None = None
    keep_crowds: bool = False
    contours: bool | None = None
    tasks: Path | None = None
    columns: tuple[str, str] = ("", "")
    workers: int = 1

    @property
    def path(self) -> Path:
        """The source as a path."""
        return Path(self.source).expanduser()
