"""Look for global patches, layer by layer: how much all patches of an image look at the same few (supplement, A.1).

    python experiments/global_patches.py
    python experiments/global_patches.py --model ViT-B-16 --pretrained openai --images FOLDER --output FOLDER

takes the embedded model and the emoji scenes, or any plain ViT and a folder of images. Beside the attention of each
layer as trained stand the correlation that CLIPtrase would read from this layer, and what is left of it when the class
token's row is taken away. Writes global_patches.csv, .md and, with matplotlib, .png.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.data.builtin import register_builtin
from cliptrase_d2.data.files import find_files
from cliptrase_d2.data.images import read_image
from cliptrase_d2.data.loader import list_records
from cliptrase_d2.data.protocol import Protocol
from cliptrase_d2.evaluation.evaluate import require_datasets
from cliptrase_d2.pipeline import global_patches as measure
from cliptrase_d2.pipeline.correlation import patch_correlation, suppress_global_patches
from cliptrase_d2.pipeline.settings import Method
from cliptrase_d2.segmenter.build import build_cliptrase
from cliptrase_d2.segmenter.device import resolve_device
from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import clean_end

KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    # What is measured: title, colour and marker in the picture. Markers of different size show where lines coincide.
    "attention": ("attention, as trained", "#c1272d", {"marker": "o"}),
    "correlation": ("correlation of q, k and v", "#0072b2", {"marker": "s", "markersize": 5}),
    "suppressed": ("… less the class token's row", "#009e73", {"marker": "o", "markersize": 10, "fillstyle": "none"}),
}
CLASS_TOKEN = "to_class_token"  # nosec B105  # one of CLIP


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/emoji_scenes.yaml", help="model, size and data set")
    parser.add_argument("--model", help="another open_clip ViT, with --pretrained")
    parser.add_argument("--pretrained", help="tag or file of its weights")
    parser.add_argument("--images", type=Path, help="folder of images (default: those of DATASETS.TEST)")
    parser.add_argument("--limit", type=int, default=200, help="most images, the first ones (default 200)")
    parser.add_argument("--output", type=Path, default=Path("output/global_patches"), help="folder")
    parser.add_argument("--no-plot", action="store_true", help="no picture, which needs matplotlib")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="after --: changes of the config")
    args = parser.parse_args()
    if (args.model is None) != (args.pretrained is None):
        parser.error("--model and --pretrained: give both, or neither")
    if args.limit < 1:
        parser.error(f"--limit {args.limit}: must be at least 1")
    return args


def configuration(args: argparse.Namespace) -> CfgNode:
    """The configuration with the model of the command line."""
    model = ["MODEL.CLIP.NAME", args.model, "MODEL.CLIP.PRETRAINED", args.pretrained] if args.model else []
    cfg = load_config(args.config_file, [*model, *args.opts])
    resolve_device(cfg)
    return cfg


def image_files(cfg: CfgNode, folder: Path | None, limit: int) -> list[str]:
    """The images of a folder, or of the first data set of the configuration."""
    if folder:
        records = find_files(folder, None).records
    else:
        register_builtin()
        require_datasets(cfg.DATASETS.TEST)
        records = list_records(cfg.DATASETS.TEST[0], "stop")
    return [record["file_name"] for record in records[:limit]]


def measure_layer(query: Tensor, key: Tensor, value: Tensor, method: Method) -> dict[str, float]:
    """The numbers of one layer and one image; shares in percent.

    Args:
        query, key, value: [1,A,N+1,d].
        method: says how the correlation is measured.
    """
    attention = measure.mean_attention(query, key)  # [1,N+1,N+1]
    correlation = method.token_correlation(query, key, value)  # [1,N+1,N+1]
    weights = {
        "attention": patch_correlation(attention),
        "correlation": patch_correlation(correlation),
        "suppressed": suppress_global_patches(correlation),
    }
    numbers = {CLASS_TOKEN: 100 * float(measure.class_token_share(attention))}
    for kind, rows in weights.items():
        received = measure.received_shares(rows)
        numbers[f"{kind}_top_share"] = 100 * float(measure.top_share(received))
        numbers[f"{kind}_global"] = float(measure.global_count(received))
    patches = received.shape[1]
    return numbers | {"uniform_top_share": 100 * measure.top_count(patches) / patches}


@torch.inference_mode()
def measure_layers(
    tower: VisualTower, method: Method, protocol: Protocol, files: Sequence[str]
) -> list[dict[str, float]]:
    """The numbers of every layer, means over the images.

    Raises:
        InputError: an image that cannot be used.
    """
    of_images = []
    for file in tqdm(files, desc="Measuring", unit="image", disable=None):
        image = protocol.crop(Image.fromarray(read_image(file)), Image.Resampling.BICUBIC, file)
        pixels = protocol.model_input(image)["image"].to(tower.pixel_mean.device)
        layers = tower.layers(tower.normalise(pixels)[None])
        of_images.append([measure_layer(*qkv, method) for qkv in layers])
    return [
        {"layer": layer, **{name: sum(one[name] for one in numbers) / len(numbers) for name in numbers[0]}}
        for layer, numbers in enumerate(zip(*of_images, strict=True), start=1)
    ]


def csv_text(rows: Sequence[dict[str, float]]) -> str:
    """All numbers, unrounded."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def document(rows: Sequence[dict[str, float]], subject: str) -> str:
    """The table in Markdown, and what its columns are."""
    headers = ["layer", *(f"{kind}, top %" for kind in KINDS), *(f"{kind}, global" for kind in KINDS), "class token %"]
    body = [
        [
            row["layer"],
            *(f"{row[f'{kind}_top_share']:.1f}" for kind in KINDS),
            *(f"{row[f'{kind}_global']:.1f}" for kind in KINDS),
            f"{row[CLASS_TOKEN]:.1f}",
        ]
        for row in rows
    ]
    table = tabulate(body, headers, "pipe", disable_numparse=True, stralign="right", numalign="right")
    return (
        f"{subject}\n\n{table}\n\ntop %: of all that patches give to patches, what the most liked "
        f"{100 * measure.TOP_FRACTION:g} % of them receive; {rows[0]['uniform_top_share']:.1f} where all are liked "
        f"alike. global: patches that receive more than {measure.FACTOR:g} times the uniform share. class token %: of "
        "a patch's attention. Means over the images.\n"
    )


