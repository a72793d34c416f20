"""The nine benchmarks of the paper's Tables 3 and 4, and Cityscapes: one row each.

Where the published script departs from the usual protocol there are two rows, the usual one and one whose key ends in
``_paper``. Labels of the files, and what the rows make of them:

- COCO-Object reads the files of COCO-Stuff. Usual (GroupViT, SCLIP): every stuff and every unlabelled pixel is
  background. Script: unlabelled pixels and the first stuff class, "banner", are background, other stuff is not scored.
- VOC21. Usual (mmsegmentation): void borders are not scored. Script: it reads VOC20's files, where borders and
  background are one value, so both are background.
- PC60. All that is none of the 59 classes is background for both.
- In all three the script leaves out an image whose crop shows nothing labelled.

The script's words for VOC21's background have two slips (a missing comma, a repeated word); the lists here do not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cliptrase_d2.data.custom import DatasetSpec, read_class_file

ROOT_VARIABLE = "DETECTRON2_DATASETS"
_UNLABELLED = 255  # in every 8-bit file


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        key: what this project calls it, in names of configurations and in tables.
        name: as registered: that of SAN and CLIPtrase where they have one.
        title: as the paper prints it.
        images: folder or pattern, in the root of all data sets.
        labels: the same.
        classes: file in ``data/vocabularies``.
        count: pairs of image and labels of the complete data set.
        prepare: script that makes the folders from the official archives.
        published: key of its numbers in the paper's Tables 3 and 4; "" where there are none.
        background: file of background prompts in ``data/vocabularies``; "" for no background class.
        image_list: file of stems in ``data/vocabularies``; "" for all images of the folder.
        ignore_label, label_map, image_suffix, label_suffix, leave_unlabelled, unscored_if_only: as in ``DatasetSpec``.
    """

    key: str
    name: str
    title: str
    images: str
    labels: str
    classes: str
    count: int
    prepare: str
    published: str = ""
    background: str = ""
    image_list: str = ""
    ignore_label: int = 255
    label_map: Mapping[int, int] | None = None
    image_suffix: str = ""
    label_suffix: str = ""
    leave_unlabelled: bool = False
    unscored_if_only: int | None = None

    def spec(self, root: Path) -> DatasetSpec:
        """The data set in the folder that holds all of them; it need not be there."""
        return DatasetSpec(
            self.name,
            root / self.images,
            read_class_file(vocabulary_file(self.classes)),
            root / self.labels,
            self.ignore_label,
            self.label_map,
            read_class_file(vocabulary_file(self.background)) if self.background else (),
            image_suffix=self.image_suffix,
            label_suffix=self.label_suffix,
            image_list=vocabulary_file(self.image_list) if self.image_list else None,
            leave_unlabelled=self.leave_unlabelled,
            unscored_if_only=self.unscored_if_only,
            if_missing=f"Run '{self.remedy(root)}', or set {ROOT_VARIABLE} to the folder that has the data.",
        )

    def remedy(self, root: Path) -> str:
        """The command that prepares the data set."""
        return f"python {self.prepare} {root}"


def benchmark_root() -> Path:
    """The folder of all data sets, as Detectron2 has it: DETECTRON2_DATASETS, by default ``datasets``."""
    return Path(os.environ.get(ROOT_VARIABLE, "datasets")).expanduser()


def benchmark_of(name: str) -> Benchmark | None:
    """The benchmark that is registered under a name; None for any other data set."""
    return next((benchmark for benchmark in BENCHMARKS.values() if benchmark.name == name), None)


def vocabulary_file(name: str) -> Path:
    """A text file of one class, word, number or stem per line, as the package brings it."""
    return Path(__file__).parent / "vocabularies" / name


def _same(count: int) -> dict[int, int]:
    return {index: index for index in range(count)}


_THINGS, _COCO_CLASSES = 80, 171

