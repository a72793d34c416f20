"""The server over HTTP: allowed and refused requests, start and end of the command."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.web.command import launch, set_environment
from tests.command_line import ROOT
from tests.web.conftest import Served, parse

API = "/gradio_api"


def request(address: str, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes]:
    """Return status and body. The path is sent unchanged, including dots."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    try:
        connection.request("GET" if body is None else "POST", path, body, {"Content-Type": kind})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def upload(address: str, name: str, content: bytes) -> tuple[int, bytes]:
    """Upload a file the way the page does."""
    head = f'--cut\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--cut--\r\n"
    return request(address, f"{API}/upload", body, "multipart/form-data; boundary=cut")


def file_data(path: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def segment(served: Served, path: str, classes: str = "pig, lava") -> dict[str, Any]:
    """Send the page's own request for a photo, and return the server's final message."""
    event = next(fn for fn in served.page.fns.values() if fn.name == "segment")
    values = {"photo": file_data(path), "classes": classes}
    data = [values.get(component.elem_id, component.value) for component in event.inputs]
    body = {"data": data, "fn_index": event._id, "session_hash": "test", "event_data": None}
    status, _ = request(served.address, f"{API}/queue/join", json.dumps(body).encode())
    assert status == 200
    lines = request(served.address, f"{API}/queue/data?session_hash=test")[1].decode().splitlines()
    messages = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return next(message for message in messages if message["msg"] == "process_completed")


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture outside the folders of the page."""
    path = tmp_path_factory.mktemp("private") / "secret.png"
    Image.fromarray(np.full((40, 40, 3), 7, np.uint8)).save(path)
    return path


def test_uploaded_photos_are_segmented_and_later_deleted(served: Served, scene_file: str) -> None:
    from gradio.route_utils import delete_files_created_by_app

    assert urlsplit(served.address).hostname == "127.0.0.1"  # the default serves only this machine
    status, body = upload(served.address, "pig.png", Path(scene_file).read_bytes())
    assert status == 200
    (path,) = json.loads(body)
    assert Path(path).is_relative_to(served.folder)
    message = segment(served, path)
    assert message["success"]
    assert "lava" in json.dumps(message["output"])

    delete_files_created_by_app(served.page, age=0)
    files = {file.name for file in served.folder.rglob("*") if file.is_file()}
    assert "pig.png" not in files
    assert "unseen_combination_006.png" in files  # an example


def test_files_of_the_server_are_not_accepted_as_photos(served: Served, secret: Path) -> None:
    for path in (str(secret), f"{served.folder}/../{secret.parent.name}/secret.png", str(ROOT / "README.md")):
        message = segment(served, path)
        assert message["success"] is False
        assert "data" not in message["output"]
        assert not [file for file in served.folder.rglob("*") if file.name == Path(path).name]


@pytest.mark.parametrize("form", ["{}", "{}?", "x/../{}", "%2e%2e/{}", "{folder}/../{name}", "{folder}/%2e%2e/{name}"])
def test_files_of_the_server_cannot_be_read(served: Served, secret: Path, form: str) -> None:
    path = form.format(secret, folder=served.folder, name=f"{secret.parent.name}/secret.png")
    for spelling in (path, quote(path, safe="%")):
        status, body = request(served.address, f"{API}/file={spelling}")
        assert status in (403, 404)
        assert body != secret.read_bytes()


@pytest.mark.parametrize("path", ["/static/../../../../blocks.py", "/assets/..%2f..%2f..%2fblocks.py", f"{API}/info"])
def test_other_paths_do_not_exist(served: Served, path: str) -> None:
    assert request(served.address, path)[0] in (403, 404)


def test_large_files_and_large_photos_are_rejected(served: Served) -> None:
    assert upload(served.address, "large.png", b"x" * 530_000)[0] == 413
    assert upload(served.address, "huge.png", b"x" * 700_000)[0] == 413
    assert not list(served.folder.rglob("large.png"))
    file = served.folder / "inputs" / "wide.png"
    file.parent.mkdir()
    Image.new("L", (2000, 1000)).save(file)
    message = segment(served, str(file))
    output = json.dumps(message["output"])
    assert message["success"]
    assert "2,000 x 1,000" in output
    assert str(served.folder) not in output.replace(str(file), "")


@pytest.mark.parametrize(
    ("argv", "where"),
    [
        (["--max-pixels", "0"], "--max-pixels: 0"),
        (["--max-upload-mb", "-1"], r"--max-upload-mb: -1\.0"),
        (["--models", "ViT-Q"], "--models: 'ViT-Q'"),
        (["--models", "emoji", "--port", "taken"], "--host, --port: "),
    ],
)
def test_invalid_arguments_are_reported_at_the_start(
    served: Served, tmp_path: Path, argv: list[str], where: str
) -> None:
    port = str(urlsplit(served.address).port)
    with pytest.raises(InputError, match=rf"^{where}"):
        launch(parse(*(port if word == "taken" else word for word in argv)), tmp_path)


def test_a_missing_gradio_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cliptrase_d2.web.command.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'cliptrase_d2\[web\]'"):
        launch(parse(), tmp_path)


def test_the_environment_bypasses_proxies_and_disables_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"no_proxy": "example.org", "GRADIO_SHARE": "True"})
    set_environment("folder")
    assert os.environ["no_proxy"] == "example.org,127.0.0.1,localhost"
    assert os.environ["NO_PROXY"] == "127.0.0.1,localhost"
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert "GRADIO_SHARE" not in os.environ


@pytest.mark.slow
def test_the_command_prints_its_address_and_ends_cleanly(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="Gradio is not installed")
    process = subprocess.Popen(
        [sys.executable, "-m", "cliptrase_d2", "web", "--models", "emoji"], cwd=ROOT, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell ignore SIGINT
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        assert request(address, "/")[0] == 200
        assert list(tmp_path.glob("cliptrase-web-*"))
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0
    assert output.strip() == errors == ""
    assert not list(tmp_path.glob("cliptrase-web-*"))
