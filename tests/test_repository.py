"""Rules that no single module can keep: who imports whom, what a file may hold, what configs and documents name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from cliptrase_d2.config import add_cliptrase_config
from cliptrase_d2.d2 import CfgNode, get_cfg, merge_config_file
from cliptrase_d2.mask_sources import MaskSettings
from cliptrase_d2.pipeline.settings import Method

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cliptrase_d2"
MAX_LINES = 400

EVERY_ROOM = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"} | {"config"}
# What each room may not import. The stages know nothing of their callers, the two ends nothing of the model.
FRONT_ENDS = {"segmenter", "cli", "web", "export"}
FORBIDDEN = {
    "utils": EVERY_ROOM - {"utils", "d2"},
    "d2": EVERY_ROOM - {"d2", "utils"},
    "clip": EVERY_ROOM - {"clip", "methods", "utils"},
    "methods": EVERY_ROOM - {"methods", "clip", "utils"},
    "pipeline": {"data", "evaluation", "config", *FRONT_ENDS},
    "mask_sources": EVERY_ROOM - {"mask_sources", "pipeline", "utils"},
    "san": {"config", "web", "cli", "export"},
    "data": {"clip", "methods", "pipeline", "mask_sources", "san", "evaluation", *FRONT_ENDS},
    "evaluation": {"san", "web", "cli", "export"},
    "segmenter": {"web", "cli", "evaluation"},
    "export": {"config", "data", "evaluation", "web", "cli", "d2"},
}
# These take a whole config; everywhere else it ends at from_config.
CONFIG_READERS = {"config", "d2", "evaluation", "segmenter", "cli", "web", "san"}
FOR_FROM_CONFIG = "cliptrase_d2/pipeline/from_config.py"
# Names of open_clip's inner modules and parameters that nothing else in this project is called.
OPEN_CLIP_INTERNALS = {"resblocks", "class_embedding", "ln_pre", "ln_post", "token_embedding", "ln_final"}


def _files(*patterns: str) -> list[Path]:
    """The project's own files: nothing of .venv, of output or of a user's data sets."""
    folders = [ROOT / name for name in ("cliptrase_d2", "configs", "experiments", "tests", "tools", ".ci")]
    nested = [path for folder in folders for pattern in patterns for path in folder.rglob(pattern)]
    top = [path for folder in (ROOT, ROOT / "datasets") for pattern in patterns for path in folder.glob(pattern)]
    return sorted(path for path in nested + top if path.is_file() and "__pycache__" not in path.parts)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _room(path: Path) -> str:
    """First part of a module's name inside the package: its folder, or the name of a file that is in none."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(tree: ast.AST, package: tuple[str, ...]) -> set[str]:
    """Full names of all that is imported anywhere in a module of ``package``, in every form that Python has."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def _imports_of(path: Path) -> set[str]:
    return _imports(_tree(path), path.relative_to(ROOT).parent.parts)


def _imported_rooms(path: Path) -> set[str]:
    return {name.split(".")[1] for name in _imports_of(path) if name.startswith("cliptrase_d2.")}


def _config_chains(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Dotted keys read as ``cfg.SECTION.KEY``, each as far as it is in capitals, with its line."""
    for node in ast.walk(tree):
        parts: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            parts.insert(0, inner.attr)
            inner = inner.value
        if parts and all(part.isupper() for part in parts) and isinstance(inner, ast.Name) and inner.id == "cfg":
            yield ".".join(parts), inner.lineno


