from __future__ import annotations

from pathlib import Path

import pytest

from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import CfgNode, config_merge, get_cfg, merge_config_file, merge_config_options
from cliptrase_d2.utils.errors import InputError


@pytest.fixture
def cfg() -> CfgNode:
    return get_cfg()


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_file_overrides_its_bases_and_later_bases_earlier_ones(cfg: CfgNode, tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", "MODEL: {WEIGHTS: a.pth}\nSEED: 1\nOUTPUT_DIR: a\n")
    _write(tmp_path / "b.yaml", "SEED: 2\nOUTPUT_DIR: b\n")
    leaf = _write(tmp_path / "family/leaf.yaml", "_BASE_: [../a.yaml, ../b.yaml]\nSEED: 3\n")
    merge_config_file(cfg, leaf)
    assert (cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR, cfg.SEED, cfg.VIS_PERIOD) == ("a.pth", "b", 3, 0)


def test_options_of_a_method_take_any_name_and_replace_those_of_a_base(tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", "MODEL: {CLIPTRASE: {METHOD_OPTIONS: {deviation: 5, attention: kk, blocks: 2}}}\n")
    text = "_BASE_: a.yaml\nMODEL: {CLIPTRASE: {METHOD_OPTIONS: {deviation: 2.5, blocks: null}}}\n"
    cfg = load_config(_write(tmp_path / "b.yaml", text), ["MODEL.CLIPTRASE.METHOD_OPTIONS.attention", "csa"])
    options = {"deviation": 2.5, "attention": "csa", "blocks": None}
    assert dict(cfg.MODEL.CLIPTRASE.METHOD_OPTIONS) == options
    again = load_config(_write(tmp_path / "c.yaml", cfg.dump()))
    assert dict(again.MODEL.CLIPTRASE.METHOD_OPTIONS) == options


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.CLIPTRASE.METHOD_OPTIONS", "{'deviation': 3}", r"METHOD_OPTIONS"),
        ("MODEL.CLIPTRASE.METHOD_OPTIONS.", "3", r"METHOD_OPTIONS\."),
        ("MODEL.CLIPTRASE.EPS.a.b", "3", r"EPS\.a\.b"),
        ("MODEL.CLIPTRASE.METHOD_OPTIONS.a.b", "3", r"METHOD_OPTIONS\.a\.b"),
    ],
)
def test_a_faulty_option_of_a_method_gives_one_clear_error(key: str, value: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(options=[key, value])


def test_the_result_equals_that_of_the_library(cfg: CfgNode, tmp_path: Path) -> None:
    _write(tmp_path / "Base.yaml", "VERSION: 2\nSOLVER: {STEPS: [1, 2], BASE_LR: 0.5}\nDATASETS: {TEST: [a, b]}\n")
    _write(tmp_path / "leaf.yaml", "_BASE_: Base.yaml\nSOLVER: {STEPS: [3]}\nDATASETS: {TEST: [c]}\n")
    expected = get_cfg()
    expected.merge_from_file(str(tmp_path / "leaf.yaml"))
    merge_config_file(cfg, tmp_path / "leaf.yaml")
    assert cfg == expected
    assert cfg.SOLVER.STEPS == (3,)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "MODEL:\n"], ids=["empty", "comment", "empty heading"])
