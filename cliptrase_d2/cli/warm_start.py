"""Initialise a SAN from the masks that CLIPtrase finds in a set of images.

The checkpoint holds a single tensor, side_adapter_network.query_embed. If MODEL.SAN.QUERY_INIT is closed_form, it holds
the whole side network, which segments without any training. The published SAN also accepts it as MODEL.WEIGHTS.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cliptrase_d2.cli.outputs import add_overwrite_argument, require_absent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cliptrase warm-start``."""
    parser.add_argument("--config-file", required=True, metavar="FILE|NAME", help="SAN, such as san/san_vit_b16")
    parser.add_argument("--dataset", metavar="D.yaml|NAME", help="source of the images (default: DATASETS.TRAIN)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.pth", help="checkpoint to write")
    add_overwrite_argument(parser)
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="after --: configuration overrides")


def run(arguments: argparse.Namespace) -> int:
    """Compute the start, write the checkpoint and return 0."""
    import torch

    from cliptrase_d2.config import load_config
    from cliptrase_d2.data.builtin import register_builtin
    from cliptrase_d2.data.custom import read_dataset_file
    from cliptrase_d2.data.register import register_spec, require_registered
    from cliptrase_d2.san.model import SAN
    from cliptrase_d2.san.query_projection import query_embeddings
    from cliptrase_d2.san.warm_start import sample_masks, start_queries
    from cliptrase_d2.segmenter.build import resolve_device
    from cliptrase_d2.utils.atomic_files import atomic_write, require_writable
    from cliptrase_d2.utils.errors import InputError

    if arguments.output.suffix != ".pth":
        raise InputError("--output", arguments.output, "Give the file the suffix .pth.")
    require_writable(arguments.output.parent, "--output")
    if not arguments.overwrite:
        require_absent([arguments.output])
    cfg = load_config(arguments.config_file, arguments.opts)
    dataset = arguments.dataset
    if dataset and dataset.endswith((".yaml", ".yml")):
        dataset = register_spec(read_dataset_file(dataset))
    register_builtin()
    if dataset is None and not cfg.DATASETS.TRAIN:
        raise InputError("--dataset", "missing, and DATASETS.TRAIN is empty", "Give --dataset a file or a name.")
    name, key = (cfg.DATASETS.TRAIN[0], "DATASETS.TRAIN") if dataset is None else (dataset, "--dataset")
    require_registered(name, key)
    resolve_device(cfg)
    cfg.DATASETS.TRAIN = (name,)
    cfg.freeze()
    side = cfg.MODEL.SIDE_ADAPTER
    if cfg.MODEL.SAN.QUERY_INIT == "closed_form":
        torch.manual_seed(max(0, cfg.SEED))
        model = SAN(cfg).to(cfg.MODEL.DEVICE)  # type: ignore[call-arg, arg-type]  # configurable
        sample = start_queries(cfg, model)
        parts = ("side_adapter_network.", "ov_classifier.bg_embed")
        weights = {key: value.cpu() for key, value in model.state_dict().items() if key.startswith(parts)}
    else:
        sample = sample_masks(cfg, name)
        queries = query_embeddings(sample.features, side.NUM_QUERIES, side.WIDTH, max(0, cfg.SEED))
        weights = {"side_adapter_network.query_embed": queries}
    atomic_write(arguments.output, lambda file: torch.save({"model": weights}, file))
    print(f"{side.NUM_QUERIES} queries of width {side.WIDTH} from {sample}: {arguments.output}")
    print(f"  cliptrase train --config-file {arguments.config_file} --opts MODEL.WEIGHTS {arguments.output}")
    return 0
