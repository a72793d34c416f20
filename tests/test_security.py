"""Nothing that a user hands in is run, whatever it is: what the code itself may not have, and what it does."""

from __future__ import annotations

import ast
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.clip.checkpoint import read_checkpoint
from cliptrase_d2.d2 import safe_checkpoint
from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.data.images import read_image
from cliptrase_d2.data.register import load_records
from cliptrase_d2.utils.errors import InputError
from tests.command_line import run, write_dataset

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for folder in ("cliptrase_d2", "datasets", "docs", "tools") for path in (ROOT / folder).rglob("*.py")]
FILES += [ROOT / "train_net.py"]

# Calls that could run what they are given, and the only places that may have them, each with its reason there.
ALLOWED = {
    "pickle.loads": {"cliptrase_d2/data/loader.py", "cliptrase_d2/data/packed_batch.py"},
    "yaml.load": {"cliptrase_d2/utils/plain_yaml.py"},
    "torch.export.load": {"cliptrase_d2/export/formats.py"},
}
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "joblib.load", "marshal.loads", "shelve.open"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "torch.jit.load", "torch.export.load"),
    *("torch.hub.load", "numpy.load", "np.load", "torch.load", "tempfile.mktemp"),
    *("subprocess.getoutput", "subprocess.getstatusoutput"),
}
# Fine with these arguments.
SAFE = {"np.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}


def _calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def _constant(call: ast.Call, name: str) -> object:
    values = [word.value for word in call.keywords if word.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def test_nothing_is_called_that_could_run_a_file() -> None:
    wrong = []
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        for called, call in _calls(path):
            if called in SAFE and _constant(call, SAFE[called][0]) is SAFE[called][1]:
                continue
            if called in FORBIDDEN and name not in ALLOWED.get(called, set()):
                wrong.append(f"{name}:{call.lineno}: {called}")
    assert not wrong


def test_no_shell_is_given_words_of_a_user() -> None:
    started = [(path, call) for path in FILES for called, call in _calls(path) if called.startswith("subprocess.")]
    started = [(path, call) for path, call in started if call.args]
    assert started
    for path, call in started:
        assert _constant(call, "shell") is None, f"{path}:{call.lineno}"
        assert isinstance(call.args[0], ast.List | ast.Name), f"{path}:{call.lineno}: no list of words"
    assert not [path for path in (ROOT / "cliptrase_d2").rglob("*.py") if "subprocess" in path.read_text()]


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("read", [read_checkpoint, lambda path: safe_checkpoint.read_checkpoint(str(path))])
def test_a_pickle_of_any_protocol_is_not_run(tmp_path: Path, read: Callable[[Path], object], protocol: int) -> None:
    target = tmp_path / "was_here"
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"weight": Evil(target)}, protocol=protocol))
    with pytest.raises(InputError, match=r"a.pt"):
        read(tmp_path / "a.pt")
    assert not target.exists()


@pytest.mark.parametrize("key", ["MODEL.WEIGHTS", "MODEL.CLIP.PRETRAINED"])
def test_a_malicious_checkpoint_ends_a_run_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    target = tmp_path / "was_here"
    torch.save({"model": {"weight": Evil(target)}}, tmp_path / "evil.pt")
    message = run(monkeypatch, write_dataset(tmp_path / "scenes", 2), key, str(tmp_path / "evil.pt"))
    assert message.startswith(f"error: {tmp_path / 'evil.pt'}: ")
    assert len(message.splitlines()) == 1
    assert not target.exists()


def _data_set(folder: Path, **changes: str) -> Path:
    """A data set beside whose folder lies a file that is none of its business."""
    (folder / "set" / "images").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "set" / "images" / "a.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "secret.png")
    keys = {"name": "my_set", "images": "images", "classes": "[sky]", **changes}
    (folder / "set" / "set.yaml").write_text("".join(f"{key}: {value}\n" for key, value in keys.items()))
    return folder / "set" / "set.yaml"


@pytest.mark.parametrize("stem", ["../../secret", "../secret", "ABSOLUTE/secret", "a/../a", "./a", "*", "a\0"])
def test_a_list_of_stems_names_no_file_outside_of_its_folder(tmp_path: Path, stem: str) -> None:
    (tmp_path / "list.txt").write_text(f"a\n{stem.replace('ABSOLUTE', str(tmp_path))}\n")
    spec = read_dataset_file(_data_set(tmp_path, image_list="../list.txt"))
    with pytest.raises(InputError, match="1 of 2 stems without an image"):
        load_records(spec)


@pytest.mark.parametrize("name", ["..", "../x", "/x", ".x", "a/b", "'a\\b'", "a\\0b", "x" * 101])
def test_results_go_to_no_folder_but_their_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"the name|no text file can hold"):
        read_dataset_file(_data_set(tmp_path, name=f'"{name}"' if "\\0" in name else name))


def test_a_data_set_may_lie_elsewhere_and_its_files_may_be_links(tmp_path: Path) -> None:
    spec = read_dataset_file(_data_set(tmp_path, images=str(tmp_path / "set" / ".." / "set" / "images")))
    (tmp_path / "set" / "images" / "b.png").symlink_to(tmp_path / "secret.png")
    files = [Path(record["file_name"]) for record in load_records(spec)]
    assert [file.name for file in files] == ["a.png", "b.png"]
    assert read_image(files[1]).shape == (4, 4, 3)


def test_a_link_that_leads_nowhere_or_back_is_said_to(tmp_path: Path) -> None:
    spec = read_dataset_file(_data_set(tmp_path))
    for name, target in (("b.png", "nowhere"), ("c.png", "c.png")):
        (tmp_path / "set" / "images" / name).symlink_to(target)
    files = [record["file_name"] for record in load_records(spec)]
    with pytest.raises(InputError, match=r"b\.png: no such file"):
        read_image(files[1])
    with pytest.raises(InputError, match=r"c\.png: unreadable"):
        read_image(files[2])


@pytest.mark.skipif(sys.platform != "linux", reason="devices are Linux's")
@pytest.mark.parametrize("key", ["classes", "image_list"])
def test_a_device_is_not_read_for_ever(tmp_path: Path, key: str) -> None:
    with pytest.raises(InputError, match=r"/dev/zero: unreadable .it is a pipe or a device"):
        load_records(read_dataset_file(_data_set(tmp_path, **{key: "/dev/zero"})))


@pytest.mark.parametrize("images", ["'images/**x'", "~nobody_of_this_name/x", "'" + "x" * 5000 + "'", "images/a.png"])
def test_a_place_that_cannot_be_one(tmp_path: Path, images: str) -> None:
    path = _data_set(tmp_path, images=images)
    with pytest.raises(InputError):
        load_records(read_dataset_file(path))
