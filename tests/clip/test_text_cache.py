import multiprocessing
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cliptrase_d2.clip.text_cache import FORMAT, cache_file, cache_key, read_features, write_features
from cliptrase_d2.utils.errors import WriteError
from tests.faults import kill_at_file, room_for

FEATURES = torch.arange(12.0).view(3, 4)
KEY = cache_key("weights", ["a photo of a {}."], ["cat", "dog", "tree"])


def damage(folder: Path, content: bytes) -> None:
    cache_file(folder, KEY).write_bytes(content)


def test_features_come_back_as_they_were(tmp_path: Path) -> None:
    write_features(tmp_path, KEY, FEATURES)
    assert torch.equal(read_features(tmp_path, KEY, 3), FEATURES)
    assert [path.name for path in tmp_path.iterdir()] == [cache_file(tmp_path, KEY).name], "nothing else is left"


def test_nothing_stored_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_features(tmp_path / "absent", KEY, 3) is None
    assert not caplog.records


def test_key_tells_lists_apart() -> None:
    assert cache_key("w", ["a", "b"], ["c"]) != cache_key("w", ["a"], ["b", "c"])
    assert cache_key("w", ["ab"]) != cache_key("w", ["a", "b"])
    assert cache_key("w", ["a"]) == cache_key("w", ("a",))


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_truncated_file_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: int) -> None:
    write_features(tmp_path, KEY, FEATURES)
    damage(tmp_path, cache_file(tmp_path, KEY).read_bytes()[:kept])
    assert read_features(tmp_path, KEY, 3) is None
    assert "computed again" in caplog.text
    write_features(tmp_path, KEY, FEATURES)
    assert torch.equal(read_features(tmp_path, KEY, 3), FEATURES)


@pytest.mark.parametrize(
    ("features", "metadata"),
    [
        (FEATURES, {"format": "cliptrase text features 0", "key": KEY}),
        (FEATURES, {"format": FORMAT, "key": "another"}),
        (FEATURES, None),
        (FEATURES[:2], {"format": FORMAT, "key": KEY}),
        (FEATURES.half(), {"format": FORMAT, "key": KEY}),
    ],
    ids=["other version", "other key", "no metadata", "too few words", "half precision"],
)
def test_other_content_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, features: torch.Tensor, metadata: dict[str, str] | None
) -> None:
    damage(tmp_path, safetensors.torch.save({"features": features.contiguous()}, metadata))
    assert read_features(tmp_path, KEY, 3) is None
    assert "computed again" in caplog.text


def test_file_without_features_is_ignored(tmp_path: Path) -> None:
    damage(tmp_path, safetensors.torch.save({"other": FEATURES}, {"format": FORMAT, "key": KEY}))
    assert read_features(tmp_path, KEY, 3) is None


def test_numbers_that_were_changed_are_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_features(tmp_path, KEY, FEATURES)
    stored = bytearray(cache_file(tmp_path, KEY).read_bytes())
    stored[-1] ^= 1  # a bit of the last number
    damage(tmp_path, bytes(stored))
    assert read_features(tmp_path, KEY, 3) is None
    assert "changed since it was written" in caplog.text


def _write_often(folder: Path, features: torch.Tensor) -> None:
    for _ in range(20):
        write_features(folder, KEY, features)


def test_readers_never_see_half_a_file_of_two_writers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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


def test_what_a_killed_writer_left_is_no_cache_and_goes_when_it_is_old(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kill_at_file(1, lambda: write_features(tmp_path, KEY, FEATURES))
    (left,) = tmp_path.iterdir()
    assert read_features(tmp_path, KEY, 3) is None
    assert not caplog.records
    write_features(tmp_path, KEY, FEATURES)
    assert left.exists()  # for all that is known its process is still at it
    os.utime(left, (0, 0))
    write_features(tmp_path, KEY, FEATURES)
    assert list(tmp_path.iterdir()) == [cache_file(tmp_path, KEY)]
    assert torch.equal(read_features(tmp_path, KEY, 3), FEATURES)


def test_a_disk_without_room_leaves_nothing(tmp_path: Path) -> None:
    with room_for(50), pytest.raises(WriteError, match=r"text-.*safetensors: cannot be written .*Free some space"):
        write_features(tmp_path, KEY, FEATURES)
    assert not list(tmp_path.iterdir())
