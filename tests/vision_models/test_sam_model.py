"""SAM and SAM 2 of transformers, compared with the library's processors."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cliptrase_d2.mask_sources import build_mask_source
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vision_models import sam_model
from cliptrase_d2.vision_models.sam_model import PromptedSam, Prompts, load_sam
from tests.pipeline.tiny_segmenter import scene

transformers = pytest.importorskip("transformers")
from tests.vision_models.tiny_models import save_sam, save_sam2  # noqa: E402  imports transformers

SIZES = [(48, 64), (96, 70), (30, 31)]


@pytest.fixture(scope="module", params=[save_sam, save_sam2], ids=["sam", "sam2"])
def sam(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PromptedSam:
    save: Callable[[Path], str] = request.param
    return load_sam(save(tmp_path_factory.mktemp("sam")))


def make_processor(sam: PromptedSam) -> Any:
    square = {"height": 64, "width": 64}
    if not sam.keeps_aspect:
        return transformers.Sam2Processor(transformers.Sam2ImageProcessor(size=square), target_size=64)
    processor = transformers.SamProcessor(transformers.SamImageProcessor(size={"longest_edge": 64}, pad_size=square))
    processor.target_size = 64
    return processor


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_images_are_prepared_as_by_the_processor(sam: PromptedSam, size: tuple[int, int]) -> None:
    image = scene(0, *size)
    processor, prepared = make_processor(sam), sam.prepare(image.float())
    expected = processor(images=image.float(), return_tensors="pt")["pixel_values"]
    assert prepared.shape == expected.shape == (1, 3, 64, 64)
    torch.testing.assert_close(prepared, expected, atol=1e-5, rtol=1e-5)
    # The processor resizes bytes as bytes and rounds after each axis: a step of 255, divided by the least deviation.
    expected = processor(images=image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(prepared, expected, atol=1.01 / 255 / 0.224, rtol=0)


@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.inference_mode()
def test_masks_equal_those_of_the_processor(sam: PromptedSam, size: tuple[int, int]) -> None:
    image, points = scene(0, *size).float(), torch.tensor([[[0.3, 0.2]], [[0.7, 0.9]]])
    processor, pixels = make_processor(sam), (points * torch.tensor([size[1], size[0]])).tolist()
    inputs = processor(images=image, input_points=[pixels], return_tensors="pt")
    expected = sam.model(
        pixel_values=sam.prepare(image), input_points=inputs["input_points"].float(), multimask_output=True
    )
    prompts = Prompts(points, torch.ones(2, 1, dtype=torch.bool))
    ((logits, scores),) = sam.predict(sam.embed(image), prompts, size)
    torch.testing.assert_close(logits, expected.pred_masks[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(scores, expected.iou_scores[0], atol=1e-4, rtol=1e-3)
    sizes = [inputs["original_sizes"], *([inputs["reshaped_input_sizes"]] if sam.keeps_aspect else [])]
    (masks,) = processor.image_processor.post_process_masks([logits], *sizes, binarize=False)
    torch.testing.assert_close(sam.enlarge(logits[:, 0], size, size), masks[:, 0], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_single_mask_is_none_of_the_three(sam: PromptedSam, monkeypatch: pytest.MonkeyPatch) -> None:
    # SAM 2 would replace a single mask of low stability by one of the three; here every stability is too low.
    monkeypatch.setattr(sam.model.mask_decoder, "dynamic_multimask_stability_thresh", 2.0, raising=False)
    prompts = Prompts(torch.rand(9, 1, 2), torch.ones(9, 1, dtype=torch.bool))
    embedding = sam.embed(scene(0, 48, 64).float())
    ((three, _),) = sam.predict(embedding, prompts, (48, 64))
    ((logits, scores),) = sam.predict(embedding, prompts, (48, 64), multimask=False)
    assert (logits.shape, scores.shape) == ((9, 1, 16, 16), (9, 1))
    assert (three - logits).abs().amax((2, 3)).min() > 1e-3


@torch.inference_mode()
def test_boxes_are_scaled_to_the_models_frame(sam: PromptedSam) -> None:
    image, box = scene(0, 48, 64).float(), torch.tensor([[0.25, 0.5, 0.75, 1.0]])
    height, width = sam.frame((48, 64))
    corners = torch.tensor([[[0.25 * width, 0.5 * height, 0.75 * width, height]]])
    expected = sam.model(pixel_values=sam.prepare(image), input_boxes=corners, multimask_output=True)
    ((logits, _),) = sam.predict(sam.embed(image), Prompts(boxes=box), (48, 64))
    torch.testing.assert_close(logits, expected.pred_masks[0], atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_a_mask_prompt_is_normalised_along_columns(tmp_path: Path) -> None:
    """The decoder reads the sum of an embedding and a mask's embedding, here by a slow loop."""
    sam = load_sam(save_sam(tmp_path))
    layers, mask = sam.model.prompt_encoder.mask_embed, torch.randn(16, 16)
    embedding = sam.embed(scene(0, 48, 64).float())
    x = mask[None]
    for convolution, norm in ((layers.conv1, layers.layer_norm1), (layers.conv2, layers.layer_norm2)):
        norm.weight.normal_()
        norm.bias.normal_()
        x = convolution(x[None])[0].clone()
        for channel in range(x.shape[0]):
            for column in range(x.shape[2]):
                own = x[channel, :, column]
                unit = (own - own.mean()) / (own.var(correction=0) + norm.eps).sqrt()
                x[channel, :, column] = norm.weight[channel] * unit + norm.bias[channel]
        x = layers.activation(x)
    dense = layers.conv3(x[None])
    box, size = torch.tensor([[0.25, 0.5, 0.75, 1.0]]), (48, 64)
    point, is_point = torch.tensor([[[0.5, 0.6]]]), torch.ones(1, 1, dtype=torch.bool)
    prompted = sam.add_mask_prompt(embedding, mask)
    ((logits, scores),) = sam.predict(prompted, Prompts(point, is_point, box), size, multimask=False)
    tokens, _ = sam.model.prompt_encoder(
        torch.tensor([[[[32.0, 28.8]]]]), torch.ones(1, 1, 1), torch.tensor([[[16.0, 24.0, 48.0, 48.0]]]), None
    )
    positions = sam.model.get_image_wide_positional_embeddings()
    masks, iou = sam.model.mask_decoder(embedding, positions, tokens, dense, False)[:2]
    torch.testing.assert_close(logits, masks[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(scores, iou[0], atol=1e-4, rtol=1e-3)


@torch.inference_mode()
def test_prompts_are_independent_of_each_other_and_of_padding_points(sam: PromptedSam) -> None:
    embedding = sam.embed(scene(0, 48, 64).float())
    points, is_point = torch.rand(70, 2, 2), torch.ones(70, 2, dtype=torch.bool)  # more than one batch of prompts
    is_point[::2, 1] = False
    parts = [logits for logits, _ in sam.predict(embedding, Prompts(points, is_point), (48, 64))]
    assert [len(logits) for logits in parts] == [64, 6]

    def predict_one() -> Tensor:
        ((logits, _),) = sam.predict(embedding, Prompts(points[66:67], is_point[66:67]), (48, 64))
        return logits[0]

    alone = predict_one()
    torch.testing.assert_close(alone, torch.cat(parts)[66], atol=1e-3, rtol=1e-3)
    points[66, 1] = 0.9  # a padding point, whose position does not matter
    assert torch.equal(predict_one(), alone)


def test_images_are_padded_to_a_square(tmp_path: Path) -> None:
    sam = load_sam(save_sam(tmp_path))
    assert sam.frame((48, 64)) == (48, 64)
    assert sam.frame((100, 30)) == (64, 19)  # 19.2
    assert sam.frame((1, 1000)) == (1, 64)  # 0.064, which would be no row
    prepared = sam.prepare(torch.full((3, 100, 30), 255.0))
    assert prepared[..., :19].min() > 2
    assert not prepared[..., 19:].any()
    assert sam.crop(torch.zeros(5, 16, 16), (100, 30)).shape == (5, 16, 5)  # 19 of 64 columns are 4.75 of 16


def test_the_model_is_frozen_and_in_evaluation_mode(sam: PromptedSam) -> None:
    assert not sam.model.training
    assert not any(parameter.requires_grad for parameter in sam.parameters())


def test_a_missing_model_or_network_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"sam: .*nothing") as caught:
        load_sam(str(tmp_path / "nothing"))
    assert "\n" not in str(caught.value)

    def fail(name: str, **_: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'\nand more")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    for name, size in (("sam-vit-base", ", 375 MB,"), ("sam2.1-hiera-small", ", 184 MB,"), ("sam-mine", "")):
        match = rf"sam: .*'facebook/{name}'{size} .*couldn't connect.*https://huggingface.co/facebook/{name} "
        with pytest.raises(InputError, match=match) as caught:
            load_sam(f"facebook/{name}")
        assert "\n" not in str(caught.value)


def test_pickles_and_code_beside_the_weights_are_not_loaded(tmp_path: Path) -> None:
    folder = Path(save_sam(tmp_path))
    config = json.loads((folder / "config.json").read_text())

    def write_config(**changes: object) -> None:
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    (folder / "code.py").write_text("raise SystemExit('code was run')\n")
    write_config(auto_map={"AutoConfig": "code.SamConfig"})
    load_sam(str(folder))  # with the library's own class
    write_config(auto_map={"AutoConfig": "code.C"}, model_type="own")
    with pytest.raises(InputError, match="sam: "):
        load_sam(str(folder))
    write_config()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="sam: "):
        load_sam(str(folder))


def test_another_type_of_model_is_rejected(tmp_path: Path) -> None:
    transformers.ViTConfig(hidden_size=8).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"sam: .*'vit'"):
        load_sam(str(tmp_path))


def test_a_transformers_without_the_class_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_sam2(tmp_path)
    monkeypatch.setitem(sam_model._CLASSES, "sam2", "Sam3Million")
    with pytest.raises(InputError, match=r"sam: .*Sam3Million.*pip install"):
        load_sam(str(tmp_path))


def test_missing_weights_are_reported(tmp_path: Path) -> None:
    model = transformers.SamModel.from_pretrained(save_sam(tmp_path))
    state = model.state_dict()
    del state["mask_decoder.iou_token.weight"]
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(InputError, match=r"sam: .*mask_decoder\.iou_token\.weight"):
        load_sam(str(tmp_path))


@pytest.mark.parametrize("name", ["sam", "sam_automatic"])
def test_a_missing_transformers_names_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'cliptrase_d2\[sam\]'"):
        build_mask_source(name)
