"""Evaluate what RESULTS.md lists, and write it.

    python tools/make_results_table.py
    python tools/make_results_table.py --check    # write nothing; fail where a number is not what RESULTS.md says

Every table is one command of train_net.py, which is run as it is written there, results in output/results/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from cliptrase_d2.clip.embedded import NAME, WEIGHTS
from cliptrase_d2.config import load_config
from cliptrase_d2.data.builtin import register_builtin
from cliptrase_d2.data.emoji_scenes.splits import SPLITS
from cliptrase_d2.evaluation.evaluator import results_folder
from cliptrase_d2.evaluation.runs import SYSTEMS, planned_runs
from cliptrase_d2.evaluation.summary import Run
from cliptrase_d2.utils.interruption import clean_end

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "RESULTS.md"
CONFIG = "configs/emoji_scenes.yaml"
METRICS = ("pAcc", "mAcc", "fwIoU", "mIoU", "mIoU-stuff", "mIoU-things", "mIoU-seen_things", "mIoU-held_out_things")
TOLERANCE = 0.3  # percent points; versions and machines round a few pixels to other classes
NOT_EXPECTED = ("TEST.EXPECTED_RESULTS", "[]")  # what the configuration expects is of its own settings
Reports = Mapping[Run, Mapping[str, Any]]


class Table(NamedTuple):
    """One table of RESULTS.md.

    Attributes:
        title: what is compared.
        options: KEY VALUE pairs of its command.
        config: file of its command.
    """

    title: str
    options: tuple[str, ...] = ()
    config: str = CONFIG


TABLES = {
    "systems": Table("All scenes, what `make eval` compares"),
    "baselines": Table(
        "All scenes, every baseline, with and without clusters", config="configs/baselines/emoji_scenes.yaml"
    ),
    "ablation": Table("All scenes, the rows of Table 1", config="configs/ablations/table1_emoji_scenes.yaml"),
    "hdbscan": Table(
        "All scenes, clusters by HDBSCAN",
        ("MODEL.CLIPTRASE.CLUSTERING", "hdbscan", "TEST.METHODS", "['cliptrase']", *NOT_EXPECTED),
    ),
    "pamr": Table(
        "All scenes, label maps refined by colours (PAMR)", ("MODEL.CLIPTRASE.REFINEMENT", "pamr", *NOT_EXPECTED)
    ),
    "unsupervised": Table(
        "All scenes, without words: 72 groups of masks", config="configs/unsupervised/emoji_scenes.yaml"
    ),
    "splits": Table(
        "Each split",
        (
            *("DATASETS.TEST", str(tuple(f"emoji_scenes_{split}" for split in SPLITS))),
            *("TEST.METHODS", "['clip', 'sclip', 'cliptrase']", *NOT_EXPECTED),
        ),
    ),
}


class Study(NamedTuple):
    """A table that a tool of its own measures.

    Attributes:
        title: what is compared.
        words: its command, behind "python".
        written: Markdown file, in the folder that the command is told by --output, or this one itself.
        finding: what the numbers say.
    """

    title: str
    words: tuple[str, ...]
    written: str
    finding: str


STUDIES = {
    "clusterings": Study(
        "Sizes of the image and ways of clustering",
        ("experiments/compare_clustering.py", "--output", "output/results/clustering.md"),
        "output/results/clustering.md",
        "On these scenes a radius of 0.5 to 0.7 serves all three sizes, so they do not show the growth with √N that\n"
        "the paper's two settings suggest: the resolution-free rule, made for whole photographs, is no gain here. No\n"
        "clustering but HDBSCAN at 112 pixels has a higher mIoU than none; in correct pixels most gain a little.",
    ),
    "global_patches": Study(
        "Global patches, layer by layer",
        ("experiments/global_patches.py", "--no-plot", "--output", "output/results/global_patches"),
        "output/results/global_patches/global_patches.md",
        "The supplement's pattern (A.1) in small: strongest in the last block but one, weaker in the last. The cosine\n"
        "correlation has no such columns. Taking the class token's row away raises the share a little: left are\n"
        "the members of large regions, which the measure cannot tell from patches that every row likes.",
    ),
}
INTRODUCTION = """\
# Results

