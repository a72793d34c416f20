"""The page and the Segmenter give the same labels with every method."""

from __future__ import annotations

import numpy as np
import pytest

from cliptrase_d2.web.labelling import label
from cliptrase_d2.web.models import Models
from cliptrase_d2.web.uploads import read_photo, read_vocabulary

WORDS = read_vocabulary("pig, hamburger;bus", "lava")


@pytest.mark.parametrize("method", ["cliptrase", "clip", "gem+clusters"])
def test_labels_are_those_of_the_segmenter(models: Models, scene_file: str, method: str) -> None:
    photo = read_photo(scene_file, 10**6)
    with models.lend("emoji", method) as model:
        found = label(model, photo.pixels, WORDS)
        expected = model.segmenter(photo.pixels, ["pig", "hamburger;bus"], ["lava"])
    np.testing.assert_array_equal(found.label_map, expected.label_map)
    assert found.classes == expected.classes == ("pig", "hamburger", "background")
    assert found.notes == ()


def test_confidence_is_that_of_the_classes_that_occur(models: Models, scene_file: str) -> None:
    photo = read_photo(scene_file, 10**6)
    with models.lend("emoji", "cliptrase") as model:
        found = label(model, photo.pixels, read_vocabulary("pig, hamburger, lava, giraffe", ""))
    occurs = np.bincount(found.label_map.ravel(), minlength=4) > 0
    assert occurs.tolist() == [True, True, True, False]
    assert (found.confidence[occurs] > 0.5).all()  # of four, where chance is a quarter
    assert found.confidence[3] == 0
