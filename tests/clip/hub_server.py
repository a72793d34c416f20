"""A server with the part of the Hugging Face Hub's protocol that downloads need, on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

Repositories = Mapping[str, Mapping[str, Path]]  # a folder for each revision of a repository


def commit_of(revision: str) -> str:
    """Return the commit of a branch or tag."""
    return hashlib.sha1(revision.encode()).hexdigest()


@contextmanager
def serve_hub(repositories: Repositories, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serve repositories, and use them with an empty cache. Yield the requests, as "METHOD path"."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, body: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _find(self, repository: str, revision: str) -> Path | None:
            folders = repositories.get(repository, {})
            return next((folder for name, folder in folders.items() if revision in (name, commit_of(name))), None)

        def do_GET(self) -> None:
            requests.append(f"{self.command} {self.path}")
            words = self.path.partition("?")[0].strip("/").split("/")
            if words[:2] == ["api", "models"]:
                repository, revision = "/".join(words[2:4]), words[5] if len(words) > 5 else "main"
            else:
                repository, revision = "/".join(words[:2]), words[3]
            folder = self._find(repository, revision)
            if folder is None:
                code = "RevisionNotFound" if repository in repositories else "RepoNotFound"
                self._answer(b"{}", 404, X_Error_Code=code)
            elif words[0] == "api":
                files = [{"rfilename": file.name, "size": file.stat().st_size} for file in sorted(folder.iterdir())]
                names = [name for name, path in repositories[repository].items() if path == folder]
                info = {"id": repository, "modelId": repository, "sha": commit_of(names[0]), "siblings": files}
                self._answer(json.dumps(info).encode(), Content_Type="application/json")
            elif not (folder / words[4]).is_file():
                self._answer(b"", 404, X_Error_Code="EntryNotFound")
            else:
                body = (folder / words[4]).read_bytes()
                names = [name for name, path in repositories[repository].items() if path == folder]
                etag = f'"{hashlib.sha1(body).hexdigest()}"'
                self._answer(body, ETag=etag, X_Repo_Commit=commit_of(names[0]))

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        yield requests
    finally:
        server.shutdown()
        server.server_close()
