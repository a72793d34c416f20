"""The configurations of published numbers: ``configs/methods/<method>/<benchmark>.yaml``."""

from __future__ import annotations

from pathlib import Path

import pytest

from cliptrase_d2.config import load_config
from cliptrase_d2.data.benchmarks import BENCHMARKS, PUBLISHED_WORDS
from cliptrase_d2.methods import get_method
from cliptrase_d2.methods.published import read_published_methods
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.settings import CLIPtraseSettings

FOLDER = Path(__file__).parents[2] / "configs" / "methods"
METHODS = ("sclip", "clearclip", "naclip", "sc_clip", "sfp", "dih_clip", "resclip")
OWN_WORDS = {"clearclip": {"voc20", "voc21", "coco_object"}, "sfp": {"voc20", "voc21", "cityscapes19"}}
CONFIGS = sorted(FOLDER.glob("*/*.yaml"))


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
    owner = settings.method if path.stem in OWN_WORDS.get(settings.method, ()) else "sclip"
    (row,) = (row for row in PUBLISHED_WORDS if row.key == f"{path.stem}_{owner}")
    assert (row.name,) == cfg.DATASETS.TEST
    assert (protocol.prob_thd > 0) == bool(row.background)
    ((_, metric, expected, _),) = cfg.TEST.EXPECTED_RESULTS
    assert metric == "mIoU"
    assert expected == read_published_methods()[settings.method].mean_iou[path.stem]


def test_a_background_prompt_may_be_a_class_in_published_lists() -> None:
    (row,) = (row for row in PUBLISHED_WORDS if row.key == "coco_object_sclip")
    vocabulary = row.spec(Path()).vocabulary
    owners = [name for name, words in zip(vocabulary.classes, vocabulary.words, strict=True) if "bed" in words]
    assert owners == ["bed", "background"]
