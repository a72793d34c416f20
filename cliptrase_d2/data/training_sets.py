"""The data set that the published SAN is trained on; `benchmarks.py` has those to evaluate on."""

from __future__ import annotations

from dataclasses import replace

from cliptrase_d2.data.benchmarks import BENCHMARKS, Benchmark

_ROWS = (
    replace(
        BENCHMARKS["coco_stuff171"],
        key="coco_stuff171_train",
        name="coco_2017_train_stuff_sem_seg",
        title="COCO-Stuff, to train on",
        images="coco/train2017",
        labels="coco/stuffthingmaps_detectron2/train2017",
        count=118287,
        prepare="datasets/prepare_coco_stuff_train.py",
        published="",
    ),
)
TRAINING_SETS: dict[str, Benchmark] = {row.key: row for row in _ROWS}