def test_a_file_without_values_changes_nothing(text: str, cfg: CfgNode, tmp_path: Path) -> None:
    merge_config_file(cfg, _write(tmp_path / "empty.yaml", text))
    assert cfg == get_cfg()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SEED: [1, 2]", r"a.yaml: SEED: \[1, 2\].*int"),
        ("SOLVER: {BASE_LR: fast}", r"a.yaml: SOLVER.BASE_LR: 'fast'.*float"),
        ("MODEL: 3", r"a.yaml: MODEL: 3 .*WEIGHTS"),
        ("SEED: {A: 1}", r"a.yaml: SEED: {'A': 1}.*int"),
        ("OUTPUT_DIR: 2020-01-01", r"a.yaml: OUTPUT_DIR: .*date.*str"),
        ("- SEED\n- 1", r"a.yaml: .*list"),
        ("SEED: [1", r"a.yaml: .*line"),
        ("_BASE_: nowhere.yaml", r"nowhere.yaml: "),
        ("_BASE_: a.yaml", r"a.yaml: .*_BASE_"),
        ("_BASE_: 3", r"a.yaml: _BASE_: 3"),
        ("SOLVR: {BASE_LR: 0.1}", r"a.yaml: .*SOLVR\. .*SOLVER\."),
        ("solver: {}", r"a.yaml: .*solver\. .*SOLVER\."),
        ("INPUT: {CROP: {SIZES: [1, 1]}}", r"a.yaml: .*INPUT.CROP.SIZES\. .*INPUT.CROP.SIZE\."),
        ("17: 4", r"a.yaml: .*17\. .*VERSION, "),
        ("_BASE_: base.py", r"base.py: .*LazyConfig.*YAML"),
        (
            "INPUT: {MIN_SIZE_TRAIN: !!python/object/apply:eval ['[1]']}",
            r"a.yaml: .*line 1.*Write the value.*\[320, 640\]",
        ),
    ],
)
def test_a_faulty_file_gives_one_clear_error(text: str, message: str, cfg: CfgNode, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        merge_config_file(cfg, _write(tmp_path / "a.yaml", text))


def test_an_error_in_a_base_names_the_base(cfg: CfgNode, tmp_path: Path) -> None:
    _write(tmp_path / "Base.yaml", "MODEL: {WEIGHT: a.pth}\n")
    with pytest.raises(InputError, match=r"Base.yaml: .*MODEL.WEIGHT\. .*MODEL.WEIGHTS\."):
        merge_config_file(cfg, _write(tmp_path / "leaf.yaml", "_BASE_: Base.yaml\nSEED: 2\n"))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("MODEL: {MASK_FORMER: {NHEADS: 8}}", "MODEL.MASK_FORMER"),
        ("MODEL: {SEM_SEG_HEAD: {NUM_CLASSES: 3, MASK_DIM: 256}}", "MODEL.SEM_SEG_HEAD.MASK_DIM"),
        ("MODEL: {SEM_SEG_HEAD: {ASPP_CHANNELS: 256}}", "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS"),
        ("MODEL: {SWIN: {EMBED_DIM: 96}}", "MODEL.SWIN"),
        ("INPUT: {MIN_SCALE: 0.1}", "INPUT.MIN_SCALE"),
    ],
)
def test_keys_of_other_models_are_named_without_a_replacement(
    text: str, key: str, cfg: CfgNode, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"a.yaml: {key}, .*MaskFormer.* Remove it"):
        merge_config_file(cfg, _write(tmp_path / "a.yaml", text))


