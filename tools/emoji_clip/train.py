"""Train Emoji CLIP on drawn pictures and their captions, and on nothing else: no masks, no labels, no classes.

    python tools/emoji_clip/train.py --output output/emoji_clip
    torchrun --nproc_per_node 2 tools/emoji_clip/train.py --output output/emoji_clip

The same command goes on where an earlier one stopped. OUTPUT/emoji-clip.safetensors is what the package ships;
`train_net.py … MODEL.CLIP.PRETRAINED OUTPUT/emoji-clip.safetensors` evaluates it at any time.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor, nn

from cliptrase_d2.clip.embedded import NAME
from cliptrase_d2.clip.load import get_tokenizer
from cliptrase_d2.clip.open_clip_modules import encode_text_tokens, end_positions, patch_size, pixel_statistics
from cliptrase_d2.clip.prompts import TEMPLATE_SETS
from cliptrase_d2.clip.token_rows import sparse_state_dict
from cliptrase_d2.clip.weights_source import model_config
from cliptrase_d2.data.emoji_scenes.names import SEEN_THINGS, STUFF
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import clean_end
from tools.emoji_clip.batches import Batch, Canvases, Window
from tools.emoji_clip.contrastive import contrastive_loss, image_features

logger = logging.getLogger("train_emoji_clip")
SETTINGS = ("steps", "canvases", "learning_rate", "from_patch", "seed")
# One template per batch, so that a caption's words and not its frame tell it from the others. The plain ones are
# what most users type, the 80 of ImageNet make all their words known.
TEMPLATES = ("{}",) * 40 + ("a {}",) * 20 + ("a photo of a {}.",) * 60 + TEMPLATE_SETS["imagenet"]
WINDOWS = (Window(14, 40, 0.5, 0.5, 1.0, 3.0), Window(7, 64, 0.6, 1.0, 1.5, 1.0), Window(4, 128, 0.8, 1.0, 2.5, 1.0))


class CompactTokenizer:
    """The model's tokenizer with the tokens numbered through that training can meet, so that no other row is kept."""

    def __init__(self, tokenizer: SimpleTokenizer):
        self.tokenizer = tokenizer
        texts = [part for template in TEMPLATES for part in template.split("{}")] + [*SEEN_THINGS, *STUFF, "and a on"]
        met = {number for text in texts for number in tokenizer.encode(text)} | set(tokenizer([""])[0].tolist())
        self.token_ids = torch.tensor(sorted(met))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """[U,L] int64, numbers below U; the order of the numbers is kept, so the end token is still the largest."""
        return torch.searchsorted(self.token_ids, self.tokenizer(list(texts)))


