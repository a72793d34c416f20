"""From an image and class names to a result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image

from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.settings import Method
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.clip.tiny import register_tiny, tiny_clip
from tests.pipeline.tiny_segmenter import tiny_segmenter

CLASSES = ["sky", "tree;bush", "road"]
PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> CLIPtrase:
    clip = tiny_clip()
    return CLIPtrase(
        clip=clip,
        tower=VisualTower(visual=clip.visual, attention="qq_kk_vv"),
        text_encoder=TextEncoder(clip, SimpleTokenizer(), templates="simple"),
        method=Method(),
    ).eval()


@pytest.fixture(scope="module")
def segmenter(model: CLIPtrase) -> Segmenter:
    return Segmenter(model=model, protocol="whole", short_side=64, max_size=256)


def test_result_describes_the_image_that_was_given(segmenter: Segmenter) -> None:
    result = segmenter(PIXELS, CLASSES)
    np.testing.assert_array_equal(result.image, PIXELS)
    assert result.label_map.shape == (50, 70)
    assert result.label_map.dtype == np.int64
    assert result.classes == ("sky", "tree", "road")
    assert result.masks.shape == (len(result.masks), 50, 70)
    assert result.masks.dtype == result.mask_logits.dtype == np.float32
    assert result.mask_logits.shape == (len(result.masks), 3)
    assert sum(result.shares().values()) == pytest.approx(1)


def test_a_file_a_pil_image_an_array_and_a_tensor_give_the_same(segmenter: Segmenter, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    forms = (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(PIXELS), PIXELS, tensor)
    results = [segmenter(image, CLASSES) for image in forms]
    for result in results[1:]:
        np.testing.assert_array_equal(result.image, results[0].image)
        np.testing.assert_array_equal(result.label_map, results[0].label_map)


def test_it_is_the_result_that_an_evaluation_scores(segmenter: Segmenter, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for protocol in ("whole", "center_crop"):
        mapper = EvaluationMapper(
            protocol=protocol,
            short_side=64,
            max_size=256,
            patch_size=16,
            vocabulary=Vocabulary.parse(CLASSES),
            label_rule=LabelRule(3),
        )
        scored = segmenter.model([mapper({"file_name": str(tmp_path / "a.png")})])[0]["label_map"]
        mine = Segmenter(model=segmenter.model, protocol=protocol, short_side=64, max_size=256)(PIXELS, CLASSES)
        assert torch.equal(torch.from_numpy(mine.label_map), scored)


def test_center_crop_hands_back_the_crop(model: CLIPtrase) -> None:
    result = Segmenter(model=model, protocol="center_crop", short_side=32, max_size=64)(PIXELS, CLASSES)
    # 50×70 becomes 32×44, of which columns 6 to 37 are the middle.
    expected = Image.fromarray(PIXELS).resize((44, 32), Image.Resampling.BICUBIC).crop((6, 0, 38, 32))
    np.testing.assert_array_equal(result.image, np.array(expected))
    assert result.label_map.shape == (32, 32)


def test_tiles_hand_back_labels_and_no_masks() -> None:
    model = tiny_segmenter(window=32, stride=16, in_tiles=True)
    segmenter = Segmenter(model=model, protocol="tiles", short_side=0, max_size=64)
    result = segmenter(PIXELS, CLASSES)
    assert result.label_map.shape == (50, 70)
    assert (result.masks.shape, result.mask_logits.shape) == ((0, 50, 70), (0, 3))
    assert sum(part["area"] for part in result.to_coco()) == 50 * 70
    assert len(result.to_instances()) == 0
    assert repr(segmenter) == "Segmenter(CLIPtrase, tiles at the size of the image, cpu)"


def test_it_says_what_it_is_and_where_it_runs(segmenter: Segmenter) -> None:
    assert repr(segmenter) == "Segmenter(CLIPtrase, whole at 64 pixels, cpu)"
    assert segmenter.device == torch.device("cpu")


def test_background_prompts_are_one_more_class(segmenter: Segmenter) -> None:
    assert segmenter(PIXELS, CLASSES, background=["wall", "floor"]).classes == ("sky", "tree", "road", "background")


def test_a_missing_file_is_named(segmenter: Segmenter) -> None:
    with pytest.raises(InputError, match=r"nowhere\.jpg: no such file"):
        segmenter("nowhere.jpg", CLASSES)


def test_no_class_is_refused(segmenter: Segmenter) -> None:
    with pytest.raises(InputError, match="classes: no class"):
        segmenter(PIXELS, [])


def random_weights(name: str) -> list[str]:
    return [
        *("MODEL.CLIP.NAME", name, "MODEL.CLIP.PRETRAINED", ""),
        *("MODEL.CLIP.TEMPLATES", "simple", "MODEL.CLIP.TEXT_CACHE", ""),
    ]


def test_from_config_segments_whole_images_unless_told_otherwise() -> None:
    # CUDA, Detectron2's default device, gives way to the CPU on a machine without it.
    segmenter = Segmenter.from_config(opts=random_weights("ViT-B-32"))
    assert segmenter.protocol.name == "whole"
    assert (segmenter.protocol.short_side, segmenter.protocol.patch_size) == (336, 32)
    assert segmenter.model.method.adaptive_dbscan
    assert not segmenter.model.training
    assert segmenter(PIXELS, CLASSES).label_map.shape == (50, 70)


def test_from_config_honours_a_file_and_whole_model_weights(tmp_path: Path) -> None:
    config, opts = tmp_path / "a.yaml", random_weights(register_tiny(tmp_path))
    config.write_text("INPUT: {MIN_SIZE_TEST: 64}\nTEST: {PROTOCOL: center_crop}\n")
    weights = Segmenter.from_config(config, [*opts, "MODEL.CLIP.SEED", "7"]).model.state_dict()
    torch.save({"model": weights}, tmp_path / "weights.pth")
    loaded = Segmenter.from_config(config, [*opts, "MODEL.WEIGHTS", str(tmp_path / "weights.pth")])
    assert loaded.protocol.name == "center_crop"
    assert all(torch.equal(tensor.cpu(), weights[name].cpu()) for name, tensor in loaded.model.state_dict().items())


def test_from_config_refuses_another_architecture() -> None:
    with pytest.raises(InputError, match=r"MODEL\.META_ARCHITECTURE: 'AnotherArchitecture'"):
        Segmenter.from_config(opts=["MODEL.META_ARCHITECTURE", "AnotherArchitecture"])
