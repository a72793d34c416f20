import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cliptrase_d2.clip.text_cache import FORMAT, cache_file, cache_key, read_features, write_features

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


def test_readers_never_see_half_a_file_of_two_writers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = torch.randn(3, 50_000)
    write_features(tmp_path, KEY, features)
    writers = [
        threading.Thread(target=lambda: [write_features(tmp_path, KEY, features) for _ in range(20)]) for _ in range(2)
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert torch.equal(read_features(tmp_path, KEY, 3), features)
    assert not caplog.records
    assert len(list(tmp_path.iterdir())) == 1


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_features(tmp_path, KEY, FEATURES)
    assert not list(tmp_path.iterdir())
