"""SAM's image encoder as a second vision model, with tiny random ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cliptrase_d2.segmenter.build import build_segmenter
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vision_models import SamEncoder, VisionSource
from tests.pipeline.tiny_segmenter import scene, tiny_config

transformers = pytest.importorskip("transformers")
from tests.vision_models.tiny_models import save_sam, save_sam2  # noqa: E402  imports transformers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_sam(tmp_path_factory.mktemp("sam"))


@torch.inference_mode()
def test_features_are_those_of_transformers_on_the_whole_square(folder: str) -> None:
    encoder = VisionSource(folder).load("vit_base_patch8_224.dino")
    assert isinstance(encoder, SamEncoder)
    images = torch.stack([scene(index, 48, 80).float() for index in range(2)])
    features = encoder(images)
    assert features.grid == (4, 4)
    model = transformers.SamModel.from_pretrained(folder).eval()
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = (F.interpolate(images, (64, 64), mode="bilinear", align_corners=False) / 255 - mean) / std
    expected = model.get_image_embeddings(pixels)  # [2,16,4,4]
    torch.testing.assert_close(features.features, expected.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4)
    assert {name for name, _ in encoder.named_children()} == {"encoder"}  # neither prompts nor masks
    with pytest.raises(InputError, match=r"features: 'keys'.*'tokens'"):
        encoder(images, "keys")


@torch.inference_mode()
def test_proxyclip_reads_sam_in_windows(folder: str, tmp_path: Path) -> None:
    options = ["MODEL.CLIPTRASE.METHOD", "proxyclip", "MODEL.CLIPTRASE.CLUSTERING", "none"]
    options += ["MODEL.CLIPTRASE.VOCABULARY", "['sky', 'grass']", "TEST.PROTOCOL", "published"]
    options += ["MODEL.VISION.NAME", folder, "MODEL.VISION.WEIGHTS", "pretrained"]
    model = build_segmenter(tiny_config(tmp_path, *options))
    assert model.extra_models["vision_model"]["name"] == folder
    (output,) = model([{"image": scene()}])
    assert output["label_map"].shape == (96, 128)


@pytest.mark.parametrize(("method", "features"), [("lposs", "values"), ("corrclip", "queries\\+keys")])
def test_methods_that_read_projections_refuse_sam(method: str, features: str, folder: str, tmp_path: Path) -> None:
    options = ["MODEL.CLIPTRASE.METHOD", method, "TEST.PROTOCOL", "published"]
    options += ["MODEL.CLIPTRASE.CLUSTERING", "none" if method == "lposs" else "dbscan"]
    options += ["MODEL.VISION.NAME", folder, "MODEL.VISION.WEIGHTS", "pretrained"]
    with pytest.raises(InputError, match=rf"MODEL.VISION.NAME: .*a SAM.*{features}"):
        build_segmenter(tiny_config(tmp_path, *options))


def test_sam_2_and_other_weights_are_refused(folder: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"vision_model: .*SAM 2"):
        VisionSource(save_sam2(tmp_path)).load("")
    for weights in ("", "sam.pth"):
        with pytest.raises(InputError, match=rf"vision_model_weights: '{weights}'"):
            VisionSource(folder, weights).load("")
    with pytest.raises(InputError, match=r"vision_model: '.*/missing'"):
        VisionSource(f"{tmp_path}/missing").load("")
