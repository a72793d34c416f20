"""The benchmarks of 27 coarse classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cliptrase_d2.config import load_config
from cliptrase_d2.data.benchmarks import vocabulary_file
from cliptrase_d2.data.inspection import benchmark_state
from cliptrase_d2.data.unsupervised_benchmarks import UNSUPERVISED_BENCHMARKS, known_benchmarks
from cliptrase_d2.utils.errors import InputError
from tests.data.test_benchmarks import write_pair

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("key", UNSUPERVISED_BENCHMARKS)
def test_classes_and_labels_are_those_of_the_shared_lists(shared: Path, key: str) -> None:
    listed = json.loads((shared / "data" / "vocabularies.json").read_text(encoding="utf-8"))[key]
    spec = UNSUPERVISED_BENCHMARKS[key].spec(Path())
    assert list(spec.vocabulary.classes) == listed["classes"]
    meaning = listed.get("id_map_from_coco_stuff171") or listed["id_map"]
    for raw, index in meaning.items():
        if int(raw) >= 0:
            assert spec.label_rule.apply(np.array([[int(raw)]]), "labels") == index


def test_images_are_those_of_the_shared_list(shared: Path) -> None:
    listed = json.loads((shared / "data" / "vocabularies.json").read_text(encoding="utf-8"))["coco27"]
    assert vocabulary_file("coco27_images.txt").read_text().split() == listed["val_image_ids"]


@pytest.mark.parametrize("key", UNSUPERVISED_BENCHMARKS)
def test_there_are_27_classes_and_no_name_twice(key: str) -> None:
    benchmark = UNSUPERVISED_BENCHMARKS[key]
    spec = benchmark.spec(Path())
    assert len(set(spec.classes)) == 27
    assert set(spec.label_rule.label_map.values()) - {255} == set(range(27))
    assert benchmark.key == key
    assert (ROOT / benchmark.prepare).is_file()


def test_only_listed_images_of_coco_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = UNSUPERVISED_BENCHMARKS["coco27"]
    stems = vocabulary_file(benchmark.image_list).read_text().split()
    assert len(stems) == benchmark.count
    write_pair(tmp_path, benchmark, "000000000001", np.zeros((2, 2)))
    write_pair(tmp_path, benchmark, stems[0], np.zeros((2, 2)))
    with pytest.raises(InputError, match=f"2174 of 2175 stems without an image, such as {stems[1]}"):
        benchmark.spec(tmp_path).find_files()
    (tmp_path / "few.txt").write_text(stems[0])
    monkeypatch.setattr("cliptrase_d2.data.benchmarks.vocabulary_file", lambda name: _list_of(tmp_path, name))
    (record,) = benchmark.spec(tmp_path).find_files().records
    assert Path(record["file_name"]).stem == stems[0]
    assert not benchmark_state(benchmark, tmp_path).is_complete


def _list_of(folder: Path, name: str) -> Path:
    return folder / "few.txt" if name == "coco27_images.txt" else vocabulary_file(name)


def test_words_come_first_in_the_list_of_all() -> None:
    assert list(known_benchmarks())[-3:] == ["coco27", "cityscapes27", "coco_stuff171_train"]


@pytest.mark.parametrize("key", UNSUPERVISED_BENCHMARKS)
def test_the_configurations_are_of_the_protocol_of_the_table(key: str) -> None:
    groups = load_config(ROOT / "configs" / "unsupervised" / f"{key}.yaml")
    words = load_config(ROOT / "configs" / "unsupervised" / f"{key}_text.yaml")
    for cfg in (groups, words):
        assert (UNSUPERVISED_BENCHMARKS[key].name,) == cfg.DATASETS.TEST
        assert (cfg.TEST.PROTOCOL, cfg.INPUT.MIN_SIZE_TEST) == ("center_crop", 320)
    assert (groups.TEST.UNSUPERVISED_GROUPS, words.TEST.UNSUPERVISED_GROUPS) == (27, 0)
