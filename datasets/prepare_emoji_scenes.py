"""Draw emoji scenes, any number of them at any size.

    python datasets/prepare_emoji_scenes.py OUTPUT [--split SPLIT …] [--count N] [--size 224] [--seed 0]

writes OUTPUT/images, OUTPUT/annotations and data-set files for ``train_net.py --dataset``: dataset.yaml for all scenes
and one file for each split. Without options, it draws the scenes in datasets/emoji_scenes. Existing scenes are kept:
run it again to continue after an interruption, or to add scenes.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from cliptrase_d2.data.emoji_scenes.files import SHIPPED, SHIPPED_SIZE, write_scenes
from cliptrase_d2.data.emoji_scenes.splits import SPLITS
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import exit_on_interrupt

MIN_SIZE = 16  # pixels; nothing is recognisable in a smaller scene


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder to write to; created if it does not exist")
    parser.add_argument("--split", nargs="+", choices=SPLITS, default=SPLITS, help="which scenes (default: all)")
    parser.add_argument("--count", type=int, help="scenes of each split (default: as in datasets/emoji_scenes)")
    parser.add_argument("--size", type=int, default=SHIPPED_SIZE, help="side of the images in pixels (default 224)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the series (default 0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    args = parser.parse_args()
    for name, lowest in (("count", 1), ("size", MIN_SIZE), ("seed", 0), ("workers", 1)):
        value = getattr(args, name)
        if value is not None and value < lowest:
            parser.error(f"--{name} {value}: must be at least {lowest}")
    return args


def main() -> None:
    """Draw the scenes."""
    args = parse_arguments()
    counts = {split: args.count or SHIPPED[split] for split in args.split}
    try:
        with exit_on_interrupt("Run the same command again to continue."):
            write_scenes(args.output, counts, size=args.size, seed=args.seed, workers=args.workers)
    except InputError as error:
        sys.exit(f"error: {error}")
    print(f"{sum(counts.values())} scenes: {args.output / 'dataset.yaml'}")


if __name__ == "__main__":
    main()
