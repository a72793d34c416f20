"""The architecture: Detectron2's dicts in, Detectron2's dicts out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cliptrase_d2.clip.tokens import QKV, DenseFeatures, Needs, TextFeatures
from cliptrase_d2.d2 import build_model
from cliptrase_d2.pipeline.input_vocabulary import InputVocabulary
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.refinement import pamr
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.pipeline import reference
from tests.pipeline.tiny_segmenter import VOCABULARY, scene, telling_words, tiny_config, tiny_segmenter

SIZE = (96, 128)


@pytest.fixture(scope="module")
def model() -> CLIPtrase:
    return tiny_segmenter()


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Check that label maps are equal and numbers differ by rounding only."""
    assert found.keys() == expected.keys()
    assert torch.equal(found["label_map"], expected["label_map"])
    for key in found:
        torch.testing.assert_close(found[key], expected[key], atol=1e-4, rtol=1e-4)


def encode(model: CLIPtrase, image: Tensor) -> tuple[QKV, DenseFeatures]:
    """Return q, k, v of the correlation layer and the dense features of an image."""
    tokens = model.tower(model.tower.normalise(image)[None], Needs(qkv=(model.settings.correlation_layer,)))
    return tokens.qkv(model.settings.correlation_layer), model.method(tokens)


def test_output_has_the_keys_shapes_and_types_of_the_contract(model: CLIPtrase) -> None:
    (output,) = model([{"image": scene()}])
    assert set(output) == {"label_map", "pred_masks", "pred_logits", "sem_seg"}
    masks = len(output["pred_masks"])
    assert masks > 1  # else this file would say little about masks
    assert output["label_map"].shape == SIZE
    assert output["label_map"].dtype == torch.int64
    assert output["label_map"].min() >= 0
    assert output["label_map"].max() < len(VOCABULARY.classes)
    assert output["pred_masks"].shape == (masks, *SIZE)
    assert output["pred_logits"].shape == (masks, len(VOCABULARY.classes))
    assert output["pred_masks"].dtype == output["pred_logits"].dtype == torch.float32
    for value in output.values():
        assert value.isfinite().all()


@pytest.mark.parametrize("clustering", ["dbscan", "hdbscan", "none"])
def test_result_has_the_size_that_is_wanted(clustering: str) -> None:
    model = tiny_segmenter(settings=CLIPtraseSettings(clustering=clustering))
    (output,) = model([{"image": scene(), "height": 75, "width": 51}])
    assert output["label_map"].shape == (75, 51)
    assert output["pred_masks"].shape[1:] == (75, 51)
    assert output["sem_seg"].shape == (len(VOCABULARY.classes), 75, 51)
    assert (len(output["pred_masks"]) == 0) == (clustering == "none")


def test_every_image_of_a_batch_gets_what_it_gets_alone(model: CLIPtrase) -> None:
    batch: list[dict[str, Any]] = [
        {"image": scene(0)},
        {"image": scene(1, 64, 64), "vocabulary": Vocabulary.parse(["cat", "dog"])},
        {"image": scene(2), "vocabulary": Vocabulary.parse([f"thing {index}" for index in range(30)])},
        {"image": scene(3), "height": 33, "width": 200},
    ]
    for found, inputs in zip(model(batch), batch, strict=True):
        assert_equal(found, model([inputs])[0])


def test_no_image_gives_no_output(model: CLIPtrase) -> None:
    assert model([]) == []


def test_an_image_that_is_no_multiple_of_the_patch_is_taken(model: CLIPtrase) -> None:
    (output,) = model([{"image": scene(0, 101, 123)}])
    assert output["label_map"].shape == (101, 123)
    assert len(output["pred_masks"])


def test_an_image_smaller_than_a_patch_is_taken(model: CLIPtrase) -> None:
    (output,) = model([{"image": scene(0, 3, 40)}])
    assert output["label_map"].shape == (3, 40)


@pytest.mark.parametrize("classification", ["vote", "mean"])
@pytest.mark.parametrize("clustering", ["dbscan", "hdbscan", "none"])
@pytest.mark.parametrize("size", [SIZE, (75, 51)])
def test_the_best_score_of_sem_seg_is_the_label_map(
    classification: str, clustering: str, size: tuple[int, int]
) -> None:
    model = tiny_segmenter(settings=CLIPtraseSettings(classification=classification, clustering=clustering))
    for index in range(3):
        (output,) = model([{"image": scene(index), "height": size[0], "width": size[1]}])
        assert torch.equal(output["sem_seg"].argmax(0), output["label_map"])


