"""Exported files: numbers without this package, metadata, and refused exports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor

from cliptrase_d2.export import Report, export_tower, formats, write
from cliptrase_d2.export.formats import METADATA, Format
from cliptrase_d2.export.tower import ExportableTower, TowerOutput
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.pipeline.stages import classify_masks
from cliptrase_d2.utils.errors import InputError
from tests.pipeline.tiny_segmenter import scene, telling_words, tiny_segmenter


@pytest.fixture(scope="module")
def model() -> CLIPtrase:
    return tiny_segmenter(settings=CLIPtraseSettings(eps=0.5), layers=2)  # fewer blocks trace faster


@pytest.fixture(scope="module")
def onnx(model: CLIPtrase, tmp_path_factory: pytest.TempPathFactory) -> Report:
    path = tmp_path_factory.mktemp("onnx") / "new" / "tower.onnx"
    return export_tower(model, path, size=(64, 64), any_size=True, notes={"model": "tiny"})


@pytest.fixture(scope="module")
def pt2(model: CLIPtrase, tmp_path_factory: pytest.TempPathFactory) -> Report:
    path = tmp_path_factory.mktemp("pt2") / "tower.pt2"
    return export_tower(model, str(path), size=(48, 80), dtype=torch.float32)


def test_an_onnx_file_segments_as_the_model_does(model: CLIPtrase, onnx: Report) -> None:
    image = scene()  # [3,96,128], neither the size nor the shape of the trace
    text = telling_words(model, image)
    session = InferenceSession(onnx.files[0], providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"images": image[None].numpy(), "words": text.features.numpy()})
    tensors = dict(zip([output.name for output in session.get_outputs()], map(torch.from_numpy, outputs), strict=True))
    masks = model.predict_masks(image[None].float(), tensors["correlation"], [(96, 128)])
    (prediction,) = classify_masks(masks, tensors["logits"].mT.unflatten(2, (6, 8)), text, model.settings)
    model.text_encoder = lambda _: text
    model._texts.clear()
    (expected,) = model([{"image": image}])
    assert len(masks[0]) == len(expected["pred_masks"]) > 1
    assert torch.equal(prediction.label_map, expected["label_map"])


def test_files_are_checked_at_other_batches_and_sizes_than_the_trace(onnx: Report, pt2: Report) -> None:
    assert list(onnx.differences) == [(1, 3, 64, 64), (3, 3, 64, 64), (1, 3, 64, 80), (3, 3, 64, 80)]
    assert list(pt2.differences) == [(1, 3, 48, 80), (3, 3, 48, 80)]
    for report in (onnx, pt2):
        assert list(report.files[0].parent.iterdir()) == list(report.files)
    for outputs in (*onnx.differences.values(), *pt2.differences.values()):
        assert list(outputs) == ["patches", "class_token", "correlation", "logits"]
        assert max(outputs.values()) < 1e-4


def test_a_pt2_file_has_metadata_and_runs(model: CLIPtrase, pt2: Report) -> None:
    extra = {METADATA: ""}
    module: Any = torch.export.load(pt2.files[0], extra_files=extra).module()
    assert json.loads(extra[METADATA]) == pt2.metadata
    assert pt2.metadata["image_size"] == "48x80"
    tower = ExportableTower(model, (3, 5))
    images, words = tower.random_inputs(4, 7, (48, 80), torch.float32)
    for name, value in module(images, words).items():
        torch.testing.assert_close(value, getattr(tower.encode(images, words), name), atol=1e-4, rtol=1e-4)


def test_an_onnx_file_has_metadata(onnx: Report) -> None:
    session = InferenceSession(onnx.files[0], providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == onnx.metadata
    assert (onnx.metadata["model"], onnx.metadata["method"]) == ("tiny", "cliptrase")
    assert onnx.metadata["image_size"] == "any, in multiples of 16"
    assert onnx.metadata["patch_size"] == "16"
    assert onnx.metadata["pixel_mean"] == "0.48145466 0.4578275 0.40821073"  # OpenAI's
    assert onnx.metadata["torch"] == torch.__version__


def make_wrong_format(tower: ExportableTower, change: Callable[[Tensor], Tensor]) -> Format:
    """Return a format whose file returns other patches."""

    def load(_: Path) -> Any:
        def run(images: Tensor, words: Tensor) -> TowerOutput:
            output = tower.encode(images, words)
            return output._replace(patches=change(output.patches))

        return run

    return Format("wrong", (), lambda program, path, metadata: path.write_bytes(b"file"), load)


@pytest.mark.parametrize("change", [torch.neg, lambda patches: patches * torch.nan], ids=["other", "NaN"])
def test_a_file_with_other_numbers_is_refused_and_the_old_one_stays(
    model: CLIPtrase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]
) -> None:
    monkeypatch.setitem(formats.FORMATS, ".pt2", make_wrong_format(ExportableTower(model, (4, 4)), change))
    monkeypatch.setattr(write, "_trace", lambda *_: None)
    (tmp_path / "tower.pt2").write_bytes(b"old")
    with pytest.raises(InputError, match=r"tower\.pt2: patches.* 0\.001"):
        export_tower(model, tmp_path / "tower.pt2", size=(64, 64))
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("tower.pb", (64, 64), r"tower\.pb.*\.onnx.*\.pt2"),
        ("tower.pt2", (64, 50), "size: 64x50.*16"),
        ("tower.pt2", (0, 64), "size: 0x64"),
    ],
)
def test_faulty_arguments_are_refused_before_the_trace(
    model: CLIPtrase, tmp_path: Path, name: str, size: tuple[int, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export_tower(model, tmp_path / name, size=size)
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(model: CLIPtrase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(InputError, match=r"tower\.onnx: .*onnxscript.*cliptrase_d2\[export\]"):
        export_tower(model, tmp_path / "tower.onnx", size=(64, 64))


def test_an_unwritable_file_is_named(model: CLIPtrase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "_trace", lambda *_: None)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"tower\.pt2"):
        export_tower(model, tmp_path / "file" / "tower.pt2", size=(64, 64))
