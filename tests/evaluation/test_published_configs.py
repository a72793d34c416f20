"""The configurations of published numbers: ``configs/methods/<method>/<benchmark>.yaml``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cliptrase_d2.config import load_config
from cliptrase_d2.data.benchmarks import BENCHMARKS, PUBLISHED_WORDS
from cliptrase_d2.evaluation.published import published_numbers
from cliptrase_d2.methods import get_method
from cliptrase_d2.methods.published import read_published_methods
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.vocabulary import Vocabulary
from tests.drawn_scenes import draw_scene

FOLDER = Path(__file__).parents[2] / "configs" / "methods"
METHODS = ("sclip", "clearclip", "naclip", "sc_clip", "sfp", "dih_clip", "resclip", "textregion", "lposs", "proxyclip")
METHODS += ("corrclip", "trident")
# The owner of the words, where it is not SCLIP; "" for those of the benchmark.
OWNERS = {
    "clearclip": dict.fromkeys(("voc20", "voc21", "coco_object"), "clearclip"),
    "sfp": dict.fromkeys(("voc20", "voc21", "cityscapes19"), "sfp"),
    "textregion": {"voc20": "clearclip", "voc21": "proxyclip", "coco_object": "proxyclip"},
    "proxyclip": {"voc20": "clearclip", "voc21": "proxyclip", "coco_object": "proxyclip"},
    "corrclip": dict.fromkeys(BENCHMARKS, "corrclip"),
    "trident": {"voc20": "clearclip", "voc21": "proxyclip", "coco_object": "proxyclip"},
    "lposs": dict.fromkeys(("voc20", "voc21", "pc59", "pc60", "coco_object"), "lposs")
    | dict.fromkeys(("coco_stuff171", "ade150", "cityscapes19"), ""),
}
WITHOUT_THRESHOLD = ("lposs",)  # its values have no common scale
OF_GEM = sorted(FOLDER.glob("gem/*.yaml"))  # the settings of its published numbers are not public
CONFIGS = sorted({*FOLDER.glob("*/*.yaml")} - {*OF_GEM})


def test_every_method_has_every_benchmark() -> None:
    benchmarks = {row.key.removesuffix("_sclip") for row in PUBLISHED_WORDS if row.key.endswith("_sclip")}
    assert benchmarks <= BENCHMARKS.keys()
    assert {(path.parent.name, path.stem) for path in CONFIGS} == {(m, key) for m in METHODS for key in benchmarks}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_configuration_is_that_of_the_published_number(path: Path) -> None:
    cfg = load_config(path)
    assert cfg.TEST.PROTOCOL == "published"
    protocol, settings = PublishedProtocol.from_config(cfg), CLIPtraseSettings.from_config(cfg)
    method = get_method(settings.method, settings.method_options)
    protocol.check_combination(method, settings)
    assert settings.method == path.parent.name
    owner = OWNERS.get(settings.method, {}).get(path.stem, "sclip")
    rows = [*PUBLISHED_WORDS, *BENCHMARKS.values()]
    (row,) = (row for row in rows if row.key == "_".join(filter(None, (path.stem, owner))))
    assert (row.name,) == cfg.DATASETS.TEST
    assert (protocol.prob_thd > 0) == (bool(row.background) and settings.method not in WITHOUT_THRESHOLD)
    published = read_published_methods()[settings.method].mean_iou.get(path.stem)
    expected = [("mIoU", published)] if published else []
    assert [(metric, number) for _, metric, number, _ in cfg.TEST.EXPECTED_RESULTS] == expected


def test_the_refinement_of_trident_has_the_published_thresholds() -> None:
    expected = {"voc20": 0.2, "voc21": 0.2, "pc59": 0.15, "pc60": 0.15, "coco_object": 0.25}
    expected |= {"coco_stuff171": 0.05, "ade150": 0.05, "cityscapes19": 0.1}
    paths = FOLDER.glob("trident/*.yaml")
    assert {path.stem: load_config(path).TEST.PUBLISHED.SAM_REFINEMENT for path in paths} == expected


@pytest.mark.parametrize("path", OF_GEM, ids=lambda path: path.stem)
def test_a_configuration_of_gem_has_the_words_of_a_benchmark_without_background(path: Path) -> None:
    cfg, benchmark = load_config(path), BENCHMARKS[path.stem]
    assert (benchmark.name,) == cfg.DATASETS.TEST
    assert not benchmark.background
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.MODEL.CLIP.TEMPLATES) == (448, "simple")
    assert list(cfg.TEST.EXPECTED_RESULTS) == []


def test_the_inference_of_gem() -> None:
    """By its code: a square, cosines upsampled to it, the map of each word scaled to 0 to 1, argmax."""
    model = ("MODEL.CLIP.NAME", "emoji-clip", "MODEL.CLIP.PRETRAINED", "emoji_scenes", "MODEL.CLIP.TEXT_CACHE", "")
    segmenter = Segmenter.from_config(FOLDER / "gem.yaml", (*model, "INPUT.MIN_SIZE_TEST", "115"), device="cpu")
    words, image = ["dog", "cat", "tree", "water"], Image.fromarray(draw_scene(0)[0])
    network, method = segmenter.model, get_method("gem")
    pixels = torch.from_numpy(np.array(image.resize((115, 115), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    patch = network.patch_multiple
    whole = network.tower.normalise(pixels)[:, : 115 // patch * patch, : 115 // patch * patch]
    features = method(network.tower(whole[None], method.needs))
    text = network.text_features(Vocabulary.parse(words)).features
    maps = (features.patches @ text.T).transpose(1, 2).unflatten(2, features.grid)  # [1,R,h,w]
    maps = F.interpolate(maps, (115, 115), mode="bilinear")
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    maps = F.interpolate((maps - low) / (high - low), (image.height, image.width), mode="bilinear")
    expected = maps[0].argmax(0).numpy()
    assert len(np.unique(expected)) > 1
    assert (segmenter(image, words).label_map == expected).mean() > 0.9999


def test_the_numbers_of_cliptrase_are_those_of_table_4() -> None:
    for key, number in read_published_methods()["cliptrase"].mean_iou.items():
        row = f"{key}_paper" if f"{key}_paper" in BENCHMARKS else key
        assert number == published_numbers(row, "center_crop", 336)["cliptrase"]["mIoU"]


def test_a_background_prompt_may_be_a_class_in_published_lists() -> None:
    (row,) = (row for row in PUBLISHED_WORDS if row.key == "coco_object_sclip")
    vocabulary = row.spec(Path()).vocabulary
    owners = [name for name, words in zip(vocabulary.classes, vocabulary.words, strict=True) if "bed" in words]
    assert owners == ["bed", "background"]