def test_a_python_configuration_is_not_run(cfg: CfgNode, tmp_path: Path) -> None:
    path = _write(tmp_path / "lazy.py", f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for read in (lambda: merge_config_file(cfg, path), lambda: load_config(path)):
        with pytest.raises(InputError, match=rf"{path}: .*LazyConfig.*YAML"):
            read()
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_a_folder_and_a_binary_file_are_named(cfg: CfgNode, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xd8\xff\xe0")
    for path in (tmp_path / "missing.yaml", tmp_path, tmp_path / "a.yaml"):
        with pytest.raises(InputError, match=rf"{path}: "):
            merge_config_file(cfg, path)


def test_a_configuration_of_the_package_is_found_by_name(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emoji_scenes").mkdir()  # a folder of scenes is no configuration
    for name in ("emoji_scenes", "configs/emoji_scenes.yaml"):  # the second as in a clone
        assert load_config(name).OUTPUT_DIR == "output/emoji_scenes"
    _write(tmp_path / "configs/emoji_scenes.yaml", "OUTPUT_DIR: mine\n")
    _write(tmp_path / "cliptrase/vit_b16_whole", "OUTPUT_DIR: mine\n")
    for name in ("configs/emoji_scenes.yaml", "cliptrase/vit_b16_whole"):
        assert load_config(name).OUTPUT_DIR == "mine"  # an existing file wins


def test_a_base_may_be_a_configuration_of_the_package(tmp_path: Path) -> None:
    leaf = _write(tmp_path / "leaf.yaml", "_BASE_: cliptrase/voc20_whole\nSEED: 3\n")
    cfg = load_config(leaf)
    assert (cfg.MODEL.CLIPTRASE.CLS_LOGIT_WEIGHT, cfg.INPUT.MIN_SIZE_TEST, cfg.SEED) == (True, 336, 3)
    _write(tmp_path / "cliptrase/voc20_whole", "SEED: 4\nINPUT: {MIN_SIZE_TEST: 7}\n")
    assert load_config(leaf).INPUT.MIN_SIZE_TEST == 7


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("cliptrase/vit_b16_hole", "Did you mean 'cliptrase/vit_b16_whole'"),
        ("vit_b16_whole", "Did you mean 'cliptrase/vit_b16_whole'"),
        ("configs/cliptrase/voc20_24.yaml", "Did you mean 'cliptrase/voc20_224'"),
        ("emoji_scenes.yaml", "Did you mean 'emoji_scenes'"),  # a file name is that of a file
        ("zzz", "name of a configuration of the package, such as "),
    ],
)
def test_an_unknown_name_is_reported_with_near_ones(
    name: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"^{name}: no such file\. ") as error:
        load_config(name)
    assert fix in str(error.value)


def test_names_are_paths_without_the_folder_and_the_suffix() -> None:
    names = config_merge.get_config_names()
    assert {"emoji_scenes", "san/san_vit_b16", "Base-CLIPtrase"} <= set(names)
    assert all(path.is_file() for path in names.values())


def test_options_set_their_keys(cfg: CfgNode) -> None:
    merge_config_options(cfg, ["SEED", "3", "DATASETS.TEST", "('a', 'b')", "MODEL.WEIGHTS", "w.pth"])
    for nothing in (None, []):
        merge_config_options(cfg, nothing)
    assert (cfg.SEED, cfg.DATASETS.TEST, cfg.MODEL.WEIGHTS) == (3, ("a", "b"), "w.pth")


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SEED"], "SEED.*pairs of KEY and VALUE"),
        (["SEED=3"], "SEED=3.*pairs of KEY and VALUE"),
        (["MODEL.WEIGHT", "a"], r"MODEL.WEIGHT\. .*MODEL.WEIGHTS\."),
        (["MODEL", "a"], r"MODEL\."),
        (["SEED", "three"], r"SEED: 'three' \(str\).*int.*-1"),
        (["DATASETS.TEST", "voc"], r"DATASETS.TEST: 'voc'.*tuple"),
        (["SEED", "3", "--eval-only"], "--eval-only"),
        (["SEED", "3", "--num-gpus", "2"], "--num-gpus"),
    ],
)
def test_faulty_options_give_one_clear_error(opts: list[str], message: str, cfg: CfgNode) -> None:
    with pytest.raises(InputError, match=message):
        merge_config_options(cfg, opts)


@pytest.mark.parametrize(
    ("key", "value", "replacement"),
    [
        ("TEST.SYSTEMS", "[clip]", r"TEST.METHODS \['clip'\]"),
        ("SOLVER.CHECKPOINTS_KEPT", "3", "SOLVER.MAX_TO_KEEP 3"),
        ("MODEL.CLIPTRASE.RESOLUTION_FREE", "True", "MODEL.CLIPTRASE.ADAPTIVE_DBSCAN True"),
        ("MODEL.CLIPTRASE.ATTENTION", "qk", "MODEL.CLIPTRASE.METHOD clip"),
        ("MODEL.CLIPTRASE.ATTENTION", "v", "MODEL.CLIPTRASE.METHOD maskclip"),
        ("MODEL.CLIPTRASE.ATTENTION", "qq_kk", "MODEL.CLIPTRASE.METHOD sclip"),
        ("MODEL.CLIPTRASE.ATTENTION", "qq_kk_vv", "MODEL.CLIPTRASE.METHOD cliptrase"),
        ("MODEL.CLIPTRASE.ATTENTION", "gem", "MODEL.CLIPTRASE.METHOD gem"),
        ("MODEL.CLIPTRASE.OUTPUT_SEM_SEG", "True", "MODEL.CLIPTRASE.MAX_SEM_SEG 2.0"),
        ("MODEL.CLIPTRASE.OUTPUT_SEM_SEG", "False", "MODEL.CLIPTRASE.MAX_SEM_SEG 0.0"),
    ],
)
def test_a_renamed_key_is_named_with_its_new_name_and_value(
    key: str, value: str, replacement: str, cfg: CfgNode, tmp_path: Path
) -> None:
    cfg.MODEL.CLIPTRASE = CfgNode({"METHOD": "cliptrase"})
    *sections, name = key.split(".")
    text = "".join(f"{section}: {{" for section in sections) + f"{name}: {value}" + "}" * len(sections)
    with pytest.raises(InputError, match=rf"a.yaml: {key} .*{replacement}"):
        merge_config_file(cfg, _write(tmp_path / "a.yaml", text))
    with pytest.raises(InputError, match=rf"{key} .*{config_merge.RENAMED_KEYS[key]}"):
        merge_config_options(cfg, [key, value])
