"""Compare methods with a second vision model on the emoji scenes: without one, with a random ViT, with a trained ViT.

    python experiments/second_models.py --output FOLDER

No weights of DINO or SAM come with the package, and DINO knows nothing about drawn scenes. The script therefore trains
a small ViT on the canvases of Emoji CLIP, without captions, masks or classes: the features of neighbouring patches in
two views of a canvas attract each other, and those of all other patches of the batch repel. The training takes three
minutes of a processor. Its weights are stored in FOLDER, where a later call finds them.

A first table shows how well the cosine of two patches tells whether they have one class, by the area under the ROC
curve. A second one has the accuracy of the methods on the scenes.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import rankdata
from tabulate import tabulate
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from tqdm import tqdm

from cliptrase_d2.clip.tokens import Needs
from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.data.builtin import register_builtin
from cliptrase_d2.data.emoji_scenes.names import CLASSES, STUFF
from cliptrase_d2.data.emoji_scenes.scene import draw
from cliptrase_d2.data.emoji_scenes.splits import sample_layout
from cliptrase_d2.evaluation.evaluate import evaluate_dataset
from cliptrase_d2.methods.proxyclip import self_correlated_features
from cliptrase_d2.segmenter.build import build_cliptrase, prepare_segmenter
from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text
from cliptrase_d2.utils.interruption import exit_on_interrupt
from cliptrase_d2.vision_models import VitBackbone, load_vit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to run as a script
from tools.emoji_clip.pairs import PIXELS, draw_canvas

CONFIG = "configs/baselines/emoji_scenes_second_model.yaml"
NAME, PATCH, WIDTH, DEPTH, HEADS = "vit_emoji_patch8_112", 8, 128, 4, 4
GRID = PIXELS // PATCH
SEED = 0
BATCH, ANCHORS, JOINT, TEMPERATURE, LEARNING_RATE = 24, 48, 64, 0.2, 1e-3
NEAR = 2.0  # patches; largest distance of two that attract, along an axis
SHIFT = 3 * PATCH  # pixels; largest shift of the second view
COLOUR, LIGHT = 0.3, 0.15  # largest change of contrast and of colour
WARM_UP = 50  # steps
MEASURED_SEED, MEASURED = 1, 48  # scenes on which the features are measured; the evaluation has others
PURE = 0.75  # share of its main class from which a patch is measured
METRICS = ("pAcc", "mIoU")


class Case(NamedTuple):
    """A method of the table.

    Attributes:
        method: its name.
        options: of the method.
        needs_model: whether it reads the second vision model.
        clustering: of CLIPtrase, for methods that read its masks.
    """

    method: str
    options: dict[str, Any]
    needs_model: bool
    clustering: str = "none"


CASES = {
    "maskclip": Case("maskclip", {}, False),
    "cliptrase_scr": Case("cliptrase", {}, False),
    "proxyclip, affinity scr": Case("proxyclip", {"affinity": "scr"}, False),
    "textregion, regions of clusters": Case("textregion", {"crop_size": PIXELS}, False, "dbscan"),
    "proxyclip": Case("proxyclip", {}, True),
    "corrclip, regions of clusters": Case("corrclip", {}, True, "dbscan"),
    "lposs": Case("lposs", {}, True),
}


@timm.models.register_model
def vit_emoji_patch8_112(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """A ViT of four blocks for images of 112 pixels with patches of 8, the grid of Emoji CLIP."""
    options = {key: value for key, value in options.items() if key in ("num_classes", "dynamic_img_size")}
    model: Any = VisionTransformer(PIXELS, PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, **options)
    model.pretrained_cfg = {"architecture": NAME, "tag": ""}
    return model  # type: ignore[no-any-return]


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=Path("output/second_models"), help="folder (default %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=250, help="of the training (default %(default)s)")
    parser.add_argument("--canvases", type=int, default=1000, help="of the training (default %(default)s)")
    parser.add_argument("--config-file", default=CONFIG, help="data set and protocol")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="after --: changes of the config")
    return parser.parse_args()


def train(steps: int, canvases: int) -> VitBackbone:
    """Train the ViT on canvases of Emoji CLIP's training."""
    bar = tqdm(range(canvases), desc="Drawing", mininterval=5)
    images = np.stack([draw_canvas(index, SEED).image for index in bar])  # [M,S,S,3]
    backbone = VitBackbone(load_vit(NAME, ""), NAME).requires_grad_(True).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, JOINT))
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.05, betas=(0.9, 0.98))
    rng, random = np.random.default_rng(SEED), torch.Generator().manual_seed(SEED)
    for step in tqdm(range(steps), desc="Training", mininterval=5):
        for group in optimizer.param_groups:
            decay = 0.5 + 0.5 * math.cos(math.pi * step / steps)
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * decay
        first, second, shift = cut_views(images, rng)
        views = torch.cat([change_colours(view, random) for view in (first, second)])
        loss = contrast(F.normalize(head(backbone(views).features), dim=-1), shift, random)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return backbone.requires_grad_(False).eval()


