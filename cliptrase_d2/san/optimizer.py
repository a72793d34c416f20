"""AdamW and its schedule, as SAN is trained with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler
from torch import nn

from cliptrase_d2.d2 import CfgNode, LRMultiplier, WarmupParamScheduler, build_lr_scheduler
from cliptrase_d2.utils.errors import InputError

FULL_MODEL = "full_model"  # clips the norm of all gradients together
_POLY = "WarmupPolyLR"
_EMBEDDINGS = ("positional_embedding", "pos_embed", "query_embed")
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.AdamW:
    """AdamW over all that is trained: SOLVER.BASE_LR for everything, and a weight decay by kind.

    Raises:
        InputError: nothing is trained.
    """
    decays = {"norm": cfg.SOLVER.WEIGHT_DECAY_NORM, "embedding": cfg.SOLVER.WEIGHT_DECAY_EMBED}
    groups: dict[float, list[nn.Parameter]] = {}
    for kind, parameter in _trained(model):
        groups.setdefault(decays.get(kind, cfg.SOLVER.WEIGHT_DECAY), []).append(parameter)
    if not groups:
        raise InputError(
            "MODEL.META_ARCHITECTURE",
            f"{cfg.MODEL.META_ARCHITECTURE}, which has nothing to train",
            "Add --eval-only, or choose SAN.",
            allowed="SAN",
        )
    options: list[dict[str, Any]] = [{"params": found, "weight_decay": decay} for decay, found in groups.items()]
    return torch.optim.AdamW(options, cfg.SOLVER.BASE_LR)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter that is trained, once, with its kind: "norm", "embedding" or "weight"."""
    seen = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                if isinstance(module, _NORMS):
                    yield "norm", parameter
                elif isinstance(module, nn.Embedding) or any(part in name for part in _EMBEDDINGS):
                    yield "embedding", parameter
                else:
                    yield "weight", parameter


def build_schedule(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """SOLVER.LR_SCHEDULER_NAME: "WarmupPolyLR", (1 - t)^power of the training's share t, or one of Detectron2's."""
    if cfg.SOLVER.LR_SCHEDULER_NAME != _POLY:
        return build_lr_scheduler(cfg, optimizer)
    steps = cfg.SOLVER.MAX_ITER
    poly = PolynomialDecayParamScheduler(1.0, cfg.SOLVER.POLY_LR_POWER)
    warmup = min(cfg.SOLVER.WARMUP_ITERS / steps, 1.0)
    schedule = poly
    if warmup:
        schedule = WarmupParamScheduler(poly, cfg.SOLVER.WARMUP_FACTOR, warmup, cfg.SOLVER.WARMUP_METHOD)
    return LRMultiplier(optimizer, schedule, max_iter=steps)


def gradient_limit(cfg: CfgNode) -> float | None:
    """The largest norm that the gradients of a step may have in all; None for no limit.

    Raises:
        InputError: a way of clipping that there is not, or a limit that is none.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return None
    if clip.CLIP_TYPE != FULL_MODEL or clip.NORM_TYPE != 2.0:
        got = f"{clip.CLIP_TYPE!r} with norm {clip.NORM_TYPE:g}"
        allowed = f"{FULL_MODEL!r} with norm 2"
        raise InputError("SOLVER.CLIP_GRADIENTS", got, "Change it, or set ENABLED False.", allowed=allowed)
    if clip.CLIP_VALUE <= 0:
        raise InputError("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", clip.CLIP_VALUE, "Raise it.", allowed="a number above 0")
    return clip.CLIP_VALUE
