"""The check of the connection and the Hub's part of a download, without a network."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from cliptrase_d2.clip import download
from cliptrase_d2.clip.download import (
    check_connection,
    fetch_weights,
    find_cached_weights,
    report_download,
    weights_address,
)

TAG = {"hf_hub": "owner/name/", "url": "https://example.com/clip/weights.pt"}


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy, no cached files."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(download.constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The hosts and ports of all connections, which succeed."""
    places: list[tuple[str, int]] = []

    def connect(place: tuple[str, int], timeout: float) -> socket.socket:
        places.append(place)
        return socket.socket()

    monkeypatch.setattr(download.socket, "create_connection", connect)
    return places


@pytest.fixture
def port() -> Iterator[int]:
    """A local port that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_host_that_accepts_connections_is_reachable(port: int) -> None:
    assert download._find_error(("127.0.0.1", port)) is None


def test_a_closed_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    with pytest.raises(OSError, match=rf"no connection to 127\.0\.0\.1:{closed}: .*refused"):
        check_connection(f"http://127.0.0.1:{closed}/weights.pt")


def test_a_look_up_that_hangs_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*_: object) -> None:
        release.wait()
        raise OSError("too late")

    monkeypatch.setattr(download, "_SECONDS", 0.2)
    monkeypatch.setattr(download.socket, "create_connection", hang)
    with pytest.raises(OSError, match=r"example\.com:443: no answer within"):
        check_connection("https://example.com/weights.pt")
    release.set()


def test_nothing_waits_longer_than_ten_seconds() -> None:
    assert download._SECONDS_PER_ADDRESS <= download._SECONDS <= 10


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, ("example.com", 443)),
        ({"HTTPS_PROXY": "http://user:secret@proxy.local:3128"}, ("proxy.local", 3128)),
        ({"https_proxy": "proxy.local:3128"}, ("proxy.local", 3128)),
        ({"HTTP_PROXY": "http://proxy.local"}, ("example.com", 443)),
        ({"ALL_PROXY": "socks5://proxy.local"}, ("proxy.local", 1080)),
        ({"HTTPS_PROXY": "http://proxy.local", "NO_PROXY": "localhost,example.com"}, ("example.com", 443)),
    ],
    ids=lambda value: " ".join(value) or "none" if isinstance(value, dict) else "",
)
def test_the_proxy_is_contacted_in_place_of_the_host(
    monkeypatch: pytest.MonkeyPatch, places: list[tuple[str, int]], variables: dict[str, str], place: tuple[str, int]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_connection("https://example.com/weights.pt")
    assert places == [place]


def test_the_error_names_the_proxy_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.local:3128")
    monkeypatch.setattr(download.socket, "create_connection", refuse)
    with pytest.raises(OSError, match=r"no connection to the proxy proxy\.local:3128: Connection refused$"):
        check_connection("https://example.com/weights.pt")


def test_offline_mode_forbids_the_hub_only(monkeypatch: pytest.MonkeyPatch, places: list[tuple[str, int]]) -> None:
    monkeypatch.setattr(download.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE"):
        fetch_weights(TAG)
    assert places == []
    check_connection(TAG["url"])
    assert places == [("example.com", 443)]


def test_a_file_of_the_hub_is_used_without_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cached = {"open_clip_pytorch_model.bin": str(tmp_path / "b.bin")}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda _, file: cached.get(file))
    monkeypatch.setattr(download, "check_connection", lambda _: pytest.fail("used the network"))
    assert fetch_weights(TAG) == tmp_path / "b.bin"


def test_a_file_of_openai_is_verified_without_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "home" / ".cache" / "clip" / "weights.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    verified: list[dict[str, Any]] = []
    monkeypatch.setattr(download, "check_connection", lambda _: pytest.fail("used the network"))
    monkeypatch.setattr(open_clip, "download_pretrained", lambda tag: verified.append(tag) or str(path))
    assert find_cached_weights(TAG) == fetch_weights(TAG) == path
    assert verified == [{**TAG, "hf_hub": ""}]


def test_address_is_that_of_the_hub() -> None:
    assert weights_address(TAG) == "https://huggingface.co/owner/name"
    assert weights_address({"hf_hub": "owner/name/model.bin"}) == "https://huggingface.co/owner/name"
    assert weights_address({"url": TAG["url"]}) == TAG["url"]
    assert weights_address({}) == ""


@pytest.mark.parametrize(
    ("repository", "error", "requests"),
    [
        ("owner/name/", None, ["open_clip_model.safetensors"]),
        ("owner/name/", EntryNotFoundError, ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]),
        ("owner/name/own.bin", None, ["own.bin"]),
    ],
)
def test_the_older_format_is_requested_only_if_the_newer_is_missing(
    monkeypatch: pytest.MonkeyPatch, places: list[tuple[str, int]], repository: str, error: Any, requests: list[str]
) -> None:
    found: list[str] = []

    def request(repository: str, file: str) -> str:
        found.append(file)
        if error and file.endswith("safetensors"):
            raise error.__new__(error)
        return file

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", request)
    assert fetch_weights({"hf_hub": repository}) == Path(requests[-1])
    assert (found, places) == (requests, [("huggingface.co", 443)])


def test_a_failed_request_is_not_repeated_for_the_older_format(
    monkeypatch: pytest.MonkeyPatch, places: list[tuple[str, int]]
) -> None:
    def fail(_: str, file: str) -> str:
        raise LocalEntryNotFoundError(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(LocalEntryNotFoundError, match="safetensors"):
        fetch_weights(TAG)


@pytest.mark.parametrize("is_recent", [True, False])
def test_progress_is_reported_in_bytes(
    monkeypatch: pytest.MonkeyPatch, places: list[tuple[str, int]], capsys: pytest.CaptureFixture[str], is_recent: bool
) -> None:
    def request(_: str, file: str, tqdm_class: Any = None) -> str:
        if tqdm_class:
            with tqdm_class(total=100, initial=10, unit="B", desc=file, disable=True) as bar:
                bar.update(40)
                bar.update(50)
        return file

    old = lambda repository, file: file  # noqa: E731  # before huggingface_hub accepted a class
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", request if is_recent else old)
    reports: list[tuple[int, int]] = []
    with report_download(lambda done, total: reports.append((done, total))):
        fetch_weights(TAG)
    fetch_weights(TAG)  # outside the block
    assert reports == ([(50, 100), (100, 100)] if is_recent else [])
    assert capsys.readouterr() == ("", "")
