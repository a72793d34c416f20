import json
import multiprocessing
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from cliptrase_d2.clip import text_cache
from cliptrase_d2.clip.text_cache import FORMAT, add_features, cache_file, cache_key, read_features
from tests.faults import kill_at_file

ROWS = torch.arange(12.0).view(3, 4)
FEATURES = dict(zip(["cat", "potted plant", "木"], ROWS, strict=True))
KEY = cache_key("weights", ["a photo of a {}."])


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for word in expected:
        assert torch.equal(found[word], expected[word])


def test_round_trip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_features(tmp_path / "absent", KEY) == {}
    add_features(tmp_path / "new", KEY, FEATURES)
    assert_equal(read_features(tmp_path / "new", KEY), FEATURES)
    assert list((tmp_path / "new").iterdir()) == [cache_file(tmp_path / "new", KEY)]
    assert not caplog.records


def test_words_are_added_to_those_in_the_file(tmp_path: Path) -> None:
    add_features(tmp_path, KEY, FEATURES)
    more = {"dog": torch.ones(4), "cat": torch.zeros(4)}
    add_features(tmp_path, KEY, more)
    assert_equal(read_features(tmp_path, KEY), FEATURES | more)


def test_the_file_keeps_the_latest_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_cache, "MAX_WORDS", 3)
    add_features(tmp_path, KEY, FEATURES)
    add_features(tmp_path, KEY, {"dog": torch.ones(4)})
    assert list(read_features(tmp_path, KEY)) == ["potted plant", "木", "dog"]


def test_key_distinguishes_lists() -> None:
    assert cache_key("w", ["a", "b"], ["c"]) != cache_key("w", ["a"], ["b", "c"])
    assert cache_key("w", ["ab"]) != cache_key("w", ["a", "b"])
    assert cache_key("w", ["a"]) == cache_key("w", ("a",))


@pytest.mark.parametrize("size", [0, 5, 40, -1, None], ids=lambda size: "flipped bit" if size is None else str(size))
def test_damaged_file_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int | None) -> None:
    add_features(tmp_path, KEY, FEATURES)
    content = bytearray(cache_file(tmp_path, KEY).read_bytes()[:size])
    if size is None:
        content[-1] ^= 1  # of the last number
    cache_file(tmp_path, KEY).write_bytes(content)
    assert read_features(tmp_path, KEY) == {}
    assert len(caplog.records) == 1
    add_features(tmp_path, KEY, FEATURES)
    assert_equal(read_features(tmp_path, KEY), FEATURES)
    assert len(caplog.records) == 1


def test_exchanged_words_are_detected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add_features(tmp_path, KEY, {"cat": ROWS[0], "dog": ROWS[1]})
    path = cache_file(tmp_path, KEY)
    path.write_bytes(path.read_bytes().replace(b"cat", b"cow"))
    assert read_features(tmp_path, KEY) == {}
    assert "changed" in caplog.text


METADATA = {"format": FORMAT, "key": KEY, "words": json.dumps(list(FEATURES))}
METADATA["sha256"] = text_cache._digest(METADATA["words"], ROWS)


@pytest.mark.parametrize(
    ("name", "rows", "metadata"),
    [
        ("features", ROWS, METADATA | {"format": "cliptrase text features 2"}),
        ("features", ROWS, METADATA | {"key": "another"}),
        ("features", ROWS, None),
        ("features", ROWS[:2], METADATA),
        ("features", ROWS[:2], METADATA | {"sha256": text_cache._digest(METADATA["words"], ROWS[:2])}),
        ("features", ROWS.half(), METADATA),
        ("other", ROWS, METADATA),
    ],
    ids=["older version", "other key", "no metadata", "other rows", "too few rows", "half precision", "no features"],
)
def test_other_content_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, rows: Tensor, metadata: dict[str, str] | None
) -> None:
    cache_file(tmp_path, KEY).write_bytes(safetensors.torch.save({name: rows.contiguous()}, metadata))
    assert read_features(tmp_path, KEY) == {}
    assert len(caplog.records) == 1


def _write_often(folder: Path, features: dict[str, Tensor]) -> None:
    for _ in range(20):
        add_features(folder, KEY, features)


def test_readers_never_read_a_partial_file_of_two_writers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = dict(zip("abc", torch.randn(3, 50_000), strict=True))
    add_features(tmp_path, KEY, features)
    processes = multiprocessing.get_context("fork")
    writers = [processes.Process(target=_write_often, args=(tmp_path, features)) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert_equal(read_features(tmp_path, KEY), features)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert not caplog.records
    assert len(list(tmp_path.iterdir())) == 1


def test_file_of_a_killed_writer_is_ignored_and_later_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kill_at_file(1, lambda: add_features(tmp_path, KEY, FEATURES))
    (abandoned,) = tmp_path.iterdir()
    assert read_features(tmp_path, KEY) == {}
    assert not caplog.records
    add_features(tmp_path, KEY, FEATURES)
    assert abandoned.exists()  # its process may still be running
    os.utime(abandoned, (0, 0))
    add_features(tmp_path, KEY, FEATURES)
    assert list(tmp_path.iterdir()) == [cache_file(tmp_path, KEY)]
    assert_equal(read_features(tmp_path, KEY), FEATURES)
