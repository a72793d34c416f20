"""Time every stage of the method against the plain `encode_image` of the same model, in one run.

    python tools/benchmark.py --sizes 224 336 640 --classes 171 847
    python tools/benchmark.py --method maskclip
    OMP_NUM_THREADS=1 python tools/benchmark.py --text-words 847

Weights are random unless --pretrained names some, since speed does not depend on them. Clusters of random weights are
meaningless: clustering runs and is timed, but --masks rectangles of patches are then used as clusters.

With --text-words, only the encoding of text is measured: the classes of ADE20K-847 in ImageNet's 80 templates, with
prefixes that the prompts of a template share, and with whole prompts. Both take turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor

import cliptrase_d2
from cliptrase_d2.class_files import read_class_file
from cliptrase_d2.clip.open_clip_modules import blocks, end_positions, joint_width, run_block, text_tower
from cliptrase_d2.clip.prompts import fill
from cliptrase_d2.clip.text import TextEncoder, split_by_length
from cliptrase_d2.clip.tokenizer import get_tokenizer
from cliptrase_d2.config import load_config
from cliptrase_d2.methods.catalog import METHODS
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.refinement import REFINEMENTS
from cliptrase_d2.segmenter.build import build_cliptrase
from cliptrase_d2.utils.interruption import exit_on_interrupt
from cliptrase_d2.utils.tensors import PRECISIONS
from cliptrase_d2.vocabulary import Vocabulary

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to run as a script
from tools.profiling import (
    STAGES,
    Clock,
    get_device_title,
    make_random_text,
    measure_peak_megabytes,
    measure_stages,
    write_report,
)

_ADE20K_FULL = Path(cliptrase_d2.__file__).parent / "data" / "vocabularies" / "ade20k_full.txt"
_WORDS_PER_TURN = 212


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16", help="an open_clip ViT")
    parser.add_argument("--pretrained", default="", help="tag or file of its weights (default: random)")
    parser.add_argument("--method", choices=METHODS, default="cliptrase", metavar="METHOD", help="default: cliptrase")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 336, 640], help="sides of square images")
    parser.add_argument("--classes", type=int, nargs="+", default=[171, 847], help="numbers of classes")
    parser.add_argument("--batch", type=int, default=1, help="images per step")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--refinement", choices=REFINEMENTS, default="none", help="default: none")
    parser.add_argument("--masks", type=int, default=20, help="masks per image, with random weights")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--text-words", type=int, metavar="N", help="measure the encoding of N words, at most 847")
    parser.add_argument("--output", type=Path, help="file for the numbers as JSON")
    return parser.parse_args()


def build(args: argparse.Namespace) -> CLIPtrase:
    """Build the model as from a configuration."""
    options = {
        "MODEL.CLIP.NAME": args.model,
        "MODEL.CLIP.PRETRAINED": args.pretrained,
        "MODEL.CLIP.PRECISION": args.precision,
        "MODEL.CLIPTRASE.ADAPTIVE_DBSCAN": "True",
        "MODEL.CLIPTRASE.REFINEMENT": args.refinement,
        "MODEL.DEVICE": args.device,
        **{f"MODEL.CLIPTRASE.{key.upper()}": value for key, value in METHODS[args.method].settings.items()},
        **{f"MODEL.CLIPTRASE.METHOD_OPTIONS.{key}": str(value) for key, value in METHODS[args.method].options.items()},
    }
    return build_cliptrase(load_config(None, [part for pair in options.items() for part in pair]))


def measure(model: CLIPtrase, args: argparse.Namespace, size: int, classes: int) -> dict[str, Any]:
    """Time the model and `encode_image` in turn, so that a slow moment of the machine affects both."""
    images = torch.randint(0, 256, (args.batch, 3, size, size), generator=torch.Generator().manual_seed(0))
    normalised = model.tower.normalise(images.to(args.device))
    vocabulary = Vocabulary.parse([f"class {index}" for index in range(classes)])
    text = make_random_text(vocabulary, joint_width(model.clip), args.device)
    # As from the loader: preprocessing before the tower is part of an image's time.
    options = {"vocabulary": vocabulary, "output_masks": False, "output_sem_seg": False}  # as in an evaluation
    inputs = [{"image": image.to(torch.uint8), **options} for image in images]
    precision = PRECISIONS[args.precision]

    # open_clip's own model for this size: encode_image takes images of the trained size only.
    plain = open_clip.create_model(args.model, force_image_size=size).to(args.device).eval()

    def encode_image() -> Tensor:
        with nullcontext() if precision == torch.float32 else torch.autocast(args.device, precision):
            return plain.encode_image(normalised)

    clock = Clock(args.device)
    model.text_encoder = lambda _: text  # type: ignore[assignment]
    with torch.inference_mode(), measure_stages(model, clock, None if args.pretrained else args.masks):
        rounds = []
        for _ in range(args.repeats + 1):
            clock("encode_image", encode_image)
            clock("whole", model, inputs)
            rounds.append(clock.take())
        peak = {"encode_image": measure_peak_megabytes(args.device, encode_image)}
        peak["whole"] = measure_peak_megabytes(args.device, lambda: model(inputs))
    return summary(rounds[1:], args.batch) | {"size": size, "classes": classes, "peak_megabytes": peak}


def summary(rounds: list[dict[str, float]], batch: int) -> dict[str, Any]:
    """Return the medians over the rounds without the first, which warms up."""
    milliseconds = {name: 1000 * statistics.median(r[name] for r in rounds) / batch for name in rounds[0]}
    return {
        "milliseconds_per_image": milliseconds,
        "images_per_second": 1000 / milliseconds["whole"],
        "whole_over_encode_image": statistics.median(r["whole"] / r["encode_image"] for r in rounds),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Format milliseconds per image of every stage, and the ratio to `encode_image`."""
    headers = ["size", "classes", "encode_image", *STAGES, "whole", "whole / encode", "images/s", "peak MB", "plain MB"]
    body = []
    for row in rows:
        milliseconds, peak = row["milliseconds_per_image"], row["peak_megabytes"]
        times = [f"{milliseconds.get(name, 0):.1f}" for name in ("encode_image", *STAGES, "whole")]
        ratio = [f"{row['whole_over_encode_image']:.3f}", f"{row['images_per_second']:.2f}"]
        memory = ["-" if peak[name] is None else f"{peak[name]:.0f}" for name in ("whole", "encode_image")]
        body.append([row["size"], row["classes"], *times, *ratio, *memory])
    return tabulate(body, headers=headers, disable_numparse=True, stralign="right")


