import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import BACKEND, DatasetCatalog, MetadataCatalog
from cliptrase_d2.data.benchmarks import (
    BENCHMARKS,
    DETECTRON2_NAMES,
    PUBLISHED_WORDS,
    UNSUPERVISED_BENCHMARKS,
    Benchmark,
    find_benchmark,
    get_all_benchmarks,
    get_benchmark_root,
    get_vocabulary_path,
    read_numbers,
)
from cliptrase_d2.data.builtin import register_builtin
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.data.register import get_dataset_labels
from cliptrase_d2.evaluation.published import published_benchmarks
from cliptrase_d2.utils.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
ALL = (*BENCHMARKS.values(), *DETECTRON2_NAMES, *UNSUPERVISED_BENCHMARKS.values(), *PUBLISHED_WORDS)
# Number of classes of each benchmark, including the background.
NUM_CLASSES = {
    **{"coco_object": 81, "voc21": 21, "pc60": 60, "coco_stuff171": 171, "voc20": 20, "pc59": 59, "pc459": 459},
    **{"ade150": 150, "ade847": 847, "cityscapes19": 19, "coco27": 27, "cityscapes27": 27},
}
NAMES = {benchmark.name for benchmark in BENCHMARKS.values()}


@pytest.fixture(scope="module")
def lists(shared: Path) -> dict[str, Any]:
    """Return class lists that were collected independently."""
    return json.loads((shared / "data" / "vocabularies.json").read_text(encoding="utf-8"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty folder of data sets, in which the benchmarks are registered."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    _unregister()
    register_builtin()
    yield tmp_path
    _unregister()


def _unregister() -> None:
    for name in [name for name in DatasetCatalog.list() if MetadataCatalog.get(name).get("spec") is not None]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def write_pair(root: Path, benchmark: Benchmark, stem: str, labels: np.ndarray) -> None:
    """Write labels and an image of their size to the folders of a benchmark."""
    is_tiff = benchmark.ignore_label > 255
    image = root / benchmark.images.replace("*/*", "city") / f"{stem}{benchmark.image_suffix}.png"
    label = root / benchmark.labels.replace("*/*", "city") / f"{stem}{benchmark.label_suffix}"
    label = label.with_name(label.name + (".tif" if is_tiff else ".png"))
    pixels = np.zeros((*labels.shape, 3), np.uint8)
    for path, content in ((image, pixels), (label, labels.astype(np.uint16 if is_tiff else np.uint8))):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(path)


@pytest.mark.parametrize("benchmark", ALL, ids=lambda benchmark: benchmark.name)
def test_description_is_valid(benchmark: Benchmark) -> None:
    spec = benchmark.spec(Path("datasets"))  # raises if a name appears twice or a label is mapped to no class
    key = re.sub("_(paper|detectron2|sclip|clearclip|proxyclip|sfp|lposs|corrclip)$", "", benchmark.key)
    assert len(spec.vocabulary.classes) == NUM_CLASSES[key]
    assert (ROOT / benchmark.prepare).is_file()
    assert f"python {benchmark.prepare} datasets" in spec.if_missing


def test_every_benchmark_of_the_paper_has_one_row_with_its_numbers() -> None:
    assert set(published_benchmarks()) <= BENCHMARKS.keys()
    keys = sorted(key.removesuffix("_paper") for key in published_benchmarks())
    assert keys == sorted(set(NUM_CLASSES) - {"cityscapes19", *UNSUPERVISED_BENCHMARKS})


@pytest.mark.parametrize("key", sorted(set(NUM_CLASSES) - set(UNSUPERVISED_BENCHMARKS)))
def test_classes_equal_the_independent_lists(lists: dict[str, Any], key: str) -> None:
    spec = BENCHMARKS[key].spec(Path())
    assert list(spec.vocabulary.classes) == lists[key]["classes"]
    assert list(spec.background) == (lists[key]["background"] or [])
    assert spec.ignore_label == lists[key]["ignore_label"]


def test_classes_of_detectron2_equal_the_independent_list(lists: dict[str, Any]) -> None:
    expected = list(lists["ade150"]["classes"])
    for index, name in lists["ade150"]["detectron2_builtin_overrides"].items():
        expected[int(index)] = name.strip()
    (row,) = (row for row in DETECTRON2_NAMES if row.name == "ade20k_sem_seg_val")
    assert list(row.spec(Path()).classes) == expected


@pytest.mark.parametrize(("key", "file"), [("ade847", "ade20k_full_ids.txt"), ("pc59", "pcontext_ids.txt")])
def test_numbers_of_the_official_files_equal_the_independent_lists(lists: dict[str, Any], key: str, file: str) -> None:
    raw = {int(raw): index for raw, index in lists[key]["raw_id_map"].items() if raw.isdigit() and index < 900}
    expected = {raw: index for raw, index in raw.items() if index != lists[key]["ignore_label"]}
    assert {raw: index for index, raw in enumerate(read_numbers(file))} == expected


@pytest.mark.parametrize("key", UNSUPERVISED_BENCHMARKS)
def test_coarse_classes_equal_the_independent_lists(lists: dict[str, Any], key: str) -> None:
    spec = UNSUPERVISED_BENCHMARKS[key].spec(Path())
    assert list(spec.vocabulary.classes) == lists[key]["classes"]
    table = lists[key].get("id_map_from_coco_stuff171") or lists[key]["id_map"]
    for raw, index in table.items():
        if int(raw) >= 0:
            assert spec.label_rule.apply(np.array([[int(raw)]]), "labels") == index


def test_images_of_coco27_equal_the_independent_list(lists: dict[str, Any]) -> None:
    assert get_vocabulary_path("coco27_images.txt").read_text().split() == lists["coco27"]["val_image_ids"]


@pytest.mark.parametrize(
    ("key", "raw", "indices"),
    [
        # All stuff (80 to 170) and unlabelled pixels are background. In the script only the first stuff class is.
        ("coco_object", [0, 79, 80, 81, 170, 255], [0, 79, 80, 80, 80, 80]),
        ("coco_object_paper", [0, 79, 80, 81, 170, 255], [0, 79, 80, 255, 255, 80]),
        # Void borders are not scored. In the script they are background.
        ("voc21", [0, 19, 20, 255], [0, 19, 20, 255]),
        ("voc21_paper", [0, 19, 255], [0, 19, 20]),
        # Everything outside the 59 classes is background.
        ("pc60", [0, 58, 255], [0, 58, 59]),
        ("pc60_paper", [0, 58, 255], [0, 58, 59]),
        # In 16-bit files, 255 is a class.
        ("pc459", [255, 65535], [255, 65535]),
        ("ade847", [255, 65535], [255, 65535]),
        # Unlabelled pixels are not scored.
        *((key, [0, 255], [0, 255]) for key in ("voc20", "pc59", "coco_stuff171", "ade150", "cityscapes19")),
        # The first seven official numbers are not scored.
        ("cityscapes27", [0, 6, 7, 33], [255, 255, 0, 26]),
    ],
)
def test_meaning_of_raw_labels(key: str, raw: list[int], indices: list[int]) -> None:
    rule = get_all_benchmarks()[key].spec(Path()).label_rule
    assert rule.apply(np.array([raw]), "labels")[0].tolist() == indices


@pytest.mark.parametrize(
    ("key", "unscored"), [("voc21", False), ("voc21_paper", True), ("pc60", False), ("pc60_paper", True)]
)
def test_script_leaves_out_images_whose_crop_is_unlabelled(root: Path, key: str, unscored: bool) -> None:
    labels = np.full((16, 64), 255)
    labels[:, 0] = 3  # cropped away
    benchmark = BENCHMARKS[key]
    write_pair(root, benchmark, "a", labels)
    mapper = EvaluationMapper.for_dataset(
        benchmark.name, protocol="center_crop", short_side=16, max_size=64, patch_size=16
    )
    (record,) = DatasetCatalog.get(benchmark.name)
    background = {"voc21": 255}.get(key, len(mapper.vocabulary.classes) - 1)
    assert np.unique(mapper(record)["sem_seg"]).tolist() == [255 if unscored else background]


@pytest.mark.parametrize("key", sorted(BENCHMARKS))
def test_pairs_are_found_in_the_folders_of_the_scripts(root: Path, key: str) -> None:
    benchmark = BENCHMARKS[key]
    for stem in ("b_000000", "a_000000"):
        write_pair(root, benchmark, stem, np.array([[benchmark.ignore_label, 1], [0, 2]]))
    records = DatasetCatalog.get(benchmark.name)
    pairs = [(Path(record["file_name"]).stem, Path(record["sem_seg_file_name"]).stem) for record in records]
    image, label = benchmark.image_suffix, benchmark.label_suffix
    assert pairs == [(f"{stem}_000000{image}", f"{stem}_000000{label}") for stem in "ab"]


def test_other_label_files_of_cityscapes_and_unlabelled_images_of_voc_are_ignored(root: Path) -> None:
    write_pair(root, BENCHMARKS["cityscapes19"], "munster_000000_000019", np.zeros((2, 2)))
    for kind in ("color.png", "instanceIds.png", "labelIds.png", "polygons.json"):
        (root / "cityscapes/gtFine/val/city" / f"munster_000000_000019_gtFine_{kind}").touch()
    (record,) = DatasetCatalog.get("cityscapes_19_sem_seg_val")
    assert record["sem_seg_file_name"].endswith("_gtFine_labelTrainIds.png")
    write_pair(root, BENCHMARKS["voc20"], "2007_000033", np.zeros((2, 2)))
    (root / "VOC2012/JPEGImages/2008_000001.jpg").touch()
    assert len(DatasetCatalog.get("voc_sem_seg_val")) == 1


def test_only_listed_images_of_coco27_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = UNSUPERVISED_BENCHMARKS["coco27"]
    stems = get_vocabulary_path(benchmark.image_list).read_text().split()
    assert len(stems) == benchmark.count
    write_pair(tmp_path, benchmark, "000000000001", np.zeros((2, 2)))
    write_pair(tmp_path, benchmark, stems[0], np.zeros((2, 2)))
    with pytest.raises(InputError, match=rf"2174 of 2175 .*{stems[1]}"):
        benchmark.spec(tmp_path).find_files()
    (tmp_path / "list.txt").write_text(stems[0])
    paths = {"coco27_images.txt": tmp_path / "list.txt"}
    monkeypatch.setattr(
        "cliptrase_d2.data.benchmarks.get_vocabulary_path", lambda name: paths.get(name, get_vocabulary_path(name))
    )
    (record,) = benchmark.spec(tmp_path).find_files().records
    assert Path(record["file_name"]).stem == stems[0]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_error_of_a_missing_data_set_has_the_command_that_prepares_it(root: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"Run 'python datasets/prepare_\w+\.py {root}'"):
        DatasetCatalog.get(name)


@pytest.mark.usefixtures("root")
def test_names_of_detectron2_have_the_same_classes_on_both_backends() -> None:
    for row in DETECTRON2_NAMES:
        spec = row.spec(get_benchmark_root())
        vocabulary, rule = get_dataset_labels(row.name)
        assert [name.strip() for name in vocabulary.classes] == list(spec.classes)
        assert (rule.num_classes, rule.ignore_label) == (len(spec.classes), 255)
        assert (MetadataCatalog.get(row.name).get("spec") is None) == (BACKEND == "detectron2")


@pytest.mark.parametrize("row", [row for row in PUBLISHED_WORDS if row.key.endswith("_sclip")], ids=lambda row: row.key)
def test_words_of_sclip_are_those_of_its_list(lists: dict[str, Any], row: Benchmark) -> None:
    published, vocabulary = lists[row.key.removesuffix("_sclip")], row.spec(Path()).vocabulary
    names = [name for name in published["classes"] if name != "background"]
    words = [published["sclip_class_overrides"].get(str(index), name) for index, name in enumerate(names)]
    expected = [tuple(word.split(", ")) for word in words]
    expected += [tuple(published["background_sclip"])] if published["background_sclip"] else []
    assert list(vocabulary.words) == expected


def test_benchmarks_are_found_by_name_and_listed_in_order() -> None:
    assert find_benchmark("voc_sem_seg_val") is BENCHMARKS["voc20"]
    assert find_benchmark("voc_sem_seg_val_sfp") in PUBLISHED_WORDS
    assert find_benchmark("my_set") is None
    assert list(get_all_benchmarks()) == [*BENCHMARKS, "coco27", "cityscapes27", "coco_stuff171_train"]


@pytest.mark.parametrize("key", UNSUPERVISED_BENCHMARKS)
def test_configurations_of_table_5_have_its_protocol(key: str) -> None:
    groups = load_config(ROOT / "configs" / "unsupervised" / f"{key}.yaml")
    text = load_config(ROOT / "configs" / "unsupervised" / f"{key}_text.yaml")
    for cfg in (groups, text):
        assert (UNSUPERVISED_BENCHMARKS[key].name,) == cfg.DATASETS.TEST
        assert (cfg.TEST.PROTOCOL, cfg.INPUT.MIN_SIZE_TEST) == ("center_crop", 320)
    assert (groups.TEST.UNSUPERVISED_GROUPS, text.TEST.UNSUPERVISED_GROUPS) == (27, 0)


@pytest.mark.parametrize("row", PUBLISHED_WORDS, ids=lambda row: row.key)
def test_other_words_change_nothing_but_words(row: Benchmark) -> None:
    own, plain = row.spec(Path()), BENCHMARKS[row.key.rsplit("_", 1)[0]].spec(Path())
    assert (own.images, own.labels, own.label_map) == (plain.images, plain.labels, plain.label_map)
    assert len(own.vocabulary.classes) == len(plain.vocabulary.classes)
    different = [pair for pair in zip(own.vocabulary.words, plain.vocabulary.words, strict=True) if pair[0] != pair[1]]
    assert different or row.key == "pc60_clearclip"
    assert own.unscored_if_only is plain.unscored_if_only is None
