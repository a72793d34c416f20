"""No file that a user supplies can run code or reach other files."""

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
from torch import nn

from cliptrase_d2.clip.checkpoint import read_checkpoint
from cliptrase_d2.d2 import DetectionCheckpointer
from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.data.images import read_image
from cliptrase_d2.data.register import load_records
from cliptrase_d2.utils.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for folder in ("cliptrase_d2", "datasets", "docs", "tools") for path in (ROOT / folder).rglob("*.py")]
FILES += [ROOT / "train_net.py"]

# Calls that could execute their input, and the only files that may use them. Each file states its reason.
ALLOWED = {
    "pickle.loads": {"cliptrase_d2/data/loader.py"},
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
# Safe with these arguments.
SAFE = {"np.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}


def _calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def _find_constant(call: ast.Call, name: str) -> object:
    values = [keyword.value for keyword in call.keywords if keyword.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def test_no_call_could_run_a_file() -> None:
    wrong = []
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        for function, call in _calls(path):
            if function in SAFE and _find_constant(call, SAFE[function][0]) is SAFE[function][1]:
                continue
            if function in FORBIDDEN and name not in ALLOWED.get(function, set()):
                wrong.append(f"{name}:{call.lineno}: {function}")
    assert not wrong


def test_subprocesses_use_no_shell() -> None:
    calls = [(path, call) for path in FILES for function, call in _calls(path) if function.startswith("subprocess.")]
    calls = [(path, call) for path, call in calls if call.args]
    assert calls
    for path, call in calls:
        assert _find_constant(call, "shell") is None, f"{path}:{call.lineno}"
        assert isinstance(call.args[0], ast.List | ast.Name), f"{path}:{call.lineno}: not a list of words"
    assert not [path for path in (ROOT / "cliptrase_d2").rglob("*.py") if "subprocess" in path.read_text()]


class Evil:
    """Creates a folder when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


SAVERS: dict[str, Callable[[object, Path], object]] = {
    **{f"protocol {i}": lambda value, path, i=i: path.write_bytes(pickle.dumps(value, i)) for i in range(6)},
    "torch.save": torch.save,
}


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.pkl", "a.pyth"])
@pytest.mark.parametrize(
    "read", [read_checkpoint, lambda path: DetectionCheckpointer(nn.Linear(1, 1)).load(str(path))], ids=["clip", "d2"]
)
def test_a_pickle_with_code_is_rejected_and_not_run(
    tmp_path: Path, read: Callable[[Path], object], name: str, save: Callable[[object, Path], object]
) -> None:
    target = tmp_path / "was_run"
    save({"model": {"weight": Evil(target)}}, tmp_path / name)
    with pytest.raises(InputError, match=name):
        read(tmp_path / name)
    assert not target.exists()


def _write_dataset(folder: Path, **changes: str) -> Path:
    """Write a data set next to a file that it must not reach."""
    (folder / "set" / "images").mkdir(parents=True)
    for path in (folder / "set" / "images" / "a.png", folder / "secret.png"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    keys = {"name": "my_set", "images": "images", "classes": "[sky]", **changes}
    (folder / "set" / "set.yaml").write_text("".join(f"{key}: {value}\n" for key, value in keys.items()))
    return folder / "set" / "set.yaml"


@pytest.mark.parametrize("stem", ["../../secret", "../secret", "ABSOLUTE/secret", "a/../a", "./a", "*", "a\0"])
def test_an_image_list_cannot_name_files_outside_its_folder(tmp_path: Path, stem: str) -> None:
    (tmp_path / "list.txt").write_text(f"a\n{stem.replace('ABSOLUTE', str(tmp_path))}\n")
    spec = read_dataset_file(_write_dataset(tmp_path, image_list="../list.txt"))
    with pytest.raises(InputError, match=r"list\.txt: 1 of 2"):
        load_records(spec)


@pytest.mark.parametrize("name", ["..", "../x", "/x", ".x", "a/b", "'a\\b'", '"a\\0b"', "x" * 101])
def test_the_name_of_a_data_set_cannot_redirect_its_results(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"set\.yaml"):
        read_dataset_file(_write_dataset(tmp_path, name=name))


def test_a_data_set_can_be_elsewhere_and_contain_links(tmp_path: Path) -> None:
    spec = read_dataset_file(_write_dataset(tmp_path, images=str(tmp_path / "set" / ".." / "set" / "images")))
    (tmp_path / "set" / "images" / "b.png").symlink_to(tmp_path / "secret.png")
    files = [Path(record["file_name"]) for record in load_records(spec)]
    assert [file.name for file in files] == ["a.png", "b.png"]
    assert read_image(files[1]).shape == (4, 4, 3)


def test_dangling_and_circular_links_are_named(tmp_path: Path) -> None:
    spec = read_dataset_file(_write_dataset(tmp_path))
    for name, target in (("b.png", "nowhere"), ("c.png", "c.png")):
        (tmp_path / "set" / "images" / name).symlink_to(target)
    for record in load_records(spec)[1:]:
        with pytest.raises(InputError, match=record["file_name"]):
            read_image(record["file_name"])


@pytest.mark.skipif(sys.platform != "linux", reason="devices are Linux's")
@pytest.mark.parametrize("key", ["classes", "image_list"])
def test_a_device_is_rejected(tmp_path: Path, key: str) -> None:
    with pytest.raises(InputError, match="/dev/zero"):
        load_records(read_dataset_file(_write_dataset(tmp_path, **{key: "/dev/zero"})))


@pytest.mark.parametrize("images", ["'images/**x'", "~nobody_of_this_name/x", "'" + "x" * 5000 + "'", "images/a.png"])
def test_an_impossible_image_folder_is_rejected(tmp_path: Path, images: str) -> None:
    with pytest.raises(InputError):
        load_records(read_dataset_file(_write_dataset(tmp_path, images=images)))
