"""The benchmarks: one row for each data set of the paper's Tables 3 to 5, for Cityscapes and for SAN's training.

If the published script departs from the usual protocol, a benchmark has two rows: the usual one, and one whose key ends
in ``_paper``. They differ in the meaning of the labels:

- COCO-Object uses the files of COCO-Stuff. Usual (GroupViT, SCLIP): all stuff and all unlabelled pixels are background.
  Script: unlabelled pixels and the first stuff class, "banner", are background; other stuff is not scored.
- VOC21. Usual (mmsegmentation): void borders are not scored. Script: it reads the files of VOC20, in which borders and
  background have the same value, so both are background.
- PC60. In both rows everything outside the 59 classes is background.
- In all three, the script leaves out an image whose crop has no labelled pixel.

The script's prompts for the background of VOC21 have two typos, a missing comma and a repeated word. They are corrected
here.

The two benchmarks of Table 5 have 27 coarse classes and follow the protocol of PiCIE (https://arxiv.org/abs/2103.17070):
centre crops of 320 pixels, one confusion matrix. They read the files of the finer benchmarks. STEGO's list of COCO's
classes has two names twice. Here the stuff classes of these pairs are "food-stuff" and "furniture-stuff", because equal
prompts would tie.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cliptrase_d2.class_files import read_class_file
from cliptrase_d2.data.custom import DatasetSpec

ROOT_VARIABLE = "DETECTRON2_DATASETS"
# The folder of a clone with the scripts and the emoji scenes; in an installed package, there is none.
CLONE = Path(__file__).resolve().parents[2] / "datasets"
_UNLABELLED = 255  # in every 8-bit file
# Attributes of `Benchmark` that `DatasetSpec` has too, with the same meaning.
_SPEC_OPTIONS = (
    *("ignore_label", "label_map", "image_suffix", "label_suffix", "leave_unlabelled", "unscored_if_only"),
    "shares_words",
)


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        key: name in this project's configurations and tables.
        name: registered name, that of SAN and CLIPtrase if they have one.
        title: name in the paper.
        images: folder or pattern, relative to the folder of all data sets.
        labels: the same for the labels.
        classes: file in ``data/vocabularies``.
        count: image and label pairs of the complete data set.
        prepare: script that makes the folders from the official archives.
        background: file of background prompts in ``data/vocabularies``; "" for no background class.
        image_list: file of stems in ``data/vocabularies``; "" for all images of the folder.
        ignore_label, label_map, image_suffix, label_suffix, leave_unlabelled, unscored_if_only, shares_words: as in
            ``DatasetSpec``.
    """

    key: str
    name: str
    title: str
    images: str
    labels: str
    classes: str
    count: int
    prepare: str
    background: str = ""
    image_list: str = ""
    ignore_label: int = 255
    label_map: Mapping[int, int] | None = None
    image_suffix: str = ""
    label_suffix: str = ""
    leave_unlabelled: bool = False
    unscored_if_only: int | None = None
    shares_words: bool = False

    def spec(self, root: Path) -> DatasetSpec:
        """Return the description of the data set. Its files need not exist.

        Args:
            root: folder of all data sets.
        """
        options = {name: getattr(self, name) for name in _SPEC_OPTIONS}
        return DatasetSpec(
            self.name,
            root / self.images,
            read_class_file(get_vocabulary_path(self.classes)),
            root / self.labels,
            background=read_class_file(get_vocabulary_path(self.background)) if self.background else (),
            image_list=get_vocabulary_path(self.image_list) if self.image_list else None,
            if_missing=f"Run '{self.prepare_command(root)}', or set {ROOT_VARIABLE} to the folder of your data sets.",
            **options,
        )

    def prepare_command(self, root: Path) -> str:
        """Return the command that prepares the data set. Without a clone, the package has the same script."""
        name = Path(self.prepare).stem.removeprefix("prepare_")
        return f"python {self.prepare} {root}" if CLONE.is_dir() else f"cliptrase prepare {name} {root}"


def get_benchmark_root() -> Path:
    """Return the folder of all data sets: Detectron2's DETECTRON2_DATASETS, by default ``datasets``."""
    return Path(os.environ.get(ROOT_VARIABLE, "datasets")).expanduser()


def get_all_benchmarks() -> dict[str, Benchmark]:
    """Return all benchmarks by their keys: those with a vocabulary first, the training set last."""
    return BENCHMARKS | UNSUPERVISED_BENCHMARKS | TRAINING_SETS


