"""Systems in terms of the configuration, and their evaluation one after the other."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.config import load_config
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.evaluation import runs as systems
from cliptrase_d2.evaluation.evaluate import evaluate_dataset
from cliptrase_d2.evaluation.provenance import config_hash
from cliptrase_d2.evaluation.runs import SYSTEMS, evaluate_runs, planned_runs
from cliptrase_d2.evaluation.summary import Run
from cliptrase_d2.methods.attention import ATTENTIONS
from cliptrase_d2.segmenter.build import build_segmenter
from cliptrase_d2.utils.errors import InputError
from tests.drawn_scenes import CLASSES, write_scenes
from tests.pipeline.tiny_segmenter import tiny_config


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    write_scenes(tmp_path, 3)
    return register_dataset(f"systems_{tmp_path.name}", tmp_path / "images", CLASSES, tmp_path / "annotations")


def named(*names: str) -> list[str]:
    return ["TEST.METHODS", str(names), "DATASETS.TEST", "('voc', 'ade')"]


def test_without_systems_the_configuration_stands() -> None:
    cfg = load_config(options=named())
    assert planned_runs(cfg) == {Run("", "voc"): cfg, Run("", "ade"): cfg}
    assert cfg.MODEL.CLIPTRASE.ATTENTION == "qq_kk_vv"


def test_every_system_on_every_data_set_in_their_order() -> None:
    runs = planned_runs(load_config(options=named("sclip", "clip")))
    assert list(runs) == [Run("sclip", "voc"), Run("sclip", "ade"), Run("clip", "voc"), Run("clip", "ade")]


@pytest.mark.parametrize(
    ("system", "attention", "clustering"),
    [
        ("clip", "qk", "none"),
        ("maskclip", "v", "none"),
        ("sclip", "qq_kk", "none"),
        ("cliptrase_scr", "qq_kk_vv", "none"),
        ("cliptrase", "qq_kk_vv", "hdbscan"),
    ],
)
def test_a_system_is_a_configuration_of_its_own(system: str, attention: str, clustering: str) -> None:
    base = ["MODEL.CLIPTRASE.CLUSTERING", "hdbscan", "MODEL.CLIPTRASE.ATTENTION", "qk"]
    cfg = load_config(options=[*base, *named(system)])
    cfg.freeze()
    changed = planned_runs(cfg)[Run(system, "voc")]
    assert Path(changed.OUTPUT_DIR) == Path(cfg.OUTPUT_DIR) / system
    assert changed.is_frozen()
    # Whoever sets these keys by hand and names no system evaluates the same.
    keys = ["MODEL.CLIPTRASE.CLUSTERING", clustering, "MODEL.CLIPTRASE.ATTENTION", attention]
    assert config_hash(changed) == config_hash(load_config(options=[*named(), *keys]))


def test_the_table_names_each_system_once() -> None:
    assert len({tuple(sorted(system.keys.items())) for system in SYSTEMS.values()}) == len(SYSTEMS)
    assert all(system.title and system.source.startswith("https://") for system in SYSTEMS.values())


def test_there_is_a_system_for_every_attention() -> None:
    assert {system.keys["ATTENTION"] for system in SYSTEMS.values()} == set(ATTENTIONS)


def test_clusters_are_added_to_a_system_without() -> None:
    (cfg,) = planned_runs(
        load_config(options=["TEST.METHODS", "['naclip+clusters']", "DATASETS.TEST", "('voc',)"])
    ).values()
    assert (cfg.MODEL.CLIPTRASE.ATTENTION, cfg.MODEL.CLIPTRASE.CLUSTERING) == ("naclip", "dbscan")
    assert Path(cfg.OUTPUT_DIR).name == "naclip+clusters"


def test_inner_products_are_clustered_in_one_system_alone() -> None:
    names = ["TEST.METHODS", "['cliptrase_inner_product', 'cliptrase']", "DATASETS.TEST", "('voc',)"]
    product, cosine = planned_runs(load_config(options=names)).values()
    assert (product.MODEL.CLIPTRASE.CORRELATION, cosine.MODEL.CLIPTRASE.CORRELATION) == ("inner_product", "cosine")
    assert product.MODEL.CLIPTRASE.CLUSTERING == cosine.MODEL.CLIPTRASE.CLUSTERING == "dbscan"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("clp",), "the unknown system 'clp'. Allowed: clip, maskclip, sclip, .*cliptrase, clip[+]clusters, .*'clip'"),
        (("clip", "cliptrace"), "the unknown system 'cliptrace'.*Did you mean 'cliptrase'"),
        (("SCLIP",), "the unknown system 'SCLIP'.*Did you mean 'sclip'"),
        (("san",), "the unknown system 'san'"),
        (("cliptrase+clusters",), "the unknown system 'cliptrase[+]clusters'"),
        ((["clip"],), "the unknown system"),
        ((3,), "the unknown system 3"),
        (("clip", "sclip", "clip"), "the system 'clip' twice"),
    ],
)
def test_what_is_no_system_is_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=rf"^TEST\.METHODS: {message}"):
        planned_runs(load_config(options=named(*names)))


def test_clusters_are_asked_for_where_a_system_needs_them() -> None:
    without = ["MODEL.CLIPTRASE.CLUSTERING", "none"]
    with pytest.raises(InputError, match=r"^MODEL\.CLIPTRASE\.CLUSTERING: 'none'.*'cliptrase'.*dbscan or hdbscan"):
        planned_runs(load_config(options=[*without, *named("clip", "cliptrase")]))
    assert planned_runs(load_config(options=[*without, *named("clip", "cliptrase_scr")]))


def test_no_data_set_is_refused() -> None:
    with pytest.raises(InputError, match=r"^DATASETS\.TEST"):
        planned_runs(load_config())


def test_each_system_scores_as_it_does_alone_with_words_encoded_once(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[tuple[str, ...]] = []
    encode = TextEncoder._encode
    monkeypatch.setattr(
        TextEncoder, "_encode", lambda self, words, *rest: encoded.append(words) or encode(self, words, *rest)
    )
    cfg = tiny_config(tmp_path, "TEST.METHODS", str(tuple(SYSTEMS)), "DATASETS.TEST", f"('{dataset}',)")
    runs = planned_runs(cfg)
    results = evaluate_runs(runs, resume=False)
    assert list(results) == [Run(name, dataset) for name in SYSTEMS]
    assert len(encoded) == 1
    for run, changed in runs.items():
        folder = tmp_path / "output" / run.system / "inference" / dataset
        report = json.loads((folder / "metrics.json").read_text())
        assert report["mIoU"] == results[run]["mIoU"]
        alone = evaluate_dataset(changed, build_segmenter(changed), dataset)
        assert alone["sem_seg"] == results[run]
    assert len({numbers["mIoU"] for numbers in results.values()}) > 1


def test_resume_keeps_what_each_system_has_finished(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = ("DATASETS.TEST", f"('{dataset}',)")
    first = evaluate_runs(planned_runs(tiny_config(tmp_path, "TEST.METHODS", "('clip',)", *data)), resume=True)
    expected = ("TEST.EXPECTED_RESULTS", "[['clip/sem_seg', 'mIoU', 1.0, 1.0]]")  # changes no number
    with caplog.at_level(logging.INFO):
        cfg = tiny_config(tmp_path, "TEST.METHODS", "('sclip', 'clip')", *data, *expected)
        both = evaluate_runs(planned_runs(cfg), resume=True)
    assert both[Run("clip", dataset)] == first[Run("clip", dataset)]
    assert [message for message in caplog.messages if "kept from an earlier run" in message] == [
        f"clip on {dataset}: kept from an earlier run with this configuration"
    ]
    assert f"sclip on {dataset}: SCLIP" in caplog.text
    monkeypatch.setattr(systems, "build_segmenter", lambda cfg: pytest.fail("nothing is left to evaluate"))
    assert evaluate_runs(planned_runs(cfg), resume=True) == both
