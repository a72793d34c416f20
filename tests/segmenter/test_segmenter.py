"""Segmenter: single calls, configurations, and the examples in docstrings."""

from __future__ import annotations

import doctest
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.data.rasters import open_raster
from cliptrase_d2.data.rendering import Rendering
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.segmenter import result as result_module
from cliptrase_d2.segmenter import segmenter as segmenter_module
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.clip.tiny import register_tiny
from tests.command_line import ROOT
from tests.pipeline.tiny_segmenter import tiny_segmenter

CLASSES = ["sky", "tree;bush", "road"]
PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> CLIPtrase:
    return tiny_segmenter()


@pytest.fixture(scope="module")
def segmenter(model: CLIPtrase) -> Segmenter:
    return Segmenter(model=model, protocol="whole", short_side=64, max_size=256)


@pytest.mark.parametrize("module", [segmenter_module, result_module], ids=["segmenter", "result"])
def test_docstring_examples(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_the_result_describes_the_image(segmenter: Segmenter) -> None:
    result = segmenter(PIXELS, CLASSES)
    np.testing.assert_array_equal(result.image, PIXELS)
    assert result.label_map.shape == (50, 70)
    assert result.label_map.dtype == np.int64
    assert result.classes == ("sky", "tree", "road")
    assert result.masks.shape == (len(result.masks), 50, 70)
    assert result.masks.dtype == result.mask_logits.dtype == np.float32
    assert result.mask_logits.shape == (len(result.masks), 3)
    assert sum(result.shares().values()) == pytest.approx(1)
    assert repr(segmenter) == "Segmenter(CLIPtrase, whole at 64 pixels, cpu)"
    assert segmenter(PIXELS, CLASSES, background=["wall", "floor"]).classes[3:] == ("background",)


def test_from_pretrained_selects_the_model_and_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    selected: list[list[str]] = []
    monkeypatch.setattr(Segmenter, "from_config", lambda path=None, opts=(): selected.append([*opts]))
    Segmenter.from_pretrained()
    Segmenter.from_pretrained("ViT-H-14", opts=["SEED", "3"])
    Segmenter.from_pretrained("ViT-L/14", "weights.pt")
    name, weights = "MODEL.CLIP.NAME", "MODEL.CLIP.PRETRAINED"
    assert selected == [
        [name, "ViT-B-16", weights, "openai"],
        [name, "ViT-H-14", weights, "laion2b_s32b_b79k", "SEED", "3"],
        [name, "ViT-L/14", weights, "weights.pt"],
    ]


@pytest.mark.parametrize(
    ("name", "fix"), [("vit-b-16", "Did you mean 'ViT-B-16'"), ("emojis", "'emoji'"), ("zzz", "file of weights")]
)
def test_from_pretrained_reports_an_unknown_model(name: str, fix: str) -> None:
    with pytest.raises(InputError, match=rf"^name: '{name}' has no weights in open_clip") as error:
        Segmenter.from_pretrained(name)
    assert fix in str(error.value)


def test_from_pretrained_equals_the_configuration_of_the_model() -> None:
    image = ROOT / "datasets" / "emoji_scenes" / "images" / "seen_010.webp"
    one = Segmenter.from_pretrained("emoji", opts=["MODEL.CLIPTRASE.ADAPTIVE_DBSCAN", "False"])
    two = Segmenter.from_config("emoji_scenes_whole")
    words = ["soccer ball", "red book", "water"]
    np.testing.assert_array_equal(one(image, words).label_map, two(image, words).label_map)


@pytest.mark.parametrize("protocol", ["whole", "center_crop"])
def test_the_result_is_the_one_that_evaluations_score(model: CLIPtrase, tmp_path: Path, protocol: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    mapper = EvaluationMapper(
        protocol=protocol,
        short_side=64,
        max_size=256,
        patch_size=16,
        vocabulary=Vocabulary.parse(CLASSES),
        label_rule=LabelRule(3),
    )
    scored = model([mapper({"file_name": str(tmp_path / "a.png")})])[0]["label_map"]
    result = Segmenter(model=model, protocol=protocol, short_side=64, max_size=256)(PIXELS, CLASSES)
    assert torch.equal(torch.from_numpy(result.label_map), scored)


def test_center_crop_returns_the_crop(model: CLIPtrase) -> None:
    result = Segmenter(model=model, protocol="center_crop", short_side=32, max_size=64)(PIXELS, CLASSES)
    # 50x70 pixels become 32x44, of which columns 6 to 37 are the crop.
    expected = Image.fromarray(PIXELS).resize((44, 32), Image.Resampling.BICUBIC).crop((6, 0, 38, 32))
    np.testing.assert_array_equal(result.image, np.array(expected))
    assert result.label_map.shape == (32, 32)


def test_tiles_return_labels_but_no_masks() -> None:
    model = tiny_segmenter(window=32, stride=16, in_tiles=True)
    segmenter = Segmenter(model=model, protocol="tiles", short_side=0, max_size=64)
    result = segmenter(PIXELS, CLASSES)
    assert result.label_map.shape == (50, 70)
    assert (result.masks.shape, result.mask_logits.shape) == ((0, 50, 70), (0, 3))
    assert sum(segment["area"] for segment in result.to_coco()) == 50 * 70
    assert repr(segmenter) == "Segmenter(CLIPtrase, tiles at the size of the image, cpu)"


def test_scores_and_thresholds(segmenter: Segmenter) -> None:
    plain = segmenter(PIXELS, CLASSES)
    assert plain.scores.shape == (3, 4, 6)  # 64x96 pixels in patches of 16
    np.testing.assert_allclose(plain.scores.sum(0), 1, rtol=1e-5)
    threshold = float(np.median(plain.score_map()))
    result = segmenter(PIXELS, CLASSES, threshold=threshold)
    np.testing.assert_array_equal(result.label_map, plain.with_threshold(threshold).label_map)
    assert 0.3 < (result.label_map == -1).mean() < 0.7
    for other in (
        segmenter.batch([PIXELS], CLASSES, threshold=threshold)[0],
        next(segmenter.stream([PIXELS], CLASSES, threshold=threshold)),
    ):
        np.testing.assert_array_equal(other.label_map, result.label_map)
    for call in (segmenter, segmenter.batch, segmenter.stream):
        with pytest.raises(InputError, match=r"threshold: -0\.1"):
            call([PIXELS] if call != segmenter else PIXELS, CLASSES, threshold=-0.1)


def test_results_do_not_share_the_pixels_of_the_caller(segmenter: Segmenter) -> None:
    frame = PIXELS.copy()
    result = segmenter(frame, CLASSES)
    frame[:] = 0
    np.testing.assert_array_equal(result.image, PIXELS)


def test_invalid_arguments_are_named(segmenter: Segmenter) -> None:
    with pytest.raises(InputError, match=r"^missing\.jpg"):
        segmenter("missing.jpg", CLASSES)
    with pytest.raises(InputError, match=r"^classes"):
        segmenter(PIXELS, [])


def random_weights(name: str) -> list[str]:
    return [
        *("MODEL.CLIP.NAME", name, "MODEL.CLIP.PRETRAINED", ""),
        *("MODEL.CLIP.TEMPLATES", "simple", "MODEL.CLIP.TEXT_CACHE", ""),
    ]


def test_the_default_configuration_takes_images_of_any_size() -> None:
    # Detectron2's default device, CUDA, is replaced by the CPU on a machine without CUDA.
    segmenter = Segmenter.from_config(opts=random_weights("ViT-B-32"))
    assert segmenter.protocol.name == "whole"
    assert (segmenter.protocol.short_side, segmenter.protocol.patch_size) == (336, 32)
    assert not segmenter.model.training
    assert segmenter(PIXELS, CLASSES).label_map.shape == (50, 70)


def test_from_config_reads_a_file_and_full_weights(tmp_path: Path) -> None:
    config, opts = tmp_path / "a.yaml", random_weights(register_tiny(tmp_path))
    config.write_text("INPUT: {MIN_SIZE_TEST: 64}\nTEST: {PROTOCOL: center_crop}\n")
    weights = Segmenter.from_config(config, [*opts, "MODEL.CLIP.SEED", "7"]).model.state_dict()
    torch.save({"model": weights}, tmp_path / "weights.pth")
    loaded = Segmenter.from_config(config, [*opts, "MODEL.WEIGHTS", str(tmp_path / "weights.pth")])
    assert loaded.protocol.name == "center_crop"
    assert all(torch.equal(tensor.cpu(), weights[name].cpu()) for name, tensor in loaded.model.state_dict().items())


@pytest.mark.parametrize(
    ("key", "value"), [("MODEL.META_ARCHITECTURE", "Another"), ("TEST.PROTOCOL", "half"), ("INPUT.MIN_SIZE_TEST", "3")]
)
def test_invalid_settings_name_their_key(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(InputError, match=rf"^{key}: .*{value}"):
        Segmenter.from_config(opts=[*random_weights(register_tiny(tmp_path)), key, value])


def test_the_published_protocol_labels_pixels_without_masks() -> None:
    opts = {"MODEL.CLIPTRASE.CLUSTERING": "none", "TEST.WINDOW": 64, "TEST.STRIDE": 32}
    segmenter = Segmenter.from_config("emoji_scenes_whole", opts, device="cpu", method="sclip", protocol="published")
    assert repr(segmenter) == "Segmenter(CLIPtrase, published at 112 pixels, cpu)"
    single, both = segmenter(PIXELS, CLASSES), segmenter.batch([PIXELS, PIXELS[:40]], CLASSES)
    assert (single.label_map.shape, single.masks.shape) == ((50, 70), (0, 50, 70))
    np.testing.assert_allclose(single.scores.sum(0), 1, atol=1e-5)
    assert np.array_equal(both[0].label_map, single.label_map)
    assert both[1].label_map.shape == (40, 70)
    with pytest.raises(InputError, match=r"threshold: 0\.5 .*TEST\.PUBLISHED\.PROB_THD"):
        segmenter(PIXELS, CLASSES, threshold=0.5)


def test_options_are_a_dict_a_list_or_arguments() -> None:
    expected = "Segmenter(CLIPtrase, slide at 224 pixels, cpu)"
    size = {"INPUT.MIN_SIZE_TEST": 224, "TEST.WINDOW": 112, "TEST.STRIDE": 56}
    listed = [str(word) for pair in size.items() for word in pair]
    for opts in (size, listed):
        segmenter = Segmenter.from_pretrained("emoji", opts=opts, device="cpu", method="maskclip", protocol="slide")
        assert repr(segmenter) == expected
    assert repr(Segmenter.from_config("emoji_scenes", {**size, "TEST.PROTOCOL": "slide"}, protocol="whole")) == expected
    with pytest.raises(InputError, match=r"MODEL\.CLIPTRASE\.METHOD"):
        Segmenter.from_pretrained("emoji", method="kk")
    with pytest.raises(InputError, match=r"MODEL\.NAME"):
        Segmenter.from_pretrained("emoji", opts={"MODEL.NAME": "x"})


def test_options_of_a_method_are_an_argument() -> None:
    options = {"deviation": 2.5, "attention": "nonly", "residual": True}
    segmenter = Segmenter.from_pretrained("emoji", method="naclip", method_options=options)
    method = segmenter.model.method
    assert (method.deviation, method.attention, method.residual, method.mlp) == (2.5, "nonly", True, False)
    with pytest.raises(InputError, match=r"^MODEL\.CLIPTRASE\.METHOD_OPTIONS: .*'sigma'.*deviation"):
        Segmenter.from_pretrained("emoji", method="naclip", method_options={"sigma": 3})


def test_batches_of_tensors() -> None:
    segmenter = Segmenter.from_pretrained("emoji")
    tensor = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))  # [N,3,H,W]
    results = segmenter.batch(tensor, ["sky", "grass"])
    assert len(results) == 2
    for one, result in zip(tensor, results, strict=True):
        np.testing.assert_array_equal(result.image, (one * 255).round().byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize("protocol", ["whole", "center_crop"])
def test_nodata_is_unknown(model: CLIPtrase, protocol: str) -> None:
    values = PIXELS.astype(np.float32)
    values[:20] = np.nan
    segmenter = Segmenter(model=model, protocol=protocol, short_side=64, max_size=256)
    segmenter.rendering = Rendering(stretch=(0, 255))
    result = segmenter(values, CLASSES)
    cut = len(result.label_map) * 20 // 50
    assert (result.label_map[: cut - 1] == -1).all()
    assert (result.label_map[cut + 1 :] >= 0).all()
    segmenter.rendering = Rendering((3,), (0, 255))
    bands = np.concatenate([values * 0, PIXELS[..., :1], values], 2)[..., [0, 1, 3]]
    np.testing.assert_array_equal(segmenter(bands, CLASSES).image[..., 0], segmenter(bands, CLASSES).image[..., 1])


def test_narrow_ranges_are_reported_once(
    segmenter: Segmenter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 4).save(tmp_path / "a.png")
    with caplog.at_level("WARNING"):
        segmenter.batch([tmp_path / "a.png"] * 2, CLASSES)
    assert caplog.text.count("a.png: 16-bit values 0..1020 of 0..65535") == 1


def test_a_raster_is_segmented_in_rows(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    values = np.random.default_rng(0).integers(1, 3000, (5, 70, 90)).astype(np.float32)
    values[:, 30:40, 20:50] = np.nan
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=90, height=70, count=5, dtype="float32"
    ) as dataset:
        dataset.write(values)
    model = tiny_segmenter(window=32, stride=16, in_tiles=True)
    rendering = Rendering((5, 3, 1), ("1%", "99%"))
    segmenter = Segmenter(model=model, protocol="tiles", short_side=0, max_size=64, rendering=rendering)
    whole = segmenter(tmp_path / "a.tif", CLASSES)
    with open_raster(tmp_path / "a.tif", rendering) as raster:
        parts = list(segmenter.segment_rows(raster, CLASSES))
        assert [part.first for part in parts] == [0, *np.cumsum([len(part.labels) for part in parts])[:-1]]
        np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), whole.label_map)
        np.testing.assert_array_equal(np.concatenate([part.pixels for part in parts]), whole.image)
        assert (whole.label_map[30:40, 20:50] == -1).all()
        resized = Segmenter(model=model, protocol="tiles", short_side=64, max_size=64)
        with pytest.raises(InputError, match=r"protocol: .*MIN_SIZE_TEST 0"):
            next(resized.segment_rows(raster, CLASSES))
