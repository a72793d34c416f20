"""Download of weights files, with a check of the connection and a report of the progress."""

from __future__ import annotations

import inspect
import io
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import huggingface_hub
import open_clip
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from tqdm import tqdm

Listener = Callable[[int, int], None]

_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # the same weights, the better one first
_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}  # of addresses without a port
_SECONDS_PER_ADDRESS, _SECONDS = 3.0, 8.0  # to connect; a host may have several addresses
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def report_download(listener: Listener) -> Iterator[None]:
    """Report the downloads of this thread within the block, as far as the version of huggingface_hub permits it.

    Args:
        listener: is called, possibly in another thread, with the bytes done and the bytes in all; 0 if unknown.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def find_cached_weights(tag: Mapping[str, Any]) -> Path | None:
    """Return the local file of a tag of open_clip, from Hugging Face's or OpenAI's cache; None without one."""
    repository, files = _hub_location(tag)
    for file in files if repository else ():
        path = huggingface_hub.try_to_load_from_cache(repository, file)
        if isinstance(path, str):
            return Path(path)
    openai = Path("~/.cache/clip").expanduser() / Path(tag.get("url") or "none").name
    return openai if openai.is_file() else None


def weights_address(tag: Mapping[str, Any]) -> str:
    """Return the web address of a tag's weights: a page of the Hugging Face Hub, or a file."""
    repository, _ = _hub_location(tag)
    return f"{constants.ENDPOINT}/{repository}" if repository else tag.get("url", "")


def fetch_weights(tag: Mapping[str, Any]) -> Path:
    """Return the local file of a tag. The network is used only if the file is not cached.

    Raises:
        OSError: there is no connection, or `HF_HUB_OFFLINE` is set.
        Exception: of huggingface_hub, urllib or open_clip, for a download that fails later.
    """
    cached, (repository, files) = find_cached_weights(tag), _hub_location(tag)
    if not cached:
        check_connection(weights_address(tag))
        if repository:
            return _fetch_from_hub(repository, files)
    elif cached.parent.name != "clip":
        return cached
    return Path(open_clip.download_pretrained({**tag, "hf_hub": ""}))  # verifies a cached file of OpenAI


def check_connection(address: str) -> None:
    """Check within seconds that the host of an address, or the proxy for it, accepts connections.

    Without a connection, huggingface_hub would repeat each request for half a minute.

    Raises:
        OSError: it does not.
    """
    if constants.HF_HUB_OFFLINE and address.startswith(constants.ENDPOINT):
        raise OSError("HF_HUB_OFFLINE is set")
    parts = urlsplit(address)
    proxies, host = getproxies(), parts.hostname or ""
    proxy = "" if proxy_bypass(host) else proxies.get(parts.scheme) or proxies.get("all", "")
    if proxy:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if not parts.hostname:  # a file:// address
        return
    place = parts.hostname, parts.port or _PORTS.get(parts.scheme, 80)
    if error := _find_error(place):
        kind = "the proxy " if proxy else ""
        raise OSError(f"no connection to {kind}{place[0]}:{place[1]}: {error.strerror or error}") from error


def _find_error(place: tuple[str, int]) -> OSError | None:
    """Connect to a host. A thread bounds the time, because the look-up of a name has no time limit."""
    outcome: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

    def connect() -> None:
        try:
            socket.create_connection(place, _SECONDS_PER_ADDRESS).close()
            outcome.put(None)
        except OSError as error:
            outcome.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        return outcome.get(timeout=_SECONDS)
    except queue.Empty:
        return TimeoutError(f"no answer within {_SECONDS:.0f} seconds")


def _hub_location(tag: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the repository of a tag, "" without one, and its possible files. "owner/name/file" names a file."""
    owner, name, file = (*tag.get("hf_hub", "").split("/", 2), "", "", "")[:3]
    return f"{owner}/{name}".strip("/"), (file,) if file else _HUB_FILES


def download_file(repository: str, file: str, **options: Any) -> Path:
    """Download a file of the Hugging Face Hub to the cache, and report the progress to the listener.

    Args:
        options: of `huggingface_hub.hf_hub_download`.
    """
    listener = _listener.get()
    if listener and "tqdm_class" in inspect.signature(huggingface_hub.hf_hub_download).parameters:
        options["tqdm_class"] = partial(_ReportingBar, listener)
    return Path(huggingface_hub.hf_hub_download(repository, file, **options))


def _fetch_from_hub(repository: str, files: tuple[str, ...]) -> Path:
    *alternatives, last = files
    for file in alternatives:
        try:
            return download_file(repository, file)
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):  # a failed request, not an older repository
                raise
    return download_file(repository, last)


class _ReportingBar(tqdm):
    """A progress bar that calls a listener and shows nothing."""

    def __init__(self, listener: Listener, **options: Any):
        self._report = listener
        super().__init__(**{**options, "file": io.StringIO(), "disable": False})

    def update(self, n: float | None = 1) -> bool | None:
        shown = super().update(n)
        self._report(int(self.n), int(self.total or 0))
        return shown
