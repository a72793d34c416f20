"""The service behind the page, and its examples."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.web import models as models_module
from cliptrase_d2.web.examples import draw_examples
from cliptrase_d2.web.models import DRAWINGS, Models
from cliptrase_d2.web.service import Choice, Point, SegmentationService, SegmentRequest
from cliptrase_d2.web.uploads import read_vocabulary
from tests.web.conftest import MAX_PIXELS

CHOICES = [Choice("emoji", "cliptrase"), Choice("emoji", "clip")]


def test_results_arrive_side_by_side_and_are_cached(service: SegmentationService, scene_file: str) -> None:
    request = SegmentRequest(scene_file, "pig, hamburger, lava", "")
    counts = []
    for message, results in service.segment(request, CHOICES):
        assert message == ""
        counts.append(len(results))
    assert counts == [1, 2]
    for result in results:
        assert 'viewBox="0 0 224 224"' in result
    assert "hamburger" in results[0]
    assert "hamburger" not in results[1]  # plain CLIP finds only lava
    *_, (_, again) = service.segment(request, CHOICES)
    assert all(result is other for result, other in zip(results, again, strict=True))


@pytest.mark.parametrize(("has_photo", "classes", "where"), [(False, "pig", "Photo"), (True, "pig, pig", "Classes")])
def test_an_invalid_request_is_reported_once(
    service: SegmentationService, scene_file: str, has_photo: bool, classes: str, where: str
) -> None:
    request = SegmentRequest(scene_file if has_photo else None, classes, "")
    ((message, results),) = service.segment(request, CHOICES)
    assert f"<b>{where}:</b>" in message
    assert results == ["", ""]


def test_an_error_on_one_side_does_not_affect_the_other(service: SegmentationService, scene_file: str) -> None:
    choices = [Choice("none", "clip"), CHOICES[1]]
    *_, (message, results) = service.segment(SegmentRequest(scene_file, "pig", ""), choices)
    assert message == ""
    assert 'role="alert"' in results[0]
    assert "<svg" in results[1]


def test_a_failure_of_both_sides_is_shown_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene_file: str
) -> None:
    def fail(*_: object) -> None:
        raise InputError("pretrained", "no connection", "Connect.")

    monkeypatch.setattr(models_module.Segmenter, "from_config", fail)
    own = SegmentationService(Models(["emoji"]), MAX_PIXELS)
    *_, (message, results) = own.segment(SegmentRequest(scene_file, "pig", ""), CHOICES)
    assert message == ""
    assert results[0].count("no connection") == 1
    assert results[1] == ""


def test_pixels_below_the_threshold_are_unknown(service: SegmentationService, scene_file: str) -> None:
    request = SegmentRequest(scene_file, "pig, hamburger, lava", "")
    ((_, (plain,)),) = service.segment(request, CHOICES[:1])
    ((_, (strict,)),) = service.segment(request._replace(threshold=0.9), CHOICES[:1])
    ((_, (empty,)),) = service.segment(request._replace(threshold=1), CHOICES[:1])
    assert "unknown" not in plain
    assert "unknown" in strict
    assert "lava" in strict
    assert empty.count("<path") == 0
    ((message, results),) = service.segment(request._replace(threshold=1.5), CHOICES[:1])
    assert "<b>Unknown below:</b>" in message
    assert results == [""]


def test_only_photographs_have_the_warning_about_drawings(service: SegmentationService, scene_file: str) -> None:
    request = SegmentRequest(scene_file, "pig, lava", "")
    ((_, (warned,)),) = service.segment(request, CHOICES[:1])
    assert warned.index(DRAWINGS) < warned.index("<svg")  # above the picture
    own = SegmentationService(service.models, MAX_PIXELS, drawings={Path(scene_file).name})
    ((_, (plain,)),) = own.segment(request, CHOICES[:1])
    assert DRAWINGS not in plain


def test_a_photo_is_read_once(service: SegmentationService, scene_file: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(scene_file).read_bytes())
    for classes in ("pig", "lava"):
        ((message, _),) = service.segment(SegmentRequest(str(copy), classes, ""), CHOICES[:1])
        assert message == ""
        copy.unlink(missing_ok=True)


def test_an_explanation_needs_a_photo(service: SegmentationService) -> None:
    view = service.explain(None, Point(0, 0), ["emoji"])
    assert view.picture == ""
    assert 'role="alert"' in view.correlation


def test_explanations_mark_the_patch_and_ignore_duplicate_models(service: SegmentationService, scene_file: str) -> None:
    view = service.explain(scene_file, Point(100, 0), ["emoji", "emoji"])
    (data,) = re.findall(r"base64,([^\"]+)", view.picture)
    picture = np.array(Image.open(io.BytesIO(base64.b64decode(data))))
    assert (picture[14, 207] > 240).all()  # the frame of the top right patch, in lossy WebP
    assert view.correlation.count("<section") == 1
    assert view.correlation.count("<figure>") == 6  # attention and recovered correlation of three blocks
    assert view.clustering.count("<figure>") == 4


def test_examples_have_photos_classes_and_points(tmp_path: Path) -> None:
    examples = draw_examples(tmp_path)
    assert len(examples) >= 6
    for example in examples:
        assert example.file.is_file()
        assert len(read_vocabulary(example.classes, "").classes) >= 2
        assert all(0 <= share <= 100 for share in example.point)
