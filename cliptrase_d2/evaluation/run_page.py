"""Write the report page of a run from its configuration and results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.evaluation.evaluator import get_results_folder
from cliptrase_d2.evaluation.report.evaluations import EvaluationSource
from cliptrase_d2.evaluation.report.page import write_page
from cliptrase_d2.evaluation.summary import Run
from cliptrase_d2.methods.catalog import METHODS


def write_run_page(cfg: CfgNode, runs: Mapping[Run, CfgNode]) -> Path:
    """Write OUTPUT_DIR/report.html from the result files of a run.

    Args:
        cfg: of the run.
        runs: its finished evaluations, each with its configuration.
    Returns:
        The file.
    Raises:
        InputError: a result file is broken.
    """
    path = Path(cfg.OUTPUT_DIR) / "report.html"
    random_weights = not cfg.MODEL.CLIP.PRETRAINED
    sources = [_make_source(run, changed) for run, changed in runs.items()]
    facts = {
        "Model": cfg.MODEL.CLIP.NAME,
        "Weights": f"random, seed {cfg.MODEL.CLIP.SEED}" if random_weights else cfg.MODEL.CLIP.PRETRAINED,
        "Protocol": f"{cfg.TEST.PROTOCOL}, short side {cfg.INPUT.MIN_SIZE_TEST or 'unchanged'}",
        "Precision": cfg.MODEL.CLIP.PRECISION,
        "Device": cfg.MODEL.DEVICE,
        "Methods": ", ".join(dict.fromkeys(source.method for source in sources)),
    }
    write_page(path, sources, cfg.dump(), facts, random_weights)
    return path


def _make_source(run: Run, cfg: CfgNode) -> EvaluationSource:
    folder = get_results_folder(cfg.OUTPUT_DIR, run.dataset)
    keys = cfg.MODEL.CLIPTRASE
    settings = f"method {keys.METHOD}, clustering {keys.CLUSTERING}"
    settings += "".join(f", {option} {value}" for option, value in keys.METHOD_OPTIONS.items())
    name = run.method or _find_method(keys)
    if not name:
        return EvaluationSource(folder, "this configuration", settings)
    method = METHODS[name]
    return EvaluationSource(folder, name, f"{method.title}; {settings}", method.source)


def _find_method(keys: CfgNode) -> str:
    """Return the first method of the catalog that MODEL.CLIPTRASE matches, "" if there is none."""
    for name, method in METHODS.items():
        has_clusters = keys.CLUSTERING != "none" or not method.needs_clusters
        has_options = dict(keys.METHOD_OPTIONS) == method.options
        if has_clusters and has_options and all(keys[key.upper()] == value for key, value in method.settings.items()):
            return name
    return ""
