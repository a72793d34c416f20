"""The server: what it gives away and what it refuses, over HTTP, and how the command starts and ends."""

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
from tests.web.conftest import Served, arguments

API = "/gradio_api"
FORM = "multipart/form-data; boundary=cut"


def ask(address: str, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes]:
    """Status and body; the path is sent as it stands, dots and all."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    try:
        connection.request("GET" if body is None else "POST", path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def upload(address: str, name: str, content: bytes) -> tuple[int, bytes]:
    """Hand in a file as the page does."""
    head = f'--cut\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return ask(address, f"{API}/upload", head.encode() + content + b"\r\n--cut--\r\n", FORM)


def segment(served: Served, photo: dict[str, Any] | None, classes: str = "pig, lava") -> list[dict[str, Any]]:
    """What the server says to the page's own question, message by message."""
    question = next(fn for fn in served.page.fns.values() if [t[1] for t in fn.targets] == ["load"])
    given = {"photo": photo, "classes": classes, "background": "", "compare": False}
    data = [given.get(part.elem_id, part.value) for part in question.inputs]
    body = {"data": data, "fn_index": question._id, "session_hash": "test", "event_data": None}
    status, _ = ask(served.address, f"{API}/queue/join", json.dumps(body).encode())
    assert status == 200
    lines = ask(served.address, f"{API}/queue/data?session_hash=test")[1].decode().splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def file_data(path: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of the server's owner, in no folder of the page's."""
    path = tmp_path_factory.mktemp("private") / "secret.png"
    Image.fromarray(np.full((40, 40, 3), 7, np.uint8)).save(path)
    return path


def test_a_question_with_an_uploaded_file_is_answered(served: Served, scene_file: str) -> None:
    status, answer = upload(served.address, "pig.png", Path(scene_file).read_bytes())
    assert status == 200
    (path,) = json.loads(answer)
    assert Path(path).is_relative_to(served.folder)
    last = segment(served, file_data(path))[-2]
    assert last["msg"] == "process_completed"
    assert last["success"]
    assert "lava" in json.dumps(last["output"])


def test_a_file_of_the_server_cannot_be_named_as_the_photograph(served: Served, secret: Path) -> None:
    for path in (str(secret), f"{served.folder}/../{secret.parent.name}/secret.png", str(ROOT / "README.md")):
        last = segment(served, file_data(path))[-2]
        assert last["success"] is False
        assert "data" not in last["output"]
        copies = [file for file in served.folder.rglob("*") if file.name == Path(path).name]
        assert not copies


def test_an_address_cannot_be_named_as_the_photograph(served: Served) -> None:
    body = {"data": [file_data("http://127.0.0.1:9/secret.png")], "fn_index": 0, "session_hash": "a"}
    assert ask(served.address, f"{API}/queue/join", json.dumps(body).encode())[0] == 400


@pytest.mark.parametrize("form", ["{}", "{}?", "x/../{}", "%2e%2e/{}", "{folder}/../{name}", "{folder}/%2e%2e/{name}"])
def test_a_file_of_the_server_cannot_be_fetched(served: Served, secret: Path, form: str) -> None:
    name = f"{secret.parent.name}/secret.png"
    path = form.format(secret, folder=served.folder, name=name)
    for spelt in (path, quote(path, safe="%")):
        status, body = ask(served.address, f"{API}/file={spelt}")
        assert status in (403, 404)
        assert body != secret.read_bytes()


@pytest.mark.parametrize("path", ["/static/../../../../blocks.py", "/assets/..%2f..%2f..%2fblocks.py", "/assets/../x"])
def test_static_folders_end_where_they_end(served: Served, path: str) -> None:
    assert ask(served.address, path)[0] in (403, 404)


@pytest.mark.parametrize(
    "path", ["/info", "/openapi.json", "/proxy=http://127.0.0.1", "/file=http://example.org/a.png"]
)
def test_there_is_a_page_and_no_interface_for_programs(served: Served, path: str) -> None:
    assert ask(served.address, API + path)[0] == 404


def test_a_file_that_is_too_large_is_refused(served: Served) -> None:
    assert upload(served.address, "large.png", b"x" * 530_000)[0] == 413
    assert upload(served.address, "huge.png", b"x" * 700_000)[0] == 413
    assert not list(served.folder.rglob("large.png"))


def test_too_many_pixels_are_refused_in_words(served: Served) -> None:
    folder = served.folder / "given"
    folder.mkdir()
    Image.new("L", (2000, 1000)).save(folder / "wide.png")
    last = segment(served, file_data(str(folder / "wide.png")))[-2]
    said = json.dumps(last["output"])
    assert last["success"]
    assert "2,000 x 1,000 pixels" in said
    assert str(served.folder) not in said.replace(str(folder), "")


def test_files_of_visitors_are_swept_and_examples_are_not(served: Served, scene_file: str) -> None:
    from gradio.route_utils import delete_files_created_by_app

    (path,) = json.loads(upload(served.address, "old.png", Path(scene_file).read_bytes())[1])
    segment(served, file_data(path))
    delete_files_created_by_app(served.page, age=0)
    left = {file.name for file in served.folder.rglob("*") if file.is_file()}
    assert "old.png" not in left
    assert not [name for name in left if name.endswith(".webp")]
    assert "unseen_combination_006.png" in left


def test_it_answers_on_this_machine_alone(served: Served) -> None:
    assert urlsplit(served.address).hostname == "127.0.0.1"
    assert served.page.share is False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-pixels", "0"], "--max-pixels"),
        (["--max-upload-mb", "-1"], "--max-upload-mb"),
        (["--models", "ViT-Q"], "--models"),
    ],
)
def test_what_cannot_be_served_is_said_before(tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        launch(arguments(*words), tmp_path)


def test_a_port_that_is_taken_is_refused(served: Served, tmp_path: Path) -> None:
    port = str(urlsplit(served.address).port)
    with pytest.raises(InputError, match="--host, --port"):
        launch(arguments("--models", "emoji", "--port", port), tmp_path)


def test_no_proxy_comes_between_the_page_and_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"no_proxy": "example.org", "GRADIO_SHARE": "True"})
    set_environment("folder")
    assert os.environ["no_proxy"] == "example.org,127.0.0.1,localhost"
    assert os.environ["NO_PROXY"] == "127.0.0.1,localhost"
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert "GRADIO_SHARE" not in os.environ


def test_a_missing_gradio_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'cliptrase_d2\[web\]'"):
        launch(arguments(), tmp_path)


@pytest.mark.slow
def test_the_command_says_its_address_and_ends_cleanly(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="Gradio is not installed")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "cliptrase_d2", "web", "--models", "emoji"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        assert ask(address, "/")[0] == 200
        assert list(tmp_path.glob("cliptrase-web-*"))
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0
    assert said.strip() == ""
    assert complained == ""
    assert not list(tmp_path.glob("cliptrase-web-*"))
