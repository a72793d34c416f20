"""Train Emoji CLIP on drawn images and their captions only, without masks, labels or classes.

    python tools/emoji_clip/train.py --output output/emoji_clip
    torchrun --nproc_per_node 2 tools/emoji_clip/train.py --output output/emoji_clip

The same command resumes an interrupted training. OUTPUT/emoji-clip.safetensors is the file of the package.
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
from safetensors.torch import save
from torch import Tensor, nn

from cliptrase_d2.clip.embedded import NAME
from cliptrase_d2.clip.open_clip_modules import encode_text_tokens, end_positions
from cliptrase_d2.clip.prompts import TEMPLATE_SETS
from cliptrase_d2.clip.tokenizer import get_tokenizer
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.clip.weights_source import get_model_config
from cliptrase_d2.data.emoji_scenes.names import SEEN_THINGS, STUFF
from cliptrase_d2.utils.atomic_files import atomic_write
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import exit_on_interrupt

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the scripts are not part of the installed package

from tools.emoji_clip.batches import Batch, Canvases, Window
from tools.emoji_clip.contrastive import contrastive_loss, image_features
from tools.emoji_clip.token_rows import sparse_state_dict

logger = logging.getLogger("train_emoji_clip")
SETTINGS = ("steps", "canvases", "learning_rate", "from_patch", "seed")
# All captions of a batch share a template, so only their other words distinguish them. Most users type plain templates.
# The 80 of ImageNet teach all of their words.
TEMPLATES = ("{}",) * 40 + ("a {}",) * 20 + ("a photo of a {}.",) * 60 + TEMPLATE_SETS["imagenet"]
WINDOWS = (Window(14, 40, 0.5, 0.5, 1.0, 3.0), Window(7, 64, 0.6, 1.0, 1.5, 1.0), Window(4, 128, 0.8, 1.0, 2.5, 1.0))


class CompactTokenizer:
    """The model's tokenizer, with consecutive ids for the tokens that occur in the training."""

    def __init__(self, tokenizer: SimpleTokenizer):
        self.tokenizer = tokenizer
        texts = [part for template in TEMPLATES for part in template.split("{}")] + [*SEEN_THINGS, *STUFF, "and a on"]
        ids = {token for text in texts for token in tokenizer.encode(text)} | set(tokenizer([""])[0].tolist())
        self.token_ids = torch.tensor(sorted(ids))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return ids [U,L] int64 in the order of the original ids. The end token still has the largest."""
        return torch.searchsorted(self.token_ids, self.tokenizer(list(texts)))


class Training:
    """The state of a training: model, optimizer and step."""

    def __init__(self, arguments: argparse.Namespace, rank: int, world: int):
        self.arguments, self.rank, self.world, self.step = arguments, rank, world, 0
        self.device = torch.device(arguments.device)
        self.tokenizer = CompactTokenizer(get_tokenizer(NAME))
        config = get_model_config(NAME)
        config["text_cfg"]["vocab_size"] = len(self.tokenizer.token_ids)
        torch.manual_seed(arguments.seed)
        self.model = CLIP(**config).to(self.device)
        self.tower = VisualTower(self.model.visual).to(self.device)
        decays: dict[float, list[nn.Parameter]] = {0.05: [], 0.0: []}  # weight decay of matrices, and of the rest
        for name, value in self.model.named_parameters():
            decays[0.0 if value.ndim < 2 or "embedding" in name else 0.05].append(value)
        groups = [{"params": values, "weight_decay": decay} for decay, values in decays.items()]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        self.checkpoint = arguments.output / "checkpoint.pt"
        # They determine the weights. Resuming with others would give weights of neither setting.
        self.settings = {name: getattr(arguments, name) for name in SETTINGS} | {"processes": world}

    def resume(self) -> None:
        """Load the last checkpoint, if one exists.

        Raises:
            InputError: the checkpoint has other settings.
        """
        if not self.checkpoint.is_file():
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state["settings"] != self.settings:
            got = f"a training with {state['settings']}, not {self.settings}"
            raise InputError(self.checkpoint, got, "Repeat the first command, or choose another --output.")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        logger.info("%s: resuming after step %d", self.checkpoint, self.step)

    def save(self) -> None:
        """Write the checkpoint and the weights atomically."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "settings": self.settings,
        }
        atomic_write(self.checkpoint, lambda file: torch.save(state, file))
        weights = save(sparse_state_dict(self.model, self.tokenizer.token_ids))
        atomic_write(self.arguments.output / f"{NAME}.safetensors", lambda file: file.write(weights))

    def advance(self, canvases: Canvases) -> tuple[Window, float]:
        """Train one step. Return the batch's window and its loss."""
        progress = self.step / self.arguments.steps
        warmup = min(1.0, (self.step + 1) / 200)
        for group in self.optimizer.param_groups:
            group["lr"] = self.arguments.learning_rate * warmup * (0.5 + 0.5 * math.cos(math.pi * progress))
        batch = canvases.batch(self.step, progress, self.tower.patch_size)
        loss = self._compute_loss(batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.world > 1:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.world
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(100))
        self.step += 1
        return batch.window, float(loss.detach())

    def _compute_loss(self, batch: Batch) -> Tensor:
        seed = int(np.random.default_rng((self.arguments.seed, self.rank, self.step, 1)).integers(2**62))
        random = torch.Generator().manual_seed(seed)
        grid, count = batch.window.grid, len(batch.images)
        rows = self.model.visual.grid_size[0] - grid + 1
        row, column = torch.randint(0, rows, (2,), generator=random).tolist()
        number = round(batch.window.patch_share * grid**2)
        patches = torch.rand(count, grid**2, generator=random).argsort(dim=1)[:, :number]  # [B,K]
        start = torch.randint(0, number, (count,), generator=random)
        from_patch = float(torch.rand((), generator=random)) < self.arguments.from_patch
        tokens = self.tokenizer(batch.captions)
        tokens = tokens[:, : int(end_positions(self.model, tokens).max()) + 1].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            images = image_features(
                self.model.visual,
                self.tower.normalise(batch.images.to(self.device)),
                offset=(row, column),
                patches=patches.to(self.device) if number < grid**2 else None,
                start=start.to(self.device) if from_patch else None,
            )
            texts = encode_text_tokens(self.model, tokens)
        scale = self.model.logit_scale.exp()
        return contrastive_loss(images.float(), texts.float(), batch.caption_index.to(self.device), scale)


