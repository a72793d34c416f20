"""Compositions: their configurations, their results with one model, and the reasons why some are impossible."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from cliptrase_d2.clip.tokens import Needs
from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import CfgNode, DatasetCatalog, DetectionCheckpointer
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.evaluation.compositions import configure, find_composition, find_impossible, read_composition
from cliptrase_d2.evaluation.provenance import config_hash
from cliptrase_d2.evaluation.run_page import write_run_page
from cliptrase_d2.evaluation.runs import evaluate_runs, plan_runs
from cliptrase_d2.evaluation.summary import Run
from cliptrase_d2.mask_sources import MASK_SOURCES, MaskInputs, MaskSource, register_mask_source
from cliptrase_d2.mask_sources import backbone as backbone_module
from cliptrase_d2.mask_sources.hard_masks import make_proposals
from cliptrase_d2.methods import DENSE_METHODS, IMAGE_METHODS, ImageMethod, LastBlockAttention, register_method
from cliptrase_d2.pipeline import model as model_module
from cliptrase_d2.pipeline import parts
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.segmenter.build import build_segmenter, prepare_segmenter
from cliptrase_d2.utils.errors import InputError
from tests.pipeline.tiny_segmenter import tiny_config

SCENES = Path(__file__).parents[2] / "datasets/emoji_scenes/images"
# Seeded random weights; the masks of this ViT are meaningless, but not empty.
BACKBONE = ("MODEL.MASKS.BACKBONE", "test_vit", "MODEL.MASKS.BACKBONE_WEIGHTS", "")
METHOD, CLUSTERING, RULE = (f"MODEL.CLIPTRASE.{key}" for key in ("METHOD", "CLUSTERING", "CLASSIFICATION"))
REFINEMENT, SOURCE, PROTOCOL = "MODEL.CLIPTRASE.REFINEMENT", "MODEL.MASKS.SOURCE", "TEST.PROTOCOL"
COMPOSITIONS: dict[str, list[str]] = {
    "naclip": [METHOD, "naclip", CLUSTERING, "none"],
    "sclip+clusters@slide": [METHOD, "sclip", SOURCE, "scr", PROTOCOL, "slide"],
    "maskclip+backbone+mean+pamr": [METHOD, "maskclip", SOURCE, "backbone", RULE, "mean", REFINEMENT, "pamr"],
    "cliptrase_scr+clusters@tiles": [METHOD, "cliptrase", SOURCE, "scr", PROTOCOL, "tiles"],
    "clip+pamr@published": [METHOD, "clip", CLUSTERING, "none", REFINEMENT, "pamr", PROTOCOL, "published"],
    "values+halves+vote@slide": [METHOD, "values", SOURCE, "halves", RULE, "vote", PROTOCOL, "slide"],
    "sfp+backbone@center_crop": [METHOD, "sfp", SOURCE, "backbone", PROTOCOL, "center_crop"],
    "resclip+none@published": [METHOD, "resclip", CLUSTERING, "none", REFINEMENT, "none", PROTOCOL, "published"],
    "cliptrase+mean": [METHOD, "cliptrase", RULE, "mean"],
    "regional+backbone": [METHOD, "regional", SOURCE, "backbone"],
}


class Values(LastBlockAttention):
    """A user's method: every token keeps twice its own value."""

    title = "Values, twice"
    source = "https://example.org/values"

    def attend(self, x: Any) -> Tensor:
        return 2 * x.qkv()[2]


class Regional(Values):
    """A user's method that reads the masks as regions."""

    needs = Needs(regions=True)

    def attend(self, x: Any) -> Tensor:
        return x.qkv()[2] * (1 + x.patch_regions().float().mean(1))[:, None, None, None]


class Whole(ImageMethod):
    """A user's method that labels whole images."""

    title = "whole"
    source = "https://example.org/whole"

    def __call__(self, x: Any) -> Any:
        raise AssertionError("it is not run")


