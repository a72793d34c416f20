import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from cliptrase_d2.clip import text as text_module
from cliptrase_d2.clip.prompts import fill
from cliptrase_d2.clip.text import TextEncoder, _chunks
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.clip.tiny import tiny_clip

VOCABULARY = Vocabulary.parse(["cat", "potted plant;flowerpot", "a very long name of something else entirely"])


@pytest.fixture(scope="module")
def tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


@pytest.fixture
def no_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on a cache miss is an error."""

    def fail(*_: object) -> None:
        raise AssertionError("encoded although it should have been in the cache")

    monkeypatch.setattr(text_module, "encode_text_tokens", fail)


@pytest.mark.parametrize("templates", ["imagenet", "vild", "simple"])
@pytest.mark.parametrize("budget", [1, 100, 4096])
def test_features_equal_the_full_context(tokenizer: SimpleTokenizer, templates: str, budget: int) -> None:
    model = tiny_clip()
    result = TextEncoder(model, tokenizer, templates=templates, tokens_per_chunk=budget)(VOCABULARY)
    assert result.features.shape == (4, 32)
    assert result.class_index.tolist() == [0, 1, 1, 2]
    assert result.classes == VOCABULARY.classes
    for word, row in zip(VOCABULARY.prompts, result.features, strict=True):
        each = F.normalize(model.encode_text(tokenizer(fill(templates, word))), dim=-1)  # at 77 tokens
        torch.testing.assert_close(row, F.normalize(each.mean(dim=0), dim=-1), atol=1e-5, rtol=0)


def test_one_word_vocabulary(tokenizer: SimpleTokenizer) -> None:
    result = TextEncoder(tiny_clip(), tokenizer, templates="simple")(Vocabulary.parse(["cat"]))
    assert result.features.shape == (1, 32)
    assert result.class_index.tolist() == [0]


def test_chunks_hold_every_prompt_once_within_the_budget() -> None:
    lengths = torch.tensor([5, 9, 5, 77, 6, 5, 12])
    chunks = list(_chunks(lengths, 20))
    assert sorted(torch.cat(chunks).tolist()) == list(range(7))
    for chunk in chunks:
        assert len(chunk) == 1 or len(chunk) * int(lengths[chunk].max()) <= 20


def test_no_more_than_a_block_is_tokenized_at_a_time(
    tokenizer: SimpleTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_a_time = []
    call = SimpleTokenizer.__call__
    monkeypatch.setattr(
        SimpleTokenizer, "__call__", lambda self, texts, *rest: at_a_time.append(len(texts)) or call(self, texts, *rest)
    )
    words = Vocabulary.parse([f"thing {number}" for number in range(50)])
    TextEncoder(tiny_clip(), tokenizer, templates="vild", words_per_block=20)(words)
    assert at_a_time == [14 * 20, 14 * 20, 14 * 10]


@pytest.mark.parametrize("cached", [False, True])
def test_blocks_do_not_show(tokenizer: SimpleTokenizer, tmp_path: Path, cached: bool) -> None:
    model, folder = tiny_clip(), tmp_path if cached else None
    whole = TextEncoder(model, tokenizer, templates="vild")(VOCABULARY)
    encoder = TextEncoder(model, tokenizer, templates="vild", words_per_block=2, cache_dir=folder)
    for _ in range(2):  # encoded, then read where there is a cache
        torch.testing.assert_close(encoder(VOCABULARY).features, whole.features)
    assert len(list(tmp_path.iterdir())) == (-(-len(VOCABULARY.prompts) // 2) if cached else 0)


def test_an_interrupted_vocabulary_goes_on_behind_its_last_block(
    tokenizer: SimpleTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_clip()
    encoder = TextEncoder(model, tokenizer, templates="vild", words_per_block=1, cache_dir=tmp_path)
    encode, encoded = TextEncoder._encode, []

    def interrupted_at_the_third(self: TextEncoder, words: list[str], *rest: object) -> Tensor:
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.extend(words)
        return encode(self, words, *rest)

    monkeypatch.setattr(TextEncoder, "_encode", interrupted_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        encoder(VOCABULARY)
    monkeypatch.setattr(
        TextEncoder, "_encode", lambda self, words, *rest: encoded.extend(words) or encode(self, words, *rest)
    )
    found = encoder(VOCABULARY)
    assert encoded == list(VOCABULARY.prompts)  # every word once
    torch.testing.assert_close(found.features, TextEncoder(model, tokenizer, templates="vild")(VOCABULARY).features)


def test_features_do_not_depend_on_autocast(tokenizer: SimpleTokenizer) -> None:
    encoder = TextEncoder(tiny_clip(), tokenizer, templates="simple")
    exact = encoder(VOCABULARY).features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder(VOCABULARY).features, exact)


def test_second_call_reads_the_cache(
    tokenizer: SimpleTokenizer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first = TextEncoder(tiny_clip(), tokenizer, templates="vild", cache_dir=tmp_path / "new" / "folder")(VOCABULARY)
    request.getfixturevalue("no_encoding")
    again = TextEncoder(tiny_clip(), tokenizer, templates="vild", cache_dir=tmp_path / "new" / "folder")(VOCABULARY)
    assert torch.equal(again.features, first.features)


def test_cache_is_not_used_for_anything_else(tokenizer: SimpleTokenizer, tmp_path: Path) -> None:
    base = TextEncoder(tiny_clip(), tokenizer, templates="simple", cache_dir=tmp_path)
    first = base(VOCABULARY).features
    others = [
        TextEncoder(tiny_clip(seed=1), tokenizer, templates="simple", cache_dir=tmp_path)(VOCABULARY),
        TextEncoder(tiny_clip(quick_gelu=True), tokenizer, templates="simple", cache_dir=tmp_path)(VOCABULARY),
        TextEncoder(tiny_clip(), tokenizer, templates="vild", cache_dir=tmp_path)(VOCABULARY),
        base(Vocabulary.parse(["dog", "potted plant;flowerpot", "lamp"])),
    ]
    assert len(list(tmp_path.iterdir())) == 1 + len(others)
    for other in others:
        assert not torch.equal(other.features, first)


def test_same_words_in_other_classes_share_the_cache(
    tokenizer: SimpleTokenizer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    encoder = TextEncoder(tiny_clip(), tokenizer, templates="simple", cache_dir=tmp_path)
    apart = encoder(Vocabulary.parse(["sofa", "couch"]))
    request.getfixturevalue("no_encoding")
    together = encoder(Vocabulary.parse(["sofa;couch"]))
    assert torch.equal(apart.features, together.features)
    assert (apart.class_index.tolist(), together.class_index.tolist()) == ([0, 1], [0, 0])


def test_weights_changed_later_are_encoded_again(tokenizer: SimpleTokenizer, tmp_path: Path) -> None:
    model = tiny_clip()
    encoder = TextEncoder(model, tokenizer, templates="simple", cache_dir=tmp_path)
    before = encoder(VOCABULARY).features
    model.load_state_dict(tiny_clip(seed=1).state_dict())
    assert not torch.allclose(encoder(VOCABULARY).features, before)


def test_unwritable_cache_is_said_once(
    tokenizer: SimpleTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    encoder = TextEncoder(tiny_clip(), tokenizer, templates="simple", cache_dir=tmp_path / "file" / "cache")
    expected = TextEncoder(tiny_clip(), tokenizer, templates="simple")(VOCABULARY).features
    assert torch.equal(encoder(VOCABULARY).features, expected)
    assert torch.equal(encoder(VOCABULARY).features, expected)
    assert [record.message for record in caplog.records if "cannot be kept" in record.message] == [
        record.message for record in caplog.records[-1:]
    ]


def test_prompt_longer_than_the_context_is_named(tokenizer: SimpleTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    long = "dog " * 90
    with caplog.at_level(logging.WARNING):
        TextEncoder(tiny_clip(), tokenizer, templates="vild")(Vocabulary.parse(["cat", long]))
    assert len(caplog.records) == 1
    assert "1 of 2 words" in caplog.text
    assert "dog dog" in caplog.text


def test_prompt_that_just_fits_is_not_warned_of(tokenizer: SimpleTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    # "a photo of a" and "." are five tokens, start and end two more: 70 are left of 77.
    for count, warnings in ((70, 0), (71, 1)):
        caplog.clear()
        TextEncoder(tiny_clip(), tokenizer, templates="simple")(Vocabulary.parse(["dog " * count]))
        assert len(caplog.records) == warnings


def forget(model: CLIP, tokenizer: SimpleTokenizer, text: str) -> None:
    """As in a model whose training met none of these words."""
    model.token_embedding.weight[tokenizer.encode(text)] = 0


def test_words_that_training_never_met_are_named(tokenizer: SimpleTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_clip()
    forget(model, tokenizer, "potted zebra")
    TextEncoder(model, tokenizer, templates="vild")(
        Vocabulary.parse(["cat", "potted plant;flowerpot", "a zebra", "dog"])
    )
    assert len(caplog.records) == 1, "once, not per template or word"
    assert caplog.records[0].levelno == logging.WARNING
    assert caplog.records[0].message.startswith("2 of 5 words ")
    assert caplog.records[0].message.endswith(": 'potted plant', 'a zebra'")


def test_five_of_the_unmet_words_are_shown(tokenizer: SimpleTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_clip()
    model.token_embedding.weight.zero_()
    words = ["one", "two", "three", "four", "five", "six"]
    TextEncoder(model, tokenizer, templates="simple")(Vocabulary.parse(words))
    assert caplog.records[0].message.startswith("6 of 6 words ")
    assert caplog.records[0].message.endswith(": 'one', 'two', 'three', 'four', 'five'")


def test_unmet_words_are_named_when_the_cache_answers(
    tokenizer: SimpleTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    model = tiny_clip()
    forget(model, tokenizer, "zebra")
    vocabulary = Vocabulary.parse(["cat", "zebra"])
    TextEncoder(model, tokenizer, templates="simple", cache_dir=tmp_path)(vocabulary)
    caplog.clear()
    request.getfixturevalue("no_encoding")
    TextEncoder(model, tokenizer, templates="simple", cache_dir=tmp_path)(vocabulary)
    assert ["'zebra'" in record.message for record in caplog.records] == [True]


def test_unmet_words_of_the_template_are_not_the_users(
    tokenizer: SimpleTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_clip()
    forget(model, tokenizer, "a photo of.")
    TextEncoder(model, tokenizer, templates="simple")(Vocabulary.parse(["cat", "dog"]))
    assert not caplog.records


def test_word_without_tokens_is_not_warned_of(tokenizer: SimpleTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    blank = "&nbsp"  # an entity, of which the tokenizer leaves nothing
    assert tokenizer.encode(blank) == []
    TextEncoder(tiny_clip(), tokenizer, templates="simple")(Vocabulary.parse([blank]))
    assert not caplog.records


def test_progress_is_shown_for_long_work_only(tokenizer: SimpleTokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    TextEncoder(tiny_clip(), tokenizer, templates="simple")(VOCABULARY)
    assert capsys.readouterr().err == ""
    TextEncoder(tiny_clip(), tokenizer, templates="imagenet", tokens_per_chunk=256)(VOCABULARY)
    captured = capsys.readouterr()
    assert "Text features: 100%" in captured.err
    assert captured.out == ""


def test_unknown_templates_are_refused(tokenizer: SimpleTokenizer) -> None:
    with pytest.raises(InputError, match="imagenet, vild, simple"):
        TextEncoder(tiny_clip(), tokenizer, templates="none")