def main(arguments: argparse.Namespace) -> None:
    """Train to the last step, with logs and checkpoints on the way.

    Raises:
        InputError: the output folder has a checkpoint with other settings.
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
    """Train. Yield the mean loss of each window size and the speed at regular intervals."""
    arguments = training.arguments
    while training.step < arguments.steps:
        start, images = time.perf_counter(), 0
        losses: dict[int, list[float]] = {window.grid: [] for window in WINDOWS}
        for _ in range(min(arguments.save_every, arguments.steps - training.step)):
            window, loss = training.advance(canvases)
            losses[window.grid].append(loss)
            images += window.batch * training.world
        speed = round(images / (time.perf_counter() - start))
        means = {f"loss_{grid}": round(float(np.mean(values)), 3) for grid, values in losses.items() if values}
        yield {"step": training.step, "pictures_per_second": speed, **means}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for weights, checkpoint and log")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--canvases", type=int, default=12000, help="number of drawn images")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--from-patch", type=float, default=0.7, help="share of steps with a patch as start")
    parser.add_argument("--save-every", type=int, default=200, help="steps between checkpoints and lines of the log")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        with exit_on_interrupt("Repeat the command to continue."):
            main(parse_arguments())
    except InputError as error:
        sys.exit(f"error: {error}")