`make results` evaluates everything here anew and writes this page. Numbers are percent. One confusion matrix counts all
pixels of a data set; IoU is averaged over the classes that occur, or over those of a group: stuff, things, the things
that training shows, and those that it never shows. Of the splits, *seen* has things on stuff as training shows them,
*unseen_combination* things only on stuff that training never shows them on, and *held_out* at least one thing that it
never shows. The method's settings are the paper's, not chosen on these scenes; but the training recipe of the model was
chosen while looking at most of them, so they flatter it a little: README.md has the numbers on scenes drawn afterwards.
Systems name patch by patch; with "+clusters" their pixels vote in the clusters of CLIPtrase. The model has three
blocks, so that GEM reads beside all of them, not beside the last seven of twelve.
"""


SPEED = ROOT / "docs" / "speed"
SPEED_INTRODUCTION = """\
Not measured anew by `make results`: what `tools/benchmark.py --output` wrote to `docs/speed/` on the machines that are
named. ViT-B/16 with random weights and 20 imposed masks; tower: the image tower's part of the whole; MB: the most
memory above model and inputs. [Speed and memory](docs/performance.md) says what to make of it.
"""


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with RESULTS.md and leave it")
    return parser.parse_args()


def command(table: Table) -> list[str]:
    """The command of a table, from the root of the repository."""
    return ["python", "train_net.py", "--eval-only", "--config-file", table.config, *table.options]


def shell(words: Sequence[str]) -> str:
    """The words as one types them; they hold no double quotes."""
    return " ".join(word if re.fullmatch(r"[\w./-]+", word) else f'"{word}"' for word in words)


def evaluate(name: str) -> dict[Run, dict[str, Any]]:
    """Run the command of a table, and read what it wrote to output/results/<name>."""
    table = TABLES[name]
    table = table._replace(options=(*table.options, *NOT_EXPECTED, "OUTPUT_DIR", f"output/results/{name}"))
    subprocess.run([sys.executable, *command(table)[1:]], cwd=ROOT, check=True)
    runs = planned_runs(load_config(ROOT / table.config, table.options))
    files = {run: ROOT / results_folder(cfg.OUTPUT_DIR, run.dataset) / "metrics.json" for run, cfg in runs.items()}
    return {run: json.loads(file.read_text(encoding="utf-8")) for run, file in files.items()}


def measure(name: str) -> str:
    """Run the command of a study, and read the Markdown that it wrote."""
    study = STUDIES[name]
    subprocess.run([sys.executable, *study.words], cwd=ROOT, check=True)
    return (ROOT / study.written).read_text(encoding="utf-8").strip()


def document(found: Mapping[str, Reports], studies: Mapping[str, str]) -> str:
    """RESULTS.md.

    Args:
        found: name of a table -> its evaluations and their metrics.json.
        studies: name of a study -> its Markdown.
    """
    report = next(report for reports in found.values() for report in reports.values())
    versions = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    parts = [
        INTRODUCTION,
        *(f"- {name}: {SYSTEMS[name].title} ({SYSTEMS[name].source})" for name in _systems(found)),
        "",
        f"- Model: {NAME}, `{WEIGHTS.relative_to(ROOT)}`, SHA-256 `{weights_hash()}`",
        f"- Versions: {versions}",
    ]
    for name, reports in found.items():
        parts += [f"\n## {TABLES[name].title}\n", f"    {shell(command(TABLES[name]))}\n"]
        parts += markdown_rows(reports)
    for name, text in studies.items():
        study = STUDIES[name]
        parts += [f"\n## {study.title}\n", f"    {shell(['python', *study.words])}\n", f"{study.finding}\n", text]
    parts += [f"\n## Speed and memory\n\n{SPEED_INTRODUCTION}", *speed_rows(sorted(SPEED.glob("*.json")))]
    return "\n".join(parts) + "\n"


def markdown_rows(reports: Reports) -> Iterator[str]:
    """A Markdown table: data set after data set, the systems below each other."""
    yield "| " + " | ".join(["data set", "system", *(name.replace("_", " ") for name in METRICS)]) + " |"
    yield "|---|---" + "|---:" * len(METRICS) + "|"
    datasets = list(dict.fromkeys(run.dataset for run in reports))
    for run in sorted(reports, key=lambda run: datasets.index(run.dataset)):
        numbers = ["-" if reports[run][name] is None else f"{reports[run][name]:.1f}" for name in METRICS]
        yield "| " + " | ".join([run.dataset, run.system, *numbers]) + " |"


def speed_rows(files: Sequence[Path]) -> Iterator[str]:
    """A Markdown table of what `tools/benchmark.py --output` wrote, a file after the other."""
    columns = (
        "device",
        "precision",
        "batch",
        "pixels",
        "classes",
        "images/s",
        "whole / encode_image",
        "tower, %",
        "MB",
    )
    yield "| " + " | ".join(columns) + " |"
    yield "|---|---" + "|---:" * (len(columns) - 2) + "|"
    for file in files:
        report = json.loads(file.read_text(encoding="utf-8"))
        settings = report["settings"]
        for row in report["rows"]:
            times, memory = row["milliseconds_per_image"], row["peak_megabytes"]["whole"]
            cells = [report["device"], settings["precision"], settings["batch"], f"{row['size']}²", row["classes"]]
            numbers = [
                row["images_per_second"],
                row["whole_over_encode_image"],
                100 * times["image tower"] / times["whole"],
            ]
            formats = zip(numbers, (".1f", ".2f", ".0f"), strict=True)
            cells += [*(format(number, of) for number, of in formats), "-" if memory is None else f"{memory:.0f}"]
            yield "| " + " | ".join(map(str, cells)) + " |"


def _systems(found: Mapping[str, Reports]) -> list[str]:
    """Those that any table has, each once; what "+clusters" adds to one is said for all."""
    names = dict.fromkeys(run.system for reports in found.values() for run in reports)
    return [name for name in names if name in SYSTEMS and "+clusters" not in name]


def weights_hash() -> str:
    """Sixteen hexadecimal digits of the weights that the package ships."""
    return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:16]


def differences(written: str, fresh: str) -> list[str]:
    """The table rows, one below another in both documents, that differ by more than the tolerance."""
    rows = ([line for line in text.splitlines() if line.startswith("|")] for text in (fresh, written))
    pairs = zip_longest(*rows, fillvalue="no row")
    return [f"{row}  (was: {old})" for row, old in pairs if not _alike(row.split("|"), old.split("|"))]


def _alike(fresh: list[str], written: list[str]) -> bool:
    return len(fresh) == len(written) and all(_same(*cells) for cells in zip(fresh, written, strict=True))


def _same(fresh: str, written: str) -> bool:
    try:
        return abs(float(fresh) - float(written)) <= TOLERANCE
    except ValueError:  # a name
        return fresh == written


def main() -> None:
    """Evaluate, then write the page or compare with it."""
    args = parse_arguments()
    register_builtin()
    text = document({name: evaluate(name) for name in TABLES}, {name: measure(name) for name in STUDIES})
    if not args.check:
        FILE.write_text(text, encoding="utf-8")
        print(f"{FILE.relative_to(ROOT)} is written")
        return
    different = differences(FILE.read_text(encoding="utf-8"), text)
    if different:
        sys.exit("\n".join(["error: RESULTS.md does not hold:", *different]))
    print("RESULTS.md holds")


if __name__ == "__main__":
    with clean_end():
        main()
