"""The middleware in front of Gradio: forwarded and refused requests."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("starlette", reason="Gradio is not installed")

from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from cliptrase_d2.web.guard import Guard

JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers with the body of the request."""
    body = await Request(scope, receive).body()
    await Response(body or b"page", headers={"x-echo": "1"})(scope, receive, send)


CLIENT = TestClient(Guard(echo, max_upload=1000))


@pytest.mark.parametrize("path", ["/", "/config", "/assets/index.js", "/gradio_api/file=/cache/picture.webp"])
def test_requests_of_the_page_are_forwarded(path: str) -> None:
    assert CLIENT.get(path).text == "page"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", f"/gradio_api/{name}") for name in ("info", "openapi.json", "run/predict", "proxy=http://a/b")),
        *(("GET", path) for path in ("/monitoring", "/docs", "/gradio_api/file=http://example.org/a.png", "/configs")),
        *(("POST", f"/gradio_api/{name}") for name in ("vibe-edit", "process_recording", "run/x")),
        ("POST", "/"),
    ],
)
def test_other_requests_are_refused(method: str, path: str) -> None:
    assert CLIENT.request(method, path).status_code == 404


def test_a_request_in_parts_is_forwarded_complete() -> None:
    body = json.dumps({"data": ["sky, tree", {"path": "cache/photo.jpg"}]}).encode()
    response = CLIENT.post(JOIN, content=iter([body[:9], body[9:]]), headers={"content-length": str(len(body))})
    assert response.content == body


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": [{"path": "http://127.0.0.1:1/secret", "meta": {"_type": "gradio.FileData"}}]}',
        b'{"data": [["sky", {"value": {"path": "FILE:///etc/hosts"}}]]}',
        b"not JSON",
        b"[" * 100_000,
    ],
    ids=["URL", "nested URL", "not JSON", "deep nesting"],
)
def test_urls_and_invalid_json_are_refused(body: bytes) -> None:
    assert CLIENT.post(JOIN, content=body).status_code == 400


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [(UPLOAD, 1000, 200), (UPLOAD, 100_000, 413), (JOIN, 300_000, 413), (UPLOAD, None, 411)],
)  # the form around an uploaded file may exceed the limit
def test_bodies_are_limited(path: str, length: int | None, status: int) -> None:
    content = iter([b"x"]) if length is None else b"x" * length  # the length of an iterator is not sent
    assert CLIENT.post(path, content=content).status_code == status


def test_the_browser_may_not_contact_other_hosts() -> None:
    headers = CLIENT.get("/").headers
    policy = headers["content-security-policy"]
    assert "default-src 'self' data: blob:;" in policy
    assert "http" not in policy
    assert headers["x-echo"] == "1"
