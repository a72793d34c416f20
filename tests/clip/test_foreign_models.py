"""The nearest supported model for the name of one that is not supported."""

from __future__ import annotations

import open_clip
import pytest

from cliptrase_d2.clip.foreign_models import nearest_model
from cliptrase_d2.clip.load import build_skeleton
from cliptrase_d2.utils.errors import InputError


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ViT-B-16-SigLIP", "ViT-B-16"),
        ("ViT-B-32-SigLIP2-256", "ViT-B-16"),  # with smaller patches
        ("ViT-L-16-SigLIP2-384", "ViT-L-14-336"),
        ("ViT-SO400M-14-SigLIP-384", "ViT-H-14"),
        ("ViT-gopt-16-SigLIP2-256", "ViT-g-14"),
        ("google/siglip-large-patch16-256", "ViT-L-14"),
        ("EVA02-B-16", "ViT-B-16"),
        ("EVA01-g-14", "ViT-g-14"),
        ("EVA02-L-14-336", "ViT-L-14-336"),
        ("EVA02-E-14-plus", "ViT-bigG-14"),
        ("PE-Core-L-14-336", "ViT-L-14-336"),
        ("PE-Core-bigG-14-448", "ViT-bigG-14"),
        ("convnext_base_w_320", "ViT-B-16"),
        ("convnext_large_d", "ViT-L-14"),
        ("convnext_xxlarge", "ViT-H-14"),
        ("coca_ViT-B-32", "ViT-B-32"),
        ("coca_ViT-L-14", "ViT-L-14"),
        ("RN50", "ViT-B-32"),
        ("RN50x64", "ViT-L-14"),
        ("ViT-H-14-CLIPA", "ViT-H-14"),
        ("ViTamin-L2-336", "ViT-L-14-336"),
        ("MobileCLIP2-B", "ViT-B-16"),
        ("xlm-roberta-base-ViT-B-32", "ViT-H-14-worldwide"),
        ("nllb-clip-base", "ViT-H-14-worldwide"),
    ],
)
def test_nearest_model_has_the_size(name: str, nearest: str) -> None:
    assert nearest_model(name) == nearest
    assert open_clip.list_pretrained_tags_by_model(nearest)


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "EVA02-B-16", "PE-Core-B-16", "convnext_base", "coca_ViT-B-32"])
def test_models_of_a_later_version_are_announced(name: str) -> None:
    with pytest.raises(InputError, match=rf"name: .*{name}.*later version.* ViT-B-(16|32), with '\w+'"):
        build_skeleton(name)


@pytest.mark.parametrize("name", ["RN50", "ViT-L-14-CLIPA"])
def test_other_models_are_not_announced(name: str) -> None:
    with pytest.raises(InputError, match=rf"name: .*{name}.*nearest model that works is ViT-") as raised:
        build_skeleton(name)
    assert "later" not in str(raised.value)
