from __future__ import annotations

from pathlib import Path

import pytest

from cliptrase_d2.d2 import CfgNode, get_cfg, merge_config_file, merge_config_options
from cliptrase_d2.utils.errors import InputError


@pytest.fixture
def cfg() -> CfgNode:
    return get_cfg()


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_leaf_wins_over_its_base_and_the_base_over_the_defaults(cfg: CfgNode, tmp_path: Path) -> None:
    _write(tmp_path / "Base.yaml", "MODEL: {WEIGHTS: base.pth}\nSEED: 1\n")
    leaf = _write(tmp_path / "family/leaf.yaml", "_BASE_: ../Base.yaml\nSEED: 2\n")
    merge_config_file(cfg, leaf)
    assert (cfg.MODEL.WEIGHTS, cfg.SEED, cfg.VIS_PERIOD) == ("base.pth", 2, 0)


def test_the_last_of_several_bases_wins(cfg: CfgNode, tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", "SEED: 1\nVIS_PERIOD: 1\n")
    _write(tmp_path / "b.yaml", "SEED: 2\n")
    merge_config_file(cfg, _write(tmp_path / "leaf.yaml", "_BASE_: [a.yaml, b.yaml]\n"))
    assert (cfg.SEED, cfg.VIS_PERIOD) == (2, 1)


def test_the_result_is_that_of_the_library_for_a_sound_file(cfg: CfgNode, tmp_path: Path) -> None:
    _write(tmp_path / "Base.yaml", "VERSION: 2\nSOLVER: {STEPS: [1, 2], BASE_LR: 0.5}\nDATASETS: {TEST: [a, b]}\n")
    _write(tmp_path / "leaf.yaml", "_BASE_: Base.yaml\nSOLVER: {STEPS: [3]}\nDATASETS: {TEST: [c]}\n")
    expected = get_cfg()
    expected.merge_from_file(str(tmp_path / "leaf.yaml"))
    merge_config_file(cfg, tmp_path / "leaf.yaml")
    assert cfg == expected
    assert cfg.SOLVER.STEPS == (3,)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "MODEL:\n"], ids=["empty", "comment", "bare heading"])
def test_a_file_that_says_nothing_changes_nothing(text: str, cfg: CfgNode, tmp_path: Path) -> None:
    merge_config_file(cfg, _write(tmp_path / "empty.yaml", text))
    assert cfg == get_cfg()


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch TARGET']",
        "!!python/object/apply:eval [\"open('TARGET', 'w')\"]",
        "!!python/name:os.system",
    ],
)
def test_yaml_that_runs_code_is_refused_and_not_run(value: str, cfg: CfgNode, tmp_path: Path) -> None:
    target = tmp_path / "was_here"
    path = _write(tmp_path / "evil.yaml", f"SEED: 1\nOUTPUT_DIR: {value.replace('TARGET', str(target))}\n")
    with pytest.raises(InputError, match=r"evil.yaml: a tag that plain YAML does not have .*line 2"):
        merge_config_file(cfg, path)
    assert not target.exists()


def test_yaml_that_runs_code_is_refused_in_a_base_too(cfg: CfgNode, tmp_path: Path) -> None:
    _write(tmp_path / "Base.yaml", "SEED: !!python/object/apply:int ['1']\n")
    with pytest.raises(InputError, match=r"Base.yaml: a tag"):
        merge_config_file(cfg, _write(tmp_path / "leaf.yaml", "_BASE_: Base.yaml\n"))


def test_a_misspelt_key_names_its_own_file_and_the_closest_key(cfg: CfgNode, tmp_path: Path) -> None:
    _write(tmp_path / "Base.yaml", "MODEL: {WEIGHT: a.pth}\n")
    leaf = _write(tmp_path / "leaf.yaml", "_BASE_: Base.yaml\nSEED: 2\n")
    with pytest.raises(InputError, match=r"Base.yaml: unknown key MODEL.WEIGHT\..*closest is MODEL.WEIGHTS\."):
        merge_config_file(cfg, leaf)