def cut_views(images: NDArray[np.uint8], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Cut two overlapping views of random canvases.

    Returns:
        Two times [B,3,P,P] uint8, and the shift of the second against the first in patches, [B,2], down and right.
    """
    chosen = rng.integers(0, len(images), BATCH)
    room = images.shape[1] - PIXELS
    first = rng.integers(0, room + 1, (BATCH, 2))
    second = np.clip(first + rng.integers(-SHIFT, SHIFT + 1, (BATCH, 2)), 0, room)
    views = [
        np.stack(
            [
                images[k, top : top + PIXELS, left : left + PIXELS]
                for k, (top, left) in zip(chosen, corners, strict=True)
            ]
        )
        for corners in (first, second)
    ]
    one, other = (torch.from_numpy(view).permute(0, 3, 1, 2) for view in views)
    return one, other, torch.from_numpy(second - first).float() / PATCH


def change_colours(images: Tensor, random: torch.Generator) -> Tensor:
    """Change brightness and colours of images [B,3,H,W] in 0 to 255, each by random factors."""

    def draw_factors(largest: float) -> Tensor:
        return largest * (2 * torch.rand(len(images), 3, 1, 1, generator=random) - 1)

    values = images / 255
    mean = values.mean((1, 2, 3), keepdim=True)
    return 255 * ((values - mean) * (1 + draw_factors(COLOUR)) + mean + draw_factors(LIGHT)).clamp(0, 1)


def contrast(features: Tensor, shift: Tensor, random: torch.Generator) -> Tensor:
    """Return the loss: a patch should be most similar to a random near patch of the other view, among all anchors.

    Args:
        features: [2B,N,D] L2-normalised, of the first views and then of the second ones.
        shift: [B,2] of the second views in patches.
        random: source of randomness.
    """
    images = len(shift)
    place = torch.randint(0, GRID, (images, ANCHORS, 2), generator=random)
    near = (2 * torch.rand(images, ANCHORS, 2, generator=random) - 1) * NEAR
    target = (place - shift[:, None] + near).round().long()
    inside = ((target >= 0) & (target < GRID)).all(-1)
    queries, keys = (
        part.gather(1, (at[..., 0] * GRID + at[..., 1])[..., None].expand(-1, -1, part.shape[2]))[inside]
        for part, at in zip(features.split(images), (place, target.clamp(0, GRID - 1)), strict=True)
    )
    return F.cross_entropy(queries @ keys.T / TEMPERATURE, torch.arange(len(queries)))


def measure(read: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Return the area under the ROC curve of cosines for pairs of patches of one class, in percent.

    Args:
        read: images [1,3,P,P] in 0 to 255 to features of 14x14 patches, [1,N,F].
    Returns:
        The mean over scenes, of all pairs, and of those with a thing.
    """
    areas: tuple[list[float], list[float]] = ([], [])
    for index in range(MEASURED):
        scene = draw(sample_layout(index // 2, ("seen", "held_out")[index % 2], MEASURED_SEED), PIXELS)
        label = F.one_hot(torch.from_numpy(scene.label).long(), len(CLASSES)).float()
        share, label = label.view(GRID, PATCH, GRID, PATCH, -1).mean((1, 3)).flatten(0, 1).max(1)
        unit = F.normalize(read(torch.from_numpy(scene.image).permute(2, 0, 1)[None].float())[0].float(), dim=-1)
        pure = share >= PURE
        pairs = torch.ones(len(label), len(label), dtype=torch.bool).triu(1) & pure & pure[:, None]
        is_thing = label >= len(STUFF)
        for own, some in zip(areas, (pairs, pairs & (is_thing | is_thing[:, None])), strict=True):
            is_same = (label == label[:, None])[some]
            if is_same.any() and not is_same.all():
                own.append(roc_area((unit @ unit.T)[some].numpy(), is_same.numpy()))
    return 100 * float(np.mean(areas[0])), 100 * float(np.mean(areas[1]))


def roc_area(scores: NDArray[np.float32], is_positive: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve, the probability that a positive has the higher score."""
    positives = int(is_positive.sum())
    ranks = float(rankdata(scores)[is_positive].sum())
    return (ranks - positives * (positives + 1) / 2) / (positives * (len(scores) - positives))


def configure(base: CfgNode, case: Case, folder: Path, weights: str) -> CfgNode:
    """Return the configuration of a method with a second model of these weights."""
    cfg = base.clone()
    cfg.defrost()
    cfg.TEST.METHODS = ()
    cfg.MODEL.VISION.NAME, cfg.MODEL.VISION.WEIGHTS = NAME, weights
    cfg.MODEL.CLIPTRASE.METHOD, cfg.MODEL.CLIPTRASE.CLUSTERING = case.method, case.clustering
    cfg.MODEL.CLIPTRASE.METHOD_OPTIONS.update(case.options)
    cfg.OUTPUT_DIR = str(folder)
    cfg.freeze()
    return cfg


def evaluate(base: CfgNode, output: Path, weights: dict[str, str]) -> list[list[str]]:
    """Return a row for each method, with the values for each of the second models.

    Args:
        base: data set and protocol.
        output: folder of the results.
        weights: value of MODEL.VISION.WEIGHTS by name of the model.
    """
    rows = []
    for title, case in CASES.items():
        for name, value in (weights if case.needs_model else {"none": ""}).items():
            cfg = configure(base, case, output / name / title.translate({ord(","): None, ord(" "): "_"}), value)
            metrics = evaluate_dataset(cfg, prepare_segmenter(cfg), cfg.DATASETS.TEST[0], log_table=False)["sem_seg"]
            rows.append([title, name, *(f"{metrics[metric]:.1f}" for metric in METRICS)])
    return rows


def measure_models(base: CfgNode, models: dict[str, VitBackbone]) -> list[list[str]]:
    """Return a row for each model beside the mean colours of patches and CLIPtrase's correlation of Emoji CLIP."""
    clip = build_cliptrase(base)
    needs = Needs(qkv=(-2,))
    readers: dict[str, Callable[[Tensor], Tensor]] = {
        "mean colours of patches": lambda images: F.avg_pool2d(images / 255 - 0.5, PATCH).flatten(2).mT,
        "Emoji CLIP, q, k and v": lambda images: (
            self_correlated_features(clip.tower(clip.tower.normalise(images), needs)).features
        ),
        **{f"ViT, {name}": lambda images, model=model: model(images).features for name, model in models.items()},  # type: ignore[misc]
    }
    with torch.inference_mode():
        return [[name, *(f"{value:.1f}" for value in measure(read))] for name, read in readers.items()]


def main() -> None:
    """Train or load the ViT, evaluate all methods, and write the tables."""
    args = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    register_builtin()
    base = load_config(args.config_file, ["MODEL.DEVICE", "cpu", "MODEL.CLIPTRASE.CLUSTERING", "none", *args.opts])
    file = args.output / f"{NAME}.safetensors"
    if not file.is_file():
        trained = train(args.steps, args.canvases)
        data = safetensors.torch.save({name: value.contiguous() for name, value in trained.vit.state_dict().items()})
        atomic_write(file, lambda stream: stream.write(data))
    weights = {"random": "", "trained": str(file)}
    models = {name: VitBackbone(load_vit(NAME, value), NAME) for name, value in weights.items()}
    areas = measure_models(base, models)
    rows = evaluate(base, args.output, weights)
    text = "\n\n".join(
        [
            tabulate(areas, ["features", "area, all pairs", "pairs with a thing"], "github", disable_numparse=True),
            tabulate(rows, ["method", "second model", *METRICS], "github", disable_numparse=True),
        ]
    )
    atomic_write_text(args.output / "second_models.md", text + "\n")
    print(text)


if __name__ == "__main__":
    with exit_on_interrupt():
        main()
