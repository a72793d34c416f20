"""Segmenter.batch and Segmenter.stream give the results of single calls."""

from __future__ import annotations

import threading
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cliptrase_d2.segmenter.build import SegmentationModel
from cliptrase_d2.segmenter.result import SegmentationResult
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.utils.errors import InputError
from tests.pipeline.tiny_segmenter import scene, tiny_segmenter
from tests.san.tiny_san import tiny_san

CLASSES = ["sky", "tree;bush", "road"]
SIZES = [(96, 128), (96, 128), (128, 96), (50, 70), (96, 128)]
IMAGES = [scene(index, *size).permute(1, 2, 0).numpy() for index, size in enumerate(SIZES)]


def wrap(model: SegmentationModel) -> Segmenter:
    return Segmenter(model=model, protocol="whole", short_side=64, max_size=256)


@pytest.fixture(scope="module")
def cliptrase() -> Segmenter:
    return wrap(tiny_segmenter())


@pytest.fixture(scope="module", params=["CLIPtrase", "SAN"])
def segmenter(
    request: pytest.FixtureRequest, cliptrase: Segmenter, tmp_path_factory: pytest.TempPathFactory
) -> Segmenter:
    return cliptrase if request.param == "CLIPtrase" else wrap(tiny_san(tmp_path_factory.mktemp("san")))


@pytest.fixture(scope="module")
def expected(segmenter: Segmenter) -> list[SegmentationResult]:
    return [segmenter(image, CLASSES, ["wall"]) for image in IMAGES]


def assert_equal(results: list[SegmentationResult], expected: list[SegmentationResult]) -> None:
    """Labels must be equal, scores up to rounding."""
    for result, other in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result.image, other.image)
        np.testing.assert_array_equal(result.label_map, other.label_map)
        assert result.classes == other.classes == ("sky", "tree", "road", "background")
        np.testing.assert_allclose(result.masks, other.masks, atol=1e-4)
        np.testing.assert_allclose(result.mask_logits, other.mask_logits, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_batches_and_streams_equal_single_calls(
    segmenter: Segmenter, expected: list[SegmentationResult], batch_size: int
) -> None:
    assert_equal([*segmenter.stream(iter(IMAGES), CLASSES, ["wall"], batch_size=batch_size)], expected)
    if batch_size == 1:
        assert_equal(segmenter.batch(IMAGES, CLASSES, ["wall"]), expected)


def test_images_of_one_size_are_processed_together(cliptrase: Segmenter) -> None:
    shapes: list[tuple[int, ...]] = []
    hook = cliptrase.model.tower.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    cliptrase.batch(IMAGES, CLASSES)
    hook.remove()
    # In whole patches of 16 pixels, 96x128 is resized to 64x80, and 50x70 to 64x96.
    assert sorted(shapes) == [(1, 3, 64, 96), (1, 3, 80, 64), (3, 3, 64, 80)]


def test_arrays_and_tensors_of_several_images(cliptrase: Segmenter) -> None:
    array = np.stack([IMAGES[0], IMAGES[1]])
    for images in (array, torch.from_numpy(array).permute(0, 3, 1, 2)):
        first, second = cliptrase.batch(images, CLASSES)
        np.testing.assert_array_equal(first.image, IMAGES[0])
        np.testing.assert_array_equal(second.label_map, cliptrase(IMAGES[1], CLASSES).label_map)


def test_no_images_give_no_results(segmenter: Segmenter) -> None:
    assert segmenter.batch([], CLASSES) == []
    assert list(segmenter.stream([], CLASSES)) == []


def test_a_vocabulary_is_encoded_once(cliptrase: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabularies, encode = [], cliptrase.model.text_encoder
    monkeypatch.setattr(
        cliptrase.model, "text_encoder", lambda vocabulary: vocabularies.append(vocabulary) or encode(vocabulary)
    )
    classes = ["river", "bridge"]  # not used by other tests
    cliptrase.batch(IMAGES[:3], classes)
    list(cliptrase.stream(IMAGES[:3], classes, batch_size=2))
    cliptrase(IMAGES[0], classes)
    assert [vocabulary.classes for vocabulary in vocabularies] == [("river", "bridge")]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_stream_reads_a_bounded_number_of_images_ahead(cliptrase: Segmenter, batch_size: int) -> None:
    taken, threads = list[int](), threading.active_count()
    images = (taken.append(number) or IMAGES[3] for number in count())
    results = cliptrase.stream(images, CLASSES, batch_size=batch_size)
    assert (len(taken), threading.active_count()) == (0, threads)
    for index, _ in enumerate(islice(results, 7)):
        assert len(taken) <= index + 2 * batch_size
    results.close()
    assert threading.active_count() == threads


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_broken_image_is_reported_after_the_results_before_it(
    cliptrase: Segmenter, tmp_path: Path, batch_size: int
) -> None:
    for index in (0, 1, 3):
        Image.fromarray(IMAGES[3]).save(tmp_path / f"{index}.png")
    (tmp_path / "2.png").write_bytes(b"not an image")
    threads = threading.active_count()
    results = cliptrase.stream(sorted(tmp_path.iterdir()), CLASSES, batch_size=batch_size)
    assert len([next(results), next(results)]) == 2
    with pytest.raises(InputError, match=r"2\.png"):
        next(results)
    assert list(results) == []
    assert threading.active_count() == threads


def test_an_image_without_a_path_is_named_by_its_index(cliptrase: Segmenter) -> None:
    images = [IMAGES[0], IMAGES[0] / 100.0]
    for call in (cliptrase.batch, lambda *arguments: list(cliptrase.stream(*arguments))):
        with pytest.raises(InputError, match=r"^images\[1\]: .*float64"):
            call(images, CLASSES)


@pytest.mark.parametrize(
    ("arguments", "where"),
    [({"classes": []}, "classes"), ({"batch_size": 0}, "batch_size: 0"), ({"images": "a.png"}, "images")],
)
def test_invalid_arguments_are_reported_before_the_first_image(arguments: dict[str, Any], where: str) -> None:
    class Unused(nn.Module):
        patch_multiple, resampling = 16, "bicubic"

    with pytest.raises(InputError, match=rf"^{where}"):
        wrap(Unused()).stream(**{"images": IMAGES, "classes": CLASSES, **arguments})  # type: ignore[arg-type]
