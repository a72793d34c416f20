"""Every script on small archives: each pixel of its label files, and its messages."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask
from scipy.io import savemat

from cliptrase_d2.data.benchmarks import UNSUPERVISED_BENCHMARKS, get_all_benchmarks
from cliptrase_d2.data.label_files import read_label
from tests.data.prepare.test_archives import make

ROOT = Path(__file__).resolve().parents[2]
Labels = dict[str, list[list[int]]]  # of each label file, by its path relative to the root


def encode(pixels: np.ndarray, kind: str = "PNG", palette: bool = False) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels.astype(np.uint8))
    if palette:
        image.putpalette([channel for index in range(256) for channel in (255 - index, index, 7)])
    image.save(buffer, kind)
    return buffer.getvalue()


def make_photograph(height: int, width: int) -> bytes:
    return encode(np.random.default_rng(0).integers(0, 255, (height, width, 3)), "JPEG")


def coco(archives: Path) -> Labels:
    raw = np.array([[0, 10, 12, 91], [181, 255, 83, 26]])
    make(archives / "val2017.zip", {"val2017/": b"", "val2017/000000000139.jpg": make_photograph(2, 4)})
    names = ("train2017/000000000009.png", "val2017/000000000139.png")
    make(archives / "stuffthingmaps_trainval2017.zip", {name: encode(raw) for name in names})
    # 91 follows the 80 things and the missing 11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90 (11 of them).
    return {"coco/stuffthingmaps_detectron2/val2017/000000000139.png": [[0, 10, 11, 80], [170, 255, 73, 24]]}


def coco_train(archives: Path) -> Labels:
    coco(archives)
    make(archives / "train2017.zip", {"train2017/000000000009.jpg": make_photograph(2, 4)})
    return {"coco/stuffthingmaps_detectron2/train2017/000000000009.png": [[0, 10, 11, 80], [170, 255, 73, 24]]}


def voc(archives: Path) -> Labels:
    raw = encode(np.array([[0, 1, 20], [255, 15, 0]]), palette=True)
    folder = "VOCdevkit/VOC2012"
    files = {
        f"{folder}/JPEGImages/2007_000033.jpg": make_photograph(2, 3),
        f"{folder}/JPEGImages/2008_000001.jpg": make_photograph(2, 3),
        f"{folder}/SegmentationClass/2007_000033.png": raw,
        f"{folder}/SegmentationClass/2007_000032.png": raw,  # in the training set
        f"{folder}/SegmentationObject/2007_000033.png": raw,
        f"{folder}/ImageSets/Segmentation/val.txt": b"2007_000033\n",
        f"{folder}/Annotations/2007_000033.xml": b"<annotation/>",
    }
    make(archives / "VOCtrainval_11-May-2012.tar", files)
    return {
        "VOC2012/annotations_detectron2/val/2007_000033.png": [[255, 0, 19], [255, 14, 255]],
        "VOC2012/annotations_detectron2_bg/val/2007_000033.png": [[20, 0, 19], [255, 14, 20]],
    }


def ade150(archives: Path) -> Labels:
    folder, raw = "ADEChallengeData2016", encode(np.array([[0, 1, 150, 8]]))
    files = {
        f"{folder}/images/validation/ADE_val_00000001.jpg": make_photograph(1, 4),
        f"{folder}/annotations/validation/ADE_val_00000001.png": raw,
        f"{folder}/images/training/ADE_train_00000001.jpg": make_photograph(1, 4),
        f"{folder}/annotations/training/ADE_train_00000001.png": raw,
        f"{folder}/objectInfo150.txt": b"",
    }
    make(archives / f"{folder}.zip", files)
    return {f"{folder}/annotations_detectron2/validation/ADE_val_00000001.png": [[255, 0, 149, 7]]}


def encode_objects(objects: np.ndarray) -> bytes:
    """Encode [H,W] object numbers like ADE20K: in red (times 10) and green; blue is the instance."""
    return encode(np.stack([objects // 256 * 10, objects % 256, np.full_like(objects, 99)], axis=-1))


def ade847(archives: Path) -> Labels:
    folder = "ADE20K_2021_17_01/images/ADE/validation/urban/street"
    small = np.array([[2978, 312, 0], [2420, 1, 3055]])  # indices 0, 1, -, 2, -, 13
    stripes = np.tile(np.array([[2978, 312]]), (1024, 1024))  # MaskFormer uses the first of every two columns
    files = {
        f"{folder}/ADE_val_00000001.jpg": make_photograph(2, 3),
        f"{folder}/ADE_val_00000001_seg.png": encode_objects(small),
        f"{folder}/ADE_val_00000001_parts_1.png": encode_objects(small),
        f"{folder}/ADE_val_00000001.json": b"{}",
        f"{folder}/ADE_val_00000001/instance_000_ADE_val_00000001.png": encode_objects(small),
        f"{folder}/ADE_val_00000002.jpg": make_photograph(1024, 2048),
        f"{folder}/ADE_val_00000002_seg.png": encode_objects(stripes),
        "ADE20K_2021_17_01/index_ade20k.pkl": b"must not be opened",
    }
    make(archives / "ADE20K_2021_17_01.zip", files)
    place = "ADE20K_2021_17_01/annotations_detectron2/validation"
    return {
        f"{place}/ADE_val_00000001.tif": [[0, 1, 65535], [2, 65535, 13]],
        f"{place}/ADE_val_00000002.tif": [[0] * 1024] * 512,
    }


def cityscapes(archives: Path) -> Labels:
    name = "val/munster/munster_000000_000019"
    image, raw = encode(np.zeros((2, 4, 3))), encode(np.array([[7, 8, 0, 33], [30, 31, 6, 26]]))
    make(archives / "leftImg8bit_trainvaltest.zip", {f"leftImg8bit/{name}_leftImg8bit.png": image, "README": b""})
    labels = {
        f"gtFine/{name}_gtFine_labelIds.png": raw,
        f"gtFine/{name}_gtFine_instanceIds.png": raw,
        f"gtFine/{name}_gtFine_color.png": image,
        "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png": raw,
    }
    make(archives / "gtFine_trainvaltest.zip", labels)
    return {f"cityscapes/gtFine/{name}_gtFine_labelTrainIds.png": [[0, 1, 255, 18], [255, 16, 255, 13]]}


def encode_region(image: int, number: int, pixels: list[list[int]]) -> dict[str, object]:
    run_lengths = mask.encode(np.asfortranarray(np.array(pixels, dtype=np.uint8)))
    run_lengths["counts"] = run_lengths["counts"].decode()
    return {"image_id": image, "category_id": number, "segmentation": run_lengths}


def pcontext(archives: Path) -> Labels:
    phases = {"2008_000002": "val", "2008_000003": "train", "2008_000004": "val"}  # the last one has no regions
    photographs = {f"VOCdevkit/VOC2010/JPEGImages/{stem}.jpg": make_photograph(2, 3) for stem in phases}
    make(archives / "VOCtrainval_03-May-2010.tar", photographs)
    images = [
        {"image_id": index, "file_name": f"{stem}.jpg", "phase": phase, "height": 2, "width": 3}
        for index, (stem, phase) in enumerate(phases.items())
    ]
    regions = [
        encode_region(0, 2, [[1, 1, 0], [0, 0, 0]]),
        encode_region(1, 458, [[1, 1, 1], [1, 1, 1]]),
        encode_region(0, 458, [[0, 1, 0], [0, 1, 0]]),  # covers a pixel of the first region
    ]
    content = {"images": images, "annos_segmentation": regions, "categories": []}
    (archives / "trainval_merged.json").write_text(json.dumps(content))
    return {"pcontext/val/label/2008_000002.png": [[0, 58, 255], [255, 58, 255]]}


def pcontext_full(archives: Path) -> Labels:
    pcontext(archives)
    buffer = io.BytesIO()
    savemat(buffer, {"LabelMap": np.array([[0, 1, 459], [256, 2, 0]], dtype=np.uint16)})
    stems = ("2008_000002", "2008_000003", "2008_000004")
    make(archives / "trainval.tar.gz", {f"trainval/{stem}.mat": buffer.getvalue() for stem in stems})
    return {"pcontext_full/val/label/2008_000002.tif": [[65535, 0, 458], [255, 1, 65535]]}


# Script -> function that writes its archives and returns the expected labels, and the benchmarks that use them.
SCRIPTS: dict[str, tuple[Callable[[Path], Labels], tuple[str, ...]]] = {
    "prepare_coco_stuff.py": (coco, ("coco_stuff171", "coco_object", "coco_object_paper")),
    "prepare_coco_stuff_train.py": (coco_train, ("coco_stuff171_train",)),
    "prepare_voc.py": (voc, ("voc20", "voc21", "voc21_paper")),
    "prepare_ade20k_150.py": (ade150, ("ade150",)),
    "prepare_ade20k_full.py": (ade847, ("ade847",)),
    "prepare_cityscapes.py": (cityscapes, ("cityscapes19",)),
    "prepare_pcontext.py": (pcontext, ("pc59", "pc60", "pc60_paper")),
    "prepare_pcontext_full.py": (pcontext_full, ("pc459",)),
}


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "datasets" / script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def fail(script: str, *arguments: object) -> str:
    """Run a script that must fail. Return its last line."""
    process = run_script(script, *arguments)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    message = process.stderr.splitlines()[-1]
    assert message.startswith("error: ")
    return message


def read_times(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_every_benchmark_has_its_script() -> None:
    benchmarks = {key: row for key, row in get_all_benchmarks().items() if key not in UNSUPERVISED_BENCHMARKS}
    scripts = {key: f"datasets/{script}" for script, (_, keys) in SCRIPTS.items() for key in keys}
    assert scripts == {key: row.prepare for key, row in benchmarks.items()}


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_every_pixel_of_the_labels(script: str, tmp_path: Path) -> None:
    make_archives, keys = SCRIPTS[script]
    archives, root = tmp_path / "archives", tmp_path / "root"
    archives.mkdir()
    expected = make_archives(archives)
    arguments = (root, "--archives", archives, "--no-checksum", "--incomplete")
    process = run_script(script, *arguments)
    assert process.returncode == 0, process.stderr
    for place, labels in expected.items():
        assert read_label(root / place).tolist() == labels, place
    for key in keys:
        benchmark = get_all_benchmarks()[key]
        files = (spec := benchmark.spec(root)).find_files()
        assert not files.unpaired
        assert len(files.records) == len(expected) // (2 if script == "prepare_voc.py" else 1)
        for record in files.records:
            raw = read_label(record["sem_seg_file_name"])
            spec.label_rule.apply(raw, record["sem_seg_file_name"])
            with Image.open(record["file_name"]) as image:
                assert image.size == (raw.shape[1], raw.shape[0])
        assert f"{benchmark.title}: {len(files.records)} of {benchmark.count:,} images" in process.stdout
    before = read_times(root)
    process = run_script(script, *arguments)
    assert process.returncode == 0, process.stderr
    assert read_times(root) == before


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_missing_archive(script: str, tmp_path: Path) -> None:
    assert "no such archive" in fail(script, tmp_path)


def test_incomplete_and_changed_archives(tmp_path: Path) -> None:
    coco(tmp_path)
    assert "val2017.zip: 1 files. Allowed: 5,000. " in fail("prepare_coco_stuff.py", tmp_path)
    voc(tmp_path)
    assert "6cd6e144f989b92b3379bac3b3de84fd" in fail("prepare_voc.py", tmp_path, "--incomplete")
    make(tmp_path / "VOCtrainval_11-May-2012.tar", {"VOCdevkit/VOC2012/JPEGImages/a.jpg": make_photograph(2, 3)})
    assert "val.txt: no such file" in fail(
        "prepare_voc.py", tmp_path / "empty", "--archives", tmp_path, "--no-checksum"
    )


def test_unfinished_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    ade150(tmp_path)
    paths = [tmp_path / place / f".a.jpg.{32 * '0'}.tmp" for place in ("ADEChallengeData2016/images", "coco/val2017")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"a part")
    assert run_script("prepare_ade20k_150.py", tmp_path, "--incomplete").returncode == 0
    assert [path.exists() for path in paths] == [False, True]  # another script may be writing to the second folder


def test_root_that_cannot_be_written(tmp_path: Path) -> None:
    ade150(tmp_path)
    (tmp_path / "root").write_text("a file")
    message = fail("prepare_ade20k_150.py", tmp_path / "root", "--archives", tmp_path, "--incomplete")
    assert message.startswith(f"error: {tmp_path / 'root'}/")
    assert "cannot be written (" in message
    assert message.endswith("Run the same command again to continue.")
