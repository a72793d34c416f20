"""SAM and SAM 2 as transformers has them: its processors say what must come in and what must come out."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cliptrase_d2.mask_sources import MaskSettings, build_mask_source, sam_model
from cliptrase_d2.mask_sources.sam_model import PromptedSam, Prompts, load_sam
from cliptrase_d2.pipeline.settings import Method
from cliptrase_d2.utils.errors import InputError
from tests.pipeline.tiny_segmenter import scene

transformers = pytest.importorskip("transformers")
from tests.mask_sources.tiny_models import save_sam, save_sam2  # noqa: E402  they need it, too

SIZES = [(48, 64), (96, 70), (30, 31)]


@pytest.fixture(params=[save_sam, save_sam2], ids=["sam", "sam2"])
def sam(request: pytest.FixtureRequest, tmp_path: Path) -> PromptedSam:
    save: Callable[[Path], str] = request.param
    return load_sam(save(tmp_path))


def _processor(sam: PromptedSam) -> Any:
    square = {"height": 64, "width": 64}
    if sam.keeps_aspect:
        images = transformers.SamImageProcessor(size={"longest_edge": 64}, pad_size=square)
        return transformers.SamProcessor(images)
    return transformers.Sam2Processor(transformers.Sam2ImageProcessor(size=square), target_size=64)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_images_come_in_as_the_processor_prepares_them(sam: PromptedSam, size: tuple[int, int]) -> None:
    image = scene(0, *size)
    processor, found = _processor(sam), sam.prepare(image.float())
    expected = processor(images=image.float(), return_tensors="pt")["pixel_values"]
    assert found.shape == expected.shape == (1, 3, 64, 64)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # Bytes it resizes as bytes, one axis after the other, each rounded: a step of 255, over the least deviation.
    expected = processor(images=image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, expected, atol=1.01 / 255 / 0.224, rtol=0)


def _points(sam: PromptedSam, image: Tensor, places: Tensor) -> dict[str, Tensor]:
    processor, size = _processor(sam), torch.tensor([image.shape[2], image.shape[1]])
    if isinstance(processor, transformers.SamProcessor):
        processor.target_size = 64
    return processor(images=image.float(), input_points=[(places * size).tolist()], return_tensors="pt")


@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.inference_mode()
def test_masks_come_out_as_the_processor_returns_them(sam: PromptedSam, size: tuple[int, int]) -> None:
    image, places = scene(0, *size).float(), torch.tensor([[[0.3, 0.2]], [[0.7, 0.9]]])
    inputs = _points(sam, image, places)
    expected = sam.model(
        pixel_values=sam.prepare(image),
        input_points=inputs["input_points"].float(),
        multimask_output=True,
    )
    asked = sam.ask(sam.embed(image), Prompts(places, torch.ones(2, 1, dtype=torch.bool)), size)
    ((logits, scores),) = list(asked)
    torch.testing.assert_close(logits, expected.pred_masks[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(scores, expected.iou_scores[0], atol=1e-4, rtol=1e-3)
    kept = [inputs["original_sizes"], *([inputs["reshaped_input_sizes"]] if sam.keeps_aspect else [])]
    image_processor = _processor(sam).image_processor
    (masks,) = image_processor.post_process_masks([logits], *kept, binarize=False)
    torch.testing.assert_close(sam.enlarge(logits[:, 0], size, size), masks[:, 0], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_boxes_are_scaled_to_the_models_frame(sam: PromptedSam) -> None:
    image, box = scene(0, 48, 64).float(), torch.tensor([[0.25, 0.5, 0.75, 1.0]])
    height, width = sam.frame((48, 64))
    corners = torch.tensor([[[0.25 * width, 0.5 * height, 0.75 * width, height]]])
    expected = sam.model(pixel_values=sam.prepare(image), input_boxes=corners, multimask_output=True)
    ((logits, _),) = list(sam.ask(sam.embed(image), Prompts(boxes=box), (48, 64)))
    torch.testing.assert_close(logits, expected.pred_masks[0], atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_prompts_do_not_know_of_each_other_nor_of_points_that_fill_up(sam: PromptedSam) -> None:
    image = scene(0, 48, 64).float()
    embedding = sam.embed(image)
    points = torch.rand(70, 2, 2)  # more than are asked at once
    is_point = torch.ones(70, 2, dtype=torch.bool)
    is_point[::2, 1] = False
    parts = list(sam.ask(embedding, Prompts(points, is_point), (48, 64)))
    assert [len(logits) for logits, _ in parts] == [64, 6]
    logits = torch.cat([logits for logits, _ in parts])
    ((alone, _),) = sam.ask(embedding, Prompts(points[66:67], is_point[66:67]), (48, 64))
    torch.testing.assert_close(alone[0], logits[66], atol=1e-3, rtol=1e-3)
    points[66, 1] = 0.9  # fills up, so where it is does not matter
    ((moved, _),) = sam.ask(embedding, Prompts(points[66:67], is_point[66:67]), (48, 64))
    assert torch.equal(moved, alone)


def test_the_square_is_filled_up_outside_the_image(tmp_path: Path) -> None:
    sam = load_sam(save_sam(tmp_path))
    assert sam.frame((48, 64)) == (48, 64)
    assert sam.frame((100, 30)) == (64, 19)  # 19.2
    prepared = sam.prepare(torch.full((3, 100, 30), 255.0))
    assert prepared[..., :19].min() > 2
    assert not prepared[..., 19:].any()
    assert sam.within(torch.zeros(5, 16, 16), (100, 30)).shape == (5, 16, 5)  # 19 of 64 columns are 4.75 of 16


def test_frozen_and_in_evaluation_mode(sam: PromptedSam) -> None:
    assert not sam.model.training
    assert not any(parameter.requires_grad for parameter in sam.parameters())


def test_no_such_model_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"MODEL\.MASKS\.SAM: .*which cannot be loaded") as caught:
        load_sam(str(tmp_path / "nothing"))
    assert "\n" not in str(caught.value)

    def offline(name: str, **_: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'\nand more")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
    with pytest.raises(InputError, match=r"couldn't connect.*name its folder") as caught:
        load_sam("facebook/sam-vit-base")
    assert "\n" not in str(caught.value)


def test_weights_as_a_pickle_and_code_beside_them_are_left_alone(tmp_path: Path) -> None:
    folder = Path(save_sam(tmp_path))
    (folder / "code.py").write_text("open('was_here', 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "code.SamConfig"}}))
    load_sam(str(folder))  # by the class of the library
    (folder / "config.json").write_text(
        json.dumps({**config, "model_type": "own", "auto_map": {"AutoConfig": "code.C"}})
    )
    with pytest.raises(InputError, match="which cannot be loaded"):
        load_sam(str(folder))
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="which cannot be loaded"):
        load_sam(str(folder))


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    transformers.ViTConfig(hidden_size=8).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"a model of the type 'vit'.*facebook/sam-vit-base"):
        load_sam(str(tmp_path))


def test_a_transformers_without_the_models_class_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_sam2(tmp_path)
    monkeypatch.setitem(sam_model._CLASSES, "sam2", "Sam3Million")
    with pytest.raises(InputError, match=r"has no Sam3Million.*cliptrase_d2\[sam\]"):
        load_sam(str(tmp_path))


def test_weights_that_are_missing_are_not_drawn(tmp_path: Path) -> None:
    model = transformers.SamModel.from_pretrained(save_sam(tmp_path))
    state = model.state_dict()
    del state["mask_decoder.iou_token.weight"]
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(InputError, match=r"lacks 1 weights, mask_decoder\.iou_token\.weight"):
        load_sam(str(tmp_path))


@pytest.mark.parametrize("name", ["sam", "sam_automatic"])
def test_without_transformers_the_command_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(module: str, *args: Any, **kwargs: Any) -> Any:
        if module == "transformers":
            raise ImportError("No module named 'transformers'")
        return real(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match=r"pip install 'cliptrase_d2\[sam\]'"):
        build_mask_source(name, Method(), MaskSettings())
