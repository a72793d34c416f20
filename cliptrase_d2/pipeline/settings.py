"""Settings of CLIPtrase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.pipeline.classify import RULES
from cliptrase_d2.pipeline.correlation import HEADS, MEASURES
from cliptrase_d2.pipeline.refinement import REFINEMENTS
from cliptrase_d2.utils.errors import check_choice, check_range

CLUSTERINGS = ("dbscan", "hdbscan", "none")


@dataclass(frozen=True, kw_only=True)
class CLIPtraseSettings:
    """Settings of the method. `config.py` explains each of them under MODEL.CLIPTRASE.

    Raises:
        InputError: a setting is out of range.
    """

    method: str = "cliptrase"
    method_options: Mapping[str, Any] = field(default_factory=dict)
    correlation_layer: int = -2
    correlation: str = "cosine"
    heads: str = "separate"
    suppress_global_patches: bool = True
    clustering: str = "dbscan"
    eps: float = 0.7
    min_samples: int = 3
    adaptive_dbscan: bool = False
    min_cluster_size: int = 5
    mask_upsample: int = 4
    median_filter: int = 7
    classification: str = "vote"
    cls_logit_weight: bool = False
    cls_logit_bias: float = 0.0
    refinement: str = "none"
    refinement_steps: int = 10

    def __post_init__(self) -> None:
        for setting in fields(self):  # a heading without a value in YAML
            value = getattr(self, setting.name)
            check_range(setting.name, value, value is not None, "a value")
        check_choice("correlation", self.correlation, MEASURES)
        check_choice("heads", self.heads, HEADS)
        check_choice("clustering", self.clustering, CLUSTERINGS)
        check_choice("classification", self.classification, RULES)
        check_choice("refinement", self.refinement, REFINEMENTS)
        check_range("eps", self.eps, self.eps > 0, "a number above 0")
        for name, least in (("refinement_steps", 1), ("min_samples", 1), ("min_cluster_size", 2), ("mask_upsample", 1)):
            check_range(name, getattr(self, name), getattr(self, name) >= least, f"{least} or more")
        check_range("cls_logit_bias", self.cls_logit_bias, isfinite(self.cls_logit_bias), "a finite number")
        is_odd = self.median_filter >= 1 and self.median_filter % 2 == 1
        check_range("median_filter", self.median_filter, is_odd, "an odd number, 1 for no filter")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> CLIPtraseSettings:
        """Read the settings from MODEL.CLIPTRASE, whose keys are their names in capitals.

        Raises:
            InputError: a setting is out of range.
        """
        keys = cfg.MODEL.CLIPTRASE
        values = {field.name: keys[field.name.upper()] for field in fields(cls)}
        return cls(**values | {"method_options": dict(keys.METHOD_OPTIONS)})
