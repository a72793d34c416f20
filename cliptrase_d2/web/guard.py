"""ASGI middleware that restricts the server to the requests that the page makes."""

from __future__ import annotations

import json
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_API = "/gradio_api"
_JOIN, _UPLOAD, _FILE = f"{_API}/queue/join", f"{_API}/upload", f"{_API}/file="
_WRITABLE = {_JOIN, _UPLOAD, f"{_API}/cancel"}
_READABLE = {"/", "/config", "/theme.css", "/favicon.ico"}
_READABLE |= {f"{_API}/startup-events", f"{_API}/queue/data", f"{_API}/upload_progress"}
_READABLE_PREFIXES = ("/assets/", "/static/", f"{_API}/heartbeat/", _FILE)
_MAX_REQUEST = 256 * 1024  # bytes of a JSON request: text, numbers and file names
_FORM_OVERHEAD = 64 * 1024  # bytes of an upload form besides the file
_HEADERS = {
    # The browser refuses requests to other hosts, even from injected markup.
    "content-security-policy": "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Guard:
    """Middleware in front of Gradio, whose server offers much more than this page needs.

    Unknown paths are answered with 404, large bodies with 413, bodies of unknown length with 411, and requests that
    name a URL instead of an uploaded file, which Gradio would fetch, with 400.

    Args:
        app: the guarded application.
        max_upload: largest size of an uploaded file in bytes.
    """

    def __init__(self, app: ASGIApp, max_upload: int):
        self.app, self.max_upload = app, max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = self._check(scope)
        if not status and scope["path"] == _JOIN:
            body = await _read_body(receive)
            status, receive = (400 if _contains_url(body) else 0), _replay(body, receive)
        if status:
            await PlainTextResponse(f"{status}: refused.", status)(scope, receive, send)
        else:
            await self.app(scope, receive, _add_headers(send))

    def _check(self, scope: Scope) -> int:
        """Return the status of a refused request, or 0."""
        path, is_read = scope["path"], scope["method"] in ("GET", "HEAD")
        exists = (path in _READABLE or path.startswith(_READABLE_PREFIXES)) if is_read else path in _WRITABLE
        if not exists or (path.startswith(_FILE) and "://" in path):
            return 404
        if is_read:
            return 0
        length = Headers(scope=scope).get("content-length", "")
        if not length.isdecimal():
            return 411
        return 413 if int(length) > (self.max_upload + _FORM_OVERHEAD if path == _UPLOAD else _MAX_REQUEST) else 0


async def _read_body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a channel that delivers a body again before the remaining messages."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive_again() -> Message:
        return next(messages, None) or await receive()

    return receive_again


def _contains_url(body: bytes) -> bool:
    """Return whether a request has a URL in place of a file path, or is not valid JSON."""

    def check(value: dict[str, Any]) -> None:
        if "://" in str(value.get("path", "")):
            raise ValueError("a URL")

    try:
        json.loads(body, object_hook=check)
    except (ValueError, RecursionError):
        return True
    return False


def _add_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(_HEADERS)
        await send(message)

    return send_with_headers
