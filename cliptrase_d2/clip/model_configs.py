"""Configurations beside weights, compared with the model that was named."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from cliptrase_d2.clip.foreign_models import suggest_supported
from cliptrase_d2.utils.errors import InputError

OPEN_CLIP, TRANSFORMERS, PREPROCESSOR = "open_clip_config.json", "config.json", "preprocessor_config.json"
_QUICKGELU = "-quickgelu"
_ACTIVATIONS = {"quick_gelu": True, "gelu": False}
_CLIPS = ("clip", "metaclip_2")  # the types of transformers with CLIP's plain towers
_LETTERS = {1024: "L", 1152: "SO400M", 1280: "H"}  # of image towers by their width
_EPS = 1e-5  # of every norm in open_clip
# transformers omits entries with these values.
_VISION = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": _EPS,
}  # fmt: skip
_TEXT = {
    "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8,
    "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": _EPS,
    "eos_token_id": 49407,
}  # fmt: skip


def read_open_clip_config(path: Path, name: str) -> dict[str, Any]:
    """Return "quick_gelu", "mean" and "std" of an `open_clip_config.json`.

    Args:
        name: of the model in open_clip; its sizes are compared.
    Raises:
        InputError: the file is invalid, or the configuration is that of another model.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        config = content["model_cfg"]
        facts = {"quick_gelu": config.get("quick_gelu", False)}
        facts |= {key: content["preprocess_cfg"][key] for key in ("mean", "std")}
        _check_facts(**facts)
        if config.keys() >= {"vision_cfg", "text_cfg"}:
            _check_sizes(path, config, name)
    except (OSError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, ValueError) as error:
        raise _invalid(path, error) from error
    return facts


def read_transformers_config(path: Path, name: str) -> dict[str, Any]:
    """Return "quick_gelu" of a `config.json`, and "mean" and "std" of the `preprocessor_config.json` beside it.

    Args:
        name: of the model in open_clip; its sizes are compared.
    Raises:
        InputError: a file is invalid, or the configuration is that of another model.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content.get("model_type")
        if kind not in _CLIPS:
            fix = suggest_supported(_name_by_sizes(content), later="siglip" in str(kind))
            raise InputError(path, f"a model of transformers of type {str(kind)[:60]!r}, not 'clip'", fix)
        config = _translate(content, kind)
        facts = {"quick_gelu": config["quick_gelu"], "mean": [0, 0, 0], "std": [1, 1, 1]}
        file = path.parent / PREPROCESSOR
        if has_statistics := file.is_file():
            path = file
            content = json.loads(file.read_text(encoding="utf-8"))
            facts |= {key: content[f"image_{key}"] for key in ("mean", "std")}
        _check_facts(**facts)
        _check_sizes(path.parent / TRANSFORMERS, config, name)
    except (OSError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, ValueError) as error:
        raise _invalid(path, error) from error
    return facts if has_statistics else {"quick_gelu": facts["quick_gelu"]}


def _name_by_sizes(content: Mapping[str, Any]) -> str:
    """Return a name such as ViT-L-16 for the image tower of a configuration of transformers."""
    vision = content.get("vision_config") or {}
    return f"ViT-{_LETTERS.get(vision.get('hidden_size', 768), 'B')}-{vision.get('patch_size', 16)}"


def _translate(content: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return open_clip's configuration of a `CLIPConfig`."""
    # Files of old versions have the towers a second time, under names that come first.
    vision = _VISION | (content.get("vision_config_dict") or content.get("vision_config") or {})
    text = _TEXT | (content.get("text_config_dict") or content.get("text_config") or {})
    activation = vision["hidden_act"]
    if activation not in _ACTIVATIONS or text["hidden_act"] != activation:
        raise ValueError(f"activations {activation!r} and {text['hidden_act']!r}, not twice 'quick_gelu' or 'gelu'")
    if {vision["layer_norm_eps"], text["layer_norm_eps"]} != {_EPS}:
        raise ValueError(f"layer_norm_eps is not {_EPS}")
    vision_cfg = {
        "head_width": vision["hidden_size"] // vision["num_attention_heads"],
        "patch_size": vision["patch_size"],
        "image_size": vision["image_size"],
    }
    text_cfg = {
        "heads": text["num_attention_heads"],
        "vocab_size": text["vocab_size"],
        "context_length": text["max_position_embeddings"],
    }
    if kind != "clip":
        text_cfg |= {"pool_type": "eos", "eos_id": text["eos_token_id"]}
    for own, theirs in ((vision_cfg, vision), (text_cfg, text)):
        own["width"], own["layers"] = theirs["hidden_size"], theirs["num_hidden_layers"]
        own["mlp_ratio"] = theirs["intermediate_size"] / theirs["hidden_size"]
    return {
        "embed_dim": content.get("projection_dim", 512),
        "quick_gelu": _ACTIVATIONS[activation],
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
    }


