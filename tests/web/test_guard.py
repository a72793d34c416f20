"""What the page's server answers to, whatever stands behind the guard."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from cliptrase_d2.web.guard import Guard

JOIN = "/gradio_api/queue/join"


async def behind(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it was sent."""
    body = (await receive())["body"] if scope["method"] == "POST" else b"page"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-behind", b"1")]})
    await send({"type": "http.response.body", "body": body})


def call(
    path: str, method: str = "GET", *parts: bytes, length: int | None = -1
) -> tuple[int, bytes, dict[bytes, bytes]]:
    """Status, body and headers; the body is sent in parts, and its length told unless it is None."""
    body = b"".join(parts)
    headers = [] if length is None else [(b"content-length", str(len(body) if length < 0 else length).encode())]
    waiting = [
        {"type": "http.request", "body": part, "more_body": index + 1 < len(parts)} for index, part in enumerate(parts)
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": headers}
    asyncio.run(Guard(behind, max_upload=1000)(scope, receive, send))
    return sent[0]["status"], sent[1]["body"], dict(sent[0]["headers"])


@pytest.mark.parametrize("path", ["/", "/config", "/assets/index.js", "/gradio_api/file=/cache/picture.webp"])
def test_what_the_page_asks_for_is_passed_on(path: str) -> None:
    assert call(path)[:2] == (200, b"page")


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/info", "/gradio_api/openapi.json", "/gradio_api/run/predict", "/gradio_api/proxy=http://a/b",
        "/gradio_api/vibe-code", "/monitoring", "/docs", "/gradio_api/file=http://example.org/a.png", "/configuration",
    ],
)  # fmt: skip
def test_everything_else_is_not_there(path: str) -> None:
    assert call(path)[0] == 404


@pytest.mark.parametrize("path", ["/gradio_api/vibe-edit", "/gradio_api/process_recording", "/gradio_api/run/x", "/"])
def test_nothing_else_can_be_written(path: str) -> None:
    assert call(path, "POST", b"{}")[0] == 404


def test_a_question_arrives_whole() -> None:
    body = json.dumps({"data": ["sky, tree", {"path": "cache/photo.jpg"}]}).encode()
    assert call(JOIN, "POST", body[:9], body[9:])[:2] == (200, body)


@pytest.mark.parametrize(
    "question",
    [
        {"data": [{"path": "http://127.0.0.1:1/secret", "meta": {"_type": "gradio.FileData"}}]},
        {"data": [["sky", {"value": {"path": "FILE:///etc/hosts"}}]]},
    ],
)
def test_an_address_in_place_of_a_file_is_refused(question: dict[str, Any]) -> None:
    assert call(JOIN, "POST", json.dumps(question).encode())[0] == 400


def test_what_is_no_question_is_refused() -> None:
    assert call(JOIN, "POST", b"no json")[0] == 400
    assert call(JOIN, "POST", b"[" * 100_000)[0] == 400


def test_bodies_have_bounds() -> None:
    upload = "/gradio_api/upload"
    assert call(upload, "POST", b"x" * 1000)[0] == 200  # the file, without what a form has around it
    assert call(upload, "POST", b"", length=100_000)[0] == 413
    assert call(JOIN, "POST", b"", length=300_000)[0] == 413
    assert call(upload, "POST", b"x", length=None)[0] == 411


def test_the_browser_is_told_to_ask_no_other_host() -> None:
    headers = call("/")[2]
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self' data: blob:;" in policy
    assert "http" not in policy
    assert headers[b"x-behind"] == b"1"
