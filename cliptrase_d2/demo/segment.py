"""Segment images and videos into the classes that you name.

    cliptrase segment photo.jpg --classes "sky, tree, person;man;woman"
    cliptrase segment photos/ clip.mp4 --classes-file words.txt --output segmented
    cliptrase segment datasets/emoji_scenes/images/seen_010.webp --classes "soccer ball, red book, water" --model emoji

Writes for every image the overlay with its legend and a PNG of class indices, in the order of your classes; for a
video the overlays as a video, and a PNG for every frame.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what loads PyTorch waits until the command runs, so that help comes at once
    from cliptrase_d2.demo.predictor import Segmenter

DEFAULT_MODEL = "ViT-B-16"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``cliptrase segment``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="images, videos, folders of them, or patterns")
    words = parser.add_mutually_exclusive_group(required=True)
    words.add_argument("--classes", help='classes with commas between them; "cat;kitten" are synonyms of one')
    words.add_argument("--classes-file", type=Path, metavar="FILE", help="text file, one class per line")
    parser.add_argument("--background", default="", metavar="WORDS", help='words of a last class "background"')
    parser.add_argument("--output", type=Path, default=Path("output/segment"), help="folder (default output/segment)")
    parser.add_argument("--model", help="'emoji', part of this package, or a ViT of open_clip (default ViT-B-16)")
    parser.add_argument("--pretrained", metavar="TAG|FILE", help="its weights (default: OpenAI's, or the first tag)")
    parser.add_argument("--config-file", metavar="FILE", help="a configuration in place of --model, SAN's too")
    parser.add_argument("--protocol", choices=("whole", "slide", "center_crop"), help="how an image is shown to it")
    parser.add_argument("--attention", help="of CLIP's last block: qq_kk_vv (default), qq_kk, v, qk, clearclip, ...")
    parser.add_argument("--masks", action="store_true", help="also write the mask proposals, as .npz")
    parser.add_argument("--json", action="store_true", help="also write classes, shares and masks in COCO's RLE")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th frame of a video (default 1)")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="changes of the configuration")


def run(arguments: argparse.Namespace) -> int:
    """Segment everything; 0 if it could be."""
    from tqdm import tqdm

    from cliptrase_d2.data.custom import read_class_file
    from cliptrase_d2.demo.inputs import find_inputs, is_video
    from cliptrase_d2.demo.written import Writer
    from cliptrase_d2.errors import InputError
    from cliptrase_d2.vocabulary import Vocabulary

    if arguments.every < 1:
        raise InputError("--every", arguments.every, "1 or more", "Use 1 for every frame.")
    files = find_inputs(arguments.images)
    if arguments.classes_file:
        classes, where = read_class_file(arguments.classes_file), str(arguments.classes_file)
    else:
        classes, where = tuple(arguments.classes.split(",")), "--classes"
    background = arguments.background.split(",") if arguments.background else []
    Vocabulary.parse(classes, background, where)  # before the model is loaded, which takes its time
    writer = Writer(arguments.output, masks=arguments.masks, json=arguments.json)
    writer.refuse_collisions(files)
    segmenter = _segmenter(arguments)
    for file in tqdm(files, unit="file", disable=len(files) == 1):
        if is_video(file):
            writer.write_video(file, segmenter, classes, background, arguments.every)
        else:
            result = segmenter(file, classes, background)
            writer.write(file.stem, result)
            tqdm.write(f"{file}: {result}")
    print(f"Written to {arguments.output}/")
    return 0


def _segmenter(arguments: argparse.Namespace) -> Segmenter:
    """The model that the arguments name; says before what it will fetch."""
    from cliptrase_d2.demo.predictor import Segmenter
    from cliptrase_d2.demo.weights import EMBEDDED, what_will_be_fetched
    from cliptrase_d2.errors import InputError

    options = _options(arguments)
    if not arguments.config_file:
        chosen = dict(zip(options[::2], options[1::2], strict=False))
        message = what_will_be_fetched(chosen["MODEL.CLIP.NAME"], chosen["MODEL.CLIP.PRETRAINED"])
        if message:
            print(message, flush=True)
    try:
        return Segmenter.from_config(arguments.config_file, options)
    except InputError as error:
        if not str(error.came).startswith("a failed download"):
            raise
        fix = f"{error.fix} Or try --model {EMBEDDED}, which is part of this package and knows the emoji scenes."
        raise InputError(error.where, error.came, error.allowed, fix) from error


def _options(arguments: argparse.Namespace) -> list[str]:
    """KEY VALUE pairs of the arguments, the user's own last."""
    from cliptrase_d2.clip import embedded
    from cliptrase_d2.demo.weights import EMBEDDED, tag_of

    options: list[str] = []
    model = arguments.model or ("" if arguments.config_file else DEFAULT_MODEL)
    if model in (EMBEDDED, embedded.NAME):
        options += ["MODEL.CLIP.NAME", embedded.NAME, "MODEL.CLIP.PRETRAINED", embedded.TAG]
        options += ["INPUT.MIN_SIZE_TEST", "112", "INPUT.MAX_SIZE_TEST", "448"]
    elif model:
        options += ["MODEL.CLIP.NAME", model, "MODEL.CLIP.PRETRAINED", arguments.pretrained or tag_of(model)]
    elif arguments.pretrained:
        options += ["MODEL.CLIP.PRETRAINED", arguments.pretrained]
    if arguments.protocol:
        options += ["TEST.PROTOCOL", arguments.protocol]
    if arguments.attention:
        options += ["MODEL.CLIPTRASE.ATTENTION", arguments.attention]
    return [*options, *arguments.opts]