def _check_sizes(path: Path, config: Mapping[str, Any], name: str) -> None:
    """Raise unless a configuration of open_clip has the towers of a model."""
    own = open_clip.get_model_config(name.replace("/", "-"))
    theirs, ours = _summarize(config), _summarize(own)
    differences = [f"{key} {theirs[key]}, not {ours[key]}" for key in ours if theirs[key] != ours[key]]
    if differences:
        got = f"the configuration of another model than {name}; {', '.join(differences[:5])}"
        raise InputError(path, got, _suggest_same(config))


def _suggest_same(config: Mapping[str, Any]) -> str:
    """Return the fix for a configuration of another model: its name in open_clip, with the same image if possible."""
    sizes, image = _summarize(config), config["vision_cfg"].get("image_size")
    configs = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
    same = [name for name, other in configs.items() if "-" in name and _summarize(other) == sizes]
    # A name with an ending differs in the activation only, which the configuration determines.
    same.sort(key=lambda name: (configs[name]["vision_cfg"].get("image_size") != image, _QUICKGELU in name, len(name)))
    if sizes["library"]:
        return suggest_supported(same[0] if same else str(sizes["library"]), later=True)
    if not same:
        return "No model of open_clip has this configuration. Register it with open_clip.add_model_config."
    return f"It is that of {same[0]}. Set MODEL.CLIP.NAME (--model) to this name."


def _summarize(config: Mapping[str, Any]) -> dict[str, object]:
    """Return everything that determines the towers, but for the activation and the trained numbers of positions."""
    vision, text = asdict(CLIPVisionCfg(**config["vision_cfg"])), asdict(CLIPTextCfg(**config["text_cfg"]))
    library = vision["timm_model_name"] or text["hf_model_name"] or ("CoCa" if "multimodal_cfg" in config else "")
    summary = {
        "library": library,
        "embed_dim": config["embed_dim"],
        "image heads": vision["width"] // vision["head_width"],
        "pooling": f"{vision['pool_type']}, {vision['attentional_pool']}",
        "patch_size": vision["patch_size"],
        "text heads": text["heads"],
        "vocab_size": text["vocab_size"],
        "end token": f"{text['pool_type']} {text['eos_id'] if text['pool_type'] == 'eos' else ''}".strip(),
        "bidirectional": text["no_causal_mask"],
    }
    for tower, values in (("image", vision), ("text", text)):
        summary |= {f"{tower} width": values["width"], f"{tower} layers": values["layers"]}
        summary[f"{tower} mlp"] = round(values["width"] * values["mlp_ratio"])
    return summary


def _check_facts(quick_gelu: object, mean: object, std: object) -> None:
    if not isinstance(quick_gelu, bool):
        raise TypeError(f"quick_gelu is {quick_gelu!r}, not true or false")
    for name, value in (("mean", mean), ("std", std)):
        numbers = value if isinstance(value, list) and len(value) == 3 else [None]
        if not all(isinstance(n, int | float) and math.isfinite(n) and (n > 0 or name == "mean") for n in numbers):
            raise ValueError(f"{name} is {str(value)[:60]}, not three numbers")


def _invalid(path: Path, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    got = f"invalid model configuration ({type(error).__name__}: {str(error)[:200]})"
    return InputError(path, got, "Download this file again, or move the weights to another folder.")
