"""The sdist and the wheel are complete: an installed package works without the repository."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cliptrase_d2.cli.main import COMMANDS
from cliptrase_d2.data.emoji_scenes.names import CLASSES
from tests.docs.pages import find_blocks

ROOT = Path(__file__).resolve().parents[1]
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")
# Runs each command in one process, since importing PyTorch takes seconds.
DRIVER = """
import contextlib, io, json, sys, traceback
from cliptrase_d2.cli.main import main

results = {}
for words in json.loads(sys.argv[1]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = traceback.format_exc()
    results[" ".join(words)] = code, out.getvalue(), err.getvalue()
with open(sys.argv[2], "w") as file:
    json.dump(results, file)
"""
SEGMENT = "segment scenes/images/seen_000.webp --model emoji --classes"
RUNS = {  # command -> start of its error, or None for success
    **{f"{name} --help": None for name in COMMANDS},
    "doctor": None,
    "doctor voc20": "1",
    "prepare voc": "error: ",
    "eval emoji_scenes": "error: ",
    "eval voc20 --model emoji": "error: ",
    "prepare emoji_scenes scenes --split seen --count 2 --size 64 --workers 1": None,
    f"{SEGMENT} soccer_ball,water --json --masks --output out": None,
    "explain scenes/images/seen_000.webp --model emoji --output out": None,
    "eval mine.yaml --model emoji --method clip cliptrase --output out/eval": None,
    "eval mine.yaml --config-file configs/emoji_scenes.yaml --output out/config --opts TEST.EXPECTED_RESULTS []": None,
    "train --config-file san/san_vit_b16": "error: ",
    "warm-start --config-file san/emoji_scenes_warm --output out/queries.pth": "error: ",
    "export --output encoder.txt": "error: ",
    "web --max-pixels 0": "error: ",
}


def _list_files(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder).as_posix() for path in paths}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, unpacked as ``sdist``, and the wheel that was built from it, installed in ``site``."""
    pytest.importorskip("setuptools", reason="building needs setuptools")
    folder = tmp_path_factory.mktemp("built")
    sources = folder / "sources"
    for name in ("cliptrase_d2", "configs", "tests/cli"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    (sources / "datasets").mkdir()
    for path in (*ROOT.glob("*.*"), *ROOT.glob("datasets/*.py"), ROOT / "LICENSE"):
        if path.is_file():
            shutil.copy(path, sources / path.relative_to(ROOT))
    _build(sources, "build_sdist", folder)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    next((folder / "unpacked").iterdir()).rename(folder / "sdist")
    _build(folder / "sdist", "build_wheel", folder)
    install = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(folder / "site")]
    wheel = next(folder.glob("*.whl"))
    subprocess.run([sys.executable, *install, str(wheel)], check=True, capture_output=True, text=True)
    return folder


def _build(sources: Path, function: str, output: Path) -> None:
    code = f"import sys; from setuptools import build_meta; build_meta.{function}(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(output)], cwd=sources, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _run(built: Path, words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python where only the installed package and its requirements can be imported."""
    environment = {name: value for name, value in os.environ.items() if name != "DETECTRON2_DATASETS"}
    environment |= {"PYTHONPATH": str(built / "site"), "HF_HUB_OFFLINE": "1", "HOME": str(folder)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_sdist_and_the_wheel_have_every_file_of_the_package(built: Path) -> None:
    files = {f"cliptrase_d2/{name}" for name in _list_files(ROOT / "cliptrase_d2")}
    configs = {f"configs/{name}" for name in _list_files(ROOT / "configs")}
    scripts = {f"datasets/{path.name}" for path in (ROOT / "datasets").glob("*.py")}
    assert "cliptrase_d2/data/vocabularies/voc.txt" in files
    assert files | configs | scripts <= _list_files(built / "sdist")
    installed = _list_files(built / "site")
    assert files <= installed
    for package, folder in SETUP["FOLDERS"].items():
        place = package.replace(".", "/")
        assert {name.replace(folder, place, 1) for name in configs | scripts if name.startswith(folder)} <= installed
    assert not [name for name in installed if name.startswith(("tests/", "configs/", "datasets/"))]


@pytest.fixture(scope="module")
def results(built: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[object, str, str]]:
    """Exit code or error, output and error stream of each command, run in an empty folder."""
    folder = tmp_path_factory.mktemp("empty")
    (folder / "driver.py").write_text(DRIVER)
    mine = {"name": "mine", "images": "scenes/images", "labels": "scenes/annotations", "classes": list(CLASSES)}
    (folder / "mine.yaml").write_text(yaml.safe_dump(mine))
    commands = json.dumps([command.split() for command in RUNS])
    done = _run(built, ["driver.py", commands, "results.json"], folder)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNS)
def test_commands_of_an_installed_package(command: str, results: dict[str, tuple[object, str, str]]) -> None:
    code, out, err = results[command]
    expected = RUNS[command]
    assert "Traceback" not in f"{code}{out}{err}"
    if expected is None:
        assert code == 0, f"{code}\n{err}"
    else:
        assert str(code).startswith(expected)
        assert len(str(code).splitlines()) == 1


@pytest.mark.slow
def test_errors_of_an_installed_package_name_its_own_commands(
    built: Path, results: dict[str, tuple[object, str, str]]
) -> None:
    assert f"{built / 'site' / 'cliptrase_d2'}\n" in results["doctor"][1]  # not the clone's package
    assert "Run 'cliptrase prepare emoji_scenes datasets/emoji_scenes'" in str(results["eval emoji_scenes"][0])
    assert "Run 'cliptrase prepare voc datasets'" in str(results["eval voc20 --model emoji"][0])
    assert "cliptrase prepare voc datasets " in results["doctor voc20"][1]
    for name, text in results.items():
        assert "python datasets/" not in "".join(map(str, text)) or name.endswith("--help")


@pytest.mark.slow
def test_python_finds_models_and_configurations(built: Path, tmp_path: Path) -> None:
    code = "\n".join(
        [
            "from cliptrase_d2 import Segmenter",
            "print(Segmenter.from_pretrained('emoji'))",
            "print(Segmenter.from_config('emoji_scenes_whole'))",
        ]
    )
    done = _run(built, ["-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["Segmenter(CLIPtrase, whole at 112 pixels, cpu)"] * 2
    done = _run(built, [str(built / "site" / "bin" / "cliptrase"), "--version"], tmp_path)
    assert done.stdout == "cliptrase_d2 0.1.0\n"


def _links(text: str) -> Iterator[str]:
    return (match[1] for match in re.finditer(r"\]\(([^)\s]+)\)", text))


def test_links_of_the_readme_are_absolute_on_an_index_page() -> None:
    make_links_absolute = SETUP["make_links_absolute"]
    text = make_links_absolute((ROOT / "README.md").read_text(encoding="utf-8"))
    assert not [link for link in _links(text) if not link.startswith(("https://", "#"))]
    repository = SETUP["REPOSITORY"]
    example = "![a b](docs/p.jpg) [c](docs/m.md#part) [d](#here) [e](https://example.org) [![f](g.png)](LICENSE)"
    assert make_links_absolute(example) == (
        f"![a b]({repository}/raw/main/docs/p.jpg) [c]({repository}/blob/main/docs/m.md#part) [d](#here) "
        f"[e](https://example.org) [![f]({repository}/raw/main/g.png)]({repository}/blob/main/LICENSE)"
    )


@pytest.mark.slow
def test_the_metadata_are_complete(built: Path) -> None:
    (folder,) = (built / "site").glob("*.dist-info")
    metadata = importlib.metadata.PathDistribution(folder).metadata
    assert metadata["Author"] == "The cliptrase_d2 authors"
    assert metadata["Description-Content-Type"] == "text/markdown"
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL") or [])
    assert set(urls) == {"Source", "Documentation", "Changelog", "Issues", "Paper"}
    assert all(url.startswith((SETUP["REPOSITORY"], "https://arxiv.org/")) for url in urls.values())
    assert SETUP["REPOSITORY"] in (metadata.get_payload() or "")


def test_the_citation_is_that_of_the_readme() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = citation["preferred-citation"]
    (entry,) = find_blocks(ROOT / "README.md", "bibtex")
    fields = dict(re.findall(r"(\w+) *= \{(.*)\}", entry.text))
    authors = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert fields["author"] == " and ".join(authors)
    assert (fields["title"], fields["booktitle"]) == (paper["title"], paper["collection-title"])
    assert int(fields["year"]) == paper["year"]
    assert f"version = {citation['version']}\n" in (ROOT / "setup.cfg").read_text(encoding="utf-8")
