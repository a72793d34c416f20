"""Combinations that the contract of methods refuses, and inputs that it provides."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cliptrase_d2.clip.tokens import ImageTokens, Needs
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.export import ExportableTower
from cliptrase_d2.methods import DENSE_METHODS, DenseMethod
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import tiny_clip
from tests.methods.example_methods import EXAMPLES, Pixels
from tests.pipeline.tiny_segmenter import scene, tiny_segmenter


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, method in EXAMPLES.items():
        monkeypatch.setitem(DENSE_METHODS, name, method)


def build(name: str, arguments: dict[str, Any] | None = None, **settings: Any) -> CLIPtrase:
    return tiny_segmenter(settings=CLIPtraseSettings(method=name, **settings), **(arguments or {}))


def test_a_method_without_class_token_refuses_its_logits_as_weights() -> None:
    with pytest.raises(InputError, match=r"cls_logit_weight.*early_attention"):
        build("early_attention", cls_logit_weight=True)


def test_a_method_with_a_second_model_refuses_to_run_without() -> None:
    with pytest.raises(InputError, match=r"method.*proxy"):
        build("proxy")


def test_a_method_that_reads_masks_refuses_a_model_without() -> None:
    with pytest.raises(InputError, match=r"clustering.*region_mean"):
        build("region_mean", clustering="none")


@pytest.mark.parametrize("factor", [2, 1])
def test_windows_stitch_features_of_a_finer_grid(factor: int) -> None:
    model = build("proxy", {"vision_model": Pixels(factor), "window": 64, "stride": 32})
    features, _ = model.encode_image(model.preprocess([{"image": scene()}]))
    assert features is not None
    assert features.grid == (6 * factor, 8 * factor)
    assert features.patches.shape[1] == 48 * factor**2


def test_windows_refuse_a_grid_that_is_no_multiple() -> None:
    model = build("proxy", {"vision_model": Pixels(1, more=1), "window": 64, "stride": 32})
    with pytest.raises(InputError, match=r"method.*\(5, 5\)"):
        model([{"image": scene()}])


def test_an_oracle_reads_true_labels_of_any_size() -> None:
    halves = torch.zeros(
        200, 300, dtype=torch.int64
    )  # of another size than the image, as the protocol "whole" has them
    halves[:, 150:] = 1
    for window in (None, 64):
        model = build("cosine_oracle", {"window": window, "stride": window and window // 2})
        both = model([{"image": scene(), "sem_seg": halves}, {"image": scene(1), "sem_seg": 1 - halves}])
        (alone,) = model([{"image": scene(), "sem_seg": halves}])
        (uniform,) = model([{"image": scene(), "sem_seg": torch.zeros_like(halves)}])
        assert torch.equal(both[0]["label_map"], alone["label_map"])
        assert not torch.equal(alone["pred_logits"], uniform["pred_logits"])
        assert torch.equal(alone["pred_masks"], uniform["pred_masks"])  # the correlation is of an earlier block
        with pytest.raises(InputError, match="cosine_oracle"):
            model([{"image": scene()}])


def test_regions_are_the_models_own_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    regions = []

    class Recorder(EXAMPLES["region_mean"]):  # type: ignore[misc, name-defined]
        def __call__(self, x: ImageTokens) -> Any:
            regions.append(x.regions)
            return super().__call__(x)

    monkeypatch.setitem(DENSE_METHODS, "recorder", Recorder)
    model = build("recorder", eps=0.5)
    result = model.segment(model.preprocess([{"image": scene()}]), None, [(96, 128)])
    assert len(result.masks[0]) > 1
    assert torch.equal(regions[0][0], result.masks[0].assignment)


@pytest.mark.parametrize("name", ["cosine_oracle", "proxy", "region_mean", "text_guided", "early_attention", "resclip"])
def test_export_refuses_methods_that_need_more_than_the_image_tower(name: str) -> None:
    model = build(name, {"vision_model": Pixels()})
    with pytest.raises(InputError, match=rf"method.*{name}"):
        ExportableTower(model, (4, 4))


@pytest.mark.parametrize(
    ("read", "where"),
    [(lambda x: x.hidden_state(1), "needs.hidden_states"), (lambda x: x.qkv(0), "needs.qkv")],
    ids=["hidden state", "qkv"],
)
def test_an_undeclared_input_is_refused(read: Any, where: str) -> None:
    tokens = VisualTower(tiny_clip().visual)(torch.zeros(1, 3, 32, 32))
    with pytest.raises(InputError, match=where):
        read(tokens)


def test_declared_inputs_are_those_of_open_clip() -> None:
    model, image = tiny_clip(), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tokens = VisualTower(model.visual)(image, Needs(hidden_states=(0, 1, -1), qkv=(0, 1)))
    x = model.visual._embeds(image)
    for index, block in enumerate(model.visual.transformer.resblocks):
        torch.testing.assert_close(tokens.hidden_state(index), x, atol=1e-5, rtol=0)
        qkv = block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias  # [B,T,3E]
        expected = qkv.unflatten(2, (3, 4, 16)).permute(2, 0, 3, 1, 4)
        for part, expected_part in zip(tokens.qkv(index), expected, strict=True):
            torch.testing.assert_close(part, expected_part, atol=1e-5, rtol=0)
        x = block(x)


def test_a_method_of_the_user_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(EXAMPLES["mid_level"]):  # type: ignore[misc, name-defined]
        pass

    monkeypatch.setitem(DENSE_METHODS, "mine", Mine)
    model = build("maskclip")
    model.configure(CLIPtraseSettings(method="mine"))
    assert isinstance(model.method, DenseMethod)
    assert type(model.method) is Mine
