"""Many images at once, or one after the other: the results are those of single calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.segmenter.build import Segmenting
from cliptrase_d2.segmenter.image_input import ImageLike
from cliptrase_d2.segmenter.result import SegmentationResult
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.pipeline.tiny_segmenter import scene, tiny_segmenter
from tests.san.tiny_san import tiny_san

CLASSES = ["sky", "tree;bush", "road"]
SIZES = [(96, 128), (96, 128), (128, 96), (50, 70), (96, 128)]
IMAGES = [scene(index, *size).permute(1, 2, 0).numpy() for index, size in enumerate(SIZES)]


def build_segmenter_from(model: Segmenting) -> Segmenter:
    return Segmenter(model=model, protocol="whole", short_side=64, max_size=256)


@pytest.fixture(scope="module")
def cliptrase() -> Segmenter:
    return build_segmenter_from(tiny_segmenter())


@pytest.fixture(scope="module", params=["CLIPtrase", "SAN"])
def segmenter(
    request: pytest.FixtureRequest, cliptrase: Segmenter, tmp_path_factory: pytest.TempPathFactory
) -> Segmenter:
    return cliptrase if request.param == "CLIPtrase" else build_segmenter_from(tiny_san(tmp_path_factory.mktemp("san")))


@pytest.fixture(scope="module")
def singly(segmenter: Segmenter) -> list[SegmentationResult]:
    return [segmenter(image, CLASSES, ["wall"]) for image in IMAGES]


def assert_equal(found: list[SegmentationResult], expected: list[SegmentationResult]) -> None:
    """The same labels, and numbers that differ by rounding only."""
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine.image, other.image)
        np.testing.assert_array_equal(mine.label_map, other.label_map)
        assert mine.classes == other.classes == ("sky", "tree", "road", "background")
        np.testing.assert_allclose(mine.masks, other.masks, atol=1e-4)
        np.testing.assert_allclose(mine.mask_logits, other.mask_logits, atol=1e-4)


def test_a_batch_gives_what_single_calls_give(segmenter: Segmenter, singly: list[SegmentationResult]) -> None:
    assert_equal(segmenter.batch(IMAGES, CLASSES, ["wall"]), singly)


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_a_stream_gives_what_single_calls_give(
    segmenter: Segmenter, singly: list[SegmentationResult], batch_size: int
) -> None:
    assert_equal([*segmenter.stream(iter(IMAGES), CLASSES, ["wall"], batch_size=batch_size)], singly)


def test_images_of_one_size_go_through_the_model_together(cliptrase: Segmenter) -> None:
    seen: list[tuple[int, ...]] = []
    hook = cliptrase.model.tower.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    cliptrase.batch(IMAGES, CLASSES)
    hook.remove()
    # 96×128 is seen at 64×80, in whole patches of 16; 50×70 at 64×96.
    assert sorted(seen) == [(1, 3, 64, 96), (1, 3, 80, 64), (3, 3, 64, 80)]


def test_an_array_of_images_is_several(cliptrase: Segmenter) -> None:
    stack_to_device = np.stack([IMAGES[0], IMAGES[1]])
    results = cliptrase.batch(stack_to_device, CLASSES)
    np.testing.assert_array_equal(results[1].label_map, cliptrase(IMAGES[1], CLASSES).label_map)
    assert len(results) == len(cliptrase.batch(torch.from_numpy(stack_to_device).permute(0, 3, 1, 2), CLASSES)) == 2


def test_no_image_gives_no_result(segmenter: Segmenter) -> None:
    assert segmenter.batch([], CLASSES) == []
    assert list(segmenter.stream([], CLASSES)) == []


def test_a_vocabulary_is_encoded_once(cliptrase: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, encode = [], cliptrase.model.text_encoder

    def counted(vocabulary: Vocabulary) -> TextFeatures:
        asked.append(vocabulary)
        return encode(vocabulary)

    monkeypatch.setattr(cliptrase.model, "text_encoder", counted)
    words = ["river", "bridge"]  # of no other test
    cliptrase.batch(IMAGES[:3], words)
    list(cliptrase.stream(IMAGES[:3], words, batch_size=2))
    cliptrase(IMAGES[0], words)
    assert [vocabulary.classes for vocabulary in asked] == [("river", "bridge")]


class Endless:
    """Images without end, and how many were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[ImageLike]:
        for self.taken in count(1):
            yield IMAGES[3]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_endless_stream_is_taken_a_few_images_ahead_of_its_results(cliptrase: Segmenter, batch_size: int) -> None:
    images, before = Endless(), threading.active_count()
    results = cliptrase.stream(images, CLASSES, batch_size=batch_size)
    assert (images.taken, threading.active_count()) == (0, before)
    for seen, _ in enumerate(islice(results, 7)):
        assert images.taken <= seen + 2 * batch_size
    results.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_broken_image_comes_after_the_results_before_it(
    cliptrase: Segmenter, tmp_path: Path, batch_size: int
) -> None:
    for index in (0, 1, 3):
        Image.fromarray(IMAGES[3]).save(tmp_path / f"{index}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    before = threading.active_count()
    results = cliptrase.stream(sorted(tmp_path.iterdir()), CLASSES, batch_size=batch_size)
    assert len([next(results), next(results)]) == 2
    with pytest.raises(InputError, match=r"2\.png: unreadable"):
        next(results)
    assert list(results) == []
    assert threading.active_count() == before


def test_an_image_without_a_path_is_called_by_its_number(cliptrase: Segmenter) -> None:
    with pytest.raises(InputError, match=r"^images\[1\]: an array of float64"):
        cliptrase.batch([IMAGES[0], IMAGES[0] / 255.0], CLASSES)
    results = cliptrase.stream([IMAGES[0], IMAGES[0] / 255.0], CLASSES)
    next(results)
    with pytest.raises(InputError, match=r"^images\[1\]: an array of float64"):
        next(results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": []}, "classes: no class"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"images": "a.png"}, "images: a single str"),
    ],
)
def test_what_cannot_be_is_said_before_the_first_image(arguments: dict[str, Any], message: str) -> None:
    class Untouched(nn.Module):
        patch_multiple, resampling = 16, "bicubic"

    segmenter = build_segmenter_from(Untouched())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        segmenter.stream(**{"images": IMAGES, "classes": CLASSES, **arguments})
