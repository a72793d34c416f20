"""Several systems on several data sets, one after the other: the method and those that it is measured against."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.evaluation.evaluate import evaluate_dataset, finished_evaluation, require_datasets
from cliptrase_d2.evaluation.summary import Run
from cliptrase_d2.methods.attention import ATTENTIONS
from cliptrase_d2.pipeline.from_config import method_of
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.segmenter.build import Segmenting, build_segmenter
from cliptrase_d2.utils.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class System:
    """A method, in terms of the configuration; every other key is the same for all of them.

    Attributes:
        title: what it does, in a few words.
        source: where it is described.
        keys: of MODEL.CLIPTRASE, with their values. A system that does not set CLUSTERING has the configuration's
            clusters, and needs some.
    """

    title: str
    source: str
    keys: Mapping[str, str]

    @property
    def needs_clusters(self) -> bool:
        """Whether it names masks, not pixels."""
        return "CLUSTERING" not in self.keys


def _per_patch(title: str, attention: str) -> System:
    return System(title, ATTENTIONS[attention].source, {"ATTENTION": attention, "CLUSTERING": "none"})


def _with_clusters(system: System) -> System:
    keys = {key: value for key, value in system.keys.items() if key != "CLUSTERING"}
    return System(f"{system.title}; its pixels vote in CLIPtrase's clusters", system.source, keys)


_CLIPTRASE = ATTENTIONS["qq_kk_vv"].source
_NAMED = {
    "clip": _per_patch("CLIP as trained, patch by patch", "qk"),
    "maskclip": _per_patch("MaskCLIP, values only", "v"),
    "sclip": _per_patch("SCLIP, two self-correlations", "qq_kk"),
    "clearclip": _per_patch("ClearCLIP, queries with queries, no residual, no MLP", "clearclip"),
    "naclip": _per_patch("NACLIP, keys with keys and with neighbours, no residual, no MLP", "naclip"),
    "gem": _per_patch("GEM, self-self attention beside the last seven blocks", "gem"),
    "own_patch": _per_patch("Table 1: every patch sees itself alone", "own_patch"),
    "cosine": _per_patch("Table 1: CLIPtrase's attention by cosine, without clusters", "cosine"),
    "cosine_oracle": _per_patch("Table 1: the same, within the true region: an ORACLE", "cosine_oracle"),
    "cliptrase_scr": _per_patch("CLIPtrase's semantic correlation recovery, without clusters", "qq_kk_vv"),
    "cliptrase_inner_product": System(
        "Table 1: CLIPtrase, clusters of inner products",
        _CLIPTRASE,
        {"ATTENTION": "qq_kk_vv", "CORRELATION": "inner_product"},
    ),
    "cliptrase": System("CLIPtrase, with clusters", _CLIPTRASE, {"ATTENTION": "qq_kk_vv"}),
}


# Every system that names patches can let them vote in clusters; cliptrase_scr that does is cliptrase.
SYSTEMS = _NAMED | {
    f"{name}+clusters": _with_clusters(system)
    for name, system in _NAMED.items()
    if not system.needs_clusters and name != "cliptrase_scr"
}


def planned_runs(cfg: CfgNode) -> dict[Run, CfgNode]:
    """Every system of TEST.METHODS on every data set of DATASETS.TEST, in this order, with its configuration.

    A system writes to a folder of its name in OUTPUT_DIR. Without systems the configuration is evaluated as it stands.

    Raises:
        InputError: no data set, an unknown system or one named twice, or a configuration that does not fit a system.
    """
    require_datasets(cfg.DATASETS.TEST)
    names = list(cfg.TEST.METHODS)
    if CLIPtrase.__name__ != cfg.MODEL.META_ARCHITECTURE and (names or cfg.TEST.UNSUPERVISED_GROUPS):
        got = f"{cfg.MODEL.META_ARCHITECTURE} with TEST.METHODS or TEST.UNSUPERVISED_GROUPS"
        raise InputError("MODEL.META_ARCHITECTURE", got, "Leave them out.", allowed=f"{CLIPtrase.__name__} with these")
    for name in names:
        _check_name(name, names)
    systems = {name: _configuration(cfg, name) for name in names} or {"": cfg}
    return {Run(name, dataset): changed for name, changed in systems.items() for dataset in cfg.DATASETS.TEST}


def evaluate_runs(
    runs: Mapping[Run, CfgNode], *, resume: bool, model: Segmenting | None = None
) -> dict[Run, dict[str, float]]:
    """Evaluate one after the other, with one model: weights and text features are the same for all of them.

    Args:
        runs: as ``planned_runs`` gives them.
        resume: keep what an earlier run with the same configuration and data has finished.
        model: that is at hand; None to build it when it is needed.
    Returns:
        Percent by metric; empty in every process but the first.
    Raises:
        InputError: a model, an image or a label that cannot be used.
    """
    results: dict[Run, dict[str, float]] = {}
    for run, cfg in runs.items():
        found = finished_evaluation(cfg, run.dataset) if resume else None
        if found:
            logger.info("%s: kept from an earlier run with this configuration", run)
        else:
            if run.system:
                logger.info("%s: %s (%s)", run, SYSTEMS[run.system].title, SYSTEMS[run.system].source)
            model = model or build_segmenter(cfg)
            if isinstance(model, CLIPtrase):
                model.change_method(cfg.MODEL.CLIPTRASE.ATTENTION, method_of(cfg))
            # A comparison is read in its one table; those of every system would hide it.
            found = evaluate_dataset(cfg, model, run.dataset, resume=resume, log_table=not run.system)
        results[run] = found.get("sem_seg", {})
    return results


def _check_name(name: object, names: list[object]) -> None:
    if name not in list(SYSTEMS):
        close = difflib.get_close_matches(str(name).lower(), SYSTEMS, n=1)
        fix = f"Did you mean {close[0]!r}?" if close else "Name some of these."
        raise InputError("TEST.METHODS", f"the unknown system {name!r}", fix, allowed=", ".join(SYSTEMS))
    if names.count(name) > 1:
        raise InputError(
            "TEST.METHODS", f"the system {name!r} twice", "Remove one of them.", allowed="every system once"
        )


def _configuration(cfg: CfgNode, name: str) -> CfgNode:
    """What a system is evaluated with; equal to that of a run which sets these keys itself and names no system."""
    system = SYSTEMS[name]
    if system.needs_clusters and cfg.MODEL.CLIPTRASE.CLUSTERING == "none":
        raise InputError(
            "MODEL.CLIPTRASE.CLUSTERING",
            f"'none', but TEST.METHODS names {name!r}, which needs clusters",
            "Choose one of these, or name systems without clusters alone.",
            allowed="dbscan or hdbscan",
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.METHODS = ()
    cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, name)
    cfg.MODEL.CLIPTRASE.update(system.keys)
    cfg.freeze()
    return cfg
