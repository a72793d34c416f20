"""The last attention and the embedding of SAM, against those of transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vision_models.sam_attention import SamReader, prepare
from cliptrase_d2.vision_models.sam_model import PromptedSam, load_sam
from tests.pipeline.tiny_segmenter import scene
from tests.vision_models.tiny_models import save_sam, save_sam2


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> PromptedSam:
    sam = load_sam(save_sam(tmp_path_factory.mktemp("sam")))
    for layer in sam.model.vision_encoder.layers:  # those of a new model are 0
        for table in (layer.attn.rel_pos_h, layer.attn.rel_pos_w):
            nn.init.normal_(table)
    return sam


@torch.inference_mode()
def test_the_attention_is_that_of_transformers_without_the_padding(sam: PromptedSam) -> None:
    attention, side = SamReader(sam).read_last_attention(scene(0, 48, 96)), 4
    assert attention.grid == (2, 4)  # 64x64 pixels in patches of 16, the lower half of which is padding
    encoder, seen = sam.model.vision_encoder, []
    handle = encoder.layers[-1].attn.register_forward_pre_hook(
        lambda module, arguments, keywords: seen.append(keywords["hidden_states"]), with_kwargs=True
    )
    encoder(prepare(sam, scene(0, 48, 96)))
    handle.remove()
    module, tokens = encoder.layers[-1].attn, seen[0]
    heads = module.num_attention_heads
    query, key, value = module.qkv(tokens).view(side**2, 3, heads, -1).permute(1, 2, 0, 3)
    relative = module.get_decomposed_rel_pos(query, module.rel_pos_h, module.rel_pos_w, (side, side), (side, side))
    whole = (query * module.scale @ key.mT + relative.reshape(heads, side**2, side**2)).softmax(-1)
    for head in range(heads):
        torch.testing.assert_close(attention.attend(head), whole[head, :8, :8])
        assert attention.attend(head).sum(1).min() < 0.9
    torch.testing.assert_close(attention.values.flatten(1, 2), value[:, :8])


def test_an_image_is_resized_by_pillow_and_padded_after_its_normalisation(sam: PromptedSam) -> None:
    image = scene(1, 50, 30)
    pixels = prepare(sam, image)  # 64x38, since 30·64/50 = 38.4
    resized = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((38, 64), Image.Resampling.BILINEAR)
    expected: Tensor = torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(pixels[0, :, :, :38], (expected - mean) / std)
    assert pixels[0, :, :, 38:].abs().max() == 0


@torch.inference_mode()
def test_attention_and_embedding_share_a_pass(sam: PromptedSam) -> None:
    reader, runs = SamReader(sam), []
    handle = sam.model.vision_encoder.patch_embed.register_forward_hook(lambda *_: runs.append(1))
    for index, passes in ((0, 1), (1, 2), (0, 3)):
        image = scene(index, 50, 30)
        values = reader.read_last_attention(image).values
        embedding = reader.embed(image.clone())
        assert len(runs) == passes
        torch.testing.assert_close(values, SamReader(sam).read_last_attention(image).values)
        torch.testing.assert_close(embedding, sam.model.get_image_embeddings(prepare(sam, image)))
        del runs[passes:]
    handle.remove()


def test_an_image_thinner_than_a_patch_has_one_row_of_patches(sam: PromptedSam) -> None:
    attention = SamReader(sam).read_last_attention(scene(0, 2, 96))
    assert attention.grid == (1, 4)
    assert attention.attend(0).isfinite().all()


def test_sam_2_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sam: .*whose encoder"):
        SamReader(load_sam(save_sam2(tmp_path))).read_last_attention(scene())
