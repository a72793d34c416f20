"""The published protocol against a slow implementation of its description."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.methods.word_maps import WindowAxis, stretch
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol, place_axis, put_background_first
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.pipeline.published_reference import slow_segmentation
from tests.pipeline.tiny_segmenter import scene, telling_words, tiny_segmenter

SETTINGS = CLIPtraseSettings(method="sclip", clustering="none")
WORDS = Vocabulary.parse(["north", "upper", "lower", "south"])
SMALL = {"window": 64, "stride": 32}


def build(**options: Any) -> CLIPtrase:
    return tiny_segmenter(settings=SETTINGS, protocol=PublishedProtocol(**options))


def give_words(
    model: CLIPtrase, image: Tensor, class_index: list[int], names: list[str]
) -> tuple[Vocabulary, TextFeatures]:
    """Give the model words that separate parts of an image, and return its vocabulary."""
    padded = image[:, : image.shape[1] // 16 * 16, : image.shape[2] // 16 * 16]
    with torch.inference_mode():
        features = telling_words(model, padded).features
    text = TextFeatures(features[: len(class_index)], torch.tensor(class_index), tuple(names))
    vocabulary = Vocabulary.parse(names)
    model._texts[vocabulary] = text
    return vocabulary, text


def run(
    model: CLIPtrase, image: Tensor, vocabulary: Vocabulary, size: tuple[int, int], **options: Any
) -> dict[str, Tensor]:
    height, width = size
    inputs = {"image": image, "height": height, "width": width, "vocabulary": vocabulary, "output_sem_seg": True}
    return model([{**inputs, **options}])[0]


@pytest.mark.parametrize(
    ("options", "size", "result"),
    [
        (SMALL, (96, 128), (96, 128)),
        (SMALL, (84, 115), (133, 181)),  # sides no multiple of the patch; the last windows overlap more
        (SMALL, (64, 100), (50, 78)),  # one row of windows; a smaller result
        (SMALL, (40, 90), (61, 140)),  # lower than a window, with a remainder of 8 pixels
        (SMALL, (33, 34), (1, 1)),  # a result of one pixel
        (SMALL, (16, 16), (200, 3)),  # one patch
        ({"window": 40, "stride": 24}, (84, 115), (100, 137)),  # windows with a remainder
        ({"window": 64, "stride": 64}, (84, 115), (84, 115)),
        ({"window": 0}, (84, 115), (100, 137)),
        ({"window": 0, "resize_twice": True}, (84, 115), (100, 137)),
        ({"window": 0, "pad_to": 16}, (84, 115), (100, 137)),
        ({"window": 40, "stride": 24, "pad_to": 16}, (84, 115), (100, 137)),
        ({"window": 56, "stride": 24, "pad_to": 56}, (84, 115), (100, 137)),  # the padding is no multiple of the patch
        ({**SMALL, "average": "probabilities"}, (84, 115), (100, 137)),
        ({"window": 0, "average": "probabilities"}, (84, 115), (100, 137)),
        ({**SMALL, "min_max": True}, (84, 115), (100, 137)),
        ({"window": 0, "min_max": True}, (84, 115), (100, 137)),
        ({**SMALL, "pamr_steps": 3}, (84, 115), (100, 137)),
        ({**SMALL, "pamr_steps": 2, "pamr_dilations": (1, 5, 30)}, (48, 70), (20, 137)),
        ({"window": 224, "stride": 112}, (336, 459), (100, 137)),
    ],
    ids=str,
)
def test_equals_the_description(options: dict[str, Any], size: tuple[int, int], result: tuple[int, int]) -> None:
    model, image = build(**options), scene(0, *size)
    vocabulary, text = give_words(model, scene(0, 96, 128), [0, 0, 1, 2], ["north", "lower", "south"])
    assert model.protocol is not None
    for thresholds in ({}, {"prob_thd": 0.45}, {"prob_thd": 0.36, "area_thd": 0.3}):
        model.protocol = replace(model.protocol, logit_scale=4.0, **thresholds)
        output = run(model, image, vocabulary, result)
        labels, shares = slow_segmentation(model, image, text, result, model.protocol)
        assert (output["label_map"] == labels).float().mean() >= 0.999
        if not thresholds:
            torch.testing.assert_close(output["sem_seg"], shares, atol=2e-5, rtol=0)
        assert torch.equal(output["sem_seg"].argmax(0), output["label_map"])


@pytest.mark.parametrize("class_index", [[0, 1, 2, 3], [0, 0, 0, 0], [0, 0, 1, 1]], ids=str)
def test_one_and_several_words_per_class(class_index: list[int]) -> None:
    model, image = build(**SMALL, logit_scale=4.0), scene(1, 84, 115)
    names = [f"class {index}" for index in range(class_index[-1] + 1)]
    vocabulary, text = give_words(model, scene(1), class_index, names)
    output = run(model, image, vocabulary, (90, 100))
    labels, shares = slow_segmentation(model, image, text, (90, 100), model.protocol)
    assert torch.equal(output["label_map"], labels)
    torch.testing.assert_close(output["sem_seg"], shares, atol=2e-5, rtol=0)


def test_the_last_window_ends_at_the_border() -> None:
    protocol = PublishedProtocol(window=224, stride=112)
    assert place_axis(336, 16, protocol).starts == (0, 112)
    assert place_axis(454, 16, protocol).starts == (0, 112, 224, 230)
    short = place_axis(200, 16, protocol)
    assert (short.starts, short.side, short.points) == ((0,), 200, 12)


def test_each_pixel_is_a_mean_of_points() -> None:
    protocol = PublishedProtocol(window=40, stride=24, pad_to=16)
    for size in (1, 84, 131):
        torch.testing.assert_close(stretch(place_axis(84, 16, protocol), size).sum(1), torch.ones(size))


def test_two_overlapping_windows_by_hand() -> None:
    # Windows of 2 pixels at 0 and 1 with one patch each, so the middle pixel is the mean of both.
    axis = WindowAxis(length=3, starts=(0, 1), side=2, padded=2, patch=2, is_direct=False, points=1)
    assert stretch(axis, 3).tolist() == [[1, 0], [0.5, 0.5], [0, 1]]


def test_a_pixel_below_the_threshold_is_background() -> None:
    model, image = build(**SMALL, logit_scale=1.0, prob_thd=1.0), scene(0)
    # The background is the last class of the vocabulary, and class 0 of the published order.
    vocabulary, _ = give_words(model, image, [0, 1, 2], ["tree", "car", "background"])
    output = run(model, image, vocabulary, (50, 60))
    assert output["label_map"].unique().tolist() == [2]
    assert torch.equal(output["sem_seg"].argmax(0), output["label_map"])


def test_a_pixel_below_the_threshold_is_the_first_class_without_a_background() -> None:
    model, image = build(**SMALL, logit_scale=1.0, prob_thd=1.0), scene(0)
    vocabulary, _ = give_words(model, image, [0, 1, 2], ["tree", "car", "sky"])
    assert run(model, image, vocabulary, (50, 60))["label_map"].unique().tolist() == [0]


def test_the_background_is_never_removed() -> None:
    model, image = build(**SMALL, logit_scale=400.0, area_thd=1.0), scene(0)
    vocabulary, _ = give_words(model, image, [0, 1, 2, 3], ["tree", "car", "sky", "background"])
    model.protocol = replace(model.protocol, area_thd=0.0)
    assert len(run(model, image, vocabulary, (50, 60))["label_map"].unique()) > 2
    model.protocol = replace(model.protocol, area_thd=1.0)  # no class is larger than all of them
    output = run(model, image, vocabulary, (50, 60))
    assert output["label_map"].unique().tolist() == [3]
    assert not output["sem_seg"][:3].any()


def test_the_published_order_has_the_background_first() -> None:
    text = TextFeatures(torch.eye(4), torch.tensor([0, 1, 1, 2]), ("tree", "background", "sky"))
    features, words, order = put_background_first(text)
    assert (words.tolist(), order.tolist()) == ([1, 2, 0, 3], [1, 0, 2])
    assert features.class_index.tolist() == [0, 0, 1, 2]
    assert features.classes == ("background", "tree", "sky")
    assert torch.equal(features.features, torch.eye(4)[[1, 2, 0, 3]])


def test_a_batch_equals_its_images() -> None:
    model = build(**SMALL, pamr_steps=2)
    images = [scene(0, 84, 115), scene(1, 84, 115), scene(2, 70, 64)]
    vocabulary, _ = give_words(model, scene(0), [0, 1, 2, 3], ["tree", "car", "sky", "background"])
    inputs = [{"image": image, "height": 100, "width": 90, "vocabulary": vocabulary} for image in images]
    for single, output in zip([model([one])[0] for one in inputs], model(inputs), strict=True):
        torch.testing.assert_close(single["sem_seg"], output["sem_seg"], atol=1e-5, rtol=0)
        assert (single["label_map"] == output["label_map"]).float().mean() >= 0.999


def test_outputs_have_the_form_of_other_protocols() -> None:
    model, image = build(**SMALL), scene(0, 84, 115)
    vocabulary, _ = give_words(model, scene(0), [0, 0, 1, 2], ["tree", "sky", "background"])
    output = run(model, image, vocabulary, (50, 60), output_grids=True)
    assert output["scores"].shape == (3, 5, 7)
    torch.testing.assert_close(output["scores"].sum(0), torch.ones(5, 7))
    assert output["pred_masks"].shape == (0, 50, 60)
    assert output["pred_logits"].shape == (0, 3)
    assert output["coarse_masks"].shape[0] == 0


def test_labels_can_be_refined_too() -> None:
    model, image = build(**SMALL), scene(0, 84, 115)
    model.configure(replace(SETTINGS, refinement="pamr", refinement_steps=2))
    vocabulary, _ = give_words(model, scene(0), [0, 1, 2, 3], ["tree", "car", "sky", "background"])
    output = run(model, image, vocabulary, (50, 60))
    assert torch.equal(output["sem_seg"].argmax(0), output["label_map"])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"clustering": "dbscan"}, "clustering: 'dbscan' with TEST.PROTOCOL 'published'.*REGION_VOTE"),
        ({"cls_logit_weight": True}, "cls_logit_weight: True with TEST.PROTOCOL 'published'"),
        ({"method": "cosine_oracle"}, "method: the oracle 'cosine_oracle'"),
    ],
)
def test_settings_that_cannot_be_combined(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        build(**SMALL).configure(replace(SETTINGS, **changes))


def test_a_vote_of_regions_needs_masks() -> None:
    with pytest.raises(InputError, match="region_vote: True without masks"):
        build(**SMALL, region_vote=True)


def test_groups_need_masks() -> None:
    with pytest.raises(InputError, match=r"TEST\.UNSUPERVISED_GROUPS: .*published"):
        tiny_segmenter(settings=SETTINGS, protocol=PublishedProtocol(), output_mask_features=True)


def test_a_threshold_of_the_input_is_refused() -> None:
    with pytest.raises(InputError, match=r"threshold: 0\.5 .*TEST\.PUBLISHED\.PROB_THD"):
        build(**SMALL)([{"image": scene(0), "vocabulary": WORDS, "threshold": 0.5}])


@pytest.mark.parametrize(("height", "width"), [(2, 200), (200, 15)])
def test_an_image_smaller_than_a_patch_is_refused(height: int, width: int) -> None:
    with pytest.raises(InputError, match=r"thin\.png: windows of .* one patch of 16"):
        build(**SMALL)([{"image": scene(0, height, width), "vocabulary": WORDS, "file_name": "thin.png"}])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"window": -1}, "window: -1"),
        ({"stride": 0}, "stride: 0"),
        ({"window": 64, "stride": 65}, "stride: 65.*1 to 64"),
        ({"average": "labels"}, "average: 'labels'"),
        ({"pad_to": -16}, "pad_to: -16"),
        ({"pamr_steps": -1}, "pamr_steps: -1"),
        ({"pamr_dilations": ()}, r"pamr_dilations: \(\)"),
        ({"pamr_dilations": (8, 0)}, r"pamr_dilations: \(8, 0\)"),
        ({"logit_scale": 0.0}, r"logit_scale: 0\.0"),
        ({"prob_thd": 1.5}, r"prob_thd: 1\.5"),
        ({"area_thd": -0.1}, r"area_thd: -0\.1"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        PublishedProtocol(**options)