def test_uint8_and_float_images_are_one(model: CLIPtrase) -> None:
    assert_equal(model([{"image": scene()}])[0], model([{"image": scene().float()}])[0])


def test_hdbscan_names_what_its_clusters_claim() -> None:
    model = tiny_segmenter(settings=CLIPtraseSettings(clustering="hdbscan", min_cluster_size=3))
    (output,) = model([{"image": scene()}])
    assert len(output["pred_masks"]) > 1
    assert len(output["label_map"].unique()) <= len(output["pred_masks"])


def test_without_clusters_the_pixels_stand(model: CLIPtrase) -> None:
    everything_is_noise = tiny_segmenter(settings=CLIPtraseSettings(eps=1e-6))
    no_clustering = tiny_segmenter(settings=CLIPtraseSettings(clustering="none"))
    assert_equal(everything_is_noise([{"image": scene()}])[0], no_clustering([{"image": scene()}])[0])


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "class-token"])
def test_the_label_map_is_that_of_the_plain_loops(weighted: bool) -> None:
    model = tiny_segmenter(settings=CLIPtraseSettings(eps=0.5, min_samples=3, cls_logit_weight=weighted))
    encoded = encode(model, scene())
    text, scale = telling_words(model, scene()), float(model.clip.logit_scale.exp())
    model.text_encoder = lambda _: text
    expected = reference.segment(*encoded, text, scale, (75, 51), eps=0.5, min_samples=3, cls_logit_weight=weighted)
    (output,) = model([{"image": scene(), "height": 75, "width": 51}])
    assert len(expected.unique()) > 1
    assert (output["label_map"] == expected).float().mean() >= 0.999


def test_a_window_over_the_whole_image_changes_nothing(model: CLIPtrase) -> None:
    windowed = tiny_segmenter(window=128, stride=64)
    assert_equal(windowed([{"image": scene()}])[0], model([{"image": scene()}])[0])


def test_windows_give_what_plain_loops_stitch() -> None:
    model = tiny_segmenter(settings=CLIPtraseSettings(eps=0.5, min_samples=3), window=64, stride=32)
    image = model.tower.normalise(scene())
    corners = [(row, column) for row in (0, 2) for column in (0, 2, 4)]  # 4x4 patches every 2 on a grid of 6x8
    views = [image[None, :, 16 * row : 16 * row + 64, 16 * col : 16 * col + 64] for row, col in corners]
    alone = tiny_segmenter(settings=model.settings)
    parts = [alone.encode_image(view) for view in views]
    patches = reference.stitch([part.features.patches[0].view(4, 4, -1) for part in parts], corners, (6, 8))
    total, count = torch.zeros(48, 48, dtype=torch.float64), torch.zeros(48, 48)
    for part, (row, column) in zip(parts, corners, strict=True):
        inside = [(row + y) * 8 + column + x for y in range(4) for x in range(4)]
        for first, correlations in zip(inside, part.correlation[0], strict=True):
            total[first, inside] += correlations
            count[first, inside] += 1
    rows, text = (total / count.clamp_min(1)).float(), telling_words(model, scene())
    model.text_encoder = lambda _: text
    expected = reference.label_pixels(
        rows,
        reference.dbscan(rows, 0.5, 3),
        patches.flatten(0, 1).float(),
        None,
        text,
        float(model.clip.logit_scale.exp()),
        (6, 8),
        SIZE,
    )
    (output,) = model([{"image": scene()}])
    assert len(expected.unique()) > 1
    assert (output["label_map"] == expected).float().mean() >= 0.999


def test_windows_of_a_batch_do_not_mix() -> None:
    model = tiny_segmenter(window=64, stride=32)
    batch = [{"image": scene(index)} for index in range(3)]
    for found, inputs in zip(model(batch), batch, strict=True):
        assert_equal(found, model([inputs])[0])


@pytest.mark.parametrize(
    ("key", "window", "stride"),
    [("window", 72, 32), ("window", 0, 16), ("stride", 64, 24), ("stride", 64, -16)],
)
def test_a_window_that_does_not_fit_the_patches_is_refused(key: str, window: int, stride: int) -> None:
    with pytest.raises(InputError, match=rf"{key}: -?\d+ pixels.* \d+"):
        tiny_segmenter(window=window, stride=stride)


