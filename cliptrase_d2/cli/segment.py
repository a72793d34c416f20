"""Segment images and videos into the classes that you name.

    cliptrase segment photo.jpg --classes "sky, tree, person;man;woman"
    cliptrase segment photos/ clip.mp4 --classes-file words.txt --output segmented
    cliptrase segment datasets/emoji_scenes/images/seen_010.webp --classes "soccer ball, red book, water" --model emoji

Writes for every image the overlay with its legend and a PNG of class indices, in the order of your classes; for a
video the overlays as a video, and a PNG for every frame. --config-file takes a SAN, too.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from cliptrase_d2.cli.class_arguments import add_class_arguments, parse_classes
from cliptrase_d2.cli.model_arguments import add_model_arguments, build_segmenter_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``cliptrase segment``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="images, videos, folders of them, or patterns")
    add_class_arguments(parser, required=True)
    parser.add_argument("--output", type=Path, default=Path("output/segment"), help="folder (default output/segment)")
    add_model_arguments(parser, protocols=("whole", "slide", "tiles", "center_crop"))
    parser.add_argument("--attention", help="of CLIP's last block: qq_kk_vv (default), qq_kk, v, qk, clearclip, ...")
    parser.add_argument("--masks", action="store_true", help="also write the mask proposals, as .npz")
    parser.add_argument("--json", action="store_true", help="also write classes, shares and masks in COCO's RLE")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th frame of a video (default 1)")


def run(arguments: argparse.Namespace) -> int:
    """Segment everything; 0 if it could be."""
    from tqdm import tqdm

    from cliptrase_d2.cli.inputs import find_inputs, is_video
    from cliptrase_d2.cli.writers import Writer
    from cliptrase_d2.utils.errors import InputError
    from cliptrase_d2.utils.interruption import Interrupted

    if arguments.every < 1:
        raise InputError("--every", arguments.every, "Use 1 for every frame.", allowed="1 or more")
    files = find_inputs(arguments.images)
    classes, background = parse_classes(arguments)
    writer = Writer(arguments.output, masks=arguments.masks, json=arguments.json)
    writer.refuse_collisions(files)
    attention = ["MODEL.CLIPTRASE.ATTENTION", arguments.attention] if arguments.attention else []
    segmenter = build_segmenter_from(arguments, attention)
    if arguments.masks and segmenter.protocol.name == "tiles":
        got = "with the protocol tiles, where every tile has masks of its own and the image has none"
        raise InputError(
            "--masks", got, "Leave one of the two out.", allowed="the protocols whole, slide and center_crop"
        )
    images = (file for file in files if not is_video(file))
    done = 0
    try:
        with closing(segmenter.stream(images, classes, background)) as results:
            for file in tqdm(files, unit="file", disable=len(files) == 1):
                if is_video(file):
                    writer.write_video(file, segmenter, classes, background, arguments.every)
                else:
                    result = next(results)
                    writer.write(file.stem, result)
                    tqdm.write(f"{file}: {result}")
                done += 1
    except KeyboardInterrupt as stop:
        raise Interrupted(f"{done} of {len(files)} files are done, written to {arguments.output}/") from stop
    print(f"Written to {arguments.output}/")
    return 0
