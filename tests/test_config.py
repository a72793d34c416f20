"""The configuration: every key reaches the part that it configures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cliptrase_d2.config import add_cliptrase_config, add_keys, load_config
from cliptrase_d2.d2 import CfgNode, build_model, get_cfg
from cliptrase_d2.data.benchmarks import BENCHMARKS
from cliptrase_d2.data.builtin import register_builtin
from cliptrase_d2.data.register import get_dataset_labels, register_dataset
from cliptrase_d2.evaluation import evaluate as evaluation
from cliptrase_d2.evaluation.published import published_numbers
from cliptrase_d2.evaluation.runs import plan_runs
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.segmenter.build import build_segmenter
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.clip.tiny import register_tiny, tiny_clip
from tests.drawn_scenes import CLASSES, write_scenes
from tests.pipeline.tiny_segmenter import tiny_config, tiny_segmenter
from tests.san import test_config as test_config_san
from tests.vision_models.tiny_models import save_sam

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SLIDE = ("TEST.PROTOCOL", "slide")
# Key, value, a function that reads the setting from the model, the expected setting.
OF_THE_MODEL: list[tuple[str, str, Callable[[CLIPtrase], object], object]] = [
    ("MODEL.CLIP.POS_EMBED_RESIZE", "output_size", lambda model: model.tower.position_resize, "output_size"),
    ("MODEL.CLIP.PRECISION", "bf16", lambda model: model.precision, torch.bfloat16),
    ("MODEL.CLIP.TEMPLATES", "vild", lambda model: model.text_encoder.templates, "vild"),
    ("MODEL.CLIP.TEXT_CACHE", "features", lambda model: model.text_encoder.cache_dir, Path("features")),
    ("MODEL.CLIP.TEXT_CACHE", "~/x", lambda model: model.text_encoder.cache_dir, Path.home() / "x"),
    ("MODEL.CLIPTRASE.METHOD", "maskclip", lambda model: model.method.title, "MaskCLIP, values only"),
    ("MODEL.CLIPTRASE.METHOD_OPTIONS.blocks", "2", lambda model: model.method.blocks, 2),
    ("MODEL.CLIPTRASE.CORRELATION_LAYER", "-1", lambda model: model.settings.correlation_layer, -1),
    ("MODEL.CLIPTRASE.CORRELATION", "inner_product", lambda model: model.settings.correlation, "inner_product"),
    ("MODEL.CLIPTRASE.HEADS", "concatenated", lambda model: model.settings.heads, "concatenated"),
    ("MODEL.CLIPTRASE.SUPPRESS_GLOBAL_PATCHES", "False", lambda model: model.settings.suppress_global_patches, False),
    ("MODEL.CLIPTRASE.CLUSTERING", "hdbscan", lambda model: model.settings.clustering, "hdbscan"),
    ("MODEL.CLIPTRASE.EPS", "1.25", lambda model: model.settings.eps, 1.25),
    ("MODEL.CLIPTRASE.MIN_SAMPLES", "9", lambda model: model.settings.min_samples, 9),
    ("MODEL.CLIPTRASE.ADAPTIVE_DBSCAN", "True", lambda model: model.settings.adaptive_dbscan, True),
    ("MODEL.CLIPTRASE.MIN_CLUSTER_SIZE", "4", lambda model: model.settings.min_cluster_size, 4),
    ("MODEL.CLIPTRASE.MASK_UPSAMPLE", "2", lambda model: model.settings.mask_upsample, 2),
    ("MODEL.CLIPTRASE.MEDIAN_FILTER", "3", lambda model: model.settings.median_filter, 3),
    ("MODEL.CLIPTRASE.CLASSIFICATION", "mean", lambda model: model.settings.classification, "mean"),
    ("MODEL.CLIPTRASE.REFINEMENT", "pamr", lambda model: model.settings.refinement, "pamr"),
    ("MODEL.CLIPTRASE.REFINEMENT_STEPS", "3", lambda model: model.settings.refinement_steps, 3),
    ("MODEL.CLIPTRASE.CLS_LOGIT_WEIGHT", "True", lambda model: model.settings.cls_logit_weight, True),
    ("MODEL.CLIPTRASE.CLS_LOGIT_BIAS", "-0.3", lambda model: model.settings.cls_logit_bias, -0.3),
    ("MODEL.CLIPTRASE.MAX_SEM_SEG", "0.5", lambda model: model.max_sem_seg, 0.5),
    (
        "MODEL.CLIPTRASE.VOCABULARY",
        "['a', 'b']",
        lambda model: model.vocabularies.default,
        Vocabulary.parse(["a", "b"]),
    ),
    ("MODEL.VISION.NAME", "test_vit2", lambda model: model.vision_source.name, "test_vit2"),
    ("MODEL.VISION.WEIGHTS", "vit.pth", lambda model: model.vision_source.weights, "vit.pth"),
    ("TEST.WINDOW", "96", lambda model: model.window, 96),
    ("TEST.STRIDE", "48", lambda model: model.stride, 48),
]
# The same, with TEST.PROTOCOL "published".
OF_THE_PUBLISHED_PROTOCOL: list[tuple[str, str, object]] = [
    ("TEST.WINDOW", "40", 40),
    ("TEST.STRIDE", "24", 24),
    ("TEST.PUBLISHED.LOGIT_SCALE", "65.0", 65.0),
    ("TEST.PUBLISHED.PROB_THD", "0.1", 0.1),
    ("TEST.PUBLISHED.AREA_THD", "0.1", 0.1),
    ("TEST.PUBLISHED.AVERAGE", "probabilities", "probabilities"),
    ("TEST.PUBLISHED.RESIZE_TWICE", "True", True),
    ("TEST.PUBLISHED.PAD_TO", "16", 16),
    ("TEST.PUBLISHED.MIN_MAX", "True", True),
    ("TEST.PUBLISHED.PAMR_STEPS", "10", 10),
    ("TEST.PUBLISHED.PAMR_DILATIONS", "(1, 2)", (1, 2)),
    ("TEST.PUBLISHED.REGION_VOTE", "True", True),
]
PUBLISHED = ("TEST.PROTOCOL", "published", "MODEL.CLIPTRASE.CLUSTERING", "none")
# Key, value, a function that reads the setting from the loader and the evaluator, the expected setting.
OF_THE_RUN: list[tuple[str, str, Callable[[Any, Any], object], object]] = [
    ("TEST.PROTOCOL", "center_crop", lambda loader, _: loader.dataset.mapper.mapper.protocol.name, "center_crop"),
    ("INPUT.MIN_SIZE_TEST", "48", lambda loader, _: loader.dataset.mapper.mapper.protocol.short_side, 48),
    ("INPUT.MAX_SIZE_TEST", "80", lambda loader, _: loader.dataset.mapper.mapper.protocol.max_size, 80),
    ("INPUT.MAX_PIXELS", "90", lambda loader, _: loader.dataset.mapper.mapper.max_pixels, 90),
    ("INPUT.BANDS", "[3, 2, 1]", lambda loader, _: loader.dataset.mapper.mapper.rendering.bands, (3, 2, 1)),
    ("INPUT.STRETCH", "[0, 99]", lambda loader, _: loader.dataset.mapper.mapper.rendering.stretch, (0.0, 99.0)),
    ("TEST.PUBLISHED.SQUARE", "True", lambda loader, _: loader.dataset.mapper.mapper.protocol.square, True),
    ("TEST.BATCH_SIZE", "3", lambda loader, _: loader.batch_size, 3),
    ("DATALOADER.NUM_WORKERS", "1", lambda loader, _: loader.num_workers, 1),
    ("TEST.ON_ERROR", "skip", lambda loader, _: loader.on_error, "skip"),
    ("TEST.SAVE_PREDICTIONS", "True", lambda _, evaluator: evaluator.save_predictions, True),
    ("TEST.PREDICTION_VALUES", "files", lambda _, evaluator: evaluator.prediction_values, "files"),
    ("TEST.THRESHOLD", "0.5", lambda _, evaluator: evaluator.threshold, 0.5),
    ("TEST.SAVE_OVERLAYS", "1", lambda _, evaluator: len(evaluator.overlays), 1),
    ("TEST.UNSUPERVISED_GROUPS", "2", lambda _, evaluator: getattr(evaluator, "num_groups", 0), 2),
    ("OUTPUT_DIR", "elsewhere", lambda _, evaluator: evaluator.folder.parts[0], "elsewhere"),
]
# The keys of MODEL.MASKS are tested in tests/mask_sources/test_base.py.
OF_THE_MASKS = {f"MODEL.MASKS.{key}" for key in load_config().MODEL.MASKS}
# Tested by name below.
BY_NAME = {
    "MODEL.CLIPTRASE.METHOD_OPTIONS",
    "TEST.METHODS",
    "TEST.SKIP_IMPOSSIBLE",
    "TEST.PUBLISHED.EXPERTS",
    "TEST.PUBLISHED.SAM_REFINEMENT",
    "MODEL.CLIP.NAME",
    "MODEL.CLIP.PRETRAINED",
    "MODEL.CLIP.SEED",
    "MODEL.CLIPTRASE.BACKGROUND",
}


def list_keys(cfg: CfgNode, prefix: str = "") -> set[str]:
    """Return the dotted names of all keys."""
    keys: set[str] = set()
    for name, value in cfg.items():
        is_section = isinstance(value, CfgNode) and not value.is_new_allowed()  # others are mappings
        keys |= list_keys(value, f"{prefix}{name}.") if is_section else {prefix + name}
    return keys


def test_every_key_is_tested_here() -> None:
    ours = list_keys(load_config()) - list_keys(get_cfg())
    tested = {key for key, *_ in (*OF_THE_MODEL, *OF_THE_PUBLISHED_PROTOCOL, *OF_THE_RUN)} | BY_NAME | OF_THE_MASKS
    tested |= {key for key, *_ in test_config_san.OF_THE_MODEL} | test_config_san.OF_THE_TRAINING
    assert not ours - tested


@pytest.mark.parametrize(("key", "value", "read", "expected"), OF_THE_MODEL, ids=lambda value: value)
def test_key_reaches_the_model(
    tmp_path: Path, key: str, value: str, read: Callable[[CLIPtrase], object], expected: object
) -> None:
    assert read(build_model(tiny_config(tmp_path, *SLIDE))) != expected  # the default differs
    assert read(build_model(tiny_config(tmp_path, *SLIDE, key, value))) == expected


@pytest.mark.parametrize(("key", "value", "expected"), OF_THE_PUBLISHED_PROTOCOL, ids=lambda value: value)
def test_key_reaches_the_published_protocol(tmp_path: Path, key: str, value: str, expected: object) -> None:
    name = key.rpartition(".")[2].lower()
    assert getattr(build_model(tiny_config(tmp_path, *PUBLISHED)).protocol, name) != expected
    clusters = ("MODEL.CLIPTRASE.CLUSTERING", "dbscan") if name == "region_vote" else ()  # it reads masks
    model = build_model(tiny_config(tmp_path, *PUBLISHED, key, value, *clusters))
    assert getattr(model.protocol, name) == expected


def test_experts_reach_the_model(tmp_path: Path) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text("sky: ['the {}']\n")
    model = build_model(tiny_config(tmp_path, *PUBLISHED, "TEST.PUBLISHED.EXPERTS", str(path)))
    assert model.experts.templates == {"sky": ("the {}",)}
    assert build_model(tiny_config(tmp_path, *PUBLISHED)).experts is None
    with pytest.raises(InputError, match=r"missing\.yaml: no such file"):
        build_segmenter(tiny_config(tmp_path, *PUBLISHED, "TEST.PUBLISHED.EXPERTS", str(tmp_path / "missing.yaml")))


def test_the_refinement_by_sam_reaches_the_model(tmp_path: Path) -> None:
    options = (*PUBLISHED, "MODEL.MASKS.SAM", save_sam(tmp_path), "TEST.PUBLISHED.SAM_REFINEMENT", "0.2")
    model = build_model(tiny_config(tmp_path, *options))
    assert model.protocol.sam_refinement == 0.2
    assert model.sam is not None


def test_the_published_protocol_and_the_configuration_have_the_same_defaults() -> None:
    assert PublishedProtocol() == PublishedProtocol.from_config(load_config())


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (("MODEL.CLIPTRASE.CLUSTERING", "dbscan"), "MODEL.CLIPTRASE.CLUSTERING"),
        (("MODEL.CLIPTRASE.CLS_LOGIT_WEIGHT", "True"), "MODEL.CLIPTRASE.CLS_LOGIT_WEIGHT"),
        (("TEST.WINDOW", "-1"), "TEST.WINDOW"),
        (("TEST.STRIDE", "65"), "TEST.STRIDE"),
        (("TEST.PUBLISHED.LOGIT_SCALE", "0.0"), "TEST.PUBLISHED.LOGIT_SCALE"),
        (("TEST.PUBLISHED.PROB_THD", "2.0"), "TEST.PUBLISHED.PROB_THD"),
        (("TEST.PUBLISHED.AREA_THD", "-1.0"), "TEST.PUBLISHED.AREA_THD"),
        (("TEST.PUBLISHED.AVERAGE", "labels"), "TEST.PUBLISHED.AVERAGE"),
        (("TEST.PUBLISHED.PAD_TO", "-1"), "TEST.PUBLISHED.PAD_TO"),
        (("TEST.PUBLISHED.REGION_VOTE", "True"), "TEST.PUBLISHED.REGION_VOTE"),
        (("TEST.PUBLISHED.SAM_REFINEMENT", "2.0"), "TEST.PUBLISHED.SAM_REFINEMENT"),
        (("TEST.PUBLISHED.PAMR_STEPS", "-1"), "TEST.PUBLISHED.PAMR_STEPS"),
        (("TEST.PUBLISHED.PAMR_DILATIONS", "(0,)"), "TEST.PUBLISHED.PAMR_DILATIONS"),
        (("TEST.UNSUPERVISED_GROUPS", "2"), "TEST.UNSUPERVISED_GROUPS"),
        (("MODEL.META_ARCHITECTURE", "CLIPtraseSAN"), "TEST.PROTOCOL"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_error_of_the_published_protocol_names_the_key(tmp_path: Path, options: tuple[str, ...], key: str) -> None:
    with pytest.raises(InputError) as caught:
        build_segmenter(tiny_config(tmp_path, *PUBLISHED, *options))
    assert str(caught.value).startswith(f"{key}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "value", "read", "expected"), OF_THE_RUN, ids=lambda value: value)
def test_key_reaches_the_evaluation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    value: str,
    read: Callable[[Any, Any], object],
    expected: object,
) -> None:
    monkeypatch.chdir(tmp_path)  # the evaluation creates its output folder here
    write_scenes(tmp_path, 1)
    name = register_dataset(f"keys_{tmp_path.name}", tmp_path / "images", CLASSES, tmp_path / "annotations")

    def read_only(
        model: object, loader: object, evaluator: object, bar: object, **_: object
    ) -> Generator[None, None, object]:
        yield
        return read(loader, evaluator)

    monkeypatch.setattr(evaluation, "_evaluate", read_only)
    model = tiny_segmenter()
    assert evaluation.evaluate_dataset(tiny_config(tmp_path), model, name) != expected  # the default differs
    assert evaluation.evaluate_dataset(tiny_config(tmp_path, key, value), model, name) == expected


def test_model_name_selects_the_architecture(tmp_path: Path) -> None:
    vision = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
    name = register_tiny(tmp_path, "tinier-vit", vision_cfg=vision)
    assert build_model(tiny_config(tmp_path, "MODEL.CLIP.NAME", name)).tower.patch_size == 8


def test_pretrained_loads_a_weight_file(tmp_path: Path) -> None:
    weights = tiny_clip(seed=7).state_dict()
    torch.save(weights, tmp_path / "weights.pt")
    model = build_model(tiny_config(tmp_path, "MODEL.CLIP.PRETRAINED", str(tmp_path / "weights.pt")))
    for name, value in model.clip.state_dict().items():
        assert torch.equal(value, weights[name])


def test_seed_determines_the_random_weights(tmp_path: Path) -> None:
    first, again, other = (build_model(tiny_config(tmp_path, "MODEL.CLIP.SEED", seed)) for seed in "001")
    assert torch.equal(first.clip.visual.proj, again.clip.visual.proj)
    assert not torch.equal(first.clip.visual.proj, other.clip.visual.proj)


def test_background_words_add_a_class(tmp_path: Path) -> None:
    words = ("MODEL.CLIPTRASE.VOCABULARY", "['a']", "MODEL.CLIPTRASE.BACKGROUND", "['b', 'c']")
    assert build_model(tiny_config(tmp_path, *words)).vocabularies.default.classes == ("a", "background")


def test_unsupervised_groups_make_the_model_return_mask_features(tmp_path: Path) -> None:
    grouped = build_model(tiny_config(tmp_path, "TEST.UNSUPERVISED_GROUPS", "2"))
    assert grouped.output_mask_features
    assert not build_model(tiny_config(tmp_path)).output_mask_features


@pytest.mark.parametrize(
    ("protocol", "window", "in_tiles"),
    [("whole", None, False), ("slide", 64, False), ("tiles", 64, True), ("published", None, False)],
)
def test_protocol_sets_the_windows(tmp_path: Path, protocol: str, window: int | None, in_tiles: bool) -> None:
    model = build_model(tiny_config(tmp_path, *PUBLISHED, "TEST.PROTOCOL", protocol))
    assert (model.window, model.in_tiles) == (window, in_tiles)


def test_test_methods_replace_the_configured_method(tmp_path: Path) -> None:
    register_dataset("voc", "images", ["sky"])
    names = ("TEST.METHODS", "('clip', 'sclip')", "DATASETS.TEST", "('voc',)")
    runs = plan_runs(tiny_config(tmp_path, *names))
    assert [cfg.MODEL.CLIPTRASE.METHOD for cfg in runs.values()] == ["clip", "sclip"]


def test_impossible_methods_can_be_left_out(tmp_path: Path) -> None:
    register_dataset("voc", "images", ["sky"])
    names = ("TEST.METHODS", "('clip', 'sclip+mean')", "DATASETS.TEST", "('voc',)", "TEST.SKIP_IMPOSSIBLE", "True")
    assert list(plan_runs(tiny_config(tmp_path, *names))) == [("clip", "voc")]


def test_settings_and_configuration_have_the_same_defaults() -> None:
    keys = load_config().MODEL.CLIPTRASE
    for field in fields(CLIPtraseSettings):
        assert getattr(CLIPtraseSettings(), field.name) == keys[field.name.upper()]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.CLIP.POS_EMBED_RESIZE", "nearest"),
        ("MODEL.CLIP.PRECISION", "fp64"),
        ("MODEL.CLIP.TEMPLATES", "none"),
        ("MODEL.CLIPTRASE.METHOD", "kk"),
        ("MODEL.CLIPTRASE.CORRELATION_LAYER", "-4"),
        ("MODEL.CLIPTRASE.CORRELATION", "euclidean"),
        ("MODEL.CLIPTRASE.HEADS", "both"),
        ("MODEL.CLIPTRASE.CLUSTERING", "kmeans"),
        ("MODEL.CLIPTRASE.EPS", "0.0"),
        ("MODEL.CLIPTRASE.MIN_SAMPLES", "0"),
        ("MODEL.CLIPTRASE.MIN_CLUSTER_SIZE", "1"),
        ("MODEL.CLIPTRASE.MASK_UPSAMPLE", "0"),
        ("MODEL.CLIPTRASE.MEDIAN_FILTER", "4"),
        ("MODEL.CLIPTRASE.CLASSIFICATION", "max"),
    ],
)
def test_value_out_of_range_raises_an_error_that_names_the_key(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(InputError) as caught:
        build_segmenter(tiny_config(tmp_path, key, value))
    message = str(caught.value)
    assert message.startswith(key)
    assert value.removesuffix(".0") in message


def test_options_override_a_file_and_a_file_overrides_defaults(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"MODEL": {"CLIPTRASE": {"EPS": 0.5, "MIN_SAMPLES": 4}}}))
    method = load_config(file, ["MODEL.CLIPTRASE.EPS", "0.9"]).MODEL.CLIPTRASE
    assert (method.EPS, method.MIN_SAMPLES, method.MEDIAN_FILTER) == (0.9, 4, 7)


def test_add_cliptrase_config_extends_detectron2s_configuration() -> None:
    cfg = get_cfg()
    add_cliptrase_config(cfg)
    assert cfg.MODEL.META_ARCHITECTURE == "CLIPtrase"
    assert cfg == load_config()


def test_detectron2s_own_merging_reads_every_configuration(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("fvcore", "detectron2", "cliptrase_d2"):
        logging.getLogger(name).propagate = True
    for path in CONFIGS.rglob("*.yaml"):
        cfg = get_cfg()
        add_keys(cfg)
        cfg.merge_from_file(str(path))
        assert cfg == load_config(path), path
    assert not caplog.messages  # Detectron2 warns about a file without VERSION


@pytest.mark.parametrize("variant", ["224", "336", "whole", "slide"])
@pytest.mark.parametrize("key", [key for key in BENCHMARKS if not key.endswith("_paper")])
def test_every_benchmark_has_a_configuration_of_every_protocol(key: str, variant: str) -> None:
    cfg = load_config(CONFIGS / "cliptrase" / f"{key}_{variant}.yaml")
    is_cropped = variant in ("224", "336")
    benchmark = BENCHMARKS.get(f"{key}_paper" if is_cropped else key, BENCHMARKS[key])
    assert (benchmark.name,) == cfg.DATASETS.TEST
    assert (cfg.TEST.PROTOCOL == "center_crop") == is_cropped
    assert (key == "voc20") == cfg.MODEL.CLIPTRASE.CLS_LOGIT_WEIGHT
    published = published_numbers(benchmark.key, cfg.TEST.PROTOCOL, cfg.INPUT.MIN_SIZE_TEST)
    ours = {"mAcc": "mAcc_all_classes"}  # the paper counts a class that never occurs as 0
    expected = [
        ["sem_seg", ours.get(metric, metric), percent, 0.5]
        for metric, percent in published.get("cliptrase", {}).items()
    ]
    assert list(cfg.TEST.EXPECTED_RESULTS) == expected


PUBLISHED_CONFIGS = sorted((CONFIGS / "methods").glob("*/*.yaml"))


@pytest.mark.parametrize("path", PUBLISHED_CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_configuration_of_a_published_number(path: Path) -> None:
    register_builtin()
    cfg = load_config(path)
    PublishedProtocol.from_config(cfg)
    assert cfg.TEST.PROTOCOL == "published"
    assert path.parent.name == cfg.MODEL.CLIPTRASE.METHOD
    assert [entry[:2] for entry in cfg.TEST.EXPECTED_RESULTS] in ([["sem_seg", "mIoU"]], [])
    (name,) = cfg.DATASETS.TEST
    has_background = "background" in get_dataset_labels(name)[0].classes
    assert has_background or (cfg.TEST.PUBLISHED.PROB_THD, cfg.TEST.PUBLISHED.AREA_THD) == (0, 0)
