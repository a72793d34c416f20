import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from cliptrase_d2.clip import text as text_module
from cliptrase_d2.clip.prompts import fill
from cliptrase_d2.clip.text import TextEncoder, _split
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.clip.tiny import tiny_clip

VOCABULARY = Vocabulary.parse(["cat", "potted plant;flowerpot", "a very long name of something else entirely"])


@pytest.fixture(scope="module")
def tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


@pytest.fixture
def forbid_encoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, a cache miss fails the test."""
    return lambda: monkeypatch.setattr(text_module, "encode_text_tokens", lambda *_: pytest.fail("cache miss"))


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


def test_chunks_contain_every_prompt_once_within_the_budget() -> None:
    lengths = torch.tensor([5, 9, 5, 77, 6, 5, 12])
    chunks = list(_split(lengths, 20))
    assert sorted(torch.cat(chunks).tolist()) == list(range(7))
    for chunk in chunks:
        assert len(chunk) == 1 or len(chunk) * int(lengths[chunk].max()) <= 20


def test_one_block_is_tokenized_at_a_time(tokenizer: SimpleTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, call = [], SimpleTokenizer.__call__

    def count(self: SimpleTokenizer, texts: list[str], *rest: object) -> Tensor:
        counts.append(len(texts))
        return call(self, texts, *rest)

    monkeypatch.setattr(SimpleTokenizer, "__call__", count)
    words = Vocabulary.parse([f"thing {number}" for number in range(50)])
    TextEncoder(tiny_clip(), tokenizer, templates="vild", words_per_block=20)(words)
    assert counts == [14 * 20, 14 * 20, 14 * 10]


@pytest.mark.parametrize("cached", [False, True])
def test_blocks_do_not_change_the_features(tokenizer: SimpleTokenizer, tmp_path: Path, cached: bool) -> None:
    model, folder = tiny_clip(), tmp_path if cached else None
    expected = TextEncoder(model, tokenizer, templates="vild")(VOCABULARY)
    encoder = TextEncoder(model, tokenizer, templates="vild", words_per_block=2, cache_dir=folder)
    for _ in range(2):  # encoded, then read from the cache if there is one
        torch.testing.assert_close(encoder(VOCABULARY).features, expected.features)
    assert len(list(tmp_path.iterdir())) == (2 if cached else 0)  # two blocks of two words


def test_interrupted_encoding_resumes_after_its_last_block(
    tokenizer: SimpleTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_clip()
    encoder = TextEncoder(model, tokenizer, templates="vild", words_per_block=1, cache_dir=tmp_path)
    encode, encoded = TextEncoder._encode, []

    def interrupt_once(self: TextEncoder, words: list[str], *rest: object) -> Tensor:
        encoded.extend(words)
        if len(encoded) == 3:
            raise KeyboardInterrupt
        return encode(self, words, *rest)

    monkeypatch.setattr(TextEncoder, "_encode", interrupt_once)
    with pytest.raises(KeyboardInterrupt):
        encoder(VOCABULARY)
    features = encoder(VOCABULARY).features
    first, second, third, fourth = VOCABULARY.prompts
    assert encoded == [first, second, third, third, fourth]
    torch.testing.assert_close(features, TextEncoder(model, tokenizer, templates="vild")(VOCABULARY).features)


def test_features_do_not_depend_on_autocast(tokenizer: SimpleTokenizer) -> None:
    encoder = TextEncoder(tiny_clip(), tokenizer, templates="simple")
    exact = encoder(VOCABULARY).features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder(VOCABULARY).features, exact)


def test_same_words_are_read_from_the_cache_in_other_classes(
    tokenizer: SimpleTokenizer, tmp_path: Path, forbid_encoding: Callable[[], None]
) -> None:
    first = TextEncoder(tiny_clip(), tokenizer, templates="simple", cache_dir=tmp_path / "new" / "folder")
    apart = first(Vocabulary.parse(["sofa", "couch"]))
    forbid_encoding()
    second = TextEncoder(tiny_clip(), tokenizer, templates="simple", cache_dir=tmp_path / "new" / "folder")
    together = second(Vocabulary.parse(["sofa;couch"]))
    assert torch.equal(apart.features, together.features)
    assert (apart.class_index.tolist(), together.class_index.tolist()) == ([0, 1], [0, 0])


def test_cache_distinguishes_models_templates_and_words(tokenizer: SimpleTokenizer, tmp_path: Path) -> None:
    model = tiny_clip()
    base = TextEncoder(model, tokenizer, templates="simple", cache_dir=tmp_path)
    first = base(VOCABULARY).features
    others = [
        TextEncoder(tiny_clip(quick_gelu=True), tokenizer, templates="simple", cache_dir=tmp_path)(VOCABULARY),
        TextEncoder(tiny_clip(), tokenizer, templates="vild", cache_dir=tmp_path)(VOCABULARY),
        base(Vocabulary.parse(["dog", "potted plant;flowerpot", "lamp"])),
    ]
    model.load_state_dict(tiny_clip(seed=1).state_dict())  # changed after the encoder was built
    others.append(base(VOCABULARY))
    assert len(list(tmp_path.iterdir())) == 1 + len(others)
    for other in others:
        assert not torch.equal(other.features, first)


def test_unwritable_cache_is_reported_once(
    tokenizer: SimpleTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    encoder = TextEncoder(tiny_clip(), tokenizer, templates="simple", cache_dir=tmp_path / "file" / "cache")
    expected = TextEncoder(tiny_clip(), tokenizer, templates="simple")(VOCABULARY).features
    assert torch.equal(encoder(VOCABULARY).features, expected)
    count = len(caplog.records)
    assert str(tmp_path / "file") in caplog.records[-1].message
    assert torch.equal(encoder(VOCABULARY).features, expected)
    assert len(caplog.records) == count


# "a photo of a" and "." have five tokens, start and end two more. 70 of 77 remain.
@pytest.mark.parametrize(("count", "is_truncated"), [(70, False), (71, True)])
def test_truncated_prompts_are_reported(
    tokenizer: SimpleTokenizer, caplog: pytest.LogCaptureFixture, count: int, is_truncated: bool
) -> None:
    TextEncoder(tiny_clip(), tokenizer, templates="simple")(Vocabulary.parse(["cat", "dog " * count]))
    assert len(caplog.records) == is_truncated
    assert ("1 of 2 words" in caplog.text and "dog dog" in caplog.text) == is_truncated


# No token of "&nbsp" remains after the tokenizer decodes HTML entities. "photo" is a word of the template only.
@pytest.mark.parametrize(
    ("untrained", "words", "start", "end"),
    [
        ("potted zebra", ["cat", "potted plant;flowerpot", "a zebra", "dog"], "2 of 5", ": 'potted plant', 'a zebra'"),
        ("u v w x y z", ["u", "v", "w", "x", "y", "z"], "6 of 6", ": 'u', 'v', 'w', 'x', 'y'"),
        ("a photo of.", ["cat", "dog"], "", ""),
        ("zebra", ["&nbsp"], "", ""),
    ],
)
def test_words_that_training_never_met_are_reported(
    tokenizer: SimpleTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture, forbid_encoding: Callable[[], None],
    untrained: str, words: list[str], start: str, end: str,
) -> None:  # fmt: skip
    model = tiny_clip()
    model.token_embedding.weight[tokenizer.encode(untrained)] = 0
    for _ in range(2):  # encoded, then read from the cache
        caplog.clear()
        TextEncoder(model, tokenizer, templates="simple", cache_dir=tmp_path)(Vocabulary.parse(words))
        assert len(caplog.records) == bool(end)
        for record in caplog.records:
            assert record.levelno == logging.WARNING
            assert record.message.startswith(f"{start} words ")
            assert record.message.endswith(end)
        forbid_encoding()


def test_progress_is_shown_for_long_work_only(tokenizer: SimpleTokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    TextEncoder(tiny_clip(), tokenizer, templates="simple")(VOCABULARY)
    assert capsys.readouterr().err == ""
    TextEncoder(tiny_clip(), tokenizer, templates="imagenet", tokens_per_chunk=256)(VOCABULARY)
    captured = capsys.readouterr()
    assert "Text features: 100%" in captured.err
    assert captured.out == ""


def test_unknown_templates_are_rejected(tokenizer: SimpleTokenizer) -> None:
    with pytest.raises(InputError, match=r"templates: .*'none'"):
        TextEncoder(tiny_clip(), tokenizer, templates="none")
