import multiprocessing
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cliptrase_d2.clip.text_cache import FORMAT, cache_file, cache_key, read_features, write_features
from tests.faults import kill_at_file

FEATURES = torch.arange(12.0).view(3, 4)
KEY = cache_key("weights", ["a photo of a {}."], ["cat", "dog", "tree"])


def test_round_trip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_features(tmp_path / "absent", KEY, 3) is None
    write_features(tmp_path, KEY, FEATURES)
    assert torch.equal(read_features(tmp_path, KEY, 3), FEATURES)
    assert list(tmp_path.iterdir()) == [cache_file(tmp_path, KEY)]
    assert not caplog.records


def test_key_distinguishes_lists() -> None:
    assert cache_key("w", ["a", "b"], ["c"]) != cache_key("w", ["a"], ["b", "c"])
    assert cache_key("w", ["ab"]) != cache_key("w", ["a", "b"])
    assert cache_key("w", ["a"]) == cache_key("w", ("a",))


@pytest.mark.parametrize("size", [0, 5, 40, -1, None], ids=lambda size: "flipped bit" if size is None else str(size))
def test_damaged_file_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int | None) -> None:
    write_features(tmp_path, KEY, FEATURES)
    content = bytearray(cache_file(tmp_path, KEY).read_bytes()[:size])
    if size is None:
        content[-1] ^= 1  # of the last number
    cache_file(tmp_path, KEY).write_bytes(content)
    assert read_features(tmp_path, KEY, 3) is None
    assert len(caplog.records) == 1
    write_features(tmp_path, KEY, FEATURES)
    assert torch.equal(read_features(tmp_path, KEY, 3), FEATURES)


@pytest.mark.parametrize(
    ("name", "features", "metadata"),
    [
        ("features", FEATURES, {"format": "cliptrase text features 0", "key": KEY}),
        ("features", FEATURES, {"format": FORMAT, "key": "another"}),
        ("features", FEATURES, None),
        ("features", FEATURES[:2], {"format": FORMAT, "key": KEY}),
        ("features", FEATURES.half(), {"format": FORMAT, "key": KEY}),
        ("other", FEATURES, {"format": FORMAT, "key": KEY}),
    ],
    ids=["other version", "other key", "no metadata", "too few words", "half precision", "no features"],
)
def test_other_content_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, features: torch.Tensor, metadata: dict[str, str] | None
) -> None:
    cache_file(tmp_path, KEY).write_bytes(safetensors.torch.save({name: features.contiguous()}, metadata))
    assert read_features(tmp_path, KEY, 3) is None
    assert len(caplog.records) == 1


def _write_often(folder: Path, features: torch.Tensor) -> None:
    for _ in range(20):
        write_features(folder, KEY, features)


def test_readers_never_read_a_partial_file_of_two_writers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = torch.randn(3, 50_000)
    write_features(tmp_path, KEY, features)
    processes = multiprocessing.get_context("fork")
    writers = [processes.Process(target=_write_often, args=(tmp_path, features)) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert torch.equal(read_features(tmp_path, KEY, 3), features)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert not caplog.records
    assert len(list(tmp_path.iterdir())) == 1


def test_file_of_a_killed_writer_is_ignored_and_later_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kill_at_file(1, lambda: write_features(tmp_path, KEY, FEATURES))
    (abandoned,) = tmp_path.iterdir()
    assert read_features(tmp_path, KEY, 3) is None
    assert not caplog.records
    write_features(tmp_path, KEY, FEATURES)
    assert abandoned.exists()  # its process may still be running
    os.utime(abandoned, (0, 0))
    write_features(tmp_path, KEY, FEATURES)
    assert list(tmp_path.iterdir()) == [cache_file(tmp_path, KEY)]
    assert torch.equal(read_features(tmp_path, KEY, 3), FEATURES)
