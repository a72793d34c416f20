"""Training images labelled by CLIPtrase, for the iterations without labels that come before a training."""

from __future__ import annotations

import logging
import time
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from cliptrase_d2.d2 import CfgNode, comm
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.loader import list_records
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.data.register import get_rendering
from cliptrase_d2.data.rendering import Rendering
from cliptrase_d2.evaluation.predictions import CLASSES, PredictionEncoding
from cliptrase_d2.san.training_data import TrainingDataset, sample_records
from cliptrase_d2.segmenter.build import build_cliptrase, load_cliptrase_config
from cliptrase_d2.utils.atomic_files import atomic_write
from cliptrase_d2.utils.errors import InputError, name_arguments

logger = logging.getLogger(__name__)
_SUBFOLDER, _LABELS = "unlabelled", "labels"


def build_unlabelled_config(cfg: CfgNode) -> CfgNode:
    """Return the configuration of the SOLVER.UNLABELLED_ITER iterations, with a folder of their own in OUTPUT_DIR."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.MAX_ITER = cfg.SOLVER.UNLABELLED_ITER
    cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / _SUBFOLDER)
    cfg.freeze()
    return cfg


def check_unlabelled(cfg: CfgNode) -> None:
    """Check the settings of the iterations without labels before anything is computed.

    Raises:
        InputError: a negative number, no teacher, or one that labels parts of images.
    """
    count = cfg.SOLVER.UNLABELLED_ITER
    if count < 0:
        raise InputError("SOLVER.UNLABELLED_ITER", count, "Set a number of iterations.", allowed="0 or more")
    if count:
        _load_teacher_config(cfg)
        _list_images(cfg)


def build_unlabelled_dataset(cfg: CfgNode, labelled: TrainingDataset, *, seed: int, resume: bool) -> TrainingDataset:
    """Label the images that the iterations read, and return their data set.

    The teacher, MODEL.SAN.TEACHER, chooses among the classes of the training. No label file is read. Each process
    labels a part of the images.

    Args:
        cfg: from `build_unlabelled_config`; the label maps are written to its OUTPUT_DIR.
        labelled: the data set of the training.
        seed: of the training.
        resume: whether to keep existing label maps.
    Raises:
        InputError: an image or a setting cannot be used.
    """
    folder, images = Path(cfg.OUTPUT_DIR) / _LABELS, _list_images(cfg)
    records = [
        {"file_name": file_name, "sem_seg_file_name": str(folder / f"{index:07d}.png")}
        for index, (_, file_name) in enumerate(images)
    ]
    stream = sample_records(len(records), seed=seed, start=0, batch=1)
    needed = sorted({index for index, _ in islice(stream, cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH)})
    own = needed[comm.get_rank() :: comm.get_world_size()]
    missing = [index for index in own if not (resume and Path(records[index]["sem_seg_file_name"]).is_file())]
    rule = LabelRule(len(labelled.vocabulary.classes), 255 if len(labelled.vocabulary.classes) <= 255 else 65535)
    if missing:
        encoding = PredictionEncoding.build(rule, CLASSES, cfg.MODEL.SAN.TEACHER)
        _write_labels(cfg, [(images[index][0], records[index]) for index in missing], labelled, encoding)
    comm.synchronize()
    rendering = get_rendering(images[0][0]).over(Rendering(cfg.INPUT.BANDS, cfg.INPUT.STRETCH))
    return TrainingDataset(records, labelled.augmentation, labelled.vocabulary, rule, cfg.INPUT.MAX_PIXELS, rendering)


def _load_teacher_config(cfg: CfgNode) -> CfgNode:
    """Return the configuration MODEL.SAN.TEACHER, on the device of the training.

    Raises:
        InputError: there is none, it cannot be read, or it is not CLIPtrase for whole images.
    """
    key, name = "MODEL.SAN.TEACHER", cfg.MODEL.SAN.TEACHER
    if not name:
        got = f"empty with SOLVER.UNLABELLED_ITER {cfg.SOLVER.UNLABELLED_ITER}"
        raise InputError(key, got, "Name a configuration of CLIPtrase, which labels the images.")
    teacher = load_cliptrase_config(name, key, cfg.MODEL.DEVICE)
    if teacher.TEST.PROTOCOL == "center_crop":
        raise InputError(key, f"{name} labels only a crop of each image", "Set its TEST.PROTOCOL to whole or slide.")
    return teacher


def _list_images(cfg: CfgNode) -> list[tuple[str, str]]:
    """Return the data set and the file of each image of DATASETS.UNLABELLED, or else of DATASETS.TRAIN.

    Raises:
        InputError: an unknown data set, or data sets whose values become colours in different ways.
    """
    names = cfg.DATASETS.UNLABELLED or cfg.DATASETS.TRAIN
    with name_arguments({"dataset_name": "DATASETS.UNLABELLED"}):
        for name in names:
            if get_rendering(name) != get_rendering(names[0]):
                got = f"{name!r} and {names[0]!r} have different bands or stretch"
                raise InputError("DATASETS.UNLABELLED", got, "Name one of them.")
        return [(name, record["file_name"]) for name in names for record in list_records(name, "stop")]


@torch.inference_mode()
def _write_labels(
    cfg: CfgNode, images: list[tuple[str, dict[str, str]]], labelled: TrainingDataset, encoding: PredictionEncoding
) -> None:
    """Predict and write the label maps of this process's images."""
    teacher, start = _load_teacher_config(cfg), time.perf_counter()
    model = build_cliptrase(teacher)
    mappers = {name: EvaluationMapper(teacher, name) for name in dict(images)}
    options: dict[str, Any] = {"vocabulary": labelled.vocabulary, "output_masks": False, "output_sem_seg": False}
    if teacher.TEST.THRESHOLD:
        options["threshold"] = teacher.TEST.THRESHOLD
    is_quiet = None if comm.is_main_process() else True
    for name, record in tqdm(images, desc="Labels by CLIPtrase", unit="image", mininterval=10.0, disable=is_quiet):
        inputs = mappers[name]({"file_name": record["file_name"]})
        label_map = model([{**inputs, **options}])[0]["label_map"].cpu().numpy()
        picture = Image.fromarray(encoding.encode(label_map))
        atomic_write(Path(record["sem_seg_file_name"]), partial(picture.save, format="PNG"))
    seconds = time.perf_counter() - start
    logger.info("%s labelled %d images in %.0f seconds", cfg.MODEL.SAN.TEACHER, len(images), seconds)
