"""Requirements that every method meets. A new method is tested as soon as it is registered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.methods import DENSE_METHODS, get_method
from cliptrase_d2.pipeline import stages
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from tests.clip.tiny import tiny_clip
from tests.methods.example_methods import EXAMPLES, Pixels, assert_unit_length
from tests.pipeline.tiny_segmenter import VOCABULARY, scene, tiny_segmenter

METHODS = pytest.mark.parametrize("name", [*DENSE_METHODS, *EXAMPLES])
GRIDS = pytest.mark.parametrize("grid", [(4, 4), (2, 5), (3, 7)], ids=lambda grid: "{}x{}".format(*grid))


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, method in EXAMPLES.items():
        monkeypatch.setitem(DENSE_METHODS, name, method)


def build(name: str, clustering: str = "dbscan", **arguments: Any) -> CLIPtrase:
    settings = CLIPtraseSettings(method=name, clustering=clustering, eps=0.5)
    return tiny_segmenter(settings=settings, vision_model=Pixels(), **arguments)


def make_inputs(count: int, height: int = 96, width: int = 128) -> list[dict[str, Any]]:
    """Images with true labels for an oracle."""
    labels = torch.arange(width).expand(height, width) * 3 // width
    return [{"image": scene(index, height, width), "sem_seg": labels} for index in range(count)]


def encode(model: CLIPtrase, inputs: list[dict[str, Any]]) -> Any:
    images = model.preprocess(inputs)
    labels = model._get_labels(inputs, images)
    return model.segment(images, model.text_features(VOCABULARY), [(48, 64)] * len(inputs), labels).features


@METHODS
@GRIDS
def test_features_are_unit_vectors_on_their_grid(name: str, grid: tuple[int, int]) -> None:
    model = build(name)
    features = encode(model, make_inputs(2, 16 * grid[0], 16 * grid[1]))
    assert features.patches.shape == (2, features.grid[0] * features.grid[1], 32)
    assert features.patches.dtype == torch.float32
    assert (features.class_token is not None) == get_method(name).has_class_token
    assert_unit_length(features.patches)


@METHODS
@GRIDS
def test_a_batch_equals_its_images(name: str, grid: tuple[int, int]) -> None:
    model, inputs = build(name), make_inputs(3, 16 * grid[0], 16 * grid[1])
    batch = encode(model, inputs)
    for index, one in enumerate(inputs):
        alone = encode(model, [one])
        torch.testing.assert_close(batch.patches[index], alone.patches[0], atol=1e-5, rtol=0)
        if alone.class_token is not None:
            torch.testing.assert_close(batch.class_token[index], alone.class_token[0], atol=1e-5, rtol=0)


@METHODS
def test_bfloat16_stays_near_float32(name: str) -> None:
    inputs = make_inputs(1)
    exact, fast = encode(build(name, "none" if not _reads_masks(name) else "dbscan"), inputs), None
    fast = encode(build(name, "none" if not _reads_masks(name) else "dbscan", precision="bf16"), inputs)
    assert fast.patches.dtype == torch.float32
    assert (exact.patches * fast.patches).sum(-1).median() > 0.99


@METHODS
def test_windows_of_a_batch_do_not_mix(name: str) -> None:
    model, inputs = build(name, window=64, stride=32), make_inputs(2)
    batch = model(inputs)
    for index, one in enumerate(inputs):
        assert torch.equal(batch[index]["label_map"], model([one])[0]["label_map"])


@METHODS
def test_a_window_of_the_size_of_the_image_changes_nothing(name: str) -> None:
    whole, windowed = build(name), build(name, window=128, stride=64)
    expected, features = encode(whole, make_inputs(1)), encode(windowed, make_inputs(1))
    torch.testing.assert_close(features.patches, expected.patches, atol=1e-5, rtol=0)


@METHODS
def test_no_correlation_is_computed_without_clusters(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if _reads_masks(name):
        pytest.skip("the method reads the masks")
    monkeypatch.setattr(stages, "correlate", lambda *_: pytest.fail("nothing needs the correlation"))
    (output,) = build(name, "none")(make_inputs(1))
    assert len(output["pred_masks"]) == 0


class _LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.untyped_storage().nbytes() // value.element_size())
        return result


@METHODS
def test_memory_holds_no_attention_matrix_of_every_head(name: str) -> None:
    # 257 tokens in 4 heads: one matrix per head has 4·257² elements, a matrix for all heads a quarter of that.
    tower, method = VisualTower(tiny_clip().visual), get_method(name)
    if any((method.needs.vision_features, method.needs.text)) or name == "early_attention":
        pytest.skip("a test method, not written for large images, or one that makes maps of pixels")
    images = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), _LargestTensor() as largest:
        tokens = tower(images, method.needs)
        object.__setattr__(tokens, "regions", torch.zeros(1, 256, 256, dtype=torch.int64))
        method(tokens)
    assert largest.elements < 4 * 257**2


def _reads_masks(name: str) -> bool:
    return get_method(name).needs.regions
