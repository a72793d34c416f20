"""Rules of the repository: imports, contents of files, and names in configurations and documents."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from cliptrase_d2.config import add_keys
from cliptrase_d2.d2 import CfgNode, get_cfg, merge_config_file
from cliptrase_d2.mask_sources import MaskSettings
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from tests.test_config import list_keys

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cliptrase_d2"
MAX_LINES = 400

FOLDERS = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"} | {"config"}
FRONT_ENDS = {"segmenter", "cli", "web", "export"}
MODELS = {"clip", "methods", "pipeline", "mask_sources", "vision_models", "san"}
# What each folder may not import: data flows one way, and `data` and `evaluation` know no model.
FORBIDDEN = {
    "utils": FOLDERS - {"utils"},
    "d2": FOLDERS - {"d2", "utils"},
    "clip": FOLDERS - {"clip", "utils"},
    "methods": FOLDERS - {"methods", "clip", "utils"},
    "vision_models": FOLDERS - {"vision_models", "clip", "utils"},
    "mask_sources": FOLDERS - {"mask_sources", "pipeline", "vision_models", "clip", "d2", "utils"},
    "pipeline": {"config", "data", "evaluation", "san", *FRONT_ENDS},
    "san": {"config", "cli", "web", "export"},
    "data": {"evaluation", *MODELS, *FRONT_ENDS},
    "evaluation": {*FRONT_ENDS, *MODELS} - {"methods"},
    "segmenter": {"evaluation", "cli", "web", "export"},
    "export": {"config", "data", "evaluation", "cli", "web", "d2"},
    "visualization": {"evaluation", *MODELS, *FRONT_ENDS},
}
# These take a whole configuration; everywhere else only `from_config` and the functions of this file read one.
CONFIG_READERS = {"config", "d2", "evaluation", "segmenter", "cli", "web", "san"}
FOR_FROM_CONFIG = "cliptrase_d2/pipeline/open_vocabulary.py"
# Names of open_clip's inner modules and parameters, which nothing else in this project has.
OPEN_CLIP_INTERNALS = {"resblocks", "class_embedding", "ln_pre", "ln_post", "token_embedding", "ln_final"}


def _files(*patterns: str) -> list[Path]:
    """Return the project's own files, without .venv, outputs and users' data sets."""
    folders = [ROOT / name for name in ("cliptrase_d2", "configs", "experiments", "tests", "tools", ".ci")]
    nested = [path for folder in folders for pattern in patterns for path in folder.rglob(pattern)]
    top = [path for folder in (ROOT, ROOT / "datasets") for pattern in patterns for path in folder.glob(pattern)]
    return sorted(path for path in nested + top if path.is_file() and "__pycache__" not in path.parts)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _folder(path: Path) -> str:
    """Return the folder of a module in the package, or the name of a module without one."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(tree: ast.AST, package: tuple[str, ...]) -> set[str]:
    """Return the full names of all imports in a module of ``package``, in every form of Python."""
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


def _imported_folders(path: Path) -> set[str]:
    return {name.split(".")[1] for name in _imports_of(path) if name.startswith("cliptrase_d2.")}


def _config_chains(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield dotted keys read as ``cfg.SECTION.KEY``, as far as they are in capitals, with their lines."""
    for node in ast.walk(tree):
        parts: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            parts.insert(0, inner.attr)
            inner = inner.value
        if parts and all(part.isupper() for part in parts) and isinstance(inner, ast.Name) and inner.id == "cfg":
            yield ".".join(parts), inner.lineno


def _our_cfg() -> CfgNode:
    cfg = get_cfg()
    add_keys(cfg)
    return cfg


@pytest.mark.parametrize("folder", sorted(FORBIDDEN))
def test_folders_import_in_the_direction_of_the_data(folder: str) -> None:
    files = sorted((PACKAGE / folder).rglob("*.py"))
    assert files, f"cliptrase_d2/{folder} is empty or has another name"
    wrong = {_name(path): sorted(_imported_folders(path) & FORBIDDEN[folder]) for path in files}
    assert not {name: folders for name, folders in wrong.items() if folders}


def test_only_the_d2_folder_imports_detectron2() -> None:
    # Tests may, to compare it with the fallback.
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
    # The second has modules with these names of its own, as in the published SAN's checkpoints.
    assert users == {"cliptrase_d2/clip/open_clip_modules.py", "cliptrase_d2/san/split_tower.py"}


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert not [_name(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()]


def _count_code_lines(path: Path) -> int:
    """Count the lines of a module without docstrings, comments and blanks."""
    text = path.read_text(encoding="utf-8")
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = {
        token.start[0] for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in ignored
    }
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def test_no_module_has_more_than_400_lines_of_code() -> None:
    lengths = {_name(path): _count_code_lines(path) for path in _files("*.py")}
    assert not {name: length for name, length in lengths.items() if length > MAX_LINES}


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
    readers = [path for path in PACKAGE.rglob("*.py") if _folder(path) not in ("config", "d2")] + [
        ROOT / "train_net.py"
    ]
    read = {node.attr for path in readers for node in ast.walk(_tree(path)) if isinstance(node, ast.Attribute)}
    # The settings read these by the names of their fields.
    settings = (CLIPtraseSettings, MaskSettings, PublishedProtocol)
    read |= {field.name.upper() for one in settings for field in fields(one)}
    ours = list_keys(_our_cfg()) - list_keys(get_cfg())
    assert ours
    assert not sorted(key for key in ours if key.split(".")[-1] not in read)


def test_every_config_key_that_is_read_exists() -> None:
    keys = list_keys(_our_cfg())
    sections = {key.rsplit(".", depth)[0] for key in keys for depth in range(1, key.count(".") + 1)}
    files = [path for path in PACKAGE.rglob("*.py") if _folder(path) != "d2"] + [ROOT / "train_net.py"]
    reads = [(_name(path), key) for path in files for key, _ in _config_chains(_tree(path))]
    assert reads, "no module reads the config, or none calls it cfg"
    assert not [(name, key) for name, key in reads if key not in keys | sections]


def test_only_from_config_reads_the_config() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        if _folder(path) in CONFIG_READERS or _name(path) == FOR_FROM_CONFIG:
            continue
        tree = _tree(path)
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        edges = [(node.lineno, node.end_lineno or 0) for node in functions if node.name == "from_config"]
        reads = [line for _, line in _config_chains(tree)]
        wrong += [f"{_name(path)}:{line}" for line in reads if not any(a <= line <= b for a, b in edges)]
    assert not wrong


def _asserts(node: ast.AST, helpers: set[str]) -> bool:
    """Return whether a function asserts, itself or by a call of pytest, torch, numpy or an asserting helper."""
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


@pytest.mark.parametrize("path", CONFIGS, ids=_name)
def test_config_has_only_known_keys_and_values_of_their_type(path: Path) -> None:
    cfg = _our_cfg()
    merge_config_file(cfg, path)
    assert list_keys(cfg) == list_keys(_our_cfg())


@pytest.mark.parametrize("path", LEAVES, ids=_name)
def test_config_begins_with_the_command_that_runs_it(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert "train_net.py" in first
    assert f"--config-file {_name(path)}" in first


# The changelog may name removed files.
DOCUMENTS = [path for path in [*_files("*.md"), *(ROOT / "docs").rglob("*.md")] if path.name != "CHANGELOG.md"]
MADE_BY_COMMANDS = {"datasets/emoji_scenes_train"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_document_names_only_files_that_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # A placeholder such as tests/<folder>/ is checked up to the placeholder.
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
