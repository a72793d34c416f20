"""Measure whether SAN's queries segment the masks that they were started from.

    python experiments/query_masks.py --config-file configs/san/emoji_scenes_closed_form.yaml
    python experiments/query_masks.py --config-file configs/san/emoji_scenes_closed_form.yaml -- MODEL.WEIGHTS FILE.pth

Without weights nothing is trained. Every mask that CLIPtrase finds in an image has its own query, the one that started
as the nearest prototype. The script measures how well the mask logits of this query separate the mask's patches from
the others, as the area under the ROC curve (0.5 is chance), and compares it with the best of all queries.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor
from tqdm import tqdm

from cliptrase_d2.config import load_config
from cliptrase_d2.data.builtin import register_builtin
from cliptrase_d2.data.images import read_image
from cliptrase_d2.data.loader import list_records
from cliptrase_d2.pipeline.proposals import mask_average_pooling
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.san.closed_form import count_channels
from cliptrase_d2.san.mask_finder import find_masks
from cliptrase_d2.san.model import SAN
from cliptrase_d2.san.warm_start import start_queries
from cliptrase_d2.segmenter.build import load_weights, resolve_device
from cliptrase_d2.utils.errors import InputError, check_choice
from cliptrase_d2.utils.interruption import exit_on_interrupt


class Agreement(NamedTuple):
    """Means over all masks of all images.

    Attributes:
        own: area under the ROC curve of a mask's own query, in [0,1].
        best: the same of the best query for each mask.
        masks: their number.
    """

    own: float
    best: float
    masks: int


class Prototypes(NamedTuple):
    """The queries of the warm start "closed_form", and how it projects features to compare with them.

    Attributes:
        settings: of the masks of an image.
        weight, bias: [K,E] and [K].
        queries: [Q,K].
    """

    settings: CLIPtraseSettings
    weight: Tensor
    bias: Tensor
    queries: Tensor

    @classmethod
    def read(cls, model: SAN, settings: CLIPtraseSettings) -> Prototypes:
        """Copy them from a model that was started and not trained."""
        side, count = model.side_adapter_network, count_channels(model.side_adapter_network)
        projection: Any = side.last_fusion.input_proj[1]
        weight, bias = projection.weight[:count, :, 0, 0], projection.bias[:count]
        return cls(settings, *(part.detach().clone() for part in (weight, bias, side.query_embed[0, :, :count])))

    def nearest(self, features: Tensor, masks: Tensor) -> list[int]:
        """Return the query of each mask, for fused features [N,E] and masks [Q,N] bool, none of them empty."""
        pooled = mask_average_pooling(masks.float(), features @ self.weight.T + self.bias)
        return torch.cdist(pooled, self.queries).argmin(1).tolist()


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help='of a SAN with MODEL.SAN.QUERY_INIT "closed_form"')
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="after --: changes of the config")
    return parser.parse_args()


@torch.inference_mode()
def areas(model: SAN, image: np.ndarray, prototypes: Prototypes) -> list[tuple[float, float]]:
    """Of each mask of an image [H,W,3] uint8: the area of its own query, and the largest of all queries."""
    pixels = model.normalise(torch.from_numpy(image).permute(2, 0, 1))[None]  # [1,3,H,W]
    features = model.encode_image(pixels)
    masks = find_masks(features, model.clip_rec_head, prototypes.settings)[0]
    masks = masks[masks.any(1)]
    logits = F.interpolate(model.predict_masks(pixels)[-1][0], features.grid, mode="bilinear")[0].flatten(1)  # [Q,N]
    owners = prototypes.nearest(model.side_adapter_network.normalise_fused(features)[0].flatten(1).T, masks)
    found = []
    for query, mask in zip(owners, masks.cpu().numpy(), strict=True):
        if not mask.all():
            every = [roc_auc_score(mask, own) for own in logits.cpu().numpy()]
            found.append((every[query], max(every)))
    return found


def measure(model: SAN, records: list[Any], prototypes: Prototypes) -> Agreement:
    """Over all images of a data set; images whose sides are not a multiple of the size divisibility are left out."""
    found: list[tuple[float, float]] = []
    for record in tqdm(records, unit="image"):
        image = read_image(record["file_name"])
        if not (image.shape[0] % model.size_divisibility or image.shape[1] % model.size_divisibility):
            found += areas(model, image, prototypes)
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
        check_choice("MODEL.SAN.QUERY_INIT", cfg.MODEL.SAN.QUERY_INIT, ("closed_form",))
        torch.manual_seed(max(0, cfg.SEED))
        weights, cfg.MODEL.WEIGHTS = cfg.MODEL.WEIGHTS, ""  # a start needs CLIP's own weights
        model = SAN(cfg).to(cfg.MODEL.DEVICE).eval()  # type: ignore[call-arg, arg-type]  # configurable
        start_queries(cfg, model)
        prototypes = Prototypes.read(model, CLIPtraseSettings.from_config(cfg))
        cfg.MODEL.WEIGHTS = weights
        load_weights(cfg, model)
        found = measure(model, list_records(cfg.DATASETS.TEST[0], "stop"), prototypes)
    except InputError as error:
        sys.exit(f"error: {error}")
    print(f"{found.masks} masks: their own query {found.own:.2f}, the best query {found.best:.2f} (chance 0.50)")


if __name__ == "__main__":
    with exit_on_interrupt():
        main()
