"""Outlines of the classes of a photo, which the browser draws over it."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from cliptrase_d2.unknown import UNKNOWN, UNKNOWN_NAME
from cliptrase_d2.visualization.names import PlacedName, place_names
from cliptrase_d2.visualization.picture import class_colours, class_shares
from cliptrase_d2.web.labelling import Labelling


class Layer(NamedTuple):
    """A class that occurs, or the unknown pixels, which have no colour and no outline.

    Attributes:
        class_index: of the class, or -1.
        name: of the class.
        colour: in CSS.
        share: of the photo, 0 to 1.
        confidence: see ``class_confidence``.
        outline: path in SVG, filled by the even-odd rule.
        names: places for the name of the class.
    """

    class_index: int
    name: str
    colour: str
    share: float
    confidence: float
    outline: str
    names: list[PlacedName]


def make_layers(labelling: Labelling) -> list[Layer]:
    """Return the layers of a segmented photo, the largest first and the unknown pixels last."""
    label_map, classes = labelling.label_map, labelling.classes
    colours, places = class_colours(classes, label_map), place_names(label_map, classes)
    layers = []
    for index, share in class_shares(label_map, len(classes)):
        if index == UNKNOWN:
            layers.append(Layer(UNKNOWN, UNKNOWN_NAME, "transparent", share, 0, "", []))
            continue
        colour, confidence = "rgb({} {} {})".format(*colours[index]), float(labelling.confidence[index])
        names = [place for place in places if place.class_index == index]
        layers.append(Layer(index, classes[index], colour, share, confidence, outline(label_map == index), names))
    return layers


def outline(region: np.ndarray) -> str:
    """Return the outlines of a region and of its holes as a path in SVG, through the centres of its outer pixels.

    Args:
        region: [H,W] bool.
    """
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return "".join("M" + "L".join(f"{x + 0.5:g} {y + 0.5:g}" for x, y in points[:, 0]) + "Z" for points in contours)
