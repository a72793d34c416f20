"""Images that are smaller than a window, a patch or one of SAM's patches, with methods that read a second model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cliptrase_d2.clip.tokens import cosine_matrix
from cliptrase_d2.methods.proxyclip import proxy_attention
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.published_segmentation import make_whole_image, put_background_first
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.vocabulary import Vocabulary
from tests.methods.example_methods import Pixels
from tests.pipeline.tiny_segmenter import scene, tiny_segmenter

pytest.importorskip("transformers")
from cliptrase_d2.mask_sources.sam import SamAutomaticSource
from cliptrase_d2.vision_models.sam_model import PromptedSam, load_sam
from tests.vision_models.tiny_models import save_sam

WORDS = Vocabulary.parse(["sky", "grass", "star"], ["wall", "floor"])
THIN = [(1, 100), (90, 1), (1, 1), (1, 700), (3, 20)]


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> PromptedSam:
    return load_sam(save_sam(tmp_path_factory.mktemp("sam")))


def build(method: str, sam: PromptedSam, **options: Any) -> CLIPtrase:
    is_masked = method in ("corrclip", "textregion")
    settings = CLIPtraseSettings(method=method, clustering="dbscan" if is_masked else "none", method_options=options)
    window = 0 if method in ("textregion", "trident") else 64
    pad_to = 56 if method in ("proxyclip", "corrclip") else 0
    return tiny_segmenter(
        settings=settings,
        protocol=PublishedProtocol(window=window, stride=32, pad_to=pad_to),
        vision_model=Pixels(1),
        mask_source=SamAutomaticSource(sam, 2, min_iou=0.0, min_stability=0.0) if is_masked else None,
        sam=sam if method == "trident" else None,
    )


def make_input(height: int, width: int) -> dict[str, Any]:
    image = scene(0, height, width)
    size = {"height": height, "width": width, "vocabulary": WORDS, "output_sem_seg": True}
    return {"image": image, "photograph": image, **size}


@pytest.mark.parametrize(("height", "width"), THIN)
@pytest.mark.parametrize("method", ["proxyclip", "corrclip", "textregion", "lposs", "trident"])
def test_thin_images_are_labelled(method: str, height: int, width: int, sam: PromptedSam) -> None:
    (output,) = build(method, sam)([make_input(height, width)])
    assert output["label_map"].shape == (height, width)
    assert output["sem_seg"].isfinite().all()
    assert torch.equal(output["label_map"], output["sem_seg"].argmax(0))


def test_halves_of_an_image_of_one_patch(sam: PromptedSam) -> None:
    (output,) = build("trident", sam, window=64, stride=32, halves=True)([make_input(80, 16)])
    assert output["sem_seg"].isfinite().all()


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 32), (16, 48)])
def test_trident_keeps_whole_patches_below_a_window(height: int, width: int, sam: PromptedSam) -> None:
    """The published code pads such windows to a multiple of 56 pixels, and then fails to join them."""
    model, inputs = build("trident", sam, window=64, stride=32), make_input(height, width)
    image, text = model.tower.normalise(inputs["image"]), put_background_first(model.text_features(WORDS))
    tokens = model.read_tokens(image[None], model.method.needs, lambda tokens: tokens)
    attention = proxy_attention(cosine_matrix(tokens.vision_features.features), 1.2, 3.0)[0]
    value = tokens.qkv()[2][0, :, 1:].transpose(0, 1).flatten(1)  # [N,E]
    expected = model.tower.visual.transformer.resblocks[-1].attn.out_proj(attention @ value)
    whole = make_whole_image(model, inputs, image, text, model.protocol)
    result = model.method.join_windows(whole)
    assert result.shape[1:] == (height // 16, width // 16)
    torch.testing.assert_close(result.flatten(1).T, expected, atol=1e-5, rtol=0)


def test_padding_does_not_depend_on_the_batch(sam: PromptedSam) -> None:
    model = build("lposs", sam)
    inputs = [make_input(40, 52), make_input(40, 52)]
    inputs[1]["image"] = F.interpolate(scene(1)[None], (40, 52))[0]
    for output, one in zip(model(inputs), inputs, strict=True):
        torch.testing.assert_close(output["sem_seg"], model([one])[0]["sem_seg"], atol=1e-5, rtol=0)
