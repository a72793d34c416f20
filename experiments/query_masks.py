"""Measure whether SAN's queries segment the masks that they were started from (warm start "per_image").

    python experiments/query_masks.py --config-file configs/san/emoji_scenes_per_image.yaml
    python experiments/query_masks.py --config-file configs/san/emoji_scenes_per_image.yaml -- MODEL.WEIGHTS FILE.pth

Without weights the warm start is computed anew and nothing is trained. For every mask that CLIPtrase adds to a query,
the script measures how well the mask logits of this query separate the mask's patches from the others, as the area
under the ROC curve (0.5 is chance), and compares it with the best of all queries.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from cliptrase_d2.config import load_config
from cliptrase_d2.data.builtin import register_builtin
from cliptrase_d2.data.images import read_image
from cliptrase_d2.data.loader import list_records
from cliptrase_d2.san.model import SAN
from cliptrase_d2.san.warm_start import start_queries
from cliptrase_d2.segmenter.build import build_segmenter, resolve_device
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import exit_on_interrupt


class Agreement(NamedTuple):
    """Means over all masks of all images.

    Attributes:
        own: area under the ROC curve of the query that a mask was added to, in [0,1].
        best: the same of the best query for each mask.
        masks: their number.
    """

    own: float
    best: float
    masks: int


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help='of a SAN with MODEL.SAN.QUERY_INIT "per_image"')
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="after --: changes of the config")
    return parser.parse_args()


@torch.inference_mode()
def areas(model: SAN, image: np.ndarray) -> list[tuple[float, float]]:
    """Of each mask of an image [H,W,3] uint8: the area of its own query, and the largest of all queries."""
    assert model.query_init is not None, "the model has queries of an image"
    pixels = model.normalise(torch.from_numpy(image).permute(2, 0, 1))[None]  # [1,3,H,W]
    features = model.encode_image(pixels)
    masks = model.query_init.image_masks(features, model.clip_rec_head)[0].patches
    logits = F.interpolate(model.predict_masks(pixels)[-1][0], features.grid, mode="bilinear")[0].flatten(1)  # [Q,N]
    found = []
    for query, mask in enumerate(masks[: len(logits)].cpu().numpy()):
        if mask.any() and not mask.all():  # a mask may be hidden by others
            every = [roc_auc_score(mask, own) for own in logits.cpu().numpy()]
            found.append((every[query], max(every)))
    return found


def measure(model: SAN, records: list[Any]) -> Agreement:
    """Over all images of a data set; images whose sides are not a multiple of the size divisibility are left out."""
    found: list[tuple[float, float]] = []
    for record in tqdm(records, unit="image"):
        image = read_image(record["file_name"])
        if not (image.shape[0] % model.size_divisibility or image.shape[1] % model.size_divisibility):
            found += areas(model, image)
    if not found:
        raise InputError("DATASETS.TEST", "no mask in any image", "Name another data set.", allowed="images with masks")
    own, best = np.mean(found, axis=0)
    return Agreement(float(own), float(best), len(found))


def main() -> None:
    """Measure and print."""
    args = parse_arguments()
    try:
        cfg = load_config(args.config_file, args.opts)
        register_builtin()
        resolve_device(cfg)
        if cfg.MODEL.SAN.QUERY_INIT != "per_image":
            raise InputError(
                "MODEL.SAN.QUERY_INIT", repr(cfg.MODEL.SAN.QUERY_INIT), "Change it.", allowed="'per_image'"
            )
        model = build_segmenter(cfg)
        assert isinstance(model, SAN), "no other model has this key"
        if not cfg.MODEL.WEIGHTS:
            start_queries(cfg, model)
        found = measure(model, list_records(cfg.DATASETS.TEST[0], "stop"))
    except InputError as error:
        sys.exit(f"error: {error}")
    print(f"{found.masks} masks: their own query {found.own:.2f}, the best query {found.best:.2f} (chance 0.50)")


if __name__ == "__main__":
    with exit_on_interrupt():
        main()