class Halves(MaskSource):
    """A user's source: the left half and the right half."""

    title = "halves of the image"
    needs_correlation = False

    def propose(self, inputs: MaskInputs) -> list[MaskProposals]:
        halves = [(torch.arange(width) >= width // 2).long().expand(height, width) for height, width in inputs.sizes]
        return [make_proposals(half, 2, (8, 8)) for half in halves]


@pytest.fixture(autouse=True)
def _user_parts() -> Iterator[None]:
    with patch.dict(DENSE_METHODS), patch.dict(IMAGE_METHODS), patch.dict(MASK_SOURCES):
        register_method("values")(Values)
        register_method("regional")(Regional)
        register_method("whole")(Whole)
        register_mask_source("halves")(Halves)
        yield


@pytest.fixture
def two_scenes(tmp_path: Path) -> str:
    """Register two of the emoji scenes."""
    (tmp_path / "images").mkdir()
    for scene in ("seen_010.webp", "seen_033.webp"):
        (tmp_path / "images" / scene).write_bytes((SCENES / scene).read_bytes())
    classes = ["soccer ball", "red book", "water", "bee", "koala", "blue circle", "night sky", "gravel", "wood"]
    return register_dataset(f"two_scenes_{tmp_path.name}", tmp_path / "images", classes)


def emoji_config(dataset: str, folder: Path, *options: str) -> CfgNode:
    """Return the configuration of the emoji scenes for two of them, without methods."""
    changes = ["TEST.METHODS", "()", "TEST.EXPECTED_RESULTS", "[]", "DATASETS.TEST", f"('{dataset}',)"]
    windows = ["TEST.WINDOW", "64", "TEST.STRIDE", "32", "OUTPUT_DIR", str(folder / "output")]
    device = ("MODEL.DEVICE", "cpu")  # Detectron2 has a GPU by default
    return load_config("emoji_scenes_whole", [*changes, *windows, *BACKBONE, *device, *options])


def predict(model: Any, cfg: CfgNode) -> list[Tensor]:
    """Return the label map and the scores of every image."""
    (dataset,) = cfg.DATASETS.TEST
    mapper = EvaluationMapper(cfg, dataset)
    outputs = model([mapper(record) for record in DatasetCatalog.get(dataset)])
    return [output[key] for output in outputs for key in ("label_map", "sem_seg")]


def refuse(*names: str, options: tuple[str, ...] = ()) -> str:
    """Return the error of entries that cannot be evaluated."""
    register_dataset("voc", "images", ["sky"])
    with pytest.raises(InputError) as error:
        plan_runs(load_config(options=["DATASETS.TEST", "('voc',)", "TEST.METHODS", str(names), *options]))
    return str(error.value)


def test_results_with_one_model_equal_those_of_models_with_the_keys(two_scenes: str, tmp_path: Path) -> None:
    cfg = emoji_config(two_scenes, tmp_path, "TEST.METHODS", str(tuple(COMPOSITIONS)))
    runs = plan_runs(cfg)
    assert [run.method for run in runs] == list(COMPOSITIONS)
    load, load_backbone = model_module.load_clip_from_config, backbone_module.load_vit
    with (
        patch.object(model_module, "load_clip_from_config", side_effect=load) as loads,
        patch.object(parts, "build_mask_source", side_effect=parts.build_mask_source) as sources,
        patch.object(backbone_module, "load_vit", side_effect=load_backbone) as backbones,
    ):
        model, together = None, {}
        for run, changed in runs.items():
            model = prepare_segmenter(changed, model)
            together[run.method] = predict(model, changed)
    assert loads.call_count == 1
    assert [call.args[0] for call in sources.call_args_list] == ["scr", "backbone", "halves"]
    assert backbones.call_count == 1
    for name, keys in COMPOSITIONS.items():
        alone = emoji_config(two_scenes, tmp_path, *keys)
        assert config_hash(runs[Run(name, two_scenes)]) == config_hash(alone)
        for one, other in zip(together[name], predict(build_segmenter(alone), alone), strict=True):
            assert torch.equal(one, other), name
    assert len({maps[0].numpy().tobytes() for maps in together.values()}) == len(COMPOSITIONS)


def test_a_source_is_not_built_for_methods_without_masks(tmp_path: Path) -> None:
    with_source = (SOURCE, "backbone", "MODEL.MASKS.BACKBONE", "no such model")
    plain = tiny_config(tmp_path, *with_source, METHOD, "sclip", CLUSTERING, "none")
    model = build_segmenter(plain)
    assert isinstance(model, CLIPtrase)
    masks = tiny_config(tmp_path, *with_source)
    with pytest.raises(InputError, match=r"^MODEL\.MASKS\.BACKBONE: .*no such model"):
        prepare_segmenter(masks, model)
    assert model.settings.method == "sclip"  # it did not change
    model.configure(CLIPtraseSettings())  # without the source of the configuration
    with pytest.raises(InputError, match=r"^clustering: 'dbscan'.*'none'"):
        model([{"image": torch.zeros(3, 32, 32, dtype=torch.uint8), "vocabulary": ["sky"]}])


def test_a_checkpoint_reaches_a_source_that_is_built_later(tmp_path: Path) -> None:
    masks = tiny_config(tmp_path, SOURCE, "backbone", *BACKBONE)
    saved = build_segmenter(masks)
    with torch.no_grad():
        saved.mask_source.backbone.vit.norm.weight.fill_(3.0)
    DetectionCheckpointer(saved, str(tmp_path)).save("whole")
    weights = ("MODEL.WEIGHTS", str(tmp_path / "whole.pth"))
    model = build_segmenter(tiny_config(tmp_path, METHOD, "clip", CLUSTERING, "none", *weights))
    model = prepare_segmenter(tiny_config(tmp_path, SOURCE, "backbone", *BACKBONE, *weights), model)
    assert (model.mask_source.backbone.vit.norm.weight == 3).all()


IMPOSSIBLE: dict[str, tuple[str, tuple[str, ...], str]] = {
    "rule without masks": ("sclip+mean", (), "TEST.METHODS: the rule 'mean' without masks"),
    "masks without clustering": ("sclip+sam", (CLUSTERING, "none"), f"{CLUSTERING}: 'none', but masks"),
    "regions without masks": ("regional", (), f"{CLUSTERING}: 'none', but the method 'regional' reads the masks"),
    "published with masks": ("sclip+clusters@published", (), f"{CLUSTERING}: 'dbscan' with TEST.PROTOCOL 'published'"),
    "published with a rule": ("cliptrase+mean@published", (), "TEST.METHODS: the rule 'mean' with TEST.PROTOCOL"),
    "a whole image without published": ("whole", (), f"{METHOD}: 'whole', which labels whole images"),
    "published with clusters": ("cliptrase@published", (), f"{CLUSTERING}: 'dbscan' with TEST.PROTOCOL"),
    "published with an oracle": ("cosine_oracle@published", (), f"{METHOD}: the oracle 'cosine_oracle' with"),
    "published with class token weights": (
        "sclip@published", ("MODEL.CLIPTRASE.CLS_LOGIT_WEIGHT", "True"), "MODEL.CLIPTRASE.CLS_LOGIT_WEIGHT: True with",
    ),
    "published with a threshold": ("sclip@published", ("TEST.THRESHOLD", "0.5"), "TEST.THRESHOLD: 0.5 with"),
    "published with groups": (
        "sclip@published", ("TEST.UNSUPERVISED_GROUPS", "3"), "TEST.UNSUPERVISED_GROUPS: features of masks",
    ),
    "a rule with groups": ("cliptrase+mean", ("TEST.UNSUPERVISED_GROUPS", "3"), "TEST.METHODS: 'mean' with"),
    "a refinement with groups": ("sclip+pamr", ("TEST.UNSUPERVISED_GROUPS", "3"), "TEST.METHODS: 'pamr' with"),
    "words with groups": ("resclip", ("TEST.UNSUPERVISED_GROUPS", "3"), f"{METHOD}: mask features of 'resclip'"),
    "no class token": (
        "sc_clip+clusters", ("MODEL.CLIPTRASE.CLS_LOGIT_BIAS", "-0.3"), "MODEL.CLIPTRASE.CLS_LOGIT_BIAS: -0.3, but",
    ),
    "tiles with views": ("sclip@tiles", ("TEST.AUG.ENABLED", "True"), f"{PROTOCOL}: 'tiles' with TEST.AUG"),
    "published with views": ("sclip@published", ("TEST.AUG.ENABLED", "True"), f"{PROTOCOL}: 'published' with"),
    "crop of another size": ("sclip@center_crop", ("INPUT.MIN_SIZE_TEST", "230"), "INPUT.MIN_SIZE_TEST: 230"),
    "window of another size": ("sclip@slide", ("TEST.WINDOW", "100"), "TEST.WINDOW: 100 pixels with patches of 16"),
    "stride above the window": ("sclip@tiles", ("TEST.STRIDE", "448"), "TEST.STRIDE: 448 pixels, more than"),
}  # fmt: skip


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_impossible_composition_is_refused_with_its_reason(case: str) -> None:
    name, options, message = IMPOSSIBLE[case]
    error = refuse("clip@whole", name, options=options)
    assert error.startswith(message)
    assert repr(name) in error
    assert "\n" not in error


def test_all_impossible_entries_are_listed_with_their_reasons() -> None:
    lines = refuse("clip", "cliptrase@published", "sclip+mean", "regional").split("\n  ")
    assert lines[0].startswith("TEST.METHODS: 3 of 4 entries")
    assert "SKIP_IMPOSSIBLE" in lines[0]
    assert [line.split(":")[0] for line in lines[1:]] == ["cliptrase@published", "sclip+mean", "regional"]
    assert "sclip+mean: TEST.METHODS: the rule 'mean'" in lines[2]


def test_a_fault_of_the_configuration_is_named_once() -> None:
    error = refuse("clip", "sclip", options=("MODEL.CLIPTRASE.EPS", "-1.0"))
    assert error.startswith("MODEL.CLIPTRASE.EPS: -1.0, in every entry of TEST.METHODS")
    assert refuse("clip", "sclip", options=("MODEL.CLIP.NAME", "ViT-B-17")).startswith("MODEL.CLIP.NAME: ")


def test_entries_of_the_same_parts_are_refused() -> None:
    assert "'sclip+clusters+pamr' twice" in refuse("sclip+clusters+pamr", "sclip+pamr+clusters")


def test_impossible_entries_can_be_left_out(tmp_path: Path, dataset: str) -> None:
    names = "['clip@whole', 'cliptrase@published', 'maskclip+halves+mean@slide', 'sclip+mean']"
    options = ("TEST.METHODS", names, "TEST.SKIP_IMPOSSIBLE", "True", "DATASETS.TEST", f"('{dataset}',)")
    cfg = tiny_config(tmp_path, *options)
    runs = plan_runs(cfg)
    assert [run.method for run in runs] == ["clip@whole", "maskclip+halves+mean@slide"]
    assert list(find_impossible(cfg)) == ["cliptrase@published", "sclip+mean"]
    results = evaluate_runs(runs, prepare_segmenter, resume=False)
    for run in results:
        assert (tmp_path / "output" / run.method / "inference" / dataset / "metrics.json").is_file()
    page = write_run_page(cfg, runs).read_text(encoding="utf-8")
    for part in (
        "whole, slide, short side 64",  # the fact
        "protocol whole, short side 64, max size 128; slide, short side 64, max size 128, window 64, stride 32",
        "masks: halves of the image; rule: mean; protocol: slide",
        "refinement none, protocol slide",
        "the rule &#39;mean&#39; without masks",
        "maskclip%2Bhalves%2Bmean%40slide/inference",  # a link
    ):
        assert part in page
    assert not (tmp_path / "output" / "sclip+mean").exists()


def test_only_impossible_entries_are_an_error_even_if_they_may_be_left_out() -> None:
    error = refuse("cliptrase@published", "sclip+mean", options=("TEST.SKIP_IMPOSSIBLE", "True"))
    assert error.startswith("TEST.METHODS: 2 of 2 entries cannot be evaluated. Remove them.\n")


def test_a_part_that_cannot_be_built_ends_the_run_before_the_first_image(tmp_path: Path, dataset: str) -> None:
    names = ("TEST.METHODS", "['clip', 'clip+backbone']", "MODEL.MASKS.BACKBONE", "no such model")
    cfg = tiny_config(tmp_path, *names, "DATASETS.TEST", f"('{dataset}',)")
    with pytest.raises(InputError, match=r"MODEL\.MASKS\.BACKBONE"):
        evaluate_runs(plan_runs(cfg), prepare_segmenter, resume=False)
    assert not list(tmp_path.rglob("metrics.json"))


@pytest.mark.parametrize("name", ["clip", "cliptrase", "cliptrase_scr", "naclip+clusters", "values", "sclip+halves"])
def test_a_configuration_is_recognised_as_a_composition(name: str) -> None:
    found = find_composition(configure(load_config(), read_composition(name)))
    assert found is not None
    assert found.name == name


def test_a_configuration_with_other_options_is_no_composition() -> None:
    assert find_composition(load_config(options=["MODEL.CLIPTRASE.METHOD_OPTIONS.blocks", "2"])) is None
