"""Run the evaluations of RESULTS.md and write it.

    python tools/make_results_table.py
    python tools/make_results_table.py --check    # write nothing; fail if a number differs from RESULTS.md

Each table has its own command, which RESULTS.md quotes. Results are stored in output/results/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from cliptrase_d2.clip.embedded import NAME, WEIGHTS
from cliptrase_d2.config import load_config
from cliptrase_d2.data.builtin import register_builtin
from cliptrase_d2.data.emoji_scenes.splits import SPLITS
from cliptrase_d2.evaluation.evaluator import get_results_folder
from cliptrase_d2.evaluation.runs import plan_runs
from cliptrase_d2.evaluation.summary import Run
from cliptrase_d2.methods.catalog import METHODS
from cliptrase_d2.utils.interruption import exit_on_interrupt

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "RESULTS.md"
METRICS = ("pAcc", "mAcc", "fwIoU", "mIoU", "mIoU-stuff", "mIoU-things", "mIoU-seen_things", "mIoU-held_out_things")
TOLERANCE = 0.3  # percentage points; a few pixels differ between versions and machines
NOT_EXPECTED = ("TEST.EXPECTED_RESULTS", "[]")  # the configuration's expected results are for its own settings
Reports = Mapping[Run, Mapping[str, Any]]


class Table(NamedTuple):
    """A table of RESULTS.md.

    Attributes:
        title: its heading.
        config: configuration file of its command.
        options: KEY VALUE pairs of its command.
        seed: of the scenes, which are drawn first; 0 for the shipped ones.
    """

    title: str
    config: str = "configs/emoji_scenes_whole.yaml"
    options: tuple[str, ...] = ()
    seed: int = 0


_SPLITS = str(tuple(f"emoji_scenes_{split}" for split in SPLITS))
_SPLIT_METHODS = ("TEST.METHODS", "['clip', 'sclip', 'cliptrase']")
_HDBSCAN = ("MODEL.CLIPTRASE.CLUSTERING", "hdbscan", "TEST.METHODS", "['cliptrase']")
_PAMR = ("MODEL.CLIPTRASE.REFINEMENT", "pamr")
_BASELINES, _SLIDE = "configs/baselines/emoji_scenes.yaml", "configs/baselines/emoji_scenes_slide.yaml"
_BEST = ("TEST.METHODS", "['maskclip+clusters', 'own_patch+clusters', 'cliptrase']")
_MEAN = ("MODEL.CLIPTRASE.CLASSIFICATION", "mean")
_BEST_RULES = (*_MEAN, *_PAMR, *_BEST)
_EVAL = "configs/emoji_scenes.yaml"
TABLES = {
    "methods": Table("All scenes: methods of `make eval`, in windows", _EVAL),
    "seed2_methods": Table("Scenes of seed 2: methods of `make eval`, in windows", _EVAL, NOT_EXPECTED, 2),
    "whole": Table("All scenes: the same methods on whole images"),
    "baselines": Table("All scenes: all methods, with and without clusters", _BASELINES),
    "slide": Table("All scenes: all methods in windows", _SLIDE),
    "seed2": Table("Scenes of seed 2: all methods", _BASELINES, seed=2),
    "seed2_slide": Table("Scenes of seed 2: all methods in windows", _SLIDE, seed=2),
    "seed2_mean": Table("Scenes of seed 2, in windows: masks by their mean logits", _SLIDE, (*_MEAN, *_BEST), 2),
    "seed2_pamr": Table("Scenes of seed 2, in windows: refined by colour (PAMR)", _SLIDE, (*_PAMR, *_BEST), 2),
    "seed2_pamr_mean": Table("Scenes of seed 2, in windows: mean logits and PAMR", _SLIDE, _BEST_RULES, 2),
    "seed3_pamr_mean": Table("Scenes of seed 3, in windows: mean logits and PAMR", _SLIDE, _BEST_RULES, 3),
    "ablation": Table("All scenes: rows of Table 1", "configs/ablations/table1_emoji_scenes.yaml"),
    "hdbscan": Table("All scenes: clustering by HDBSCAN", options=(*_HDBSCAN, *NOT_EXPECTED)),
    "pamr": Table("All scenes: label maps refined by colour (PAMR)", options=(*_PAMR, *NOT_EXPECTED)),
    "unsupervised": Table("All scenes: unsupervised, 72 groups of masks", "configs/unsupervised/emoji_scenes.yaml"),
    "splits": Table("Each split", options=("DATASETS.TEST", _SPLITS, *_SPLIT_METHODS, *NOT_EXPECTED)),
}


class Study(NamedTuple):
    """A table that another script measures.

    Attributes:
        title: its heading.
        words: the script and its arguments.
        output: the Markdown file that the script writes.
        finding: interpretation of the numbers.
    """

    title: str
    words: tuple[str, ...]
    output: str
    finding: str


STUDIES = {
    "clusterings": Study(
        "Image sizes and clusterings",
        ("experiments/compare_clustering.py", "--output", "output/results/clustering.md"),
        "output/results/clustering.md",
        "On these scenes, a radius of 0.5 to 0.7 suits all three sizes. They do not show the growth with √N that the\n"
        "paper's two settings suggest, so the adaptive rule, which was made for photographs, has no advantage\n"
        "here. Only HDBSCAN at 112 pixels has a higher mIoU than no clustering. Most clusterings have a slightly\n"
        "higher pAcc.",
    ),
    "global_patches": Study(
        "Global patches by layer",
        ("experiments/global_patches.py", "--no-plot", "--output", "output/results/global_patches"),
        "output/results/global_patches/global_patches.md",
        "The small model shows the pattern of the supplement (A.1): global patches are strongest in the last but one\n"
        "block and weaker in the last. The cosine correlation has no such columns. Subtracting the class token's row\n"
        "slightly raises the share. The remaining patches belong to large regions, which the measure cannot\n"
        "distinguish from global patches.",
    ),
    "second_models": Study(
        "Methods with a second vision model, in windows",
        ("experiments/second_models.py", "--output", "output/results/second_models"),
        "output/results/second_models/second_models.md",
        "All scenes, windows of 112 pixels with a stride of 56 on images of 224, by the published protocol. The\n"
        "ViT has four blocks and patches of 8. Its weights are random, or trained without labels on canvases of\n"
        "Emoji CLIP. Trained features tell the classes of patches better than random ones, those of things also\n"
        "better than colours do, and raise the mIoU of ProxyCLIP and CorrCLIP. The correlation of Emoji CLIP\n"
        "itself tells them better still. As the affinity of ProxyCLIP, it needs no second model. No method with\n"
        "this ViT reaches CLIPtrase without clusters. LPOSS loses most: a probable reason is that 400 neighbours\n"
        "are a quarter of the 1764 patches of these small images. Their number is the published one and was not\n"
        "changed. These numbers say nothing about DINO on photographs.",
    ),
    "object_sizes": Study(
        "Things by size",
        (
            *("experiments/object_sizes.py", "--output", "output/results/object_sizes.md", "--"),
            *("TEST.METHODS", "['clip', 'maskclip', 'sclip', 'cliptrase_scr', 'cliptrase']"),
        ),
        "output/results/object_sizes.md",
        "By COCO's definition, nearly all of these things are large. Of the 18 objects under 3 % of the image, 15\n"
        "are separate parts of a thing. Among the large ones, mIoU falls with the size. The loss is in the\n"
        "features. With true names, the clusters would find most things. In the true mask of a thing, its class\n"
        "wins only a few points more often than in the result, although the right word is the best at some pixel\n"
        "of many more things. In whole images, most lost things are labelled as stuff. Windows at twice the\n"
        "resolution help the smaller things most. The larger ones that are still lost are then mostly taken for\n"
        "other things.",
    ),
}
INTRODUCTION = """\
# Results

