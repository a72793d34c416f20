"""SigLIP 2 from a file of open_clip: weights, words and patches, and models that it is confused with."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
import transformers
from open_clip.model import CustomTextCLIP
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

from cliptrase_d2.clip.load import build_skeleton, load_clip
from cliptrase_d2.clip.siglip import SiglipTower, read_patch_side
from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.tokenizer import get_tokenizer
from cliptrase_d2.clip.visual import VisualTower, build_tower
from cliptrase_d2.clip.weights_source import get_model_config
from cliptrase_d2.d2 import build_model
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.clip.tiny import tiny_clip
from tests.clip.tiny_siglip import TINY_SIGLIP
from tests.pipeline.tiny_segmenter import scene, tiny_config

NAME = "tiny-SigLIP2"
WORDS = ("<pad>", "<eos>", "<unk>", "a", "photo", "of", "cat", "dog", "traffic", "light")
CONFIG = {
    "embed_dim": 48,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "timm_model_name": TINY_SIGLIP, "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {
        "context_length": 16,
        "vocab_size": len(WORDS),
        "hf_tokenizer_name": "owner/absent",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 48,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}


def build() -> CustomTextCLIP:
    torch.manual_seed(3)
    return CustomTextCLIP(**{key: value for key, value in CONFIG.items() if key != "custom_text"}).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights and a tokenizer that appends an end token and pads."""
    path = tmp_path / f"{NAME}.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    backend = Backend(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(tmp_path / "weights")
    torch.save(build().state_dict(), tmp_path / "weights" / "w.pt")
    return tmp_path / "weights"


def test_every_weight_is_loaded(folder: Path) -> None:
    model, report = load_clip(NAME, str(folder / "w.pt"), allow_siglip=True)
    assert (report.missing, report.unexpected, report.random) == ((), (), ())
    expected = build()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name
    assert isinstance(build_tower(model.visual), SiglipTower)
    assert isinstance(build_tower(tiny_clip().visual), VisualTower)


def test_words_are_canonical_and_read_one_another(folder: Path) -> None:
    model, _ = load_clip(NAME, str(folder / "w.pt"), allow_siglip=True)
    tokenizer = get_tokenizer(NAME, str(folder), 16)
    assert tokenizer(["A photo of a Traffic Light!"]).tolist() == [[3, 4, 5, 3, 8, 9, 1] + [0] * 9]
    words = ("cat", "dog", "traffic light", "a cat")
    features = TextEncoder(model, tokenizer, templates="simple")(Vocabulary.parse(list(words)))
    prompts = tokenizer([f"a photo of a {word}." for word in words])
    expected = build().encode_text(prompts, normalize=True)
    torch.testing.assert_close(features.features, expected, atol=1e-6, rtol=0)
    assert len({tuple(row.tolist()) for row in features.features}) == 4


def test_a_configuration_labels_an_image(folder: Path, tmp_path: Path) -> None:
    options = {
        "MODEL.CLIP.NAME": NAME,
        "MODEL.CLIP.PRETRAINED": str(folder / "w.pt"),
        "MODEL.CLIPTRASE.METHOD": "textregion",
        "MODEL.CLIPTRASE.VOCABULARY": "['cat', 'dog']",
        "MODEL.MASKS.SOURCE": "backbone",
        "MODEL.MASKS.BACKBONE": "vit_tiny_patch16_224",
        "MODEL.MASKS.BACKBONE_WEIGHTS": "",
        "TEST.PROTOCOL": "published",
    }
    cfg = tiny_config(tmp_path, *[word for pair in options.items() for word in pair])
    model = build_model(cfg).eval()
    image = scene(0, 64, 80)
    (output,) = model([{"image": image, "photograph": image}])
    assert output["label_map"].shape == (64, 80)
    assert model.get_patch_multiple(cfg) == model.patch_multiple == 8
    cfg.MODEL.CLIPTRASE.METHOD = "sclip"
    cfg.MODEL.CLIPTRASE.CLUSTERING = "none"
    with pytest.raises(InputError, match=r"method: 'sclip' with SigLIP 2"):
        build_model(cfg)


def test_a_siglip_is_refused_where_a_clip_is_needed(folder: Path) -> None:
    for call in (lambda: load_clip(NAME, ""), lambda: build_skeleton("ViT-B-16-SigLIP2")):
        with pytest.raises(InputError, match=r"name: .*SigLIP2.*attentional pooling.*nearest model"):
            call()


def test_weights_of_the_other_kind_are_refused(folder: Path) -> None:
    torch.save(tiny_clip().state_dict(), folder / "clip.pt")
    with pytest.raises(InputError, match=r"clip\.pt: .*weights of another model"):
        load_clip(NAME, str(folder / "clip.pt"), allow_siglip=True)
    with pytest.raises(InputError, match=r"w\.pt: .*"):
        load_clip("ViT-B-16", str(folder / "w.pt"))


def test_sides_of_patches() -> None:
    names = ("ViT-B-16-SigLIP2", "ViT-B-32-SigLIP2-256", "ViT-SO400M-14-SigLIP2", "ViT-L-14")
    assert [read_patch_side(get_model_config(name)) for name in names] == [16, 32, 14, 14]