def find_benchmark(name: str) -> Benchmark | None:
    """Return the benchmark with a registered name, or None."""
    return next((row for row in (*BENCHMARKS.values(), *PUBLISHED_WORDS) if row.name == name), None)


def get_vocabulary_path(name: str) -> Path:
    """Return the path of a list in ``data/vocabularies``: classes, prompts, numbers or stems, one per line."""
    return Path(__file__).parent / "vocabularies" / name


def read_numbers(name: str) -> list[int]:
    """Read a list of numbers in ``data/vocabularies``."""
    return [int(line) for line in get_vocabulary_path(name).read_text(encoding="ascii").split()]


def _by_key(*rows: Benchmark) -> dict[str, Benchmark]:
    return {row.key: row for row in rows}


def _map_to_self(count: int) -> dict[int, int]:
    return {index: index for index in range(count)}


_THINGS, _COCO_CLASSES = 80, 171

_COCO_STUFF = Benchmark(
    key="coco_stuff171",
    name="coco_2017_test_stuff_sem_seg",  # it is val2017, despite its name
    title="COCO-Stuff",
    images="coco/val2017",
    labels="coco/stuffthingmaps_detectron2/val2017",
    classes="coco_stuff.txt",
    count=5000,
    prepare="datasets/prepare_coco_stuff.py",
)
_COCO_OBJECT = replace(
    _COCO_STUFF,
    key="coco_object",
    name="coco_object_sem_seg_val",
    title="COCO-Object",
    classes="coco_object.txt",
    background="coco_object_background.txt",
    label_map={**_map_to_self(_THINGS), **dict.fromkeys([*range(_THINGS, _COCO_CLASSES), _UNLABELLED], _THINGS)},
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
)
_VOC21 = replace(
    _VOC20,
    key="voc21",
    name="voc_background_sem_seg_val",
    title="VOC21",
    labels="VOC2012/annotations_detectron2_bg/val",
    background="voc_background.txt",
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
)
_PC60 = replace(
    _PC59,
    key="pc60",
    name="pcontext_background_sem_seg_val",
    title="PC60",
    background="pcontext_background.txt",
    label_map={**_map_to_self(59), _UNLABELLED: 59},
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
BENCHMARKS = _by_key(
    _COCO_OBJECT,
    replace(
        _COCO_OBJECT,
        key="coco_object_paper",
        name="coco_object_sem_seg_val_paper",
        title="COCO-Object (script)",
        label_map={
            **_map_to_self(_THINGS),
            **dict.fromkeys([_THINGS, _UNLABELLED], _THINGS),
            **dict.fromkeys(range(_THINGS + 1, _COCO_CLASSES), _COCO_OBJECT.ignore_label),
        },
        unscored_if_only=_UNLABELLED,
    ),
    _VOC21,
    replace(
        _VOC21,
        key="voc21_paper",
        name="voc_background_sem_seg_val_paper",
        title="VOC21 (script)",
        labels=_VOC20.labels,
        label_map={**_map_to_self(20), _UNLABELLED: 20},
        unscored_if_only=_UNLABELLED,
    ),
    _PC60,
    replace(
        _PC60,
        key="pc60_paper",
        name="pcontext_background_sem_seg_val_paper",
        title="PC60 (script)",
        unscored_if_only=_UNLABELLED,
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
    ),
    _CITYSCAPES,
)
# Detectron2 registers these itself. Without it, the names that users of SAN know must work as well.
DETECTRON2_NAMES = (
    replace(_ADE150, key="ade150_detectron2", name="ade20k_sem_seg_val", classes="ade20k_150_detectron2.txt"),
    replace(_CITYSCAPES, key="cityscapes19_detectron2", name="cityscapes_fine_sem_seg_val"),
)


def _with_words(row: Benchmark, owner: str, classes: str, background: str = "") -> Benchmark:
    """Return a benchmark with the words of another method. Files and labels are the same."""
    return replace(
        row,
        key=f"{row.key}_{owner}",
        name=f"{row.name}_{owner}",
        title=f"{row.title} (words of {owner})",
        classes=classes,
        background=background or row.background,
        shares_words=True,  # "bed" is a class of COCO-Object and a word of its background
    )


# NACLIP, SC-CLIP, DIH-CLIP and ResCLIP share the words of SCLIP. ClearCLIP and SFP have some of their own.
# TextRegion has those of ProxyCLIP, whose VOC20 is ClearCLIP's. LPOSS has the class names of the other benchmarks.
# CorrCLIP has its own everywhere.
PUBLISHED_WORDS = (
    _with_words(_VOC20, "sclip", "voc_sclip.txt"),
    _with_words(_VOC21, "sclip", "voc_sclip.txt", "sclip_background.txt"),
    _with_words(_PC59, "sclip", "pcontext_sclip.txt"),
    _with_words(_PC60, "sclip", "pcontext_sclip.txt"),
    _with_words(_COCO_OBJECT, "sclip", "coco_object_sclip.txt", "sclip_background.txt"),
    _with_words(_COCO_STUFF, "sclip", "coco_stuff_sclip.txt"),
    _with_words(_ADE150, "sclip", "ade20k_150_sclip.txt"),
    _with_words(_CITYSCAPES, "sclip", "cityscapes_19_sclip.txt"),
    _with_words(_VOC20, "clearclip", "voc_clearclip.txt"),
    _with_words(_VOC21, "clearclip", "voc_clearclip.txt", "pcontext_background.txt"),  # the word "background"
    _with_words(_COCO_OBJECT, "clearclip", "coco_object.txt", "pcontext_background.txt"),
    _with_words(_VOC21, "proxyclip", "voc_clearclip.txt", "sclip_background.txt"),
    _with_words(_COCO_OBJECT, "proxyclip", "coco_object.txt", "proxyclip_background.txt"),
    _with_words(_VOC20, "sfp", "voc_sfp.txt"),
    _with_words(_VOC21, "sfp", "voc_sfp.txt", "sclip_background.txt"),
    _with_words(_CITYSCAPES, "sfp", "cityscapes_19_sfp.txt"),
    _with_words(_VOC20, "lposs", "voc_lposs.txt"),
    _with_words(_VOC21, "lposs", "voc_lposs.txt", "sclip_background.txt"),
    _with_words(_PC59, "lposs", "pcontext_lposs.txt"),
    _with_words(_PC60, "lposs", "pcontext_lposs.txt"),
    _with_words(_COCO_OBJECT, "lposs", "coco_object_lposs.txt", "proxyclip_background.txt"),
    _with_words(_VOC20, "corrclip", "voc_corrclip.txt"),
    _with_words(_VOC21, "corrclip", "voc_corrclip.txt", "sclip_background.txt"),
    _with_words(_PC59, "corrclip", "pcontext_corrclip.txt"),
    _with_words(_PC60, "corrclip", "pcontext_corrclip.txt"),
    _with_words(_COCO_OBJECT, "corrclip", "coco_object_corrclip.txt", "corrclip_background.txt"),
    _with_words(_COCO_STUFF, "corrclip", "coco_stuff_corrclip.txt"),
    _with_words(_ADE150, "corrclip", "ade20k_150_corrclip.txt"),
    _with_words(_CITYSCAPES, "corrclip", "cityscapes_19_sfp.txt"),
)
UNSUPERVISED_BENCHMARKS = _by_key(
    replace(
        _COCO_STUFF,
        key="coco27",
        name="coco_27_sem_seg_val",
        title="COCO-Stuff 27",
        image_list="coco27_images.txt",
        classes="coco27.txt",
        label_map=dict(enumerate(read_numbers("coco27_of_171.txt"))),
        count=2175,
    ),
    replace(
        _CITYSCAPES,
        key="cityscapes27",
        name="cityscapes_27_sem_seg_val",
        title="Cityscapes 27",
        label_suffix="_gtFine_labelIds",
        classes="cityscapes27.txt",
        # The official numbers 0 to 6 are the car itself, borders and void.
        label_map=dict.fromkeys(range(7), _CITYSCAPES.ignore_label) | {7 + index: index for index in range(27)},
    ),
)
# The training set of the published SAN.
TRAINING_SETS = _by_key(
    replace(
        _COCO_STUFF,
        key="coco_stuff171_train",
        name="coco_2017_train_stuff_sem_seg",
        title="COCO-Stuff, to train on",
        images="coco/train2017",
        labels="coco/stuffthingmaps_detectron2/train2017",
        count=118287,
        prepare="datasets/prepare_coco_stuff_train.py",
    ),
)