`make results` repeats these evaluations and writes this page. Numbers are percentages. One confusion matrix counts all
pixels of a data set. IoU is averaged over the classes that occur, or over the classes of a group: stuff, things, things
of the training ("seen things") and things outside of it ("held out things"). There are three splits. In *seen*, things
are on stuff as in the training. In *unseen_combination*, things are only on stuff that the training never combines them
with. In *held_out*, every scene has at least one thing that the training never shows. The method's settings are the
paper's and were not tuned on these scenes. The model's training recipe was chosen by looking at most of these scenes,
so the numbers on the shipped scenes are slightly optimistic. The tables of seeds 2 and 3 are on 96 scenes each that
were drawn later. Methods label every patch. With "+clusters", the pixels vote in the clusters of CLIPtrase. "In
windows" means windows of 112 pixels with a stride of 56 at twice the resolution, whose patches and correlations are
averaged. The other tables of methods are of whole images in one pass, at 112 pixels. The model has three blocks, so
GEM's parallel path runs beside all of them instead of the last six of twelve. Other methods that read middle blocks
take those at the same share of the depth.
"""
SPEED = ROOT / "docs" / "speed"
SPEED_INTRODUCTION = """\
`make results` does not repeat these measurements. `tools/benchmark.py --output` wrote them to `docs/speed/` on the
named machines, with ViT-B/16, random weights and 20 given masks. Tower: the image tower's share of the total time. MB:
the peak memory above model and inputs. [Speed and memory](docs/performance.md) interprets the numbers.
"""
SPEED_HEADER = (
    "| device | precision | batch | pixels | classes | images/s | total / encode_image | tower, % | MB |",
    "|---|---" + "|---:" * 7 + "|",
)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with RESULTS.md without writing it")
    return parser.parse_args()


def build_command(table: Table) -> list[str]:
    """Return the command of a table, for the root of the repository."""
    data = ["--dataset", f"{get_folder(table.seed)}/dataset.yaml"] if table.seed else []
    return ["python", "train_net.py", "--eval-only", "--config-file", table.config, *data, *table.options]


def build_drawing(seed: int) -> list[str]:
    """Return the command that draws the scenes of a seed."""
    return ["python", "datasets/prepare_emoji_scenes.py", get_folder(seed), "--seed", str(seed)]


def get_folder(seed: int) -> str:
    """Return the folder of the scenes of a seed."""
    return f"output/emoji_scenes_seed{seed}"


def quote(words: Iterable[str]) -> str:
    """Format words for a shell. They must not contain double quotes."""
    return " ".join(word if re.fullmatch(r"[\w./-]+", word) else f'"{word}"' for word in words)


def format_commands(table: Table) -> str:
    """Return the commands of a table as a block of Markdown."""
    drawing = [build_drawing(table.seed)] if table.seed else []
    return "".join(f"    {quote(words)}\n" for words in (*drawing, build_command(table)))


def evaluate(name: str) -> dict[Run, dict[str, Any]]:
    """Run the command of a table. Return its reports from output/results/<name>."""
    table = TABLES[name]
    if table.seed:
        subprocess.run([sys.executable, *build_drawing(table.seed)[1:]], cwd=ROOT, check=True)
    table = table._replace(options=(*table.options, *NOT_EXPECTED, "OUTPUT_DIR", f"output/results/{name}"))
    subprocess.run([sys.executable, *build_command(table)[1:]], cwd=ROOT, check=True)
    runs = plan_runs(load_config(ROOT / table.config, table.options))
    files = {run: ROOT / get_results_folder(cfg.OUTPUT_DIR, run.dataset) / "metrics.json" for run, cfg in runs.items()}
    return {run: json.loads(file.read_text(encoding="utf-8")) for run, file in files.items()}


def run_study(name: str) -> str:
    """Run the command of a study. Return the Markdown that it writes."""
    study = STUDIES[name]
    subprocess.run([sys.executable, *study.words], cwd=ROOT, check=True)
    return (ROOT / study.output).read_text(encoding="utf-8").strip()


def format_page(tables: Mapping[str, Reports], studies: Mapping[str, str]) -> str:
    """Format RESULTS.md.

    Args:
        tables: name of a table -> its evaluations with their metrics.json.
        studies: name of a study -> its Markdown.
    """
    report = next(report for reports in tables.values() for report in reports.values())
    versions = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    methods = dict.fromkeys(run.method for reports in tables.values() for run in reports if run.method in METHODS)
    parts = [
        INTRODUCTION,
        # The introduction explains "+clusters".
        *(f"- {name}: {METHODS[name].title} ({METHODS[name].source})" for name in methods if "+" not in name),
        "",
        f"- Model: {NAME}, `{WEIGHTS.relative_to(ROOT)}`, SHA-256 `{hash_weights()}`",
        f"- Versions: {versions}",
    ]
    for name, reports in tables.items():
        parts += [f"\n## {TABLES[name].title}\n", format_commands(TABLES[name]), *format_rows(reports)]
    for name, text in studies.items():
        study = STUDIES[name]
        parts += [f"\n## {study.title}\n", f"    {quote(['python', *study.words])}\n", f"{study.finding}\n", text]
    parts += [f"\n## Speed and memory\n\n{SPEED_INTRODUCTION}", *format_speed(sorted(SPEED.glob("*.json")))]
    return "\n".join(parts) + "\n"


def format_rows(reports: Reports) -> Iterator[str]:
    """Yield the lines of a Markdown table, grouped by data set."""
    yield _format_row(["data set", "method", *(name.replace("_", " ") for name in METRICS)])
    yield "|---|---" + "|---:" * len(METRICS) + "|"
    datasets = list(dict.fromkeys(run.dataset for run in reports))
    for run in sorted(reports, key=lambda run: datasets.index(run.dataset)):
        values = [reports[run][name] for name in METRICS]
        yield _format_row([run.dataset, run.method, *("-" if value is None else f"{value:.1f}" for value in values)])


def format_speed(files: Iterable[Path]) -> Iterator[str]:
    """Yield the lines of a Markdown table with the results of `tools/benchmark.py --output`."""
    yield from SPEED_HEADER
    for file in files:
        report = json.loads(file.read_text(encoding="utf-8"))
        setting = [report["device"], report["settings"]["precision"], report["settings"]["batch"]]
        for row in report["rows"]:
            times, memory = row["milliseconds_per_image"], row["peak_megabytes"]["whole"]
            cells = [*setting, f"{row['size']}²", row["classes"], f"{row['images_per_second']:.1f}"]
            cells += [f"{row['whole_over_encode_image']:.2f}", f"{100 * times['image tower'] / times['whole']:.0f}"]
            yield _format_row([*cells, "-" if memory is None else f"{memory:.0f}"])


def _format_row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def hash_weights() -> str:
    """Return the first sixteen hexadecimal digits of the digest of the packaged weights."""
    return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:16]


def find_differences(stored: str, new: str) -> list[str]:
    """Return the table rows that differ by more than the tolerance. Rows are compared in order."""
    rows = ([line for line in text.splitlines() if line.startswith("|")] for text in (new, stored))
    pairs = zip_longest(*rows, fillvalue="no row")
    return [f"{row}  (was: {old})" for row, old in pairs if not _is_equal(row, old)]


def _is_equal(new: str, stored: str) -> bool:
    pairs = zip_longest(new.split("|"), stored.split("|"), fillvalue="")
    return all(cell == old or _is_close(cell, old) for cell, old in pairs)


def _is_close(new: str, stored: str) -> bool:
    try:
        return abs(float(new) - float(stored)) <= TOLERANCE
    except ValueError:  # not a number
        return False


def main() -> None:
    """Run all evaluations, then write the page or compare with it."""
    args = parse_arguments()
    register_builtin()
    text = format_page({name: evaluate(name) for name in TABLES}, {name: run_study(name) for name in STUDIES})
    if not args.check:
        FILE.write_text(text, encoding="utf-8")
        print(f"Wrote {FILE.relative_to(ROOT)}")
        return
    differences = find_differences(FILE.read_text(encoding="utf-8"), text)
    if differences:
        sys.exit("\n".join(["error: RESULTS.md has other numbers:", *differences]))
    print("RESULTS.md is up to date")


if __name__ == "__main__":
    with exit_on_interrupt():
        main()
