import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from cliptrase_d2.clip import prompts, text_cache
from cliptrase_d2.clip import text as text_module
from cliptrase_d2.clip.prompts import fill
from cliptrase_d2.clip.text import TextEncoder, split_by_length
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.clip.tiny import TINY_CONFIG, tiny_clip

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


# Words that might change the tokens before them, or have none, or too many.
ODD_WORDS = [
    "cat", "o'clock", "'s", "\u2019s", "x-ray", "7up 2", "日本", "кошка", "ﬁre", "café", "&nbsp", "&amp", "{}", "%",
    '"a"', ".", "<end_of_text>", "a<start_of_text>b", "dog " * 75, "dog " * 69, "supercalifragilistic" * 9,
]  # fmt: skip


@pytest.mark.parametrize("clean", ["lower", "canonicalize"])
@pytest.mark.parametrize(
    "template", ["{}", "the {} in the scene", "non{}", "{}'s photo", "an &{}", "<end_of_text> {}", "a " * 90 + "{}"]
)
def test_shared_prefixes_equal_whole_prompts(monkeypatch: pytest.MonkeyPatch, template: str, clean: str) -> None:
    monkeypatch.setitem(prompts.TEMPLATE_SETS, "own", (template, "a {}"))
    model, tokenizer = tiny_clip(), SimpleTokenizer(clean=clean)
    result = TextEncoder(model, tokenizer, templates="own")(Vocabulary.parse(ODD_WORDS))
    for word, row in zip(result.classes, result.features, strict=True):
        each = F.normalize(model.encode_text(tokenizer(fill("own", word))), dim=-1)
        torch.testing.assert_close(row, F.normalize(each.mean(dim=0), dim=-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "text",
    [{"context_length": 16}, {"pool_type": "eos"}, {"proj_type": "none", "width": 32}, {"proj_bias": True}],
    ids=lambda text: next(iter(text)),
)
@pytest.mark.parametrize("custom", [False, True], ids=["CLIP", "CustomTextCLIP"])
def test_every_text_tower_shares_prefixes(text: dict[str, object], custom: bool) -> None:
    config = {**TINY_CONFIG, "text_cfg": {**TINY_CONFIG["text_cfg"], **text}}
    model = (CustomTextCLIP if custom else CLIP)(**config).eval().requires_grad_(False)
    tokenizer = SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    result = TextEncoder(model, tokenizer, templates="vild")(VOCABULARY)
    for word, row in zip(VOCABULARY.prompts, result.features, strict=True):
        each = F.normalize(model.encode_text(tokenizer(fill("vild", word))), dim=-1)
        torch.testing.assert_close(row, F.normalize(each.mean(dim=0), dim=-1), atol=1e-5, rtol=0)


def test_a_prefix_is_encoded_once_per_template(tokenizer: SimpleTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, encode = [], text_module.encode_text_tokens

    def count(model: CLIP, tokens: Tensor, *rest: object) -> Tensor:
        encoded.append(tokens)
        return encode(model, tokens, *rest)

    monkeypatch.setattr(text_module, "encode_text_tokens", count)
    TextEncoder(tiny_clip(), tokenizer, templates="simple")(Vocabulary.parse(["cat", "dog", "traffic light"]))
    # "a photo of a" is not among them. The word, the full stop and the end token remain.
    assert [tokens.tolist() for tokens in encoded] == [[
        [*tokenizer.encode("cat."), tokenizer.eot_token_id, 0],
        [*tokenizer.encode("dog."), tokenizer.eot_token_id, 0],
        [*tokenizer.encode("traffic light."), tokenizer.eot_token_id],
    ]]  # fmt: skip


# By length: 5 5 5 | 6 9 | 12 | 77, since 4·6 > 20. A chunk of one 6 has enough if 6 tokens are enough.
@pytest.mark.parametrize(("enough", "count"), [(20, 4), (7, 4), (6, 5)])
def test_chunks_contain_every_prompt_once_within_the_budget(enough: int, count: int) -> None:
    lengths = torch.tensor([5, 9, 5, 77, 6, 5, 12])
    chunks = list(split_by_length(lengths, 20, enough))
    assert sorted(torch.cat(chunks).tolist()) == list(range(7))
    assert len(chunks) == count
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
    for _ in range(2):  # encoded, then read from the cache if there is one
        encoder = TextEncoder(model, tokenizer, templates="vild", words_per_block=2, cache_dir=folder)
        torch.testing.assert_close(encoder(VOCABULARY).features, expected.features)
    assert len(list(tmp_path.iterdir())) == cached  # one file for all blocks


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words that any encoder encodes."""
    words, encode = [], TextEncoder._encode

    def record(self: TextEncoder, block: list[str], *rest: object) -> Tensor:
        words.extend(block)
        return encode(self, block, *rest)

    monkeypatch.setattr(TextEncoder, "_encode", record)
    return words


@pytest.mark.parametrize("cached", [False, True])
def test_only_new_words_are_encoded(
    tokenizer: SimpleTokenizer, tmp_path: Path, encoded: list[str], cached: bool
) -> None:
    model = tiny_clip()
    encoder = TextEncoder(model, tokenizer, templates="vild", cache_dir=tmp_path if cached else None)
    first = encoder(Vocabulary.parse(["sky", "tree", "cat"])).features
    if cached:  # a new process
        encoder = TextEncoder(model, tokenizer, templates="vild", cache_dir=tmp_path)
    added = encoder(Vocabulary.parse(["cat;kitten", "sky", "dog"]))
    removed = encoder(Vocabulary.parse(["dog", "tree"]))
    assert encoded == ["sky", "tree", "cat", "kitten", "dog"]
    assert torch.equal(added.features[[0, 2]], first[[2, 0]])
    assert torch.equal(removed.features, torch.stack([added.features[3], first[1]]))
    assert added.class_index.tolist() == [0, 0, 1, 2]


def test_the_latest_words_are_remembered(
    tokenizer: SimpleTokenizer, monkeypatch: pytest.MonkeyPatch, encoded: list[str]
) -> None:
    monkeypatch.setattr(text_cache, "MAX_WORDS", 2)
    encoder = TextEncoder(tiny_clip(), tokenizer, templates="simple")
    for words in (["a", "b", "c"], ["c", "b"], ["a"]):
        encoder(Vocabulary.parse(words))
    assert encoded == ["a", "b", "c", "a"]


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
    again = TextEncoder(model, tokenizer, templates="vild", words_per_block=1, cache_dir=tmp_path)
    features = again(VOCABULARY).features
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
    assert len(list(tmp_path.iterdir())) == 4  # other words are in the same file
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
    encoder = TextEncoder(tiny_clip(), tokenizer, templates="simple")
    for _ in range(2):  # encoded, then remembered
        caplog.clear()
        encoder(Vocabulary.parse(["cat", "dog " * count]))
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


def test_progress_is_shown_for_long_work_on_a_terminal(
    tokenizer: SimpleTokenizer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    TextEncoder(tiny_clip(), tokenizer, templates="imagenet", tokens_per_chunk=256)(VOCABULARY)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    TextEncoder(tiny_clip(), tokenizer, templates="simple")(VOCABULARY)
    assert capsys.readouterr().err == ""
    TextEncoder(tiny_clip(), tokenizer, templates="imagenet", tokens_per_chunk=256)(VOCABULARY)
    captured = capsys.readouterr()
    assert "Text features: 100%" in captured.err
    assert captured.out == ""


def test_unknown_templates_are_rejected(tokenizer: SimpleTokenizer) -> None:
    with pytest.raises(InputError, match=r"templates: .*'none'"):
        TextEncoder(tiny_clip(), tokenizer, templates="none")


def test_templates_are_encoded_one_by_one(
    tokenizer: SimpleTokenizer, tmp_path: Path, forbid_encoding: Callable[[], None]
) -> None:
    model, templates = tiny_clip(), ("a {}", "the {} in the scene", "{} at night")
    encoder = TextEncoder(model, tokenizer, templates="simple", cache_dir=tmp_path)
    own = encoder(VOCABULARY).features
    features = encoder.encode_templates(VOCABULARY, templates)
    assert features.shape == (3, 4, 32)
    for template, rows in zip(templates, features, strict=True):
        for word, row in zip(VOCABULARY.prompts, rows, strict=True):
            (expected,) = F.normalize(model.encode_text(tokenizer([template.replace("{}", word)])), dim=-1)
            torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)
    mean = TextEncoder(model, tokenizer, templates=templates, cache_dir=tmp_path)(VOCABULARY).features
    torch.testing.assert_close(mean, F.normalize(features.mean(0), dim=-1), atol=1e-5, rtol=0)
    forbid_encoding()  # the cache has a file for each set
    again = TextEncoder(model, tokenizer, templates="vild", cache_dir=tmp_path)
    assert torch.equal(again.encode_templates(VOCABULARY, templates), features)
    assert torch.equal(encoder(VOCABULARY).features, own)


def test_long_words_are_reported_once_for_all_templates(
    tokenizer: SimpleTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        TextEncoder(tiny_clip(), tokenizer, templates="simple").encode_templates(
            Vocabulary.parse(["dog " * 80]), ("a {}", "the {}")
        )
    assert len(caplog.records) == 1