_COCO_STUFF = Benchmark(
    key="coco_stuff171",
    name="coco_2017_test_stuff_sem_seg",  # of val2017, in spite of its name
    title="COCO-Stuff",
    images="coco/val2017",
    labels="coco/stuffthingmaps_detectron2/val2017",
    classes="coco_stuff.txt",
    count=5000,
    prepare="datasets/prepare_coco_stuff.py",
    published="coco_stuff171",
)
_COCO_OBJECT = replace(
    _COCO_STUFF,
    key="coco_object",
    name="coco_object_sem_seg_val",
    title="COCO-Object",
    classes="coco_object.txt",
    background="coco_object_background.txt",
    label_map={**_same(_THINGS), **dict.fromkeys([*range(_THINGS, _COCO_CLASSES), _UNLABELLED], _THINGS)},
    published="",
)
_VOC20 = Benchmark(
    key="voc20",
    name="voc_sem_seg_val",
    title="VOC20",
    images="VOC2012/JPEGImages",
    labels="VOC2012/annotations_detectron2/val",
    leave_unlabelled=True,  # the folder has the images of all years and tasks
    classes="voc.txt",
    count=1449,
    prepare="datasets/prepare_voc.py",
    published="voc20",
)
_VOC21 = replace(
    _VOC20,
    key="voc21",
    name="voc_background_sem_seg_val",
    title="VOC21",
    labels="VOC2012/annotations_detectron2_bg/val",
    background="voc_background.txt",
    published="",
)
_PC59 = Benchmark(
    key="pc59",
    name="pcontext_sem_seg_val",
    title="PC59",
    images="pcontext/val/image",
    labels="pcontext/val/label",
    classes="pcontext.txt",
    count=5104,
    prepare="datasets/prepare_pcontext.py",
    published="pc59",
)
_PC60 = replace(
    _PC59,
    key="pc60",
    name="pcontext_background_sem_seg_val",
    title="PC60",
    background="pcontext_background.txt",
    label_map={**_same(59), _UNLABELLED: 59},
    published="",
)
_ADE150 = Benchmark(
    key="ade150",
    name="ade20k_150_sem_seg_val",
    title="ADE150",
    images="ADEChallengeData2016/images/validation",
    labels="ADEChallengeData2016/annotations_detectron2/validation",
    classes="ade20k_150.txt",
    count=2000,
    prepare="datasets/prepare_ade20k_150.py",
    published="ade150",
)
_CITYSCAPES = Benchmark(
    key="cityscapes19",
    name="cityscapes_19_sem_seg_val",
    title="Cityscapes",
    images="cityscapes/leftImg8bit/val/*/*",
    image_suffix="_leftImg8bit",
    labels="cityscapes/gtFine/val/*/*",
    label_suffix="_gtFine_labelTrainIds",
    classes="cityscapes_19.txt",
    count=500,
    prepare="datasets/prepare_cityscapes.py",
)
_ROWS = (
    _COCO_OBJECT,
    replace(
        _COCO_OBJECT,
        key="coco_object_paper",
        name="coco_object_sem_seg_val_paper",
        title="COCO-Object (script)",
        label_map={
            **_same(_THINGS),
            **dict.fromkeys([_THINGS, _UNLABELLED], _THINGS),
            **dict.fromkeys(range(_THINGS + 1, _COCO_CLASSES), _COCO_OBJECT.ignore_label),
        },
        unscored_if_only=_UNLABELLED,
        published="coco_object",
    ),
    _VOC21,
    replace(
        _VOC21,
        key="voc21_paper",
        name="voc_background_sem_seg_val_paper",
        title="VOC21 (script)",
        labels=_VOC20.labels,
        label_map={**_same(20), _UNLABELLED: 20},
        unscored_if_only=_UNLABELLED,
        published="voc21",
    ),
    _PC60,
    replace(
        _PC60,
        key="pc60_paper",
        name="pcontext_background_sem_seg_val_paper",
        title="PC60 (script)",
        unscored_if_only=_UNLABELLED,
        published="pc60",
    ),
    _COCO_STUFF,
    _VOC20,
    _PC59,
    Benchmark(
        key="pc459",
        name="pcontext_full_sem_seg_val",
        title="PC459",
        images="pcontext_full/val/image",
        labels="pcontext_full/val/label",
        ignore_label=65535,
        classes="pcontext_full.txt",
        count=5104,
        prepare="datasets/prepare_pcontext_full.py",
        published="pc459",
    ),
    _ADE150,
    Benchmark(
        key="ade847",
        name="ade20k_full_sem_seg_val",
        title="ADE847",
        images="ADE20K_2021_17_01/images_detectron2/validation",
        labels="ADE20K_2021_17_01/annotations_detectron2/validation",
        ignore_label=65535,
        classes="ade20k_full.txt",
        count=2000,
        prepare="datasets/prepare_ade20k_full.py",
        published="ade847",
    ),
    _CITYSCAPES,
)
BENCHMARKS = {row.key: row for row in _ROWS}
# Detectron2 brings these itself; where it is not there, the names that SAN's users know are to work all the same.
DETECTRON2_NAMES = (
    replace(_ADE150, key="ade150_detectron2", name="ade20k_sem_seg_val", classes="ade20k_150_detectron2.txt"),
    replace(_CITYSCAPES, key="cityscapes19_detectron2", name="cityscapes_fine_sem_seg_val"),
)
