from pathlib import Path

import pytest
import safetensors.torch
import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor

from cliptrase_d2.clip.load import get_tokenizer, load_clip
from cliptrase_d2.clip.token_rows import expand_token_rows
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import TINY_CONFIG, register_tiny, sparse_state, tiny_clip

WEIGHT, IDS = "token_embedding.weight", "token_embedding.token_ids"
WANTED = {WEIGHT: torch.ones(6, 2)}


def ids(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def custom_clip() -> CustomTextCLIP:
    return CustomTextCLIP(**TINY_CONFIG).eval().requires_grad_(False)


def test_rows_go_where_their_tokens_are() -> None:
    given = {WEIGHT: torch.tensor([[1.0, 2.0], [3.0, 4.0]]), IDS: ids(1, 4), "logit_scale": torch.ones(())}
    dense, told = expand_token_rows(given, WANTED, "file")
    assert dense.keys() == {WEIGHT, "logit_scale"}
    assert dense[WEIGHT].tolist() == [[0, 0], [1, 2], [0, 0], [0, 0], [3, 4], [0, 0]]
    assert told == "2 of 6"
    assert given.keys() == {WEIGHT, IDS, "logit_scale"}, "the argument stays as it was"


def test_file_of_all_rows_stays_as_it_is() -> None:
    given = {WEIGHT: torch.rand(6, 2)}
    assert expand_token_rows(given, WANTED, "file") == (given, "")


def test_first_and_last_token_are_tokens() -> None:
    dense, _ = expand_token_rows({WEIGHT: torch.ones(2, 2), IDS: ids(0, 5).long()}, WANTED, "file")
    assert dense[WEIGHT].sum(dim=1).tolist() == [2, 0, 0, 0, 0, 2]


@pytest.mark.parametrize(
    ("numbers", "rows", "message"),
    [
        (ids(1, 6), torch.ones(2, 2), "the numbers 1 to 6"),
        (ids(-1, 3), torch.ones(2, 2), "the numbers -1 to 3"),
        (ids(4, 1), torch.ones(2, 2), "numbers that do not increase"),
        (ids(1, 1), torch.ones(2, 2), "numbers that do not increase"),
        (ids(1, 2, 3), torch.ones(2, 2), r"3 numbers for rows of shape \[2, 2\]"),
        (ids(1), torch.tensor(1.0), r"1 numbers for rows of shape \[\]"),
        (ids(1), None, r"1 numbers for rows of shape \[0\]"),
        (torch.tensor([1.0, 2.0]), torch.ones(2, 2), r"torch\.float32 of shape \[2\]"),
        (ids(1, 2)[None], torch.ones(2, 2), r"torch\.int32 of shape \[1, 2\]"),
    ],
)
def test_numbers_that_fit_nothing_are_refused(numbers: Tensor, rows: Tensor | None, message: str) -> None:
    given = {IDS: numbers} if rows is None else {IDS: numbers, WEIGHT: rows}
    with pytest.raises(InputError, match=rf"w\.pt: token_embedding\.token_ids with {message}\. .*increasing, 0 to 5"):
        expand_token_rows(given, WANTED, "w.pt")


@pytest.mark.parametrize("build", [tiny_clip, custom_clip])
def test_sparse_state_is_half_precision_without_the_mask(build: type) -> None:
    model: CLIP = build()
    prefix = "text." if isinstance(model, CustomTextCLIP) else ""
    state = sparse_state(model, [49407, 5, 320, 5])
    assert state.keys() == model.state_dict().keys() | {prefix + IDS}
    assert not [name for name in state if "attn_mask" in name]
    assert {name for name, value in state.items() if value.dtype != torch.float16} == {prefix + IDS}
    assert state[prefix + IDS].dtype == torch.int32
    assert state[prefix + IDS].tolist() == [5, 320, 49407]
    assert state["logit_scale"].shape == ()
    assert torch.equal(state[prefix + WEIGHT], model.state_dict()[prefix + WEIGHT][[5, 320, 49407]].half())


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
    count = tokens.unique().numel()
    assert f"token_embedding: {count} of 49408 rows, the others are zero" in str(report)
    assert not caplog.records, "nothing to warn of"


def test_rows_of_plain_clip_are_taken_by_a_custom_text_clip(tmp_path: Path) -> None:
    """open_clip renames the text tower's weights on the way."""
    name = register_tiny(tmp_path, "tiny-rows-custom", custom_text=True)
    safetensors.torch.save_file(sparse_state(tiny_clip(), [7]), tmp_path / "w.safetensors")
    model, report = load_clip(name, str(tmp_path / "w.safetensors"))
    weight = model.state_dict()[f"text.{WEIGHT}"]
    assert weight.any(dim=1).nonzero().tolist() == [[7]]
    assert report.unexpected == ()


def test_rows_of_another_width_are_another_model(tmp_path: Path) -> None:
    state = {**sparse_state(tiny_clip(), [7, 9]), WEIGHT: torch.ones(2, 48)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"token_embedding\.weight \[49408, 48\], not \[49408, 32\]"):
        load_clip(register_tiny(tmp_path), str(tmp_path / "w.pt"))


def test_wrong_numbers_name_the_file(tmp_path: Path) -> None:
    state = {**sparse_state(tiny_clip(), [7, 9]), IDS: ids(9, 7)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"w\.pt: token_embedding\.token_ids with numbers that do not increase"):
        load_clip(register_tiny(tmp_path), str(tmp_path / "w.pt"))


def test_report_says_nothing_of_a_file_of_all_rows(tmp_path: Path) -> None:
    torch.save(tiny_clip().state_dict(), tmp_path / "w.pt")
    _, report = load_clip(register_tiny(tmp_path), str(tmp_path / "w.pt"))
    assert report.token_rows == ""
    assert "token_embedding" not in str(report)