def _keys(cfg: CfgNode, prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for name, value in cfg.items():
        keys |= _keys(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else {prefix + name}
    return keys


def _our_cfg() -> CfgNode:
    cfg = get_cfg()
    add_cliptrase_config(cfg)
    return cfg


@pytest.mark.parametrize(
    "line",
    [
        "import cliptrase_d2.data.images",
        "from cliptrase_d2 import data",
        "from cliptrase_d2.data import images",
        "from .. import data",
        "from ..data.images import read_image",
        "def late():\n    from cliptrase_d2.data import images",
    ],
)
def test_the_import_check_sees_every_form_of_import(line: str) -> None:
    names = _imports(ast.parse(line), ("cliptrase_d2", "clip"))
    assert [name.split(".")[:2] for name in names] == [["cliptrase_d2", "data"]]


@pytest.mark.parametrize("room", sorted(FORBIDDEN))
def test_room_imports_only_in_the_direction_of_the_data(room: str) -> None:
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files, f"cliptrase_d2/{room} is empty or has another name"
    wrong = {_name(path): sorted(_imported_rooms(path) & FORBIDDEN[room]) for path in files}
    assert not {name: rooms for name, rooms in wrong.items() if rooms}


def test_only_the_door_imports_detectron2() -> None:
    # Tests may, for they compare the two sides.
    users = {_name(path) for path in _files("*.py") if any(n.split(".")[0] == "detectron2" for n in _imports_of(path))}
    outside = {name for name in users if not name.startswith(("cliptrase_d2/d2/", "tests/"))}
    assert "cliptrase_d2/d2/__init__.py" in users
    assert not outside


def test_only_two_files_touch_the_inner_modules_of_open_clip() -> None:
    users = {
        _name(path)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Attribute) and node.attr in OPEN_CLIP_INTERNALS
    }
    # The second has modules of these names itself, as the published SAN's checkpoints do.
    assert users == {"cliptrase_d2/clip/open_clip_modules.py", "cliptrase_d2/san/split_tower.py"}


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert not [_name(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()]


def test_no_module_is_longer_than_a_reader_bears() -> None:
    lengths = {_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in _files("*.py")}
    assert not {name: length for name, length in lengths.items() if length > MAX_LINES}


def test_nothing_is_imported_by_star() -> None:
    assert not [_name(path) for path in _files("*.py") if any(name.endswith(".*") for name in _imports_of(path))]


def test_no_text_names_a_path_of_one_machine() -> None:
    machine_path = re.compile(r"(?<![\w.>}])/(?:home|root|work|tmp|mnt|opt|Users)/")
    texts = _files("*.py", "*.yaml", "*.md", "*.txt", "*.cfg", "*.toml", "Makefile", "run")
    assert not [_name(path) for path in texts if machine_path.search(path.read_text(encoding="utf-8"))]


def test_every_public_module_class_and_function_has_a_docstring() -> None:
    missing = []
    for path in PACKAGE.rglob("*.py"):
        tree = _tree(path)
        if tree.body and not ast.get_docstring(tree):
            missing.append(_name(path))
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                missing += [] if ast.get_docstring(node) else [f"{_name(path)}: {node.name}"]
    assert not missing


def test_every_config_key_is_read_somewhere() -> None:
    readers = [path for path in PACKAGE.rglob("*.py") if _room(path) not in ("config", "d2")] + [ROOT / "train_net.py"]
    read = {node.attr for path in readers for node in ast.walk(_tree(path)) if isinstance(node, ast.Attribute)}
    # pipeline/from_config.py reads these by their names.
    read |= {field.name.upper() for settings in (Method, MaskSettings) for field in fields(settings)}
    ours = _keys(_our_cfg()) - _keys(get_cfg())
    assert ours
    assert not sorted(key for key in ours if key.split(".")[-1] not in read)


def test_every_config_key_that_is_read_exists() -> None:
    keys = _keys(_our_cfg())
    sections = {key.rsplit(".", depth)[0] for key in keys for depth in range(1, key.count(".") + 1)}
    files = [path for path in PACKAGE.rglob("*.py") if _room(path) != "d2"] + [ROOT / "train_net.py"]
    reads = [(_name(path), key) for path in files for key, _ in _config_chains(_tree(path))]
    assert reads, "no module reads the config, or none calls it cfg"
    assert not [(name, key) for name, key in reads if key not in keys | sections]


def test_only_from_config_reads_the_config() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        if _room(path) in CONFIG_READERS or _name(path) == FOR_FROM_CONFIG:
            continue
        tree = _tree(path)
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        edges = [(node.lineno, node.end_lineno or 0) for node in functions if node.name == "from_config"]
        reads = [line for _, line in _config_chains(tree)]
        wrong += [f"{_name(path)}:{line}" for line in reads if not any(a <= line <= b for a, b in edges)]
    assert not wrong


def _asserts(node: ast.AST, helpers: set[str]) -> bool:
    """Whether there is an `assert` in it, or a call of pytest, torch or numpy that is one, or of a helper that does."""
    calls = [inner.func for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    methods = {call.attr for call in calls if isinstance(call, ast.Attribute)}
    functions = {call.id for call in calls if isinstance(call, ast.Name)}
    return (
        any(isinstance(inner, ast.Assert) for inner in ast.walk(node))
        or not methods.isdisjoint({"raises", "warns", "fail"})
        or any(name.startswith("assert_") for name in methods | functions)
        or not functions.isdisjoint(helpers)
    )


def test_every_test_asserts_something() -> None:
    idle = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        functions = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.FunctionDef)]
        tests = [node for node in functions if node.name.startswith("test_")]
        helpers = {node.name for node in functions if node not in tests and _asserts(node, set())}
        idle += [f"{_name(path)}: {test.name}" for test in tests if not _asserts(test, helpers)]
    assert not idle


CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
LEAVES = [path for path in CONFIGS if not path.name.startswith("Base-")]


def test_there_are_configs_to_check() -> None:
    assert LEAVES


@pytest.mark.parametrize("path", CONFIGS, ids=_name)
def test_config_has_only_known_keys_and_values_of_their_type(path: Path) -> None:
    cfg = _our_cfg()
    merge_config_file(cfg, path)
    assert _keys(cfg) == _keys(_our_cfg())


@pytest.mark.parametrize("path", LEAVES, ids=_name)
def test_config_begins_with_the_command_that_runs_it(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert "train_net.py" in first
    assert f"--config-file {_name(path)}" in first


# The past may name what is gone.
DOCUMENTS = [path for path in [*_files("*.md"), *(ROOT / "docs").rglob("*.md")] if path.name != "CHANGELOG.md"]
MADE_BY_COMMANDS = {"datasets/emoji_scenes_train"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_document_names_only_files_that_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # A placeholder such as tests/<room>/ is checked as far as it is spelt out.
    named = re.findall(r"(?<![\w/.-])(?:cliptrase_d2|configs|datasets|experiments|tests|tools)/[\w./*-]*", text)
    named += re.findall(r"(?<![\w/.<>*-])(?:[A-Z]+\.md|train_net\.py|setup\.cfg|pyproject\.toml|Makefile)\b", text)
    missing = {name for name in named if not list(ROOT.glob(name.rstrip("./") or "."))} - MADE_BY_COMMANDS
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_document_names_only_make_targets_that_exist(path: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = re.findall(r"(?:^ *|`)make ([a-z ]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert targets
    assert not {target for command in commands for target in command.split()} - targets
