"""Methods as configurations, and their evaluation one after the other or in turn."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import DatasetCatalog
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.evaluation.evaluate import evaluate_dataset
from cliptrase_d2.evaluation.provenance import config_hash
from cliptrase_d2.evaluation.runs import evaluate_runs, plan_runs
from cliptrase_d2.evaluation.summary import Run
from cliptrase_d2.methods import DENSE_METHODS, METHOD_CLASSES
from cliptrase_d2.methods.catalog import METHODS, ComparedMethod, find_methods
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.segmenter.build import build_segmenter, prepare_segmenter
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vision_models import VitBackbone
from tests.pipeline.tiny_segmenter import tiny_config


@pytest.fixture(autouse=True)
def _data_sets() -> None:
    for name in ("voc", "ade"):
        register_dataset(name, "images", ["sky"])


def options(*names: object) -> list[str]:
    return ["TEST.METHODS", str(names), "DATASETS.TEST", "('voc', 'ade')"]


def test_every_method_runs_on_every_data_set_in_order_and_without_methods_the_configuration_itself() -> None:
    runs = plan_runs(load_config(options=options("sclip", "clip")))
    assert list(runs) == [Run("sclip", "voc"), Run("sclip", "ade"), Run("clip", "voc"), Run("clip", "ade")]
    cfg = load_config(options=options())
    assert plan_runs(cfg) == {Run("", "voc"): cfg, Run("", "ade"): cfg}
    assert cfg.MODEL.CLIPTRASE.METHOD == "cliptrase"


@pytest.mark.parametrize(
    ("name", "method", "clustering"),
    [
        ("clip", "clip", "none"),
        ("maskclip", "maskclip", "none"),
        ("cliptrase_scr", "cliptrase", "none"),
        ("cliptrase", "cliptrase", "hdbscan"),
        ("naclip+clusters", "naclip", "hdbscan"),
    ],
)
def test_a_method_equals_a_configuration_with_its_keys(name: str, method: str, clustering: str) -> None:
    base = ["MODEL.CLIPTRASE.CLUSTERING", "hdbscan", "MODEL.CLIPTRASE.METHOD", "clip"]
    cfg = load_config(options=[*base, *options(name)])
    cfg.freeze()
    changed = plan_runs(cfg)[Run(name, "voc")]
    assert Path(changed.OUTPUT_DIR) == Path(cfg.OUTPUT_DIR) / name
    assert changed.is_frozen()
    keys = ["MODEL.CLIPTRASE.CLUSTERING", clustering, "MODEL.CLIPTRASE.METHOD", method]
    assert config_hash(changed) == config_hash(load_config(options=[*options(), *keys]))


def test_the_catalog_has_every_dense_method_and_no_settings_twice() -> None:
    assert len({str(sorted(method.changes.items())) for method in METHODS.values()}) == len(METHODS)
    assert all(method.title and method.source.startswith("https://") for method in METHODS.values())
    assert {method.settings["method"] for method in find_methods().values()} == set(METHOD_CLASSES)


def test_inner_products_are_clustered_in_one_method_alone() -> None:
    names = ["TEST.METHODS", "['cliptrase_inner_product', 'cliptrase']", "DATASETS.TEST", "('voc',)"]
    product, cosine = plan_runs(load_config(options=names)).values()
    assert (product.MODEL.CLIPTRASE.CORRELATION, cosine.MODEL.CLIPTRASE.CORRELATION) == ("inner_product", "cosine")
    assert product.MODEL.CLIPTRASE.CLUSTERING == cosine.MODEL.CLIPTRASE.CLUSTERING == "dbscan"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("clp",), "'clp'.*'clip'"),
        (("clip", "cliptrace"), "'cliptrace'.*'cliptrase'"),
        (("SCLIP",), "'SCLIP'.*'sclip'"),
        (("san",), "'san'"),
        (("cliptrase+cluster",), "'[+]cluster'.*'[+]clusters'"),
        ((["clip"],), "clip"),
        ((3,), "3"),
        (("clip", "sclip", "clip"), "'clip' twice"),
    ],
)
def test_unknown_and_repeated_methods_are_refused(names: tuple[object, ...], message: str) -> None:
    with pytest.raises(InputError, match=rf"^TEST\.METHODS: .*{message}"):
        plan_runs(load_config(options=options(*names)))


def test_a_method_that_needs_clusters_refuses_a_configuration_without() -> None:
    without = ["MODEL.CLIPTRASE.CLUSTERING", "none"]
    with pytest.raises(InputError, match=r"^MODEL\.CLIPTRASE\.CLUSTERING: 'none'.*'cliptrase'"):
        plan_runs(load_config(options=[*without, *options("clip", "cliptrase")]))
    assert plan_runs(load_config(options=[*without, *options("clip", "cliptrase_scr")]))


def test_options_of_a_method_are_refused_beside_methods_that_have_their_own() -> None:
    option = ["MODEL.CLIPTRASE.METHOD_OPTIONS.blocks", "2"]
    with pytest.raises(InputError, match=r"^MODEL\.CLIPTRASE\.METHOD_OPTIONS: .*blocks.*TEST\.METHODS"):
        plan_runs(load_config(options=[*option, *options("clip")]))
    assert plan_runs(load_config(options=[*option, *options()]))


def test_a_compared_method_brings_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"method": "naclip", "clustering": "none"}
    near = ComparedMethod("NACLIP, near", "https://example.org", settings, {"deviation": 1.0})
    monkeypatch.setitem(METHODS, "naclip_near", near)
    cfg = load_config(options=options("naclip_near", "naclip"))
    changed = {run.method: plan.MODEL.CLIPTRASE.METHOD_OPTIONS for run, plan in plan_runs(cfg).items()}
    assert {name: dict(value) for name, value in changed.items()} == {"naclip_near": {"deviation": 1.0}, "naclip": {}}


def test_no_data_set_is_refused() -> None:
    with pytest.raises(InputError, match=r"^DATASETS\.TEST"):
        plan_runs(load_config())


def test_every_data_set_is_checked_first(tmp_path: Path) -> None:
    nameless = f"nameless_{tmp_path.name}"
    DatasetCatalog.register(nameless, list)
    for name, message in (("adee", "unknown data set 'adee'.*'ade'"), (nameless, f"'{nameless}' has no class names")):
        with pytest.raises(InputError, match=rf"^DATASETS\.TEST: .*{message}"):
            plan_runs(load_config(options=["DATASETS.TEST", str(("voc", name))]))


def test_each_method_scores_as_it_does_alone_with_words_encoded_once(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    encode = TextEncoder._encode
    monkeypatch.setattr(
        TextEncoder, "_encode", lambda self, words, *rest: calls.append(words) or encode(self, words, *rest)
    )
    names = tuple(name for name, method in METHODS.items() if method.settings["method"] in DENSE_METHODS)
    cfg = tiny_config(tmp_path, "TEST.METHODS", str(names), "DATASETS.TEST", f"('{dataset}',)")
    runs = plan_runs(cfg)
    results = evaluate_runs(runs, prepare_segmenter, resume=False)
    assert list(results) == [Run(name, dataset) for name in names]
    assert len(calls) == 1
    for run, changed in runs.items():
        folder = tmp_path / "output" / run.method / "inference" / dataset
        report = json.loads((folder / "metrics.json").read_text())
        assert report["mIoU"] == results[run]["mIoU"]
        alone = evaluate_dataset(changed, build_segmenter(changed), dataset)
        assert alone["sem_seg"] == results[run]
    assert len({numbers["mIoU"] for numbers in results.values()}) > 1


@pytest.mark.parametrize(("protocol", "views"), [("whole", 1), ("slide", 2)])
def test_the_image_tower_runs_once_for_all_methods(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch, protocol: str, views: int
) -> None:
    images: list[bytes] = []
    run = VisualTower._run
    monkeypatch.setattr(
        VisualTower, "_run", lambda self, one, *rest: images.append(one.numpy().tobytes()) or run(self, one, *rest)
    )
    names = ("clip", "sclip", "cliptrase_scr", "cliptrase", "maskclip+clusters+pamr")
    options = ("TEST.METHODS", str(names), "DATASETS.TEST", f"('{dataset}',)", "TEST.PROTOCOL", protocol)
    evaluate_runs(plan_runs(tiny_config(tmp_path, *options)), prepare_segmenter, resume=False)
    # At the first image, "cliptrase" asks for q, k and v of the block before the last, which later results contain.
    counts = [images.count(one) for one in dict.fromkeys(images)]
    assert counts == [2] * views + [1] * (len(counts) - views)
    assert len(counts) > 4
    timings = [json.loads(path.read_text()) for path in (tmp_path / "output").glob("*/inference/*/timing.json")]
    assert sorted(bool(timing["saved"]) for timing in timings) == [False, True, True, True, True]


def test_unsupervised_runs_take_no_turns(tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliptrase_d2.evaluation.runs._take_turns", lambda *_, **__: pytest.fail("took turns"))
    options = ("TEST.METHODS", "('cliptrase', 'maskclip+clusters')", "DATASETS.TEST", f"('{dataset}',)")
    runs = plan_runs(tiny_config(tmp_path, *options, "TEST.UNSUPERVISED_GROUPS", "3"))
    assert len(evaluate_runs(runs, prepare_segmenter, resume=False)) == 2


def test_methods_with_one_second_model_run_it_once_for_each_image(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: list[bytes] = []
    run = VitBackbone._run
    monkeypatch.setattr(
        VitBackbone, "_run", lambda self, one, grid: images.append(one.numpy().tobytes()) or run(self, one, grid)
    )
    names = ("proxyclip", "clip", "lposs", "corrclip")
    options = ("TEST.METHODS", str(names), "DATASETS.TEST", f"('{dataset}',)", "TEST.PROTOCOL", "published")
    runs = plan_runs(tiny_config(tmp_path, *options))
    results = evaluate_runs(runs, prepare_segmenter, resume=False)
    assert list(results) == [Run(name, dataset) for name in names]
    assert len(images) == len(set(images)) > 1
    for run_, changed in runs.items():
        alone = evaluate_dataset(changed, build_segmenter(changed), dataset)
        assert alone["sem_seg"] == results[run_]
    assert len(images) == 4 * len(set(images))  # once in turn, and alone by all but plain CLIP


def test_resume_continues_methods_that_took_turns(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("TEST.METHODS", "('proxyclip', 'lposs')", "DATASETS.TEST", f"('{dataset}',)")
    runs = plan_runs(tiny_config(tmp_path, *options, "TEST.PROTOCOL", "published"))
    expected = evaluate_runs(runs, prepare_segmenter, resume=False)
    for changed in runs.values():
        (tmp_path / "output" / changed.MODEL.CLIPTRASE.METHOD / "inference" / dataset / "metrics.json").unlink()
    segment, calls = CLIPtrase.forward, []

    def interrupted(self: CLIPtrase, inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        calls.append(self.settings.method)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return segment(self, inputs)

    monkeypatch.setattr(CLIPtrase, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_runs(runs, prepare_segmenter, resume=True)
    assert calls == ["proxyclip", "lposs", "proxyclip", "lposs"]
    assert evaluate_runs(runs, prepare_segmenter, resume=True) == expected
    assert calls[4:].count("proxyclip") + 1 == calls[4:].count("lposs")  # which was interrupted one image earlier


def test_a_method_of_whole_images_is_evaluated_with_the_published_protocol(tmp_path: Path, dataset: str) -> None:
    names = ("TEST.METHODS", "('textregion',)", "DATASETS.TEST", f"('{dataset}',)")
    (numbers,) = evaluate_runs(
        plan_runs(tiny_config(tmp_path, *names, "TEST.PROTOCOL", "published")), prepare_segmenter, resume=False
    ).values()
    assert numbers["mIoU"] > 0
    with pytest.raises(InputError, match=r"METHOD: 'textregion'.*published"):
        evaluate_runs(plan_runs(tiny_config(tmp_path, *names)), prepare_segmenter, resume=False)


def test_resume_keeps_the_results_of_finished_methods(
    tmp_path: Path, dataset: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = ("DATASETS.TEST", f"('{dataset}',)")
    cfg = tiny_config(tmp_path, "TEST.METHODS", "('clip',)", *data)
    first = evaluate_runs(plan_runs(cfg), prepare_segmenter, resume=True)
    expected = ("TEST.EXPECTED_RESULTS", "[['clip/sem_seg', 'mIoU', 1.0, 1.0]]")  # changes no number
    cfg = tiny_config(tmp_path, "TEST.METHODS", "('sclip', 'clip')", *data, *expected)
    with caplog.at_level(logging.INFO):
        both = evaluate_runs(plan_runs(cfg), prepare_segmenter, resume=True)
    assert both[Run("clip", dataset)] == first[Run("clip", dataset)]
    assert f"clip on {dataset}: results of an earlier run" in caplog.text
    assert f"sclip on {dataset}: SCLIP" in caplog.text
    assert evaluate_runs(plan_runs(cfg), lambda *_: pytest.fail("all runs are finished"), resume=True) == both
