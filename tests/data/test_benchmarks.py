from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.d2 import BACKEND, DatasetCatalog, MetadataCatalog
from cliptrase_d2.data.benchmarks import BENCHMARKS, DETECTRON2_NAMES, Benchmark, benchmark_of, benchmark_root
from cliptrase_d2.data.builtin import register_builtin
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.data.register import dataset_labels
from cliptrase_d2.utils.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
ALL = (*BENCHMARKS.values(), *DETECTRON2_NAMES)
# What the paper reports on, and how many classes each has, the background among them.
CLASSES = {
    "coco_object": 81,
    "voc21": 21,
    "pc60": 60,
    "coco_stuff171": 171,
    "voc20": 20,
    "pc59": 59,
    "pc459": 459,
    "ade150": 150,
    "ade847": 847,
    "cityscapes19": 19,
}
OURS = {benchmark.name for benchmark in BENCHMARKS.values()}


def by_key(key: str) -> Benchmark:
    return BENCHMARKS[key]


def meaning(key: str, *raw: int) -> list[int]:
    """Class index of each raw label value."""
    rule = by_key(key).spec(Path()).label_rule
    return rule.apply(np.array([raw]), "labels")[0].tolist()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of data sets, and catalogs that know ours in it."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    _forget()
    register_builtin()
    yield tmp_path
    _forget()


def _forget() -> None:
    ours = {name for name in DatasetCatalog.list() if MetadataCatalog.get(name).get("spec") is not None}
    for name in ours:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def write_pair(root: Path, benchmark: Benchmark, stem: str, labels: np.ndarray) -> None:
    """An image of the size of its labels, where the benchmark has them."""
    image = root / benchmark.images.replace("*/*", "city") / f"{stem}{benchmark.image_suffix}.png"
    depth = np.uint16 if benchmark.ignore_label > 255 else np.uint8
    suffix = ".tif" if depth is np.uint16 else ".png"
    label = root / benchmark.labels.replace("*/*", "city") / f"{stem}{benchmark.label_suffix}{suffix}"
    for path, pixels in ((image, np.zeros((*labels.shape, 3), np.uint8)), (label, labels.astype(depth))):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("benchmark", ALL, ids=lambda benchmark: benchmark.name)
def test_description_is_valid(benchmark: Benchmark) -> None:
    spec = benchmark.spec(Path("datasets"))  # a word given twice, or a label outside the classes, is refused
    key = benchmark.key.removesuffix("_paper").removesuffix("_detectron2")
    assert len(spec.vocabulary.classes) == CLASSES[key]
    assert (ROOT / benchmark.prepare).suffix == ".py"
    assert f"python {benchmark.prepare} datasets" in spec.if_missing


def test_every_benchmark_of_the_paper_has_one_row_with_its_numbers() -> None:
    published = sorted(benchmark.published for benchmark in BENCHMARKS.values() if benchmark.published)
    assert published == sorted(set(CLASSES) - {"cityscapes19"})


@pytest.mark.parametrize("key", sorted(CLASSES))
def test_classes_are_those_of_the_shared_lists(shared: Path, key: str) -> None:
    listed = json.loads((shared / "data" / "vocabularies.json").read_text(encoding="utf-8"))[key]
    spec = by_key(key).spec(Path())
    assert list(spec.vocabulary.classes) == listed["classes"]
    assert list(spec.background) == (listed["background"] or [])
    assert spec.ignore_label == listed["ignore_label"]


def test_classes_are_those_of_the_shared_list_of_detectron2(shared: Path) -> None:
    listed = json.loads((shared / "data" / "vocabularies.json").read_text(encoding="utf-8"))["ade150"]
    expected = list(listed["classes"])
    for index, name in listed["detectron2_builtin_overrides"].items():
        expected[int(index)] = name.strip()
    (row,) = (row for row in DETECTRON2_NAMES if row.name == "ade20k_sem_seg_val")
    assert list(row.spec(Path()).classes) == expected


def test_coco_object_takes_all_stuff_and_the_unlabelled_for_background() -> None:
    assert meaning("coco_object", 0, 79, 80, 81, 170, 255) == [0, 79, 80, 80, 80, 80]


def test_coco_object_of_the_script_leaves_out_all_stuff_but_the_first() -> None:
    assert meaning("coco_object_paper", 0, 79, 80, 81, 170, 255) == [0, 79, 80, 255, 255, 80]


def test_void_borders_of_voc21_are_not_scored() -> None:
    assert meaning("voc21", 0, 19, 20, 255) == [0, 19, 20, 255]


def test_void_borders_of_voc21_are_background_in_the_script() -> None:
    assert meaning("voc21_paper", 0, 19, 255) == [0, 19, 20]


