"""Segment images and videos into the classes you name.

    cliptrase segment photo.jpg --classes "sky, tree, person;man;woman"
    cliptrase segment photos/ clip.mp4 --classes-file classes.txt --output segmented
    cliptrase segment datasets/emoji_scenes/images/seen_010.webp --classes "soccer ball, red book, water" --model emoji

Every image gets an overlay with a legend and a PNG of class indices, in the order of your classes. A video gets an
overlay video and a PNG for every frame. With --threshold, pixels of no class have the value 255 in PNG files (65535
with more than 255 classes), and so has nodata. --config-file also accepts a SAN.

    cliptrase segment scene.tif --bands 4 3 2 --stretch 0 3000 --format tif --classes "field, forest, water"

--format tif writes label maps as GeoTIFF with the georeference of the image. With the protocol tiles at the original
size, a TIFF file is then read and written in parts, and so is every TIFF file above INPUT.MAX_PIXELS. Its overlay is
reduced.

Existing results are an error unless --overwrite replaces or --skip-existing keeps them. The exit code is 1 if
--on-error skip left out a file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from cliptrase_d2.cli.class_arguments import add_class_arguments, read_classes
from cliptrase_d2.cli.model_arguments import add_model_arguments, build_segmenter_from, load_config_from
from cliptrase_d2.cli.outputs import add_overwrite_argument

if TYPE_CHECKING:  # importing PyTorch would delay --help
    from cliptrase_d2.cli.writers import Writer
    from cliptrase_d2.segmenter.segmenter import Segmenter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cliptrase segment``."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="images, videos, folders or glob patterns")
    add_class_arguments(parser, required=True)
    parser.add_argument("--recursive", action="store_true", help="search subfolders, and repeat them in the output")
    parser.add_argument("--output", type=Path, default=Path("output/segment"), help="folder (default output/segment)")
    add_model_arguments(
        parser, protocols=("whole", "slide", "tiles", "center_crop", "published"), method=True, rendering=True
    )
    parser.add_argument("--format", choices=("png", "tif"), default="png", help="of label maps (default png)")
    help_threshold = "pixels whose class has a lower probability become unknown, 0 to 1 (default 0: none)"
    parser.add_argument("--threshold", type=float, default=0.0, metavar="P", help=help_threshold)
    parser.add_argument("--masks", action="store_true", help="also write the mask proposals, as .npz")
    parser.add_argument(
        "--json", action="store_true", help="also write a COCO data set of the image, with masks in RLE"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use every N-th video frame (default 1)")
    existing = parser.add_mutually_exclusive_group()
    add_overwrite_argument(existing)
    existing.add_argument("--skip-existing", action="store_true", help="omit files whose results exist")
    help_error = "stop at a file that cannot be segmented (default), or skip it and report it at the end"
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop", help=help_error)


def run(arguments: argparse.Namespace) -> int:
    """Segment all inputs. Return 0, or 1 if files were skipped because of errors."""
    from cliptrase_d2.cli.inputs import find_inputs, find_large_rasters
    from cliptrase_d2.unknown import check_threshold
    from cliptrase_d2.utils.errors import InputError
    from cliptrase_d2.utils.imports import hidden_module, paused_collection
    from cliptrase_d2.utils.interruption import Interrupted

    if arguments.every < 1:
        raise InputError("--every", arguments.every, "Use 1 for every frame.", allowed="1 or more")
    check_threshold(arguments.threshold, "--threshold")
    files = find_inputs(arguments.images, arguments.recursive, arguments.output)
    arguments.classes, arguments.background = read_classes(arguments)
    # After the checks, since the model's libraries are slow to import. open_clip imports transformers only for text
    # towers of the Hugging Face Hub, which no model here has.
    with paused_collection(), hidden_module("transformers"):
        from cliptrase_d2.cli.writers import Writer
        from cliptrase_d2.data.rasters import import_rasterio
    if arguments.format == "tif":
        import_rasterio("--format tif")
    large = find_large_rasters(files, load_config_from(arguments), arguments.format)
    writer = Writer(
        arguments.output, masks=arguments.masks, json=arguments.json, label_format=arguments.format, large=large
    )
    writer.check_collisions(files)
    if arguments.skip_existing:
        finished = writer.find_finished(files)
        print(f"{len(finished)} of {len(files)} files have results in {arguments.output}/ and are omitted.")
        files = {file: name for file, name in files.items() if file not in finished}
    elif not arguments.overwrite:
        writer.require_absent(files)
    if not files:
        return 0
    segmenter = build_segmenter_from(arguments)
    if arguments.masks and segmenter.protocol.name == "tiles":
        fix = "Drop --masks, or choose the protocol whole, slide or center_crop."
        raise InputError("--masks", "not available with the protocol tiles, where masks belong to single tiles", fix)
    for flag, is_set in (("--json", arguments.json), ("--threshold", arguments.threshold)):
        if large and is_set:
            got = f"not available for {next(iter(large))}, which is read in parts"
            raise InputError(flag, got, "Drop it, or choose --format png and raise INPUT.MAX_PIXELS.")
    done, failed = 0, []
    try:
        for error in _segment_files(files, segmenter, writer, arguments):
            if error:
                failed.append(error)
            done += not error
    except KeyboardInterrupt as error:
        raise Interrupted(f"{done} of {len(files)} files are done, written to {arguments.output}/") from error
    print(f"Results written to {arguments.output}/")
    for message in failed:
        print(f"skipped: {message}", file=sys.stderr)
    return 1 if failed else 0


def _segment_files(
    files: dict[Path, str], segmenter: Segmenter, writer: Writer, arguments: argparse.Namespace
) -> Iterator[str | None]:
    """Segment the files and write their results. Yield None for each file, or the error because of which it is skipped.

    Raises:
        InputError: the first error, unless errors are skipped.
    """
    from tqdm import tqdm

    from cliptrase_d2.cli.inputs import is_video
    from cliptrase_d2.utils.errors import InputError, WriteError

    words, threshold = (arguments.classes, arguments.background), arguments.threshold
    images = [file for file in files if not is_video(file) and file not in writer.large]
    with closing(segmenter.stream(images, *words, threshold=threshold)) as results:  # reads ahead
        for file, name in tqdm(files.items(), unit="file", disable=True if len(files) == 1 else None):
            try:
                if is_video(file):
                    writer.write_video(file, name, segmenter, *words, arguments.every, threshold)
                elif file in writer.large:
                    writer.write_large(file, name, segmenter, *words)
                else:
                    skips = arguments.on_error == "skip"  # an error ends a stream
                    result = segmenter(file, *words, threshold=threshold) if skips else next(results)
                    writer.write(file, name, result)
                    tqdm.write(f"{file}: {result}")
                yield None
            except WriteError:
                raise
            except InputError as error:
                if arguments.on_error == "stop":
                    raise
                yield str(error)