class Training:
    """The model, its optimizer and the step they are at."""

    def __init__(self, arguments: argparse.Namespace, rank: int, world: int):
        self.arguments, self.rank, self.world, self.step = arguments, rank, world, 0
        self.device = torch.device(arguments.device)
        self.tokenizer = CompactTokenizer(get_tokenizer(NAME))
        config = model_config(NAME)
        config["text_cfg"]["vocab_size"] = len(self.tokenizer.token_ids)
        torch.manual_seed(arguments.seed)
        self.model = CLIP(**config).to(self.device)
        mean, std = pixel_statistics(self.model.visual)
        self.mean = 255 * torch.tensor(mean, device=self.device).view(3, 1, 1)
        self.std = 255 * torch.tensor(std, device=self.device).view(3, 1, 1)
        self.optimizer = self._optimizer()
        self.checkpoint = arguments.output / "checkpoint.pt"
        # What decides the weights: a run goes on with the same, or its result belongs to neither setting.
        self.settings = {name: getattr(arguments, name) for name in SETTINGS} | {"processes": world}

    def _optimizer(self) -> torch.optim.AdamW:
        """Weight decay on matrices alone: not on norms, biases, embeddings and the temperature."""
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for name, value in self.model.named_parameters():
            (plain if value.ndim < 2 or "embedding" in name else decayed).append(value)
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, betas=(0.9, 0.98))

    def resume(self) -> None:
        """Take up the last checkpoint, if there is one.

        Raises:
            InputError: it was written with other settings.
        """
        if not self.checkpoint.is_file():
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state["settings"] != self.settings:
            raise InputError(
                self.checkpoint,
                f"a run with {state['settings']}",
                "Repeat the first command, or choose another --output.",
                allowed=f"the settings of this one, {self.settings}",
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        logger.info("%s: going on after step %d", self.checkpoint, self.step)

    def save(self) -> None:
        """Write the checkpoint and the weights, each complete or not at all."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "settings": self.settings,
        }
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.checkpoint)
        part = self.arguments.output / "weights.part"
        save_file(sparse_state_dict(self.model, self.tokenizer.token_ids), part)
        part.replace(self.arguments.output / f"{NAME}.safetensors")

    def advance(self, canvases: Canvases) -> tuple[Window, float]:
        """One step on one batch; its window and its loss."""
        progress = self.step / self.arguments.steps
        warm = min(1.0, (self.step + 1) / 200)
        for group in self.optimizer.param_groups:
            group["lr"] = self.arguments.learning_rate * warm * (0.5 + 0.5 * math.cos(math.pi * progress))
        batch = canvases.batch(self.step, progress, patch_size(self.model.visual))
        loss = self._loss(batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(100))
        self.step += 1
        return batch.window, float(loss.detach())

    def _loss(self, batch: Batch) -> Tensor:
        random = torch.Generator().manual_seed(
            int(np.random.default_rng((self.arguments.seed, self.rank, self.step, 1)).integers(2**62))
        )
        grid, count = batch.window.grid, len(batch.images)
        rows = self.model.visual.grid_size[0] - grid + 1
        row, column = torch.randint(0, rows, (2,), generator=random).tolist()
        patches = round(batch.window.kept * grid**2)
        kept = torch.rand(count, grid**2, generator=random).argsort(dim=1)[:, :patches]  # [B,K]
        start = torch.randint(0, patches, (count,), generator=random)
        from_patch = float(torch.rand((), generator=random)) < self.arguments.from_patch
        tokens = self.tokenizer(batch.captions)
        tokens = tokens[:, : int(end_positions(self.model, tokens).max()) + 1].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            images = image_features(
                self.model.visual,
                (batch.images.to(self.device) - self.mean) / self.std,
                offset=(row, column),
                kept=kept.to(self.device) if patches < grid**2 else None,
                start=start.to(self.device) if from_patch else None,
            )
            texts = encode_text_tokens(self.model, tokens)
        scale = self.model.logit_scale.exp()
        return contrastive_loss(images.float(), texts.float(), batch.caption_of.to(self.device), scale)

    def _average_gradients(self) -> None:
        if self.world == 1:
            return
        gradients = [value.grad for value in self.model.parameters() if value.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, mean in zip(gradients, (flat / self.world).split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def main(arguments: argparse.Namespace) -> None:
    """Train to the last step; log and save on the way.

    Raises:
        InputError: the output folder has a run with other settings.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(asctime)s %(message)s")
    if world > 1:
        dist.init_process_group("gloo")
    cv2.setNumThreads(0)
    arguments.output.mkdir(parents=True, exist_ok=True)
    training = Training(arguments, rank, world)
    training.resume()
    canvases = Canvases(arguments.canvases, arguments.seed, WINDOWS, TEMPLATES, rank, world)
    with (arguments.output / "log.jsonl").open("a", encoding="utf-8") as log:
        for line in run(training, canvases):
            if rank == 0:
                logger.info("%s", line)
                print(json.dumps(line), file=log, flush=True)
                training.save()
    if world > 1:
        dist.destroy_process_group()


def run(training: Training, canvases: Canvases) -> Iterator[dict[str, float]]:
    """Train, and stop every so many steps to say how it goes: the mean loss at every size of picture, and the speed."""
    arguments = training.arguments
    while training.step < arguments.steps:
        began, pictures = time.perf_counter(), 0
        losses: dict[int, list[float]] = {window.grid: [] for window in WINDOWS}
        for _ in range(min(arguments.save_every, arguments.steps - training.step)):
            window, loss = training.advance(canvases)
            losses[window.grid].append(loss)
            pictures += window.batch * training.world
        speed = round(pictures / (time.perf_counter() - began))
        means = {f"loss_{grid}": round(float(np.mean(values)), 3) for grid, values in losses.items() if values}
        yield {"step": training.step, "pictures_per_second": speed, **means}


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for weights, checkpoint and log")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--canvases", type=int, default=12000, help="pictures to draw, which windows are cut from")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--from-patch", type=float, default=0.7, help="share of steps read from a patch's residual")
    parser.add_argument("--save-every", type=int, default=200, help="steps between two lines of the log")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        with clean_end("The same command goes on."):
            main(parse_arguments())
    except InputError as error:
        sys.exit(f"error: {error}")
