"""Every script on a miniature of its archives: each pixel of what it makes, and what it says."""

from __future__ import annotations

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

from cliptrase_d2.data.images import read_label
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.unsupervised_benchmarks import UNSUPERVISED_BENCHMARKS, known_benchmarks
from tests.command_line import ROOT
from tests.data.prepare.test_archives import make


def encoded(pixels: np.ndarray, kind: str = "PNG", palette: bool = False) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels.astype(np.uint8))
    if palette:
        image.putpalette([channel for index in range(256) for channel in (255 - index, index, 7)])
    image.save(buffer, kind)
    return buffer.getvalue()


def photograph(height: int, width: int) -> bytes:
    return encoded(np.random.default_rng(0).integers(0, 255, (height, width, 3)), "JPEG")


def coco(archives: Path) -> dict[str, list[list[int]]]:
    raw = np.array([[0, 10, 12, 91], [181, 255, 83, 26]])
    make(archives / "val2017.zip", {"val2017/": b"", "val2017/000000000139.jpg": photograph(2, 4)})
    names = ("train2017/000000000009.png", "val2017/000000000139.png")
    make(archives / "stuffthingmaps_trainval2017.zip", {name: encoded(raw) for name in names})
    # 91 follows the 80 things and the missing 11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90 (11 of them).
    return {"coco/stuffthingmaps_detectron2/val2017/000000000139.png": [[0, 10, 11, 80], [170, 255, 73, 24]]}


def coco_train(archives: Path) -> dict[str, list[list[int]]]:
    coco(archives)
    make(archives / "train2017.zip", {"train2017/000000000009.jpg": photograph(2, 4)})
    return {"coco/stuffthingmaps_detectron2/train2017/000000000009.png": [[0, 10, 11, 80], [170, 255, 73, 24]]}


def voc(archives: Path) -> dict[str, list[list[int]]]:
    raw = np.array([[0, 1, 20], [255, 15, 0]])
    inside = "VOCdevkit/VOC2012"
    make(
        archives / "VOCtrainval_11-May-2012.tar",
        {
            f"{inside}/JPEGImages/2007_000033.jpg": photograph(2, 3),
            f"{inside}/JPEGImages/2008_000001.jpg": photograph(2, 3),
            f"{inside}/SegmentationClass/2007_000033.png": encoded(raw, palette=True),
            f"{inside}/SegmentationClass/2007_000032.png": encoded(raw, palette=True),  # of the training set
            f"{inside}/SegmentationObject/2007_000033.png": encoded(raw, palette=True),
            f"{inside}/ImageSets/Segmentation/val.txt": b"2007_000033\n",
            f"{inside}/Annotations/2007_000033.xml": b"<annotation/>",
        },
    )
    return {
        "VOC2012/annotations_detectron2/val/2007_000033.png": [[255, 0, 19], [255, 14, 255]],
        "VOC2012/annotations_detectron2_bg/val/2007_000033.png": [[20, 0, 19], [255, 14, 20]],
    }


def ade150(archives: Path) -> dict[str, list[list[int]]]:
    base = "ADEChallengeData2016"
    make(
        archives / f"{base}.zip",
        {
            f"{base}/images/validation/ADE_val_00000001.jpg": photograph(1, 4),
            f"{base}/annotations/validation/ADE_val_00000001.png": encoded(np.array([[0, 1, 150, 8]])),
            f"{base}/images/training/ADE_train_00000001.jpg": photograph(1, 4),
            f"{base}/annotations/training/ADE_train_00000001.png": encoded(np.array([[0, 1, 150, 8]])),
            f"{base}/objectInfo150.txt": b"",
        },
    )
    return {f"{base}/annotations_detectron2/validation/ADE_val_00000001.png": [[255, 0, 149, 7]]}