@pytest.mark.parametrize(
    ("text", "closest"),
    [
        ("SOLVR: {BASE_LR: 0.1}", "SOLVER"),
        ("solver: {}", "SOLVER"),
        ("INPUT: {CROP: {SIZES: [1, 1]}}", "INPUT.CROP.SIZE"),
    ],
)
def test_the_closest_key_is_found_at_any_depth(text: str, closest: str, cfg: CfgNode, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"closest is {closest}\\."):
        merge_config_file(cfg, _write(tmp_path / "a.yaml", text))


def test_a_key_like_no_other_gives_some_of_those_that_exist(cfg: CfgNode, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown key 17. Allowed: the keys of the config: VERSION, "):
        merge_config_file(cfg, _write(tmp_path / "a.yaml", "17: 4\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SEED: [1, 2]", r"a.yaml: SEED: \[1, 2\] \(list\). Allowed: a value of type int"),
        ("SOLVER: {BASE_LR: fast}", r"a.yaml: SOLVER.BASE_LR: 'fast' \(str\). Allowed: a value of type float"),
        ("MODEL: 3", r"a.yaml: MODEL: 3 \(int\). Allowed: keys such as "),
        ("SEED: {A: 1}", r"a.yaml: SEED: {'A': 1} \(dict\). Allowed: a value of type int"),
        ("OUTPUT_DIR: 2020-01-01", r"a.yaml: OUTPUT_DIR: .*\(date\). Allowed: a value of type str"),
        ("- SEED\n- 1", r"a.yaml: a list at the top"),
        ("SEED: [1", r"a.yaml: it cannot be parsed .*line"),
        ("_BASE_: nowhere.yaml", r"nowhere.yaml: no such file"),
        ("_BASE_: a.yaml", r"a.yaml: its _BASE_ leads back to itself"),
        ("_BASE_: 3", r"a.yaml: _BASE_: 3 \(int\). Allowed: a path or a list of paths"),
    ],
)
def test_a_bad_file_gives_one_clear_error(text: str, message: str, cfg: CfgNode, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        merge_config_file(cfg, _write(tmp_path / "a.yaml", text))


def test_a_missing_file_and_a_folder_are_named(cfg: CfgNode, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing.yaml: no such file"):
        merge_config_file(cfg, tmp_path / "missing.yaml")
    with pytest.raises(InputError, match=r"unreadable .it is a folder."):
        merge_config_file(cfg, tmp_path)


def test_a_file_that_is_no_text_is_named(cfg: CfgNode, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(InputError, match=r"a.yaml: unreadable .*Allowed: a text file in UTF-8"):
        merge_config_file(cfg, tmp_path / "a.yaml")


def test_options_change_their_keys(cfg: CfgNode) -> None:
    merge_config_options(cfg, ["SEED", "3", "DATASETS.TEST", "('a', 'b')", "MODEL.WEIGHTS", "w.pth"])
    assert (cfg.SEED, cfg.DATASETS.TEST, cfg.MODEL.WEIGHTS) == (3, ("a", "b"), "w.pth")


@pytest.mark.parametrize("nothing", [None, []])
def test_no_options_change_nothing(nothing: list[str] | None, cfg: CfgNode) -> None:
    merge_config_options(cfg, nothing)
    assert cfg == get_cfg()


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SEED"], r"1 words: SEED. Allowed: pairs of KEY and VALUE"),
        (["SEED=3"], r"pairs of KEY and VALUE. Separate each key from its value by a space"),
        (["MODEL.WEIGHT", "a"], r"unknown key MODEL.WEIGHT\..*closest is MODEL.WEIGHTS\."),
        (["MODEL", "a"], r"unknown key MODEL\."),
        (["SEED", "three"], r"option SEED: 'three' \(str\). Allowed: a value of type int. Its value now is -1"),
        (["DATASETS.TEST", "voc"], r"option DATASETS.TEST: 'voc' \(str\). Allowed: a value of type tuple"),
        (["SEED", "3", "--eval-only"], r"the flag --eval-only.*Move all flags before the first KEY"),
        (["SEED", "3", "--num-gpus", "2"], r"the flag --num-gpus"),
    ],
)
def test_bad_options_give_one_clear_error(opts: list[str], message: str, cfg: CfgNode) -> None:
    with pytest.raises(InputError, match=message):
        merge_config_options(cfg, opts)
