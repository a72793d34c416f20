"""Where the time goes: every stage against the plain `encode_image` of the same model, in one run.

    python tools/benchmark.py --sizes 224 336 640 --classes 171 847

Speed does not depend on what the weights are worth, so they are random unless --pretrained names some. What
random weights cluster says nothing about photographs: clustering is run and timed, but blocks of patches, --masks
of them, are what goes on to be made into masks and named.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from tabulate import tabulate
from torch import Tensor

from cliptrase_d2.clip.open_clip_modules import joint_width
from cliptrase_d2.config import load_config
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.refinement import REFINEMENTS
from cliptrase_d2.segmenter.build import build_cliptrase
from cliptrase_d2.utils.interruption import clean_end
from cliptrase_d2.utils.precision import PRECISIONS
from cliptrase_d2.vocabulary import Vocabulary
from tools.profiling import STAGES, Clock, blocks, device_title, peak_megabytes, random_text, timed, write_report


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16", help="an open_clip ViT")
    parser.add_argument("--pretrained", default="", help="tag or file of its weights; none: random")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 336, 640], help="sides of square images")
    parser.add_argument("--classes", type=int, nargs="+", default=[171, 847])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--refinement", choices=REFINEMENTS, default="none", help="default: none")
    parser.add_argument("--masks", type=int, default=20, help="masks per image, with random weights")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, help="file for the numbers as JSON")
    return parser.parse_args()


def build(args: argparse.Namespace) -> CLIPtrase:
    """The model as a configuration would build it."""
    options = {
        "MODEL.CLIP.NAME": args.model,
        "MODEL.CLIP.PRETRAINED": args.pretrained,
        "MODEL.CLIP.PRECISION": args.precision,
        "MODEL.CLIPTRASE.ADAPTIVE_DBSCAN": "True",
        "MODEL.CLIPTRASE.REFINEMENT": args.refinement,
        "MODEL.DEVICE": args.device,
    }
    return build_cliptrase(load_config(None, [part for pair in options.items() for part in pair]))


def measure(model: CLIPtrase, args: argparse.Namespace, size: int, classes: int) -> dict[str, Any]:
    """Time the model and `encode_image` in turn, so that a slow moment of the machine hits both."""
    images = torch.randint(0, 256, (args.batch, 3, size, size), generator=torch.Generator().manual_seed(0))
    normalised = model.tower.normalise(images.to(args.device))
    vocabulary = Vocabulary.parse([f"class {index}" for index in range(classes)])
    text = random_text(vocabulary, joint_width(model.clip), args.device)
    # As the loader hands them over: what is done to them before the tower is part of an image's time.
    inputs = [
        {"image": image.to(torch.uint8), "vocabulary": vocabulary, "output_masks": False}  # as in an evaluation
        for image in images
    ]
    precision = PRECISIONS[args.precision]

    # open_clip's own model at this size: as it is, encode_image takes images of the trained size alone.
    plain = open_clip.create_model(args.model, force_image_size=size).to(args.device).eval()

    def encode_image() -> Tensor:
        with nullcontext() if precision == torch.float32 else torch.autocast(args.device, precision):
            return plain.encode_image(normalised)

    clock = Clock(args.device)
    side = size // model.tower.patch_size
    clusters = None if args.pretrained else partial(blocks, side=side, count=args.masks)
    model.text_encoder = lambda _: text  # type: ignore[assignment]
    with torch.inference_mode(), timed(model, clock, clusters):
        rounds = []
        for _ in range(args.repeats + 1):
            clock("encode_image", encode_image)
            clock("whole", model, inputs)
            rounds.append(clock.take())
        peak = {"encode_image": peak_megabytes(args.device, encode_image)}
        peak["whole"] = peak_megabytes(args.device, lambda: model(inputs))
    return summary(rounds[1:], args.batch) | {"size": size, "classes": classes, "peak_megabytes": peak}


def summary(rounds: list[dict[str, float]], batch: int) -> dict[str, Any]:
    """Medians over the rounds; the first, which warms up, is not among them."""
    milliseconds = {name: 1000 * statistics.median(r[name] for r in rounds) / batch for name in rounds[0]}
    return {
        "milliseconds_per_image": milliseconds,
        "images_per_second": 1000 / milliseconds["whole"],
        "whole_over_encode_image": statistics.median(r["whole"] / r["encode_image"] for r in rounds),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Milliseconds per image of every stage, and the ratio that counts."""
    headers = ["size", "classes", "encode_image", *STAGES, "whole", "whole / encode", "images/s", "peak MB", "plain MB"]
    body = []
    for row in rows:
        milliseconds, peak = row["milliseconds_per_image"], row["peak_megabytes"]
        times = [f"{milliseconds[name]:.1f}" for name in ("encode_image", *STAGES, "whole")]
        ratio = [f"{row['whole_over_encode_image']:.3f}", f"{row['images_per_second']:.2f}"]
        memory = ["-" if peak[name] is None else f"{peak[name]:.0f}" for name in ("whole", "encode_image")]
        body.append([row["size"], row["classes"], *times, *ratio, *memory])
    return tabulate(body, headers=headers, disable_numparse=True, stralign="right")


def main() -> None:
    """Measure every size with every number of classes, print the table, write the JSON."""
    args = parse_arguments()
    model = build(args)
    rows = [measure(model, args, size, classes) for size in args.sizes for classes in args.classes]
    weights = args.pretrained or f"random weights, {args.masks} imposed masks"
    name = device_title(args.device)
    print(f"{args.model}, {weights}; {args.precision}, batch {args.batch}, {name}; median of {args.repeats}")
    print("milliseconds per image; peak MB above the model and its inputs")
    print(table(rows))
    write_report(args.output, args.device, vars(args), rows=rows)


if __name__ == "__main__":
    with clean_end():
        main()
