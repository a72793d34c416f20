"""Tells the page of a run what the configuration says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.evaluation.evaluator import results_folder
from cliptrase_d2.evaluation.report.evaluations import Source
from cliptrase_d2.evaluation.report.page import RunFacts, write_page
from cliptrase_d2.evaluation.runs import SYSTEMS
from cliptrase_d2.evaluation.summary import Run

_OWN_NAME = "this configuration"  # of a system that is none of SYSTEMS


def write_run_page(cfg: CfgNode, runs: Mapping[Run, CfgNode]) -> Path:
    """Write OUTPUT_DIR/report.html, from what the evaluations of a run have left on the disk.

    Args:
        cfg: of the run.
        runs: its evaluations, finished, each with its configuration.
    Returns:
        The file.
    Raises:
        InputError: an evaluation left a broken file.
    """
    path = Path(cfg.OUTPUT_DIR) / "report.html"
    random_weights = not cfg.MODEL.CLIP.PRETRAINED
    facts = {
        "Model": cfg.MODEL.CLIP.NAME,
        "Weights": f"random, seed {cfg.MODEL.CLIP.SEED}" if random_weights else cfg.MODEL.CLIP.PRETRAINED,
        "Protocol": f"{cfg.TEST.PROTOCOL}, short side {cfg.INPUT.MIN_SIZE_TEST or 'as it is'}",
        "Precision": cfg.MODEL.CLIP.PRECISION,
        "Device": cfg.MODEL.DEVICE,
        "Systems": ", ".join(_unique(_source(run, changed).system for run, changed in runs.items())),
    }
    sources = [_source(run, changed) for run, changed in runs.items()]
    write_page(path, sources, RunFacts(cfg.dump(), random_weights, facts))
    return path


def _source(run: Run, cfg: CfgNode) -> Source:
    folder = results_folder(cfg.OUTPUT_DIR, run.dataset)
    method = cfg.MODEL.CLIPTRASE
    settings = f"attention {method.ATTENTION}, clustering {method.CLUSTERING}"
    name = run.system or _system_of(method)
    if not name:
        return Source(folder, _OWN_NAME, settings)
    system = SYSTEMS[name]
    return Source(folder, name, f"{system.title}; {settings}", system.source, name)


def _system_of(method: CfgNode) -> str:
    """The system that MODEL.CLIPTRASE is, "" if it is none of them; the first in the table that it fits."""
    for name, system in SYSTEMS.items():
        has_what_it_needs = method.CLUSTERING != "none" or not system.needs_clusters
        if has_what_it_needs and all(method[key] == value for key, value in system.keys.items()):
            return name
    return ""


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