@pytest.mark.parametrize("key", ["pc60", "pc60_paper"])
def test_what_is_none_of_the_59_classes_is_background(key: str) -> None:
    assert meaning(key, 0, 58, 255) == [0, 58, 59]


@pytest.mark.parametrize("key", ["pc459", "ade847"])
def test_255_is_a_class_of_the_16_bit_files(key: str) -> None:
    assert meaning(key, 255, 65535) == [255, 65535]


@pytest.mark.parametrize("key", ["voc20", "pc59", "coco_stuff171", "ade150", "cityscapes19"])
def test_unlabelled_pixels_are_not_scored(key: str) -> None:
    assert meaning(key, 0, 255) == [0, 255]


def test_label_beyond_the_classes_is_refused() -> None:
    with pytest.raises(InputError, match="the label values 171"):
        meaning("coco_object", 171)


@pytest.mark.parametrize(
    ("key", "unscored"), [("voc21", False), ("voc21_paper", True), ("pc60", False), ("pc60_paper", True)]
)
def test_script_leaves_out_an_image_whose_crop_is_all_unlabelled(root: Path, key: str, unscored: bool) -> None:
    labels = np.full((16, 64), 255)
    labels[:, 0] = 3  # at the border, which the crop does not show
    benchmark = by_key(key)
    write_pair(root, benchmark, "a", labels)
    vocabulary, rule = dataset_labels(benchmark.name)
    mapper = EvaluationMapper(
        protocol="center_crop", short_side=16, max_size=64, patch_size=16, vocabulary=vocabulary, label_rule=rule
    )
    (record,) = DatasetCatalog.get(benchmark.name)
    background = {"voc21": 255}.get(key, len(vocabulary.classes) - 1)
    assert np.unique(mapper(record)["sem_seg"]).tolist() == [255 if unscored else background]


@pytest.mark.parametrize("key", sorted(BENCHMARKS))
def test_pairs_are_found_where_the_scripts_put_them(root: Path, key: str) -> None:
    benchmark = by_key(key)
    labels = np.array([[benchmark.ignore_label, 1], [0, 2]])
    for stem in ("b_000000", "a_000000"):
        write_pair(root, benchmark, stem, labels)
    records = DatasetCatalog.get(benchmark.name)
    pairs = [(Path(record["file_name"]).stem, Path(record["sem_seg_file_name"]).stem) for record in records]
    image, label = benchmark.image_suffix, benchmark.label_suffix
    assert pairs == [(f"{stem}_000000{image}", f"{stem}_000000{label}") for stem in "ab"]


def test_cityscapes_passes_over_the_other_files_of_its_folders(root: Path) -> None:
    write_pair(root, by_key("cityscapes19"), "munster_000000_000019", np.zeros((2, 2)))
    for kind in ("color.png", "instanceIds.png", "labelIds.png", "polygons.json"):
        (root / "cityscapes/gtFine/val/city" / f"munster_000000_000019_gtFine_{kind}").touch()
    (record,) = DatasetCatalog.get("cityscapes_19_sem_seg_val")
    assert record["sem_seg_file_name"].endswith("_gtFine_labelTrainIds.png")


def test_images_of_voc_without_labels_are_left_out(root: Path) -> None:
    write_pair(root, by_key("voc20"), "2007_000033", np.zeros((2, 2)))
    (root / "VOC2012/JPEGImages/2008_000001.jpg").touch()
    assert len(DatasetCatalog.get("voc_sem_seg_val")) == 1


@pytest.mark.parametrize("name", sorted(OURS))
def test_missing_data_set_names_the_command_that_prepares_it(root: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"Run 'python datasets/prepare_\w+\.py {root}'"):
        DatasetCatalog.get(name)


def test_names_are_registered_once_and_again_is_no_harm(root: Path) -> None:
    before = DatasetCatalog.list()
    register_builtin()
    assert DatasetCatalog.list() == before
    assert set(before) >= {*OURS, "ade20k_sem_seg_val", "cityscapes_fine_sem_seg_val"}


@pytest.mark.usefixtures("root")
def test_names_of_detectron2_mean_the_same_on_both_sides() -> None:
    ours = {row.name: row.spec(benchmark_root()) for row in DETECTRON2_NAMES}
    for name, spec in ours.items():
        vocabulary, rule = dataset_labels(name)
        assert [name.strip() for name in vocabulary.classes] == list(spec.classes)
        assert (rule.num_classes, rule.ignore_label) == (len(spec.classes), 255)
        assert (MetadataCatalog.get(name).get("spec") is None) == (BACKEND == "detectron2")


def test_benchmark_of_a_name() -> None:
    assert benchmark_of("voc_sem_seg_val") is by_key("voc20")
    assert benchmark_of("my_set") is None