@torch.no_grad()
def encode_whole_prompts(encoder: TextEncoder, words: Sequence[str]) -> Tensor:
    """Encode words without shared prefixes, [R,D]: all tokens of all prompts, in chunks of similar length."""
    text, device = text_tower(encoder.model), encoder.model.logit_scale.device
    tokens = encoder.tokenizer([prompt for word in words for prompt in fill(encoder.templates, word)])  # [P,L]
    ends = end_positions(encoder.model, tokens)
    features = torch.empty(len(tokens), joint_width(encoder.model))  # [P,D]
    for chunk in split_by_length(ends + 1, encoder.tokens_per_chunk, encoder.tokens_per_chunk):
        part = tokens[chunk, : int(ends[chunk].max()) + 1].to(device)
        x = text.token_embedding(part) + text.positional_embedding[: part.shape[1]]  # [P,L,E]
        for block in blocks(text):
            x = run_block(block, x, partial(F.scaled_dot_product_attention, is_causal=True))
        x = text.ln_final(x[torch.arange(len(x)), ends[chunk]])
        features[chunk] = F.normalize(x @ text.text_projection, dim=-1).cpu()
    return F.normalize(features.view(len(words), -1, features.shape[1]).sum(dim=1), dim=-1)


def measure_text(args: argparse.Namespace) -> dict[str, float]:
    """Return processor seconds with shared prefixes and with whole prompts, and the largest difference of features."""
    encoder = TextEncoder(build(args).clip, get_tokenizer(args.model), templates="imagenet")
    words = Vocabulary.parse(read_class_file(_ADE20K_FULL)).prompts[: args.text_words]
    result = {"words": float(len(words)), "shared": 0.0, "whole": 0.0, "largest difference": 0.0}
    for first in range(0, len(words), _WORDS_PER_TURN):
        turn = words[first : first + _WORDS_PER_TURN]
        start = time.process_time()
        shared = encoder(Vocabulary.parse(turn)).features.cpu()
        middle = time.process_time()
        whole = encode_whole_prompts(encoder, turn)
        result["shared"] += middle - start
        result["whole"] += time.process_time() - middle
        result["largest difference"] = max(result["largest difference"], float((shared - whole).abs().max()))
    return result


def report_text(args: argparse.Namespace) -> None:
    """Print and write the measurement of text."""
    result = measure_text(args)
    print(
        f"{args.model}, {result['words']:.0f} words in 80 templates, processor seconds, {get_device_title(args.device)}"
    )
    print(f"shared prefixes {result['shared']:.1f}, whole prompts {result['whole']:.1f}", end=", ")
    print(f"ratio {result['whole'] / result['shared']:.2f}, largest difference {result['largest difference']:.1e}")
    write_report(args.output, args.device, vars(args), text=result)


def main() -> None:
    """Measure every size with every number of classes, print the table and write the JSON."""
    args = parse_arguments()
    if args.text_words:
        report_text(args)
        return
    model = build(args)
    rows = [measure(model, args, size, classes) for size in args.sizes for classes in args.classes]
    weights = args.pretrained or f"random weights, {args.masks} imposed masks"
    name = get_device_title(args.device)
    settings = f"{args.precision}, batch {args.batch}, {name}; median of {args.repeats}"
    print(f"{args.model}, {args.method}, {weights}; {settings}")
    print("milliseconds per image; peak MB above the model and its inputs")
    print(table(rows))
    write_report(args.output, args.device, vars(args), rows=rows)


if __name__ == "__main__":
    with exit_on_interrupt():
        main()
