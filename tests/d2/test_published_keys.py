"""Configurations of the published SAN, read by this project's and by Detectron2's functions."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from cliptrase_d2.config import add_keys, load_config
from cliptrase_d2.d2 import CfgNode, get_cfg, merge_config_file, merge_config_options
from cliptrase_d2.d2.config_merge import RENAMED_KEYS
from cliptrase_d2.d2.published_keys import BY_NAME, PUBLISHED_KEYS, get_value, has_key, require_own_keys
from cliptrase_d2.utils.errors import InputError
from tests.d2.published_san import PUBLISHED_DEFAULTS, add_san_config, nest

BIAS = "MODEL.SIDE_ADAPTER.ATTN_BIAS"
NOT_HERE = [row for row in PUBLISHED_KEYS if not row.ours]


def write(path: Path, **values: Any) -> Path:
    """Write dotted keys, with "__" for dots."""
    path.write_text(yaml.safe_dump(nest({key.replace("__", "."): value for key, value in values.items()})))
    return path


def both_packages(*, published_first: bool = True) -> CfgNode:
    cfg = get_cfg()
    for add in (add_san_config, add_keys) if published_first else (add_keys, add_san_config):
        add(cfg)
    return cfg


def differences(cfg: CfgNode, other: CfgNode, prefix: str = "") -> dict[str, Any]:
    """Return the keys of `cfg` that have another value in `other`."""
    result: dict[str, Any] = {}
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            result |= differences(value, other[name], f"{prefix}{name}.")
        elif value != other[name]:
            result[prefix + name] = value
    return result


def test_published_defaults_are_the_defaults_here_except_for_the_templates(tmp_path: Path) -> None:
    cfg = load_config(write(tmp_path / "san.yaml", MODEL__META_ARCHITECTURE="SAN", **PUBLISHED_DEFAULTS))
    assert differences(cfg, load_config()) == {"MODEL.META_ARCHITECTURE": "SAN", "MODEL.CLIP.TEMPLATES": "vild"}


@pytest.mark.parametrize("key", PUBLISHED_DEFAULTS)
def test_each_published_default_is_an_accepted_option(key: str) -> None:
    expected = {"MODEL.CLIP.TEMPLATES": "vild"} if key == "MODEL.SAN.CLIP_TEMPLATE_SET" else {}
    assert differences(load_config(None, [key, str(PUBLISHED_DEFAULTS[key])]), load_config()) == expected


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ({"MODEL.SAN.CLIP_MODEL_NAME": "ViT-L/14"}, {"MODEL.CLIP.NAME": "ViT-L-14"}),
        ({"MODEL.SAN.CLIP_MODEL_NAME": "ViT-L-14-336"}, {"MODEL.CLIP.NAME": "ViT-L-14-336"}),
        ({"MODEL.SAN.CLIP_PRETRAINED_NAME": "laion2b_s34b_b88k"}, {"MODEL.CLIP.PRETRAINED": "laion2b_s34b_b88k"}),
        ({"MODEL.SAN.CLIP_TEMPLATE_SET": "simple"}, {"MODEL.CLIP.TEMPLATES": "simple"}),
        (
            {"MODEL.SIDE_ADAPTER.VIT_NAME": "vit_w144n4d5_patch8"},
            {"MODEL.SIDE_ADAPTER.WIDTH": 144, "MODEL.SIDE_ADAPTER.HEADS": 4, "MODEL.SIDE_ADAPTER.DEPTH": 5,
             "MODEL.SIDE_ADAPTER.PATCH_SIZE": 8},
        ),
        (
            {f"{BIAS}.EMBED_CHANNELS": 64, f"{BIAS}.MLP_CHANNELS": 64, f"{BIAS}.MLP_NUM_LAYERS": 2},
            {"MODEL.SIDE_ADAPTER.DECODER_CHANNELS": 64, "MODEL.SIDE_ADAPTER.DECODER_LAYERS": 2},
        ),
        ({"SOLVER.TEST_IMS_PER_BATCH": 4}, {"TEST.BATCH_SIZE": 4}),
        ({"SOLVER.OPTIMIZER": "SGD", "SOLVER.BACKBONE_MULTIPLIER": 0.5},
         {"SOLVER.OPTIMIZER": "SGD", "SOLVER.BACKBONE_MULTIPLIER": 0.5}),
        (
            {"INPUT.SIZE_DIVISIBILITY": 512, "INPUT.CROP.ENABLED": True, "INPUT.CROP.SIZE": "(512, 512)"},
            {"INPUT.CROP.ENABLED": True, "INPUT.CROP.SIZE": [512, 512]},
        ),
        ({f"{BIAS}.NUM_HEADS": 16, "MODEL.SAN.NUM_CLASSES": 20, "MODEL.FLASH": True, "WANDB.NAME": "run"}, {}),
    ],
)  # fmt: skip
def test_keys_of_another_name_are_read_from_files_and_options(
    published: dict[str, Any], ours: dict[str, Any], tmp_path: Path
) -> None:
    words = [str(word) for pair in published.items() for word in pair]
    for cfg in (load_config(write(tmp_path / "a.yaml", **published)), load_config(None, words)):
        assert differences(cfg, load_config()) == ours


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("MODEL.SAN.REC_CROSS_ATTN", True, "True. Allowed: False"),
        ("MODEL.SAN.REC_DOWNSAMPLE_METHOD", "avg", "'avg'. Allowed: 'max'"),
        ("MODEL.SAN.SOS_TOKEN_FORMAT", "pos_embedding", "'pos_embedding'. Allowed: 'cls_token'"),
        ("MODEL.SAN.ASYMETRIC_INPUT", False, r"False. Allowed: True.*MODEL\.SAN\.CLIP_RESOLUTION 1\.0"),
        ("MODEL.SAN.SEM_SEG_POSTPROCESS_BEFORE_INFERENCE", False, "False. Allowed: True"),
        ("MODEL.SAN.CLIP_FROZEN_EXCLUDE", ["all"], r"\['all'\]. Allowed: \['positional_embedding'\]"),
        ("MODEL.SAN.CLIP_DEEPER_FROZEN_EXCLUDE", ["all"], r"\['all'\]. Allowed: \[\]"),
        ("MODEL.SIDE_ADAPTER.NAME", "Other", "'Other'. Allowed: 'RegionwiseSideAdapterNetwork'"),
        ("MODEL.SIDE_ADAPTER.VIT_NAME", "vit_tiny_patch16_224", r"'vit_tiny_patch16_224'.*vit_w.*SIDE_ADAPTER\.WIDTH"),
        ("MODEL.SIDE_ADAPTER.PRETRAINED", True, "True. Allowed: False"),
        ("MODEL.SIDE_ADAPTER.DROP_PATH_RATE", 0.1, r"0\.1. Allowed: 0\.0"),
        ("MODEL.SIDE_ADAPTER.FUSION_TYPE", "cat", "'cat'. Allowed: 'add'"),
        (f"{BIAS}.NUM_LAYERS", 3, "3. Allowed: 1"),
        (f"{BIAS}.RESCALE_ATTN_BIAS", False, "False. Allowed: True"),
        (f"{BIAS}.NUM_HEADS", 1, "1. Allowed: the number of CLIP's"),
        (f"{BIAS}.MLP_CHANNELS", 128, "EMBED_CHANNELS 256 and MLP_CHANNELS 128.*DECODER_CHANNELS"),
        (f"{BIAS}.EMBED_CHANNELS", 128, "EMBED_CHANNELS 128 and MLP_CHANNELS 256.*DECODER_CHANNELS"),
        ("INPUT.DATASET_MAPPER_NAME", "coco", "'coco'. Allowed: 'mask_former_semantic'"),
        ("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0.75, r"0\.75. Allowed: 1\.0"),
        ("INPUT.SIZE_DIVISIBILITY", 640, r"640.*-1.*INPUT\.CROP"),
        ("INPUT.SIZE_DIVISIBILITY", "wide", r"wide.*-1.*INPUT\.CROP"),
        ("SOLVER.WEIGHT_DECAY_EMBED_GROUP", ["pos_embed"], r"\['pos_embed'\]. Allowed: .*query_embed"),
        ("SOLVER.POLY_LR_CONSTANT_ENDING", 0.1, r"0\.1. Allowed: 0\.0"),
        ("SOLVER.TEST_IMS_PER_BATCH", "two", "'two'.*int, such as 1"),
    ],
)
def test_values_without_a_counterpart_are_errors(key: str, value: object, match: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"a\.yaml: {key}: {match}"):
        load_config(write(tmp_path / "a.yaml", **{key: value}))
    with pytest.raises(InputError, match=rf"^option {key}: {match}"):
        load_config(None, [key, str(value)])


def test_padding_must_equal_the_crop_of_the_whole_chain_of_files(tmp_path: Path) -> None:
    crop = {"INPUT.CROP.ENABLED": True, "INPUT.CROP.TYPE": "absolute", "INPUT.CROP.SIZE": [640, 640]}
    write(tmp_path / "base.yaml", **{"INPUT.SIZE_DIVISIBILITY": 640}, **crop)
    assert load_config(tmp_path / "base.yaml").INPUT.CROP.SIZE == [640, 640]
    leaf = write(tmp_path / "leaf.yaml", _BASE_="base.yaml", **{"INPUT.CROP.SIZE": [512, 512]})
    with pytest.raises(InputError, match=r"base\.yaml: INPUT\.SIZE_DIVISIBILITY: 640.*\[512, 512\]"):
        load_config(leaf)


def test_unknown_keys_beside_published_ones_are_errors(tmp_path: Path) -> None:
    for key in (f"{BIAS}.EMBED_CHANNEL", "WANDB.GROUP"):
        with pytest.raises(InputError, match=rf"a\.yaml: unknown key {key}"):
            load_config(write(tmp_path / "a.yaml", **{key: 1}))
        with pytest.raises(InputError, match=rf"unknown key {key}"):
            load_config(None, [key, "1"])
    with pytest.raises(InputError, match=r"a\.yaml: WANDB: 'san'"):
        load_config(write(tmp_path / "a.yaml", WANDB="san"))


def test_one_line_of_the_log_names_the_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("cliptrase_d2").propagate = True
    values = {"MODEL.SAN.CLIP_MODEL_NAME": "ViT-L/14", "MODEL.SAN.NUM_CLASSES": 20, "MODEL.FLASH": False}
    path = write(tmp_path / "san.yaml", MODEL__META_ARCHITECTURE="SAN", **values)
    with caplog.at_level(logging.INFO, "cliptrase_d2.d2.published_keys"):
        load_config(path)
        load_config(write(tmp_path / "ours.yaml", MODEL__CLIP__NAME="ViT-L-14"))
    (line,) = caplog.messages
    assert line.startswith(f"{path}: ")
    assert "MODEL.SAN.CLIP_MODEL_NAME as MODEL.CLIP.NAME ViT-L-14;" in line
    assert "MODEL.SAN.NUM_CLASSES is ignored (the number of classes is that of DATASETS.TRAIN)" in line
    assert "MODEL.CLIP.TEMPLATES vild" in line


@pytest.mark.parametrize(
    ("values", "templates"),
    [
        ({"MODEL.META_ARCHITECTURE": "SAN", "SOLVER.TEST_IMS_PER_BATCH": 1}, "vild"),
        ({"MODEL.META_ARCHITECTURE": "CLIPtraseSAN", "SOLVER.TEST_IMS_PER_BATCH": 1}, "vild"),
        (
            {"MODEL.META_ARCHITECTURE": "SAN", "SOLVER.TEST_IMS_PER_BATCH": 1, "MODEL.CLIP.TEMPLATES": "simple"},
            "simple",
        ),
        ({"MODEL.META_ARCHITECTURE": "SAN", "MODEL.SAN.CLIP_TEMPLATE_SET": "imagenet"}, "imagenet"),
        ({"MODEL.META_ARCHITECTURE": "SAN", "TEST.BATCH_SIZE": 1}, "imagenet"),  # not a published file
        ({"SOLVER.TEST_IMS_PER_BATCH": 1}, "imagenet"),  # not SAN
    ],
)
def test_published_files_have_the_published_templates(values: dict[str, Any], templates: str, tmp_path: Path) -> None:
    assert templates == load_config(write(tmp_path / "a.yaml", **values)).MODEL.CLIP.TEMPLATES


def test_a_file_may_change_a_published_base_by_either_name(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", **{"MODEL.SAN.CLIP_MODEL_NAME": "ViT-L/14", f"{BIAS}.MLP_NUM_LAYERS": 4})
    leaf = write(
        tmp_path / "leaf.yaml", _BASE_="base.yaml", **{"MODEL.CLIP.NAME": "ViT-H-14", f"{BIAS}.MLP_NUM_LAYERS": 5}
    )
    cfg = load_config(leaf)
    assert (cfg.MODEL.CLIP.NAME, cfg.MODEL.SIDE_ADAPTER.DECODER_LAYERS) == ("ViT-H-14", 5)


def test_a_rejected_file_changes_nothing(tmp_path: Path) -> None:
    cfg = load_config()
    with pytest.raises(InputError, match="SOS_TOKEN_FORMAT"):
        merge_config_file(cfg, write(tmp_path / "a.yaml", SEED=3, MODEL__SAN__SOS_TOKEN_FORMAT="learnable_token"))
    assert cfg == load_config()


def test_published_keys_need_this_projects_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", SOLVER__TEST_IMS_PER_BATCH=2)
    for cfg in (get_cfg(), both_packages(published_first=False)):
        with pytest.raises(InputError, match=r"MODEL\.(CLIP|SAN): .*Call add_cliptrase_config after add_san_config\."):
            merge_config_file(cfg, path)


@pytest.mark.parametrize("copy", [CfgNode.clone, lambda cfg: pickle.loads(pickle.dumps(cfg))], ids=["clone", "pickle"])
@pytest.mark.parametrize("key", [*BY_NAME, *RENAMED_KEYS])
def test_detectron2s_own_merging_names_the_key_here(key: str, copy: Any, tmp_path: Path) -> None:
    cfg, value = copy(load_config()), PUBLISHED_DEFAULTS.get(key, 1)
    ours = (RENAMED_KEYS[key],) if key in RENAMED_KEYS else BY_NAME[key].ours
    path = write(tmp_path / "a.yaml", VERSION=2, **{key: value})
    for merge in (lambda: cfg.merge_from_list([key, value]), lambda: cfg.merge_from_file(str(path))):
        with pytest.raises(KeyError) as caught:
            merge()
        message = str(caught.value)
        assert all(name in message for name in ours)
        assert "merge_config_file" in message or key in RENAMED_KEYS
    assert cfg == load_config()


def test_detectron2s_own_merging_names_former_values() -> None:
    with pytest.raises(KeyError, match="qq_kk_vv is now cliptrase"):
        load_config().merge_from_list(["MODEL.CLIPTRASE.ATTENTION", "qk"])


def test_adding_the_keys_twice_changes_nothing() -> None:
    cfg = load_config(None, ["SOLVER.OPTIMIZER", "SGD", "MODEL.SAN.CLASS_WEIGHT", "3.0"])
    add_keys(cfg)
    assert (cfg.SOLVER.OPTIMIZER, cfg.MODEL.SAN.CLASS_WEIGHT) == ("SGD", 3.0)


def test_one_cfg_has_the_keys_of_both_packages() -> None:
    cfg = get_cfg()
    add_san_config(cfg)
    cfg.MODEL.SAN.CLASS_WEIGHT, cfg.SOLVER.OPTIMIZER, cfg.INPUT.FORMAT = 7.0, "SGD", "BGR"
    add_keys(cfg)
    theirs = {key: get_value(cfg, key) for key in PUBLISHED_DEFAULTS}
    assert theirs == PUBLISHED_DEFAULTS | {"MODEL.SAN.CLASS_WEIGHT": 7.0, "SOLVER.OPTIMIZER": "SGD"}
    ours = differences(load_config(), cfg)
    assert ours == {"MODEL.SAN.CLASS_WEIGHT": 2.0, "SOLVER.OPTIMIZER": "ADAMW"}
    cfg.merge_from_list(["MODEL.SAN.NUM_CLASSES", 3])  # a key of the cfg, not a renamed one


def test_one_cfg_reads_published_keys_for_both_packages(tmp_path: Path) -> None:
    cfg = both_packages()
    values = {"MODEL.SAN.CLIP_MODEL_NAME": "ViT-L/14", "WANDB.NAME": "run", "MODEL.META_ARCHITECTURE": "CLIPtraseSAN"}
    merge_config_file(cfg, write(tmp_path / "a.yaml", **values))
    merge_config_options(cfg, ["MODEL.SIDE_ADAPTER.VIT_NAME", "vit_w144n6d8_patch16"])
    assert (cfg.MODEL.SAN.CLIP_MODEL_NAME, cfg.MODEL.CLIP.NAME, cfg.WANDB.NAME) == ("ViT-L/14", "ViT-L-14", "run")
    assert (cfg.MODEL.SIDE_ADAPTER.VIT_NAME, cfg.MODEL.SIDE_ADAPTER.WIDTH) == ("vit_w144n6d8_patch16", 144)
    require_own_keys(cfg)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ((), r"CLIP_TEMPLATE_SET: 'vild' contradicts MODEL\.CLIP\.TEMPLATES 'imagenet'"),
        (("MODEL.CLIP.TEMPLATES", "vild"), None),
        (("MODEL.CLIP.TEMPLATES", "vild", "MODEL.CLIP.NAME", "ViT-L-14"), None),  # the published key has its default
        (
            ("MODEL.CLIP.TEMPLATES", "vild", "MODEL.SAN.CLIP_MODEL_NAME", "ViT-L/14"),
            "'ViT-L/14' contradicts .*'ViT-B-16'",
        ),
        (("MODEL.CLIP.TEMPLATES", "vild", "MODEL.SAN.SOS_TOKEN_FORMAT", "pos_embedding"), "SOS_TOKEN_FORMAT: 'pos_emb"),
    ],
)
def test_published_values_that_were_set_without_ours_are_errors(options: tuple[str, ...], match: str | None) -> None:
    cfg = both_packages()
    cfg.merge_from_list(list(options))
    if match is None:
        require_own_keys(cfg)
    else:
        with pytest.raises(InputError, match=match):
            require_own_keys(cfg)


def test_the_wrong_order_of_both_packages_is_an_error() -> None:
    with pytest.raises(InputError, match=r"^MODEL\.SAN: .*Call add_cliptrase_config after add_san_config\.$"):
        require_own_keys(both_packages(published_first=False))
    require_own_keys(load_config())


def test_every_row_of_the_table_is_consistent() -> None:
    published = {*PUBLISHED_DEFAULTS, "SOLVER.POLY_LR_CONSTANT_ENDING"}
    assert {row.name for row in PUBLISHED_KEYS} <= published
    assert len(BY_NAME) == len(PUBLISHED_KEYS)
    cfg = load_config()
    assert all(has_key(cfg, key) for row in PUBLISHED_KEYS for key in row.ours)
    assert not [row.name for row in PUBLISHED_KEYS if has_key(cfg, row.name)]
    assert {key for key in PUBLISHED_DEFAULTS if not has_key(cfg, key)} <= BY_NAME.keys()
    values = {row.name: row.value for row in PUBLISHED_KEYS if row.value is not None}
    for name, value in values.items():
        assert PUBLISHED_DEFAULTS.get(name, 0.0) == value
