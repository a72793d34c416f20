"""Measure global patches by layer: patches that receive a large share of all attention (supplement, A.1).

    python experiments/global_patches.py
    python experiments/global_patches.py --model ViT-B-16 --pretrained openai --images FOLDER --output FOLDER

The first command uses the embedded model and the emoji scenes, the second any plain ViT and a folder of images. For
each layer it compares the trained attention, the correlation that CLIPtrase would compute from the layer, and this
correlation with the class token's row subtracted. It writes global_patches.csv, .md and, with matplotlib, .png.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import math
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
from cliptrase_d2.pipeline.correlation import patch_correlation, suppress_global_patches
from cliptrase_d2.pipeline.global_patches import FACTOR, global_patches, mean_attention, received_shares
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.pipeline.stages import correlate_tokens
from cliptrase_d2.segmenter.build import build_cliptrase, resolve_device
from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import exit_on_interrupt

KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    # What is measured: title, colour and marker in the picture. Markers of different size show where lines coincide.
    "attention": ("attention, as trained", "#c1272d", {"marker": "o"}),
    "correlation": ("correlation of q, k and v", "#0072b2", {"marker": "s", "markersize": 5}),
    "suppressed": (
        "… without the class token's row",
        "#009e73",
        {"marker": "o", "markersize": 10, "fillstyle": "none"},
    ),
}
CLASS_TOKEN = "to_class_token"  # nosec B105  # one of CLIP
TOP_FRACTION = 0.05  # of the patches, for `top_share`


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/emoji_scenes_whole.yaml", help="model, size and data set")
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
    """Return the configuration with the model of the command line."""
    model = ["MODEL.CLIP.NAME", args.model, "MODEL.CLIP.PRETRAINED", args.pretrained] if args.model else []
    cfg = load_config(args.config_file, [*model, *args.opts])
    resolve_device(cfg)
    return cfg


def image_files(cfg: CfgNode, folder: Path | None, limit: int) -> list[str]:
    """Return the images of a folder, or of the first data set of the configuration."""
    if folder:
        records = find_files(folder, None).records
    else:
        register_builtin()
        require_datasets(cfg.DATASETS.TEST)
        records = list_records(cfg.DATASETS.TEST[0], "stop")
    return [record["file_name"] for record in records[:limit]]


def class_token_share(attention: Tensor) -> Tensor:
    """Return the share of their attention that patches give to the class token, mean over the patches.

    Args:
        attention: [B,N+1,N+1], rows with sum 1.
    Returns:
        [B] in [0,1]; 1/(N+1) for uniform attention.
    """
    return attention[:, 1:, 0].mean(1)


def top_share(received: Tensor, fraction: float = TOP_FRACTION) -> Tensor:
    """Return the share of the k = ⌈fraction·N⌉ patches that receive most.

    Args:
        received: [B,N], sum 1.
        fraction: of the patches, in (0,1].
    Returns:
        [B] in [k/N,1]; k/N for uniform weights, 1 if at most k patches receive any.
    """
    return received.topk(top_count(received.shape[1], fraction), dim=1).values.sum(1)


def top_count(patches: int, fraction: float = TOP_FRACTION) -> int:
    """Return k = ⌈fraction·N⌉ of N patches."""
    return math.ceil(fraction * patches - 1e-9)  # 0.07·100, for example, is slightly more than 7


def global_count(received: Tensor, factor: float = FACTOR) -> Tensor:
    """Return the number of global patches, [B,N] to [B] int64."""
    return global_patches(received, factor).sum(1)


def measure_layer(query: Tensor, key: Tensor, value: Tensor, settings: CLIPtraseSettings) -> dict[str, float]:
    """Measure one layer of one image. Shares are in percent.

    Args:
        query, key, value: [1,A,N+1,d].
        settings: of the correlation.
    """
    attention = mean_attention(query, key)  # [1,N+1,N+1]
    correlation = correlate_tokens((query, key, value), settings)  # [1,N+1,N+1]
    weights = {
        "attention": patch_correlation(attention),
        "correlation": patch_correlation(correlation),
        "suppressed": suppress_global_patches(correlation),
    }
    numbers = {CLASS_TOKEN: 100 * float(class_token_share(attention))}
    for kind, rows in weights.items():
        received = received_shares(rows)
        numbers[f"{kind}_top_share"] = 100 * float(top_share(received))
        numbers[f"{kind}_global"] = float(global_count(received))
    patches = received.shape[1]
    return numbers | {"uniform_top_share": 100 * top_count(patches) / patches}


@torch.inference_mode()
def measure_layers(
    tower: VisualTower, settings: CLIPtraseSettings, protocol: Protocol, files: Sequence[str]
) -> list[dict[str, float]]:
    """Measure every layer, averaged over the images.

    Raises:
        InputError: an image cannot be used.
    """
    images = []
    for file in tqdm(files, desc="Measuring", unit="image", disable=None):
        image = protocol.crop(Image.fromarray(read_image(file)), Image.Resampling.BICUBIC, file)
        pixels = protocol.prepare_input(image)["image"].to(tower.pixel_mean.device)
        layers = tower.block_qkv(tower.normalise(pixels)[None])
        images.append([measure_layer(*qkv, settings) for qkv in layers])
    return [
        {"layer": layer, **{name: sum(one[name] for one in numbers) / len(numbers) for name in numbers[0]}}
        for layer, numbers in enumerate(zip(*images, strict=True), start=1)
    ]


def csv_text(rows: Sequence[dict[str, float]]) -> str:
    """Format all numbers, unrounded."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def document(rows: Sequence[dict[str, float]], subject: str) -> str:
    """Format the table in Markdown, with an explanation of its columns."""
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
        f"{subject}\n\n{table}\n\ntop %: share of the weights between patches that the top "
        f"{100 * TOP_FRACTION:g} % of the patches receive; {rows[0]['uniform_top_share']:.1f} for uniform "
        f"weights. global: patches that receive more than {FACTOR:g} times the uniform share. class token %: "
        "share of a patch's attention. Means over the images.\n"
    )


def draw(rows: Sequence[dict[str, float]], subject: str, path: Path) -> None:
    """Draw both measures over the layers, side by side."""
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
    shares.set_title(f"share received by the top {100 * TOP_FRACTION:g} % of the patches", fontsize=10)
    shares.set_ylabel("percent")
    counts.set_title(f"patches that receive over {FACTOR:g} times the uniform share", fontsize=10)
    counts.set_ylabel("patches per image")
    for axes in (shares, counts):
        axes.set_xlabel("layer")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8)
    atomic_write(path, lambda file: figure.savefig(file, format="png"))


def require_matplotlib() -> None:
    """Raise if the picture could not be drawn.

    Raises:
        InputError: matplotlib is missing.
    """
    if importlib.util.find_spec("matplotlib") is None:
        fix = "Install it (pip install 'cliptrase_d2[plot]'), or add --no-plot."
        raise InputError("global_patches.png", "matplotlib is not installed", fix)


def main() -> None:
    """Measure, print the table and write all files."""
    args = parse_arguments()
    try:
        if not args.no_plot:
            require_matplotlib()
        cfg = configuration(args)
        files = image_files(cfg, args.images, args.limit)
        model = build_cliptrase(cfg)
        assert isinstance(model.tower, VisualTower), "the method reads no other"
        side = model.tower.patch_size
        protocol = Protocol(cfg.TEST.PROTOCOL, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, side)
        rows = measure_layers(model.tower, model.settings, protocol, files)
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
    with exit_on_interrupt():
        main()
