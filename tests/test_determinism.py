"""Results do not depend on the number of workers or the batch size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cliptrase_d2.config import load_config
from cliptrase_d2.data.emoji_scenes.names import CLASSES
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.evaluation.evaluate import evaluate_dataset
from cliptrase_d2.segmenter.build import build_segmenter
from cliptrase_d2.utils.oom_retry import OOMRetry
from tests.command_line import ROOT
from tests.pipeline.tiny_segmenter import VOCABULARY, scene
from tests.san.tiny_san import tiny_san_config

SCENES = ROOT / "datasets" / "emoji_scenes"
BASE = ("MODEL.DEVICE", "cpu", "SEED", "3", "TEST.EXPECTED_RESULTS", "[]", "TEST.SAVE_OVERLAYS", "0")
SETTINGS = {
    "dbscan": (),
    "hdbscan": ("MODEL.CLIPTRASE.CLUSTERING", "hdbscan"),
    "groups by k-means": ("TEST.UNSUPERVISED_GROUPS", "9"),
    "windows": ("TEST.PROTOCOL", "slide", "TEST.WINDOW", "64", "TEST.STRIDE", "48"),
    "tiles": ("TEST.PROTOCOL", "tiles", "TEST.WINDOW", "64", "TEST.STRIDE", "48"),
}
WORKERS_AND_BATCHES = ((0, 1), (0, 3), (1, 16), (2, 3))


@pytest.mark.parametrize("name", SETTINGS)
def test_workers_and_batches_change_no_byte_of_the_results(tmp_path: Path, name: str) -> None:
    folders = SCENES / "images" / "seen_00*", SCENES / "annotations" / "seen_00*"
    dataset = register_dataset(f"determinism_{tmp_path.name}", folders[0], CLASSES, folders[1])
    first: dict[str, bytes] = {}
    for number, (workers, batch) in enumerate(WORKERS_AND_BATCHES):
        output = tmp_path / str(number)
        size = ("DATALOADER.NUM_WORKERS", str(workers), "TEST.BATCH_SIZE", str(batch), "OUTPUT_DIR", str(output))
        cfg = load_config(str(ROOT / "configs" / "emoji_scenes_whole.yaml"), [*BASE, *SETTINGS[name], *size])
        if number in (0, len(WORKERS_AND_BATCHES) - 1):  # the last run has a new model
            model = build_segmenter(cfg)
        evaluate_dataset(cfg, model, dataset, log_table=False)
        paths = [path for path in output.rglob("*.*") if path.suffix != ".npz" and path.name != "timing.json"]
        files = {path.relative_to(output): path.read_bytes() for path in paths}
        first = first or files
        assert len(files) == 11
        assert files == first, (workers, batch)


def test_san_results_do_not_depend_on_other_image_sizes_in_the_batch(tmp_path: Path) -> None:
    model = build_segmenter(tiny_san_config(tmp_path))
    sizes = ((96, 128), (64, 64), (96, 128), (128, 64))
    inputs = [{"image": scene(index, *size), "vocabulary": VOCABULARY} for index, size in enumerate(sizes)]
    for members, outputs in OOMRetry(model)(inputs):
        for member, output in zip(members, outputs, strict=True):
            (alone,) = model([inputs[member]])
            assert torch.equal(output["label_map"], alone["label_map"])
            np.testing.assert_allclose(output["pred_masks"], alone["pred_masks"], atol=1e-5)
