"""What the page's server answers to: the addresses that the page itself asks for, and bodies of bounded size."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_API = "/gradio_api"
_ASK, _UPLOAD, _FILE = f"{_API}/queue/join", f"{_API}/upload", f"{_API}/file="
_WRITTEN = {_ASK, _UPLOAD, f"{_API}/cancel"}
_READ = {"/", "/config", "/theme.css", "/favicon.ico", f"{_API}/startup-events", f"{_API}/queue/data"}
_READ |= {f"{_API}/upload_progress"}
_READ_BELOW = ("/assets/", "/static/", f"{_API}/heartbeat/", _FILE)
_MOST_TEXT = 256 * 1024  # bytes of a question: words, numbers and the names of files
_FORM = 64 * 1024  # bytes that a form has around its file
# The browser refuses what is asked of another host, whoever wrote it into the page.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class Guard:
    """ASGI middleware in front of Gradio, whose server offers much that this page has no need of.

    What is not known here gets 404, a body that is too large 413, one of unknown length 411, and a question that names
    an address in place of an uploaded file 400, for Gradio would fetch it.

    Args:
        app: what it stands in front of.
        max_upload: bytes of an uploaded file.
    """

    def __init__(self, app: Application, max_upload: int):
        self.app, self.max_upload = app, max_upload

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, path = self._status(scope), scope["path"]
        if not status and path == _ASK:
            body = await _read(receive)
            status, receive = (400 if _names_an_address(body) else 0), _replay(body, receive)
        if status:
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": f"{status}: not here.".encode()})
            return
        await self.app(scope, receive, _with_headers(send))

    def _status(self, scope: Message) -> int:
        """With which status a request is refused; 0 to pass it on."""
        path, is_read = scope["path"], scope["method"] in ("GET", "HEAD")
        known = (path in _READ or path.startswith(_READ_BELOW)) if is_read else path in _WRITTEN
        if not known or (path.startswith(_FILE) and "://" in path):
            return 404
        if is_read:
            return 0
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return 411
        return 413 if int(length) > (self.max_upload + _FORM if path == _UPLOAD else _MOST_TEXT) else 0


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read once more, then what comes after it."""
    parts = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def again() -> Message:
        return next(parts, None) or await receive()

    return again


def _names_an_address(body: bytes) -> bool:
    """Whether a question has an address where Gradio has the path of a file; or is no JSON at all."""
    try:
        pending = [json.loads(body)]
    except (ValueError, RecursionError):
        return True
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if "://" in str(value.get("path", "")):
                return True
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return False


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
        await send(message)

    return sent
