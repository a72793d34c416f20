from pathlib import Path

import pytest
import safetensors.torch
import torch
from open_clip.model import CustomTextCLIP
from torch import Tensor

from cliptrase_d2.clip.load import load_clip
from cliptrase_d2.clip.token_rows import expand_token_rows
from cliptrase_d2.clip.tokenizer import get_tokenizer
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import TINY_CONFIG, register_tiny, sparse_state, tiny_clip

WEIGHT, IDS = "token_embedding.weight", "token_embedding.token_ids"
MODEL = {WEIGHT: torch.ones(6, 2)}


def ids(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def custom_clip() -> CustomTextCLIP:
    return CustomTextCLIP(**TINY_CONFIG).eval().requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rows_are_stored_at_their_token_ids(dtype: torch.dtype) -> None:
    sparse = {WEIGHT: torch.tensor([[1.0, 2.0], [3.0, 4.0]]), IDS: ids(0, 5).to(dtype), "logit_scale": torch.ones(())}
    dense, count = expand_token_rows(sparse, MODEL, "file")
    assert dense.keys() == {WEIGHT, "logit_scale"}
    assert dense[WEIGHT].tolist() == [[1, 2], [0, 0], [0, 0], [0, 0], [0, 0], [3, 4]]
    assert count == "2 of 6"
    assert sparse.keys() == {WEIGHT, IDS, "logit_scale"}, "the argument is unchanged"
    assert expand_token_rows(dense, MODEL, "file") == (dense, ""), "a complete embedding is unchanged"


@pytest.mark.parametrize(
    ("numbers", "rows", "message"),
    [
        (ids(1, 6), torch.ones(2, 2), "1 to 6"),
        (ids(-1, 3), torch.ones(2, 2), "-1 to 3"),
        (ids(4, 1), torch.ones(2, 2), "increase"),
        (ids(1, 1), torch.ones(2, 2), "increase"),
        (ids(1, 2, 3), torch.ones(2, 2), r"3 .*\[2, 2\]"),
        (ids(1), torch.tensor(1.0), r"1 .*\[\]"),
        (ids(1), None, r"1 .*\[0\]"),
        (torch.tensor([1.0, 2.0]), torch.ones(2, 2), r"torch\.float32 .*\[2\]"),
        (ids(1, 2)[None], torch.ones(2, 2), r"torch\.int32 .*\[1, 2\]"),
    ],
)
def test_invalid_token_ids_are_rejected(numbers: Tensor, rows: Tensor | None, message: str) -> None:
    tensors = {IDS: numbers} if rows is None else {IDS: numbers, WEIGHT: rows}
    with pytest.raises(InputError, match=rf"w\.pt: token_embedding\.token_ids .*{message}"):
        expand_token_rows(tensors, MODEL, "w.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("custom", [False, True])
def test_round_trip_through_a_file(tmp_path: Path, suffix: str, custom: bool, caplog: pytest.LogCaptureFixture) -> None:
    name = register_tiny(tmp_path, f"tiny-rows-{custom}", custom_text=custom)
    trained = custom_clip() if custom else tiny_clip(seed=3)
    tokens = get_tokenizer(name)(["a photo of a cat.", "a dog"])  # with start, end and padding
    state = sparse_state(trained, tokens.flatten().tolist())
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    else:
        safetensors.torch.save_file(state, path)
    model, report = load_clip(name, str(path))
    torch.testing.assert_close(model.encode_text(tokens), trained.encode_text(tokens), atol=1e-2, rtol=0)
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(model.encode_image(images), trained.encode_image(images), atol=1e-2, rtol=0)
    assert report.missing == report.unexpected == report.random == ()
    assert report.loaded == len(trained.state_dict())
    assert f"{tokens.unique().numel()} of 49408 rows" in str(report)
    assert not caplog.records


def test_custom_text_clip_accepts_rows_of_plain_clip(tmp_path: Path) -> None:
    """open_clip renames the weights of the text tower."""
    name = register_tiny(tmp_path, "tiny-rows-custom", custom_text=True)
    safetensors.torch.save_file(sparse_state(tiny_clip(), [7]), tmp_path / "w.safetensors")
    model, report = load_clip(name, str(tmp_path / "w.safetensors"))
    assert model.state_dict()[f"text.{WEIGHT}"].any(dim=1).nonzero().tolist() == [[7]]
    assert report.unexpected == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [({WEIGHT: torch.ones(2, 48)}, r"\[49408, 48\], not \[49408, 32\]"), ({IDS: ids(9, 7)}, r"token_ids .*increase")],
)
def test_file_with_wrong_rows_is_rejected(tmp_path: Path, change: dict[str, Tensor], message: str) -> None:
    torch.save({**sparse_state(tiny_clip(), [7, 9]), **change}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=rf"w\.pt: .*{message}"):
        load_clip(register_tiny(tmp_path), str(tmp_path / "w.pt"))
