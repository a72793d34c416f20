"""Measure the cost of every method against `encode_image` in one run, and write `methods/measured.csv`.

    OMP_NUM_THREADS=1 python tools/measure_methods.py
    OMP_NUM_THREADS=1 python tools/measure_methods.py --batch 1 --methods textregion lposs proxyclip corrclip
    python tools/measure_methods.py --methods gem naclip --no-write

The methods take turns with `encode_image` of the same model. On a CPU, processor seconds are counted, which other
processes hardly change. Weights are random, also those of a second vision model, and rectangles of patches replace
their meaningless clusters. Methods of whole images run with the published protocol, in one window. The numbers on the
emoji scenes are those of RESULTS.md, which `tools/make_results_table.py` writes.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import open_clip
import torch
from tabulate import tabulate

from cliptrase_d2.clip.open_clip_modules import joint_width
from cliptrase_d2.config import load_config
from cliptrase_d2.methods import METHOD_CLASSES, ImageMethod
from cliptrase_d2.methods.catalog import METHODS, find_methods
from cliptrase_d2.methods.published import MEASURED, MeasuredMethod, read_published_methods
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.segmenter.build import build_cliptrase, prepare_segmenter
from cliptrase_d2.utils.atomic_files import atomic_write_text
from cliptrase_d2.utils.interruption import exit_on_interrupt
from cliptrase_d2.vocabulary import Vocabulary

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to run as a script
from tools.make_results_table import FILE, TABLES
from tools.profiling import Clock, get_device_title, make_random_text, measure_stages

Seconds = dict[str, list[float]]
COLUMNS = MeasuredMethod._fields
_PLAIN = "encode_image"


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    zoo = [name for name, facts in read_published_methods().items() if not facts.extra_models]
    what = "default: all that need no model besides CLIP"
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS | find_methods(), default=zoo, metavar="METHOD", help=what
    )
    parser.add_argument("--model", default="ViT-B-16", help="an open_clip ViT")
    parser.add_argument("--size", type=int, default=224, help="side of square images (default 224)")
    parser.add_argument("--classes", type=int, default=21, help="number of classes (default 21)")
    parser.add_argument("--batch", type=int, default=16, help="images per step (default 16)")
    parser.add_argument("--masks", type=int, default=20, help="masks per image of methods with clusters (default 20)")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each method (default 7)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-write", action="store_true", help="only print the table")
    return parser.parse_args()


def build(args: argparse.Namespace, method: str, model: CLIPtrase | None = None) -> CLIPtrase:
    """Build the model with a method of the catalog, or give it to an existing model."""
    settings = (METHODS | find_methods())[method].settings
    is_whole = issubclass(METHOD_CLASSES[settings["method"]], ImageMethod)
    options = {
        "MODEL.CLIP.NAME": args.model,
        "MODEL.CLIP.PRETRAINED": "",
        "MODEL.CLIPTRASE.ADAPTIVE_DBSCAN": "True",
        "MODEL.VISION.WEIGHTS": "",
        "MODEL.DEVICE": args.device,
        "TEST.PROTOCOL": "published" if is_whole else "whole",
        "TEST.WINDOW": "0",
        **{f"MODEL.CLIPTRASE.{key.upper()}": value for key, value in settings.items()},
        **({"MODEL.CLIPTRASE.METHOD_OPTIONS.crop_size": str(args.size)} if method == "textregion" else {}),
    }
    cfg = load_config(None, [part for pair in options.items() for part in pair])
    return build_cliptrase(cfg) if model is None else prepare_segmenter(cfg, model)


def measure(args: argparse.Namespace) -> Seconds:
    """Return the seconds of every round by method, and those of `encode_image`; the first round warms up."""
    model = build(args, args.methods[0])
    images = torch.randint(0, 256, (args.batch, 3, args.size, args.size), generator=torch.Generator().manual_seed(0))
    normalised = model.tower.normalise(images.to(args.device))
    vocabulary = Vocabulary.parse([f"class {index}" for index in range(args.classes)])
    text = make_random_text(vocabulary, joint_width(model.clip), args.device)
    model.text_encoder = lambda _: text  # type: ignore[assignment]
    inputs = [
        {
            **{"image": image.to(torch.uint8), "photograph": image.to(torch.uint8), "vocabulary": vocabulary},
            **{"output_masks": False, "output_sem_seg": False},
        }
        for image in images
    ]
    plain = open_clip.create_model(args.model, force_image_size=args.size).to(args.device).eval()
    seconds: Seconds = {name: [] for name in (_PLAIN, *args.methods)}
    with torch.inference_mode():
        for _ in range(args.rounds + 1):
            seconds[_PLAIN].append(_time(args.device, lambda: plain.encode_image(normalised)))
            for method in args.methods:
                build(args, method, model)
                with measure_stages(model, Clock(args.device), args.masks):  # building sets the masks of the method
                    seconds[method].append(_time(args.device, lambda: model(inputs)))
    return {method: values[1:] for method, values in seconds.items()}


def summarize(seconds: Mapping[str, Sequence[float]], batch: int) -> dict[str, tuple[float, float]]:
    """Return milliseconds per image and the ratio to `encode_image` by method, both medians over the rounds."""
    return {
        method: (
            1000 * statistics.median(values) / batch,
            statistics.median(one / plain for one, plain in zip(values, seconds[_PLAIN], strict=True)),
        )
        for method, values in seconds.items()
        if method != _PLAIN
    }


def read_emoji_numbers(page: str) -> dict[str, dict[str, str]]:
    """Return the columns of ``measured.csv`` that are in RESULTS.md, by method."""
    numbers: dict[str, dict[str, str]] = {}
    whole, slide = {"pAcc": "emoji_pacc", "mIoU": "emoji_miou"}, {"mIoU": "emoji_seed2_slide_miou"}
    for table, metrics in (("baselines", whole), ("seed2_slide", slide)):
        lines = page.partition(f"\n## {TABLES[table].title}\n")[2].partition("\n## ")[0].splitlines()
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        for row in rows[2:]:
            cells = dict(zip(rows[0], row, strict=True))
            numbers.setdefault(cells["method"], {}).update({name: cells[key] for key, name in metrics.items()})
    return numbers


def format_csv(
    costs: Mapping[str, tuple[float, float]], device: str, emoji: Mapping[str, Mapping[str, str]], old: str
) -> str:
    """Return the text of ``measured.csv``. Costs that were not measured now keep their values.

    Args:
        costs: as `summarize` returns them.
        device: of the costs.
        emoji: as `read_emoji_numbers` returns them.
        old: text of the file.
    """
    rows = {row["method"]: row for row in csv.DictReader(old.splitlines())}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    known = costs.keys() | rows.keys() | emoji.keys()
    for method in filter(known.__contains__, read_published_methods()):
        row = {"method": method, **rows.get(method, {}), **emoji.get(method, {})}
        if method in costs and device == "cpu":
            row |= {"cpu_ms": f"{costs[method][0]:.0f}", "cpu_ratio": f"{costs[method][1]:.2f}"}
        elif method in costs:
            row |= {"gpu_ms": f"{costs[method][0]:.2f}"}
        writer.writerow(row)
    return text.getvalue()


def main() -> None:
    """Measure, print the table, and write the file."""
    args = parse_arguments()
    costs = summarize(measure(args), args.batch)
    print(f"{args.model}, {args.size} pixels, batch {args.batch}, {args.classes} classes, random weights", end="; ")
    print(f"{get_device_title(args.device)}; median of {args.rounds}")
    rows = [[name, f"{time:.1f}", f"{ratio:.3f}", f"{1 / ratio:.2f}"] for name, (time, ratio) in costs.items()]
    print(tabulate(rows, ["method", "ms per image", "total / encode_image", "encode_image / total"], stralign="right"))
    if not args.no_write:
        emoji = read_emoji_numbers(FILE.read_text(encoding="utf-8"))
        old = MEASURED.read_text(encoding="utf-8") if MEASURED.exists() else ""
        atomic_write_text(MEASURED, format_csv(costs, args.device, emoji, old))


def _time(device: str, job: Callable[[], object]) -> float:
    """Return the processor seconds of a job on a CPU, or its seconds on another device."""
    if device == "cpu":
        start = time.process_time()
        job()
        return time.process_time() - start
    clock = Clock(device)
    clock("job", job)
    return clock.take()["job"]


if __name__ == "__main__":
    with exit_on_interrupt():
        main()
