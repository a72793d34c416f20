"""The service behind the page, and its examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.web.examples import draw_examples
from cliptrase_d2.web.service import Choice, Point, SegmentationService, SegmentRequest
from cliptrase_d2.web.uploads import read_vocabulary

CHOICES = [Choice("emoji", "cliptrase"), Choice("emoji", "clip")]


def test_results_arrive_side_by_side_and_are_cached(service: SegmentationService, scene_file: str) -> None:
    request = SegmentRequest(scene_file, "pig, hamburger, lava", "")
    counts = []
    for message, results in service.segment(request, CHOICES):
        assert message == ""
        counts.append(len(results))
    assert counts == [1, 2]
    for result in results:
        assert result.picture is not None
        assert result.picture.shape == (224, 224, 3)
    assert "hamburger" in results[0].html
    assert "hamburger" not in results[1].html  # plain CLIP finds only lava
    *_, (_, again) = service.segment(request, CHOICES)
    assert all(result is other for result, other in zip(results, again, strict=True))


@pytest.mark.parametrize(("has_photo", "classes", "where"), [(False, "pig", "Photo"), (True, "pig, pig", "Classes")])
def test_an_invalid_request_is_reported_once(
    service: SegmentationService, scene_file: str, has_photo: bool, classes: str, where: str
) -> None:
    request = SegmentRequest(scene_file if has_photo else None, classes, "")
    ((message, results),) = service.segment(request, CHOICES)
    assert f"<b>{where}:</b>" in message
    assert [result.picture for result in results] == [None, None]


def test_an_error_on_one_side_does_not_affect_the_other(service: SegmentationService, scene_file: str) -> None:
    choices = [Choice("none", "clip"), CHOICES[1]]
    *_, (message, results) = service.segment(SegmentRequest(scene_file, "pig", ""), choices)
    assert message == ""
    assert results[0].picture is None
    assert 'role="alert"' in results[0].html
    assert results[1].picture is not None


def test_a_photo_is_read_once(service: SegmentationService, scene_file: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(scene_file).read_bytes())
    service.locate(str(copy), (0, 0))
    copy.unlink()
    assert service.locate(str(copy), (0, 0)) == Point(0, 0)


def test_pixels_become_percentages_of_an_existing_photo(service: SegmentationService, scene_file: str) -> None:
    assert service.locate(scene_file, (111, 223)) == Point(50, 100)
    with pytest.raises(InputError, match=r"^Photo: "):
        service.locate(None, (0, 0))
    view = service.explain(None, Point(0, 0), ["emoji"])
    assert view.picture is None
    assert 'role="alert"' in view.correlation


def test_explanations_mark_the_patch_and_ignore_duplicate_models(service: SegmentationService, scene_file: str) -> None:
    view = service.explain(scene_file, Point(100, 0), ["emoji", "emoji"])
    assert view.picture is not None
    assert (view.picture[14, 207] == 255).all()  # the frame of the top right patch
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