def object_colours(objects: np.ndarray) -> bytes:
    """[H,W] object numbers as ADE20K draws them: red tens and green, blue for the instance."""
    return encoded(np.stack([objects // 256 * 10, objects % 256, np.full_like(objects, 99)], axis=-1))


def ade847(archives: Path) -> dict[str, list[list[int]]]:
    folder = "ADE20K_2021_17_01/images/ADE/validation/urban/street"
    small = np.array([[2978, 312, 0], [2420, 1, 3055]])  # indices 0, 1, -, 2, -, 13
    large = np.repeat(np.repeat(np.array([[2978, 312]]), 600, 0), 600, 1)  # 600x1200: each half one class
    stripes = np.tile(np.array([[2978, 312]]), (1024, 512))  # of every two columns MaskFormer takes the first
    make(
        archives / "ADE20K_2021_17_01.zip",
        {
            f"{folder}/ADE_val_00000001.jpg": photograph(2, 3),
            f"{folder}/ADE_val_00000001_seg.png": object_colours(small),
            f"{folder}/ADE_val_00000001_parts_1.png": object_colours(small),
            f"{folder}/ADE_val_00000001.json": b"{}",
            f"{folder}/ADE_val_00000001/instance_000_ADE_val_00000001.png": object_colours(small),
            f"{folder}/ADE_val_00000002.jpg": photograph(600, 1200),
            f"{folder}/ADE_val_00000002_seg.png": object_colours(large),
            f"{folder}/ADE_val_00000003.jpg": photograph(1024, 1024),
            f"{folder}/ADE_val_00000003_seg.png": object_colours(stripes),
            "ADE20K_2021_17_01/index_ade20k.pkl": b"not to be opened",
        },
    )
    place = "ADE20K_2021_17_01/annotations_detectron2/validation"
    return {
        f"{place}/ADE_val_00000001.tif": [[0, 1, 65535], [2, 65535, 13]],
        f"{place}/ADE_val_00000002.tif": [[0] * 512 + [1] * 512] * 512,
        f"{place}/ADE_val_00000003.tif": [[0] * 512] * 512,
    }


def cityscapes(archives: Path) -> dict[str, list[list[int]]]:
    name = "val/munster/munster_000000_000019"
    raw = np.array([[7, 8, 0, 33], [30, 31, 6, 26]])
    make(
        archives / "leftImg8bit_trainvaltest.zip",
        {f"leftImg8bit/{name}_leftImg8bit.png": encoded(np.zeros((2, 4, 3))), "README": b"", "license.txt": b""},
    )
    make(
        archives / "gtFine_trainvaltest.zip",
        {
            f"gtFine/{name}_gtFine_labelIds.png": encoded(raw),
            f"gtFine/{name}_gtFine_instanceIds.png": encoded(raw),
            f"gtFine/{name}_gtFine_color.png": encoded(np.zeros((2, 4, 3))),
            "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png": encoded(raw),
        },
    )
    return {f"cityscapes/gtFine/{name}_gtFine_labelTrainIds.png": [[0, 1, 255, 18], [255, 16, 255, 13]]}


def annotations(archives: Path) -> None:
    """Three images of Pascal Context and their annotation: one is of the training set, one shows nothing."""
    stems = ("2008_000002", "2008_000003", "2008_000004")
    make(
        archives / "VOCtrainval_03-May-2010.tar",
        {f"VOCdevkit/VOC2010/JPEGImages/{stem}.jpg": photograph(2, 3) for stem in stems},
    )

    def region(image: int, number: int, pixels: list[list[int]]) -> dict[str, object]:
        run_lengths = mask.encode(np.asfortranarray(np.array(pixels, dtype=np.uint8)))
        run_lengths["counts"] = run_lengths["counts"].decode()
        return {"image_id": image, "category_id": number, "segmentation": run_lengths}

    phases = ("val", "train", "val")
    images = [
        {"image_id": index, "file_name": f"{stem}.jpg", "phase": phase, "height": 2, "width": 3}
        for index, (stem, phase) in enumerate(zip(stems, phases, strict=True))
    ]
    regions = [
        region(0, 2, [[1, 1, 0], [0, 0, 0]]),
        region(1, 458, [[1, 1, 1], [1, 1, 1]]),
        region(0, 458, [[0, 1, 0], [0, 1, 0]]),  # covers a pixel of the one before
    ]
    content = {"images": images, "annos_segmentation": regions, "categories": []}
    (archives / "trainval_merged.json").write_text(json.dumps(content))


def pcontext(archives: Path) -> dict[str, list[list[int]]]:
    annotations(archives)
    return {"pcontext/val/label/2008_000002.png": [[0, 58, 255], [255, 58, 255]]}


def pcontext_full(archives: Path) -> dict[str, list[list[int]]]:
    annotations(archives)
    files = {}
    for stem in ("2008_000002", "2008_000003", "2008_000004"):
        buffer = io.BytesIO()
        savemat(buffer, {"LabelMap": np.array([[0, 1, 459], [256, 2, 0]], dtype=np.uint16)})
        files[f"trainval/{stem}.mat"] = buffer.getvalue()
    make(archives / "trainval.tar.gz", files)
    return {"pcontext_full/val/label/2008_000002.tif": [[65535, 0, 458], [255, 1, 65535]]}


# Script -> what makes its archives and says what comes of them, and the benchmarks that read it.
SCRIPTS: dict[str, tuple[Callable[[Path], dict[str, list[list[int]]]], tuple[str, ...]]] = {
    "prepare_coco_stuff.py": (coco, ("coco_stuff171", "coco_object", "coco_object_paper")),
    "prepare_coco_stuff_train.py": (coco_train, ("coco_stuff171_train",)),
    "prepare_voc.py": (voc, ("voc20", "voc21", "voc21_paper")),
    "prepare_ade20k_150.py": (ade150, ("ade150",)),
    "prepare_ade20k_full.py": (ade847, ("ade847",)),
    "prepare_cityscapes.py": (cityscapes, ("cityscapes19",)),
    "prepare_pcontext.py": (pcontext, ("pc59", "pc60", "pc60_paper")),
    "prepare_pcontext_full.py": (pcontext_full, ("pc459",)),
}


def prepare(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "datasets" / script), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_every_benchmark_has_its_script() -> None:
    scripts = {key: f"datasets/{script}" for script, (_, keys) in SCRIPTS.items() for key in keys}
    assert scripts == {
        key: row.prepare for key, row in known_benchmarks().items() if key not in UNSUPERVISED_BENCHMARKS
    }


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_each_pixel_of_the_labels(script: str, tmp_path: Path) -> None:
    make_archives, keys = SCRIPTS[script]
    archives, root = tmp_path / "archives", tmp_path / "root"
    archives.mkdir()
    expected = make_archives(archives)
    words = (str(root), "--archives", str(archives), "--no-checksum", "--incomplete")
    done = prepare(script, *words)
    assert done.returncode == 0, done.stderr
    for place, labels in expected.items():
        assert read_label(root / place).tolist() == labels, place
    for key in keys:
        spec = (benchmark := known_benchmarks()[key]).spec(root)
        found = spec.find_files()
        assert not found.images_without_label
        assert len(found.records) == len(expected) // (2 if script == "prepare_voc.py" else 1)
        rule = LabelRule(len(spec.vocabulary.classes), spec.ignore_label, spec.label_map)
        for record in found.records:
            raw = read_label(record["sem_seg_file_name"])
            rule.apply(raw, record["sem_seg_file_name"])
            with Image.open(record["file_name"]) as image:
                assert image.size == (raw.shape[1], raw.shape[0])
        assert f"{benchmark.title}: {len(found.records)} of {benchmark.count:,} images" in done.stdout

    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    again = prepare(script, *words)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_missing_archive_ends_in_one_line(script: str, tmp_path: Path) -> None:
    done = prepare(script, str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "no such archive" in done.stderr
    assert "Download it to this folder." in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_fewer_files_than_there_should_be(tmp_path: Path) -> None:
    coco(tmp_path)
    done = prepare("prepare_coco_stuff.py", str(tmp_path))
    assert done.returncode == 1
    assert "val2017.zip: 1 files. Allowed: 5,000. Download the archive again, or use --incomplete." in done.stderr


def test_archive_with_another_checksum(tmp_path: Path) -> None:
    voc(tmp_path)
    done = prepare("prepare_voc.py", str(tmp_path), "--incomplete")
    assert done.returncode == 1
    assert "6cd6e144f989b92b3379bac3b3de84fd" in done.stderr


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    ade150(tmp_path)
    own, other = tmp_path / "ADEChallengeData2016/images", tmp_path / "coco/val2017"
    names = [folder / f".a.jpg.{32 * '0'}.tmp" for folder in (own, other)]
    for path in names:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"a part")
    assert prepare("prepare_ade20k_150.py", str(tmp_path), "--incomplete").returncode == 0
    assert [path.exists() for path in names] == [False, True]  # another script may be at work in the second


def test_root_that_cannot_be_written_ends_in_one_line(tmp_path: Path) -> None:
    ade150(tmp_path)
    (tmp_path / "root").write_text("a file")
    done = prepare("prepare_ade20k_150.py", str(tmp_path / "root"), "--archives", str(tmp_path), "--incomplete")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'root'}/")
    assert "cannot be written (" in done.stderr
    assert done.stderr.endswith("The same command goes on from here.\n")


def test_voc_archive_without_its_validation_list(tmp_path: Path) -> None:
    make(tmp_path / "VOCtrainval_11-May-2012.tar", {"VOCdevkit/VOC2012/JPEGImages/2007_000033.jpg": photograph(2, 3)})
    done = prepare("prepare_voc.py", str(tmp_path), "--no-checksum", "--incomplete")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "val.txt: no such file in the archive" in done.stderr