def test_a_stride_that_leaves_gaps_is_refused() -> None:
    with pytest.raises(InputError, match=r"stride: 80 pixels.*64"):
        tiny_segmenter(window=64, stride=80)
    tiny_segmenter(window=64, stride=64)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match=r"precision.*int8"):
        tiny_segmenter(precision="int8")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_agrees_on_most_pixels(precision: str) -> None:
    model, half = tiny_segmenter(), tiny_segmenter(precision=precision)
    text = telling_words(model, scene())
    model.text_encoder = half.text_encoder = lambda _: text
    (expected,), (found,) = (each([{"image": scene()}]) for each in (model, half))
    assert len(expected["label_map"].unique()) > 1
    assert (found["label_map"] == expected["label_map"]).float().mean() > 0.9
    assert found["pred_masks"].dtype == torch.float32


def test_an_input_without_any_vocabulary_is_refused() -> None:
    model = tiny_segmenter(vocabularies=InputVocabulary())
    with pytest.raises(InputError, match="vocabulary"):
        model([{"image": scene()}])
    assert model([{"image": scene(), "vocabulary": VOCABULARY}])


def test_a_list_of_names_is_a_vocabulary(model: CLIPtrase) -> None:
    names = ["cat;kitten", "dog"]
    listed, parsed = ({"image": scene(), "vocabulary": words} for words in (names, Vocabulary.parse(names)))
    assert_equal(model([listed])[0], model([parsed])[0])


def test_class_scores_are_left_out_above_the_limit() -> None:
    size = len(VOCABULARY.classes) * SIZE[0] * SIZE[1] * 4 / 2**30  # gibibytes
    inputs = {"image": scene()}
    assert "sem_seg" in tiny_segmenter(max_sem_seg=size)([inputs])[0]
    model = tiny_segmenter(max_sem_seg=0.99 * size)
    (output,) = model([inputs])
    assert output.get("sem_seg") is None
    with pytest.raises(InputError, match=r"sem_seg.*MAX_SEM_SEG"):
        output["sem_seg"]
    with pytest.raises(KeyError, match="instances"):
        output["instances"]
    assert "sem_seg" in model([{**inputs, "output_sem_seg": True}])[0]


def test_an_input_can_leave_out_class_scores(model: CLIPtrase) -> None:
    full, short = ({"image": scene(), "output_sem_seg": wanted} for wanted in (True, False))
    (expected,), (output,) = model([full]), model([short])
    assert expected.keys() - output.keys() == {"sem_seg"}
    assert torch.equal(expected["label_map"], output["label_map"])


def test_loaded_weights_encode_the_words_again() -> None:
    model, other = tiny_segmenter(), tiny_segmenter()
    before = model.text_features(VOCABULARY).features
    state = {name: value + 0.1 * value.abs().mean() for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    other.load_state_dict(state)
    assert torch.equal(model.text_features(VOCABULARY).features, other.text_features(VOCABULARY).features)
    assert not torch.equal(model.text_features(VOCABULARY).features, before)


def test_a_vocabulary_is_encoded_once() -> None:
    calls: list[Vocabulary] = []
    model = tiny_segmenter()
    encode = model.text_encoder
    model.text_encoder = lambda vocabulary: (calls.append(vocabulary), encode(vocabulary))[1]
    equal = Vocabulary.parse(["sky;blue", "grass", "brick wall", "circle", "star"], ["wall", "floor"])
    model([{"image": scene()}, {"image": scene(1), "vocabulary": equal}])
    model([{"image": scene()}])
    assert calls == [VOCABULARY]


def test_a_model_of_another_method_is_one_that_was_built_so() -> None:
    settings = CLIPtraseSettings(method="maskclip", clustering="none")
    changed, built = tiny_segmenter(), tiny_segmenter(settings=settings)
    changed.configure(settings)
    assert_equal(changed([{"image": scene()}])[0], built([{"image": scene()}])[0])
    with pytest.raises(InputError, match=r"method.*'kk'"):
        changed.configure(replace(settings, method="kk"))


def test_nothing_asks_for_a_gradient(model: CLIPtrase) -> None:
    (output,) = model([{"image": scene()}])
    assert not any(value.requires_grad for value in output.values())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())


def test_the_whole_model_moves_to_another_device() -> None:
    model = tiny_segmenter().to("meta")
    assert model.device.type == "meta"
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives(model: CLIPtrase) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    images = [{"image": scene(index)} for index in range(4)]
    for found, expected in zip(tiny_segmenter().cuda()(images), model(images), strict=True):
        assert (found["label_map"].cpu() == expected["label_map"]).float().mean() > 0.99


@pytest.mark.parametrize("names", ["['cat', 'cat']", "['cat', '']"])
def test_a_faulty_vocabulary_of_the_configuration_is_refused(tmp_path: Path, names: str) -> None:
    with pytest.raises(InputError, match=r"MODEL\.CLIPTRASE\.VOCABULARY"):
        build_model(tiny_config(tmp_path, "MODEL.CLIPTRASE.VOCABULARY", names))


