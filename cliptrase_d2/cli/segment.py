"""Segment images and videos into the classes you name.

    cliptrase segment photo.jpg --classes "sky, tree, person;man;woman"
    cliptrase segment photos/ clip.mp4 --classes-file classes.txt --output segmented
    cliptrase segment datasets/emoji_scenes/images/seen_010.webp --classes "soccer ball, red book, water" --model emoji

Every image gets an overlay with a legend and a PNG of class indices, in the order of your classes. A video gets an
overlay video and a PNG for every frame. With --threshold, pixels of no class have the value 255 in PNG files (65535
with more than 255 classes). --config-file also accepts a SAN.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from cliptrase_d2.cli.class_arguments import add_class_arguments, read_classes
from cliptrase_d2.cli.model_arguments import add_model_arguments, build_segmenter_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cliptrase segment``."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="images, videos, folders or glob patterns")
    add_class_arguments(parser, required=True)
    parser.add_argument("--output", type=Path, default=Path("output/segment"), help="folder (default output/segment)")
    add_model_arguments(parser, protocols=("whole", "slide", "tiles", "center_crop"), method=True)
    help_threshold = "pixels whose class has a lower probability become unknown, 0 to 1 (default 0: none)"
    parser.add_argument("--threshold", type=float, default=0.0, metavar="P", help=help_threshold)
    parser.add_argument("--masks", action="store_true", help="also write the mask proposals, as .npz")
    parser.add_argument("--json", action="store_true", help="also write classes, shares and masks in COCO's RLE")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use every N-th video frame (default 1)")


def run(arguments: argparse.Namespace) -> int:
    """Segment all inputs and return 0."""
    from tqdm import tqdm

    from cliptrase_d2.cli.inputs import find_inputs, is_video
    from cliptrase_d2.unknown import check_threshold
    from cliptrase_d2.utils.errors import InputError
    from cliptrase_d2.utils.imports import paused_collection
    from cliptrase_d2.utils.interruption import Interrupted

    if arguments.every < 1:
        raise InputError("--every", arguments.every, "Use 1 for every frame.", allowed="1 or more")
    threshold = check_threshold(arguments.threshold, "--threshold")
    files = find_inputs(arguments.images)
    classes, background = read_classes(arguments)
    with paused_collection():  # after the checks, since the model's libraries are slow to import
        from cliptrase_d2.cli.writers import Writer
    writer = Writer(arguments.output, masks=arguments.masks, json=arguments.json)
    writer.check_collisions(files)
    segmenter = build_segmenter_from(arguments)
    if arguments.masks and segmenter.protocol.name == "tiles":
        fix = "Drop --masks, or choose the protocol whole, slide or center_crop."
        raise InputError("--masks", "not available with the protocol tiles, where masks belong to single tiles", fix)
    images = (file for file in files if not is_video(file))
    done = 0
    try:
        with closing(segmenter.stream(images, classes, background, threshold=threshold)) as results:
            for file in tqdm(files, unit="file", disable=len(files) == 1):
                if is_video(file):
                    writer.write_video(file, segmenter, classes, background, arguments.every, threshold)
                else:
                    result = next(results)
                    writer.write(file.stem, result)
                    tqdm.write(f"{file}: {result}")
                done += 1
    except KeyboardInterrupt as error:
        raise Interrupted(f"{done} of {len(files)} files are done, written to {arguments.output}/") from error
    print(f"Results written to {arguments.output}/")
    return 0
