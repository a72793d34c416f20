"""Time an evaluation as a user runs it, against a plain loop of the same files through `encode_image`.

    python tools/benchmark_evaluation.py --sizes 224 336 --batch 1 16 --classes 20 847

The evaluation includes reading, resizing, image tower, method, metrics, progress and report: all of `train_net.py
--eval-only` except loading the model. Every batch also goes through `encode_image` in fp32 right before, so that a slow
moment of the machine affects both. The plain loop is the time of `encode_image` and of waiting for files. Photographs
and labels are random, and so are the weights unless --pretrained names some. Clusters of random weights are
meaningless: clustering runs and is timed, but --masks rectangles of patches are then used as clusters.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip import CLIP
from PIL import Image
from tabulate import tabulate

from cliptrase_d2.clip.open_clip_modules import joint_width
from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import CfgNode, DatasetCatalog
from cliptrase_d2.data.loader import EvaluationLoader
from cliptrase_d2.data.register import register_dataset
from cliptrase_d2.evaluation.evaluate import evaluate_dataset
from cliptrase_d2.evaluation.evaluator import SegmentationEvaluator
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.segmenter.build import build_cliptrase
from cliptrase_d2.utils.interruption import exit_on_interrupt
from cliptrase_d2.utils.tensors import PRECISIONS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to run as a script
from tools.profiling import STAGES, Clock, get_device_title, make_random_text, measure_stages, write_report

PARTS = (*STAGES, "metrics", "reading", "rest")  # of an evaluation's time; reading is the time spent waiting for files
_SHAPE = (375, 500)  # of a photograph of PASCAL VOC


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16", help="an open_clip ViT")
    parser.add_argument("--pretrained", default="", help="tag or file of its weights; none: random")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 336], help="sides of the squares that are seen")
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 847])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=["fp32"], help="of the evaluation")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that read files")
    parser.add_argument("--images", type=int, default=32, help="photographs of one evaluation")
    parser.add_argument("--masks", type=int, default=20, help="masks per image, with random weights")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="file for the numbers as JSON")
    return parser.parse_args()


def draw_dataset(folder: Path, images: int, classes: int) -> str:
    """Write photographs of soft random colours as JPEG and labels in rectangles as PNG; return the data set's name."""
    generator = np.random.default_rng(0)
    name = f"benchmark_{classes}"
    for kind in ("images", "labels"):
        (folder / name / kind).mkdir(parents=True)
    for index in range(images):
        soft = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        photo = np.asarray(soft.resize(_SHAPE[::-1], Image.Resampling.BICUBIC)).astype(np.int16)
        photo = (photo + generator.integers(-20, 20, photo.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(photo).save(folder / name / "images" / f"{index:05d}.jpg", quality=90)
        labels = generator.integers(0, classes, (5, 5)).astype(np.uint16 if classes > 255 else np.uint8)
        size = _SHAPE[0] // 5, _SHAPE[1] // 5
        Image.fromarray(labels.repeat(size[0], 0).repeat(size[1], 1)).save(
            folder / name / "labels" / f"{index:05d}.png"
        )
    names = [f"class {index}" for index in range(classes)]
    ignored = 65535 if classes > 255 else 255
    return register_dataset(
        name, folder / name / "images", names, labels=folder / name / "labels", ignore_label=ignored
    )


def configuration(args: argparse.Namespace, folder: Path, size: int, batch: int, precision: str) -> CfgNode:
    """Return the configuration that a user would write."""
    options = {
        "MODEL.CLIP.NAME": args.model,
        "MODEL.CLIP.PRETRAINED": args.pretrained,
        "MODEL.CLIP.PRECISION": precision,
        "MODEL.CLIPTRASE.ADAPTIVE_DBSCAN": "True",
        "MODEL.DEVICE": args.device,
        "TEST.PROTOCOL": "center_crop",
        "TEST.BATCH_SIZE": str(batch),
        "INPUT.MIN_SIZE_TEST": str(size),
        "DATALOADER.NUM_WORKERS": str(args.workers),
        "OUTPUT_DIR": str(folder / "output"),
    }
    return load_config(None, [part for pair in options.items() for part in pair])


@contextmanager
def run_plain_first(model: CLIPtrase, plain: CLIP, clock: Clock) -> Iterator[None]:
    """Run every batch through `encode_image` first, and time that, reading and metrics."""

    @torch.inference_mode()
    def encode(inputs: Sequence[Mapping[str, Any]]) -> None:
        images = torch.stack([one["image"] for one in inputs])
        plain.encode_image(model.tower.normalise(images.to(model.device))).cpu()

    def read(loader: EvaluationLoader) -> Iterator[list[Any]]:
        batches = iterate(loader)
        while (batch := clock("reading", next, batches, None)) is not None:
            yield batch

    process, iterate = SegmentationEvaluator.process, EvaluationLoader.__iter__
    hook = model.register_forward_pre_hook(lambda _, args: clock("encode_image", encode, *args))
    SegmentationEvaluator.process = lambda *args: clock("metrics", process, *args)  # type: ignore[method-assign]
    EvaluationLoader.__iter__ = read  # type: ignore[method-assign]
    try:
        yield
    finally:
        SegmentationEvaluator.process = process  # type: ignore[method-assign]
        EvaluationLoader.__iter__ = iterate  # type: ignore[method-assign]
        hook.remove()


def measure(
    args: argparse.Namespace, folder: Path, dataset: str, size: int, batch: int, precision: str
) -> dict[str, Any]:
    """Time some evaluations after one that warms up."""
    cfg = configuration(args, folder, size, batch, precision)
    model = build_cliptrase(cfg)
    plain = open_clip.create_model(args.model, force_image_size=size).to(args.device).eval()
    model.text_encoder = lambda words: make_random_text(words, joint_width(model.clip), args.device)  # type: ignore[assignment]
    clock = Clock(args.device)
    rounds = []
    with measure_stages(model, clock, None if args.pretrained else args.masks), run_plain_first(model, plain, clock):
        for _ in range(args.repeats + 1):
            start = time.perf_counter()
            evaluate_dataset(cfg, model, dataset, log_table=False)
            parts = clock.take()
            encode = parts.pop("encode_image")
            whole = time.perf_counter() - start - encode
            rounds.append(parts | {"plain": encode + parts["reading"], "whole": whole})
            rounds[-1]["rest"] = whole - sum(parts.values())
    rounds = rounds[1:]
    return {
        "size": size,
        "batch": batch,
        "classes": int(dataset.split("_")[1]),
        "precision": precision,
        "images_per_second": args.images / statistics.median(r["whole"] for r in rounds),
        "of_plain": statistics.median(r["plain"] / r["whole"] for r in rounds),
        "shares": {part: statistics.median(r.get(part, 0) / r["whole"] for r in rounds) for part in PARTS},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Format images per second, the ratio to the plain loop, and the share of each part in percent."""
    headers = ["size", "batch", "classes", "precision", "images/s", "of plain", *PARTS]
    body = []
    for row in rows:
        numbers = [f"{row['images_per_second']:.2f}", f"{row['of_plain']:.3f}"]
        shares = [f"{100 * row['shares'][part]:.1f}" for part in PARTS]
        body.append([row["size"], row["batch"], row["classes"], row["precision"], *numbers, *shares])
    return tabulate(body, headers=headers, disable_numparse=True, stralign="right")


def main() -> None:
    """Measure every combination, print the table and write the JSON."""
    args = parse_arguments()
    logging.getLogger("cliptrase_d2").setLevel(logging.ERROR)
    rows = []
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        for classes in args.classes:
            dataset = draw_dataset(folder, args.images, classes)
            rows += [
                measure(args, folder, dataset, size, batch, precision)
                for precision in args.precision
                for size in args.sizes
                for batch in args.batch
            ]
            DatasetCatalog.remove(dataset)
    weights = args.pretrained or f"random weights, {args.masks} imposed masks"
    name = get_device_title(args.device)
    print(f"{args.model}, {weights}; {name}; {args.images} images, {args.workers} readers; median of {args.repeats}")
    print("of plain: images per second, relative to encode_image in fp32; then percent of the evaluation's time")
    print(table(rows))
    write_report(args.output, args.device, vars(args), rows=rows)


if __name__ == "__main__":
    with exit_on_interrupt():
        main()