def test_bgr_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"INPUT\.FORMAT: 'BGR'"):
        build_model(tiny_config(tmp_path, "INPUT.FORMAT", "BGR"))


def test_two_models_of_one_seed_are_one(tmp_path: Path) -> None:
    build = partial(tiny_config, tmp_path)
    inputs = [{"image": scene(), "vocabulary": VOCABULARY}]
    first, second = (build_model(build()).eval() for _ in range(2))
    assert_equal(first(inputs)[0], second(inputs)[0])
    other = build_model(build("MODEL.CLIP.SEED", "1")).eval()
    assert not torch.equal(other.clip.visual.proj, first.clip.visual.proj)


def test_class_token_weighting_is_a_setting(model: CLIPtrase) -> None:
    weighted = tiny_segmenter(settings=replace(model.settings, cls_logit_weight=True))
    inputs = [{"image": scene(index)} for index in range(4)]
    pairs = zip(weighted(inputs), model(inputs), strict=True)
    assert any(not torch.equal(a["pred_logits"], b["pred_logits"]) for a, b in pairs)


CLUSTERINGS = pytest.mark.parametrize("clustering", ["dbscan", "none"])


def build_refined(refinement: str, clustering: str = "dbscan", **arguments: Any) -> CLIPtrase:
    """Build a model whose words separate the parts of the scenes."""
    settings = CLIPtraseSettings(eps=0.5, clustering=clustering, refinement=refinement, refinement_steps=3)
    model = tiny_segmenter(settings=settings, **arguments)
    text = telling_words(model, scene())
    model.text_encoder = lambda _: text
    return model


@CLUSTERINGS
def test_a_refinement_changes_only_the_label_map(clustering: str) -> None:
    plain, refined = (build_refined(name, clustering)([{"image": scene()}])[0] for name in ("none", "pamr"))
    assert not torch.equal(plain["label_map"], refined["label_map"])
    assert torch.equal(refined["label_map"], pamr(plain["label_map"], scene(), 3).label_map)
    for key in ("pred_masks", "pred_logits"):
        assert torch.equal(plain[key], refined[key])


@CLUSTERINGS
@pytest.mark.parametrize("size", [(96, 128), (75, 51), (130, 200)])
def test_the_best_refined_share_is_the_label_map(clustering: str, size: tuple[int, int]) -> None:
    model = build_refined("pamr", clustering)
    (output,) = model([{"image": scene(), "height": size[0], "width": size[1]}])
    assert output["sem_seg"].shape == (4, *size)
    assert torch.equal(output["sem_seg"].argmax(0), output["label_map"])
    torch.testing.assert_close(output["sem_seg"].sum(0), torch.ones(size))


def test_refined_images_of_a_batch_do_not_mix() -> None:
    model = build_refined("pamr")
    batch = [{"image": scene(0)}, {"image": scene(1), "height": 40, "width": 71}, {"image": scene(2)}]
    for output, inputs in zip(model(batch), batch, strict=True):
        assert torch.equal(output["label_map"], model([inputs])[0]["label_map"])


def test_scores_are_the_softmax_over_the_classes_of_the_best_words() -> None:
    model = tiny_segmenter()
    words, image = telling_words(model, scene()), scene()
    text = TextFeatures(words.features, torch.tensor([0, 0, 1, 2]), ("north", "upper", "lower"))
    model.text_encoder = lambda _: text
    (output,) = model([{"image": image, "output_grids": True}])
    logits = model.segment(model.preprocess([{"image": image}]), text, [(96, 128)]).logits[0]
    best = torch.stack([logits[:2].amax(0), logits[2], logits[3]])
    torch.testing.assert_close(output["scores"], best.softmax(0))
    size = (96, 128)
    soft = torch.nn.functional.interpolate(output["coarse_masks"][None], size, mode="bilinear")[0]
    assert torch.equal(soft, output["pred_masks"])


def test_a_threshold_changes_no_other_label() -> None:
    model = tiny_segmenter()
    text = telling_words(model, scene())
    model.text_encoder = lambda _: text
    plain, marked = (model([{"image": scene(), "threshold": value}])[0] for value in (0.0, 0.6))
    unknown = marked["label_map"] == -1
    assert 0 < unknown.float().mean() < 1
    assert torch.equal(marked["label_map"][~unknown], plain["label_map"][~unknown])
    assert torch.equal(marked["sem_seg"], plain["sem_seg"])
    with pytest.raises(InputError, match=r"threshold: 1\.5"):
        model([{"image": scene(), "threshold": 1.5}])