def draw(rows: Sequence[dict[str, float]], subject: str, path: Path) -> None:
    """Both measures over the layers, side by side."""
    from matplotlib.figure import Figure  # optional, and slow to import
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), dpi=130, layout="constrained")
    figure.suptitle(subject, fontsize=11)
    shares, counts = figure.subplots(1, 2)
    layers = [row["layer"] for row in rows]
    for kind, (title, colour, marker) in KINDS.items():
        shares.plot(layers, [row[f"{kind}_top_share"] for row in rows], color=colour, label=title, **marker)
        counts.plot(layers, [row[f"{kind}_global"] for row in rows], color=colour, **marker)
    shares.plot(
        layers, [row[CLASS_TOKEN] for row in rows], color="#888888", marker="d", label="attention to class token"
    )
    shares.plot(layers, [row["uniform_top_share"] for row in rows], "k--", linewidth=1, label="top, if uniform")
    shares.set_title(f"what the top {100 * measure.TOP_FRACTION:g} % of the patches receive", fontsize=10)
    shares.set_ylabel("percent")
    counts.set_title(f"patches that receive over {measure.FACTOR:g} times the uniform share", fontsize=10)
    counts.set_ylabel("patches per image")
    for axes in (shares, counts):
        axes.set_xlabel("layer")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8)
    atomic_write(path, lambda file: figure.savefig(file, format="png"))


def require_matplotlib() -> None:
    """Refuse to begin what could not be drawn.

    Raises:
        InputError: matplotlib is missing.
    """
    if importlib.util.find_spec("matplotlib") is None:
        fix = "Install it (pip install 'cliptrase_d2[plot]'), or add --no-plot."
        raise InputError("the picture", "no matplotlib", fix, allowed="matplotlib, which is optional")


def main() -> None:
    """Measure, print the table, write all files."""
    args = parse_arguments()
    try:
        if not args.no_plot:
            require_matplotlib()
        cfg = configuration(args)
        files = image_files(cfg, args.images, args.limit)
        model = build_cliptrase(cfg)
        side = model.tower.patch_size
        protocol = Protocol(cfg.TEST.PROTOCOL, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, side)
        rows = measure_layers(model.tower, model.method, protocol, files)
    except InputError as error:
        sys.exit(f"error: {error}")
    weights = cfg.MODEL.CLIP.PRETRAINED or "random weights"
    subject = f"{cfg.MODEL.CLIP.NAME} ({weights}), {len(files)} images, short side {cfg.INPUT.MIN_SIZE_TEST}"
    text = document(rows, subject)
    atomic_write_text(args.output / "global_patches.csv", csv_text(rows))
    atomic_write_text(args.output / "global_patches.md", text)
    if not args.no_plot:
        draw(rows, subject, args.output / "global_patches.png")
    print(text, end="")


if __name__ == "__main__":
    with clean_end():
        main()
