"""Write the report page of a run from its configuration and results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.evaluation.compositions import find_composition, find_impossible, read_composition
from cliptrase_d2.evaluation.evaluator import get_results_folder
from cliptrase_d2.evaluation.report.evaluations import EvaluationSource
from cliptrase_d2.evaluation.report.page import write_page
from cliptrase_d2.evaluation.summary import Run
from cliptrase_d2.methods import get_method


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
    random_clip = not cfg.MODEL.CLIP.PRETRAINED
    random_weights = random_clip or any(map(_reads_random_model, runs.values()))
    sources = [_make_source(run, changed) for run, changed in runs.items()]
    protocols = ", ".join(dict.fromkeys(changed.TEST.PROTOCOL for changed in runs.values()))
    facts = {
        "Model": cfg.MODEL.CLIP.NAME,
        "Weights": f"random, seed {cfg.MODEL.CLIP.SEED}" if random_clip else cfg.MODEL.CLIP.PRETRAINED,
        "Protocol": f"{protocols}, short side {cfg.INPUT.MIN_SIZE_TEST or 'unchanged'}",
        "Precision": cfg.MODEL.CLIP.PRECISION,
        "Device": cfg.MODEL.DEVICE,
        "Methods": ", ".join(dict.fromkeys(source.method for source in sources)),
    }
    impossible = {name: str(reason) for name, reason in find_impossible(cfg).items()}
    write_page(path, sources, cfg.dump(), facts, random_weights, impossible)
    return path


def _reads_random_model(cfg: CfgNode) -> bool:
    """Return whether a model besides CLIP has random weights."""
    method, masks = cfg.MODEL.CLIPTRASE, cfg.MODEL.MASKS
    needs = get_method(method.METHOD, dict(method.METHOD_OPTIONS)).needs
    has_random_masks = method.CLUSTERING != "none" and masks.SOURCE == "backbone" and not masks.BACKBONE_WEIGHTS
    return has_random_masks or bool(needs.vision_features and not cfg.MODEL.VISION.WEIGHTS)


def _make_source(run: Run, cfg: CfgNode) -> EvaluationSource:
    folder = get_results_folder(cfg.OUTPUT_DIR, run.dataset)
    composition = read_composition(run.method) if run.method else find_composition(cfg)
    if composition is None:
        return EvaluationSource(folder, "this configuration", _describe_settings(cfg))
    method = composition.method
    return EvaluationSource(folder, composition.name, f"{composition.title}; {_describe_settings(cfg)}", method.source)


def _describe_settings(cfg: CfgNode) -> str:
    """Return the parts of a configuration, whether a composition names them or not."""
    keys = cfg.MODEL.CLIPTRASE
    parts = {"method": keys.METHOD, "clustering": keys.CLUSTERING}
    if keys.CLUSTERING != "none":
        parts |= {"masks": cfg.MODEL.MASKS.SOURCE, "rule": keys.CLASSIFICATION}
    parts |= {"refinement": keys.REFINEMENT, "protocol": cfg.TEST.PROTOCOL, **keys.METHOD_OPTIONS}
    return ", ".join(f"{name} {value}" for name, value in parts.items())
