"""The two benchmarks of the paper's Table 5, whose 27 classes are coarse: COCO-Stuff's and Cityscapes'.

Their protocol is that of PiCIE (https://arxiv.org/abs/2103.17070): centre crops of 320 pixels, one confusion matrix.
Both read the files that the scripts of their finer forms make. Two names of STEGO's list of COCO's classes stand in it
twice; here the stuff of each pair is "food-stuff" and "furniture-stuff", for equal prompts would tie.
"""

from __future__ import annotations

from dataclasses import replace

from cliptrase_d2.data.benchmarks import BENCHMARKS, Benchmark, vocabulary_file
from cliptrase_d2.data.training_sets import TRAINING_SETS

_CITYSCAPES_CLASSES = 27
_FIRST_CLASS = 7  # lower numbers of the official labels are of the car itself, of borders and of void

_ROWS = (
    replace(
        BENCHMARKS["coco_stuff171"],
        key="coco27",
        name="coco_27_sem_seg_val",
        title="COCO-Stuff 27",
        image_list="coco27_images.txt",
        classes="coco27.txt",
        label_map=dict(enumerate(map(int, vocabulary_file("coco27_of_171.txt").read_text(encoding="utf-8").split()))),
        count=2175,
        published="",
    ),
    replace(
        BENCHMARKS["cityscapes19"],
        key="cityscapes27",
        name="cityscapes_27_sem_seg_val",
        title="Cityscapes 27",
        label_suffix="_gtFine_labelIds",
        classes="cityscapes27.txt",
        label_map={
            **dict.fromkeys(range(_FIRST_CLASS), BENCHMARKS["cityscapes19"].ignore_label),
            **{_FIRST_CLASS + index: index for index in range(_CITYSCAPES_CLASSES)},
        },
    ),
)
UNSUPERVISED_BENCHMARKS = {row.key: row for row in _ROWS}


def known_benchmarks() -> dict[str, Benchmark]:
    """All benchmarks by key, first those of words; those to train on last."""
    return BENCHMARKS | UNSUPERVISED_BENCHMARKS | TRAINING_SETS
